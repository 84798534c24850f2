# SPDX-License-Identifier: Apache-2.0
"""LEDs that blink at random, and what may be said of them.

A label is worth as much as the word of who switches the LEDs. So a state is said from when the command for it
had returned, never while one is under way, and not at all where it is not sure.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import inf

import numpy as np

from ledpose_ros.errors import LedposeError
from ledpose_ros.led_adapters import LedAdapter
from ledpose_ros.leds import nanoseconds

KEEP_ALIVE = 0.1
RETRY_PERIOD = 2.0

States = tuple[bool, ...]


class Mode(str, Enum):
    """What the LEDs do; the value is for people."""

    RANDOM = "random"
    ALL_ON = "all_on"
    ALL_OFF = "all_off"
    DISABLED = "disabled"


@dataclass(frozen=True)
class BlinkSettings:
    """Rate of toggles per LED [Hz]; times [s]."""

    rate: float
    hold: float
    command_delay: float
    guard: float
    max_age: float

    def check(self, leds: int, camera_rate: float) -> None:
        """Raise `LedposeError` unless a camera of this rate [Hz] sees every state that is held."""
        seen = 1 / camera_rate + 2 * self.guard
        if self.hold < seen - 1e-9:
            asked = math.ceil(1000 * seen - 1e-6) / 1000  # enough, however it is rounded
            raise LedposeError(
                f"hold is {self.hold:g} s, but a state must be held for {asked:g} s to be seen for certain, "
                f"one picture at {camera_rate:g} Hz and twice led_guard: raise hold to this"
            )
        change = 1 / (leds * self.rate)
        if change <= self.hold:
            raise LedposeError(
                f"{leds} LEDs with a rate of {self.rate:g} each change every {change:.3g} s, which leaves no "
                f"time to hold each state for {self.hold:g} s: set rate below {1 / (leds * self.hold):.3g}"
            )
        if self.max_age <= 2 * KEEP_ALIVE:
            raise LedposeError(
                f"led_max_age is {self.max_age:g} s, but states are repeated every {KEEP_ALIVE:g} s: "
                f"set more than {2 * KEEP_ALIVE:g} s"
            )


class RandomToggles:
    """Which LED toggles next, and how long the state before it is held.

    One LED at a time, each as likely, after `hold` and an exponentially distributed rest: a random walk over
    all states. In the long run every state is as frequent as any other, so each LED is on half of the time
    and tells nothing of the others; and each change is one command that takes effect at one instant.
    """

    def __init__(self, leds: int, rate: float, hold: float, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._leds = leds
        self._hold = hold
        self._rest = 1 / (leds * rate) - hold

    def duration(self) -> float:
        """How long a state is held [s]."""
        return float(self._hold + self._rng.exponential(self._rest))

    def after(self, states: States) -> States:
        """The state that follows."""
        toggled = int(self._rng.integers(self._leds))
        return tuple(state != (led == toggled) for led, state in enumerate(states))


class LedDriver:
    """Switches the LEDs through an adapter, and calls `say(stamp_ns, states)` with what is so.

    `refuse(reason, sentence)` hears of commands that failed or were slow. Times are of `steady` [s], stamps
    of `clock_ns`. Not for use by several threads.

    - A state is said with the stamp at which its command had returned, plus `command_delay`, and repeated
      every `KEEP_ALIVE` with the time of the repetition.
    - After a failed command nobody knows what is lit. Nothing is said until a later one succeeds, which
      is tried after `RETRY_PERIOD` and begins anew with all LEDs off (or on, where that is asked for).
    - A command that takes longer than `guard` may have switched the LEDs at any time in between, and no
      listener leaves out pictures of all that time. So nothing is said until the silence has been
      longer than `max_age`, by stamps as well as by `steady`: listeners then know that the pictures in
      between tell nothing. The same holds of the first command after a failure.
    """

    def __init__(
        self,
        leds: int,
        adapter: LedAdapter,
        settings: BlinkSettings,
        seed: int,
        say: Callable[[int, States], None],
        refuse: Callable[[str, str], None],
        clock_ns: Callable[[], int],
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leds = leds
        self._adapter = adapter
        self._settings = settings
        self._toggles = RandomToggles(leds, settings.rate, settings.hold, seed)
        self._say, self._refuse = say, refuse
        self._clock_ns, self._steady = clock_ns, steady

        self._mode = Mode.RANDOM
        self._states: States | None = None
        self._stamp_ns: int | None = None  # of the state that is still to be said
        self._is_told = False
        self._said_at, self._said_ns = -inf, 0
        self._silent_until_ns = 0
        self._sure_at = -inf  # nothing is said before
        self._free_at = -inf  # no command before
        self._toggle_at = inf
        self._lit_since = inf
        self.error = ""
        self.commands = self.slow_commands = 0
        self.longest_command = 0.0
        self.random_time = 0.0
        self.lit_time = [0.0] * leds

    @property
    def mode(self) -> Mode:
        return self._mode

    def set_mode(self, mode: Mode) -> None:
        """Change what the LEDs do, as soon as the present state has been held for long enough."""
        if self._mode is Mode.DISABLED and mode is not Mode.DISABLED:
            self._states = None  # others may have had the LEDs meanwhile
        self._mode, self._is_told = mode, self._is_told and mode is self._mode

    @property
    def states(self) -> States | None:
        """What is lit; None where that is not known."""
        return self._states

    @property
    def _are_left(self) -> bool:
        """The LEDs are off, which was said, and left to others."""
        return self._mode is Mode.DISABLED and self._is_told and self._states == (False,) * self._leds

    def step(self) -> float:
        """Do what is due; return after how many seconds something is due again."""
        now = self._steady()
        if now >= self._free_at:
            target = self._target(now)
            if target != self._states:
                self._command(target)
        self._tell()
        return max(0.0, self._next_due() - self._steady())

    def finish(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Switch all LEDs off at once and say so; nothing to do where they have been left to others."""
        if self._are_left:
            return
        self.set_mode(Mode.DISABLED)
        if any(self._states or [True]):
            self._command((False,) * self._leds)
        sleep(min(1.0, max(0.0, self._sure_at - self._steady())))
        self._tell()

    def _target(self, now: float) -> States:
        if self._mode is not Mode.RANDOM:
            return (self._mode is Mode.ALL_ON,) * self._leds
        if self._states is None:
            return (False,) * self._leds
        return self._toggles.after(self._states) if now >= self._toggle_at else self._states

    def _command(self, target: States) -> None:
        begin, before = self._steady(), self._states
        if before is not None and begin >= self._sure_at:
            self._utter(self._clock_ns(), before)
        try:
            self._adapter.command(target, before)
        except LedposeError as error:
            self._fail(error)
            return
        end = self._steady()
        self.error, self.commands = "", self.commands + 1
        self.longest_command = max(self.longest_command, end - begin)
        self._account(before, begin)
        self._states, self._is_told = target, False
        self._sure_at = end + self._settings.command_delay
        self._stamp_ns = self._clock_ns() + nanoseconds(self._settings.command_delay)
        is_slow = end - begin > self._settings.guard
        if is_slow:
            self.slow_commands += 1
            self._refuse(
                "slow command",
                f"a command took {end - begin:.3f} s, longer than led_guard ({self._settings.guard:g} s), so "
                "nothing is said of the LEDs for a while: speed up the robot, or raise led_guard here and in "
                "the recorder",
            )
        if is_slow or before is None:
            silence = self._settings.max_age + KEEP_ALIVE
            self._sure_at = max(self._sure_at, self._said_at + silence)
            if self._said_ns > 0:
                self._silent_until_ns = self._said_ns + nanoseconds(silence)
            self._stamp_ns = None
        self._free_at = self._sure_at + self._settings.hold
        self._toggle_at = self._sure_at + self._toggles.duration()
        self._lit_since = self._sure_at

    def _wait_for_clock(self, now: float) -> None:
        """Stay silent for longer: simulated time is slow."""
        later = now + KEEP_ALIVE - self._sure_at
        self._sure_at += later
        self._free_at += later
        self._toggle_at += later
        self._lit_since += later

    def _fail(self, error: LedposeError) -> None:
        self._states, self._free_at = None, self._steady() + RETRY_PERIOD
        self.error = str(error)
        self._refuse("failed command", self.error)

    def _tell(self) -> None:
        now = self._steady()
        if self._states is None or now < self._sure_at or self._are_left:
            return
        if self._is_told and now < self._said_at + KEEP_ALIVE:
            return
        if self._said_ns <= self._clock_ns() < self._silent_until_ns:
            self._wait_for_clock(now)
            return
        try:
            self._adapter.check()
        except LedposeError as error:
            self._fail(error)
            return
        stamp_ns = self._stamp_ns if self._stamp_ns is not None else self._clock_ns()
        self._utter(stamp_ns, self._states)
        self._stamp_ns, self._is_told = None, True

    def _utter(self, stamp_ns: int, states: States) -> None:
        self._say(stamp_ns, states)
        self._said_at, self._said_ns = self._steady(), stamp_ns

    def _next_due(self) -> float:
        if self._states is None:
            return self._free_at
        if self._are_left:
            return inf
        due = self._said_at + KEEP_ALIVE if self._is_told else self._sure_at
        if self._target(-inf) != self._states:
            return min(due, self._free_at)
        return min(due, self._toggle_at) if self._mode is Mode.RANDOM else due

    def _account(self, states: States | None, until: float) -> None:
        """Add the state that ends to the shares of time."""
        if states is None or self._mode is not Mode.RANDOM:
            return
        seconds = max(0.0, until - self._lit_since)
        self.random_time += seconds
        for led, state in enumerate(states):
            self.lit_time[led] += seconds * state
