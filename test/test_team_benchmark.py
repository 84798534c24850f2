# SPDX-License-Identifier: Apache-2.0
"""The benchmark of three robots that watch each other: what it counts, and that it runs."""

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ledpose_ros.simulation")

from ros_graph import run_benchmark

from benchmarks.team import Heard, score

BENCHMARK = """
from benchmarks import team
team.SEEDS = (1001,)
team.run(team.make_parser().parse_args())
"""
SECOND = 10**9


def pose(x: float, turn: float = 0.0) -> np.ndarray:
    """An upright peer 2 m ahead and `x` to the right, turned by an angle [rad] about its vertical."""
    half, s, c = np.sqrt(0.5), np.sin(turn / 2), np.cos(turn / 2)
    return np.array([x, 0.0, 2.0, half * c, -half * s, half * s, half * c])


def test_names_are_right_wrong_or_nowhere():
    heard = Heard()
    for second in range(1, 6):
        heard.answers["alpha"][second * SECOND] = np.array([[0.1, 0, 2], [5, 0, 2]])
        heard.true["alpha", "beta"][second * SECOND] = pose(0)
        heard.true["alpha", "gamma"][second * SECOND] = pose(1)
    # Not answered, so no matter.
    heard.true["alpha", "beta"][9 * SECOND] = pose(0)
    heard.named["alpha", "beta"] = {3 * SECOND: pose(0.1, 0.5), 4 * SECOND: pose(0.9), 5 * SECOND: pose(-0.7)}
    heard.named["alpha", "gamma"] = {2 * SECOND: pose(0.7, -1.0)}

    found = score(heard)
    assert (found.pictures, found.seen, found.found) == (5, 10, 5)
    assert (found.right, found.wrong, found.nowhere) == (2, 1, 1)
    assert sorted(found.distances) == pytest.approx([0.1, 0.3])
    # Where a robot is matters a little: it is seen from another side there.
    assert sorted(np.abs(found.bearings)) == pytest.approx([0.5, 1.0], abs=0.15)
    assert sorted(found.waits) == [1.0, 2.0]


def test_nobody_said_anything():
    found = score(Heard())
    assert (found.pictures, found.seen, found.right) == (0, 0, 0)


def test_it_runs():
    printed = run_benchmark(BENCHMARK, ["--seconds", "5"])
    row = next(line for line in printed.splitlines() if line.startswith("seed 1001")).split()
    pictures, seen, found = map(int, row[2:5])
    assert 0 < found <= seen and pictures > 0
