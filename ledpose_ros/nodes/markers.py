# SPDX-License-Identifier: Apache-2.0
"""Peers as RViz markers: a box with its heading, LEDs as dots, the distance as text."""

from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from ledpose_ros.estimator import PeerEstimate
from ledpose_ros.geometry import rotation_matrix
from ledpose_ros.nodes.common import pose_message
from ledpose_ros.visualization import led_positions, probability_colour

# Markers vanish when the estimator does.
LIFETIME = Duration(sec=1)


def peer_markers(
    header: Header, peers: Sequence[PeerEstimate], led_directions: Sequence[float], peer_size: Sequence[float]
) -> MarkerArray:
    """Markers of all peers with a pose; the first one deletes those of the image before."""
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    length, width, height = peer_size
    leds = [Point(x=x, y=y, z=z) for x, y, z in led_positions(led_directions, peer_size).tolist()]
    for number, peer in enumerate(peers):
        if peer.pose is None:
            continue
        pose = pose_message(peer.pose)

        def marker(namespace: str, kind: int, number: int = number, pose: object = pose) -> Marker:
            return Marker(header=header, ns=namespace, id=number, type=kind, pose=pose, lifetime=LIFETIME)

        box = marker("box", Marker.CUBE)
        box.scale = Vector3(x=length, y=width, z=height)
        box.color = ColorRGBA(r=0.3, g=1.0, b=0.5, a=0.35)

        heading = marker("heading", Marker.ARROW)
        heading.points = [Point(z=height / 2), Point(x=length, z=height / 2)]
        heading.scale = Vector3(x=0.03, y=0.06, z=0.08)
        heading.color = ColorRGBA(r=1.0, g=0.3, b=0.3, a=1.0)

        dots = marker("leds", Marker.SPHERE_LIST)
        dots.scale = Vector3(x=0.06, y=0.06, z=0.06)
        dots.points = leds
        dots.colors = [_colour(probability) for probability in peer.led_probability]

        text = marker("text", Marker.TEXT_VIEW_FACING)
        text.pose = pose_message(np.concatenate([_above(peer.pose, height), peer.pose[3:]]))
        text.text = f"{peer.distance:.2f} m"
        text.scale = Vector3(z=0.12)
        text.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)

        markers += [box, heading, dots, text]
    return MarkerArray(markers=markers)


def _above(pose: np.ndarray, height: float) -> np.ndarray:
    """A point above the box, in the optical frame."""
    return pose[:3] + rotation_matrix(pose[3:])[:, 2] * height


def _colour(probability: float) -> ColorRGBA:
    red, green, blue = (value / 255 for value in probability_colour(float(probability)))
    return ColorRGBA(r=red, g=green, b=blue, a=1.0)
