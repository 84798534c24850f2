# SPDX-License-Identifier: Apache-2.0
"""What happens to recordings when things go wrong around the recorder: each fault is really made.

The recorder runs as a process, fed over DDS with pictures that show their number and the true LED states.
`make faults` writes what came of each to docs/faults.md, with more samples on the busy machine.
"""

import itertools
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from blinking_camera import (
    HEIGHT,
    LED_NAMES,
    WIDTH,
    BlinkingCamera,
    camera_info,
    recorder,
    wrong_samples,
)
from fault_table import FaultTable, fault_table
from geometry_msgs.msg import PoseStamped
from ros_graph import Client, NodeProcess
from sensor_msgs.msg import Image, JointState

from ledpose_ros.cli import main
from ledpose_ros.leds import Rejection
from ledpose_ros.recording import RESERVED_BYTES, SPARE_BYTES, Recording

KILLS, AT_ONCE = 50, 5
FLUSH_PERIOD = 0.5
REASONS_OF_IMAGES = {rejection.value for rejection in Rejection} | {
    "no CameraInfo yet",
    "image without stamp",
    "image out of order",
    "image before a clock jump",
    "unreadable image",
    "image size differs from CameraInfo",
    "camera changed",
    "queue full",
    "recording failed",
}


class Table(FaultTable):
    """What becomes of recordings."""

    def __init__(self) -> None:
        super().__init__(
            "Recordings",
            "The recorder is fed with pictures that show their number and the true LED states. Samples\n"
            "are *right* if picture, stamp, states and pose fit. `samples` are those in the files\n"
            "afterwards, if need be by `ledpose check --repair`.",
            ("fault", "samples", "right", "lost", "what the recorder says"),
        )

    def add(self, fault: str, samples: int, wrong: int, lost: str, said: str) -> None:
        right = f"{100 * (samples - wrong) / samples:.0f} %" if samples else "-"
        super().add(fault, samples, right, lost, said)


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[FaultTable]:
    yield from fault_table(request, Table())


@pytest.fixture
def camera(client: Client) -> BlinkingCamera:
    return BlinkingCamera(client)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own; skips the test where none can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root alone")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def busy_machine() -> Iterator[None]:
    """A process for each core that does nothing but take its time."""
    burners = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def repaired(part: Path) -> Path:
    """The recording that `ledpose check` makes of what a recorder left behind."""
    out = part.with_name(f"repaired_{part.name.removesuffix('.part')}")
    assert main(["check", str(part), "--repair", str(out)]) in (0, 3)
    return out


def state_becomes(camera: BlinkingCamera, state: str) -> dict[str, str]:
    """Go on until the recorder's state is so; its status then."""
    end = time.monotonic() + 60
    while camera.values().get("state") != state:
        assert time.monotonic() < end, f"not {state}: {camera.values()}"
        camera.run(frames=5)
    return camera.values()


def end_and_judge(node: NodeProcess, camera: BlinkingCamera, folder: Path) -> int:
    """End the recorder; samples in its finished files, all of them right, and not one unaccounted for."""
    code, _ = node.end()
    assert code == 0 and "Traceback" not in node.log, node.log
    assert not list((folder / "out").glob("*.part"))
    judged = [wrong_samples(path, camera) for path in (folder / "out").glob("*.h5")]
    samples = sum(count for count, _ in judged)
    assert sum(wrong for _, wrong in judged) == 0
    assert unaccounted(node.log, samples) == 0, node.log
    return samples


def unaccounted(log: str, samples: int) -> int:
    """Images that came to a recorder and are neither in its files nor counted as refused."""
    said = re.search(r"recorder: (\d+) samples of (\d+) images", log)
    assert said, log
    refused = {
        reason: int(count)
        for count, reason in re.findall(r"^recorder: (\d+) refused: (.+)$", log, re.MULTILINE)
    }
    return int(said[2]) - samples - sum(refused.get(reason, 0) for reason in REASONS_OF_IMAGES)


@pytest.mark.timeout(900)
def test_kill_at_random_moments(
    domain: int, client: Client, camera: BlinkingCamera, tmp_path: Path, table: Table
) -> None:
    random = np.random.default_rng(0)
    total = wrong = 0
    longest = 0.0
    # What is safe is so by the period alone.
    by_time = {"flush_period": FLUSH_PERIOD, "flush_samples": 10_000}
    for batch in range(KILLS // AT_ONCE):
        with ExitStack() as stack:
            victims = []
            for number in range(AT_ONCE):
                name, folder = f"recorder_{batch}_{number}", tmp_path / f"{batch}_{number}"
                folder.mkdir()
                node = stack.enter_context(recorder(domain, folder, ["-r", f"__node:={name}"], **by_time))
                victims.append((node, folder, client.collect_status(name)))
            # Only one that has something to lose is worth killing.
            deadline = {}
            while victims:
                camera.run(frames=2)
                for victim in list(victims):
                    node, folder, status = victim
                    if folder not in deadline:
                        if int(status.get("samples", 0)):
                            deadline[folder] = time.monotonic() + random.uniform(0, 2.5)
                        continue
                    if time.monotonic() < deadline[folder]:
                        continue
                    said_safe = int(status["samples safe"])
                    killed_ns = time.time_ns()
                    node.end(signal.SIGKILL)
                    victims.remove(victim)
                    (part,) = (folder / "out").glob("*.part")
                    samples, bad = wrong_samples(part, camera, poses=False)
                    assert samples >= said_safe, "what was called safe is there"
                    if not samples:  # killed before anything was flushed
                        continue
                    with Recording(part) as recording:
                        unsafe_for = (killed_ns - int(recording.receive_stamps_ns[-1])) / 1e9
                    total, wrong = total + samples, wrong + bad
                    longest = max(longest, unsafe_for)
                    assert wrong_samples(repaired(part), camera, poses=False) == (samples, bad)
    assert wrong == 0 and total > KILLS
    table.add(
        f"SIGKILL, {KILLS} times at random moments, {AT_ONCE} recorders at once",
        total,
        wrong,
        f"what came in the last {longest:.1f} s at most, with flush_period {FLUSH_PERIOD} s",
        "nothing, it is dead",
    )


@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGINT],
        [signal.SIGTERM],
        # ^C reaches launch and the node; then launch sends its own, and gets impatient.
        [signal.SIGINT, signal.SIGINT, signal.SIGTERM],
    ],
)
def test_signals(
    signals: list[signal.Signals], domain: int, camera: BlinkingCamera, tmp_path: Path, table: Table
) -> None:
    with recorder(domain, tmp_path) as node:
        camera.wait_for_recorder()
        camera.run_until(samples=30)
        for number in signals[:-1]:
            os.kill(node.pid, number)
        code, seconds = node.end(signals[-1])
    assert code == 0 and "Traceback" not in node.log and seconds < 2, node.log
    (path,) = (tmp_path / "out").iterdir()
    assert path.suffix == ".h5"
    samples, wrong = wrong_samples(path, camera)
    assert samples >= 30 and wrong == 0 and unaccounted(node.log, samples) == 0
    names = ", ".join(number.name for number in signals)
    table.add(names, samples, wrong, "nothing", f"its summary; exit status 0 after {seconds:.1f} s")


def test_disk_with_little_space(domain: int, camera: BlinkingCamera, tmp_path: Path, table: Table) -> None:
    with (
        small_disk(tmp_path / "out", 16) as disk,
        recorder(domain, tmp_path, min_free_space_mb=8) as node,
    ):
        camera.wait_for_recorder()
        camera.run_until(samples=30)
        (disk / "something_else").write_bytes(bytes(9_000_000))
        status = state_becomes(camera, "failed")
        accepted = int(status["samples"])
        assert "min_free_space_mb is 8" in camera.status[-1].message
        (path,) = disk.glob("*.h5")
        samples, wrong = wrong_samples(path, camera)
        said = camera.status[-1].message
        assert node.end()[0] == 0
    assert samples == accepted and wrong == 0
    table.add("a disk fills up to min_free_space_mb", samples, wrong, "nothing", f"ERROR: {said}")


def test_disk_without_any_space(domain: int, camera: BlinkingCamera, tmp_path: Path, table: Table) -> None:
    with (
        small_disk(tmp_path / "out", 4) as disk,
        recorder(domain, tmp_path, min_free_space_mb=1, flush_samples=10) as node,
    ):
        camera.wait_for_recorder()
        camera.run_until(samples=30)
        safe = int(camera.values()["samples safe"])
        with pytest.raises(OSError, match="No space left"), (disk / "something_else").open("wb") as file:
            while True:
                file.write(bytes(10_000))
                file.flush()
        state_becomes(camera, "failed")
        said, accepted = camera.status[-1].message, int(camera.values()["samples"])
        assert node.end()[0] == 0
        (left,) = disk.glob("ledpose_*")
        shutil.copy(left, tmp_path / "left.h5.part")
    samples, wrong = wrong_samples(repaired(tmp_path / "left.h5.part"), camera)
    assert samples >= safe and wrong == 0
    table.add(
        "a disk is full from one moment to the next",
        samples,
        wrong,
        str(accepted - samples),
        f"ERROR: {said}",
    )


def test_write_error(domain: int, camera: BlinkingCamera, tmp_path: Path, table: Table) -> None:
    with recorder(domain, tmp_path, flush_samples=10) as node:
        camera.wait_for_recorder()
        camera.run_until(samples=30)
        safe = int(camera.values()["samples safe"])
        (part,) = (tmp_path / "out").glob("*.part")
        limit = part.stat().st_size - RESERVED_BYTES - SPARE_BYTES // 2
        resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (limit, limit))
        state_becomes(camera, "failed")
        said, accepted = camera.status[-1].message, int(camera.values()["samples"])
        assert node.end()[0] == 0
    (left,) = (tmp_path / "out").iterdir()
    samples, wrong = wrong_samples(repaired(left), camera)
    assert samples >= safe and wrong == 0
    said = said.replace(str(tmp_path), "...")
    lost = f"{accepted - samples}, not flushed yet"
    table.add("writing fails (RLIMIT_FSIZE)", samples, wrong, lost, f"ERROR: {said}")


def test_read_only_folder(domain: int, camera: BlinkingCamera, tmp_path: Path, table: Table) -> None:
    with small_disk(tmp_path / "out", 4) as disk, recorder(domain, tmp_path) as node:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        camera.wait_for_recorder()
        state_becomes(camera, "failed")
        said = camera.status[-1].message
        assert "Read-only file system" in said
        assert node.end()[0] == 0 and "Traceback" not in node.log
    table.add(
        "the folder is read-only",
        0,
        0,
        "nothing was recorded",
        f"ERROR: {said.replace(str(tmp_path), '...')}",
    )


@pytest.mark.parametrize("happens", ["deleted", "moved"])
def test_folder_that_disappears(
    happens: str, domain: int, camera: BlinkingCamera, tmp_path: Path, table: Table
) -> None:
    folder = tmp_path / "out"
    with recorder(domain, tmp_path) as node:
        camera.wait_for_recorder()
        camera.run_until(samples=30)
        if happens == "deleted":
            shutil.rmtree(folder)
        else:
            folder.rename(tmp_path / "moved")
        status = state_becomes(camera, "failed")
        said, accepted = camera.status[-1].message, int(status["samples"])
        assert node.end()[0] == 0
    (part,) = tmp_path.rglob("*.part")
    samples, wrong = wrong_samples(part, camera)
    assert samples == accepted and wrong == 0
    table.add(
        f"the folder is {happens}", samples, wrong, "nothing", f"ERROR: {said.replace(str(tmp_path), '...')}"
    )


def test_clock_that_jumps(domain: int, camera: BlinkingCamera, tmp_path: Path, table: Table) -> None:
    jumps = (-3600.0, +3600.0, -1.5, +0.7, -0.3, +20.0)
    with recorder(domain, tmp_path) as node:
        camera.wait_for_recorder()
        camera.run_until(samples=20)
        for seconds in jumps:
            camera.jump(seconds)
            camera.run_until(samples=20)
        refused = int(camera.values()["refused: clock jumped backwards"])
        samples = end_and_judge(node, camera, tmp_path)
    assert samples >= 140 and refused >= 2
    text = ", ".join(f"{seconds:+g} s" for seconds in jumps)
    table.add(f"the clock jumps by {text}", samples, 0, "nothing", f"clock jumped backwards: {refused}")


def test_camera_that_stops(domain: int, camera: BlinkingCamera, tmp_path: Path, table: Table) -> None:
    with recorder(domain, tmp_path) as node:
        camera.wait_for_recorder()
        camera.run_until(samples=30)
        camera.on_air.remove("camera")
        camera.client.wait_until(
            lambda: camera.run(frames=5) or "no sample came" in camera.status[-1].message, what="a warning"
        )
        camera.on_air.add("camera")
        camera.run_until(samples=30)
        samples = end_and_judge(node, camera, tmp_path)
    assert samples >= 60
    table.add("the camera stops and resumes", samples, 0, "nothing", "WARN: recording, but no sample came")


def test_leds_that_fall_silent(domain: int, camera: BlinkingCamera, tmp_path: Path, table: Table) -> None:
    with recorder(domain, tmp_path) as node:
        camera.wait_for_recorder()
        camera.run_until(samples=30)
        camera.on_air.remove("LEDs")
        camera.run(frames=120)
        camera.client.node.destroy_publisher(camera.led_publisher)
        camera.led_publisher = camera.client.node.create_publisher(JointState, "led_states", 100)
        camera.client.wait_until(camera.led_publisher.get_subscription_count, what="the recorder")
        camera.on_air.add("LEDs")
        camera.run_until(samples=30)
        refused = {
            reason: int(camera.values().get(f"refused: {reason}", 0))
            for reason in ("LED states too old", "newer than last LED message")
        }
        samples = end_and_judge(node, camera, tmp_path)
    assert samples >= 60
    assert sum(refused.values()) >= 90
    said = ", ".join(f"{reason}: {count}" for reason, count in refused.items() if count)
    table.add("the LEDs' publisher falls silent and another one begins", samples, 0, "nothing", said)


def test_led_messages_late_and_out_of_order(
    domain: int, camera: BlinkingCamera, tmp_path: Path, table: Table
) -> None:
    """One message in a hundred is overtaken by those of the next tenth of a second."""
    random = np.random.default_rng(3)
    on_the_way: list[tuple[float, JointState]] = []

    def publish_late() -> None:
        delay = 0.1 if random.random() < 0.01 else 0.0
        on_the_way.append((time.monotonic() + delay, camera.led_message()))
        now = time.monotonic()
        for entry in sorted((entry for entry in on_the_way if entry[0] <= now), key=lambda entry: entry[0]):
            camera.led_publisher.publish(entry[1])
            on_the_way.remove(entry)

    camera.publish_leds = publish_late  # type: ignore[method-assign]
    with recorder(domain, tmp_path) as node:
        camera.wait_for_recorder()
        camera.run_until(samples=150)
        refused = int(camera.values()["refused: LED message out of order"])
        samples = end_and_judge(node, camera, tmp_path)
    assert samples >= 150 and refused >= 1
    table.add(
        "one LED message in a hundred comes 0.1 s late, after its successors",
        samples,
        0,
        "nothing",
        f"LED message out of order: {refused}",
    )


def malformed_messages(camera: BlinkingCamera) -> list[Callable[[], None]]:
    """Ways to publish something that no recorder can use; each is refused once."""

    def image(**changes: object) -> Callable[[], None]:
        def publish() -> None:
            message = camera.image_message(0)
            message.header = camera.steady_header()
            for name, value in changes.items():
                setattr(message, name, value)
            camera.image_publisher.publish(message)

        return publish

    def leds(names: tuple[str, ...], positions: list[float]) -> Callable[[], None]:
        message = JointState(name=names, position=positions)

        def publish() -> None:
            message.header = camera.header()
            camera.led_publisher.publish(message)

        return publish

    def pose() -> None:
        message = PoseStamped(header=camera.header())
        message.pose.position.x = float("nan")
        camera.pose_publisher.publish(message)

    return [
        image(encoding="hologram8"),
        image(encoding=""),
        image(step=WIDTH),
        image(data=bytes(100)),
        image(data=b""),
        image(width=0),
        image(height=HEIGHT + 1),
        image(width=2 * WIDTH, height=HEIGHT // 2, step=6 * WIDTH),
        lambda: camera.image_publisher.publish(Image()),
        leds(LED_NAMES[:-1], [1.0, 0.0, 1.0]),
        leds((*LED_NAMES, "roof"), [0.0] * 5),
        leds((LED_NAMES[0],) * 4, [1.0] * 4),
        leds(LED_NAMES, [1.0, float("nan"), 0.0, 0.0]),
        leds(LED_NAMES, [1.0, float("inf"), 0.0, 0.0]),
        leds(LED_NAMES, [-1.0, 0.0, 0.0, 0.0]),
        leds(LED_NAMES, []),
        leds((), []),
        pose,
    ]


@pytest.mark.timeout(300)
def test_malformed_messages(domain: int, camera: BlinkingCamera, tmp_path: Path, table: Table) -> None:
    with recorder(domain, tmp_path) as node:
        camera.wait_for_recorder()
        camera.run_until(samples=20)
        for number, publish in enumerate(itertools.islice(itertools.cycle(malformed_messages(camera)), 1000)):
            if number % 5 == 0:
                camera.run_to_steady()
            publish()
        reasons = (
            "unreadable image",
            "image size differs from CameraInfo",
            "image without stamp",
            "malformed LED message",
            "malformed ground truth",
        )

        def refused() -> int:
            return sum(int(camera.values().get(f"refused: {reason}", 0)) for reason in reasons)

        camera.client.wait_until(
            lambda: camera.run(frames=5) or refused() == 1000,
            what=lambda: f"1000 refusals: {camera.values()}",
        )
        camera.camera_publisher.publish(camera_info(camera.header(), WIDTH, HEIGHT, focal_length=0.0))
        camera.wait_for_status({"refused: camera not calibrated": "1"})
        camera.run_until(samples=20)
        samples = end_and_judge(node, camera, tmp_path)
    assert samples >= 100
    table.add("1000 malformed messages among good ones", samples, 0, "nothing", "1000 refusals, by reason")


@pytest.mark.timeout(7200)
def test_busy_machine(
    domain: int, camera: BlinkingCamera, tmp_path: Path, table: Table, request: pytest.FixtureRequest
) -> None:
    wanted = request.config.getoption("--label-samples")
    random = np.random.default_rng(5)
    publish_leds = camera.publish_leds
    camera.pause = 0.008

    def publish_with_jitter() -> None:
        if random.random() < 0.05:
            time.sleep(random.uniform(0, 0.1))
        publish_leds()

    camera.publish_leds = publish_with_jitter  # type: ignore[method-assign]
    with busy_machine(), recorder(domain, tmp_path) as node:
        camera.wait_for_recorder()
        camera.run_until(samples=wanted, timeout=120 + wanted / 5)
        samples = end_and_judge(node, camera, tmp_path)
    assert samples >= wanted
    table.add("every core is busy, messages come in bursts", samples, 0, "nothing", "recording")
