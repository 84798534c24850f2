# SPDX-License-Identifier: Apache-2.0
"""What robots publish becomes LED states, or is refused with the reason."""

from pathlib import Path
from types import SimpleNamespace as Message

import pytest

from ledpose_ros.errors import LedposeError
from ledpose_ros.led_sources import LedAssembler, LedRule, read_led_sources, value_of

SAMPLES = Path(__file__).parents[1] / "config" / "led_sources"
NAMES = ("front", "left", "back", "right")
RING = ("front", "front_left", "back_left", "back", "back_right", "front_right")
SECOND = 1_000_000_000


def sources(tmp_path, text, names=NAMES):
    path = tmp_path / "sources.yaml"
    path.write_text(text)
    return read_led_sources(path, names)


def stamp(seconds):
    return Message(sec=int(seconds), nanosec=round(seconds % 1 * SECOND))


def test_effects_of_a_robomaster_change_the_leds_that_they_select():
    (topic,) = read_led_sources(SAMPLES / "robomaster.yaml", NAMES)
    leds = LedAssembler(NAMES, 100 * SECOND)
    assert leds.take(topic, Message(mask=1 + 2, effect=1), 1 * SECOND) is None, "left and right are not known"
    assert leds.take(topic, Message(mask=4 + 8, effect=0), 2 * SECOND) == [1, 0, 1, 0]
    assert leds.take(topic, Message(mask=63, effect=1), 3 * SECOND) == [1, 1, 1, 1]
    assert leds.take(topic, Message(mask=2, effect=0), 4 * SECOND) == [0, 1, 1, 1]
    with pytest.raises(LedposeError, match="effect of leds/effect is 3: what is lit when cannot be observed"):
        leds.take(topic, Message(mask=2, effect=3), 5 * SECOND)
    assert leds.take(topic, Message(mask=2, effect=1), 6 * SECOND) is None, "the others may flash still"
    assert leds.take(topic, Message(mask=15, effect=1), 7 * SECOND) == [1, 1, 1, 1]


def test_a_ring_of_coloured_leds_is_on_where_any_colour_is():
    (topic,) = read_led_sources(SAMPLES / "create3.yaml", RING)
    colours = [Message(red=0, green=20, blue=0) for _ in range(6)]
    colours[2].blue, colours[0].red = 255, 21
    message = Message(header=Message(stamp=stamp(12.5)), leds=colours, override_system=True)
    leds = LedAssembler(RING, SECOND)
    assert topic.since_ns(message, 0) == 12.5 * SECOND
    assert leds.take(topic, message, 0) == [1, 0, 0, 0, 1, 0]
    message.override_system = False
    with pytest.raises(LedposeError, match="override_system"):
        leds.take(topic, message, 0)


def test_a_topic_an_led_gives_states_while_all_are_heard_of():
    topics = {topic.name: topic for topic in read_led_sources(SAMPLES / "color_topics.yaml", NAMES)}
    leds = LedAssembler(NAMES, SECOND)
    for number, name in enumerate(NAMES[:3]):
        assert leds.take(topics[f"leds/{name}"], Message(r=0.0, g=0.2 * number, b=0.0), number) is None
    assert leds.take(topics["leds/right"], Message(r=0.1, g=0, b=0), 3) == [0, 1, 1, 0]
    # Silence of a single LED is noticed, and so is a clock that was set back.
    assert leds.take(topics["leds/right"], Message(r=1, g=0, b=0), 2 + SECOND) is None
    assert leds.take(topics["leds/right"], Message(r=1, g=0, b=0), -2 * SECOND) is None


def test_an_led_of_which_a_message_comes_late_is_unknown_until_told_anew(tmp_path):
    (topic,) = sources(tmp_path, "led: {type: std_msgs/msg/Bool, leds: {a: {value: data}}}", ("a",))
    leds = LedAssembler(("a",), SECOND)
    assert leds.take(topic, Message(data=True), 105) == [1.0]
    assert leds.take(topic, Message(data=False), 100) is None
    assert leds.take(topic, Message(data=True), 110) == [1.0]


@pytest.mark.parametrize(("data", "lit"), [(0, [0, 0]), (1, [1, 0]), (6, [0, 1]), (7, [1, 1])])
def test_bits_of_a_number(tmp_path, data, lit):
    (topic,) = sources(
        tmp_path,
        "mask: {type: std_msgs/msg/Int32, leds: {a: {value: data, bit: 1}, b: {value: data, bit: 2}}}",
        ("a", "b"),
    )
    assert LedAssembler(("a", "b"), 1).take(topic, Message(data=data), 5) == lit


def test_a_field_that_is_not_there_is_named():
    message = Message(leds=[Message(red=1)])
    assert value_of(message, "leds[0].red") == 1
    for path in ("leds[1].red", "leds[0].blue", "red", "leds.red"):
        with pytest.raises(LedposeError, match=r"SimpleNamespace has no "):
            value_of(message, path)
    assert LedRule(("leds[0].red",)).state(message) is True


def test_a_field_that_is_no_number_or_stamp_is_named(tmp_path):
    for message, words in (
        (Message(data="on"), "data is no number, but a str"),
        (Message(data=[1]), "a list"),
    ):
        with pytest.raises(LedposeError, match=words):
            LedRule(("data",)).state(message)
    (topic,) = sources(
        tmp_path, "t: {type: std_msgs/msg/Header, stamp: frame_id, leds: {a: {value: data}}}", ("a",)
    )
    with pytest.raises(LedposeError, match="frame_id of the SimpleNamespace is no stamp"):
        topic.since_ns(Message(frame_id="map"), 0)


def test_a_table_of_fields_that_are_no_numbers_is_refused_at_start(tmp_path):
    pytest.importorskip("std_msgs.msg")
    for fields, words in (
        ("leds: {a: {value: frame_id}}", "frame_id is no number"),
        ("leds: {a: {value: stamp.sec}}, stamp: frame_id", "is no stamp"),
    ):
        (topic,) = sources(tmp_path, f"t: {{type: std_msgs/msg/Header, {fields}}}", ("a",))
        with pytest.raises(LedposeError, match=words):
            topic.message_class()


LED = "{type: std_msgs/msg/Bool, leds: {a: {value: data}}}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a", "must map topics"),
        ("{", "cannot be read"),
        ("t: 3", "topic t must be a mapping"),
        ("t: {type: std_msgs/msg/Bool}", "topic t lacks leds"),
        ("t: {type: Bool, leds: {a: {value: data}}}", "must be like std_msgs/msg/Bool, not Bool"),
        ("t: {type: std_msgs/msg/Bool, leds: [a]}", "must map names to rules"),
        (
            "t: {type: std_msgs/msg/Bool, leds: {a: {value: data}}, colour: 1}",
            "unknown key colour: its keys are leds, observable, send, stamp, type",
        ),
        ("t: {type: a/msg/B, leds: {a: {value: data, on: 1, invert: true}}}", "has the unknown key True"),
        (f"t: {LED}\nu: {LED.replace('a:', '1:')}", "needed are \\['a'\\]"),
        ("t: {since: 2026-13-45}", "cannot be read: month must be in 1..12"),
        ("[" * 5000, "cannot be read"),
        ("t: {type: a/msg/B, observable: {x: 1}, leds: {a: {value: d}}}", "lists of values"),
        ("t: {type: a/msg/B, observable: {5: [1]}, leds: {a: {value: d}}}", "must map fields"),
        ("t: {type: a/msg/B, stamp: 5, leds: {a: {value: d}}}", "'stamp' of topic t must be a field"),
        ("t: {type: a/msg/B, leds: {a: {value: 'd x'}}}", "'d x' is no field"),
        ("t: {type: a/msg/B, leds: {a: {value: []}}}", "needs a value"),
        ("t: {type: a/msg/B, leds: {a: {value: d, above: red}}}", "'above' must be a number"),
        ("t: {type: a/msg/B, leds: {a: {value: d, lit: white}}}", "'lit' must be a number"),
        ("t: {type: a/msg/B, send: {'d x': 1}, leds: {a: {value: d}}}", "'send' of topic t must map fields"),
        ("t: {type: a/msg/B, leds: {a: {value: d, where: m}}}", "needs a 'bit' of at least 1"),
        ("t: {type: a/msg/B, leds: {a: {value: d, bit: 0}}}", "needs a 'bit' of at least 1"),
        (f"t: {LED}\nu: {LED}", "tells the LEDs \\['a', 'a'\\], needed are \\['a'\\]"),
        ("t: {type: a/msg/B, leds: {b: {value: d}}}", "needed are \\['a'\\]"),
    ],
)
def test_a_table_that_will_not_do_is_refused_in_one_sentence(tmp_path, text, words):
    with pytest.raises(LedposeError, match=words) as refused:
        sources(tmp_path, text, ("a",))
    assert "\n" not in str(refused.value)


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(LedposeError, match="cannot be read"):
        read_led_sources(tmp_path / "absent.yaml", NAMES)


def test_messages_are_looked_for_where_they_are_installed(tmp_path):
    pytest.importorskip("std_msgs")
    (topic,) = sources(tmp_path, f"t: {LED}", ("a",))
    assert topic.message_class().__name__ == "Bool"
    (topic,) = sources(tmp_path, LED.replace("data", "color.r").join(["t: ", ""]), ("a",))
    with pytest.raises(LedposeError, match=r"the Bool has no color\.r"):
        topic.message_class()
    (topic,) = read_led_sources(SAMPLES / "robomaster.yaml", NAMES)
    with pytest.raises(LedposeError, match="robomaster_msgs/msg/LEDEffect, which is not installed"):
        topic.message_class()
