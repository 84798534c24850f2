# SPDX-License-Identifier: Apache-2.0
"""The simulator as a process of its own, heard over DDS."""

import signal
from bisect import bisect_right
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ledpose_ros.simulation")

from geometry_msgs.msg import PoseStamped
from rclpy.qos import qos_profile_sensor_data
from ros_graph import new_domain, ros_client, run_node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState

from ledpose_ros.leds import stamp_ns
from ledpose_ros.simulation import Simulation

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
        client.wait_until(lambda: len(images) >= 5 and truth, timeout=60, what=lambda: node.log)
        last = stamp_ns(images[-1].header.stamp)
        client.wait_until(lambda: stamp_ns(leds[-1].header.stamp) >= last, what="the LEDs of the last image")
        assert node.end(signal.SIGTERM) == (0, pytest.approx(0, abs=2.0))

    led_stamps = [stamp_ns(message.header.stamp) for message in leds]
    assert led_stamps == sorted(led_stamps)
    poses = {stamp_ns(message.header.stamp): message.pose for message in truth}
    for image in images:
        frame = by_picture[bytes(image.data)]
        stamp = stamp_ns(image.header.stamp)
        assert image.header.frame_id == "camera_optical_frame"
        held = bisect_right(led_stamps, stamp) - 1
        if held >= 0:
            assert leds[held].name == ["front", "left", "back", "right"]
            assert list(leds[held].position) == frame.led_states.tolist()
        if stamp in poses:
            position = poses[stamp].position
            assert np.allclose([position.x, position.y, position.z], frame.poses[0, :3])
    stamps = [stamp_ns(image.header.stamp) for image in images]
    assert min(np.diff(stamps)) >= 200_000_000
    assert infos[0].width == 96 and np.allclose(infos[0].k, simulation.info.K.ravel())
    assert stamp_ns(clock[-1].clock) > stamp_ns(clock[0].clock)


def test_a_bad_parameter_is_one_sentence_and_exit_code_2(tmp_path: Path):
    with run_node(MODULE, new_domain(), tmp_path / "log", {"peers": 9}) as node:
        assert node.wait() == 2
        assert "peers" in node.log and "Traceback" not in node.log
