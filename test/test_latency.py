# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the estimator's latency, in short: a tiny model, without the networks' own times."""

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from fake_model import write_fake_model
from ros_graph import run_benchmark

BENCHMARK = """
import numpy as np
from benchmarks import latency
latency.SIZES, latency.MAIN_SIZE = ((128, 96),), (128, 96)
latency.some_pictures = lambda data: [np.full((96, 128, 3), 255, np.uint8)]
names = ("bare session", latency.AT_RATE, latency.PYTORCH, "predecessor's size")
latency.network_costs = lambda *_: dict.fromkeys(names, 1e-3)
latency.run(latency.make_parser().parse_args())
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two cores are needed")
def test_every_stage_is_told_and_what_is_allowed(tmp_path: Path) -> None:
    model, figures = write_fake_model(tmp_path / "fake.onnx"), tmp_path / "latency.json"
    printed = run_benchmark(BENCHMARK, ["--model", str(model), "--seconds", "2", "--json", str(figures)])
    node = json.loads(figures.read_text())["nodes"]["128x96"]
    assert node.keys() >= {"p50", "p95", "p99", "image age", "CPU [%]", "MB", "answered [%]"}
    stages = [node[stage] for stage in ("conversion", "inference", "decoding", "publishing")]
    assert all(stage > 0 for stage in stages)
    assert sum(stages) < 1.5 * node["p99"], "they are parts of the whole"
    assert node["answered [%]"] > 50
    # A millionth of a second for the bare network, of which the node takes far more.
    assert f"inference in the node {node['inference']:.1f} ms, allowed 12: met" in printed
    assert "aim 1.25: missed." in printed
