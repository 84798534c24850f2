# SPDX-License-Identifier: Apache-2.0
"""What is true of simulated pictures: their labels fit what they show, and the seed decides everything."""

import argparse
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ledpose_ros.simulation")

import mujoco

from ledpose_ros.commands import simulate
from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import project, relative_bearing, wrap_angle
from ledpose_ros.recording import Recording
from ledpose_ros.simulation import Frame, Simulation
from ledpose_ros.simulation.drive import ROBOT_GAP, TIME_STEP, Choreography
from ledpose_ros.simulation.robot import led_outward, led_rings
from ledpose_ros.simulation.room import Room
from ledpose_ros.simulation.scene import Scene
from ledpose_ros.simulation.view import camera_matrix

SMALL = {"width": 160, "height": 90}
MS = 1_000_000


def frames_of(count: int, **settings) -> list[Frame]:
    simulation = Simulation(**{"seed": 5000, **SMALL, **settings})
    frames = [simulation.step() for _ in range(count)]
    simulation.close()
    return frames


def scene(index: int, width: int = 640, height: int = 360, peers: int = 1) -> Scene:
    return Scene(np.random.default_rng((5001, index)), width, height, peers)


def in_optical_frame(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Points (N, 3) of the body frame of this pose (7,)."""
    rotation = np.empty(9)
    mujoco.mju_quat2Mat(rotation, pose[[6, 3, 4, 5]])
    return points @ rotation.reshape(3, 3).T + pose[:3]


def same(first: Frame, second: Frame) -> bool:
    fields = ("rgb", "stamp_ns", "led_states", "led_stamp_ns", "poses", "valid")
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in fields)


def test_the_seed_decides_everything():
    frames = frames_of(3)
    assert all(same(one, other) for one, other in zip(frames, frames_of(3), strict=True))
    assert not np.array_equal(frames[0].rgb, frames_of(1, seed=5002)[0].rgb)


def test_scenes_can_be_rendered_apart():
    together = frames_of(4, scene_frames=2)
    apart = frames_of(2, scene_frames=2) + frames_of(2, scene_frames=2, first_scene=1)
    assert all(same(one, other) for one, other in zip(together, apart, strict=True))


def test_within_a_scene_it_is_video_and_between_scenes_it_is_not():
    frames = frames_of(16, scene_frames=8, rate=10.0)
    pictures = [frame.rgb.astype(float) for frame in frames]
    changes = [np.abs(one - other).mean() for one, other in pairwise(pictures)]
    assert changes[7] > 2 * max(changes[:7] + changes[8:])
    stamps = np.diff([frame.stamp_ns for frame in frames])
    assert set(np.delete(stamps, 7)) == {100 * MS}
    assert stamps[7] > 500 * MS
    steps = np.diff([frame.poses[0, :3] for frame in frames], axis=0)
    # Peer at most 1 m/s, observer 0.25 m/s and 0.35 rad/s at up to 5 m.
    assert np.linalg.norm(np.delete(steps, 7, axis=0), axis=1).max() < 0.1 * (1 + 0.25 + 0.35 * 5)


def test_leds_change_between_pictures_and_hold_their_state():
    frames = frames_of(40, width=64, height=36, rate=10.0, scene_frames=40)
    states = np.array([frame.led_states for frame in frames])
    assert set(np.unique(states)) == {0.0, 1.0}
    assert (np.abs(np.diff(states, axis=0)).sum(0) > 0).all(), "every LED changes"
    assert len({tuple(np.diff(column)) for column in states.T}) == 4, "and on its own"
    for before, frame in pairwise(frames):
        if np.array_equal(before.led_states, frame.led_states):
            assert frame.led_stamp_ns == before.led_stamp_ns
        else:
            assert frame.led_stamp_ns == frame.stamp_ns - 50 * MS
    for column in states.T:
        changes = np.flatnonzero(np.diff(column))
        assert (np.diff(changes) >= 2).all(), "held for 150 ms at least"


@pytest.mark.parametrize("state", [0, 1])
def test_leds_can_be_forced_without_changing_anything_else(state):
    settings = {"scene_frames": 3, "rate": 5.0}
    drawn, forced = frames_of(6, **settings), frames_of(6, led_state=state, **settings)
    for one, other in zip(drawn, forced, strict=True):
        assert one.stamp_ns == other.stamp_ns
        assert np.array_equal(one.poses, other.poses) and np.array_equal(one.valid, other.valid)
        assert (other.led_states == state).all()
        # LEDs and their glow are a small part of the picture; a shifted seed would change most of it.
        assert (np.abs(one.rgb.astype(int) - other.rgb).max(2) > 12).mean() < 0.1
    assert any(not np.array_equal(one.rgb, other.rgb) for one, other in zip(drawn, forced, strict=True))


def test_a_recording_comes_with_the_poses_of_all_peers(tmp_path):
    path = tmp_path / "two.h5"
    settings = {"seed": 5005, **SMALL, "peers": 2, "scene_frames": 1}
    poses, visible = simulate.write_recording(path, settings, count=3)
    frames = frames_of(3, seed=5005, peers=2, scene_frames=1, rate=simulate.RATE)
    np.testing.assert_array_equal(poses, [frame.poses for frame in frames])
    np.testing.assert_array_equal(visible, [frame.valid for frame in frames])
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.ground_truth().valid, visible[:, 0])


def test_peers_at_a_distance_stand_there_in_view():
    simulation = Simulation(seed=5, width=320, height=180, scene_frames=2, distance=1.5)
    frames = [simulation.step() for _ in range(6)]
    simulation.close()
    poses = np.stack([frame.poses[0] for frame in frames])
    np.testing.assert_allclose(np.linalg.norm(poses[:, :3], axis=1), 1.5, atol=1e-6)
    np.testing.assert_allclose(poses[:, 0], 0.0, atol=1e-6, err_msg="not straight ahead")
    np.testing.assert_array_equal(poses[0], poses[1])
    assert not np.allclose(poses[1], poses[2]), "another scene, another view"


def test_absent_peers():
    assert all(frame.valid.tolist() == [] for frame in frames_of(2, absent=1.0, scene_frames=1))
    sometimes = frames_of(6, width=32, height=32, absent=0.5, scene_frames=1)
    assert {len(frame.poses) for frame in sometimes} == {0, 1}


def test_lit_leds_glow_where_the_pose_has_them():
    """Each LED brightens the picture at its place, in its colour, and nowhere else."""
    lit_leds = set()
    for index in range(12):
        view = scene(index)
        pose = view.poses[0]
        rings = in_optical_frame(led_rings(view.look.scale).reshape(-1, 3), pose).reshape(4, -1, 3)
        outward = in_optical_frame(led_outward(), pose) - pose[:3]
        dark = view.picture(np.zeros((1, 4))).astype(float)
        for led in range(4):
            centre = rings[led].mean(0)
            facing = -centre @ outward[led] / np.linalg.norm(centre)
            pixels = project(rings[led], camera_matrix(640, 360), np.zeros(5), "plumb_bob")
            low, high = pixels.min(0) - 2, pixels.max(0) + 2
            if facing < np.cos(np.radians(70)) or (low < 0).any() or (high > (639, 359)).any():
                continue
            if (
                view._unhidden("peer0", led_rings(view.look.scale)[led] + 0.004 * led_outward()[led]).mean()
                < 0.9
            ):
                continue
            lit = view.picture(np.eye(4)[led][None]).astype(float)
            x, y = np.floor(low).astype(int)
            right, bottom = np.ceil(high).astype(int) + 1
            change = lit - dark
            strongest = np.unravel_index(change.sum(2).argmax(), change.shape[:2])
            assert y <= strongest[0] < bottom and x <= strongest[1] < right
            inside = change[y:bottom, x:right]
            assert inside.sum(2).max() > 80
            hue = view.look.led_colour
            if np.ptp(hue) > 0.5:
                assert hue[inside.sum((0, 1)).argmax()] > 0.8
            elsewhere = np.delete(change, np.s_[max(y - 60, 0) : bottom + 60], axis=0)
            assert abs(elsewhere.mean()) < 1
            lit_leds.add(led)
        view.close()
        if len(lit_leds) == 4:
            break
    assert lit_leds == {0, 1, 2, 3}, "the scenes must show each LED at least once"


def test_poses_lie_where_the_peer_is_seen():
    checked = 0
    for index in range(10, 16):
        view = scene(index, 320, 180)
        renderer, model = view._renderer, view._model
        renderer.enable_segmentation_rendering()
        renderer.update_scene(view._data, "observer/camera")
        geoms = renderer.render()[..., 0]
        renderer.disable_segmentation_rendering()
        is_peer = model.body_rootid[model.geom_bodyid] == model.body("peer0").id
        is_peer &= model.geom_group == 0
        rows, columns = np.nonzero((geoms >= 0) & is_peer[geoms])
        u, v = project(view.poses[:1, :3], camera_matrix(320, 180), np.zeros(5), "plumb_bob")[0]
        if view.visible()[0] and 30 < u < 290:
            width = np.ptp(columns) + 1
            assert abs(u - (columns.min() + columns.max()) / 2) < 0.2 * width
            assert rows.min() < v < rows.max()
            # The wheels stand on the floor 0.23 m below the camera, up to 0.2 m nearer than the centre.
            depth = view.poses[0, 2]
            focal = camera_matrix(320, 180)[0, 0]
            assert 0.23 * focal / (depth + 0.05) < rows.max() - 89.5 + 1.5
            assert rows.max() - 89.5 - 1.5 < 0.23 * focal / (depth - 0.2) or rows.max() == 179
            checked += 1
        elif view.poses[0, 2] < 0 or not -60 < u < 380:
            assert len(rows) == 0 and not view.visible()[0]
        view.close()
    assert checked >= 3


def test_peers_come_from_all_sides_and_distances():
    """The drives alone, without pictures: coverage, bounded motion, no collisions."""
    rng = np.random.default_rng(5003)
    bearings, distances, nearest = [], [], np.inf
    for _ in range(40):
        crowd = Choreography(Room(4.0, 3.5), np.array([-3.0, 0.0, 0.0]), 2, np.radians(45.5), rng)
        for _ in range(5):
            crowd.advance(1.0)
            x, y, yaw = crowd.peers[0].pose
            towards = crowd.observer.pose[:2] - (x, y)
            bearings.append(float(wrap_angle(np.arctan2(towards[1], towards[0]) - yaw)))
            distances.append(float(np.hypot(*towards)))
            robots = [crowd.observer.pose, *(peer.pose for peer in crowd.peers)]
            gaps = [np.hypot(*(a - b)[:2]) for i, a in enumerate(robots) for b in robots[:i]]
            nearest = min(nearest, *gaps)
            before = [peer.velocity.copy() for peer in crowd.peers]
            crowd.advance(TIME_STEP)
            for peer, velocity in zip(crowd.peers, before, strict=True):
                assert np.hypot(*peer.velocity[:2]) <= peer.speed + 1e-9
                stopped = not peer.velocity.any()
                change = np.hypot(*(peer.velocity - velocity)[:2])
                assert stopped or change <= peer.acceleration * TIME_STEP + 1e-9
    assert nearest > ROBOT_GAP - 0.03
    assert (np.histogram(bearings, 8, (-np.pi, np.pi))[0] > 8).all()
    assert np.percentile(distances, 15) < 1.0 and np.percentile(distances, 85) > 2.2


def test_geometry_agrees_on_psi():
    """A peer that is turned by 90 degrees to its left shows the camera its right side, as `psi` says."""
    view = scene(3, 64, 36)
    observer, peer = view._choreography.observer, view._choreography.peers[0]
    peer.pose[:2] = observer.pose[:2] + 2 * np.array([np.cos(observer.pose[2]), np.sin(observer.pose[2])])
    for turned, psi in ((0.0, np.pi), (np.pi / 2, np.pi / 2), (np.pi, 0.0), (-np.pi / 2, -np.pi / 2)):
        peer.pose[2] = observer.pose[2] + turned
        assert abs(wrap_angle(relative_bearing(view.poses)[0] - psi)) < 1e-6
    view.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"peers": 0},
        {"absent": 1.5},
        {"rate": 0.0},
        {"width": 8},
        {"height": 5000},
        {"distance": 9.0},
        {"led_state": 0.5},
    ],
)
def test_impossible_simulations_are_refused(settings):
    with pytest.raises(LedposeError, match="must be"):
        Simulation(**{"seed": 0, **settings})


@pytest.mark.parametrize("words", [["--peers", "-1"], ["--size", "100000x90"], ["--peers", "50"]])
def test_a_recording_that_cannot_be_simulated_leaves_nothing(tmp_path, words):
    with pytest.raises(LedposeError):
        simulate_recording(tmp_path / "a.h5", "--count", "1", *words)
    assert not list(tmp_path.iterdir())


def simulate_recording(path: Path, *arguments: str) -> None:
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    simulate.run(parser.parse_args(["-o", str(path), "--size", "160x90", "--seed", "5004", *arguments]))


def test_recordings_do_not_depend_on_the_number_of_workers(tmp_path):
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    for path, workers in ((one, "1"), (two, "2")):
        simulate_recording(path, "--count", "5", "--scene-frames", "3", "--workers", workers)
    with Recording(one) as first, Recording(two) as second:
        assert len(first) == len(second) == 5
        for index in range(5):
            assert np.array_equal(first.encoded_image(index), second.encoded_image(index))
        assert np.array_equal(first.led_states, second.led_states)
        truth, other_truth = first.ground_truth(), second.ground_truth()
        assert np.array_equal(truth.pose, other_truth.pose, equal_nan=True)
        assert np.array_equal(truth.valid, other_truth.valid)
        assert first.image(0).shape == (90, 160, 3)
        assert (np.diff(first.image_stamps_ns) > 0).all()
        assert (first.led_stamps_ns < first.image_stamps_ns).all()


def test_simulate_refuses_a_count_of_zero(tmp_path):
    with pytest.raises(LedposeError, match="--count must be at least 1, but is 0"):
        simulate_recording(tmp_path / "none.h5", "--count", "0")
    assert not list(tmp_path.iterdir())


def die(scene):
    """Take the place of a worker's task, in a process that the system kills."""
    os._exit(9)


def test_a_killed_worker_ends_the_simulation_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(simulate, "_render", die)
    with pytest.raises(LedposeError, match="a process that renders was killed"):
        simulate.write_recording(tmp_path / "r.h5", {"seed": 1, "width": 64, "height": 36}, 2, workers=1)
