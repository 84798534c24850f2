# SPDX-License-Identifier: Apache-2.0
"""LEDs that blink at random, pictures that show them, and a model that reads them: to find offsets with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fake_model import METADATA
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from ledpose_ros.estimator import Detections
from ledpose_ros.images import encode_image
from ledpose_ros.leds import DEFAULT_LED_DIRECTIONS, DEFAULT_LED_NAMES, LedHistory
from ledpose_ros.pairing import SamplePairer
from ledpose_ros.recording import RecordingInfo, RecordingWriter

SECOND = 1_000_000_000
START = 1000 * SECOND
KEEP_ALIVE = SECOND // 10
SIDE = 32

IMAGE_TOPIC, LED_TOPIC, CAMERA_TOPIC = "/camera/image_raw", "/peer/led_states", "/camera/camera_info"
POSE_TOPIC = "/peer/pose"
TYPES = get_typestore(Stores.ROS2_HUMBLE)


@dataclass(frozen=True)
class Blinking:
    """LEDs with `states` (C, 4) since `changes_ns` (C,), images of them at `images_ns` (N,), by one clock."""

    changes_ns: np.ndarray
    states: np.ndarray
    images_ns: np.ndarray

    def at(self, stamp_ns: int) -> np.ndarray:
        return self.states[np.searchsorted(self.changes_ns, stamp_ns, side="right") - 1]

    def messages(self, ahead_ns: int) -> list[tuple[int, int, np.ndarray]]:
        """LED messages by a clock that is ahead: when they come, how they are stamped, the states."""
        ends = np.append(self.changes_ns[1:], self.images_ns[-1] + SECOND)
        return [
            (now, now + ahead_ns, states)
            for begin, end, states in zip(self.changes_ns, ends, self.states, strict=True)
            for now in range(int(begin), int(end), KEEP_ALIVE)
        ]


def blink(images: int = 240, seed: int = 0) -> Blinking:
    """One of four LEDs changes about 5 times a second, images come irregularly at 8 Hz."""
    rng = np.random.default_rng(seed)
    images_ns = START + SECOND + np.cumsum(rng.uniform(0.075, 0.175, images) * SECOND).astype(np.int64)
    changes = int(6 * images / 8) + 20
    changes_ns = START + np.cumsum(rng.uniform(0.08, 0.32, changes) * SECOND).astype(np.int64)
    changes_ns = changes_ns[changes_ns < images_ns[-1]]
    flips = np.eye(4, dtype=int)[rng.integers(0, 4, len(changes_ns))]
    return Blinking(changes_ns, (flips.cumsum(0) % 2).astype(np.float32), images_ns)


def picture(states: np.ndarray) -> np.ndarray:
    """A picture (32, 32, 3) with a stripe per LED, bright where it is on."""
    return np.tile(np.repeat(64 + 160 * states, SIDE // 4)[None, :, None], (SIDE, 1, 3)).astype(np.uint8)


class Reader:
    """Stands in for `PeerEstimator`: reads two of the stripes, every tenth wrongly, and no other LED."""

    metadata = METADATA

    def __init__(self) -> None:
        self._rng = np.random.default_rng(1)

    def detect(self, rgb: np.ndarray) -> Detections:
        lit = rgb[SIDE // 2, SIDE // 8 :: SIDE // 4, 0] > 128
        right = self._rng.random(4) > 0.1
        probability = np.where(lit == right, 0.95, 0.05)
        probability[2:] = 0.5
        one, two = np.ones(1), np.ones((1, 2))
        return Detections(two, one, two, probability[None], one, np.ones((1, 3)), np.ones((1, 1)))


def write_recording(path: Path, blinking: Blinking, ahead_ns: int, led_offset_ns: int) -> Path:
    """What the recorder would write with this `led_offset` and a guard of 30 ms."""
    info = RecordingInfo(
        led_names=DEFAULT_LED_NAMES,
        led_directions=DEFAULT_LED_DIRECTIONS,
        camera_frame="camera",
        K=np.array([[50.0, 0, 16], [0, 50.0, 16], [0, 0, 1]]),
        D=np.zeros(5),
        distortion_model="plumb_bob",
        width=SIDE,
        height=SIDE,
        image_encoding="png",
    )
    pairer: SamplePairer[np.ndarray] = SamplePairer(
        DEFAULT_LED_NAMES,
        LedHistory(30_000_000, SECOND // 2),
        lambda reason, sentence: None,
        led_offset_ns,
        settling=0.0,
        capacity=1000,
    )
    with RecordingWriter(path, info) as writer:
        for stamp in blinking.images_ns:
            pairer.add_image(picture(blinking.at(stamp)), int(stamp), int(stamp), 0.0)
        for now, stamp, states in blinking.messages(ahead_ns):
            pairer.add_led_message(stamp, now, DEFAULT_LED_NAMES, states.tolist())
            for sample in pairer.take_ready(0.0):
                image, image_stamp = encode_image(sample.image, "png"), sample.image_stamp_ns
                writer.append(image, image_stamp, image_stamp, sample.led_states, sample.led_stamp_ns)
    return path


def message(type_name: str, stamp_ns: int, **fields: object) -> object:
    """A ROS message with a header."""
    time = TYPES.types["builtin_interfaces/msg/Time"](*divmod(int(stamp_ns), SECOND))
    header = TYPES.types["std_msgs/msg/Header"](time, "camera")
    return TYPES.types[type_name](header=header, **fields)


def camera_info(stamp_ns: int, focal_length: float = 50.0, width: int = SIDE) -> object:
    """The CameraInfo of the pictures."""
    region = TYPES.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    return message(
        "sensor_msgs/msg/CameraInfo",
        stamp_ns,
        height=SIDE,
        width=width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.array([focal_length, 0, 16, 0, 50, 16, 0, 0, 1]),
        r=np.eye(3).ravel(),
        p=np.zeros(12),
        binning_x=0,
        binning_y=0,
        roi=region,
    )


def pose(stamp_ns: int, x: float) -> object:
    """A PoseStamped at x metres."""
    types = TYPES.types
    position = types["geometry_msgs/msg/Point"](x, 0.0, 0.0)
    turn = types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    return message(
        "geometry_msgs/msg/PoseStamped", stamp_ns, pose=types["geometry_msgs/msg/Pose"](position, turn)
    )


def write_bag(
    path: Path,
    blinking: Blinking,
    ahead_ns: int,
    storage: StoragePlugin = StoragePlugin.MCAP,
    more: Sequence[tuple[int, str, object]] = (),
    camera: object | None = None,
) -> Path:
    """Images, LED messages, one CameraInfo and `more` messages (when, topic, message) as a bag.

    Images come 20 ms late, the CameraInfo after the first of them.
    """
    entries = [(int(blinking.images_ns[0]) + SECOND, CAMERA_TOPIC, camera or camera_info(START)), *more]
    entries += [
        (
            now,
            LED_TOPIC,
            message(
                "sensor_msgs/msg/JointState",
                stamp,
                name=list(DEFAULT_LED_NAMES),
                position=states.astype(float),
                velocity=np.zeros(0),
                effort=np.zeros(0),
            ),
        )
        for now, stamp, states in blinking.messages(ahead_ns)
    ]
    for stamp in blinking.images_ns:
        image = message(
            "sensor_msgs/msg/Image",
            stamp,
            height=SIDE,
            width=SIDE,
            encoding="rgb8",
            is_bigendian=0,
            step=3 * SIDE,
            data=picture(blinking.at(stamp)).ravel(),
        )
        entries.append((int(stamp) + SECOND // 50, IMAGE_TOPIC, image))
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections = {
            topic: writer.add_connection(topic, type_name, typestore=TYPES)
            for topic, type_name in (
                (IMAGE_TOPIC, "sensor_msgs/msg/Image"),
                (LED_TOPIC, "sensor_msgs/msg/JointState"),
                (CAMERA_TOPIC, "sensor_msgs/msg/CameraInfo"),
                (POSE_TOPIC, "geometry_msgs/msg/PoseStamped"),
                ("/camera/unused", "sensor_msgs/msg/CompressedImage"),
                *((topic, "std_msgs/msg/Bool") for topic in ("/leds/a", "/leds/b")),
            )
        }
        for now, topic, content in sorted(entries, key=lambda entry: entry[0]):
            connection = connections[topic]
            data = content if isinstance(content, bytes) else TYPES.serialize_cdr(content, connection.msgtype)
            writer.write(connection, now, data)
    return path
