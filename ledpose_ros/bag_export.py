# SPDX-License-Identifier: Apache-2.0
"""A recording as a bag (MCAP) that RViz, Foxglove or `ros2 bag play` replay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_typestore

from ledpose_ros.errors import LedposeError
from ledpose_ros.recording import Recording

TOPICS = {
    "image/compressed": "sensor_msgs/msg/CompressedImage",
    "camera_info": "sensor_msgs/msg/CameraInfo",
    "led_states": "sensor_msgs/msg/JointState",
    "ground_truth": "geometry_msgs/msg/PoseStamped",
}
"""What is written, below a namespace; ground truth only where there is any."""
SECOND = 1_000_000_000


class _Messages:
    """Makes the messages of a recording's samples."""

    def __init__(self, recording: Recording) -> None:
        self.store = get_typestore(Stores.LATEST)
        self._recording = recording
        self._truth = recording.ground_truth()

    def _new(self, type_name: str, *fields: Any, **named: Any) -> Any:
        return self.store.types[type_name](*fields, **named)

    def _header(self, stamp_ns: int) -> Any:
        time = self._new("builtin_interfaces/msg/Time", *divmod(stamp_ns, SECOND))
        return self._new("std_msgs/msg/Header", time, self._recording.info.camera_frame)

    def of(self, index: int) -> Iterator[tuple[str, Any]]:
        """Topics and messages of a sample."""
        recording, info = self._recording, self._recording.info
        header = self._header(int(recording.image_stamps_ns[index]))
        none = np.zeros(0)
        yield (
            "led_states",
            self._new(
                TOPICS["led_states"],
                header=self._header(int(recording.led_stamps_ns[index])),
                name=list(info.led_names),
                position=recording.led_states[index].astype(np.float64),
                velocity=none,
                effort=none,
            ),
        )
        yield (
            "camera_info",
            self._new(
                TOPICS["camera_info"],
                header=header,
                height=info.height,
                width=info.width,
                distortion_model=info.distortion_model,
                d=info.D,
                k=info.K.ravel(),
                r=np.eye(3).ravel(),
                p=np.column_stack([info.K, np.zeros(3)]).ravel(),
                binning_x=0,
                binning_y=0,
                roi=self._new("sensor_msgs/msg/RegionOfInterest", 0, 0, 0, 0, False),
            ),
        )
        if self._truth is not None and self._truth.valid[index]:
            pose = self._truth.pose[index].tolist()
            yield (
                "ground_truth",
                self._new(
                    TOPICS["ground_truth"],
                    header=header,
                    pose=self._new(
                        "geometry_msgs/msg/Pose",
                        self._new("geometry_msgs/msg/Point", *pose[:3]),
                        self._new("geometry_msgs/msg/Quaternion", *pose[3:]),
                    ),
                ),
            )
        yield (
            "image/compressed",
            self._new(
                TOPICS["image/compressed"],
                header=header,
                format=info.image_encoding,
                data=recording.encoded_image(index),
            ),
        )


def export_bag(recording: Recording, folder: Path, namespace: str = "") -> Iterator[int]:
    """Write a recording's samples to a new bag, at the times of their receipt; gives their indices.

    Raises `LedposeError` if the folder exists or cannot be written.
    """
    messages = _Messages(recording)
    try:
        with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            connections: dict[str, Connection] = {}
            for index in range(len(recording)):
                received_ns = int(recording.receive_stamps_ns[index])
                for topic, message in messages.of(index):
                    if topic not in connections:
                        name = f"{namespace.rstrip('/')}/{topic}"
                        connections[topic] = writer.add_connection(
                            name if name.startswith("/") else f"/{name}",
                            TOPICS[topic],
                            typestore=messages.store,
                        )
                    data = messages.store.serialize_cdr(message, TOPICS[topic])
                    writer.write(connections[topic], received_ns, data)
                yield index
    except (OSError, WriterError) as error:
        raise LedposeError(f"cannot write the bag {folder}: {error}") from error
