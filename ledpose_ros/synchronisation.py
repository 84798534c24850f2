# SPDX-License-Identifier: Apache-2.0
"""Which time offset between LED states and images a trained model likes best.

The recorder gives an image the LED state held at `image stamp + led_offset`. A model that tells LED states
from the picture alone is a witness of the right offset: there its classification loss is lowest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ledpose_ros.calibration import MIN_CONFIDENCE
from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import PeerEstimator
from ledpose_ros.images import rgb_from_message
from ledpose_ros.leds import LedHistory, Rejection, led_states_from_message, stamp_ns
from ledpose_ros.recording import Recording

if TYPE_CHECKING:
    from ledpose_ros.bags import Bag

Array = NDArray[np.float64]

MAX_IMAGES = 400
"""More are not looked at: these give an offset to a few milliseconds."""

MIN_IMAGES = 30
"""Fewer with a peer, or with a known LED state, tell no offset."""

MAX_OFFSET = 10.0
"""Largest offset [s] that the recorder's `led_offset` allows."""

STEP = 0.005
"""Distance [s] of the offsets that are tried."""

FIT = 0.02
"""Offsets whose loss is within this share of the drop from the best one fit as well."""

RIVAL = 0.2
"""A second minimum within this share of the drop leaves open which of them is right."""

MIN_SHARPNESS = 5.0
"""The best of several hundred offsets lies a few standard errors below the level by chance alone."""

PROBABILITY_LIMIT = 0.01
"""Probabilities are clipped to this and 1 minus this, so that no single picture outweighs the others."""

RESAMPLINGS = 200

MAX_AGE_NS = 500_000_000
"""An LED state is trusted for so long after it was last heard of."""

ALWAYS_NS = 10**18


@dataclass(frozen=True, eq=False)
class Observations:
    """What the model saw: N images with a peer, out of `looked_at`, and K LEDs.

    `stamps_ns` (N,) of the images, `led_probability` (N, K) that each LED is on; `recorded_states` (N, K) are
    those of a recording, None for a bag. `history` tells the LED state held at any stamp.
    """

    stamps_ns: NDArray[np.int64]
    led_probability: Array
    recorded_states: Array | None
    history: LedHistory
    looked_at: int


@dataclass(frozen=True, eq=False)
class Synchronisation:
    """The best `led_offset` [s] and how well it is known.

    `standard_error` [s] is from resampling the images. `fits_from` to `fits_to` [s] fit as well: where no
    image lies near a change of the LEDs, none can tell. `losses` (M,) is the mean cross-entropy per LED [nat]
    at `offsets` (M,) [s], NaN where too few LED states are known; it is `loss` at its minimum,
    `unrelated_loss` for states that have nothing to do with the images, `recorded_loss` for the states that a
    recording holds. `sharpness` is the drop between the first two in its standard errors.
    """

    led_offset: float
    standard_error: float
    fits_from: float
    fits_to: float
    loss: float
    unrelated_loss: float
    recorded_loss: float | None
    sharpness: float
    images: int
    offsets: Array
    losses: Array

    @property
    def recording_fits(self) -> bool | None:
        """Whether the states that a recording holds fit its images as well as any; None for a bag."""
        if self.recorded_loss is None:
            return None
        return self.recorded_loss - self.loss <= FIT * (self.unrelated_loss - self.loss)


# --- sources ------------------------------------------------------------------------------------------------


def observe_recording(estimator: PeerEstimator, recording: Recording) -> Observations:
    """Look at images spread over a recording; its samples tell which LED states there were, and when.

    Between the last sample of a state and the next change that is on record the state counts as held, for
    MAX_AGE_NS at most: a state that no image was taken of is not known. Raises `LedposeError` for other LEDs.
    """
    known, recorded = estimator.metadata.led_names, recording.info.led_names
    if sorted(known) != sorted(recorded):
        raise LedposeError(
            f"the model knows the LEDs {', '.join(known)}, {recording.path} has {', '.join(recorded)}: "
            "take a model of these LEDs"
        )
    states = recording.led_states[:, [recorded.index(name) for name in known]]
    picks = np.unique(np.linspace(0, len(recording) - 1, min(MAX_IMAGES, len(recording))).astype(int))
    stamps, seen = recording.image_stamps_ns[picks], []
    for pick in tqdm(picks, desc="Looking", unit="image", leave=False, disable=None):
        seen.append(_best_peer(estimator, recording.image(int(pick))))
    history = _history_of_samples(states, recording.led_stamps_ns, recording.image_stamps_ns)
    return _observations(stamps, seen, history, np.asarray(states[picks], float))


def observe_bag(
    estimator: PeerEstimator, bag: Bag, image_topic: str | None = None, led_topic: str | None = None
) -> Observations:
    """Look at images spread over a bag, and read all its LED messages.

    A topic may be left out where only one has a fitting type. Raises `LedposeError` for topics that are not
    there, and for messages that cannot be used.
    """
    from ledpose_ros.bags import IMAGE_TYPES, LED_TYPES

    image_topic = bag.choose_topic(IMAGE_TYPES, image_topic, "--image-topic")
    led_topic = bag.choose_topic(LED_TYPES, led_topic, "--led-topic")
    history = LedHistory(guard_ns=0, max_age_ns=MAX_AGE_NS, horizon_ns=ALWAYS_NS)
    stamps, seen, index = [], [], 0
    total = bag.count(image_topic)
    every = math.ceil(total / MAX_IMAGES)
    progress = tqdm(total=total, desc="Looking", unit="image", leave=False, disable=None)
    for entry in bag.messages(image_topic, led_topic):
        if entry.topic == led_topic:
            message = entry.decode()
            states = led_states_from_message(estimator.metadata.led_names, message.name, message.position)
            history.add(stamp_ns(message.header.stamp), states, entry.receive_stamp_ns)
            continue
        if index % every == 0:
            message = entry.decode()
            stamps.append(stamp_ns(message.header.stamp))
            seen.append(_best_peer(estimator, rgb_from_message(message)))
        index += 1
        progress.update()
    progress.close()
    return _observations(np.array(stamps, np.int64), seen, history, None)


def _best_peer(estimator: PeerEstimator, rgb: NDArray[np.uint8]) -> Array | None:
    """On-probabilities (K,) of the most likely peer, None if there is hardly one."""
    detections = estimator.detect(rgb)
    if detections.confidence[0] < MIN_CONFIDENCE:
        return None
    return np.asarray(detections.led_probability[0], float)


def _observations(
    stamps_ns: NDArray[np.int64],
    seen: Sequence[Array | None],
    history: LedHistory,
    recorded_states: Array | None,
) -> Observations:
    chosen = [index for index, probability in enumerate(seen) if probability is not None]
    if len(chosen) < MIN_IMAGES:
        raise LedposeError(
            f"the model sees a peer in {len(chosen)} of {len(seen)} images, needed are {MIN_IMAGES}: "
            "take more images of the peer, or a model that knows it"
        )
    return Observations(
        stamps_ns[chosen],
        np.array([probability for probability in seen if probability is not None]),
        None if recorded_states is None else recorded_states[chosen],
        history,
        len(seen),
    )


def _history_of_samples(
    states: NDArray[np.float32], led_stamps_ns: Iterable[int], image_stamps_ns: Iterable[int]
) -> LedHistory:
    """The LED messages that a recording's samples tell of: each change, and that it lasted till the image."""
    history = LedHistory(guard_ns=0, max_age_ns=MAX_AGE_NS, horizon_ns=ALWAYS_NS)
    stamps, images = [int(stamp) for stamp in led_stamps_ns], [int(stamp) for stamp in image_stamps_ns]
    # By so much at least the recorder's led_offset put images later: no state begins after its image.
    offset_ns = max((led - image for led, image in zip(stamps, images, strict=True)), default=0)
    changes = [*(stamp for stamp, _ in groupby(stamps)), math.inf]
    changed_ns, last_ns, place = None, 0, 0
    for state, led_stamp, image_stamp in zip(states, stamps, images, strict=True):
        place += led_stamp != changed_ns
        first_ns = last_ns if led_stamp == changed_ns else led_stamp
        changed_ns = led_stamp
        last_ns = max(first_ns, int(min(image_stamp + offset_ns, changes[place] - 1)))
        # Nobody asks for what was long before, which a strange stamp could make very long.
        first_ns = max(first_ns, last_ns - 2 * round(1e9 * MAX_OFFSET))
        for heard_ns in [*range(first_ns, last_ns, MAX_AGE_NS), last_ns]:
            history.add(heard_ns, state)
    return history


# --- the offset ---------------------------------------------------------------------------------------------


def synchronise(observations: Observations, max_offset: float = 1.0) -> Synchronisation:
    """The offset in [-max_offset, max_offset] [s] at which the held LED states fit the images best.

    Raises `LedposeError`, instead of naming an offset that means nothing, when the LEDs never change, too few
    of their states are known, no offset fits better than states that have nothing to do with the images, the
    best one lies at the edge of the range, or another one fits alike.
    """
    if not STEP <= max_offset <= MAX_OFFSET:
        raise LedposeError(
            f"the range is {max_offset:g} s, but must be between {STEP:g} and {MAX_OFFSET:g} s"
        )
    reach = round(max_offset / STEP)
    offsets: Array = STEP * np.arange(-reach, reach + 1, dtype=np.float64)
    states = _held_states(observations, offsets)
    unrelated, excess = _excess_losses(observations.led_probability, states)
    images, level = len(excess), float(unrelated.mean())
    losses = level + _column_means(excess, np.ones((1, images)))[0]
    best = int(np.nanargmin(losses))
    drop = level - float(losses[best])
    gains = -excess[~np.isnan(excess[:, best]), best]
    sharpness = float(gains.mean() / (gains.std(ddof=1) / np.sqrt(len(gains)) + 1e-12))
    if sharpness < MIN_SHARPNESS:
        raise LedposeError(
            f"no offset within {max_offset:g} s fits: the lowest loss is {losses[best]:.3f}, unrelated "
            f"states give {level:.3f}, a drop of {sharpness:.1f} standard errors where {MIN_SHARPNESS:g} are "
            "needed; widen --range, take more images, or a model that knows these LEDs"
        )
    fits_from, fits_to = _valley(offsets, losses, losses[best] + FIT * drop)
    if np.isnan(fits_from + fits_to):
        # What could be tried in one piece with the best: LED states are not known at any offset.
        unknown = np.flatnonzero(np.isnan(losses))
        first = int(unknown[unknown < best].max(initial=-1)) + 1
        last = int(unknown[unknown > best].min(initial=len(losses))) - 1
        is_end_of_range = (np.isnan(fits_from) and first == 0) or (
            np.isnan(fits_to) and last == len(losses) - 1
        )
        advice = "widen --range" if is_end_of_range else "repeat the LED states (keep-alive)"
        raise LedposeError(
            f"the best offset, {offsets[best]:.3f} s, lies at the edge of what could be tried, "
            f"{offsets[first]:.3f} to {offsets[last]:.3f} s: {advice}, or take images and LED states more "
            "often"
        )
    _refuse_rivals(offsets, losses, best, drop)
    recorded_loss = None
    if observations.recorded_states is not None:
        recorded = cross_entropy(observations.led_probability, observations.recorded_states) - unrelated
        recorded_loss = float(losses[best] + np.nanmean(recorded - excess[:, best]))
    return Synchronisation(
        led_offset=(fits_from + fits_to) / 2,
        standard_error=_standard_error(offsets, excess, level),
        fits_from=fits_from,
        fits_to=fits_to,
        loss=float(losses[best]),
        unrelated_loss=level,
        recorded_loss=recorded_loss,
        sharpness=sharpness,
        images=images,
        offsets=offsets,
        losses=losses,
    )


def _excess_losses(probability: Array, states: Array) -> tuple[Array, Array]:
    """Losses (N,) of the images with unrelated states, and how much more (N, M) they have at each offset.

    Where the states (N, M, K) are not known the excess is NaN, and at offsets where that is so for too many
    images it is for all. Averaging the excess, not the loss, keeps hard images that drop out at some offsets
    from making these look good.
    """
    known = ~np.isnan(states[..., 0])
    needed = max(MIN_IMAGES, math.ceil(len(states) / 2))
    enough = known.sum(axis=0) >= needed
    if not enough.any():
        raise LedposeError(
            f"LED states are known for at most {known.sum(axis=0).max()} of {len(states)} images of a peer, "
            f"needed are {needed}: have images and LEDs stamped by the same clock, repeat the LED states "
            "(keep-alive), or widen --range"
        )
    on_share = np.nanmean(states, axis=(0, 1))
    if not ((on_share > 0) & (on_share < 1)).any():
        raise LedposeError("no LED ever changes, so every offset fits alike: switch the LEDs at random")
    unrelated = cross_entropy(probability, on_share)
    excess = cross_entropy(probability[:, None], states) - unrelated[:, None]
    excess[:, ~enough] = np.nan
    return unrelated, excess


def _standard_error(offsets: Array, excess: Array, level: float) -> float:
    """Standard deviation [s] of the offset over sets of images drawn from the images (bootstrap)."""
    even = np.full(len(excess), 1 / len(excess))
    draws = np.random.default_rng(0).multinomial(len(excess), even, RESAMPLINGS)
    middles = []
    for curve in level + _column_means(excess, draws.astype(np.float64)):
        lowest = float(np.nanmin(curve))
        middles.append(np.mean(_valley(offsets, curve, lowest + FIT * (level - lowest))))
    return float(np.nanstd(middles, ddof=1))


def cross_entropy(led_probability: Array, states: Array) -> Array:
    """Binary cross-entropy [nat] of states (..., K) in 0..1, mean over the K LEDs -> (...); NaN stays NaN.

    The method's weights Lambda_k would spare LEDs that face away. That found no better offsets in trials:
    such LEDs add the same loss to all of them.
    """
    probability = np.clip(led_probability, PROBABILITY_LIMIT, 1 - PROBABILITY_LIMIT)
    return -(states * np.log(probability) + (1 - states) * np.log(1 - probability)).mean(axis=-1)


def _held_states(observations: Observations, offsets: Array) -> Array:
    """LED states (N, M, K) held at each image's stamp plus each offset, NaN where they are not known."""
    images, leds = observations.led_probability.shape
    states = np.full((images, len(offsets), leds), np.nan)
    shifts_ns = np.round(offsets * 1e9).astype(np.int64)
    for image, stamp in enumerate(observations.stamps_ns):
        for column, shift in enumerate(shifts_ns):
            held = observations.history.lookup(int(stamp + shift))
            if not isinstance(held, Rejection):
                states[image, column] = held.states
    return states


def _column_means(values: Array, weights: Array) -> Array:
    """Means (R, M) over the rows of `values` (N, M), NaN left out, for R sets of `weights` (R, N)."""
    totals = weights @ ~np.isnan(values)
    return np.divide(
        weights @ np.nan_to_num(values), totals, out=np.full(totals.shape, np.nan), where=totals > 0
    )


def _valley(offsets: Array, losses: Array, level: float) -> tuple[float, float]:
    """From where to where around its minimum the curve stays below a level, interpolated between offsets.

    NaN for an end that lies beyond what was tried.
    """
    best = int(np.nanargmin(losses))

    def end(step: int) -> float:
        index = best
        while 0 <= index + step < len(losses) and losses[index + step] <= level:
            index += step
        beyond = index + step
        if not 0 <= beyond < len(losses):
            return math.nan
        share = (level - losses[index]) / (losses[beyond] - losses[index])
        return float(offsets[index] + share * (offsets[beyond] - offsets[index]))

    return end(-1), end(+1)


def _refuse_rivals(offsets: Array, losses: Array, best: int, drop: float) -> None:
    """Raise `LedposeError` when a second valley is about as deep, as with LEDs that repeat a pattern."""
    left, right = _valley(offsets, losses, losses[best] + drop / 2)
    others = np.where((offsets < left) | (offsets > right), losses, np.inf)
    rival = int(np.nanargmin(others))
    if others[rival] < losses[best] + RIVAL * drop:
        raise LedposeError(
            f"the offsets {offsets[best]:.3f} s (loss {losses[best]:.3f}) and {offsets[rival]:.3f} s "
            f"({losses[rival]:.3f}) fit alike: switch the LEDs at random, not in a pattern that repeats"
        )
