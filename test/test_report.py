# SPDX-License-Identifier: Apache-2.0
"""The report of a training run: verdicts in every case that we know, and a page that stands by itself."""

import base64
import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import h5py
import numpy as np
import pytest
from fake_model import METADATA, write_fake_model
from toy import write_toy_recording

from ledpose_ros.images import decode_image
from ledpose_ros.leds import DEFAULT_LED_DIRECTIONS, DEFAULT_LED_NAMES
from ledpose_ros.metrics import facing_leds
from ledpose_ros.recording import Recording

torch = pytest.importorskip("torch")

from matplotlib import pyplot as plt  # noqa: E402
from torch.utils.tensorboard import SummaryWriter  # noqa: E402

from ledpose_ros.learning import report, trainer  # noqa: E402
from ledpose_ros.learning.dataset import load_recordings  # noqa: E402
from ledpose_ros.learning.report import Report, read_log, write_report  # noqa: E402
from ledpose_ros.learning.trainer import (  # noqa: E402
    CHECKPOINT_NAME,
    Phase,
    Preset,
    Trainer,
    load_checkpoint,
)
from ledpose_ros.learning.verdicts import Answers, Curve, correlations, dependence, verdicts  # noqa: E402

COUNT = 200
SHORT = Preset((Phase("warm-up", 40), Phase("joint", 60)), learning_rate=1e-3)


def healthy() -> Answers:
    """Of a peer that drives around and whose LEDs are told well."""
    random = np.random.default_rng(0)
    states = random.integers(0, 2, (COUNT, 4)).astype(float)
    psi = random.uniform(-np.pi, np.pi, COUNT)
    return Answers(
        uv=random.uniform((0.1, 0.4), (0.9, 0.6), (COUNT, 2)),
        log2_scale=random.uniform(-2, 0, COUNT),
        psi=psi,
        facing=facing_leds(psi, DEFAULT_LED_DIRECTIONS),
        confidence=np.tile([0.99, 0.3, 0.02], COUNT),
        led_probability=0.1 + 0.8 * states,
        led_states=states,
    )


def falling(begin: float, end: float) -> Curve:
    """A noisy loss."""
    steps = np.arange(20, 2020, 20)
    noise = np.random.default_rng(0).normal(0, 0.02 * begin, len(steps))
    return Curve(steps, np.linspace(begin, end, len(steps)) + noise)


CURVES = {"location": falling(2.77, 2.6), "leds/fine": falling(0.69, 0.5), "loss": falling(3, 1)}


def same_place(answers: Answers) -> Answers:
    return replace(answers, uv=0.49 + 0.02 * answers.uv)


def same_bearing(answers: Answers) -> Answers:
    """Around 180 degrees, where angles jump."""
    return replace(answers, psi=np.pi + 0.1 * answers.psi)


def two_bearings(answers: Answers) -> Answers:
    """Around -90 and 90 degrees."""
    return replace(answers, psi=np.where(answers.psi < 0, -np.pi / 2, np.pi / 2) + 0.2 * answers.psi)


def same_size(answers: Answers) -> Answers:
    return replace(answers, log2_scale=0.05 * answers.log2_scale)


def same_confidence(answers: Answers) -> Answers:
    return replace(answers, confidence=0.49 + 0.02 * answers.confidence)


def sure_of_everything(answers: Answers) -> Answers:
    return replace(answers, confidence=np.full(3 * COUNT, 0.98))


def constant_led(answers: Answers) -> Answers:
    probability = answers.led_probability.copy()
    probability[:, 2] = 0.5
    return replace(answers, led_probability=probability)


def something_is_lit(answers: Answers) -> Answers:
    """Every LED is said to be as lit as all of them are together: better than chance for each."""
    together = answers.led_states.mean(1, keepdims=True)
    return replace(answers, led_probability=np.tile(together, (1, 4)))


def front_is_back(answers: Answers) -> Answers:
    probability = answers.led_probability.copy()
    probability[:, 0] = probability[:, 2] = probability[:, [0, 2]].mean(1)
    return replace(answers, led_probability=probability)


def above_the_horizon(answers: Answers) -> Answers:
    return replace(answers, on_floor=np.arange(COUNT) % 4 == 0)


def test_peers_on_the_floor_get_no_verdict() -> None:
    on_floor = np.arange(COUNT) % 10 > 0
    assert verdicts(CURVES, replace(healthy(), on_floor=on_floor), DEFAULT_LED_NAMES) == []


def test_what_is_said_of_leds_that_face_away_is_no_confusion() -> None:
    """The front's LED faces away where the back's is seen, and may be said to be as that."""
    answers = healthy()
    probability = answers.led_probability.copy()
    front, back = answers.facing[:, 0], answers.facing[:, 2]
    probability[back, 0], probability[front, 2] = probability[back, 2], probability[front, 0]
    said = replace(answers, led_probability=probability)
    assert correlations(probability)[0, 2] > 0.9
    assert verdicts(CURVES, said, DEFAULT_LED_NAMES) == []
    depends = dependence(said)
    assert depends[0, 0] == pytest.approx(1) and abs(depends[0, 2]) < 0.3


def test_a_healthy_run_gets_no_verdict() -> None:
    assert verdicts(CURVES, healthy(), DEFAULT_LED_NAMES) == []


def test_a_run_too_short_for_a_log_is_judged_by_its_answers() -> None:
    assert verdicts({}, healthy(), DEFAULT_LED_NAMES) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (same_place, "found at the same place in most pictures, 50 % from the left"),
        (same_bearing, "all bearings are alike, about -?1[78]"),
        (two_bearings, r"crowd around -[89]\d and [89]\d degrees"),
        (same_size, "all peers are said to be of one size"),
        (same_confidence, r"the confidence is 0\.50 everywhere"),
        (sure_of_everything, r"the confidence is 0\.98 everywhere"),
        (above_the_horizon, "75 % of the peers are found above the horizon"),
        (constant_led, "the same is said of LED back in every picture"),
        (something_is_lit, "that of front on left.*that of front on back.*that of right on back"),
        (front_is_back, r"on others: that of front on back \(0\.\d\d\), that of back on front \(0\.\d\d\);"),
    ],
)
def test_collapsed_answers(change: Callable[[Answers], Answers], words: str) -> None:
    (verdict,) = verdicts(CURVES, change(healthy()), DEFAULT_LED_NAMES)
    assert re.search(words, verdict.what) and verdict.advice
    assert verdict.severity == "warning"


@pytest.mark.parametrize(
    ("name", "curve", "words"),
    [
        ("location", falling(2.79, 2.77), "the location loss never fell below 2.7"),
        ("leds/fine", falling(0.7, 0.69), "the LED loss of the fine network ended at 0.6"),
        ("leds/fine", Curve(np.array([20]), np.array([math.log(2)])), "where guessing gives 0.69"),
    ],
)
def test_plateaus(name: str, curve: Curve, words: str) -> None:
    (verdict,) = verdicts(CURVES | {name: curve}, healthy(), DEFAULT_LED_NAMES)
    assert words in verdict.what and verdict.advice


def test_guessing_knows_how_often_leds_are_on() -> None:
    """LEDs that are on a third of the time are guessed better than by half."""
    answers = healthy()
    states = np.zeros_like(answers.led_states)
    states[::3] = 1
    guess = falling(0.7, 0.634)
    assert verdicts(CURVES | {"leds/fine": guess}, answers, DEFAULT_LED_NAMES) == []
    found = verdicts(CURVES | {"leds/fine": guess}, replace(answers, led_states=states), DEFAULT_LED_NAMES)
    assert any("where guessing gives 0.64" in verdict.what for verdict in found)


def test_a_location_loss_that_was_lower_has_left_its_plateau() -> None:
    """Later phases show harder pictures: it rises again although nothing is forgotten."""
    values = np.concatenate([falling(2.77, 2.6).values, falling(2.77, 2.75).values])
    curves = CURVES | {"location": Curve(np.arange(len(values)), values)}
    assert verdicts(curves, healthy(), DEFAULT_LED_NAMES) == []


def test_correlations_are_pearsons_but_for_constants() -> None:
    columns = np.random.default_rng(1).normal(size=(50, 3)) + np.arange(50)[:, None] / 20
    np.testing.assert_allclose(correlations(columns), np.corrcoef(columns.T))
    columns[:, 1] = 0.3
    np.testing.assert_allclose(correlations(columns)[1], 0, atol=1e-9)


@pytest.fixture
def reported(tmp_path: Path) -> Callable[..., Report]:
    """A function that writes the report of a run of which nothing is learned, with a log of 100 steps."""

    def write(
        with_ground_truth: bool,
        calibrated: bool = False,
        logged: bool = True,
        change: Callable[[h5py.File], None] = lambda file: None,
    ) -> Report:
        recording = tmp_path / "toys & <robots>.h5"
        write_toy_recording(recording, 20, with_ground_truth=with_ground_truth)
        with h5py.File(recording, "r+") as file:
            change(file)
        trainer = Trainer(load_recordings([recording]), tmp_path / "run", SHORT, seed=7)
        trainer.directory.mkdir()
        trainer.step = 99
        trainer.save()
        with SummaryWriter(str(tmp_path / "run" / "log")) as log:
            for step in range(20, 120, 20) if logged else ():
                log.add_scalar("leds/fine", 0.69, step)
                log.add_scalar("other", 2.0, step)
        metadata = METADATA if calibrated else replace(METADATA, calibration=None)
        model = write_fake_model(tmp_path / "model.onnx", metadata)
        return write_report(tmp_path / "run", model, [recording])

    return write


def test_the_page_stands_by_itself(reported: Callable[..., Report]) -> None:
    report = reported(with_ground_truth=False)
    page = report.path.read_text(encoding="utf-8")
    assert report.path.name == "report.html"
    assert not re.search(r"""https?://|src="(?!data:)|href=|@import|\$""", page)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    # Curves, what the model sees, correlations.
    assert len(pictures) == 3
    for picture in pictures:
        assert decode_image(base64.b64decode(picture)).std() > 5
    assert "<robots>" not in page and "toys &amp; &lt;robots&gt;.h5: 20 pictures of 240 x 136" in page
    for fact in ("own: warm-up 40, joint 60", "99 of 100", "random weights"):
        assert fact in page
    assert "Against the truth" not in page


def test_twelve_pictures_are_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Spread over the recording, the first and the last among them; all of a smaller one."""
    drawn: list[int] = []
    monkeypatch.setattr(report, "_draw_sight", lambda axis, recording, index, one: drawn.append(index))
    write_toy_recording(tmp_path / "toy.h5", 23)
    with Recording(tmp_path / "toy.h5") as recording:
        samples = [(recording, index) for index in range(23)]
        plt.close(report.sight_figure(samples, [None] * 23))
        assert drawn == list(range(0, 23, 2))
        drawn.clear()
        plt.close(report.sight_figure(samples[:5], [None] * 5))
        assert drawn == list(range(5))


def test_a_run_logs_what_it_does_and_saves_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate and every loss of the phase, from which the report draws its curves."""
    monkeypatch.setattr(trainer, "LOG_PERIOD", 2)
    monkeypatch.setattr(trainer, "SAVE_PERIOD", 3)
    write_toy_recording(tmp_path / "toy.h5", 20)
    preset = Preset((Phase("warm-up", 2), Phase("search", 2), Phase("joint", 4)), learning_rate=1e-3)
    run = Trainer(load_recordings([tmp_path / "toy.h5"]), tmp_path / "run", preset)
    saved: list[int] = []
    save = run.save
    monkeypatch.setattr(run, "save", lambda: saved.append(run.step) or save())
    assert run.run()
    assert saved == [3, 6, 8]

    log = read_log(tmp_path / "run" / "log")
    assert log.curves["loss"].steps.tolist() == log.curves["learning_rate"].steps.tolist() == [2, 4, 6, 8]
    assert log.curves["location"].steps.tolist() == [2, 4, 6, 8]
    assert log.curves["leds/fine"].steps.tolist() == log.curves["guide"].steps.tolist() == [6, 8]
    assert all(np.isfinite(curve.values).all() for curve in log.curves.values())
    rates = log.curves["learning_rate"].values
    assert (rates > 0).all() and (rates <= preset.learning_rate).all()
    # What is kept in the model is a moving average of each.
    metrics = load_checkpoint(tmp_path / "run" / CHECKPOINT_NAME)["metrics"]
    assert set(metrics) == set(log.curves) - {"loss", "learning_rate"}
    first, last = log.curves["leds/fine"].values
    assert metrics["leds/fine"] == pytest.approx(0.9 * first + 0.1 * last, rel=1e-5)
    titles = [axis.get_title("left") for axis in report._curve_figure(log.curves, [], {}).axes]
    plt.close("all")
    assert {"learning_rate", "loss", "location", "guide"} < set(titles)


def test_the_page_begins_with_the_warnings(reported: Callable[..., Report]) -> None:
    report = reported(with_ground_truth=False)
    page = report.path.read_text(encoding="utf-8")
    assert any("found at the same place" in warning.what for warning in report.warnings)
    assert any("LED loss of the fine network ended at 0.69" in warning.what for warning in report.warnings)
    facts = page.index("What was trained")
    assert all(page.index(f"<b>{warning.what}.</b>") < facts for warning in report.warnings)


@pytest.mark.parametrize("calibrated", [False, True])
def test_true_poses_are_compared_with(reported: Callable[..., Report], calibrated: bool) -> None:
    page = reported(with_ground_truth=True, calibrated=calibrated).path.read_text(encoding="utf-8")
    truth = page[page.index("Against the truth") :]
    assert "20 pictures" in truth and "mean predictor" in truth
    assert ("knows no scale" in truth) is not calibrated
    row = re.search(r"^model .*$", truth, re.MULTILINE)
    assert row is not None
    # Distances among them: were they unknown, there would be a dash.
    assert all(math.isfinite(float(value)) for value in row[0].split()[1:])
    assert page.count("<img") == 6


def never_in_view(file: h5py.File) -> None:
    """As motion capture tells poses of a peer behind the camera."""
    file["ground_truth/pose"][:, 2] = -1.0


def unusable_camera(file: h5py.File) -> None:
    file.attrs["distortion_model"] = "none that is known"


@pytest.mark.parametrize("change", [never_in_view, unusable_camera])
def test_truth_that_tells_nothing_is_no_reason_for_no_report(reported, change) -> None:
    page = reported(with_ground_truth=True, change=change).path.read_text(encoding="utf-8")
    assert "Against the truth" not in page and "found at the same place" in page


def test_true_poses_may_be_of_other_pictures_than_those_asked_about(reported, monkeypatch) -> None:
    monkeypatch.setattr(report, "SAMPLE", 2)  # the first and the last

    def in_the_middle(file: h5py.File) -> None:
        file["ground_truth/pose"][[0, 1, 18, 19], 2] = -1.0

    page = reported(with_ground_truth=True, change=in_the_middle).path.read_text(encoding="utf-8")
    assert "Against the truth" not in page


def test_a_run_without_a_log_is_reported(reported: Callable[..., Report]) -> None:
    page = reported(with_ground_truth=False, logged=False).path.read_text(encoding="utf-8")
    assert "too short to log" in page and page.count("<img") == 2


def test_the_log_of_a_resumed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first part logged after its last checkpoint is replaced."""
    clock = count(1_800_000_000)  # Logs are read in the order of the seconds in which they began.
    monkeypatch.setattr("time.time", lambda: float(next(clock)))
    for purge_step, steps, value in ((0, (20, 40, 60), 1.0), (50, (60, 80), 2.0)):
        with SummaryWriter(str(tmp_path), purge_step=purge_step) as log:
            for step in steps:
                log.add_scalar("loss", value, step)
    log = read_log(tmp_path)
    assert log.curves["loss"].steps.tolist() == [20, 40, 60, 80]
    assert log.curves["loss"].values.tolist() == [1, 1, 2, 2]
    assert log.times == sorted(log.times) and len(log.times) == 4
