# SPDX-License-Identifier: Apache-2.0
"""Has a training run left its plateaus, and does the model answer differently to different pictures?

Without pose labels no error tells when learning fails. These are the quiet failures that we know: a loss that
stays at guessing, answers that are the same for every picture, and LEDs that are not told apart although each
is predicted well ("something is lit" predicts every LED).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ledpose_ros.recording_check import Finding

Array = NDArray[np.float64]

LOCATION_PLATEAU, LED_PLATEAU = 0.98, 0.96
"""Losses above this share of guessing have not left their plateau. The location loss never falls far: most of
its pictures are enlarged, shrunk or too bright for the coarse network."""
AVERAGED = 10
"""Points of a curve that are averaged: single steps are noisy."""
MIN_POSITION_SPREAD = 0.03
"""Interquartile range of image positions, as a share of the picture's side."""
MAX_BEARING_LENGTH, MAX_AXIS_LENGTH = 0.9, 0.6
"""Length of the mean of unit bearing vectors, and of those of twice the bearing: 0 for bearings all around, 1
for a single one, and for two opposite ones."""
MIN_SIZE_SPREAD = 0.1
"""Interquartile range of log2 scales [octaves]."""
MIN_CONFIDENCE_SPREAD = 0.1
"""Between the 5th and the 95th percentile of the confidences."""
SURE, MANY_PLACES = 0.9, 3
"""A model may be sure everywhere where it looks, but not of so many places in each picture."""
MIN_ON_FLOOR = 0.8
"""Share of the peers that lie below the horizon of level cameras: all should, some may be found elsewhere."""
MIN_LED_DEVIATION = 0.05
"""Standard deviation of an LED's on-probability."""
MAX_CONFUSION, MIN_FACING = 0.3, 20
"""How much more what is said of an LED may depend on another one than their states do; and the fewest answers
in which it must face the camera for that."""

RECORD_MORE = "record more pictures, with the peer at many distances and from all sides, and train for longer"


@dataclass(frozen=True)
class Curve:
    """A logged quantity: `values` (T,) at `steps` (T,), T at least 1."""

    steps: NDArray[np.int64]
    values: Array

    def smooth(self) -> Array:
        """Moving average (T,), of fewer points towards both ends."""
        window = np.ones(min(AVERAGED, len(self.values)))
        return np.convolve(self.values, window, "same") / np.convolve(
            np.ones(len(self.values)), window, "same"
        )


@dataclass(frozen=True)
class Answers:
    """What a model says of N pictures, of the first peak in each, and the true states of K LEDs.

    `confidence` is of all places that it looked at.
    """

    uv: Array  # (N, 2) shares of the picture's width and height
    log2_scale: Array  # (N,) [octaves]
    psi: Array  # (N,) [rad]
    confidence: Array  # (any,)
    led_probability: Array  # (N, K)
    led_states: Array  # (N, K)
    facing: NDArray[np.bool_]  # (N, K) by the bearing that is said
    on_floor: NDArray[np.bool_] | None = None  # (N,) below the horizon; None if cameras are not level


def guessing(led_states: NDArray[np.floating]) -> Array:
    """bce_k (K,) of who knows of each LED only for which share of the states (N, K) it is on."""
    share = led_states.mean(0, dtype=float).clip(1e-6, 1 - 1e-6)
    return -share * np.log(share) - (1 - share) * np.log(1 - share)


def plateaus(led_states: Array) -> dict[str, float]:
    """What losses, by their names in the log, amount to for who guesses."""
    each = guessing(led_states)
    return {"location": each.sum(), "auxiliary": each.mean(), "leds/fine": each.mean()}


def correlations(columns: Array) -> Array:
    """Correlation (K, K) between columns (N, K); 0 with one that hardly varies."""
    centred = columns - columns.mean(0)
    deviation = centred.std(0)
    deviation[deviation < 1e-3] = np.inf
    scaled = centred / deviation
    return scaled.T @ scaled / len(columns)


def dependence(answers: Answers) -> Array:
    """How much what is said of LED k, where that faces the camera, depends on the state of LED l, (K, K).

    A correlation: near 1 for k = l, and for others that of the states, 0 if they are independent; 0 also for
    an LED that hardly ever faces the camera. What is said of one that faces away is a guess, and no harm.
    """
    leds = answers.led_states.shape[1]
    found = np.zeros((leds, leds))
    for led in range(leds):
        seen = answers.facing[:, led]
        if seen.sum() >= MIN_FACING:
            said = np.column_stack([answers.led_probability[seen, led], answers.led_states[seen]])
            found[led] = correlations(said)[0, 1:]
    return found


def verdicts(curves: Mapping[str, Curve], answers: Answers, led_names: Sequence[str]) -> list[Finding]:
    """What went wrong in a training run, nothing if all is well."""
    found = [*_plateau_verdicts(curves, plateaus(answers.led_states)), *_collapse_verdicts(answers)]
    found += [*_floor_verdicts(answers), *_led_verdicts(answers, led_names)]
    return found


def _plateau_verdicts(curves: Mapping[str, Curve], guessing: Mapping[str, float]) -> list[Finding]:
    """Losses that are still where guessing is."""
    found = []
    if "location" in curves:
        # Its level depends on the phase, so what counts is whether it ever was clearly below.
        lowest = float(curves["location"].smooth().min())
        if lowest > LOCATION_PLATEAU * guessing["location"]:
            found.append(
                Finding(
                    "warning",
                    f"the location loss never fell below {lowest:.2f}, where guessing gives "
                    f"{guessing['location']:.2f}, so no place in the pictures explains the LED states",
                    "train on more dark pictures, for more steps, or start from a model (`--init`)",
                )
            )
    if "leds/fine" in curves:
        last = float(curves["leds/fine"].values[-AVERAGED:].mean())
        if last > LED_PLATEAU * guessing["leds/fine"]:
            found.append(
                Finding(
                    "warning",
                    f"the LED loss of the fine network ended at {last:.2f}, where guessing gives "
                    f"{guessing['leds/fine']:.2f}, so it does not know LED states",
                    "train for more steps, and where the windows below miss the robot, on more dark and near "
                    "pictures first",
                )
            )
    return found


def _collapse_verdicts(answers: Answers) -> list[Finding]:
    """Answers that do not depend on the picture."""
    found = []
    low, high = np.percentile(answers.uv, (25, 75), axis=0)
    if (high - low < MIN_POSITION_SPREAD).all():
        u, v = np.median(answers.uv, axis=0)
        found.append(
            Finding(
                "warning",
                f"the peer is found at the same place in most pictures, {100 * u:.0f} % from the left and "
                f"{100 * v:.0f} % from the top",
                "unless it really stood still, look for a light or a mark there, and let both robots drive",
            )
        )
    mean, axis = np.exp(1j * answers.psi).mean(), np.exp(2j * answers.psi).mean()
    if abs(mean) > MAX_BEARING_LENGTH:
        found.append(
            Finding(
                "warning",
                f"all bearings are alike, about {math.degrees(np.angle(mean)):.0f} degrees",
                f"unless the peer never turned, {RECORD_MORE}",
            )
        )
    elif abs(axis) > MAX_AXIS_LENGTH:
        side = math.degrees(np.angle(axis) / 2) % 180
        found.append(
            Finding(
                "warning",
                f"the bearings crowd around {side - 180:.0f} and {side:.0f} degrees",
                f"unless the peer only showed these sides, {RECORD_MORE}",
            )
        )
    low, high = np.percentile(answers.log2_scale, (25, 75))
    if high - low < MIN_SIZE_SPREAD:
        found.append(
            Finding(
                "warning",
                f"all peers are said to be of one size, within {high - low:.2f} octaves",
                f"unless the distance never changed, {RECORD_MORE}",
            )
        )
    low, high = np.percentile(answers.confidence, (5, 95))
    knows = low > SURE and len(answers.confidence) < MANY_PLACES * len(answers.uv)
    if high - low < MIN_CONFIDENCE_SPREAD and not knows:
        found.append(
            Finding(
                "warning",
                f"the confidence is {(low + high) / 2:.2f} everywhere, with a peer and without",
                "train for more steps: the model does not know yet what a peer looks like",
            )
        )
    return found


def _floor_verdicts(answers: Answers) -> list[Finding]:
    """Peers that cannot stand on the floor from which their sizes were to follow."""
    if answers.on_floor is None or answers.on_floor.mean() >= MIN_ON_FLOOR:
        return []
    return [
        Finding(
            "warning",
            f"{100 * (1 - answers.on_floor.mean()):.0f} % of the peers are found above the horizon, where "
            "with --level none can be",
            "train without --level unless cameras look level, higher than the LEDs, and K is right",
        )
    ]


def _led_verdicts(answers: Answers, led_names: Sequence[str]) -> list[Finding]:
    """LEDs that are not told, or not told apart."""
    found = []
    constant = answers.led_probability.std(0) < MIN_LED_DEVIATION
    if constant.any():
        names = ", ".join(name for name, same in zip(led_names, constant, strict=True) if same)
        found.append(
            Finding(
                "warning",
                f"the same is said of LED {names} in every picture",
                "train for more steps, and see on the robot that the LED shines brightly and can be seen",
            )
        )
    depends = dependence(answers)
    confused = depends - correlations(answers.led_states) > MAX_CONFUSION
    np.fill_diagonal(confused, False)
    pairs = [
        f"that of {led_names[a]} on {led_names[b]} ({depends[a, b]:.2f})" for a, b in np.argwhere(confused)
    ]
    if pairs:
        found.append(
            Finding(
                "warning",
                f"LEDs are not told apart, what is said depends on others: {', '.join(pairs)}; it is seen "
                "that something is lit, not what",
                "train for longer, with more near pictures of these sides, for without it bearings are wrong",
            )
        )
    return found
