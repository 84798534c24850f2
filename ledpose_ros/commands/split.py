# SPDX-License-Identifier: Apache-2.0
"""Cut a recording into consecutive parts, each a new recording.

Neighbouring pictures look alike: to measure on what was not trained on, cut a recording, never shuffle it.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ledpose_ros.errors import LedposeError
from ledpose_ros.recording import Recording, RecordingWriter, check_new_recording, copy_samples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ledpose split`."""
    parser.add_argument(
        "recording", type=Path, metavar="RECORDING", help="recording to cut; it stays as it is"
    )
    parser.add_argument(
        "-o", "--output", nargs="+", type=Path, required=True, metavar="OUT", help="recordings to write"
    )
    parser.add_argument(
        "--shares", nargs="+", type=float, metavar="X", help="of the samples, one an output, like 8 2 (equal)"
    )


def run(args: argparse.Namespace) -> None:
    """Cut where the shares say."""
    shares = np.array(args.shares or [1.0] * len(args.output))
    if len(shares) != len(args.output) or not (np.isfinite(shares) & (shares > 0)).all():
        raise LedposeError(f"--shares needs {len(args.output)} numbers above 0, one for each output")
    # All of them before one is written.
    for path in args.output:
        check_new_recording(path)
    if len({path.resolve() for path in args.output}) < len(args.output):
        raise LedposeError("the same output is given twice: give each another name")
    with Recording(args.recording) as recording:
        ends = np.round(np.cumsum(shares) / shares.sum() * len(recording)).astype(int)
        begins = [0, *ends[:-1]]
        if (ends == begins).any():
            raise LedposeError(f"{args.recording} has {len(recording)} samples, too few for these shares")
        with tqdm(total=len(recording), unit="image", leave=False, disable=None) as progress:
            for path, begin, end in zip(args.output, begins, ends, strict=True):
                with RecordingWriter(path, recording.info, recording.has_ground_truth) as writer:
                    copy_samples(recording, range(begin, end), writer)
                progress.update(end - begin)
    for path, begin, end in zip(args.output, begins, ends, strict=True):
        print(f"{path} holds {end - begin} samples.")
