# SPDX-License-Identifier: Apache-2.0
"""What is true of simulated robots that look at each other."""

from itertools import combinations, pairwise

import numpy as np
import pytest

pytest.importorskip("ledpose_ros.simulation")

from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import LEVEL_CAMERA, chained_pose, rotation_matrix, wrap_angle
from ledpose_ros.simulation import CAMERA_POSITION, TeamFrame, TeamSimulation
from ledpose_ros.simulation.drive import ROBOT_GAP, Gathering
from ledpose_ros.simulation.room import Room
from ledpose_ros.simulation.scene import TeamScene

SEED = 5010
MS = 1_000_000


def frames_of(count: int, **settings) -> list[TeamFrame]:
    simulation = TeamSimulation(
        **{"seed": SEED, "robots": 3, "width": 96, "height": 54, "rate": 5.0, **settings}
    )
    frames = [simulation.step() for _ in range(count)]
    simulation.close()
    return frames


def same(first: TeamFrame, second: TeamFrame) -> bool:
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in vars(first))


def test_the_seed_decides_everything():
    frames = frames_of(5)
    assert all(same(one, other) for one, other in zip(frames, frames_of(5), strict=True))
    assert not np.array_equal(frames[0].rgb, frames_of(1, seed=SEED + 1)[0].rgb)


def test_pictures_are_taken_in_turn_and_leds_change_between_them():
    frames = frames_of(30)
    assert [frame.robot for frame in frames] == [0, 1, 2] * 10
    assert set(np.diff([frame.stamp_ns for frame in frames])) == {200 * MS}
    states = np.array([frame.led_states for frame in frames])
    assert (np.abs(np.diff(states, axis=0)).sum(0) > 0).all(), "every LED changes"
    assert len({tuple(column) for column in states.reshape(len(frames), -1).T}) == 12, "and on its own"
    for before, frame in pairwise(frames):
        if not np.array_equal(before.led_states, frame.led_states):
            assert frame.led_stamp_ns == frame.stamp_ns - 100 * MS


def test_poses_in_the_room_and_in_the_picture_are_the_same_poses():
    mount = np.concatenate([CAMERA_POSITION, LEVEL_CAMERA])
    frames = frames_of(9)
    for frame in frames:
        camera = chained_pose(frame.body_poses[frame.robot], mount)
        others = np.delete(frame.body_poses, frame.robot, axis=0)
        for seen, in_room in zip(frame.poses, others, strict=True):
            found = chained_pose(camera, seen)
            np.testing.assert_allclose(found[:3], in_room[:3], atol=1e-9)
            np.testing.assert_allclose(rotation_matrix(found[3:]), rotation_matrix(in_room[3:]), atol=1e-9)
    for before, frame in pairwise(frames):
        # At most 1 m/s^2 and 4 rad/s^2 over 0.2 s: velocities hold for the way between two pictures.
        moved = (frame.body_poses - before.body_poses)[:, :3]
        forward_left = np.einsum("rji,rj->ri", rotation_matrix(frame.body_poses[:, 3:]), moved)[:, :2] / 0.2
        assert np.abs(forward_left - frame.velocities[:, :2]).max() < 0.25


def test_robots_see_each_other_where_they_are_said_to_be_and_never_themselves():
    seen = 0
    for index in range(3):
        scene = TeamScene(np.random.default_rng((SEED, index)), 160, 90, robots=3)
        scene.advance(3.0)
        for robot, view in enumerate(scene.views):
            renderer, model = view._renderer, view._model
            renderer.enable_segmentation_rendering()
            renderer.update_scene(view._data, f"robot{robot}/camera")
            geoms = renderer.render()[..., 0]
            renderer.disable_segmentation_rendering()
            bodies = np.where(geoms >= 0, model.body_rootid[model.geom_bodyid[geoms]], -1)
            assert not (bodies == model.body(f"robot{robot}").id).any()
            others = [other for other in range(3) if other != robot]
            for other, pose, is_visible in zip(others, view.poses, view.visible(), strict=True):
                if not is_visible:
                    continue
                rows, columns = np.nonzero(bodies == model.body(f"robot{other}").id)
                u, v = (view.camera_matrix @ pose[:3])[:2] / pose[2]
                assert columns.min() - 1 <= u <= columns.max() + 1
                assert rows.min() - 1 <= v <= rows.max() + 1
                seen += 1
        scene.close()
    assert seen >= 6


def test_leds_of_each_robot_are_seen_by_the_others():
    scene = TeamScene(np.random.default_rng((SEED, 7)), 160, 90, robots=2)
    for view in scene.views:
        assert view.visible()[0]
        dark, lit = (view.picture(np.full((1, 4), state)).astype(int) for state in (0.0, 1.0))
        u, v = (view.camera_matrix @ view.poses[0][:3])[:2] / view.poses[0][2]
        row, column = np.unravel_index((lit - dark).sum(2).argmax(), dark.shape[:2])
        assert (lit - dark).max() > 60
        assert np.hypot(row - v, column - u) < 0.3 * 0.5 * 160 / view.poses[0][2]
    scene.close()


@pytest.mark.parametrize("robots", [2, 3, 4])
def test_robots_mostly_look_at_each_other_and_never_collide(robots):
    rng = np.random.default_rng((SEED, robots))
    nearest, in_view, sides = np.inf, [], []
    for _ in range(4):
        gathering = Gathering(Room(*rng.uniform(2.4, 5.0, 2)), robots, rng)
        for _ in range(120):
            gathering.advance(0.25)
            poses = np.array([robot.pose for robot in gathering.robots])
            nearest = min(nearest, *(np.hypot(*(a - b)[:2]) for a, b in combinations(poses, 2)))
            for a in poses:
                for b in poses:
                    if a is not b:
                        azimuth = np.arctan2(*(b - a)[1::-1])
                        in_view.append(abs(wrap_angle(azimuth - a[2])) < np.radians(45))
                        sides.append(float(wrap_angle(azimuth + np.pi - b[2])))
    assert nearest > ROBOT_GAP - 0.03
    assert np.mean(in_view) > 0.45
    assert (np.histogram(sides, 4, (-np.pi, np.pi))[0] > 0.01 * len(sides)).all(), "all sides are shown"


@pytest.mark.parametrize("settings", [{"robots": 1}, {"rate": 0.0}, {"width": 8}])
def test_impossible_teams_are_refused(settings):
    with pytest.raises(LedposeError, match="must be at least 2"):
        TeamSimulation(**{"seed": 0, "robots": 3, **settings})
