# SPDX-License-Identifier: Apache-2.0
"""Recordings put together and cut apart: every sample comes through as it was."""

from dataclasses import replace

import numpy as np
import pytest
from toy import write_toy_recording

from ledpose_ros.cli import main
from ledpose_ros.recording import Recording, RecordingWriter


def samples(path):
    """All that a recording holds of each sample."""
    with Recording(path) as recording:
        truth = recording.ground_truth()
        return [
            (
                recording.encoded_image(index).tobytes(),
                recording.led_states[index].tolist(),
                int(recording.image_stamps_ns[index]),
                int(recording.receive_stamps_ns[index]),
                int(recording.led_stamps_ns[index]),
                truth.pose[index].tolist() if truth is not None and truth.valid[index] else None,
            )
            for index in range(len(recording))
        ]


def test_what_was_split_is_merged_again(tmp_path, capsys):
    whole, parts, merged = (
        tmp_path / "whole.h5",
        [tmp_path / "a.h5", tmp_path / "b.h5"],
        tmp_path / "merged.h5",
    )
    write_toy_recording(whole, 130, with_ground_truth=True)
    assert main(["split", str(whole), "--shares", "8", "2", "-o", *map(str, parts)]) == 0
    first, second = map(samples, parts)
    assert (len(first), len(second)) == (104, 26) and first + second == samples(whole)
    assert main(["merge", *map(str, parts), "-o", str(merged)]) == 0
    assert samples(merged) == samples(whole)
    assert "holds 130 samples of 2 recordings" in capsys.readouterr().out


def test_parts_are_equal_unless_told_otherwise(tmp_path):
    write_toy_recording(tmp_path / "whole.h5", 9)
    parts = [str(tmp_path / f"{name}.h5") for name in "abc"]
    assert main(["split", str(tmp_path / "whole.h5"), "-o", *parts]) == 0
    assert [len(samples(part)) for part in parts] == [3, 3, 3]
    with Recording(parts[0]) as part:
        assert not part.has_ground_truth


def test_ground_truth_of_some_is_kept(tmp_path):
    write_toy_recording(tmp_path / "a.h5", 3)
    write_toy_recording(tmp_path / "b.h5", 2, with_ground_truth=True)
    merged = tmp_path / "merged.h5"
    assert main(["merge", str(tmp_path / "a.h5"), str(tmp_path / "b.h5"), "-o", str(merged)]) == 0
    assert [pose is None for *_, pose in samples(merged)] == [True] * 3 + [False] * 2


@pytest.mark.parametrize(
    ("change", "name"),
    [({"K": np.diag([90.0, 90, 1])}, "K"), ({"led_names": ("a", "b", "c", "d")}, "led_names")],
)
def test_recordings_of_different_kinds_are_not_merged(tmp_path, capsys, change, name):
    write_toy_recording(tmp_path / "a.h5", 2)
    with Recording(tmp_path / "a.h5") as recording:
        RecordingWriter(tmp_path / "b.h5", replace(recording.info, **change)).close()
    words = ["merge", str(tmp_path / "a.h5"), str(tmp_path / "b.h5"), "-o", str(tmp_path / "c.h5")]
    assert main(words) == 2
    assert f"has another {name} than" in capsys.readouterr().err
    assert not list(tmp_path.glob("c.h5*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shares", "1"], "--shares needs 2 numbers"),
        (["--shares", "1", "0"], "above 0"),
        (["--shares", "1", "1000"], "too few for these shares"),
    ],
)
def test_shares_that_will_not_do_are_refused(tmp_path, capsys, options, words):
    write_toy_recording(tmp_path / "whole.h5", 4)
    parts = [str(tmp_path / "a.h5"), str(tmp_path / "b.h5")]
    assert main(["split", str(tmp_path / "whole.h5"), "-o", *parts, *options]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("[ab].h5*"))


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ("b.hdf5", "ends in .h5"),
        ("there.h5", "exists already"),
        ("parted.h5", "exists already"),
        ("a.h5", "twice"),
    ],
)
def test_all_parts_are_checked_before_one_is_written(tmp_path, capsys, second, words):
    write_toy_recording(tmp_path / "whole.h5", 4)
    (tmp_path / "there.h5").touch()
    (tmp_path / "parted.h5.part").touch()
    parts = [str(tmp_path / "a.h5"), str(tmp_path / second)]
    assert main(["split", str(tmp_path / "whole.h5"), "-o", *parts]) == 2
    assert words in capsys.readouterr().err and not list(tmp_path.glob("a.h5*"))


def test_nothing_is_overwritten(tmp_path, capsys):
    write_toy_recording(tmp_path / "whole.h5", 4)
    before = (tmp_path / "whole.h5").read_bytes()
    assert main(["merge", str(tmp_path / "whole.h5"), "-o", str(tmp_path / "whole.h5")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "whole.h5").read_bytes() == before
