# SPDX-License-Identifier: Apache-2.0
"""Models exported in other precision: they see what the float32 model sees."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy import write_toy_recording

pytest.importorskip("torch")
pytest.importorskip("mujoco")

from ledpose_ros.cli import main
from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import Detections, PeerEstimator
from ledpose_ros.learning.export import load_onnx
from ledpose_ros.model_metadata import FLOAT16, INT8, TRAINABLE_MODEL, shipped_model
from ledpose_ros.recording import Recording

EXACT = shipped_model(TRAINABLE_MODEL)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of five rooms."""
    path = tmp_path_factory.mktemp("precision") / "rooms.h5"
    arguments = ["--count", "10", "--seed", "2000", "--scene-frames", "2", "--workers", "1"]
    assert main(["simulate", "-o", str(path), *arguments]) == 0
    return path


def detections(model: Path, recording: Path) -> list[Detections]:
    estimator = PeerEstimator(model)
    with Recording(recording) as pictures:
        return [estimator.detect(pictures.image(index)) for index in range(len(pictures))]


@pytest.mark.parametrize("precision", [FLOAT16, INT8])
def test_less_precise_models_see_the_same(recording, tmp_path, precision, capsys):
    other = tmp_path / "other.onnx"
    command = ["export", str(EXACT), "-o", str(other), "--precision", precision]
    if precision == INT8:
        command += ["--recording", str(recording)]
    assert main(command) == 0

    assert PeerEstimator(other).metadata == replace(PeerEstimator(EXACT).metadata, precision=precision)
    pairs = zip(detections(EXACT, recording), detections(other, recording), strict=True)
    sure = [(exactly, roughly) for exactly, roughly in pairs if exactly.confidence[0] > 0.9]
    assert len(sure) >= 5
    for exactly, roughly in sure:
        assert roughly.confidence[0] > 0.5
        assert np.abs(roughly.uv[0] - exactly.uv[0]).max() < 0.1 * exactly.window_side[0]
        assert abs(roughly.log2_scale[0] - exactly.log2_scale[0]) < 0.2
        assert np.cos(roughly.psi[0] - exactly.psi[0]) > 0.9

    with pytest.raises(LedposeError, match=f"is {precision}, too coarse to train from"):
        load_onnx(other)
    assert main(["export", str(other), "-o", str(tmp_path / "again.onnx"), "--precision", FLOAT16]) == 2
    assert f"{other} is {precision} already" in capsys.readouterr().err


def test_a_model_exported_again_is_the_same(recording, tmp_path, capfd):
    """As is one of an earlier version: what counts is in its weights and its metadata."""
    again = tmp_path / "again.onnx"
    assert main(["export", str(EXACT), "-o", str(again)]) == 0
    assert capfd.readouterr() == (f"Wrote {again}.\n", ""), "the exporter of PyTorch talks"
    assert PeerEstimator(again).metadata == PeerEstimator(EXACT).metadata
    for one, other in zip(detections(EXACT, recording), detections(again, recording), strict=True):
        np.testing.assert_array_equal(one.uv, other.uv)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--precision", INT8], "--precision int8 needs a --recording"),
        (["--precision", FLOAT16, "--recording", "x.h5"], "and nothing else does"),
    ],
)
def test_what_cannot_be_exported_is_said(tmp_path, arguments, sentence, capsys):
    assert main(["export", str(EXACT), "-o", str(tmp_path / "other.onnx"), *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "mine.part").write_text("of somebody else")
    for name, reason in (
        ("folder", "the output {} should end in .onnx"),
        ("folder.onnx", "{} exists already"),
        ("missing/mine.onnx", "cannot write {}: No such file"),
    ):
        assert main(["export", str(EXACT), "-o", str(tmp_path / name)]) == 2
        assert reason.format(tmp_path / name) in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "folder",
        "folder.onnx",
        "mine.part",
    ]
    # It has no name that a part could be named after.
    assert main(["export", str(EXACT), "-o", "."]) == 2
    assert "the output . should end in .onnx" in capsys.readouterr().err


def test_8_bits_need_pictures(tmp_path, capsys):
    write_toy_recording(tmp_path / "empty.h5", 0)
    words = ["--precision", INT8, "--recording", str(tmp_path / "empty.h5")]
    assert main(["export", str(EXACT), "-o", str(tmp_path / "int8.onnx"), *words]) == 2
    assert "holds 0 pictures" in capsys.readouterr().err


def test_the_default_model_is_the_trainable_one_in_8_bits():
    default, trainable = (PeerEstimator(path).metadata for path in (shipped_model(), EXACT))
    assert default == replace(trainable, precision=INT8)
