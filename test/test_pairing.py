# SPDX-License-Identifier: Apache-2.0
"""Images wait for their LED state, worked by hand; times are milliseconds unless they are named otherwise."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from ledpose_ros.led_sources import LedAssembler, LedRule, LedTopic
from ledpose_ros.leds import LedHistory
from ledpose_ros.pairing import PairedSample, SamplePairer

MS = 1_000_000
POSE = np.array([0.0, 0, 1, 0, 0, 0, 1])


class Bench:
    """A pairer with one LED, fed with times in milliseconds from 100,000 on; images are their own stamps."""

    def __init__(self, offset: int = 0, capacity: float = 30, settling: float = 0.0) -> None:
        self.refused: Counter[str] = Counter()
        self.pairer: SamplePairer[int] = SamplePairer(
            ("led",),
            LedHistory(guard_ns=10 * MS, max_age_ns=500 * MS),
            lambda reason, message: self.refused.update([reason]),
            led_offset_ns=offset * MS,
            settling=settling,
            timeout=1.0,
            capacity=capacity,
        )

    def led(self, time: int, state: float) -> None:
        self.pairer.add_led_message((100_000 + time) * MS, (100_000 + time) * MS, ["led"], [state])

    def image(self, time: int, now_s: float = 0.0) -> None:
        self.pairer.add_image(time, (100_000 + time) * MS, 0, now_s)

    def pose(self, time: int) -> None:
        self.pairer.add_pose((100_000 + time) * MS, POSE)

    def ready(self, now_s: float = 0.0) -> list[PairedSample[int]]:
        return self.pairer.take_ready(now_s)

    def ready_states(self, now_s: float = 0.0) -> list[tuple[int, float]]:
        return [(sample.image, float(sample.led_states[0])) for sample in self.ready(now_s)]


def test_an_image_waits_for_the_led_message_after_it() -> None:
    bench = Bench()
    bench.led(0, 1.0)
    bench.image(50)
    assert bench.ready() == []
    bench.led(100, 0.0)
    assert bench.ready_states() == [(50, 1.0)]
    assert not bench.refused and len(bench.pairer) == 0


def test_a_change_that_is_told_late_still_counts() -> None:
    bench = Bench(settling=0.2)
    bench.led(0, 1.0)
    bench.image(70, now_s=0.1)
    assert bench.ready(now_s=0.4) == []
    bench.led(100, 0.0)
    assert bench.ready(now_s=0.5) == [], "the LED's message of 50 ms may be on its way still"
    bench.led(50, 0.0)
    bench.led(150, 0.0)
    assert bench.ready(now_s=0.6) == []
    assert bench.ready(now_s=0.71) == []
    assert bench.refused == {"LED message out of order": 1, "disputed LED state": 1}


def test_a_clock_set_back_a_little_mislabels_no_image() -> None:
    # OFF until 900, ON from then on, and at 1000 the clock of images and LEDs is set back by 300.
    bench = Bench(settling=0.2)
    for time in range(0, 900, 100):
        bench.led(time, 0.0)
    bench.led(900, 1.0)
    bench.image(950, now_s=0.95)
    bench.led(1000, 1.0)
    bench.image(720, now_s=1.02)
    for time in range(800, 1600, 100):
        assert bench.ready(now_s=(time + 300) / 1000) == []
        bench.led(time, 1.0)
    assert bench.refused == {
        "image before a clock jump": 1,
        "image out of order": 1,
        "LED message out of order": 2,
    }


def test_images_wait_in_order_and_each_rejection_is_counted() -> None:
    bench = Bench()
    for time in (0, 50, 95, 150):
        bench.image(time)
    bench.led(20, 1.0)
    bench.led(100, 0.0)
    assert bench.ready_states() == [(50, 1.0)]
    assert bench.refused == {"no LED state yet": 1}
    bench.led(200, 0.0)
    assert bench.ready_states() == [(150, 0.0)]
    assert bench.refused == {"no LED state yet": 1, "within guard of a change": 1}


def test_the_offset_moves_the_moment_that_counts() -> None:
    bench = Bench(offset=40)
    bench.led(0, 1.0)
    bench.led(100, 0.0)
    bench.led(200, 0.0)
    bench.image(55)
    bench.image(80)
    assert bench.ready_states() == [(80, 0.0)]
    assert bench.refused == {"within guard of a change": 1}


def test_an_image_gives_up_waiting() -> None:
    bench = Bench()
    bench.image(0, now_s=5.0)
    assert bench.ready(now_s=5.9) == [] and not bench.refused
    assert bench.ready(now_s=6.1) == []
    assert bench.refused == {"no LED state yet": 1}
    bench.led(20, 1.0)
    bench.image(30, now_s=7.0)
    assert bench.ready(now_s=8.1) == []
    assert bench.refused["newer than last LED message"] == 1


def test_a_full_queue_gives_up_its_oldest_image() -> None:
    bench = Bench(capacity=2)
    bench.led(0, 1.0)
    for time in (50, 60, 70):
        bench.image(time)
    assert bench.ready() == []
    assert bench.refused == {"newer than last LED message": 1} and len(bench.pairer) == 2
    bench.led(100, 1.0)
    assert bench.ready_states() == [(60, 1.0), (70, 1.0)]


def test_what_nobody_takes_does_not_fill_the_memory() -> None:
    """As where a slow disk has no room for samples that are complete."""
    bench = Bench(capacity=2)
    for time in (50, 60, 70):
        bench.image(time)
    bench.led(0, 1.0)
    bench.led(100, 1.0)
    assert bench.pairer.take_ready(0.0, at_most=0) == []
    assert bench.refused == {"queue full": 1} and len(bench.pairer) == 2
    assert [sample.image for sample in bench.pairer.take_ready(0.0, at_most=1)] == [60]
    assert bench.ready_states() == [(70, 1.0)]


def test_poses_are_paired_by_their_exact_stamp_and_waited_for() -> None:
    bench = Bench()
    bench.pairer.expects_poses = True
    bench.led(0, 1.0)
    bench.led(300, 1.0)
    bench.image(50)
    assert bench.ready() == []
    bench.pose(50)
    (sample,) = bench.ready()
    np.testing.assert_array_equal(sample.pose, POSE)
    # A pose of a later moment tells that there is none for this image.
    bench.image(100)
    bench.pose(101)
    (sample,) = bench.ready()
    assert sample.pose is None


def test_without_ground_truth_nobody_waits_for_it() -> None:
    bench = Bench()
    bench.led(0, 1.0)
    bench.led(100, 1.0)
    bench.image(50)
    assert bench.ready()[0].pose is None


def test_ground_truth_that_stopped_is_waited_for_only_so_long() -> None:
    bench = Bench()
    bench.pairer.expects_poses = True
    bench.led(0, 1.0)
    bench.led(100, 1.0)
    bench.image(50, now_s=0.0)
    assert bench.ready(now_s=0.9) == []
    assert bench.ready(now_s=1.1)[0].pose is None


@pytest.mark.parametrize("topic", ["led", "image"])
def test_a_clock_that_jumps_back_clears_everything(topic: str) -> None:
    bench = Bench()
    bench.led(5000, 1.0)
    bench.image(5050)
    if topic == "led":
        bench.led(0, 0.0)
    else:
        bench.image(50)
        bench.led(0, 0.0)
    assert bench.refused["clock jumped backwards"] == 1
    bench.led(100, 0.0)
    if topic == "led":
        bench.image(50)
    assert bench.ready_states() == [(50, 0.0)]


def test_an_led_message_of_before_a_jump_labels_nothing_after_it() -> None:
    bench = Bench()
    bench.led(5000, 1.0)
    bench.image(5050)
    bench.image(50)
    bench.led(5100, 1.0)
    assert bench.refused["LED message before a clock jump"] == 1
    bench.led(0, 0.0)
    bench.led(100, 0.0)
    assert bench.ready_states() == [(50, 0.0)]


def test_poses_say_nothing_of_the_clocks_of_leds_and_images() -> None:
    """One that goes back, as after a jump of all clocks, which comes after its image."""
    bench = Bench()
    bench.pose(5000)
    for time in (0, 100, 200):
        bench.led(time, 1.0)
    bench.image(50)
    bench.pose(50)
    bench.pairer.add_pose(0, POSE)
    assert bench.ready_states() == [(50, 1.0)]
    assert bench.refused == {"malformed ground truth": 1}


def test_leds_that_a_source_does_not_tell_any_more_are_not_held() -> None:
    bench = Bench()
    topic = LedTopic("effect", "", {"led": LedRule(("lit",))}, "stamp", {"effect": (0,)})
    leds = LedAssembler(("led",), 500 * MS)

    def tell(time: int, effect: int = 0) -> None:
        stamp = SimpleNamespace(sec=100, nanosec=time * MS)
        message = SimpleNamespace(stamp=stamp, effect=effect, lit=0.0)
        bench.pairer.add_told_leds(leds, topic, message, 0)

    tell(0)
    tell(100, effect=3)
    tell(300)
    tell(400)
    for time in (50, 200, 350):
        bench.image(time)
    assert bench.ready_states() == [(50, 0.0), (350, 0.0)]
    assert bench.refused == {"LEDs not told": 1, "unknown LED state": 1}


def test_leds_of_a_source_whose_messages_overtake_each_other_are_disputed() -> None:
    bench = Bench()
    topic = LedTopic("led", "", {"led": LedRule(("lit",))}, "stamp")
    leds = LedAssembler(("led",), 500 * MS)
    for time, lit in ((0, 0.0), (300, 1.0), (100, 1.0), (400, 1.0), (500, 1.0)):
        message = SimpleNamespace(stamp=SimpleNamespace(sec=100, nanosec=time * MS), lit=lit)
        bench.pairer.add_told_leds(leds, topic, message, 0)
    bench.image(200)
    assert bench.ready_states() == []
    assert bench.refused == {"disputed LED state": 1}


def test_messages_that_cannot_be_true_are_counted() -> None:
    bench = Bench()
    bench.pairer.add_led_message(MS, MS, ["other"], [1.0])
    bench.pairer.add_led_message(MS, MS, ["led"], [float("nan")])
    bench.pairer.add_led_message(0, MS, ["led"], [1.0])
    bench.pairer.add_image(1, 0, 0, 0.0)
    bench.pairer.add_pose(MS, POSE * 0)
    bench.led(100, 1.0)
    bench.led(60, 1.0)
    assert bench.refused == {
        "malformed LED message": 2,
        "LED message without stamp": 1,
        "image without stamp": 1,
        "malformed ground truth": 1,
        "LED message out of order": 1,
    }


@pytest.mark.parametrize("seed", range(12))
def test_no_label_is_wrong_whatever_the_clock_and_the_network_do(seed: int) -> None:
    """A clock jumps back and forth while messages of either topic are held up, for up to three seconds."""
    random = np.random.default_rng(seed)
    jumps = {60: -3600, 120: 3600, 180: -1.5, 240: 0.7, 300: -0.3, 360: 20}
    frame_ns = change_ns = keep_alive_ns = 1_700_000_000_000 * MS
    wall, frame, lit, arrivals, shown = 0.0, 0, 0.0, [], {}
    earliest = {"LED": 0.0, "image": 0.0}
    while frame < 420:
        stamp = min(frame_ns, change_ns, keep_alive_ns)
        topic = "image" if stamp not in (change_ns, keep_alive_ns) else "LED"
        if stamp == change_ns:
            lit, change_ns = float(random.integers(0, 2)), change_ns + 190 * MS
        elif stamp == keep_alive_ns:
            keep_alive_ns += 50 * MS
        else:
            frame_ns, wall, frame = frame_ns + 33 * MS, wall + random.uniform(0.02, 0.03), frame + 1
            shown[frame] = lit
            jump = round(1e9 * jumps.get(frame, 0))
            frame_ns, change_ns, keep_alive_ns = frame_ns + jump, change_ns + jump, keep_alive_ns + jump
        held_up = random.uniform(0, 3) if random.random() < 0.01 else random.uniform(0, 0.02)
        earliest[topic] = max(earliest[topic] + 1e-6, wall + held_up)
        arrivals.append((earliest[topic], topic, stamp, lit, frame))
    bench = Bench(settling=0.2, capacity=1000)
    samples = 0
    for now, topic, stamp, state, number in [*sorted(arrivals), (np.inf, "end", 0, 0.0, 0)]:
        if topic == "LED":
            bench.pairer.add_led_message(stamp, stamp, ["led"], [state])
        elif topic == "image":
            bench.pairer.add_image(number, stamp, 0, now)
        for sample in bench.ready(now):
            samples += 1
            assert sample.led_states[0] == shown[sample.image], f"image {sample.image}"
    assert samples > 50
