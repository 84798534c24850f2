# SPDX-License-Identifier: Apache-2.0
"""Calibration and evaluation with a model whose answers are known."""

import dataclasses
import json
import math
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from fake_model import METADATA, write_fake_model

from ledpose_ros.calibration import SIDE_VIEWS, Picture, Setup
from ledpose_ros.calibration import calibrate as calibrate_pictures
from ledpose_ros.cli import main
from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import PeerEstimator
from ledpose_ros.evaluation import truth
from ledpose_ros.geometry import compose_poses, pinhole_camera, project
from ledpose_ros.images import encode_image
from ledpose_ros.leds import DEFAULT_LED_DIRECTIONS, DEFAULT_LED_NAMES
from ledpose_ros.model_metadata import WINDOW_SIDE, Calibration
from ledpose_ros.recording import Recording, RecordingInfo, RecordingWriter

pytestmark = pytest.mark.extra("train")

WIDTH, HEIGHT, FOCAL = 320, 180, 200.0
CENTRE = ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)
K = np.array([[FOCAL, 0, CENTRE[0]], [0, FOCAL, CENTRE[1]], [0, 0, 1]])
WHITE = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)


def write_recording(
    path: Path, poses: np.ndarray, led_names=DEFAULT_LED_NAMES, without_peer: int = 0
) -> Path:
    """White pictures, in which the fake model sees a peer in the centre, with these true poses.

    After them dark ones without a peer, in which the fake model is less sure of seeing one.
    """
    info = RecordingInfo(
        led_names=led_names,
        led_directions=DEFAULT_LED_DIRECTIONS,
        camera_frame="camera_optical_frame",
        K=K,
        D=np.zeros(5),
        distortion_model="plumb_bob",
        width=WIDTH,
        height=HEIGHT,
    )
    with RecordingWriter(path, info, with_ground_truth=True) as writer:
        for index, pose in enumerate(poses):
            stamp = 10**9 * (index + 1)
            states = np.array([index % 2, 1 - index % 2, 1, 0], np.float32)
            writer.append(encode_image(WHITE, "jpeg"), stamp, stamp, states, stamp - 1, pose)
        for index in range(without_peer):
            stamp = 10**9 * (len(poses) + index + 1)
            writer.append(encode_image(WHITE // 4, "jpeg"), stamp, stamp, np.zeros(4), stamp - 1)
    return path


def straight_ahead(distances: list[float], psi: float) -> np.ndarray:
    """Poses of peers in the picture's centre that show the side psi."""
    uv = np.tile(CENTRE, (len(distances), 1))
    psis = np.full(len(distances), psi)
    return compose_poses(uv, np.array(distances), psis, K, np.zeros(5), "plumb_bob")


def write_picture(path: Path, rgb: np.ndarray = WHITE) -> Path:
    cv2.imwrite(str(path), rgb)
    return path


def test_a_calibrated_model_says_the_calibration_distance(tmp_path, capsys):
    model = write_fake_model(tmp_path / "model.onnx", log2_scale=-1.5)
    picture = write_picture(tmp_path / "picture.png")
    out = tmp_path / "out.onnx"
    arguments = ["calibrate", str(model), "--image", str(picture), "--distance", "1.5", "-o", str(out)]
    assert main([*arguments, "--focal-length", str(FOCAL)]) == 0
    calibration = PeerEstimator(out).metadata.calibration
    assert calibration.c == pytest.approx(math.log2(1.5) + 1.5)
    assert (calibration.images, calibration.width, calibration.focal_length) == (1, WIDTH, FOCAL)
    recording = write_recording(tmp_path / "test.h5", straight_ahead([1.5, 3.0], math.pi / 2))
    capsys.readouterr()
    assert main(["evaluate", str(out), str(recording), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["E_uv"] == pytest.approx(0, abs=0.1)
    assert row["E_psi"] == pytest.approx(0, abs=0.1)
    # Exact for the first, half the truth for the second: the median lies between.
    assert row["E_d"] == pytest.approx(25, abs=0.1)
    assert row["n"] == 2


def test_without_calibration_distances_are_refused_not_guessed(tmp_path, capsys):
    import dataclasses

    model = write_fake_model(tmp_path / "model.onnx", dataclasses.replace(METADATA, calibration=None))
    recording = write_recording(tmp_path / "test.h5", straight_ahead([1.0, 2.0], 0.0))
    assert main(["evaluate", str(model), str(recording), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["E_d"] is None and row["E_xyz"] is None and row["gamma"] is None
    assert row["E_psi"] == pytest.approx(90, abs=0.1)
    assert main(["evaluate", str(model), str(recording), "--plots", str(tmp_path / "plots")]) == 0
    assert "not calibrated" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "predictions.png",
        "errors.png",
        "bearings.png",
    }


def test_images_without_a_peer_are_scored_for_presence_alone(tmp_path, capsys):
    model = write_fake_model(tmp_path / "model.onnx")
    poses = straight_ahead([1.0, 2.0], math.pi / 2)
    rows = []
    for absent in (0, 3):
        recording = write_recording(tmp_path / f"{absent}.h5", poses, without_peer=absent)
        assert main(["evaluate", str(model), str(recording)]) == 0
        said = capsys.readouterr().out
        assert ("ROC area 100 % of the confidence, 2 images with a visible peer against 3" in said) == (
            absent > 0
        )
        assert main(["evaluate", str(model), str(recording), "--json"]) == 0
        rows.append(capsys.readouterr().out)
    assert rows[0] == rows[1] and json.loads(rows[0])["n"] == 2


def test_pictures_without_a_peer_do_not_count(tmp_path, capsys):
    model = write_fake_model(tmp_path / "model.onnx")
    black, white = write_picture(tmp_path / "black.png", 0 * WHITE), write_picture(tmp_path / "white.png")
    words = ["--image", str(black), "--distance", "1", "--image", str(white), "--distance", "2"]
    assert main(["calibrate", str(model), *words]) == 0
    said = capsys.readouterr().out
    assert "1 of 2 pictures are left out" in said and "from 1 picture" in said


def calibrate(model: Path, pictures: list[Path], distances: list[float], *words: str) -> Calibration:
    arguments = ["calibrate", str(model), *words]
    for picture, distance in zip(pictures, distances, strict=True):
        arguments += ["--image", str(picture), "--distance", str(distance)]
    assert main(arguments) == 0
    calibration = PeerEstimator(model).metadata.calibration
    assert calibration is not None
    return calibration


def test_a_picture_that_disagrees_is_named_and_does_not_count(tmp_path, capsys):
    model = write_fake_model(tmp_path / "model.onnx")
    pictures = [write_picture(tmp_path / f"{name}.png") for name in ("first", "second", "third", "wrong")]
    calibration = calibrate(model, pictures, [1.9, 2.0, 2.1, 4.0])
    assert calibration.c == pytest.approx(1.0)
    assert calibration.residual == pytest.approx(0.1), "three agree too well: the network's own word counts"
    assert (calibration.images, calibration.rejected) == (3, 1)
    said = capsys.readouterr().out
    assert f"{pictures[3]} is left out: it disagrees with the others by +1.00 octaves" in said
    assert all(str(path) not in said for path in pictures[:3])


@pytest.mark.parametrize("distances", [[0.7, 0.7, 2.5, 2.5, 0.7, 0.07], [0.7, 0.7, 0.07]])
def test_a_distance_shorter_than_the_robot_is_a_mistake_that_is_named(tmp_path, capsys, distances):
    """Seen as near as the others: a digit was forgotten."""
    near, far = (write_fake_model(tmp_path / f"{n}.onnx", log2_scale=n) for n in (0, 2))
    seen = {0.7: PeerEstimator(near).detect(WHITE), 2.5: PeerEstimator(far).detect(WHITE)}
    answers = iter([seen.get(distance, seen[0.7]) for distance in distances])

    class Both(PeerEstimator):
        def detect(self, rgb):
            return next(answers)

    pictures = [Picture(f"{number}", WHITE, distance) for number, distance in enumerate(distances)]
    recessed = Calibration(c=0.0, images=9, residual=0.1, width=WIDTH, recess=0.1)
    calibration, outliers = calibrate_pictures(Both(near), pictures, known=recessed)
    assert [outlier.name for outlier in outliers] == [f"{len(distances) - 1}"]
    assert outliers[0].octaves < -2 and np.isfinite(calibration.c)


def test_robots_behind_the_camera_and_beside_the_picture_are_not_in_view(tmp_path):
    """Motion capture tells their poses all the same."""
    behind, beside = (np.array([*place, 0, 0, 0, 1.0]) for place in ((0, 0, -2.0), (3.0, 0, 1.0)))
    poses = np.array([*straight_ahead([2.0], 0.0), behind, beside])
    with Recording(write_recording(tmp_path / "poses.h5", poses)) as recording:
        assert truth(recording).index.tolist() == [0]


def test_robots_that_distortion_folds_into_the_picture_are_not_in_view(tmp_path):
    """The coefficients were fitted as far as the picture reaches, which is some 45 degrees."""
    poses = [
        [range_ * np.sin(angle), 0, range_ * np.cos(angle), 0, 0, 0, 1.0]
        for angle in np.radians([0, 20, 40, 60, 70])
        for range_ in (1.0, 3.0)
    ]
    recording = write_recording(tmp_path / "poses.h5", np.array(poses))
    with h5py.File(recording, "r+") as file:
        file.attrs["K"] = np.array([[314.0, 0, 320], [0, 314, 180], [0, 0, 1]]).ravel()
        file.attrs["D"] = [-0.0717, 0.0385, -0.0015, 0.0002, -0.0383]
        file.attrs["width"], file.attrs["height"] = 640, 360
    with Recording(recording) as opened:
        folded = project(np.array(poses)[:, :3], opened.info.K, opened.info.D, "plumb_bob")[:, 0]
        assert (abs(folded[6:8] - 320) < 320).all(), "a lens that folds nothing shows nothing"
        assert truth(opened).index.tolist() == [0, 1, 2, 3, 4, 5]


def test_plots_and_models_that_are_there_are_not_overwritten(tmp_path, capsys):
    model = write_fake_model(tmp_path / "model.onnx")
    recording = write_recording(tmp_path / "test.h5", straight_ahead([1.0, 2.0], 0.0))
    mine = [tmp_path / name for name in ("errors.png", "other.onnx", "mine.h5", "image.png")]
    for path in mine:
        path.write_bytes(b"mine")
    white = str(write_picture(tmp_path / "white.png"))
    calibrate_it = ["calibrate", str(model), "--image", white, "--distance", "1", "-o"]
    for words, sentence in (
        (["evaluate", str(model), str(recording), "--plots", str(tmp_path)], "errors.png exists already"),
        ([*calibrate_it, str(mine[1])], "other.onnx exists already"),
        ([*calibrate_it, str(mine[2])], "mine.h5 should end in .onnx"),
        (["export", str(model), "-o", str(mine[1]), "--precision", "float16"], "exists already"),
        (["export", str(model), "-o", str(model), "--precision", "float16"], "exists already"),
        (["inspect", str(recording), "--contact-sheet", str(mine[3])], "image.png exists already"),
        (["sync", str(recording), "--plot", str(mine[3])], "image.png exists already"),
    ):
        assert main(words) == 2
        assert sentence in capsys.readouterr().err
    assert all(path.read_bytes() == b"mine" for path in mine)
    # The model itself may be calibrated in place, also through a link, which stays one.
    link = tmp_path / "link.onnx"
    link.symlink_to(model)
    assert main([*calibrate_it[:1], str(link), *calibrate_it[2:], str(link)]) == 0
    assert link.is_symlink() and "Wrote" in capsys.readouterr().out


def test_pictures_that_scatter_are_all_kept(tmp_path, capsys):
    model = write_fake_model(tmp_path / "model.onnx")
    pictures = [write_picture(tmp_path / f"{number}.png") for number in range(4)]
    assert calibrate(model, pictures, [1.0, 1.4, 1.9, 2.6]).rejected == 0
    assert "warning: the pictures disagree about the scale by 0." in capsys.readouterr().out


def test_references_give_the_median_offset_in_window_sides(tmp_path):
    # The fake model says the picture's centre, and twice the scale: a window of half the side.
    model = write_fake_model(tmp_path / "model.onnx", log2_scale=1.0)
    pictures = [write_picture(tmp_path / f"{number}.png") for number in range(3)]
    points = [(CENTRE[0] + du, CENTRE[1] + dv) for du, dv in ((-2, -8), (0, -4), (30, -6))]
    references = [str(word) for u, v in points for word in ("--reference", u, v)]
    calibration = calibrate(model, pictures, [2.0] * 3, *references)
    offset = -6 / (WINDOW_SIDE / 2)
    assert calibration.offset == pytest.approx(offset)
    # Measured again, from positions that are already corrected, it is the same; and it outlives a new c.
    assert calibrate(model, pictures, [2.0] * 3, *references).offset == pytest.approx(offset)
    again = calibrate(model, pictures[:1], [3.0])
    assert again.offset == pytest.approx(offset) and again.c == pytest.approx(math.log2(3.0) - 1)


def test_the_range_to_a_reference_beside_the_centre_is_more_than_its_depth(tmp_path):
    model = write_fake_model(tmp_path / "model.onnx")
    picture, reference = write_picture(tmp_path / "picture.png"), ("--reference", str(CENTRE[0] + 150), "90")
    calibration = calibrate(model, [picture], [2.5], "--focal-length", str(FOCAL), *reference)
    assert calibration.c == pytest.approx(1.0, abs=1e-4)  # 200 px focal length, 150 px aside: a depth of 2.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--image", "{white}"], "1 --distance needed"),
        (
            ["--image", "{white}", "--distance", "1"] + 2 * ["--reference", "9", "9"],
            "1 --reference needed, one for each --image, but 2 given",
        ),
        (
            ["--recording", "none.h5", "--distance", "1", "--reference", "9", "9"],
            "0 --reference needed",
        ),
        (
            ["--image", "{white}", "--distance", "1", "--reference", "9", "200"],
            "the reference (9, 200) of {white} lies outside the picture of 320x180",
        ),
        ([], "either --image"),
        (["--image", "{white}", "--distance", "-1"], "measured range"),
        (["--image", "{white}", "--distance", "1e300"], "measured range"),
        (
            ["--image", "{white}", "--distance", "0.5", "--image", "{white}", "--distance", "10"],
            "octaves, which is no calibration: does each show the peer at its --distance?",
        ),
        (["--image", "{black}", "--distance", "1"], "no peer is found"),
        (
            ["--image", "{white}", "--distance", "1", "--image", "{tall}", "--distance", "1"],
            "{tall} is 320x200, the pictures before it 320x180",
        ),
        (["--truth", "none.h5", "--distance", "1"], "--truth alone changes uncertainties"),
        (["--truth", "none.h5", "--camera-height", "0"], "--truth alone changes uncertainties"),
        (["--image", "{white}", "--distance", "1", "--focal-length", "-9"], "the focal length is -9 px"),
        (
            ["--recording", "none.h5", "--distance", "1", "--focal-length", "9"],
            "recordings tell their camera",
        ),
    ],
)
def test_a_calibration_that_cannot_work_is_one_sentence(tmp_path, capsys, arguments, words):
    model = write_fake_model(tmp_path / "model.onnx")
    names = {
        "white": write_picture(tmp_path / "white.png"),
        "black": write_picture(tmp_path / "black.png", 0 * WHITE),
        "tall": write_picture(tmp_path / "tall.png", np.vstack([WHITE, WHITE[:20]])),
    }
    assert main(["calibrate", str(model), *(argument.format(**names) for argument in arguments)]) == 2
    assert words.format(**names) in capsys.readouterr().err


def test_a_place_that_the_lens_does_not_show_does_not_count(tmp_path):
    model = PeerEstimator(write_fake_model(tmp_path / "model.onnx"))
    folded = pinhole_camera(100.0, WIDTH, HEIGHT)._replace(D=np.array([-0.6, 0, 0, 0, 0]))
    pictures = [Picture("seen", WHITE, 2.0, tuple(CENTRE)), Picture("beyond", WHITE, 1.0, (5.0, 5.0))]
    calibration, outliers = calibrate_pictures(model, pictures, Setup(folded))
    assert calibration.images == 1 and not outliers


def test_other_led_names_are_refused(tmp_path, capsys):
    model = write_fake_model(tmp_path / "model.onnx")
    names = ("north", "west", "south", "east")
    recording = write_recording(tmp_path / "test.h5", straight_ahead([1.0], 0.0), names)
    assert main(["evaluate", str(model), str(recording)]) == 2
    error = capsys.readouterr().err
    assert "front" in error and "north" in error


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(LedposeError, match=r"absent\.onnx"):
        PeerEstimator(tmp_path / "absent.onnx")


def test_a_level_camera_tells_where_the_reference_point_is(tmp_path):
    """Straight ahead at 2 m and 0.4 m lower: that far below the horizon."""
    model = write_fake_model(tmp_path / "model.onnx", log2_scale=1.0)
    picture = write_picture(tmp_path / "picture.png")
    calibration = calibrate(model, [picture], [2.0], "--camera-height", "0.4", "--focal-length", "400")
    drop = 400 * 0.4 / math.sqrt(2.0**2 - 0.4**2)
    assert calibration.offset == pytest.approx(drop / (WINDOW_SIDE / 2), rel=1e-4)


def test_pictures_from_near_and_far_tell_how_far_behind_the_seen_side_the_reference_point_is(tmp_path):
    """Seen 1.0 and 2.0 m away: the reference point was measured 0.2 m farther each time."""
    near, far = (write_fake_model(tmp_path / f"{n}.onnx", log2_scale=n) for n in (0, 1))
    pictures = [Picture(f"{n}", WHITE, distance) for n in range(4) for distance in (1.2, 2.2)]
    pictures.append(Picture("misread", WHITE, 5.0))

    class Both(PeerEstimator):
        def detect(self, rgb):
            return next(answers)

    seen = [PeerEstimator(model).detect(WHITE) for model in (near, far)]
    answers = iter(5 * seen)
    calibration, outliers = calibrate_pictures(Both(near), pictures)
    assert [outlier.name for outlier in outliers] == ["misread"]
    assert calibration.recess == pytest.approx(0.2, abs=0.002)
    assert calibration.c == pytest.approx(0.0, abs=0.01)
    # A single far one would be agreed with, and says nothing.
    answers = iter([seen[0], seen[0], seen[0], seen[1]])
    misread = [*(Picture(f"{n}", WHITE, 1.2) for n in range(3)), Picture("misread", WHITE, 1.9)]
    one_far, outliers = calibrate_pictures(Both(near), misread)
    assert one_far.recess == 0.0 and [outlier.name for outlier in outliers] == ["misread"]
    # Two pictures always agree, and tell neither a recess nor how well they agree.
    answers = iter(seen)
    two, _ = calibrate_pictures(Both(near), pictures[:2])
    assert two.recess == 0.0 and two.residual >= float(seen[0].spread[0, 2])
    # One distance says nothing of it: what the model has, stays.
    known = write_fake_model(tmp_path / "known.onnx", dataclasses.replace(METADATA, calibration=calibration))
    again = calibrate_pictures(PeerEstimator(known), pictures[:1])[0]
    assert again.recess == calibration.recess and again.c == pytest.approx(0.0, abs=0.01)
    other = write_fake_model(tmp_path / "other.onnx")
    wall = write_picture(tmp_path / "wall.png")
    like = calibrate(other, [wall], [1.2], "--like", str(known))
    assert like.recess == calibration.recess and like.c == pytest.approx(0.0, abs=0.01)


def test_a_model_without_a_calibration_has_nothing_to_be_like(tmp_path, capsys):
    model = write_fake_model(tmp_path / "model.onnx")
    bare = write_fake_model(tmp_path / "bare.onnx", dataclasses.replace(METADATA, calibration=None))
    picture = write_picture(tmp_path / "picture.png")
    words = ["calibrate", str(model), "--image", str(picture), "--distance", "1", "--like", str(bare)]
    assert main(words) == 2
    assert "bare.onnx is not calibrated" in capsys.readouterr().err


def test_side_views_tell_where_ahead_the_reference_point_is(tmp_path):
    """The fake model says the picture's centre and looks at the left side of the peer: its front is left."""
    model = write_fake_model(tmp_path / "model.onnx", psi=math.pi / 2)
    pictures = [write_picture(tmp_path / "picture.png")] * SIDE_VIEWS
    camera = ("--focal-length", str(FOCAL))
    references = [str(word) for _ in pictures for word in ("--reference", CENTRE[0] - 26, CENTRE[1])]
    assert calibrate(model, pictures[1:], [2.0] * (SIDE_VIEWS - 1), *camera, *references[3:]).forward == 0
    calibration = calibrate(model, pictures, [2.0] * SIDE_VIEWS, *camera, *references)
    assert calibration.forward == pytest.approx(26 / WINDOW_SIDE, rel=1e-3)
    peer = PeerEstimator(model).estimate(WHITE, K, np.zeros(5), "plumb_bob")[0]
    assert peer.uv == pytest.approx([CENTRE[0] - 26, CENTRE[1]])
    assert calibrate(model, pictures, [2.0] * SIDE_VIEWS, *camera, "--ahead").forward == 0
    frontal = write_fake_model(tmp_path / "frontal.onnx", psi=0.2)
    assert calibrate(frontal, pictures, [2.0] * SIDE_VIEWS, *references).forward == 0, "seen from the front"
