# SPDX-License-Identifier: Apache-2.0
"""Verify a recording, and repair a damaged one into a new file.

Every picture is decoded. A file that was cut off, as by a full disk, is first extended in a copy to the
length that it says it had; the samples whose bytes are gone are left out. The file itself is never changed.

Exit status: 0 the recording is whole; 3 samples are lost, or would be by --repair; 1 nothing can be used.
"""

import argparse
import math
import os
import shutil
import struct
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
from tqdm import tqdm

from ledpose_ros.errors import LedposeError
from ledpose_ros.recording import DATASETS, Recording, RecordingWriter, copy_samples

WHOLE, LOSS, NOTHING = 0, 3, 1

# What follows reads bytes by the HDF5 File Format Specification, version 3.0, where h5py offers no way.
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# How a dataset refers to a picture: its length and a global heap ID.
VLEN_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="recording (.h5, or .h5.part of a recorder that died)")
    parser.add_argument("--repair", metavar="OUT", help="write the good samples to a new recording (.h5)")


def run(args: argparse.Namespace) -> int:
    path = Path(args.file)
    if not path.is_file():
        raise LedposeError(f"there is no recording {path}: check its name")
    with ExitStack() as stack:
        cut_off = np.zeros(0, bool)
        try:
            recording = stack.enter_context(Recording(path))
        except LedposeError as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise
            print(f"{path} cannot be opened: {error.__cause__ or error}")
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ledpose_check_"))
            try:
                extended = _extended_copy(path, Path(folder))
                recording = stack.enter_context(Recording(extended))
                cut_off = _rows_beyond(extended, path.stat().st_size, len(recording))
            except LedposeError as second_error:
                print(f"nothing can be used: {second_error.__cause__ or second_error}")
                return NOTHING
        good = _good_samples(recording, np.flatnonzero(cut_off))
        lost = len(recording) - len(good) + recording.uncommitted
        print(f"{path}: {len(good)} of {len(good) + lost} samples are whole")
        if not good:
            print("nothing can be used")
            return NOTHING
        if args.repair:
            _save(recording, good, args.repair)
            print(f"{args.repair} holds {len(good)} samples")
        elif lost or path.suffix == ".part":
            print(f"to save them: ledpose check {path} --repair OUT.h5")
        return LOSS if lost else WHOLE


def _good_samples(recording: Recording, cut_off: np.ndarray) -> list[int]:
    """The samples, but for those cut off, whose pictures can be decoded; tells about the others."""
    good = []
    candidates = np.setdiff1d(np.arange(len(recording)), cut_off).tolist()
    for index in tqdm(candidates, desc="Checking", unit="image", leave=False, disable=None):
        try:
            recording.image(index)
        except LedposeError as error:
            tqdm.write(str(error))
        else:
            good.append(index)
    return good


def _save(recording: Recording, samples: list[int], out: str) -> None:
    with_ground_truth = recording.has_ground_truth
    try:
        recording.ground_truth()
    except LedposeError as error:
        print(f"{error}: it is left out")
        with_ground_truth = False
    with RecordingWriter(out, recording.info, with_ground_truth) as writer:
        writer.refused = recording.refused
        progress = tqdm(samples, desc="Writing", unit="image", leave=False, disable=None)
        copy_samples(recording, progress, writer)


def _extended_copy(path: Path, folder: Path) -> Path:
    """A copy of a file that was cut off, padded with zeros to the length that its superblock tells.

    HDF5 refuses to open a file that is shorter than that, though the data before the cut are as good as ever.
    """
    size, wanted = path.stat().st_size, _stored_length(path)
    if wanted <= size:
        raise LedposeError(f"the file has all of its {size} bytes, its damage is of another kind")
    copy = folder / "extended.h5"
    try:
        shutil.copyfile(path, copy)
        os.truncate(copy, wanted)
    except OSError as error:
        raise LedposeError(f"cannot make a copy of {path}: {error.strerror}") from error
    print(f"{path} was cut off after {size} of {wanted} bytes")
    return copy


def _stored_length(path: Path) -> int:
    """The end-of-file address in an HDF5 superblock (specification: Superblock)."""
    with path.open("rb") as file:
        head = file.read(64)
    offset = (
        {0: 40, 1: 44, 2: 28, 3: 28}.get(head[8])
        if len(head) == 64 and head.startswith(HDF5_SIGNATURE)
        else None
    )
    if offset is None:
        raise LedposeError("it is no HDF5 file, so it is no recording")
    return struct.unpack_from("<Q", head, offset)[0]


def _rows_beyond(path: Path, size: int, count: int) -> np.ndarray:
    """Which of the first `count` rows had bytes beyond `size`, where the copy has but zeros.

    Such rows must not be read: zeros pass for LED states, and HDF5 loops for ever on a heap of pictures that
    is cut in two.
    """
    beyond = np.zeros(count, bool)
    with h5py.File(path, "r") as file, path.open("rb") as raw:
        for name in DATASETS:
            dataset = file[name]
            plain = dataset.chunks is not None and dataset.chunks[1:] == dataset.shape[1:]
            if not plain or dataset.id.get_create_plist().get_nfilters():
                raise LedposeError(f"the dataset '{name}' is stored in a way that cannot be repaired")
            for first in range(0, count, dataset.chunks[0]):
                rows = slice(first, min(count, first + dataset.chunks[0]))
                beyond[rows] |= ~_rows_kept(dataset, first, size, raw)[: rows.stop - first]
    return beyond


def _rows_kept(dataset: h5py.Dataset, first: int, size: int, raw: BinaryIO) -> np.ndarray:
    """For each row of the chunk that begins with row `first`: whether all its bytes lie below `size`."""
    rows = np.arange(dataset.chunks[0])
    try:
        chunk = dataset.id.get_chunk_info_by_coord((first, *(0 for _ in dataset.shape[1:])))
    except (OSError, RuntimeError, ValueError):
        return np.zeros(len(rows), bool)
    if chunk.byte_offset is None:
        return np.zeros(len(rows), bool)
    row_bytes = dataset.id.get_type().get_size() * int(np.prod(dataset.shape[1:], dtype=int))
    kept = rows < (size - chunk.byte_offset) // row_bytes
    if h5py.check_vlen_dtype(dataset.dtype) is not None:
        raw.seek(chunk.byte_offset)
        references = np.frombuffer(raw.read(len(rows) * row_bytes), VLEN_REFERENCE)
        for row in np.flatnonzero(kept):
            kept[row] = _heap_end(raw, int(references["address"][row])) <= size
    return kept


def _heap_end(raw: BinaryIO, address: int) -> float:
    """Where the global heap collection at `address` ends (specification: Global Heap); infinity for none."""
    raw.seek(address)
    head = raw.read(16)
    return address + struct.unpack_from("<Q", head, 8)[0] if head.startswith(b"GCOL") else math.inf
