# SPDX-License-Identifier: Apache-2.0
"""Another robot: a model as it is, and adapted to one half of a recording by LED states alone.

Both are scored on the other half. Training runs differ, so there can be several seeds, the halves can be
exchanged, and parts of the method be left out.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.command import run_command
from benchmarks.parts import PARTS, left_out, part_names
from ledpose_ros import cli
from ledpose_ros.errors import LedposeError
from ledpose_ros.evaluation import Evaluation, evaluate, table
from ledpose_ros.model_metadata import TRAINABLE_MODEL, shipped_model
from ledpose_ros.recording import Recording, RecordingWriter, copy_samples


@dataclass(frozen=True)
class KnownDistance:
    """A picture of the other robot, its range [m], and if known the camera's focal length and where the
    reference point is in the picture, both in pixels."""

    picture: Path
    distance: float
    focal_length: float | None = None
    reference: tuple[float, float] | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> "KnownDistance | None":
        """That of the command's arguments, see `add_options`; LedposeError for a part of one."""
        if (args.calibration is None) != (args.distance is None):
            raise LedposeError("a calibration needs both the --calibration picture and its --distance")
        if args.calibration is None:
            if args.focal_length is not None or args.reference is not None:
                raise LedposeError(
                    "--focal-length and --reference tell of the --calibration picture: give that"
                )
            return None
        reference = None if args.reference is None else tuple(args.reference)
        return cls(args.calibration, args.distance, args.focal_length, reference)


def add_options(parser: "argparse._ArgumentGroup | argparse.ArgumentParser") -> None:
    """What is known of the other robot."""
    parser.add_argument("--calibration", type=Path, metavar="PICTURE", help="of the other robot")
    parser.add_argument("--distance", type=float, metavar="M", help="its range in the picture [m]")
    parser.add_argument("--focal-length", type=float, metavar="PX", help="of the picture's camera, in pixels")
    parser.add_argument(
        "--reference", type=float, nargs=2, metavar=("U", "V"), help="the reference point in the picture [px]"
    )
    parser.add_argument("--level", action="store_true", help="its camera is level, as for `ledpose train`")


def split(recording: Recording, directory: Path, exchanged: bool = False) -> tuple[Path, Path]:
    """Write the first half, without ground truth, to train on, and the second half, with it, to score on.

    Or, `exchanged`, the second half to train on and the first one to score on.
    """
    if not recording.has_ground_truth:
        raise LedposeError(f"{recording.path} has no ground truth to score with")
    if len(recording) < 2:
        raise LedposeError(f"{recording.path} has {len(recording)} samples, two halves need at least 2")
    middle = len(recording) // 2
    halves = [("first", range(middle)), ("second", range(middle, len(recording)))]
    paths = []
    for (half, samples), scored in zip(halves[::-1] if exchanged else halves, (False, True), strict=True):
        paths.append(path := directory / f"{recording.path.stem}_{half}_half.h5")
        for left_over in (path, Path(f"{path}.part")):
            left_over.unlink(missing_ok=True)
        with RecordingWriter(path, recording.info, with_ground_truth=scored) as writer:
            copy_samples(recording, samples, writer)
    return paths[0], paths[1]


def evaluate_calibrated(model: Path, like: Path, half: Path, known: KnownDistance | None) -> Evaluation:
    """The model on a half, calibrated on the picture with what `like` knows; without one it has no scale."""
    with TemporaryDirectory() as folder:
        if known is not None:
            words = ["--image", known.picture, "--distance", known.distance, "--like", like]
            if known.focal_length is not None:
                words += ["--focal-length", known.focal_length]
            if known.reference is not None:
                words += ["--reference", *known.reference]
            calibrated = Path(folder, model.name)
            _ledpose("calibrate", model, *words, "-o", calibrated)
            model = calibrated
        with Recording(half) as recording:
            return evaluate(model, recording)


def evaluate_adapted(
    model: Path, halves: tuple[Path, Path], known: KnownDistance | None, options: Sequence[object] = ()
) -> Evaluation:
    """The model on the second half after `ledpose train` with these options on the first, see `split`."""
    with TemporaryDirectory() as folder:
        run = Path(folder, "run")
        _ledpose("train", halves[0], "-o", run, "--init", model, "--preset", "adapt", *options)
        return evaluate_calibrated(run / "model.onnx", model, halves[1], known)


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.adaptation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "recording", type=Path, metavar="RECORDING", help="of the other robot, with ground truth"
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=shipped_model(TRAINABLE_MODEL),
        metavar="MODEL",
        help="to begin with, of float32 (the shipped one)",
    )
    add_options(parser)
    parser.add_argument(
        "--exchanged", action="store_true", help="train on the second half, score on the first"
    )
    parser.add_argument(
        "--seed", type=int, nargs="+", default=[0], metavar="S", help="of the training, a row each (0)"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="of each training (those of preset adapt)")
    parser.add_argument(
        "--without",
        type=part_names,
        action="append",
        default=[],
        metavar="PART, PART...",
        help=f"more rows of each seed, without these parts; repeatable. Parts: {', '.join(PARTS)}",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Train, measure and print."""
    known = KnownDistance.of(args)
    options: list[object] = ["--level"] if args.level else []
    options += [] if args.steps is None else ["--steps", args.steps]
    with TemporaryDirectory() as folder:
        with Recording(args.recording) as recording:
            halves = split(recording, Path(folder), args.exchanged)
        as_it_is = evaluate_calibrated(args.model, args.model, halves[1], known)
        rows = {"as it is": as_it_is.model}
        for parts in [[], *args.without]:
            for seed in args.seed:
                name = f"adapted, seed {seed}" + (f", without {', '.join(parts)}" if parts else "")
                with left_out(parts):
                    rows[name] = evaluate_adapted(args.model, halves, known, [*options, "--seed", seed]).model
                print(f"{name}: {rows[name]}", flush=True)
    print(table({**rows, "mean predictor": as_it_is.mean}))


def _ledpose(*words: object) -> None:
    status = cli.main([str(word) for word in words])
    if status:
        raise LedposeError(
            f"the benchmark ends here, because 'ledpose {words[0]}' ended with status {status}"
        )


if __name__ == "__main__":
    sys.exit(run_command(run, make_parser()))
