# SPDX-License-Identifier: Apache-2.0
"""What recording costs, from the message on DDS to the row on disk, beside other ways to keep the messages.

Raw pictures of 640x360 and LED states are published by this process on a core of its own; who records them
has another core. First as many as it takes, then with --minutes at 30 Hz, watching processor time and memory.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import psutil
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Header

from benchmarks.command import benchmark_parser, new_file, run_command, two_cores
from benchmarks.recordings import some_pictures
from ledpose_ros.errors import LedposeError
from ledpose_ros.evaluation import text_table
from ledpose_ros.images import encode_image
from ledpose_ros.leds import DEFAULT_LED_NAMES
from ledpose_ros.live_graph import use_private_domain
from ledpose_ros.nodes.common import message_from_rgb
from ledpose_ros.recording import Recording

SINKS: dict[str, Sequence[str]] = {
    "recorder, jpeg 90": ("image_encoding:=jpeg",),
    "recorder, png": ("image_encoding:=png",),
    "mcap": (),
    "mcap-zstd": (),
    "hdf5": (),
}
"""Name and, of our recorder, its parameters."""
OFFERED_RATE = 200.0
REQUIRED_RATE = 120.0
STEADY_RATE = 30.0
ALLOWED_LOAD = 35.0
ENCODINGS = (("jpeg", 75), ("jpeg", 90), ("jpeg", 95), ("png", 0))


@dataclass
class Cost:
    """What a sink wrote, at what cost; `load` is the share of a core in per cent, sizes are in megabytes."""

    samples: int
    rate: float
    cpu_ms: float
    load: float
    kilobytes: float
    memory: tuple[float, float]
    """Resident size a fifth of the way into the run, and at its end."""


class Camera:
    """Publishes pictures and LED states that stay the same, so that no sample is refused for a change."""

    def __init__(self, pictures: Sequence[np.ndarray]) -> None:
        self.node = rclpy.create_node("camera")
        self._images = self.node.create_publisher(Image, "image", QoSProfile(depth=10))
        self._infos = self.node.create_publisher(CameraInfo, "camera_info", 10)
        self._leds = self.node.create_publisher(JointState, "led_states", 100)
        self.status: dict[str, str] = {}
        self.node.create_subscription(DiagnosticStatus, "recorder/status", self._on_status, 10)
        self._messages = [message_from_rgb(rgb, Header()) for rgb in pictures]
        height, width, _ = pictures[0].shape
        self._info = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
        self._info.k = [400.0, 0.0, width / 2, 0.0, 400.0, height / 2, 0.0, 0.0, 1.0]
        self._count = 0

    def _on_status(self, message: DiagnosticStatus) -> None:
        self.status = {pair.key: pair.value for pair in message.values}

    def wait_for_subscriber(self) -> None:
        """Until somebody listens to pictures and LEDs."""
        end = time.monotonic() + 60
        while not (self._images.get_subscription_count() and self._leds.get_subscription_count()):
            if time.monotonic() > end:
                raise LedposeError("nobody subscribed to the pictures within a minute")
            rclpy.spin_once(self.node, timeout_sec=0.05)
        for _ in range(5):  # known before the first picture
            self._infos.publish(self._info)
            time.sleep(0.1)

    def publish(self, seconds: float, rate: float) -> Iterator[float]:
        """Publish for so long; yields the seconds that have passed about once a second."""
        start = due = time.monotonic()
        told = 0
        while (passed := time.monotonic() - start) < seconds:
            header = Header(stamp=self.node.get_clock().now().to_msg(), frame_id="camera_optical_frame")
            self._leds.publish(
                JointState(header=header, name=DEFAULT_LED_NAMES, position=[1.0, 0.0, 1.0, 0.0])
            )
            self._info.header = header
            self._infos.publish(self._info)
            message = self._messages[self._count % len(self._messages)]
            message.header = header
            self._images.publish(message)
            self._count += 1
            if passed > told:
                told += 1
                yield passed
            due += 1 / rate
            rclpy.spin_once(self.node, timeout_sec=0)
            time.sleep(max(0.0, due - time.monotonic()))


@contextmanager
def running(name: str, folder: Path, core: int) -> Iterator[psutil.Process]:
    """The sink as a process on a core; it has finished its file afterwards."""
    if name.startswith("recorder"):
        parameters = [f"output_directory:={folder}", "led_guard:=0.0", "min_free_space_mb:=1", *SINKS[name]]
        arguments = [text for parameter in parameters for text in ("-p", parameter)]
        command = ["ledpose_ros.nodes.recorder", "--ros-args", *arguments]
    else:
        command = ["benchmarks.sinks", name, str(folder / "messages")]
    process = psutil.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    process.cpu_affinity([core])
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        if process.wait(60) != 0:
            raise LedposeError(f"{name} ended with exit status {process.returncode}")


def receive_stamps(name: str, folder: Path) -> np.ndarray:
    """When the pictures came that a sink wrote, int64 [ns]."""
    if name == "hdf5":
        with h5py.File(folder / "messages") as file:
            stamps = file["stamp"][:]
    elif name.startswith("mcap"):
        from mcap.reader import make_reader

        with (folder / "messages").open("rb") as stream:
            stamps = np.array([entry[2].log_time for entry in make_reader(stream).iter_messages(["image"])])
    else:
        (path,) = folder.glob("*.h5")
        with Recording(path) as recording:
            stamps = recording.receive_stamps_ns
    return np.asarray(stamps)


def measure(camera: Camera, name: str, seconds: float, rate: float, core: int) -> Cost:
    """Record for so long, on that core."""
    with TemporaryDirectory(prefix="ledpose_bench_") as directory:
        folder = Path(directory)
        with running(name, folder, core) as process:
            camera.wait_for_subscriber()
            for _ in camera.publish(1.0, STEADY_RATE):  # its first messages cost more
                pass
            cpu, start, memory = process.cpu_times(), time.monotonic(), 0.0
            start_ns = time.time_ns()
            for passed in camera.publish(seconds, rate):
                if not memory and passed > seconds / 5:
                    memory = process.memory_info().rss / 1e6
            used = sum(process.cpu_times()[:2]) - sum(cpu[:2])
            wall = time.monotonic() - start
            grown = process.memory_info().rss / 1e6
        stamps = receive_stamps(name, folder)
        size = sum(path.stat().st_size for path in folder.iterdir())
    kilobytes = size / len(stamps) / 1e3
    stamps = stamps[stamps >= start_ns]
    rate = float((len(stamps) - 1) / np.ptp(stamps)) * 1e9
    load = used / wall
    return Cost(len(stamps), rate, 1000 * load / rate, 100 * load, kilobytes, (memory, grown))


def encoding_costs(pictures: Sequence[np.ndarray]) -> dict[str, list[float]]:
    """Milliseconds and kilobytes per picture."""
    rows = {}
    for encoding, quality in ENCODINGS:
        start = time.process_time()
        sizes = [len(encode_image(rgb, encoding, quality or 90)) for rgb in pictures]
        seconds = (time.process_time() - start) / len(pictures)
        rows[f"{encoding} {quality or ''}".strip()] = [1000 * seconds, float(np.mean(sizes)) / 1e3]
    return rows


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = benchmark_parser("benchmarks.recorder", __doc__)
    parser.add_argument(
        "--seconds", type=float, default=15.0, metavar="S", help="for each way to record (15)"
    )
    parser.add_argument(
        "--minutes", type=float, default=0.0, metavar="M", help="at 30 Hz, of the recorder (0)"
    )
    parser.add_argument("--json", type=new_file, metavar="FILE", help="also write the figures to a file")
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    own, other = two_cores()
    pictures = some_pictures(args.data)
    use_private_domain()
    costs = encoding_costs(pictures)
    print(text_table(["ms", "kB"], costs))
    rclpy.init()
    os.sched_setaffinity(0, [own])
    camera = Camera(pictures)
    found = {name: measure(camera, name, args.seconds, OFFERED_RATE, other) for name in SINKS}
    ours = found["recorder, jpeg 90"]
    print(f"\n{OFFERED_RATE:g} pictures a second offered, one core:")
    columns = ["samples/s", "CPU ms", "kB"]
    rows = {name: [cost.rate, cost.cpu_ms, cost.kilobytes] for name, cost in found.items()}
    rows |= {
        f"ours / {name}": [
            ours.rate / found[name].rate,
            ours.cpu_ms / found[name].cpu_ms,
            ours.kilobytes / found[name].kilobytes,
        ]
        for name in ("mcap", "mcap-zstd", "hdf5")
    }
    print(text_table(columns, rows))
    print(f"Recorded a second: {ours.rate:.0f}, required {REQUIRED_RATE:g}.")
    if args.minutes:
        steady = measure(camera, "recorder, jpeg 90", 60 * args.minutes, STEADY_RATE, other)
        refused = {key: value for key, value in camera.status.items() if key.startswith("refused")}
        print(f"\n{STEADY_RATE:g} Hz for {args.minutes:g} minutes: {steady.samples} samples.")
        print(f"Refused: {refused or 'none'}.")
        print(f"{steady.load:.1f} % of a core, allowed {ALLOWED_LOAD:g} %.")
        early, late = steady.memory
        print(f"Memory: {early:.0f} MB after a fifth of the time, {late:.0f} MB at the end.")
        found["steady"] = steady
    if args.json:
        args.json.write_text(json.dumps({name: asdict(cost) for name, cost in found.items()}, indent=2))


if __name__ == "__main__":
    sys.exit(run_command(run, make_parser()))
