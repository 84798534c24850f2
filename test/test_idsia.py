# SPDX-License-Identifier: Apache-2.0
"""The published datasets as recordings: from files made here in their layout."""

import math
from pathlib import Path

import h5py
import numpy as np
import pytest

from ledpose_ros.cli import main
from ledpose_ros.geometry import camera_tilt, project, quaternion_product, relative_bearing, rotation_matrix
from ledpose_ros.idsia import CAMERA, LEDS
from ledpose_ros.recording import Recording

UPRIGHT = np.array([0.0, 0.0, 0.0, 1.0])
IN_BODY = np.array([0.5, -0.5, 0.5, 0.5])  # the optical frame's inverse: body axes of a level camera
CAMERA_HEIGHT = 0.2
TURRET_HEIGHT = 0.25
SECONDS = 1_680_000_000.25


def write_dataset(
    path: Path,
    rows: int = 6,
    axes: np.ndarray = UPRIGHT,
    robots: tuple[str, ...] = ("RM1", "RM6"),
    **replaced,
) -> np.ndarray:
    """A file in the published layout, RM1 and RM6 looking at each other in turn; the peer's x, y, theta."""
    random = np.random.default_rng(0)
    pose = np.column_stack(
        [random.uniform(1, 3, rows), random.uniform(-0.5, 0.5, rows), random.uniform(-3, 3, rows)]
    )
    optical = camera_tilt(0.1, 0.0)  # looks down a little
    camera_pose = np.array([0.05, 0.0, CAMERA_HEIGHT, *quaternion_product(optical, axes)])
    turret = np.column_stack([pose[:, :2], np.full(rows, TURRET_HEIGHT)]) - camera_pose[:3]
    seen = turret @ rotation_matrix(optical)
    datasets = {
        "robot_id": np.array([int(robots[row % 2].removeprefix("RM")) for row in range(rows)]),
        "image": random.integers(0, 255, (rows, 360, 640, 3), np.uint8),
        "timestamp": SECONDS + np.arange(rows) / 10,
    }
    for a, b in (robots[:2], robots[1::-1]):
        datasets[f"{a}_pose_rel_{b}"] = pose
        datasets[f"{a}_proj_uvz_{b}"] = np.column_stack([project(seen, *CAMERA), seen[:, 2]])
        datasets[f"{a}_camera_pose"] = np.tile(camera_pose, (rows, 1))
        for number, (end, _) in enumerate(LEDS.values()):
            datasets[f"{b}_led_{end}"] = (np.arange(rows) >> number) % 2
    with h5py.File(path, "w") as file:
        file.attrs["RIDs"] = list(robots)
        for name, values in (datasets | replaced).items():
            if values is not None:
                file[name] = values
    return pose


def imported(tmp_path: Path, *options: str) -> Recording:
    assert main(["import-idsia", str(tmp_path / "data.h5"), "-o", str(tmp_path / "out.h5"), *options]) == 0
    return Recording(tmp_path / "out.h5")


@pytest.mark.parametrize("axes", [UPRIGHT, IN_BODY], ids=["optical axes", "body axes"])
def test_rows_become_samples_of_one_camera_after_the_other(tmp_path, capsys, axes):
    pose = write_dataset(tmp_path / "data.h5", axes=axes)
    with imported(tmp_path, "--png") as recording, h5py.File(tmp_path / "data.h5") as file:
        order = [0, 2, 4, 1, 3, 5]
        assert recording.info.led_names == ("front", "left", "back", "right")
        for sample, row in enumerate(order):
            assert recording.image(sample).tolist() == file["image"][row].tolist()
        assert recording.led_states[:, 0].tolist() == [row % 2 for row in order]
        assert recording.led_states[:, 1].tolist() == [(row >> 1) % 2 for row in order]
        np.testing.assert_allclose(
            recording.image_stamps_ns / 1e9, SECONDS + np.array(order) / 10, rtol=0, atol=1e-6
        )
        truth = recording.ground_truth()
        assert truth is not None and truth.valid.all()
        # Seen from the camera, 5 cm ahead of the base and above it, on a floor.
        flat = np.hypot(pose[order, 0] - 0.05, pose[order, 1])
        np.testing.assert_allclose(
            np.linalg.norm(truth.pose[:, :3], axis=1), np.hypot(flat, CAMERA_HEIGHT), atol=1e-9
        )
        back = np.arctan2(-pose[order, 1], -(pose[order, 0] - 0.05)) - pose[order, 2]
        wrong = relative_bearing(truth.pose) - back
        np.testing.assert_allclose(np.cos(wrong), 1, atol=1e-9)
    assert "holds 6 samples, 6 of them with the peer's true pose" in capsys.readouterr().out


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path, capsys):
    states, stamps = np.array([0.0, 1, math.nan, 1, 2, 1]), SECONDS + np.arange(6.0)
    stamps[1] = math.nan
    far_left = np.tile([-5.0, 100.0, 2.0], (6, 1))
    write_dataset(tmp_path / "data.h5", RM6_led_bf=states, timestamp=stamps, RM6_proj_uvz_RM1=far_left)
    with imported(tmp_path) as recording:
        assert len(recording) == 3
        truth = recording.ground_truth()
        # A robot beside the picture has no pose in it.
        assert truth is not None and truth.valid.tolist() == [True, False, False]
    out = capsys.readouterr().out
    assert "2 rows are left out: LED states not between 0 and 1" in out
    assert "1 rows are left out: no time stamp" in out


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000, 1_000_000_000])
def test_whole_numbers_are_seconds_or_parts_of_them(tmp_path, unit):
    write_dataset(tmp_path / "data.h5", rows=2, timestamp=np.array([1_680_000_000, 1_680_000_001]) * unit)
    with imported(tmp_path) as recording:
        assert recording.image_stamps_ns.tolist() == [1_680_000_000 * 10**9, 1_680_000_001 * 10**9]


def test_without_motion_capture_no_sample_has_a_pose(tmp_path):
    write_dataset(tmp_path / "data.h5", RM1_pose_rel_RM6=None, RM6_pose_rel_RM1=None)
    with imported(tmp_path, "--camera", "RM6", "--leds", "front", "top_left") as recording:
        assert len(recording) == 3 and recording.info.led_names == ("front", "top_left")
        truth = recording.ground_truth()
        assert truth is not None and not truth.valid.any()


@pytest.mark.parametrize(
    "replaced, options, words",
    [
        ({"robot_id": None}, [], "is no dataset of ssl-pretext-multi-led"),
        (
            {"image": np.zeros((6, 4, 4, 3), np.uint8)},
            [],
            "is no dataset of ssl-pretext-multi-led: its images",
        ),
        ({"RM6_led_bf": None}, [], "has no states of the LED front of RM6"),
        ({"RM1_proj_uvz_RM6": np.tile([10.0, 10, 2], (6, 1))}, [], "px beside its turret"),
        ({"RM1_camera_pose": np.zeros((3, 7))}, [], "RM1_camera_pose has 3 rows instead of 6"),
        ({"robots": ("RM1", "RM6", "RM7")}, [], "choose with --peer"),
        ({}, ["--camera", "RM2"], "has no RM2: its robots are RM1, RM6"),
        ({"robot_id": np.full(6, 3)}, [], "has no image that fits"),
        ({}, ["--leds", "nose"], "there is no LED nose"),
    ],
)
def test_another_layout_is_refused_in_one_sentence(tmp_path, capsys, replaced, options, words):
    write_dataset(tmp_path / "data.h5", **replaced)
    assert main(["import-idsia", str(tmp_path / "data.h5"), "-o", str(tmp_path / "o.h5"), *options]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error and "Traceback" not in error
    assert not list(tmp_path.glob("o.h5*"))


def test_what_is_no_hdf5_file_is_refused(tmp_path, capsys):
    (tmp_path / "data.h5").write_text("no")
    assert main(["import-idsia", str(tmp_path / "data.h5"), "-o", str(tmp_path / "o.h5")]) == 2
    assert "cannot be read as HDF5" in capsys.readouterr().err
