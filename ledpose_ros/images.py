# SPDX-License-Identifier: Apache-2.0
"""Pictures: encoded (JPEG, PNG) and as ROS messages, always seen by the rest of the package as RGB arrays."""

from os import PathLike
from pathlib import Path

import cv2
import numpy as np

from ledpose_ros.errors import LedposeError

IMAGE_ENCODINGS = ("jpeg", "png")

_SIGNATURES = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
_JPEG_END = b"\xff\xd9"
_PNG_END = b"IEND\xaeB\x60\x82"


def encode_image(rgb: np.ndarray, encoding: str, jpeg_quality: int = 90) -> bytes:
    """Encode an RGB picture, uint8 (H, W, 3), as `jpeg` (quality 1..100) or `png` (lossless)."""
    if encoding not in IMAGE_ENCODINGS:
        raise LedposeError(f"unknown image encoding '{encoding}': use one of {', '.join(IMAGE_ENCODINGS)}")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise LedposeError(f"cannot encode an image of type {rgb.dtype} and shape {rgb.shape}: uint8 (H, W, 3) is needed")
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if encoding == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    suffix = ".jpg" if encoding == "jpeg" else ".png"
    encoded, data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    if not encoded:
        raise LedposeError(f"the {encoding} encoder refused an image of shape {rgb.shape}")
    return data.tobytes()


def encoding_of(data: bytes) -> str | None:
    """Tell `jpeg` or `png` from the first bytes of an encoded picture; None for anything else."""
    return next((name for name, signature in _SIGNATURES.items() if data.startswith(signature)), None)


def decode_image(data: bytes | np.ndarray) -> np.ndarray:
    """Decode a picture (bytes or 1-D uint8) to RGB, uint8 (H, W, 3); LedposeError if it is not whole.

    OpenCV fills the missing rest of a truncated JPEG with grey and says nothing, hence the look at the end mark.
    """
    data = bytes(data)
    encoding = encoding_of(data)
    if encoding == "jpeg" and not data.rstrip(b"\0").endswith(_JPEG_END) or encoding == "png" and _PNG_END not in data[-64:]:
        raise LedposeError(f"the {encoding} image is cut off after {len(data)} bytes: its end mark is missing")
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if bgr is None:
        raise LedposeError(f"{len(data)} bytes that are no image: expected {' or '.join(IMAGE_ENCODINGS)} data")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def read_image(path: str | PathLike[str]) -> np.ndarray:
    """Read a picture file as RGB, uint8 (H, W, 3)."""
    try:
        return decode_image(Path(path).read_bytes())
    except OSError as error:
        raise LedposeError(f"cannot read the picture {path}: {error.strerror}") from error
    except LedposeError as error:
        raise LedposeError(f"cannot read the picture {path}: {error}") from error
