# SPDX-License-Identifier: Apache-2.0
"""Commands for LEDs are what the recorder would read as the same states."""

import sys
from itertools import pairwise, product
from pathlib import Path
from types import SimpleNamespace as Message

import pytest

from ledpose_ros.errors import LedposeError
from ledpose_ros.led_adapters import (
    GpioLeds,
    PrintedLeds,
    command_messages,
    read_adapter_topics,
    read_pins,
)
from ledpose_ros.led_sources import LedAssembler, read_led_sources, set_value

CONFIG = Path(__file__).parents[1] / "config"
NAMES = ("front", "left", "back", "right")
RING = ("front", "front_left", "back_left", "back", "back_right", "front_right")


def effect():
    """A robomaster_msgs/LEDEffect as it is made, with its defaults."""
    return Message(mask=63, submask=255, effect=1, color=Message(r=0.0, g=0.0, b=0.0, a=0.0), t1=1.0, t2=1.0)


def ring():
    """An irobot_create_msgs/LightringLeds."""
    return Message(
        header=Message(stamp=Message(sec=0, nanosec=0), frame_id=""),
        leds=[Message(red=0, green=0, blue=0) for _ in range(6)],
        override_system=False,
    )


def colour():
    """A std_msgs/ColorRGBA."""
    return Message(r=0.0, g=0.0, b=0.0, a=0.0)


TABLES = {"robomaster": (effect, NAMES), "create3": (ring, RING), "color_topics": (colour, NAMES)}


@pytest.mark.parametrize("name", TABLES)
def test_what_is_commanded_is_what_the_recorder_hears(name):
    make, names = TABLES[name]
    topics = read_led_sources(CONFIG / "led_sources" / f"{name}.yaml", names)
    leds = LedAssembler(names, 10**18)
    before, told = None, None
    for states in product((False, True), repeat=len(names)):
        now = dict(zip(names, states, strict=True))
        for topic in topics:
            for message in command_messages(topic, make, now, before):
                told = leds.take(topic, message, 0)
        before = now
        assert told == [float(state) for state in states]


def test_every_shipped_table_is_tried_out():
    assert {path.stem for path in (CONFIG / "led_sources").glob("*.yaml")} == set(TABLES)
    assert {path.stem for path in (CONFIG / "led_drivers").glob("*.yaml")} == {"gpio"}


def test_a_robomaster_needs_one_message_for_one_led_and_for_all():
    (topic,) = read_led_sources(CONFIG / "led_sources" / "robomaster.yaml", NAMES)

    def commands(states, before):
        return [
            (message.mask, message.effect, message.color.r)
            for message in command_messages(
                topic, effect, dict.fromkeys(NAMES, False) | states, dict.fromkeys(NAMES, False) | before
            )
        ]

    assert commands({"front": True}, {}) == [(2, 1, 1.0)]
    assert commands({"front": True, "left": True}, {"left": True}) == [(2 + 4, 1, 1.0)], "lit ones once more"
    assert commands({"left": True}, {"front": True, "left": True}) == [(1 + 2 + 8, 0, 1.0)]
    assert commands(dict.fromkeys(NAMES, True), {"left": True}) == [(15, 1, 1.0)]
    assert commands({"left": True}, {"left": True}) == []
    dark = command_messages(topic, effect, dict.fromkeys(NAMES, False), None)
    assert [(message.mask, message.effect) for message in dark] == [(15, 0)]


def test_every_topic_of_colours_is_told_anew():
    topics = read_led_sources(CONFIG / "led_sources" / "color_topics.yaml", NAMES)
    now = dict.fromkeys(NAMES, False) | {"back": True}
    written = {topic.name: command_messages(topic, colour, now, now) for topic in topics}
    dark, white = Message(r=0.0, g=0.0, b=0.0, a=1.0), Message(r=1.0, g=1.0, b=1.0, a=1.0)
    assert written == {f"leds/{name}": [white if name == "back" else dark] for name in NAMES}


@pytest.mark.parametrize(("states", "data"), [((0, 0), 0), ((1, 0), 1), ((0, 1), 6), ((1, 1), 7)])
def test_bits_of_a_number(tmp_path, states, data):
    path = tmp_path / "table.yaml"
    path.write_text(
        "m: {type: std_msgs/msg/Int32, leds: {a: {value: data, bit: 1}, b: {value: data, bit: 6}}}"
    )
    (topic,) = read_led_sources(path, ("a", "b"))
    now = dict(zip(("a", "b"), map(bool, states), strict=True))
    (message,) = command_messages(topic, lambda: Message(data=255), now, None)
    assert message.data == data


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("t: {type: std_msgs/msg/Int32, leds: {a: {value: data, above: 5}}}", "switch a on reads otherwise"),
        ("t: {type: std_msgs/msg/Int32, leds: {a: {value: data, dark: 2}}}", "switch a off reads otherwise"),
        ("t: {type: std_msgs/msg/UInt8, leds: {a: {value: data, lit: .inf}}}", "the UInt8 cannot be inf"),
        (
            "t: {type: std_msgs/msg/Bool, send: {colour: 1}, leds: {a: {value: data}}}",
            "the Bool has no colour",
        ),
        ("t: {type: sensor_msgs/msg/Joy, leds: {a: {value: 'buttons[0]'}}}", r"the Joy has no buttons\[0\]"),
        (
            "t: {type: std_msgs/msg/ColorRGBA, observable: {a: [1.0]}, leds: {a: {value: r}}}",
            r"a of t must be one of \[1\.0\], set it with 'send'",
        ),
    ],
)
def test_a_table_that_cannot_be_written_is_refused_at_once(tmp_path, text, words):
    pytest.importorskip("std_msgs")
    pytest.importorskip("sensor_msgs")
    path = tmp_path / "table.yaml"
    path.write_text(text)
    with pytest.raises(LedposeError, match=words) as refused:
        read_adapter_topics(path, ("a",))
    assert "\n" not in str(refused.value)


def test_real_messages_are_written(tmp_path):
    std_msgs = pytest.importorskip("std_msgs.msg")
    topics = read_adapter_topics(CONFIG / "led_sources" / "color_topics.yaml", NAMES)
    now = dict.fromkeys(NAMES, True)
    assert command_messages(topics[0], std_msgs.ColorRGBA, now, None) == [
        std_msgs.ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
    ]
    path = tmp_path / "table.yaml"
    path.write_text("t: {type: absent_msgs/msg/Led, leds: {a: {value: data}}}")
    with pytest.raises(LedposeError, match="absent_msgs/msg/Led, which is not installed"):
        read_adapter_topics(path, ("a",))


def test_fields_keep_their_types():
    message = Message(a=0.5, b=3, c=[True])
    for path, value in (("a", 1), ("b", 2.0), ("c[0]", 0)):
        set_value(message, path, value)
    assert (message.a, message.b, message.c) == (1.0, 2, [False])
    assert type(message.a) is float and type(message.b) is int and message.c[0] is False
    with pytest.raises(LedposeError, match="a of the SimpleNamespace cannot be 'red'"):
        set_value(message, "a", "red")


def test_printed_leds_say_what_would_be_lit():
    lines: list[str] = []
    leds = PrintedLeds(NAMES, lines.append)
    leds.command((True, False, True, False), None)
    leds.command((False,) * 4, (True, False, True, False))
    leds.check()
    leds.close()
    assert lines == ["LEDs on: front, back", "LEDs on: none"]


@pytest.fixture
def mock_pins():
    """gpiozero's own pins without hardware."""
    gpiozero = pytest.importorskip("gpiozero")
    from gpiozero.pins.mock import MockFactory

    before, gpiozero.Device.pin_factory = gpiozero.Device.pin_factory, MockFactory()
    yield gpiozero.Device.pin_factory
    gpiozero.Device.pin_factory.reset()
    gpiozero.Device.pin_factory = before


def test_pins_are_switched_and_let_go(mock_pins):
    table = read_pins(CONFIG / "led_drivers" / "gpio.yaml", NAMES)
    assert table == {"front": {"pin": 17}, "left": {"pin": 27}, "back": {"pin": 22}, "right": {"pin": 23}}
    leds = GpioLeds(NAMES, table | {"left": {"pin": 27, "active_high": False}})
    pins = [mock_pins.pin(f"GPIO{number}") for number in (17, 27, 22, 23)]
    for states, before in pairwise([(True, True, False, False), (False, True, True, False), (False,) * 4]):
        leds.command(states, before)
        assert [bool(pin.state) for pin in pins] == [states[0], not states[1], states[2], states[3]]
    leds.check()
    with pytest.raises(LedposeError, match=r"pins of the LEDs cannot be had: .*in use"):
        GpioLeds(("again",), {"again": {"pin": 17}})
    leds.close()
    GpioLeds(("again",), {"again": {"pin": 17}}).close()


def test_without_gpiozero_the_way_to_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "gpiozero", None)
    with pytest.raises(LedposeError, match="need gpiozero, which is missing: install python3-gpiozero"):
        GpioLeds(("a",), {"a": {"pin": 4}})


def test_pins_that_do_not_exist_are_refused(mock_pins):
    with pytest.raises(LedposeError, match=r"pins of the LEDs cannot be had: .*1000"):
        GpioLeds(("a", "b"), {"a": {"pin": 4}, "b": {"pin": 1000}})
    GpioLeds(("a",), {"a": {"pin": 4}}).close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gpio: 17", "gpio must be a mapping with leds"),
        ("gpio: {leds: [17]}", "must map names to pins"),
        ("gpio: {leds: {a: 17}}", "LED a must be a mapping with pin"),
        ("gpio: {leds: {a: {pin: 17, value: 1}}}", "unknown key"),
        ("gpio: {leds: {b: {pin: 17}}}", r"needed are \['a'\]"),
    ],
)
def test_a_table_of_pins_that_will_not_do_is_refused(tmp_path, text, words):
    path = tmp_path / "table.yaml"
    path.write_text(text)
    with pytest.raises(LedposeError, match=words) as refused:
        read_pins(path, ("a",))
    assert "\n" not in str(refused.value)


def test_a_table_of_topics_has_no_pins():
    assert read_pins(CONFIG / "led_sources" / "robomaster.yaml", NAMES) is None
