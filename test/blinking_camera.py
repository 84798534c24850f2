# SPDX-License-Identifier: Apache-2.0
"""A camera and a peer's LEDs to test the recorder: pictures show their number and the true LED states."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from ros_graph import Client, run_node, values_of
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState, Joy
from std_msgs.msg import Header

from ledpose_ros.images import encode_image
from ledpose_ros.nodes.common import message_from_rgb, stamp_from_ns
from ledpose_ros.recording import Recording

LED_NAMES = ("front", "left", "back", "right")
WIDTH, HEIGHT = 64, 32
NUMBER_BITS = 16
MS = 1_000_000
FRAME_NS = 33 * MS
LED_PERIOD_NS = 190 * MS
KEEP_ALIVE_NS = 50 * MS
STEADY_NS = (60 * MS, 130 * MS)
"""How long the LEDs have been so when they are neither just changed nor about to."""
START_NS = 1_700_000_000_000_000_000


def picture_of(states: np.ndarray, number: int) -> np.ndarray:
    """A picture with a column per LED below, and one per bit of its number above; bright is on."""
    bits = number >> np.arange(NUMBER_BITS) & 1
    halves = [np.repeat(np.asarray(lit) > 0.5, WIDTH // len(lit)) for lit in (bits, states)]
    grey = np.repeat(np.where(halves, 220, 40).astype(np.uint8), HEIGHT // 2, axis=0)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _columns_lit(rgb: np.ndarray, count: int) -> np.ndarray:
    inner = rgb[4:-4].reshape(len(rgb) - 8, count, WIDTH // count, 3)
    return inner.mean(axis=(0, 2, 3)) > 128


def states_shown(rgb: np.ndarray) -> np.ndarray:
    """The LED states (4,) that a picture shows."""
    return _columns_lit(rgb[HEIGHT // 2 :], len(LED_NAMES)).astype(np.float32)


def number_shown(rgb: np.ndarray) -> int:
    """The number that a picture shows."""
    return int(_columns_lit(rgb[: HEIGHT // 2], NUMBER_BITS) @ (1 << np.arange(NUMBER_BITS)))


class BlinkingCamera:
    """Publishes a camera and a peer's LEDs on a time line of its own; the LEDs change between frames.

    `stamps_ns` are those of all pictures so far, by number. What is not `on_air` is silent meanwhile. After
    each picture it pauses for `pause` seconds of the wall clock.
    """

    def __init__(self, client: Client, image_type: Any = Image) -> None:
        node = client.node
        self.client = client
        self.image_publisher = node.create_publisher(image_type, "image", 20)
        self.camera_publisher = node.create_publisher(CameraInfo, "camera_info", 20)
        self.led_publisher = node.create_publisher(JointState, "led_states", 100)
        self.pose_publisher = node.create_publisher(PoseStamped, "ground_truth", 20)
        self.status: list[DiagnosticStatus] = client.collect(DiagnosticStatus, "recorder/status")
        self.time_ns = START_NS
        self.stamps_ns: list[int] = []
        self.on_air = {"camera", "LEDs"}
        self.pause = 0.02
        self._after_ns = 0
        self._image_type = image_type
        self._random = np.random.default_rng(1)
        self._states = np.zeros(len(LED_NAMES))
        self._next_frame = self._next_change = self._next_keep_alive = START_NS

    def wait_for_recorder(self, poses: bool = True) -> None:
        publishers = [self.image_publisher, self.camera_publisher, self.led_publisher]
        publishers += [self.pose_publisher] if poses else []
        self.client.wait_until(
            lambda: all(publisher.get_subscription_count() for publisher in publishers), what="the recorder"
        )
        # The first status also tells the recorder that ground truth is there.
        self.client.wait_until(lambda: self.status, what="the first status")

    def run(self, frames: int) -> None:
        """Publish in the order of the stamps, faster than real time but within what DDS queues hold."""
        end = len(self.stamps_ns) + frames
        while len(self.stamps_ns) < end:
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
                self.client.spin_for(self.pause)

    def jump(self, seconds: float) -> None:
        """Set the clock; LEDs and camera go on from there."""
        for name in ("_next_frame", "_next_change", "_next_keep_alive"):
            setattr(self, name, getattr(self, name) + round(seconds * 1e9))

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
        return values_of(self.status[-1]) if self.status else {}

    def header(self) -> Header:
        return Header(stamp=stamp_from_ns(self.time_ns), frame_id="camera_optical_frame")

    def run_to_steady(self) -> None:
        """Go on to a picture that is far from any change of the LEDs."""
        while True:
            self.run(frames=1)
            if STEADY_NS[0] < (self.stamps_ns[-1] - self._next_change) % LED_PERIOD_NS < STEADY_NS[1]:
                return

    def steady_header(self) -> Header:
        """Stamped a little after the last picture: after `run_to_steady`, no LED is a reason to refuse it."""
        self._after_ns += MS
        stamp = stamp_from_ns(self.stamps_ns[-1] + self._after_ns)
        return Header(stamp=stamp, frame_id="camera_optical_frame")

    def publish_leds(self) -> None:
        if "LEDs" in self.on_air:
            self.led_publisher.publish(self.led_message())

    def led_message(self) -> JointState:
        # The order of names is the sender's business.
        return JointState(header=self.header(), name=LED_NAMES[::-1], position=self._states[::-1].tolist())

    def tell_leds_by_buttons(self) -> None:
        """Publish the buttons of a Joy message in place of the named states."""
        self.led_publisher = self.client.node.create_publisher(Joy, "buttons", 100)
        self.publish_leds = lambda: self.led_publisher.publish(
            Joy(header=self.header(), buttons=[int(state) for state in self._states])
        )

    def publish_frame(self) -> None:
        number = len(self.stamps_ns)
        self.stamps_ns.append(self.time_ns)
        self._after_ns = 0
        if "camera" not in self.on_air:
            return
        self.camera_publisher.publish(camera_info(self.header(), WIDTH, HEIGHT))
        pose = PoseStamped(header=self.header())
        pose.pose.position.z = 1.0 + number
        self.pose_publisher.publish(pose)
        self.image_publisher.publish(self.image_message(number))

    def image_message(self, number: int) -> Any:
        rgb = picture_of(self._states, number)
        if self._image_type is Image:
            return message_from_rgb(rgb, self.header())
        return CompressedImage(header=self.header(), format="jpeg", data=encode_image(rgb, "jpeg"))

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


def recorder(domain: int, folder: Path, arguments: Sequence[str] = (), **parameters: object):
    """The recorder as a process, which writes to the folder `out`."""
    settings = {"output_directory": folder / "out", "led_guard": 0.03, "min_free_space_mb": 1} | parameters
    return run_node("ledpose_ros.nodes.recorder", domain, folder / "recorder.log", settings, arguments)


def finished_recordings(folder: Path) -> list[Path]:
    assert not list((folder / "out").glob("*.part"))
    return sorted((folder / "out").glob("*.h5"))


def wrong_samples(path: Path, camera: BlinkingCamera, poses: bool = True) -> tuple[int, int]:
    """How many samples there are, and in how many of them picture, stamp, LED states and pose do not fit.

    Without `poses` a pose may be missing, as when the recorder began in the middle of everything.
    """
    wrong = 0
    with Recording(path) as recording:
        truth = recording.ground_truth()
        assert not poses or (truth is not None and truth.valid.all())
        for index in range(len(recording)):
            rgb = recording.image(index)
            number = number_shown(rgb)
            fits = np.array_equal(states_shown(rgb), recording.led_states[index])
            fits &= recording.image_stamps_ns[index] == camera.stamps_ns[number]
            fits &= recording.led_stamps_ns[index] <= recording.image_stamps_ns[index]
            if truth is not None and truth.valid[index]:
                fits &= truth.pose[index, 2] == 1.0 + number
            wrong += not fits
        return len(recording), wrong
