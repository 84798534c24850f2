# SPDX-License-Identifier: Apache-2.0
"""Write a recording of simulated robots, without ROS."""

import argparse
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import LedposeError
from ..images import encode_image
from ..recording import RecordingWriter
from ..simulation import Simulation

SCENE_FRAMES = 20
RATE = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="recording to write (.h5)")
    parser.add_argument("--count", type=int, required=True, metavar="N", help="number of pictures")
    parser.add_argument("--seed", type=int, required=True, metavar="S", help="same seed, same recording")
    parser.add_argument(
        "--size", type=_size, default=(640, 360), metavar="WxH", help="size of the pictures (640x360)"
    )
    parser.add_argument("--peers", type=int, default=1, metavar="N", help="robots before the camera (1)")
    parser.add_argument(
        "--absent", type=float, default=0.0, metavar="SHARE", help="share of scenes without any peer (0)"
    )
    parser.add_argument(
        "--scene-frames",
        type=int,
        default=SCENE_FRAMES,
        metavar="N",
        help=f"pictures after which room, robots and light change ({SCENE_FRAMES})",
    )
    parser.add_argument(
        "--dim", action="store_true", help="dark rooms, peers within 1.6 m: a first recording to learn from"
    )
    parser.add_argument(
        "--distance",
        type=float,
        metavar="M",
        help="let the peer stand straight ahead at this range, to calibrate on [m]",
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), metavar="N", help="processes that render (all cores)"
    )


def run(args: argparse.Namespace) -> None:
    for option in ("count", "workers", "scene_frames"):
        if getattr(args, option) < 1:
            name = option.replace("_", "-")
            raise LedposeError(f"--{name} must be at least 1, but is {getattr(args, option)}")
    if args.seed < 0:
        raise LedposeError(f"--seed must not be negative, but is {args.seed}")
    width, height = args.size
    settings = {
        "seed": args.seed,
        "width": width,
        "height": height,
        "peers": args.peers,
        "absent": args.absent,
        "scene_frames": args.scene_frames,
        "dim": args.dim,
        "distance": args.distance,
    }
    write_recording(args.output, settings, args.count, args.workers)


def write_recording(
    path: str | Path, settings: dict[str, Any], count: int, workers: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Write `count` pictures of the `Simulation` with these settings over the defaults RATE and SCENE_FRAMES.

    Returns what a recording has no room for: poses (count, P, 7) in the optical frame of all P peers, NaN in
    scenes without any, and which of them are seen, bool (count, P). `workers` processes render.
    """
    settings = {"rate": RATE, "scene_frames": SCENE_FRAMES, **settings}
    info = Simulation(**settings).info
    scene_frames, peers = settings["scene_frames"], settings.get("peers", 1)
    poses, visible = np.full((count, peers, 7), np.nan), np.zeros((count, peers), bool)
    scenes = [
        _Scene(settings, index, min(scene_frames, count - first))
        for index, first in enumerate(range(0, count, scene_frames))
    ]
    with (
        RecordingWriter(path, info, with_ground_truth=True) as writer,
        ProcessPoolExecutor(min(workers, len(scenes)), get_context("spawn"), _prepare_worker) as pool,
        tqdm(total=count, unit="image") as progress,
    ):
        # Each scene depends on the seed and its index alone, so the recording on nothing else.
        for samples in _rendered(pool, scenes):
            for sample in samples:
                poses[len(writer), : len(sample.poses)] = sample.poses
                visible[len(writer), : len(sample.valid)] = sample.valid
                writer.append(
                    sample.image,
                    sample.stamp_ns,
                    sample.stamp_ns,
                    sample.led_states,
                    sample.led_stamp_ns,
                    pose=sample.poses[0] if sample.valid[:1].any() else None,
                )
            writer.commit()
            progress.update(len(samples))
    return poses, visible


@dataclass(frozen=True)
class _Scene:
    """What a worker needs to render a scene: the simulation's settings, which scene, how many pictures."""

    settings: dict
    index: int
    count: int


@dataclass(frozen=True)
class _Sample:
    """A `Frame` with its picture encoded."""

    image: bytes
    stamp_ns: int
    led_states: np.ndarray
    led_stamp_ns: int
    poses: np.ndarray
    valid: np.ndarray


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent ends its workers.
    os.environ.setdefault("LP_NUM_THREADS", "1")  # Software OpenGL: the workers share the cores already.


def _rendered(pool: ProcessPoolExecutor, scenes: list[_Scene]) -> Iterator[list[_Sample]]:
    """The samples of each scene, in order; LedposeError when a worker dies."""
    try:
        yield from pool.map(_render, scenes)
    except BrokenProcessPool:
        raise LedposeError(
            "a process that renders was killed, perhaps for want of memory: simulate with fewer --workers"
        ) from None


def _render(scene: _Scene) -> list[_Sample]:
    simulation = Simulation(**scene.settings, first_scene=scene.index)
    samples = []
    for _ in range(scene.count):
        frame = simulation.step()
        samples.append(
            _Sample(
                encode_image(frame.rgb, "jpeg"),
                frame.stamp_ns,
                frame.led_states,
                frame.led_stamp_ns,
                frame.poses,
                frame.valid,
            )
        )
    simulation.close()
    return samples


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 640x360") from None
    return width, height
