# SPDX-License-Identifier: Apache-2.0
"""Bags without ROS: reading rosbag2 (SQLite or MCAP), writing MCAP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_typestore

from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import Camera
from ledpose_ros.paths import check_new

SECOND = 1_000_000_000
END_OF_TIME = 2**31 * SECOND
"""The first stamp [ns] that builtin_interfaces/Time cannot hold."""
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
CAMERA_TYPES = ("sensor_msgs/msg/CameraInfo",)
LED_TYPES = ("sensor_msgs/msg/JointState",)


@dataclass(frozen=True, eq=False)
class BagMessage:
    """A message as it lies in the bag; `receive_stamp_ns` is when it was recorded."""

    topic: str
    receive_stamp_ns: int
    decode: Callable[[], Any]
    """Gives the message with the attributes of its ROS type; LedposeError if it is damaged."""


class Bag:
    """A rosbag2 recording to read: its folder, or a single .mcap or .db3 file.

    Raises `LedposeError` if it is missing, damaged or of an unknown kind. A bag without message definitions,
    as older versions of ROS 2 wrote them, is read with those of the newest one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise LedposeError(f"there is no bag {self.path}: check its name")
        if self.path.is_dir() and not (self.path / "metadata.yaml").is_file():
            raise LedposeError(
                f"the folder {self.path} has no metadata.yaml, so it is no finished bag: "
                f"try `ros2 bag reindex {self.path}`, or give its storage file"
            )
        try:
            self._reader = AnyReader([self.path], default_typestore=get_typestore(Stores.LATEST))
            self._reader.open()
        except Exception as error:  # rosbags lets the exceptions of its many parts through
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> LedposeError:
        return LedposeError(
            f"the bag {self.path} cannot be read ({str(error).rstrip('.') or type(error).__name__}): "
            "repair it with `mcap recover` or the .recover of sqlite3, or record it again"
        )

    def topics(self, types: Sequence[str]) -> list[str]:
        """Names of the topics of any of these types, like `sensor_msgs/msg/Image`."""
        return sorted(name for name, info in self._reader.topics.items() if info.msgtype in types)

    def count(self, topic: str) -> int:
        """How many messages a topic has."""
        return self._reader.topics[topic].msgcount

    def choose_topic(self, types: Sequence[str], topic: str | None, option: str) -> str:
        """`topic` if it is there and of one of these types; without it, the only topic that is.

        `option` is the command line's, for the LedposeError that names the topics to choose from.
        """
        fitting = self.topics(types)
        wanted = " or ".join(types)
        if topic is not None and topic not in fitting:
            info = self._reader.topics.get(topic)
            problem = f"has no topic {topic}" if info is None else f"has {topic} of type {info.msgtype}"
        elif topic is None and len(fitting) != 1:
            problem = "has several topics to choose from" if fitting else "has no fitting topic"
        else:
            chosen = topic or fitting[0]
            if not self.count(chosen):
                raise LedposeError(f"the topic {chosen} in {self.path} has no messages: record it again")
            return chosen
        if fitting:
            advice = f"give {option} one of {', '.join(fitting)}"
        else:
            advice = f"record one; there are {', '.join(sorted(self._reader.topics)) or 'no topics at all'}"
        raise LedposeError(f"{self.path} {problem}, needed is {wanted}: {advice}")

    def messages(self, *topics: str) -> Iterator[BagMessage]:
        """The messages of these topics in the order in which they were recorded, decoded when asked for."""
        connections = [connection for connection in self._reader.connections if connection.topic in topics]
        stream = self._reader.messages(connections)
        while True:
            try:
                connection, receive_stamp_ns, data = next(stream)
            except StopIteration:
                return
            except Exception as error:  # see __init__
                raise self._damaged(error) from error
            yield BagMessage(connection.topic, receive_stamp_ns, self._decoder(data, connection.msgtype))

    def _decoder(self, data: bytes, message_type: str) -> Callable[[], Any]:
        def decode() -> Any:
            try:
                return self._reader.deserialize(data, message_type)
            except Exception as error:  # see __init__
                raise self._damaged(error) from error

        return decode

    def close(self) -> None:
        """Close the bag; its messages cannot be read afterwards."""
        self._reader.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BagWriter:
    """A new MCAP bag: a single file if the path ends in .mcap, else a folder.

    A context manager; the bag is there when it ends without an exception. Raises `LedposeError` if the path
    exists or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store = get_typestore(Stores.LATEST)
        self._connections: dict[str, Connection] = {}
        check_new(path)
        try:
            self._aside = TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}_")
            self._folder = Path(self._aside.name, path.stem if path.suffix == ".mcap" else path.name)
            self._writer = Writer(self._folder, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except (OSError, WriterError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> LedposeError:
        return LedposeError(f"cannot write the bag {self.path}: {error}")

    def new(self, type_name: str, *fields: Any, **named: Any) -> Any:
        """A message or a part of one, of a type like `sensor_msgs/msg/Image`."""
        return self._store.types[type_name](*fields, **named)

    def header(self, stamp_ns: int, frame: str) -> Any:
        """A std_msgs/Header."""
        self._check_stamp(stamp_ns)
        time = self.new("builtin_interfaces/msg/Time", *divmod(stamp_ns, SECOND))
        return self.new("std_msgs/msg/Header", time, frame)

    def pose(self, pose: np.ndarray) -> Any:
        """A geometry_msgs/Pose of x y z qx qy qz qw."""
        numbers = pose.tolist()
        return self.new(
            "geometry_msgs/msg/Pose",
            self.new("geometry_msgs/msg/Point", *numbers[:3]),
            self.new("geometry_msgs/msg/Quaternion", *numbers[3:]),
        )

    def camera_info(self, header: Any, camera: Camera, width: int, height: int) -> Any:
        """A sensor_msgs/CameraInfo."""
        return self.new(
            "sensor_msgs/msg/CameraInfo",
            header=header,
            height=height,
            width=width,
            distortion_model=camera.distortion_model,
            d=np.asarray(camera.D, np.float64),
            k=np.asarray(camera.K, np.float64).ravel(),
            r=np.eye(3).ravel(),
            p=np.column_stack([camera.K, np.zeros(3)]).ravel(),
            binning_x=0,
            binning_y=0,
            roi=self.new("sensor_msgs/msg/RegionOfInterest", 0, 0, 0, 0, False),
        )

    def _check_stamp(self, stamp_ns: int) -> None:
        if not 0 <= stamp_ns < END_OF_TIME:
            raise LedposeError(
                f"cannot write the bag {self.path}: the stamp {stamp_ns} ns is not of the years "
                "1970 to 2038, which bags can hold: set the clock that gives the stamps"
            )

    def write(self, topic: str, type_name: str, message: Any, receive_stamp_ns: int) -> None:
        """Append a message."""
        self._check_stamp(receive_stamp_ns)
        try:
            if topic not in self._connections:
                name = f"/{topic.lstrip('/')}"
                self._connections[topic] = self._writer.add_connection(name, type_name, typestore=self._store)
            data = self._store.serialize_cdr(message, type_name)
            self._writer.write(self._connections[topic], receive_stamp_ns, data)
        except (OSError, WriterError) as error:
            raise self._failed(error) from error

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._writer.close()
            if error is None:
                whole = self._folder
                if self.path.suffix == ".mcap":
                    (whole,) = whole.glob("*.mcap")
                whole.replace(self.path)
        except (OSError, WriterError) as failure:
            raise self._failed(failure) from failure
        finally:
            self._aside.cleanup()
