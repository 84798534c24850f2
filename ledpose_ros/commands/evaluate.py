# SPDX-License-Identifier: Apache-2.0
"""Score a model on a recording with ground truth, beside the mean predictor."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ledpose evaluate`."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="ONNX model")
    parser.add_argument("recording", type=Path, metavar="RECORDING", help="HDF5 recording with ground truth")
    parser.add_argument(
        "--json", action="store_true", help="print the model's row as JSON, null for what is unknown"
    )
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write PNG plots there")


def run(args: argparse.Namespace) -> None:
    """Evaluate and print."""
    from ledpose_ros.evaluation import evaluate, table
    from ledpose_ros.recording import Recording

    if args.plots:
        from ledpose_ros.plots import check_plots, write_plots

        check_plots(args.plots)
    with Recording(args.recording) as recording:
        evaluation = evaluate(args.model, recording)
        if args.json:
            row = evaluation.model.as_dict()
            print(json.dumps({key: value if math.isfinite(value) else None for key, value in row.items()}))
        else:
            print(table({args.model.name: evaluation.model, "mean predictor": evaluation.mean}))
            if evaluation.absent:
                print(
                    f"Presence: ROC area {evaluation.presence:.3g} % of the confidence, {evaluation.model.n} "
                    f"images with a visible peer against {evaluation.absent} with none on record."
                )
            if math.isnan(evaluation.model.E_d):
                print("The model is not calibrated, so it has no distances: run `ledpose calibrate` on it.")
        if args.plots:
            for path in write_plots(evaluation, recording, args.plots):
                if not args.json:
                    print(f"Wrote {path}.")
