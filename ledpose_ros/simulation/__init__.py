# SPDX-License-Identifier: Apache-2.0
"""Simulated robots in random rooms (MuJoCo; an extra)."""

import os

from ..errors import LedposeError

# MuJoCo reads it when first imported; EGL renders without a display.
os.environ.setdefault("MUJOCO_GL", "egl")

try:
    import mujoco  # noqa: F401
except ModuleNotFoundError:
    raise
except (ImportError, AttributeError, OSError) as error:
    raise LedposeError(
        f"MuJoCo cannot load its graphics library for MUJOCO_GL={os.environ['MUJOCO_GL']} ({error}): "
        "install the system packages libegl1 and libgl1-mesa-dri"
    ) from error

from .simulator import Frame, Simulation
from .team import CAMERA_POSITION, TeamFrame, TeamSimulation

__all__ = ["CAMERA_POSITION", "Frame", "Simulation", "TeamFrame", "TeamSimulation"]
