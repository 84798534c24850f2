# SPDX-License-Identifier: Apache-2.0
"""Simulator and recorder as processes of their own: what lands in the file is what was sent."""

from bisect import bisect_right
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")

from diagnostic_msgs.msg import DiagnosticStatus
from ros_graph import new_domain, ros_client, run_node, values_of
from sensor_msgs.msg import JointState

from ledpose_ros.leds import stamp_ns
from ledpose_ros.recording import Recording

SAMPLES = 15


def test_every_stored_led_state_is_the_one_sent(tmp_path: Path):
    """Each sample holds the LED states that were announced for its image's stamp, and the true pose."""
    domain = new_domain()
    seen = {"seed": 5005, "rate": 4.0, "width": 160, "height": 90, "scene_duration": 60.0}
    with (
        ros_client(domain) as client,
        run_node(
            "ledpose_ros.nodes.recorder", domain, tmp_path / "recorder.log", {"output_directory": tmp_path}
        ) as recorder,
    ):
        leds = client.collect(JointState, "led_states", 1000)
        status = client.collect(DiagnosticStatus, "recorder/status")
        client.wait_until(lambda: status, what=lambda: recorder.log)
        with run_node("ledpose_ros.nodes.simulator", domain, tmp_path / "simulator.log", seen) as simulator:

            def samples() -> int:
                return int(values_of(status[-1])["samples"])

            client.wait_until(
                lambda: samples() >= SAMPLES, timeout=120, what=lambda: recorder.log + simulator.log
            )
            simulator.end()
        code, _ = recorder.end()
        assert code == 0

    (path,) = tmp_path.glob("*.h5")
    stamps = [stamp_ns(message.header.stamp) for message in leds]
    order = np.argsort(stamps, kind="stable")
    stamps = [stamps[i] for i in order]
    with Recording(path) as recording:
        assert len(recording) >= SAMPLES
        checked = 0
        for stamp, states in zip(recording.image_stamps_ns, recording.led_states, strict=True):
            held = bisect_right(stamps, int(stamp)) - 1
            if held < 0:
                continue  # held since before this test began to listen
            message = leds[order[held]]
            sent = dict(zip(message.name, message.position, strict=True))
            assert [sent[name] for name in recording.info.led_names] == states.tolist()
            checked += 1
        assert checked >= SAMPLES - 3
        assert len(np.unique(recording.led_states, axis=0)) > 2
        truth = recording.ground_truth()
        assert truth is not None and len(truth.pose) == len(recording)
        assert np.linalg.norm(truth.pose[truth.valid, :3], axis=1).min() > 0.3
