# SPDX-License-Identifier: Apache-2.0
"""What a CameraInfo says of its images: regions, binning, rectified ones, stereo pairs."""

from types import SimpleNamespace

import pytest

from ledpose_ros import recording_session
from ledpose_ros.camera_info import camera_from_info, image_size
from ledpose_ros.errors import LedposeError

# The middle of 1280x720 pixels is (639.5, 359.5).
K = [800.0, 0, 639.5, 0, 790.0, 359.5, 0, 0, 1]
P = [700.0, 0, 650.5, 0, 0, 700.0, 349.5, 0, 0, 0, 1, 0]


def info(
    binning: tuple[int, int] = (0, 0), region: tuple[int, int, int, int] = (0, 0, 0, 0), **fields: object
):
    x, y, width, height = region
    roi = SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height, do_rectify=False)
    told = {
        "width": 1280,
        "height": 720,
        "k": K,
        "d": [0.1, 0, 0, 0, 0],
        "distortion_model": "plumb_bob",
        "p": P,
    }
    return SimpleNamespace(**(told | {"binning_x": binning[0], "binning_y": binning[1], "roi": roi} | fields))


@pytest.mark.parametrize(
    ("binning", "region", "size", "focal_lengths", "centre"),
    [
        # All zero is the same as no binning and the whole image.
        ((0, 0), (0, 0, 0, 0), (1280, 720), (800, 790), (639.5, 359.5)),
        ((1, 1), (0, 0, 1280, 720), (1280, 720), (800, 790), (639.5, 359.5)),
        # The middle of 640x360 pixels is (319.5, 179.5), whatever they are made of.
        ((2, 2), (0, 0, 0, 0), (640, 360), (400, 395), (319.5, 179.5)),
        ((0, 0), (320, 180, 640, 360), (640, 360), (800, 790), (319.5, 179.5)),
        # The region is told in pixels of the sensor: its middle half, then four pixels to one.
        ((2, 2), (320, 180, 640, 360), (320, 180), (400, 395), (159.5, 89.5)),
        # The right half, whose left border is 0.5 px right of the principal point; only rows are binned.
        ((1, 2), (640, 0, 640, 720), (640, 360), (800, 395), (-0.5, 179.5)),
    ],
)
def test_regions_and_binning(binning, region, size, focal_lengths, centre):
    told = info(binning, region)
    assert image_size(told) == size
    camera = camera_from_info(told)
    fx, _, cx, _, fy, cy, *rest = camera.K.ravel().tolist()
    assert (fx, fy) == pytest.approx(focal_lengths)
    assert (cx, cy) == pytest.approx(centre)
    assert rest == [0, 0, 1]
    assert (camera.D.tolist(), camera.distortion_model) == ([0.1, 0, 0, 0, 0], "plumb_bob")
    assert told.k == K, "the message stays as it was"


def test_rectified_images_have_the_camera_of_the_projection_matrix():
    camera = camera_from_info(info(), is_rectified=True)
    assert camera.K.tolist() == [[700, 0, 650.5], [0, 700, 349.5], [0, 0, 1]]
    assert (camera.D.size, camera.distortion_model) == (0, "plumb_bob")
    # (650.5 + 0.5) / 2 - 0.5
    assert camera_from_info(info((2, 2)), is_rectified=True).K[0].tolist() == [350, 0, 325]
    # It does not matter there what the raw image is like.
    assert camera_from_info(info(distortion_model="unheard of"), is_rectified=True).K[0, 0] == 700


@pytest.mark.parametrize(
    ("fields", "is_rectified", "words"),
    [
        ({"k": [0.0] * 9}, False, "the camera is not calibrated"),
        ({"distortion_model": "unheard of"}, False, "'unheard of' is unknown"),
        ({"p": [0.0] * 12}, True, "says nothing of rectified images"),
        # Tx = -f B: -84 px m is a baseline of 0.12 m at 700 px.
        ({"p": [*P[:3], -84.0, *P[4:]]}, True, r"second camera of a stereo pair, 0.12 m beside"),
        ({"p": [*P[:7], -84.0, *P[8:]]}, True, r"second camera of a stereo pair, 0.12 m beside"),
    ],
)
def test_unusable_cameras_are_refused(fields, is_rectified, words):
    with pytest.raises(LedposeError, match=words):
        camera_from_info(info(**fields), is_rectified)


def test_raw_images_of_the_second_camera_of_a_pair_are_its_own():
    assert camera_from_info(info(p=[*P[:3], -84.0, *P[4:]])).K.ravel().tolist() == K


def test_recordings_have_the_camera_of_their_images():
    camera = recording_session.Camera.from_message(info((2, 2), (320, 180, 640, 360)))
    assert (camera.width, camera.height) == (320, 180)
    assert camera.K.tolist() == [[400, 0, 159.5], [0, 395, 89.5], [0, 0, 1]]
