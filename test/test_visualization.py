# SPDX-License-Identifier: Apache-2.0
"""Estimates are drawn where they are, and drawing takes whatever an estimator may say."""

import math

import numpy as np
import pytest

from ledpose_ros.estimator import PeerEstimate
from ledpose_ros.geometry import compose_poses
from ledpose_ros.leds import DEFAULT_LED_DIRECTIONS
from ledpose_ros.visualization import draw_attention, draw_peers, led_positions

K = np.array([[300.0, 0.0, 160.0], [0.0, 300.0, 120.0], [0.0, 0.0, 1.0]])
PINHOLE = (K, np.zeros(0), "plumb_bob")
GREY = np.full((240, 320, 3), 90, np.uint8)
SIZE = (0.32, 0.24, 0.27)


def peer(u: float, v: float, distance: float | None) -> PeerEstimate:
    uv, leds = np.array([u, v]), np.array([1.0, 0.0, 0.7, 0.2])
    if distance is None:
        return PeerEstimate(uv, 0.3, 0.9, leds)
    pose = compose_poses(uv[None], np.array([distance]), np.array([0.3]), *PINHOLE)[0]
    return PeerEstimate(uv, 0.3, 0.9, leds, distance, pose, np.eye(6))


def changed(drawn: np.ndarray) -> np.ndarray:
    """Rows and columns of the pixels that differ from the grey picture."""
    return np.argwhere((drawn != GREY).any(axis=2))


def draw(*peers: PeerEstimate) -> np.ndarray:
    return draw_peers(GREY, peers, DEFAULT_LED_DIRECTIONS, *PINHOLE, SIZE)


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
