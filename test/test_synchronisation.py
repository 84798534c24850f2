# SPDX-License-Identifier: Apache-2.0
"""Known offsets between LED states and images are found again, and none is named where none can be."""

import json
from dataclasses import replace

import numpy as np
import pytest
from blinking import IMAGE_TOPIC, SECOND, START, Blinking, Reader, blink, write_bag, write_recording
from fake_model import METADATA
from rosbags.rosbag2 import StoragePlugin

from ledpose_ros.cli import main
from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import PeerEstimator
from ledpose_ros.images import read_image
from ledpose_ros.leds import LedHistory
from ledpose_ros.recording import Recording
from ledpose_ros.synchronisation import Observations, observe_recording, synchronise

MS = 1_000_000


def observations(blinking: Blinking, ahead_ns: int, noise: float = 0.1) -> Observations:
    """What a model sees that tells three LEDs of four, of these a share `noise` wrong."""
    rng = np.random.default_rng(5)
    states = np.array([blinking.at(stamp) for stamp in blinking.images_ns])
    probability = np.where(np.logical_xor(states > 0.5, rng.random(states.shape) < noise), 0.9, 0.1)
    probability[:, 3] = 0.5
    history = LedHistory(0, SECOND // 2, horizon_ns=1000 * SECOND)
    for now, stamp, held in blinking.messages(ahead_ns):
        history.add(stamp, held, now)
    return Observations(blinking.images_ns, probability, None, history, len(states))


@pytest.mark.parametrize("ahead", [-230, 0, 87])
def test_the_offset_is_how_far_the_clock_of_the_leds_is_ahead(ahead):
    found = synchronise(observations(blink(), ahead * MS), 0.5)
    assert found.led_offset == pytest.approx(ahead / 1000, abs=0.008)
    assert 0 < found.standard_error < 0.02
    assert found.fits_from <= found.led_offset <= found.fits_to
    assert found.fits_to - found.fits_from < 0.05
    assert found.loss < found.unrelated_loss and found.recorded_loss is None


def test_the_losses_are_cross_entropies_by_hand():
    found = synchronise(observations(blink(), 0, noise=0.0), 0.5)
    # Three LEDs are told with 0.9, one with 0.5.
    assert found.loss == pytest.approx(-(3 * np.log(0.9) + np.log(0.5)) / 4, abs=0.02)
    assert found.unrelated_loss == pytest.approx(
        -(3 * (np.log(0.9) + np.log(0.1)) / 2 + np.log(0.5)) / 4, abs=0.03
    )
    assert found.losses[len(found.losses) // 2] == pytest.approx(found.loss, abs=1e-9)


def test_images_that_are_never_near_a_change_leave_a_range_of_offsets():
    blinking = blink(400)
    distance = np.abs(blinking.images_ns[:, None] - blinking.changes_ns[None]).min(1)
    far = replace(blinking, images_ns=blinking.images_ns[distance > 40 * MS])
    found = synchronise(observations(far, 100 * MS), 0.5)
    assert found.led_offset == pytest.approx(0.1, abs=0.015)
    assert (found.fits_from, found.fits_to) == (pytest.approx(0.06, abs=0.02), pytest.approx(0.14, abs=0.02))


def test_an_offset_at_the_edge_of_what_is_known_is_not_called_that_of_the_range():
    """LED states are told only from 500 ms before to 50 ms after an image, and from 300 ms after it on."""
    images_ns = START + SECOND * np.arange(100)
    states = np.random.default_rng(0).integers(0, 2, (100, 4))
    told = LedHistory(0, 10 * MS, horizon_ns=1000 * SECOND)
    for image_ns, state in zip(images_ns, states, strict=True):
        for ahead in (*range(-500, 55, 5), *range(300, 500, 5)):
            stamp_ns = int(image_ns + ahead * MS)
            told.add(stamp_ns, state if 20 < ahead < 100 else 1 - state, stamp_ns)
    seen = Observations(images_ns, np.where(states > 0, 0.9, 0.1), None, told, len(states))
    with pytest.raises(LedposeError, match=r"-0\.500 to 0\.0[45]\d s: repeat the LED states"):
        synchronise(seen, 0.5)


def repeated(blinking: Blinking) -> Blinking:
    """One LED that changes every 0.2 s, for as long."""
    changes = np.arange(blinking.changes_ns[0], blinking.changes_ns[-1], SECOND // 5)
    states = np.tile((np.arange(len(changes)) % 2)[:, None], (1, 4)).astype(np.float32)
    return Blinking(changes, states, blinking.images_ns)


@pytest.mark.parametrize(
    ("seen", "max_offset", "words"),
    [
        (observations(replace(blink(), states=0 * blink().states), 0), 0.5, "no LED ever changes"),
        (observations(blink(), 0, noise=0.5), 0.5, "no offset within 0.5 s fits"),
        (observations(blink(), 500 * MS), 0.5, "edge of what could be tried, -0.500 to 0.500 s: widen"),
        (observations(blink(), 5000 * SECOND), 0.5, "for at most 0 of 240 images of a peer, needed are 120"),
        (observations(repeated(blink()), 0), 0.7, "fit alike: switch the LEDs at random"),
        (observations(blink(), 0), 11.0, "the range is 11 s, but must be between 0.005 and 10 s"),
    ],
)
def test_an_offset_that_means_nothing_is_not_named(seen, max_offset, words):
    with pytest.raises(LedposeError, match=words):
        synchronise(seen, max_offset)


@pytest.mark.parametrize(
    ("ahead", "used", "fits"),
    [
        (90, 90, True),
        (-70, -60, True),
        (90, 0, False),
        (-120, 0, False),
        (-400, -400, True),
        (800, 800, True),
        (0, 300, False),
    ],
)
def test_a_recording_tells_the_offset_itself_whatever_it_was_made_with(tmp_path, ahead, used, fits):
    path = write_recording(tmp_path / "test.h5", blink(400), ahead * MS, used * MS)
    with Recording(path) as recording:
        found = synchronise(observe_recording(Reader(), recording), 1.0)
    assert found.fits_from - 0.01 <= ahead / 1000 <= found.fits_to + 0.01
    assert found.led_offset == pytest.approx(ahead / 1000, abs=0.025)
    assert found.recording_fits is fits


def test_a_recording_with_few_images_of_a_peer_or_other_leds_is_refused(tmp_path):
    blinking = blink()
    few = replace(blinking, images_ns=blinking.images_ns[:20])
    with (
        Recording(write_recording(tmp_path / "few.h5", few, 0, 0)) as recording,
        pytest.raises(LedposeError, match=r"sees a peer in \d+ of \d+ images, needed are 30"),
    ):
        observe_recording(Reader(), recording)
    other = Reader()
    other.metadata = replace(Reader.metadata, led_names=("north", "west", "south", "east"))
    with (
        Recording(tmp_path / "few.h5") as recording,
        pytest.raises(LedposeError, match="knows the LEDs north, west"),
    ):
        observe_recording(other, recording)


@pytest.fixture
def reader(monkeypatch):
    """Every `PeerEstimator` is a `Reader` at heart; the class itself stays, for modules that refer to it."""
    reader = Reader()
    monkeypatch.setattr(PeerEstimator, "__init__", lambda self, path: setattr(self, "metadata", METADATA))
    monkeypatch.setattr(PeerEstimator, "detect", lambda self, rgb: reader.detect(rgb))


@pytest.mark.parametrize("storage", StoragePlugin)
def test_sync_finds_the_offset_in_a_bag(tmp_path, capsys, reader, storage):
    bag = write_bag(tmp_path / "bag", blink(), 135 * MS, storage)
    assert main(["sync", str(bag), "--range", "0.4", "--image-topic", IMAGE_TOPIC, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["led_offset"] == pytest.approx(0.135, abs=0.01)
    assert found["recorded_loss"] is None and found["images"] == 240
    assert len(found["curve"]["offset"]) == len(found["curve"]["loss"]) == 161


@pytest.mark.extra("train")
def test_sync_prints_what_to_do_and_draws_the_curve(tmp_path, capsys, reader):
    path = write_recording(tmp_path / "test.h5", blink(), 90 * MS, 0)
    plot = tmp_path / "curve.png"
    assert main(["sync", str(path), "--range", "0.4", "--plot", str(plot)]) == 0
    said = capsys.readouterr().out
    assert "Set the recorder's parameter led_offset to 0.0" in said and "do not fit: record it again" in said
    assert read_image(plot).std() > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{recording}", "--led-topic", "/leds"], "are for bags, but {recording} is none"),
        (["{recording}", "--plot", "curve.jpg"], "should end in .png"),
        pytest.param(
            ["{recording}", "--plot", "{recording}/curve.png"],
            "{recording} is a file, not a folder",
            marks=pytest.mark.extra("train"),
        ),
        (["{bag}", "--image-topic", "/nothing"], "has no topic /nothing"),
        (["{bag}"], "several topics to choose from"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, capsys, reader, arguments, words):
    blinking = blink(120)
    few = replace(blinking, images_ns=blinking.images_ns[:2])
    names = {
        "recording": write_recording(tmp_path / "test.h5", blinking, 0, 0),
        "bag": write_bag(tmp_path / "bag", few, 0, StoragePlugin.MCAP),
    }
    assert main(["sync", *(argument.format(**names) for argument in arguments), "--range", "0.3"]) == 2
    error = capsys.readouterr().err
    assert words.format(**names) in error and error.count("\n") == 1
