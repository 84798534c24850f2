# SPDX-License-Identifier: Apache-2.0
"""What the estimator does when things go wrong around it: each fault is really made, over DDS.

The fake model sees a peer in white pictures. Whatever came before, the next good picture is answered.
`make faults` writes what came of each fault to docs/faults.md.
"""

import dataclasses
import itertools
import os
import re
import signal
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("rclpy")

import estimator_camera
from diagnostic_msgs.msg import DiagnosticStatus
from estimator_camera import HEIGHT, MODULE, WHITE, WIDTH, Camera
from fake_model import METADATA, write_fake_model, write_signed
from fault_table import FaultTable, fault_table
from geometry_msgs.msg import PoseWithCovarianceStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_graph import (
    Client,
    NodeProcess,
    end_on_leaving,
    ros_client,
    ros_environment,
    run_node,
    values_of,
)
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Header

from ledpose_ros.images import RAW_ENCODINGS, encode_image
from ledpose_ros.nodes.common import message_from_rgb, stamp_from_ns
from ledpose_ros.refusals import MAX_LENGTH

PAUSE = 0.03
"""Between pictures [s]: time to answer one before the next comes; twice as long in each further round."""
ROUNDS = 5
"""How often a round of faults is repeated on a machine so busy that pictures get lost on the way."""
HOUR_NS = 3600 * 10**9
MANY = 2**32 - 1


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[FaultTable]:
    yield from fault_table(
        request,
        FaultTable(
            "Estimates",
            "After each of these the next good picture is answered by the same process, which then ends on\n"
            "SIGTERM with exit status 0. `pictures` are those that came with the fault.",
            ("fault", "pictures", "answered", "what the estimator says"),
        ),
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_model(tmp_path_factory.mktemp("model") / "fake.onnx")


@pytest.fixture
def camera(client: Client) -> Camera:
    return Camera(client)


@contextmanager
def estimator(domain: int, folder: Path, **parameters: object) -> Iterator[NodeProcess]:
    """The estimator as a process, which ends as it should."""
    settings = {"max_image_age": 5.0} | parameters
    with run_node(MODULE, domain, folder / "estimator.log", settings) as node:
        yield node
        assert node.end(signal.SIGTERM)[0] == 0, node.log
        assert "Traceback" not in node.log, node.log


@contextmanager
def camera_process(domain: int, rate: float) -> Iterator[subprocess.Popen]:
    """A program that publishes white pictures; ended on leaving."""
    command = [sys.executable, estimator_camera.__file__, str(rate)]
    with end_on_leaving(subprocess.Popen(command, env=ros_environment(domain))) as process:
        yield process


@dataclasses.dataclass(frozen=True)
class Fault:
    """Publishes one picture with something wrong; `reason` why it is refused, empty if it is answered."""

    publish: Callable[[], object]
    reason: str = ""


def white(camera: Camera) -> Image | CompressedImage:
    """A good picture of the type that the camera publishes."""
    header = camera.header()
    if camera.images.msg_type is CompressedImage:
        return CompressedImage(header=header, format="jpeg", data=encode_image(WHITE, "jpeg"))
    return message_from_rgb(WHITE, header)


def wait_for_answer(camera: Camera) -> None:
    """Publish good pictures until a new one is answered."""
    known = len(camera.pose)

    def show() -> bool:
        camera.publish(white(camera))
        camera.client.spin_for(0.1)
        return len(camera.pose) > known

    camera.client.wait_until(show, what=lambda: f"an answer; {camera.status()}")


def counts(camera: Camera, received: int = -1) -> Counter[str]:
    """What the diagnostics count, once so many images have come and all are done with; else after seconds."""
    camera.diagnostics.clear()

    def are_done() -> bool:
        now = numbers(camera)
        done = now["images answered"] + now["dropped for a newer image"]
        done += sum(count for key, count in now.items() if key.startswith("refused: "))
        return now["images received"] == received == done or len(camera.diagnostics) > 2

    camera.client.wait_until(are_done, what="diagnostics")
    return numbers(camera)


def numbers(camera: Camera) -> Counter[str]:
    """The counts of the last diagnostics."""
    values = values_of(camera.status())
    return Counter({key: int(value) for key, value in values.items() if value.isdecimal()})


def feed(camera: Camera, before: Counter[str], faults: Sequence[Fault]) -> Counter[str]:
    """Publish faults, each with a good picture after it: each must be counted as it should.

    `before` are the counts so far, and become those afterwards. Returns what was counted.
    """
    published = 2 * len(faults)
    for number in range(ROUNDS):
        pause = PAUSE * 2**number
        for fault in faults:
            fault.publish()
            camera.client.spin_for(pause)
            camera.publish(white(camera))
            camera.client.spin_for(pause)
        after = counts(camera, before["images received"] + published)
        change = after - before
        before.update(change)
        if change["images received"] == published and not change["dropped for a newer image"]:
            break
    refused = Counter(f"refused: {fault.reason}" for fault in faults if fault.reason)
    wanted = Counter({"images received": published, "images answered": published - refused.total()}) + refused
    assert change == wanted, camera.status()
    return change


def said(change: Mapping[str, int]) -> str:
    """The refusals among what was counted."""
    refused = {key.removeprefix("refused: "): n for key, n in change.items() if key.startswith("refused: ")}
    return ", ".join(f"{reason}: {count}" for reason, count in refused.items()) or "nothing"


def try_all(camera: Camera, table: FaultTable, faults: Mapping[str, Sequence[Fault]]) -> None:
    """Feed the groups of faults, a row of the table for each."""
    camera.wait_for_estimator()
    wait_for_answer(camera)
    before = counts(camera)
    for name, group in faults.items():
        change = feed(camera, before, group)
        table.add(name, len(group), change["images answered"] - len(group), said(change))


def changed_image(camera: Camera, reason: str = "", **changes: object) -> Fault:
    """A white picture, of which some fields say something else."""

    def publish() -> None:
        message = message_from_rgb(WHITE, camera.header())
        for name, value in changes.items():
            setattr(message, name, value)
        camera.publish(message)

    return Fault(publish, reason)


def raw_image(
    camera: Camera, encoding: str, is_bigendian: int = 0, padding: int = 0, spare: int = 0
) -> Fault:
    """A white picture in an encoding."""
    step = WIDTH * RAW_ENCODINGS[encoding] + padding
    data = b"\xff" * (step * HEIGHT + spare)
    return changed_image(camera, encoding=encoding, is_bigendian=is_bigendian, step=step, data=data)


def stamped_image(camera: Camera, reason: str, stamp_ns: int) -> Fault:
    """A white picture with another stamp."""

    def publish() -> None:
        header = Header(stamp=stamp_from_ns(stamp_ns), frame_id=estimator_camera.FRAME)
        camera.publish(message_from_rgb(WHITE, header))

    return Fault(publish, reason)


def framed_image(camera: Camera, frame: str) -> Fault:
    """A white picture in another frame."""

    def publish() -> None:
        header = camera.header()
        header.frame_id = frame
        camera.publish(message_from_rgb(WHITE, header))

    return Fault(publish)


def changed_info(camera: Camera, reason: str, **changes: object) -> Fault:
    """A white picture after a camera_info of which some fields say something else; entries of K by number."""

    def publish() -> None:
        good, camera.info = camera.info, camera.make_info()
        for name, value in changes.items():
            if name.startswith("k"):
                camera.info.k[int(name[1:])] = value
            else:
                setattr(camera.info, name, value)
        camera.publish(message_from_rgb(WHITE, camera.header()))
        camera.info = good

    return Fault(publish, reason)


def test_hostile_images(camera: Camera, domain: int, model: Path, tmp_path: Path, table: FaultTable) -> None:
    def refused(**changes: object) -> Fault:
        return changed_image(camera, "unusable image", **changes)

    lies = [
        refused(width=0),
        refused(height=0),
        refused(width=0, height=0, step=0, data=b""),
        refused(width=MANY),
        refused(height=MANY),
        refused(width=MANY, height=MANY, step=MANY),
        refused(encoding="mono8", width=MANY, height=MANY, step=MANY),
        refused(height=HEIGHT + 1),
        refused(width=2 * WIDTH),
        refused(step=0),
        refused(step=7),
        refused(step=MANY),
        refused(data=b""),
        refused(data=bytes(100)),
        refused(encoding="yuyv", width=WIDTH - 1),
        changed_image(
            camera, "camera_info of another size", width=WIDTH // 2, height=2 * HEIGHT, step=3 * WIDTH // 2
        ),
    ]
    encodings = ("", "no_such_encoding", "RGB8", "rgb8\n", "8UC3", "16UC1", "32FC1", "64FC3", "nv12", "nv21")
    encodings += ("yuv444", "bayer_rggb16", "x" * 10**6)
    known = [raw_image(camera, name, padding=padding) for name in RAW_ENCODINGS for padding in (0, 64)]
    known += [raw_image(camera, name, is_bigendian=1) for name in ("mono16", "rgb16", "rgba16")]
    known += [raw_image(camera, "rgb8", spare=10**6)]
    now_ns = camera.client.node.get_clock().now().nanoseconds
    stamps = [
        stamped_image(camera, "image without stamp", 0),
        stamped_image(camera, "image too old", 1),
        stamped_image(camera, "image too old", -HOUR_NS),
        stamped_image(camera, "image too old", now_ns - HOUR_NS),
        stamped_image(camera, "image of the future", now_ns + HOUR_NS),
        stamped_image(camera, "image of the future", (2**31 - 1) * 10**9),
    ]
    frames = [framed_image(camera, name) for name in ("another_camera", "", "x" * 1000, "κάμερα/\n")]
    with estimator(domain, tmp_path, model=model, max_image_age=60.0) as node:
        faults = {
            "size, row length or data of an image lie": lies,
            "encodings that are unknown, or no pictures (32FC1, nv12, bayer_rggb16, ...)": [
                refused(encoding=encoding) for encoding in encodings
            ],
            "every known encoding, with padded rows, big-endian, with data to spare": known,
            "stamps 0, of 1970, before 1970, an hour old, an hour ahead, of 2038": stamps,
            "the frame_id changes": frames,
        }
        try_all(camera, table, faults)
        assert len(node.log) < 20_000
        endless = refused(encoding="x" * 10**6)

        def is_told() -> bool:
            endless.publish()
            camera.client.spin_for(0.2)
            return "xxx" in camera.status().message

        camera.client.wait_until(is_told, what="the encoding in the summary")
        assert len(camera.status().message) < 2 * MAX_LENGTH


def test_hostile_camera_info(
    camera: Camera, domain: int, model: Path, tmp_path: Path, table: FaultTable
) -> None:
    def unusable(**changes: object) -> Fault:
        return changed_info(camera, "unusable camera_info", **changes)

    bad = [
        *(unusable(k0=value) for value in (np.nan, np.inf, 0.0, -400.0)),
        unusable(k4=0.0),
        unusable(k2=np.nan),
        unusable(k0=1e300, k4=1e300),
        unusable(d=[np.nan, 0.0, 0.0, 0.0, 0.0]),
        unusable(d=[0.1, 0.1, 0.1]),
        unusable(d=[0.0] * 5, distortion_model="rational_polynomial"),
        unusable(d=[0.0] * 5, distortion_model="equidistant"),
        unusable(distortion_model="no_such_model"),
    ]
    skewed = [unusable(k1=20.0), unusable(k8=0.0), unusable(k6=0.1)]
    sizes = [
        changed_info(camera, "camera_info of another size", width=width, height=height)
        for width, height in itertools.product((0, WIDTH, MANY), (0, 2 * HEIGHT, MANY))
    ]
    with estimator(domain, tmp_path, model=model):
        faults = {
            "camera_info with NaN, infinity, no or negative focal length, too few or too many D": bad,
            "camera_info whose K has skew, or is no camera's": skewed,
            "camera_info of another size, in turns with the right one": sizes,
        }
        try_all(camera, table, faults)
        assert all(np.isfinite(pose.pose.covariance).all() for pose in camera.pose)
        assert camera.value("camera_info changed") == ""
        camera.info = camera.make_info(focal_length=401.0)
        wait_for_answer(camera)
        camera.wait_for_value("camera_info changed", "1")


def png_of(width: int, height: int, rows: Iterator[bytes] | Sequence[bytes]) -> bytes:
    """A PNG that says it has this size, of rows that begin with their filter, a zero."""
    packer = zlib.compressobj(1)
    data = b"".join(map(packer.compress, rows)) + packer.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_hostile_compressed_images(domain: int, model: Path, tmp_path: Path, table: FaultTable) -> None:
    jpeg, png = encode_image(WHITE, "jpeg"), encode_image(WHITE, "png")
    side = 10_000
    bomb = png_of(side, side, itertools.repeat(bytes(1 + 3 * side), side))
    assert len(bomb) < 2e6
    with ros_client(domain) as client:
        camera = Camera(client, CompressedImage)

        def compressed(data: bytes, reason: str = "unusable image", format_name: str = "jpeg") -> Fault:
            def publish() -> None:
                camera.publish(CompressedImage(header=camera.header(), format=format_name, data=data))

            return Fault(publish, reason)

        broken = [
            compressed(b""),
            compressed(b"this is a text"),
            compressed(jpeg[: len(jpeg) // 2]),
            compressed(jpeg[:300] + b"\xff\xd9"),
            compressed(jpeg[:2] + b"\xff\xd9"),
            compressed(png[: len(png) // 2]),
            compressed(png_of(WIDTH, HEIGHT, [bytes(100)])),
            compressed(png_of(0, 0, [])),
            compressed(bytes(12) + png, format_name="16UC1; compressedDepth png"),
            compressed(encode_image(WHITE[:48], "png"), "camera_info of another size"),
        ]
        bombs = [
            compressed(bomb),
            compressed(png_of(60_000, 60_000, [bytes(100)])),
            compressed(png_of(2**31 - 1, 2**31 - 1, [bytes(100)])),
        ]
        good = [compressed(png, "", "no such format"), compressed(jpeg + bytes(100), "")]
        parameters = {"model": model, "image_transport": "compressed"}
        with estimator(domain, tmp_path, **parameters) as node:
            camera.wait_for_estimator()
            wait_for_answer(camera)
            before = memory_peak(node)
            faults = {
                "truncated JPEG and PNG, a text file, nothing at all, a depth image": broken,
                f"PNG bombs of 60000x60000, and of {side}x{side} in {len(bomb) / 1e6:.1f} MB": bombs,
                "a format that lies": good,
            }
            try_all(camera, table, faults)
            assert memory_peak(node) - before < 100e6


def memory_peak(node: NodeProcess) -> float:
    """The most memory that a process has held so far [bytes]."""
    status = Path(f"/proc/{node.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return 1024.0 * int(found[1])


def test_clock_that_jumps_and_stops(
    camera: Camera, domain: int, model: Path, tmp_path: Path, table: FaultTable
) -> None:
    clock = camera.client.node.create_publisher(Clock, "/clock", 10)
    start_ns, second_ns = 10**15, 10**9
    shown = 0

    def show(stamp_ns: int) -> None:
        nonlocal shown
        header = Header(stamp=stamp_from_ns(stamp_ns), frame_id=estimator_camera.FRAME)
        camera.publish(message_from_rgb(WHITE, header))
        shown += 1
        camera.client.spin_for(PAUSE)

    def run_from(stamp_ns: int) -> None:
        """Let clock and camera go on from there until a picture is answered."""
        ticks = itertools.count(stamp_ns, second_ns // 30)
        known = len(camera.pose)

        def tick() -> bool:
            now_ns = next(ticks)
            clock.publish(Clock(clock=stamp_from_ns(now_ns)))
            camera.client.spin_for(PAUSE)
            show(now_ns)
            return len(camera.pose) > known

        camera.client.wait_until(tick, what=lambda: str(camera.status()))
        assert abs(camera.pose[-1].header.stamp.sec * second_ns - stamp_ns) < 100 * second_ns

    def show_until_refused(reason: str, stamp_ns: int) -> None:
        def is_counted() -> bool:
            show(stamp_ns)
            return camera.value(f"refused: {reason}") != ""

        camera.client.wait_until(is_counted, what=lambda: f"{reason} in {camera.status()}")

    def show_until(words: str, stamp_ns: int) -> None:
        def is_told() -> bool:
            show(stamp_ns)
            status = camera.status()
            return status is not None and words in status.message

        camera.client.wait_until(is_told, what=lambda: f"{words} in {camera.status()}")

    with estimator(domain, tmp_path, model=model, use_sim_time=True, max_image_age=0.5):
        camera.wait_for_estimator()
        camera.client.wait_until(clock.get_subscription_count, what="use_sim_time")
        show_until_refused("no /clock yet", start_ns)
        run_from(start_ns)
        assert camera.value("clock jumped backwards") == ""
        run_from(start_ns - HOUR_NS)
        camera.wait_for_value("clock jumped backwards", "1")
        show_until_refused("image of the future", start_ns)
        run_from(start_ns + 24 * HOUR_NS)
        show_until_refused("image too old", start_ns)
        # Without a clock the diagnostics go on, and what the camera goes on to show is too new.
        show_until("max_image_age", start_ns)
        found = counts(camera)
        run_from(start_ns + 25 * HOUR_NS)
    table.add(
        "/clock comes late, jumps back an hour and ahead a day, and stops",
        shown,
        len(camera.pose),
        said(found),
    )


def change_state(camera: Camera, *transitions: int) -> list[bool]:
    """Ask for transitions, one after the other; which of them succeed."""
    requests = (ChangeState.Request(transition=Transition(id=number)) for number in transitions)
    return [
        camera.client.call(ChangeState, "estimator/change_state", request).success for request in requests
    ]


TO_UNCONFIGURED = (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
TO_ACTIVE = (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)


def test_model_replaced_while_the_node_runs(
    camera: Camera, domain: int, tmp_path: Path, table: FaultTable
) -> None:
    path = write_fake_model(tmp_path / "model.onnx")
    good = path.read_bytes()
    foreign = write_fake_model(tmp_path / "foreign.onnx", metadata=None).read_bytes()
    two = dataclasses.replace(METADATA, led_names=("front", "back"), led_directions=(0.0, np.pi))
    other = write_fake_model(tmp_path / "other.onnx", two, led_count=2).read_bytes()
    flipped = bytearray(good)
    flipped[good.index(b"robomaster" if b"robomaster" in good else b"front")] ^= 1
    leds = camera.client.node.create_publisher(JointState, "alpha/led_states", 10)

    def blink(names: Sequence[str]) -> None:
        """Tell LED states around a picture, so that they are compared with what it shows."""
        for _ in range(5):
            header = camera.header()
            leds.publish(JointState(header=header, name=list(names), position=[1.0] * len(names)))
            camera.publish(message_from_rgb(WHITE, header))
            camera.client.spin_for(0.1)

    path.write_bytes(good)
    with estimator(domain, tmp_path, model=path, peers="[alpha]") as node:
        camera.wait_for_estimator()
        wait_for_answer(camera)
        blink(METADATA.led_names)
        sentences = {
            "is damaged or was changed": bytes(flipped),
            "it is damaged or not a model": good[: len(good) // 2],
            "damaged or not a model, copy it again": b"this is a text",
            "not a ledpose model": foreign,
            "does not exist": None,
        }
        for sentence, content in sentences.items():
            path.unlink()
            if content is not None:
                path.write_bytes(content)
            wait_for_answer(camera)  # what is loaded stays
            assert change_state(camera, *TO_UNCONFIGURED) == [True, True]
            assert change_state(camera, *TO_ACTIVE) == [False, False]
            camera.wait_for_summary(sentence)
            assert camera.status().level == DiagnosticStatus.ERROR and sentence in node.log
            path.write_bytes(good)
            assert change_state(camera, *TO_ACTIVE) == [True, True]
        path.write_bytes(other)
        wait_for_answer(camera)
        assert change_state(camera, *TO_UNCONFIGURED, *TO_ACTIVE) == [True] * 4
        blink(two.led_names)
        wait_for_answer(camera)
        assert tuple(camera.leds[-1].name) == two.led_names
        assert counts(camera)["refused: internal error"] == 0
    table.add(
        "the model file is damaged, cut off, a text, from elsewhere, deleted, then one with other LEDs",
        0,
        "with the model that is loaded",
        "configuring fails with a sentence, until there is a good model again",
    )


def test_publisher_killed_and_restarted(
    camera: Camera, domain: int, model: Path, tmp_path: Path, table: FaultTable
) -> None:
    kills = 3
    with estimator(domain, tmp_path, model=model):
        for _ in range(kills):
            with camera_process(domain, rate=20.0) as process:
                known = len(camera.pose)
                camera.client.wait_until(
                    lambda known=known: len(camera.pose) > known + 5, what=lambda: str(camera.status())
                )
                process.send_signal(signal.SIGKILL)
            camera.wait_for_summary("no images arrive on /image")
        answered = counts(camera)["images answered"]
        received = counts(camera)["images received"]
        wait_for_answer(camera)
    summary = "WARN: no images arrive on /image, until the camera is back"
    table.add(f"the camera's process is killed and started anew, {kills} times", received, answered, summary)


def test_two_cameras_of_different_sizes_on_one_topic(
    camera: Camera, domain: int, model: Path, tmp_path: Path, table: FaultTable
) -> None:
    with ros_client(domain, "intruder") as client, estimator(domain, tmp_path, model=model):
        other = client.node.create_publisher(Image, "image", 10)
        large = np.full((2 * HEIGHT, 2 * WIDTH, 3), 255, np.uint8)
        camera.wait_for_estimator()
        camera.client.wait_until(other.get_subscription_count, what="the estimator")
        wait_for_answer(camera)
        intrusion = Fault(
            lambda: other.publish(message_from_rgb(large, camera.header())), "camera_info of another size"
        )
        faults = {"two cameras of different sizes publish on one topic": [intrusion] * 20}
        try_all(camera, table, faults)


def test_qos_that_does_not_match(
    camera: Camera, domain: int, model: Path, tmp_path: Path, table: FaultTable
) -> None:
    node = camera.client.node
    best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
    latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    with estimator(domain, tmp_path, model=model, peers="[alpha]"):
        camera.wait_for_estimator()
        for qos in (best_effort, latched, QoSProfile(depth=10)):
            node.destroy_publisher(camera.images)
            camera.images = node.create_publisher(Image, "image", qos)
            camera.client.wait_until(camera.images.get_subscription_count, what=str(qos))
            wait_for_answer(camera)

        def is_reliable() -> bool:
            (heard,) = node.get_subscriptions_info_by_topic("image")
            return heard.qos_profile.reliability is ReliabilityPolicy.RELIABLE

        camera.client.wait_until(is_reliable, what="reliable delivery, now that nobody publishes best-effort")
        wait_for_answer(camera)
        node.create_publisher(JointState, "alpha/led_states", best_effort)
        camera.wait_for_value("refused: incompatible QoS", "1")
        node.create_subscription(PoseWithCovarianceStamped, "peer_pose", lambda _: None, latched)
        camera.wait_for_value("refused: incompatible QoS", "2")
        found = counts(camera)
    table.add("best-effort, transient-local and reliable cameras in turns", 3, 3, "nothing")
    table.add("LEDs told best-effort; a listener who wants transient-local", 0, 0, said(found))


def test_images_of_another_type(domain: int, model: Path, tmp_path: Path, table: FaultTable) -> None:
    with ros_client(domain) as client, estimator(domain, tmp_path, model=model):
        camera = Camera(client, CompressedImage)
        camera.wait_for_summary("sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image")
        summary = f"WARN: {camera.status().message}"
        client.node.destroy_publisher(camera.images)
        camera.images = client.node.create_publisher(Image, "image", 10)
        camera.wait_for_estimator()
        wait_for_answer(camera)
    table.add("the image topic has another type", 0, 0, summary)


def test_parameters_that_make_no_sense(
    camera: Camera, domain: int, model: Path, tmp_path: Path, table: FaultTable
) -> None:
    def double(value: float) -> ParameterValue:
        return ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)

    text = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value="high")
    changes = [
        *(("min_confidence", double(value)) for value in (np.nan, np.inf, -0.1, 1.1)),
        ("min_confidence", text),
        ("min_confidence", ParameterValue()),
        ("camera_pitch", double(np.nan)),
        ("max_image_age", double(-1.0)),
        ("max_image_age", double(np.inf)),
        ("model", text),
        ("no_such_parameter", text),
    ]
    with estimator(domain, tmp_path, model=model):
        camera.wait_for_estimator()
        for name, value in changes:
            request = SetParameters.Request(parameters=[Parameter(name=name, value=value)])
            result = camera.client.call(SetParameters, "estimator/set_parameters", request).results[0]
            assert not result.successful and len(result.reason) > 10, (name, value)
        wait_for_answer(camera)
    # There is no such type, on which rclpy itself fails: it does not even answer.
    with run_node(MODULE, domain, tmp_path / "estimator.log", {"model": model}) as node:
        camera.wait_for_estimator()
        client = camera.client.node.create_client(SetParameters, "estimator/set_parameters")
        camera.client.wait_until(client.service_is_ready, what="the node")
        unheard_of = Parameter(name="min_confidence", value=ParameterValue(type=99))
        client.call_async(SetParameters.Request(parameters=[unheard_of]))
        camera.wait_for_value("refused: internal error", "1")
        assert "99 is not a valid" in node.log and "Traceback" in node.log
        wait_for_answer(camera)
        assert node.end(signal.SIGTERM)[0] == 0
    table.add("parameters set to NaN, out of range, of another type", 0, 0, "refused with a reason")


@pytest.mark.parametrize(
    "numbers",
    [
        [signal.SIGINT],
        [signal.SIGTERM],
        # ^C reaches launch and the node; then launch sends its own, and gets impatient: at worst while the
        # handler of the one before still runs.
        [signal.SIGINT, signal.SIGTERM] * 10,
    ],
)
def test_signals_under_load(
    numbers: list[signal.Signals], camera: Camera, domain: int, model: Path, tmp_path: Path, table: FaultTable
) -> None:
    published = camera.client.collect(Image, "image")
    with (
        camera_process(domain, rate=100.0),
        run_node(MODULE, domain, tmp_path / "estimator.log", {"model": model}) as node,
    ):
        camera.client.wait_until(lambda: len(camera.pose) > 20, what=lambda: str(camera.status()))
        for number in numbers[:-1]:
            os.kill(node.pid, number)
        code, seconds = node.end(numbers[-1])
    assert code == 0 and seconds < 2 and "Traceback" not in node.log, node.log
    names = " and ".join(sorted({number.name for number in numbers}))
    table.add(
        f"{names}{', 10 times at once,' if len(numbers) > 1 else ''} while pictures come at 100 Hz",
        len(published),
        len(camera.pose),
        f"exit status 0 after {seconds:.1f} s",
    )


def test_signal_while_a_model_is_loaded(
    camera: Camera, domain: int, tmp_path: Path, table: FaultTable
) -> None:
    path = write_fake_model(tmp_path / "large.onnx")
    large = onnx.load(str(path))
    ballast = onnx.numpy_helper.from_array(np.zeros(10_000_000, np.float32), "ballast")
    large.graph.initializer.append(ballast)
    write_signed(path, large)
    parameters = {"model": path, "autostart": False}
    with run_node(MODULE, domain, tmp_path / "estimator.log", parameters) as node:
        client = camera.client.node.create_client(ChangeState, "estimator/change_state")
        camera.client.wait_until(client.service_is_ready, what="the node")
        before = memory_peak(node)
        answer = client.call_async(
            ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
        )
        camera.client.wait_until(lambda: memory_peak(node) > before + 10e6, what="a model that is loaded")
        assert not answer.done(), "it is still loaded"
        code, seconds = node.end(signal.SIGINT)
    assert code == 0 and seconds < 2 and "Traceback" not in node.log, node.log
    said = f"exit status 0 after {seconds:.1f} s"
    table.add("SIGINT while a model of 40 MB is loaded", 0, 0, said)
