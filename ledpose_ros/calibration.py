# SPDX-License-Identifier: Apache-2.0
"""Calibration: what LED states cannot teach, from pictures of a peer at a known distance.

That is the constant c in `log2 depth = log2_scale + c` (see `ledpose_ros.geometry.distance_from_scale` for
depth, range and focal length), and where the peer's reference point lies, seen from the image position that
the network settles on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import PeerEstimator
from ledpose_ros.geometry import depth_per_range, pixel_rays, project
from ledpose_ros.model_metadata import Calibration

MIN_CONFIDENCE = 0.5
"""A peak less likely a peer than this is not calibrated on."""

OUTLIER_DEVIATIONS = 3.5
"""A picture that many robust standard deviations off is an outlier (Iglewicz and Hoaglin, 1993)."""

MIN_OUTLIER_OCTAVES = 0.1
"""No picture within 7 % of the others' distance is an outlier, however well they agree."""

MAD_TO_DEVIATION = 1.4826
"""Standard deviation of a normal distribution whose median absolute deviation is 1."""


@dataclass(frozen=True)
class Picture:
    """A picture (H, W, 3) RGB uint8 in which the peer's reference point is `distance` [m] (range) away.

    `reference` (u, v) [px] is where the reference point is seen, None if nobody told.
    """

    name: str
    rgb: NDArray[np.uint8]
    distance: float
    reference: tuple[float, float] | None = None


@dataclass(frozen=True)
class Outlier:
    """A picture that was rejected: its c is `octaves` above that of the others."""

    name: str
    octaves: float


@dataclass(frozen=True)
class _Sighting:
    """What one picture says: c, the network's own deviation of it [octaves], the offset [sides] if known.

    Only the height counts: over all views, LEDs are seen left of the reference point as often as right.
    """

    name: str
    c: float
    spread: float
    offset: float | None


def pinhole_matrix(focal_length: float, width: int, height: int) -> NDArray[np.float64]:
    """Camera matrix K of an ideal camera with square pixels and a centred principal point; lengths in px."""
    return np.array([[focal_length, 0, (width - 1) / 2], [0, focal_length, (height - 1) / 2], [0, 0, 1]])


def calibrate(
    estimator: PeerEstimator,
    pictures: Iterable[Picture],
    K: NDArray[np.float64] | None = None,
    D: NDArray[np.float64] | None = None,
    distortion_model: str = "plumb_bob",
    camera_height: float | None = None,
) -> tuple[Calibration, list[Outlier]]:
    """The median over pictures, with the spread between them as residual, and the outliers left out of it.

    Pictures in which no peer is found do not count. Without a camera matrix K the peer is taken to be near
    the image's centre, where range and depth are equal. A level camera `camera_height` [m] above the peer's
    reference point gives every picture its reference. An offset that the model already has is kept when there
    is none. Raises LedposeError when no picture shows a peer, for a distance that is not positive, a height
    that is not below it, a reference outside its picture, or pictures of several sizes.
    """
    sightings: list[_Sighting] = []
    width: int | None = None
    best_confidence = 0.0
    known = estimator.metadata.calibration
    known_offset = known.offset if known else 0.0
    for picture in pictures:
        _check(picture, width)
        width = picture.rgb.shape[1]
        seen = estimator.detect(picture.rgb)
        best_confidence = max(best_confidence, float(seen.confidence[0]))
        if seen.confidence[0] < MIN_CONFIDENCE:
            continue
        if camera_height is not None:
            if K is None:
                raise LedposeError("a camera height needs a camera: give --recording or --focal-length")
            reference = _reference_seen_level(
                seen.uv[:1], picture, camera_height, K, D if D is not None else np.zeros(5), distortion_model
            )
            picture = replace(picture, reference=reference)
        uv = seen.uv[:1] if picture.reference is None else np.array([picture.reference])
        depth = picture.distance
        if K is not None:
            rays = pixel_rays(uv, K, D if D is not None else np.zeros(5), distortion_model)
            depth *= float(depth_per_range(rays, distortion_model)[0])
        offset = None
        if picture.reference is not None:
            # The known offset is in seen.uv already.
            offset = known_offset + float((uv[0, 1] - seen.uv[0, 1]) / seen.window_side[0])
        c = float(np.log2(depth) - seen.log2_scale[0])
        sightings.append(_Sighting(picture.name, c, float(seen.spread[0, 2]), offset))
    if width is None:
        raise LedposeError("there is no picture to calibrate on: give --image and --distance, or --recording")
    if not sightings:
        raise LedposeError(
            f"no peer is found in any picture (confidence at most {best_confidence:.2f}, needed "
            f"{MIN_CONFIDENCE}): take one with the whole robot in view"
        )
    used, outliers = _split(sightings)
    constants = [sighting.c for sighting in used]
    offsets = [sighting.offset for sighting in used if sighting.offset is not None]
    calibration = Calibration(
        c=float(np.median(constants)),
        images=len(used),
        # One picture tells nothing of the spread between pictures: then the network's own word has to do.
        residual=float(np.std(constants, ddof=1)) if len(used) > 1 else used[0].spread,
        width=width,
        focal_length=None if K is None else float(K[0, 0]),
        rejected=len(outliers),
        offset=float(np.median(offsets)) if offsets else known_offset,
    )
    return calibration, outliers


def _reference_seen_level(
    uv: NDArray[np.float64],
    picture: Picture,
    camera_height: float,
    K: NDArray[np.float64],
    D: NDArray[np.float64],
    distortion_model: str,
) -> tuple[float, float]:
    """Pixel of a reference point so far below a level camera, in the direction of the pixel uv (1, 2)."""
    below = camera_height / picture.distance
    if not abs(below) < 1:
        raise LedposeError(
            f"the camera cannot be {camera_height} m above the reference point of a peer that {picture.name} "
            f"shows {picture.distance} m away: give the height, not the distance"
        )
    ray = pixel_rays(uv, K, D, distortion_model)[0]
    ray[1] = below
    ray[[0, 2]] *= np.sqrt(1 - below**2) / np.hypot(ray[0], ray[2])
    u, v = project(ray[None], K, D, distortion_model)[0]
    return float(u), float(v)


def _check(picture: Picture, width: int | None) -> None:
    """Raise `LedposeError` for a picture that cannot be used beside others of this width [px]."""
    name, distance = picture.name, picture.distance
    picture_height, picture_width = picture.rgb.shape[:2]
    if not (np.isfinite(distance) and distance > 0):
        raise LedposeError(f"the distance of {name} is {distance}: give the measured range in metres")
    if width not in (None, picture_width):
        raise LedposeError(
            f"{name} is {picture_width} px wide, the pictures before it {width}: use one camera setting"
        )
    if picture.reference is not None:
        u, v = picture.reference
        if not (0 <= u < picture_width and 0 <= v < picture_height):
            raise LedposeError(
                f"the reference ({u:g}, {v:g}) of {name} lies outside the picture of "
                f"{picture_width}x{picture_height}: give the pixel of the peer's reference point"
            )


def _split(sightings: list[_Sighting]) -> tuple[list[_Sighting], list[Outlier]]:
    """The pictures that agree on c, and those that do not."""
    constants = np.array([sighting.c for sighting in sightings])
    deviations = constants - np.median(constants)
    limit = max(
        OUTLIER_DEVIATIONS * MAD_TO_DEVIATION * float(np.median(np.abs(deviations))), MIN_OUTLIER_OCTAVES
    )
    agree = np.abs(deviations) <= limit
    used = [sighting for sighting, good in zip(sightings, agree, strict=True) if good]
    centre = float(np.median(constants[agree]))
    return used, [
        Outlier(sighting.name, sighting.c - centre)
        for sighting, good in zip(sightings, agree, strict=True)
        if not good
    ]
