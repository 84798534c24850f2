# SPDX-License-Identifier: Apache-2.0
"""Verify a recording, and repair a damaged one into a new file.

Every picture is decoded, every true pose looked at. A file that was cut off or torn, as by a failing disk, is
first mended in a copy; the samples whose bytes are gone are left out. The file itself is never changed.

Exit status: 0 the recording is whole; 3 samples or poses are lost, or would be by --repair; 1 nothing can be
used.
"""

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ledpose_ros.errors import LedposeError
from ledpose_ros.images import encoding_of
from ledpose_ros.recording import (
    Recording,
    RecordingWriter,
    check_new_recording,
    checked_pose,
    copy_samples,
)
from ledpose_ros.recording_repair import mended_copy, torn_rows

WHOLE, LOSS, NOTHING = 0, 3, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="recording (.h5, or .h5.part of a recorder that died)")
    parser.add_argument("--repair", metavar="OUT", help="write the good samples to a new recording (.h5)")


def run(args: argparse.Namespace) -> int:
    path = Path(args.file)
    if not path.is_file():
        raise LedposeError(f"there is no recording {path}: check its name")
    if args.repair:
        check_new_recording(Path(args.repair))
    with ExitStack() as stack:
        try:
            recording, torn = _opened(path, stack)
        except LedposeError as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise
            print(f"nothing can be used: {error.__cause__ or error}")
            return NOTHING
        good = _good_samples(recording, np.flatnonzero(torn))
        lost = len(recording) - len(good) + recording.uncommitted
        print(f"{path}: {len(good)} of {len(good) + lost} samples are whole")
        no_poses = _no_poses(recording, good)
        if no_poses:
            print(f"the true poses of {len(no_poses)} of them are none: they are left out")
        if not good:
            print("nothing can be used")
            return NOTHING
        if args.repair:
            _save(recording, good, no_poses, args.repair)
            print(f"{args.repair} holds {len(good)} samples")
        elif lost or no_poses or path.suffix == ".part":
            print(f"to save them: ledpose check {path} --repair OUT.h5")
        return LOSS if lost or no_poses else WHOLE


def _opened(path: Path, stack: ExitStack) -> tuple[Recording, np.ndarray]:
    """The recording, or a mended copy of it, and which of its samples are torn, bool (N,)."""
    size = path.stat().st_size
    try:
        recording = stack.enter_context(Recording(path))
        torn = _torn_or_none(path, size, len(recording))
        if not torn.any():
            return recording, torn
        print(f"{path} was torn while it was written")
    except LedposeError as error:
        if isinstance(error.__cause__, BlockingIOError):
            raise
        print(f"{path} cannot be opened: {error.__cause__ or error}")
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ledpose_check_"))
    mended = mended_copy(path, Path(folder))
    recording = stack.enter_context(Recording(mended))
    return recording, torn_rows(mended, size, len(recording))


def _torn_or_none(path: Path, size: int, count: int) -> np.ndarray:
    """The torn rows; none where another program stored the datasets in a way of its own."""
    try:
        return torn_rows(path, size, count)
    except LedposeError:
        return np.zeros(count, bool)


def _good_samples(recording: Recording, torn: np.ndarray) -> list[int]:
    """The samples, but for those torn, whose pictures can be decoded; tells about the others."""
    good, encoding = [], recording.info.image_encoding
    candidates = np.setdiff1d(np.arange(len(recording)), torn).tolist()
    for index in tqdm(candidates, desc="Checking", unit="image", leave=False, disable=None):
        try:
            recording.image(index)
            if encoding_of(recording.encoded_image(index).tobytes()) != encoding:
                raise LedposeError(f"sample {index} of {recording.path} is no {encoding} as the others are")
        except LedposeError as error:
            tqdm.write(str(error))
        else:
            good.append(index)
    return good


def _no_poses(recording: Recording, samples: list[int]) -> set[int]:
    """The samples whose true pose is said to be known, but is no pose."""
    try:
        truth = recording.ground_truth()
    except LedposeError:
        return set()
    if truth is None:
        return set()
    found = set()
    for index in np.intersect1d(samples, np.flatnonzero(truth.valid)).tolist():
        try:
            checked_pose(truth.pose[index])
        except LedposeError as error:
            tqdm.write(f"sample {index} of {recording.path}: {error}")
            found.add(index)
    return found


def _save(recording: Recording, samples: list[int], no_poses: set[int], out: str) -> None:
    with_ground_truth = recording.has_ground_truth
    try:
        recording.ground_truth()
    except LedposeError as error:
        print(f"{error}: it is left out")
        with_ground_truth = False
    with RecordingWriter(out, recording.info, with_ground_truth) as writer:
        writer.refused = recording.refused
        progress = tqdm(samples, desc="Writing", unit="image", leave=False, disable=None)
        copy_samples(recording, progress, writer, no_poses)
