# SPDX-License-Identifier: Apache-2.0
"""Where the own robot was when an image was taken."""

from bisect import bisect_left

import numpy as np

from ledpose_ros.leds import CLOCK_JUMP_NS

HORIZON_NS = 2_000_000_000
# Odometry further from an image than this tells nothing of it.
MAX_GAP_NS = 200_000_000


# No robot is further [m] from where its odometry began.
FARTHEST = 1e7
# A robot that is so far [m] from where it was, and further than it can drive [m/s], has not driven there: its
# odometry has been reset.
JUMP, TOP_SPEED = 0.5, 10.0


def is_pose(pose: np.ndarray) -> bool:
    """Whether seven numbers x y z qx qy qz qw are a pose, as far as that can be told."""
    return bool((np.abs(pose[:3]) < FARTHEST).all() and 0.9 < np.linalg.norm(pose[3:]) < 1.1)


class OdometryHistory:
    """Poses (7,) x y z qx qy qz qw of the robot in its odometry's frame, over the last seconds."""

    def __init__(self) -> None:
        self.jumps = 0
        """How often the robot was elsewhere all at once: poses from before mean nothing any more."""
        self._stamps: list[int] = []
        self._poses: list[np.ndarray] = []

    @property
    def newest_ns(self) -> int | None:
        """The newest stamp, None before the first."""
        return self._stamps[-1] if self._stamps else None

    def add(self, stamp_ns: int, pose: np.ndarray) -> bool:
        """Take in a pose; False for one that is none.

        One that came late is left out; stamps that go back by a second or more, and places that jump, begin
        everything anew.
        """
        if not is_pose(pose):
            return False
        if self._stamps and stamp_ns <= self._stamps[-1]:
            if self._stamps[-1] - stamp_ns < CLOCK_JUMP_NS:
                return True
            self._stamps.clear()
            self._poses.clear()
        if self._stamps and np.linalg.norm(pose[:3] - self._poses[-1][:3]) > (
            JUMP + TOP_SPEED * (stamp_ns - self._stamps[-1]) / 1e9
        ):
            self.jumps += 1
            self._stamps.clear()
            self._poses.clear()
        self._stamps.append(stamp_ns)
        self._poses.append(np.concatenate([pose[:3], pose[3:] / np.linalg.norm(pose[3:])]))
        outdated = bisect_left(self._stamps, stamp_ns - HORIZON_NS)
        del self._stamps[:outdated], self._poses[:outdated]
        return True

    def pose_at(self, stamp_ns: int) -> np.ndarray | None:
        """The pose (7,) at a stamp; a little beyond those that are known the nearest, None if too far off.

        Linear in position, and in the quaternion, which is right to 0.1 degrees for turns below 30 degrees.
        """
        if not self._stamps or not (
            self._stamps[0] - MAX_GAP_NS <= stamp_ns <= self._stamps[-1] + MAX_GAP_NS
        ):
            return None
        if len(self._stamps) == 1:
            return self._poses[0]
        after = min(max(bisect_left(self._stamps, stamp_ns), 1), len(self._stamps) - 1)
        start_ns, end_ns = self._stamps[after - 1], self._stamps[after]
        start, end = self._poses[after - 1], self._poses[after]
        if end_ns - start_ns > MAX_GAP_NS:
            nearest = start if stamp_ns - start_ns < end_ns - stamp_ns else end
            return nearest if min(abs(stamp_ns - start_ns), abs(stamp_ns - end_ns)) <= MAX_GAP_NS else None
        share = min(max((stamp_ns - start_ns) / (end_ns - start_ns), 0.0), 1.0)
        if start[3:] @ end[3:] < 0:
            end = np.concatenate([end[:3], -end[3:]])
        pose = start + share * (end - start)
        pose[3:] /= np.linalg.norm(pose[3:])
        return np.asarray(pose)
