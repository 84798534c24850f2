# SPDX-License-Identifier: Apache-2.0
"""Write the samples of several recordings, one after the other, to a new one.

They must be of the same camera and the same LEDs. `ledpose train` takes several recordings as they are, also
of different cameras: nothing has to be merged for it.
"""

import argparse
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ledpose_ros.errors import LedposeError
from ledpose_ros.recording import Recording, RecordingInfo, RecordingWriter, copy_samples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ledpose merge`."""
    parser.add_argument("recordings", nargs="+", type=Path, metavar="RECORDING", help="in their order")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="recording to write")


def run(args: argparse.Namespace) -> None:
    """Merge; ground truth is kept where there is any."""
    with ExitStack() as stack:
        sources = [stack.enter_context(Recording(path)) for path in args.recordings]
        first, *others = sources
        for other in others:
            difference = differing(first.info, other.info)
            if difference:
                raise LedposeError(
                    f"{other.path} has another {difference} than {first.path}: merge recordings of one kind"
                )
        total = sum(map(len, sources))
        with_ground_truth = any(source.has_ground_truth for source in sources)
        with (
            RecordingWriter(args.output, first.info, with_ground_truth) as writer,
            tqdm(total=total, unit="image", leave=False, disable=None) as progress,
        ):
            writer.refused = sum((Counter(source.refused) for source in sources), Counter())
            for source in sources:
                copy_samples(source, range(len(source)), writer)
                progress.update(len(source))
    print(f"{args.output} holds {total} samples of {len(sources)} recordings.")


def differing(one: RecordingInfo, other: RecordingInfo) -> str | None:
    """The name of the first property in which recordings differ."""
    for name in vars(one):
        if not np.array_equal(getattr(one, name), getattr(other, name)):
            return name
    return None
