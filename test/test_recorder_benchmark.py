# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the recorder beside other ways to keep the same messages, over DDS."""

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("mcap")
pytest.importorskip("psutil")

from ros_graph import run_benchmark
from toy import write_toy_recording

BENCHMARK = """
from benchmarks import recorder, recordings
recordings.PICTURES = recordings.BenchmarkSet("toy", 4)
recorder.OFFERED_RATE = 50.0
recorder.run(recorder.make_parser().parse_args())
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="the camera and who records need a core each")
def test_all_ways_to_record_are_measured(tmp_path: Path) -> None:
    write_toy_recording(tmp_path / "toy.h5", count=4)
    options = [
        "--data",
        str(tmp_path),
        "--seconds",
        "2",
        "--minutes",
        "0.05",
        "--json",
        str(tmp_path / "all.json"),
    ]
    printed = run_benchmark(BENCHMARK, options)
    found = json.loads((tmp_path / "all.json").read_text())
    assert set(found) == {"recorder, jpeg 90", "recorder, png", "mcap", "mcap-zstd", "hdf5", "steady"}
    for cost in found.values():
        assert cost["samples"] > 10 and cost["rate"] < 60 and cost["kilobytes"] > 0
    assert "ours / mcap" in printed and "of a core, allowed 35 %" in printed
