# SPDX-License-Identifier: Apache-2.0
"""How often something is done that need not be done every time."""

import math

JITTER = 0.02
"""Seconds, at most a fifth of a period, by which it may be early: what comes just in time is not left out."""


class Pace:
    """Lets something happen at most at a rate, over time, whenever there is an occasion."""

    def __init__(self) -> None:
        self._due = -math.inf

    def allows(self, now: float, rate: float) -> bool:
        """Whether it may happen at this time [s], at this rate [Hz]; if so it is taken to happen."""
        period = 1 / rate
        self._due = min(self._due, now + period)  # the rate may have risen
        if now < self._due - min(JITTER, period / 5):
            return False
        # What comes late does not put off what follows, unless it is a pause.
        self._due = (now if now - self._due > period else self._due) + period
        return True
