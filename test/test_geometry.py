# SPDX-License-Identifier: Apache-2.0
"""The definitions of `ledpose_ros.geometry`, against cases worked by hand."""

import math

import cv2
import numpy as np
import pytest

from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import (
    LEVEL_CAMERA,
    camera_tilt,
    chained_pose,
    check_camera,
    compose_poses,
    depth_per_range,
    distance_from_scale,
    mounted_camera,
    pixel_rays,
    project,
    quaternion_about,
    quaternion_from_matrix,
    quaternion_product,
    relative_bearing,
    rotation_matrix,
    wrap_angle,
)
from ledpose_ros.model_metadata import Calibration

K = np.array([[400.0, 0.0, 320.0], [0.0, 400.0, 180.0], [0.0, 0.0, 1.0]])
NO_DISTORTION = np.zeros(0)
PINHOLE = (K, NO_DISTORTION, "plumb_bob")
CENTRE = np.array([[320.0, 180.0]])

CAMERAS = {
    "pinhole": PINHOLE,
    "plumb_bob": (K, np.array([-0.25, 0.06, 0.001, -0.002, 0.0]), "plumb_bob"),
    "rational_polynomial": (
        K,
        np.array([0.4, -0.1, 0.0005, 0.0003, 0.02, 0.6, -0.05, 0.01]),
        "rational_polynomial",
    ),
    "rational_polynomial of a tilted sensor": (
        K,
        np.array([0.4, -0.1, 0.0005, 0.0003, 0.02, 0.6, -0.05, 0.01, 1e-3, -5e-4, 2e-3, 1e-4, 0.02, -0.01]),
        "rational_polynomial",
    ),
    "equidistant": (K, np.array([0.02, -0.005, 0.001, 0.0]), "equidistant"),
}


def axes_of(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The peer's forward, left and up directions in the optical frame."""
    matrix = rotation_matrix(pose[3:])
    return matrix[:, 0], matrix[:, 1], matrix[:, 2]


def random_poses(generator: np.random.Generator, count: int, tilt: np.ndarray) -> np.ndarray:
    """Upright peers in front of a camera of the given tilt, and inside its picture."""
    positions = generator.uniform([-0.6, -0.35, 1.0], [0.6, 0.35, 1.0], (count, 3))
    positions *= generator.uniform(0.5, 4.0, (count, 1))
    inverse = tilt * np.array([-1.0, -1.0, -1.0, 1.0])
    yaw = generator.uniform(-np.pi, np.pi, count)
    return np.concatenate([positions, quaternion_product(inverse, quaternion_about(2, yaw))], axis=1)


def test_peer_straight_ahead_that_faces_the_camera():
    pose = compose_poses(CENTRE, np.array([2.0]), np.array([0.0]), *PINHOLE)[0]
    forward, left, up = axes_of(pose)
    assert pose[:3] == pytest.approx([0, 0, 2])
    assert forward == pytest.approx([0, 0, -1], abs=1e-12)  # towards the camera
    assert left == pytest.approx([1, 0, 0], abs=1e-12)  # its left is on the camera's right
    assert up == pytest.approx([0, -1, 0], abs=1e-12)


def test_peer_straight_ahead_that_shows_its_left_side():
    pose = compose_poses(CENTRE, np.array([2.0]), np.array([math.pi / 2]), *PINHOLE)[0]
    forward, left, _ = axes_of(pose)
    assert left == pytest.approx([0, 0, -1], abs=1e-12)  # its left side looks at the camera
    assert forward == pytest.approx([-1, 0, 0], abs=1e-12)  # so it drives to the camera's left
    assert relative_bearing(pose[None]) == pytest.approx([math.pi / 2])


def test_peer_off_to_the_right_that_faces_the_camera():
    # 400 px right of the centre at f = 400 px: 45 degrees to the right.
    pose = compose_poses(np.array([[720.0, 180.0]]), np.array([math.sqrt(2)]), np.array([0.0]), *PINHOLE)[0]
    forward, _, up = axes_of(pose)
    assert pose[:3] == pytest.approx([1, 0, 1])
    assert forward == pytest.approx([-math.sqrt(0.5), 0, -math.sqrt(0.5)])  # straight at the camera
    assert up == pytest.approx([0, -1, 0], abs=1e-12)


def test_same_heading_shows_another_side_off_the_axis():
    # Heading along the optical axis: seen from behind when ahead, from behind on its left when to the right.
    away = np.array([0.5, -0.5, 0.5, 0.5])
    assert rotation_matrix(away)[:, 0] == pytest.approx([0, 0, 1])
    poses = np.array([[0, 0, 2, *away], [2, 0, 2, *away]])
    assert np.abs(relative_bearing(poses)) == pytest.approx([math.pi, 3 * math.pi / 4])
    assert relative_bearing(poses)[1] == pytest.approx(3 * math.pi / 4)  # positive: its left side


def test_camera_that_looks_down():
    # Pitched down by 30 degrees, peer in the image centre: up is tilted towards the camera in the picture.
    tilt = camera_tilt(math.radians(30), 0.0)
    pose = compose_poses(CENTRE, np.array([2.0]), np.array([0.0]), *PINHOLE, tilt)[0]
    forward, left, up = axes_of(pose)
    assert pose[:3] == pytest.approx([0, 0, 2])  # position does not depend on tilt
    assert up == pytest.approx([0, -math.cos(math.radians(30)), -math.sin(math.radians(30))])
    assert left == pytest.approx([1, 0, 0], abs=1e-12)
    assert forward == pytest.approx([0, 0.5, -math.cos(math.radians(30))])


def test_camera_that_is_rolled():
    # Right side lowered by 90 degrees: the world's up is the picture's left.
    tilt = camera_tilt(0.0, math.pi / 2)
    pose = compose_poses(CENTRE, np.array([1.0]), np.array([0.0]), *PINHOLE, tilt)[0]
    assert axes_of(pose)[2] == pytest.approx([-1, 0, 0], abs=1e-12)


def test_level_camera_turns_optical_axes_into_body_axes():
    assert rotation_matrix(LEVEL_CAMERA) == pytest.approx(np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]))


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS.keys())
@pytest.mark.parametrize("tilt", [LEVEL_CAMERA, camera_tilt(0.3, -0.2)], ids=["level", "tilted"])
def test_pose_survives_bearing_and_projection(camera, tilt):
    poses = random_poses(np.random.default_rng(1), 200, tilt)
    uv = project(poses[:, :3], *camera)
    distance = np.linalg.norm(poses[:, :3], axis=1)
    again = compose_poses(uv, distance, relative_bearing(poses), *camera, tilt)
    # The bearing is defined in the peer's x-y plane, which is the level plane here.
    assert again[:, :3] == pytest.approx(poses[:, :3], abs=1e-6)
    assert rotation_matrix(again[:, 3:]) == pytest.approx(rotation_matrix(poses[:, 3:]), abs=1e-6)


def test_bearing_of_a_tilted_peer_is_projected_on_its_own_plane():
    # Peer ahead, facing the camera, then rolled by 60 degrees about its forward axis: still its front.
    facing = compose_poses(CENTRE, np.array([1.0]), np.array([0.0]), *PINHOLE)[0]
    rolled = np.concatenate(
        [facing[:3], quaternion_product(facing[3:], quaternion_about(0, math.radians(60)))]
    )
    assert relative_bearing(rolled[None]) == pytest.approx([0], abs=1e-12)


def test_equidistant_agrees_with_opencv():
    points = np.random.default_rng(2).uniform([-1, -1, 0.5], [1, 1, 2], (50, 3))
    fisheye_K, D, model = CAMERAS["equidistant"]
    expected = cv2.fisheye.projectPoints(points[:, None], np.zeros(3), np.zeros(3), fisheye_K, D)[0].reshape(
        -1, 2
    )
    assert project(points, fisheye_K, D, model) == pytest.approx(expected, abs=1e-6)


def test_equidistant_sees_sideways():
    uv = np.array([[320.0 + 400.0 * math.pi / 2, 180.0], [320.0, 180.0]])
    rays = pixel_rays(uv, K, NO_DISTORTION, "equidistant")
    assert rays == pytest.approx(np.array([[1.0, 0, 0], [0, 0, 1.0]]), abs=1e-9)


def test_corners_that_a_fisheye_calibration_does_not_reach_have_no_ray():
    # theta - theta^3 / 3 grows up to 2 / 3 at 1 rad, 267 px, and falls from there; at 0.5 rad it is 11 / 24.
    folding = K, np.array([-1 / 3, 0, 0, 0]), "equidistant"
    uv = CENTRE + np.array(
        [[400 * 11 / 24, 0], [400 * (0.95 - 0.95**3 / 3), 0], [280, 0], [0, 1000], [-400, 0]]
    )
    rays = pixel_rays(uv, *folding)
    angles = np.arctan2(np.linalg.norm(rays[:, :2], axis=1), rays[:, 2])
    assert angles == pytest.approx([0.5, 0.95, math.nan, math.nan, math.nan], abs=1e-9, nan_ok=True)


@pytest.mark.parametrize(
    "D", [[0.4, -0.15, 0, 0], [0.394, -0.0517, -0.012, 0], [-0.3, 0.9, -0.8, 0.2], [0.1, 0.2, 0.3, 0.4]]
)
def test_fisheye_rays_are_those_that_are_seen_there_up_to_the_fold(D):
    """Most of all where the image radius grows faster than the angle, and stops growing farther out."""
    theta = np.linspace(0, 3.1, 400)
    radius = theta + D[0] * theta**3 + D[1] * theta**5 + D[2] * theta**7 + D[3] * theta**9
    grows = np.diff(radius) > 1e-4
    theta = theta[: len(theta) if grows.all() else int(np.argmin(grows))]
    seen = np.column_stack([np.sin(theta), np.zeros_like(theta), np.cos(theta)])
    camera = K, np.array(D, float), "equidistant"
    np.testing.assert_allclose(pixel_rays(project(seen, *camera), *camera), seen, atol=1e-6)


def test_pixels_that_a_distortion_folds_back_have_no_ray():
    camera = np.array([[260.0, 0, 319.5], [0, 260.0, 239.5], [0, 0, 1]]), np.array([-0.3, 0.09, 0, 0, -0.012])
    u, v = np.meshgrid(np.arange(0, 640, 20), np.arange(0, 480, 20))
    uv = np.column_stack([u.ravel(), v.ravel()])
    rays = pixel_rays(uv, *camera, "plumb_bob")
    known = np.isfinite(rays).all(1)
    assert np.isfinite(rays).any(1).tolist() == known.tolist()
    assert 0.5 < known.mean() < 0.9
    # What is near the middle is known, the corners are not.
    radius = np.linalg.norm(uv - [319.5, 239.5], axis=1)
    assert known[radius < 150].all() and not known[radius > 320].any()
    assert np.abs(project(rays[known], *camera, "plumb_bob") - uv[known]).max() < 1.0


def test_points_behind_a_pinhole_camera_have_no_pixel():
    uv = project(np.array([[0, 0, -1.0], [0, 0, 1.0]]), *PINHOLE)
    assert np.isnan(uv[0]).all()
    assert uv[1] == pytest.approx([320, 180])


def test_no_pixels_give_no_rays():
    assert pixel_rays(np.zeros((0, 2)), *PINHOLE).shape == (0, 3)
    assert compose_poses(np.zeros((0, 2)), np.zeros(0), np.zeros(0), *PINHOLE).shape == (0, 7)


def calibration(focal_length: float | None = 400.0) -> Calibration:
    return Calibration(c=1.0, images=1, residual=0.0, width=640, focal_length=focal_length)


def test_distance_in_the_centre_is_the_papers():
    distance = distance_from_scale(np.array([0.5]), np.array([[0, 0, 1.0]]), calibration(), *PINHOLE, 640)
    assert distance == pytest.approx([2**1.5])


def test_distance_off_the_centre_is_longer_than_depth():
    ray = np.array([[0.6, 0, 0.8]])
    assert distance_from_scale(np.array([0.0]), ray, calibration(), *PINHOLE, 640) == pytest.approx([2 / 0.8])


def test_distance_follows_the_perspective_of_an_upright_rod():
    # A rod of 0.3 m: what the scale measures is its length in the picture, so that scale ~ 1 / length.
    generator = np.random.default_rng(3)
    centres = generator.uniform([-1.5, -0.4, 1], [1.5, 0.4, 3], (20, 3))
    half = np.array([0, 0.15, 0])
    length = np.linalg.norm(project(centres + half, *PINHOLE) - project(centres - half, *PINHOLE), axis=1)
    reference = calibration()
    log2_scale = np.log2(400 * 0.3 / length) - reference.c
    rays = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    distance = distance_from_scale(log2_scale, rays, reference, *PINHOLE, 640)
    assert distance == pytest.approx(np.linalg.norm(centres, axis=1))


def test_a_longer_lens_brings_the_peer_closer():
    ray = np.array([[0, 0, 1.0]])
    long = np.diag([800.0, 800.0, 1.0]), NO_DISTORTION, "plumb_bob"
    assert distance_from_scale(np.array([0.0]), ray, calibration(), *long, 640) == pytest.approx([4.0])
    # Unknown focal length at calibration: the same lens at twice the width.
    assert distance_from_scale(np.array([0.0]), ray, calibration(None), *long, 1280) == pytest.approx([4.0])


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS.keys())
@pytest.mark.parametrize("degrees", [1, 20, 38])
def test_distance_beside_the_centre_of_any_lens(camera, degrees):
    # A short rod at right angles to the direction from the image's centre, 2 m away, and its length there.
    theta = math.radians(degrees)
    ray = np.array([[math.sin(theta), 0, math.cos(theta)]])
    points = 2.0 * ray + np.array([[0, 0.01, 0], [0, -0.01, 0]])
    top, bottom = project(points, *camera)
    length = np.linalg.norm(top - bottom)
    log2_scale = np.array([np.log2(400 * 0.02 / length) - 1.0])
    distance = distance_from_scale(log2_scale, ray, calibration(), *camera, 640)
    # Tangential distortion of 0.001 is all that makes it matter where around the centre the rod is.
    assert distance == pytest.approx([2.0], rel=5e-3)


def test_size_beside_the_centre_by_hand():
    ray = np.array([[0.6, 0, 0.8]])
    assert depth_per_range(ray, *PINHOLE) == pytest.approx([0.8])
    # At r = 3/4 a barrel distortion of k1 = -0.2 leaves 1 - 0.2 * 9/16 = 0.8875 of the length.
    barrel = K, np.array([-0.2, 0, 0, 0]), "plumb_bob"
    assert depth_per_range(ray, *barrel) == pytest.approx([0.8 / 0.8875])
    # The radius of an ideal fisheye image is the angle, 36.87 degrees; k1 adds 0.1 of its square.
    theta = math.asin(0.6)
    assert depth_per_range(ray, K, NO_DISTORTION, "equidistant") == pytest.approx([0.6 / theta])
    fisheye = K, np.array([0.1, 0, 0, 0]), "equidistant"
    assert depth_per_range(ray, *fisheye) == pytest.approx([0.6 / (theta * (1 + 0.1 * theta**2))])
    for camera in CAMERAS.values():
        assert depth_per_range(np.array([[0, 0, 1.0]]), *camera) == [1]


@pytest.mark.parametrize(
    ("bad_K", "D", "model", "words"),
    [
        (np.zeros(9), [], "plumb_bob", "not calibrated"),
        (np.full(9, np.nan), [], "plumb_bob", "not calibrated"),
        (np.eye(2), [], "plumb_bob", "not calibrated"),
        (K + 5 * np.eye(3, k=1), [], "plumb_bob", "skew"),
        (K * [[1], [1], [0]], [], "plumb_bob", r"K\[8\] 1"),
        (K, [0.1], "plumb_bob", "0 or 4 or 5"),
        (K, [0.1, np.nan, 0, 0], "equidistant", "finite"),
        (K, [0.1, 0, 0, 0], "kannala", "'kannala' is unknown"),
        (K, [0.1, 0, 0, 0], "", "'' is unknown"),
    ],
)
def test_unusable_cameras_are_refused(bad_K, D, model, words):
    with pytest.raises(LedposeError, match=words):
        check_camera(bad_K, np.array(D), model)


def test_camera_without_distortion_needs_no_model_name():
    _, D, model = check_camera(K.ravel(), np.zeros(5), "")
    assert (D.size, model) == (0, "plumb_bob")


def test_wrap_angle():
    assert wrap_angle(np.array([0.0, math.pi, -math.pi, 3 * math.pi, 7.0])) == pytest.approx(
        [0.0, -math.pi, -math.pi, -math.pi, 7.0 - 2 * math.pi]
    )


def test_quaternion_of_a_matrix_is_that_of_its_rotation():
    rng = np.random.default_rng(0)
    turns = rng.normal(size=(50, 4))
    turns /= np.linalg.norm(turns, axis=1, keepdims=True)
    # Half turns too, where formulas by cases divide by zero.
    for turn in (*turns, *np.eye(4)):
        found = quaternion_from_matrix(rotation_matrix(turn))
        assert abs(found @ turn) == pytest.approx(1)


def test_chained_pose_by_hand():
    """A camera 0.2 m before the middle of a robot at (1, 2) that looks along +y: it is at (1, 2.2)."""
    robot = np.array([1.0, 2.0, 0.0, *quaternion_about(2, np.pi / 2)])
    camera = np.array([0.2, 0.0, 0.3, *quaternion_about(2, 0.0)])
    assert chained_pose(robot, camera) == pytest.approx([1, 2.2, 0.3, *quaternion_about(2, np.pi / 2)])


def test_a_camera_on_a_robot():
    """It looks to the left and 30 degrees down; z is forward, x right and y down in its own frame."""
    pose = mounted_camera((0.1, 0.2, 0.3), math.pi / 2, math.radians(30), 0.0)
    assert pose[:3].tolist() == [0.1, 0.2, 0.3]
    right, down, forward = rotation_matrix(pose[3:]).T
    assert forward == pytest.approx([0, math.cos(math.pi / 6), -0.5])
    assert right == pytest.approx([1, 0, 0])
    assert down == pytest.approx([0, -0.5, -math.cos(math.pi / 6)])
