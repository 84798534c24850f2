# SPDX-License-Identifier: Apache-2.0
"""Simulated robot pairs in random rooms (MuJoCo; an extra)."""

import os

# MuJoCo reads it when first imported; EGL renders without a display.
os.environ.setdefault("MUJOCO_GL", "egl")

from .simulator import Frame, Simulation

__all__ = ["Frame", "Simulation"]
