# SPDX-License-Identifier: Apache-2.0
"""The camera of an image, as a sensor_msgs/CameraInfo tells it (REP-104).

K and P of the message hold for all pixels of the sensor. Its images may be a region of these
(`roi`), and `binning_x` by `binning_y` pixels of that may be one in the image.
"""

from typing import Any

import numpy as np

from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import Camera, check_camera


def image_size(info: Any) -> tuple[int, int]:
    """Width and height [px] of the images that the message is of."""
    region = info.roi
    size = (region.width, region.height) if _is_cut(region) else (info.width, info.height)
    width, height = np.array(size) // _binning(info)
    return int(width), int(height)


def whole_width(info: Any) -> int:
    """Width [px] that the images would have if no region of interest were cut out."""
    return int(info.width // _binning(info)[0])


def image_matrix(info: Any, matrix: np.ndarray) -> np.ndarray:
    """K, or the left part of P (3, 3), of all pixels of the sensor made that of the images."""
    offset = np.array([info.roi.x_offset, info.roi.y_offset]) if _is_cut(info.roi) else np.zeros(2)
    binning = _binning(info)
    found = np.array(matrix, dtype=np.float64).reshape(3, 3)
    found[:2, :2] /= binning[:, None]
    # Of two pixels that become the first, with the centres 0 and 1, the centre is 0.5: the coordinates begin
    # half a pixel from the border in both images.
    found[:2, 2] = (found[:2, 2] - offset + 0.5) / binning - 0.5
    return found


def camera_from_info(info: Any, is_rectified: bool = False) -> Camera:
    """The camera of the message's images: K and D, or that of P if they are rectified.

    Raises `LedposeError` for a camera that is not calibrated, or cannot be used (see `check_camera` and
    `projection_matrix`).
    """
    if is_rectified:
        return rectified_camera(image_matrix(info, projection_matrix(info.p)))
    return check_camera(image_matrix(info, info.k), info.d, info.distortion_model)


def rectified_camera(matrix: np.ndarray) -> Camera:
    """The camera of rectified images: a pinhole."""
    return check_camera(matrix, np.zeros(0), "plumb_bob")


def projection_matrix(p: Any) -> np.ndarray:
    """The left part (3, 3) of the projection matrix P, 12 numbers.

    Raises `LedposeError` if it is not calibrated, or of the second camera of a stereo pair: drivers do not
    agree on whether its frame is its own or that of the first camera, a baseline beside it.
    """
    P = np.asarray(p, dtype=np.float64).reshape(3, 4)
    if not np.isfinite(P).all() or P[0, 0] <= 0 or P[1, 1] <= 0:
        raise LedposeError(
            f"P of the camera is {P.ravel().tolist()}, which says nothing of rectified images: "
            "calibrate the camera, or use its raw images"
        )
    if P[0, 3] != 0 or P[1, 3] != 0:
        metres = float(np.hypot(P[0, 3] / P[0, 0], P[1, 3] / P[1, 1]))
        raise LedposeError(
            f"P is of the second camera of a stereo pair, {metres:.3g} m beside the first, and whose frame "
            "its images are in is not told: use the first camera, or raw images"
        )
    return P[:, :3]


def _is_cut(region: Any) -> bool:
    """Whether a RegionOfInterest is one: all zero stands for the whole image."""
    return bool(region.width and region.height)


def _binning(info: Any) -> np.ndarray:
    """How many pixels of the sensor, across and down, are one in the image: 0 stands for 1, too."""
    return np.maximum([info.binning_x, info.binning_y], 1)
