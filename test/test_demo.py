# SPDX-License-Identifier: Apache-2.0
"""How the demo judges what it heard; `make demo` itself runs everything around this for real."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from ledpose_ros.cli import main
from ledpose_ros.commands.demo import Heard, compare, contact_sheet, make_room, report
from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import compose_poses, project
from ledpose_ros.leds import DEFAULT_LED_DIRECTIONS, DEFAULT_LED_NAMES
from ledpose_ros.recording import RecordingInfo

SECOND = 1_000_000_000
K = np.array([[300.0, 0, 320], [0, 300, 180], [0, 0, 1]])
INFO = RecordingInfo(
    led_names=DEFAULT_LED_NAMES,
    led_directions=DEFAULT_LED_DIRECTIONS,
    camera_frame="camera_optical_frame",
    K=K,
    D=np.zeros(5),
    distortion_model="plumb_bob",
    width=640,
    height=360,
)


def heard_poses(count: int = 20) -> Heard:
    """A peer that wanders about, seen perfectly; image i is taken at (i + 1) seconds."""
    random = np.random.default_rng(0)
    uv = random.uniform((50, 150), (590, 210), (count, 2))
    poses = compose_poses(
        uv, random.uniform(0.6, 3, count), random.uniform(-np.pi, np.pi, count), K, INFO.D, "plumb_bob"
    )
    heard = Heard()
    heard.leds.add(SECOND // 2, np.zeros(4))
    for index, pose in enumerate(poses):
        stamp = (index + 1) * SECOND
        states = random.integers(0, 2, 4).astype(float)
        heard.leds.add(stamp - SECOND // 2, states)
        heard.leds.add(stamp, states)
        heard.truth[stamp] = heard.pose[stamp] = pose
        heard.peers[stamp] = 1
        heard.led_probability[stamp] = states
    return heard


def test_only_the_results_of_a_demo_are_replaced(tmp_path, capsys):
    """The recorder's folder of recordings has the name of the demo's."""
    recording = tmp_path / "recordings" / "ledpose_20260101_120000.h5"
    recording.parent.mkdir()
    recording.write_text("precious")
    assert main(["demo", "-o", str(tmp_path)]) == 2
    assert f"{recording.parent} is not of a demo" in capsys.readouterr().err
    assert recording.read_text() == "precious"
    demo = tmp_path / "demo"
    make_room(demo)
    (demo / "logs").mkdir()
    (demo / "model.onnx").touch()
    make_room(demo)
    assert not (demo / "logs").exists() and not (demo / "model.onnx").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--samples", "10"], "--samples 10: at least 50"),
        (["--watch", "0"], "--watch 0.0: at least 1"),
        (["--seed", "-1"], "--seed -1: at least 0"),
    ],
)
def test_what_would_fail_after_minutes_is_refused_at_once(tmp_path, capsys, words, sentence):
    assert main(["demo", "-o", str(tmp_path / "new"), *words]) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_true_and_published_poses_are_matched_by_stamp():
    heard = heard_poses()
    heard.truth[100 * SECOND] = heard.truth[SECOND]  # never answered
    heard.peers[200 * SECOND] = 1  # nothing is visible
    true, said = compare(heard, INFO)
    assert len(true.index) == len(said.index) == 20
    np.testing.assert_allclose(true.position, [heard.truth[stamp][:3] for stamp in sorted(heard.pose)])
    np.testing.assert_allclose(said.uv, project(true.position, K, INFO.D, "plumb_bob"))
    np.testing.assert_array_equal(said.led_probability, true.led_probability)


def test_a_peer_that_was_not_found_counts_as_wrong():
    heard = heard_poses()
    del heard.pose[3 * SECOND]
    _, said = compare(heard, INFO)
    assert len(said.index) == 20
    assert np.flatnonzero(np.isnan(said.distance)).tolist() == [2]


def test_nothing_in_common_is_an_error():
    heard = heard_poses()
    heard.truth = {stamp + 1: pose for stamp, pose in heard.truth.items()}
    with pytest.raises(LedposeError, match="none of 20 answers belongs to any of 20 true poses"):
        compare(heard, INFO)


def test_good_answers_end_well_and_leave_a_report(tmp_path, capsys):
    assert report(heard_poses(), INFO, tmp_path, 60.0) == 0
    assert "mean predictor" in (tmp_path / "report.txt").read_text()
    assert (tmp_path / "poses.png").read_bytes().startswith(b"\x89PNG")
    assert "Better than the mean predictor" in capsys.readouterr().out


def test_answers_worse_than_the_mean_in_one_respect_fail(tmp_path, capsys):
    heard = heard_poses()
    for stamp, pose in heard.pose.items():
        heard.pose[stamp] = np.concatenate(
            [2.5 * pose[:3], pose[3:]]
        )  # right direction and turn, but too far
    assert report(heard, INFO, tmp_path, 60.0) == 1
    assert "WORSE than the mean predictor in E_d, E_xyz." in capsys.readouterr().out


def test_the_contact_sheet_holds_whole_rows():
    pictures = [np.full((36, 64, 3), shade, np.uint8) for shade in range(7)]
    sheet = contact_sheet(pictures, columns=3, width=32)
    assert sheet is not None and sheet.shape == (36, 96, 3)
    assert sheet[0, 0, 0] == 0 and sheet[-1, -1, 0] == 5
    assert contact_sheet(pictures[:2]) is None
