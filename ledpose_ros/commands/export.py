# SPDX-License-Identifier: Apache-2.0
"""Export a training checkpoint to an ONNX model, or a model to one of another precision.

`ledpose train` exports by itself at its end; do it again after an interrupted run or from a copied
checkpoint. A model of an earlier version becomes one that works as this version does, with the weights and
the calibration that it had. Models of 8 bits (--precision int8) are faster on processors; they need a
--recording, to see which ranges pictures take. Keep the float32 model: training and other precisions start
from it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ledpose_ros.errors import LedposeError
from ledpose_ros.model_metadata import FLOAT16, FLOAT32, INT8, PRECISIONS
from ledpose_ros.paths import check_new


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ledpose export`."""
    parser.add_argument(
        "source", type=Path, metavar="CHECKPOINT|MODEL", help="checkpoint.pt of a training run, or ONNX model"
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="MODEL", help="ONNX file to write"
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default=FLOAT32, help=f"what the network computes with ({FLOAT32})"
    )
    parser.add_argument(
        "--recording", type=Path, metavar="FILE", help="pictures as the robot will see them, for int8"
    )


def export_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write the averaged network of a checkpoint as ONNX."""
    from ledpose_ros.learning.export import export_onnx
    from ledpose_ros.learning.network import SCALES, STRIDE
    from ledpose_ros.learning.trainer import network_from_checkpoint
    from ledpose_ros.model_metadata import ModelMetadata

    network = network_from_checkpoint(state)
    metadata = ModelMetadata(
        led_names=tuple(state["led_names"]),
        led_directions=tuple(state["led_directions"]),
        scales=SCALES,
        stride=STRIDE,
        input_size=tuple(state["input_size"]),
        calibration=None,
        training={
            "recordings": state["digests"],
            **{name: state[name] for name in ("level", "preset", "step", "seed")},
            "metrics": {name: round(value, 4) for name, value in state["metrics"].items()},
            "before": state["before"],
        },
    )
    export_onnx(network, metadata, path)


def export_float32(source: Path, output: Path) -> None:
    """Write what is in a checkpoint, or in a model, as this version does."""
    if source.suffix == ".onnx":
        from ledpose_ros.learning.export import export_onnx, load_onnx
        from ledpose_ros.learning.network import SCALES, STRIDE
        from ledpose_ros.model_metadata import ModelMetadata

        network, metadata = load_onnx(source)
        writer = ModelMetadata.software
        export_onnx(network, replace(metadata, scales=SCALES, stride=STRIDE, software=writer), output)
    else:
        from ledpose_ros.learning.trainer import load_checkpoint

        export_checkpoint(load_checkpoint(source), output)


def export_precision(model: Path, precision: str, recording: Path | None, output: Path) -> None:
    """Write what a float32 model becomes in another precision."""
    from ledpose_ros.learning.precision import export_float16, export_int8
    from ledpose_ros.recording import Recording

    if precision == FLOAT16:
        export_float16(model, output)
        return
    assert recording is not None
    with Recording(recording) as opened:
        export_int8(model, opened, output)


def run(args: argparse.Namespace) -> int:
    """Export the checkpoint or the model."""
    is_model = args.source.suffix == ".onnx"
    if (args.precision == INT8) != (args.recording is not None):
        raise LedposeError("--precision int8 needs a --recording, and nothing else does")
    check_new(args.output, ".onnx")
    with TemporaryDirectory() as folder:
        model = args.source
        if args.precision == FLOAT32 or not is_model:
            model = args.output if args.precision == FLOAT32 else Path(folder) / "model.onnx"
            export_float32(args.source, model)
        if args.precision != FLOAT32:
            export_precision(model, args.precision, args.recording, args.output)
    print(f"Wrote {args.output}.")
    return 0
