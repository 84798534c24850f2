# SPDX-License-Identifier: Apache-2.0
"""Whether the estimator stays as it is in the long run: its memory, threads and open files must not grow.

A camera's time passes as fast as the node answers its pictures. Meanwhile peers come into
view and leave it, tell their LEDs, listeners and the camera come and go, the clock is set back, parameters
change, nonsense is published, and the node is deactivated, cleaned up, configured and activated: see EVENTS.
"""

import argparse
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Header
from tqdm import tqdm
from visualization_msgs.msg import MarkerArray

from benchmarks.command import benchmark_parser, new_file, run_command, verdict
from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import PeerEstimator
from ledpose_ros.evaluation import text_table
from ledpose_ros.leds import stamp_ns
from ledpose_ros.live_graph import NodeProcess, running_nodes, use_private_domain
from ledpose_ros.model_metadata import shipped_model
from ledpose_ros.nodes.common import message_from_rgb, stamp_from_ns

SIZE = (96, 64)
RATE = 30.0
START_NS = 10**18
PEERS = ("alpha", "beta")
LISTENED: dict[str, type] = {
    "peer_poses": PoseArray,
    "markers": MarkerArray,
    "debug_image": Image,
    "estimator/filtered_pose": PoseWithCovarianceStamped,
}
EVENTS = {
    "change_picture": 10.0,
    "change_parameter": 15.0,
    "publish_nonsense": 20.0,
    "change_listeners": 60.0,
    "restart_camera": 100.0,
    "restart_node": 120.0,
    "set_clock_back": 300.0,
}
"""Method of `World` -> every so many seconds of the camera's time."""
SAMPLES = 50
"""How often the node's process is looked at; the first fifth, with most kinds of EVENTS, is the warm-up."""
ALLOWED_GROWTH = 1.05
PATIENCE = 60.0
"""Seconds after which something that should happen is taken for broken."""


@dataclass
class Sample:
    """The node's process after so many pictures."""

    pictures: int
    memory: float
    """Resident size [MB]."""
    threads: int
    files: int


class World:
    """All that the estimator is connected with."""

    def __init__(self, led_names: tuple[str, ...], rate: float, process: NodeProcess) -> None:
        self._rate = rate
        self.node = rclpy.create_node("world")
        self.published = self.answered = 0
        self.events: Counter[str] = Counter()
        self.diagnostics: dict[str, str] = {}
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._process = process
        self._led_names = led_names
        self._random = np.random.default_rng(0)
        noise = self._random.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
        self._pictures = itertools.cycle([noise, np.zeros_like(noise)])
        self._confidences = itertools.cycle([1.0, 0.0])
        self._picture = message_from_rgb(next(self._pictures), Header())
        self._info = CameraInfo(width=SIZE[0], height=SIZE[1], distortion_model="plumb_bob", d=[0.0] * 5)
        self._info.k = [60.0, 0.0, SIZE[0] / 2, 0.0, 60.0, SIZE[1] / 2, 0.0, 0.0, 1.0]
        self._stamp_ns, self._answered_ns = START_NS, 0
        self._odometry = self.node.create_publisher(Odometry, "odometry", 10)
        self._leds = [self.node.create_publisher(JointState, f"{name}/led_states", 10) for name in PEERS]
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._set_parameters: Any = self.node.create_client(SetParameters, "estimator/set_parameters")
        self._change_state: Any = self.node.create_client(ChangeState, "estimator/change_state")
        self._listeners: list[Any] = []
        self._cameras: list[Any] = []
        self.restart_camera()
        self.change_listeners()

    def close(self) -> None:
        """End what `__init__` began."""
        self._executor.shutdown()
        self.node.destroy_node()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.diagnostics = {pair.key: pair.value for pair in message.status[0].values}

    def _on_poses(self, message: PoseArray) -> None:
        self.answered += 1
        self._answered_ns = stamp_ns(message.header.stamp)

    def wait_until(self, happens: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not happens():
            self._process.check()
            if time.monotonic() > end:
                raise LedposeError(f"{what} has not come within {PATIENCE:g} s, see {self._process.log}")
            self._executor.spin_once(timeout_sec=0.1)

    def _wait_for_estimator(self) -> None:
        images, infos = self._cameras
        listeners = self._listeners
        self.wait_until(
            lambda: (
                images.get_subscription_count()
                and infos.get_subscription_count()
                and all(listener.get_publisher_count() for listener in listeners)
            ),
            "the estimator's subscription",
        )

    def _call(self, client: Any, request: Any, what: str) -> Any:
        self.wait_until(client.service_is_ready, what)
        future = client.call_async(request)
        self.wait_until(future.done, what)
        return future.result()

    def show(self) -> None:
        """Publish a picture and what belongs to it, and wait for the answer."""
        self._stamp_ns += round(10**9 / self._rate)
        header = Header(stamp=stamp_from_ns(self._stamp_ns), frame_id="camera_optical_frame")
        if self.published % 3 == 0:
            for publisher in self._leds:
                states = self._random.integers(0, 2, len(self._led_names)).astype(float).tolist()
                publisher.publish(JointState(header=header, name=self._led_names, position=states))
        moving = Odometry(header=header)
        moving.pose.pose.position.x = 0.1 * self.published / self._rate
        moving.pose.pose.orientation.w = 1.0
        self._odometry.publish(moving)
        images, infos = self._cameras
        self._picture.header = self._info.header = header
        infos.publish(self._info)
        images.publish(self._picture)
        self.published += 1
        end = time.monotonic() + 1.0
        while self._answered_ns != self._stamp_ns:
            if time.monotonic() > end:  # lost on the way, as may happen
                self._process.check()
                return
            self._executor.spin_once(timeout_sec=0.1)

    def let_happen(self) -> None:
        """Do what is due."""
        for name, period in EVENTS.items():
            if self.published % round(period * self._rate) == 0:
                getattr(self, name)()
                self.events[name] += 1

    def change_picture(self) -> None:
        """From noise to black, and back."""
        self._picture = message_from_rgb(next(self._pictures), Header())

    def change_parameter(self) -> None:
        """Publish all peers that the network finds, or none; also try what is to be refused."""
        for value, is_good in ((next(self._confidences), True), (float("nan"), False), ("high", False)):
            parameter = Parameter("min_confidence", value=value).to_parameter_msg()
            request = SetParameters.Request(parameters=[parameter])
            answer = self._call(self._set_parameters, request, "the answer of set_parameters")
            if answer.results[0].successful != is_good:
                raise LedposeError(f"min_confidence was set to {value}: {answer.results[0]}")

    def publish_nonsense(self) -> None:
        """An image, an odometry message and an LED message that are none."""
        header = Header(stamp=stamp_from_ns(self._stamp_ns), frame_id="camera_optical_frame")
        self._cameras[0].publish(Image(header=header, width=10**6, height=10**6, encoding="rgb8"))
        self._odometry.publish(Odometry(header=header))
        self._leds[0].publish(JointState(header=header, name=["no_such_led"], position=[1.0]))

    def change_listeners(self) -> None:
        """All who listen leave, so that the estimator does too; then others come."""
        images = self._cameras[0]
        for listener in self._listeners:
            self.node.destroy_subscription(listener)
        if self._listeners:
            self.wait_until(lambda: not images.get_subscription_count(), "the end of the subscription")
        self._listeners = [
            self.node.create_subscription(
                kind, topic, self._on_poses if topic == "peer_poses" else lambda _: None, 10
            )
            for topic, kind in LISTENED.items()
        ]
        self._wait_for_estimator()

    def restart_camera(self) -> None:
        """The camera's publishers end, and others begin."""
        for publisher in self._cameras:
            self.node.destroy_publisher(publisher)
        self._cameras = [
            self.node.create_publisher(Image, "image", 10),
            self.node.create_publisher(CameraInfo, "camera_info", 10),
        ]
        if self._listeners:
            self._wait_for_estimator()

    def restart_node(self) -> None:
        """Once through all states of the lifecycle."""
        for number in (
            Transition.TRANSITION_DEACTIVATE,
            Transition.TRANSITION_CLEANUP,
            Transition.TRANSITION_CONFIGURE,
            Transition.TRANSITION_ACTIVATE,
        ):
            request = ChangeState.Request(transition=Transition(id=number))
            if not self._call(self._change_state, request, "the answer of change_state").success:
                raise LedposeError(f"transition {number} failed, see {self._process.log}")
        self._wait_for_estimator()

    def set_clock_back(self) -> None:
        """By an hour."""
        self._stamp_ns -= 3600 * 10**9


def sample(process: psutil.Process, pictures: int) -> Sample:
    """How large the node's process is."""
    with process.oneshot():
        memory = process.memory_info().rss / 1e6
        return Sample(pictures, memory, process.num_threads(), process.num_fds())


def soak(model: Path, images: int, rate: float, folder: Path) -> tuple[list[Sample], World]:
    """Have the estimator answer so many pictures; what its process took, and the world afterwards."""
    led_names = PeerEstimator(model).metadata.led_names
    parameters = {"model": model, "max_image_age": 0.0, "peers": f"[{', '.join(PEERS)}]"}
    with running_nodes(folder, estimator=parameters) as nodes:
        process = psutil.Process(nodes[0].pid)
        world = World(led_names, rate, nodes[0])
        try:
            samples = []
            for number in tqdm(range(1, images + 1), unit="picture", mininterval=1.0):
                world.show()
                world.let_happen()
                if number % max(1, images // SAMPLES) == 0:
                    samples.append(sample(process, number))
            world.diagnostics.clear()
            world.wait_until(lambda: world.diagnostics, "a diagnostics message")
        finally:
            world.close()
    return samples, world


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = benchmark_parser("benchmarks.soak", __doc__)
    parser.add_argument("--images", type=int, default=20_000, metavar="N", help="pictures to answer (20000)")
    parser.add_argument(
        "--rate", type=float, default=RATE, metavar="HZ", help=f"the camera's pictures a second ({RATE:g})"
    )
    parser.add_argument("--model", type=Path, metavar="MODEL", help="ONNX model (the shipped one)")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="also write the figures to a file")
    return parser


def run(args: argparse.Namespace) -> None:
    """Soak and print."""
    if args.images < SAMPLES:
        raise LedposeError(f"{args.images} images are too few to see anything grow: give {SAMPLES} or more")
    if not 1 <= args.rate <= 1000:
        raise LedposeError(f"--rate {args.rate:g}: give 1 to 1000 Hz")
    model = (args.model or shipped_model()).absolute()
    use_private_domain()
    rclpy.init()
    start = time.monotonic()
    with TemporaryDirectory() as folder:
        samples, world = soak(model, args.images, args.rate, Path(folder))
    rclpy.try_shutdown()
    hours, minutes = args.images / args.rate / 3600, (time.monotonic() - start) / 60
    print(
        f"{world.published} pictures published, {world.answered} answered, "
        f"{hours:.1f} hours of a camera's time at {args.rate:g} Hz in {minutes:.0f} minutes."
    )
    print(f"Meanwhile: {dict(world.events)}.")
    dropped = {
        key: value for key, value in world.diagnostics.items() if key.startswith(("refused", "dropped"))
    }
    print(f"Of the node: {dropped}.\n")
    rows = {f"{found.pictures}": [found.memory, found.threads, found.files] for found in samples[4::5]}
    print(text_table(["MB", "threads", "files"], rows))
    early, late = samples[len(samples) // 5 - 1], samples[-1]
    growth = late.memory / early.memory
    is_flat = growth <= ALLOWED_GROWTH and (late.threads, late.files) == (early.threads, early.files)
    print(
        f"\nMemory: {early.memory:.1f} MB after a fifth of the pictures, {late.memory:.1f} MB at the end: "
        f"{growth:.3f} times, allowed {ALLOWED_GROWTH:g}; "
        f"threads {early.threads} and {late.threads}, open files {early.files} and {late.files}, "
        f"allowed as many: {verdict(is_flat)}."
    )
    if args.json:
        found = {
            "samples": [asdict(each) for each in samples],
            "answered": world.answered,
            "events": world.events,
            "node": dropped,
        }
        args.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    sys.exit(run_command(run, make_parser()))
