# SPDX-License-Identifier: Apache-2.0
"""A bag becomes the recording that the recorder would have made of its messages."""

import errno

import numpy as np
import pytest
from blinking import (
    CAMERA_TOPIC,
    IMAGE_TOPIC,
    LED_TOPIC,
    POSE_TOPIC,
    SECOND,
    TYPES,
    blink,
    camera_info,
    picture,
    pose,
    write_bag,
)
from rosbags.rosbag2 import StoragePlugin

from ledpose_ros.cli import main
from ledpose_ros.leds import DEFAULT_LED_NAMES
from ledpose_ros.pairing import SamplePairer
from ledpose_ros.recording import Recording, RecordingWriter

BLINKING = blink(60)
GUARD = 0.03


def arguments(tmp_path, *options):
    topic = ["--image-topic", IMAGE_TOPIC]
    return ["import-bag", str(tmp_path / "bag"), "-o", str(tmp_path / "out.h5"), *topic, *options]


def far_from_changes():
    """Which images are farther from a change than the guard."""
    gaps = np.abs(BLINKING.images_ns[:, None] - BLINKING.changes_ns).min(1)
    return gaps > GUARD * SECOND


@pytest.mark.parametrize("storage", StoragePlugin)
def test_every_image_far_from_a_change_gets_the_state_that_was_held(tmp_path, capsys, storage):
    write_bag(tmp_path / "bag", BLINKING, 0, storage)
    assert main(arguments(tmp_path, "--led-guard", str(GUARD), "--image-encoding", "png")) == 0
    kept = far_from_changes()
    with Recording(tmp_path / "out.h5") as recording:
        assert recording.image_stamps_ns.tolist() == BLINKING.images_ns[kept].tolist()
        assert recording.receive_stamps_ns.tolist() == (BLINKING.images_ns[kept] + SECOND // 50).tolist()
        for index, stamp in enumerate(recording.image_stamps_ns):
            assert recording.led_states[index].tolist() == BLINKING.at(stamp).tolist()
            assert recording.image(index).tolist() == picture(BLINKING.at(stamp)).tolist()
        assert recording.info.K[0, 0] == 50 and recording.info.camera_frame == "camera"
        assert recording.info.led_names == DEFAULT_LED_NAMES and not recording.has_ground_truth
    out = capsys.readouterr().out
    assert f"{(~kept).sum()} refused: " in out
    assert f"holds {kept.sum()} samples of 60 images" in out


def test_a_clock_that_is_ahead_is_mended_by_the_offset(tmp_path):
    write_bag(tmp_path / "bag", BLINKING, SECOND // 4)
    assert main(arguments(tmp_path, "--led-offset", "0.25", "--led-guard", str(GUARD))) == 0
    with Recording(tmp_path / "out.h5") as recording:
        assert len(recording) == far_from_changes().sum()
        for states, stamp in zip(recording.led_states, recording.image_stamps_ns, strict=True):
            assert states.tolist() == BLINKING.at(stamp).tolist()


def test_true_poses_come_with_the_images_of_their_stamps(tmp_path):
    poses = [
        (int(stamp) + SECOND // 25, POSE_TOPIC, pose(stamp, float(index)))
        for index, stamp in enumerate(BLINKING.images_ns)
        if index % 2
    ]
    write_bag(tmp_path / "bag", BLINKING, 0, more=poses)
    assert main(arguments(tmp_path, "--ground-truth-topic", POSE_TOPIC)) == 0
    with Recording(tmp_path / "out.h5") as recording:
        truth = recording.ground_truth()
        index = np.searchsorted(BLINKING.images_ns, recording.image_stamps_ns)
        assert truth is not None and truth.valid.tolist() == (index % 2 == 1).tolist()
        assert truth.pose[truth.valid, 0].tolist() == index[truth.valid].tolist()


def test_leds_may_be_told_by_other_messages(tmp_path):
    names = ("a", "b")
    table = "leds/{0}: {{type: std_msgs/msg/Bool, leds: {{{0}: {{value: data}}}}}}"
    (tmp_path / "sources.yaml").write_text("\n".join(table.format(name) for name in names))
    told = TYPES.types["std_msgs/msg/Bool"]
    more = [
        (now, f"/leds/{name}", told(bool(states[led])))
        for now, _, states in BLINKING.messages(0)
        for led, name in enumerate(names)
    ]
    write_bag(tmp_path / "bag", BLINKING, 0, more=more)
    options = ["--led-names", *names, "--led-directions", "0", "1", "--led-guard", str(GUARD)]
    assert main(arguments(tmp_path, "--led-sources", str(tmp_path / "sources.yaml"), *options)) == 0
    with Recording(tmp_path / "out.h5") as recording:
        assert len(recording) >= far_from_changes().sum()
        for states, stamp in zip(recording.led_states, recording.image_stamps_ns, strict=True):
            assert states.tolist() == BLINKING.at(stamp)[:2].tolist()


def test_bad_messages_are_counted_and_the_rest_is_imported(tmp_path, capsys):
    late = int(BLINKING.images_ns[-1])
    more = [
        (late, LED_TOPIC, b"\x00\x01\x00\x00\x05"),
        (late, IMAGE_TOPIC, b"\x00\x01\x00\x00\x05"),
        (late, CAMERA_TOPIC, camera_info(late, focal_length=0.0)),
    ]
    write_bag(tmp_path / "bag", BLINKING, 0, more=more)
    assert main(arguments(tmp_path, "--led-guard", str(GUARD))) == 0
    out = capsys.readouterr().out
    assert "2 refused: unreadable message, as " in out
    assert "1 refused: camera not calibrated, as " in out
    assert f"holds {far_from_changes().sum()} samples" in out


def test_images_wait_for_no_camera_that_cannot_be_used(tmp_path, capsys):
    """As by the recorder, they are refused from such a CameraInfo to the next good one, a second later."""
    first = int(BLINKING.images_ns[0])
    useless = (first - 1, CAMERA_TOPIC, camera_info(first - 1, focal_length=0.0))
    write_bag(tmp_path / "bag", BLINKING, 0, more=[useless])
    assert main(arguments(tmp_path, "--led-guard", str(GUARD))) == 0
    out = capsys.readouterr().out
    assert "1 refused: camera not calibrated, as " in out
    assert " refused: no CameraInfo yet, as " in out
    assert f"holds {far_from_changes().sum()} samples" not in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--led-names", "a", "b", "--led-directions", "0", "1"], "could be used, see above"),
        (["--led-names", "a", "b"], "give one direction per LED"),
        (["--led-guard", "-1"], "parameter 'led_guard' is -1.0"),
        (["--image-encoding", "gif"], "must be one of jpeg, png"),
        (["--led-topic", LED_TOPIC, "--led-sources", "some.yaml"], "--led-topic is for a JointState"),
        (["--led-topic", "/none"], "has no topic /none"),
        (["--ground-truth-topic", LED_TOPIC], "needed is geometry_msgs/msg/PoseStamped"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(tmp_path, capsys, options, words):
    write_bag(tmp_path / "bag", BLINKING, 0)
    assert main(arguments(tmp_path, *options)) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("out.h5*"))


def test_an_existing_recording_is_never_overwritten(tmp_path, capsys):
    write_bag(tmp_path / "bag", BLINKING, 0)
    (tmp_path / "out.h5").write_text("mine")
    assert main(arguments(tmp_path)) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "out.h5").read_text() == "mine"


def test_a_full_disk_ends_the_import_and_keeps_what_was_written(tmp_path, capsys, monkeypatch):
    write_bag(tmp_path / "bag", BLINKING, 0)
    append = RecordingWriter.append

    def full_after_ten(writer, *sample, **more):
        if len(writer) == 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(writer, *sample, **more)

    monkeypatch.setattr(RecordingWriter, "append", full_after_ten)
    assert main(arguments(tmp_path)) == 2
    assert "No space left on device" in capsys.readouterr().err
    with Recording(tmp_path / "out.h5") as recording:
        assert len(recording) == 10


def test_an_import_that_was_interrupted_does_not_look_whole(tmp_path, monkeypatch):
    write_bag(tmp_path / "bag", BLINKING, 0)

    def interrupted_after_forty(pairer, image, stamp_ns, *more):
        if stamp_ns == BLINKING.images_ns[40]:
            raise KeyboardInterrupt
        add_image(pairer, image, stamp_ns, *more)

    add_image = SamplePairer.add_image
    monkeypatch.setattr(SamplePairer, "add_image", interrupted_after_forty)
    assert main(arguments(tmp_path)) == 130
    assert not (tmp_path / "out.h5").exists()
    with Recording(tmp_path / "out.h5.part") as recording:
        assert 0 < len(recording) <= 40


def test_an_exported_recording_is_imported_again(tmp_path, capsys):
    poses = [(int(stamp), POSE_TOPIC, pose(stamp, 2.0)) for stamp in BLINKING.images_ns[::2]]
    write_bag(tmp_path / "bag", BLINKING, 0, more=poses)
    assert main(arguments(tmp_path, "--ground-truth-topic", POSE_TOPIC)) == 0
    words = ["export-bag", str(tmp_path / "out.h5"), "-o", str(tmp_path / "again"), "--namespace", "robot"]
    assert main(words) == 0
    topics = {"image": "image/compressed", "led": "led_states", "ground-truth": "ground_truth"}
    options = [word for key, name in topics.items() for word in (f"--{key}-topic", f"/robot/{name}")]
    # Each state comes with its image and is stamped with its begin: nothing tells how long it is held.
    options += ["--led-guard", "0"]
    assert main(["import-bag", str(tmp_path / "again"), "-o", str(tmp_path / "again.h5"), *options]) == 0
    with Recording(tmp_path / "out.h5") as first, Recording(tmp_path / "again.h5") as second:
        assert len(second) > 0.6 * len(first)
        known = np.searchsorted(first.image_stamps_ns, second.image_stamps_ns)
        assert np.array_equal(first.image_stamps_ns[known], second.image_stamps_ns)
        assert np.array_equal(first.led_states[known], second.led_states)
        assert np.array_equal(first.receive_stamps_ns[known], second.receive_stamps_ns)
        assert first.encoded_image(int(known[0])).tobytes() == second.encoded_image(0).tobytes()
        assert np.array_equal(first.ground_truth().valid[known], second.ground_truth().valid)
        for name, value in vars(first.info).items():
            assert np.array_equal(value, getattr(second.info, name)), name
    capsys.readouterr()
    assert main(words) == 2
    assert "again exists already" in capsys.readouterr().err
    assert main([*words[:-1], "bad name"]) == 2
    assert "'bad name' is no namespace" in capsys.readouterr().err
