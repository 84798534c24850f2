# SPDX-License-Identifier: Apache-2.0
"""LEDs that blink at random, each on its own."""

import numpy as np

from ..leds import DEFAULT_LED_NAMES

LED_HOLD_NS = 150_000_000
"""Shortest time [ns] for which an LED keeps its state."""

LED_TIME_CONSTANT = 0.35
"""Mean time [s] after which an LED that may change does."""


class Blinking:
    """LEDs of R robots: `states` (R, K) float32, 0 or 1, and `stamps` (R, K) [ns] of their last changes.

    With `forced` (0 off, 1 on) all keep that state. Chance is asked even so, so that all that is drawn later
    from `rng` stays the same.
    """

    def __init__(self, rng: np.random.Generator, robots: int, now_ns: int, forced: float | None = None):
        self._rng, self._forced = rng, forced
        shape = (robots, len(DEFAULT_LED_NAMES))
        self.states = rng.integers(0, 2, shape).astype(np.float32)
        if forced is not None:
            self.states[:] = forced
        self.stamps = np.full(shape, now_ns)

    def switch(self, now_ns: int, period_ns: int) -> None:
        """Let each LED that has held its state long enough change it, by chance; asked every `period_ns`."""
        probability = 1 - np.exp(-period_ns / 1e9 / LED_TIME_CONSTANT)
        may_change = now_ns - self.stamps >= LED_HOLD_NS
        switches = may_change & (self._rng.random(self.states.shape) < probability)
        if self._forced is None:
            self.states[switches] = 1 - self.states[switches]
            self.stamps[switches] = now_ns
