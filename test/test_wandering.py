# SPDX-License-Identifier: Apache-2.0
"""A robot that drives at random stays where it may, at the speeds it may, and gets about."""

import numpy as np
import pytest

from ledpose_ros.errors import LedposeError
from ledpose_ros.wandering import GOAL_TIMEOUT, RETURN_DISTANCE, Arena, DriveGate, Limits, Wanderer

ARENA = Arena.from_corners([-1.0, -0.5, 2.0, 1.5])
LIMITS = Limits(speed=0.3, turn_rate=1.0, acceleration=0.5, turn_acceleration=2.0)
PERIOD = 0.1  # twice that of the node, which makes it harder


def drive(wanderer, pose, steps, lag=0.0, peer=None):
    """Poses (N, 3) and commanded velocities (N, 3); the robot follows with a lag [s], as a real one."""
    velocity, poses, commands = np.zeros(3), [], []
    for _ in range(steps):
        command = wanderer.step(pose, PERIOD, peer)
        velocity = velocity + (command - velocity) * min(1.0, PERIOD / (lag + PERIOD))
        turn = np.array([[np.cos(pose[2]), -np.sin(pose[2])], [np.sin(pose[2]), np.cos(pose[2])]])
        pose = pose + PERIOD * np.array([*(turn @ velocity[:2]), velocity[2]])
        poses.append(pose)
        commands.append(command)
    return np.array(poses), np.array(commands)


def wanderer(holonomic=False, seed=0, **more):
    return Wanderer(ARENA, LIMITS, holonomic, np.random.default_rng(seed), **more)


@pytest.mark.parametrize("holonomic", [False, True])
def test_an_hour_in_the_arena(holonomic):
    """Five minutes of each of twelve seeds, by a robot that answers within 0.1 s."""
    drives = [drive(wanderer(holonomic, seed), np.zeros(3), 3000, lag=0.1) for seed in range(12)]
    for _, commands in drives:
        changes = np.abs(np.diff(commands, axis=0, prepend=0)) / PERIOD
        assert np.linalg.norm(changes[:, :2], axis=1).max() <= LIMITS.acceleration + 1e-9
        assert changes[:, 2].max() <= LIMITS.turn_acceleration + 1e-9
    poses, commands = (np.concatenate(column) for column in zip(*drives, strict=True))
    assert (poses[:, :2] >= ARENA.low).all() and (poses[:, :2] <= ARENA.high).all()
    assert np.linalg.norm(commands[:, :2], axis=1).max() <= LIMITS.speed + 1e-9
    assert np.abs(commands[:, 2]).max() <= LIMITS.turn_rate + 1e-9
    assert (commands[:, 1] == 0).all() or holonomic

    counts, _, _ = np.histogram2d(poses[:, 0], poses[:, 1], 4, [[-1.0, 2.0], [-0.5, 1.5]])
    assert (counts > 0.005 * len(poses)).all(), "every part is visited"
    headings, _ = np.histogram(np.mod(poses[:, 2], 2 * np.pi), 8)
    assert (headings > 0.05 * len(poses)).all(), "every side is shown"
    assert np.linalg.norm(commands[:, :2], axis=1).mean() > 0.25 * LIMITS.speed, "it does not stand about"


@pytest.mark.parametrize("holonomic", [False, True])
def test_from_outside_it_only_moves_back_in(holonomic):
    for seed, start in enumerate([(2.3, 0.0), (-1.3, 1.0), (0.5, 1.9), (2.2, 1.8)]):
        for yaw in np.linspace(-3, 3, 5):
            poses, _ = drive(wanderer(holonomic, seed), np.array([*start, yaw]), 300)
            outside = np.array([ARENA.distance_outside(pose[:2]) for pose in poses])
            assert np.diff(outside).max() < 1e-6 and outside[-1] == 0


@pytest.mark.parametrize("holonomic", [False, True])
def test_a_peer_is_kept_away_from(holonomic):
    peer = np.array([0.5, 0.5])
    poses, _ = drive(wanderer(holonomic, keep_away=0.5), np.array([-0.8, -0.3, 0.0]), 6000, 0.0, peer)
    distances = np.linalg.norm(poses[:, :2] - peer, axis=1)
    assert distances.min() > 0.47
    assert (np.ptp(poses[:, :2], axis=0) > 1.0).all(), "it gets about all the same"


def test_who_keeps_away_stays_in_the_arena():
    """The way past the peer leads out of it."""
    robot = wanderer(True, keep_away=0.6)
    robot._goal = np.array([-0.9, 0.9, 0.0])
    poses, _ = drive(robot, np.array([-1.0, 0.0, 0.0]), 100, 0.0, np.array([-0.75, 0.25]))
    assert max(ARENA.distance_outside(pose[:2]) for pose in poses) < 1e-6


def test_who_is_held_fast_gives_a_goal_up():
    held, pose = wanderer(), np.zeros(3)
    velocities = np.array([held.step(pose, PERIOD) for _ in range(int(10 * GOAL_TIMEOUT / PERIOD))])
    assert len(np.unique(np.sign(velocities[100:, 2]))) > 1, "it turned to another goal"


def test_after_standing_it_begins_slowly():
    robot = wanderer(holonomic=True)
    drive(robot, np.zeros(3), 100)
    robot.stand()
    assert np.linalg.norm(robot.step(np.zeros(3), PERIOD)[:2]) <= LIMITS.acceleration * PERIOD + 1e-9


@pytest.mark.parametrize(
    ("corners", "words"),
    [
        ([0.0, 0.0, 1.0], "four numbers"),
        ([0.0, 0.0, 1.0, 0.2], "too small"),
        ([1.0, 1.0, 1.0, 1.0], "too small"),
    ],
)
def test_arenas_without_room_are_refused(corners, words):
    with pytest.raises(LedposeError, match=words):
        Arena.from_corners(corners)
    assert Arena.from_corners([2.0, -0.5, -1.0, 1.5]) == ARENA, "any two opposite corners will do"


@pytest.fixture
def gate():
    return DriveGate(ARENA, odometry_timeout=0.5, top_speed=0.3)


def test_it_stands_until_it_is_started(gate):
    assert "call ~/start" in gate.why_standing(0.0)
    with pytest.raises(LedposeError, match="does not start: no odometry has come"):
        gate.start(0.0)
    gate.hear_odometry(np.zeros(3), 0.0)
    assert gate.why_standing(0.1)
    with pytest.raises(LedposeError, match=r"silent for 0\.6 s"):
        gate.start(0.6)
    gate.start(0.4)
    assert gate.why_standing(0.4) == ""


def test_it_stands_while_odometry_is_silent(gate):
    gate.hear_odometry(np.zeros(3), 0.0)
    gate.start(0.0)
    assert gate.why_standing(0.5) == "" and "silent for 0.7 s" in gate.why_standing(0.7)
    gate.hear_odometry(np.zeros(3), 1.0)
    assert gate.why_standing(1.0) == ""


def test_an_emergency_lasts_until_the_next_start(gate):
    gate.hear_odometry(np.zeros(3), 0.0)
    gate.start(0.0)
    gate.hear_emergency(False)
    assert gate.why_standing(0.1) == ""
    gate.hear_emergency(True)
    assert "emergency" in gate.why_standing(0.1)
    with pytest.raises(LedposeError, match="emergency_stop is true"):
        gate.start(0.1)
    gate.hear_emergency(False)
    assert "emergency" in gate.why_standing(0.1)
    gate.start(0.1)
    assert gate.why_standing(0.1) == ""


def test_far_outside_it_stands_and_little_outside_it_may_return(gate):
    gate.hear_odometry(np.array([2.0 + 0.9 * RETURN_DISTANCE, 0.0, 0.0]), 0.0)
    gate.start(0.0)
    assert gate.why_standing(0.0) == ""
    gate.hear_odometry(np.array([2.0 + 1.1 * RETURN_DISTANCE, 0.0, 0.0]), 0.1)
    assert "0.55 m outside of the arena" in gate.why_standing(0.1)
    with pytest.raises(LedposeError, match="outside of the arena"):
        gate.start(0.1)
    gate.hear_odometry(np.zeros(3), 0.2)
    assert "outside" in gate.why_standing(0.2), "somebody should look at it"
    gate.start(0.2)
    assert gate.why_standing(0.2) == ""


def test_odometry_that_jumps_halts_it(gate):
    gate.hear_odometry(np.zeros(3), 0.0)
    gate.start(0.0)
    gate.hear_odometry(np.array([0.2, 0.0, 0.0]), 0.1)
    assert gate.why_standing(0.1) == ""
    gate.hear_odometry(np.array([1.2, 0.0, 0.0]), 0.2)
    assert "odometry jumped by 1.00 m" in gate.why_standing(0.2)
    gate.start(0.2)
    assert gate.why_standing(0.2) == ""


def test_whoever_halts_it_is_told(gate):
    gate.hear_odometry(np.zeros(3), 0.0)
    gate.start(0.0)
    gate.halt("lunch")
    assert gate.why_standing(0.0) == "lunch"
    gate.forbid("no brakes")
    with pytest.raises(LedposeError, match="no brakes"):
        gate.start(0.0)
    assert gate.why_standing(0.0) == "no brakes"
