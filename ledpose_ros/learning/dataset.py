# SPDX-License-Identifier: Apache-2.0
"""Recordings as training data: decoded images in memory and LED states, nothing else.

The ground-truth group of a recording is never opened here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ledpose_ros.errors import LedposeError
from ledpose_ros.images import decode_image
from ledpose_ros.recording import Recording, RecordingInfo

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class TrainingSet:
    """Images uint8 (N, H, W, 3) RGB, the same at half size, LED states float32 (N, K) and what all share."""

    images: Images
    halves: Images
    led_states: NDArray[np.float32]
    led_names: tuple[str, ...]
    led_directions: NDArray[np.float64]
    digests: dict[str, str]

    def __len__(self) -> int:
        return len(self.images)

    def halves_of(self, indices: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        """Pictures at half size (B, H/2, W/2, 3) and states (B, K) on the device."""
        return (
            torch.from_numpy(self.halves[indices]).to(device),
            torch.from_numpy(self.led_states[indices]).to(device),
        )

    def batch(self, indices: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, H, W, 3), halves (B, H/2, W/2, 3) and states (B, K) on the device."""
        return torch.from_numpy(self.images[indices]).to(device), *self.halves_of(indices, device)


def digest(recording: Recording) -> str:
    """SHA-256 of what training sees of a recording: encoded images and LED states."""
    summary = hashlib.sha256(np.ascontiguousarray(recording.led_states, dtype="<f4").tobytes())
    for index in range(len(recording)):
        summary.update(np.asarray(recording.encoded_image(index)).tobytes())
    return summary.hexdigest()


def load_recordings(paths: Sequence[str | Path]) -> TrainingSet:
    """Decode the recordings into memory, about 0.9 MB a picture of 640x360.

    Raises LedposeError when they are unreadable, empty, or differ in LED names, directions or image size.
    """
    if not paths:
        raise LedposeError("no recording given: name at least one HDF5 file")
    with ExitStack() as files:
        recordings = {path: files.enter_context(Recording(path)) for path in paths}
        first = recordings[paths[0]].info
        for path, recording in recordings.items():
            _check_fits(path, recording, paths[0], first)
        counts = [len(recording) for recording in recordings.values()]
        # All of it is allocated at once: joining parts afterwards would need twice the memory.
        images = np.empty((sum(counts), first.height, first.width, 3), np.uint8)
        halves = np.empty((sum(counts), (first.height + 1) // 2, (first.width + 1) // 2, 3), np.uint8)
        start = 0
        for (path, recording), count in zip(recordings.items(), counts, strict=True):
            part = slice(start, start + count)
            _decode(recording, images[part], halves[part], f"Loading {Path(path).name}")
            start += count
        return TrainingSet(
            images,
            halves,
            np.concatenate([np.asarray(r.led_states, np.float32) for r in recordings.values()]),
            tuple(first.led_names),
            np.asarray(first.led_directions, float),
            {Path(path).name: digest(recording) for path, recording in recordings.items()},
        )


def _check_fits(path: str | Path, recording: Recording, first_path: str | Path, first: RecordingInfo) -> None:
    """Raise LedposeError for a recording that is empty or cannot be trained on together with the first."""
    info = recording.info
    if tuple(info.led_names) != tuple(first.led_names):
        raise LedposeError(
            f"{path} has the LEDs {', '.join(info.led_names)}, "
            f"{first_path} has {', '.join(first.led_names)}: train on recordings with the same LED names"
        )
    if not np.allclose(info.led_directions, first.led_directions, atol=1e-3):
        raise LedposeError(
            f"{path} has other LED directions than {first_path}: correct the recorder's led_directions"
        )
    if (info.width, info.height) != (first.width, first.height):
        raise LedposeError(
            f"{path} has images of {info.width}x{info.height}, "
            f"{first_path} of {first.width}x{first.height}: train on recordings of one image size"
        )
    if not len(recording):
        raise LedposeError(f"{path} holds no sample: record again, and watch the recorder's status")


def _decode(recording: Recording, images: Images, halves: Images, what: str) -> None:
    """Fill images and halves with the pictures of a recording."""

    def decode(item: tuple[int, NDArray[np.uint8]]) -> None:
        index, data = item
        images[index] = decode_image(data)
        # Halved once here rather than at every step: the coarse network never sees the full size.
        halves[index] = cv2.resize(images[index], halves.shape[2:0:-1], interpolation=cv2.INTER_AREA)

    count = len(recording)
    encoded = (recording.encoded_image(index) for index in range(count))
    # HDF5 is read by this thread; decoding releases the GIL.
    with ThreadPoolExecutor() as pool, tqdm(total=count, desc=what, unit="image", leave=False) as progress:
        for _ in pool.map(decode, enumerate(encoded)):
            progress.update()


def batch_indices(count: int, batch_size: int, seed: int, step: int) -> NDArray[np.int64]:
    """The samples of one step: each epoch goes through all of them, in a new order."""
    batch_size = min(batch_size, count)
    epoch, place = divmod(step, count // batch_size)
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return order[place * batch_size : (place + 1) * batch_size]
