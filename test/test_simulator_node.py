# SPDX-License-Identifier: Apache-2.0
"""The simulator as a process of its own, heard over DDS."""

import os
import signal
from bisect import bisect_right
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ledpose_ros.simulation")

from geometry_msgs.msg import PoseStamped, TransformStamped
from nav_msgs.msg import Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from ros_graph import new_domain, ros_client, run_node, run_program
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState

from ledpose_ros.geometry import pose_of
from ledpose_ros.leds import stamp_ns
from ledpose_ros.simulation import CAMERA_POSITION, Simulation, TeamSimulation

MODULE = "ledpose_ros.nodes.simulator"
SIZE = {"width": 96, "height": 54}


def test_images_leds_and_truth_belong_together(tmp_path: Path):
    """Everything the node says of an image is what the simulation of the same seed says of it."""
    simulation = Simulation(seed=5005, rate=5.0, scene_frames=1000, **SIZE)
    expected = [simulation.step() for _ in range(30)]
    simulation.close()
    by_picture = {frame.rgb.tobytes(): frame for frame in expected}
    domain = new_domain()
    settings = {"seed": 5005, "rate": 5.0, "scene_duration": 200.0, "publish_clock": True, **SIZE}
    with ros_client(domain) as client, run_node(MODULE, domain, tmp_path / "log", settings) as node:
        images = client.collect(Image, "image", qos_profile_sensor_data)
        infos = client.collect(CameraInfo, "camera_info", qos_profile_sensor_data)
        leds = client.collect(JointState, "led_states", 100)
        truth = client.collect(PoseStamped, "ground_truth")
        clock = client.collect(Clock, "/clock")

        def with_truth() -> set[int]:
            images_of, truth_of = (
                {stamp_ns(m.header.stamp) for m in messages} for messages in (images, truth)
            )
            return images_of & truth_of

        # Either may be discovered later than the other.
        client.wait_until(
            lambda: len(images) >= 5 and len(with_truth()) >= 3, timeout=60, what=lambda: node.log
        )
        last = stamp_ns(images[-1].header.stamp)
        client.wait_until(lambda: stamp_ns(leds[-1].header.stamp) >= last, what="the LEDs of the last image")
        assert node.end(signal.SIGTERM) == (0, pytest.approx(0, abs=2.0))

    led_stamps = [stamp_ns(message.header.stamp) for message in leds]
    assert led_stamps == sorted(led_stamps)
    poses = {stamp_ns(message.header.stamp): message.pose for message in truth}
    compared = Counter[str]()
    for image in images:
        frame = by_picture[bytes(image.data)]
        stamp = stamp_ns(image.header.stamp)
        assert image.header.frame_id == "camera_optical_frame"
        held = bisect_right(led_stamps, stamp) - 1
        if held >= 0:
            compared["LEDs"] += 1
            assert leds[held].name == ["front", "left", "back", "right"]
            assert list(leds[held].position) == frame.led_states.tolist()
        if stamp in poses:
            compared["truth"] += 1
            position = poses[stamp].position
            assert np.allclose([position.x, position.y, position.z], frame.poses[0, :3])
    assert min(compared["LEDs"], compared["truth"]) >= 3
    stamps = [stamp_ns(image.header.stamp) for image in images]
    assert min(np.diff(stamps)) >= 200_000_000
    assert infos[0].width == 96 and np.allclose(infos[0].k, simulation.info.K.ravel())
    assert stamp_ns(clock[-1].clock) > stamp_ns(clock[0].clock)


FAILING = """
import sys
from ledpose_ros.nodes import simulator
from ledpose_ros.simulation import Simulation

step, steps = Simulation.step, []

def failing(self):
    steps.append(1)
    if len(steps) > 4:
        raise RuntimeError("the graphics card is gone")
    return step(self)

Simulation.step = failing
sys.exit(simulator.main())
"""


def test_an_error_while_rendering_ends_the_node(tmp_path: Path):
    """Without pictures it would only seem to be there."""
    (tmp_path / "failing.py").write_text(FAILING)
    size = [word for name, value in SIZE.items() for word in ("-p", f"{name}:={value}")]
    with run_program(["failing", "--ros-args", *size], new_domain(), tmp_path / "log") as node:
        assert node.wait() == 1
    assert "the simulation failed (RuntimeError: the graphics card is gone)" in node.log


FAKE_TF2 = Path(__file__).parent / "fake_tf2"
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def test_what_is_published_of_a_team_is_true_of_its_pictures(tmp_path: Path, monkeypatch):
    """Of each picture, under each robot's name, what the simulation of the same seed says."""
    monkeypatch.setenv("PYTHONPATH", str(FAKE_TF2), prepend=os.pathsep)
    simulation = TeamSimulation(seed=5005, robots=2, rate=5.0, **SIZE)
    expected = [simulation.step() for _ in range(40)]
    simulation.close()
    by_picture = {frame.rgb.tobytes(): frame for frame in expected}
    names = ("alpha", "beta")
    domain = new_domain()
    settings = {"seed": 5005, "rate": 5.0, "robots": "[alpha, beta]", **SIZE}
    with ros_client(domain) as client, run_node(MODULE, domain, tmp_path / "log", settings) as node:
        images = {name: client.collect(Image, f"{name}/image", 20) for name in names}
        infos = client.collect(CameraInfo, "beta/camera_info", 20)
        leds = {name: client.collect(JointState, f"{name}/led_states", 100) for name in names}
        odometry = {name: client.collect(Odometry, f"{name}/odometry", 100) for name in names}
        truth = client.collect(PoseStamped, "beta/ground_truth/alpha", 100)
        transforms = client.collect(TransformStamped, "transforms", LATCHED)
        mounts = client.collect(TransformStamped, "static_transforms", LATCHED)
        client.wait_until(
            lambda: min(map(len, images.values())) >= 3 and truth and mounts,
            timeout=60,
            what=lambda: node.log,
        )
        last = max(stamp_ns(heard[-1].header.stamp) for heard in images.values())
        client.wait_until(
            lambda: all(stamp_ns(heard[-1].header.stamp) >= last for heard in leds.values()),
            what="the LEDs of the last image",
        )
        assert node.end()[0] == 0

    assert infos[0].width == SIZE["width"] and infos[0].header.frame_id == "beta/camera_optical_frame"
    true_poses = {stamp_ns(message.header.stamp): pose_of(message) for message in truth}
    compared = Counter[str]()
    for index, (name, heard) in enumerate(images.items()):
        led_stamps = [stamp_ns(message.header.stamp) for message in leds[name]]
        own = {stamp_ns(message.header.stamp): message for message in odometry[name]}
        for image in heard:
            frame, stamp = by_picture[bytes(image.data)], stamp_ns(image.header.stamp)
            assert frame.robot == index and image.header.frame_id == f"{name}/camera_optical_frame"
            if (held := bisect_right(led_stamps, stamp) - 1) >= 0:
                compared["LEDs"] += 1
                assert list(leds[name][held].position) == frame.led_states[index].tolist()
            if moving := own.get(stamp):
                compared["odometry"] += 1
                assert (moving.header.frame_id, moving.child_frame_id) == ("map", f"{name}/base_link")
                np.testing.assert_allclose(pose_of(moving.pose), frame.body_poses[index])
                twist = moving.twist.twist
                told = (twist.linear.x, twist.linear.y, twist.angular.z)
                np.testing.assert_allclose(told, frame.velocities[index])
            if name == "beta" and stamp in true_poses:
                compared["truth"] += 1
                assert frame.valid[0]
                np.testing.assert_allclose(true_poses[stamp], frame.poses[0])
    assert min(compared[what] for what in ("LEDs", "odometry", "truth")) >= 1

    assert {(mount.header.frame_id, mount.child_frame_id) for mount in mounts} == {
        (f"{name}/base_link", f"{name}/camera_optical_frame") for name in names
    }
    place = mounts[0].transform.translation
    assert (place.x, place.y, place.z) == pytest.approx(CAMERA_POSITION)
    assert {(moved.header.frame_id, moved.child_frame_id) for moved in transforms} == {
        ("map", f"{name}/base_link") for name in names
    }
    poses = {stamp_ns(message.header.stamp): pose_of(message.pose) for message in odometry["alpha"]}
    # Transforms of before odometry was listened to are heard as well.
    both = [
        (poses[stamp_ns(moved.header.stamp)], moved.transform)
        for moved in transforms
        if moved.child_frame_id == "alpha/base_link" and stamp_ns(moved.header.stamp) in poses
    ]
    assert both
    for pose, transform in both:
        place, turn = transform.translation, transform.rotation
        told = [place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w]
        assert told == pytest.approx(pose.tolist())


@pytest.mark.parametrize(
    ("robots", "sentence"),
    [
        ("[alpha]", "has 1 names, but must have 2 to 4, or none"),
        ("[alpha, beta, alpha]", "names a robot twice"),
        ("[alpha, a/b]", "'a/b', which is no name for a robot"),
    ],
)
def test_names_that_make_no_team_end_the_node_with_one_sentence(tmp_path: Path, robots, sentence):
    with run_node(MODULE, new_domain(), tmp_path / "log", {"robots": robots}) as node:
        assert node.wait() == 2
        assert sentence in node.log.strip().splitlines()[-1]


def test_a_bad_parameter_is_one_sentence_and_exit_code_2(tmp_path: Path):
    with run_node(MODULE, new_domain(), tmp_path / "log", {"peers": 9}) as node:
        assert node.wait() == 2
        assert "peers" in node.log and "Traceback" not in node.log
