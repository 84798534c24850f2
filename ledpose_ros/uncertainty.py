# SPDX-License-Identifier: Apache-2.0
"""Whether stated uncertainty can be trusted: errors measured in the standard deviations that were stated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import PeerEstimator
from ledpose_ros.evaluation import Predictions, predict, truth
from ledpose_ros.geometry import wrap_angle
from ledpose_ros.model_metadata import DeviationScale
from ledpose_ros.recording import Recording

COMPONENTS = ("u", "v", "distance", "bearing")
INTERVALS = {68: 1.0, 95: 1.96}
"""Percentage of a normal distribution -> half width of the interval that holds it, in deviations."""
ELLIPSOIDS = {68: 1.87, 95: 2.80}
"""The same in three dimensions: the Mahalanobis distance within which that percentage lies."""
MIN_PICTURES = 100
"""Pictures from which on quantiles say something of other pictures."""


def standardised_errors(said: Predictions, true: Predictions) -> NDArray[np.float64]:
    """Errors (N, 4) of u, v, log2 distance and psi in their stated standard deviations."""
    errors = np.column_stack(
        [said.uv - true.uv, np.log2(said.distance / true.distance), wrap_angle(said.psi - true.psi)]
    )
    assert said.deviation is not None, "a calibrated model states them"
    return np.asarray(errors / said.deviation)


def position_distances(said: Predictions, true: Predictions) -> NDArray[np.float64]:
    """Mahalanobis distances (N,) of the true positions, by the stated covariances."""
    assert said.covariance is not None, "a calibrated model states them"
    errors = (true.position - said.position)[:, :, None]
    return np.asarray(np.sqrt((errors * np.linalg.solve(said.covariance, errors)).sum((1, 2))))


def coverage(said: Predictions, true: Predictions) -> dict[int, NDArray[np.float64]]:
    """Share (5,) [%] of the errors of COMPONENTS within the interval, and of positions within the ellipsoid,
    that should hold 68 % and 95 % of them.
    """
    errors, distances = np.abs(standardised_errors(said, true)), position_distances(said, true)
    return {
        percentage: 100 * np.append((errors <= width).mean(0), (distances <= ELLIPSOIDS[percentage]).mean())
        for percentage, width in INTERVALS.items()
    }


def deviation_scale(standardised: NDArray[np.float64]) -> DeviationScale:
    """Factors for standard deviations that make both intervals hold, as nearly as one factor can."""
    factors = [
        np.percentile(np.abs(standardised), percentage, axis=0) / width
        for percentage, width in INTERVALS.items()
    ]
    u, v, distance, bearing = (float(factor) for factor in np.exp(np.log(factors).mean(0)))
    return u, v, distance, bearing


def fit_deviation_scale(
    estimator: PeerEstimator, recording: Recording, min_confidence: float
) -> DeviationScale:
    """The factors for a calibrated model in place of those it has, from a recording with ground truth.

    Only pictures in which the model finds a peer where the lens shows something count, as only these are
    answered. Raises `LedposeError` if
    these are fewer than MIN_PICTURES.
    """
    calibration = estimator.metadata.calibration
    if calibration is None:
        raise LedposeError(f"{estimator.path} is not calibrated, so its distances cannot be compared")
    true = truth(recording)
    said = predict(estimator, recording, true.index)
    found = (said.confidence >= min_confidence) & np.isfinite(said.position).all(1)
    if found.sum() < MIN_PICTURES:
        raise LedposeError(
            f"the model finds a peer in {found.sum()} pictures of {recording.path}, but {MIN_PICTURES} are "
            "needed to tell how far it errs: give a longer recording"
        )
    factors = deviation_scale(standardised_errors(said.of(found), true.of(found)))
    before = calibration.deviation_scale
    u, v, distance, bearing = (factor * old for factor, old in zip(factors, before, strict=True))
    return u, v, distance, bearing
