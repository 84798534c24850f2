# SPDX-License-Identifier: Apache-2.0
"""Reading bags (rosbag2, SQLite or MCAP) without ROS: which topics there are, and their messages in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from ledpose_ros.errors import LedposeError

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
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
