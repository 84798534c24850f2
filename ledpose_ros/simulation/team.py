# SPDX-License-Identifier: Apache-2.0
"""`TeamSimulation`: robots that look at each other, photographing in turn, with LED states and true poses."""

from dataclasses import dataclass

import numpy as np

from ..errors import LedposeError
from ..geometry import quaternion_about
from ..recording import RecordingInfo
from .leds import Blinking
from .robot import BASE_HEIGHT
from .scene import CAMERA_AHEAD, TeamScene
from .simulator import camera_info
from .view import CAMERA_HEIGHT

CAMERA_POSITION = (CAMERA_AHEAD, 0.0, CAMERA_HEIGHT - BASE_HEIGHT)
"""Where each robot carries its level camera, in its body frame [m]."""


@dataclass(frozen=True)
class TeamFrame:
    """A picture that one of R robots took, and what was true of all of them at that moment.

    `rgb` (H, W, 3) uint8 of the robot with index `robot`; `stamp_ns` of the exposure; `led_states` (R, K)
    float32, none of which has changed since `led_stamp_ns`; `body_poses` (R, 7) of the body frames in the
    room; `velocities` (R, 3) forward, left [m/s] and counter-clockwise [rad/s]. Of the robot's peers, all
    others in their order: `poses` (R - 1, 7) of their body frames in the optical frame, `valid` (R - 1,)
    where they are seen.
    """

    rgb: np.ndarray
    stamp_ns: int
    robot: int
    led_states: np.ndarray
    led_stamp_ns: int
    body_poses: np.ndarray
    velocities: np.ndarray
    poses: np.ndarray
    valid: np.ndarray


class TeamSimulation:
    """Pictures of `robots` robots in one room, a pure function of the arguments.

    They take their pictures one after the other, `rate` a second all together. LEDs change half-way between
    two pictures.
    """

    def __init__(self, seed: int, robots: int, width: int = 640, height: int = 360, rate: float = 30.0):
        if robots < 2 or rate <= 0 or min(width, height) < 32:
            raise LedposeError(
                f"cannot simulate robots={robots}, rate={rate}, size {width}x{height}: "
                "robots must be at least 2, rate above 0 and the size at least 32x32"
            )
        self.seed, self.robots, self.width, self.height = seed, robots, width, height
        self.period_ns = round(1e9 / rate)
        self.scene: TeamScene | None = None

    @property
    def info(self) -> RecordingInfo:
        """The camera and the LEDs of each robot, as a recording describes them."""
        return camera_info(self.width, self.height)

    def step(self) -> TeamFrame:
        """Move on by one picture."""
        if self.scene is None:
            rng = np.random.default_rng((self.seed, self.robots))
            self._blinking = Blinking(rng, self.robots, now_ns=0)
            self.scene = TeamScene(rng, self.width, self.height, self.robots)
            self._count, self._stamp_ns = 0, self.period_ns
        else:
            self.scene.advance(self.period_ns / 1e9)
            self._count += 1
            self._stamp_ns += self.period_ns
            self._blinking.switch(self._stamp_ns - self.period_ns // 2, self.period_ns)
        robot = self._count % self.robots
        view, states = self.scene.views[robot], self._blinking.states.copy()
        return TeamFrame(
            rgb=view.picture(np.delete(states, robot, axis=0)),
            stamp_ns=self._stamp_ns,
            robot=robot,
            led_states=states,
            led_stamp_ns=int(self._blinking.stamps.max()),
            body_poses=_upright(self.scene.poses),
            velocities=_in_body(self.scene.velocities, self.scene.poses[:, 2]),
            poses=view.poses,
            valid=view.visible(),
        )

    def close(self) -> None:
        """Free the renderer; the next step begins anew."""
        if self.scene is not None:
            self.scene.close()
            self.scene = None


def _upright(planar: np.ndarray) -> np.ndarray:
    """Poses (R, 7) of the body frames of robots with these planar poses (R, 3)."""
    height = np.full(len(planar), BASE_HEIGHT)
    return np.column_stack([planar[:, :2], height, quaternion_about(2, planar[:, 2])])


def _in_body(velocities: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Velocities (R, 3) along the axes of the room, along those of robots that are turned by `yaw` (R,)."""
    c, s = np.cos(yaw), np.sin(yaw)
    x, y, turning = velocities.T
    return np.column_stack([c * x + s * y, c * y - s * x, turning])
