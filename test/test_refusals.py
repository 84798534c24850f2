# SPDX-License-Identifier: Apache-2.0
"""What is refused is counted and told, and every reason of the recorder is explained."""

import re
from pathlib import Path

from ledpose_ros.leds import Rejection
from ledpose_ros.refusals import MAX_LENGTH, RECORDER_REASONS, Refusals, shortened

PACKAGE = Path(__file__).parents[1] / "ledpose_ros"
DOCUMENT = Path(__file__).parents[1] / "docs" / "recorder.md"
ESTIMATOR_DOCUMENT = DOCUMENT.with_name("estimator.md")


def test_each_reason_is_told_at_most_once_a_period() -> None:
    told: list[str] = []
    refusals = Refusals(told.append, period=60.0)
    refusals.count("queue full", "one is dropped")
    refusals.count("queue full", "another is dropped")
    refusals.count("unreadable image", "it is cut off")
    refusals.count("queue full", "a third is dropped")
    assert told == ["one is dropped (1 so far)", "it is cut off (1 so far)"]
    assert refusals.counts == {"queue full": 3, "unreadable image": 1}
    assert list(refusals.sentences.items())[-1] == ("queue full", "a third is dropped")


def test_a_sentence_that_quotes_too_much_is_cut() -> None:
    assert shortened("x" * MAX_LENGTH) == "x" * MAX_LENGTH
    refusals = Refusals()
    refusals.count("unusable image", "x" * 10**6)
    assert len(refusals.sentences["unusable image"]) < 2 * MAX_LENGTH


def test_every_reason_of_the_estimator_is_documented() -> None:
    used = {"unusable image", "internal error"}
    for name in ("estimator.py", "common.py"):
        text = (PACKAGE / "nodes" / name).read_text(encoding="utf-8")
        used |= set(re.findall(r'(?:Refusal|\.count)\(\s*"([^"]+)"', text))
    used |= {"image too old", "image of the future"}
    documented = ESTIMATOR_DOCUMENT.read_text(encoding="utf-8")
    assert [reason for reason in used if f"`{reason}`" not in documented] == []


def test_every_reason_of_the_recorder_is_explained_and_documented() -> None:
    used = {rejection.value for rejection in Rejection}
    for name in (
        "pairing.py",
        "recording_session.py",
        "bag_import.py",
        "nodes/recorder.py",
        "nodes/common.py",
    ):
        text = (PACKAGE / name).read_text(encoding="utf-8")
        used |= set(re.findall(r'(?:_refuse|\.count)\(\s*"([^"]+)"', text))
    assert used == set(RECORDER_REASONS)
    documented = DOCUMENT.read_text(encoding="utf-8")
    for name, reason in RECORDER_REASONS.items():
        assert f"| `{name}` | {reason.meaning} | {reason.advice} |" in documented
