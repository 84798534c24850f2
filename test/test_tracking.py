# SPDX-License-Identifier: Apache-2.0
"""Ids that stay, poses that move smoothly."""

import math

import numpy as np
import pytest

from ledpose_ros.estimator import PeerEstimate
from ledpose_ros.geometry import (
    LEVEL_CAMERA,
    camera_tilt,
    quaternion_about,
    quaternion_inverse,
    quaternion_product,
    rotation_matrix,
    wrap_angle,
)
from ledpose_ros.tracking import TIMEOUT, PeerTracker, filtered_pose

RATE = 20.0
STANDING = np.concatenate([np.zeros(3), LEVEL_CAMERA])


def stamp(frame: float) -> int:
    return round(frame / RATE * 1e9)


def camera_at(x: float, y: float, yaw: float) -> np.ndarray:
    """Pose of a level camera on the floor of a standing frame."""
    return np.array([x, y, 0.0, *quaternion_product(quaternion_about(2, yaw), LEVEL_CAMERA)])


def estimate(
    x: float, y: float, yaw: float, camera: np.ndarray = STANDING, sigma: float = 0.05
) -> PeerEstimate:
    """A peer at x, y [m], with this yaw, in the level frame, as a camera there sees it."""
    turn = rotation_matrix(camera[3:])
    position = turn.T @ (np.array([x, y, 0.0]) - camera[:3])
    orientation = quaternion_product(quaternion_inverse(camera[3:]), quaternion_about(2, yaw))
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = sigma**2 * np.eye(3)
    covariance[3:, 3:] = turn.T @ np.diag([math.pi**2, math.pi**2, 0.2**2]) @ turn
    return PeerEstimate(
        np.zeros(2),
        0.0,
        1.0,
        np.full(4, 0.5),
        float(np.linalg.norm(position)),
        np.concatenate([position, orientation]),
        covariance,
    )


def test_crossing_peers_keep_their_ids() -> None:
    rng = np.random.default_rng(0)
    tracker = PeerTracker()
    for frame in range(80):
        t = frame / RATE
        # They pass each other at 0.4 m, and swap places in the order of confidence all the time.
        peers = [estimate(2.0, 1 - 0.5 * t, 0.0), estimate(2.4, -1 + 0.5 * t, 0.0)]
        for peer in peers:
            peer.pose[:3] += rng.normal(0, 0.03, 3)
        order = [0, 1] if rng.random() < 0.5 else [1, 0]
        tracks = tracker.update(stamp(frame), [peers[i] for i in order], STANDING)
        if frame == 0:
            ids = {number: track.id for number, track in zip(order, tracks, strict=True)}
            assert sorted(ids.values()) == [0, 1]
        assert [track.id for track in tracks] == [ids[number] for number in order]


def test_lost_peer_keeps_its_id_for_a_while_and_a_new_one_takes_the_lowest_free() -> None:
    tracker = PeerTracker()
    first, second = tracker.update(0, [estimate(1, 0, 0), estimate(3, 1, 0)], STANDING)
    assert (first.id, second.id) == (0, 1)
    # Hidden for a second, moved on meanwhile at the speed it had.
    for frame in range(1, 11):
        tracker.update(stamp(frame), [estimate(1 + frame / RATE, 0, 0), estimate(3, 1, 0)], STANDING)
    for frame in range(11, 31):
        tracker.update(stamp(frame), [estimate(3, 1, 0)], STANDING)
    again = tracker.update(stamp(31), [estimate(1 + 31 / RATE, 0, 0), estimate(3, 1, 0)], STANDING)
    assert [track.id for track in again] == [0, 1]
    # Away for too long, and somewhere else: a new one, with the id that is free.
    late = stamp(31) + round(TIMEOUT * 1e9) + 1
    tracker.update(late - 1, [estimate(3, 1, 0)], STANDING)
    (new,) = tracker.update(late, [estimate(1, -2, 0)], STANDING)
    assert new.id == 0 and tracker.ended_ids == [0]


def test_the_id_of_a_hidden_peer_is_not_given_to_one_that_stays_in_view() -> None:
    rng = np.random.default_rng(2)

    def seen(y: float) -> PeerEstimate:
        peer = estimate(2.0, y, 0.0)
        peer.pose[:3] += rng.normal(0, 0.05, 3)
        return peer

    for _ in range(20):
        tracker = PeerTracker()
        both = tracker.update(0, [seen(0.3), seen(-0.3)], STANDING)
        for frame in range(1, 20):
            assert tracker.update(stamp(frame), [seen(0.3), seen(-0.3)], STANDING) == both
        for frame in range(20, 48):
            assert tracker.update(stamp(frame), [seen(0.3)], STANDING) == both[:1]
        assert tracker.update(stamp(48), [seen(0.3), seen(-0.3)], STANDING) == both


def test_filtered_pose_is_nearer_to_the_truth_and_its_covariance_fits() -> None:
    rng = np.random.default_rng(1)
    tracker = PeerTracker()
    raw, smooth, surprise = [], [], []
    for frame in range(400):
        t = frame / RATE
        truth = np.array([2 + math.cos(0.5 * t), math.sin(0.5 * t)])
        yaw = float(wrap_angle(0.5 * t + math.pi / 2))
        seen = estimate(*(truth + rng.normal(0, 0.05, 2)), yaw + rng.normal(0, 0.2))
        (track,) = tracker.update(stamp(frame), [seen], STANDING)
        if frame > 40:
            raw.append(np.linalg.norm(seen.pose[[2, 0]] - [truth[0], -truth[1]]))
            pose, covariance = filtered_pose(track, STANDING)
            error = pose[[2, 0]] - [truth[0], -truth[1]]
            smooth.append(np.linalg.norm(error))
            surprise.append(error @ np.linalg.solve(covariance[np.ix_([2, 0], [2, 0])], error) / 2)
            assert abs(wrap_angle(track.turn[0] - yaw)) < 0.5
    assert np.mean(smooth) < 0.8 * np.mean(raw)
    # White noise is what the filter is most careful about: never surer than it may be.
    assert np.mean(surprise) < 1.0


def test_velocity_is_learned() -> None:
    tracker = PeerTracker()
    for frame in range(60):
        (track,) = tracker.update(stamp(frame), [estimate(1 + 0.4 * frame / RATE, 0.5, 0.3)], STANDING)
    assert track.motion[3:] == pytest.approx([0.4, 0, 0], abs=0.02)


def test_front_taken_for_back_in_one_picture_does_not_turn_the_peer_around() -> None:
    tracker = PeerTracker()
    for frame in range(60):
        yaw = 0.3 + (math.pi if frame % 15 == 14 else 0.0)
        (track,) = tracker.update(stamp(frame), [estimate(2, 0, yaw)], STANDING)
        if frame > 5:
            assert abs(wrap_angle(track.turn[0] - 0.3)) < 0.5
    # But pictures that go on saying so are believed.
    for frame in range(60, 120):
        (track,) = tracker.update(stamp(frame), [estimate(2, 0, 0.3 + math.pi)], STANDING)
    assert abs(wrap_angle(track.turn[0] - 0.3 - math.pi)) < 0.2


def test_own_motion_is_taken_into_account() -> None:
    def ids_seen_by(known: bool) -> set[int]:
        tracker, ids = PeerTracker(), set()
        for frame in range(40):
            # The camera turns by 2 rad/s before two peers that stand beside each other.
            camera = camera_at(0, 0, 2.0 * frame / RATE)
            peers = [estimate(3, 0, 0, camera), estimate(3, 0.5, 0, camera)]
            tracks = tracker.update(stamp(frame), peers, camera if known else STANDING)
            ids.add(tuple(track.id for track in tracks))
            if known:
                assert tracks[0].position == pytest.approx([3, 0, 0], abs=1e-6)
                pose, _ = filtered_pose(tracks[0], camera)
                assert pose[:3] == pytest.approx(peers[0].pose[:3], abs=1e-6)
                assert abs(pose[3:] @ peers[0].pose[3:]) == pytest.approx(1, abs=1e-6)
        return ids

    assert ids_seen_by(known=True) == {(0, 1)}
    assert ids_seen_by(known=False) != {(0, 1)}


def test_tilted_camera() -> None:
    camera = np.concatenate([np.zeros(3), camera_tilt(0.4, -0.2)])
    (track,) = PeerTracker().update(0, [seen := estimate(2, 0.3, 1.1, camera)], camera)
    assert track.position == pytest.approx([2, 0.3, 0])
    assert track.turn[0] == pytest.approx(1.1)
    pose, covariance = filtered_pose(track, camera)
    assert pose[:3] == pytest.approx(seen.pose[:3])
    assert covariance == pytest.approx(seen.covariance)


def test_clock_that_jumps_back_begins_anew() -> None:
    tracker = PeerTracker()
    tracker.update(stamp(1000), [estimate(1, 0, 0), estimate(3, 1, 0)], STANDING)
    (track,) = tracker.update(stamp(0), [estimate(3, 1, 0)], STANDING)
    assert track.id == 0 and tracker.ended_ids == [0, 1]
    assert tracker.update(stamp(1), [], STANDING) == [] == tracker.ended_ids
