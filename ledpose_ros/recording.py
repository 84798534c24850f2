# SPDX-License-Identifier: Apache-2.0
"""Recordings on disk: HDF5, format version 1, described in docs/formats.md.

A recording survives the death of its writer: rows below `n_committed` are whole and on disk, and readers
never go past it. Measured with SIGKILL on an appending writer, this needs the default `libver` (files
written with `libver="latest"` refuse to open) and this order: flush, fsync, then the count, flush.

It survives a full disk because HDF5 never meets one: space is reserved before it is written to. A flush that
fails half-way leaves index and data at odds, and `ledpose check` then has to mend the file.
"""

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np

from ledpose_ros import __version__
from ledpose_ros.errors import LedposeError
from ledpose_ros.images import IMAGE_ENCODINGS, decode_image, encoding_of
from ledpose_ros.leds import check_leds

FORMAT = "ledpose-recording"
VERSION = 1

STAMP_DATASETS = ("image_stamp_ns", "receive_stamp_ns", "led_stamp_ns")
DATASETS = ("image", "led_states", *STAMP_DATASETS)
COPIES_COMMITTED = 100
RESERVED_BYTES = 700_000
SPARE_BYTES = 300_000
"""What a sample may take on disk besides its picture: new chunks of every dataset, and room to finish."""
REFUSED_BYTES = 4096
"""Room for the counts of `refused`: of fixed size, so that they are overwritten in place."""

_H5PY_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError)
# Of what is in the file where something else should be.
_FOREIGN_ERRORS = (*_H5PY_ERRORS, AttributeError, OverflowError, MemoryError)


@dataclass(frozen=True, eq=False)
class RecordingInfo:
    """What holds for a whole recording: LEDs and camera.

    `led_directions` [rad] are alpha_k of the method: the direction in the peer's body frame from which LED k
    is seen best. `K` (3, 3) and `D` (any length) are the camera's, as in sensor_msgs/CameraInfo.
    """

    led_names: tuple[str, ...]
    led_directions: tuple[float, ...]
    camera_frame: str
    K: np.ndarray
    D: np.ndarray
    distortion_model: str
    width: int
    height: int
    image_encoding: str = "jpeg"

    def __post_init__(self) -> None:
        object.__setattr__(self, "led_names", tuple(self.led_names))
        object.__setattr__(self, "led_directions", tuple(float(angle) for angle in self.led_directions))
        object.__setattr__(self, "K", np.asarray(self.K, np.float64))
        object.__setattr__(self, "D", np.asarray(self.D, np.float64))
        check_leds(self.led_names, self.led_directions)
        if self.K.shape != (3, 3) or not np.isfinite(self.K).all() or self.K[0, 0] <= 0 or self.K[1, 1] <= 0:
            raise LedposeError(
                f"the camera matrix K must be 3x3 with positive focal lengths, not {self.K.tolist()}: "
                "calibrate the camera"
            )
        if self.D.ndim != 1 or not np.isfinite(self.D).all():
            raise LedposeError(f"the distortion D must be a list of finite numbers, not {self.D.tolist()}")
        if self.width < 1 or self.height < 1:
            raise LedposeError(f"the image size must be positive, not {self.width}x{self.height}")
        if self.image_encoding not in IMAGE_ENCODINGS:
            raise LedposeError(
                f"image encoding '{self.image_encoding}' is not one of {', '.join(IMAGE_ENCODINGS)}"
            )


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Where the peer really was; for evaluation only.

    `pose` (N, 7): x y z [m] qx qy qz qw of the peer's body frame in the camera optical frame; `valid` (N,)
    bool tells the samples in which a peer was there and its pose known.
    """

    pose: np.ndarray
    valid: np.ndarray


def part_of(path: Path) -> Path:
    """What a recording is called until it is whole."""
    return Path(f"{path}.part")


def check_new_recording(path: Path) -> None:
    """Refuse a name that is none for a recording, or that a recording has already, whole or in part."""
    if path.suffix != ".h5":
        raise LedposeError(f"a recording's name ends in .h5: '{path.name}' does not")
    _refuse_existing(path)
    _refuse_existing(part_of(path))


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise LedposeError(
            f"{path} exists already and is never overwritten: choose another name or move it away"
        )


class RecordingWriter:
    """Writes `PATH.part`, renamed to `PATH` (which ends in .h5) by `close()`.

    Samples count from the next `commit()` on. As a context manager it closes on a clean exit; after an
    exception it commits what it can and leaves the `.part` file, which `Recording` opens as well.

    `refused` (how often what was refused, by reason) is for people, and kept with the samples by `commit()`.
    Of the `len()` samples, `committed` are safe.
    """

    has_failed = False
    """Whether any writer of this process could not close its file: see `end_process`."""

    def __init__(
        self, path: str | PathLike[str], info: RecordingInfo, with_ground_truth: bool = False
    ) -> None:
        self.path = Path(path)
        self.part_path = part_of(self.path)
        self.info = info
        self.with_ground_truth = with_ground_truth
        self.refused: Mapping[str, int] = {}
        self.committed = 0
        self._count = 0
        check_new_recording(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = h5py.File(self.part_path, "x")
        except OSError as error:
            raise LedposeError(f"cannot create {self.part_path}: {_system_error(error)}") from error
        self._create_layout()
        self.commit()

    def _create_layout(self) -> None:
        file, info = self._file, self.info
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        file.attrs.create("led_names", list(info.led_names), dtype=h5py.string_dtype())
        file.attrs["led_directions"] = np.array(info.led_directions, np.float64)
        file.attrs["camera_frame"] = info.camera_frame
        file.attrs["K"] = info.K.ravel()
        file.attrs["D"] = info.D
        file.attrs["distortion_model"] = info.distortion_model
        file.attrs["width"] = info.width
        file.attrs["height"] = info.height
        file.attrs["image_encoding"] = info.image_encoding
        file.attrs["created_ns"] = time.time_ns()
        file.attrs["software"] = f"ledpose_ros {__version__}"

        def extendable(
            group: h5py.Group, name: str, dtype: object, columns: tuple[int, ...] = (), chunk: int = 1024
        ) -> None:
            group.create_dataset(
                name, (0, *columns), dtype, maxshape=(None, *columns), chunks=(chunk, *columns)
            )

        extendable(file, "image", h5py.vlen_dtype(np.uint8), chunk=16)
        extendable(file, "led_states", np.float32, (len(info.led_names),))
        for name in STAMP_DATASETS:
            extendable(file, name, np.int64)
        file.create_dataset("n_committed", data=np.int64(0))
        file.create_dataset("refused", (), f"S{REFUSED_BYTES}")
        if self.with_ground_truth:
            ground_truth = file.create_group("ground_truth")
            extendable(ground_truth, "pose", np.float64, (7,))
            extendable(ground_truth, "valid", np.bool_)

    def __len__(self) -> int:
        """Samples appended so far, committed or not."""
        return self._count

    def append(
        self,
        image: bytes,
        image_stamp_ns: int,
        receive_stamp_ns: int,
        led_states: np.ndarray,
        led_stamp_ns: int,
        pose: np.ndarray | None = None,
    ) -> None:
        """Add one sample; a refused one leaves the recording as it was.

        `image`: the encoded picture; `led_states` (K,) in 0..1, held at the image's stamp, in effect since
        `led_stamp_ns`; `pose` (7,): see `GroundTruth`, None where it is not known.
        """
        states = self._checked_states(led_states)
        row = {
            "image": self._checked_image(image),
            "led_states": states,
            "image_stamp_ns": image_stamp_ns,
            "receive_stamp_ns": receive_stamp_ns,
            "led_stamp_ns": led_stamp_ns,
        }
        if self.with_ground_truth:
            # NaN, so that nobody mistakes the pose of an invalid row for one.
            row["ground_truth/pose"] = np.full(7, np.nan) if pose is None else checked_pose(pose)
            row["ground_truth/valid"] = pose is not None
        elif pose is not None:
            raise LedposeError(
                f"{self.path} was opened without ground truth but a pose was given: open it with ground truth"
            )
        try:
            self._reserve(len(image))
            for name, value in row.items():
                dataset = self._file[name]
                dataset.resize(self._count + 1, axis=0)
                dataset[self._count] = value
        except _H5PY_ERRORS as error:
            what = f"cannot write sample {self._count} to {self.part_path}"
            raise LedposeError(f"{what}: {_system_error(error)}") from error
        self._count += 1

    def _reserve(self, needed: int) -> None:
        """Make sure that a picture of so many bytes fits on the disk, with all that comes with it."""
        descriptor, used = self._file.id.get_vfd_handle(), self._file.id.get_filesize()
        end = used + needed + SPARE_BYTES
        if os.fstat(descriptor).st_size < end:
            os.posix_fallocate(descriptor, used, end - used + RESERVED_BYTES)

    def _close_file(self) -> None:
        """Close, and give back the space that was reserved but not used."""
        with open(os.dup(self._file.id.get_vfd_handle()), "r+b") as file:
            used = self._file.id.get_filesize()
            self._file.close()
            if os.fstat(file.fileno()).st_size > used:
                file.truncate(used)

    def _checked_image(self, image: bytes) -> np.ndarray:
        found = encoding_of(image)
        if found != self.info.image_encoding:
            raise LedposeError(
                f"the image is {found or 'neither jpeg nor png'}, "
                f"but the recording holds {self.info.image_encoding}: encode it so"
            )
        return np.frombuffer(image, np.uint8)

    def _checked_states(self, led_states: np.ndarray) -> np.ndarray:
        states = np.asarray(led_states, np.float32)
        leds = len(self.info.led_names)
        if states.shape != (leds,):
            raise LedposeError(
                f"LED states have shape {states.shape}, the recording has {leds} LEDs: give one state per LED"
            )
        # NaN fails the comparison too.
        if not ((states >= 0) & (states <= 1)).all():
            raise LedposeError(f"LED states must lie between 0 (off) and 1 (on), not {states.tolist()}")
        return states

    def commit(self) -> None:
        """Make every appended sample durable, then count it: no kill or power cut can lose it any more."""
        try:
            self._file.flush()
            os.fsync(self._file.id.get_vfd_handle())
            self._file["n_committed"][()] = self._count
            noted = json.dumps(dict(self.refused)).encode()
            if len(noted) <= REFUSED_BYTES:  # cut off they could not be read
                self._file["refused"][()] = noted
            self._file.flush()
            os.fsync(self._file.id.get_vfd_handle())
            self.committed = self._count
        except _H5PY_ERRORS as error:
            raise LedposeError(f"cannot write to {self.part_path}: {_system_error(error)}") from error
        self._check_in_place()

    def _check_in_place(self) -> None:
        """Raise LedposeError if the file is no longer where it was made; a deleted one is put back first.

        Linux lets us go on writing to a file that nobody can open any more, and frees it when we close it.
        """
        try:
            descriptor = self._file.id.get_vfd_handle()
            held = os.fstat(descriptor)
            with contextlib.suppress(OSError):
                if os.path.samestat(held, os.stat(self.part_path)):
                    return
            moved = f"{self.part_path} was moved away while it was written: its samples are there"
            if not held.st_nlink:
                self._put_back(descriptor)
                moved = f"{self.part_path} was deleted while it was written: it is back, and whole"
            self._close_file()
        except _H5PY_ERRORS as error:
            raise LedposeError(f"{self.part_path} has vanished: {_system_error(error)}") from error
        raise LedposeError(moved)

    def _put_back(self, descriptor: int) -> None:
        """Copy a deleted file to its old place."""
        self.part_path.parent.mkdir(parents=True, exist_ok=True)
        used = self._file.id.get_filesize()
        with self.part_path.open("xb") as copy:
            while block := os.pread(descriptor, min(1 << 20, used - copy.tell()), copy.tell()):
                copy.write(block)

    def close(self) -> None:
        """Commit, close and give the file its final name; does nothing when closed already."""
        if not self._file:
            return
        self.commit()
        try:
            self._close_file()
            _refuse_existing(self.path)
            self.part_path.rename(self.path)
        except OSError as error:
            raise LedposeError(f"cannot finish {self.part_path}: {_system_error(error)}") from error

    def abandon(self) -> None:
        """After an error: commit what can be, close, and leave the `.part` file to `ledpose check`.

        One without any sample is taken away: there is nothing to lose, and it would be in the way.
        """
        if self._file:
            with contextlib.suppress(LedposeError):
                self.commit()
            try:
                self._close_file()
            except _H5PY_ERRORS:
                RecordingWriter.has_failed = True
            if not self._count:
                with contextlib.suppress(OSError):
                    self.part_path.unlink()

    def __enter__(self) -> "RecordingWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


def end_process(status: int) -> int:
    """The exit status for `sys.exit`; does not return if a file could not be written.

    HDF5 may try once more at exit to write what its disk has refused, and crash.
    """
    if RecordingWriter.has_failed:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


class Recording:
    """A recording to read: a `.h5` file, or the `.h5.part` of a writer that died.

    `led_states` (N, K) float32 and the stamps (N,) int64 [ns] are read at once, images one by one.
    `uncommitted` tells how many further samples were begun but never made durable: they do not count.
    `refused` tells how often the recorder refused what, by reason; empty where nobody noted it. The ground
    truth is not touched before `ground_truth()` is called: what trains cannot see it by accident.
    """

    info: RecordingInfo
    led_states: np.ndarray
    image_stamps_ns: np.ndarray
    receive_stamps_ns: np.ndarray
    led_stamps_ns: np.ndarray
    created_ns: int
    software: str
    uncommitted: int
    refused: dict[str, int]

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._file = _open(self.path)
        try:
            self._read_attributes()
            self._read_samples()
        except LedposeError as error:
            self._file.close()
            raise LedposeError(f"{self.path}: {error}") from error
        except _FOREIGN_ERRORS as error:
            self._file.close()
            raise LedposeError(
                f"{self.path} is damaged ({error}): try `ledpose check {self.path}`"
            ) from error

    def _read_attributes(self) -> None:
        attributes = self._file.attrs
        if attributes.get("format") not in (FORMAT, FORMAT.encode()):
            raise LedposeError(f"an HDF5 file but no recording: its attribute 'format' is not '{FORMAT}'")
        if attributes["version"] != VERSION:
            raise LedposeError(
                f"has recording format version {attributes['version']}, "
                f"this software reads version {VERSION}: update it"
            )
        camera_matrix = np.asarray(attributes["K"], np.float64)
        if camera_matrix.size != 9:
            raise LedposeError(f"the attribute K has {camera_matrix.size} numbers instead of 9")
        self.info = RecordingInfo(
            led_names=tuple(_text(name) for name in attributes["led_names"]),
            led_directions=tuple(attributes["led_directions"]),
            camera_frame=_text(attributes["camera_frame"]),
            K=camera_matrix.reshape(3, 3),
            D=np.atleast_1d(attributes["D"]),
            distortion_model=_text(attributes["distortion_model"]),
            width=int(attributes["width"]),
            height=int(attributes["height"]),
            image_encoding=_text(attributes["image_encoding"]),
        )
        self.created_ns = int(attributes["created_ns"])
        self.software = _text(attributes["software"])

    def _read_samples(self) -> None:
        """Read all datasets but the images, of which only the presence is checked."""
        file, leds = self._file, len(self.info.led_names)
        self._count = int(file["n_committed"][()])
        if self._count < 0:
            raise LedposeError(f"claims {self._count} samples")
        for name in DATASETS:
            shape = file[name].shape
            if shape[1:] != ((leds,) if name == "led_states" else ()):
                raise LedposeError(f"the dataset '{name}' has shape {shape}, which does not fit {leds} LEDs")
            if shape[0] < self._count:
                raise LedposeError(f"claims {self._count} samples but '{name}' holds {shape[0]}")
        self.uncommitted = max(len(file[name]) for name in DATASETS) - self._count
        self._images = file["image"]
        if h5py.check_vlen_dtype(self._images.dtype) != np.uint8:
            raise LedposeError(f"the dataset 'image' holds {self._images.dtype}, not variable-length uint8")
        self.refused = self._read_refused()
        self.led_states = file["led_states"][: self._count].astype(np.float32)
        if not ((self.led_states >= 0) & (self.led_states <= 1)).all():
            raise LedposeError("holds LED states outside 0..1")
        self.image_stamps_ns, self.receive_stamps_ns, self.led_stamps_ns = (
            file[name][: self._count].astype(np.int64) for name in STAMP_DATASETS
        )

    def _read_refused(self) -> dict[str, int]:
        # For people alone: torn by a power cut, or of another kind, it must not cost the samples.
        try:
            noted = json.loads(_text(self._file["refused"][()]))
            return {str(reason): int(count) for reason, count in noted.items()}
        except (*_H5PY_ERRORS, AttributeError):
            return {}

    def __len__(self) -> int:
        """Committed samples."""
        return self._count

    def encoded_image(self, index: int) -> np.ndarray:
        """The encoded picture of a sample, uint8 (bytes,)."""
        if not 0 <= index < self._count:
            raise IndexError(f"sample {index} of {self._count}")
        try:
            return self._images[index]
        except _H5PY_ERRORS as error:
            raise LedposeError(f"cannot read image {index} of {self.path}: {error}") from error

    def image(self, index: int) -> np.ndarray:
        """The picture of a sample, RGB uint8 (height, width, 3)."""
        try:
            rgb = decode_image(self.encoded_image(index))
        except LedposeError as error:
            raise LedposeError(f"cannot decode image {index} of {self.path}: {error}") from error
        if rgb.shape[:2] != (self.info.height, self.info.width):
            raise LedposeError(
                f"image {index} of {self.path} is {rgb.shape[1]}x{rgb.shape[0]}, "
                f"the recording's size is {self.info.width}x{self.info.height}"
            )
        return rgb

    @property
    def has_ground_truth(self) -> bool:
        """Whether true poses come with the recording; asked of the list of names, so nothing is opened."""
        return "ground_truth" in self._file

    def ground_truth(self) -> GroundTruth | None:
        """The true poses, None where there are none; for evaluation only."""
        if not self.has_ground_truth:
            return None
        try:
            group = self._file["ground_truth"]
            pose, valid = group["pose"][: self._count], group["valid"][: self._count].astype(bool)
        except _H5PY_ERRORS as error:
            raise LedposeError(f"cannot read the ground truth of {self.path}: {error}") from error
        if pose.shape != (self._count, 7) or valid.shape != (self._count,):
            raise LedposeError(
                f"{self.path} has {self._count} samples "
                f"but ground truth of shapes {pose.shape} and {valid.shape}"
            )
        return GroundTruth(pose.astype(np.float64), valid)

    def close(self) -> None:
        """Close the file; images and ground truth cannot be read afterwards."""
        self._file.close()

    def __enter__(self) -> "Recording":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def copy_samples(
    source: Recording,
    samples: Iterable[int],
    writer: RecordingWriter,
    without_pose: Container[int] = (),
) -> None:
    """Append samples of a recording to another one as they are.

    With their poses if the writer takes any, but for samples in `without_pose`. LedposeError names the sample
    that cannot be written. The writer commits every COPIES_COMMITTED samples.
    """
    truth = source.ground_truth() if writer.with_ground_truth else None
    for index in samples:
        has_pose = truth is not None and truth.valid[index] and index not in without_pose
        try:
            writer.append(
                source.encoded_image(index).tobytes(),
                int(source.image_stamps_ns[index]),
                int(source.receive_stamps_ns[index]),
                source.led_states[index],
                int(source.led_stamps_ns[index]),
                truth.pose[index] if truth is not None and has_pose else None,
            )
        except LedposeError as error:
            raise LedposeError(f"sample {index} of {source.path}: {error}") from error
        if len(writer) % COPIES_COMMITTED == 0:
            writer.commit()


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise LedposeError(f"there is no recording {path}: check its name")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if isinstance(error, BlockingIOError):  # HDF5 locks a file while it is open for writing
            raise LedposeError(f"{path} is still being written: stop the recorder first") from error
        if isinstance(error, PermissionError):
            raise LedposeError(f"{path} cannot be read: {error.strerror}") from error
        if not h5py.is_hdf5(path):
            raise LedposeError(f"{path} is no HDF5 file, so it is no recording") from error
        raise LedposeError(f"{path} is damaged ({error}): try `ledpose check {path}`") from error


def _system_error(error: Exception) -> str:
    """What the operating system said; HDF5 buries it in a paragraph."""
    buried = re.search(r"error message = '([^']+)'", str(error))
    return buried[1] if buried else getattr(error, "strerror", None) or str(error)


def _text(value: str | bytes) -> str:
    """HDF5 strings come back as str or bytes, depending on who wrote them."""
    return value.decode() if isinstance(value, bytes) else str(value)


def checked_pose(pose: np.ndarray) -> np.ndarray:
    """The pose as float64 (7,): x y z qx qy qz qw, finite, with a unit quaternion; LedposeError otherwise."""
    pose = np.asarray(pose, np.float64)
    if pose.shape != (7,) or not np.isfinite(pose).all():
        raise LedposeError(f"a pose is 7 finite numbers (x y z qx qy qz qw), not {pose.tolist()}")
    norm = float(np.linalg.norm(pose[3:]))
    if abs(norm - 1) > 1e-3:
        raise LedposeError(f"the pose's quaternion has length {norm:.4g} instead of 1: normalise it")
    return pose
