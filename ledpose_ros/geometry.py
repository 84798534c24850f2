# SPDX-License-Identifier: Apache-2.0
"""Every geometric definition of the project, in one place.

Frames (REP-103)
    *Optical frame* of the camera: x right, y down, z forward. Images are used as ROS delivers them; `K` and
    `D` of `CameraInfo` define the ray of a pixel. The centre of the top-left pixel is (0, 0).
    *Level frame*: at the camera's centre, z up against gravity, x towards the camera's heading, y left.
    *Body frame* of the peer: x forward, y left, z up, origin at its reference point.

Quantities
    `psi`, relative bearing: direction from the peer to the camera in the peer's body frame, counter-clockwise
    seen from above. 0: the camera sees the peer's front; +pi/2: its left side.
    `distance`: Euclidean range [m] from the camera's optical centre to the peer's reference point. Position
    = distance * unit ray.
    Pose: 7-vector x y z qx qy qz qw of the peer's body frame in the optical frame.

Quaternions are x y z w, float64. Everything is vectorised over the first axis N.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from ledpose_ros.errors import LedposeError

_DISTORTION_COEFFICIENTS = {
    "plumb_bob": (0, 4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (0, 4),
}
_MOST_STEPS = 60  # halving alone gets so far
_UNDISTORT_CRITERIA = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 50, 1e-9)
# How far [px] from where it came from a ray may be seen: farther off, the lens has no ray for the pixel.
_SAME_PIXEL = 1.0


def wrap_angle(angle: np.ndarray | float) -> np.ndarray:
    """Angles [rad] wrapped to [-pi, pi)."""
    return (np.asarray(angle) + np.pi) % (2 * np.pi) - np.pi


# --- quaternions --------------------------------------------------------------------------------------------


def quaternion_about(axis: int, angle: np.ndarray | float) -> np.ndarray:
    """Rotation by `angle` [rad] about coordinate axis 0, 1 or 2, shape (..., 4)."""
    half = np.asarray(angle, dtype=np.float64) / 2
    quaternion = np.zeros((*half.shape, 4))
    quaternion[..., axis] = np.sin(half)
    quaternion[..., 3] = np.cos(half)
    return quaternion


def quaternion_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamilton product: the rotation `b` followed by `a`, shapes (..., 4)."""
    ax, ay, az, aw = np.moveaxis(np.asarray(a, dtype=np.float64), -1, 0)
    bx, by, bz, bw = np.moveaxis(np.asarray(b, dtype=np.float64), -1, 0)
    product = (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )
    return np.stack(product, axis=-1)


def quaternion_inverse(quaternion: np.ndarray) -> np.ndarray:
    """Inverse of unit quaternions (..., 4)."""
    return np.asarray(quaternion) * np.array([-1.0, -1.0, -1.0, 1.0])


def rotation_matrix(quaternion: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4), which need not be normalised."""
    quaternion = np.asarray(quaternion, dtype=np.float64)
    x, y, z, w = (quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)).T
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return np.array(rows).T.swapaxes(-1, -2)


def quaternion_from_matrix(matrix: np.ndarray) -> np.ndarray:
    """The quaternion (4,) of a rotation matrix (3, 3)."""
    # The eigenvector of Bar-Itzhack's matrix (2000) is the quaternion, for every rotation without exceptions.
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = matrix
    symmetric = np.array(
        [
            [xx - yy - zz, xy + yx, xz + zx, zy - yz],
            [xy + yx, yy - xx - zz, yz + zy, xz - zx],
            [xz + zx, yz + zy, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    return np.asarray(np.linalg.eigh(symmetric)[1][:, -1])


def pose_of(message: Any) -> np.ndarray:
    """The pose (7,) x y z qx qy qz qw of a message that has a geometry_msgs/Pose, as a PoseStamped."""
    position, turn = message.pose.position, message.pose.orientation
    return np.array([position.x, position.y, position.z, turn.x, turn.y, turn.z, turn.w])


def chained_pose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The pose (7,) of what has the pose `inner` in a frame that itself has the pose `outer`."""
    position = outer[:3] + rotation_matrix(outer[3:]) @ inner[:3]
    return np.concatenate([position, quaternion_product(outer[3:], inner[3:])])


# --- camera -------------------------------------------------------------------------------------------------


class Camera(NamedTuple):
    """Matrix K (3, 3), distortion coefficients D and distortion model, as in `sensor_msgs/CameraInfo`."""

    K: np.ndarray
    D: np.ndarray
    distortion_model: str


def check_focal_length(focal_length: float | None) -> None:
    """Raise `LedposeError` unless a focal length that was given [px] is above 0."""
    if focal_length is not None and not focal_length > 0:
        raise LedposeError(f"the focal length is {focal_length:g} px, but must be above 0")


def pinhole_camera(focal_length: float, width: int, height: int) -> Camera:
    """An ideal camera with square pixels and a centred principal point; lengths in px."""
    K = np.array([[focal_length, 0, (width - 1) / 2], [0, focal_length, (height - 1) / 2], [0, 0, 1]])
    return Camera(K, np.zeros(5), "plumb_bob")


def check_camera(K: np.ndarray, D: np.ndarray, distortion_model: str) -> Camera:
    """`K` (3, 3), `D` and the model's name, checked and as float64.

    Without distortion coefficients an empty model name means a pinhole camera, as drivers often publish it.
    Raises `LedposeError` for a camera that is not calibrated or whose distortion model is unknown.
    """
    K = np.asarray(K, dtype=np.float64).reshape(-1)
    D = np.asarray(D, dtype=np.float64).reshape(-1)
    if K.size != 9 or not np.isfinite(K).all() or K[0] <= 0 or K[4] <= 0:
        raise LedposeError(
            f"the camera is not calibrated: K is {K.tolist()}, but K[0] and K[4] must be focal lengths "
            "above 0; calibrate the camera and publish the result in camera_info"
        )
    if K[[1, 3, 6, 7]].any() or K[8] != 1:
        raise LedposeError(
            f"K is {K.tolist()}, but skew and the like are not supported: "
            "all but K[0], K[2], K[4] and K[5] must be 0, and K[8] 1; rectify the image instead"
        )
    if distortion_model == "" and not D.any():
        distortion_model, D = "plumb_bob", D[:0]
    if distortion_model not in _DISTORTION_COEFFICIENTS:
        raise LedposeError(
            f"the distortion model '{distortion_model}' is unknown, "
            f"known are {', '.join(_DISTORTION_COEFFICIENTS)}; rectify the image instead"
        )
    if D.size not in _DISTORTION_COEFFICIENTS[distortion_model] or not np.isfinite(D).all():
        wanted = " or ".join(str(count) for count in _DISTORTION_COEFFICIENTS[distortion_model])
        raise LedposeError(
            f"the distortion model '{distortion_model}' needs {wanted} finite coefficients, "
            f"but D is {D.tolist()}; calibrate the camera again"
        )
    return Camera(K.reshape(3, 3), D, distortion_model)


def pixel_rays(uv: np.ndarray, K: np.ndarray, D: np.ndarray, distortion_model: str) -> np.ndarray:
    """Unit rays (N, 3) in the optical frame of pixels `uv` (N, 2).

    NaN where distortion coefficients that were not fitted so far out fold the picture back: nothing is seen
    there by any ray.
    """
    K, D, distortion_model = check_camera(K, D, distortion_model)
    uv = np.asarray(uv, dtype=np.float64).reshape(-1, 2)
    if len(uv) == 0:
        return np.zeros((0, 3))
    if distortion_model == "equidistant":
        return _equidistant_rays(uv, K, D)
    # OpenCV 4 offers the stopping criteria only under the second name; the default stops far too early.
    undistort = getattr(cv2, "undistortPointsIter", cv2.undistortPoints)
    xy = undistort(uv[:, None], K, D, R=np.eye(3), P=np.eye(3), criteria=_UNDISTORT_CRITERIA).reshape(-1, 2)
    rays = np.column_stack([xy, np.ones(len(xy))])
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    if D.any():
        off = np.abs(project(rays, K, D, distortion_model) - uv).max(1)
        rays[~(off < _SAME_PIXEL)] = np.nan
    return rays


def project(points: np.ndarray, K: np.ndarray, D: np.ndarray, distortion_model: str) -> np.ndarray:
    """Pixels (N, 2) of `points` (N, 3) in the optical frame; NaN where the lens cannot see the point."""
    K, D, distortion_model = check_camera(K, D, distortion_model)
    points = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    if distortion_model == "equidistant":
        return _equidistant_project(points, K, D)
    uv = np.full((len(points), 2), np.nan)
    in_front = points[:, 2] > 0
    if in_front.any():
        uv[in_front] = cv2.projectPoints(points[in_front], np.zeros(3), np.zeros(3), K, D)[0].reshape(-1, 2)
    return uv


def _equidistant_polynomial(D: np.ndarray) -> np.polynomial.Polynomial:
    """Image radius at focal length 1 of the angle theta to the optical axis: theta + k1 theta^3 + ..."""
    coefficients = np.zeros(10)
    coefficients[1] = 1.0
    coefficients[3 : 3 + 2 * D.size : 2] = D
    return np.polynomial.Polynomial(coefficients)


def _equidistant_rays(uv: np.ndarray, K: np.ndarray, D: np.ndarray) -> np.ndarray:
    # Not cv2.fisheye.undistortPoints: it returns tangents, which end at 90 degrees where the lens does not.
    xy = np.linalg.solve(K, np.column_stack([uv, np.ones(len(uv))]).T)[:2].T
    radius = np.linalg.norm(xy, axis=1)
    polynomial = _equidistant_polynomial(D)
    slope = polynomial.deriv()
    roots = np.asarray(slope.roots(), dtype=np.complex128)
    turns = roots.real[(np.abs(roots.imag) < 1e-9) & (roots.real > 0)]
    # Up to there the radius grows with the angle. Newton's steps may leave the bracket, most of all near the
    # fold, where the slope ends: then it is halved.
    low, high = np.zeros_like(radius), np.full_like(radius, np.min(turns, initial=np.pi) * (1 - 1e-6))
    is_seen = radius <= polynomial(high)
    theta = np.minimum(radius, high)
    for _ in range(_MOST_STEPS):
        excess = polynomial(theta) - radius
        low, high = np.where(excess < 0, theta, low), np.where(excess < 0, high, theta)
        step = theta - excess / slope(theta)
        better = np.where((low < step) & (step < high), step, (low + high) / 2)
        theta, moved = better, np.abs(better - theta).max()
        if moved < 1e-12:
            break
    theta[~is_seen] = np.nan
    direction = np.divide(xy, radius[:, None], out=np.zeros_like(xy), where=radius[:, None] > 0)
    return np.column_stack([direction * np.sin(theta)[:, None], np.cos(theta)])


def _equidistant_project(points: np.ndarray, K: np.ndarray, D: np.ndarray) -> np.ndarray:
    planar = np.linalg.norm(points[:, :2], axis=1, keepdims=True)
    theta = np.arctan2(planar, points[:, 2:])
    direction = np.divide(points[:, :2], planar, out=np.zeros_like(points[:, :2]), where=planar > 0)
    xy = direction * _equidistant_polynomial(D)(theta)
    return xy @ K[:2, :2].T + K[:2, 2]


# --- distance -----------------------------------------------------------------------------------------------


class ScaleCalibration(Protocol):
    """What `distance_from_scale` needs of a calibration (see `model_metadata.Calibration`)."""

    @property
    def c(self) -> float: ...

    @property
    def width(self) -> int: ...

    @property
    def focal_length(self) -> float | None: ...


def distance_from_scale(
    log2_scale: np.ndarray,
    rays: np.ndarray,
    calibration: ScaleCalibration,
    K: np.ndarray,
    D: np.ndarray,
    distortion_model: str,
    width: int,
) -> np.ndarray:
    """Range [m] (N,) of peers seen along unit `rays` (N, 3) at `log2_scale` (N,) in an image `width` px wide.

    The paper sets log2 d = log2 scale + c. We correct it in two ways, neither of which changes anything in
    the centre of the calibration camera's image. First, in a perspective image the apparent size follows the
    depth z, not the range: an upright extent h projects to exactly f h / z. So log2 z = log2 scale + c, and
    the range is z / ray_z (for other lenses see `depth_per_range`). Second, a camera with another focal
    length sees the same peer larger or smaller in proportion, so z is multiplied by f / f_calibration. When
    the focal length of the calibration pictures is not known, the ratio of the image widths takes its place:
    right for the same lens at another resolution.
    """
    rays = np.asarray(rays, dtype=np.float64).reshape(-1, 3)
    focal_length = float(np.asarray(K, dtype=np.float64).reshape(-1)[0])
    if calibration.focal_length is not None:
        magnification = focal_length / calibration.focal_length
    else:
        magnification = width / calibration.width
    depth = magnification * np.exp2(np.asarray(log2_scale, dtype=np.float64) + calibration.c)
    return depth / depth_per_range(rays, K, D, distortion_model)


def depth_per_range(rays: np.ndarray, K: np.ndarray, D: np.ndarray, distortion_model: str) -> np.ndarray:
    """What the apparent size of a peer along unit `rays` (N, 3) follows, as a share (N,) of its range.

    An extent across the direction from the image's centre, such as an upright one beside it, spans at range d
    the angle h / (d sin theta) about the optical axis, theta from it. At image radius r (for focal length 1)
    it is r h / (d sin theta) long: the share is sin theta / r. In a perspective image r is tan theta, so that
    size follows depth; an ideal fisheye lens has r = theta; distortion is in r. NaN gives NaN.
    """
    K = np.asarray(K, dtype=np.float64).reshape(3, 3)
    uv = project(rays, K, D, distortion_model)
    radius = np.linalg.norm(np.linalg.solve(K[:2, :2], (uv - K[:2, 2]).T), axis=0)
    sine = np.linalg.norm(rays[:, :2], axis=1)
    return np.divide(sine, radius, out=np.ones_like(sine), where=~(radius <= 1e-6))


# --- bearing and pose ---------------------------------------------------------------------------------------

# Optical frame -> body axes of the same camera (x forward, y left, z up).
_BODY_FROM_OPTICAL = np.array([-0.5, 0.5, -0.5, 0.5])


def camera_tilt(pitch: float, roll: float) -> np.ndarray:
    """Quaternion that turns optical coordinates into the level frame.

    `pitch` [rad] about the camera's leftward axis, positive looks down; `roll` [rad] about its viewing axis,
    positive lowers its right side. Applied as in REP-103: roll first, then pitch, about fixed axes.
    """
    body_in_level = quaternion_product(quaternion_about(1, pitch), quaternion_about(0, roll))
    return quaternion_product(body_in_level, _BODY_FROM_OPTICAL)


LEVEL_CAMERA = camera_tilt(0.0, 0.0)


def mounted_camera(position: Sequence[float], yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Pose (7,) of the optical frame in a level base frame, x forward, y left, z up.

    `yaw` [rad] about the vertical, positive looks left, on top of `camera_tilt`.
    """
    turn = quaternion_product(quaternion_about(2, yaw), camera_tilt(pitch, roll))
    return np.concatenate([position, turn])


def compose_poses(
    uv: np.ndarray,
    distance: np.ndarray,
    psi: np.ndarray,
    K: np.ndarray,
    D: np.ndarray,
    distortion_model: str,
    tilt: np.ndarray = LEVEL_CAMERA,
) -> np.ndarray:
    """Poses (N, 7) of upright peers from image position (N, 2), range (N,) and bearing (N,).

    See `upright_poses`.
    """
    positions = pixel_rays(uv, K, D, distortion_model) * np.asarray(distance, dtype=np.float64).reshape(-1, 1)
    return upright_poses(positions, psi, tilt)


def upright_poses(positions: np.ndarray, psi: np.ndarray, tilt: np.ndarray = LEVEL_CAMERA) -> np.ndarray:
    """Poses (N, 7) of peers at `positions` (N, 3) in the optical frame, seen at bearings `psi` (N,).

    Roll and pitch of the peer are not observed: it is taken to stand upright in the level frame that `tilt`
    (see `camera_tilt`) defines. Its yaw there is the azimuth of the direction from peer to camera, minus psi.
    """
    to_camera = -positions @ rotation_matrix(tilt).T
    yaw = np.arctan2(to_camera[:, 1], to_camera[:, 0]) - np.asarray(psi, dtype=np.float64).reshape(-1)
    orientations = quaternion_product(quaternion_inverse(tilt), quaternion_about(2, yaw))
    return np.concatenate([positions, orientations], axis=1)


def upright_in_image(tilt: np.ndarray = LEVEL_CAMERA) -> np.ndarray:
    """Rows right and down (2, 2): the directions [px] that are so for who stands upright, for `camera_tilt`.

    Those of the image's middle; of a camera that looks straight up or down the image's own.
    """
    u, v = -rotation_matrix(tilt)[2, :2]
    length = math.hypot(u, v)
    if length < 1e-6:
        return np.eye(2)
    return np.array([[v, -u], [u, v]]) / length


def farther_along_floor(points: np.ndarray, metres: float, tilt: np.ndarray = LEVEL_CAMERA) -> np.ndarray:
    """Points (N, 3) in the optical frame moved horizontally away from the camera; `tilt` as in `camera_tilt`.

    What is straight above or below the camera stays.
    """
    level_from_optical = rotation_matrix(tilt)
    away = points @ level_from_optical.T
    away[:, 2] = 0
    length = np.linalg.norm(away, axis=1, keepdims=True)
    away = np.divide(away, length, out=np.zeros_like(away), where=length > 0)
    return points + metres * away @ level_from_optical


def relative_bearing(poses: np.ndarray) -> np.ndarray:
    """`psi` (N,) [rad] of poses (N, 7): the direction peer -> camera projected on the peer's own x-y plane.

    Exact in three dimensions: neither the peer nor the camera has to be level.
    """
    poses = np.asarray(poses, dtype=np.float64).reshape(-1, 7)
    to_camera = np.einsum("nij,ni->nj", rotation_matrix(poses[:, 3:]), -poses[:, :3])
    return np.arctan2(to_camera[:, 1], to_camera[:, 0])
