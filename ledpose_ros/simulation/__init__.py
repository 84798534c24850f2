# SPDX-License-Identifier: Apache-2.0
"""Simulated robot pairs in random rooms (MuJoCo; an extra)."""

from .simulator import Frame, Simulation

__all__ = ["Frame", "Simulation"]
