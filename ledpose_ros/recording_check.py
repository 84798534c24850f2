# SPDX-License-Identifier: Apache-2.0
"""Whether recordings will do for training, found out in seconds, before an hour is spent on them.

Balanced, independent, often changing LEDs teach most; a picture with the wrong LED states, or with those of
another moment, unteaches. An error is something with which learning cannot work, a warning something that
makes it slower or worse. Only some pictures are decoded; `ledpose check` decodes all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import check_camera
from ledpose_ros.recording import Recording

TOO_FEW, FEW = 50, 1000
"""Samples below which nothing, and not much, can be learned."""
SMALLEST_SIDE = 64
"""Pixels that a picture must have each way: one cell of the coarsest scale. The estimator needs as many."""
SHORT = 300.0
"""Seconds below which backgrounds and views are hardly varied."""
BALANCE = (0.3, 0.7)
"""Share of the samples in which an LED should be on."""
MIN_ENTROPY_SHARE = 0.85
"""Of the joint entropy that the LEDs' states would have if they were independent."""
LONG_HOLD = 100
"""Samples in a row with the same LED states."""
LONG_GAP = 10.0
"""Seconds without a picture."""

PICTURES = 100
"""Pictures of a recording that are looked at."""
DARK = 64.0
"""Mean grey value below which a picture is dark: lit LEDs are then the brightest things in it."""
MIN_DARK_SHARE = 0.1
WHITE = 250
"""A pixel that is brighter in all colours tells nothing any more."""
MAX_WHITE_SHARE, MAX_GLARING_SHARE = 0.25, 0.25
"""Of the pixels of a picture that does not glare; of the pictures that may glare."""
MAX_REPEATED_SHARE = 0.05
"""Of the pictures that are the same as the next one, byte by byte."""


@dataclass(frozen=True)
class Finding:
    """What is amiss and what to do about it, each half a sentence for the user."""

    severity: Literal["error", "warning"]
    what: str
    advice: str

    @property
    def sentence(self) -> str:
        """Both halves as one sentence, without a full stop."""
        return f"{self.what}: {self.advice}"

    def __str__(self) -> str:
        return f"{self.severity}: {self.sentence}"


def findings(recordings: Sequence[Recording], from_nothing: bool = True) -> list[Finding]:
    """What stands in the way of training on these recordings together, errors first.

    `from_nothing` tells that there is no model to start from: then LEDs have to be discovered first.
    """
    samples = sum(len(recording) for recording in recordings)
    found = [finding for recording in recordings for finding in _file_findings(recording)]
    if samples < TOO_FEW:
        found.append(
            Finding(
                "error",
                f"{samples} samples are too few to learn from, at least {TOO_FEW} are needed",
                "record more, and see in the recorder's status what it refused",
            )
        )
    elif samples < FEW:
        found.append(Finding("warning", f"{samples} samples are few", "record several thousand"))
    if samples:
        # LEDs of different names are not those of one robot; whoever trains on them together refuses them.
        for names in dict.fromkeys(recording.info.led_names for recording in recordings):
            states = [recording.led_states for recording in recordings if recording.info.led_names == names]
            found += _led_findings(names, np.concatenate(states) > 0.5)
        seconds = sum(time_span(recording) for recording in recordings)
        if seconds < SHORT:
            found.append(
                Finding(
                    "warning",
                    f"the samples span {seconds:.0f} s",
                    "drive around for a quarter of an hour or more, through ever new backgrounds and views",
                )
            )
        found += _picture_findings(recordings, from_nothing)
    return sorted(found, key=lambda finding: finding.severity)


def time_span(recording: Recording) -> float:
    """Seconds between the earliest and the latest image stamp; 0 without samples."""
    return float(np.ptp(recording.image_stamps_ns)) / 1e9 if len(recording) else 0.0


def joint_entropy(lit: np.ndarray) -> float:
    """Entropy [bit] of the joint LED states, bool (N, K): K if all are equally frequent."""
    if not len(lit):
        return 0.0
    shares = np.unique(lit, axis=0, return_counts=True)[1] / len(lit)
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def longest_hold(states: np.ndarray) -> int:
    """Samples of the longest run of the same LED states (N, K)."""
    changes = np.flatnonzero(np.any(states[1:] != states[:-1], axis=1)) + 1
    return int(np.diff([0, *changes, len(states)]).max())


def _file_findings(recording: Recording) -> list[Finding]:
    """What is amiss with one recording, whatever is trained on besides."""
    found, name = [], recording.path.name
    if recording.path.suffix == ".part":
        found.append(
            Finding(
                "warning",
                f"the recorder never closed {name}",
                "make a finished recording of it with `ledpose check --repair`",
            )
        )
    if not len(recording):
        return found
    width, height = recording.info.width, recording.info.height
    if min(width, height) < SMALLEST_SIDE:
        found.append(
            Finding(
                "error",
                f"the pictures of {name} are {width}x{height}",
                f"record some of {SMALLEST_SIDE} px or more each way, best of 320x180 to 1280x720",
            )
        )
    info = recording.info
    try:
        check_camera(info.K, info.D, info.distortion_model)
    except LedposeError as error:
        found.append(
            Finding(
                "warning",
                f"{name} tells no camera that can be used ({error})",
                "--level, ground truth and distances will not work: mend camera_info, and record again",
            )
        )
    hold = longest_hold(recording.led_states)
    if hold > LONG_HOLD:
        found.append(
            Finding(
                "warning",
                f"the LEDs stay the same for {hold} samples in a row of {name}",
                "change them a few times a second, and see whether their driver stopped",
            )
        )
    intervals = np.diff(recording.image_stamps_ns) / 1e9
    if len(intervals) and intervals.max() > LONG_GAP:
        found.append(
            Finding(
                "warning",
                f"there are no pictures for {intervals.max():.0f} s in {name}",
                "see in the recorder's status what it refused, and whether camera or LED messages stopped",
            )
        )
    if (intervals < 0).any():
        found.append(
            Finding(
                "warning",
                f"the image stamps of {name} go backwards {(intervals < 0).sum()} times",
                "keep the clock from being set back: LED states around such a jump may be wrong",
            )
        )
    return found


def _led_findings(names: Sequence[str], lit: np.ndarray) -> list[Finding]:
    """What is amiss with LED states, bool (N, K)."""
    found = []
    shares = lit.mean(axis=0)
    for name, share in zip(names, shares, strict=True):
        if share in (0, 1):
            found.append(
                Finding(
                    "error",
                    f"LED {name} is always {'on' if share else 'off'}",
                    "switch it at random, or leave it out of led_names",
                )
            )
        elif not BALANCE[0] <= share <= BALANCE[1]:
            found.append(
                Finding(
                    "warning",
                    f"LED {name} is on in {100 * share:.0f} % of the samples",
                    "switch it on half of the time, or it teaches little",
                )
            )
    varying = np.flatnonzero((shares > 0) & (shares < 1)).tolist()
    agreeing = [
        (names[a], names[b]) for a in varying for b in varying if a < b and (lit[:, a] == lit[:, b]).all()
    ]
    for first, second in agreeing:
        found.append(
            Finding(
                "error",
                f"the LEDs {first} and {second} are always in the same state",
                "switch them independently of each other, or give them as one LED in led_names",
            )
        )
    # Each in an order of its own: few samples of many LEDs hold less than the sum of what each holds.
    independent = joint_entropy(np.random.default_rng(0).permuted(lit, axis=0))
    entropy = joint_entropy(lit)
    if not agreeing and entropy < MIN_ENTROPY_SHARE * independent:
        found.append(
            Finding(
                "warning",
                f"the LED states hold {entropy:.1f} of {independent:.1f} bits",
                "switch the LEDs independently of each other, or they are hard to tell apart",
            )
        )
    return found


@dataclass(frozen=True)
class _Pictures:
    """Shares of a recording's pictures, and what is wrong with those that cannot be read."""

    dark: float
    glaring: float
    repeated: float
    unreadable: tuple[str, ...]


def _look_at(recording: Recording) -> _Pictures:
    """Judge pictures spread over the recording."""
    count = len(recording)
    dark, glaring, repeated, unreadable = [], [], [], []
    for index in np.linspace(0, count - 1, min(count, PICTURES)).astype(int).tolist():
        try:
            rgb = recording.image(index)[::8, ::8]
            if index + 1 < count:
                following = recording.encoded_image(index + 1)
                repeated.append(np.array_equal(recording.encoded_image(index), following))
        except LedposeError as error:
            unreadable.append(str(error))
            continue
        dark.append(rgb.mean() < DARK)
        glaring.append((rgb > WHITE).all(axis=2).mean() > MAX_WHITE_SHARE)

    def share(flags: list) -> float:
        return float(np.mean(flags)) if flags else 0.0

    return _Pictures(share(dark), share(glaring), share(repeated), tuple(unreadable))


def _picture_findings(recordings: Sequence[Recording], from_nothing: bool) -> list[Finding]:
    """What is amiss with the pictures."""
    found = []
    recordings = [recording for recording in recordings if len(recording)]
    looks = [_look_at(recording) for recording in recordings]
    for recording, look in zip(recordings, looks, strict=True):
        if look.unreadable:
            found.append(
                Finding(
                    "error",
                    f"{len(look.unreadable)} of {min(len(recording), PICTURES)} pictures tried cannot be "
                    f"used ({look.unreadable[0]})",
                    "leave them out with `ledpose check --repair`",
                )
            )
        if look.repeated > MAX_REPEATED_SHARE:
            found.append(
                Finding(
                    "error" if look.repeated == 1 else "warning",
                    f"{100 * look.repeated:.0f} % of the pictures of {recording.path.name} are the same as "
                    "the next one",
                    "see whether the camera hangs: such pictures come with LED states of another moment",
                )
            )
    weights = [len(recording) for recording in recordings]
    dark = float(np.average([look.dark for look in looks], weights=weights))
    glaring = float(np.average([look.glaring for look in looks], weights=weights))
    if from_nothing and dark < MIN_DARK_SHARE:
        found.append(
            Finding(
                "warning",
                f"{100 * dark:.0f} % of the pictures are dark, and in bright ones LEDs are hardly discovered",
                "record some with the lights off, or start from a model (`ledpose train --init`)",
            )
        )
    if glaring > MAX_GLARING_SHARE:
        found.append(
            Finding(
                "warning",
                f"in {100 * glaring:.0f} % of the pictures more than {100 * MAX_WHITE_SHARE:.0f} % of the "
                "pixels are white",
                "lower the exposure: a lit LED cannot be told from a white wall",
            )
        )
    return found
