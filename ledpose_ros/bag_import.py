# SPDX-License-Identifier: Apache-2.0
"""A bag as a recording: its messages go through the pairing and writing of the recorder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledpose_ros.bags import CAMERA_TYPES, IMAGE_TYPES, LED_TYPES, Bag
from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import pose_of
from ledpose_ros.led_sources import LedAssembler, LedTopic
from ledpose_ros.leds import nanoseconds, stamp_ns
from ledpose_ros.pairing import SamplePairer
from ledpose_ros.recording_session import (
    FAILED,
    Camera,
    CameraImage,
    RecordingSession,
    SessionSettings,
    usable_camera,
)
from ledpose_ros.refusals import Refusals

POSE_TYPES = ("geometry_msgs/msg/PoseStamped",)


@dataclass(frozen=True)
class BagTopics:
    """Which topics of a bag are what; without `ground_truth` the recording has none."""

    image: str
    leds: dict[str, LedTopic | None]
    """What tells LED states; None stands for a JointState that names them."""
    camera_info: str
    ground_truth: str | None

    @classmethod
    def chosen(
        cls,
        bag: Bag,
        image: str | None,
        leds: str | Sequence[LedTopic] | None,
        camera_info: str | None,
        ground_truth: str | None,
    ) -> BagTopics:
        """Those that are named, and for others but the ground truth the only one of a fitting type."""
        if leds is None or isinstance(leds, str):
            led_topics: dict[str, LedTopic | None] = {bag.choose_topic(LED_TYPES, leds, "--led-topic"): None}
        else:
            # A bag's topics are absolute; those of a table may be relative, as in the recorder's namespace.
            led_topics = {
                bag.choose_topic((topic.type_name,), f"/{topic.name.lstrip('/')}", "--led-sources"): topic
                for topic in leds
            }
        return cls(
            bag.choose_topic(IMAGE_TYPES, image, "--image-topic"),
            led_topics,
            bag.choose_topic(CAMERA_TYPES, camera_info, "--camera-info-topic"),
            ground_truth and bag.choose_topic(POSE_TYPES, ground_truth, "--ground-truth-topic"),
        )


@dataclass
class Imported:
    """What came of a bag: images in it, samples written, seconds from its first message to its last."""

    images: int = 0
    samples: int = 0
    seconds: float = 0.0
    refusals: Refusals = field(default_factory=Refusals)


def import_bag(
    bag: Bag, topics: BagTopics, file: Path, parameters: Any, seen_image: Callable[[], None]
) -> Imported:
    """Write a bag's images with the LED states held at their stamps to `file`.

    `parameters` (attributes) are the recorder's; `seen_image` is called after each image. Raises
    `LedposeError` for what ends a recording; what was written by then is kept, as the recorder would, but
    where somebody interrupts it as the `.part` file.
    """
    found = Imported()
    pairer: SamplePairer[CameraImage] = SamplePairer.from_parameters(parameters, found.refusals.count)
    leds = LedAssembler(parameters.led_names, nanoseconds(parameters.led_max_age))
    pairer.expects_poses = topics.ground_truth is not None
    camera = _first_camera(bag, topics.camera_info)
    session = RecordingSession(SessionSettings.from_parameters(parameters, file), found.refusals)
    first_ns = last_ns = 0

    def record(now: float) -> None:
        for sample in pairer.take_ready(now):
            session.put(sample, pairer.expects_poses, wait=True)

    try:
        session.start()
        wanted = [topics.image, *topics.leds, topics.camera_info]
        for entry in bag.messages(*wanted, *([topics.ground_truth] if topics.ground_truth else [])):
            if session.state == FAILED:
                break
            last_ns = entry.receive_stamp_ns
            first_ns = first_ns or last_ns
            try:
                message = entry.decode()
                if entry.topic == topics.image:
                    found.images += 1
                    seen_image()
                    if camera is None:
                        found.refusals.count(
                            "no CameraInfo yet", "an image comes without a usable CameraInfo"
                        )
                        continue
                    image = CameraImage(message, camera)
                    stamp, size = stamp_ns(message.header.stamp), len(message.data)
                    pairer.add_image(image, stamp, last_ns, last_ns / 1e9, size)
                elif source := topics.leds.get(entry.topic):
                    pairer.add_told_leds(leds, source, message, last_ns)
                elif entry.topic in topics.leds:
                    stamp = stamp_ns(message.header.stamp)
                    pairer.add_led_message(stamp, last_ns, message.name, message.position)
                elif entry.topic == topics.camera_info:
                    camera = usable_camera(message, found.refusals)
                else:
                    pairer.add_pose(stamp_ns(message.header.stamp), pose_of(message))
            except LedposeError as error:
                found.refusals.count("unreadable message", str(error))
            record(last_ns / 1e9)
        record(math.inf)
    except KeyboardInterrupt:
        session.abandon()
        raise
    finally:
        session.close()
    if session.state == FAILED:
        raise LedposeError(session.error)
    found.samples, found.seconds = session.samples, (last_ns - first_ns) / 1e9
    return found


def _first_camera(bag: Bag, topic: str) -> Camera | None:
    """That of the first CameraInfo that can be used: a recorder can only wait for it, a bag can be asked."""
    for entry in bag.messages(topic):
        try:
            return Camera.from_message(entry.decode())
        except LedposeError:  # counted when its turn comes
            continue
    return None
