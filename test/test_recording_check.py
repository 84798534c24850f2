# SPDX-License-Identifier: Apache-2.0
"""What is found amiss with recordings, and that nothing is found amiss with a good one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from ledpose_ros import recording_check
from ledpose_ros.images import encode_image
from ledpose_ros.recording import Recording, RecordingInfo, RecordingWriter
from ledpose_ros.recording_check import Finding, findings, joint_entropy, longest_hold

INFO = RecordingInfo(
    led_names=("front", "left"),
    led_directions=(0.0, np.pi / 2),
    camera_frame="camera",
    K=np.array([[50.0, 0, 48], [0, 51.0, 32], [0, 0, 1]]),
    D=np.zeros(0),
    distortion_model="",
    width=96,
    height=64,
    image_encoding="png",
)


def balanced(count: int) -> np.ndarray:
    """Independent random states (count, 2)."""
    return np.random.default_rng(0).integers(0, 2, (count, 2)).astype(np.float32)


def noise(index: int, grey: int = 30) -> np.ndarray:
    """A picture that is like no other, about as bright as `grey`."""
    return np.random.default_rng(index).integers(grey - 20, grey + 20, (64, 96, 3), np.uint8)


def write(
    path: Path,
    states: np.ndarray,
    picture: Callable[[int], np.ndarray] = noise,
    seconds: float = 0.5,
    info: RecordingInfo = INFO,
) -> Path:
    """A recording with these states and pictures, one every so many seconds."""
    with RecordingWriter(path, info) as writer:
        for index, state in enumerate(states):
            stamp = round((1 + seconds * index) * 1e9)
            writer.append(encode_image(picture(index), "png"), stamp, stamp, state, stamp)
    return path


def found_in(*paths: Path, from_nothing: bool = True) -> list[Finding]:
    recordings = [Recording(path) for path in paths]
    found = findings(recordings, from_nothing)
    for recording in recordings:
        recording.close()
    return found


def finding(found: list[Finding], words: str) -> Finding:
    """The one finding that says this."""
    (one,) = [finding for finding in found if words in finding.what]
    return one


def test_nothing_is_amiss_with_a_good_recording(tmp_path: Path) -> None:
    assert found_in(write(tmp_path / "a.h5", balanced(1000))) == []


def test_a_camera_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.h5", balanced(1000)), "r+") as file:
        file.attrs["distortion_model"], file.attrs["D"] = "fisheye", np.full(4, 0.1)
    (one,) = found_in(tmp_path / "a.h5")
    assert one.severity == "warning" and "the distortion model 'fisheye' is unknown" in one.what


def test_recordings_are_judged_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bright one beside a dark one, an LED that only changes in one of them, and few samples in each."""
    monkeypatch.setattr(recording_check, "FEW", 200)
    monkeypatch.setattr(recording_check, "SHORT", 50.0)
    states = balanced(60)
    states[:, 0] = 1
    bright = write(tmp_path / "bright.h5", states, lambda index: noise(index, 130))
    dark = write(tmp_path / "dark.h5", balanced(140))
    alone = found_in(bright)
    assert finding(alone, "LED front is always on").severity == "error"
    assert {"60 samples are few", "the samples span 30 s"} < {one.what for one in alone}
    assert finding(alone, "0 % of the pictures are dark").severity == "warning"
    assert found_in(bright, dark) == []


def test_who_starts_from_a_model_needs_no_dark_pictures(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", balanced(60), lambda index: noise(index, 130))
    finding(found_in(path), "pictures are dark")
    assert not any("dark" in one.what for one in found_in(path, from_nothing=False))


@pytest.mark.parametrize(
    ("states", "severity", "words"),
    [
        (balanced(49), "error", "49 samples are too few"),
        (balanced(0), "error", "0 samples are too few"),
        (balanced(60) * (0, 1), "error", "LED front is always off"),
        (balanced(60)[:, [0, 0]], "error", "LEDs front and left are always in the same state"),
        (np.repeat([[1, 0], [0, 1]], 40, 0), "warning", "hold 1.0 of 2.0 bits"),
        (np.repeat([[1, 0], [1, 1], [0, 1]], (40, 40, 20), 0), "warning", "LED front is on in 80 %"),
        (
            np.repeat([[1, 0], [0, 1]], (101, 60), 0),
            "warning",
            "stay the same for 101 samples in a row of a.h5",
        ),
    ],
)
def test_led_states(tmp_path: Path, states: np.ndarray, severity: str, words: str) -> None:
    assert finding(found_in(write(tmp_path / "a.h5", states)), words).severity == severity


@pytest.mark.parametrize(("leds", "samples"), [(6, 60), (12, 1000)])
def test_few_samples_of_many_leds_are_not_taken_for_dependent(
    tmp_path: Path, leds: int, samples: int
) -> None:
    info = replace(INFO, led_names=tuple("abcdefghijkl"[:leds]), led_directions=(0.0,) * leds)
    independent = np.random.default_rng(1).integers(0, 2, (samples, leds))
    found = found_in(write(tmp_path / "a.h5", independent, info=info))
    assert not any("bits" in one.what for one in found)
    running_light = np.eye(leds)[np.random.default_rng(1).integers(0, leds, samples)]
    finding(found_in(write(tmp_path / "b.h5", running_light, info=info)), "bits")


@pytest.mark.parametrize(
    ("picture", "severity", "words"),
    [
        (lambda index: noise(0), "error", "100 % of the pictures of a.h5 are the same as the next"),
        (lambda index: noise(index // 2), "warning", "pictures of a.h5 are the same as the next"),
        (
            lambda index: noise(index) | np.uint8(255 * (index % 2)),
            "warning",
            "in 50 % of the pictures more than",
        ),
    ],
)
def test_pictures(tmp_path: Path, picture: Callable[[int], np.ndarray], severity: str, words: str) -> None:
    assert finding(found_in(write(tmp_path / "a.h5", balanced(60), picture)), words).severity == severity


def test_pictures_that_cannot_be_used(tmp_path: Path) -> None:
    """One of another size than the recording says is no better than one that cannot be decoded."""
    path = write(
        tmp_path / "a.h5", balanced(60), lambda index: noise(index)[:60] if index == 7 else noise(index)
    )
    error = finding(found_in(path), "1 of 60 pictures tried cannot be used")
    assert error.severity == "error" and "image 7" in error.what and "96x60" in error.what


def test_pictures_too_small_to_learn_from(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.h5", balanced(1000), info=replace(INFO, width=96, height=63))
    error = found_in(path)[0]
    assert error.severity == "error" and error.what == "the pictures of tiny.h5 are 96x63"


def test_stamps(tmp_path: Path) -> None:
    gap = write(tmp_path / "gap.h5", balanced(60), seconds=20.0)
    assert finding(found_in(gap), "no pictures for 20 s in gap.h5").severity == "warning"
    back = write(tmp_path / "back.h5", balanced(60), seconds=-0.001)
    finding(found_in(back), "the image stamps of back.h5 go backwards 59 times")


def test_leds_of_other_names_are_not_mixed_up(tmp_path: Path) -> None:
    ours = write(tmp_path / "a.h5", balanced(60))
    other = replace(INFO, led_names=("top",), led_directions=(0.0,))
    theirs = write(tmp_path / "b.h5", np.ones((60, 1)), info=other)
    assert finding(found_in(ours, theirs), "LED top is always on")


def test_errors_come_first(tmp_path: Path) -> None:
    severities = [one.severity for one in found_in(write(tmp_path / "a.h5", np.ones((20, 2))))]
    assert severities == sorted(severities) and {*severities} == {"error", "warning"}


def test_joint_entropy_is_the_textbook_one() -> None:
    assert joint_entropy(np.array([[True], [False], [False], [False]])) == pytest.approx(0.8113, abs=1e-4)
    assert joint_entropy(np.ones((5, 3), bool)) == 0
    # Two LEDs that always agree hold one bit, not two.
    assert joint_entropy(np.array([[True, True], [False, False]])) == 1


def test_longest_hold_counts_samples() -> None:
    assert longest_hold(np.array([[0, 0], [0, 1], [0, 1], [0, 1], [1, 1]])) == 3
    assert longest_hold(np.ones((4, 2))) == 4
