# SPDX-License-Identifier: Apache-2.0
"""How long the estimator takes, from a picture's publication to the reception of its poses, and at what cost.

The node runs as a process on a core of its own, with one thread; this process publishes raw pictures at 30 Hz
and listens on another core. Beside it stand the bare network in ONNX Runtime, the same in PyTorch, and a
network of the predecessor's size.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import onnxruntime
import psutil
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from benchmarks.command import benchmark_parser, new_file, run_command, two_cores, verdict
from benchmarks.recordings import some_pictures
from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import PeerEstimator
from ledpose_ros.evaluation import text_table
from ledpose_ros.leds import stamp_ns
from ledpose_ros.live_graph import NodeProcess, running_nodes, use_private_domain
from ledpose_ros.model_metadata import TRAINABLE_MODEL, shipped_model
from ledpose_ros.nodes.common import message_from_rgb
from ledpose_ros.nodes.estimator import STAGES

SIZES = ((320, 180), (640, 360), (1280, 720))
MAIN_SIZE = (640, 360)
RATE = 30.0
PYTORCH = "PyTorch, shipped float32"
AT_RATE = f"bare session at {RATE:g} Hz"
ALLOWED_INFERENCE = 12.0  # [ms]
ALLOWED_LOAD = 45.0  # [% of a core]
AIMED_RATIO = 1.25
PREDECESSOR_LAYERS = (
    (6, 3, 1, 1),
    (8, 3, 1, 2),
    (16, 3, 1, 2),
    (32, 3, 1, 2),
    (32, 5, 3, 1),
    (32, 5, 2, 1),
    (10, 1, 1, 1),
)
"""Channels, kernel, dilation and pooling of the single-scale network that the method's authors published."""


class Camera:
    """Publishes pictures of one size and notes when their answers come."""

    def __init__(self, pictures: Sequence[np.ndarray]) -> None:
        self.node = rclpy.create_node("camera")
        height, width, _ = pictures[0].shape
        self._images = self.node.create_publisher(Image, "image", QoSProfile(depth=1))
        self._infos = self.node.create_publisher(CameraInfo, "camera_info", 1)
        self.node.create_subscription(PoseArray, "peer_poses", self._on_poses, 10)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._messages = [message_from_rgb(rgb, Header()) for rgb in pictures]
        focal_length = 0.6 * width
        self._info = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
        self._info.k = [focal_length, 0.0, width / 2, 0.0, focal_length, height / 2, 0.0, 0.0, 1.0]
        self.latencies: list[float] = []
        self.stages: dict[str, float] = {}
        self.published = 0

    def _on_poses(self, message: PoseArray) -> None:
        now = self.node.get_clock().now().nanoseconds
        self.latencies.append((now - stamp_ns(message.header.stamp)) / 1e6)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        values = {pair.key: pair.value for pair in message.status[0].values}
        found = {name: values.get(f"{name} p50 [ms]") for name in ("image age", *STAGES)}
        self.stages = {name: float(value) for name, value in found.items() if value is not None}

    def wait_for_estimator(self, process: NodeProcess) -> None:
        """Until it listens to pictures."""
        end = time.monotonic() + 60
        while not self._images.get_subscription_count():
            process.check()
            if time.monotonic() > end:
                raise LedposeError(f"nobody subscribed to the pictures within a minute, see {process.log}")
            rclpy.spin_once(self.node, timeout_sec=0.05)

    def film(self, seconds: float) -> None:
        """Publish at RATE, and listen meanwhile."""
        end = due = time.monotonic()
        end += seconds
        while time.monotonic() < end:
            header = Header(stamp=self.node.get_clock().now().to_msg(), frame_id="camera_optical_frame")
            message = self._messages[self.published % len(self._messages)]
            message.header = self._info.header = header
            self._infos.publish(self._info)
            self._images.publish(message)
            self.published += 1
            due += 1 / RATE
            while (left := due - time.monotonic()) > 0:
                rclpy.spin_once(self.node, timeout_sec=left)


def resized(pictures: Sequence[np.ndarray], size: tuple[int, int]) -> list[np.ndarray]:
    """The pictures at another size (width, height)."""
    return [cv2.resize(rgb, size, interpolation=cv2.INTER_AREA) for rgb in pictures]


def median_ms(
    work: Callable[[np.ndarray], object],
    pictures: Sequence[np.ndarray],
    repeat: int,
    rate: float | None = None,
) -> float:
    """Median time of a piece of work on pictures [ms], the first five left out.

    One follows the other at once, or at a rate [Hz]: what a processor's caches hold is forgotten in between.
    """
    times = []
    for index in range(repeat + 5):
        start = time.perf_counter()
        work(pictures[index % len(pictures)])
        taken = time.perf_counter() - start
        times.append(1000 * taken)
        if rate is not None:
            time.sleep(max(0.0, 1 / rate - taken))
    return float(np.median(times[5:]))


def node_costs(model: Path, pictures: Sequence[np.ndarray], seconds: float, core: int) -> dict[str, float]:
    """Latency percentiles [ms], stages [ms], processor [% of a core] and memory [MB] of the node."""
    camera = Camera(pictures)
    parameters = {"model": model, "max_image_age": 0.0}
    try:
        with TemporaryDirectory() as folder, running_nodes(Path(folder), estimator=parameters) as nodes:
            process = psutil.Process(nodes[0].pid)
            process.cpu_affinity([core])
            camera.wait_for_estimator(nodes[0])
            camera.film(2.0)  # the first pictures cost more
            camera.latencies.clear()
            before, start, published = process.cpu_times(), time.monotonic(), camera.published
            camera.film(seconds)
            used = sum(process.cpu_times()[:2]) - sum(before[:2])
            load = 100 * used / (time.monotonic() - start)
            memory = process.memory_info().rss / 1e6
            offered = camera.published - published
    finally:
        camera.node.destroy_node()
    if not camera.latencies or not camera.stages:
        raise LedposeError("the estimator has not answered any picture")
    p50, p95, p99 = np.percentile(camera.latencies, [50, 95, 99])
    latency = {"p50": float(p50), "p95": float(p95), "p99": float(p99)}
    answered = {"answered [%]": 100 * len(camera.latencies) / offered}
    return {**latency, **camera.stages, "CPU [%]": load, "MB": memory, **answered}


def network_costs(model: Path, pictures: Sequence[np.ndarray], repeat: int) -> dict[str, float]:
    """Medians [ms] on one thread: the bare session, PyTorch (float32), one of the predecessor's size."""
    import torch

    from ledpose_ros.learning.export import load_onnx

    torch.set_num_threads(1)
    network, _ = load_onnx(shipped_model(TRAINABLE_MODEL))

    @torch.no_grad()
    def eager(rgb: np.ndarray) -> None:
        network(torch.from_numpy(rgb)[None])

    bare = PeerEstimator(model)
    with TemporaryDirectory() as folder:
        path = Path(folder, "predecessor.onnx")
        export_predecessor(path, pictures[0].shape[:2])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        predecessor = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    floats = [np.ascontiguousarray(rgb.transpose(2, 0, 1)[None], np.float32) / 255 for rgb in pictures]
    return {
        "bare session": median_ms(bare.run, pictures, repeat),
        AT_RATE: median_ms(bare.run, pictures, repeat, RATE),
        PYTORCH: median_ms(eager, pictures, max(10, repeat // 4)),
        "predecessor's size": median_ms(
            lambda image: predecessor.run(None, {"image": image}), floats, max(10, repeat // 4)
        ),
    }


def export_predecessor(path: Path, size: tuple[int, int]) -> None:
    """Write a network of PREDECESSOR_LAYERS for pictures of this (height, width), with random weights."""
    import torch
    from torch import nn

    layers: list[nn.Module] = []
    inputs = 3
    for channels, kernel, dilation, pooling in PREDECESSOR_LAYERS:
        padding = dilation * (kernel // 2)
        layers += [
            nn.Conv2d(inputs, channels, kernel, padding=padding, dilation=dilation, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
        if pooling > 1:
            layers.append(nn.MaxPool2d(pooling))
        inputs = channels
    network = nn.Sequential(*layers).eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(
        network, (torch.zeros(1, 3, *size),), str(path), input_names=["image"], dynamo=True, verbose=False
    )


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = benchmark_parser("benchmarks.latency", __doc__)
    parser.add_argument("--model", type=Path, metavar="MODEL", help="ONNX model (the shipped one)")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="at each size (20)")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="also write the figures to a file")
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    own, other = two_cores()
    model = (args.model or shipped_model()).absolute()
    pictures = some_pictures(args.data)
    use_private_domain()
    os.sched_setaffinity(0, [own])
    repeat = int(5 * args.seconds)
    sized = {f"{w}x{h}": resized(pictures, (w, h)) for w, h in SIZES}
    networks = {name: network_costs(model, images, repeat) for name, images in sized.items()}
    rclpy.init()
    nodes = {name: node_costs(model, images, args.seconds, other) for name, images in sized.items()}
    rclpy.try_shutdown()

    def table(rows: dict[str, dict[str, float]]) -> str:
        return text_table(
            list(next(iter(rows.values()))), {name: list(row.values()) for name, row in rows.items()}
        )

    print(f"From a picture's publication at {RATE:g} Hz to the reception of its poses over DDS [ms]:")
    print(table({name: {key: row[key] for key in ("p50", "p95", "p99")} for name, row in nodes.items()}))
    print("\nOf this, medians [ms]: transport until the node takes the picture up, and what it does with it:")
    stages = {
        name: {"transport": row["image age"], **{stage: row[stage] for stage in STAGES}}
        for name, row in nodes.items()
    }
    print(table(stages))
    print("\nThe node's process:")
    print(
        table(
            {
                name: {key: row[key] for key in ("CPU [%]", "MB", "answered [%]")}
                for name, row in nodes.items()
            }
        )
    )
    print("\nNetworks alone, one thread, medians [ms]:")
    print(table(networks))
    work = {name: sum(row[stage] for stage in STAGES) for name, row in nodes.items()}
    ratios = {
        name: {
            "node / bare session": work[name] / networks[name]["bare session"],
            f"node / {AT_RATE}": work[name] / networks[name][AT_RATE],
            f"bare session / {PYTORCH}": networks[name]["bare session"] / networks[name][PYTORCH],
            "bare session / predecessor's size": networks[name]["bare session"]
            / networks[name]["predecessor's size"],
        }
        for name in nodes
    }
    print()
    print(table(ratios))
    main = "{}x{}".format(*MAIN_SIZE)
    inference, load = nodes[main]["inference"], nodes[main]["CPU [%]"]
    ratio = ratios[main][f"node / {AT_RATE}"]
    print(
        f"At {main}: inference in the node {inference:.1f} ms, "
        f"allowed {ALLOWED_INFERENCE:g}: {verdict(inference <= ALLOWED_INFERENCE)}; "
        f"{load:.0f} % of a core at {RATE:g} Hz, allowed {ALLOWED_LOAD:g}: {verdict(load <= ALLOWED_LOAD)}; "
        f"node / {AT_RATE} {ratio:.2f}, aim {AIMED_RATIO:g}: {verdict(ratio <= AIMED_RATIO)}."
    )
    if args.json:
        args.json.write_text(json.dumps({"nodes": nodes, "networks": networks, "ratios": ratios}, indent=2))


if __name__ == "__main__":
    sys.exit(run_command(run, make_parser()))
