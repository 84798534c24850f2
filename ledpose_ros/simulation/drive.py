# SPDX-License-Identifier: Apache-2.0
"""Planar motion of mecanum robots: from goal to goal, bounded in speed and acceleration.

A planar pose is (x, y, yaw) in the room's frame, metres and radians.
"""

from collections.abc import Sequence

import numpy as np

from ..errors import LedposeError
from ..geometry import wrap_angle
from ..wandering import ALIGNED, NEAR, approach
from .parts import heading
from .room import Room

CLEARANCE = 0.24
"""Radius [m] of the disc that a robot keeps free of furniture."""

ROBOT_GAP = 0.45
"""Distance [m] between two robots' centres below which neither comes any closer."""

NEAREST, FARTHEST, FARTHEST_DIM = 0.46, 4.2, 1.6
"""Range [m] of horizontal distances from the camera that peers drive to."""

GATHERING_RADIUS = 1.4
"""Distance [m] from the middle of a gathering within which its robots drive."""

LOOKS_AWAY = 0.2
"""Share of the goals of a gathering's robots at which they look anywhere."""

TIME_STEP = 0.02


class Drive:
    """One robot that chases its `goal`; `pose` and `velocity` (3,) in the room's frame."""

    def __init__(self, pose: np.ndarray, speed: float, turn_rate: float, acceleration: float):
        self.pose, self.velocity, self.goal = pose.copy(), np.zeros(3), pose.copy()
        self.speed, self.turn_rate = speed, turn_rate
        self.acceleration, self.turn_acceleration = acceleration, 4 * acceleration

    @property
    def has_arrived(self) -> bool:
        error = self._error()
        return bool(np.hypot(error[0], error[1]) < NEAR and abs(error[2]) < ALIGNED)

    def accelerate(self, seconds: float) -> np.ndarray:
        """Change the velocity towards the goal; return the pose (3,) to which it leads after `seconds`."""
        error = self._error()
        self.velocity[:2] = approach(
            self.velocity[:2], error[:2], self.speed, self.acceleration, self.acceleration * seconds
        )
        self.velocity[2:] = approach(
            self.velocity[2:],
            error[2:],
            self.turn_rate,
            self.turn_acceleration,
            self.turn_acceleration * seconds,
        )
        return self.pose + self.velocity * seconds

    def stop(self) -> None:
        """Give the goal up and stand still (before a collision)."""
        self.velocity[:] = 0
        self.goal = self.pose.copy()

    def _error(self) -> np.ndarray:
        error = self.goal - self.pose
        error[2] = (error[2] + np.pi) % (2 * np.pi) - np.pi
        return error


class Choreography:
    """The observer and its peers driving in one room without touching furniture or each other.

    Goals of the peers are drawn in the observer's view: distance log-uniform, uniform across the picture and
    a little beyond its edges, any heading. The observer stays near its start, or stands. With `still` nobody
    moves, the peers are well inside the picture, and the observer looks straight at the first.
    """

    def __init__(
        self,
        room: Room,
        observer: np.ndarray,
        peers: int,
        half_view: float,
        rng: np.random.Generator,
        distances: tuple[float, float] = (NEAREST, FARTHEST),
        still: bool = False,
    ):
        self.room, self.half_view, self.rng = room, half_view, rng
        self.distances, self.still = distances, still
        self.start = observer.copy()
        moves = not still and rng.random() < 0.7
        self.observer = Drive(observer, speed=0.25 * moves, turn_rate=0.35 * moves, acceleration=0.4)
        self.peers: list[Drive] = []
        for _ in range(peers):
            pose = self._draw_pose_in_view(tries=2000)
            if pose is None:
                raise LedposeError(f"there is no free place for {peers} peers in the room: simulate fewer")
            speed, turn_rate, acceleration = rng.uniform((0.3, 0.8, 0.6), (1.0, 2.5, 2.0))
            self.peers.append(Drive(pose, speed, turn_rate, acceleration))
        if still and self.peers:
            east, north = self.peers[0].pose[:2] - self.observer.pose[:2]
            self.observer.pose[2] = np.arctan2(north, east)

    def advance(self, seconds: float) -> None:
        """Let everybody drive for `seconds`."""
        if self.still:
            return
        steps = max(1, round(seconds / TIME_STEP))
        for _ in range(steps):
            self._choose_goals(seconds / steps)
            _drive([self.observer, *self.peers], seconds / steps)

    def _choose_goals(self, seconds: float) -> None:
        """New goals for those who have arrived, after a pause: 1 s for the observer, 0.4 s for peers."""
        if self.observer.has_arrived and self.rng.random() < seconds / 1.0:
            goal = self.start + self.rng.normal(0, (0.3, 0.3, 0.25))
            if self.room.is_clear(self.observer.pose[:2], goal[:2], CLEARANCE):
                self.observer.goal = goal
        for peer in self.peers:
            if peer.has_arrived and self.rng.random() < seconds / 0.4:
                goal_in_view = self._draw_pose_in_view(peer)
                if goal_in_view is not None:
                    peer.goal = goal_in_view

    def _draw_pose_in_view(self, peer: Drive | None = None, tries: int = 60) -> np.ndarray | None:
        """A free planar pose (3,) in view, where `peer` can drive straight; None when none is found."""
        nearest, farthest = self.distances
        edge = 0.5 if self.still else 1.02
        for _ in range(tries):
            distance = nearest * (farthest / nearest) ** self.rng.random()
            across = self.rng.uniform(-edge, edge) * np.tan(self.half_view)
            spot = self.observer.pose[:2] + distance * heading(self.observer.pose[2] + np.arctan(across))
            others = [other.goal[:2] for other in self.peers if other is not peer]
            if any(np.linalg.norm(spot - other) < ROBOT_GAP + 0.05 for other in others):
                continue
            if self.room.is_clear(spot if peer is None else peer.pose[:2], spot, CLEARANCE):
                return np.array([*spot, self.rng.uniform(-np.pi, np.pi)])
        return None


class Gathering:
    """Equal robots driving in one room without touching furniture or each other.

    Goals are drawn about a place common to all, where the others are not all around. There a robot mostly
    faces them, so that its camera sees them, but at times it looks anywhere, and they see its sides and back.
    """

    def __init__(self, room: Room, robots: int, rng: np.random.Generator):
        self.room, self.rng = room, rng
        half = np.array([room.half_x, room.half_y])
        self.middle = rng.uniform(-1, 1, 2) * np.maximum(half - GATHERING_RADIUS - CLEARANCE, 0)
        self.robots: list[Drive] = []
        for k in range(robots):
            # Evenly round the middle, everybody in view of everybody.
            towards = 2 * np.pi * (k + rng.uniform(-0.1, 0.1)) / robots
            spot = self.middle + rng.uniform(0.6, 0.9) * GATHERING_RADIUS * heading(towards)
            speed, turn_rate, acceleration = rng.uniform((0.2, 0.5, 0.4), (0.6, 1.2, 1.0))
            self.robots.append(Drive(np.array([*spot, towards + np.pi]), speed, turn_rate, acceleration))

    def advance(self, seconds: float) -> None:
        """Let everybody drive for `seconds`."""
        steps = max(1, round(seconds / TIME_STEP))
        for _ in range(steps):
            self._choose_goals(seconds / steps)
            _drive(self.robots, seconds / steps)

    def _choose_goals(self, seconds: float) -> None:
        """New goals for those who have arrived, after a pause of 1.5 s."""
        for robot in self.robots:
            if robot.has_arrived and self.rng.random() < seconds / 1.5:
                goal = self._draw_pose(robot)
                if goal is not None:
                    robot.goal = goal

    def _draw_pose(self, robot: Drive, tries: int = 60) -> np.ndarray | None:
        """A free planar pose (3,) where `robot` can drive straight; None when none is found."""
        others = np.array([other.goal[:2] for other in self.robots if other is not robot])
        for _ in range(tries):
            reach = GATHERING_RADIUS * np.sqrt(self.rng.random())
            spot = self.middle + reach * heading(self.rng.uniform(-np.pi, np.pi))
            offsets = others - spot
            middle = offsets.mean(0)
            yaw = np.arctan2(middle[1], middle[0])
            aside = wrap_angle(np.arctan2(offsets[:, 1], offsets[:, 0]) - yaw)
            if np.linalg.norm(offsets, axis=1).min() < NEAREST + ROBOT_GAP / 2 or abs(aside).max() > 0.7:
                continue
            if self.room.is_clear(robot.pose[:2], spot, CLEARANCE):
                looks_away = self.rng.random() < LOOKS_AWAY
                return np.array([*spot, yaw + self.rng.normal(0, np.pi if looks_away else 0.15)])
        return None


def _drive(robots: Sequence[Drive], seconds: float) -> None:
    """Let robots chase their goals for a moment; whoever would come too near to another stops."""
    for robot in robots:
        reached = robot.accelerate(seconds)
        others = [other.pose[:2] for other in robots if other is not robot]
        gap = min((np.linalg.norm(reached[:2] - other) for other in others), default=np.inf)
        gap_before = min((np.linalg.norm(robot.pose[:2] - other) for other in others), default=np.inf)
        if gap < ROBOT_GAP and gap < gap_before:
            robot.stop()
        else:
            robot.pose = reached
