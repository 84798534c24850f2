# SPDX-License-Identifier: Apache-2.0
"""LEDs in the messages of robots: a table in YAML says which field of which message is which LED.

The recorder reads LED states from such messages, and `led_adapters` writes them, by the same table.

    leds/effect:                          # topic
      type: robomaster_msgs/msg/LEDEffect
      observable: {effect: [0, 1]}        # others run on the robot: nobody knows when they light what
      send: {color.r: 1.0}                # what a driver sets besides
      leds:
        back: {value: effect, where: mask, bit: 1}
        front: {value: effect, where: mask, bit: 2}

An LED is on where `value` is above `above` (0 unless told otherwise). `value` is a field like `data`,
`color.r` or `leds[2].red`, or a list of them of which the largest counts. With `bit` alone it is that bit of
the value; with `where`, the message tells something about this LED only if the bit is set in that field.
`stamp` names the field with the time from which on the LEDs were so; messages without one count from their
arrival. Of a driver alone are `send`, and `lit` and `dark`: what it writes to `value` (1 and 0).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ledpose_ros.errors import LedposeError, one_line
from ledpose_ros.leds import stamp_ns

_STEP = re.compile(r"\.?([A-Za-z_]\w*)|\[(\d+)\]")
_TOPIC_KEYS = {"type", "stamp", "observable", "send", "leds"}
_LED_KEYS = {"value", "above", "where", "bit", "lit", "dark"}


@dataclass(frozen=True)
class LedRule:
    """How a message tells the state of one LED; see the module's text."""

    fields: tuple[str, ...]
    above: float = 0.0
    where: str | None = None
    bit: int | None = None
    lit: float = 1.0
    dark: float = 0.0

    def state(self, message: Any) -> bool | None:
        """On, off, or None: the message says nothing of this LED."""
        values = [_number(value_of(message, path), path) for path in self.fields]
        if self.where is not None:
            if not int(_number(value_of(message, self.where), self.where)) & (self.bit or 0):
                return None
        elif self.bit is not None:
            return any(int(value) & self.bit for value in values)
        return max(values) > self.above


@dataclass(frozen=True)
class LedTopic:
    """A topic that tells the states of some LEDs."""

    name: str
    type_name: str
    leds: dict[str, LedRule]
    stamp: str | None = None
    observable: dict[str, tuple[float, ...]] = field(default_factory=dict)
    send: dict[str, Any] = field(default_factory=dict)

    def since_ns(self, message: Any, receive_stamp_ns: int) -> int:
        """From which stamp on a message tells what is lit."""
        if self.stamp is None:
            return receive_stamp_ns
        try:
            return stamp_ns(value_of(message, self.stamp))
        except AttributeError as error:
            raise LedposeError(f"{self.stamp} of the {type(message).__name__} is no stamp") from error

    def message_class(self) -> Any:
        """The Python class of the messages, with all fields that are asked for; LedposeError without."""
        package, _, name = self.type_name.partition("/msg/")
        try:
            found = getattr(importlib.import_module(f"{package}.msg"), name)
        except (ImportError, AttributeError) as error:
            raise LedposeError(
                f"the LED topic {self.name} is of type {self.type_name}, which is not installed: "
                "source the workspace that has it"
            ) from error
        empty = found()
        paths = [path for rule in self.leds.values() for path in (*rule.fields, rule.where) if path]
        for path in (*paths, *self.observable, *self.send, *([self.stamp] if self.stamp else [])):
            # An array has no elements yet.
            value = value_of(empty, path.partition("[")[0])
            if path in paths and "[" not in path:
                _number(value, path)
        if self.stamp is not None:
            self.since_ns(empty, 0)
        return found


def value_of(message: Any, path: str) -> Any:
    """The field of a message that a path like `leds[2].red` leads to; LedposeError if there is none."""
    value = message
    try:
        for name, index in _STEP.findall(path):
            value = getattr(value, name) if name else value[int(index)]
    except (AttributeError, IndexError, TypeError) as error:
        raise LedposeError(f"the {type(message).__name__} has no {path}") from error
    return value


def _number(value: Any, path: str) -> float:
    """A field's value as a number; LedposeError if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise LedposeError(f"{path} is no number, but a {type(value).__name__}") from error


def set_value(message: Any, path: str, value: Any) -> None:
    """Set the field that a path leads to, in the type that it has; LedposeError if that cannot be."""
    *_, last = _STEP.finditer(path)
    owner = value_of(message, path[: last.start()])
    name, index = last.groups()
    now = value_of(message, path)
    try:
        value = type(now)(value)
        if name:
            setattr(owner, name, value)
        else:
            owner[int(index)] = value
    # rclpy asserts that values fit.
    except (AssertionError, OverflowError, TypeError, ValueError) as error:
        raise LedposeError(f"{path} of the {type(message).__name__} cannot be {value!r}") from error


def read_table(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; LedposeError if it does not."""
    try:
        table = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    # A date that does not exist is a ValueError.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise LedposeError(f"the LED table {path} cannot be read: {one_line(error)}") from error
    if not isinstance(table, dict):
        raise LedposeError(f"the LED table {path} will not do: it must map topics to what they tell")
    return {str(name): entry for name, entry in table.items()}


def read_led_sources(path: str | Path, led_names: Sequence[str]) -> tuple[LedTopic, ...]:
    """The topics that a YAML file names; LedposeError unless they tell every LED, each once."""
    table = read_table(path)
    try:
        topics = tuple(_topic(name, entry) for name, entry in table.items())
        check_named_leds([led for topic in topics for led in topic.leds], led_names)
    except LedposeError as error:
        raise LedposeError(f"the LED table {path} will not do: {error}") from error
    return topics


def check_named_leds(named: Sequence[str], led_names: Sequence[str]) -> None:
    """Raise `LedposeError` unless a table names every LED once and no other."""
    if sorted(map(str, named)) != sorted(led_names):
        raise LedposeError(f"it tells the LEDs {list(named)}, needed are {list(led_names)}, each once")


def _topic(name: str, entry: Any) -> LedTopic:
    check_keys(f"topic {name}", entry, _TOPIC_KEYS, {"type", "leds"})
    if not re.fullmatch(r"\w+/msg/\w+", str(entry["type"])):
        raise LedposeError(f"the type of topic {name} must be like std_msgs/msg/Bool, not {entry['type']}")
    if not isinstance(entry["leds"], dict):
        raise LedposeError(f"the leds of topic {name} must map names to rules")
    observable = entry.get("observable", {})
    if not isinstance(observable, dict) or not all(
        _is_path(path) and isinstance(values, list) for path, values in observable.items()
    ):
        raise LedposeError(f"'observable' of topic {name} must map fields to lists of values")
    if "stamp" in entry and not _is_path(entry["stamp"]):
        raise LedposeError(f"'stamp' of topic {name} must be a field, like header.stamp")
    send = entry.get("send", {})
    if not isinstance(send, dict) or not all(_is_path(path) for path in send):
        raise LedposeError(f"'send' of topic {name} must map fields, like color.r, to values")
    return LedTopic(
        name,
        entry["type"],
        {str(led): _rule(f"LED {led} of topic {name}", rule) for led, rule in entry["leds"].items()},
        entry.get("stamp"),
        {path: tuple(values) for path, values in observable.items()},
        send,
    )


def _rule(what: str, entry: Any) -> LedRule:
    check_keys(what, entry, _LED_KEYS, {"value"})
    bit, where = entry.get("bit"), entry.get("where")
    if (bit is not None and (not isinstance(bit, int) or bit < 1)) or (where is not None and bit is None):
        raise LedposeError(f"{what} needs a 'bit' of at least 1, like 4 for the third one")
    fields = entry["value"] if isinstance(entry["value"], list) else [entry["value"]]
    if not fields:
        raise LedposeError(f"{what} needs a value, like data")
    for path in (*fields, *([where] if where is not None else [])):
        if not _is_path(path):
            raise LedposeError(f"{what}: {path!r} is no field, like data or leds[2].red")
    numbers = {key: entry.get(key, default) for key, default in (("above", 0), ("lit", 1), ("dark", 0))}
    for key, number in numbers.items():
        if not isinstance(number, int | float):
            raise LedposeError(f"{what}: '{key}' must be a number")
    above, lit, dark = map(float, numbers.values())
    return LedRule(tuple(fields), above, where, bit, lit, dark)


def _is_path(path: Any) -> bool:
    return isinstance(path, str) and path != "" and "".join(m.group() for m in _STEP.finditer(path)) == path


def check_keys(what: str, entry: Any, allowed: set[str], needed: set[str]) -> None:
    """Raise `LedposeError` unless an entry of a table is a mapping with keys that are known and needed."""
    if not isinstance(entry, dict):
        raise LedposeError(f"{what} must be a mapping with {', '.join(sorted(needed))}")
    # To YAML `on` is a truth value, so keys may be of several types.
    unknown, missing = sorted(set(entry) - allowed, key=str), sorted(needed - set(entry))
    if unknown or missing:
        problem = f"has the unknown key {unknown[0]}" if unknown else f"lacks {missing[0]}"
        raise LedposeError(f"{what} {problem}: its keys are {', '.join(sorted(allowed))}")


class LedAssembler:
    """Keeps what single messages tell, and gives the states of all LEDs once every one is known.

    An LED counts as known for `max_age_ns` after it was told, by the stamps of the messages. One of which a
    message comes late is not known until it is told anew.
    """

    def __init__(self, led_names: Sequence[str], max_age_ns: int) -> None:
        self._led_names = tuple(led_names)
        self._max_age_ns = max_age_ns
        self._told: dict[str, tuple[int, bool]] = {}

    def take(self, topic: LedTopic, message: Any, since_ns: int) -> list[float] | None:
        """States of all LEDs from `since_ns` on, that of the message; None while one is not known.

        Raises `LedposeError` for what cannot be observed: the LEDs of the topic are not known from then on.
        """
        for path, values in topic.observable.items():
            value = value_of(message, path)
            if value not in values:
                for led in topic.leds:
                    self._told.pop(led, None)
                raise LedposeError(f"{path} of {topic.name} is {value}: what is lit when cannot be observed")
        states = {led: rule.state(message) for led, rule in topic.leds.items()}
        for led, state in states.items():
            if state is None:
                continue
            if since_ns < self._told.get(led, (since_ns, state))[0]:
                del self._told[led]
            else:
                self._told[led] = since_ns, state
        found = []
        for led in self._led_names:
            told_ns, state = self._told.get(led, (None, False))
            if told_ns is None or abs(since_ns - told_ns) > self._max_age_ns:
                return None
            found.append(float(state))
        return found
