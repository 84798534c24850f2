# SPDX-License-Identifier: Apache-2.0
"""The recorder as a process of its own, fed over DDS with images that show the true LED states."""

import re
import signal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from blinking_camera import (
    HEIGHT,
    LED_NAMES,
    START_NS,
    WIDTH,
    BlinkingCamera,
    camera_info,
    finished_recordings,
    picture_of,
    recorder,
    wrong_samples,
)
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_graph import Client
from sensor_msgs.msg import CompressedImage, Image, JointState, Joy
from std_srvs.srv import Trigger

from ledpose_ros.images import encode_image
from ledpose_ros.nodes.common import message_from_rgb
from ledpose_ros.recording import Recording


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_every_sample_is_right_and_the_file_is_whole_after_a_signal(
    number: signal.Signals, domain: int, client: Client, tmp_path: Path
) -> None:
    camera = BlinkingCamera(client)
    with recorder(domain, tmp_path) as node:
        camera.wait_for_recorder()
        camera.run_until(samples=60)
        code, seconds = node.end(number)
        assert code == 0, node.log
        assert seconds < 2
        assert "Traceback" not in node.log
        assert re.search(r"recorder: \d+ samples of \d+ images", node.log), node.log

    (path,) = finished_recordings(tmp_path)
    samples, wrong = wrong_samples(path, camera)
    assert wrong == 0
    assert samples >= 60
    with Recording(path) as recording:
        assert recording.info.led_names == LED_NAMES
        assert recording.info.camera_frame == "camera_optical_frame"
        assert recording.info.K[0, 0] == 50.0 and recording.info.D[0] == 0.1
        assert len(np.unique(recording.led_states, axis=0)) > 4


def test_leds_may_be_told_by_other_messages(domain: int, client: Client, tmp_path: Path) -> None:
    leds = ", ".join(f"{name}: {{value: 'buttons[{index}]'}}" for index, name in enumerate(LED_NAMES))
    table = tmp_path / "sources.yaml"
    table.write_text(f"buttons: {{type: sensor_msgs/msg/Joy, stamp: header.stamp, leds: {{{leds}}}}}")
    camera = BlinkingCamera(client)
    camera.tell_leds_by_buttons()
    with recorder(domain, tmp_path, led_sources=table) as node:
        camera.wait_for_recorder()
        camera.run_until(samples=30)
        camera.led_publisher.publish(Joy(header=camera.header(), buttons=[1]))
        camera.wait_for_status({"refused: LEDs not told": "1"})
        assert node.end()[0] == 0
    (path,) = finished_recordings(tmp_path)
    samples, wrong = wrong_samples(path, camera)
    assert samples >= 30 and wrong == 0


def test_led_sources_that_are_not_installed_end_the_recorder(domain: int, tmp_path: Path) -> None:
    table = Path(__file__).parents[1] / "config" / "led_sources" / "robomaster.yaml"
    with recorder(domain, tmp_path, led_sources=table) as node:
        assert node.wait() != 0
        assert "is of type robomaster_msgs/msg/LEDEffect, which is not installed" in node.log
        assert "Traceback" not in node.log


def test_a_killed_recorder_leaves_what_it_committed(domain: int, client: Client, tmp_path: Path) -> None:
    camera = BlinkingCamera(client)
    with recorder(domain, tmp_path, flush_samples=5) as node:
        camera.wait_for_recorder()
        camera.run_until(samples=30)
        node.end(signal.SIGKILL)
    (part,) = (tmp_path / "out").glob("*.part")
    samples, wrong = wrong_samples(part, camera)
    assert samples >= 25 and wrong == 0


def test_compressed_images_are_stored_as_they_came(domain: int, client: Client, tmp_path: Path) -> None:
    camera = BlinkingCamera(client, CompressedImage)
    with recorder(domain, tmp_path, image_transport="compressed") as node:
        camera.wait_for_recorder()
        camera.run_until(samples=20)
        camera.run_to_steady()
        camera.let_recorder_catch_up()
        # A JPEG that lost its tail, as over a bad radio link.
        whole = encode_image(picture_of(np.ones(4), 0), "jpeg")
        camera.image_publisher.publish(
            CompressedImage(header=camera.steady_header(), format="jpeg", data=whole[:-200])
        )
        camera.run_until(samples=10)
        camera.wait_for_status({"refused: unreadable image": "1"})
        assert node.end()[0] == 0
    (path,) = finished_recordings(tmp_path)
    samples, wrong = wrong_samples(path, camera)
    assert samples >= 30 and wrong == 0
    with Recording(path) as recording:
        number = camera.stamps_ns.index(recording.image_stamps_ns[3])
        published = encode_image(picture_of(recording.led_states[3], number), "jpeg")
        assert recording.encoded_image(3).tobytes() == published


def test_malformed_messages_are_counted_and_do_no_harm(domain: int, client: Client, tmp_path: Path) -> None:
    camera = BlinkingCamera(client)
    with recorder(domain, tmp_path) as node:
        camera.wait_for_recorder()
        camera.run_until(samples=20)
        camera.run_to_steady()
        camera.let_recorder_catch_up()

        def publish_leds(names: list[str], positions: list[float]) -> None:
            camera.led_publisher.publish(JointState(header=camera.header(), name=names, position=positions))

        publish_leds(["front", "left", "back"], [1.0, 1.0, 1.0])
        publish_leds(["front", "front", "back", "right"], [1.0, 1.0, 1.0, 1.0])
        publish_leds(list(LED_NAMES), [1.0, float("nan"), 0.0, 0.0])
        publish_leds(list(LED_NAMES), [1.0])

        truncated = message_from_rgb(picture_of(np.ones(4), 0), camera.steady_header())
        truncated.data = truncated.data[:-10]
        camera.image_publisher.publish(truncated)
        unknown = message_from_rgb(picture_of(np.ones(4), 0), camera.steady_header())
        unknown.encoding = "hologram8"
        camera.image_publisher.publish(unknown)
        camera.image_publisher.publish(Image(header=camera.steady_header(), encoding="rgb8"))
        camera.run_until(samples=10)
        camera.wait_for_status({"refused: malformed LED message": "4", "refused: unreadable image": "3"})

        camera.camera_publisher.publish(camera_info(camera.header(), WIDTH, HEIGHT, focal_length=0.0))
        camera.wait_for_status({"refused: camera not calibrated": "1"})
        camera.run_until(samples=10)
        assert node.is_running
        assert node.end()[0] == 0
        assert "holds 6134 bytes, 32 rows of 192 take 6144" in node.log
    (path,) = finished_recordings(tmp_path)
    samples, wrong = wrong_samples(path, camera)
    assert samples >= 40 and wrong == 0


def test_services_start_stop_and_split(domain: int, client: Client, tmp_path: Path) -> None:
    camera = BlinkingCamera(client)
    with recorder(domain, tmp_path, autostart=False) as node:
        camera.wait_for_recorder()
        camera.run(frames=10)
        assert camera.wait_for_status({"state": "stopped"})["images received"] == "0"
        refused = client.call(Trigger, "recorder/split")
        assert not refused.success and "nothing to split" in refused.message

        assert client.call(Trigger, "recorder/start").success
        camera.run_until(samples=15)
        split = client.call(Trigger, "recorder/split")
        assert split.success and re.search(r"ledpose_\d{8}_\d{6}\.h5 holds \d+ samples", split.message), (
            split.message
        )
        camera.run_until(samples=15)
        stopped = client.call(Trigger, "recorder/stop")
        assert stopped.success
        assert len(finished_recordings(tmp_path)) == 2
        camera.run(frames=20)
        assert client.call(Trigger, "recorder/start").success
        camera.run_until(samples=15)
        assert node.end()[0] == 0
    paths = finished_recordings(tmp_path)
    assert len(paths) == 3
    for path in paths:
        samples, wrong = wrong_samples(path, camera)
        assert samples > 10 and wrong == 0


def test_a_clock_that_jumps_back_clears_the_history(domain: int, client: Client, tmp_path: Path) -> None:
    camera = BlinkingCamera(client)
    with recorder(domain, tmp_path) as node:
        camera.wait_for_recorder()
        camera.run_until(samples=40)
        # The same times again with other states, as when a bag starts over.
        camera.jump((START_NS - camera.time_ns) / 1e9)
        camera.run_until(samples=40)
        assert int(camera.values()["refused: clock jumped backwards"]) >= 1
        assert node.end()[0] == 0
    (path,) = finished_recordings(tmp_path)
    samples, wrong = wrong_samples(path, camera)
    assert samples >= 80 and wrong == 0


def test_incompatible_qos_is_named(domain: int, client: Client, tmp_path: Path) -> None:
    camera = BlinkingCamera(client)
    client.node.destroy_publisher(camera.led_publisher)
    best_effort = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
    camera.led_publisher = client.node.create_publisher(JointState, "led_states", best_effort)
    with recorder(domain, tmp_path) as node:
        client.wait_until(lambda: camera.values().get("refused: incompatible QoS") == "1")
        sentence = "a publisher of /led_states offers less reliability than is asked for: change its QoS"
        assert sentence in node.log
        client.wait_until(lambda: sentence in camera.status[-1].message, what="the same in the status")
        assert node.end()[0] == 0


def test_qos_can_be_overridden(domain: int, client: Client, tmp_path: Path) -> None:
    camera = BlinkingCamera(client)
    overrides = {"qos_overrides./camera_info.subscription.durability": "transient_local"}
    with recorder(domain, tmp_path, **overrides) as node:
        client.wait_until(lambda: camera.values().get("refused: incompatible QoS") == "1")
        assert "a publisher of /camera_info offers less durability than is asked for" in node.log
        assert "qos_overrides./camera_info.subscription.durability" in node.log
        assert node.end()[0] == 0


def test_what_refuses_to_start_ends(domain: int, tmp_path: Path) -> None:
    for policy, nonsense in {"reliability": "nonsense", "depth": 2**63 - 1}.items():
        with recorder(domain, tmp_path, **{f"qos_overrides./image.subscription.{policy}": nonsense}) as node:
            assert node.wait() == 2
            assert "check the parameters qos_overrides" in node.log and "Traceback" not in node.log
    table = tmp_path / "table.yaml"
    table.write_text('"bad name": {type: std_msgs/msg/Bool, leds: {front: {value: data}}}')
    settings = {"led_sources": table, "led_names": "[front]", "led_directions": "[0.0]"}
    with recorder(domain, tmp_path, **settings) as node:
        assert node.wait() == 2
        assert "bad name is no name of a topic" in node.log and "Traceback" not in node.log


def test_true_poses_are_left_out_if_told_so(domain: int, client: Client, tmp_path: Path) -> None:
    camera = BlinkingCamera(client)
    with recorder(domain, tmp_path, record_ground_truth=False) as node:
        camera.wait_for_recorder(poses=False)
        camera.run_until(samples=20)
        assert node.end()[0] == 0
    (path,) = finished_recordings(tmp_path)
    with Recording(path) as recording:
        assert len(recording) >= 20 and not recording.has_ground_truth


def test_segments_end_by_time(domain: int, client: Client, tmp_path: Path) -> None:
    camera = BlinkingCamera(client)
    with recorder(domain, tmp_path, segment_duration=1.0) as node:
        camera.wait_for_recorder()
        camera.run_until(samples=80)
        assert node.end()[0] == 0
    judged = [wrong_samples(path, camera) for path in finished_recordings(tmp_path)]
    assert len(judged) >= 2
    assert sum(count for count, _ in judged) >= 80 and sum(wrong for _, wrong in judged) == 0


def test_bad_parameters_end_with_one_sentence(domain: int, tmp_path: Path) -> None:
    with recorder(domain, tmp_path, led_names="[front, left]") as node:
        assert node.wait() == 2
        assert "LED names (2) and LED directions (4)" in node.log
        assert "Traceback" not in node.log
