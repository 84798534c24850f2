# SPDX-License-Identifier: Apache-2.0
"""Pictures: encoded (JPEG, PNG) and as ROS messages, always seen by the rest of the package as RGB arrays."""

from collections.abc import Callable
from functools import cache
from os import PathLike
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from ledpose_ros.errors import LedposeError, one_line

IMAGE_ENCODINGS = ("jpeg", "png")

# Bytes per pixel of the encodings (names of sensor_msgs/image_encodings) that can become RGB. rosbags-image
# trusts the message's size and ignores its `step`, hence the numbers.
RAW_ENCODINGS = {
    "rgb8": 3,
    "bgr8": 3,
    "rgba8": 4,
    "bgra8": 4,
    "mono8": 1,
    "rgb16": 6,
    "bgr16": 6,
    "rgba16": 8,
    "bgra16": 8,
    "mono16": 2,
    "bayer_rggb8": 1,
    "bayer_bggr8": 1,
    "bayer_gbrg8": 1,
    "bayer_grbg8": 1,
    "yuv422": 2,
    "uyvy": 2,
    "yuv422_yuy2": 2,
    "yuyv": 2,
}

# Two pixels share their colours. Not every OpenCV minds an odd one.
PAIRED_ENCODINGS = ("yuv422", "uyvy", "yuv422_yuy2", "yuyv")

_SIGNATURES = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
_JPEG_END = b"\xff\xd9"
# The second byte of the mark after whose segment the pixels follow.
_JPEG_PIXELS = b"\xda"
_PNG_END = b"IEND\xaeB\x60\x82"


def encode_image(rgb: np.ndarray, encoding: str, jpeg_quality: int = 90) -> bytes:
    """Encode an RGB picture, uint8 (H, W, 3), as `jpeg` (quality 1..100) or `png` (lossless)."""
    if encoding not in IMAGE_ENCODINGS:
        raise LedposeError(f"unknown image encoding '{encoding}': use one of {', '.join(IMAGE_ENCODINGS)}")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise LedposeError(
            f"cannot encode an image of type {rgb.dtype} and shape {rgb.shape}: uint8 (H, W, 3) is needed"
        )
    options = (
        [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if encoding == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    )
    suffix = ".jpg" if encoding == "jpeg" else ".png"
    encoded, data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    if not encoded:
        raise LedposeError(f"the {encoding} encoder refused an image of shape {rgb.shape}")
    return data.tobytes()


def encoding_of(data: bytes) -> str | None:
    """Tell `jpeg` or `png` from the first bytes of an encoded picture; None for anything else."""
    return next((name for name, signature in _SIGNATURES.items() if data.startswith(signature)), None)


def decode_image(data: bytes | np.ndarray, is_for_people: bool = False) -> np.ndarray:
    """Decode a picture (bytes or 1-D uint8) to RGB, uint8 (H, W, 3); LedposeError if it is not whole.

    Rows and columns are those of the sensor, for which CameraInfo is; a picture that a tag (EXIF) would have
    turned is so only if it `is_for_people`. OpenCV fills the missing rest of a truncated JPEG with grey and
    says nothing, hence the look at the end.
    """
    data = bytes(data)
    encoding = encoding_of(data)
    if (encoding == "jpeg" and not _ends_as_jpeg(data)) or (encoding == "png" and _PNG_END not in data):
        raise LedposeError(
            f"the {encoding} image is cut off after {len(data)} bytes: its end mark is missing"
        )
    try:
        flags = cv2.IMREAD_COLOR | (0 if is_for_people else cv2.IMREAD_IGNORE_ORIENTATION)
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise LedposeError(f"an image of {len(data)} bytes cannot be decoded: {_reason(error)}") from error
    if bgr is None:
        raise LedposeError(
            f"{len(data)} bytes that are no image: expected {' or '.join(IMAGE_ENCODINGS)} data"
        )
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, bgr)


def _ends_as_jpeg(data: bytes) -> bool:
    """Whether the end mark follows the pixels; after it some cameras write more, before it lie thumbnails."""
    if data.endswith(_JPEG_END):
        return True
    start = len(_SIGNATURES["jpeg"]) - 1
    while data[start : start + 1] == b"\xff" and data[start + 1 : start + 2] != _JPEG_PIXELS:
        start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    return data.find(_JPEG_END, start) >= 0


def read_image(path: str | PathLike[str]) -> np.ndarray:
    """Read a picture file as RGB, uint8 (H, W, 3), the way up that a tag in it tells."""
    try:
        return decode_image(Path(path).read_bytes(), is_for_people=True)
    except OSError as error:
        raise LedposeError(f"cannot read the picture {path}: {error.strerror}") from error
    except LedposeError as error:
        raise LedposeError(f"cannot read the picture {path}: {error}") from error


def rgb_from_message(message: Any) -> np.ndarray:
    """RGB, uint8 (H, W, 3), of a sensor_msgs Image or CompressedImage; LedposeError if it cannot be one.

    An `Image` may have padded rows and any encoding of `RAW_ENCODINGS`; deeper ones are scaled to 8 bits. The
    array may share the message's memory.
    """
    if hasattr(message, "format"):
        return decode_image(message.data)
    width, height, step, encoding = message.width, message.height, message.step, message.encoding
    if encoding not in RAW_ENCODINGS:
        raise LedposeError(
            f"images of encoding '{encoding}' cannot be read: "
            f"let the camera publish one of {', '.join(RAW_ENCODINGS)}"
        )
    if width < 1 or height < 1:
        raise LedposeError(f"the image message has no pixels: its size is {width}x{height}")
    row_size = width * RAW_ENCODINGS[encoding]
    if step < row_size:
        raise LedposeError(
            f"the image message has rows of {step} bytes, {width} pixels in {encoding} take {row_size}"
        )
    if encoding in PAIRED_ENCODINGS and width % 2:
        raise LedposeError(f"the image message is {width} pixels wide, but {encoding} holds pixels in pairs")
    if len(message.data) < step * height:
        raise LedposeError(
            f"the image message holds {len(message.data)} bytes, {height} rows of {step} take {step * height}"
        )
    rows = np.frombuffer(message.data, np.uint8, count=step * height).reshape(height, step)[:, :row_size]
    packed = SimpleNamespace(
        width=width,
        height=height,
        encoding=encoding,
        is_bigendian=message.is_bigendian,
        step=row_size,
        data=np.ascontiguousarray(rows),
    )
    try:
        return _converter()(packed)
    except (cv2.error, RuntimeError, TypeError, ValueError) as error:
        raise LedposeError(
            f"cannot convert a {width}x{height} image from {encoding} to rgb8: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """What an exception says, of OpenCV's only which condition failed."""
    return one_line(getattr(error, "err", error))


@cache
def _converter() -> Callable[[Any], np.ndarray]:
    """ROS's own cv_bridge where it works, else rosbags-image, which comes by pip.

    A cv_bridge built against numpy 1 does not load under numpy 2: importing its compiled part finds out.
    """
    try:
        import cv_bridge
        import cv_bridge.boost.cv_bridge_boost

        bridge = cv_bridge.CvBridge()
        return lambda message: bridge.imgmsg_to_cv2(message, "rgb8")
    except (ImportError, AttributeError):
        from rosbags.image import message_to_cvimage

        return lambda message: message_to_cvimage(message, "rgb8")
