# SPDX-License-Identifier: Apache-2.0
"""Peers that stand on the same floor as the camera's robot: what that tells of where they are."""

import math
from dataclasses import replace

import numpy as np

from ledpose_ros.estimator import PeerEstimate
from ledpose_ros.geometry import rotation_matrix

# How well heights are known: that of the camera and of the peer [m], and the camera's tilt [rad].
HEIGHT_DEVIATION = 0.01
TILT_DEVIATION = math.radians(0.5)
# Squared deviations from the floor beyond which a peer does not stand on it: 4 sigma.
GATE = 16.0


def stand_on_floor(peer: PeerEstimate, camera: np.ndarray, peer_height: float) -> PeerEstimate:
    """The estimate, given that the peer's reference point is `peer_height` [m] above the floor.

    `camera` is the pose (7,) of the optical frame in a level frame whose origin is on the floor. The more the
    camera looks down on the peer, the more this says about its distance: position and covariance are those of
    the normal distribution conditioned on the height (a Kalman update). An estimate far off the floor stays
    as it is: a robot on a ramp, or none at all.
    """
    if peer.pose is None or peer.covariance is None:
        return peer
    up = rotation_matrix(camera[3:])[2]
    position, covariance = peer.pose[:3], peer.covariance[:3, :3]
    missing = peer_height - camera[2] - up @ position
    slack = HEIGHT_DEVIATION**2 + (TILT_DEVIATION * np.linalg.norm(position)) ** 2
    variance = up @ covariance @ up + slack
    if missing**2 > GATE * variance:
        return peer
    gain = covariance @ up / variance
    pose, told = peer.pose.copy(), peer.covariance.copy()
    pose[:3] = position + gain * missing
    told[:3, :3] = covariance - np.outer(gain, gain) * variance
    return replace(peer, pose=pose, covariance=told, distance=float(np.linalg.norm(pose[:3])))


def at_base(peer: PeerEstimate, camera: np.ndarray, peer_height: float) -> PeerEstimate:
    """The estimate with the pose of the peer's base, `peer_height` [m] below its reference point."""
    if peer.pose is None or peer_height == 0:
        return peer
    pose = peer.pose.copy()
    pose[:3] -= peer_height * rotation_matrix(camera[3:])[2]
    return replace(peer, pose=pose)
