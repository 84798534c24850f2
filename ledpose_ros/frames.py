# SPDX-License-Identifier: Apache-2.0
"""Pictures one after the other, with stamp and camera, from recordings, bags, videos and picture files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import yaml

from ledpose_ros.camera_info import (
    camera_from_info,
    image_size,
    projection_matrix,
    rectified_camera,
    whole_width,
)
from ledpose_ros.errors import LedposeError, one_line
from ledpose_ros.geometry import Camera, check_camera, pinhole_camera
from ledpose_ros.images import read_image, rgb_from_message
from ledpose_ros.leds import stamp_ns
from ledpose_ros.model_metadata import Calibration

if TYPE_CHECKING:
    from ledpose_ros.bags import Bag, BagMessage

RECORDING_SUFFIXES = (".h5", ".hdf5", ".part")
BAG_SUFFIXES = (".mcap", ".db3")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
PICTURE_RATE = 10.0
"""Pictures a second that files are taken for, which have no stamps [Hz]."""


@dataclass(frozen=True)
class Frame:
    """A picture; `camera` is None if the source does not tell it."""

    name: str
    stamp_ns: int
    decode: Callable[[], np.ndarray]
    """Gives it as uint8 (H, W, 3) RGB; LedposeError if it is damaged."""
    camera: Camera | LedposeError | None = None
    """As the source tells it, for pictures of `camera_size` (width, height), or why it cannot be used."""
    camera_size: tuple[int, int] | None = None
    whole_width: int | None = None
    """Of the picture before a region of interest was cut out of it [px]; None if it is whole."""
    frame_id: str = "camera"


@dataclass(frozen=True)
class Source:
    """Where pictures come from: about how many, how many a second, and themselves."""

    count: int
    rate: float
    frames: Iterator[Frame]


def open_source(
    paths: Sequence[Path],
    image_topic: str | None = None,
    camera_info_topic: str | None = None,
    is_rectified: bool = False,
) -> Source:
    """Recordings, a bag, a video, a folder of pictures, or picture files, rectified or as filmed.

    Recordings come in the order of their stamps, the pictures of a folder in that of the numbers in their
    names. The topics are those of a bag, and need not be given where there is no choice. Raises
    `LedposeError` for what is missing or unreadable, here or where the frames are taken.
    """
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise LedposeError(f"there is no {missing[0]}: check its name")
    suffixes = {path.suffix.lower() for path in paths}
    path, suffix = paths[0], paths[0].suffix.lower()
    if len(paths) == 1 and (suffix in BAG_SUFFIXES or (path.is_dir() and (path / "metadata.yaml").is_file())):
        return _bag(path, image_topic, camera_info_topic, is_rectified)
    if image_topic or camera_info_topic:
        raise LedposeError(f"{path} is no bag, and has no topics to choose from")
    if suffixes <= set(RECORDING_SUFFIXES):
        return _recordings(paths, is_rectified)
    if suffixes <= set(PICTURE_SUFFIXES):
        return _pictures(paths)
    if len(paths) > 1:
        raise LedposeError("give one bag, video or folder, or several recordings or pictures")
    if path.is_dir():
        pictures = (picture for picture in path.iterdir() if picture.suffix.lower() in PICTURE_SUFFIXES)
        return _pictures(sorted(pictures, key=_by_numbers))
    if suffix in VIDEO_SUFFIXES:
        return _video(path)
    known = (*RECORDING_SUFFIXES, *BAG_SUFFIXES, *VIDEO_SUFFIXES, *PICTURE_SUFFIXES)
    raise LedposeError(f"{path} is of an unknown kind: give a file that ends in one of {', '.join(known)}")


def read_camera(path: Path, is_rectified: bool = False) -> tuple[Camera, tuple[int, int]]:
    """Camera and image size (width, height) of a calibration file of ROS's camera_calibration (YAML)."""
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
        size = int(told["image_width"]), int(told["image_height"])
        if is_rectified:
            return rectified_camera(projection_matrix(told["projection_matrix"]["data"])), size
        K, D = told["camera_matrix"]["data"], told["distortion_coefficients"]["data"]
        return check_camera(np.array(K, float), np.array(D, float), str(told["distortion_model"])), size
    except OSError as error:
        raise LedposeError(f"cannot read the calibration {path}: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LedposeError(
            f"{path} is no camera calibration as ROS's camera_calibration writes it "
            f"({type(error).__name__}: {one_line(error)})"
        ) from error


def camera_for(
    frame: Frame,
    size: tuple[int, int],
    given: tuple[Camera, tuple[int, int]] | None,
    focal_length: float | None,
    calibration: Calibration,
) -> Camera:
    """The camera of a picture of this size (width, height): as the user has given it, or its source tells it.

    Else one like that of the model's calibration. Raises `LedposeError` if nothing is known, or `given` is of
    another size.
    """
    if given is not None:
        if given[1] != size:
            raise LedposeError(
                "the camera calibration is for {}x{}, but pictures are {}x{}: ".format(*given[1], *size)
                + "calibrate the camera at the size it records"
            )
        return given[0]
    if focal_length is None and frame.camera is not None:
        if isinstance(frame.camera, LedposeError):
            raise frame.camera
        if frame.camera_size not in (None, size):
            raise LedposeError(
                "its camera_info is for {}x{}, but the picture is {}x{}".format(*frame.camera_size, *size)
            )
        return frame.camera
    if focal_length is None and calibration.focal_length is not None:
        focal_length = calibration.focal_length * size[0] / calibration.width
    if focal_length is None:
        raise LedposeError(
            "pictures do not tell their camera, and the model does not know any: give --camera-info or "
            "--focal-length"
        )
    return pinhole_camera(focal_length, *size)


def _recordings(paths: Sequence[Path], is_rectified: bool) -> Source:
    from ledpose_ros.recording import Recording

    recordings = sorted(map(Recording, paths), key=lambda recording: recording.image_stamps_ns[:1].tolist())

    def frames() -> Iterator[Frame]:
        for recording in recordings:
            info = recording.info
            camera: Camera | LedposeError = Camera(info.K, info.D, info.distortion_model)
            if is_rectified:
                camera = LedposeError(
                    "a recording does not tell the camera of rectified images: "
                    "give --camera-info or --focal-length"
                )
            size, of = (info.width, info.height), f" of {recording.path.name}" if len(paths) > 1 else ""
            with recording:
                for index, stamp in enumerate(recording.image_stamps_ns):
                    decode = partial(recording.image, index)
                    name = f"sample {index}{of}"
                    yield Frame(name, int(stamp), decode, camera, size, frame_id=info.camera_frame)

    stamps = np.concatenate([recording.image_stamps_ns for recording in recordings])
    return Source(len(stamps), _rate(stamps), frames())


def _bag(path: Path, image_topic: str | None, camera_info_topic: str | None, is_rectified: bool) -> Source:
    from ledpose_ros.bags import IMAGE_TYPES, Bag

    bag = Bag(path)
    topic = bag.choose_topic(IMAGE_TYPES, image_topic, "--image-topic")
    info_topic = _info_topic(bag, topic, camera_info_topic)

    def frames() -> Iterator[Frame]:
        camera: Camera | LedposeError | None = None
        size: tuple[int, int] | None = None
        width: int | None = None
        with bag:
            # Pictures may come before the first CameraInfo that can be used.
            for entry in bag.messages(info_topic) if info_topic else ():
                told, size, width = _told_camera(entry, is_rectified)
                camera = told if size else camera or told
                if size:
                    break
            is_calibrated = camera is not None
            for entry in bag.messages(topic, *([info_topic] if info_topic else [])):
                if entry.topic == info_topic:
                    camera, size, width = _told_camera(entry, is_rectified)
                    if camera is None and is_calibrated:
                        camera = LedposeError("its camera_info is not calibrated, as others in the bag are")
                    continue
                try:
                    message = entry.decode()
                except LedposeError as error:
                    name, stamp = f"a damaged message at {entry.receive_stamp_ns}", entry.receive_stamp_ns
                    yield Frame(name, stamp, partial(_raise, error))
                    continue
                stamp, frame_id = stamp_ns(message.header.stamp), message.header.frame_id
                if stamp == 0:
                    why = LedposeError("its stamp is 0: the camera driver must set it")
                    yield Frame(f"the image at {entry.receive_stamp_ns}", 0, partial(_raise, why))
                    continue
                decode = partial(rgb_from_message, message)
                yield Frame(f"image at {stamp}", stamp, decode, camera, size, width, frame_id)

    first = [entry.receive_stamp_ns for _, entry in zip(range(20), bag.messages(topic), strict=False)]
    return Source(bag.count(topic), _rate(np.array(first)), frames())


def _info_topic(bag: Bag, image_topic: str, wanted: str | None) -> str | None:
    """The CameraInfo of the images: that which is wanted, or lies beside them; None if there is none."""
    from ledpose_ros.bags import CAMERA_TYPES

    if wanted is not None:
        return bag.choose_topic(CAMERA_TYPES, wanted, "--camera-info-topic")
    # image/compressed is one level deeper than image.
    namespace = image_topic.removesuffix("/compressed").rpartition("/")[0]
    beside = [topic for topic in bag.topics(CAMERA_TYPES) if topic.rpartition("/")[0] == namespace]
    if len(beside) > 1:
        raise LedposeError(
            f"{bag.path} has several cameras beside {image_topic}: "
            f"give --camera-info-topic one of {', '.join(beside)}"
        )
    return beside[0] if beside else None


def _told_camera(
    entry: BagMessage, is_rectified: bool
) -> tuple[Camera | LedposeError | None, tuple[int, int] | None, int | None]:
    """Camera, image size and whole width of a CameraInfo, or why it cannot be used.

    Nothing if it is not calibrated.
    """
    try:
        message = entry.decode()
        if message.k[0] == 0:  # not calibrated
            return None, None, None
        return camera_from_info(message, is_rectified), image_size(message), whole_width(message)
    except LedposeError as error:
        return LedposeError(f"its camera_info cannot be used: {error}"), None, None


def _raise(error: LedposeError) -> np.ndarray:
    raise error


def _video(path: Path) -> Source:
    video = cv2.VideoCapture(str(path))
    first = video.read()
    if not first[0]:
        raise LedposeError(f"the video {path} cannot be read: it is damaged, or of an unknown coding")
    rate = video.get(cv2.CAP_PROP_FPS) or PICTURE_RATE

    def frames() -> Iterator[Frame]:
        index, read, stamp = 0, first, -1
        while read[0]:
            # Not all videos have a constant rate. Not all tell their times.
            told = round(video.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
            stamp = told if told > stamp else stamp + round(1e9 / rate)
            decode = partial(cv2.cvtColor, read[1], cv2.COLOR_BGR2RGB)
            yield Frame(f"frame {index}", stamp, decode)
            index, read = index + 1, video.read()
        video.release()

    return Source(max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT))), rate, frames())


def _pictures(paths: Sequence[Path]) -> Source:
    if not paths:
        raise LedposeError(f"the folder holds no pictures: they end in {', '.join(PICTURE_SUFFIXES)}")
    frames = (
        Frame(_printable(path), round(index / PICTURE_RATE * 1e9), partial(read_image, path))
        for index, path in enumerate(paths)
    )
    return Source(len(paths), PICTURE_RATE, frames)


def _printable(path: Path) -> str:
    """A name that can be written as UTF-8, which not all names of files are."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _by_numbers(path: Path) -> list[tuple[int, str]]:
    """Sorts names so that 2.png comes before 10.png."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(part), "") if index % 2 else (0, part) for index, part in enumerate(parts)]


def _rate(stamps: np.ndarray) -> float:
    """Pictures a second of stamps [ns], for videos made of them."""
    steps = np.diff(np.asarray(stamps, float))
    steps = steps[steps > 0]
    return float(np.clip(1e9 / np.median(steps), 1, 120)) if len(steps) else PICTURE_RATE
