# SPDX-License-Identifier: Apache-2.0
"""The recording format: what is written is read again, and what is no recording is refused."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from ledpose_ros.errors import LedposeError
from ledpose_ros.images import encode_image
from ledpose_ros.recording import RESERVED_BYTES, Recording, RecordingInfo, RecordingWriter

INFO = RecordingInfo(
    led_names=("front", "left"),
    led_directions=(0.0, np.pi / 2),
    camera_frame="camera_optical_frame",
    K=np.array([[50.0, 0, 16], [0, 51.0, 12], [0, 0, 1]]),
    D=np.array([0.1, -0.2, 0.01, 0.02]),
    distortion_model="plumb_bob",
    width=32,
    height=24,
    image_encoding="png",
)
POSE = np.array([0.1, 0.2, 1.5, 0.0, 0.0, 0.6, 0.8])


def picture(number: int) -> np.ndarray:
    return np.full((INFO.height, INFO.width, 3), (number, 255 - number, 7), np.uint8)


def append(writer: RecordingWriter, number: int, **changes: object) -> None:
    arguments: dict = {
        "image": encode_image(picture(number), writer.info.image_encoding),
        "image_stamp_ns": 1_700_000_000_000_000_000 + number,
        "receive_stamp_ns": 2_000 + number,
        "led_states": np.array([number % 2, 0.25]),
        "led_stamp_ns": 3_000 + number,
    }
    writer.append(**(arguments | changes))


def write(path: Path, samples: int = 3, with_ground_truth: bool = False, info: RecordingInfo = INFO) -> Path:
    with RecordingWriter(path, info, with_ground_truth) as writer:
        for number in range(samples):
            append(writer, number, pose=POSE if with_ground_truth and number != 1 else None)
    return path


@pytest.mark.parametrize("image_encoding", ["png", "jpeg"])
def test_what_is_written_is_read_again(tmp_path: Path, image_encoding: str) -> None:
    path = write(tmp_path / "a.h5", with_ground_truth=True, info=replace(INFO, image_encoding=image_encoding))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5"]
    with Recording(path) as recording:
        assert len(recording) == 3
        info = recording.info
        for name in ("led_names", "led_directions", "camera_frame", "distortion_model", "width", "height"):
            assert getattr(info, name) == getattr(INFO, name)
        np.testing.assert_array_equal(info.K, INFO.K)
        np.testing.assert_array_equal(info.D, INFO.D)
        assert info.image_encoding == image_encoding
        assert recording.led_states.dtype == np.float32
        np.testing.assert_array_equal(recording.led_states, [[0, 0.25], [1, 0.25], [0, 0.25]])
        assert recording.image_stamps_ns.tolist() == [
            1_700_000_000_000_000_000 + number for number in range(3)
        ]
        assert recording.receive_stamps_ns.tolist() == [2000, 2001, 2002]
        assert recording.led_stamps_ns.tolist() == [3000, 3001, 3002]
        assert np.abs(recording.image(2).astype(int) - picture(2)).max() <= (
            0 if image_encoding == "png" else 3
        )
        assert recording.encoded_image(1).tobytes() == encode_image(picture(1), image_encoding)
        assert recording.software.startswith("ledpose_ros ")
        assert recording.has_ground_truth
        truth = recording.ground_truth()
        assert truth is not None
        assert truth.valid.tolist() == [True, False, True]
        np.testing.assert_array_equal(truth.pose[[0, 2]], [POSE, POSE])
        assert np.isnan(truth.pose[1]).all()
        with pytest.raises(IndexError):
            recording.image(3)


def test_a_recording_without_ground_truth_says_so(tmp_path: Path) -> None:
    with Recording(write(tmp_path / "a.h5")) as recording:
        assert not recording.has_ground_truth
        assert recording.ground_truth() is None


def test_a_camera_without_distortion_and_an_empty_recording(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", samples=0, info=replace(INFO, D=np.zeros(0)))
    with Recording(path) as recording:
        assert len(recording) == 0 and recording.info.D.shape == (0,)
        assert recording.led_states.shape == (0, 2)


def test_the_layout_on_disk_is_the_documented_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", with_ground_truth=True)
    with h5py.File(path) as file:
        assert file.attrs["format"] == "ledpose-recording" and file.attrs["version"] == 1
        assert list(file.attrs["led_names"]) == ["front", "left"]
        assert file.attrs["K"].tolist() == INFO.K.ravel().tolist()
        assert {"created_ns", "software", "camera_frame", "image_encoding"} <= set(file.attrs)
        assert file["n_committed"][()] == 3 and file["n_committed"].dtype == np.int64
        expected = {
            "image_stamp_ns": (np.int64, (3,)),
            "receive_stamp_ns": (np.int64, (3,)),
            "led_stamp_ns": (np.int64, (3,)),
            "led_states": (np.float32, (3, 2)),
            "ground_truth/pose": (np.float64, (3, 7)),
            "ground_truth/valid": (np.bool_, (3,)),
        }
        for name, (dtype, shape) in expected.items():
            assert file[name].dtype == dtype and file[name].shape == shape
            assert file[name].maxshape[0] is None
        assert h5py.check_vlen_dtype(file["image"].dtype) == np.uint8


def test_rows_beyond_the_committed_ones_do_not_exist(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "a.h5", INFO)
    append(writer, 0)
    append(writer, 1)
    writer.commit()
    append(writer, 2)
    copy = tmp_path / "copy.h5"
    writer._file.flush()
    copy.write_bytes(writer.part_path.read_bytes())
    with Recording(copy) as recording:
        assert len(recording) == 2
        assert recording.image_stamps_ns.shape == (2,) and recording.led_states.shape == (2, 2)
        with pytest.raises(IndexError):
            recording.encoded_image(2)
    writer.close()


KILLED_WRITER = """
import sys, time
sys.path.insert(0, {folder!r})
from test_recording import *
writer = RecordingWriter({path!r}, INFO)
for number in range(25):
    append(writer, number)
    if number % 10 == 9:
        writer.commit()
print("ready", flush=True)
time.sleep(60)
"""


def test_a_power_cut_loses_nothing_that_was_committed(tmp_path: Path, monkeypatch) -> None:
    """Of a power cut survives for sure what was in the file when it was last told to be on the disk."""
    path, survivors, fsync = tmp_path / "a.h5", [], os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        survivors.append(tmp_path / f"{len(survivors)}.h5")
        shutil.copy(f"{path}.part", survivors[-1])

    monkeypatch.setattr(os, "fsync", noted)
    counts = []
    with RecordingWriter(path, INFO) as writer:
        for number in range(4):
            append(writer, number)
            if number != 1:
                writer.commit()
                counts.append((len(survivors) - 1, writer.committed))
    for survivor, committed in counts:
        with Recording(survivors[survivor]) as recording:
            assert len(recording) == committed
            for index in range(committed):
                assert (recording.image(index) == picture(index)).all()
    assert [committed for _, committed in counts] == [1, 3, 4]
    # The data before the count: else this would count samples that are not there.
    for before in (survivor - 1 for survivor, committed in counts if committed > 1):
        with Recording(survivors[before]) as recording, h5py.File(survivors[before]) as file:
            assert len(file["image"]) > len(recording) >= 1


def test_a_killed_writer_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    script = KILLED_WRITER.format(folder=str(Path(__file__).parent), path=str(path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        with pytest.raises(LedposeError, match="still being written"):
            Recording(f"{path}.part")
        process.send_signal(signal.SIGKILL)
    with Recording(f"{path}.part") as recording:
        assert len(recording) == 20
        for number in range(20):
            np.testing.assert_array_equal(recording.image(number), picture(number))


def test_an_exception_keeps_what_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(ZeroDivisionError), RecordingWriter(path, INFO) as writer:
        append(writer, 0)
        _ = 1 / 0
    assert not path.exists()
    with Recording(f"{path}.part") as recording:
        assert len(recording) == 1


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, {folder!r})
from test_recording import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))
noise = np.random.default_rng(0).integers(0, 256, (INFO.height, INFO.width, 3), np.uint8)
with RecordingWriter({path!r}, INFO) as writer:
    for number in range(500):
        append(writer, number, image=encode_image(noise, "png"))
        writer.commit()
        print(number + 1, flush=True)
"""


def test_a_write_error_is_one_sentence_and_keeps_the_committed_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    script = FULL_DISK.format(folder=str(Path(__file__).parent), path=str(path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    committed = int(done.stdout.split()[-1])
    assert 10 < committed < 500
    assert f"LedposeError: cannot write sample {committed}" in done.stderr, done.stderr
    assert not path.exists()
    with Recording(f"{path}.part") as recording:
        assert len(recording) == committed
        assert [recording.image(index).shape[0] for index in range(committed)] == [INFO.height] * committed


def test_reserved_space_is_given_back(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "a.h5", INFO) as writer:
        append(writer, 0)
        assert writer.part_path.stat().st_size > RESERVED_BYTES
    assert (tmp_path / "a.h5").stat().st_size < RESERVED_BYTES


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"led_states": np.zeros(3)}, r"\(3,\), the recording has 2 LEDs"),
        ({"led_states": np.array([0.0, np.nan])}, "between 0"),
        ({"led_states": np.array([0.0, 1.5])}, "1.5"),
        ({"led_states": np.array([-0.5, 1.0])}, "-0.5"),
        ({"image": b"nothing"}, "neither jpeg nor png"),
        ({"image": b""}, "neither jpeg nor png"),
        ({"image": encode_image(picture(0), "jpeg")}, "is jpeg, but the recording holds png"),
        ({"pose": POSE[:6]}, "7 finite numbers"),
        ({"pose": POSE * np.nan}, "7 finite numbers"),
        ({"pose": POSE * 2}, "length 2"),
    ],
)
def test_refused_samples_leave_the_recording_as_it_was(tmp_path: Path, changes: dict, complaint: str) -> None:
    with RecordingWriter(tmp_path / "a.h5", INFO, with_ground_truth=True) as writer:
        append(writer, 0)
        with pytest.raises(LedposeError, match=complaint):
            append(writer, 1, **changes)
        append(writer, 2, pose=POSE)
    with Recording(tmp_path / "a.h5") as recording:
        assert recording.receive_stamps_ns.tolist() == [2000, 2002]
        np.testing.assert_array_equal(recording.image(1), picture(2))


def test_a_pose_needs_a_recording_with_ground_truth(tmp_path: Path) -> None:
    with (
        RecordingWriter(tmp_path / "a.h5", INFO) as writer,
        pytest.raises(LedposeError, match="without ground truth"),
    ):
        append(writer, 0, pose=POSE)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    before = path.read_bytes()
    with pytest.raises(LedposeError, match="exists already"):
        RecordingWriter(path, INFO)
    assert path.read_bytes() == before
    (tmp_path / "b.h5.part").write_bytes(b"of a dead writer")
    with pytest.raises(LedposeError, match=r"b\.h5\.part exists already"):
        RecordingWriter(tmp_path / "b.h5", INFO)
    with pytest.raises(LedposeError, match=r"ends in \.h5"):
        RecordingWriter(tmp_path / "c.hdf5", INFO)
    with pytest.raises(LedposeError, match="cannot create"):
        RecordingWriter(path / "d.h5", INFO)


def test_missing_folders_are_made(tmp_path: Path) -> None:
    assert write(tmp_path / "new" / "folder" / "a.h5").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"led_names": ("front", "front")}, "different names"),
        ({"led_names": ("front",)}, r"names \(1\) and LED directions \(2\)"),
        ({"K": np.zeros((3, 3))}, "positive focal lengths"),
        ({"K": np.eye(2)}, "3x3"),
        ({"D": np.array([np.inf])}, "inf"),
        ({"width": 0}, "0x24"),
        ({"image_encoding": "webp"}, "webp"),
    ],
)
def test_impossible_cameras_and_leds_are_refused(changes: dict, complaint: str) -> None:
    with pytest.raises(LedposeError, match=complaint):
        replace(INFO, **changes)


def test_names_stored_as_bytes_are_text_when_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["led_names"] = np.array([b"front", b"left"])
        file.attrs["format"] = np.bytes_("ledpose-recording")
        file.attrs["camera_frame"] = np.bytes_("camera")
    with Recording(path) as recording:
        assert recording.info.led_names == ("front", "left")
        assert recording.info.camera_frame == "camera"


def damage_attribute(name: str, value: object):
    def damage(file: h5py.File) -> None:
        file.attrs[name] = value

    return damage


def delete_attribute(name: str):
    def damage(file: h5py.File) -> None:
        del file.attrs[name]

    return damage


def delete_dataset(name: str):
    def damage(file: h5py.File) -> None:
        del file[name]

    return damage


def claim_fewer_than_none(file: h5py.File) -> None:
    file["n_committed"][()] = -5


def make_the_images_a_group(file: h5py.File) -> None:
    del file["image"]
    file.create_group("image")


def claim_more_samples(file: h5py.File) -> None:
    file["n_committed"][()] = 4


def add_an_led_column(file: h5py.File) -> None:
    del file["led_states"]
    file["led_states"] = np.zeros((3, 4), np.float32)


def store_a_nan_state(file: h5py.File) -> None:
    file["led_states"][1] = np.nan


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (damage_attribute("format", "something-else"), "no recording"),
        (delete_attribute("format"), "no recording"),
        (damage_attribute("version", 2), "version 2, this software reads version 1"),
        (delete_attribute("led_names"), "led_names"),
        (delete_attribute("software"), "software"),
        (damage_attribute("K", np.zeros(8)), "8 numbers"),
        (damage_attribute("width", np.inf), "is damaged"),
        (make_the_images_a_group, "is damaged"),
        (damage_attribute("K", np.zeros(9)), "focal"),
        (delete_dataset("image"), "image"),
        (delete_dataset("n_committed"), "n_committed"),
        (claim_fewer_than_none, "claims -5 samples"),
        (claim_more_samples, "claims 4 samples but 'image' holds 3"),
        (add_an_led_column, r"\(3, 4\), which does not fit 2 LEDs"),
        (store_a_nan_state, "outside 0..1"),
    ],
)
def test_files_that_do_not_follow_the_format_are_refused(tmp_path: Path, damage, complaint: str) -> None:
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(LedposeError, match=complaint) as caught:
        Recording(path)
    assert str(path) in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LedposeError, match="there is no recording"):
        Recording(tmp_path / "missing.h5")
    with pytest.raises(LedposeError, match="there is no recording"):
        Recording(tmp_path)
    text = tmp_path / "text.h5"
    text.write_text("hello")
    with pytest.raises(LedposeError, match="no HDF5 file"):
        Recording(text)
    truncated = tmp_path / "truncated.h5"
    whole = write(tmp_path / "a.h5").read_bytes()
    truncated.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LedposeError, match="ledpose check"):
        Recording(truncated)


def test_a_spoilt_image_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file["image"][1] = file["image"][1][:-10]
        file["image"][2] = np.frombuffer(encode_image(np.zeros((10, 10, 3), np.uint8), "png"), np.uint8)
    with Recording(path) as recording:
        recording.image(0)
        with pytest.raises(LedposeError, match="cannot decode image 1 of"):
            recording.image(1)
        with pytest.raises(LedposeError, match=r"image 2 of .* is 10x10, the recording's size is 32x24"):
            recording.image(2)


def test_ground_truth_is_opened_only_on_request(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", with_ground_truth=True)
    with h5py.File(path, "r+") as file:
        # Anything that opens this link fails.
        del file["ground_truth"]
        file["ground_truth"] = h5py.ExternalLink("nowhere.h5", "/")
    with Recording(path) as recording:
        recording.image(0)
        assert recording.has_ground_truth
        with pytest.raises(LedposeError, match="cannot read the ground truth"):
            recording.ground_truth()
