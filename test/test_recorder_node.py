# SPDX-License-Identifier: Apache-2.0
"""The recorder as a process of its own, fed over DDS with images that show the true LED states."""

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from ros_graph import Client, new_domain, ros_client, run_node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState, Joy
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from ledpose_ros.images import encode_image
from ledpose_ros.nodes.common import message_from_rgb, stamp_from_ns
from ledpose_ros.recording import Recording

LED_NAMES = ("front", "left", "back", "right")
WIDTH, HEIGHT = 64, 32
MS = 1_000_000
FRAME_NS = 33 * MS
LED_PERIOD_NS = 190 * MS
KEEP_ALIVE_NS = 50 * MS
START_NS = 1_700_000_000_000_000_000


def picture_of(states: np.ndarray, number: int) -> np.ndarray:
    """A picture with a column per LED, bright where it is on; the upper half carries the frame's number."""
    rgb = np.repeat(np.where(states > 0.5, 220, 40).astype(np.uint8), WIDTH // len(states))
    rgb = np.broadcast_to(rgb[None, :, None], (HEIGHT, WIDTH, 3)).copy()
    rgb[: HEIGHT // 2] = number % 256
    return rgb


def states_shown(rgb: np.ndarray) -> np.ndarray:
    columns = rgb[HEIGHT // 2 + 4 :].reshape(-1, len(LED_NAMES), WIDTH // len(LED_NAMES), 3)
    return (columns.mean(axis=(0, 2, 3)) > 128).astype(np.float32)


class Robot:
    """Publishes a camera and a peer's LEDs on a time line of its own; the LEDs change between frames."""

    def __init__(self, client: Client, image_type: Any = Image) -> None:
        node = client.node
        self.client = client
        self.image_publisher = node.create_publisher(image_type, "image", 20)
        self.camera_publisher = node.create_publisher(CameraInfo, "camera_info", 20)
        self.led_publisher = node.create_publisher(JointState, "led_states", 100)
        self.pose_publisher = node.create_publisher(PoseStamped, "ground_truth", 20)
        self.status: list[DiagnosticStatus] = client.collect(DiagnosticStatus, "recorder/status")
        self.time_ns = START_NS
        self.frames = 0
        self._image_type = image_type
        self._random = np.random.default_rng(1)
        self._states = np.zeros(len(LED_NAMES))
        self._next_frame = self._next_change = self._next_keep_alive = START_NS

    def wait_for_recorder(self) -> None:
        publishers = (self.image_publisher, self.camera_publisher, self.led_publisher, self.pose_publisher)
        self.client.wait_until(
            lambda: all(publisher.get_subscription_count() for publisher in publishers), what="the recorder"
        )
        # The first status also tells the recorder that ground truth is there.
        self.client.wait_until(lambda: self.status, what="the first status")

    def run(self, frames: int) -> None:
        """Publish in the order of the stamps, faster than real time but within what DDS queues hold."""
        end = self.frames + frames
        while self.frames < end:
            self.time_ns = min(self._next_frame, self._next_change, self._next_keep_alive)
            if self.time_ns == self._next_change:
                self._states = self._random.integers(0, 2, len(LED_NAMES)).astype(float)
                self._next_change += LED_PERIOD_NS
                self.publish_leds()
            elif self.time_ns == self._next_keep_alive:
                self._next_keep_alive += KEEP_ALIVE_NS
                self.publish_leds()
            else:
                self._next_frame += FRAME_NS
                self.publish_frame()
                self.client.spin_for(0.02)

    def run_until(self, samples: int, timeout: float = 60.0) -> None:
        """Run until the recorder's status tells so many more samples, however slow the machine."""
        target = int(self.values().get("samples", 0)) + samples
        end = time.monotonic() + timeout
        while int(self.values().get("samples", 0)) < target:
            assert time.monotonic() < end, f"not {target} samples within {timeout} s: {self.values()}"
            self.run(frames=5)

    def let_recorder_catch_up(self) -> None:
        """Wait for the next status, so that what is published then does not push anything out of a queue."""
        seen = len(self.status)
        self.client.wait_until(lambda: len(self.status) > seen, what="another status")

    def values(self) -> dict[str, str]:
        """The values of the last status."""
        return {pair.key: pair.value for pair in self.status[-1].values} if self.status else {}

    def header(self) -> Header:
        return Header(stamp=stamp_from_ns(self.time_ns), frame_id="camera_optical_frame")

    def steady_header(self) -> Header:
        """Stamped in the middle between the last two changes: no LED is a reason to reject an image there."""
        last_change = self.time_ns - (self.time_ns - START_NS) % LED_PERIOD_NS
        return Header(stamp=stamp_from_ns(last_change - LED_PERIOD_NS // 2), frame_id="camera_optical_frame")

    def publish_leds(self) -> None:
        # The order of names is the sender's business.
        self.led_publisher.publish(
            JointState(header=self.header(), name=LED_NAMES[::-1], position=self._states[::-1].tolist())
        )

    def tell_leds_by_buttons(self) -> None:
        """Publish the buttons of a Joy message in place of the named states."""
        self.led_publisher = self.client.node.create_publisher(Joy, "buttons", 100)
        self.publish_leds = lambda: self.led_publisher.publish(
            Joy(header=self.header(), buttons=[int(state) for state in self._states])
        )

    def publish_frame(self) -> None:
        rgb = picture_of(self._states, self.frames)
        self.camera_publisher.publish(camera_info(self.header(), WIDTH, HEIGHT))
        pose = PoseStamped(header=self.header())
        pose.pose.position.z = 1.0 + self.frames
        self.pose_publisher.publish(pose)
        if self._image_type is Image:
            self.image_publisher.publish(message_from_rgb(rgb, self.header()))
        else:
            self.image_publisher.publish(
                CompressedImage(header=self.header(), format="jpeg", data=encode_image(rgb, "jpeg"))
            )
        self.frames += 1

    def wait_for_status(self, wanted: dict[str, str]) -> dict[str, str]:
        """Wait for a status that holds the values."""
        self.client.wait_until(
            lambda: wanted.items() <= self.values().items(), what=lambda: f"{wanted} in {self.values()}"
        )
        return self.values()


def camera_info(header: Header, width: int, height: int, focal_length: float = 50.0) -> CameraInfo:
    info = CameraInfo(
        header=header, width=width, height=height, distortion_model="plumb_bob", d=[0.1, 0, 0, 0, 0]
    )
    info.k = [focal_length, 0.0, width / 2, 0.0, focal_length, height / 2, 0.0, 0.0, 1.0]
    return info


@pytest.fixture
def domain() -> int:
    return new_domain()


@pytest.fixture
def client(domain: int) -> Iterator[Client]:
    with ros_client(domain) as client:
        yield client


def recorder(domain: int, folder: Path, **parameters: object):
    settings = {"output_directory": folder / "out", "led_guard": 0.03, "min_free_space_mb": 1} | parameters
    return run_node("ledpose_ros.nodes.recorder", domain, folder / "recorder.log", settings)


def finished_recordings(folder: Path) -> list[Path]:
    assert not list((folder / "out").glob("*.part"))
    return sorted((folder / "out").glob("*.h5"))


def wrong_samples(path: Path) -> tuple[int, int]:
    """How many samples there are, and in how many of them image, LED states and pose do not fit."""
    wrong = 0
    with Recording(path) as recording:
        truth = recording.ground_truth()
        assert truth is not None and truth.valid.all()
        for index in range(len(recording)):
            frame = (recording.image_stamps_ns[index] - START_NS) // FRAME_NS
            fits = np.array_equal(states_shown(recording.image(index)), recording.led_states[index])
            fits &= truth.pose[index, 2] == 1.0 + frame
            fits &= recording.led_stamps_ns[index] <= recording.image_stamps_ns[index]
            wrong += not fits
        return len(recording), wrong


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_every_sample_is_right_and_the_file_is_whole_after_a_signal(
    number: signal.Signals, domain: int, client: Client, tmp_path: Path
) -> None:
    robot = Robot(client)
    with recorder(domain, tmp_path) as node:
        robot.wait_for_recorder()
        robot.run_until(samples=60)
        code, seconds = node.end(number)
        assert code == 0, node.log
        assert seconds < 2
        assert "Traceback" not in node.log
        assert re.search(r"recorder: \d+ samples of \d+ images", node.log), node.log

    (path,) = finished_recordings(tmp_path)
    samples, wrong = wrong_samples(path)
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
    robot = Robot(client)
    robot.tell_leds_by_buttons()
    with recorder(domain, tmp_path, led_sources=table) as node:
        robot.wait_for_recorder()
        robot.run_until(samples=30)
        robot.led_publisher.publish(Joy(header=robot.header(), buttons=[1]))
        robot.wait_for_status({"refused: LEDs not told": "1"})
        assert node.end()[0] == 0
    (path,) = finished_recordings(tmp_path)
    samples, wrong = wrong_samples(path)
    assert samples >= 30 and wrong == 0


def test_led_sources_that_are_not_installed_end_the_recorder(domain: int, tmp_path: Path) -> None:
    table = Path(__file__).parents[1] / "config" / "led_sources" / "robomaster.yaml"
    with recorder(domain, tmp_path, led_sources=table) as node:
        assert node.wait() != 0
        assert "is of type robomaster_msgs/msg/LEDEffect, which is not installed" in node.log
        assert "Traceback" not in node.log


def test_a_killed_recorder_leaves_what_it_committed(domain: int, client: Client, tmp_path: Path) -> None:
    robot = Robot(client)
    with recorder(domain, tmp_path, flush_samples=5) as node:
        robot.wait_for_recorder()
        robot.run_until(samples=30)
        node.end(signal.SIGKILL)
    (part,) = (tmp_path / "out").glob("*.part")
    samples, wrong = wrong_samples(part)
    assert samples >= 25 and wrong == 0


def test_compressed_images_are_stored_as_they_came(domain: int, client: Client, tmp_path: Path) -> None:
    robot = Robot(client, CompressedImage)
    with recorder(domain, tmp_path, image_transport="compressed") as node:
        robot.wait_for_recorder()
        robot.run_until(samples=20)
        robot.let_recorder_catch_up()
        # A JPEG that lost its tail, as over a bad radio link.
        whole = encode_image(picture_of(np.ones(4), 0), "jpeg")
        robot.image_publisher.publish(
            CompressedImage(header=robot.steady_header(), format="jpeg", data=whole[:-200])
        )
        robot.run_until(samples=10)
        robot.wait_for_status({"refused: unreadable image": "1"})
        assert node.end()[0] == 0
    (path,) = finished_recordings(tmp_path)
    samples, wrong = wrong_samples(path)
    assert samples >= 30 and wrong == 0
    with Recording(path) as recording:
        frame = (recording.image_stamps_ns[3] - START_NS) // FRAME_NS
        published = encode_image(picture_of(recording.led_states[3], int(frame)), "jpeg")
        assert recording.encoded_image(3).tobytes() == published


def test_malformed_messages_are_counted_and_do_no_harm(domain: int, client: Client, tmp_path: Path) -> None:
    robot = Robot(client)
    with recorder(domain, tmp_path) as node:
        robot.wait_for_recorder()
        robot.run_until(samples=20)
        robot.let_recorder_catch_up()

        def publish_leds(names: list[str], positions: list[float]) -> None:
            robot.led_publisher.publish(JointState(header=robot.header(), name=names, position=positions))

        publish_leds(["front", "left", "back"], [1.0, 1.0, 1.0])
        publish_leds(["front", "front", "back", "right"], [1.0, 1.0, 1.0, 1.0])
        publish_leds(list(LED_NAMES), [1.0, float("nan"), 0.0, 0.0])
        publish_leds(list(LED_NAMES), [1.0])

        truncated = message_from_rgb(picture_of(np.ones(4), 0), robot.steady_header())
        truncated.data = truncated.data[:-10]
        robot.image_publisher.publish(truncated)
        unknown = message_from_rgb(picture_of(np.ones(4), 0), robot.steady_header())
        unknown.encoding = "hologram8"
        robot.image_publisher.publish(unknown)
        robot.image_publisher.publish(Image(header=robot.steady_header(), encoding="rgb8"))
        robot.run_until(samples=10)
        robot.wait_for_status({"refused: malformed LED message": "4", "refused: unreadable image": "3"})

        robot.camera_publisher.publish(camera_info(robot.header(), WIDTH, HEIGHT, focal_length=0.0))
        robot.wait_for_status({"refused: camera not calibrated": "1"})
        robot.run_until(samples=10)
        assert node.is_running
        assert node.end()[0] == 0
        assert "holds 6134 bytes, 32 rows of 192 take 6144" in node.log
    (path,) = finished_recordings(tmp_path)
    samples, wrong = wrong_samples(path)
    assert samples >= 40 and wrong == 0


def test_services_start_stop_and_split(domain: int, client: Client, tmp_path: Path) -> None:
    robot = Robot(client)
    with recorder(domain, tmp_path, autostart=False) as node:
        robot.wait_for_recorder()
        robot.run(frames=10)
        assert robot.wait_for_status({"state": "stopped"})["images received"] == "0"
        refused = client.call(Trigger, "recorder/split")
        assert not refused.success and "nothing to split" in refused.message

        assert client.call(Trigger, "recorder/start").success
        robot.run_until(samples=15)
        split = client.call(Trigger, "recorder/split")
        assert split.success and re.search(r"ledpose_\d{8}_\d{6}\.h5 holds \d+ samples", split.message), (
            split.message
        )
        robot.run_until(samples=15)
        stopped = client.call(Trigger, "recorder/stop")
        assert stopped.success
        assert len(finished_recordings(tmp_path)) == 2
        robot.run(frames=20)
        assert client.call(Trigger, "recorder/start").success
        robot.run_until(samples=15)
        assert node.end()[0] == 0
    paths = finished_recordings(tmp_path)
    assert len(paths) == 3
    for path in paths:
        samples, wrong = wrong_samples(path)
        assert samples > 10 and wrong == 0


def test_a_clock_that_jumps_back_clears_the_history(domain: int, client: Client, tmp_path: Path) -> None:
    robot = Robot(client)
    with recorder(domain, tmp_path) as node:
        robot.wait_for_recorder()
        robot.run_until(samples=40)
        # The same times again with other states, as when a bag starts over.
        robot._next_frame = robot._next_change = robot._next_keep_alive = START_NS
        robot.frames = 0
        robot.run_until(samples=40)
        assert int(robot.values()["refused: clock jumped backwards"]) >= 1
        assert node.end()[0] == 0
    (path,) = finished_recordings(tmp_path)
    samples, wrong = wrong_samples(path)
    assert samples >= 80 and wrong == 0


def test_bad_parameters_end_with_one_sentence(domain: int, tmp_path: Path) -> None:
    with recorder(domain, tmp_path, led_names="[front, left]") as node:
        assert node.wait() == 2
        assert "LED names (2) and LED directions (4)" in node.log
        assert "Traceback" not in node.log
