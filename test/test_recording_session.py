# SPDX-License-Identifier: Apache-2.0
"""The writer thread: every sample is written or counted, and every file is finished."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ledpose_ros import recording_session
from ledpose_ros.errors import LedposeError
from ledpose_ros.images import decode_image, encode_image
from ledpose_ros.pairing import PairedSample
from ledpose_ros.recording import Recording, RecordingWriter
from ledpose_ros.recording_session import (
    FAILED,
    RECORDING,
    Camera,
    CameraImage,
    RecordingSession,
    SessionSettings,
)
from ledpose_ros.refusals import Refusals

CAMERA = Camera(np.diag([50.0, 50.0, 1.0]), np.zeros(5), "plumb_bob", 32, 24)


def sample(
    number: int, camera: Camera = CAMERA, width: int = 32, pose: np.ndarray | None = None
) -> PairedSample:
    message = SimpleNamespace(
        header=SimpleNamespace(frame_id="camera"),
        encoding="mono8",
        width=width,
        height=24,
        step=width,
        is_bigendian=0,
        data=bytes([number]) * (width * 24),
    )
    states = np.array([number % 2, 1], np.float32)
    return PairedSample(CameraImage(message, camera), number, number, states, number, pose)


def wait_until(predicate: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not predicate():
        assert time.monotonic() < end
        time.sleep(0.005)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refusals = Refusals()
        self.settings = SessionSettings(
            folder, ("front", "left"), (0.0, 1.5), image_encoding="png", min_free_space_mb=1
        )
        self._sessions: list[RecordingSession] = []

    def session(self, **changes: object) -> RecordingSession:
        session = RecordingSession(replace(self.settings, **changes), self.refusals)  # type: ignore[arg-type]
        self._sessions.append(session)
        return session

    def close(self) -> None:
        for session in self._sessions:
            session.close()

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "out")
    yield bench
    bench.close()


def test_stop_writes_what_is_queued_and_names_the_file(bench: Bench) -> None:
    session = bench.session()
    session.start()
    for number in range(20):
        session.put(sample(number), with_ground_truth=False)
    answer = session.stop()
    (path,) = bench.files()
    assert answer == f"{path} holds 20 samples"
    assert session.samples == 20 and session.led_on_counts.tolist() == [10, 20]
    with Recording(path) as recording:
        assert recording.image_stamps_ns.tolist() == list(range(20))
        assert recording.image(7)[0, 0].tolist() == [7, 7, 7]
        assert recording.info.camera_frame == "camera"


def test_nothing_is_written_before_start_and_no_file_without_samples(bench: Bench) -> None:
    session = bench.session()
    session.put(sample(0), with_ground_truth=False)
    assert session.stop() == "not recording: stopped"
    session.start()
    assert session.start() == "recording already"
    assert session.stop() == "no sample was recorded"
    assert bench.files() == []


def test_split_begins_another_file(bench: Bench) -> None:
    session = bench.session()
    with pytest.raises(LedposeError, match="nothing to split"):
        session.split()
    session.start()
    session.put(sample(0), with_ground_truth=False)
    session.split()
    session.put(sample(1), with_ground_truth=False)
    session.put(sample(2), with_ground_truth=False)
    session.stop()
    counts = []
    for path in bench.files():
        with Recording(path) as recording:
            counts.append(len(recording))
    assert sorted(counts) == [1, 2]


def counts_in(paths: list[Path]) -> list[int]:
    counts = []
    for path in paths:
        with Recording(path) as recording:
            counts.append(len(recording))
    return counts


def noise(number: int) -> PairedSample:
    """A sample whose PNG takes 72 kB and a little."""
    noisy = sample(number, camera=replace(CAMERA, width=1000), width=1000)
    message = noisy.image.message
    message.encoding, message.step = "rgb8", 3000
    message.data = np.random.default_rng(number).integers(0, 256, 24 * 3000, np.uint8).tobytes()
    return noisy


def test_segments_end_by_size(bench: Bench) -> None:
    session = bench.session(segment_size_mb=1)
    session.start()
    for number in range(31):
        session.put(noise(number), with_ground_truth=False, wait=True)
    session.stop()
    assert sorted(counts_in(bench.files())) == [3, 14, 14]
    assert session.safe_samples == session.samples == 31


def test_segments_end_by_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(recording_session, "time", SimpleNamespace(monotonic=lambda: now))
    session = bench.session(segment_duration=60.0)
    session.start()
    for number, moment in enumerate((0.0, 59.0, 61.0, 62.0)):
        now = 1000.0 + moment
        session.put(sample(number), with_ground_truth=False)
        wait_until(lambda number=number: session.samples == number + 1)  # type: ignore[misc]
    session.stop()
    assert counts_in(bench.files()) == [3, 1]


def test_what_failed_is_not_called_safe(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    session = bench.session(flush_samples=100, flush_period=60.0)
    session.start()
    for number in range(5):
        session.put(sample(number), with_ground_truth=False)
    wait_until(lambda: session.samples == 5)
    with monkeypatch.context() as patch:
        patch.setattr(RecordingWriter, "append", failing)
        patch.setattr(RecordingWriter, "commit", failing)
        session.put(sample(5), with_ground_truth=False)
        session.put(sample(6), with_ground_truth=False)
        wait_until(lambda: session.state == FAILED)
        wait_until(lambda: bench.refusals.counts["recording failed"] == 1)
    assert session.safe_samples == 0
    session.start()
    session.put(sample(7), with_ground_truth=False)
    session.stop()
    assert (session.samples, session.safe_samples) == (6, 1)


def failing(*_: object) -> None:
    raise LedposeError("the disk fails")


def test_what_was_refused_is_noted_in_the_file(bench: Bench) -> None:
    session = bench.session()
    bench.refusals.count("no LED state yet", "before the start, so of no file")
    session.start()
    session.put(sample(0), with_ground_truth=False)
    bench.refusals.count("within guard of a change", "an image is rejected")
    session.split()
    session.put(sample(1), with_ground_truth=False)
    session.put(sample(2, width=16), with_ground_truth=False)
    session.stop()
    refused = []
    for path in bench.files():
        with Recording(path) as recording:
            refused.append(recording.refused)
    assert refused == [{"within guard of a change": 1}, {"image size differs from CameraInfo": 1}]


@pytest.mark.parametrize("happens", ["deleted", "moved"])
def test_a_folder_that_disappears_ends_the_recording_and_loses_nothing(bench: Bench, happens: str) -> None:
    session = bench.session(flush_samples=5, flush_period=60.0)
    session.start()
    for number in range(5):
        session.put(sample(number), with_ground_truth=False)
    wait_until(lambda: session.safe_samples == 5)
    if happens == "deleted":
        shutil.rmtree(bench.folder)
    else:
        bench.folder.rename(bench.folder.parent / "moved")
    for number in range(5, 10):
        session.put(sample(number), with_ground_truth=False)
    wait_until(lambda: session.state == FAILED)
    assert f"was {happens}" in session.error
    (path,) = [path for path in bench.folder.parent.rglob("*.part")]
    with Recording(path) as recording:
        assert recording.image_stamps_ns.tolist() == list(range(10))


def test_samples_become_durable_by_count_and_by_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[int] = []
    commit = RecordingWriter.commit
    monkeypatch.setattr(
        RecordingWriter, "commit", lambda writer: (commits.append(len(writer)), commit(writer))[1]
    )
    session = bench.session(flush_samples=5, flush_period=1.0)
    session.start()
    for number in range(7):
        session.put(sample(number), with_ground_truth=False)
    # 0 when the file is made, 5 by count, and the other two by time alone.
    wait_until(lambda: commits[-1:] == [7])
    assert commits == [0, 5, 7]


def test_a_full_queue_refuses_the_new_sample(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = recording_session.encode_image
    monkeypatch.setattr(
        recording_session, "encode_image", lambda *picture: (time.sleep(0.05), encode(*picture))[1]
    )
    session = bench.session(queue_size=3)
    session.start()
    for number in range(20):
        session.put(sample(number), with_ground_truth=False)
    session.stop()
    assert bench.refusals.counts["queue full"] > 10
    assert session.samples + bench.refusals.counts["queue full"] == 20
    with Recording(bench.files()[0]) as recording:
        assert recording.image_stamps_ns[:3].tolist() == [0, 1, 2]


def test_images_that_do_not_fit_are_refused_and_the_rest_goes_on(bench: Bench) -> None:
    session = bench.session()
    session.start()
    session.put(sample(0), with_ground_truth=False)
    unreadable = sample(1)
    unreadable.image.message.data = b"short"
    session.put(unreadable, with_ground_truth=False)
    session.put(sample(2, width=40), with_ground_truth=False)
    session.put(sample(3, camera=replace(CAMERA, width=40), width=40), with_ground_truth=False)
    session.put(sample(4, camera=replace(CAMERA, K=np.diag([60.0, 60.0, 1.0]))), with_ground_truth=False)
    session.put(sample(4, camera=replace(CAMERA, distortion_model="equidistant")), with_ground_truth=False)
    session.put(sample(5), with_ground_truth=False)
    session.stop()
    assert bench.refusals.counts == {
        "unreadable image": 1,
        "image size differs from CameraInfo": 1,
        "camera changed": 3,
    }
    with Recording(bench.files()[0]) as recording:
        assert recording.image_stamps_ns.tolist() == [0, 5]


def test_a_compressed_image_of_the_right_kind_is_stored_as_it_is(bench: Bench) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    session = bench.session()
    session.start()
    for encoding in ("png", "jpeg"):
        compressed = sample(0)
        compressed.image.message.format = encoding
        compressed.image.message.data = encode_image(picture, encoding)
        session.put(compressed, with_ground_truth=False)
    session.stop()
    with Recording(bench.files()[0]) as recording:
        assert recording.encoded_image(0).tobytes() == encode_image(picture, "png")
        # A JPEG becomes the PNG of its pixels.
        np.testing.assert_array_equal(recording.image(1), decode_image(encode_image(picture, "jpeg")))


def test_ground_truth_that_comes_too_late_for_a_file_is_left_out(bench: Bench) -> None:
    pose = np.array([0.0, 0, 1, 0, 0, 0, 1])
    session = bench.session()
    session.start()
    session.put(sample(0), with_ground_truth=False)
    session.put(sample(1, pose=pose), with_ground_truth=True)
    session.split()
    session.put(sample(2, pose=pose), with_ground_truth=True)
    session.stop()
    truths = []
    for path in bench.files():
        with Recording(path) as recording:
            truths.append((len(recording), recording.has_ground_truth))
    assert sorted(truths) == [(1, True), (2, False)]


def test_recording_ends_before_the_disk_is_full_and_can_start_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = bench.session(min_free_space_mb=100)
    session.start()
    session.put(sample(0), with_ground_truth=False)
    wait_until(lambda: session.samples == 1)
    with monkeypatch.context() as patch:
        patch.setattr(RecordingSession, "free_space_mb", 99)
        session.put(sample(1), with_ground_truth=False)
        wait_until(lambda: session.state == FAILED)
    assert "99 MB left, min_free_space_mb is 100" in session.error
    assert "99 MB" in session.stop()
    (path,) = bench.files()
    assert path.suffix == ".h5"
    with Recording(path) as recording:
        assert len(recording) == 1
    session.start()
    assert session.state == RECORDING and session.error == ""
    session.put(sample(2), with_ground_truth=False)
    session.stop()
    assert len(bench.files()) == 2


def test_the_first_write_error_ends_the_recording(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    session = bench.session()
    session.start()
    session.put(sample(0), with_ground_truth=False)
    wait_until(lambda: session.samples == 1)

    def fail(*_arguments: object) -> None:
        raise LedposeError("cannot write: I/O error")

    monkeypatch.setattr(RecordingWriter, "append", fail)
    session.put(sample(1), with_ground_truth=False)
    wait_until(lambda: session.state == FAILED)
    assert session.error == "cannot write: I/O error"
    session.put(sample(2), with_ground_truth=False)
    session.close()
    assert session.samples == 1
    with Recording(bench.files()[0]) as recording:
        assert len(recording) == 1


def test_an_output_directory_that_cannot_be_made_is_an_error_in_the_state(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    session = bench.session(output_directory=tmp_path / "file" / "folder")
    session.start()
    session.put(sample(0), with_ground_truth=False)
    wait_until(lambda: session.state == FAILED)
    assert "cannot create" in session.error


@pytest.mark.parametrize(("place", "value"), [("k", 0.0), ("k", np.nan), ("d", np.inf), ("k4", 0.0)])
def test_a_camera_that_no_recording_can_be_of_is_refused(place: str, value: float) -> None:
    """When its message comes, not when a file is to begin: that would end the recording."""
    k, d = np.diag([50.0, 50.0, 1.0]).ravel(), np.zeros(5)
    {"k": k, "d": d, "k4": k[4:]}[place][0] = value
    no_region = SimpleNamespace(width=0, height=0, x_offset=0, y_offset=0)
    message = SimpleNamespace(
        k=k, d=d, distortion_model="", width=32, height=24, binning_x=0, binning_y=0, roi=no_region
    )
    with pytest.raises(LedposeError, match="calibrate the camera"):
        Camera.from_message(message)
