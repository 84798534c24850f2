# SPDX-License-Identifier: Apache-2.0
"""Planar motion of mecanum robots: from goal to goal, bounded in speed and acceleration.

A planar pose is (x, y, yaw) in the room's frame, metres and radians.
"""

import numpy as np

from .room import Room

ROBOT_RADIUS = 0.24
"""Radius [m] of the disc a robot keeps free of furniture."""

TIME_STEP = 0.02


def wrap(angle: float) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)


class Drive:
    """One robot that chases goals; `pose` (3,) and `velocity` (3,), both in the room's frame."""

    def __init__(self, pose: np.ndarray, speed: float, turn_rate: float, acceleration: float):
        self.pose, self.velocity, self.goal = pose.copy(), np.zeros(3), pose.copy()
        self.limits = np.array([speed, turn_rate])
        self.accelerations = np.array([acceleration, 4 * acceleration])

    @property
    def has_arrived(self) -> bool:
        error = self.goal - self.pose
        return bool(np.hypot(error[0], error[1]) < 0.08 and abs(wrap(error[2])) < 0.15)

    def stop(self) -> None:
        """Give the goal up and stand still (before a collision)."""
        self.velocity[:] = 0
        self.goal = self.pose.copy()

    def advance(self, seconds: float) -> np.ndarray:
        """Accelerate towards the goal for `seconds`; return the pose reached (not yet taken)."""
        error = self.goal - self.pose
        error[2] = wrap(error[2])
        wanted = np.concatenate(
            [
                _bounded(error[:2], np.hypot(error[0], error[1]), self.limits[0], self.accelerations[0]),
                _bounded(error[2:], abs(error[2]), self.limits[1], self.accelerations[1]),
            ]
        )
        change = wanted - self.velocity
        for part, limit in ((slice(0, 2), self.accelerations[0]), (slice(2, 3), self.accelerations[1])):
            size = np.linalg.norm(change[part])
            if size > limit * seconds:
                change[part] *= limit * seconds / size
        self.velocity += change
        return self.pose + self.velocity * seconds


def _bounded(error: np.ndarray, size: float, limit: float, acceleration: float) -> np.ndarray:
    """The velocity towards a goal from which one can still stop there."""
    return error / max(size, 1e-9) * min(limit, np.sqrt(1.5 * acceleration * size))


class Choreography:
    """The observer and its peers driving in one room without touching furniture or each other.

    Goals of the peers are drawn in the observer's view: distance log-uniform over 0.5 to 4.2 m, uniform across
    the picture and a little beyond its edges, any heading.
    """

    def __init__(self, room: Room, observer: np.ndarray, peers: int, half_view: float, rng: np.random.Generator):
        self.room, self.rng, self.half_view = room, rng, half_view
        moving = rng.random() < 0.7
        self.observer = Drive(observer, 0.25 if moving else 0.0, 0.35 if moving else 0.0, 0.4)
        self.anchor = observer.copy()
        self.peers: list[Drive] = []
        for _ in range(peers):
            start = self._goal_in_view(None)
            if start is None:
                raise RuntimeError("no free place for a robot")
            self.peers.append(Drive(start, rng.uniform(0.3, 1.0), rng.uniform(0.8, 2.5), rng.uniform(0.6, 2.0)))

    def advance(self, seconds: float) -> None:
        """Let everybody drive for `seconds`."""
        steps = max(1, round(seconds / TIME_STEP))
        for _ in range(steps):
            self._step(seconds / steps)

    def _step(self, seconds: float) -> None:
        if self.observer.has_arrived and self.rng.random() < seconds / 1.0:
            self.observer.goal = self._observer_goal()
        for peer in self.peers:
            if peer.has_arrived and self.rng.random() < seconds / 0.4:
                goal = self._goal_in_view(peer)
                if goal is not None:
                    peer.goal = goal
        robots = [self.observer, *self.peers]
        for robot in robots:
            reached = robot.advance(seconds)
            gap = min((np.hypot(*(reached - other.pose)[:2]) for other in robots if other is not robot), default=np.inf)
            now = min((np.hypot(*(robot.pose - other.pose)[:2]) for other in robots if other is not robot), default=np.inf)
            if gap < 0.45 and gap < now:
                robot.stop()
            else:
                robot.pose = reached

    def _observer_goal(self) -> np.ndarray:
        for _ in range(10):
            goal = self.anchor + np.array([*self.rng.normal(0, 0.3, 2), self.rng.normal(0, 0.25)])
            if self.room.is_clear(self.observer.pose[:2], goal[:2], ROBOT_RADIUS):
                return goal
        return self.observer.pose.copy()

    def _goal_in_view(self, peer: Drive | None) -> np.ndarray | None:
        """A free planar pose before the observer, straight reachable for `peer`; None when none is found."""
        x, y, yaw = self.observer.pose
        for _ in range(60):
            distance = 0.5 * 8.4 ** self.rng.random()
            azimuth = yaw + np.arctan(self.rng.uniform(-1.02, 1.02) * np.tan(self.half_view))
            spot = np.array([x + distance * np.cos(azimuth), y + distance * np.sin(azimuth)])
            if not self.room.is_free(spot, ROBOT_RADIUS) or any(
                np.hypot(*(spot - other.goal[:2])) < 0.5 for other in self.peers if other is not peer
            ):
                continue
            if peer is None or self.room.is_clear(peer.pose[:2], spot, ROBOT_RADIUS):
                return np.array([*spot, self.rng.uniform(-np.pi, np.pi)])
        return None
