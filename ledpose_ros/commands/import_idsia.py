# SPDX-License-Identifier: Apache-2.0
"""Turn a published dataset of the method's authors into a recording.

FILE is one of the HDF5 files of https://github.com/idsia-robotics/ssl-pretext-multi-led, such as
four_leds_training.h5: real RoboMaster S1 robots with their true poses. Images are read a few at a time,
however large the file is. In the recording the pictures of one robot's camera follow those of another's.
"""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path

COMMIT_PERIOD = 500
"""Samples between two commits."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ledpose import-idsia`."""
    parser.add_argument("file", type=Path, metavar="FILE", help="HDF5 file of the published datasets")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="recording to write")
    parser.add_argument("--camera", metavar="ROBOT", help="only pictures of this one, like RM1 (all)")
    parser.add_argument("--peer", metavar="ROBOT", help="the one in front of it, if there are several")
    parser.add_argument(
        "--leds",
        nargs="+",
        default=("front", "left", "back", "right"),
        metavar="NAME",
        help="front, left, back, right, top_left or top_right (the first four)",
    )
    parser.add_argument("--png", action="store_true", help="keep pictures without loss (JPEG of quality 90)")


def run(args: argparse.Namespace) -> None:
    """Convert and say what came of it."""
    from tqdm import tqdm

    from ledpose_ros.idsia import IdsiaDataset
    from ledpose_ros.images import encode_image
    from ledpose_ros.recording import RecordingWriter

    led_names = tuple(args.leds)
    encoding = "png" if args.png else "jpeg"
    with IdsiaDataset(args.file) as dataset:
        info = dataset.info(led_names, encoding)
        pairs = dataset.pairs(args.camera, args.peer)
        rows = sum(dataset.count(camera) for camera, _ in pairs)
        sources = [dataset.samples(camera, peer, led_names) for camera, peer in pairs]
        known = 0
        with (
            RecordingWriter(args.output, info, with_ground_truth=True) as writer,
            tqdm(chain.from_iterable(sources), total=rows, unit="image", leave=False) as samples,
        ):
            for sample in samples:
                if sample is None:
                    continue
                encoded = encode_image(sample.image, encoding)
                stamp = sample.stamp_ns
                writer.append(encoded, stamp, stamp, sample.led_states, stamp, sample.pose)
                known += sample.pose is not None
                if len(writer) % COMMIT_PERIOD == 0:
                    writer.commit()
        print(f"{args.output} holds {len(writer)} samples, {known} of them with the peer's true pose.")
        for reason, count in dataset.left_out.items():
            print(f"{count} rows are left out: {reason}.")
