# SPDX-License-Identifier: Apache-2.0
"""Poses between odometry messages."""

import math

import numpy as np
import pytest

from ledpose_ros.geometry import quaternion_about
from ledpose_ros.odometry import OdometryHistory

MS = 1_000_000


def pose(x: float, yaw: float) -> np.ndarray:
    return np.array([x, 0.0, 0.0, *quaternion_about(2, yaw)])


def yaw_of(pose: np.ndarray) -> float:
    return 2 * math.atan2(pose[5], pose[6])


@pytest.fixture
def history() -> OdometryHistory:
    history = OdometryHistory()
    for step in range(5):
        assert history.add(1000 * MS + step * 50 * MS, pose(0.1 * step, 0.2 * step))
    return history


@pytest.mark.parametrize("milliseconds", [1000, 1010, 1075, 1200, 1230])
def test_between_and_a_little_beyond(history, milliseconds):
    steps = min((milliseconds - 1000) / 50, 4)
    found = history.pose_at(milliseconds * MS)
    assert found[0] == pytest.approx(0.1 * steps)
    assert yaw_of(found) == pytest.approx(0.2 * steps, abs=2e-3)
    assert np.linalg.norm(found[3:]) == pytest.approx(1)


def test_too_far_off(history):
    assert OdometryHistory().pose_at(0) is None and OdometryHistory().newest_ns is None
    assert history.newest_ns == 1200 * MS
    assert history.pose_at(700 * MS) is None
    assert history.pose_at(1500 * MS) is None


def test_gap(history):
    history.add(2000 * MS, pose(5.0, 0.0))
    assert history.pose_at(1600 * MS) is None
    assert history.pose_at(1300 * MS)[0] == pytest.approx(0.4)
    assert history.pose_at(1900 * MS)[0] == pytest.approx(5.0)


def test_a_reset_begins_anew(history):
    """Nobody was between where the robot is and where its odometry has it now."""
    history.add(1250 * MS, pose(0.5, 0.0))
    assert history.jumps == 0
    history.add(1300 * MS, pose(8.0, 0.0))
    assert history.jumps == 1
    assert history.pose_at(1275 * MS)[0] == history.pose_at(1310 * MS)[0] == 8.0
    history.add(1350 * MS, pose(8.1, 0.0))
    assert history.jumps == 1 and history.pose_at(1325 * MS)[0] == pytest.approx(8.05)


def test_quaternions_of_either_sign(history):
    history.add(1250 * MS, pose(0.5, 1.0) * np.array([1, 1, 1, -1, -1, -1, -1]))
    assert math.cos(yaw_of(history.pose_at(1225 * MS)) - 0.9) == pytest.approx(1, abs=1e-4)


def test_nonsense_is_refused_and_a_clock_that_jumps_back_begins_anew(history):
    assert not history.add(1250 * MS, np.full(7, math.nan))
    assert not history.add(1250 * MS, np.zeros(7))
    assert history.add(1190 * MS, pose(7.0, 0.0)), "late, but no reason to complain"
    assert history.pose_at(1190 * MS)[0] == pytest.approx(0.38)
    history.add(100 * MS, pose(9.0, 0.0))
    assert history.pose_at(100 * MS)[0] == 9.0
    assert history.pose_at(1200 * MS) is None
