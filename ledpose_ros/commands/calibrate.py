# SPDX-License-Identifier: Apache-2.0
"""Give a model its scale from pictures in which the peer's distance is known.

The distance is the range from the camera to the peer's reference point. Without --focal-length, pictures and
later use must come from the same camera setting; with it the model may move to another camera. Pictures from
near and far tell how far behind the seen side of the peer its reference point lies; --reference, or a level
camera's --camera-height and a peer straight --ahead, where it is seen. What the pictures do not tell stays as
it was calibrated before, or as it is in the model that this one was trained from (--like). Pictures that
disagree with the others are left out.

With --truth, a recording with ground truth, the uncertainties that the model states become as large as its
errors in that recording are; alone, or after the above.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ledpose_ros.errors import LedposeError
from ledpose_ros.paths import check_new

if TYPE_CHECKING:
    from ledpose_ros.calibration import Picture
    from ledpose_ros.estimator import PeerEstimator
    from ledpose_ros.geometry import Camera

DOUBTFUL, NONSENSE = 0.25, 1.0
"""Residuals [octaves] above which a calibration is warned of, and refused."""


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
        help="range [m], one for each picture or recording",
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
        "--ahead",
        action="store_true",
        help="the peer's reference point is straight ahead of the camera in all pictures",
    )
    parser.add_argument(
        "--recording",
        type=Path,
        action="append",
        default=[],
        help="HDF5 recording taken at one --distance, instead of pictures; repeatable",
    )
    parser.add_argument("--focal-length", type=float, metavar="PX", help="of the pictures' camera, in pixels")
    parser.add_argument(
        "--like", type=Path, metavar="MODEL", help="calibrated model: has what the pictures do not tell"
    )
    parser.add_argument(
        "--truth",
        type=Path,
        metavar="RECORDING",
        help="recording with ground truth to learn uncertainties from",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="calibrated model (default: MODEL itself)"
    )


def run(args: argparse.Namespace) -> None:
    """Calibrate and write the model with its constant."""
    import onnx

    from ledpose_ros.estimator import PeerEstimator
    from ledpose_ros.geometry import check_focal_length
    from ledpose_ros.learning.export import save_model

    output = args.output or args.model
    if output.resolve() != args.model.resolve():
        check_new(output, ".onnx")
    estimator = PeerEstimator(args.model)
    known = args.like, args.focal_length, args.camera_height
    given = any(one is not None for one in known) or args.reference or args.distance or args.ahead
    if args.truth and not (args.image or args.recording) and given:
        raise LedposeError(
            "--truth alone changes uncertainties, not the calibration: add --image or --recording"
        )
    if args.recording and args.focal_length is not None:
        raise LedposeError("recordings tell their camera: --focal-length is for --image")
    check_focal_length(args.focal_length)
    if args.image or args.recording or not args.truth:
        _calibrate(estimator, args)
    if args.truth:
        _learn_uncertainties(estimator, args.truth)
    model = onnx.load(str(args.model))
    onnx.helper.set_model_props(model, estimator.metadata.to_properties())
    save_model(model, output)
    print(f"Wrote {output}.")


def _calibrate(estimator: PeerEstimator, args: argparse.Namespace) -> None:
    """Give the estimator's metadata the calibration that the pictures tell, and print it."""
    from ledpose_ros.calibration import Setup, calibrate
    from ledpose_ros.estimator import PeerEstimator

    if bool(args.recording) == bool(args.image):
        raise LedposeError("give either --image or --recording, each with its --distance (all repeatable)")
    expected = len(args.recording or args.image)
    if len(args.distance) != expected:
        raise LedposeError(
            f"{expected} --distance needed, one for each picture or recording, but {len(args.distance)} given"
        )
    if args.reference and len(args.reference) != len(args.image):
        raise LedposeError(
            f"{len(args.image)} --reference needed, one for each --image, but {len(args.reference)} given"
        )
    known = None
    if args.like is not None:
        known = PeerEstimator(args.like).metadata.calibration
        if known is None:
            raise LedposeError(f"{args.like} is not calibrated: there is nothing to take from it")
    with ExitStack() as files:
        pictures, count, camera = _recorded(args, files) if args.recording else _photographed(args)
        setup = Setup(camera, args.camera_height, args.ahead)
        calibration, outliers = calibrate(estimator, pictures, setup, known)
    told = f"the pictures disagree about the scale by {calibration.residual:.2f} octaves"
    advice = "does each show the peer at its --distance?"
    if calibration.residual > NONSENSE:
        raise LedposeError(f"{told}, which is no calibration: {advice}")
    if calibration.residual > DOUBTFUL:
        print(f"warning: {told}: {advice}")
    estimator.metadata = dataclasses.replace(estimator.metadata, calibration=calibration)
    for outlier in outliers:
        print(
            f"{outlier.name} is left out: it disagrees with the others by {outlier.octaves:+.2f} octaves, "
            f"a factor of {2**outlier.octaves:.2f} in distance."
        )
    skipped = count - calibration.images - calibration.rejected
    if skipped:
        print(f"{skipped} of {count} pictures are left out, because no peer was found in them.")
    print(
        f"c = {calibration.c:.3f} octaves from {calibration.images} picture(s), "
        f"residual {calibration.residual:.3f} octaves "
        f"({100 * (2**calibration.residual - 1):.0f} % of the distance), {calibration.rejected} rejected; "
        f"reference point {calibration.recess:.3f} m behind what is seen, {calibration.offset:+.3f} window "
        f"sides below and {calibration.forward:+.3f} ahead of it."
    )


def _learn_uncertainties(estimator: PeerEstimator, path: Path) -> None:
    """Give the estimator's calibration the factors that make its uncertainties true, and print them."""
    from ledpose_ros.parameters import default_of
    from ledpose_ros.recording import Recording
    from ledpose_ros.uncertainty import COMPONENTS, fit_deviation_scale

    with Recording(path) as recording:
        factors = fit_deviation_scale(
            estimator, recording, cast(float, default_of("estimator", "min_confidence"))
        )
    assert estimator.metadata.calibration is not None
    calibration = dataclasses.replace(estimator.metadata.calibration, deviation_scale=factors)
    estimator.metadata = dataclasses.replace(estimator.metadata, calibration=calibration)
    told = ", ".join(f"{name} {factor:.2f}" for name, factor in zip(COMPONENTS, factors, strict=True))
    print(f"Errors are as large as the network says times: {told}.")


def _photographed(args: argparse.Namespace) -> tuple[Iterable[Picture], int, Camera | None]:
    """The pictures of the --image files, how many, and the camera they were taken with."""
    from ledpose_ros.calibration import Picture
    from ledpose_ros.geometry import pinhole_camera
    from ledpose_ros.images import read_image

    images = [read_image(path) for path in args.image]
    camera = None
    if args.focal_length is not None:
        camera = pinhole_camera(args.focal_length, images[0].shape[1], images[0].shape[0])
    references = args.reference or [None] * len(images)
    return map(Picture, map(str, args.image), images, args.distance, references), len(images), camera


def _recorded(args: argparse.Namespace, files: ExitStack) -> tuple[Iterable[Picture], int, Camera]:
    """The pictures of all recordings, how many, and their camera."""
    from ledpose_ros.calibration import Picture
    from ledpose_ros.geometry import Camera
    from ledpose_ros.recording import Recording

    recordings = [files.enter_context(Recording(path)) for path in args.recording]
    first = recordings[0].info
    for recording in recordings[1:]:
        info = recording.info
        same = [np.array_equal(getattr(info, name), getattr(first, name)) for name in ("K", "D")]
        if not all(same) or info.distortion_model != first.distortion_model:
            raise LedposeError(
                f"{recording.path} and {recordings[0].path} were taken with different cameras: calibrate on "
                "one camera, the model knows what that means for others"
            )
    pictures = (
        Picture(f"sample {index} of {recording.path}", recording.image(index), distance)
        for recording, distance in zip(recordings, args.distance, strict=True)
        for index in range(len(recording))
    )
    camera = Camera(np.asarray(first.K), np.asarray(first.D), first.distortion_model)
    return pictures, sum(map(len, recordings)), camera
