# SPDX-License-Identifier: Apache-2.0
"""Train a model from recordings, by LED states alone.

The recordings are checked first, as by `ledpose inspect`: warnings are printed, errors end the command.
Leaves DIR/model.onnx (not calibrated yet: see `ledpose calibrate`), DIR/report.html, which tells how it went,
DIR/checkpoint.pt and DIR/log for TensorBoard.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ledpose_ros.errors import INTERRUPTED, LedposeError
from ledpose_ros.geometry import wrap_angle
from ledpose_ros.model_metadata import ModelMetadata
from ledpose_ros.paths import check_folder
from ledpose_ros.recording import Recording, RecordingInfo

LED_DIRECTION_TOLERANCE = np.pi / 4
"""[rad] Training adapts to LEDs that look a little elsewhere than the model's, not to other sides."""
FURTHER = ("tune", "adapt", "glance")
"""Presets that make a model better, and nothing of random weights."""
MODEL_NAME = "model.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ledpose train`."""
    parser.add_argument("recordings", nargs="+", type=Path, metavar="RECORDING", help="HDF5 recording")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="DIR", help="directory of the run"
    )
    parser.add_argument(
        "--init", type=Path, metavar="MODEL", help="start from the weights of this ONNX model"
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="cpu (from nothing, the default), full (from nothing, on a GPU), tune (further, on many "
        "recordings), adapt (a model to a new robot or place, the default with --init), glance (only the "
        "network for glances)",
    )
    parser.add_argument(
        "--level",
        action="store_true",
        help="cameras look level, higher than the LEDs, and stand, like the peers, on one flat floor: sizes "
        "follow from the height in the picture, which makes distances much more accurate",
    )
    parser.add_argument("--steps", type=int, help="optimiser steps (default: the preset's)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of weights, batches and augmentation (default 0)"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--resume", action="store_true", help="continue the run in DIR")


def check_recordings(paths: Sequence[Path], from_nothing: bool) -> None:
    """Print what makes training on these recordings harder; LedposeError for what makes it impossible."""
    from ledpose_ros.recording_check import findings

    with ExitStack() as files:
        found = findings([files.enter_context(Recording(path)) for path in paths], from_nothing)
    errors = [finding.sentence for finding in found if finding.severity == "error"]
    for finding in found:
        if finding.severity == "warning":
            print(finding)
    if errors:
        raise LedposeError(f"nothing can be learned from this: {'; '.join(errors)}")


def check_same_leds(model: Path, metadata: ModelMetadata, info: RecordingInfo) -> None:
    """LedposeError where a model and recordings have other LEDs, or LEDs that look elsewhere."""
    known, recorded = tuple(metadata.led_names), tuple(info.led_names)
    if sorted(known) == sorted(recorded) and known != recorded:
        raise LedposeError(
            f"{model} has the LEDs in the order {', '.join(known)}, the recordings in the order "
            f"{', '.join(recorded)}: record in that of the model, or train without --init"
        )
    if known != recorded:
        raise LedposeError(
            f"{model} knows the LEDs {', '.join(known)}, the recordings have "
            f"{', '.join(recorded)}: rename the LEDs or train without --init"
        )
    elsewhere = np.abs(wrap_angle(np.array(info.led_directions) - np.array(metadata.led_directions)))
    if elsewhere.max() > LED_DIRECTION_TOLERANCE:
        led = int(elsewhere.argmax())
        before, now = np.degrees([metadata.led_directions[led], info.led_directions[led]])
        raise LedposeError(
            f"the LED {recorded[led]} looks to {before:.0f} degrees in {model}, to {now:.0f} in the "
            "recordings: correct the recorder's led_directions or train without --init"
        )


def run(args: argparse.Namespace) -> int:
    """Check the recordings, train, export the averaged weights and report."""
    # Read when torch is loaded. Threads that wait by spinning take the core from those that they wait for as
    # soon as there is another program.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ledpose_ros.commands.export import export_checkpoint
    from ledpose_ros.learning.dataset import load_recordings
    from ledpose_ros.learning.distributed import processes
    from ledpose_ros.learning.export import load_onnx
    from ledpose_ros.learning.report import REPORT_NAME, write_report
    from ledpose_ros.learning.trainer import (
        CHECKPOINT_NAME,
        LEAST_GLANCES,
        PRESETS,
        Trainer,
        load_checkpoint,
    )

    name = args.preset or ("adapt" if args.init else "cpu")
    if name not in PRESETS:
        raise LedposeError(f"there is no preset {name}: choose one of {', '.join(PRESETS)}")
    if name in FURTHER and not (args.init or args.resume):
        raise LedposeError(f"preset {name} goes on from a model: add --init MODEL, or train by preset cpu")
    preset = PRESETS[name]
    if args.steps is not None:
        if args.steps < 1:
            raise LedposeError(f"--steps {args.steps}: at least 1 is needed")
        preset = preset.scaled(args.steps)
    if not 0 <= args.seed < 2**63:
        raise LedposeError(f"--seed {args.seed}: from 0 on, below 2^63, is needed")
    check_folder(args.output)
    checkpoint = args.output / CHECKPOINT_NAME
    if checkpoint.exists() and not args.resume:
        raise LedposeError(
            f"{checkpoint} exists: add --resume to continue that run or choose another directory"
        )
    if args.resume and not checkpoint.exists():
        raise LedposeError(f"{checkpoint} does not exist: there is nothing to resume, start without --resume")
    # Said, if it cannot be read, before all recordings are decoded.
    adapting = load_checkpoint(checkpoint)["adapting"] if args.resume else args.init is not None
    model, report = args.output / MODEL_NAME, args.output / REPORT_NAME
    with processes(args.device) as (group, device):
        if group.first:
            check_recordings(args.recordings, from_nothing=not adapting)
        args.output.mkdir(parents=True, exist_ok=True)
        # Refused, if so, before all recordings are decoded.
        initial, metadata = load_onnx(args.init) if args.init else (None, None)
        if metadata is not None:
            with Recording(args.recordings[0]) as first:
                check_same_leds(args.init, metadata, first.info)
        in_vain = not preset.labelled_steps and preset.steps < LEAST_GLANCES
        if in_vain and initial is not None and not initial.glances:
            raise LedposeError(
                f"--steps {preset.steps}: the network for glances needs {LEAST_GLANCES}, "
                f"since {args.init} has none"
            )
        data = load_recordings(args.recordings, args.output, (group.rank, group.count), args.level)
        trainer = Trainer(
            data,
            args.output,
            preset,
            seed=args.seed,
            device=device,
            initial=initial,
            before=None if metadata is None else metadata.training,
            processes=group,
        )
        if args.resume:
            trainer.resume()
        # The model may have been calibrated since.
        exported = trainer.step == preset.steps and _is_of_step(preset.steps, model)
        if exported and report.exists():
            raise LedposeError(f"all {preset.steps} steps are done already: start a new directory")
        images = sum(group.gather(len(data)))
        if group.first:
            print(f"Training on {images} images, preset {name}.")
            if not trainer.will_glance:
                print(
                    f"{preset.steps - preset.labelled_steps} steps are too few for the network for glances, "
                    f"which needs {LEAST_GLANCES}: the fine network will glance, and take longer."
                )
        finished = trainer.run()
        if not group.first:
            return 0
    if not finished:
        print(f"Stopped at step {trainer.step} of {preset.steps}; continue with --resume.")
    if not exported:
        report.unlink(missing_ok=True)  # so that none is of another model
        export_checkpoint(load_checkpoint(checkpoint), model)
        print(f"Wrote {model}. It has no scale yet: run `ledpose calibrate` on a picture of known distance.")
    written = write_report(args.output, model, args.recordings)
    print(f"Wrote {written.path}, which tells how it went.")
    for warning in written.warnings:
        print(warning)
    return 0 if finished else INTERRUPTED


def _is_of_step(step: int, model: Path) -> bool:
    """Whether there is such a model that can be read."""
    from ledpose_ros.estimator import PeerEstimator

    try:
        return PeerEstimator(model).metadata.training.get("step") == step
    except LedposeError:
        return False
