# SPDX-License-Identifier: Apache-2.0
"""Find the time offset between LED states and images.

A trained model tells from the pictures which LEDs are on; the offset at which the states of the LED messages
fit best is what the recorder's parameter led_offset should be. It is that value itself, not a correction of
the one that was used: it leads from the stamps of images to the stamps of LED messages.

SOURCE is an HDF5 recording, or a bag (rosbag2 folder, .mcap or .db3) with images and LED states.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ledpose_ros.errors import LedposeError
from ledpose_ros.paths import check_new

if TYPE_CHECKING:
    from ledpose_ros.estimator import PeerEstimator
    from ledpose_ros.synchronisation import Observations, Synchronisation

BAG_SUFFIXES = (".mcap", ".db3")
CURVE_LINES = 21
BAR_WIDTH = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ledpose sync`."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="recording or bag")
    parser.add_argument("--model", type=Path, metavar="MODEL", help="ONNX model (the shipped one)")
    parser.add_argument(
        "--range",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="offsets from -SECONDS to SECONDS are tried (1)",
    )
    parser.add_argument("--image-topic", metavar="T", help="of a bag; may be left out if there is but one")
    parser.add_argument("--led-topic", metavar="T", help="of a bag; may be left out if there is but one")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the loss against the offset")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> None:
    """Find the offset and print it with its curve."""
    from ledpose_ros.estimator import PeerEstimator
    from ledpose_ros.model_metadata import shipped_model
    from ledpose_ros.synchronisation import synchronise

    if args.plot is not None:
        check_new(args.plot, ".png")
    observations = _observe(PeerEstimator(args.model or shipped_model()), args)
    found = synchronise(observations, args.range)
    print(json.dumps(as_json(found), indent=2) if args.json else as_text(found, observations.looked_at))
    if args.plot:
        from ledpose_ros.plots import loss_against_offset, write_figure

        write_figure(loss_against_offset(found), args.plot)


def _observe(estimator: PeerEstimator, args: argparse.Namespace) -> Observations:
    from ledpose_ros.recording import Recording
    from ledpose_ros.synchronisation import observe_bag, observe_recording

    if args.source.is_dir() or args.source.suffix in BAG_SUFFIXES:
        from ledpose_ros.bags import Bag

        with Bag(args.source) as bag:
            return observe_bag(estimator, bag, args.image_topic, args.led_topic)
    if args.image_topic or args.led_topic:
        raise LedposeError(f"--image-topic and --led-topic are for bags, but {args.source} is none")
    with Recording(args.source) as recording:
        return observe_recording(estimator, recording)


def as_json(found: Synchronisation) -> dict[str, object]:
    """Plain values; times in seconds, losses in nat per LED, None where nothing is known."""
    curve = {
        "offset": found.offsets.round(6).tolist(),
        "loss": [None if np.isnan(loss) else loss for loss in found.losses.tolist()],
    }
    return {
        "led_offset": found.led_offset,
        "standard_error": found.standard_error,
        "fits_from": found.fits_from,
        "fits_to": found.fits_to,
        "loss": found.loss,
        "unrelated_loss": found.unrelated_loss,
        "recorded_loss": found.recorded_loss,
        "sharpness": found.sharpness,
        "images": found.images,
        "curve": curve,
    }


def as_text(found: Synchronisation, looked_at: int) -> str:
    """The curve as bars, the offset with what is to know of it, and what to do."""
    lines = [f"{found.images} of {looked_at} images show a peer.", "offset [s]    loss"]
    scale = BAR_WIDTH / float(np.nanmax(found.losses))
    for index in np.linspace(0, len(found.offsets) - 1, CURVE_LINES).astype(int):
        loss = found.losses[index]
        bar = "not known" if np.isnan(loss) else f"{loss:7.3f} {'#' * round(scale * loss)}"
        lines.append(f"{found.offsets[index]:+10.3f} {bar}")
    lines += [
        f"led_offset {found.led_offset:+.3f} s, standard error {found.standard_error:.3f} s; "
        f"{found.fits_from:+.3f} to {found.fits_to:+.3f} s fit as well.",
        f"The loss there is {found.loss:.3f}, with unrelated LED states {found.unrelated_loss:.3f}: "
        f"a drop of {found.sharpness:.0f} standard errors.",
        f"Set the recorder's parameter led_offset to {found.led_offset:.3f}, whatever it was before.",
    ]
    if found.recording_fits is not None:
        fit = "fit as well" if found.recording_fits else "do not fit: record it again"
        lines.append(f"The LED states in this recording (loss {found.recorded_loss:.3f}) {fit}.")
    return "\n".join(lines)
