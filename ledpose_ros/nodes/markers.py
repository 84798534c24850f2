# SPDX-License-Identifier: Apache-2.0
"""Peers as RViz markers: box on wheels, heading, LEDs, uncertainty as an ellipsoid, who it is and how far."""

from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from ledpose_ros.estimator import PeerEstimate
from ledpose_ros.geometry import quaternion_from_matrix, rotation_matrix
from ledpose_ros.nodes.common import pose_message
from ledpose_ros.visualization import led_positions, probability_colour

# Shares of the box: of its height, of its width, and of its length from axle to axle.
WHEEL_DIAMETER, WHEEL_WIDTH, WHEELBASE = 0.4, 0.2, 0.6
ELLIPSOID_DEVIATIONS = 2.0


def peer_markers(
    header: Header,
    peers: Sequence[PeerEstimate],
    ids: Sequence[int],
    names: Sequence[str],
    led_directions: Sequence[float],
    peer_size: Sequence[float],
    lifetime: float,
) -> MarkerArray:
    """Markers of all peers, which must have poses; the first one deletes those of the image before.

    Each peer has the id of its markers, and a name that is empty if it is not known. Markers vanish after
    their `lifetime` [s], as when the estimator has ended.
    """
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    length, width, height = peer_size
    seconds, nanoseconds = divmod(round(lifetime * 1e9), 1_000_000_000)
    kept = Duration(sec=seconds, nanosec=nanoseconds)
    diameter = WHEEL_DIAMETER * height
    wheels = [
        Point(x=x * WHEELBASE * length / 2, y=y * width / 2, z=(diameter - height) / 2)
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    leds = [Point(x=x, y=y, z=z) for x, y, z in led_positions(led_directions, peer_size).tolist()]
    for peer, peer_id, name in zip(peers, ids, names, strict=True):
        assert peer.pose is not None and peer.covariance is not None
        pose = pose_message(peer.pose)

        def marker(namespace: str, kind: int, peer_id: int = peer_id, pose: object = pose) -> Marker:
            return Marker(header=header, ns=namespace, id=peer_id, type=kind, pose=pose, lifetime=kept)

        box = marker("box", Marker.CUBE)
        box.scale = Vector3(x=length, y=width, z=height)
        box.color = ColorRGBA(r=0.3, g=1.0, b=0.5, a=0.35)

        # Spheres that are flat are wheels, and all four of them one marker.
        rolling = marker("wheels", Marker.SPHERE_LIST)
        rolling.scale = Vector3(x=diameter, y=WHEEL_WIDTH * width, z=diameter)
        rolling.points = wheels
        rolling.color = ColorRGBA(r=0.15, g=0.15, b=0.15, a=1.0)

        heading = marker("heading", Marker.ARROW)
        heading.points = [Point(z=height / 2), Point(x=length, z=height / 2)]
        heading.scale = Vector3(x=0.03, y=0.06, z=0.08)
        heading.color = ColorRGBA(r=1.0, g=0.3, b=0.3, a=1.0)

        dots = marker("leds", Marker.SPHERE_LIST)
        dots.scale = Vector3(x=0.06, y=0.06, z=0.06)
        dots.points = leds
        dots.colors = [_colour(probability) for probability in peer.led_probability]

        semi_axes, turn = ellipsoid(peer.covariance[:3, :3])
        spread = marker("uncertainty", Marker.SPHERE)
        spread.pose = pose_message(np.concatenate([peer.pose[:3], turn]))
        spread.scale = Vector3(**dict(zip("xyz", (2 * semi_axes).tolist(), strict=True)))
        spread.color = ColorRGBA(r=1.0, g=0.8, b=0.2, a=0.3)

        text = marker("text", Marker.TEXT_VIEW_FACING)
        text.pose = pose_message(np.concatenate([_above(peer.pose, height), peer.pose[3:]]))
        text.text = f"{peer_id} {name}".rstrip() + f": {peer.distance:.2f} m"
        text.scale = Vector3(z=0.12)
        text.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)

        markers += [box, rolling, heading, dots, spread, text]
    return MarkerArray(markers=markers)


def ellipsoid(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Semi-axes (3,) [m] and quaternion of the ellipsoid of ELLIPSOID_DEVIATIONS of a covariance (3, 3)."""
    variances, axes = np.linalg.eigh(covariance)
    if np.linalg.det(axes) < 0:
        axes[:, 0] *= -1
    return ELLIPSOID_DEVIATIONS * np.sqrt(np.maximum(variances, 0)), quaternion_from_matrix(axes)


def _above(pose: np.ndarray, height: float) -> np.ndarray:
    """A point above the box, in the optical frame."""
    return pose[:3] + rotation_matrix(pose[3:])[:, 2] * height


def _colour(probability: float) -> ColorRGBA:
    red, green, blue = (value / 255 for value in probability_colour(float(probability)))
    return ColorRGBA(r=red, g=green, b=blue, a=1.0)
