# SPDX-License-Identifier: Apache-2.0
"""What a model loses and gains with fewer bits: accuracy beside time, as float32, float16 and int8.

Pictures and scores are those of `benchmarks.accuracy`; times are of the bare network on one thread.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.accuracy import TITLES, Bench, row_of, several_peers
from benchmarks.command import benchmark_parser, run_command, two_cores
from benchmarks.latency import SIZES, resized
from benchmarks.recordings import TEST, some_pictures
from ledpose_ros.commands.export import export_precision
from ledpose_ros.estimator import PeerEstimator
from ledpose_ros.evaluation import text_table
from ledpose_ros.model_metadata import FLOAT32, PRECISIONS, TRAINABLE_MODEL, shipped_model

REPEAT = 100


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = benchmark_parser("benchmarks.precision", __doc__)
    parser.add_argument("recording", type=Path, metavar="RECORDING", help="of whose ranges int8 is made")
    parser.add_argument("--model", type=Path, metavar="MODEL", help="float32 model (the shipped one)")
    return parser


def medians_ms(estimators: Mapping[str, PeerEstimator], pictures: Sequence[np.ndarray]) -> dict[str, float]:
    """Median time of each network [ms], all of them in turn: what slows the machine down slows all."""
    times: dict[str, list[float]] = {name: [] for name in estimators}
    for index in range(REPEAT):
        for name, estimator in estimators.items():
            start = time.perf_counter()
            estimator.run(pictures[index % len(pictures)])
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(of_one)) for name, of_one in times.items()}


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    exact = args.model or shipped_model(TRAINABLE_MODEL)
    os.sched_setaffinity(0, [two_cores()[1]])
    sized = {f"{w}x{h} [ms]": resized(some_pictures(args.data), (w, h)) for w, h in SIZES}
    with TemporaryDirectory() as folder, ExitStack() as files:
        bench = Bench(args.data, files)
        paths = {precision: Path(folder) / f"{precision}.onnx" for precision in PRECISIONS} | {FLOAT32: exact}
        for precision in set(PRECISIONS) - {FLOAT32}:
            export_precision(exact, precision, args.recording, paths[precision])
        estimators = {precision: PeerEstimator(path) for precision, path in paths.items()}
        costs = {precision: [path.stat().st_size / 1e6] for precision, path in paths.items()}
        for pictures in sized.values():
            for precision, median in medians_ms(estimators, pictures).items():
                costs[precision].insert(-1, median)
        scores = {
            precision: [
                *row_of(bench.score(bench.predict(estimator, TEST), TEST)),
                *several_peers(estimator, bench),
            ]
            for precision, estimator in estimators.items()
        }
    print(text_table([*sized, "file [MB]"], costs))
    print()
    print(text_table([*TITLES, "recall [%]", "precision [%]"], scores))
    ratios = {
        f"{precision} / {FLOAT32}": [
            cost / of_float for cost, of_float in zip(row, costs[FLOAT32], strict=True)
        ]
        for precision, row in costs.items()
        if precision != FLOAT32
    }
    print()
    print(text_table([*sized, "file"], ratios))


if __name__ == "__main__":
    sys.exit(run_command(run, make_parser()))
