# SPDX-License-Identifier: Apache-2.0
"""Loss, augmentation, trainer and export, on a toy world."""

import errno
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from toy import HEIGHT, WIDTH, toy_sample, write_toy_recording

from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import PeerEstimator
from ledpose_ros.images import encode_image
from ledpose_ros.leds import DEFAULT_LED_DIRECTIONS
from ledpose_ros.recording import Recording
from ledpose_ros.recording_check import SMALLEST_SIDE

torch = pytest.importorskip("torch")

from ledpose_ros.cli import main  # noqa: E402
from ledpose_ros.learning import augmentation, dataset, loss, mixed_precision, verdicts  # noqa: E402
from ledpose_ros.learning.dataset import batch_indices, digest, load_recordings  # noqa: E402
from ledpose_ros.learning.network import (  # noqa: E402
    MAX_PEAKS,
    SCALES,
    STRIDE,
    CoarseMaps,
    PeerNetwork,
    Pyramid,
    cut_windows,
    image_pyramid,
    sample_pixels,
    shadowed,
    window_side,
    worthy,
)
from ledpose_ros.learning.trainer import (  # noqa: E402
    CHECKPOINT_NAME,
    PRESETS,
    Phase,
    Preset,
    Trainer,
    _moving_average,
    load_checkpoint,
    network_from_checkpoint,
)

DIRECTIONS = torch.tensor(DEFAULT_LED_DIRECTIONS, dtype=torch.float32)
SHORT = Preset(
    (Phase("warm-up", 1), Phase("search", 1), Phase("align", 1), Phase("look", 1), Phase("joint", 2)),
    learning_rate=1e-3,
)

from ledpose_ros.learning.windows import (  # noqa: E402
    BALANCED,
    CROP_CELLS,
    Windows,
    _averaged_over_clips,
    _balanced,
    _on_floor,
    cut_crops,
    estimate_windows,
    pictures_beside,
)

# Toy images are too small to share among threads.
torch.set_num_threads(1)


def maps_with(location, bearing, leds) -> CoarseMaps:
    """Maps of one image and one scale, a row of cells: location (w,), bearing (w, 2), leds (w, K)."""
    return CoarseMaps(
        torch.tensor(location).view(1, 1, 1, -1),
        torch.tensor(bearing).T.reshape(1, 1, 2, 1, -1),
        torch.tensor(leds).T.reshape(1, 1, len(leds[0]), 1, -1),
        torch.zeros(1, 1, 1, len(location)),
    )


def test_visibility_prefers_the_led_that_faces_the_camera():
    weights = loss.visibility(torch.tensor([[0.0, 1.0]]), DIRECTIONS)[0]
    expected = np.exp(loss.VISIBILITY_SHARPNESS * np.array([0, 1, 0, -1]))
    np.testing.assert_allclose(weights.numpy(), expected / expected.sum(), rtol=1e-5)


def test_visibility_of_an_unknown_bearing_is_flat():
    np.testing.assert_allclose(loss.visibility(torch.zeros(1, 2), DIRECTIONS).numpy(), 0.25)


def test_expected_loss_of_a_hand_worked_case():
    # All attention on the first cell, which knows nothing: ln 2 whatever the visibility.
    maps = maps_with([50.0, 0.0], [[1.0, 0.0], [1.0, 0.0]], [[0.0] * 4, [9.0] * 4])
    assert float(loss.expected_loss(maps, torch.zeros(1, 4), DIRECTIONS)) == pytest.approx(
        math.log(2), rel=1e-4
    )


def test_location_loss_posterior_is_where_all_leds_are_explained():
    states = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    right = [4.0, -4.0, 4.0, -4.0]
    half = [4.0, -4.0, -4.0, 4.0]
    maps = maps_with([0.0, 0.0, 0.0], [[0.0, 0.0]] * 3, [half, right, [0.0] * 4])
    value, posterior = loss.location_loss(maps, loss.coarse_cross_entropy(maps, states))
    assert posterior.flatten().argmax() == 1 and posterior.flatten()[1] > 0.9
    likelihoods = [np.prod(1 / (1 + np.exp(-np.array(x)))) for x in ([4, 4, -4, -4], [4] * 4, [0] * 4)]
    assert float(value) == pytest.approx(-math.log(np.mean(likelihoods)), rel=1e-4)


def test_mirrored_image_swaps_left_and_right():
    leds = augmentation.mirrored_leds(np.asarray(DEFAULT_LED_DIRECTIONS))
    assert leds == [0, 3, 2, 1]
    chosen = torch.tensor([True, False])
    states = augmentation.mirror_states(torch.tensor([[1.0, 1, 0, 0]] * 2), leds, chosen)
    assert states.tolist() == [[1, 0, 0, 1], [1, 1, 0, 0]]
    images = torch.arange(2 * 2 * 3 * 3, dtype=torch.uint8).view(2, 2, 3, 3)
    mirrored = augmentation.mirror_images(images, chosen)
    assert torch.equal(mirrored[0], images[0].flip(1)) and torch.equal(mirrored[1], images[1])


def test_asymmetric_leds_are_never_mirrored():
    assert augmentation.mirrored_leds(np.array([0.0, 1.0, 3.0])) is None


def test_sampled_pixels_are_those_of_the_image():
    image = torch.randint(0, 255, (2, 5, 7, 3), dtype=torch.uint8)
    points = torch.tensor([[[3.0, 2.0], [0.5, 0.0], [-9.0, 0.0]]] * 2)
    sampled = sample_pixels(image, points)
    scaled = image.float() / 127.5 - 1
    torch.testing.assert_close(sampled[1, :, 0], scaled[1, 2, 3])
    torch.testing.assert_close(sampled[0, :, 1], (scaled[0, 0, 0] + scaled[0, 0, 1]) / 2)
    assert torch.all(sampled[:, :, 2] == 0)


@pytest.mark.parametrize("cells", [64, 32])
@pytest.mark.parametrize("log2_scale", [-0.7, -2.0, -2.6])
def test_window_shows_its_centre_at_any_scale(log2_scale, cells):
    image = np.zeros((1, 360, 640, 3), np.uint8)
    side = float(window_side(torch.tensor(log2_scale)))
    u, v, quarter = 400.0, 150.0, side / 4
    rows, columns = np.mgrid[:360, :640]
    image[0, (abs(rows - v) < quarter) & (abs(columns - u) < quarter)] = 255
    pyramid = image_pyramid(torch.from_numpy(image))
    window = cut_windows(
        pyramid, torch.tensor([[[u, v]]]), torch.tensor([[log2_scale]]), cells, resolution=cells
    )[0, 0]
    bright = (window > 0).nonzero().float()
    assert window.shape == (cells, cells)
    np.testing.assert_allclose(bright.mean(0).numpy(), cells / 2 - 0.5, atol=0.6)
    assert len(bright) == pytest.approx((cells / 2) ** 2, rel=0.12)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_beyond_the_picture_is_grey_on_all_levels(level):
    """Levels lie one below the other in memory, and the size is odd: nothing of another one may be seen."""
    image = torch.full((2, 117, 213, 3), 255, dtype=torch.uint8)
    side = 64.0 * 2**level
    log2_scale = torch.full((2, 4), -math.log2(side / float(window_side(torch.tensor(0.0)))))
    corners = torch.tensor([[0.0, 0.0], [213.0, 0.0], [0.0, 117.0], [213.0, 117.0]]) - 0.5
    windows = cut_windows(image_pyramid(image), corners.expand(2, 4, 2), log2_scale).view(2, 4, 3, 64, 64)
    for index, (left, above) in enumerate([(False, False), (True, False), (False, True), (True, True)]):
        rows, columns = (slice(0, 34) if before else slice(30, 64) for before in (above, left))
        beyond = torch.ones(64, 64, dtype=torch.bool)
        beyond[rows, columns] = False
        assert windows[:, index, :, beyond].abs().max() < 1e-4
        inside = windows[:, index, :, 28 if above else 36, 28 if left else 36]
        torch.testing.assert_close(inside, torch.ones(2, 3))


def test_an_epoch_goes_through_all_samples_in_a_new_order():
    first, second = (
        np.concatenate([batch_indices(np.arange(9), [0, 9], 3, 1, step) for step in range(start, start + 3)])
        for start in (0, 3)
    )
    assert sorted(first) == sorted(second) == list(range(9))
    assert list(first) != list(second)


def test_training_never_opens_the_ground_truth(tmp_path):
    """Neither a true pose nor the lack of one changes a bit of the model, and what cannot be read is not."""
    models = []
    for name, with_ground_truth in (("with", True), ("without", False)):
        write_toy_recording(tmp_path / f"{name}.h5", 8, with_ground_truth=with_ground_truth)
        if with_ground_truth:
            with h5py.File(tmp_path / f"{name}.h5", "r+") as file:
                # Anything that opens this link fails.
                del file["ground_truth"]
                file["ground_truth"] = h5py.ExternalLink("nowhere.h5", "/")
        data = load_recordings([tmp_path / f"{name}.h5"])
        trainer = Trainer(data, tmp_path / name, SHORT, seed=3)
        trainer.run()
        models.append(load_checkpoint(tmp_path / name / "checkpoint.pt")["average"])
    for key, weight in models[0].items():
        assert torch.equal(weight, models[1][key]), key


def test_resume_continues_to_the_bit_wherever_it_stopped(tmp_path):
    steps = {"warm-up": 1, "search": 1, "align": 2, "look": 2, "joint": 2, "glance": 2}
    phases = [Phase(kind, count) for kind, count in steps.items()]
    preset = Preset(tuple(phases), learning_rate=1e-3)
    write_toy_recording(tmp_path / "toy.h5", 12)
    data = load_recordings([tmp_path / "toy.h5"])
    whole = Trainer(data, tmp_path / "run", preset)
    whole.directory.mkdir()
    whole.network.train()
    for step in range(preset.steps):
        whole.save()
        (whole.directory / CHECKPOINT_NAME).rename(tmp_path / f"{step}.pt")
        whole.train_step()
    for step in range(1, preset.steps):
        resumed = Trainer(data, tmp_path / f"from_{step}", preset)
        resumed.directory.mkdir()
        (tmp_path / f"{step}.pt").rename(resumed.directory / CHECKPOINT_NAME)
        resumed.resume()
        assert resumed.run()
        for one, other in ((whole.network, resumed.network), (whole.average, resumed.average)):
            for name, weight in one.state_dict().items():
                assert torch.equal(weight, other.state_dict()[name]), (step, name)


def spoil(parts: str, monkeypatch) -> None:
    """From now on the loss is NaN, or its gradients are, though it is finite itself."""
    calculate = Trainer._loss

    def spoilt(trainer: Trainer) -> tuple[torch.Tensor, dict]:
        loss, said = calculate(trainer)
        if parts == "loss":
            return loss * math.nan, said
        loss.register_hook(lambda gradient: gradient * math.nan)
        return loss, said

    monkeypatch.setattr(Trainer, "_loss", spoilt)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_numbers_that_are_none_stop_training_before_they_spoil_the_checkpoint(tmp_path, monkeypatch, what):
    write_toy_recording(tmp_path / "toy.h5", 12)
    data = load_recordings([tmp_path / "toy.h5"])
    trainer = Trainer(data, tmp_path / "run", SHORT)
    trainer.directory.mkdir()
    trainer.network.train()
    trainer.train_step()
    monkeypatch.setattr("ledpose_ros.learning.trainer.SAVE_PERIOD", 1)
    spoil(what, monkeypatch)
    with pytest.raises(LedposeError, match=f"{what} became nan at step 1: .*there was no checkpoint yet"):
        trainer.run()
    trainer.save()
    with pytest.raises(LedposeError, match=r"checkpoint\.pt is the last good checkpoint"):
        trainer.run()
    weights = load_checkpoint(tmp_path / "run" / CHECKPOINT_NAME)["network"]
    assert all(weight.isfinite().all() for weight in weights.values())


def test_an_interrupt_ends_training_after_the_step_and_leaves_a_checkpoint(tmp_path, monkeypatch, capsys):
    recording = tmp_path / "toy.h5"
    write_toy_recording(recording, 50)
    trainer = Trainer(load_recordings([recording]), tmp_path / "run", SHORT)
    calculate = Trainer._loss

    def interrupted(trainer: Trainer) -> tuple[torch.Tensor, dict]:
        if trainer.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return calculate(trainer)

    monkeypatch.setattr(Trainer, "_loss", interrupted)
    assert not trainer.run()
    assert load_checkpoint(tmp_path / "run" / CHECKPOINT_NAME)["step"] == 3
    # What would follow in a script must not take the model for a finished one.
    assert main(["train", str(recording), "-o", str(tmp_path / "command"), "--steps", "5"]) == 130
    assert "Stopped at step 3 of 5; continue with --resume." in capsys.readouterr().out
    assert (tmp_path / "command" / "model.onnx").is_file()


def test_mixed_precision_learns_the_same(tmp_path, monkeypatch):
    """bfloat16, of GPUs and some processors, is known to all processors, if slowly."""
    write_toy_recording(tmp_path / "toy.h5", 12)
    data = load_recordings([tmp_path / "toy.h5"])
    preset = Preset((Phase("expected", 1), *SHORT.phases, Phase("glance", 6)), SHORT.learning_rate)

    def losses(directory: Path, mixed: bool) -> list[float]:
        monkeypatch.setattr(mixed_precision, "has_bfloat16", lambda device: mixed)
        trainer = Trainer(data, directory, preset)
        trainer.network.train()
        return [trainer.train_step()[0] for _ in range(preset.steps)]

    exact, mixed = losses(tmp_path / "exact", False), losses(tmp_path / "mixed", True)
    assert mixed != exact
    np.testing.assert_allclose(mixed, exact, rtol=0.1)


@pytest.mark.parametrize(
    ("capabilities", "faster"),
    [
        ({"avx512_f": True, "avx512_bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False}, False),
        (None, False),
    ],
)
def test_bfloat16_is_for_processors_that_are_made_for_it(monkeypatch, capabilities, faster):
    if capabilities is None:  # a PyTorch that cannot tell
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert mixed_precision.has_bfloat16(torch.device("cpu")) == faster


@pytest.mark.parametrize("really", [True, False])
def test_bfloat16_is_not_for_gpus_that_only_imitate_it(monkeypatch, really):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: really or including_emulation
    )
    assert mixed_precision.has_bfloat16(torch.device("cuda")) == really


def test_resume_refuses_other_recordings(tmp_path):
    write_toy_recording(tmp_path / "a.h5", 8)
    write_toy_recording(tmp_path / "b.h5", 8, seed=1)
    trainer = Trainer(load_recordings([tmp_path / "a.h5"]), tmp_path / "run", SHORT)
    trainer.run()
    other = Trainer(load_recordings([tmp_path / "b.h5"]), tmp_path / "run", SHORT)
    with pytest.raises(LedposeError, match="digests"):
        other.resume()
    level = Trainer(load_recordings([tmp_path / "a.h5"], level=True), tmp_path / "run", SHORT)
    with pytest.raises(LedposeError, match="had level False, this one has True"):
        level.resume()
    trainer.device = torch.device("cuda")
    with pytest.raises(LedposeError, match="had device cpu, this one has cuda"):
        trainer.resume()


def test_resume_refuses_leds_of_other_names(tmp_path):
    """States are the same, but what the model calls them would be wrong from here on."""
    write_toy_recording(tmp_path / "toy.h5", 8)
    Trainer(load_recordings([tmp_path / "toy.h5"]), tmp_path / "run", SHORT).run()
    with h5py.File(tmp_path / "toy.h5", "r+") as file:
        file.attrs["led_names"] = ["nose", "left", "back", "right"]
    renamed = Trainer(load_recordings([tmp_path / "toy.h5"]), tmp_path / "run", SHORT)
    with pytest.raises(LedposeError, match=r"had led_names \['front', .*this one has \['nose'"):
        renamed.resume()


def test_a_checkpoint_that_cannot_be_written_is_said_and_the_last_one_stays(tmp_path):
    write_toy_recording(tmp_path / "toy.h5", 8)
    trainer = Trainer(load_recordings([tmp_path / "toy.h5"]), tmp_path / "run", SHORT)
    trainer.run()
    path = tmp_path / "run" / CHECKPOINT_NAME
    before = path.read_bytes()
    path.with_suffix(".part").symlink_to("/dev/full")
    with pytest.raises(LedposeError, match=f"cannot write the checkpoint {path}: "):
        trainer.save()
    assert path.read_bytes() == before and not path.with_suffix(".part").is_symlink()


def test_resume_refuses_the_same_recordings_in_another_order(tmp_path):
    for folder, seed in (("one", 0), ("two", 1)):
        (tmp_path / folder).mkdir()
        write_toy_recording(tmp_path / folder / "same_name.h5", 8, seed=seed)
    paths = [tmp_path / folder / "same_name.h5" for folder in ("one", "two")]
    Trainer(load_recordings(paths), tmp_path / "run", SHORT).run()
    with pytest.raises(LedposeError, match="in the same order"):
        Trainer(load_recordings(paths[::-1]), tmp_path / "run", SHORT).resume()
    turned = replace(load_recordings(paths), led_directions=np.array([0.1, 1.6, 3.1, -1.6]))
    with pytest.raises(LedposeError, match="had led_directions"):
        Trainer(turned, tmp_path / "run", SHORT).resume()


def test_a_camera_of_no_use_is_refused_where_it_is_needed(tmp_path):
    write_toy_recording(tmp_path / "toy.h5", 4)
    with h5py.File(tmp_path / "toy.h5", "r+") as file:
        file.attrs["distortion_model"], file.attrs["D"] = "fisheye", np.full(4, 0.1)
    assert len(load_recordings([tmp_path / "toy.h5"])) == 4
    with pytest.raises(LedposeError, match="level camera: the distortion model 'fisheye' is unknown"):
        load_recordings([tmp_path / "toy.h5"], level=True)


def resident_files() -> int:
    """How many files without a name this process has mapped."""
    return sum(line.endswith("(deleted)") for line in Path("/proc/self/maps").read_text().splitlines())


def test_pictures_that_memory_does_not_hold_lie_in_a_file(tmp_path, monkeypatch):
    write_toy_recording(tmp_path / "toy.h5", 12)
    held = load_recordings([tmp_path / "toy.h5"])
    monkeypatch.setattr("ledpose_ros.learning.dataset.MEMORY_SHARE", 0)
    spilt = load_recordings([tmp_path / "toy.h5"], tmp_path)
    assert isinstance(spilt.pictures[0].images, np.memmap)
    np.testing.assert_array_equal(spilt.pictures[0].images, held.pictures[0].images)
    peaks = torch.full((12, 2), 60.0), torch.full((12,), -0.5)
    windows = Windows(*peaks, torch.ones(12), torch.zeros(12, 2), *peaks)
    before = resident_files()
    in_files, in_memory = (cut_crops(data, windows, seed=(0, 0)).peer for data in (spilt, held))
    assert torch.equal(in_files, in_memory)
    assert resident_files() == before + 1, "crops lie in a file, too"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.h5"], "the file has no name"


def test_recordings_of_two_sizes_train_together(tmp_path):
    write_toy_recording(tmp_path / "small.h5", 9)
    write_toy_recording(tmp_path / "large.h5", 7, seed=1, size=(320, 200))
    data = load_recordings([tmp_path / "large.h5", tmp_path / "small.h5"], level=True)
    assert [part.images.shape[1:3] for part in data.pictures] == [(136, 240), (200, 320)]
    assert [name for name, _ in data.digests] == ["small.h5", "large.h5"]
    assert [members.tolist() for members in data.same_camera()] == [list(range(9)), list(range(9, 16))]
    assert Trainer(data, tmp_path / "run", SHORT).run()


def test_more_processes_than_pictures_are_refused(tmp_path):
    write_toy_recording(tmp_path / "toy.h5", 1)
    with pytest.raises(LedposeError, match="fewer pictures than there are processes"):
        load_recordings([tmp_path / "toy.h5"], share=(0, 2))


def test_a_foreign_checkpoint_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(LedposeError, match="not a readable checkpoint"):
        load_checkpoint(path)
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(LedposeError, match="not a checkpoint of this version"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_a_scaled_preset_has_the_steps_asked_for(name, steps):
    scaled = PRESETS[name].scaled(steps)
    assert scaled.steps == steps
    assert [phase.kind for phase in scaled.phases] == [phase.kind for phase in PRESETS[name].phases]


@pytest.mark.parametrize(("steps", "glances"), [(1000, 79), (1600, 800), (9000, 800), (20200, 1600)])
def test_a_shorter_preset_keeps_the_glances_that_make_them_of_use(steps, glances):
    scaled = PRESETS["cpu"].scaled(steps)
    assert scaled.steps == steps and scaled.phases[-1] == Phase("glance", glances)
    shares = [phase.steps / scaled.labelled_steps for phase in scaled.phases[:-1]]
    whole = [phase.steps / PRESETS["cpu"].labelled_steps for phase in PRESETS["cpu"].phases[:-1]]
    np.testing.assert_allclose(shares, whole, atol=1 / scaled.labelled_steps)


def test_recordings_follow_each_other_in_memory(tmp_path):
    write_toy_recording(tmp_path / "a.h5", 3)
    write_toy_recording(tmp_path / "b.h5", 5, seed=1)
    both = load_recordings([tmp_path / "a.h5", tmp_path / "b.h5"])
    second = load_recordings([tmp_path / "b.h5"])
    assert len(both) == 8
    np.testing.assert_array_equal(both.led_states[3:], second.led_states)
    for name in ("images", "halves"):
        np.testing.assert_array_equal(getattr(both.pictures[0], name)[3:], getattr(second.pictures[0], name))


def test_a_picture_alone_in_its_size_is_learned_from(tmp_path):
    write_toy_recording(tmp_path / "many.h5", 3)
    write_toy_recording(tmp_path / "one.h5", 1, size=(64, 64))
    data = load_recordings([tmp_path / "many.h5", tmp_path / "one.h5"])
    phases = tuple(Phase(kind, 2) for kind in ("warm-up", "search", "align", "joint", "glance"))
    assert Trainer(data, tmp_path / "run", Preset(phases, 1e-3)).run()


@pytest.mark.parametrize("refine", [False, True])
def test_every_image_gets_a_window_within_reach(tmp_path, refine):
    write_toy_recording(tmp_path / "toy.h5", 5)
    data = load_recordings([tmp_path / "toy.h5"])
    torch.manual_seed(0)
    windows = estimate_windows(PeerNetwork(), data, torch.device("cpu"), refine)
    assert windows.uv.shape == windows.rival_uv.shape == (5, 2)
    assert windows.log2_scale.shape == windows.trust.shape == (5,)
    assert torch.all((windows.trust > 0) & (windows.trust <= 1))
    if not refine:
        assert torch.all((windows.uv > 0) & (windows.uv < torch.tensor([WIDTH, HEIGHT])))


def toy_windows(centres, trust) -> Windows:
    """Windows of 48 px around the toy robots, dark squares of 24 px; the rivals lie in the image's corner."""
    count = len(centres)
    log2_scale = torch.full((count,), math.log2(window_side(torch.tensor(0.0)) / 48))
    uv = torch.from_numpy(centres).float()
    nothing = torch.zeros(count, 2)
    return Windows(uv, log2_scale, torch.as_tensor(trust), nothing, nothing, log2_scale)


def test_a_new_estimate_keeps_the_median_size(tmp_path):
    centres = write_toy_recording(tmp_path / "toy.h5", 5)
    data = load_recordings([tmp_path / "toy.h5"])
    torch.manual_seed(0)
    last = toy_windows(centres, [1.0] * 5)
    windows = estimate_windows(PeerNetwork(), data, torch.device("cpu"), True, last)
    assert float(windows.log2_scale.median()) == pytest.approx(float(last.log2_scale.median()), abs=1e-5)


def test_crops_show_the_window_and_repeat_with_the_seed(tmp_path):
    centres = write_toy_recording(tmp_path / "toy.h5", 6)
    data = load_recordings([tmp_path / "toy.h5"])
    windows = toy_windows(centres, torch.arange(6) / 10)
    crops = cut_crops(data, windows, seed=(1, 2))
    side = window_side(windows.log2_scale)[:, None]
    edge = torch.minimum(windows.uv, torch.tensor([WIDTH - 1, HEIGHT - 1]) - windows.uv)
    assert crops.whole.tolist() == (edge > 0.3 * side).all(1).float().tolist()
    middle = slice(CROP_CELLS // 2 - 2, CROP_CELLS // 2 + 2)
    assert crops.peer[:, :, middle, middle].float().mean() < 60 < crops.peer[:, :, 2:8, 2:8].float().mean()
    again, other = cut_crops(data, windows, seed=(1, 2)), cut_crops(data, windows, seed=(1, 3))
    assert torch.equal(crops.elsewhere, again.elsewhere) and not torch.equal(crops.elsewhere, other.elsewhere)
    assert windows.trusted().tolist() == [2, 3, 4, 5]
    mostly_none = replace(windows, trust=torch.tensor([0, 0, 0.3, 0, 0, 0.2]))
    assert mostly_none.trusted().tolist() == [2, 5], "those of no trust are not learned from"
    assert len(replace(windows, trust=torch.zeros(6)).trusted()) == 6


def test_parts_of_the_peer_count_as_elsewhere(tmp_path, monkeypatch):
    centres = write_toy_recording(tmp_path / "toy.h5", 6)
    data = load_recordings([tmp_path / "toy.h5"])
    monkeypatch.setattr("ledpose_ros.learning.windows.RIVALS", 0.0)
    monkeypatch.setattr("ledpose_ros.learning.windows.PARTS", 1.0)
    crops = cut_crops(data, toy_windows(centres, torch.ones(6)), seed=(1, 2))
    assert crops.away.tolist() == [1.0] * 6
    # A window that shows but a part of the dark robot is darker than the peer's own.
    own = crops.peer[:, :, 48:112, 48:112].float().mean((1, 2, 3))
    assert (crops.elsewhere.float().mean((1, 2, 3)) < own).all()


def test_clips_average_neighbours_and_nothing_else(tmp_path):
    write_toy_recording(tmp_path / "a.h5", 3)
    write_toy_recording(tmp_path / "b.h5", 2)
    data = load_recordings([tmp_path / "a.h5", tmp_path / "b.h5"])
    values = torch.arange(5.0)[:, None]
    still = toy_windows(np.full((5, 2), 60.0), [1.0] * 5)
    averaged = _averaged_over_clips(values, data, still)[:, 0]
    # Pictures of 0.1 s apart in one place are a clip; the second recording begins at the fourth.
    assert averaged[1] == pytest.approx(1) and 0.5 < averaged[0] < 1 and 3.3 < averaged[3] < 3.5
    apart = toy_windows(np.arange(10).reshape(5, 2) * 200.0, [1.0] * 5)
    torch.testing.assert_close(_averaged_over_clips(values, data, apart), values)


@pytest.mark.parametrize(("count", "found"), [(120, 1.0), (120, 0.6), (40, 1.0)])
def test_pictures_that_are_no_film_are_not_averaged(tmp_path, count, found):
    """A robot that stands on one of four places: by chance in each picture, or for six pictures each.

    Elsewhere than `found`, windows are anywhere, and hardly trusted.
    """
    write_toy_recording(tmp_path / "toy.h5", count)
    data = load_recordings([tmp_path / "toy.h5"])
    random = np.random.default_rng(0)
    values = torch.from_numpy(random.random((count, 1))).float()
    places = np.array([[20.0, 20], [100, 20], [20, 80], [100, 80]])
    lost = random.random(count) > found
    trust = np.where(lost, 0.1, 1.0).astype(np.float32)
    by_chance, film = (
        toy_windows(np.where(lost[:, None], random.uniform(0, 100, (count, 2)), places[chosen]), trust)
        for chosen in (random.integers(4, size=count), np.arange(count) // 6 % 4)
    )
    torch.testing.assert_close(_averaged_over_clips(values, data, by_chance), values)
    averaged = _averaged_over_clips(values, data, film)
    assert averaged[~lost].std() < 0.75 * values[~lost].std()


def test_a_film_of_a_robot_that_turns_on_the_spot_is_averaged(tmp_path):
    write_toy_recording(tmp_path / "toy.h5", 40)
    data = load_recordings([tmp_path / "toy.h5"])
    values = torch.from_numpy(np.random.default_rng(0).random((40, 1))).float()
    windows = toy_windows(np.full((40, 2), 60.0), [1.0] * 40)
    assert _averaged_over_clips(values, data, windows).std() < 0.75 * values.std()


def test_an_led_that_is_hard_to_see_is_told_where_it_is_on_the_side_that_is_shown():
    """Half of the pictures show front and left, half back and left; little is told of the front anywhere."""
    told = torch.tensor([[0.15, 0.5, 0.02, 0.0], [0.02, 0.5, 0.9, 0.0]]).repeat(10, 1)
    windows = toy_windows(np.full((20, 2), 60.0), [1.0] * 20)
    balanced = _balanced(told, windows)
    front, back = balanced[0], balanced[1]
    assert front.argmax() == 0 and back.argmax() == 2 and front[0] > 2 * front[2]
    assert balanced.max() <= 1
    # Of the right side, which is never shown, nothing is told: that stays so.
    assert (balanced[:, 3] == 0).all()
    noise = told.clone()
    noise[0, 3] = 0.1
    assert _balanced(noise, windows)[0, 3] == pytest.approx(BALANCED * 0.1)


def test_an_led_that_is_seldom_on_is_not_told_by_who_guesses():
    states = (torch.arange(1000) % 10 == 0).float()[:, None]
    always_off = torch.full_like(states, math.log(0.1 / 0.9))
    cross_entropy = loss.led_cross_entropy(always_off, states).mean(0)
    guessed = torch.from_numpy(verdicts.guessing(states.numpy())).float()
    assert loss.told_share(cross_entropy, guessed) == pytest.approx(0, abs=1e-4)
    assert loss.told_share(cross_entropy / 4, guessed) == pytest.approx(0.75, abs=1e-4)


def test_bearing_faces_the_leds_that_can_be_told():
    """With front and left told alike and the others not at all, the best bearing lies between the two."""
    told = torch.tensor([[0.8, 0.8, 0.0, 0.0]])
    angles = torch.linspace(-math.pi, math.pi, 73)
    bearings = 0.9 * torch.stack([angles.cos(), angles.sin()], 1)
    losses = torch.stack([loss.bearing_loss(b[None], told, DIRECTIONS)[0] for b in bearings])
    assert float(angles[losses.argmin()]) == pytest.approx(math.pi / 4, abs=0.05)
    nothing = loss.bearing_loss(bearings, torch.zeros(73, 4), DIRECTIONS)
    assert torch.all(nothing == 0)


def test_pairs_ask_which_of_two_pictures_has_the_led_on():
    states = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])
    right, wrong = (torch.tensor([[[sign * 3.0, 9.0]], [[0.0, -9.0]]]) for sign in (1, -1))
    paired, alone = torch.ones(1), torch.zeros(1)
    assert float(loss.pair_loss(right, states, paired)) == pytest.approx(math.log(1 + math.exp(-3)))
    assert float(loss.pair_loss(wrong, states, paired)) == pytest.approx(math.log(1 + math.exp(3)))
    assert float(loss.pair_loss(wrong, states, alone)) == 0


def test_learning_finds_the_toy_robot(tmp_path):
    """From LED states alone the loss falls, and attention finds the robot far better than by chance."""
    write_toy_recording(tmp_path / "toy.h5", 1200)
    data = load_recordings([tmp_path / "toy.h5"])
    preset = Preset((Phase("warm-up", 50), Phase("search", 30)), learning_rate=4e-3)
    trainer = Trainer(data, tmp_path / "run", preset)
    trainer.network.train()
    locations = []
    while trainer.step < preset.steps:
        _, parts = trainer.train_step()
        locations.append(float(parts["location"]))
    assert np.mean(locations[-10:]) < 0.95 * np.mean(locations[:5])

    rng = np.random.default_rng(99)
    images, _, centres = zip(*(toy_sample(rng) for _ in range(64)), strict=True)
    network = trainer.network.eval()
    with torch.no_grad():
        attention = network(torch.from_numpy(np.stack(images)))[6]
    v, u = np.unravel_index(attention.flatten(1).argmax(1).numpy(), attention.shape[1:])
    errors = np.linalg.norm(16 * np.column_stack([u, v]) + 7.5 - np.array(centres), axis=1)
    chance = np.linalg.norm(np.array(centres) - np.mean(centres, axis=0), axis=1)
    assert np.median(errors) < 0.5 * np.median(chance)


def test_glances_learn_what_the_fine_network_sees_and_leave_it_as_it_is(tmp_path, monkeypatch):
    """The network for glances comes last; it takes over when it has learned long enough."""
    write_toy_recording(tmp_path / "toy.h5", 40)
    data = load_recordings([tmp_path / "toy.h5"])
    teacher = PeerNetwork()
    # It sees a peer everywhere.
    torch.nn.init.constant_(teacher.fine.head.bias[-1:], 4)
    preset = Preset((Phase("joint", 1), Phase("glance", 40)), learning_rate=1e-3)
    trainer = Trainer(data, tmp_path / "run", preset, initial=teacher)
    trainer.directory.mkdir()
    trainer.network.train()
    trainer.train_step()
    averaged = {name: weight.clone() for name, weight in trainer.average.module.state_dict().items()}
    losses = [trainer.train_step() for _ in range(40)]
    for part in ("shift/glance", "presence/glance"):
        values = [float(parts[part]) for _, parts in losses]
        assert np.mean(values[-5:]) < np.mean(values[:5]) - 0.1, part
    for network in (trainer.network, trainer.average.module):
        for name, weight in network.state_dict().items():
            same = torch.allclose(weight.float(), averaged[name].float(), rtol=1e-5, atol=1e-7)
            assert same != name.startswith("glance."), name
    trainer.save()
    assert not network_from_checkpoint(load_checkpoint(tmp_path / "run" / CHECKPOINT_NAME)).glances

    monkeypatch.setattr("ledpose_ros.learning.trainer.LEAST_GLANCES", 1)
    trainer = Trainer(data, tmp_path / "glances", PRESETS["glance"].scaled(1), initial=trainer.network)
    assert trainer.run()
    assert network_from_checkpoint(load_checkpoint(tmp_path / "glances" / CHECKPOINT_NAME)).glances


@pytest.mark.timeout(600)
def test_command_trains_exports_and_adapts(tmp_path, capsys, monkeypatch):
    """`ledpose train` leaves a model that the robot's estimator reads and that training can start from."""
    recording = tmp_path / "toy.h5"
    write_toy_recording(recording, 50)
    run = tmp_path / "run"
    assert main(["train", str(recording), "-o", str(run), "--steps", "2"]) == 0
    out = capsys.readouterr().out
    assert out.index("warning: 50 samples are few") < out.index("Training on 50 images")
    assert "too few for the network for glances, which needs 800" in out
    assert f"Wrote {run / 'report.html'}" in out and (run / "report.html").is_file()
    estimator = PeerEstimator(run / "model.onnx")
    assert estimator.metadata.calibration is None
    assert estimator.metadata.input_size == (WIDTH, HEIGHT)
    assert estimator.metadata.training["metrics"] == {}, "two steps are too few to log any"
    again = tmp_path / "again"
    arguments = ["train", str(recording), "-o", str(again), "--init", str(run / "model.onnx"), "--steps", "1"]
    assert main(arguments) == 0
    assert estimator.metadata.training["before"] is None
    assert PeerEstimator(again / "model.onnx").metadata.training["before"] == estimator.metadata.training
    assert main(["train", str(recording), "-o", str(run), "--steps", "2"]) == 2
    assert "--resume" in capsys.readouterr().err
    model = (run / "model.onnx").read_bytes()  # perhaps calibrated
    assert main(["train", str(recording), "-o", str(run), "--steps", "2", "--resume"]) == 2
    assert "all 2 steps are done already" in capsys.readouterr().err
    assert (run / "model.onnx").read_bytes() == model
    # Whatever ended the run before its last model and report were written, they can still be had.
    (run / "report.html").unlink()
    assert main(["train", str(recording), "-o", str(run), "--steps", "2", "--resume"]) == 0
    assert (run / "report.html").is_file() and (run / "model.onnx").read_bytes() == model
    shutil.copy(again / "model.onnx", run / "model.onnx")  # of another step
    assert main(["train", str(recording), "-o", str(run), "--steps", "2", "--resume"]) == 0
    assert PeerEstimator(run / "model.onnx").metadata.training["step"] == 2
    (again / "report.html").unlink()
    (again / "model.onnx").unlink()
    resumed = ["train", str(recording), "-o", str(again), "--steps", "1", "--resume"]
    assert main([*resumed, "--preset", "adapt"]) == 0
    assert PeerEstimator(again / "model.onnx").metadata.training["before"]["step"] == 2
    assert main(resumed) == 2  # without --init, which chose another preset
    assert "had preset joint 1, glance 0; learning rate 0.0005, this one has" in capsys.readouterr().err
    (tmp_path / "file").write_text("in the way")
    for options, words in (
        (["-o", str(again / "2"), "--seed", "-1"], "--seed -1: from 0 on, below 2^63, is needed"),
        (["-o", str(again / "2"), "--device", "foo"], "--device foo cannot be used"),
        (["-o", str(tmp_path / "file")], "file is a file, not a folder"),
        (["-o", str(again / "2"), "--preset", "glance"], "preset glance goes on from a model: add --init"),
        (["-o", str(again / "2"), "--resume"], "there is nothing to resume"),
        (
            ["-o", str(again / "2"), "--preset", "glance", "--init", str(run / "model.onnx")],
            "--steps 1: the network for glances needs 800, since",
        ),
    ):
        assert main(["train", str(recording), "--steps", "1", *options]) == 2
        error = capsys.readouterr().err
        assert words in error and "Traceback" not in error
    # Said before an hour is spent on decoding.
    monkeypatch.setattr(dataset, "load_recordings", lambda *_: pytest.fail("decoded"))
    arguments[3] = str(again / "3")
    for attribute, words in (("led_directions", "looks to"), ("led_names", "in the order")):
        with h5py.File(recording, "r+") as file:
            before = file.attrs[attribute]
            file.attrs[attribute] = np.roll(before, 1)
        assert main(arguments) == 2
        assert words in capsys.readouterr().err
        with h5py.File(recording, "r+") as file:
            file.attrs[attribute] = before


def test_a_picture_that_cannot_be_used_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "DECODED_AT_ONCE", 4)
    for wrong, words in (
        (
            encode_image(np.zeros((9, 7, 3), np.uint8), "png"),
            "sample 5 is 7x9, but its file tells another size",
        ),
        (b"nonsense", "sample 5: 8 bytes that are no image"),
    ):
        path = tmp_path / f"{len(wrong)}.h5"
        write_toy_recording(path, 10)
        with h5py.File(path, "r+") as file:
            file["image"][5] = np.frombuffer(wrong, np.uint8)
        with pytest.raises(LedposeError, match=f"{path}, {words}"):
            load_recordings([path])


def test_models_of_others_are_no_start(tmp_path):
    from fake_model import write_fake_model

    from ledpose_ros.learning.export import load_onnx

    (tmp_path / "text.onnx").write_text("no model")
    for path, words in (
        (tmp_path / "absent.onnx", "does not exist"),
        (tmp_path / "text.onnx", "is not an ONNX file"),
        (write_fake_model(tmp_path / "fake.onnx"), "lacks the weights"),
    ):
        with pytest.raises(LedposeError, match=f"{path} {words}"):
            load_onnx(path)


def test_random_weights_soon_count_for_nothing_in_the_average():
    average, averaged = _moving_average(400), torch.ones(1)
    for count in range(1, 200):
        averaged = average(averaged, torch.zeros(1), count)
    assert averaged.item() < 1e-6
    assert average(torch.ones(1), torch.zeros(1), 10_000).item() == pytest.approx(1 - 1 / 400)
    assert average(torch.tensor(3), torch.tensor(4), 5).item() == 4


def test_a_new_network_for_glances_begins_by_the_seed(tmp_path):
    write_toy_recording(tmp_path / "toy.h5", 4)
    data = load_recordings([tmp_path / "toy.h5"])
    first, second = (
        Trainer(data, tmp_path / "run", SHORT, seed=3, initial=PeerNetwork(leds=4)).network for _ in range(2)
    )
    for one, other in zip(first.glance.parameters(), second.glance.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first.fine.head.weight, second.fine.head.weight), "those were given"


def test_a_disk_without_room_for_pictures_is_said(tmp_path, monkeypatch):
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_toy_recording(tmp_path / "toy.h5", 4)
    monkeypatch.setattr(dataset, "MEMORY_SHARE", 0)
    monkeypatch.setattr(os, "posix_fallocate", fill)
    with pytest.raises(LedposeError, match=f"{tmp_path} has no room for .*No space left on device"):
        load_recordings([tmp_path / "toy.h5"], tmp_path)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Malice:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "harm",)

    torch.save({"network": Malice()}, tmp_path / "checkpoint.pt")
    with pytest.raises(LedposeError, match="is not a readable checkpoint"):
        load_checkpoint(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "harm").exists()


def test_command_refuses_what_nothing_can_be_learned_from(tmp_path, capsys):
    recording = tmp_path / "toy.h5"
    write_toy_recording(recording, 8)
    assert main(["train", str(recording), "-o", str(tmp_path / "run"), "--steps", "2"]) == 2
    error = capsys.readouterr().err
    assert "8 samples are too few to learn from, at least 50 are needed" in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("glances", [False, True])
def test_exported_graph_agrees_with_torch(tmp_path, glances):
    """ONNX Runtime and torch agree to 1e-4 (relative for pixels), at the training size and at another one."""
    import onnx
    import onnxruntime

    from ledpose_ros.learning.export import OUTPUT_NAMES, export_onnx, load_onnx
    from ledpose_ros.model_metadata import ModelMetadata

    torch.manual_seed(0)
    network = PeerNetwork(glances=glances).eval()
    metadata = ModelMetadata(
        ("front", "left", "back", "right"), tuple(DEFAULT_LED_DIRECTIONS), (0.5,), 8, (640, 360)
    )
    path = tmp_path / "model.onnx"
    export_onnx(network, metadata, path)
    loaded, read = load_onnx(path)
    session = onnxruntime.InferenceSession(str(path))
    rng = np.random.default_rng(0)
    for shape in ((1, 360, 640, 3), (2, 180, 320, 3), (1, 243, 411, 3)):
        image = rng.integers(0, 255, shape, np.uint8)
        with torch.no_grad():
            expected = loaded(torch.from_numpy(image))
        for name, said, true in zip(OUTPUT_NAMES, session.run(None, {"image": image}), expected, strict=True):
            np.testing.assert_allclose(said, true.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)

    for node in onnx.load(str(path)).graph.node:
        # A computed bias would keep the runtime from merging batch normalisation into the convolution.
        assert node.op_type != "Conv" or all("." in name for name in node.input[2:])
    assert read == metadata and loaded.glances == glances
    for name, weight in loaded.state_dict().items():
        if name.startswith("glance.") and not glances:
            continue  # it has learned nothing, and is not in the file
        torch.testing.assert_close(weight, network.state_dict()[name], rtol=2**-11, atol=1e-7, msg=name)
    assert path.stat().st_size < 2.1 * sum(weight.numel() for weight in network.parameters()) + 5e5
    assert str(Path(__file__).parents[1]).encode() not in path.read_bytes()


def test_only_what_may_be_a_peer_is_looked_at():
    scores = torch.tensor([[0.9, -0.4, 0.01, 0.3], [0.02, 0.01, 0.04, -0.1]])
    assert worthy(scores).tolist() == [[0, 3], [2, 0]]
    # Where nothing may, there is still an answer.
    assert worthy(scores[1:]).tolist() == [[2]]
    assert worthy(torch.ones(1, MAX_PEAKS)).shape == (1, MAX_PEAKS)


def test_hidden_parts_reach_from_one_edge_and_show_grey_or_another_robot():
    images = torch.arange(1.0, 65)[:, None, None, None].expand(64, 3, 20, 20)
    generator = torch.Generator().manual_seed(0)
    edges = set()
    for _ in range(12):
        hidden = augmentation.hide_some(images, 0.5, 0.3, generator) != images
        seen = augmentation.hide_some(images, 0.0, 0.3, generator)
        assert torch.equal(seen, images)
        rows, columns = hidden[:, 0].any(2), hidden[:, 0].any(1)
        assert torch.equal(hidden[:, 0], rows[:, :, None] & columns[:, None]), "the line is straight"
        depth = hidden[:, 0].sum((1, 2)) / 20
        assert depth.max() <= 6 and 20 < (depth > 0).sum() < 44
        edges.add(
            "below"
            if rows[:, -1].any() and not rows[:, 0].any()
            else "left"
            if columns[:, 0].any()
            else "right"
        )
    assert edges == {"left", "right", "below"}
    shown = augmentation.hide_some(images, 1.0, 0.3, generator)
    others = shown[shown != images]
    assert (others == 0).any() and (others > 0).any()
    assert set(others.unique().tolist()) <= set(range(65))


def test_the_robot_in_front_ends_at_the_line():
    images = torch.zeros(2, 3, 20, 20)
    images[1, :, :, 17] = 1  # the column before ROBOT_END
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(40):
        hidden = augmentation.hide_some(images, 1.0, 0.5, generator)[0, 0]
        if hidden[0].any() and torch.equal(hidden[0].expand_as(hidden), hidden):
            seen.add(int(hidden[0].argmax()))
    assert seen and max(seen) <= 9, "the last column of the robot in front, nowhere beyond the line"


def test_joined_images_say_which_sample_is_where():
    images = torch.arange(1.0, 9)[:, None, None, None].expand(8, 3, 4, 40)
    joined, shown = augmentation.join_some(images, 0.25, torch.Generator().manual_seed(0))
    assert shown.alone == 6 and torch.equal(joined[:6], images[:6])
    assert shown.picture.tolist() == [*range(8), 6, 7]
    assert shown.sample.tolist() == [*range(8), 0, 1]
    size = torch.tensor([80.0, 8.0])
    for column in range(40):
        uv = torch.tensor([[2 * column + 0.5, 3.0]]).expand(10, 2)
        seen = shown.shows(uv, size)
        assert torch.equal(
            joined[shown.picture, 0, 0, column][seen], images[shown.sample, 0, 0, column][seen]
        )
        assert seen[:6].all() and torch.equal(seen[6:8], ~seen[8:])
    assert not shown.shows(torch.tensor([[10.0, -2.0]]).expand(10, 2), size).any()


@pytest.mark.parametrize(("batch", "share"), [(24, 0.25), (3, 0.25), (2, 0.5), (1, 0.5)])
def test_few_images_are_joined_as_often_as_many(batch, share):
    """As on one of many processes, which have a few each; one alone has nothing to be joined with."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(batch, 3, 2, 4)
    alone = [augmentation.join_some(images, share, generator)[1].alone for _ in range(400)]
    expected = 0 if batch == 1 else share
    assert 1 - np.mean(alone) / batch == pytest.approx(expected, abs=0.04)


def test_led_directions_of_pi_and_minus_pi_are_the_same(tmp_path):
    for name, turn in (("a.h5", math.pi), ("b.h5", -math.pi)):
        write_toy_recording(tmp_path / name, 4)
        with h5py.File(tmp_path / name, "r+") as file:
            directions = np.array(file.attrs["led_directions"])
            directions[np.abs(np.abs(directions) - math.pi) < 1e-6] = turn
            file.attrs["led_directions"] = directions
    assert len(load_recordings([tmp_path / "a.h5", tmp_path / "b.h5"])) == 8


@pytest.mark.parametrize("changed", ["image_stamp_ns", "K"])
def test_a_recording_of_other_stamps_or_another_camera_is_another_one(tmp_path, changed):
    """Training sees both: pictures next in time, and how deep the floor lies."""
    write_toy_recording(tmp_path / "toy.h5", 4)
    with Recording(tmp_path / "toy.h5") as recording:
        before = digest(recording)
        if changed == "K":
            recording.info = replace(recording.info, K=2 * recording.info.K)
        else:
            recording.image_stamps_ns = recording.image_stamps_ns + 1
        assert digest(recording) != before


def test_a_far_peer_beside_a_near_one_is_a_peak():
    network = PeerNetwork()
    attention = torch.zeros(1, 3, 23, 40)
    near, far = (12, 20), (11, 27)
    rows, columns = torch.meshgrid(torch.arange(23), torch.arange(40), indexing="ij")
    # The near peer's slope on its coarse scale lies higher than the far peer's peak.
    attention[0, 2] = torch.exp(-0.5 * ((rows - near[0]) ** 2 + (columns - near[1]) ** 2) / 16)
    attention[0, 0, far[0], far[1]] = 0.1
    attention /= attention.sum()
    log2_scale = torch.tensor([-1.0, -2, -3]).view(1, 3, 1, 1).expand_as(attention)
    uv, scale, _ = network.find_peaks(attention, log2_scale, 2)
    u, v = network.cell_centres(23, 40)
    for (row, column), place, size, level in zip((near, far), uv[0], scale[0], (-3.0, -1.0), strict=True):
        assert torch.dist(place, torch.stack([u[column], v[row]])) < 4
        assert size == pytest.approx(level, abs=0.05)


def test_windows_on_the_same_peer_are_in_the_shadow_of_the_likelier_one():
    # Windows of 72 px: the second 10 px from the first, the third a peer of its own, the fourth far smaller.
    uv = torch.tensor([[[100.0, 100], [110, 100], [200, 100], [100, 104]]])
    log2_scale = torch.tensor([[0.0, 0.0, 0.0, 3.0]])
    presence = torch.tensor([[0.7, 0.9, 0.2, 0.6]])
    assert shadowed(uv, log2_scale, presence).tolist() == [[1, 0, 0, 1]]


def test_a_pyramid_keeps_odd_edges():
    pyramid = image_pyramid(torch.zeros(1, 5, 7, 3, dtype=torch.uint8))
    assert isinstance(pyramid, Pyramid)
    assert [tuple(level.shape[-2:]) for level in pyramid.halves] == [(3, 4), (2, 2), (1, 1)]


def test_training_halves_pictures_of_odd_size_as_the_exported_graph_does(tmp_path):
    write_toy_recording(tmp_path / "odd.h5", 2, size=(151, 101))
    pictures = load_recordings([tmp_path / "odd.h5"]).pictures[0]
    graph = image_pyramid(torch.from_numpy(pictures.images)).halves[0]
    trained = torch.from_numpy(pictures.halves).permute(0, 3, 1, 2) / 127.5 - 1
    assert (trained - graph).abs().max() < 1.01 / 127.5, "but for rounding to whole grey values"


@pytest.mark.parametrize("size", [(720, 848), (480, 640), (360, 640), (101, 151)])
def test_cells_of_coarse_scales_lie_where_they_look(size):
    """A cell of the finest scale has what the coarse cell above it says, down to the last row and column."""
    height, width = size
    torch.manual_seed(0)
    network = PeerNetwork().eval()
    image = torch.randint(0, 255, (1, height, width, 3), dtype=torch.uint8)
    halves = image_pyramid(image).halves
    with torch.no_grad():
        location = network.coarse_maps(halves).location[0]
        for level, half in enumerate(halves):
            coarse = network.coarse(half)[0, 0]
            rows, columns = (torch.arange(cells) // 2**level for cells in location.shape[1:])
            torch.testing.assert_close(location[level], coarse[rows][:, columns])


def test_pictures_must_have_a_cell_at_the_coarsest_scale():
    assert STRIDE / min(SCALES) == SMALLEST_SIDE


@pytest.mark.parametrize(
    ("lit", "beside"),
    [([0, 1, 2, 3, 0, 1, 2], [1, 0, 1, 4, 5, 4, 6]), ([0, 0, 1, 1, 2, 2, 3], [3, 3, 1, 4, 3, 3, 6])],
)
def test_the_next_picture_with_other_leds_is_beside_a_picture(tmp_path, lit, beside):
    """The surer of two as near, wherever the robot is there, but none that is not trusted or much later."""
    write_toy_recording(tmp_path / "toy.h5", 7)
    data = replace(
        load_recordings([tmp_path / "toy.h5"]),
        seconds=np.array([0, 0.03, 0.06, 0.09, 0.12, 0.15, 9]),
        led_states=np.eye(4, dtype=np.float32)[lit],
    )
    uv = torch.tensor([[50.0, 50], [52, 51], [150, 50], [151, 50], [150, 50], [150, 50], [150, 50]])
    trust = torch.tensor([1.0, 0.9, 0.3, 0.9, 1.0, 1.0, 1.0])
    windows = Windows(uv, torch.zeros(7), trust, torch.zeros(7, 2), torch.zeros(7, 2), torch.zeros(7))
    assert pictures_beside(windows, data).tolist() == beside


@pytest.mark.parametrize("rate", [5, 30])
def test_clips_are_as_long_at_any_frame_rate(tmp_path, rate):
    """With LEDs that change once a second, the pictures on both sides of a change are in one clip."""
    count = 4 * rate
    write_toy_recording(tmp_path / "toy.h5", count)
    seconds = np.arange(count) / rate
    data = replace(load_recordings([tmp_path / "toy.h5"]), seconds=seconds)
    windows = toy_windows(np.full((count, 2), 60.0), [1.0] * count)
    values = torch.from_numpy(np.floor(seconds) % 2)[:, None].float()
    averaged = _averaged_over_clips(values, data, windows)[:, 0]
    middle = averaged[rate + rate // 2].item()
    assert 0.7 < middle < 0.9, "a clip reaches beyond the half second to the next change"


def test_on_a_floor_sizes_follow_from_the_height_in_the_picture(tmp_path):
    write_toy_recording(tmp_path / "toy.h5", 4)
    data = load_recordings([tmp_path / "toy.h5"], level=True)
    horizon = HEIGHT / 2
    uv = np.array([[WIDTH / 2, horizon + drop] for drop in (10.0, 20.0, 40.0, -30.0)])
    # The toy camera's focal length is 100 px: depths of 10, 5 and 2.5 camera heights straight ahead.
    np.testing.assert_allclose(data.floor_depths(uv), [10, 5, 2.5, np.nan], rtol=1e-6)
    windows = Windows(
        torch.from_numpy(uv).float(), torch.tensor([0.5, 0.0, 0.0, 0.0]), torch.ones(4), torch.zeros(4, 2),
        torch.zeros(4, 2), torch.zeros(4),
    )  # fmt: skip
    apart = replace(data, seconds=np.arange(4) * 60.0)
    placed = _on_floor(windows, apart)
    assert placed.log2_scale.tolist() == pytest.approx([1.0, 0.0, -1.0, 0.0], abs=1e-4)
    assert placed.trust.tolist() == [1, 1, 1, 0]
    # In a film, what is told of the same place is evened out.
    still = replace(windows, uv=torch.tensor([[60.0, horizon + drop] for drop in (19, 21, 19, 21)]))
    sizes, single = (_on_floor(still, some).log2_scale for some in (data, apart))
    assert 0 < sizes.max() - sizes.min() < 0.5 * (single.max() - single.min())


def test_on_a_floor_no_side_of_the_robot_is_nearer_than_the_others(tmp_path):
    write_toy_recording(tmp_path / "toy.h5", 2)
    one = load_recordings([tmp_path / "toy.h5"], level=True)
    count = 20_000
    data = replace(
        one,
        led_states=np.zeros((count, 4), np.float32),
        seconds=np.arange(count) * 60.0,
        recording=np.zeros(count, int),
    )
    generator = torch.Generator().manual_seed(0)
    log2_depth = 1 + torch.rand(count, generator=generator)
    psi = (torch.rand(count, generator=generator) - 0.5) * 2 * math.pi
    # The windows lie a tenth of the camera's height lower on the back than on the front.
    height = 1 - 0.05 * psi.cos()
    uv = torch.stack([torch.full((count,), WIDTH / 2), HEIGHT / 2 + 100 * height / log2_depth.exp2()], 1)
    bearing = 0.9 * torch.stack([psi.cos(), psi.sin()], 1)
    nothing = torch.zeros(count, 2)
    windows = Windows(uv, log2_depth - 2, torch.ones(count), bearing, nothing, torch.zeros(count))

    def difference(windows: Windows) -> float:
        """Octaves by which fronts are nearer than backs, less what is true."""
        excess = _on_floor(windows, data).log2_scale - log2_depth
        return float(excess[psi.cos() > 0.7].median() - excess[psi.cos() < -0.7].median())

    assert difference(replace(windows, bearing=nothing)) == pytest.approx(0.13, abs=0.02)
    assert difference(replace(windows, bearing=0.4 * bearing)) == pytest.approx(0.13, abs=0.02)
    assert abs(difference(windows)) < 0.04
