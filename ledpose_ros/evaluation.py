# SPDX-License-Identifier: Apache-2.0
"""A model scored on a recording with ground truth, beside the mean predictor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ledpose_ros import metrics
from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import (
    Detections,
    PeerEstimator,
    covariances,
    reference_points,
    standard_deviations,
)
from ledpose_ros.geometry import pixel_rays, project, relative_bearing
from ledpose_ros.metrics import Metrics
from ledpose_ros.model_metadata import Calibration
from ledpose_ros.recording import GroundTruth, Recording, RecordingInfo

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

ON_RAY = 0.9998
"""Cosine of the angle, a degree, within which a robot is where the ray of its pixel goes."""


@dataclass(frozen=True)
class Predictions:
    """What was said, or is true, of N images; distance and position are NaN without a calibration."""

    index: NDArray[np.int64]  # (N,) sample in the recording
    uv: Array  # (N, 2) [px]
    psi: Array  # (N,) [rad]
    distance: Array  # (N,) range [m]
    position: Array  # (N, 3) optical frame [m]
    led_probability: Array  # (N, K); of the truth: the states
    confidence: Array  # (N,) 0..1; of the truth: 1
    deviation: Array | None = None  # (N, 4) stated deviation of u, v [px], log2 distance, psi; if stated
    covariance: Array | None = None  # (N, 3, 3) of the position, as published; if stated

    def of(self, rows: NDArray[np.bool_]) -> Predictions:
        """Those of the chosen rows, bool (N,)."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen: dict[str, Any] = {
            name: None if value is None else value[rows] for name, value in values.items()
        }
        return Predictions(**chosen)


def truth(recording: Recording) -> Predictions:
    """Ground truth of the images in which the peer is visible: its reference point lies in the picture.

    Motion capture knows of robots behind the camera, too.
    """
    ground_truth: GroundTruth | None = recording.ground_truth()
    if ground_truth is None:
        raise LedposeError(f"{recording.path} has no ground truth to compare with")
    info, index = recording.info, np.flatnonzero(ground_truth.valid)
    camera = info.K, info.D, info.distortion_model
    uv = project(ground_truth.pose[index, :3], *camera)
    is_visible = ((uv >= -0.5) & (uv <= np.array([info.width, info.height]) - 0.5)).all(1)
    index, uv = index[is_visible], uv[is_visible]
    # Distortion that was not fitted so far out folds robots beside the picture back into it.
    position = ground_truth.pose[index, :3]
    along_ray = (pixel_rays(uv, *camera) * position).sum(1)
    is_visible = along_ray > ON_RAY * np.linalg.norm(position, axis=1)
    index, uv = index[is_visible], uv[is_visible]
    if not len(index):
        raise LedposeError(f"{recording.path} has no image in which the peer is visible")
    pose = ground_truth.pose[index]
    position = pose[:, :3]
    return Predictions(
        index,
        uv,
        relative_bearing(pose),
        np.linalg.norm(position, axis=1),
        position,
        np.asarray(recording.led_states, float)[index],
        np.ones(len(index)),
    )


def predict(
    estimator: PeerEstimator,
    recording: Recording,
    index: NDArray[np.int64],
    change: Callable[[Image], Image] | None = None,
) -> Predictions:
    """The model's best peer in each of these images, after `change` (RGB to RGB) has been applied to them."""
    info = recording.info
    if tuple(estimator.metadata.led_names) != tuple(info.led_names):
        raise LedposeError(
            f"the model knows the LEDs {', '.join(estimator.metadata.led_names)}, {recording.path} has "
            f"{', '.join(info.led_names)}: evaluate with a recording of the same LEDs"
        )
    samples = tqdm(index, desc="Evaluating", unit="image", leave=False)
    images = (recording.image(int(sample)) for sample in samples)
    seen = (estimator.detect(image if change is None else change(image)) for image in images)
    return best_peers(seen, estimator.metadata.calibration, info, index)


def best_peers(
    seen: Iterable[Detections],
    calibration: Calibration | None,
    info: RecordingInfo,
    index: NDArray[np.int64],
) -> Predictions:
    """The most confident peer of each of the images `index`, in which the model has `seen` this."""
    seen = list(seen)
    best = [
        (one.uv[0], one.log2_scale[0], one.bearing[0], one.led_probability[0], one.confidence[0])
        for one in seen
    ]
    uv, log2_scale, bearing, led_probability, confidence = (
        np.asarray(column, float) for column in zip(*best, strict=True)
    )
    psi = np.arctan2(bearing[:, 1], bearing[:, 0])
    position, distance = np.full((len(index), 3), np.nan), np.full(len(index), np.nan)
    deviation = covariance = None
    if calibration is not None:
        camera = info.K, info.D, info.distortion_model
        position = reference_points(uv, log2_scale, psi, calibration, *camera, info.width)
        distance = np.linalg.norm(position, axis=1)
        uv = project(position, *camera)
        deviation = np.array([standard_deviations(one, calibration)[0] for one in seen])
        covariance = np.array(
            [
                covariances(one, np.full(len(one.uv), of_best), calibration, *camera)[0, :3, :3]
                for one, of_best in zip(seen, distance, strict=True)
            ]
        )
    return Predictions(index, uv, psi, distance, position, led_probability, confidence, deviation, covariance)


def mean_predictor(true: Predictions) -> Predictions:
    """The paper's mean predictor: it says the mean of the truth for every image, whatever is in it."""
    count = len(true.index)
    return Predictions(
        true.index,
        np.tile(true.uv.mean(0), (count, 1)),
        np.full(count, np.arctan2(np.sin(true.psi).mean(), np.cos(true.psi).mean())),
        np.full(count, true.distance.mean()),
        np.tile(true.position.mean(0), (count, 1)),
        np.full_like(true.led_probability, 0.5),
        np.full(count, 0.5),
    )


def score(said: Predictions, true: Predictions, facing: NDArray[np.bool_]) -> Metrics:
    """One row of the table; `facing` (N, K) are the LEDs that count.

    Without a calibration the metric columns are NaN: not guessed.
    """
    metric = bool(np.isfinite(said.distance).any())
    nan = float("nan")
    return Metrics(
        E_uv=metrics.e_uv(said.uv, true.uv),
        E_psi=metrics.e_psi(said.psi, true.psi),
        E_d=metrics.e_d(said.distance, true.distance) if metric else nan,
        E_xyz=metrics.e_xyz(said.position, true.position) if metric else nan,
        gamma=metrics.gamma(said.psi, true.psi, said.position, true.position) if metric else nan,
        auc=metrics.led_auc(said.led_probability, true.led_probability, facing),
        n=len(true.index),
    )


@dataclass(frozen=True)
class Evaluation:
    """A model's and the mean predictor's answers and scores on one recording.

    `presence` is the ROC area [%] of the model's confidence, over the images with and `absent` images without
    a visible peer; NaN when absent is 0.
    """

    info: RecordingInfo
    true: Predictions
    said: Predictions
    model: Metrics
    mean: Metrics
    presence: float
    absent: int


def evaluate(model: str | Path, recording: Recording) -> Evaluation:
    """Score an exported model on a recording with ground truth."""
    true = truth(recording)
    answers = predict(PeerEstimator(model), recording, np.arange(len(recording)))
    return compare(recording.info, true, answers)


def compare(info: RecordingInfo, true: Predictions, answers: Predictions) -> Evaluation:
    """Score the answers to some images of a recording, those of `true` and some that show no peer."""
    present = np.isin(answers.index, true.index)
    said = answers.of(present)
    facing = metrics.facing_leds(true.psi, info.led_directions)
    return Evaluation(
        info,
        true,
        said,
        score(said, true, facing),
        score(mean_predictor(true), true, facing),
        metrics.presence_auc(answers.confidence, present),
        int((~present).sum()),
    )


COLUMNS = (
    ("E_uv", "E_uv [px]"),
    ("E_psi", "E_psi [deg]"),
    ("E_d", "E_d [%]"),
    ("E_xyz", "E_xyz [cm]"),
    ("gamma", "Gamma [%]"),
    ("auc", "AUC [%]"),
    ("n", "n"),
)


def table(rows: Mapping[str, Metrics]) -> str:
    """The rows as a text table; what is not known is a dash."""
    return text_table(
        [title for _, title in COLUMNS],
        {name: [row.as_dict()[key] for key, _ in COLUMNS] for name, row in rows.items()},
    )


def text_table(titles: Sequence[str], rows: Mapping[str, Sequence[float]]) -> str:
    """Named rows of numbers under titles, as aligned text with three digits; NaN is a dash."""

    def cell(value: float) -> str:
        return "-" if np.isnan(value) else f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"

    lines = [["", *titles], *([name, *map(cell, values)] for name, values in rows.items())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )
