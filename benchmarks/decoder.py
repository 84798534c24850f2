# SPDX-License-Identifier: Apache-2.0
"""What the steps from attention to peers are good for: a model with one of them changed, weights as they are.

Each variant is exported with float32, and measured on the accuracy benchmark and on one core.
"""

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from benchmarks.accuracy import TITLES, Bench, row_of, several_peers
from benchmarks.command import benchmark_parser, run_command, two_cores
from benchmarks.precision import medians_ms
from benchmarks.recordings import TEST, some_pictures
from ledpose_ros.estimator import PeerEstimator
from ledpose_ros.evaluation import text_table
from ledpose_ros.learning import network
from ledpose_ros.learning.export import export_onnx, load_onnx
from ledpose_ros.model_metadata import TRAINABLE_MODEL, shipped_model

AS_IT_IS = "as it is"
VARIANTS: dict[str, tuple[str, float] | None] = {
    AS_IT_IS: None,
    "one look": ("LOOKS", 1),
    "three looks": ("LOOKS", 3),
    "glances at half as many places": ("MAX_PEAKS", network.MAX_PEAKS // 2),
    "glances at twice as many places": ("MAX_PEAKS", network.MAX_PEAKS * 2),
    "looks at whatever it glanced at": ("WORTH_A_LOOK", -1.0),
    "fine network glances": None,
}
"""Name -> constant of the network and its other value, if that is what changes."""


def export_variant(model: Path, variant: str, output: Path) -> None:
    """Write a float32 model so that it works as the variant does."""
    peer_network, metadata = load_onnx(model)
    if variant == "fine network glances":
        peer_network.glances = False
    with ExitStack() as changed:
        if (change := VARIANTS[variant]) is not None:
            changed.enter_context(patch.object(network, *change))
        export_onnx(peer_network, metadata, output)


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = benchmark_parser("benchmarks.decoder", __doc__)
    parser.add_argument("--model", type=Path, metavar="MODEL", help="float32 model (the shipped one)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    model = args.model or shipped_model(TRAINABLE_MODEL)
    os.sched_setaffinity(0, [two_cores()[1]])
    pictures = some_pictures(args.data)
    with TemporaryDirectory() as folder, ExitStack() as files:
        bench = Bench(args.data, files)
        estimators = {}
        for number, variant in enumerate(VARIANTS):
            path = Path(folder) / f"{number}.onnx"
            export_variant(model, variant, path)
            estimators[variant] = PeerEstimator(path)
        times = medians_ms(estimators, pictures)
        rows = {
            variant: [
                *row_of(bench.score(bench.predict(estimator, TEST), TEST)),
                *several_peers(estimator, bench),
                times[variant],
                times[variant] / times[AS_IT_IS],
            ]
            for variant, estimator in estimators.items()
        }
    print(text_table([*TITLES, "recall [%]", "precision [%]", "time [ms]", "ratio"], rows))


if __name__ == "__main__":
    sys.exit(run_command(run, make_parser()))
