# SPDX-License-Identifier: Apache-2.0
"""Scenes: an observer that looks at peers with LEDs, or a team whose robots look at each other."""

from contextlib import suppress

import mujoco
import numpy as np

from ..errors import LedposeError
from .drive import FARTHEST, FARTHEST_DIM, NEAREST, Choreography, Gathering
from .lens import Lens
from .parts import heading
from .robot import BASE_HEIGHT, RobotLook, add_camera, add_observer, add_robot, add_robot_assets
from .room import Room, RoomBuilder
from .view import CAMERA_HEIGHT, FOCAL_LENGTH, OBSERVER, Stage, View, camera_matrix

OBSERVER_TRIES = 20
"""Places in a room from which peers are looked for before it is said that there is no place for them."""

CAMERA_AHEAD = 0.15
"""How far [m] before its middle a robot of a team carries its camera: no part of itself is in view there."""


class Scene(View):
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
        spec = _specification(width, height)
        builder = RoomBuilder(spec, rng)
        distances = (NEAREST, FARTHEST_DIM if dim else FARTHEST)
        if distance is not None:
            along_floor = np.sqrt(distance**2 - (CAMERA_HEIGHT - BASE_HEIGHT) ** 2)
            distances = (along_floor, along_floor)
        still = distance is not None
        self._choreography = _choreography(builder.room, peers, _half_view(), rng, distances, still)
        observer = self._choreography.start
        before_camera = observer[:2] + 0.8 * heading(observer[2])
        builder.build([observer[:2], before_camera, *(peer.pose[:2] for peer in self._choreography.peers)])
        look = RobotLook.draw(rng)
        add_robot_assets(spec, look)
        add_camera(add_observer(spec, OBSERVER), 0.0, CAMERA_HEIGHT, _field_of_view(width, height))
        names = [f"peer{k}" for k in range(peers)]
        for name in names:
            add_robot(spec, name, look)

        drives = {OBSERVER: self._choreography.observer}
        drives |= dict(zip(names, self._choreography.peers, strict=True))
        lens, shutter_time = Lens(width, height, rng, dim), _draw_shutter_time(rng)
        stage = Stage(spec, drives, look, width, height)
        super().__init__(stage, OBSERVER, names, 0.0, lens, shutter_time)

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()

    def advance(self, seconds: float) -> None:
        """Let the robots drive for `seconds`."""
        self._stage.advance(self._choreography, seconds)


class TeamScene:
    """A random room with so many robots that mostly look at each other, everything drawn from `rng`.

    `views` are what the robots see, in their order; the peers of a view are the other robots in this order.
    """

    def __init__(self, rng: np.random.Generator, width: int, height: int, robots: int):
        spec = _specification(width, height)
        builder = RoomBuilder(spec, rng)
        self._gathering = Gathering(builder.room, robots, rng)
        builder.build([robot.pose[:2] for robot in self._gathering.robots])
        look = RobotLook.draw(rng)
        add_robot_assets(spec, look)
        names = [f"robot{k}" for k in range(robots)]
        for name in names:
            body = add_robot(spec, name, look)
            add_camera(body, CAMERA_AHEAD, CAMERA_HEIGHT, _field_of_view(width, height))
        drives = dict(zip(names, self._gathering.robots, strict=True))
        self._stage = Stage(spec, drives, look, width, height)
        self.views = [
            View(
                self._stage,
                name,
                [other for other in names if other != name],
                CAMERA_AHEAD,
                Lens(width, height, rng),
                _draw_shutter_time(rng),
            )
            for name in names
        ]

    def close(self) -> None:
        """Free the renderer."""
        self._stage.renderer.close()

    @property
    def poses(self) -> np.ndarray:
        """Planar poses (R, 3) of the robots in the room: x, y [m], yaw [rad]."""
        return np.array([robot.pose for robot in self._gathering.robots])

    @property
    def velocities(self) -> np.ndarray:
        """Velocities (R, 3) of the robots along the axes of the room [m/s], and of their yaw [rad/s]."""
        return np.array([robot.velocity for robot in self._gathering.robots])

    def advance(self, seconds: float) -> None:
        """Let the robots drive for `seconds`."""
        self._stage.advance(self._gathering, seconds)


def _specification(width: int, height: int) -> mujoco.MjSpec:
    """An empty world, to be seen in pictures of this size."""
    spec = mujoco.MjSpec()
    spec.visual.global_.offwidth, spec.visual.global_.offheight = width, height
    # Triangles and shadows are what software rendering spends its time on.
    quality = spec.visual.quality
    quality.offsamples, quality.shadowsize, quality.numslices, quality.numstacks = 4, 2048, 16, 8
    # The clipping distances are multiples of the extent; it also bounds the shadows.
    spec.stat.extent = 4.0
    spec.visual.map.znear, spec.visual.map.zfar = 0.01, 30.0
    return spec


def _half_view() -> float:
    """Half the horizontal field of view [rad]."""
    return float(np.arctan(0.5 / FOCAL_LENGTH))


def _field_of_view(width: int, height: int) -> float:
    """The vertical field of view [deg]."""
    return float(2 * np.degrees(np.arctan(height / 2 / camera_matrix(width, height)[0, 0])))


def _draw_shutter_time(rng: np.random.Generator) -> float:
    """For how long [s] the shutter is open."""
    return float(rng.uniform(0.0, 0.03))


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
