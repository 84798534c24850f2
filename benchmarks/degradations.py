# SPDX-License-Identifier: Apache-2.0
"""Pictures made worse, as cheap cameras, dark rooms and radio links do."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from ledpose_ros.images import decode_image, encode_image

Image = NDArray[np.uint8]


def blur(image: Image) -> Image:
    """Out of focus: a Gaussian of 2 px."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 2.0), np.uint8)


def noise(image: Image) -> Image:
    """Gaussian noise of 15 grey levels, the same in every picture."""
    grain = np.random.default_rng(0).normal(0, 15, image.shape)
    return np.clip(image + grain, 0, 255).round().astype(np.uint8)


def darker(image: Image) -> Image:
    """Half the grey levels."""
    return np.asarray(cv2.convertScaleAbs(image, alpha=0.5), np.uint8)


def brighter(image: Image) -> Image:
    """One and a half times the grey levels; what was bright becomes white."""
    return np.asarray(cv2.convertScaleAbs(image, alpha=1.5), np.uint8)


def jpeg(image: Image) -> Image:
    """Compressed as JPEG of quality 50."""
    return decode_image(encode_image(image, "jpeg", jpeg_quality=50))


DEGRADATIONS: dict[str, Callable[[Image], Image]] = {
    "blur 2 px": blur,
    "noise 15": noise,
    "brightness x 0.5": darker,
    "brightness x 1.5": brighter,
    "JPEG 50": jpeg,
}
