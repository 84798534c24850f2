# SPDX-License-Identifier: Apache-2.0
"""Export a training checkpoint to an ONNX model.

`ledpose train` does this itself at its end; export again after an interrupted run or from a copied
checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ledpose export`."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint.pt of a training run")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="MODEL", help="ONNX file to write"
    )


def export_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write the averaged network of a checkpoint as ONNX."""
    from ledpose_ros import __version__
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
        training={"recordings": state["digests"], "steps": state["step"], "seed": state["seed"]},
        software=f"ledpose_ros {__version__}",
    )
    export_onnx(network, metadata, path)


def run(args: argparse.Namespace) -> int:
    """Export the checkpoint."""
    from ledpose_ros.learning.trainer import load_checkpoint

    export_checkpoint(load_checkpoint(args.checkpoint), args.output)
    print(f"Wrote {args.output}.")
    return 0
