# SPDX-License-Identifier: Apache-2.0
"""Random driving in a rectangle: from goal to goal, bounded in speed and acceleration.

A planar pose is (x, y, yaw), metres and radians; a velocity (forward, leftward, turning) is in the robot's
own frame, m/s and rad/s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import wrap_angle

NEAR, ALIGNED = 0.08, 0.15
"""Error [m, rad] at which a goal counts as reached."""

GOAL_TIMEOUT = 20.0
"""Time [s] after which a goal is given up: something is in the way."""

RETURN_DISTANCE = 0.5
"""Who is further than this [m] outside of the arena does not drive back by itself."""

JUMP = 0.5
"""Odometry that moves on by more than this [m] at once, and twice what the robot can do, is not trusted."""

_MARGIN = 0.1  # between goals and the edge [m]
_FACING = 0.6  # who cannot drive sideways turns on the spot where the goal is further off than this [rad]


@dataclass(frozen=True)
class Arena:
    """Where the robot's centre may be, in the frame of its odometry [m]."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    @classmethod
    def from_corners(cls, corners: Sequence[float]) -> "Arena":
        """The arena between two opposite corners, x y x y; LedposeError if there is no room to drive."""
        if len(corners) != 4:
            raise LedposeError(f"arena must be x and y of two corners, four numbers, not {list(corners)}")
        x_min, x_max = sorted(corners[::2])
        y_min, y_max = sorted(corners[1::2])
        if min(x_max - x_min, y_max - y_min) < 4 * _MARGIN:
            raise LedposeError(
                f"arena {list(corners)} is too small: give it {4 * _MARGIN:g} m or more each way"
            )
        return cls(x_min, y_min, x_max, y_max)

    @property
    def low(self) -> np.ndarray:
        return np.array([self.x_min, self.y_min])

    @property
    def high(self) -> np.ndarray:
        return np.array([self.x_max, self.y_max])

    def distance_outside(self, spot: np.ndarray) -> float:
        """How far a spot (2,) is outside; 0 inside."""
        return float(np.linalg.norm(spot - np.clip(spot, self.low, self.high)))

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A random planar pose, a little away from the edge."""
        return np.array([*rng.uniform(self.low + _MARGIN, self.high - _MARGIN), rng.uniform(-np.pi, np.pi)])


@dataclass(frozen=True)
class Limits:
    """The most that the robot does: m/s, rad/s, m/s^2, rad/s^2."""

    speed: float
    turn_rate: float
    acceleration: float
    turn_acceleration: float


def approach(
    velocity: np.ndarray, error: np.ndarray, limit: float, acceleration: float, most_change: float
) -> np.ndarray:
    """The next velocity: towards a goal `error` away, at a speed from which one can stop there."""
    return _stepped(velocity, _towards(error, limit, acceleration), most_change)


def _towards(error: np.ndarray, limit: float, acceleration: float) -> np.ndarray:
    size = float(np.linalg.norm(error))
    return error / max(size, 1e-9) * min(limit, _speed_within(size, acceleration))


def _speed_within(room: Any, acceleration: float) -> Any:
    """The speed from which one can stop within `room` [m or rad], with some reserve."""
    return np.sqrt(1.5 * acceleration * np.maximum(room, 0.0))


def _stepped(velocity: np.ndarray, wanted: np.ndarray, most_change: float) -> np.ndarray:
    change = wanted - velocity
    return velocity + change * min(1.0, most_change / max(float(np.linalg.norm(change)), 1e-9))


class Wanderer:
    """Chooses goals, and the velocity that leads there.

    Goals are uniform in the arena, with any heading. Near the edge, the speed towards it is one from which
    the robot can stop before it; from outside, only what leads back in is left of it. The same holds of the
    circle of radius `keep_away` about a peer.
    """

    def __init__(
        self, arena: Arena, limits: Limits, holonomic: bool, rng: np.random.Generator, keep_away: float = 0.0
    ) -> None:
        self._arena, self._limits, self._holonomic = arena, limits, holonomic
        self._rng, self._keep_away = rng, keep_away
        self._velocity = np.zeros(3)
        self._goal: np.ndarray | None = None
        self._goal_time = 0.0

    def stand(self) -> None:
        """Forget goal and velocity: the robot has been stopped."""
        self._velocity, self._goal = np.zeros(3), None

    def step(self, pose: np.ndarray, seconds: float, peer: np.ndarray | None = None) -> np.ndarray:
        """The velocity (3,) for the next `seconds`, at a planar pose; `peer` (2,) is where a peer is."""
        self._goal_time += seconds
        if self._goal is None or self._goal_time > GOAL_TIMEOUT or self._has_arrived(pose, self._goal):
            self._goal, self._goal_time = self._arena.draw(self._rng), 0.0
        towards, turning = self._wishes(pose, self._goal)
        limits, turn = self._limits, self._velocity[2:]
        change, turn_change = limits.acceleration * seconds, limits.turn_acceleration * seconds
        turn = approach(turn, np.array([turning]), limits.turn_rate, limits.turn_acceleration, turn_change)
        cosine, sine = np.cos(pose[2]), np.sin(pose[2])
        to_arena = np.array([[cosine, -sine], [sine, cosine]])
        bounds = self._bounds(pose[:2], peer)
        if self._holonomic:
            wanted = _towards(towards, limits.speed, limits.acceleration)
            # Away from a peer may be out of the arena, whose bounds come first.
            for outward, allowed in (*bounds, *bounds[:4]):
                wanted = wanted - outward * max(0.0, wanted @ outward - allowed)
            is_within = all(wanted @ outward <= allowed + 1e-9 for outward, allowed in bounds)
            wanted = to_arena.T @ wanted * is_within
        else:
            heading = to_arena[:, 0]
            way = max(0.0, towards @ heading) if abs(turning) < _FACING else 0.0
            speeds = [
                allowed / (heading @ outward) for outward, allowed in bounds if heading @ outward > 1e-6
            ]
            ahead = _towards(np.array([way]), limits.speed, limits.acceleration)
            wanted = np.array([min(*ahead, *speeds), 0.0])
        self._velocity = np.array([*_stepped(self._velocity[:2], wanted, change), *turn])
        return self._velocity.copy()

    def _has_arrived(self, pose: np.ndarray, goal: np.ndarray) -> bool:
        return bool(
            np.linalg.norm(goal[:2] - pose[:2]) < NEAR and abs(wrap_angle(goal[2] - pose[2])) < ALIGNED
        )

    def _wishes(self, pose: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, float]:
        """The way (2,) that is left to the goal, and by how much to turn now."""
        towards = goal[:2] - pose[:2]
        if self._holonomic or np.linalg.norm(towards) < NEAR:
            return towards * self._holonomic, float(wrap_angle(goal[2] - pose[2]))
        return towards, float(wrap_angle(np.arctan2(towards[1], towards[0]) - pose[2]))

    def _bounds(self, spot: np.ndarray, peer: np.ndarray | None) -> list[tuple[np.ndarray, float]]:
        """Directions (2,) in the arena's frame with the speed [m/s] that is allowed towards them."""
        rooms = [*zip(np.eye(2), self._arena.high - spot, strict=True)]
        rooms += zip(-np.eye(2), spot - self._arena.low, strict=True)
        if peer is not None and self._keep_away > 0:
            distance = max(float(np.linalg.norm(peer - spot)), 1e-9)
            rooms.append(((peer - spot) / distance, distance - self._keep_away))
        return [(outward, float(_speed_within(room, self._limits.acceleration))) for outward, room in rooms]


class DriveGate:
    """Whether the robot may drive, and if not, why not, in words.

    It may not before the first start, and not after anything that somebody should look at, until it is
    started again. While odometry is silent it stands, and goes on when odometry does. Times are of a steady
    clock [s].
    """

    def __init__(self, arena: Arena, odometry_timeout: float, top_speed: float) -> None:
        self._arena, self._timeout, self._top_speed = arena, odometry_timeout, top_speed
        self._halted = "not started yet: call ~/start"
        self._forbidden = ""
        self._is_emergency = False
        self._odometry_time: float | None = None
        self.pose: np.ndarray | None = None

    def start(self, now: float) -> None:
        """Allow to drive; LedposeError if something speaks against it."""
        reason = self._forbidden or ("emergency_stop is true" if self._is_emergency else "")
        reason = reason or self._odometry_problem(now) or self._place_problem()
        if reason:
            raise LedposeError(f"the robot does not start: {reason}")
        self._halted = ""

    def halt(self, reason: str) -> None:
        """Do not drive until the next start."""
        self._halted = reason

    def forbid(self, reason: str) -> None:
        """Never drive again."""
        self._halted = self._forbidden = reason

    def hear_emergency(self, is_emergency: bool) -> None:
        """Take in what emergency_stop says."""
        self._is_emergency = is_emergency
        if is_emergency:
            self.halt("emergency stop: call ~/start when emergency_stop is false again")

    def hear_odometry(self, pose: np.ndarray, now: float) -> None:
        """Take in a planar pose (3,)."""
        if self.pose is not None and self._odometry_time is not None:
            jump = float(np.linalg.norm(pose[:2] - self.pose[:2]))
            if jump > JUMP + 2 * self._top_speed * (now - self._odometry_time) and not self._halted:
                self.halt(f"odometry jumped by {jump:.2f} m: call ~/start if the robot is where it says")
        self.pose, self._odometry_time = pose, now

    def why_standing(self, now: float) -> str:
        """Why the robot must not move; empty if it may."""
        if not self._halted:
            problem = self._place_problem()
            if problem:
                self.halt(f"{problem}: bring it back and call ~/start")
        return self._halted or self._odometry_problem(now)

    def _odometry_problem(self, now: float) -> str:
        if self._odometry_time is None:
            return "no odometry has come"
        silence = now - self._odometry_time
        return f"odometry has been silent for {silence:.1f} s" if silence > self._timeout else ""

    def _place_problem(self) -> str:
        if self.pose is None:
            return ""
        outside = self._arena.distance_outside(self.pose[:2])
        if outside <= RETURN_DISTANCE:
            return ""
        x, y = self.pose[:2]
        return f"the robot is at ({x:.2f}, {y:.2f}) by its odometry, {outside:.2f} m outside of the arena"
