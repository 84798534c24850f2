# SPDX-License-Identifier: Apache-2.0
"""One scene: a room, an observer with its camera, peers with LEDs, and the pictures taken in it."""

import os

import mujoco
import numpy as np

from ..errors import LedposeError
from .drive import Choreography
from .lens import Lens, draw_ring
from .robot import (
    BASE_HEIGHT,
    BODY_POINTS,
    CONTACT_SHADOW_GROUP,
    LED_CENTRES,
    WHEEL_RADIUS,
    RobotLook,
    add_observer,
    add_robot,
    add_robot_assets,
    led_ring_points,
)
from .room import RoomBuilder

CAMERA_HEIGHT = 0.23
"""Height [m] of the camera above the floor."""

FOCAL_LENGTH = 314.27 / 640
"""Focal length in picture widths: a horizontal field of view of 91 degrees."""

VISIBLE_SHARE = 0.3
"""A peer counts as visible when at least this share of its body points is seen."""

# Axes of the optical frame (x right, y down, z forward) written in the body frame (x forward, y left, z up).
_OPTICAL_IN_BODY = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


class Scene:
    """A random scene, everything drawn from `rng`; without peers when `peers` is 0."""

    def __init__(self, rng: np.random.Generator, width: int, height: int, peers: int):
        self.rng, self.width, self.height = rng, width, height
        self.focal = FOCAL_LENGTH * width
        spec = mujoco.MjSpec()
        spec.visual.global_.offwidth, spec.visual.global_.offheight = width, height
        quality = spec.visual.quality  # Software rendering: triangles and shadow texels cost most of the time.
        quality.offsamples, quality.shadowsize, quality.numslices, quality.numstacks = 4, 2048, 16, 8
        spec.visual.map.znear, spec.visual.map.zfar = 0.01, 30.0
        spec.stat.extent, spec.stat.center = 4.0, [0, 0, 1]
        builder = RoomBuilder(spec, rng)
        observer = self._observer_start(builder.room)
        room = builder.build(observer[:2])
        half_view = np.arctan(0.5 / FOCAL_LENGTH)
        self.choreography = Choreography(room, observer, peers, half_view, rng)
        self.look = RobotLook.draw(rng)
        add_robot_assets(spec, self.look)
        add_observer(spec, self.look, CAMERA_HEIGHT, 2 * np.degrees(np.arctan(height / 2 / self.focal)))
        for k in range(peers):
            add_robot(spec, f"peer{k}", self.look)
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self.led_geoms = [[self.model.geom(f"peer{p}/led{k}").id for k in range(len(LED_CENTRES))] for p in range(peers)]
        self.on, self.off = self.model.material("led_on").id, self.model.material("led_off").id
        self.lens = Lens(width, height, rng)
        self.shutter = float(rng.uniform(0.0, 0.03))
        try:
            self.renderer = mujoco.Renderer(self.model, height, width)
        except Exception as error:
            raise LedposeError(
                "MuJoCo cannot start its EGL renderer: install the system packages libegl1 and libgl1-mesa-dri "
                f"(MUJOCO_GL={os.environ['MUJOCO_GL']}, {type(error).__name__}: {error})"
            ) from error
        self.options = mujoco.MjvOption()
        self._place()

    def close(self) -> None:
        self.renderer.close()

    @property
    def poses(self) -> np.ndarray:
        """Poses (P, 7) of the peers' body frames in the optical frame: x y z qx qy qz qw."""
        x, y, yaw = self.choreography.observer.pose
        camera = _yaw_matrix(yaw) @ _OPTICAL_IN_BODY
        centre = np.array([x, y, CAMERA_HEIGHT])
        poses = []
        for peer in self.choreography.peers:
            position = camera.T @ (np.array([*peer.pose[:2], BASE_HEIGHT]) - centre)
            quaternion = np.empty(4)
            mujoco.mju_mat2Quat(quaternion, (camera.T @ _yaw_matrix(peer.pose[2])).ravel())
            poses.append([*position, *quaternion[1:], quaternion[0]])
        return np.array(poses).reshape(-1, 7)

    def advance(self, seconds: float) -> None:
        """Let the robots drive for `seconds`."""
        before = [peer.pose.copy() for peer in self.choreography.peers]
        self.choreography.advance(seconds)
        for k, (old, peer) in enumerate(zip(before, self.choreography.peers, strict=True)):
            self._roll_wheels(k, peer.pose - old, peer.pose[2])
        self._place()

    def visible(self) -> np.ndarray:
        """Whether each peer (P,) is seen: its reference point in the picture, enough of its body not hidden."""
        seen = np.zeros(len(self.choreography.peers), bool)
        for k, pose in enumerate(self.poses):
            u, v = self._project(pose[None, :3])[0]
            inside = pose[2] > 0 and -0.5 <= u <= self.width - 0.5 and -0.5 <= v <= self.height - 0.5
            seen[k] = inside and self._seen(k, BODY_POINTS * self.look.scale).mean() >= VISIBLE_SHARE
        return seen

    def picture(self, led_states: np.ndarray) -> np.ndarray:
        """The camera's picture (H, W, 3) uint8 RGB with the peers' LEDs as given (P, K)."""
        for geoms, states in zip(self.led_geoms, led_states, strict=True):
            for geom, state in zip(geoms, states, strict=True):
                self.model.geom_matid[geom] = self.on if state > 0.5 else self.off
        self.renderer.update_scene(self.data, "camera", self.options)
        return self.lens.expose(self.renderer.render(), self._glow(led_states), self._motion())

    # -- inside -----------------------------------------------------------------------------------------------

    def _observer_start(self, room) -> np.ndarray:
        """Near the edge of the room, looking across it."""
        spot = self.rng.uniform(-0.85, 0.85, 2) * (room.half_x, room.half_y)
        spot = np.clip(spot, (-room.half_x + 0.5, -room.half_y + 0.5), (room.half_x - 0.5, room.half_y - 0.5))
        towards = self.rng.uniform(-0.6, 0.6, 2) * (room.half_x, room.half_y) - spot
        return np.array([*spot, np.arctan2(towards[1], towards[0])])

    def _place(self) -> None:
        """Put the robots where the choreography has them."""
        robots = [("observer", self.choreography.observer)]
        robots += [(f"peer{k}", peer) for k, peer in enumerate(self.choreography.peers)]
        for name, drive in robots:
            mocap = self.model.body(name).mocapid[0]
            x, y, yaw = drive.pose
            self.data.mocap_pos[mocap] = x, y, BASE_HEIGHT
            self.data.mocap_quat[mocap] = np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def _roll_wheels(self, peer: int, change: np.ndarray, yaw: float) -> None:
        """Turn the wheels of a peer that moved by `change` (3,), by the kinematics of a mecanum base."""
        forward = change[0] * np.cos(yaw) + change[1] * np.sin(yaw)
        left = -change[0] * np.sin(yaw) + change[1] * np.cos(yaw)
        for x in (0.1, -0.1):
            for side in (1, -1):
                joint = self.model.joint(f"peer{peer}/axle{x}{side}")
                turn = (forward - side * np.sign(x) * left - side * 0.2 * change[2]) / WHEEL_RADIUS
                self.data.qpos[joint.qposadr[0]] += turn

    def _project(self, points: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) of points (N, 3) in the optical frame, centre of the top-left pixel (0, 0)."""
        centre = np.array([self.width / 2, self.height / 2])
        return self.focal * points[:, :2] / points[:, 2:] + centre

    def _seen(self, peer: int, body_points: np.ndarray) -> np.ndarray:
        """Which points (N, 3) of a peer's body are in the picture with nothing else before them, bool (N,)."""
        x, y, yaw = self.choreography.peers[peer].pose
        world = body_points @ _yaw_matrix(yaw).T + (x, y, BASE_HEIGHT)
        eye = self.data.camera("camera").xpos
        rays = np.ascontiguousarray((world - eye) / np.linalg.norm(world - eye, axis=1, keepdims=True))
        hit, distance = np.full(len(rays), -1, np.int32), np.zeros(len(rays))
        groups = np.ones(6, np.uint8)
        groups[CONTACT_SHADOW_GROUP] = 0
        mujoco.mj_multiRay(self.model, self.data, eye, rays.ravel(), groups, True, self.model.body("observer").id,
                           hit, distance, None, len(rays), 20.0)  # fmt: skip
        root = self.model.body(f"peer{peer}").id
        own = (hit >= 0) & (self.model.body_rootid[self.model.geom_bodyid[hit]] == root)
        camera = _yaw_matrix(self.choreography.observer.pose[2]) @ _OPTICAL_IN_BODY
        local = (world - eye) @ camera
        pixels = self._project(local)
        inside = (local[:, 2] > 0.05) & (pixels >= -0.5).all(1) & (pixels < (self.width - 0.5, self.height - 0.5)).all(1)
        return own & inside

    def _glow(self, led_states: np.ndarray) -> np.ndarray | None:
        """Light (H, W, 3) that lit LEDs add by glare, None when none is seen."""
        glow = None
        x, y, yaw = self.choreography.observer.pose
        camera = _yaw_matrix(yaw) @ _OPTICAL_IN_BODY
        eye = np.array([x, y, CAMERA_HEIGHT])
        rings = led_ring_points() + (LED_CENTRES * (self.look.scale - 1))[:, None]
        for p, peer in enumerate(self.choreography.peers):
            turn = _yaw_matrix(peer.pose[2])
            for k in np.flatnonzero(led_states[p] > 0.5):
                world = rings[k] @ turn.T + (*peer.pose[:2], BASE_HEIGHT)
                outward = turn @ np.array([*LED_CENTRES[k, :2], 0])
                facing = float((eye - world.mean(0)) @ outward / np.linalg.norm(eye - world.mean(0)) / np.linalg.norm(outward))
                local = (world - eye) @ camera
                if facing <= 0.02 or local[:, 2].min() < 0.1:
                    continue
                seen = float(self._seen(p, rings[k, ::3] + outward_margin(k)).mean())
                if seen == 0:
                    continue
                if glow is None:
                    glow = np.zeros((self.height, self.width, 3), np.float32)
                tube = 0.0065 * self.focal / float(local[:, 2].mean())
                draw_ring(glow, self._project(local), seen, self.look.led_colour, tube)
        return glow

    def _motion(self) -> np.ndarray:
        """How far the picture moves (2,) [px] while the shutter is open, from the observer's turning."""
        return np.array([self.choreography.observer.velocity[2] * self.shutter * self.focal, 0.0])


def outward_margin(led: int) -> np.ndarray:
    """A step (3,) of 4 mm out of the chassis before an LED."""
    centre = LED_CENTRES[led]
    return 0.004 * np.array([centre[0], centre[1], 0]) / np.hypot(centre[0], centre[1])


def _yaw_matrix(yaw: float) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
