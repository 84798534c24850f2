# SPDX-License-Identifier: Apache-2.0
"""`ledpose inspect` and `ledpose check`: what they say about recordings whose contents are known."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from ledpose_ros.cli import main
from ledpose_ros.images import encode_image, read_image
from ledpose_ros.recording import Recording, RecordingInfo, RecordingWriter

INFO = RecordingInfo(
    led_names=("front", "left"),
    led_directions=(0.0, np.pi / 2),
    camera_frame="camera",
    K=np.array([[50.0, 0, 48], [0, 51.0, 36], [0, 0, 1]]),
    D=np.zeros(5),
    distortion_model="plumb_bob",
    width=96,
    height=72,
    image_encoding="png",
)
POSE = np.array([0.0, 0, 1, 0, 0, 0, 1])


def picture(number: int) -> np.ndarray:
    """Noise in a corner, so that a sample takes about 2.5 kB on disk."""
    image = np.zeros((72, 96, 3), np.uint8)
    image[:24, :32] = np.random.default_rng(number).integers(0, 256, (24, 32, 3), np.uint8)
    return image


def append(
    writer: RecordingWriter, number: int, states: tuple[float, float], time: float, with_pose: bool
) -> None:
    stamp = round(time * 1e9) + 10**18
    image = encode_image(picture(number), "png")
    writer.append(image, stamp, stamp, np.array(states), stamp, POSE if with_pose else None)


def write(
    path: Path,
    states: list[tuple[float, float]],
    times: np.ndarray | None = None,
    with_ground_truth: bool = False,
) -> Path:
    times = np.arange(len(states)) * 0.1 if times is None else times
    with RecordingWriter(path, INFO, with_ground_truth) as writer:
        for number, (state, time) in enumerate(zip(states, times, strict=True)):
            append(writer, number, state, time, with_ground_truth and number % 2 == 0)
    return path


def inspect(capsys: pytest.CaptureFixture[str], path: Path) -> dict:
    assert main(["inspect", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_inspect_reports_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    states = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)] * 3
    times = np.arange(12) * 0.1
    times[8:] += 2.0
    summary = inspect(capsys, write(tmp_path / "a.h5", states, times, with_ground_truth=True))
    assert summary["samples"] == 12 and summary["uncommitted"] == 0
    assert summary["rate"] == 10 and summary["duration"] == 3.1
    assert summary["gaps"] == 1 and summary["longest_gap"] == 2.1
    assert summary["leds"] == [
        {"name": "front", "direction": 0.0, "on_share": 0.5},
        {"name": "left", "direction": 90.0, "on_share": 0.5},
    ]
    assert summary["distinct_states"] == 4 and summary["possible_states"] == 4
    assert summary["entropy"] == 2 and summary["led_changes"] == 11
    assert summary["ground_truth"] == 6
    assert (summary["camera"]["fx"], summary["camera"]["width"]) == (50.0, 96)
    few = summary["findings"][0]
    assert few["severity"] == "error" and few["what"].startswith("12 samples are too few") and few["advice"]


def test_inspect_warns_of_leds_that_teach_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.h5", [(1.0, 0.0)] * 98 + [(1.0, 1.0)] * 2)
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^error: LED front is always on$", text, re.MULTILINE)
    assert "--fix-advice tells what to do" in text
    assert main(["inspect", str(path), "--fix-advice"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^error: LED front is always on: switch it at random", text, re.MULTILINE)
    assert re.search(r"^warning: LED left is on in 2 % of the samples: \w+", text, re.MULTILINE)
    assert re.search(r"samples +100\n", text)
    assert "no gaps" in text and re.search(r"ground truth +no\n", text)


def test_inspect_explains_what_was_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.h5"
    write(path, [(1.0, 0.0)] * 2)
    with h5py.File(path, "r+") as file:
        file["refused"][()] = b'{"LED states too old": 7, "a reason of tomorrow": 1}'
    assert inspect(capsys, path)["refused"] == {"LED states too old": 7, "a reason of tomorrow": 1}
    assert main(["inspect", str(path), "--fix-advice"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"refused +7 LED states too old\n +1 a reason of tomorrow\n", text)
    assert "refused 7 times: LED states too old: more than `led_max_age` between" in text
    for torn in (b"[1, 2]", b'{"LED states', b"", b'{"LED states too old": "many"}', b"\xff\xfe"):
        with h5py.File(path, "r+") as file:
            file["refused"][()] = torn
        assert inspect(capsys, path)["refused"] == {}
    with h5py.File(path, "r+") as file:
        del file["refused"]
    assert inspect(capsys, path)["refused"] == {}


def test_inspect_of_an_empty_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = inspect(capsys, write(tmp_path / "a.h5", []))
    assert summary["samples"] == 0 and summary["rate"] == 0
    assert [finding["severity"] for finding in summary["findings"]] == ["error"]
    assert main(["inspect", str(tmp_path / "a.h5"), "--contact-sheet", str(tmp_path / "sheet.png")]) == 2


def test_foreign_files_that_hold_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.h5", [(1.0, 0.0)] * 20)
    with h5py.File(path, "r+") as file:
        file.attrs["created_ns"] = 1e30
    assert inspect(capsys, path)["created"] == "unknown"
    with h5py.File(path, "r+") as file:
        del file["image"]
        file["image"] = np.zeros(20, np.uint8)
    assert main(["inspect", str(path)]) == 2
    assert "the dataset 'image' holds uint8, not variable-length uint8" in capsys.readouterr().err


def test_the_contact_sheet_shows_lit_leds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, sheet = write(tmp_path / "a.h5", [(1.0, 0.0)] * 20), tmp_path / "sheet.png"
    assert main(["inspect", str(path), "--contact-sheet", str(sheet)]) == 0
    drawn = read_image(sheet)
    assert drawn.shape == (4 * (240 + 26), 4 * 320, 3)
    # The dots of the first tile: 60 px from the left, then half of the rest further.
    assert drawn[253, 60].tolist() == [255, 210, 60]
    assert drawn[253, 60 + 130].tolist() == [30, 30, 30]
    assert main(["inspect", str(path), "--contact-sheet", str(tmp_path / "sheet.gif")]) == 2
    assert "should end in .png" in capsys.readouterr().err


def test_check_passes_a_whole_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(write(tmp_path / "a.h5", [(0.0, 1.0)] * 5))]) == 0
    assert "5 of 5 samples are whole" in capsys.readouterr().out


def test_check_finds_what_a_copy_would_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path / "a.h5", [(0.0, 1.0)] * 6, with_ground_truth=True), tmp_path / "out.h5"
    with h5py.File(path, "r+") as file:
        file["ground_truth/pose"][0, 0] = np.nan
        file["image"][4] = np.frombuffer(encode_image(picture(4), "jpeg"), np.uint8)
    assert main(["split", str(path), "-o", str(tmp_path / "b.h5"), str(tmp_path / "c.h5")]) == 2
    assert f"sample 0 of {path}: a pose is 7 finite numbers" in capsys.readouterr().err
    assert main(["check", str(path)]) == 3
    said = capsys.readouterr().out
    assert "5 of 6 samples are whole" in said and "the true poses of 1 of them are none" in said
    assert f"sample 4 of {path} is no png" in said and f"sample 0 of {path}: a pose" in said
    assert main(["check", str(path), "--repair", str(out)]) == 3
    with Recording(out) as repaired:
        truth = repaired.ground_truth()
        assert truth is not None and truth.valid.tolist() == [False, False, True, False, False]
    assert main(["check", str(out)]) == 0


def test_check_repairs_a_recording_with_spoilt_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write(tmp_path / "a.h5", [(0.0, 1.0)] * 6, with_ground_truth=True), tmp_path / "out.h5"
    with h5py.File(path, "r+") as file:
        file["image"][2] = file["image"][2][:-10]
    before = path.read_bytes()
    assert main(["check", str(path)]) == 3
    assert "cannot decode image 2" in capsys.readouterr().out
    assert main(["check", str(path), "--repair", str(out)]) == 3
    assert path.read_bytes() == before
    with Recording(path) as damaged, Recording(out) as repaired:
        kept = [0, 1, 3, 4, 5]
        np.testing.assert_array_equal(repaired.image_stamps_ns, damaged.image_stamps_ns[kept])
        for new, old in enumerate(kept):
            np.testing.assert_array_equal(repaired.image(new), picture(old))
        truth = repaired.ground_truth()
        assert truth is not None and truth.valid.tolist() == [True, False, False, True, False]
    assert main(["check", str(out)]) == 0
    assert main(["check", str(path), "--repair", str(out)]) == 2


def test_check_finishes_the_file_of_a_dead_recorder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = RecordingWriter(tmp_path / "a.h5", INFO)
    for number in range(5):
        append(writer, number, (1.0, 0.0), number, with_pose=False)
    writer.commit()
    append(writer, 5, (1.0, 0.0), 5, with_pose=False)
    writer._file.close()
    part, out = tmp_path / "a.h5.part", tmp_path / "out.h5"
    assert inspect(capsys, part)["uncommitted"] == 1
    assert main(["check", str(part), "--repair", str(out)]) == 3
    assert "5 of 6 samples are whole" in capsys.readouterr().out
    with Recording(out) as recording:
        assert len(recording) == 5


@pytest.mark.parametrize("garbage", [b"\xff" * 8, (2**62).to_bytes(8, "little")])
def test_check_saves_what_garbage_does_not_refer_to(tmp_path: Path, garbage: bytes) -> None:
    """Of 40 samples, the pictures of the second piece of the index are lost."""
    path, out = tmp_path / "a.h5", tmp_path / "out.h5"
    with RecordingWriter(path, INFO) as writer:
        for number in range(40):
            append(writer, number, (1.0, 0.0), number, with_pose=False)
        rows = writer._file["image"].chunks[0]
        piece = writer._file["image"].id.get_chunk_info(1)
    assert 0 < rows < 40
    data = bytearray(path.read_bytes())
    for row in range(rows):
        # Of a reference, the address comes after the length.
        place = piece.byte_offset + 16 * row + 4
        data[place : place + 8] = garbage
    path.write_bytes(data)
    assert main(["check", str(path), "--repair", str(out)]) == 3
    with Recording(out) as recording:
        assert len(recording) == 40 - rows


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_check_saves_what_lies_before_the_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], share: float
) -> None:
    path, out = tmp_path / "a.h5", tmp_path / "out.h5"
    count = 200
    states = [(float(number % 2), 1.0) for number in range(count)]
    with RecordingWriter(path, INFO) as writer:
        for number in range(count):
            append(writer, number, states[number], number, with_pose=False)
            if number % 10 == 9:
                writer.commit()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert main(["check", str(path), "--repair", str(out)]) == 3
    assert "was cut off after" in capsys.readouterr().out
    with Recording(out) as recording:
        # Not all samples before the cut can be saved: HDF5 writes its index in between.
        assert len(recording) > (share - 0.2) * count
        for index, stamp in enumerate(recording.image_stamps_ns):
            number = round((int(stamp) - 10**18) / 1e9)
            np.testing.assert_array_equal(recording.image(index), picture(number))
            assert recording.led_states[index].tolist() == list(states[number])


TORN = """
import os, resource, sys
import numpy as np
sys.path.insert(0, {folder!r})
from test_inspect import *
from ledpose_ros.errors import LedposeError
RecordingWriter._reserve = lambda *_: None
random = np.random.default_rng({seed})
writer = RecordingWriter({path!r}, INFO)
committed, limit_at, room = 0, int(random.integers(5, 60)), int(random.integers(0, 30000))
try:
    for number in range(300):
        noise = random.integers(0, 256, (INFO.height, INFO.width, 3), np.uint8)
        states = np.array([number % 2, 1.0])
        writer.append(encode_image(noise, "png"), number + 1, 1, states, 1)
        if number % 7 == 6:
            writer.commit()
            committed = number + 1
        if number == limit_at:
            limit = writer.part_path.stat().st_size + room
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
except LedposeError:
    writer.abandon()
print(committed, flush=True)
os._exit(0)  # HDF5 would complain once more
"""


@pytest.mark.parametrize("seed", range(6))
def test_check_mends_what_a_failing_disk_has_torn(tmp_path: Path, seed: int) -> None:
    script = TORN.format(folder=str(Path(__file__).parent), path=str(tmp_path / "a.h5"), seed=seed)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    committed, out = int(done.stdout), tmp_path / "out.h5"
    assert main(["check", str(tmp_path / "a.h5.part"), "--repair", str(out)]) == 3
    with Recording(out) as recording:
        assert len(recording) >= committed > 0
        assert recording.image_stamps_ns.tolist() == list(range(1, len(recording) + 1))
        assert recording.led_states[:, 0].tolist() == [index % 2 for index in range(len(recording))]


def test_check_takes_no_zeros_for_led_states(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "a.h5", tmp_path / "out.h5"
    small = replace(INFO, width=2, height=2)
    image = encode_image(np.zeros((2, 2, 3), np.uint8), "png")
    with RecordingWriter(path, small) as writer:
        for number in range(1500):
            writer.append(image, number + 1, 1, np.ones(2), 1)
            if number % 100 == 99:
                writer.commit()
        # The second piece of the LED states, rows from 1024 on, lies where the file is cut.
        cut = writer._file["led_states"].id.get_chunk_info(1).byte_offset + 10 * 2 * 4
    path.write_bytes(path.read_bytes()[:cut])
    status = main(["check", str(path), "--repair", str(out)])
    assert status == 3, capsys.readouterr().out
    with Recording(out) as recording:
        assert recording.led_states.all()
        assert len(recording) <= 1034


def test_check_of_hopeless_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "missing.h5")]) == 2
    text = tmp_path / "text.h5"
    text.write_text("hello")
    assert main(["check", str(text)]) == 1
    assert "no HDF5 file" in capsys.readouterr().out
    assert main(["check", str(write(tmp_path / "empty.h5", []))]) == 1
    assert main(["check", str(tmp_path / "empty.h5"), "--repair", str(tmp_path / "out.txt")]) == 2
    stump = tmp_path / "stump.h5"
    stump.write_bytes(write(tmp_path / "a.h5", [(1.0, 1.0)] * 3).read_bytes()[:100])
    assert main(["check", str(stump)]) == 1
