# SPDX-License-Identifier: Apache-2.0
"""What holds for all tests."""

import os

import pytest

# MuJoCo settles on a renderer when it is first imported, which tests may do before our simulation chooses.
os.environ.setdefault("MUJOCO_GL", "egl")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of our own."""
    parser.addoption("--fault-table", metavar="FILE", help="write what came of the faults, as docs/faults.md")
    parser.addoption(
        "--label-samples", type=int, default=600, metavar="N", help="samples to judge on a busy machine (600)"
    )
