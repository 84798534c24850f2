# SPDX-License-Identifier: Apache-2.0
"""Writes paired samples to recordings in a thread of its own, so that a slow disk never delays a camera."""

import contextlib
import math
import os
import queue
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from ledpose_ros.camera_info import image_matrix, image_size
from ledpose_ros.errors import LedposeError
from ledpose_ros.images import decode_image, encode_image, encoding_of, rgb_from_message
from ledpose_ros.pairing import PairedSample
from ledpose_ros.paths import user_path
from ledpose_ros.recording import RecordingInfo, RecordingWriter, part_of
from ledpose_ros.refusals import Refusals

STOPPED, RECORDING, FAILED = "stopped", "recording", "failed"


@dataclass(frozen=True, eq=False)
class Camera:
    """What a CameraInfo message says of its images, in its own terms."""

    K: np.ndarray
    D: np.ndarray
    distortion_model: str
    width: int
    height: int

    @classmethod
    def from_message(cls, message: Any) -> "Camera":
        """Read a sensor_msgs/CameraInfo; LedposeError if the camera is not calibrated.

        A distortion model that nobody here knows is no obstacle: pictures teach LEDs without.
        """
        K, D = image_matrix(message, message.k), np.array(message.d)
        if not (np.isfinite(K).all() and np.isfinite(D).all() and K[0, 0] > 0 and K[1, 1] > 0):
            raise LedposeError(
                f"the CameraInfo has K = {K.tolist()} and D = {D.tolist()}: calibrate the camera, "
                "or let its driver load the calibration"
            )
        return cls(K, D, message.distortion_model, *image_size(message))


def usable_camera(message: Any, refusals: Refusals) -> Camera | None:
    """The camera of a sensor_msgs/CameraInfo; None for one that cannot be used, which is counted."""
    try:
        return Camera.from_message(message)
    except LedposeError as error:
        refusals.count("camera not calibrated", str(error))
        return None


@dataclass(frozen=True, eq=False)
class CameraImage:
    """An Image or CompressedImage message and the camera as it was known when the image came."""

    message: Any
    camera: Camera


@dataclass(frozen=True)
class SessionSettings:
    """How and where to record; named and explained as the recorder's parameters."""

    output_directory: Path
    led_names: tuple[str, ...]
    led_directions: tuple[float, ...]
    image_encoding: str = "jpeg"
    jpeg_quality: int = 90
    queue_size: int = 30
    """Samples on their way to the writer's thread."""
    flush_samples: int = 30
    flush_period: float = 1.0
    min_free_space_mb: int = 200
    segment_duration: float = 0.0
    segment_size_mb: int = 0
    file: Path | None = None
    """The only file, in place of segments in the directory that are named by date."""

    @classmethod
    def from_parameters(cls, parameters: Any, file: Path | None = None) -> "SessionSettings":
        """Settings from the recorder's parameters (attributes); with `file`, in its folder."""
        directory = user_path(parameters.output_directory) if file is None else file.parent
        return cls(
            output_directory=directory,
            led_names=tuple(parameters.led_names),
            led_directions=tuple(parameters.led_directions),
            image_encoding=parameters.image_encoding,
            jpeg_quality=parameters.jpeg_quality,
            flush_samples=parameters.flush_samples,
            flush_period=parameters.flush_period,
            min_free_space_mb=parameters.min_free_space_mb,
            segment_duration=parameters.segment_duration if file is None else 0.0,
            segment_size_mb=parameters.segment_size_mb if file is None else 0,
            file=file,
        )


class RecordingSession:
    """Samples in, files out.

    `put` does not block unless told to: when the queue is full the sample is refused and counted. A file
    begins with the first good sample after `start`, after `split`, or after one that filled the last file.
    The first error of the disk ends the recording (`state` is FAILED, `error` says why) and saves what was
    recorded; `start` tries again.
    """

    def __init__(self, settings: SessionSettings, refusals: Refusals) -> None:
        self.state = STOPPED
        self.error = ""
        self.samples = 0
        self.led_on_counts = np.zeros(len(settings.led_names))
        self._settings = settings
        self._refusals = refusals
        self._refused_before = refusals.counts
        self._writer: RecordingWriter | None = None
        self._segment_bytes = 0
        self._segment_due = 0.0
        self._safe_before = 0
        self._last_file: tuple[Path, int] | None = None
        self._uncommitted = 0
        self._commit_due = 0.0
        self._tasks: queue.Queue[Callable[[], None] | None] = queue.Queue(settings.queue_size)
        self._thread = threading.Thread(target=self._work, name="writer")
        self._thread.start()

    @property
    def file(self) -> tuple[Path, int] | None:
        """Path and samples of the file being written, or of the last one; None before the first."""
        writer = self._writer
        return (writer.part_path, len(writer)) if writer is not None else self._last_file

    @property
    def safe_samples(self) -> int:
        """How many of the samples survive whatever happens now."""
        writer = self._writer
        return self._safe_before + (writer.committed if writer is not None else 0)

    @property
    def room(self) -> int:
        """Samples that can be put without waiting."""
        return self._settings.queue_size - self.backlog

    @property
    def backlog(self) -> int:
        """Samples that wait for the disk."""
        return self._tasks.qsize()

    @property
    def free_space_mb(self) -> int:
        """Space left on the disk of the output directory [MB]."""
        directory = self._settings.output_directory.absolute()
        # Unlike Path.exists this also takes errors of the disk for an answer.
        existing = next(path for path in (directory, *directory.parents) if os.path.exists(path))
        return shutil.disk_usage(existing).free // 1_000_000

    def put(self, sample: PairedSample[CameraImage], with_ground_truth: bool, wait: bool = False) -> None:
        """Queue a sample; `with_ground_truth` tells whether a file that begins with it has poses.

        With `wait` until there is room: for what does not come by itself.
        """
        try:
            self._tasks.put(lambda: self._write(sample, with_ground_truth), block=wait)
        except queue.Full:
            self._refusals.count(
                "queue full",
                f"the disk is too slow: {self._settings.queue_size} samples wait, one is dropped",
            )

    def start(self) -> str:
        """Begin to record; the answer is for people."""
        return self._ask(self._start)

    def stop(self) -> str:
        """Write all that is queued and finish the file; the answer names it."""
        return self._ask(self._stop)

    def split(self) -> str:
        """Finish the file, and begin another one with the next sample; LedposeError when not recording."""
        return self._ask(self._split)

    def close(self) -> None:
        """Write all that is queued, finish the file and end the thread; a second call does nothing."""
        if not self._thread.is_alive():
            return
        try:
            self.stop()
        finally:
            self._tasks.put(None)
            self._thread.join()

    def abandon(self) -> None:
        """Write all that is queued, leave the file as its `.part`, and end the thread."""
        self._ask(self._abandon)
        self.close()

    # --- in the writer thread -------------------------------------------------------------------------------

    def _ask(self, command: Callable[[], str]) -> str:
        """Let the writer thread run a command after everything that is queued, and wait for its answer."""
        answer: Future[str] = Future()

        def task() -> None:
            try:
                answer.set_result(command())
            except Exception as error:  # whoever waits for the answer gets it
                answer.set_exception(error)

        self._tasks.put(task)
        return answer.result()

    def _work(self) -> None:
        while True:
            # What is refused is noted in the file too, also while no sample comes.
            wait = self._settings.flush_period if self._writer is not None else None
            if self._uncommitted:
                wait = max(0.0, self._commit_due - time.monotonic())
            try:
                task = self._tasks.get(timeout=wait)
            except queue.Empty:
                task = self._commit
            if task is None:
                return
            try:
                task()
            except (
                Exception
            ) as error:  # a fault of ours must show in the status, not end this thread silently
                self._fail(error, self._writer)

    def _start(self) -> str:
        if self.state == RECORDING:
            return "recording already"
        self.state, self.error = RECORDING, ""
        self._refused_before = self._refusals.counts
        return f"recording to {self._settings.output_directory}"

    def _stop(self) -> str:
        if self.state != RECORDING:
            return f"not recording: {self.error or self.state}"
        self.state = STOPPED
        return self._finish_file()

    def _split(self) -> str:
        if self.state != RECORDING:
            raise LedposeError(f"there is nothing to split: {self.error or self.state}")
        return self._finish_file()

    def _finish_file(self) -> str:
        if self._writer is None:
            return "no sample was recorded"
        writer, self._writer = self._writer, None
        self._uncommitted = 0
        try:
            self._note_refusals(writer)
            writer.close()
        except LedposeError as error:
            self._fail(error, writer)
            raise
        self._refused_before += Counter(writer.refused)
        self._safe_before += writer.committed
        self._last_file = writer.path, len(writer)
        return f"{writer.path} holds {len(writer)} samples"

    def _abandon(self) -> str:
        self.state, self._uncommitted = STOPPED, 0
        if self._writer is None:
            return "no sample was recorded"
        writer, self._writer = self._writer, None
        self._note_refusals(writer)
        writer.abandon()
        return f"{writer.part_path} holds {len(writer)} samples"

    def _write(self, sample: PairedSample[CameraImage], with_ground_truth: bool) -> None:
        if self.state == FAILED:
            self._refusals.count("recording failed", f"a sample is lost: {self.error}")
        if self.state != RECORDING:
            return
        message, camera = sample.image.message, sample.image.camera
        try:
            encoded, width, height = self._encode(message)
        except LedposeError as error:
            self._refusals.count("unreadable image", str(error))
            return
        if (width, height) != (camera.width, camera.height):
            self._refusals.count(
                "image size differs from CameraInfo",
                f"images are {width}x{height}, the CameraInfo is for {camera.width}x{camera.height}: "
                "calibrate the camera at the size it publishes",
            )
            return
        try:
            if self.free_space_mb < self._settings.min_free_space_mb:
                raise LedposeError(
                    f"the disk has {self.free_space_mb} MB left, min_free_space_mb is "
                    f"{self._settings.min_free_space_mb}: make room and start again"
                )
            if self._writer is None:
                info = self._info(camera, message.header.frame_id)
                self._writer = RecordingWriter(self._new_path(), info, with_ground_truth)
                self._uncommitted = self._segment_bytes = 0
                self._segment_due = time.monotonic() + (self._settings.segment_duration or math.inf)
            elif not _same_camera(self._writer.info, camera):
                self._refusals.count(
                    "camera changed",
                    "image size or calibration changed within a recording: call ~/split to go on",
                )
                return
            self._writer.append(
                encoded,
                sample.image_stamp_ns,
                sample.receive_stamp_ns,
                sample.led_states,
                sample.led_stamp_ns,
                sample.pose if self._writer.with_ground_truth else None,
            )
        except (LedposeError, OSError) as error:
            self._fail(error, self._writer)
            return
        self.samples += 1
        self.led_on_counts += sample.led_states > 0.5
        if self._uncommitted == 0:
            self._commit_due = time.monotonic() + self._settings.flush_period
        self._uncommitted += 1
        self._segment_bytes += len(encoded)
        if self._segment_is_full():
            with contextlib.suppress(LedposeError):  # which is in the state then
                self._finish_file()
        elif self._uncommitted >= self._settings.flush_samples or time.monotonic() >= self._commit_due:
            self._commit()

    def _segment_is_full(self) -> bool:
        limit = self._settings.segment_size_mb or math.inf
        return self._segment_bytes >= limit * 1e6 or time.monotonic() >= self._segment_due

    def _encode(self, message: Any) -> tuple[bytes, int, int]:
        """The picture to store, its width and height; a compressed one of the right kind stays as it is."""
        settings = self._settings
        if hasattr(message, "format") and encoding_of(data := bytes(message.data)) == settings.image_encoding:
            height, width, _ = decode_image(data).shape
            return data, width, height
        rgb = rgb_from_message(message)
        return encode_image(rgb, settings.image_encoding, settings.jpeg_quality), rgb.shape[1], rgb.shape[0]

    def _info(self, camera: Camera, frame: str) -> RecordingInfo:
        return RecordingInfo(
            led_names=self._settings.led_names,
            led_directions=self._settings.led_directions,
            camera_frame=frame,
            K=camera.K,
            D=camera.D,
            distortion_model=camera.distortion_model,
            width=camera.width,
            height=camera.height,
            image_encoding=self._settings.image_encoding,
        )

    def _new_path(self) -> Path:
        if self._settings.file is not None:
            return self._settings.file
        stem = f"ledpose_{datetime.now():%Y%m%d_%H%M%S}"
        number = 1
        while True:
            path = self._settings.output_directory / (f"{stem}.h5" if number == 1 else f"{stem}_{number}.h5")
            if not path.exists() and not part_of(path).exists():
                return path
            number += 1

    def _commit(self) -> None:
        self._uncommitted = 0
        writer = self._writer
        if writer is None or not (self._note_refusals(writer) or writer.committed < len(writer)):
            return
        try:
            writer.commit()
        except LedposeError as error:
            self._fail(error, writer)

    def _note_refusals(self, writer: RecordingWriter) -> bool:
        """Note what was refused since the last file; whether that is news."""
        before, writer.refused = writer.refused, self._refusals.counts - self._refused_before
        return writer.refused != before

    def _fail(self, error: Exception, writer: RecordingWriter | None) -> None:
        """End the recording and save what can be saved."""
        self.state, self.error = FAILED, str(error)
        self._writer, self._uncommitted = None, 0
        if writer is not None:
            self._note_refusals(writer)
            with contextlib.suppress(LedposeError):
                writer.close()
            writer.abandon()
            self._safe_before += writer.committed
            finished = os.path.exists(writer.path)
            self._last_file = (writer.path if finished else writer.part_path), len(writer)


def _same_camera(info: RecordingInfo, camera: Camera) -> bool:
    return (
        (info.width, info.height, info.distortion_model)
        == (camera.width, camera.height, camera.distortion_model)
        and np.array_equal(info.K, camera.K)
        and np.array_equal(info.D, camera.D)
    )
