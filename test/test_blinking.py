# SPDX-License-Identifier: Apache-2.0
"""LEDs blink at random, and nothing is said of them that is not so."""

import re
from itertools import pairwise

import numpy as np
import pytest

from ledpose_ros.blinking import KEEP_ALIVE, RETRY_PERIOD, BlinkSettings, LedDriver, Mode, RandomToggles
from ledpose_ros.errors import LedposeError
from ledpose_ros.leds import LedHistory, Rejection, nanoseconds

SETTINGS = BlinkSettings(rate=0.5, hold=0.25, command_delay=0.0, guard=0.05, max_age=0.5)
CLOCK_AHEAD = 1000.0
OFF, ON = (False,) * 4, (True,) * 4


class Robot:
    """Four LEDs that take time to be switched, by a clock that only commands and pauses move on.

    Stamps are `pace` times as fast as it.
    """

    def __init__(
        self, settings: BlinkSettings = SETTINGS, seed: int = 0, command_time: float = 0.01, pace: float = 1.0
    ) -> None:
        self.now = 5.0
        self.pace = pace
        self.command_time = command_time
        self.error = ""
        self.commands: list[tuple[float, float, tuple[bool, ...]]] = []
        self.said: list[tuple[float, tuple[bool, ...], float]] = []
        self.refused: list[str] = []
        self.driver = LedDriver(
            4,
            self,
            settings,
            seed,
            lambda stamp_ns, states: self.said.append(
                (stamp_ns / 1e9 - CLOCK_AHEAD, states, self.now * self.pace)
            ),
            lambda reason, sentence: self.refused.append(reason),
            lambda: nanoseconds(self.now * self.pace + CLOCK_AHEAD),
            lambda: self.now,
        )

    def command(self, states, before):
        begin = self.now
        self.now += self.command_time
        if self.error:
            raise LedposeError(self.error)
        assert sum(a != b for a, b in zip(states, before or states, strict=True)) <= 1 or len({*states}) == 1
        self.commands.append((begin, self.now, tuple(states)))

    def check(self):
        if self.error:
            raise LedposeError(self.error)

    def close(self):
        pass

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + self.driver.step() + 1e-6)

    def labels(self, settings: BlinkSettings = SETTINGS) -> LedHistory:
        history = LedHistory(nanoseconds(settings.guard), nanoseconds(settings.max_age), 10**15)
        for stamp, states, received in self.said:
            history.add(nanoseconds(stamp), np.array(states, np.float32), nanoseconds(received))
        return history


@pytest.mark.parametrize("leds", [1, 3, 4, 6])
def test_states_are_balanced_and_leds_independent(leds):
    toggles = RandomToggles(leds, rate=0.5, hold=0.1, seed=7)
    states, samples, durations = (False,) * leds, [], []
    for _ in range(20_000):
        durations.append(toggles.duration())
        samples.append(states)
        following = toggles.after(states)
        assert sum(a != b for a, b in zip(states, following, strict=True)) == 1
        states = following
    weights, lit = np.array(durations), np.array(samples, float)
    assert weights.min() >= 0.1
    assert weights.sum() / len(weights) == pytest.approx(1 / (leds * 0.5), rel=0.03)
    assert np.average(lit, axis=0, weights=weights) == pytest.approx(np.full(leds, 0.5), abs=0.03)
    correlation = np.atleast_2d(np.cov(lit.T, aweights=weights)) * 4
    assert correlation == pytest.approx(np.eye(leds), abs=0.05)
    shares = np.bincount(lit.astype(int) @ 2 ** np.arange(leds), weights, 2**leds) / weights.sum()
    assert shares == pytest.approx(np.full(2**leds, 0.5**leds), rel=0.25)


def test_a_few_minutes_are_balanced_with_every_seed():
    for seed in range(20):
        robot = Robot(seed=seed)
        robot.run(300.0)
        driver = robot.driver
        assert driver.random_time == pytest.approx(300.0, abs=30.0)
        for lit_time in driver.lit_time:
            assert 0.35 < lit_time / driver.random_time < 0.65
        assert len({states for _, states, _ in robot.said}) == 16


def test_the_same_seed_gives_the_same_states():
    first, second, other = Robot(seed=3), Robot(seed=3), Robot(seed=4)
    for robot in (first, second, other):
        robot.run(20.0)
    assert first.said == second.said != other.said


def test_states_are_said_after_their_command_and_repeated_and_held():
    robot = Robot()
    robot.run(60.0)
    for begin, end, states in robot.commands:
        assert not [stamp for stamp, _, _ in robot.said if begin + 1e-6 < stamp < end - 1e-6]
        stamp, said, _ = next(said for said in robot.said if said[0] > end - 1e-6)
        assert (stamp, said) == (pytest.approx(end, abs=1e-6), states)
    changes = [states for (_, before, _), (_, states, _) in pairwise(robot.said) if states != before]
    assert changes == [states for _, _, states in robot.commands[1:]], "nothing else is said"
    stamps = [stamp for stamp, _, _ in robot.said]
    assert stamps == sorted(stamps) and max(b - a for a, b in pairwise(stamps)) < KEEP_ALIVE + 0.02
    assert all(stamp <= at + 1e-6 for stamp, _, at in robot.said), "nothing is said ahead of its time"
    for (_, end, _), (begin, _, _) in pairwise(robot.commands):
        assert begin - end >= SETTINGS.hold


def true_states(robot: Robot, when: float) -> list[tuple[bool, ...]]:
    """What may have been lit: under way, both the states before and after."""
    before = [states for begin, _, states in robot.commands if begin <= when]
    under_way = any(begin <= when <= end for begin, end, _ in robot.commands)
    return before[-2:] if under_way else before[-1:]


@pytest.mark.parametrize(
    ("command_time", "pace"), [(0.001, 1.0), (0.04, 1.0), (0.3, 1.0), (0.3, 0.3), (0.3, 2.0)]
)
def test_no_label_is_wrong_however_long_commands_take(command_time, pace):
    robot = Robot(command_time=command_time, pace=pace)
    robot.run(120.0)
    history, labelled = robot.labels(), 0
    for when in np.arange(5.0, 120.0, 0.013):
        held = history.lookup(nanoseconds(when * pace))
        if not isinstance(held, Rejection):
            labelled += 1
            assert true_states(robot, when) == [tuple(held.states.astype(bool))]
    assert labelled > 500
    assert bool(robot.driver.slow_commands) == (command_time > SETTINGS.guard) == bool(robot.refused)


def test_a_known_delay_moves_the_stamp():
    robot = Robot(BlinkSettings(0.5, 0.25, 0.08, 0.05, 0.5))
    robot.run(30.0)
    for _, end, states in robot.commands:
        stamp, said, at = next(said for said in robot.said if said[0] > end + 1e-6)
        assert (stamp, said) == (pytest.approx(end + 0.08, abs=1e-5), states)
        assert at > end + 0.08 - 1e-6


def test_nothing_is_claimed_of_a_command_that_failed():
    robot = Robot()
    robot.run(10.0)
    robot.error = "the robot is gone"
    failed_at = robot.now
    robot.run(10.0)
    assert robot.driver.states is None and robot.driver.error == "the robot is gone"
    assert max(stamp for stamp, _, _ in robot.said) <= failed_at + KEEP_ALIVE
    assert 10 / (RETRY_PERIOD + 1) <= len(robot.refused) <= 10 / RETRY_PERIOD + 1, "retried with patience"
    robot.error = ""
    robot.run(10.0)
    stamp, states, _ = next(said for said in robot.said if said[0] > failed_at + KEEP_ALIVE)
    assert states == OFF and stamp - failed_at > SETTINGS.max_age
    assert robot.driver.error == "" and robot.driver.states is not None


def test_a_short_failure_leaves_no_label_either():
    robot = Robot()
    robot.run(10.0)
    robot.error = "lost"
    failed_at = robot.now
    robot.run(0.6)
    robot.error = ""
    robot.run(10.0)
    history = robot.labels()
    for when in np.arange(failed_at + KEEP_ALIVE, failed_at + RETRY_PERIOD, 0.01):
        assert history.lookup(nanoseconds(when)) is Rejection.TOO_OLD


def test_all_on_and_all_off_come_when_the_state_before_has_been_held():
    robot = Robot()
    robot.run(20.0)
    for mode, states in ((Mode.ALL_ON, ON), (Mode.ALL_OFF, OFF)):
        robot.driver.set_mode(mode)
        robot.run(5.0)
        assert robot.driver.states == robot.said[-1][1] == states
    for (_, end, _), (begin, _, _) in pairwise(robot.commands):
        assert begin - end >= SETTINGS.hold


def test_disabled_means_off_and_silent_until_enabled():
    robot = Robot()
    robot.run(10.0)
    while robot.commands[-1][1] < robot.now - 0.01:
        robot.run(0.01)
    robot.driver.set_mode(Mode.DISABLED)
    robot.run(1.0)
    assert any(robot.commands[-2][2]) and robot.commands[-1][0] - robot.commands[-2][1] >= SETTINGS.hold
    count, commands = len(robot.said), len(robot.commands)
    assert robot.said[-1][1] == OFF
    robot.run(10.0)
    robot.driver.finish(sleep=lambda _: None)
    assert (len(robot.said), len(robot.commands)) == (count, commands)
    robot.driver.set_mode(Mode.RANDOM)
    robot.run(0.1)
    assert robot.commands[-1][2] == OFF, "somebody else may have lit them meanwhile"
    robot.run(10.0)
    assert len({states for _, states, _ in robot.said[count:]}) > 4


@pytest.mark.parametrize("mode", [Mode.RANDOM, Mode.ALL_ON])
def test_the_end_is_dark_and_said(mode):
    robot = Robot()
    robot.driver.set_mode(mode)
    robot.run(10.3)
    robot.driver.finish(sleep=lambda seconds: None)
    assert robot.commands[-1][2] == robot.said[-1][1] == OFF
    assert robot.said[-1][0] == pytest.approx(robot.now, abs=0.02)


@pytest.mark.parametrize(
    ("settings", "camera_rate", "words"),
    [
        (
            BlinkSettings(0.5, 0.15, 0.0, 0.05, 0.5),
            10.0,
            "hold is 0.15 s, but a state must be held for 0.2 s",
        ),
        (BlinkSettings(0.5, 0.25, 0.0, 0.05, 0.5), 5.0, "one picture at 5 Hz and twice led_guard"),
        (BlinkSettings(2.0, 0.25, 0.0, 0.05, 0.5), 10.0, "set rate below 1"),
        (BlinkSettings(0.5, 0.25, 0.0, 0.05, 0.15), 10.0, "led_max_age is 0.15 s, but states are repeated"),
    ],
)
def test_times_that_do_not_go_together_are_refused(settings, camera_rate, words):
    with pytest.raises(LedposeError, match=words) as refused:
        settings.check(4, camera_rate)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("camera_rate", [3.0, 4.0, 5.0, 10.0])
def test_the_hold_that_is_asked_for_is_enough(camera_rate):
    with pytest.raises(LedposeError) as refused:
        BlinkSettings(0.5, 0.01, 0.0, 0.05, 0.5).check(4, camera_rate)
    hold = float(re.search(r"held for (\S+) s", str(refused.value))[1])
    BlinkSettings(0.5, hold, 0.0, 0.05, 0.5).check(4, camera_rate)
