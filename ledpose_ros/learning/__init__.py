# SPDX-License-Identifier: Apache-2.0
"""Network, loss and trainer (torch; never imported by the robot's processes)."""
