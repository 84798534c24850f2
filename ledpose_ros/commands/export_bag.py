# SPDX-License-Identifier: Apache-2.0
"""Write a recording as a bag, to replay it in RViz or Foxglove.

The bag (MCAP) has the topics image/compressed, camera_info, led_states and, where it is known, ground_truth,
at the times at which the images were received.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from ledpose_ros.recording import Recording


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ledpose export-bag`."""
    parser.add_argument("recording", type=Path, metavar="RECORDING")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="BAG", help="folder of the new bag"
    )
    parser.add_argument("--namespace", default="", metavar="NS", help="in front of the topics' names (none)")


def run(args: argparse.Namespace) -> None:
    """Write the bag."""
    from ledpose_ros.bag_export import export_bag

    with Recording(args.recording) as recording:
        indices = export_bag(recording, args.output, args.namespace)
        for _ in tqdm(indices, total=len(recording), unit="image", leave=False, disable=None):
            pass
        print(f"{args.output} holds {len(recording)} images.")
