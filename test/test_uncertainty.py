# SPDX-License-Identifier: Apache-2.0
"""Stated uncertainties against errors."""

import dataclasses
import math

import numpy as np
import pytest
from fake_model import METADATA, write_fake_model
from test_evaluation import FOCAL, HEIGHT, WIDTH, K, write_recording

from ledpose_ros import uncertainty
from ledpose_ros.cli import main
from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import PeerEstimator
from ledpose_ros.evaluation import Predictions, predict, score, truth
from ledpose_ros.geometry import compose_poses
from ledpose_ros.model_metadata import Calibration, shipped_model
from ledpose_ros.recording import Recording
from ledpose_ros.uncertainty import (
    ELLIPSOIDS,
    coverage,
    deviation_scale,
    fit_deviation_scale,
    standardised_errors,
)

pytestmark = pytest.mark.extra("train")

ERRORS = (8.0, 2.0, 0.3, 0.6)
"""True standard deviations of u [px], v [px], log2 distance and psi in the recording below."""


@pytest.fixture(scope="module")
def truths(tmp_path_factory):
    """The fake model says always the same; the truth lies around that."""
    rng = np.random.default_rng(0)
    u, v, octaves, psi = rng.normal(0, ERRORS, (150, 4)).T
    uv = np.column_stack([(WIDTH - 1) / 2 + u, (HEIGHT - 1) / 2 + v])
    poses = compose_poses(uv, 2 * np.exp2(octaves), math.pi / 2 + psi, K, np.zeros(5), "plumb_bob")
    return write_recording(tmp_path_factory.mktemp("truth") / "truth.h5", poses)


@pytest.fixture
def model(tmp_path):
    calibration = Calibration(c=1.0, images=1, residual=0.0, width=WIDTH, focal_length=FOCAL)
    return write_fake_model(
        tmp_path / "model.onnx", dataclasses.replace(METADATA, calibration=calibration), bearing_length=0.9
    )


def said_and_true(model, path) -> tuple[Predictions, Predictions]:
    with Recording(path) as recording:
        true = truth(recording)
        return predict(PeerEstimator(model), recording, true.index), true


def test_truth_makes_intervals_hold_what_they_should(model, truths, capsys):
    # The fake model's own word: 4 and 3 px, 0.1 octaves, and the angle of a resultant length of 0.9.
    said = (4.0, 3.0, 0.1, math.sqrt(-2 * math.log(0.9)))
    before = said_and_true(model, truths)
    assert standardised_errors(*before).std(0) == pytest.approx(np.array(ERRORS) / said, rel=0.2)
    assert (coverage(*before)[95][[0, 2, 4]] < 80).all()

    assert main(["calibrate", str(model), "--truth", str(truths)]) == 0
    assert "times: u " in capsys.readouterr().out
    scale = PeerEstimator(model).metadata.calibration.deviation_scale
    assert scale == pytest.approx(np.array(ERRORS) / said, rel=0.2)
    after = coverage(*said_and_true(model, truths))
    assert after[68] == pytest.approx(np.full(5, 68), abs=5)
    assert after[95] == pytest.approx(np.full(5, 95), abs=3)

    # Once more changes nothing: the factors are those of the network's own word.
    assert main(["calibrate", str(model), "--truth", str(truths)]) == 0
    assert PeerEstimator(model).metadata.calibration.deviation_scale == pytest.approx(scale)
    covariance = (
        PeerEstimator(model)
        .estimate(np.full((HEIGHT, WIDTH, 3), 255, np.uint8), K, np.zeros(5), "plumb_bob")[0]
        .covariance
    )
    assert math.sqrt(covariance[0, 0]) == pytest.approx(scale[0] * 4 * 2 / FOCAL, rel=1e-3)
    assert math.sqrt(covariance[4, 4]) == pytest.approx(scale[3] * said[3], rel=1e-3)


def test_places_that_the_lens_does_not_show_do_not_count(model, truths, monkeypatch):
    def beyond_the_fold(*args: object) -> Predictions:
        said = predict(*args)
        for values in (said.position, said.distance, said.deviation):
            values[0] = np.nan
        return said

    with Recording(truths) as recording:
        whole = fit_deviation_scale(PeerEstimator(model), recording, 0.0)
        monkeypatch.setattr(uncertainty, "predict", beyond_the_fold)
        assert fit_deviation_scale(PeerEstimator(model), recording, 0.0) == pytest.approx(whole, rel=0.1)


def test_factors_survive_a_new_calibration(model, truths, tmp_path):
    from test_evaluation import write_picture

    assert main(["calibrate", str(model), "--truth", str(truths)]) == 0
    scale = PeerEstimator(model).metadata.calibration.deviation_scale
    picture = write_picture(tmp_path / "picture.png")
    assert main(["calibrate", str(model), "--image", str(picture), "--distance", "1"]) == 0
    assert PeerEstimator(model).metadata.calibration.deviation_scale == scale


def test_normal_errors_need_no_factors():
    drawn = np.random.default_rng(1).normal(size=(20000, 4))
    assert deviation_scale(drawn) == pytest.approx(np.ones(4), abs=0.02)
    for percentage, share in {68: 68.3, 95: 95.0}.items():
        inside = np.linalg.norm(drawn[:, :3], axis=1) <= ELLIPSOIDS[percentage]
        assert 100 * inside.mean() == pytest.approx(share, abs=1)
    assert deviation_scale(3 * drawn) == pytest.approx(np.full(4, 3), abs=0.06)


def test_too_little_truth_is_refused(model, tmp_path, capsys):
    poses = compose_poses(np.array([[10.0, 10.0]]), np.ones(1), np.zeros(1), K, np.zeros(5), "plumb_bob")
    few = write_recording(tmp_path / "few.h5", poses)
    assert main(["calibrate", str(model), "--truth", str(few)]) == 2
    assert "a peer in 1 pictures" in capsys.readouterr().err
    bare = write_fake_model(tmp_path / "bare.onnx", dataclasses.replace(METADATA, calibration=None))
    assert main(["calibrate", str(bare), "--truth", str(few)]) == 2
    assert "bare.onnx is not calibrated" in capsys.readouterr().err


@pytest.mark.parametrize("scale", [(1.0, 1.0, 1.0), (1.0, 1.0, 0.0, 1.0), (1.0, 1.0, 1.0, math.nan)])
def test_factors_that_make_no_sense_are_refused(scale):
    with pytest.raises(LedposeError, match="deviation scale"):
        Calibration(c=1.0, images=1, residual=0.0, width=640, deviation_scale=scale)


@pytest.fixture(scope="module")
def in_unseen_rooms(tmp_path_factory) -> tuple[Predictions, Predictions, np.ndarray]:
    """What the shipped model says of 240 rooms of the accuracy benchmark, what is true, LEDs in view."""
    pytest.importorskip("mujoco")
    from benchmarks.recordings import TEST, BenchmarkSet, leds_in_view, provide

    some = BenchmarkSet("some", 240, {**TEST.settings, "scene_frames": 1})
    with Recording(provide(some, tmp_path_factory.mktemp("rooms"))) as recording:
        true = truth(recording)
        said = predict(PeerEstimator(shipped_model()), recording, true.index)
        return said, true, leds_in_view(recording, true.index)


@pytest.mark.timeout(600)  # whichever is first renders
def test_the_shipped_model_is_as_accurate_as_required(in_unseen_rooms):
    """`python -m benchmarks.accuracy` measures all pictures of the benchmark."""
    from benchmarks.accuracy import REQUIRED, met

    scores = score(*in_unseen_rooms)
    assert met(scores.as_dict(), REQUIRED) == list(REQUIRED), scores


@pytest.mark.timeout(600)  # whichever is first renders
def test_the_shipped_models_uncertainties_hold_on_the_benchmark(in_unseen_rooms):
    """`python -m benchmarks.accuracy` says it of all its pictures."""
    from benchmarks.accuracy import ALLOWED_COVERAGE, MIN_CONFIDENCE

    said, true, _ = in_unseen_rooms
    published = said.confidence >= MIN_CONFIDENCE
    assert published.sum() > 200
    found = coverage(said.of(published), true.of(published))
    for percentage, (low, high) in ALLOWED_COVERAGE.items():
        assert ((low <= found[percentage]) & (found[percentage] <= high)).all(), (percentage, found)
