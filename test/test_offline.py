# SPDX-License-Identifier: Apache-2.0
"""`ledpose estimate` on everything that holds pictures, without ROS."""

import csv
import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from blinking import CAMERA_TOPIC, IMAGE_TOPIC, SECOND, SIDE, blink, camera_info, message, write_bag
from fake_model import LED_PROBABILITY, METADATA, write_fake_model
from test_evaluation import FOCAL, HEIGHT, WHITE, WIDTH, straight_ahead, write_picture, write_recording

from ledpose_ros.bags import Bag, BagWriter
from ledpose_ros.cli import main
from ledpose_ros.estimator import PeerEstimator
from ledpose_ros.frames import open_source
from ledpose_ros.geometry import pinhole_camera
from ledpose_ros.images import encode_image
from ledpose_ros.leds import stamp_ns
from ledpose_ros.model_metadata import Calibration

BLACK = np.zeros_like(WHITE)
CALIBRATION = Calibration(c=1.0, images=1, residual=0.05, width=WIDTH, focal_length=FOCAL)


@pytest.fixture
def model(tmp_path) -> Path:
    return write_fake_model(tmp_path / "model.onnx", dataclasses.replace(METADATA, calibration=CALIBRATION))


def estimate(model: Path, inputs: list[Path], output: Path, *words: str) -> int:
    return main(["estimate", *map(str, inputs), "-o", str(output), "--model", str(model), *words])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_video(path: Path, pictures: list[np.ndarray], rate: float = 20.0, codec: str = "mp4v") -> Path:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, (WIDTH, HEIGHT))
    for picture in pictures:
        video.write(picture)
    video.release()
    return path


def test_table_of_a_recording(model, tmp_path, capsys):
    recording = write_recording(tmp_path / "test.h5", straight_ahead([2.0, 2.0], 0.0), without_peer=3)
    assert estimate(model, [recording], tmp_path / "out.csv") == 0
    assert "Found peers in 2 of 5 pictures, 0 more could not be used" in capsys.readouterr().out
    rows = rows_of(tmp_path / "out.csv")
    assert [row["picture"] for row in rows] == ["sample 0", "sample 1"]
    assert [int(row["stamp_ns"]) for row in rows] == [10**9, 2 * 10**9]
    assert [row["peer"] for row in rows] == ["0", "0"]
    row = {name: float(value) for name, value in rows[0].items() if name != "picture"}
    assert (row["x"], row["y"], row["z"], row["distance"]) == pytest.approx((0, 0, 2, 2), abs=1e-6)
    assert (row["u"], row["v"]) == pytest.approx(((WIDTH - 1) / 2, (HEIGHT - 1) / 2))
    assert row["psi"] == pytest.approx(math.pi / 2, abs=1e-5)
    assert row["sigma_x"] == pytest.approx(4 * 2 / FOCAL, rel=1e-3)
    assert row["sigma_yaw"] == pytest.approx(math.sqrt(-2 * math.log(0.9)), rel=1e-3)
    assert [row[f"led_{name}"] for name in METADATA.led_names] == pytest.approx(LED_PROBABILITY)


def test_recordings_one_after_the_other(model, tmp_path):
    """By their stamps: the shell puts the recorder's tenth file before its second."""
    later = write_recording(tmp_path / "run_10.h5", straight_ahead([2.0] * 4, 0.0))
    with h5py.File(later, "r+") as file:
        file["image_stamp_ns"][:] += 2 * 10**9
    earlier = write_recording(tmp_path / "run_2.h5", straight_ahead([2.0] * 2, 0.0))
    assert estimate(model, [later, earlier], tmp_path / "out.csv") == 0
    rows = rows_of(tmp_path / "out.csv")
    assert [int(row["stamp_ns"]) // 10**9 for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["picture"] for row in rows[1:3]] == ["sample 1 of run_2.h5", "sample 0 of run_10.h5"]


@pytest.mark.parametrize("names", [["a.mp4", "b.mp4"], ["a.h5", "b.png"], ["a.mcap", "b.mcap"], ["a", "b"]])
def test_inputs_that_do_not_go_together(model, tmp_path, capsys, names):
    inputs = [tmp_path / name for name in names]
    for path in inputs:
        path.touch()
    assert estimate(model, inputs, tmp_path / "out.csv") == 2
    assert "give one bag, video or folder, or several recordings or pictures" in capsys.readouterr().err


def test_pictures_of_a_folder_come_by_the_numbers_in_their_names(model, tmp_path):
    for number in (1, 2, 10):
        write_picture(tmp_path / f"view_{number}.png")
    assert estimate(model, [tmp_path], tmp_path / "out.csv") == 0
    names = [Path(row["picture"]).name for row in rows_of(tmp_path / "out.csv")]
    assert names == ["view_1.png", "view_2.png", "view_10.png"]


def test_a_video_that_is_cut_off(model, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, WHITE.shape, np.uint8)
    video = write_video(tmp_path / "in.avi", [WHITE, noise] * 10)
    os.truncate(video, video.stat().st_size // 2)
    assert estimate(model, [video], tmp_path / "out.csv") == 0
    read = len(rows_of(tmp_path / "out.csv"))
    assert f"in.avi should hold 20 pictures, but ends after {read}: it is cut" in capsys.readouterr().out


def test_a_video_of_which_no_frame_can_be_decoded(model, tmp_path, capsys):
    video = write_video(tmp_path / "in.mp4", [WHITE] * 3)
    data = video.read_bytes()
    begin, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    video.write_bytes(data[:begin] + bytes(end - begin) + data[end:])
    assert estimate(model, [video], tmp_path / "out.csv") == 2
    assert "cannot be read: it is damaged, or of an unknown coding" in capsys.readouterr().err


def test_video_in_and_video_out(model, tmp_path):
    video = write_video(tmp_path / "in.mp4", [WHITE, BLACK, WHITE])
    outputs = ["-o", str(tmp_path / "out.mp4")]
    assert estimate(model, [video], tmp_path / "out.csv", *outputs) == 0
    rows = rows_of(tmp_path / "out.csv")
    assert [int(row["stamp_ns"]) for row in rows] == [0, 10**8]
    assert float(rows[0]["z"]) == pytest.approx(2)
    drawn = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert drawn.get(cv2.CAP_PROP_FPS) == 20
    frames = []
    while (read := drawn.read())[0]:
        frames.append(read[1])
    assert len(frames) == 3
    # The box is drawn in the two white pictures, nothing in the black one but a place that is no peer.
    middle, aside = [
        [frame[rows].std() > 5 for frame in frames] for rows in (np.s_[60:120, 100:], np.s_[:40, :60])
    ]
    assert (middle, aside) == ([True, False, True], [True, True, True])


@pytest.mark.parametrize(
    ("times", "stamps"),
    [
        ([0, 100, 200, 700, 1200], [0, 100, 200, 700, 1200]),
        ([0, 0, 0, 0, 0], [0, 50, 100, 150, 200]),
        ([400, 500, 40, 600, 700], [400, 500, 550, 600, 700]),
    ],
    ids=["of no constant rate", "that does not tell its times", "that goes back"],
)
def test_stamps_of_a_video(tmp_path, monkeypatch, times, stamps):
    class Video:
        """One whose pictures have these times [ms]: OpenCV reads such files, and writes none."""

        def __init__(self, path, open_video=cv2.VideoCapture):
            self.video, self.shown = open_video(path), -1

        def read(self):
            self.shown += 1
            return self.video.read()

        def get(self, what):
            return float(times[self.shown]) if what == cv2.CAP_PROP_POS_MSEC else self.video.get(what)

        def release(self):
            self.video.release()

    path = write_video(tmp_path / "in.mp4", [WHITE] * 5)
    monkeypatch.setattr(cv2, "VideoCapture", Video)
    assert [frame.stamp_ns // 10**6 for frame in open_source([path]).frames] == stamps


@pytest.mark.parametrize("rate", [29.97, 59.94, 66.667, 74.993, 90.143, 119.88])
def test_videos_of_any_rate_are_written(model, tmp_path, rate):
    video = write_video(tmp_path / "in.avi", [WHITE] * 3, rate, "MJPG")
    out = tmp_path / "out.mp4"
    assert estimate(model, [video], out) == 0
    assert cv2.VideoCapture(str(out)).get(cv2.CAP_PROP_FPS) == pytest.approx(rate, abs=0.5)


def test_a_picture_of_a_bag_without_stamp_is_left_out_as_by_the_node(model, tmp_path, capsys):
    blinking = blink(5)
    image = message(
        "sensor_msgs/msg/Image",
        0,
        height=SIDE,
        width=SIDE,
        encoding="rgb8",
        is_bigendian=0,
        step=3 * SIDE,
        data=np.zeros(3 * SIDE**2, np.uint8),
    )
    write_bag(tmp_path / "bag", blinking, 0, more=[(int(blinking.images_ns[2]), IMAGE_TOPIC, image)])
    words = ["--image-topic", IMAGE_TOPIC, "--min-confidence", "0"]
    assert estimate(model, [tmp_path / "bag"], tmp_path / "out.csv", *words) == 0
    out = capsys.readouterr().out
    assert "is left out: its stamp is 0" in out and "1 more could not be used" in out


def test_a_region_of_interest_changes_no_distance(model, tmp_path):
    """Not even where the calibration knows but the width of its pictures: nothing is larger in a region."""
    unknown = dataclasses.replace(CALIBRATION, focal_length=None)
    write_fake_model(model, dataclasses.replace(METADATA, calibration=unknown))
    distances = []
    for name, cut in (("whole", False), ("region", True)):
        told = camera_info(0, width=2 * SIDE if cut else SIDE)
        told.k[0] = told.k[4] = 50.0
        if cut:
            told.height = 2 * SIDE
            told.roi.width = told.roi.height = SIDE
        write_bag(tmp_path / name, blink(5), 0, camera=told)
        out = tmp_path / f"{name}.csv"
        assert (
            estimate(model, [tmp_path / name], out, "--image-topic", IMAGE_TOPIC, "--min-confidence", "0")
            == 0
        )
        distances.append(float(rows_of(out)[0]["z"]))
    # A sensor of twice as many pixels of the same lens: each object is twice as large on it.
    assert distances[1] == pytest.approx(2 * distances[0])


def test_bag_in_and_bag_out(model, tmp_path):
    blinking = blink(10)
    write_bag(tmp_path / "bag", blinking, 0)
    out = tmp_path / "out.mcap"
    assert (
        estimate(model, [tmp_path / "bag"], out, "--image-topic", IMAGE_TOPIC, "--min-confidence", "0") == 0
    )
    with Bag(out) as bag:
        wanted = ("/peer_pose", "/peer_poses", "/debug_image/compressed", "/camera_info", "/peer_led_states")
        found = {topic: [] for topic in wanted}
        for entry in bag.messages(*wanted):
            found[entry.topic].append((entry.receive_stamp_ns, entry.decode()))
    for topic, messages in found.items():
        assert [stamp for stamp, _ in messages] == blinking.images_ns.tolist(), topic
        assert all(stamp_ns(message.header.stamp) == stamp for stamp, message in messages)
        assert {message.header.frame_id for _, message in messages} == {"camera"}
    assert found["/camera_info"][0][1].k[0] == 50
    poses, best = found["/peer_poses"][0][1].poses, found["/peer_pose"][0][1].pose.pose
    assert poses[0].position.z == best.position.z > 0
    assert len(found["/peer_led_states"][0][1].name) == 4


def test_pictures_and_damaged_ones_among_them(model, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    pictures = [write_picture(folder / f"{number}.png") for number in range(4)]
    for damaged in pictures[1:3]:
        damaged.write_bytes(damaged.read_bytes()[:100])
    for inputs in (pictures, [folder]):
        assert estimate(model, inputs, tmp_path / f"{len(inputs)}.csv") == 0
        out, err = capsys.readouterr()
        assert "Found peers in 2 of 2 pictures, 2 more could not be used" in out
        for damaged in pictures[1:3]:
            assert f"{damaged} is left out: cannot read the picture" in out + err
        rows = rows_of(tmp_path / f"{len(inputs)}.csv")
        assert [Path(row["picture"]).name for row in rows] == ["0.png", "3.png"]


CAMERA_YAML = """
image_width: {width}
image_height: {height}
camera_name: test
camera_matrix: {{rows: 3, cols: 3, data: [{f}, 0, {cx}, 0, {f}, {cy}, 0, 0, 1]}}
distortion_model: plumb_bob
distortion_coefficients: {{rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}}
"""


def test_camera_of_pictures(model, tmp_path):
    picture = write_picture(tmp_path / "picture.png")
    text = CAMERA_YAML.format(
        width=WIDTH, height=HEIGHT, f=2 * FOCAL, cx=(WIDTH - 1) / 2, cy=(HEIGHT - 1) / 2
    )
    (tmp_path / "camera.yaml").write_text(text)
    # Twice the focal length of the calibration: twice the distance.
    for name, words, distance in (
        ("model", [], 2.0),
        ("told", ["--camera-info", str(tmp_path / "camera.yaml")], 4.0),
        ("focal", ["--focal-length", str(3 * FOCAL)], 6.0),
    ):
        assert estimate(model, [picture], tmp_path / f"{name}.csv", *words) == 0
        assert float(rows_of(tmp_path / f"{name}.csv")[0]["distance"]) == pytest.approx(distance, rel=1e-5)


def bare(tmp_path: Path) -> list[str]:
    """A model that is not calibrated."""
    write_fake_model(tmp_path / "bare.onnx", dataclasses.replace(METADATA, calibration=None))
    return ["--model", str(tmp_path / "bare.onnx")]


def other_size(tmp_path: Path) -> list[str]:
    """The calibration of a camera of another size."""
    (tmp_path / "other.yaml").write_text(CAMERA_YAML.format(width=64, height=48, f=50, cx=32, cy=24))
    return ["--camera-info", str(tmp_path / "other.yaml")]


def no_camera(tmp_path: Path) -> list[str]:
    """A file that is no calibration."""
    (tmp_path / "none.yaml").write_text("image_width: 10\n")
    return ["--camera-info", str(tmp_path / "none.yaml")]


def no_yaml(tmp_path: Path) -> list[str]:
    """A file that YAML cannot read, of which it says so in several lines."""
    (tmp_path / "broken.yaml").write_text("image_width: [10\nimage_height: }\n")
    return ["--camera-info", str(tmp_path / "broken.yaml")]


def unknown_focal_length(tmp_path: Path) -> list[str]:
    """A model calibrated without a focal length."""
    calibration = dataclasses.replace(CALIBRATION, focal_length=None)
    path = write_fake_model(tmp_path / "unknown.onnx", dataclasses.replace(METADATA, calibration=calibration))
    return ["--model", str(path)]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (bare, "bare.onnx is not calibrated"),
        (other_size, "for 64x48, but pictures are 320x180"),
        (no_camera, "no camera calibration as ROS's camera_calibration writes it"),
        (no_yaml, "no camera calibration as ROS's camera_calibration writes it"),
        (unknown_focal_length, "give --camera-info or --focal-length"),
        (lambda _: ["--focal-length", "0"], "focal length is 0 px"),
        (lambda _: ["--min-confidence", "nan"], "'min_confidence' is nan, but must be 0 to 1"),
        (lambda _: ["--image-topic", "/image"], "picture.png is no bag, and has no topics"),
        (lambda _: ["--threads", "-1"], "'threads' is -1, but must be 1 to 64"),
        (lambda _: ["--camera-pitch", "2"], "'camera_pitch' is 2.0, but must be -1.5708 to 1.5708"),
        (lambda _: ["--providers", "Abacus", "CPUExecutionProvider"], "onnxruntime lacks Abacus"),
        (lambda path: ["-o", str(path / "out.txt")], "must end in .csv, .mp4 or .mcap"),
        (lambda path: ["-o", str(path / "there.csv")], "there.csv exists already"),
        (lambda path: ["--camera-info", str(path / "a.yaml"), "--focal-length", "300"], "or --focal-length"),
        (lambda path: ["-o", str(path / "no_such_folder/out.csv")], "cannot write"),
        (lambda path: ["-o", str(path / "no_such_folder/out.mp4")], "cannot write the video"),
        (lambda path: ["-o", str(path / "no_such_folder/out.mcap")], "cannot write the bag"),
    ],
)
def test_what_cannot_work_is_said_in_a_sentence(model, tmp_path, capsys, words, sentence):
    picture = write_picture(tmp_path / "picture.png")
    (tmp_path / "there.csv").touch()
    assert estimate(model, [picture], tmp_path / "out.csv", *words(tmp_path)) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("missing.mp4", None, "there is no"),
        ("odd.xyz", b"", "is of an unknown kind"),
        ("broken.mp4", b"no video", "cannot be read: it is damaged"),
        ("broken.png", b"no picture", "none of the 1 pictures"),
        ("broken.mcap", b"no bag", "cannot be read"),
    ],
)
def test_inputs_that_hold_no_pictures(model, tmp_path, capsys, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert estimate(model, [tmp_path / name], tmp_path / "out.csv") == 2
    assert sentence in capsys.readouterr().err


def test_empty_folder(model, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert estimate(model, [tmp_path / "empty"], tmp_path / "out.csv") == 2
    assert "holds no pictures" in capsys.readouterr().err


def test_python_interface_needs_no_ros(model):
    """As docs/estimator.md shows it; and what does not estimate does not load onnxruntime."""
    code = f"""
import sys, numpy as np
import ledpose_ros
assert "onnxruntime" not in sys.modules
from ledpose_ros import PeerEstimator
estimator = PeerEstimator({str(model)!r})
K = np.array([[200.0, 0, 159.5], [0, 200.0, 89.5], [0, 0, 1]])
white = np.full((180, 320, 3), 255, np.uint8)
peers = estimator.estimate(white, K, np.zeros(5), "plumb_bob", min_confidence=0.7)
print(peers[0].distance)
assert "rclpy" not in sys.modules and "torch" not in sys.modules
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(told.stdout) == pytest.approx(2.0)


def test_the_command_needs_no_ros(model, tmp_path):
    blinking = blink(3)
    write_bag(tmp_path / "bag", blinking, 0)
    words = ["estimate", str(tmp_path / "bag"), "--image-topic", IMAGE_TOPIC, "--model", str(model)]
    for suffix in (".csv", ".mp4", ".mcap"):
        words += ["-o", str(tmp_path / f"out{suffix}")]
    code = f"""
import sys
from ledpose_ros.cli import main
assert main({words!r}) == 0
assert "rclpy" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_a_terminal_shows_the_progress(model, tmp_path, capsys, monkeypatch):
    pictures = [write_picture(tmp_path / f"{number}.png") for number in range(3)]
    for is_terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda shown=is_terminal: shown)
        assert estimate(model, pictures, tmp_path / f"{is_terminal}.csv") == 0
        assert ("3/3" in capsys.readouterr().err) == is_terminal


def test_bag_without_a_usable_camera_info(model, tmp_path, capsys):
    """An uncalibrated driver publishes zeros: the camera is as given, or as in the model's calibration."""
    write_bag(tmp_path / "bag", blink(5), 0, camera=camera_info(0, focal_length=0.0))
    words = ["--image-topic", IMAGE_TOPIC, "--min-confidence", "0"]
    assert estimate(model, [tmp_path / "bag"], tmp_path / "model.csv", *words) == 0
    assert estimate(model, [tmp_path / "bag"], tmp_path / "told.csv", *words, "--focal-length", "100") == 0
    assert len({row["stamp_ns"] for row in rows_of(tmp_path / "told.csv")}) == 5
    assert capsys.readouterr().out.count("The pictures do not tell their camera") == 1


@pytest.mark.parametrize("bad", [b"\x00\x01\x00\x00\x05", camera_info(0, focal_length=0.0)])
@pytest.mark.parametrize("index", [0, 5])
def test_pictures_of_an_unusable_camera_info_among_good_ones_are_refused(model, tmp_path, capsys, bad, index):
    """Until the next one, which `write_bag` writes a second after the first picture."""
    blinking = blink(20)
    received = blinking.images_ns + SECOND // 50
    begin, end = int(blinking.images_ns[index]), int(blinking.images_ns[0]) + SECOND
    write_bag(tmp_path / "bag", blinking, 0, more=[(begin, CAMERA_TOPIC, bad)])
    words = ["--image-topic", IMAGE_TOPIC, "--min-confidence", "0"]
    assert estimate(model, [tmp_path / "bag"], tmp_path / "out.csv", *words) == 0
    refused = (begin <= received) & (received < end)
    assert refused.any()
    rows = {int(row["stamp_ns"]) for row in rows_of(tmp_path / "out.csv")}
    assert rows == set(blinking.images_ns[~refused].tolist())
    out = capsys.readouterr().out
    assert f"{refused.sum()} more could not be used" in out
    assert out.count("left out: its camera_info") == refused.sum()


def write_cameras(path: Path, image_topic: str, focal_lengths: dict[str, float]) -> Path:
    """A bag with one picture of a peer, and a CameraInfo on each of these topics."""
    with BagWriter(path) as bag:
        header = bag.header(SECOND, "camera")
        for topic, focal_length in focal_lengths.items():
            info = bag.camera_info(header, pinhole_camera(focal_length, WIDTH, HEIGHT), WIDTH, HEIGHT)
            bag.write(topic, "sensor_msgs/msg/CameraInfo", info, SECOND)
        data = np.frombuffer(encode_image(WHITE, "png"), np.uint8)
        picture = bag.new("sensor_msgs/msg/CompressedImage", header, "png", data)
        bag.write(image_topic, "sensor_msgs/msg/CompressedImage", picture, SECOND)
    return path


@pytest.mark.parametrize(
    ("image_topic", "cameras", "words", "distance"),
    [
        ("/image/compressed", {"/camera_info": 2 * FOCAL}, [], 4.0),
        ("/front/image/compressed", {"/camera_info": 2 * FOCAL, "/front/camera_info": 3 * FOCAL}, [], 6.0),
        # Whose camera this is nobody knows: the model's, unless it is said.
        ("/front/image/compressed", {"/camera_info": 2 * FOCAL}, [], 2.0),
        ("/front/image", {"/camera_info": 2 * FOCAL}, ["--camera-info-topic", "/camera_info"], 4.0),
    ],
)
def test_the_camera_info_of_a_bag_is_that_beside_the_images(
    model, tmp_path, capsys, image_topic, cameras, words, distance
):
    bag = write_cameras(tmp_path / "in.mcap", image_topic, cameras)
    assert estimate(model, [bag], tmp_path / "out.csv", *words) == 0
    assert float(rows_of(tmp_path / "out.csv")[0]["distance"]) == pytest.approx(distance, rel=1e-5)
    assert ("do not tell their camera" in capsys.readouterr().out) == (distance == 2.0)


def test_several_cameras_beside_the_images(model, tmp_path, capsys):
    bag = write_cameras(tmp_path / "in.mcap", "/front/left", {"/front/info": FOCAL, "/front/other": FOCAL})
    assert estimate(model, [bag], tmp_path / "out.csv") == 2
    assert "give --camera-info-topic one of /front/info, /front/other" in capsys.readouterr().err


RECTIFYING = [100.0, 0, 16, 0, 0, 100.0, 16, 0, 0, 0, 1, 0]


def test_rectified_pictures_of_a_bag(model, tmp_path):
    """P says twice the focal length of K: twice the distance. Binned once more, P stands for half of it."""
    distances = []
    for name, binning, words in (
        ("raw", 0, []),
        ("rectified", 0, ["--rectified"]),
        ("binned", 2, ["--rectified"]),
    ):
        told = camera_info(0, width=(binning or 1) * SIDE)
        told.p = np.array(RECTIFYING)
        told.binning_x = told.binning_y = binning
        told.height = told.width
        write_bag(tmp_path / name, blink(5), 0, camera=told)
        out = tmp_path / f"{name}.csv"
        words = [*words, "--image-topic", IMAGE_TOPIC, "--min-confidence", "0"]
        assert estimate(model, [tmp_path / name], out, *words) == 0
        distances.append(float(rows_of(out)[0]["z"]))
    assert distances[1:] == pytest.approx([2 * distances[0], distances[0]], rel=1e-5)


def test_rectified_pictures_with_a_camera_file(model, tmp_path, capsys):
    picture = write_picture(tmp_path / "picture.png")
    cx, cy = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    text = CAMERA_YAML.format(width=WIDTH, height=HEIGHT, f=FOCAL, cx=cx, cy=cy)
    camera = tmp_path / "camera.yaml"
    words = ["--rectified", "--camera-info", str(camera)]
    camera.write_text(text)
    assert estimate(model, [picture], tmp_path / "none.csv", *words) == 2
    assert "KeyError: 'projection_matrix'" in capsys.readouterr().err
    projection = [2 * FOCAL, 0, cx, 0, 0, 2 * FOCAL, cy, 0, 0, 0, 1, 0]
    camera.write_text(f"{text}projection_matrix: {{rows: 3, cols: 4, data: {projection}}}\n")
    assert estimate(model, [picture], tmp_path / "out.csv", *words) == 0
    assert float(rows_of(tmp_path / "out.csv")[0]["distance"]) == pytest.approx(4.0, rel=1e-5)


def test_cameras_that_cannot_be_used_are_not_guessed(model, tmp_path, capsys):
    """What the bag or the recording says is no good; then the user's word counts, and only that."""
    unknown, second = camera_info(0), camera_info(0)
    unknown.distortion_model, unknown.d = "unheard of", np.ones(3)
    second.p = np.array([*RECTIFYING[:3], -10.0, *RECTIFYING[4:]])
    for name, told in (("unknown", unknown), ("second", second)):
        write_bag(tmp_path / name, blink(5), 0, camera=told)
    recording = write_recording(tmp_path / "test.h5", straight_ahead([2.0], 0.0))
    topic = ["--image-topic", IMAGE_TOPIC, "--min-confidence", "0"]
    for source, words, sentence in (
        (tmp_path / "unknown", topic, "'unheard of' is unknown"),
        (tmp_path / "second", ["--rectified", *topic], "second camera of a stereo pair, 0.1 m beside"),
        (recording, ["--rectified"], "a recording does not tell the camera of rectified images"),
    ):
        assert estimate(model, [source], tmp_path / "out.csv", *words) == 2
        assert sentence in capsys.readouterr().err
        told = tmp_path / f"{source.stem}.csv"
        assert estimate(model, [source], told, *words, "--focal-length", "100") == 0


def test_camera_info_of_another_size_is_refused_as_by_the_node(model, tmp_path, capsys):
    write_bag(tmp_path / "bag", blink(5), 0, camera=camera_info(0, width=2 * SIDE))
    assert estimate(model, [tmp_path / "bag"], tmp_path / "out.csv", "--image-topic", IMAGE_TOPIC) == 2
    assert "its camera_info is for 64x32, but the picture is 32x32" in capsys.readouterr().err


def test_outputs_are_checked_before_anything_is_written(model, tmp_path, capsys):
    picture = write_picture(tmp_path / "picture.png")
    assert estimate(model, [picture], tmp_path / "out.csv", "-o", str(tmp_path / "out.odd")) == 2
    assert estimate(model, [picture], tmp_path / "out.csv", "-o", str(tmp_path / "out.csv")) == 2
    assert "the same output is given twice" in capsys.readouterr().err
    (tmp_path / "sub").mkdir()
    assert estimate(model, [picture], tmp_path / "out.csv", "-o", str(tmp_path / "sub/../out.csv")) == 2
    assert "the same output is given twice" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_a_run_that_fails_does_not_stand_in_the_way_of_the_next(model, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    picture.touch()
    outputs = [tmp_path / f"out{suffix}" for suffix in (".csv", ".mp4", ".mcap")]
    more = [word for path in outputs[1:] for word in ("-o", str(path))]
    assert estimate(model, [picture], outputs[0], *more) == 2
    assert not any(path.exists() for path in outputs)
    write_picture(picture)
    assert estimate(model, [picture], outputs[0], *more) == 0
    assert sorted(tmp_path.glob("out*")) == sorted(outputs)


def test_a_full_disk_is_said_of_a_video_too(model, tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, WHITE.shape, np.uint8) for _ in range(20)]
    for index, picture in enumerate(noise):
        (tmp_path / f"{index}.png").write_bytes(encode_image(picture, "png"))
    words = [sys.executable, "-m", "ledpose_ros.cli", "estimate", *map(str, tmp_path.glob("*.png"))]
    words += ["-o", str(tmp_path / "out.mp4"), "--model", str(model)]
    # No file may take more than 40 blocks of a kilobyte: much like a disk that is full.
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 40 && exec "$@"', "bash", *words], capture_output=True, text=True
    )
    assert done.returncode == 2 and "of 20 pictures: is the disk full?" in done.stderr, done.stderr
    assert not (tmp_path / "out.mp4").exists()


def test_names_that_are_no_text(model, tmp_path):
    folder = os.fsencode(tmp_path / "pictures")
    os.mkdir(folder)
    Path(os.fsdecode(folder + b"/b\xe4r.png")).write_bytes(encode_image(WHITE, "png"))
    assert estimate(model, [tmp_path / "pictures"], tmp_path / "out.csv") == 0
    assert rows_of(tmp_path / "out.csv")[0]["picture"].endswith("/b\\udce4r.png")


def test_an_input_is_not_taken_for_an_unfinished_output(model, tmp_path, capsys):
    video = write_video(tmp_path / "film.part.mp4", [WHITE] * 3)
    before = video.read_bytes()
    assert estimate(model, [video], tmp_path / "film.mp4") == 2
    assert "film.part.mp4 is what" in capsys.readouterr().err
    assert video.read_bytes() == before


def test_an_interrupted_run_keeps_what_it_has_aside(model, tmp_path, monkeypatch):
    pictures = [write_picture(tmp_path / f"{number}.png") for number in range(3)]
    detect, calls = PeerEstimator.detect, []

    def interrupted(self, rgb):
        calls.append(rgb)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return detect(self, rgb)

    monkeypatch.setattr(PeerEstimator, "detect", interrupted)
    outputs = ["-o", str(tmp_path / "out.mp4"), "-o", str(tmp_path / "out.mcap")]
    assert estimate(model, pictures, tmp_path / "out.csv", *outputs) == 130
    assert {path.name for path in tmp_path.glob("*out*")} == {"out.part.csv", "out.part.mp4"}
    assert len(rows_of(tmp_path / "out.part.csv")) == 2
    assert cv2.VideoCapture(str(tmp_path / "out.part.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 2


def test_pictures_of_another_size_are_left_out_of_the_video_alone(model, tmp_path, capsys):
    sizes = [WHITE, WHITE[: HEIGHT // 2], WHITE]
    pictures = [write_picture(tmp_path / f"{number}.png", rgb) for number, rgb in enumerate(sizes)]
    assert estimate(model, pictures, tmp_path / "out.csv", "-o", str(tmp_path / "out.mp4")) == 0
    assert len(rows_of(tmp_path / "out.csv")) == 3
    assert cv2.VideoCapture(str(tmp_path / "out.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 2
    assert "out.mp4 lacks 1 pictures, which are of another size" in capsys.readouterr().out
