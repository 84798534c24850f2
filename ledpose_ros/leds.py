# SPDX-License-Identifier: Apache-2.0
"""LEDs of the peer: which there are, what a message says about them, and which state was held at a stamp.

An LED state is a held value: it is published on every change, stamped with when it took effect, and repeated
at a fixed rate. So an image gets the state *held* at its stamp, never the nearest message: see `LedHistory`.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import pi
from typing import Any

import numpy as np

from ledpose_ros.errors import LedposeError

# Messages of one topic may overtake each other by a little; what goes back further is a clock that was set
# back, as when a recorded bag starts over.
CLOCK_JUMP_NS = 1_000_000_000

DEFAULT_LED_NAMES = ("front", "left", "back", "right")
# alpha_k: direction in the peer's body frame [rad] from which an LED is seen best.
DEFAULT_LED_DIRECTIONS = (0.0, pi / 2, pi, -pi / 2)


def stamp_ns(stamp: Any) -> int:
    """A ROS stamp (builtin_interfaces/Time) in nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def nanoseconds(seconds: float) -> int:
    """Seconds in nanoseconds."""
    return round(seconds * 1e9)


def check_led_names(led_names: Sequence[str]) -> None:
    """Raise `LedposeError` unless there are names, all different."""
    if not led_names or len(set(led_names)) != len(led_names):
        raise LedposeError(f"LED names must be one or more different names, not {list(led_names)}")


def check_leds(led_names: Sequence[str], led_directions: Sequence[float]) -> None:
    """Raise `LedposeError` unless there are different names, each with a finite direction [rad]."""
    check_led_names(led_names)
    if len(led_names) != len(led_directions):
        raise LedposeError(
            f"LED names ({len(led_names)}) and LED directions ({len(led_directions)}) differ in number: "
            "give one direction per LED"
        )
    if not np.isfinite(led_directions).all():
        raise LedposeError(f"LED directions must be finite angles in radians, not {list(led_directions)}")


def led_states_from_message(
    led_names: Sequence[str], names: Sequence[str], positions: Sequence[float]
) -> np.ndarray:
    """Sort the states of a message (`name`, `position` of a JointState) into the order of `led_names`.

    Returns float32 (K,), 0 off .. 1 on. The message must name every LED once and no other.
    """
    if len(names) != len(positions):
        raise LedposeError(f"the LED message has {len(names)} names but {len(positions)} positions")
    if sorted(names) != sorted(led_names):
        raise LedposeError(
            f"the LED message names {sorted(names)}, expected are {sorted(led_names)}, each once: "
            "they must bear the same names where they are told and where they are heard"
        )
    by_name = dict(zip(names, positions, strict=True))
    states = np.array([by_name[name] for name in led_names], np.float32)
    # NaN fails the comparison too.
    if not ((states >= 0) & (states <= 1)).all():
        raise LedposeError(f"the LED message holds {states.tolist()}, outside of 0 (off) to 1 (on)")
    return states


class Rejection(str, Enum):
    """Why no LED state can be told for a stamp; the value is for people."""

    NO_STATE = "no LED state yet"
    TOO_OLD = "LED states too old"
    NEWER = "newer than last LED message"
    NEAR_CHANGE = "within guard of a change"
    DISPUTED = "disputed LED state"
    UNKNOWN = "unknown LED state"


@dataclass(frozen=True, eq=False)
class HeldState:
    """`states` (K,) float32, in effect since `stamp_ns`."""

    states: np.ndarray
    stamp_ns: int


@dataclass(frozen=True, eq=False)
class _Sighting:
    """At `stamp_ns` the LEDs had `states`, unchanged since `since_ns`, heard of at `since_received_ns`.

    With None for states nobody knew any more what they were.
    """

    stamp_ns: int
    states: np.ndarray | None
    since_ns: int
    since_received_ns: int | None


class LedHistory:
    """The LED messages of the last `horizon_ns`, and the state held at any stamp among them.

    A mis-timed label is silent poison for training, so a state is told only where it is certain: at least
    `guard_ns` away from every change, between messages at most `max_age_ns` apart, only once a message has
    come that is `guard_ns` newer than the stamp, so that no change can be on its way still, and not where
    messages came out of order.
    """

    def __init__(self, guard_ns: int, max_age_ns: int, horizon_ns: int = 10_000_000_000) -> None:
        self._guard_ns = guard_ns
        self._max_age_ns = max_age_ns
        self._horizon_ns = horizon_ns
        self._sightings: list[_Sighting] = []
        self._newest_ns = -1
        self._dispute_since_ns: int | None = None
        self._disputes: list[tuple[int, int]] = []

    def __len__(self) -> int:
        """Sightings remembered."""
        return len(self._sightings)

    @property
    def newest_ns(self) -> int:
        """The newest stamp of a message, -1 before the first."""
        return self._newest_ns

    def clear(self) -> None:
        """Forget everything, as after a jump of the clock."""
        self._sightings.clear()
        self._newest_ns = -1
        self._dispute_since_ns = None
        self._disputes.clear()

    def add(self, stamp_ns: int, states: np.ndarray, receive_stamp_ns: int | None = None) -> None:
        """Take in a message.

        A keep-alive may be stamped anew or repeat the stamp of its change. In the latter case it confirms the
        state for as long as has passed since the change was received, less the guard time for delays on the
        way; only differences of `receive_stamp_ns` count, so it may be of another clock than the stamps.
        """
        if stamp_ns < self._newest_ns:
            self._add_late(stamp_ns)
            return
        self._newest_ns = stamp_ns
        since_ns, since_received_ns = stamp_ns, receive_stamp_ns
        newest = self._sightings[-1] if self._sightings else None
        if self._dispute_since_ns is not None:
            self._disputes.append((self._dispute_since_ns, stamp_ns + self._max_age_ns))
            self._dispute_since_ns = newest = None
        is_same = newest is not None and newest.states is not None and np.array_equal(states, newest.states)
        if newest is not None and is_same and stamp_ns >= newest.since_ns:
            since_ns, since_received_ns = newest.since_ns, newest.since_received_ns
            if stamp_ns == since_ns and receive_stamp_ns is not None and since_received_ns is not None:
                confirmed_ns = since_ns + receive_stamp_ns - since_received_ns - self._guard_ns
                stamp_ns = max(confirmed_ns, newest.stamp_ns)
        # What a repetition of an old stamp confirmed, a change may prove wrong.
        del self._sightings[bisect_left(self._sightings, stamp_ns, key=_stamp) :]
        self._sightings.append(_Sighting(stamp_ns, states, since_ns, since_received_ns))
        horizon_ns = stamp_ns - self._horizon_ns
        # The last one before it is held at the horizon.
        del self._sightings[: max(0, bisect_right(self._sightings, horizon_ns, key=_stamp) - 1)]
        self._disputes = [dispute for dispute in self._disputes if dispute[1] >= horizon_ns]

    def interrupt(self, stamp_ns: int) -> None:
        """From this stamp on, until the next message, nobody knows what is lit."""
        if not self._sightings:
            return
        if stamp_ns < self._newest_ns:
            self._add_late(stamp_ns)
            return
        self._newest_ns = stamp_ns
        del self._sightings[bisect_left(self._sightings, stamp_ns, key=_stamp) :]
        self._sightings.append(_Sighting(stamp_ns, None, stamp_ns, None))

    def _add_late(self, stamp_ns: int) -> None:
        """Take note of a message that is older than one before it.

        Either messages overtook each other or the clock was set back a little, some time since the message
        before it: which of them is only known to the sender. So nothing is told from `max_age_ns` before its
        stamp to as much after the first message that is the newest again: old images may be of that time.
        """
        del self._sightings[bisect_left(self._sightings, stamp_ns, key=_stamp) :]
        since_ns = stamp_ns - self._max_age_ns
        if self._dispute_since_ns is not None:
            since_ns = min(since_ns, self._dispute_since_ns)
        self._dispute_since_ns = since_ns

    def lookup(self, stamp_ns: int) -> HeldState | Rejection:
        """The state held at `stamp_ns`; `Rejection.NEWER` may turn into a state when more messages come."""
        if not self._sightings or stamp_ns < self._sightings[0].stamp_ns:
            return Rejection.NO_STATE
        if stamp_ns + self._guard_ns > self._sightings[-1].stamp_ns:
            return Rejection.NEWER
        if self._dispute_since_ns is not None and stamp_ns > self._dispute_since_ns - self._guard_ns:
            return Rejection.DISPUTED
        if any(start - self._guard_ns < stamp_ns < end + self._guard_ns for start, end in self._disputes):
            return Rejection.DISPUTED
        index = bisect_right(self._sightings, stamp_ns, key=_stamp) - 1
        held = self._sightings[index]
        # Who fell silent for so long may have missed to tell of changes, whatever is told after that.
        following = self._sightings[index + 1] if index + 1 < len(self._sightings) else held
        if max(stamp_ns, following.stamp_ns) - held.stamp_ns > self._max_age_ns:
            return Rejection.TOO_OLD
        upcoming = bisect_left(self._sightings, stamp_ns + self._guard_ns, key=_stamp)
        changes_soon = any(later.since_ns > stamp_ns for later in self._sightings[index + 1 : upcoming])
        if held.states is None:
            return Rejection.UNKNOWN
        if stamp_ns - held.since_ns < self._guard_ns or changes_soon:
            return Rejection.NEAR_CHANGE
        return HeldState(held.states, held.since_ns)


def _stamp(sighting: _Sighting) -> int:
    return sighting.stamp_ns
