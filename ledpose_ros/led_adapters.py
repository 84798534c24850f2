# SPDX-License-Identifier: Apache-2.0
"""How LED states become commands of the robot: messages, pins or lines of text.

Messages are made by the tables of `led_sources`, read the other way round; the node publishes them. Pins are
named by a table like this one:

    gpio:
      leds:
        front: {pin: 17}
        left: {pin: 27, active_high: false}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from ledpose_ros.errors import LedposeError
from ledpose_ros.led_sources import (
    LedTopic,
    check_keys,
    check_named_leds,
    read_led_sources,
    read_table,
    set_value,
    value_of,
)

GPIO = "gpio"


class LedAdapter(Protocol):
    """A way to switch LEDs; states are in the order of the LEDs' names."""

    def command(self, states: Sequence[bool], before: Sequence[bool] | None) -> None:
        """Switch the LEDs, which had the states `before` (None: not known).

        Returns when they are switched, as far as that can be seen; raises `LedposeError` if they are not.
        """

    def check(self) -> None:
        """Raise `LedposeError` if the LEDs may no longer be as commanded."""

    def close(self) -> None:
        """Let go of the LEDs."""


class PrintedLeds:
    """No LEDs: states are told in words, for trying things out."""

    def __init__(self, led_names: Sequence[str], tell: Callable[[str], object]) -> None:
        self._led_names = tuple(led_names)
        self._tell = tell

    def command(self, states: Sequence[bool], before: Sequence[bool] | None) -> None:
        lit = [name for name, state in zip(self._led_names, states, strict=True) if state]
        self._tell(f"LEDs on: {', '.join(lit) or 'none'}")

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


class GpioLeds:
    """LEDs at pins of a Raspberry Pi or the like, through gpiozero; `pins` are arguments of its `LED`."""

    def __init__(self, led_names: Sequence[str], pins: Mapping[str, Mapping[str, Any]]) -> None:
        try:
            from gpiozero import LED, GPIOZeroError
        except ImportError as error:
            raise LedposeError(
                "LEDs at pins need gpiozero, which is missing: install python3-gpiozero, or pip's gpiozero"
            ) from error
        self._error = GPIOZeroError
        with ExitStack() as stack:
            try:
                self._leds = [stack.enter_context(LED(**pins[name])) for name in led_names]
            except (GPIOZeroError, OSError, TypeError, ValueError) as error:
                raise LedposeError(f"the pins of the LEDs cannot be had: {error}") from error
            self._stack = stack.pop_all()

    def command(self, states: Sequence[bool], before: Sequence[bool] | None) -> None:
        try:
            for led, state in zip(self._leds, states, strict=True):
                led.value = state
        except (self._error, OSError) as error:
            raise LedposeError(f"a pin cannot be switched: {error}") from error

    def check(self) -> None:
        pass

    def close(self) -> None:
        self._stack.close()


def read_pins(path: str | Path, led_names: Sequence[str]) -> dict[str, dict[str, Any]] | None:
    """The pin of each LED, as arguments of gpiozero's `LED`; None if the file is of topics."""
    table = read_table(path)
    if set(table) != {GPIO}:
        return None
    try:
        check_keys(GPIO, table[GPIO], {"leds"}, {"leds"})
        leds = table[GPIO]["leds"]
        if not isinstance(leds, dict):
            raise LedposeError(f"the leds of {GPIO} must map names to pins, like {{pin: 17}}")
        check_named_leds(list(leds), led_names)
        for name, entry in leds.items():
            check_keys(f"LED {name}", entry, {"pin", "active_high"}, {"pin"})
    except LedposeError as error:
        raise LedposeError(f"the LED table {path} will not do: {error}") from error
    return leds


def read_adapter_topics(path: str | Path, led_names: Sequence[str]) -> tuple[LedTopic, ...]:
    """The topics of a table, each tried out: what is written for every state reads as that state."""
    topics = read_led_sources(path, led_names)
    for topic in topics:
        make = topic.message_class()
        for is_on in (True, False):
            states = dict.fromkeys(topic.leds, is_on)
            for message in command_messages(topic, make, states, None):
                for name, rule in topic.leds.items():
                    if rule.state(message) is not is_on:
                        raise LedposeError(
                            f"the LED table {path} will not do: what it writes to switch {name} "
                            f"{'on' if is_on else 'off'} reads otherwise, see 'lit', 'dark' and 'above'"
                        )
                for field, values in topic.observable.items():
                    if value_of(message, field) not in values:
                        raise LedposeError(
                            f"the LED table {path} will not do: {field} of {topic.name} must be one of "
                            f"{list(values)}, set it with 'send'"
                        )
    return topics


def command_messages(
    topic: LedTopic,
    make: Callable[[], Any],
    states: Mapping[str, bool],
    before: Mapping[str, bool] | None,
) -> list[Any]:
    """The messages that give the LEDs of a topic their states.

    One message tells all LEDs of the topic, also those that stay as they are: what got lost is made up for.
    Where a message selects LEDs by bits (`where`), one tells all that are to be on and one all that are to be
    off, each only if one of its LEDs changes: a single one where LEDs only go on, or only go off.
    """
    if all(rule.where is None for rule in topic.leds.values()):
        return [_message(topic, make(), states, list(topic.leds))]
    changed = {states[name] for name in topic.leds if before is None or states[name] != before[name]}
    return [
        _message(topic, make(), states, [name for name in topic.leds if states[name] is is_on])
        for is_on in sorted(changed)
    ]


def _message(topic: LedTopic, message: Any, states: Mapping[str, bool], leds: Sequence[str]) -> Any:
    for path, value in topic.send.items():
        set_value(message, path, value)
    bits: dict[str, int] = {}
    for name, rule in topic.leds.items():
        fields = rule.fields if rule.where is None else (rule.where,)
        is_set = name in leds and (states[name] or rule.where is not None)
        for path in fields if rule.bit is not None else ():
            bits[path] = bits.get(path, 0) | (rule.bit or 0) * is_set
        if name in leds and (rule.bit is None or rule.where is not None):
            for path in rule.fields:
                set_value(message, path, rule.lit if states[name] else rule.dark)
    for path, value in bits.items():
        set_value(message, path, value)
    return message
