# SPDX-License-Identifier: Apache-2.0
"""The paper's metrics (Carlotti, Nava, Giusti, CoRL 2025, table 1), one function a metric, numpy only.

Below them is what the paper does not measure: whether peers are found at all, and each of several.

Unless said otherwise a metric takes arrays over N images in which the peer is visible, predictions first.
A prediction of NaN (nothing detected) counts as the worst possible answer, never as a missing row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ledpose_ros.geometry import wrap_angle

FACING_LIMIT = np.pi / 2
"""An LED faces the camera when psi is within this angle [rad] of its direction alpha_k."""


@dataclass(frozen=True)
class Metrics:
    """One row of the table; `n` counts the images, the other names and units are the functions' below."""

    E_uv: float
    E_psi: float
    E_d: float
    E_xyz: float
    gamma: float
    auc: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        """The row as a plain dictionary, in the order of the table."""
        return asdict(self)


def _median_of_worst_last(errors: NDArray[np.float64]) -> float:
    return float(np.median(np.where(np.isnan(errors), np.inf, errors)))


def position_errors_px(uv: ArrayLike, uv_true: ArrayLike) -> NDArray[np.float64]:
    """Distance [px] of image positions (N, 2)."""
    return np.linalg.norm(np.asarray(uv, float) - np.asarray(uv_true, float), axis=-1)


def bearing_errors(psi: ArrayLike, psi_true: ArrayLike) -> NDArray[np.float64]:
    """Absolute difference [rad], in [0, pi], of relative bearings (N,)."""
    return np.abs(wrap_angle(np.asarray(psi, float) - np.asarray(psi_true, float)))


def e_uv(uv: ArrayLike, uv_true: ArrayLike) -> float:
    """Median pixel error of the image position."""
    return _median_of_worst_last(position_errors_px(uv, uv_true))


def e_psi(psi: ArrayLike, psi_true: ArrayLike) -> float:
    """Median absolute bearing error [deg]; a bearing that is missing counts as 180."""
    errors = bearing_errors(psi, psi_true)
    return float(np.degrees(np.median(np.where(np.isnan(errors), np.pi, errors))))


def e_d(distance: ArrayLike, distance_true: ArrayLike) -> float:
    """Median relative distance error [%]."""
    true = np.asarray(distance_true, float)
    return 100 * _median_of_worst_last(np.abs(np.asarray(distance, float) - true) / true)


def e_xyz(position: ArrayLike, position_true: ArrayLike) -> float:
    """Median error of the 3-D position (N, 3) [m], in centimetres."""
    errors = np.linalg.norm(np.asarray(position, float) - np.asarray(position_true, float), axis=-1)
    return 100 * _median_of_worst_last(errors)


def gamma(psi: ArrayLike, psi_true: ArrayLike, position: ArrayLike, position_true: ArrayLike) -> float:
    """Share [%] of images with a bearing error under 45 deg and a position error under 1 m."""
    near = np.linalg.norm(np.asarray(position, float) - np.asarray(position_true, float), axis=-1) < 1.0
    aligned = bearing_errors(psi, psi_true) < np.pi / 4
    return 100 * float(np.mean(near & aligned))


def roc_area(score: ArrayLike, positive: ArrayLike) -> float:
    """Area under the ROC curve by ranks (Mann-Whitney U), ties counted half; NaN without both classes."""
    score, positive = np.asarray(score, float), np.asarray(positive, bool)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return float("nan")
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    u = mean_rank[inverse][positive].sum() - n_positive * (n_positive + 1) / 2
    return float(u / (n_positive * n_negative))


def facing_leds(psi: ArrayLike, led_directions: ArrayLike) -> NDArray[np.bool_]:
    """Which LEDs (N, K) face the camera, as far as the bearing (N,) and the directions (K,) [rad] tell it.

    Only the simulator knows more: seen from near, an LED on the far end of a long side faces away earlier.
    """
    angle = wrap_angle(np.asarray(psi, float)[:, None] - np.asarray(led_directions, float)[None])
    return np.abs(angle) < FACING_LIMIT


def led_auc(led_probability: ArrayLike, led_states: ArrayLike, facing: ArrayLike) -> float:
    """ROC area [%] of the LED states (N, K), mean over LEDs, an LED counted only where it is `facing` (N, K).

    A missing prediction (NaN) counts as undecided, 0.5.
    """
    probability = np.nan_to_num(np.asarray(led_probability, float), nan=0.5)
    states, facing = np.asarray(led_states, float) > 0.5, np.asarray(facing, bool)
    areas = [roc_area(probability[facing[:, k], k], states[facing[:, k], k]) for k in range(states.shape[1])]
    return 100 * float(np.nanmean(areas)) if not np.all(np.isnan(areas)) else float("nan")


def presence_auc(confidence: ArrayLike, present: ArrayLike) -> float:
    """ROC area [%] of the best confidence (N,) in telling images with a peer, `present` (N,), from others.

    A missing confidence (NaN) counts as 0: nothing was detected.
    """
    return 100 * roc_area(np.nan_to_num(np.asarray(confidence, float), nan=0.0), present)


def match_detections(uv: ArrayLike, uv_true: ArrayLike, limit: float) -> NDArray[np.int64]:
    """Which peer (P, 2) each detection (M, 2), by falling confidence, has found: index (M,), -1 for none.

    As bop_toolkit's `match_poses`: in the order of confidence, each detection takes the nearest peer within
    `limit` [px] that no other has taken. A peer at NaN cannot be found.
    """
    uv, uv_true = np.asarray(uv, float).reshape(-1, 2), np.asarray(uv_true, float).reshape(-1, 2)
    found = np.full(len(uv), -1)
    if not len(uv_true):
        return found
    errors = np.linalg.norm(uv[:, None] - uv_true[None], axis=2)
    errors[np.isnan(errors)] = np.inf
    for detection, error in enumerate(errors):
        nearest = int(error.argmin())
        if error[nearest] <= limit:
            found[detection] = nearest
            errors[:, nearest] = np.inf
    return found


def recall_and_precision(
    uv: Sequence[ArrayLike], uv_true: Sequence[ArrayLike], visible: Sequence[ArrayLike], limit: float
) -> tuple[float, float]:
    """Recall and precision [%] over images with detections (M, 2) and peers (P, 2), `visible` or not (P,).

    Recall is the share of visible peers that are found, precision the share of detections that have found one
    (see `match_detections`). A peer that is not visible, in the picture but hidden, is what PASCAL VOC calls
    difficult: missing it is no miss, and what finds it is left out. NaN without peers or detections.
    """
    peers = right = wrong = 0
    for detected, true, seen in zip(uv, uv_true, visible, strict=True):
        found = match_detections(detected, true, limit)
        seen = np.asarray(seen, bool)
        peers += int(seen.sum())
        right += int(seen[found[found >= 0]].sum())
        wrong += int((found < 0).sum())
    recall = 100 * right / peers if peers else float("nan")
    precision = 100 * right / (right + wrong) if right + wrong else float("nan")
    return recall, precision
