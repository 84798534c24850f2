# SPDX-License-Identifier: Apache-2.0
"""Estimates written to files: a table, a video, or a bag."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from ledpose_ros.bags import BagWriter
from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import Detections, PeerEstimate
from ledpose_ros.frames import Frame
from ledpose_ros.geometry import Camera
from ledpose_ros.images import encode_image
from ledpose_ros.model_metadata import ModelMetadata
from ledpose_ros.paths import check_new
from ledpose_ros.visualization import draw_estimates


@dataclass(frozen=True)
class Estimates:
    """The peers with their ids in a picture uint8 (H, W, 3) RGB, by falling confidence."""

    frame: Frame
    rgb: np.ndarray
    camera: Camera
    detections: Detections
    peers: Sequence[PeerEstimate]
    ids: Sequence[int]


class Sink(Protocol):
    """Takes estimates, picture after picture; a context manager.

    `left_out` counts the pictures that it could not take.
    """

    left_out: int

    def add(self, estimates: Estimates) -> None: ...
    def __enter__(self) -> Sink: ...
    def __exit__(self, *exception: object) -> None: ...


@contextmanager
def open_sinks(
    paths: Sequence[Path],
    rate: float,
    metadata: ModelMetadata,
    peer_size: Sequence[float],
    sources: Sequence[Path] = (),
) -> Iterator[list[Sink]]:
    """A sink for each path, by its suffix; `rate` [Hz] is that of the pictures.

    The files are there when it ends without an exception; until then a table or a video is NAME.part.csv or
    NAME.part.mp4, which none of the `sources` may be. Raises `LedposeError` for a suffix that says nothing, a
    file that exists already or cannot be written.
    """
    with ExitStack() as files:
        sinks: list[Sink] = []
        for path in paths:
            if path.suffix not in (".csv", ".mp4", ".mcap"):
                raise LedposeError(f"what should {path} be: its name must end in .csv, .mp4 or .mcap")
            check_new(path)
        if len({path.resolve() for path in paths}) < len(paths):
            raise LedposeError("the same output is given twice: give each another name")
        parts = {path: path.with_suffix(f".part{path.suffix}") for path in paths if path.suffix != ".mcap"}
        for path, part in parts.items():
            if any(source.exists() and source.resolve() == part.resolve() for source in sources):
                raise LedposeError(f"{part} is what {path} is called until it is whole: rename the input")
        for path in paths:
            sink: Sink
            if path.suffix == ".csv":
                sink = CsvSink(parts[path], metadata.led_names)
            elif path.suffix == ".mp4":
                sink = VideoSink(parts[path], rate, metadata, peer_size)
            else:
                sink = BagSink(path, metadata, peer_size)
            files.enter_context(sink)
            sinks.append(sink)
        yield sinks
    for path, part in parts.items():
        try:
            part.replace(path)
        except OSError as error:
            raise LedposeError(f"cannot finish {part}: {error.strerror}") from error


class CsvSink:
    """A row a peer: stamp, id, image position, pose in the optical frame, its standard deviations, LEDs."""

    COLUMNS = (
        *("picture", "stamp_ns", "peer", "confidence", "u", "v", "psi", "distance"),
        *("x", "y", "z", "qx", "qy", "qz", "qw", "sigma_x", "sigma_y", "sigma_z", "sigma_yaw"),
    )

    left_out = 0

    def __init__(self, path: Path, led_names: Sequence[str]) -> None:
        try:
            self._file = path.open("w", newline="", encoding="utf-8")
        except OSError as error:
            raise LedposeError(f"cannot write {path}: {error.strerror}") from error
        self._rows = csv.writer(self._file)
        self._rows.writerow([*self.COLUMNS, *(f"led_{name}" for name in led_names)])

    def add(self, estimates: Estimates) -> None:
        """Write the rows of a picture; none where there is no peer."""
        for peer, peer_id in zip(estimates.peers, estimates.ids, strict=True):
            assert peer.pose is not None and peer.covariance is not None and peer.distance is not None
            # The least variance of the rotation is that about the vertical: nothing is known of the others.
            yaw_variance = np.linalg.eigvalsh(peer.covariance[3:, 3:])[0]
            numbers = [peer.confidence, *peer.uv, peer.psi, peer.distance, *peer.pose]
            numbers += [*np.sqrt(np.diag(peer.covariance)[:3]), np.sqrt(yaw_variance), *peer.led_probability]
            frame = estimates.frame
            self._rows.writerow([frame.name, frame.stamp_ns, peer_id, *(f"{n:.6g}" for n in numbers)])

    def __enter__(self) -> CsvSink:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


class VideoSink:
    """The pictures with the peers drawn on them (MPEG-4), but those of another size than the first."""

    def __init__(self, path: Path, rate: float, metadata: ModelMetadata, peer_size: Sequence[float]) -> None:
        self.left_out = 0
        self._path, self._rate = path, rate
        self._metadata, self._peer_size = metadata, peer_size
        self._video: Any = None
        self._size = (0, 0)
        self._written = 0

    def add(self, estimates: Estimates) -> None:
        """Write a picture."""
        height, width = estimates.rgb.shape[:2]
        if self._video is None:
            self._size = (width, height)
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            # MPEG-4 counts time in at most 65,535 parts of a second, OpenCV in thousandths of a picture.
            rate = self._rate if self._rate < 60 else round(self._rate)
            self._video = cv2.VideoWriter(str(self._path), codec, rate, self._size)
            if not self._video.isOpened():
                why = f"OpenCV makes none of {width}x{height} at {rate:g} Hz"
                try:
                    self._path.touch()
                    self._path.unlink()
                except OSError as error:
                    why = str(error.strerror)
                raise LedposeError(f"cannot write the video {self._path}: {why}")
        if (width, height) != self._size:
            self.left_out += 1
            return
        drawn = _drawn(estimates, self._metadata, self._peer_size)
        self._video.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        self._written += 1

    def __enter__(self) -> VideoSink:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._video is None:
            return
        self._video.release()
        # OpenCV does not tell of a disk that is full.
        there = int(cv2.VideoCapture(str(self._path)).get(cv2.CAP_PROP_FRAME_COUNT))
        if there != self._written and exception[0] is None:
            raise LedposeError(
                f"{self._path} holds {max(0, there)} of {self._written} pictures: is the disk full?"
            )


class BagSink:
    """What the estimator node would publish, for RViz and Foxglove."""

    left_out = 0

    def __init__(self, path: Path, metadata: ModelMetadata, peer_size: Sequence[float]) -> None:
        self._bag = BagWriter(path)
        self._metadata, self._peer_size = metadata, peer_size

    def add(self, estimates: Estimates) -> None:
        """Write the messages of a picture, all at its stamp."""
        bag, stamp = self._bag, estimates.frame.stamp_ns
        height, width = estimates.rgb.shape[:2]
        header = bag.header(stamp, estimates.frame.frame_id)
        poses = [bag.pose(peer.pose) for peer in estimates.peers if peer.pose is not None]
        array = bag.new("geometry_msgs/msg/PoseArray", header, poses)
        info = bag.camera_info(header, estimates.camera, width, height)
        drawn = encode_image(_drawn(estimates, self._metadata, self._peer_size), "jpeg")
        picture = bag.new("sensor_msgs/msg/CompressedImage", header, "jpeg", np.frombuffer(drawn, np.uint8))
        bag.write("camera_info", "sensor_msgs/msg/CameraInfo", info, stamp)
        bag.write("peer_poses", "geometry_msgs/msg/PoseArray", array, stamp)
        bag.write("debug_image/compressed", "sensor_msgs/msg/CompressedImage", picture, stamp)
        names = list(self._metadata.led_names) if poses else []
        on = estimates.peers[0].led_probability.astype(np.float64) if poses else np.zeros(0)
        none = np.zeros(0)
        leds = bag.new("sensor_msgs/msg/JointState", header, names, on, none, none)
        bag.write("peer_led_states", "sensor_msgs/msg/JointState", leds, stamp)
        if poses:
            covariance = estimates.peers[0].covariance
            assert covariance is not None
            best = bag.new("geometry_msgs/msg/PoseWithCovariance", poses[0], covariance.ravel())
            stamped = bag.new("geometry_msgs/msg/PoseWithCovarianceStamped", header, best)
            bag.write("peer_pose", "geometry_msgs/msg/PoseWithCovarianceStamped", stamped, stamp)

    def __enter__(self) -> BagSink:
        self._bag.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._bag.__exit__(*exception)


def _drawn(estimates: Estimates, metadata: ModelMetadata, peer_size: Sequence[float]) -> np.ndarray:
    return draw_estimates(
        estimates.rgb,
        estimates.detections,
        estimates.peers,
        metadata.led_directions,
        estimates.camera,
        peer_size,
    )
