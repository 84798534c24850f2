# SPDX-License-Identifier: Apache-2.0
"""Estimates are drawn where they are, and drawing takes whatever an estimator may say."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ledpose_ros.estimator import Detections, PeerEstimate
from ledpose_ros.geometry import Camera, compose_poses
from ledpose_ros.leds import DEFAULT_LED_DIRECTIONS
from ledpose_ros.model_metadata import WINDOW_SIDE
from ledpose_ros.visualization import draw_attention, draw_estimates, led_positions

K = np.array([[300.0, 0.0, 160.0], [0.0, 300.0, 120.0], [0.0, 0.0, 1.0]])
PINHOLE = Camera(K, np.zeros(0), "plumb_bob")
GREY = np.full((240, 320, 3), 90, np.uint8)
SIZE = (0.32, 0.24, 0.27)


def peer(u: float, v: float, distance: float | None) -> PeerEstimate:
    uv, leds = np.array([u, v]), np.array([1.0, 0.0, 0.7, 0.2])
    if distance is None:
        return PeerEstimate(uv, 0.3, 0.9, leds)
    pose = compose_poses(uv[None], np.array([distance]), np.array([0.3]), *PINHOLE)[0]
    return PeerEstimate(uv, 0.3, 0.9, leds, distance, pose, np.eye(6))


def peaks(*found: tuple[float, float, float, float]) -> Detections:
    """What a network says that has settled at u, v with a window of this side [px] and this confidence."""
    u, v, side, confidence = np.array(found).reshape(-1, 4).T
    many = len(u)
    return Detections(
        uv=np.column_stack([u, v]),
        log2_scale=np.log2(WINDOW_SIDE / side),
        bearing=np.ones((many, 2)),
        led_probability=np.full((many, 4), 0.5),
        confidence=confidence,
        spread=np.ones((many, 3)),
        attention=np.zeros((30, 40), np.float32),
    )


def draw(*peers: PeerEstimate, more: Sequence[tuple[float, float, float, float]] = ()) -> np.ndarray:
    """Peers as of peaks with small windows, and `more` peaks that are none."""
    seen = peaks(*((*one.uv, 20.0, one.confidence) for one in peers), *more)
    peers = tuple(replace(one, peak=rank) for rank, one in enumerate(peers))
    return draw_estimates(GREY, seen, peers, DEFAULT_LED_DIRECTIONS, PINHOLE, SIZE)


def changed(drawn: np.ndarray) -> np.ndarray:
    """Rows and columns of the pixels that differ from the grey picture."""
    return np.argwhere((drawn != drawn[-1, -1]).any(axis=2))


def test_leds_sit_on_the_sides_of_the_box():
    front, left, back, right = led_positions(DEFAULT_LED_DIRECTIONS, SIZE)
    assert front == pytest.approx([0.16, 0, 0])
    assert left == pytest.approx([0, 0.12, 0], abs=1e-12)
    assert back == pytest.approx([-0.16, 0, 0], abs=1e-12)
    assert right == pytest.approx([0, -0.12, 0], abs=1e-12)
    # A diagonal LED ends on the nearer side.
    assert led_positions([math.radians(45)], SIZE)[0] == pytest.approx([0.12, 0.12, 0])


def test_nobody_leaves_the_picture_alone():
    assert (draw() == GREY).all()


def test_box_has_the_size_of_the_peer_in_the_picture():
    drawn = draw(peer(160, 120, 2.0))
    below = changed(drawn)[changed(drawn)[:, 0] > 120]
    # Half of 0.27 m at about 1.85 m, the box's near side: 22 px below the centre.
    assert below[:, 0].max() == pytest.approx(120 + 300 * 0.135 / 1.85, abs=3)


def test_corners_show_the_window_of_a_place_that_is_no_peer():
    drawn = draw(more=[(160, 120, 60, 0.3)])
    # A window of 60 px: its corners are 30 px from the middle, its sides open, nothing is outside.
    rows, columns = changed(drawn).T
    assert (columns.min(), columns.max()) == pytest.approx((130, 190), abs=1)
    assert (rows.min(), rows.max()) == pytest.approx((90, 150), abs=1)
    assert (drawn[90, 130:140] != GREY[0, 0]).all() and (drawn[90, 150:170] == GREY[0, 0]).all()
    # Pale: grey, and lighter than the picture or the rim of the letters.
    assert (drawn == drawn[..., :1]).all()
    # A small x in the middle, and the confidence above it.
    assert (drawn[120, 160] > 150).all() and (drawn[100:115, 155:185] > 150).any()


def test_peaks_of_no_confidence_or_on_a_peer_are_not_drawn():
    assert (draw(more=[(160, 120, 60, 0.02)]) == GREY).all()
    alone = draw(peer(160, 120, 2.0))
    assert (draw(peer(160, 120, 2.0), more=[(161, 121, 20, 0.5)]) == alone).all()
    assert (draw(peer(160, 120, 2.0), more=[(60, 121, 20, 0.5)]) != alone).any()


def test_lines_and_letters_grow_with_the_picture():
    heights = []
    for height in (180, 360, 720):
        picture, middle = np.full((height, 16 * height // 9, 3), 90, np.uint8), height / 2
        drawn = draw_estimates(picture, peaks((middle, middle, middle, 0.9)), [], (), PINHOLE, SIZE, "14 ms")
        left = changed(drawn[2 * height // 3 :, : height // 5])
        heights.append(left[:, 0].max() - left[:, 0].min())
    # Letters too small to read stay at a size that can be read.
    assert heights[1] == pytest.approx(0.45 / 0.40 * heights[0], rel=0.3)
    assert heights[2] == pytest.approx(2 * heights[1], rel=0.15)


def test_captions_keep_away_from_each_other():
    def green(drawn: np.ndarray) -> np.ndarray:
        red, letters, _ = drawn[:100].astype(int).transpose(2, 0, 1)
        return letters > red + 40

    alone = green(draw(peer(160, 120, None)))
    assert alone.sum() > 50
    assert (green(draw(peer(160, 120, None), peer(175, 120, None))) == alone).all()


def test_a_surer_place_without_a_pose_is_not_taken_for_the_peer():
    """As one in a corner that the lens's distortion folds back."""
    seen = peaks((20, 20, 20, 0.95), (160, 120, 20, 0.9))
    of_it = replace(peer(160, 120, 1.0), peak=1)
    drawn = draw_estimates(GREY, seen, [of_it], DEFAULT_LED_DIRECTIONS, PINHOLE, SIZE)
    alone = draw(of_it)
    near = (slice(60, 240), slice(80, 320))
    assert (drawn[near] == alone[near]).all() and (drawn[:60, :60] != GREY[:60, :60]).any()


def test_drawing_does_not_touch_the_original():
    before = GREY.copy()
    draw(peer(160, 120, 1.0), peer(40, 60, 3.0))
    assert (before == GREY).all()


@pytest.mark.parametrize(
    "estimate",
    [peer(160, 120, None), peer(0, 0, 2.0), peer(319, 239, 0.5), peer(160, 120, 0.05), peer(-5000, 120, 1e6)],
    ids=["no scale", "corner", "cut off", "around the camera", "far outside"],
)
def test_odd_estimates_are_drawn_all_the_same(estimate):
    assert draw(estimate).shape == GREY.shape


def test_attention_tints_where_it_is_concentrated():
    peaked = np.zeros((30, 40), np.float32)
    peaked[10, 20] = 1.0
    tinted = draw_attention(GREY, peaked).astype(int) - GREY
    assert np.abs(tinted[84, 164]).max() > 40
    assert np.abs(tinted[200, 40]).max() == 0
    even = draw_attention(GREY, np.full((30, 40), 1 / 1200, np.float32))
    assert np.abs(even.astype(int) - GREY).max() <= 3
