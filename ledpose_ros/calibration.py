# SPDX-License-Identifier: Apache-2.0
"""Calibration: the one constant c that LED states cannot teach, from pictures of a peer at a known distance.

`log2 depth = log2_scale + c`; see `ledpose_ros.geometry.distance_from_scale` for depth, range and focal
length.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import PeerEstimator
from ledpose_ros.geometry import depth_per_range, pixel_rays
from ledpose_ros.model_metadata import Calibration

MIN_CONFIDENCE = 0.5
"""A peak less likely a peer than this is not calibrated on."""


def pinhole_matrix(focal_length: float, width: int, height: int) -> NDArray[np.float64]:
    """Camera matrix K of an ideal camera with square pixels and a centred principal point; lengths in px."""
    return np.array([[focal_length, 0, (width - 1) / 2], [0, focal_length, (height - 1) / 2], [0, 0, 1]])


def calibrate(
    estimator: PeerEstimator,
    pictures: Iterable[tuple[str, NDArray[np.uint8], float]],
    K: NDArray[np.float64] | None = None,
    D: NDArray[np.float64] | None = None,
    distortion_model: str = "plumb_bob",
) -> Calibration:
    """c from pictures (name, RGB, range [m]): the median, with the spread between pictures as residual.

    Pictures in which no peer is found do not count. Without a camera matrix K the peer is taken to be near
    the image's centre, where range and depth are equal. Raises LedposeError when no picture shows a peer, for
    a distance that is not positive, or for pictures of several sizes.
    """
    constants: list[float] = []
    spreads: list[float] = []
    width: int | None = None
    best_confidence = 0.0
    for name, rgb, distance in pictures:
        if not (np.isfinite(distance) and distance > 0):
            raise LedposeError(f"the distance of {name} is {distance}: give the measured range in metres")
        if width not in (None, rgb.shape[1]):
            raise LedposeError(
                f"{name} is {rgb.shape[1]} px wide, the pictures before it {width}: use one camera setting"
            )
        width = rgb.shape[1]
        seen = estimator.detect(rgb)
        best_confidence = max(best_confidence, float(seen.confidence[0]))
        if seen.confidence[0] < MIN_CONFIDENCE:
            continue
        depth = distance
        if K is not None:
            rays = pixel_rays(seen.uv[:1], K, D if D is not None else np.zeros(5), distortion_model)
            depth = distance * float(depth_per_range(rays, distortion_model)[0])
        constants.append(float(np.log2(depth) - seen.log2_scale[0]))
        spreads.append(float(seen.spread[0, 2]))
    if width is None:
        raise LedposeError("there is no picture to calibrate on: give --image and --distance, or --recording")
    if not constants:
        raise LedposeError(
            f"no peer is found in any picture (confidence at most {best_confidence:.2f}, needed "
            f"{MIN_CONFIDENCE}): take one with the whole robot in view"
        )
    c = float(np.median(constants))
    # One picture tells nothing of the spread between pictures: then the network's own word has to do.
    residual = float(np.std(constants, ddof=1)) if len(constants) > 1 else spreads[0]
    return Calibration(
        c=c,
        images=len(constants),
        residual=residual,
        width=width,
        focal_length=None if K is None else float(K[0, 0]),
    )
