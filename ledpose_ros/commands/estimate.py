# SPDX-License-Identifier: Apache-2.0
"""Find the peers in a video, pictures, a bag or recordings; no ROS needed.

What is written depends on the name of OUT: a table (.csv, a row a peer), the pictures with the estimates
drawn on them (.mp4), or a bag for RViz and Foxglove (.mcap). Recordings and bags tell their camera; for
videos and pictures it is that of the model's calibration, unless --camera-info or --focal-length says
otherwise.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

import numpy as np

from ledpose_ros.errors import LedposeError
from ledpose_ros.parameters import add_options, check_options, default_of, parameter_of

OFFERED = tuple(
    parameter_of("estimator", name)
    for name in ("min_confidence", "camera_pitch", "camera_roll", "threads", "providers")
)
"""The estimator's parameters that are options here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ledpose estimate`."""
    parser.add_argument(
        "input", nargs="+", type=Path, metavar="INPUT", help="bag, video, folder, recordings, or pictures"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        action="append",
        required=True,
        metavar="OUT",
        help=".csv, .mp4 or .mcap; repeatable",
    )
    parser.add_argument("--model", type=Path, metavar="MODEL", help="ONNX model (the shipped one)")
    parser.add_argument("--camera-info", type=Path, metavar="YAML", help="file of ROS's camera_calibration")
    parser.add_argument("--focal-length", type=float, metavar="PX", help="of the camera, in pixels")
    parser.add_argument(
        "--rectified",
        action="store_true",
        help="the pictures are rectified, as on image_rect: P of the camera counts, not K and D",
    )
    parser.add_argument("--image-topic", metavar="T", help="of a bag, if it has several")
    parser.add_argument("--camera-info-topic", metavar="T", help="of a bag (the one beside the images)")
    add_options(parser, "parameters of the estimator", OFFERED)


def run(args: argparse.Namespace) -> None:
    """Estimate, write, and say what was found."""
    from tqdm import tqdm

    from ledpose_ros.estimator import PeerEstimator, locate
    from ledpose_ros.frames import camera_for, open_source, read_camera
    from ledpose_ros.geometry import camera_tilt, check_focal_length
    from ledpose_ros.model_metadata import shipped_model
    from ledpose_ros.offline import Estimates, open_sinks
    from ledpose_ros.refusals import Refusals
    from ledpose_ros.tracking import PeerTracker

    check_options(args, OFFERED)
    estimator = PeerEstimator(args.model or shipped_model(), args.threads, args.providers)
    calibration = estimator.metadata.calibration
    if calibration is None:
        raise LedposeError(
            f"{estimator.path} is not calibrated, so it has no positions: run `ledpose calibrate` on it"
        )
    if args.camera_info and args.focal_length is not None:
        raise LedposeError("--camera-info tells the focal length already: give it or --focal-length")
    check_focal_length(args.focal_length)
    given = read_camera(args.camera_info, args.rectified) if args.camera_info else None
    tilt = camera_tilt(args.camera_pitch, args.camera_roll)
    source = open_source(args.input, args.image_topic, args.camera_info_topic, args.rectified)
    size = cast(list[float], default_of("estimator", "peer_size"))
    standing = np.concatenate([np.zeros(3), tilt])
    tracker, refusals, pictures, with_peers = PeerTracker(), Refusals(tqdm.write, period=0.0), 0, 0
    is_guessed = False
    with open_sinks(args.output, source.rate, estimator.metadata, size, args.input) as sinks:
        progress = tqdm(source.frames, total=source.count or None, unit="image", disable=None)
        for frame in progress:
            try:
                rgb = frame.decode()
                height, width, _ = rgb.shape
                camera = camera_for(frame, (width, height), given, args.focal_length, calibration)
                seen = estimator.detect(rgb)
                whole = frame.whole_width or width
                peers = locate(seen, calibration, *camera, whole, args.min_confidence, tilt)
            except LedposeError as error:
                refusals.count("unusable", f"{frame.name} is left out: {error}")
                continue
            if frame.camera is None and given is None and args.focal_length is None and not is_guessed:
                is_guessed = True
                tqdm.write(
                    "The pictures do not tell their camera, so it is that of the model's calibration: "
                    "--camera-info or --focal-length tells another."
                )
            tracks = tracker.update(frame.stamp_ns, peers, standing)
            for sink in sinks:
                sink.add(Estimates(frame, rgb, camera, seen, peers, [track.id for track in tracks]))
            pictures += 1
            with_peers += bool(peers)
        left_out = refusals.counts.total()
        if not pictures:
            reasons = "".join(f"; {sentence}" for sentence in refusals.sentences.values())
            raise LedposeError(f"none of the {left_out} pictures in {args.input[0]} could be used{reasons}")
    for path, sink in zip(args.output, sinks, strict=True):
        if sink.left_out:
            print(f"{path} lacks {sink.left_out} pictures, which are of another size than its first.")
    if pictures + left_out < source.count:
        print(
            f"{args.input[0]} should hold {source.count} pictures, but ends after {pictures + left_out}: "
            "it is cut off or damaged."
        )
    print(
        f"Found peers in {with_peers} of {pictures} pictures, {left_out} more could not be used; "
        f"wrote {', '.join(map(str, args.output))}."
    )
