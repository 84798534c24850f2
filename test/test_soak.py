# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the long run, in short: all that happens to the estimator in a day, every few pictures."""

import json
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from fake_model import write_fake_model
from ros_graph import run_benchmark

HASTE = 150
BENCHMARK = f"""
from benchmarks import soak
for name in soak.EVENTS:
    soak.EVENTS[name] /= {HASTE}
soak.run(soak.make_parser().parse_args())
"""
PICTURES = 210


def test_nothing_grows(tmp_path: Path) -> None:
    model, figures = write_fake_model(tmp_path / "fake.onnx"), tmp_path / "soak.json"
    options = ["--model", str(model), "--images", str(PICTURES), "--json", str(figures)]
    printed = run_benchmark(BENCHMARK, options)
    found = json.loads(figures.read_text())
    assert found["events"].keys() == {
        "change_picture",
        "change_parameter",
        "publish_nonsense",
        "change_listeners",
        "restart_camera",
        "restart_node",
        "set_clock_back",
    }
    assert found["answered"] > 0.9 * PICTURES
    samples = found["samples"]
    early, late = samples[len(samples) // 5 - 1], samples[-1]
    assert late["memory"] < early["memory"] + 10
    assert late["threads"] == early["threads"] and late["files"] == early["files"]
    grown = late["memory"] / early["memory"]
    assert f"{grown:.3f} times, allowed 1.05" in printed
    assert ("met." in printed) == (grown <= 1.05)
