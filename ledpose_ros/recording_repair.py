# SPDX-License-Identifier: Apache-2.0
"""Recordings whose file was cut off or torn: which rows are whole, and a copy in which they can be read.

Reads bytes by the HDF5 File Format Specification, version 3.0, where h5py offers no way. Pictures lie in
global heap collections, several small ones in each. A collection that was being extended when writing failed
claims more than there is; HDF5 then refuses, or reads for ever, though the pictures before that are whole.
"""

import os
import shutil
import struct
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from ledpose_ros.errors import LedposeError
from ledpose_ros.recording import DATASETS

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
END_OF_FILE_OFFSETS = {0: 40, 1: 44, 2: 28, 3: 28}
"""Where a superblock of each version tells the length of the file (specification: Superblock)."""
LAST_UNCHECKED_SUPERBLOCK = 1
"""Later versions have a checksum over themselves."""
VLEN_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
"""How a dataset refers to a picture: its length and a global heap ID."""
HEAP_HEADER = struct.Struct("<4sB3xQ")
"""Of a global heap collection: signature, version, size in bytes."""
OBJECT_HEADER = struct.Struct("<HH4xQ")
"""Of an object in it: index, reference count, size of what follows; index 0 is the free rest, with header."""
ROOM = 16 << 20
"""Bytes by which a copy is made longer: a torn collection may claim so much beyond the end of the file."""


def torn_rows(path: Path, size: int, count: int) -> np.ndarray:
    """Which of the first `count` rows have bytes beyond `size` or pictures that are not whole, bool (count,).

    Such rows must not be read: zeros pass for LED states, and HDF5 loops for ever on a torn collection.
    Raises LedposeError for datasets that our writer would have stored in another way.
    """
    torn = np.zeros(count, bool)
    readable = min(path.stat().st_size, _end_of_file(path)[1])
    with h5py.File(path, "r") as file, path.open("rb") as raw:
        for name in DATASETS:
            dataset = file[name]
            plain = dataset.chunks is not None and dataset.chunks[1:] == dataset.shape[1:]
            if not plain or dataset.id.get_create_plist().get_nfilters():
                raise LedposeError(f"the dataset '{name}' is stored in a way that cannot be repaired")
            for first in range(0, count, dataset.chunks[0]):
                rows = slice(first, min(count, first + dataset.chunks[0]))
                torn[rows] |= ~_rows_kept(dataset, first, size, readable, raw)[: rows.stop - first]
    return torn


def mended_copy(path: Path, folder: Path) -> Path:
    """A copy that HDF5 can read: as long as the file says, with an end to every torn collection."""
    size, offset, stored = path.stat().st_size, *_end_of_file(path)
    copy = folder / "mended.h5"
    if stored > size:
        print(f"{path} was cut off after {size} of {stored} bytes")
    try:
        shutil.copyfile(path, copy)
        os.truncate(copy, max(size, stored) + ROOM)
    except OSError as error:
        raise LedposeError(f"cannot make a copy of {path}: {error.strerror}") from error
    if offset is not None:
        with copy.open("r+b") as raw:
            raw.seek(offset)
            raw.write(struct.pack("<Q", max(size, stored) + ROOM))
    try:
        with h5py.File(copy, "r") as file:
            images = file["image"]
            starts = [
                images.id.get_chunk_info(index).byte_offset for index in range(images.id.get_num_chunks())
            ]
            rows = images.chunks[0]
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LedposeError(f"its index of pictures is lost ({error})") from error
    with copy.open("r+b") as raw:
        for start in starts:
            for address in np.unique(_references(raw, start, rows)["address"]).tolist():
                _mend_collection(raw, address, size)
    return copy


def _end_of_file(path: Path) -> tuple[int | None, int]:
    """Where the superblock tells the file's length, None if that is under a checksum; and the length."""
    with path.open("rb") as file:
        head = file.read(64)
    offset = END_OF_FILE_OFFSETS.get(head[8]) if len(head) == 64 and head.startswith(HDF5_SIGNATURE) else None
    if offset is None:
        raise LedposeError("it is no HDF5 file, so it is no recording")
    return offset if head[8] <= LAST_UNCHECKED_SUPERBLOCK else None, struct.unpack_from("<Q", head, offset)[0]


def _references(raw: BinaryIO, start: int, rows: int) -> np.ndarray:
    """The references in the chunk of pictures that begins at this byte; zeros for what is beyond the file."""
    raw.seek(start)
    data = raw.read(rows * VLEN_REFERENCE.itemsize)
    return np.frombuffer(data.ljust(rows * VLEN_REFERENCE.itemsize, b"\0"), VLEN_REFERENCE)


def _rows_kept(dataset: h5py.Dataset, first: int, size: int, readable: int, raw: BinaryIO) -> np.ndarray:
    """For each row of the chunk that begins with row `first`: whether all its bytes lie below `size`.

    HDF5 reads collections as a whole, and none that ends beyond `readable`.
    """
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
        references = _references(raw, chunk.byte_offset, len(rows))
        collections = {
            address: _collection(raw, address, size)
            for address in np.unique(references["address"][kept]).tolist()
        }
        for row in np.flatnonzero(kept):
            length, address, index = references[row].tolist()
            objects, place, end = collections[address]
            kept[row] = objects.get(index, -1) >= length and place == end <= readable
    return kept


def _collection(raw: BinaryIO, address: int, size: int) -> tuple[dict[int, int], int, int]:
    """Size by index of a collection's whole objects, where they end, and where it says that it ends.

    The two ends agree unless it is torn.
    """
    objects: dict[int, int] = {}
    if address >= size:  # of a reference that was overwritten
        return objects, 0, 0
    raw.seek(address)
    head = raw.read(HEAP_HEADER.size)
    if len(head) < HEAP_HEADER.size or not head.startswith(b"GCOL"):
        return objects, 0, 0
    end = address + HEAP_HEADER.unpack(head)[2]
    place = address + HEAP_HEADER.size
    while place + OBJECT_HEADER.size <= min(end, size):
        raw.seek(place)
        index, _, length = OBJECT_HEADER.unpack(raw.read(OBJECT_HEADER.size))
        if index == 0:
            return objects, end if length == end - place else place, end
        following = place + OBJECT_HEADER.size + -(-length // 8) * 8
        if following > min(end, size):
            break
        objects[index] = length
        place = following
    # What is left is smaller than a header, or cut off.
    return objects, end if end - place < OBJECT_HEADER.size else place, end


def _mend_collection(raw: BinaryIO, address: int, size: int) -> None:
    """Declare what follows the whole objects of a torn collection free."""
    _, place, end = _collection(raw, address, size)
    if place < end:
        raw.seek(place)
        raw.write(OBJECT_HEADER.pack(0, 0, end - place))
