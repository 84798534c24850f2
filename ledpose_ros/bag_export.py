# SPDX-License-Identifier: Apache-2.0
"""A recording as a bag (MCAP) that RViz, Foxglove or `ros2 bag play` replay."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ledpose_ros.bags import BagWriter
from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import Camera
from ledpose_ros.recording import GroundTruth, Recording

TOPICS = {
    "image/compressed": "sensor_msgs/msg/CompressedImage",
    "camera_info": "sensor_msgs/msg/CameraInfo",
    "led_states": "sensor_msgs/msg/JointState",
    "ground_truth": "geometry_msgs/msg/PoseStamped",
}
"""What is written, below a namespace; ground truth only where there is any."""


def export_bag(recording: Recording, path: Path, namespace: str = "") -> Iterator[int]:
    """Write a recording's samples to a new bag, at the times of their receipt; gives their indices.

    Raises `LedposeError` if the bag exists or cannot be written, or for what is no namespace.
    """
    if not re.fullmatch(r"/?([A-Za-z_]\w*(/[A-Za-z_]\w*)*)?/?", namespace, re.ASCII):
        raise LedposeError(
            f"'{namespace}' is no namespace: it may have letters, digits, _ and /, like robot_1"
        )
    truth = recording.ground_truth()
    with BagWriter(path) as bag:
        for index in range(len(recording)):
            received_ns = int(recording.receive_stamps_ns[index])
            for topic, message in _messages(bag, recording, truth, index):
                name = f"{namespace.rstrip('/')}/{topic}"
                bag.write(name, TOPICS[topic], message, received_ns)
            yield index


def _messages(
    bag: BagWriter, recording: Recording, truth: GroundTruth | None, index: int
) -> Iterator[tuple[str, Any]]:
    """Topics and messages of a sample."""
    info = recording.info
    header = bag.header(int(recording.image_stamps_ns[index]), info.camera_frame)
    none = np.zeros(0)
    yield (
        "led_states",
        bag.new(
            TOPICS["led_states"],
            header=bag.header(int(recording.led_stamps_ns[index]), info.camera_frame),
            name=list(info.led_names),
            position=recording.led_states[index].astype(np.float64),
            velocity=none,
            effort=none,
        ),
    )
    camera = Camera(info.K, info.D, info.distortion_model)
    yield "camera_info", bag.camera_info(header, camera, info.width, info.height)
    if truth is not None and truth.valid[index]:
        pose = bag.pose(truth.pose[index])
        yield "ground_truth", bag.new(TOPICS["ground_truth"], header=header, pose=pose)
    yield (
        "image/compressed",
        bag.new(
            TOPICS["image/compressed"],
            header=header,
            format=info.image_encoding,
            data=recording.encoded_image(index),
        ),
    )
