# SPDX-License-Identifier: Apache-2.0
"""Recordings as training data: decoded images in memory and LED states, nothing else.

The ground-truth group of a recording is never opened here.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path

import cv2
import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import check_camera, depth_per_range, pixel_rays, wrap_angle
from ledpose_ros.images import decode_image
from ledpose_ros.learning.network import WINDOW_CELLS
from ledpose_ros.recording import Recording, RecordingInfo

Images = NDArray[np.uint8]

MEMORY_SHARE = 0.6
"""Share of the available memory that pictures and windows may take; more of them are mapped from files."""
CROP_CELLS = 160
"""Side of the crop that is kept of each window, at 64 cells a window: room for displaced, zoomed and turned
ones. A corner of one in twenty widely displaced ones lies beyond it, and is grey."""
SAME_DIRECTION = 1e-3
"""LED directions that differ by less [rad] are the same."""
MIN_DROP = 0.02
"""Sine of the angle below the horizon from which on the floor tells depth: 10 m from a camera 0.2 m high."""
DECODED_AT_ONCE = 256
"""Encoded pictures that are read ahead of those decoded."""


@dataclass(frozen=True)
class Store:
    """Where pixels are kept: in memory or in nameless files, which vanish with the process."""

    in_memory: bool
    directory: Path | None = None
    """Of the files; None is the system's temporary directory."""

    def allocate(self, shape: tuple[int, ...]) -> Images:
        """An empty uint8 array; LedposeError if the disk has no room for it."""
        if self.in_memory:
            return np.empty(shape, np.uint8)
        size = int(np.prod(shape, dtype=np.int64))
        with tempfile.TemporaryFile(dir=self.directory) as file:
            try:
                # Of a file with holes, a full disk would be found out by a signal that ends the process.
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                where = self.directory or tempfile.gettempdir()
                raise LedposeError(
                    f"memory does not hold the pictures, and {where} has no room for {size / 1e9:.1f} GB "
                    f"({error.strerror}): make room, or train on fewer recordings"
                ) from error
            return np.memmap(file, np.uint8, "w+", shape=shape)


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size: uint8 (N, H, W, 3) RGB, and the same at half size."""

    images: Images
    halves: Images


@dataclass(frozen=True)
class TrainingSet:
    """Pictures and LED states of all recordings, ordered by picture size, and what they share.

    A sample's index counts through all pictures; `bounds` are the first index of each size, and the end.
    """

    pictures: tuple[Pictures, ...]
    led_states: NDArray[np.float32]  # (N, K)
    seconds: NDArray[np.float64]  # (N,) image stamps, seconds since the recording's first
    recording: NDArray[np.int64]  # (N,) which recording it is of
    cameras: tuple[RecordingInfo, ...]  # of each recording
    level: bool  # cameras look level and stand, like the peers, on one floor
    led_names: tuple[str, ...]
    led_directions: NDArray[np.float64]
    digests: list[list[str]]  # name and SHA-256 of each recording
    store: Store  # for what is made of the pictures

    def __len__(self) -> int:
        return len(self.led_states)

    @property
    def bounds(self) -> list[int]:
        """First index of each picture size, and the number of samples at last."""
        return [0, *accumulate(len(part.images) for part in self.pictures)]

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height [px] of most pictures."""
        height, width = max(self.pictures, key=lambda part: len(part.images)).images.shape[1:3]
        return width, height

    def brightness(self) -> NDArray[np.float64]:
        """Mean of each picture (N,), 0..255."""
        return np.concatenate([part.halves[:, ::8, ::8].mean((1, 2, 3)) for part in self.pictures])

    def floor_depths(self, uv: NDArray[np.float64]) -> NDArray[np.float64]:
        """Depth (N,) of what is seen at uv (N, 2) [px] on the floor, for level cameras at height 1.

        It is the depth that the apparent size follows. NaN for what lies above the horizon or close below.
        """
        depths = np.full(len(self), np.nan)
        for recording, info in enumerate(self.cameras):
            members = np.flatnonzero(self.recording == recording)
            camera = info.K, info.D, info.distortion_model
            rays = pixel_rays(uv[members], *camera)
            below = rays[:, 1] > MIN_DROP
            depths[members[below]] = depth_per_range(rays[below], *camera) / rays[below, 1]
        return depths

    def same_camera(self) -> list[NDArray[np.int64]]:
        """The samples of each camera: recordings with the same frame and matrix."""
        keys = [(info.camera_frame, tuple(np.ravel(info.K))) for info in self.cameras]
        camera = np.array([keys.index(key) for key in keys])[self.recording]
        return [np.flatnonzero(camera == which) for which in np.unique(camera)]

    def _part_of(self, indices: NDArray[np.int64]) -> tuple[Pictures, NDArray[np.int64]]:
        """The pictures that hold these samples, all of one size, and their places in it."""
        part = int(np.searchsorted(self.bounds, indices[0], side="right")) - 1
        return self.pictures[part], indices - self.bounds[part]

    def states_of(self, indices: NDArray[np.int64], device: torch.device) -> Tensor:
        """LED states (B, K) on the device."""
        return torch.from_numpy(self.led_states[indices]).to(device)

    def halves_of(self, indices: NDArray[np.int64], device: torch.device) -> Tensor:
        """Pictures of one size at half of it (B, H/2, W/2, 3) on the device."""
        part, places = self._part_of(indices)
        return torch.from_numpy(part.halves[places]).to(device)

    def images_of(self, indices: NDArray[np.int64], device: torch.device) -> Tensor:
        """Pictures of one size (B, H, W, 3) on the device."""
        part, places = self._part_of(indices)
        return torch.from_numpy(part.images[places]).to(device)


def load_recordings(
    paths: Sequence[str | Path],
    spill: Path | None = None,
    share: tuple[int, int] = (0, 1),
    level: bool = False,
) -> TrainingSet:
    """Decode the recordings into memory, about 1 MB a picture of 640x360 with all that is made of it.

    If it takes more than MEMORY_SHARE of what is available, all is kept in nameless files in the directory
    `spill` (default: the system's temporary directory), which vanish with the process. `share` (rank, of how
    many) loads only that part of each recording: training on several processes. `level` says that cameras
    look level and stand, like the peers, on one floor. Raises LedposeError when the recordings are
    unreadable, empty, or differ in LED names or directions; picture sizes may differ.
    """
    if not paths:
        raise LedposeError("no recording given: name at least one HDF5 file")
    with ExitStack() as files:
        recordings = {path: files.enter_context(Recording(path)) for path in paths}
        first = recordings[paths[0]].info
        for path, recording in recordings.items():
            _check_fits(path, recording, paths[0], first, level)
        by_size = sorted(recordings, key=lambda path: _size(recordings[path]))
        spans = {path: _share_of(len(recordings[path]), *share) for path in by_size}
        for path, span in spans.items():
            if not len(span):
                raise LedposeError(f"{path} has fewer pictures than there are processes: train with fewer")
        needed = share[1] * sum(len(spans[path]) * _bytes(*_size(recordings[path])) for path in by_size)
        store = Store(needed <= MEMORY_SHARE * psutil.virtual_memory().available, spill)
        pictures = []
        for (width, height), group in groupby(by_size, key=lambda path: _size(recordings[path])):
            members = list(group)
            count = sum(len(spans[path]) for path in members)
            # All of it is allocated at once: joining parts afterwards would need twice the memory.
            part = Pictures(
                store.allocate((count, height, width, 3)),
                store.allocate((count, (height + 1) // 2, (width + 1) // 2, 3)),
            )
            start = 0
            for path in members:
                stop = start + len(spans[path])
                views = Pictures(part.images[start:stop], part.halves[start:stop])
                _decode(recordings[path], spans[path], views, f"Loading {Path(path).name}")
                start = stop
            pictures.append(part)
        stamps = [recordings[path].image_stamps_ns[spans[path]] for path in by_size]
        return TrainingSet(
            tuple(pictures),
            np.concatenate([np.asarray(recordings[p].led_states[spans[p]], np.float32) for p in by_size]),
            np.concatenate([(stamp - stamp[0]) / 1e9 for stamp in stamps]),
            np.repeat(np.arange(len(by_size)), [len(spans[path]) for path in by_size]),
            tuple(recordings[path].info for path in by_size),
            level,
            tuple(first.led_names),
            np.asarray(first.led_directions, float),
            [[Path(path).name, digest(recordings[path])] for path in by_size],
            store,
        )


def digest(recording: Recording) -> str:
    """SHA-256 of what training sees of a recording: camera, stamps, LED states and encoded images."""
    info = recording.info
    camera = json.dumps([info.camera_frame, info.distortion_model, info.K.tolist(), info.D.tolist()])
    summary = hashlib.sha256(camera.encode())
    summary.update(np.ascontiguousarray(recording.image_stamps_ns, dtype="<i8").tobytes())
    summary.update(np.ascontiguousarray(recording.led_states, dtype="<f4").tobytes())
    for index in range(len(recording)):
        summary.update(np.asarray(recording.encoded_image(index)).tobytes())
    return summary.hexdigest()


def _size(recording: Recording) -> tuple[int, int]:
    return recording.info.width, recording.info.height


def _share_of(count: int, rank: int, ranks: int) -> NDArray[np.int64]:
    """The samples of this process: a stretch, so that neighbours in time stay together."""
    return np.arange(count * rank // ranks, count * (rank + 1) // ranks)


def _bytes(width: int, height: int) -> int:
    """What a picture takes: itself, its half, and the crops of two windows."""
    return 3 * (width * height * 5 // 4 + CROP_CELLS**2 + WINDOW_CELLS**2)


def _check_fits(
    path: str | Path, recording: Recording, first_path: str | Path, first: RecordingInfo, level: bool
) -> None:
    """Raise LedposeError for a recording that is empty or cannot be trained on together with the first."""
    info = recording.info
    if tuple(info.led_names) != tuple(first.led_names):
        raise LedposeError(
            f"{path} has the LEDs {', '.join(info.led_names)}, "
            f"{first_path} has {', '.join(first.led_names)}: train on recordings with the same LED names"
        )
    turned = wrap_angle(np.array(info.led_directions) - np.array(first.led_directions))
    if np.abs(turned).max() > SAME_DIRECTION:
        raise LedposeError(
            f"{path} has other LED directions than {first_path}: correct the recorder's led_directions"
        )
    if not len(recording):
        raise LedposeError(f"{path} holds no sample: record again, and watch the recorder's status")
    if level:
        try:
            check_camera(info.K, info.D, info.distortion_model)
        except LedposeError as error:
            raise LedposeError(f"{path} cannot be used as that of a level camera: {error}") from error


def _decode(recording: Recording, samples: NDArray[np.int64], pictures: Pictures, what: str) -> None:
    """Fill `pictures` with these samples of a recording; LedposeError names the one that is unusable."""
    size = pictures.halves.shape[2:0:-1]

    def decode(place: int, data: NDArray[np.uint8]) -> None:
        try:
            image = decode_image(data)
        except LedposeError as error:
            raise LedposeError(f"{recording.path}, sample {samples[place]}: {error}") from error
        height, width, _ = image.shape
        if image.shape != pictures.images.shape[1:]:
            raise LedposeError(
                f"{recording.path}, sample {samples[place]} is {width}x{height}, but its file tells another "
                "size: record each size into a file of its own"
            )
        pictures.images[place] = image
        # Halved once here rather than at every step: the coarse network never sees the full size. An odd last
        # row or column is kept, as by `halve`.
        even = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        pictures.halves[place] = cv2.resize(even, size, interpolation=cv2.INTER_AREA)

    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=len(samples), desc=what, unit="image", leave=False) as progress,
    ):
        # HDF5 is read by this thread; decoding releases the GIL. A stretch at a time, for a pool would queue
        # the whole encoded recording.
        for start in range(0, len(samples), DECODED_AT_ONCE):
            places = range(start, min(start + DECODED_AT_ONCE, len(samples)))
            encoded = [recording.encoded_image(int(samples[place])) for place in places]
            for _ in pool.map(decode, places, encoded):
                progress.update()


def batch_indices(
    pool: NDArray[np.int64], bounds: Sequence[int], batch_size: int, seed: int, step: int
) -> NDArray[np.int64]:
    """The samples (B,) of one step out of a sorted pool: an epoch goes through all of them, in a new order.

    Each batch lies between two neighbouring `bounds`: its pictures are of one size. A picture alone comes
    twice: batch normalisation cannot learn from one.
    """
    parts = [part for part in np.split(pool, np.searchsorted(pool, bounds)) if len(part)]
    sizes = [min(batch_size, len(part)) for part in parts]
    counts = [len(part) // size for part, size in zip(parts, sizes, strict=True)]
    epoch, place = divmod(step, sum(counts))
    random = np.random.default_rng((seed, epoch))
    batches = [
        part[random.permutation(len(part))[: count * size].reshape(count, size)]
        for part, size, count in zip(parts, sizes, counts, strict=True)
    ]
    rows = [row if len(row) > 1 else row.repeat(2) for part in batches for row in part]
    return rows[random.permutation(len(rows))[place]]
