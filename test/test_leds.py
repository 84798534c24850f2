# SPDX-License-Identifier: Apache-2.0
"""Which LED state belongs to a stamp, worked by hand; times in the tests are milliseconds."""

import numpy as np
import pytest

from ledpose_ros.errors import LedposeError
from ledpose_ros.leds import HeldState, LedHistory, Rejection, check_leds, led_states_from_message

MS = 1_000_000
OFF, ON = np.zeros(1, np.float32), np.ones(1, np.float32)


def history_of(*messages: tuple[int, np.ndarray], guard: int = 10, max_age: int = 500) -> LedHistory:
    history = LedHistory(guard * MS, max_age * MS)
    for stamp, states in messages:
        history.add(stamp * MS, states)
    return history


def held(history: LedHistory, stamp: int) -> tuple[float, int]:
    """State and since when, or fail with the rejection."""
    result = history.lookup(stamp * MS)
    assert isinstance(result, HeldState), result
    return float(result.states[0]), result.stamp_ns // MS


def test_states_come_in_the_order_of_the_led_names() -> None:
    states = led_states_from_message(("front", "left"), ["left", "front"], [0.0, 1.0])
    assert states.dtype == np.float32
    assert states.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("names", "positions", "complaint"),
    [
        (["front"], [1.0], "names"),
        (["front", "front"], [1.0, 0.0], "names"),
        (["front", "left", "back"], [1.0, 0.0, 1.0], "names"),
        (["front", "rear"], [1.0, 0.0], "rear"),
        (["front", "left"], [1.0], "2 names but 1"),
        ([], [], "names"),
        (["front", "left"], [1.0, float("nan")], "nan"),
        (["front", "left"], [1.5, 0.0], "1.5"),
        (["front", "left"], [1.0, -0.1], "0.1"),
    ],
)
def test_malformed_led_messages_are_refused(names: list[str], positions: list[float], complaint: str) -> None:
    with pytest.raises(LedposeError, match=complaint):
        led_states_from_message(("front", "left"), names, positions)


def test_led_names_and_directions_must_match() -> None:
    check_leds(("front", "left"), (0.0, 1.57))
    with pytest.raises(LedposeError, match=r"names \(2\) and LED directions \(1\)"):
        check_leds(("front", "left"), (0.0,))
    with pytest.raises(LedposeError, match="different names"):
        check_leds(("front", "front"), (0.0, 1.0))
    with pytest.raises(LedposeError, match="finite"):
        check_leds(("front",), (float("inf"),))


def test_the_held_state_wins_over_the_nearer_message() -> None:
    history = history_of((0, OFF), (300, ON), (400, ON))
    # 280 is 20 away from the change to ON and 280 away from the message that says OFF.
    assert held(history, 280) == (0.0, 0)
    assert held(history, 320) == (1.0, 300)


def test_a_state_dates_from_its_change_not_from_its_last_repetition() -> None:
    history = history_of((0, OFF), (100, ON), (200, ON), (300, ON))
    assert held(history, 250) == (1.0, 100)


def test_nothing_is_told_close_to_a_change() -> None:
    history = history_of((0, OFF), (100, ON), (200, ON), guard=10)
    assert held(history, 90) == (0.0, 0)
    assert history.lookup(91 * MS) is Rejection.NEAR_CHANGE
    assert history.lookup(100 * MS) is Rejection.NEAR_CHANGE
    assert history.lookup(109 * MS) is Rejection.NEAR_CHANGE
    assert held(history, 110) == (1.0, 100)


def test_a_change_behind_a_keep_alive_is_seen_within_the_guard() -> None:
    history = history_of((0, OFF), (95, OFF), (98, ON), (200, ON), guard=10)
    assert history.lookup(90 * MS) is Rejection.NEAR_CHANGE


def test_a_short_blink_inside_the_guard_is_no_held_state() -> None:
    history = history_of((0, OFF), (100, ON), (103, OFF), (200, OFF), guard=10)
    assert history.lookup(98 * MS) is Rejection.NEAR_CHANGE
    assert history.lookup(112 * MS) is Rejection.NEAR_CHANGE
    assert held(history, 113) == (0.0, 103)


def test_stamps_that_a_change_could_still_precede_must_wait() -> None:
    history = history_of((0, OFF), (100, OFF), guard=10)
    assert held(history, 90) == (0.0, 0)
    assert history.lookup(91 * MS) is Rejection.NEWER
    history.add(110 * MS, OFF)
    assert held(history, 91) == (0.0, 0)


def test_stamps_before_the_first_message_have_no_state() -> None:
    assert LedHistory(0, 500 * MS).lookup(5) is Rejection.NO_STATE
    assert history_of((100, ON), (200, ON)).lookup(99 * MS) is Rejection.NO_STATE


def test_a_state_that_was_not_kept_alive_is_too_old() -> None:
    history = history_of((0, OFF), (500, OFF), (1001, OFF), (1100, OFF), max_age=500)
    assert held(history, 499) == (0.0, 0)
    # Nobody knows whether the LED was on between 500 and 1001.
    for stamp in (500, 501, 1000):
        assert history.lookup(stamp * MS) is Rejection.TOO_OLD
    assert held(history, 1002) == (0.0, 0)


def test_a_repeated_old_stamp_confirms_up_to_its_reception_less_the_guard() -> None:
    history = history_of((0, OFF), guard=10)
    # Received on another clock, 7000 ahead.
    history.add(20 * MS, ON, receive_stamp_ns=7020 * MS)
    assert history.lookup(100 * MS) is Rejection.NEWER
    history.add(20 * MS, ON, receive_stamp_ns=7120 * MS)
    # 100 later, less the guard of the confirmation (10) and that of the lookup (10).
    assert held(history, 100) == (1.0, 20)
    assert history.lookup(101 * MS) is Rejection.NEWER


def test_a_late_change_replaces_what_a_repetition_confirmed_too_early() -> None:
    history = LedHistory(10 * MS, 500 * MS)
    history.add(0, ON, receive_stamp_ns=0)
    history.add(0, ON, receive_stamp_ns=200 * MS)
    assert held(history, 180) == (1.0, 0)
    history.add(150 * MS, OFF)
    history.add(300 * MS, OFF)
    assert held(history, 180) == (0.0, 150)


def test_nothing_is_told_around_messages_out_of_order() -> None:
    # Was the LED on between 100 and 150, or was the clock set back? Both may be.
    history = history_of((0, OFF), (60, OFF), (100, OFF), (150, OFF), guard=10, max_age=50)
    history.add(120 * MS, ON)
    assert held(history, 60) == (0.0, 0)
    assert history.lookup(80 * MS) is Rejection.DISPUTED
    assert history.lookup(115 * MS) is Rejection.NEWER
    history.add(140 * MS, ON)
    assert history.lookup(115 * MS) is Rejection.NEWER, "what is not newest yet settles nothing"
    for stamp in (200, 250, 300):
        history.add(stamp * MS, OFF)
    for stamp in (61, 120, 199, 259):
        assert history.lookup(stamp * MS) is Rejection.DISPUTED
    assert held(history, 60) == (0.0, 0)
    assert held(history, 260) == (0.0, 200)


def test_messages_older_than_the_horizon_are_forgotten() -> None:
    history = LedHistory(0, 10**18, horizon_ns=1000 * MS)
    for stamp in range(0, 3001, 500):
        history.add(stamp * MS, OFF)
    assert history.lookup(1999 * MS) is Rejection.NO_STATE
    assert held(history, 2000) == (0.0, 0)


def test_the_last_change_is_known_however_long_ago() -> None:
    history = LedHistory(0, 60_000 * MS, horizon_ns=10_000 * MS)
    history.add(0, OFF)
    history.add(15_000 * MS, OFF)
    assert held(history, 14_000) == (0.0, 0)


def test_what_nobody_knows_any_more_is_not_told() -> None:
    history = history_of((0, OFF), (100, OFF))
    history.interrupt(200 * MS)
    history.add(300 * MS, OFF)
    history.add(400 * MS, OFF)
    assert held(history, 150) == (0.0, 0)
    assert [history.lookup(stamp * MS) for stamp in (200, 250, 299)] == [Rejection.UNKNOWN] * 3
    assert held(history, 350) == (0.0, 300)
    # Nothing was known before that.
    empty = LedHistory(0, 500 * MS)
    empty.interrupt(0)
    assert len(empty) == 0


def test_clear_forgets_everything() -> None:
    history = history_of((0, OFF), (100, OFF))
    history.clear()
    assert history.lookup(50 * MS) is Rejection.NO_STATE
