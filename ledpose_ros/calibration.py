# SPDX-License-Identifier: Apache-2.0
"""Calibration: what LED states cannot teach, from pictures of a peer at a known distance.

That is the constant c in `log2 depth = log2_scale + c` (see `ledpose_ros.geometry.distance_from_scale` for
depth, range and focal length), and where the peer's reference point lies, seen from the point that the
network settles on: behind it, because only the near side is seen, below it, and to which side of it (see
`Calibration`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import PeerEstimator
from ledpose_ros.geometry import Camera, depth_per_range, farther_along_floor, pixel_rays, project
from ledpose_ros.model_metadata import Calibration

MIN_CONFIDENCE = 0.5
"""A peak less likely a peer than this is not calibrated on."""

OUTLIER_DEVIATIONS = 3.5
"""A picture that many robust standard deviations off is an outlier (Iglewicz and Hoaglin, 1993)."""

MIN_OUTLIER_OCTAVES = 0.1
"""No picture within 7 % of the others' distance is an outlier, however well they agree."""

MAD_TO_DEVIATION = 1.4826
"""Standard deviation of a normal distribution whose median absolute deviation is 1."""

DISTANCE_RATIO = 1.5
"""Ratio of the largest to the smallest distance from which on pictures tell the recess."""

FEW_PICTURES = 4
"""From so many on pictures tell the recess beside c, and by their spread the residual: fewer fit too well."""

FARTHEST = 1000
"""[m] No camera tells a ground robot beyond."""

MAX_RECESS = 0.5
"""Largest recess, as a share of the smallest distance."""

SIDE_VIEW = 0.5
"""|sin psi| from which on a picture tells where ahead or astern the reference point lies."""

SIDE_VIEWS = 3
"""Such pictures that are needed: a single one is as likely to be off as the network is."""


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
class Setup:
    """How the pictures were taken, as far as it is known.

    A level camera `camera_height` [m] above the peer's reference point tells how far down that is seen;
    a peer that stands straight `ahead`, that it is seen in the middle column (the principal point's).
    """

    camera: Camera | None = None
    camera_height: float | None = None
    ahead: bool = False

    def __post_init__(self) -> None:
        if self.camera is None and (self.camera_height is not None or self.ahead):
            raise LedposeError(
                "a camera height, or a peer straight ahead, needs a camera: give --recording or "
                "--focal-length"
            )


@dataclass(frozen=True)
class _Sighting:
    """What one picture shows: the strongest peak, and the reference point (u, v) [px], NaN if not known."""

    name: str
    distance: float
    uv: NDArray[np.float64]  # (2,)
    log2_scale: float
    spread: float  # the network's own deviation of log2_scale
    side: float  # [px] of the window
    psi: float
    depth_share: float  # depth per range
    point: NDArray[np.float64] | None  # (3,) reference point in the optical frame, None without a camera
    reference: NDArray[np.float64]  # (2,)

    def c(self, recess: float) -> float:
        """log2 of the depth of what is seen, less log2_scale."""
        return float(np.log2((self.distance - recess) * self.depth_share) - self.log2_scale)

    def displacement(self, recess: float, camera: Camera | None) -> NDArray[np.float64]:
        """From `uv` to the reference point brought forward by `recess`, (2,) [sides]; NaN if not known."""
        reference = self.reference
        if camera is not None and self.point is not None:
            near_side = project(farther_along_floor(self.point[None], -recess), *camera)[0]
            reference = np.where(np.isnan(reference), np.nan, near_side)
        return (reference - self.uv) / self.side


def calibrate(
    estimator: PeerEstimator,
    pictures: Iterable[Picture],
    setup: Setup | None = None,
    known: Calibration | None = None,
) -> tuple[Calibration, list[Outlier]]:
    """Medians over pictures, with the spread between them as residual, and the outliers left out of it.

    Pictures in which no peer is found do not count. Without a camera the peer is taken to be near the image's
    centre, where range and depth are equal. The recess needs FEW_PICTURES, two of them
    DISTANCE_RATIO times as far as two others, the offset a reference point, `forward` one in SIDE_VIEWS views
    from the side; what the pictures do not tell is as `known`, without it as in the model's own calibration,
    if it has one. Raises LedposeError when no picture shows a peer, for a distance that is not positive, a
    height that is not below it, a reference outside its picture, or pictures of several sizes.
    """
    setup = setup or Setup()
    known = known or estimator.metadata.calibration
    sightings: list[_Sighting] = []
    size: tuple[int, int] | None = None
    best_confidence = 0.0
    for picture in pictures:
        _check(picture, size, setup)
        size = picture.rgb.shape[1], picture.rgb.shape[0]
        sighting, confidence = _look_at(estimator, picture, setup)
        if not np.isfinite(sighting.depth_share):
            confidence = 0.0  # By its distortion the lens shows nothing there.
        best_confidence = max(best_confidence, confidence)
        if confidence >= MIN_CONFIDENCE:
            sightings.append(sighting)
    if size is None:
        raise LedposeError("there is no picture to calibrate on: give --image and --distance, or --recording")
    if not sightings:
        raise LedposeError(
            f"no peer is found in any picture (confidence at most {best_confidence:.2f}, needed "
            f"{MIN_CONFIDENCE}): take one with the whole robot in view"
        )
    recess, offset, forward = (known.recess, known.offset, known.forward) if known else (0.0, 0.0, 0.0)
    agreeing = _split(sightings, _recess(sightings, recess))[0]
    fitted = _tell_recess(agreeing)
    recess = _recess(agreeing, recess)
    used, outliers = _split(sightings, recess)
    constants = [sighting.c(recess) for sighting in used]
    displacement = np.array([sighting.displacement(recess, setup.camera) for sighting in used])
    downward = displacement[~np.isnan(displacement[:, 1]), 1]
    if len(downward):
        offset = float(np.median(downward))
    # Who looks at the peer's left side, psi = 90 degrees, sees its front on the left.
    leftward = np.sin([sighting.psi for sighting in used])
    aside = (np.abs(leftward) >= SIDE_VIEW) & ~np.isnan(displacement[:, 0])
    if aside.sum() >= SIDE_VIEWS:
        forward = float(np.median(-displacement[aside, 0] / leftward[aside]))
    calibration = Calibration(
        c=float(np.median(constants)),
        images=len(used),
        residual=_residual(used, constants, parameters=1 + fitted),
        width=size[0],
        focal_length=None if setup.camera is None else float(setup.camera.K[0, 0]),
        rejected=len(outliers),
        offset=offset,
        forward=forward,
        recess=recess,
    )
    if known is not None:
        calibration = replace(calibration, deviation_scale=known.deviation_scale)
    return calibration, outliers


def _look_at(estimator: PeerEstimator, picture: Picture, setup: Setup) -> tuple[_Sighting, float]:
    """What the strongest peak in a picture says, and its confidence."""
    seen = estimator.detect(picture.rgb)
    uv = seen.uv[0].astype(np.float64)
    depth_share, point, reference = 1.0, None, np.full(2, np.nan)
    if picture.reference is not None:
        reference = np.array(picture.reference, np.float64)
    if setup.camera is not None:
        given = uv if picture.reference is None else reference
        ray = pixel_rays(given[None], *setup.camera)[0]
        if setup.ahead:
            ray[0] = 0.0
        if setup.camera_height is not None:
            ray[1] = setup.camera_height / picture.distance
            ray[[0, 2]] *= np.sqrt(1 - ray[1] ** 2) / np.hypot(ray[0], ray[2])
        point = picture.distance * ray / np.linalg.norm(ray)
        seen_at = project(point[None], *setup.camera)[0]
        told = np.array([setup.ahead, setup.camera_height is not None]) | ~np.isnan(reference)
        reference = np.where(told, seen_at, np.nan)
        depth_share = float(depth_per_range(point[None] / np.linalg.norm(point), *setup.camera)[0])
    sighting = _Sighting(
        picture.name,
        picture.distance,
        uv,
        float(seen.log2_scale[0]),
        float(seen.spread[0, 2]),
        float(seen.window_side[0]),
        float(seen.psi[0]),
        depth_share,
        point,
        reference,
    )
    return sighting, float(seen.confidence[0])


def _check(picture: Picture, size: tuple[int, int] | None, setup: Setup) -> None:
    """Raise `LedposeError` for a picture that cannot be used beside others of this size (width, height)."""
    name, distance, camera_height = picture.name, picture.distance, setup.camera_height
    picture_height, picture_width = picture.rgb.shape[:2]
    if not 0 < distance < FARTHEST:
        raise LedposeError(
            f"the distance of {name} is {distance}: give the measured range in metres, below {FARTHEST}"
        )
    if size not in (None, (picture_width, picture_height)):
        raise LedposeError(
            "{} is {}x{}, the pictures before it {}x{}: ".format(name, picture_width, picture_height, *size)
            + "use one camera setting"
        )
    if camera_height is not None and not abs(camera_height) < distance:
        raise LedposeError(
            f"the camera cannot be {camera_height} m above the reference point of a peer that {name} shows "
            f"{distance} m away: give the height, not the distance"
        )
    if picture.reference is not None:
        u, v = picture.reference
        if not (0 <= u < picture_width and 0 <= v < picture_height):
            raise LedposeError(
                f"the reference ({u:g}, {v:g}) of {name} lies outside the picture of "
                f"{picture_width}x{picture_height}: give the pixel of the peer's reference point"
            )


def _residual(used: list[_Sighting], constants: list[float], parameters: int) -> float:
    """Standard deviation of c [octaves]; of few pictures at least what the network itself says of each."""
    if len(used) >= FEW_PICTURES:
        return float(np.std(constants, ddof=parameters))
    least = float(np.median([sighting.spread for sighting in used]))
    return max(least, float(np.std(constants, ddof=1))) if len(used) > 1 else least


def _tell_recess(sightings: list[_Sighting]) -> bool:
    """Are there enough pictures, at distances different enough, to fit the recess?

    A single near or far one would always be agreed with, whatever is wrong with it.
    """
    distances = sorted(sighting.distance for sighting in sightings)
    return len(distances) >= FEW_PICTURES and distances[-2] >= DISTANCE_RATIO * distances[1]


def _recess(sightings: list[_Sighting], otherwise: float) -> float:
    """The recess with which the pictures agree best on c; `otherwise` when they do not tell it."""
    largest = MAX_RECESS * min(sighting.distance for sighting in sightings)
    if not _tell_recess(sightings):
        return min(otherwise, largest)
    candidates = np.linspace(0, largest, 501)
    constants = np.array([[sighting.c(recess) for sighting in sightings] for recess in candidates])
    disagreement = np.abs(constants - np.median(constants, axis=1, keepdims=True)).sum(1)
    return float(candidates[disagreement.argmin()])


def _split(sightings: list[_Sighting], recess: float) -> tuple[list[_Sighting], list[Outlier]]:
    """The pictures that agree on c, and those that do not."""
    # One that claims to be nearer than the recess agrees with nobody.
    constants = np.array([s.c(recess) if s.distance > recess else np.nan for s in sightings])
    deviations = constants - np.nanmedian(constants)
    limit = max(
        OUTLIER_DEVIATIONS * MAD_TO_DEVIATION * float(np.nanmedian(np.abs(deviations))), MIN_OUTLIER_OCTAVES
    )
    agree = np.abs(deviations) <= limit
    used = [sighting for sighting, good in zip(sightings, agree, strict=True) if good]
    centre = float(np.median(constants[agree]))
    return used, [
        Outlier(sighting.name, sighting.c(min(recess, sighting.distance / 2)) - centre)
        for sighting, good in zip(sightings, agree, strict=True)
        if not good
    ]
