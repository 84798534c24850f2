# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks compute, on a handful of numbers; the benchmarks themselves take minutes."""

import argparse
import dataclasses
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_model import METADATA, write_fake_model
from test_evaluation import straight_ahead, write_recording
from toy import write_toy_recording

from ledpose_ros.errors import LedposeError
from ledpose_ros.evaluation import Predictions
from ledpose_ros.metrics import Metrics
from ledpose_ros.model_metadata import TRAINABLE_MODEL, shipped_model
from ledpose_ros.recording import Recording

pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnx
import torch

from benchmarks import accuracy, adaptation, bias, decoder, learning, loading, parts, recordings
from benchmarks.degradations import DEGRADATIONS
from ledpose_ros.learning import objective, windows
from ledpose_ros.learning.network import CoarseMaps, PeerNetwork
from ledpose_ros.learning.trainer import load_checkpoint

GOOD = Metrics(E_uv=12.0, E_psi=5.0, E_d=4.0, E_xyz=10.0, gamma=93.0, auc=99.9, n=2)
BAD = Metrics(E_uv=24.0, E_psi=80.0, E_d=math.nan, E_xyz=math.nan, gamma=math.nan, auc=50.0, n=2)
CAMERA_FOCAL_LENGTH = 100.0


def predictions(
    psi: list[float], distance: list[float], uv_offset: tuple[float, float] = (0, 0)
) -> Predictions:
    """Peers straight ahead, at these bearings [rad] and distances [m]; the image position is moved."""
    count = len(psi)
    position = np.zeros((count, 3))
    position[:, 2] = distance
    return Predictions(
        index=np.arange(count),
        uv=np.tile(np.array(uv_offset, float), (count, 1)),
        psi=np.array(psi, float),
        distance=np.array(distance, float),
        position=position,
        led_probability=np.full((count, 4), 0.5),
        confidence=np.ones(count),
    )


def test_benchmark_seeds_are_never_training_seeds():
    assert all(wanted.settings["seed"] >= 1000 for wanted in (*recordings.SETS, recordings.PICTURES))


def test_a_recording_that_is_there_is_reused_and_a_wrong_one_refused(tmp_path):
    write_toy_recording(tmp_path / "toy.h5", count=3)
    wanted = recordings.BenchmarkSet("toy", 3)
    before = (tmp_path / "toy.h5").read_bytes()
    assert recordings.provide(wanted, tmp_path) == tmp_path / "toy.h5"
    assert (tmp_path / "toy.h5").read_bytes() == before
    with pytest.raises(LedposeError, match="holds 3 pictures instead of 4"):
        recordings.provide(recordings.BenchmarkSet("toy", 4), tmp_path)


def test_limits_count_from_their_own_value_on_and_the_unknown_meets_none():
    assert accuracy.met(GOOD.as_dict(), accuracy.REQUIRED) == list(accuracy.REQUIRED)
    assert accuracy.met(GOOD.as_dict(), accuracy.AIM) == ["E_psi", "E_d", "E_xyz", "auc"]
    assert accuracy.met(BAD.as_dict(), accuracy.REQUIRED) == []


def test_several_models_get_mean_and_standard_deviation():
    rows = accuracy.with_spread({"a": [1.0, 2.0], "b": [3.0, 2.0]})
    assert rows["mean"] == [2.0, 2.0] and rows["spread"] == pytest.approx([math.sqrt(2), 0.0])
    assert set(accuracy.with_spread({"a": [1.0]})) == {"a"}


def test_models_are_called_by_what_tells_them_apart(tmp_path):
    assert accuracy.names_of([tmp_path / "a.onnx", tmp_path / "b.onnx"]) == ["a", "b"]
    same = [tmp_path / "a" / "model.onnx", tmp_path / "b" / "model.onnx"]
    assert accuracy.names_of(same) == [str(path) for path in same]


def results(leds_on: Metrics) -> dict[str, dict]:
    said = true = predictions([0.0, math.pi / 2], [1.0, 2.0])
    return {
        "model": {
            "accuracy": GOOD,
            "one picture": BAD,
            "auc_facing": 99.04,
            "auc_by_bearing": 96.54,
            "leds": {"all off": GOOD, "all on": leds_on},
            "presence": 98.0,
            "recall": 89.0,
            "precision": 95.0,
            "robustness": {"blur": BAD},
            "coverage": {68: np.full(5, 70.0), 95: np.array([94.0, 95.0, 89.0, 96.0, 95.0])},
            "position_bias": bias.position_bias(said, true, CAMERA_FOCAL_LENGTH),
            "distance_bias": bias.distance_bias(said, true),
            "one picture, position_bias": bias.position_bias(said, true, CAMERA_FOCAL_LENGTH),
            "one picture, distance_bias": bias.distance_bias(said, true),
        }
    }


def test_the_report_says_what_is_met():
    text = accuracy.report(results(GOOD), BAD)
    assert "model: required met in E_uv, E_psi, E_d, E_xyz, gamma, auc; missed in nothing" in text
    assert "model, one calibration picture: required met in" in text
    assert "Largest: 1, allowed 1.3: met." in text
    assert "All of it: missed." in text, "recall is below 90"
    assert "beyond the picture's edge: 99.0 (model), met\n" in text
    assert "hidden by the robot's own edge: 96.5 (model), missed\n" in text
    assert "== Bias of model: by" in text and "== Bias of model, one calibration picture: by" in text
    assert "Allowed 60 to 76 % and 90 to 99 %: missed." in text, "89 of 95 % of the distances"
    assert "nan" not in text


def test_an_unknown_auc_is_not_met_in_whichever_order():
    known = results(GOOD)["model"] | {"auc_facing": 99.5, "auc_by_bearing": 99.5}
    unknown = known | {"auc_facing": math.nan, "auc_by_bearing": math.nan}
    for models in ({"a": known, "b": unknown}, {"a": unknown, "b": known}):
        assert accuracy.hidden_section(models).count("missed") == 2
    assert accuracy.hidden_section({"a": known}).count("missed") == 0


def test_an_unknown_error_with_leds_forced_is_not_met():
    assert "Largest: nan, allowed 1.3: missed." in accuracy.leds_section(results(BAD))


def test_json_has_null_for_the_unknown():
    written = json.loads(json.dumps(accuracy.as_json({"row": BAD, "models": results(GOOD)})))
    assert written["row"]["E_d"] is None and written["row"]["auc"] == 50
    assert written["models"]["model"]["position_bias"]["0 deg"][0] == 1


def test_position_bias_is_in_robot_lengths_by_side_seen():
    true = predictions([0.0, 0.1, math.pi, -math.pi], [1.0, 2.0, 1.0, 1.0])
    said = predictions([0.0] * 4, [1.0] * 4, uv_offset=(16.0, -8.0))
    found = bias.position_bias(said, true, CAMERA_FOCAL_LENGTH)
    assert list(found) == [
        "-180 deg",
        "-135 deg",
        "-90 deg",
        "-45 deg",
        "0 deg",
        "45 deg",
        "90 deg",
        "135 deg",
    ]
    # A length of 0.32 m takes 32 px at 1 m and 16 px at 2 m.
    count, _, du, _, _, dv, _ = found["-180 deg"]
    assert (count, du, dv) == pytest.approx((2, 50, -25))
    assert found["0 deg"][[0, 2]] == pytest.approx((2, 75))
    assert found["90 deg"][0] == 0 and np.isnan(found["90 deg"][1:]).all()


def test_distance_bias_is_positive_for_too_far():
    found = bias.distance_bias(predictions([0, 0], [2.0, 1.5]), predictions([0, 0], [1.0, 3.0]))
    assert found["1-1.5 m"][[0, 2]] == pytest.approx((1, 1))
    assert found["3-3.5 m"][[0, 2]] == pytest.approx((1, -1))


def test_bias_is_drawn_where_bins_are_empty_too(tmp_path):
    found = results(GOOD)["model"]
    bias.plot_bias("model", found["position_bias"], found["distance_bias"], tmp_path / "plots" / "bias.png")
    assert (tmp_path / "plots" / "bias.png").stat().st_size > 0


def test_degradations_leave_pictures_and_change_them():
    picture = np.random.default_rng(0).integers(0, 256, (36, 64, 3), np.uint8)
    for change in DEGRADATIONS.values():
        changed = change(picture)
        assert changed.dtype == np.uint8 and changed.shape == picture.shape
        assert not np.array_equal(changed, picture) and np.array_equal(changed, change(picture))
    assert DEGRADATIONS["brightness x 0.5"](picture).mean() == pytest.approx(picture.mean() / 2, abs=1)
    assert DEGRADATIONS["brightness x 1.5"](picture).max() == 255


def test_leds_count_where_the_camera_sees_them(tmp_path):
    """The robot is 0.33 m long: from near, its front faces away before the bearing is 90 degrees."""
    poses = [straight_ahead([metres], np.radians(psi))[0] for metres, psi in ((1, 0), (0.6, 80), (1, 80))]
    for aside in (0.60, 0.75):  # The LED of the front, 0.837 m deep, leaves the picture at 0.67 m.
        poses.append(poses[0] + [aside, 0, 0, 0, 0, 0, 0])
    with Recording(write_recording(tmp_path / "r.h5", np.array(poses))) as recording:
        front, left, back, right = recordings.leds_in_view(recording, np.arange(5)).T
        facing = recordings.leds_facing(recording, np.arange(5))
    assert facing[:, 0].tolist() == [True, False, True, True, True], "even beyond the picture's edge"
    assert front.tolist() == [True, False, True, True, False]
    assert left.tolist()[:3] == [False, True, True]
    assert not back.any() and not right[:3].any()


def test_a_recording_is_split_into_a_half_without_and_a_half_with_ground_truth(tmp_path):
    write_toy_recording(tmp_path / "toy.h5", count=5, with_ground_truth=True)
    with Recording(tmp_path / "toy.h5") as whole:
        for _ in range(2):  # Halves that are there already are replaced.
            paths = adaptation.split(whole, tmp_path)
        with Recording(paths[0]) as first, Recording(paths[1]) as second:
            assert (len(first), len(second)) == (2, 3)
            assert not first.has_ground_truth
            assert np.array_equal(second.ground_truth().pose, whole.ground_truth().pose[2:])
            assert np.array_equal(second.encoded_image(0), whole.encoded_image(2))
            assert np.array_equal(first.led_states, whole.led_states[:2])


def test_a_model_is_adapted_to_one_half_and_scored_on_the_other(tmp_path, capsys):
    path = tmp_path / "toy.h5"
    write_toy_recording(path, count=101, with_ground_truth=True)
    words = [str(path), "--exchanged", "--steps", "2", "--seed", "1"]
    adaptation.run(adaptation.make_parser().parse_args(words))
    *_, as_it_is, adapted, mean = capsys.readouterr().out.splitlines()
    assert as_it_is.startswith("as it is ") and mean.startswith("mean predictor ")
    assert adapted.startswith("adapted, seed 1 ") and adapted.split()[3:] != as_it_is.split()[3:]
    # The first half, which is scored on when the halves are exchanged, is one shorter.
    assert all(line.split()[-1] == "50" for line in (as_it_is, adapted, mean))


def test_rows_of_an_adaptation_are_of_each_seed_with_all_parts_and_without_some(
    tmp_path, capsys, monkeypatch
):
    write_toy_recording(tmp_path / "toy.h5", count=4, with_ground_truth=True)
    trained = []

    def evaluated(*args):
        trained.append((args[3][-1] if len(args) > 3 and args[3] else None, windows.FILM))
        return SimpleNamespace(model=GOOD, mean=BAD)

    for name in ("evaluate_adapted", "evaluate_calibrated"):
        monkeypatch.setattr(adaptation, name, evaluated)
    words = [str(tmp_path / "toy.h5"), "--seed", "3", "4", "--without", "telling films, pairs"]
    adaptation.run(adaptation.make_parser().parse_args(words))
    told = windows.FILM
    assert trained == [(None, told), (3, told), (4, told), (3, 0.0), (4, 0.0)]
    rows = capsys.readouterr().out.splitlines()[-6:]
    assert [row.split("  ")[0] for row in rows[1:-1]] == [
        f"adapted, seed {seed}{without}"
        for without in ("", ", without telling films, pairs")
        for seed in (3, 4)
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--distance", "1.5"], "needs both"),
        (["--reference", "320", "207"], "tell of the --calibration picture"),
        (["--model", str(shipped_model())], "'ledpose train' ended with status 2"),
    ],
)
def test_an_adaptation_that_cannot_be_is_refused(tmp_path, words, sentence):
    path = tmp_path / "toy.h5"
    write_toy_recording(path, count=4, with_ground_truth=True)
    with pytest.raises(LedposeError, match=sentence):
        adaptation.run(adaptation.make_parser().parse_args([str(path), *words]))


def test_a_recording_without_ground_truth_is_not_split(tmp_path):
    write_toy_recording(tmp_path / "toy.h5", count=2)
    with Recording(tmp_path / "toy.h5") as whole, pytest.raises(LedposeError, match="no ground truth"):
        adaptation.split(whole, tmp_path)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--calibration", "picture.png"], "needs both"),
        (["--calibration", "picture.png", "--distance", "1.5"], "--other"),
        (["--level"], "--level is for another robot"),
        (["--focal-length", "300"], "tell of the --calibration picture"),
        (["absent.onnx"], "absent.onnx does not exist"),
        ([str(shipped_model()), "--other", "absent.h5"], "int8, too coarse to train from"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_rendered(tmp_path, words, sentence):
    arguments = accuracy.make_parser().parse_args([*words, "--data", str(tmp_path)])
    with pytest.raises(LedposeError, match=sentence):
        accuracy.run(arguments)
    assert not list(tmp_path.iterdir())


def test_a_model_without_scale_is_refused_before_an_hour_is_spent(tmp_path):
    """`ledpose train` leaves such models."""
    model = write_fake_model(tmp_path / "fake.onnx", dataclasses.replace(METADATA, calibration=None))
    arguments = accuracy.make_parser().parse_args([str(model), "--data", str(tmp_path / "data")])
    with pytest.raises(LedposeError, match="is not calibrated"):
        accuracy.run(arguments)


@pytest.mark.parametrize("half", [False, True])
def test_both_ways_of_loading_give_the_same_kind_of_pictures(tmp_path, half):
    write_toy_recording(tmp_path / "toy.h5", count=2)
    data = loading.load_recordings([tmp_path / "toy.h5"])
    batch = next(iter(loading.whole_batches(data, half)))
    single = loading.PicturesOneByOne(tmp_path / "toy.h5", half)[1]
    assert batch.shape == (2, *single.shape) and batch.dtype == single.dtype
    assert batch.abs().max() <= 1 and single.abs().max() <= 1


@pytest.mark.parametrize(
    ("kind", "fetch"),
    [("warm-up", "halves_of"), ("joint", "halves_of"), ("joint", "of"), ("glance", "images_of")],
)
def test_waiting_for_pictures_is_counted_in_every_kind_of_step(tmp_path, monkeypatch, kind, fetch):
    """Of steps of a second for which pictures of three more are waited for it is three quarters."""
    write_toy_recording(tmp_path / "toy.h5", count=12)
    data = loading.load_recordings([tmp_path / "toy.h5"])
    now = [0.0]
    monkeypatch.setattr(loading, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def takes(seconds: float, owner: type, name: str) -> None:
        original = getattr(owner, name)

        def slow(*args):
            now[0] += seconds
            return original(*args)

        monkeypatch.setattr(owner, name, slow)

    takes(1.0, loading.Trainer, "train_step")
    takes(3.0, *next(one for one in loading.FETCHES if one[1] == fetch))
    assert loading.waiting_share(data, kind, steps=2) == 75


def test_the_command_compares_ways_of_loading(tmp_path, capsys, monkeypatch):
    write_toy_recording(tmp_path / "toy.h5", count=16)
    monkeypatch.setattr(loading, "MEASURED_BATCHES", 1)
    monkeypatch.setattr(loading, "waiting_share", lambda data, kind: 6.0 if kind == "look" else 1.0)
    loading.run(loading.make_parser().parse_args([str(tmp_path / "toy.h5")]))
    text = capsys.readouterr().out
    rows = {line.split("  ")[0]: line.split()[-2:] for line in text.splitlines()}
    fastest = [
        max(float(rows[f"one by one, {workers} worker processes"][size]) for workers in (0, os.cpu_count()))
        for size in (0, 1)
    ]
    ratios = [float(batches) / one for batches, one in zip(rows["whole batches"], fastest, strict=True)]
    assert [float(ratio) for ratio in rows["ratio"]] == pytest.approx(ratios, rel=0.02)
    met = "met" if float(rows["ratio"][1]) >= 3 else "missed"
    assert f"same pictures, 120x68: {rows['ratio'][1]}, required 3: {met}." in text
    assert "Allowed 5: missed." in text, "a kind of phase waits too long"


def test_the_command_measures_a_model_on_recordings_that_are_there(tmp_path, capsys, monkeypatch):
    """From end to end on a few white pictures, in whose centre the fake model sees a peer."""
    poses = straight_ahead([1.0, 2.0], math.pi / 2)
    poses[:, 0] += 0.01  # Ratios need errors.
    counts = {"TEST": 2, "LEDS_OFF": 2, "LEDS_ON": 2, "ABSENT": 3, "TWO_PEERS": 2, "THREE_PEERS": 2}
    counts["ONE_PICTURE"] = 1
    monkeypatch.setattr(accuracy, "ONE_DISTANCE", 1.0)
    sets = {name: recordings.BenchmarkSet(name, count) for name, count in counts.items()}
    for name, wanted in sets.items():
        monkeypatch.setattr(accuracy, name, wanted)
        absent = 3 if name == "ABSENT" else 0
        shown = poses[: wanted.count]
        write_recording(wanted.path(tmp_path), [] if absent else shown, without_peer=absent)
        np.savez(wanted.peers_path(tmp_path), poses=poses[:, None], visible=np.ones((2, 1), bool))
    monkeypatch.setattr(accuracy, "SETS", tuple(sets.values()))
    model = write_fake_model(tmp_path / "fake.onnx")
    words = [str(model), "--data", str(tmp_path), "--json", str(tmp_path / "all.json")]
    accuracy.run(accuracy.make_parser().parse_args([*words, "--plots", str(tmp_path / "plots")]))
    assert "fake: required met in E_uv, E_psi" in capsys.readouterr().out
    assert (tmp_path / "plots" / "bias_fake.png").exists()
    found = json.loads((tmp_path / "all.json").read_text())["models"]["fake"]
    assert found["accuracy"]["n"] == found["one picture"]["n"] == 2
    # At 1 m the fake model's constant size is right, at 2 m it tells half: a quarter in the median.
    assert found["one picture"]["E_d"] == pytest.approx(25, abs=1)
    # The peers that are absent show dark pictures, in which the fake model is less sure.
    assert found["presence"] == 100
    assert (found["recall"], found["precision"]) == (100, 100)


def test_a_variant_of_the_decoder_differs_in_its_graph_alone(tmp_path):
    """A look takes windows from the whole picture and from its smaller levels, a glance from these."""
    samplings, weights = {}, {}
    for variant in (decoder.AS_IT_IS, "one look"):
        path = tmp_path / "variant.onnx"
        decoder.export_variant(shipped_model(TRAINABLE_MODEL), variant, path)
        graph = onnx.load(path).graph
        samplings[variant] = sum(node.op_type == "GridSample" for node in graph.node)
        weights[variant] = {
            one.name: one.raw_data for one in graph.initializer if one.name.startswith("fine.")
        }
    assert samplings == {decoder.AS_IT_IS: 5, "one look": 3}
    assert weights[decoder.AS_IT_IS] == weights["one look"] != {}


def test_the_plain_loss_is_decoded_as_in_the_paper(monkeypatch):
    """Place and scale about the maximum of attention, bearing and LEDs under all of it."""
    location = torch.full((1, 3, 4, 8), -50.0)
    location[0, 1, 2, 5], location[0, 0, 2, 6], location[0, 2, 0, 0] = np.log([0.5, 0.25, 0.25])
    bearing, leds = torch.zeros(1, 3, 2, 4, 8), torch.zeros(1, 3, 4, 4, 8)
    bearing[..., 0, 2, :], bearing[..., 1, 0, :] = 0.8, -0.8
    leds[..., 0, 0, :] = 50.0
    maps = CoarseMaps(location, bearing, leds, torch.zeros(1, 3, 4, 8))
    network = PeerNetwork(leds=4)
    monkeypatch.setattr(network, "coarse_maps", lambda levels: maps)
    uv, log2_scale, psi, probability = learning.under_attention(network, torch.zeros(1, 64, 128, 3))
    assert uv[0].tolist() == pytest.approx([7.5 + 16 * (5 + 1 / 3), 7.5 + 16 * 2], abs=1e-3)
    assert float(log2_scale[0]) == pytest.approx(-5 / 3)  # two thirds at 1/4, a third at 1/2
    assert psi[0].tolist() == pytest.approx([0.6, -0.2])
    assert probability[0].tolist() == pytest.approx([0.625, 0.5, 0.5, 0.5])


def test_the_plain_loss_plans_the_steps_that_there_is_time_for(tmp_path, monkeypatch):
    """Its learning rate falls with them; at a second each there is time for 60 a minute."""
    write_toy_recording(tmp_path / "toy.h5", count=4)
    data = loading.load_recordings([tmp_path / "toy.h5"])
    now = [0.0]

    def train_step(trainer):
        now[0] += 1
        trainer.step += 1
        return 0.0, {}

    monkeypatch.setattr(learning.Trainer, "train_step", train_step)
    monkeypatch.setattr(learning, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def planned(minutes: float, **options: int) -> tuple[int, int]:
        learning.learn(data, learning.PLAIN, minutes, 9.0, 0, lambda *_: GOOD, tmp_path / "kept", **options)
        state = load_checkpoint(tmp_path / "kept" / "checkpoint.pt")
        return state["preset"]["phases"][0]["steps"], state["step"]

    assert planned(0.5) == (30, 30)
    assert planned(3) == (180, 180)
    assert planned(3, steps=7) == (7, 7)


@pytest.mark.parametrize("method", [learning.OURS, learning.PLAIN, learning.COARSE])
def test_learning_is_measured_at_intervals_and_at_the_end(tmp_path, method, capsys):
    write_toy_recording(tmp_path / "toy.h5", count=4)
    data = loading.load_recordings([tmp_path / "toy.h5"])
    asked = []

    def scored(network, answer):
        asked.append(answer)
        return GOOD

    kept = tmp_path / "kept" / method
    rows = learning.learn(data, method, minutes=0.02, every=0.0005, seed=0, scored=scored, keep=kept)
    assert load_checkpoint(kept / "checkpoint.pt")["step"] > 0
    assert len(rows) == len(asked) >= 2 and set(asked) == {learning.method_named(method).answer}
    assert 0.0005 <= rows[0][0] <= rows[-1][0]
    learning.draw({method: rows}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 0


def test_methods_go_on_from_a_checkpoint(tmp_path):
    write_toy_recording(tmp_path / "toy.h5", count=4)
    data = loading.load_recordings([tmp_path / "toy.h5"])

    def train(method: str, steps: int, begun: Path | None = None) -> Path:
        learning.learn(data, method, 1.0, 1.0, 0, lambda *_: GOOD, tmp_path / method, steps, begun)
        return tmp_path / method / "checkpoint.pt"

    begun = train(learning.OURS, steps=2)
    assert load_checkpoint(begun)["step"] == 2
    assert load_checkpoint(train("ours without pairs", steps=3, begun=begun))["step"] == 5


def test_the_plain_loss_goes_on_from_no_checkpoint_of_ours(tmp_path):
    words = [str(tmp_path / "toy.h5"), "--from", str(tmp_path / "checkpoint.pt")]
    for methods in (
        [],
        ["--method", learning.PLAIN],
        ["--method", learning.OURS, "--method", learning.PLAIN],
    ):
        with pytest.raises(LedposeError, match="--from goes on with ours"):
            learning.run(learning.make_parser().parse_args([*words, *methods]))


def test_a_checkpoint_to_go_on_from_is_not_overwritten(tmp_path):
    kept = tmp_path / "kept"
    begun = kept / learning.OURS / "checkpoint.pt"
    words = [str(tmp_path / "toy.h5"), "--from", str(begun), "--keep", str(kept), "--method", learning.OURS]
    with pytest.raises(LedposeError, match="would overwrite"):
        learning.run(learning.make_parser().parse_args(words))


def test_figures_of_earlier_runs_are_shown_together(tmp_path, capsys):
    files = []
    for seed in (0, 1):
        files.append(tmp_path / f"{seed}.json")
        rows = accuracy.as_json({f"ours, seed {seed}": {"5.00": GOOD, "9.50": BAD}})
        files[-1].write_text(json.dumps(rows))
    words = [
        "--with",
        *map(str, files),
        "--plot",
        str(tmp_path / "plot.png"),
        "--json",
        str(tmp_path / "all.json"),
    ]
    learning.run(learning.make_parser().parse_args(words))
    out = capsys.readouterr().out
    assert all(f"ours, seed {seed}, {minute} min" in out for seed in (0, 1) for minute in ("5.0", "9.5"))
    assert (tmp_path / "plot.png").stat().st_size > 0
    learning.run(learning.make_parser().parse_args(["--with", str(tmp_path / "all.json")]))
    assert capsys.readouterr().out == out
    with pytest.raises(LedposeError, match="nothing to show"):
        learning.run(learning.make_parser().parse_args([]))


def test_files_that_cannot_be_written_are_refused_before_anything_is_measured(tmp_path, capsys):
    for path in (tmp_path, tmp_path / "absent" / "all.json"):
        with pytest.raises(SystemExit):
            learning.make_parser().parse_args(["--json", str(path)])
        assert f"{path} cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ours without pairs, pears", "'pears' is no part; parts are .*pairs"),
        ("theirs", "'theirs' is neither"),
    ],
)
def test_methods_that_are_none_are_refused(name, sentence):
    with pytest.raises(argparse.ArgumentTypeError, match=sentence):
        learning.method_argument(name)


@pytest.mark.parametrize(
    "method",
    [
        *learning.BOTH,
        *(f"{learning.WITHOUT}{part}" for part in parts.PARTS),
        "ours without pairs, dark first",
    ],
)
def test_parts_left_out_are_left_out_for_that_method_alone(tmp_path, method, monkeypatch):
    changes = [change for part in learning.method_named(method).without for change in parts.PARTS[part]]
    before = [getattr(module, name) for module, name, _ in changes]
    during = []
    step = learning.Trainer.train_step

    def looking(trainer):
        during.append([getattr(module, name) for module, name, _ in changes])
        return step(trainer)

    monkeypatch.setattr(learning.Trainer, "train_step", looking)
    write_toy_recording(tmp_path / "toy.h5", count=4)
    data = loading.load_recordings([tmp_path / "toy.h5"])
    learning.learn(data, method, minutes=0.005, every=1, seed=0, scored=lambda *_: GOOD)
    assert during and all(seen == [value for *_, value in changes] for seen in during)
    assert before == [getattr(module, name) for module, name, _ in changes]
    assert all(old != new for old, (*_, new) in zip(before, changes, strict=True))


def test_without_the_marginal_likelihood_the_loss_is_the_expected_one():
    """Of two places with losses of 1 and 3, looked at in the ratio of 3 to 1: 1.5."""
    location = torch.tensor([3.0, 1.0]).log().view(1, 1, 1, 2)
    maps = CoarseMaps(location, torch.zeros(1, 1, 2, 1, 2), torch.zeros(1, 1, 4, 1, 2), location)
    cross_entropy = torch.tensor([[0.25] * 4, [0.75] * 4]).T.view(1, 1, 4, 1, 2)
    with parts.left_out(["marginal likelihood"]):
        loss, weights = objective.location_loss(maps, cross_entropy)
    assert float(loss) == pytest.approx(1.5)
    assert weights.flatten().tolist() == pytest.approx([0.75, 0.25])
