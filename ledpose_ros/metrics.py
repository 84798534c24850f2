# SPDX-License-Identifier: Apache-2.0
"""The paper's metrics (Carlotti, Nava, Giusti, CoRL 2025, table 1), one function a metric, numpy only.

Unless said otherwise a metric takes arrays over N images in which the peer is visible, predictions first.
A prediction of NaN (nothing detected) counts as the worst possible answer, never as a missing row.
"""

from __future__ import annotations

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


def led_auc(
    led_probability: ArrayLike, led_states: ArrayLike, psi_true: ArrayLike, led_directions: ArrayLike
) -> float:
    """ROC area [%] of the LED states (N, K), mean over LEDs, an LED counted only where it faces the camera.

    A missing prediction (NaN) counts as undecided, 0.5.
    """
    probability = np.nan_to_num(np.asarray(led_probability, float), nan=0.5)
    states = np.asarray(led_states, float) > 0.5
    angle = wrap_angle(np.asarray(psi_true, float)[:, None] - np.asarray(led_directions, float)[None])
    facing = np.abs(angle) < FACING_LIMIT
    areas = [roc_area(probability[facing[:, k], k], states[facing[:, k], k]) for k in range(states.shape[1])]
    return 100 * float(np.nanmean(areas)) if not np.all(np.isnan(areas)) else float("nan")
