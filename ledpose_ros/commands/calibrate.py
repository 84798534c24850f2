# SPDX-License-Identifier: Apache-2.0
"""Give a model its scale from pictures in which the peer's distance is known.

The distance is the range from the camera to the peer's reference point. Without --focal-length, pictures and
later use must come from the same camera setting; with it the model may move to another camera. With
--reference, the pixel of the reference point in each picture, image positions are those of that point too;
without it they are where the network settles, near the middle of the LEDs, or as calibrated before. Pictures
that disagree with the others are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

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
        "--reference",
        type=float,
        nargs=2,
        action="append",
        default=[],
        metavar=("U", "V"),
        help="pixel of the peer's reference point, one for each picture or none",
    )
    parser.add_argument(
        "--camera-height",
        type=float,
        metavar="M",
        help="of the level camera above the peer's reference point [m]: tells where that is in the picture",
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

    from ledpose_ros.calibration import Picture, calibrate, pinhole_matrix
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
    if args.reference and len(args.reference) != len(args.image):
        raise LedposeError(
            f"{len(args.image)} --reference needed, one for each --image, but {len(args.reference)} given"
        )
    estimator = PeerEstimator(args.model)
    if args.recording:
        with Recording(args.recording) as recording:
            info = recording.info
            pictures_given = len(recording)

            def samples() -> Iterator[Picture]:
                for index in range(len(recording)):
                    name = f"sample {index} of {args.recording}"
                    yield Picture(name, recording.image(index), args.distance[0])

            calibration, outliers = calibrate(
                estimator, samples(), info.K, info.D, info.distortion_model, args.camera_height
            )
    else:
        pictures_given = len(args.image)
        images = [read_image(path) for path in args.image]
        K = None
        if args.focal_length is not None:
            K = pinhole_matrix(args.focal_length, images[0].shape[1], images[0].shape[0])
        references = args.reference or [None] * len(images)
        pictures = map(Picture, map(str, args.image), images, args.distance, references)
        calibration, outliers = calibrate(estimator, pictures, K, camera_height=args.camera_height)
    model = onnx.load(str(args.model))
    metadata = dataclasses.replace(estimator.metadata, calibration=calibration)
    onnx.helper.set_model_props(model, metadata.to_properties())
    output = args.output or args.model
    for outlier in outliers:
        print(
            f"{outlier.name} is left out: it disagrees with the others by {outlier.octaves:+.2f} octaves, "
            f"a factor of {2**outlier.octaves:.2f} in distance."
        )
    skipped = pictures_given - calibration.images - calibration.rejected
    if skipped:
        print(f"{skipped} of {pictures_given} pictures are left out, because no peer was found in them.")
    save_model(model, output)
    print(
        f"c = {calibration.c:.3f} octaves from {calibration.images} picture(s), "
        f"residual {calibration.residual:.3f} octaves "
        f"({100 * (2**calibration.residual - 1):.0f} % of the distance), {calibration.rejected} rejected; "
        f"reference point {calibration.offset:+.3f} window sides below the network's; wrote {output}."
    )
