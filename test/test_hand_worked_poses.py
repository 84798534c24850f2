# SPDX-License-Identifier: Apache-2.0
"""From pixels to poses, for each distortion model and tilt of the camera, with every number worked by hand.

The world is the base frame of the camera's robot: x forward, y left, z up, z = 0 on the floor. A camera is at
CAMERA_AT in it; peers stand on the floor, with the reference point PEER_HEIGHT above it. What the camera sees
of them is worked out here from the definitions of CameraInfo and OpenCV, without the code under test.
"""

import dataclasses
import math

import numpy as np
import pytest
from test_camera_info import info

from ledpose_ros.camera_info import camera_from_info
from ledpose_ros.estimator import Detections, PeerEstimate, locate
from ledpose_ros.floor import at_base, stand_on_floor
from ledpose_ros.geometry import (
    camera_tilt,
    chained_pose,
    mounted_camera,
    pixel_rays,
    quaternion_about,
    quaternion_product,
    rotation_matrix,
)
from ledpose_ros.model_metadata import Calibration

WIDTH = 640
CALIBRATION = Calibration(c=1.0, images=1, residual=0.05, width=WIDTH, focal_length=500.0)
CAMERA_AT = np.array([0.1, -0.05, 0.4])
PEER_HEIGHT = 0.12
ABOVE_FLOOR = np.array([0, 0, PEER_HEIGHT])
RIGHT, LEFT, UP, FORWARD = np.array([[0, -1.0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 0, 0]])

# Sides of right-angled triangles: the sine of 16.3 degrees is 7/25, its cosine 24/25; of 11.4 degrees 20/101
# and 99/101.
PITCH, ROLL = math.atan2(7, 24), math.atan2(20, 99)


def optical_axes(pitch: float, roll: float) -> np.ndarray:
    """The camera's right, down and forward (its x, y, z) in the base frame, as columns.

    A level camera looks along +x, its right is -y, its down -z. Looking down by `pitch` turns forward
    towards the floor and down towards the robot's back; right stays. Then `roll` about the viewing axis
    lowers right towards the down of before, and carries down to the left.
    """
    forward = math.cos(pitch) * FORWARD - math.sin(pitch) * UP
    down = -math.cos(pitch) * UP - math.sin(pitch) * FORWARD
    return np.column_stack(
        [
            math.cos(roll) * RIGHT + math.sin(roll) * down,
            math.cos(roll) * down + math.sin(roll) * LEFT,
            forward,
        ]
    )


# Pitch, roll and heading of the camera; a heading to the left carries all axes with it about z.
TILTS = {
    "level": (0.0, 0.0, 0.0),
    "pitched": (PITCH, 0.0, 0.0),
    "looks up": (-PITCH, 0.0, 0.0),
    "rolled": (0.0, ROLL, 0.0),
    "pitched and rolled": (PITCH, -ROLL, 0.0),
    "pitched, rolled and turned": (PITCH, ROLL, math.radians(10)),
}


def turn_left(heading: float) -> np.ndarray:
    """The rotation matrix about z."""
    c, s = math.cos(heading), math.sin(heading)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


@dataclasses.dataclass(frozen=True)
class Peer:
    """Place on the floor relative to the camera's foot, heading in the base frame, and psi worked by hand."""

    x: float
    y: float
    heading: float
    psi: float


PEERS = {
    # 5, 12, 13: the camera is at (-12, -5)/13 from it, and it drives there.
    "faces the camera": Peer(1.2, 0.5, math.atan2(-5, -12), 0.0),
    # It drives to the camera's left, +y; the left of +y is -x, where the camera is.
    "shows its left side": Peer(1.5, 0.0, math.pi / 2, math.pi / 2),
    # It drives to the camera's right.
    "shows its right side": Peer(1.5, 0.0, -math.pi / 2, -math.pi / 2),
    # It drives along +x like the camera, to whose right it is: the camera is 2 behind and 0.8 to the left.
    "from behind on its left": Peer(2.0, -0.8, 0.0, math.pi - math.atan(0.4)),
    # Camera at (-2, -0.8) from it, in its axes turned by 30 degrees: azimuth 180 + 21.8, less 30 degrees.
    "turned by 30 degrees": Peer(2.0, 0.8, math.pi / 6, math.atan(0.4) + math.pi - math.pi / 6),
}


def radial_and_tangential(x: float, y: float, D: list[float]) -> tuple[float, float]:
    """OpenCV's distortion: k1 k2 p1 p2 k3, k4 k5 k6 in the denominator, s1..s4 of a thin prism."""
    k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4 = [*D, *[0.0] * (12 - len(D))]
    r2 = x * x + y * y
    radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + s1 * r2 + s2 * r2**2,
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y + s3 * r2 + s4 * r2**2,
    )


def pixel(point: np.ndarray, K: np.ndarray, D: list[float], model: str) -> np.ndarray:
    """The pixel of a point in the optical frame."""
    x, y, z = point
    if model == "equidistant":
        # The image radius is a polynomial of the angle to the optical axis.
        theta = math.atan2(math.hypot(x, y), z)
        radius = theta * (1 + sum(k * theta ** (2 * n) for n, k in enumerate(D, start=1)))
        u, v = radius * x / math.hypot(x, y), radius * y / math.hypot(x, y)
    else:
        u, v = radial_and_tangential(x / z, y / z, D)
    return K[:2, :2] @ [u, v] + K[:2, 2]


K = np.array([[500.0, 0, 320.0], [0, 500.0, 175.0], [0, 0, 1]])
LENSES = {
    "pinhole": ([], "plumb_bob"),
    "plumb_bob of 4": ([-0.3, 0.1, 0.001, -0.002], "plumb_bob"),
    "plumb_bob of 5": ([-0.3, 0.1, 0.001, -0.002, -0.01], "plumb_bob"),
    "rational_polynomial of 8": ([0.4, -0.1, 5e-4, 3e-4, 0.02, 0.6, -0.05, 0.01], "rational_polynomial"),
    "rational_polynomial of 12": (
        [0.4, -0.1, 5e-4, 3e-4, 0.02, 0.6, -0.05, 0.01, 1e-3, -5e-4, 2e-3, 1e-4],
        "rational_polynomial",
    ),
    "equidistant": ([-0.03, 0.01, -0.004, 0.001], "equidistant"),
    "ideal equidistant": ([], "equidistant"),
}


# Tangential distortion of 0.002 changes the size of peers by so much and more in one direction than in
# another; the estimator leaves that out.
TANGENTIAL = 4e-3


@dataclasses.dataclass(frozen=True)
class Scene:
    """One peer before one camera."""

    peer: Peer
    pitch: float
    roll: float
    yaw: float

    @property
    def axes(self) -> np.ndarray:
        """The camera's axes in the base frame, as columns."""
        return turn_left(self.yaw) @ optical_axes(self.pitch, self.roll)

    @property
    def foot(self) -> np.ndarray:
        """Where the peer stands in the base frame: before the camera, that is turned with it."""
        ground = np.array([CAMERA_AT[0], CAMERA_AT[1], 0.0])
        return ground + turn_left(self.yaw) @ [self.peer.x, self.peer.y, 0.0]

    @property
    def reference(self) -> np.ndarray:
        """The reference point in the optical frame."""
        return self.axes.T @ (self.foot + ABOVE_FLOOR - CAMERA_AT)

    @property
    def body(self) -> np.ndarray:
        """The peer's axes in the base frame, as columns."""
        return turn_left(self.yaw + self.peer.heading)

    @property
    def mount(self) -> np.ndarray:
        """Pose of the optical frame in the base frame, as the node makes it of its parameters."""
        tilt = quaternion_product(quaternion_about(2, self.yaw), camera_tilt(self.pitch, self.roll))
        return np.concatenate([CAMERA_AT, tilt])

    def detections(self, K: np.ndarray, D: list[float], model: str, enlarged: float = 1.0) -> Detections:
        """What a network without error says of the peer, or one to which it appears larger.

        A rod of 1 cm across the direction from the image's centre is f * 1 cm / length metres deep; c = 1.
        """
        point = self.reference
        across = np.array([-point[1], point[0], 0]) / math.hypot(point[0], point[1]) * 0.005
        length = np.linalg.norm(pixel(point + across, K, D, model) - pixel(point - across, K, D, model))
        log2_scale = math.log2(500.0 * 0.01 / (length * enlarged)) - CALIBRATION.c
        return Detections(
            uv=pixel(point, K, D, model)[None],
            log2_scale=np.array([log2_scale]),
            bearing=np.array([[math.cos(self.peer.psi), math.sin(self.peer.psi)]]),
            led_probability=np.full((1, 4), 0.5),
            confidence=np.ones(1),
            spread=np.array([[2.0, 2.0, 0.2]]),
            attention=np.ones((1, 1)),
        )


def located(scene: Scene, K: np.ndarray, D: list[float], model: str, enlarged: float = 1.0) -> PeerEstimate:
    seen = scene.detections(K, D, model, enlarged)
    (peer,) = locate(seen, CALIBRATION, K, np.array(D), model, WIDTH, 0.0, scene.mount[3:])
    return peer


def check_pose(scene: Scene, peer: PeerEstimate, tolerance: float = 1e-4) -> None:
    """Ray, range, bearing, and the pose in the optical frame and in the base frame are those of the scene."""
    point, metres = scene.reference, np.linalg.norm(scene.reference)
    assert peer.distance == pytest.approx(metres, rel=tolerance)
    assert peer.pose[:3] / peer.distance == pytest.approx(point / metres, abs=1e-7)
    assert math.remainder(peer.psi - scene.peer.psi, 2 * math.pi) == pytest.approx(0, abs=1e-6)
    assert rotation_matrix(peer.pose[3:]) == pytest.approx(scene.axes.T @ scene.body, abs=1e-6)
    in_base = chained_pose(scene.mount, peer.pose)
    assert in_base[:3] == pytest.approx(scene.foot + ABOVE_FLOOR, abs=tolerance * metres)
    assert rotation_matrix(in_base[3:]) == pytest.approx(scene.body, abs=1e-6)


scenes = pytest.mark.parametrize(
    "scene",
    [Scene(peer, *tilt) for tilt in TILTS.values() for peer in PEERS.values()],
    ids=[f"{tilt}, {peer}" for tilt in TILTS for peer in PEERS],
)
lenses = pytest.mark.parametrize(("D", "model"), LENSES.values(), ids=LENSES.keys())


@lenses
@scenes
def test_pose_in_the_raw_image(scene, D, model):
    check_pose(scene, located(scene, K, D, model), TANGENTIAL if D and model != "equidistant" else 1e-4)


@pytest.mark.parametrize("roll", [0, 90, 180, -90])
def test_the_reference_point_is_lower_and_ahead_however_the_camera_is_rolled(roll):
    """A peer in the middle of the picture, 2 m ahead, that shows its left side: its front is on the left.

    A window side is 72 px, 72 / 500 * 2 m: half of one is 0.144 m, a quarter 0.072 m.
    """
    calibration = dataclasses.replace(CALIBRATION, offset=0.5, forward=0.25)
    mount = mounted_camera(np.zeros(3), 0.0, 0.0, math.radians(roll))
    spread = np.array([[2.0, 2.0, 0.2]])
    seen = Detections(
        K[None, :2, 2], np.zeros(1), np.array([[0.0, 1.0]]), np.ones((1, 4)), np.ones(1), spread, np.ones(1)
    )
    (peer,) = locate(seen, calibration, K, np.zeros(0), "plumb_bob", WIDTH, 0.0, mount[3:])
    assert chained_pose(mount, peer.pose)[:3] == pytest.approx([2.0, 0.072, -0.144], abs=1e-9)


@scenes
def test_the_base_of_the_peer_is_on_the_floor(scene):
    peer = at_base(located(scene, K, *LENSES["equidistant"]), scene.mount, PEER_HEIGHT)
    assert peer.pose[:3] == pytest.approx(scene.axes.T @ (scene.foot - CAMERA_AT), abs=3e-4)
    in_base = chained_pose(scene.mount, peer.pose)
    assert in_base[:3] == pytest.approx(scene.foot, abs=3e-4)
    assert rotation_matrix(in_base[3:]) == pytest.approx(scene.body, abs=1e-6)


@scenes
def test_the_floor_mends_a_wrong_size_and_leaves_a_right_one(scene):
    lens = LENSES["equidistant"]
    right = stand_on_floor(located(scene, K, *lens), scene.mount, PEER_HEIGHT)
    check_pose(scene, right)
    # 10 % too large is 9 % too near: 0.09 * 0.28 m above the floor.
    wrong = located(scene, K, *lens, enlarged=1.1)
    assert chained_pose(scene.mount, wrong.pose)[2] == pytest.approx(PEER_HEIGHT + 0.28 / 11, abs=1e-4)
    mended = stand_on_floor(wrong, scene.mount, PEER_HEIGHT)
    truth = np.linalg.norm(scene.reference)
    assert abs(mended.distance - truth) < 0.5 * abs(wrong.distance - truth)


@scenes
def test_pose_in_the_rectified_image(scene):
    """P has another focal length and principal point than K, as of images rectified to hide the border."""
    P = [420.0, 0, 333.0, 0, 0, 420.0, 160.0, 0, 0, 0, 1, 0]
    x, y, z = scene.reference
    uv = np.array([420 * x / z + 333, 420 * y / z + 160])
    camera = camera_from_info(info(p=P), is_rectified=True)
    ray = pixel_rays(uv[None], *camera)[0]
    assert ray == pytest.approx(scene.reference / np.linalg.norm(scene.reference), abs=1e-9)
    seen = scene.detections(np.array([[420.0, 0, 333], [0, 420.0, 160], [0, 0, 1]]), [], "plumb_bob")
    assert seen.uv[0] == pytest.approx(uv)
    (peer,) = locate(seen, CALIBRATION, *camera, WIDTH, 0.0, scene.mount[3:])
    check_pose(scene, peer)


@scenes
def test_pose_in_a_part_of_the_sensor_whose_pixels_are_binned(scene):
    """The sensor has twice the pixels of the image, which is cut out of it 100 pixels from its left border.

    Pixel 0 of the image is made of the sensor's pixels 100 and 101, with the middle 100.5, pixel u of those
    with the middle 100.5 + 2 u: u = (sensor's - 100.5) / 2. Of the rows the same from 40 on.
    """
    D, model = LENSES["plumb_bob of 5"]
    sensor = np.array([[1000.0, 0, 740.0], [0, 1000.0, 390.0], [0, 0, 1]])
    on_sensor = pixel(scene.reference, sensor, D, model)
    camera = camera_from_info(info((2, 2), (100, 40, 1280, 700), k=sensor.ravel(), d=D))
    ray = pixel_rays((on_sensor - [100.5, 40.5])[None] / 2, *camera)[0]
    assert ray == pytest.approx(scene.reference / np.linalg.norm(scene.reference), abs=1e-7)
    # The image is that of a camera with half the focal length and (740 - 100.5) / 2, (390 - 40.5) / 2.
    image = np.array([[500.0, 0, 319.75], [0, 500.0, 174.75], [0, 0, 1]])
    seen = scene.detections(image, D, model)
    (peer,) = locate(seen, CALIBRATION, *camera, WIDTH, 0.0, scene.mount[3:])
    check_pose(scene, peer, TANGENTIAL)
