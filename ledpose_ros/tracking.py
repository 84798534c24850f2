# SPDX-License-Identifier: Apache-2.0
"""Which peer of this picture is which of the picture before, and where it has moved to.

Every peer has a Kalman filter of constant velocity for its position and one for its yaw (Bar-Shalom, Li and
Kirubarajan, *Estimation with Applications to Tracking and Navigation*, 2001, chapters 5 and 6).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ledpose_ros.estimator import UNKNOWN_ANGLE_VARIANCE, PeerEstimate
from ledpose_ros.geometry import (
    quaternion_about,
    quaternion_inverse,
    quaternion_product,
    rotation_matrix,
    wrap_angle,
)

# How fast a peer's velocity may change, as spectral densities of its acceleration.
ACCELERATION_DENSITY = 0.5  # [m^2/s^3]
ANGULAR_ACCELERATION_DENSITY = 4.0  # [rad^2/s^3]
# What is not known of a peer seen for the first time.
FIRST_SPEED = 1.0  # [m/s]
FIRST_TURN_RATE = 1.5  # [rad/s]
# Squared Mahalanobis distance within which a peer is the one of before: 99.9 % in three dimensions.
GATE = 16.3
# Yaw errors beyond this many deviations count less, in proportion (Huber): front taken for back is one.
YAW_OUTLIER = 2.0
# Errors of pictures so close in time are the same error, not a new one [s].
ERROR_CORRELATION_TIME = 0.3
# A peer not seen for so long is forgotten, and its id free again [s].
TIMEOUT = 1.5


class Transition(NamedTuple):
    """What some time does to coordinates and their rates, if accelerations are noise."""

    F: np.ndarray
    noise: np.ndarray

    def applied(self, state: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """State (coordinates, then their rates) and covariance after that time."""
        return self.F @ state, self.F @ covariance @ self.F.T + self.noise


def transition(coordinates: int, dt: float, density: float) -> Transition:
    """That of `dt` seconds for so many coordinates, whose accelerations have the spectral density."""
    rates = np.eye(2 * coordinates, k=coordinates)
    noise = np.diag(np.repeat([dt**3 / 3, dt], coordinates)) + dt**2 / 2 * (rates + rates.T)
    return Transition(np.eye(2 * coordinates) + dt * rates, density * noise)


class Track:
    """One peer over time: position [m] and yaw [rad] with their rates, in the tracker's level frame."""

    def __init__(self, track_id: int, stamp_ns: int) -> None:
        self.id = track_id
        self.stamp_ns = stamp_ns
        self.seen_ns = stamp_ns
        self.motion = np.zeros(6)  # x y z and their rates
        self.motion_covariance = np.diag([0.0, 0.0, 0.0, *[FIRST_SPEED**2] * 3])
        self.turn = np.zeros(2)  # yaw and its rate
        self.turn_covariance = np.diag([0.0, FIRST_TURN_RATE**2])

    @property
    def position(self) -> np.ndarray:
        return self.motion[:3]

    def begin(self, position: np.ndarray, covariance: np.ndarray, yaw: float, yaw_variance: float) -> None:
        """Take over the first measurement."""
        self.motion[:3], self.motion_covariance[:3, :3] = position, covariance
        self.turn[0], self.turn_covariance[0, 0] = yaw, yaw_variance

    def predict(self, stamp_ns: int, motion: Transition, turn: Transition) -> None:
        """Move on to a later stamp by the transitions of that time."""
        self.stamp_ns = stamp_ns
        self.motion, self.motion_covariance = motion.applied(self.motion, self.motion_covariance)
        self.turn, self.turn_covariance = turn.applied(self.turn, self.turn_covariance)

    def correct(self, position: np.ndarray, covariance: np.ndarray, yaw: float, yaw_variance: float) -> None:
        """Take in a measurement at the stamp of the last prediction."""
        dt = (self.stamp_ns - self.seen_ns) / 1e9
        self.seen_ns = self.stamp_ns
        repeated = max(1.0, ERROR_CORRELATION_TIME / max(dt, 1e-3))
        self.motion, self.motion_covariance = _kalman_update(
            self.motion, self.motion_covariance, position - self.position, repeated * covariance
        )
        innovation = wrap_angle(np.array([yaw - self.turn[0]]))
        surprise = abs(innovation[0]) / math.sqrt(self.turn_covariance[0, 0] + yaw_variance)
        variance = repeated * yaw_variance * max(1.0, surprise / YAW_OUTLIER) ** 2
        self.turn, self.turn_covariance = _kalman_update(
            self.turn, self.turn_covariance, innovation, np.array([[variance]])
        )
        self.turn[0] = wrap_angle(self.turn[0])


def _kalman_update(
    state: np.ndarray, covariance: np.ndarray, innovation: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """State and covariance after an innovation of the state's first entries, in Joseph's form."""
    size = len(innovation)
    gain = np.linalg.solve(covariance[:size, :size] + noise, covariance[:size]).T
    remaining = np.eye(len(state))
    remaining[:, :size] -= gain
    return state + gain @ innovation, remaining @ covariance @ remaining.T + gain @ noise @ gain.T


class PeerTracker:
    """Gives the peers of consecutive pictures ids that stay, from 0, and smooths their poses.

    Poses are tracked in a level frame (z up): one that stands still if the camera's own motion is known,
    else that of the camera, in which a turn of the camera looks like a motion of everybody else.
    """

    def __init__(self) -> None:
        self.ended_ids: list[int] = []
        """Ids that the last update has freed, perhaps to give them to others."""
        self._tracks: list[Track] = []
        self._stamp_ns = 0

    def update(self, stamp_ns: int, peers: Sequence[PeerEstimate], camera: np.ndarray) -> list[Track]:
        """The track of each peer; they must have poses.

        `camera` is the pose (7,) of the optical frame in the level frame. Stamps that go backwards begin
        everything anew.
        """
        oldest_ns = stamp_ns - TIMEOUT * 1e9 if stamp_ns >= self._stamp_ns else math.inf
        self._stamp_ns = stamp_ns
        self.ended_ids = [track.id for track in self._tracks if track.seen_ns < oldest_ns]
        self._tracks = [track for track in self._tracks if track.seen_ns >= oldest_ns]
        if self._tracks:  # all of them at the stamp of the last picture
            dt = (stamp_ns - self._tracks[0].stamp_ns) / 1e9
            motion = transition(3, dt, ACCELERATION_DENSITY)
            turn = transition(1, dt, ANGULAR_ACCELERATION_DENSITY)
            for track in self._tracks:
                track.predict(stamp_ns, motion, turn)

        level = rotation_matrix(camera[3:])
        measured = []
        for peer in peers:
            assert peer.pose is not None and peer.covariance is not None
            forward = level @ rotation_matrix(peer.pose[3:])[:, 0]
            rotation = level @ peer.covariance[3:, 3:] @ level.T
            measured.append(
                (
                    level @ peer.pose[:3] + camera[:3],
                    level @ peer.covariance[:3, :3] @ level.T,
                    math.atan2(forward[1], forward[0]),
                    rotation[2, 2],
                )
            )
        matches = self._match(measured)
        found = []
        for number, measurement in enumerate(measured):
            if number in matches:
                track = matches[number]
                track.correct(*measurement)
            else:
                track = Track(self._free_id(), stamp_ns)
                track.begin(*measurement)
                self._tracks.append(track)
            found.append(track)
        return found

    def _match(self, measured: Sequence[tuple[np.ndarray, np.ndarray, float, float]]) -> dict[int, Track]:
        """Measurement -> track, likeliest pairs first: one not seen for long is near to everything."""
        if not measured or not self._tracks:
            return {}
        positions, covariances = (np.array([one[part] for one in measured])[:, None] for part in (0, 1))
        innovation = positions - np.array([track.position for track in self._tracks])
        covariance = covariances + np.array([track.motion_covariance[:3, :3] for track in self._tracks])
        # Squared Mahalanobis distances of the measured positions from the predicted ones.
        distance = (innovation * np.linalg.solve(covariance, innovation[..., None])[..., 0]).sum(-1)
        # Minus twice the log of the normal density, but for a constant.
        cost = distance + np.linalg.slogdet(covariance)[1]
        pairs = sorted((cost[pair], *pair) for pair in zip(*np.nonzero(distance <= GATE), strict=True))
        matches: dict[int, Track] = {}
        taken: set[int] = set()
        for _, number, index in pairs:
            if number not in matches and index not in taken:
                matches[number] = self._tracks[index]
                taken.add(index)
        return matches

    def _free_id(self) -> int:
        used = {track.id for track in self._tracks}
        return next(number for number in range(len(used) + 1) if number not in used)


def filtered_pose(track: Track, camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pose (7,) and covariance (6, 6) of a track, as in `PeerEstimate`, in the optical frame at `camera`."""
    turn = rotation_matrix(camera[3:])
    position = turn.T @ (track.position - camera[:3])
    orientation = quaternion_product(quaternion_inverse(camera[3:]), quaternion_about(2, track.turn[0]))
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = turn.T @ track.motion_covariance[:3, :3] @ turn
    yaw_variance = min(track.turn_covariance[0, 0], UNKNOWN_ANGLE_VARIANCE)
    rotation = np.diag([UNKNOWN_ANGLE_VARIANCE, UNKNOWN_ANGLE_VARIANCE, yaw_variance])
    covariance[3:, 3:] = turn.T @ rotation @ turn
    return np.concatenate([position, orientation]), covariance
