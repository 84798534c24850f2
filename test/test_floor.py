# SPDX-License-Identifier: Apache-2.0
"""What the floor tells of positions, by hand."""

import math

import numpy as np
import pytest

from ledpose_ros.estimator import PeerEstimate
from ledpose_ros.floor import at_base, stand_on_floor
from ledpose_ros.geometry import LEVEL_CAMERA, camera_tilt


def estimate(position: list[float], along: float = 0.3, across: float = 0.01) -> PeerEstimate:
    """A peer there in the optical frame, less sure along the ray than across it [m]."""
    point = np.array(position)
    ray = point / np.linalg.norm(point)
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = across**2 * np.eye(3) + (along**2 - across**2) * np.outer(ray, ray)
    covariance[3:, 3:] = np.eye(3)
    pose = np.concatenate([point, LEVEL_CAMERA])
    return PeerEstimate(
        np.zeros(2), 0.0, 1.0, np.full(4, 0.5), float(np.linalg.norm(point)), pose, covariance
    )


def camera(height: float, pitch: float = 0.0) -> np.ndarray:
    return np.array([0, 0, height, *camera_tilt(pitch, 0.0)])


def test_camera_that_looks_down_learns_the_distance_from_the_floor():
    """1 m above the floor, a ray 30 degrees below the horizon meets it after 2 m, whatever size told."""
    # Tilted by 30 degrees, so that the ray is the optical axis; size told 2.3 m.
    seen = estimate([0.0, 0.0, 2.3])
    placed = stand_on_floor(seen, camera(1.0, math.radians(30)), peer_height=0.0)
    assert placed.distance == pytest.approx(2.0, abs=0.03)
    assert placed.pose[:2] == pytest.approx([0, 0], abs=0.01)
    # Heights to a centimetre and tilt to half a degree: 2 cm of 1 m, seen under 30 degrees.
    assert math.sqrt(placed.covariance[2, 2]) == pytest.approx(0.05, abs=0.015)
    assert np.linalg.eigvalsh(placed.covariance).min() > 0


def test_camera_at_the_height_of_the_peer_learns_nothing_of_the_distance():
    seen = estimate([0.3, 0.0, 2.3])
    placed = stand_on_floor(seen, camera(0.25), peer_height=0.25)
    assert placed.pose[:3] == pytest.approx(seen.pose[:3])
    assert placed.covariance[2, 2] == pytest.approx(seen.covariance[2, 2], rel=1e-3)


def test_peer_on_a_table_stays_there():
    seen = estimate([0.0, -0.5, 2.0], along=0.1)
    assert stand_on_floor(seen, camera(0.5), peer_height=0.0) is seen


def test_base_is_below_the_reference_point_against_gravity():
    seen = estimate([0.0, 0.0, 2.0])
    assert at_base(seen, camera(1.0), 0.1).pose[:3] == pytest.approx([0, 0.1, 2])
    # A camera that looks straight down has the floor at the end of its axis.
    assert at_base(seen, camera(1.0, math.radians(90)), 0.1).pose[:3] == pytest.approx([0, 0, 2.1])
    assert at_base(seen, camera(1.0), 0.0) is seen


def test_without_a_position_there_is_nothing_to_place():
    unknown = PeerEstimate(np.zeros(2), 0.0, 1.0, np.full(4, 0.5))
    assert stand_on_floor(unknown, camera(1.0), 0.0) is unknown
    assert at_base(unknown, camera(1.0), 0.1) is unknown
