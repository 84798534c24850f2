# SPDX-License-Identifier: Apache-2.0
"""One scene: a room, an observer with its camera, peers with LEDs, and the pictures taken in it."""

import os
from contextlib import suppress

import mujoco
import numpy as np

from ..errors import LedposeError
from .drive import FARTHEST, FARTHEST_DIM, NEAREST, Choreography
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
    add_observer,
    add_robot,
    add_robot_assets,
    led_outward,
    led_rings,
)
from .room import Room, RoomBuilder

CAMERA_HEIGHT = 0.23
"""Height [m] of the camera above the floor; it looks level."""

FOCAL_LENGTH = 314.27 / 640
"""Focal length in picture widths: a horizontal field of view of 91 degrees."""

OBSERVER_TRIES = 20
"""Places in a room from which peers are looked for before it is said that there is no place for them."""

VISIBLE_SHARE = 0.3
"""A peer counts as visible when at least this share of its body points is seen."""

# Axes of the optical frame (x right, y down, z forward) written in the body frame (x forward, y left, z up).
_OPTICAL_IN_BODY = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def camera_matrix(width: int, height: int) -> np.ndarray:
    """The camera's K (3, 3) for pictures of this size; pixel (0, 0) is the centre of the top-left pixel."""
    focal = FOCAL_LENGTH * width
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


class Scene:
    """A random scene, everything drawn from `rng`; without peers when `peers` is 0, dark and near if `dim`.

    With `distance` the peers stand still at that range [m] from the camera, the first straight ahead.

    Raises `LedposeError` when OpenGL cannot start.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        width: int,
        height: int,
        peers: int,
        dim: bool = False,
        distance: float | None = None,
    ):
        self.width, self.height = width, height
        self.camera_matrix = camera_matrix(width, height)
        focal = self.camera_matrix[0, 0]
        spec = mujoco.MjSpec()
        spec.visual.global_.offwidth, spec.visual.global_.offheight = width, height
        # Triangles and shadows are what software rendering spends its time on.
        quality = spec.visual.quality
        quality.offsamples, quality.shadowsize, quality.numslices, quality.numstacks = 4, 2048, 16, 8
        # The clipping distances are multiples of the extent; it also bounds the shadows.
        spec.stat.extent = 4.0
        spec.visual.map.znear, spec.visual.map.zfar = 0.01, 30.0

        builder = RoomBuilder(spec, rng)
        half_view = np.arctan(0.5 / FOCAL_LENGTH)
        distances = (NEAREST, FARTHEST_DIM if dim else FARTHEST)
        if distance is not None:
            along_floor = np.sqrt(distance**2 - (CAMERA_HEIGHT - BASE_HEIGHT) ** 2)
            distances = (along_floor, along_floor)
        still = distance is not None
        self._choreography = _choreography(builder.room, peers, half_view, rng, distances, still)
        observer = self._choreography.start
        before_camera = observer[:2] + 0.8 * heading(observer[2])
        builder.build([observer[:2], before_camera, *(peer.pose[:2] for peer in self._choreography.peers)])
        self.look = RobotLook.draw(rng)
        add_robot_assets(spec, self.look)
        add_observer(spec, CAMERA_HEIGHT, 2 * np.degrees(np.arctan(height / 2 / focal)))
        for k in range(peers):
            add_robot(spec, f"peer{k}", self.look)

        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._led_on, self._led_off = (self._model.material(f"led_{state}").id for state in ("on", "off"))
        self._led_rings = led_rings(self.look.scale)
        self._lens = Lens(width, height, rng, dim)
        self._shutter_time = float(rng.uniform(0.0, 0.03))
        self._renderer = _make_renderer(self._model, width, height)
        self._place()

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()

    @property
    def poses(self) -> np.ndarray:
        """Poses (P, 7) of the peers' body frames in the optical frame: x y z qx qy qz qw."""
        to_optical, eye = self._camera()
        poses = []
        for peer in self._choreography.peers:
            position = to_optical @ (np.array([*peer.pose[:2], BASE_HEIGHT]) - eye)
            quaternion = np.empty(4)
            mujoco.mju_mat2Quat(quaternion, (to_optical @ _yaw_matrix(peer.pose[2])).ravel())
            poses.append([*position, *quaternion[1:], quaternion[0]])
        return np.array(poses).reshape(-1, 7)

    def visible(self) -> np.ndarray:
        """Whether each peer (P,) is seen: reference point in the picture, enough of the body not hidden."""
        to_optical, eye = self._camera()
        seen = []
        for k, peer in enumerate(self._choreography.peers):
            reference = to_optical @ (np.array([*peer.pose[:2], BASE_HEIGHT]) - eye)
            share = self._unhidden(k, BODY_POINTS * self.look.scale).mean()
            seen.append(bool(self._in_picture(reference[None])[0] and share >= VISIBLE_SHARE))
        return np.array(seen, bool)

    def advance(self, seconds: float) -> None:
        """Let the robots drive for `seconds`."""
        before = [peer.pose.copy() for peer in self._choreography.peers]
        self._choreography.advance(seconds)
        for k, (old, peer) in enumerate(zip(before, self._choreography.peers, strict=True)):
            self._roll_wheels(k, peer.pose - old, peer.pose[2])
        self._place()

    def picture(self, led_states: np.ndarray) -> np.ndarray:
        """The camera's picture (H, W, 3) uint8 RGB with the peers' LEDs as given (P, K), 0 or 1."""
        for peer, states in enumerate(led_states[: len(self._choreography.peers)]):
            for led, state in enumerate(states):
                geom = self._model.geom(f"peer{peer}/led{led}").id
                self._model.geom_matid[geom] = self._led_on if state > 0.5 else self._led_off
        self._renderer.update_scene(self._data, "camera")
        turned = self._choreography.observer.velocity[2] * self._shutter_time
        motion = np.array([turned * self.camera_matrix[0, 0], 0.0])
        return self._lens.expose(self._renderer.render(), self._glow(led_states), motion)

    def _place(self) -> None:
        """Put the robots where the choreography has them."""
        robots = {"observer": self._choreography.observer}
        robots |= {f"peer{k}": peer for k, peer in enumerate(self._choreography.peers)}
        for name, drive in robots.items():
            mocap = self._model.body(name).mocapid[0]
            self._data.mocap_pos[mocap] = *drive.pose[:2], BASE_HEIGHT
            self._data.mocap_quat[mocap] = yaw_turn(drive.pose[2])
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)

    def _roll_wheels(self, peer: int, change: np.ndarray, yaw: float) -> None:
        """Turn the wheels of a peer that moved by `change` (3,), by the kinematics of a mecanum base."""
        forward, left = change[:2] @ heading(yaw), change[:2] @ heading(yaw + np.pi / 2)
        for k, (x, y) in enumerate(WHEELS):
            joint = self._model.joint(f"peer{peer}/axle{k}").qposadr[0]
            rolled = forward - np.sign(x * y) * left - np.sign(y) * (abs(x) + abs(y)) * change[2]
            self._data.qpos[joint] += rolled / WHEEL_RADIUS

    def _camera(self) -> tuple[np.ndarray, np.ndarray]:
        """Rotation (3, 3) from the room's to the optical frame, and the camera's place (3,) in the room."""
        x, y, yaw = self._choreography.observer.pose
        return (_yaw_matrix(yaw) @ _OPTICAL_IN_BODY).T, np.array([x, y, CAMERA_HEIGHT])

    def _in_room(self, peer: int, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) of a peer's body frame in the room's frame."""
        x, y, yaw = self._choreography.peers[peer].pose
        return points @ _yaw_matrix(yaw).T + (x, y, BASE_HEIGHT)

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) of points (N, 3) of the optical frame before the camera."""
        return (points @ self.camera_matrix.T)[:, :2] / points[:, 2:]

    def _in_picture(self, points: np.ndarray) -> np.ndarray:
        """Which points (N, 3) of the optical frame lie within the picture, bool (N,)."""
        inside = points[:, 2] > 0.05
        pixels = self._pixels(points[inside])
        inside[inside] = ((pixels > -0.5) & (pixels < (self.width - 0.5, self.height - 0.5))).all(1)
        return inside

    def _unhidden(self, peer: int, body_points: np.ndarray) -> np.ndarray:
        """Which points (N, 3) of a peer are in the picture, behind nothing but the peer, bool (N,)."""
        to_optical, eye = self._camera()
        offsets = self._in_room(peer, body_points) - eye
        rays = np.ascontiguousarray(offsets / np.linalg.norm(offsets, axis=1, keepdims=True))
        hit, distance = np.full(len(rays), -1, np.int32), np.zeros(len(rays))
        groups = np.ones(mujoco.mjNGROUP, np.uint8)
        groups[CONTACT_SHADOW_GROUP] = 0
        observer = self._model.body("observer").id
        mujoco.mj_multiRay(
            self._model,
            self._data,
            eye,
            rays.ravel(),
            groups,
            True,
            observer,
            hit,
            distance,
            None,
            len(rays),
            20.0,
        )
        peer_body = self._model.body(f"peer{peer}").id
        is_own = (hit >= 0) & (self._model.body_rootid[self._model.geom_bodyid[hit]] == peer_body)
        return is_own & self._in_picture(offsets @ to_optical.T)

    def _glow(self, led_states: np.ndarray) -> np.ndarray | None:
        """Light (H, W, 3) float32 that the lit LEDs in sight add to the picture, None when there are none."""
        glow = None
        to_optical, eye = self._camera()
        for peer, states in enumerate(led_states[: len(self._choreography.peers)]):
            for led in np.flatnonzero(states > 0.5):
                ring, outward = self._led_rings[led], led_outward()[led]
                centre, tip = self._in_room(peer, np.stack([ring.mean(0), ring.mean(0) + outward]))
                points = (self._in_room(peer, ring) - eye) @ to_optical.T
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


def _draw_observer_pose(room: Room, rng: np.random.Generator) -> np.ndarray:
    """Planar pose (3,): anywhere in the room, looking roughly across it."""
    half = np.array([room.half_x, room.half_y])
    spot = np.clip(rng.uniform(-0.85, 0.85, 2) * half, 0.5 - half, half - 0.5)
    across = rng.uniform(-0.6, 0.6, 2) * half - spot
    return np.array([*spot, np.arctan2(across[1], across[0])])


def _choreography(
    room: Room,
    peers: int,
    half_view: float,
    rng: np.random.Generator,
    distances: tuple[float, float],
    still: bool,
) -> Choreography:
    """A choreography whose observer stands where there is place for its peers in view."""
    for _ in range(OBSERVER_TRIES - 1):
        # A peer at one distance may find no place, an observer of it elsewhere has another view.
        with suppress(LedposeError):
            return Choreography(room, _draw_observer_pose(room, rng), peers, half_view, rng, distances, still)
    return Choreography(room, _draw_observer_pose(room, rng), peers, half_view, rng, distances, still)


def _yaw_matrix(yaw: float) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
