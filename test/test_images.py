# SPDX-License-Identifier: Apache-2.0
"""Pictures in and out, and every ROS image encoding, on pictures whose colours are known."""

import array
import struct
import sys
import zlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from ledpose_ros import images
from ledpose_ros.errors import LedposeError
from ledpose_ros.images import decode_image, encode_image, encoding_of, read_image, rgb_from_message

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 90, 90)


def two_colours(left: tuple[int, ...], right: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    """A 6x8 picture with one colour on each side."""
    picture = np.empty((6, 8, len(left)), dtype)
    picture[:, :4], picture[:, 4:] = left, right
    return picture


def turned_by_tag(jpeg: bytes, orientation: int) -> bytes:
    """A JPEG with the EXIF tag that tells people's programs how to turn it."""
    tag = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + tag + bytes(4)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_tag_turns_pictures_for_people_alone(tmp_path, orientation):
    """CameraInfo is for the rows and columns that the sensor has."""
    picture = two_colours(RED, BLUE)
    data = turned_by_tag(encode_image(picture, "jpeg"), orientation)
    from_topic = rgb_from_message(SimpleNamespace(format="jpeg", data=array.array("B", data)))
    for rgb in (decode_image(data), from_topic):
        assert rgb.shape == picture.shape and rgb[3, 1, 0] > 200 and rgb[3, 6, 2] > 200
    (tmp_path / "photo.jpg").write_bytes(data)
    shown = read_image(tmp_path / "photo.jpg")
    first = {1: (3, 1), 3: (3, 6), 6: (1, 3), 8: (6, 3)}[orientation]
    assert shown.shape[:2] == ((6, 8) if orientation in (1, 3) else (8, 6)) and shown[first][0] > 200


def message(encoding: str, pixels: np.ndarray, padding: int = 0) -> SimpleNamespace:
    """A sensor_msgs/Image: `pixels` (H, W) or (H, W, channels), rows padded with noise."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1).view(np.uint8)
    padded = np.hstack([rows, np.full((height, padding), 77, np.uint8)])
    return SimpleNamespace(
        encoding=encoding,
        height=height,
        width=width,
        step=padded.shape[1],
        is_bigendian=0,
        data=array.array("B", padded.tobytes()),
    )


def bayer(colour: tuple[int, int, int], pattern: str) -> np.ndarray:
    """What a sensor with the colour filter `pattern` (rows top, bottom of a 2x2 cell) sees of one colour."""
    cell = np.array(["rgb".index(letter) for letter in pattern]).reshape(2, 2)
    return np.asarray(colour, np.uint8)[np.tile(cell, (3, 4))]


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", two_colours(RED, BLUE)),
        ("bgr8", two_colours(RED[::-1], BLUE[::-1])),
        ("rgba8", two_colours((*RED, 9), (*BLUE, 9))),
        ("bgra8", two_colours((*RED[::-1], 9), (*BLUE[::-1], 9))),
        ("rgb16", two_colours((65535, 0, 0), (0, 0, 65535), np.uint16)),
        ("bgr16", two_colours((0, 0, 65535), (65535, 0, 0), np.uint16)),
    ],
)
def test_colours_survive_every_channel_order(encoding: str, pixels: np.ndarray, padding: int) -> None:
    rgb = rgb_from_message(message(encoding, pixels, padding))
    assert rgb.dtype == np.uint8 and rgb.shape == (6, 8, 3)
    np.testing.assert_array_equal(rgb, two_colours(RED, BLUE))


@pytest.mark.parametrize(("encoding", "pixel"), [("mono8", np.uint8(90)), ("mono16", np.uint16(90 * 257))])
def test_grey_becomes_three_equal_channels(encoding: str, pixel: np.generic) -> None:
    rgb = rgb_from_message(message(encoding, np.full((6, 8), pixel), padding=2))
    np.testing.assert_array_equal(rgb, np.broadcast_to(GREY, (6, 8, 3)))


def test_big_endian_pixels_are_swapped() -> None:
    picture = message("mono16", np.full((6, 8), 90 * 256, ">u2"))
    picture.is_bigendian = 1
    np.testing.assert_array_equal(rgb_from_message(picture)[0, 0], (89, 89, 89))


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("colour", [RED, GREEN, BLUE])
def test_bayer_patterns_give_their_colour(pattern: str, colour: tuple[int, int, int]) -> None:
    rgb = rgb_from_message(message(f"bayer_{pattern}8", bayer(colour, pattern), padding=3))
    np.testing.assert_array_equal(rgb[2:4, 2:6], np.broadcast_to(colour, (2, 4, 3)))


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv"), ("yuv422", "uyvy"), ("uyvy", "uyvy")],
)
def test_yuv_becomes_rgb(encoding: str, order: str) -> None:
    # BT.601, limited range: red is Y 81, U 90, V 240.
    pair = [{"y": 81, "u": 90, "v": 240}[letter] for letter in order]
    pixels = np.tile(np.array(pair, np.uint8).reshape(1, 2, 2), (6, 4, 1))
    rgb = rgb_from_message(message(encoding, pixels, padding=4)).astype(int)
    assert np.abs(rgb - RED).max() <= 3


def test_compressed_messages_are_decoded() -> None:
    picture = two_colours(RED, BLUE)
    compressed = SimpleNamespace(
        format="rgb8; png compressed bgr8", data=array.array("B", encode_image(picture, "png"))
    )
    np.testing.assert_array_equal(rgb_from_message(compressed), picture)


def test_impossible_messages_are_refused_with_their_numbers() -> None:
    good = message("rgb8", two_colours(RED, BLUE))

    def refused(match: str, **changes: object) -> None:
        with pytest.raises(LedposeError, match=match):
            rgb_from_message(SimpleNamespace(**(vars(good) | changes)))

    refused("0x6", width=0)
    refused("8x0", height=0)
    refused("rows of 23 bytes, 8 pixels in rgb8 take 24", step=23)
    refused("holds 143 bytes, 6 rows of 24 take 144", data=good.data[:-1])
    refused("'hologram8' cannot be read", encoding="hologram8")
    refused("''", encoding="")
    refused("7 pixels wide, but yuyv holds pixels in pairs", encoding="yuyv", width=7)


def test_what_the_converter_refuses_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(_message: object) -> np.ndarray:
        raise RuntimeError("no such conversion")

    monkeypatch.setattr(images, "_converter", lambda: convert)
    with pytest.raises(LedposeError, match="cannot convert a 8x6 image from rgb8 to rgb8: no such conv"):
        rgb_from_message(message("rgb8", two_colours(RED, BLUE)))


def test_cv_bridge_is_used_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    class CvBridge:
        def imgmsg_to_cv2(self, message: SimpleNamespace, encoding: str) -> np.ndarray:
            assert (encoding, message.step, len(message.data)) == ("rgb8", 24, 6)
            return np.zeros((6, 8, 3), np.uint8)

    cv_bridge, boost, compiled = (ModuleType(name) for name in ("cv_bridge", "boost", "cv_bridge_boost"))
    cv_bridge.CvBridge, cv_bridge.boost, boost.cv_bridge_boost = CvBridge, boost, compiled  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv_bridge", cv_bridge)
    monkeypatch.setitem(sys.modules, "cv_bridge.boost", boost)
    monkeypatch.setitem(sys.modules, "cv_bridge.boost.cv_bridge_boost", compiled)
    images._converter.cache_clear()
    try:
        assert not rgb_from_message(message("bgr8", two_colours(RED, BLUE), padding=8)).any()
    finally:
        images._converter.cache_clear()


def test_png_keeps_every_pixel_and_jpeg_the_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    png = encode_image(picture, "png")
    assert encoding_of(png) == "png"
    np.testing.assert_array_equal(decode_image(png), picture)

    smooth = np.broadcast_to(
        np.linspace(20, 220, 40, dtype=np.uint8)[None, :, None] // (1, 2, 4), (30, 40, 3)
    )
    jpeg = encode_image(smooth.astype(np.uint8), "jpeg", jpeg_quality=95)
    assert encoding_of(jpeg) == "jpeg"
    assert np.abs(decode_image(np.frombuffer(jpeg, np.uint8)).astype(int) - smooth).mean() < 3


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_a_cut_off_picture_is_refused(encoding: str) -> None:
    data = encode_image(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8), encoding)
    decode_image(data)
    for kept in (len(data) - 3, len(data) // 2, 20):
        with pytest.raises(LedposeError, match=f"cut off after {kept} bytes"):
            decode_image(data[:kept])


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_a_picture_may_be_followed_by_anything(encoding: str) -> None:
    picture = two_colours(RED, BLUE)
    data = encode_image(picture, encoding)
    np.testing.assert_array_equal(decode_image(data + b"made by a telephone" * 20), decode_image(data))


def test_the_end_of_a_thumbnail_is_not_that_of_its_picture() -> None:
    data = encode_image(two_colours(RED, BLUE), "jpeg")
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(data)) + data
    whole = data[:2] + thumbnail + data[2:]
    np.testing.assert_array_equal(decode_image(whole), decode_image(data))
    with pytest.raises(LedposeError, match="cut off"):
        decode_image(whole[:-3])


def test_a_picture_too_large_to_unpack_is_refused() -> None:
    png = bytearray(encode_image(two_colours(RED, BLUE), "png"))
    png[16:24] = struct.pack(">II", 60_000, 60_000)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    with pytest.raises(LedposeError, match="cannot be decoded: pixels <="):
        decode_image(bytes(png))


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    for data in (b"", b"hello", b"\xff\xd8\xff" + bytes(50) + b"\xff\xd9"):
        with pytest.raises(LedposeError, match="no image"):
            decode_image(data)
    with pytest.raises(LedposeError, match="unknown image encoding 'webp'"):
        encode_image(np.zeros((4, 4, 3), np.uint8), "webp")
    with pytest.raises(LedposeError, match=r"\(4, 4\)"):
        encode_image(np.zeros((4, 4), np.uint8), "png")
    with pytest.raises(LedposeError, match=r"nothing\.png"):
        read_image(tmp_path / "nothing.png")


def test_read_image_reads_a_file(tmp_path: Path) -> None:
    picture = two_colours(RED, BLUE)
    (tmp_path / "picture.png").write_bytes(encode_image(picture, "png"))
    np.testing.assert_array_equal(read_image(tmp_path / "picture.png"), picture)
