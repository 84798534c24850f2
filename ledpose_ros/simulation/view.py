# SPDX-License-Identifier: Apache-2.0
"""A room with robots in it, and what the cameras on them see of the others."""

import os
from collections.abc import Mapping, Sequence

import mujoco
import numpy as np

from ..errors import LedposeError
from .drive import Choreography, Drive, Gathering
from .lens import Lens, draw_ring
from .parts import heading, yaw_turn
from .robot import (
    BASE_HEIGHT,
    BODY_POINTS,
    CONTACT_SHADOW_GROUP,
    LED_TUBE,
    WHEEL_RADIUS,
    WHEELS,
    RobotLook,
    led_outward,
    led_rings,
)

CAMERA_HEIGHT = 0.23
"""Height [m] of the camera above the floor; it looks level."""

FOCAL_LENGTH = 314.27 / 640
"""Focal length in picture widths: a horizontal field of view of 91 degrees."""

VISIBLE_SHARE = 0.3
"""A peer counts as visible when at least this share of its body points is seen."""

OBSERVER = "observer"
"""Name of the body of a robot that no camera sees: it has neither wheels nor LEDs."""

# Axes of the optical frame (x right, y down, z forward) written in the body frame (x forward, y left, z up).
_OPTICAL_IN_BODY = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def camera_matrix(width: int, height: int) -> np.ndarray:
    """The camera's K (3, 3) for pictures of this size; pixel (0, 0) is the centre of the top-left pixel."""
    focal = FOCAL_LENGTH * width
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


class Stage:
    """A room and the robots in it, as MuJoCo renders them; `drives` by the names of their bodies.

    Raises `LedposeError` when OpenGL cannot start.
    """

    def __init__(
        self, spec: mujoco.MjSpec, drives: Mapping[str, Drive], look: RobotLook, width: int, height: int
    ):
        self.drives, self.look = dict(drives), look
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self.renderer = _make_renderer(self.model, width, height)
        self.place()

    def advance(self, choreography: Choreography | Gathering, seconds: float) -> None:
        """Let the robots drive for `seconds`."""
        before = {name: drive.pose.copy() for name, drive in self.drives.items() if name != OBSERVER}
        choreography.advance(seconds)
        for name, old in before.items():
            pose = self.drives[name].pose
            self._roll_wheels(name, pose - old, pose[2])
        self.place()

    def place(self) -> None:
        """Put the robots where their drives have them."""
        for name, drive in self.drives.items():
            mocap = self.model.body(name).mocapid[0]
            self.data.mocap_pos[mocap] = *drive.pose[:2], BASE_HEIGHT
            self.data.mocap_quat[mocap] = yaw_turn(drive.pose[2])
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def in_room(self, name: str, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) of a robot's body frame in the room's frame."""
        x, y, yaw = self.drives[name].pose
        return points @ yaw_matrix(yaw).T + (x, y, BASE_HEIGHT)

    def _roll_wheels(self, name: str, change: np.ndarray, yaw: float) -> None:
        """Turn the wheels of a robot that moved by `change` (3,), by the kinematics of a mecanum base."""
        forward, left = change[:2] @ heading(yaw), change[:2] @ heading(yaw + np.pi / 2)
        for k, (x, y) in enumerate(WHEELS):
            joint = self.model.joint(f"{name}/axle{k}").qposadr[0]
            rolled = forward - np.sign(x * y) * left - np.sign(y) * (abs(x) + abs(y)) * change[2]
            self.data.qpos[joint] += rolled / WHEEL_RADIUS


class View:
    """What the camera on one robot sees of others, its `peers`.

    The camera is called like its robot with `/camera` behind it, and is `ahead` [m] of its middle.
    """

    def __init__(
        self, stage: Stage, robot: str, peers: Sequence[str], ahead: float, lens: Lens, shutter_time: float
    ):
        self._stage, self._robot, self._peers, self._ahead = stage, robot, tuple(peers), ahead
        self._model, self._data, self._renderer = stage.model, stage.data, stage.renderer
        self.look, self.width, self.height = stage.look, stage.renderer.width, stage.renderer.height
        self.camera_matrix = camera_matrix(self.width, self.height)
        self._led_on, self._led_off = (self._model.material(f"led_{state}").id for state in ("on", "off"))
        self._led_rings = led_rings(self.look.scale)
        self._lens, self._shutter_time = lens, shutter_time

    @property
    def poses(self) -> np.ndarray:
        """Poses (P, 7) of the peers' body frames in the optical frame: x y z qx qy qz qw."""
        to_optical, eye = self._camera()
        poses = []
        for peer in self._peers:
            x, y, yaw = self._stage.drives[peer].pose
            position = to_optical @ (np.array([x, y, BASE_HEIGHT]) - eye)
            quaternion = np.empty(4)
            mujoco.mju_mat2Quat(quaternion, (to_optical @ yaw_matrix(yaw)).ravel())
            poses.append([*position, *quaternion[1:], quaternion[0]])
        return np.array(poses).reshape(-1, 7)

    def visible(self) -> np.ndarray:
        """Whether each peer (P,) is seen: reference point in the picture, enough of the body not hidden."""
        to_optical, eye = self._camera()
        seen = []
        for peer in self._peers:
            place = self._stage.drives[peer].pose[:2]
            reference = to_optical @ (np.array([*place, BASE_HEIGHT]) - eye)
            share = self._unhidden(peer, BODY_POINTS * self.look.scale).mean()
            seen.append(bool(self._in_picture(reference[None])[0] and share >= VISIBLE_SHARE))
        return np.array(seen, bool)

    def picture(self, led_states: np.ndarray) -> np.ndarray:
        """The camera's picture (H, W, 3) uint8 RGB with the peers' LEDs as given (P, K), 0 or 1."""
        for peer, states in zip(self._peers, led_states, strict=False):
            for led, state in enumerate(states):
                geom = self._model.geom(f"{peer}/led{led}").id
                self._model.geom_matid[geom] = self._led_on if state > 0.5 else self._led_off
        self._renderer.update_scene(self._data, f"{self._robot}/camera")
        turned = self._stage.drives[self._robot].velocity[2] * self._shutter_time
        motion = np.array([turned * self.camera_matrix[0, 0], 0.0])
        return self._lens.expose(self._renderer.render(), self._glow(led_states), motion)

    def _camera(self) -> tuple[np.ndarray, np.ndarray]:
        """Rotation (3, 3) from the room's to the optical frame, and the camera's place (3,) in the room."""
        x, y, yaw = self._stage.drives[self._robot].pose
        place = np.array([x, y]) + self._ahead * heading(yaw)
        return (yaw_matrix(yaw) @ _OPTICAL_IN_BODY).T, np.array([*place, CAMERA_HEIGHT])

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) of points (N, 3) of the optical frame before the camera."""
        return (points @ self.camera_matrix.T)[:, :2] / points[:, 2:]

    def _in_picture(self, points: np.ndarray) -> np.ndarray:
        """Which points (N, 3) of the optical frame lie within the picture, bool (N,)."""
        inside = points[:, 2] > 0.05
        pixels = self._pixels(points[inside])
        inside[inside] = ((pixels > -0.5) & (pixels < (self.width - 0.5, self.height - 0.5))).all(1)
        return inside

    def _unhidden(self, peer: str, body_points: np.ndarray) -> np.ndarray:
        """Which points (N, 3) of a peer are in the picture, behind nothing but the peer, bool (N,)."""
        to_optical, eye = self._camera()
        offsets = self._stage.in_room(peer, body_points) - eye
        rays = np.ascontiguousarray(offsets / np.linalg.norm(offsets, axis=1, keepdims=True))
        hit, distance = np.full(len(rays), -1, np.int32), np.zeros(len(rays))
        groups = np.ones(mujoco.mjNGROUP, np.uint8)
        groups[CONTACT_SHADOW_GROUP] = 0
        mujoco.mj_multiRay(
            self._model,
            self._data,
            eye,
            rays.ravel(),
            groups,
            True,
            self._model.body(self._robot).id,
            hit,
            distance,
            None,
            len(rays),
            20.0,
        )
        peer_body = self._model.body(peer).id
        is_own = (hit >= 0) & (self._model.body_rootid[self._model.geom_bodyid[hit]] == peer_body)
        return is_own & self._in_picture(offsets @ to_optical.T)

    def _glow(self, led_states: np.ndarray) -> np.ndarray | None:
        """Light (H, W, 3) float32 that the lit LEDs in sight add to the picture, None when there are none."""
        glow = None
        to_optical, eye = self._camera()
        for peer, states in zip(self._peers, led_states, strict=False):
            for led in np.flatnonzero(states > 0.5):
                ring, outward = self._led_rings[led], led_outward()[led]
                centre, tip = self._stage.in_room(peer, np.stack([ring.mean(0), ring.mean(0) + outward]))
                points = (self._stage.in_room(peer, ring) - eye) @ to_optical.T
                if (eye - centre) @ (tip - centre) <= 0 or points[:, 2].min() < 0.1:
                    continue
                # Rays aim a little before the ring, which would hide itself.
                share = self._unhidden(peer, ring[::3] + 0.004 * outward).mean()
                if share == 0:
                    continue
                if glow is None:
                    glow = np.zeros((self.height, self.width, 3), np.float32)
                tube = LED_TUBE * self.camera_matrix[0, 0] / points[:, 2].mean()
                draw_ring(glow, self._pixels(points), share, self.look.led_colour, tube, self._lens.glare)
        return glow


def _make_renderer(model: mujoco.MjModel, width: int, height: int) -> mujoco.Renderer:
    try:
        return mujoco.Renderer(model, height, width)
    except Exception as error:
        raise LedposeError(
            f"MuJoCo cannot render with MUJOCO_GL={os.environ.get('MUJOCO_GL')} "
            f"({type(error).__name__}: {error}): install the system packages libegl1 and libgl1-mesa-dri"
        ) from error


def yaw_matrix(yaw: float) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
