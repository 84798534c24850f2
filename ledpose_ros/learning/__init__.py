"""Network, loss and trainer (torch; never imported by the robot's processes)."""
