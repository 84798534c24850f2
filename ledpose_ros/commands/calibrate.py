# SPDX-License-Identifier: Apache-2.0
"""Give a model its scale from pictures in which the peer's distance is known.

The distance is the range from the camera to the peer's reference point. Without --focal-length, pictures and
later use must come from the same camera setting; with it the model may move to another camera.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ledpose_ros.errors import LedposeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ledpose calibrate`."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="ONNX model")
    parser.add_argument(
        "--image", type=Path, action="append", default=[], metavar="PICTURE", help="repeatable"
    )
    parser.add_argument(
        "--distance",
        type=float,
        action="append",
        default=[],
        metavar="M",
        help="range [m], one for each picture",
    )
    parser.add_argument(
        "--recording", type=Path, help="HDF5 recording taken at one --distance, instead of pictures"
    )
    parser.add_argument("--focal-length", type=float, metavar="PX", help="of the pictures' camera, in pixels")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="calibrated model (default: MODEL itself)"
    )


def run(args: argparse.Namespace) -> None:
    """Calibrate and write the model with its constant."""
    import onnx

    from ledpose_ros.calibration import calibrate, pinhole_matrix
    from ledpose_ros.estimator import PeerEstimator
    from ledpose_ros.images import read_image
    from ledpose_ros.learning.export import save_model
    from ledpose_ros.recording import Recording

    if bool(args.recording) == bool(args.image):
        raise LedposeError(
            "give either --image and --distance (repeatable), or --recording and one --distance"
        )
    expected = 1 if args.recording else len(args.image)
    if len(args.distance) != expected:
        raise LedposeError(
            f"{expected} --distance needed, one for each picture, but {len(args.distance)} given"
        )
    estimator = PeerEstimator(args.model)
    if args.recording:
        with Recording(args.recording) as recording:
            info = recording.info
            pictures_given = len(recording)

            def samples() -> Iterator[tuple[str, NDArray[np.uint8], float]]:
                for index in range(len(recording)):
                    yield f"sample {index} of {args.recording}", recording.image(index), args.distance[0]

            calibration = calibrate(estimator, samples(), info.K, info.D, info.distortion_model)
    else:
        pictures_given = len(args.image)
        images = [read_image(path) for path in args.image]
        K = None
        if args.focal_length is not None:
            K = pinhole_matrix(args.focal_length, images[0].shape[1], images[0].shape[0])
        pictures = zip([str(path) for path in args.image], images, args.distance, strict=True)
        calibration = calibrate(estimator, pictures, K)
    model = onnx.load(str(args.model))
    metadata = dataclasses.replace(estimator.metadata, calibration=calibration)
    onnx.helper.set_model_props(model, metadata.to_properties())
    output = args.output or args.model
    skipped = pictures_given - calibration.images
    if skipped:
        print(f"{skipped} of {pictures_given} pictures are left out, because no peer was found in them.")
    save_model(model, output)
    print(
        f"c = {calibration.c:.3f} octaves from {calibration.images} picture(s), "
        f"residual {calibration.residual:.3f} octaves "
        f"({100 * (2**calibration.residual - 1):.0f} % of the distance); wrote {output}."
    )
