# SPDX-License-Identifier: Apache-2.0
"""Other ways to record the same topics, each a small node: `python -m benchmarks.sinks KIND FILE`.

They write what they hear, without pairing it, until SIGINT.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image, JointState

from ledpose_ros.images import rgb_from_message
from ledpose_ros.nodes.common import run_node


class McapSink(Node):
    """Messages as they came into an MCAP file, as rosbag2 does; `compression` is of its chunks."""

    def __init__(self, path: Path, compression: str) -> None:
        from mcap.writer import CompressionType, Writer

        super().__init__("sink")
        self._file = path.open("wb")
        self._writer = Writer(self._file, compression=CompressionType[compression.upper()])
        self._writer.start(profile="ros2")
        for message_type, topic in ((Image, "image"), (JointState, "led_states")):
            name = f"sensor_msgs/msg/{message_type.__name__}"
            schema = self._writer.register_schema(name, "ros2msg", b"")
            channel = self._writer.register_channel(topic, "cdr", schema)
            self.create_subscription(
                message_type, topic, self._keeper(channel), QoSProfile(depth=10), raw=True
            )

    def _keeper(self, channel: int) -> Callable[[bytes], None]:
        def keep(message: bytes) -> None:
            now = self.get_clock().now().nanoseconds
            self._writer.add_message(channel, log_time=now, publish_time=now, data=bytes(message))

        return keep

    def close(self) -> None:
        """Finish the file."""
        self._writer.finish()
        self._file.close()


class Hdf5Sink(Node):
    """Pictures as they are into an extendable HDF5 dataset, with the latest LED states, never flushed."""

    def __init__(self, path: Path) -> None:
        super().__init__("sink")
        self._file = h5py.File(path, "w")
        self._leds: Any = None
        self.create_subscription(Image, "image", self._on_image, QoSProfile(depth=10))
        self.create_subscription(JointState, "led_states", self._on_leds, QoSProfile(depth=10))

    def _on_leds(self, message: JointState) -> None:
        self._leds = message.position

    def _on_image(self, message: Image) -> None:
        if self._leds is None:
            return
        rgb, now = rgb_from_message(message), self.get_clock().now().nanoseconds
        for name, row in (("image", rgb), ("led_states", np.array(self._leds)), ("stamp", np.int64(now))):
            if name not in self._file:
                shape = np.shape(row)
                self._file.create_dataset(
                    name, (0, *shape), row.dtype, maxshape=(None, *shape), chunks=(1, *shape)
                )
            dataset = self._file[name]
            dataset.resize(len(dataset) + 1, axis=0)
            dataset[-1] = row

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


def main() -> int:
    """Run one of them."""
    parser = argparse.ArgumentParser(prog="benchmarks.sinks", description=__doc__)
    parser.add_argument("kind", choices=("mcap", "mcap-zstd", "hdf5"))
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    if args.kind == "hdf5":
        return run_node(lambda: Hdf5Sink(args.file), [])
    return run_node(lambda: McapSink(args.file, "zstd" if args.kind == "mcap-zstd" else "none"), [])


if __name__ == "__main__":
    sys.exit(main())
