# SPDX-License-Identifier: Apache-2.0
"""What holds for all tests."""

import os

# MuJoCo settles on a renderer when it is first imported, which tests may do before our simulation chooses.
os.environ.setdefault("MUJOCO_GL", "egl")
