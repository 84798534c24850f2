# SPDX-License-Identifier: Apache-2.0
"""Turn a bag with images and LED states into a recording.

BAG is a rosbag2 folder, .mcap or .db3 file. Its messages go through the same pairing as in the recorder, with
the same parameters; what is refused is counted and explained. A topic may be left out where only one has a
fitting type.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ledpose_ros.errors import LedposeError
from ledpose_ros.parameters import NODE_PARAMETERS, add_options, check_options

OFFERED = tuple(
    parameter
    for parameter in NODE_PARAMETERS["recorder"]
    if parameter.name
    in (
        "led_names",
        "led_directions",
        "led_sources",
        "led_offset",
        "led_guard",
        "led_max_age",
        "image_encoding",
        "jpeg_quality",
        "min_free_space_mb",
    )
)
"""The recorder's parameters that are options here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ledpose import-bag`."""
    parser.add_argument("bag", type=Path, metavar="BAG", help="rosbag2 folder, .mcap or .db3 file")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="recording to write")
    parser.add_argument("--image-topic", metavar="T", help="Image or CompressedImage")
    parser.add_argument("--led-topic", metavar="T", help="JointState: the peer's LEDs")
    parser.add_argument("--camera-info-topic", metavar="T", help="CameraInfo of the images")
    parser.add_argument("--ground-truth-topic", metavar="T", help="PoseStamped of the peer (no ground truth)")
    add_options(parser, "parameters of the recorder", OFFERED)


def run(args: argparse.Namespace) -> None:
    """Convert, and say what came of it."""
    from tqdm import tqdm

    from ledpose_ros.bag_import import BagTopics, import_bag
    from ledpose_ros.bags import Bag
    from ledpose_ros.led_sources import read_led_sources
    from ledpose_ros.leds import check_leds

    parameters = argparse.Namespace(**{p.name: p.default for p in NODE_PARAMETERS["recorder"]})
    check_options(args, OFFERED)
    for parameter in OFFERED:
        setattr(parameters, parameter.name, getattr(args, parameter.name))
    check_leds(parameters.led_names, parameters.led_directions)
    leds = args.led_topic
    if parameters.led_sources:
        if leds is not None:
            raise LedposeError("--led-topic is for a JointState, --led-sources names its topics itself")
        leds = read_led_sources(parameters.led_sources, parameters.led_names)
    start = time.perf_counter()
    with Bag(args.bag) as bag:
        topics = BagTopics.chosen(
            bag, args.image_topic, leds, args.camera_info_topic, args.ground_truth_topic
        )
        with tqdm(total=bag.count(topics.image), desc="Importing", unit="image", leave=False) as progress:
            found = import_bag(bag, topics, args.output, parameters, progress.update)
    for reason, count in found.refusals.counts.most_common():
        print(f"{count} refused: {reason}, as {found.refusals.sentences[reason]}")
    if not found.samples:
        raise LedposeError(f"none of the {found.images} images of {args.bag} could be used, see above")
    ratio = found.seconds / (time.perf_counter() - start)
    print(
        f"{args.output} holds {found.samples} samples of {found.images} images; "
        f"{found.seconds:.0f} s were imported {ratio:.3g} times faster than they had been recorded."
    )
