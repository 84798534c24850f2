# SPDX-License-Identifier: Apache-2.0
"""What RViz is told of a peer."""

import math

import numpy as np
import pytest

pytest.importorskip("rclpy")

from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from ledpose_ros.estimator import PeerEstimate
from ledpose_ros.geometry import quaternion_about, rotation_matrix
from ledpose_ros.leds import DEFAULT_LED_DIRECTIONS
from ledpose_ros.nodes.markers import ELLIPSOID_DEVIATIONS, peer_markers

LENGTH, WIDTH, HEIGHT = 0.4, 0.3, 0.2
TURN = quaternion_about(2, math.radians(30))


@pytest.fixture
def markers() -> dict[str, Marker]:
    """Those of one peer, the longest axis of whose uncertainty is x, turned by 30 degrees towards y."""
    covariance = np.zeros((6, 6))
    axes = rotation_matrix(TURN)
    covariance[:3, :3] = axes @ np.diag([0.09, 0.01, 0.04]) @ axes.T
    pose = np.array([1.0, 2.0, 3.0, *TURN])
    peer = PeerEstimate(np.zeros(2), 0.0, 0.9, np.array([1.0, 0.0, 0.5, 0.0]), 3.5, pose, covariance)
    size = LENGTH, WIDTH, HEIGHT
    found = peer_markers(Header(), [peer], [7], ["anna"], DEFAULT_LED_DIRECTIONS, size, lifetime=2.5).markers
    assert found[0].action == Marker.DELETEALL
    assert all(marker.id == 7 and marker.lifetime.sec == 2 for marker in found[1:])
    return {marker.ns: marker for marker in found[1:]}


def points(marker: Marker) -> list[tuple[float, float, float]]:
    return [(point.x, point.y, point.z) for point in marker.points]


def test_the_robot_has_its_size_and_four_wheels_that_touch_the_floor(markers):
    scale = markers["box"].scale
    assert (scale.x, scale.y, scale.z) == (LENGTH, WIDTH, HEIGHT)
    assert markers["box"].pose.position.y == 2.0
    wheels = markers["wheels"]
    assert {(x > 0, y > 0) for x, y, _ in points(wheels)} == {
        (a, b) for a in (True, False) for b in (True, False)
    }
    assert [z - wheels.scale.z / 2 for *_, z in points(wheels)] == pytest.approx([-HEIGHT / 2] * 4)


def test_the_arrow_points_ahead_and_leds_show_their_state_on_their_side(markers):
    tail, tip = points(markers["heading"])
    assert np.subtract(tip, tail) == pytest.approx([LENGTH, 0, 0])
    front, left, back, right = points(markers["leds"])
    assert front[0] > 0 > back[0] and left[1] > 0 > right[1]
    on, off, unknown, _ = markers["leds"].colors
    assert on.r > unknown.r > off.r


def test_the_ellipsoid_has_the_axes_of_the_covariance(markers):
    spread = markers["uncertainty"]
    turn = spread.pose.orientation
    axes = rotation_matrix(np.array([turn.x, turn.y, turn.z, turn.w]))
    diameters = np.array([spread.scale.x, spread.scale.y, spread.scale.z])
    longest = int(diameters.argmax())
    assert sorted(diameters) == pytest.approx([2 * ELLIPSOID_DEVIATIONS * s for s in (0.1, 0.2, 0.3)])
    assert abs(axes[:, longest] @ rotation_matrix(TURN)[:, 0]) == pytest.approx(1)


def test_the_text_says_who_and_how_far(markers):
    assert markers["text"].text == "7 anna: 3.50 m"
    assert markers["text"].pose.position.z == pytest.approx(3 + HEIGHT)
