# SPDX-License-Identifier: Apache-2.0
"""What holds for all tests."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from ledpose_ros.cli import EXTRAS

if TYPE_CHECKING:
    from ros_graph import Client

# MuJoCo settles on a renderer when it is first imported, which tests may do before our simulation chooses.
os.environ.setdefault("MUJOCO_GL", "egl")


def pytest_addoption(parser: "pytest.Parser") -> None:
    """Options of our own."""
    parser.addoption("--fault-table", metavar="FILE", help="write what came of the faults, as docs/faults.md")
    parser.addoption(
        "--label-samples", type=int, default=600, metavar="N", help="samples to judge on a busy machine (600)"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lives in a ROS graph: all tests of a module that uses `ros_graph`, or its fixtures here."""
    for item in items:
        assert isinstance(item, pytest.Function)
        uses = {getattr(value, "__module__", None) for value in vars(item.module).values()}
        if "ros_graph" in uses or "domain" in item.fixturenames:
            item.add_marker("graph")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs an extra of the package, `pytest.mark.extra(NAME)`, where that is not installed."""
    for marker in item.iter_markers("extra"):
        if missing := [module for module in EXTRAS[marker.args[0]] if find_spec(module) is None]:
            pytest.skip(f"the extra '{marker.args[0]}' is not installed: {', '.join(missing)} is missing")


@pytest.fixture
def domain() -> int:
    """A ROS domain of the test's own."""
    from ros_graph import new_domain  # here, for most tests need no ROS

    return new_domain()


@pytest.fixture
def client(domain: int) -> "Iterator[Client]":
    """A node of the test's own in its domain."""
    from ros_graph import ros_client

    with ros_client(domain) as client:
        yield client
