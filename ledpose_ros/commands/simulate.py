# SPDX-License-Identifier: Apache-2.0
"""Write a recording of simulated robots, without ROS."""

import argparse
import os
from multiprocessing import get_context

import numpy as np
from tqdm import tqdm

from ..errors import LedposeError
from ..images import encode_image
from ..recording import RecordingWriter

SCENE_FRAMES = 20
RATE = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="recording to write (.h5)")
    parser.add_argument("--count", type=int, required=True, metavar="N", help="number of pictures")
    parser.add_argument("--seed", type=int, required=True, metavar="S", help="same seed, same recording")
    parser.add_argument("--size", type=_size, default=(640, 360), metavar="WxH", help="picture size (640x360)")
    parser.add_argument("--peers", type=int, default=1, metavar="N", help="robots in view (1)")
    parser.add_argument("--absent", type=float, default=0.0, metavar="SHARE", help="share of scenes without peers (0)")
    parser.add_argument("--scene-frames", type=int, default=SCENE_FRAMES, metavar="N",
                        help=f"pictures before room, robots and light change ({SCENE_FRAMES})")  # fmt: skip
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N", help="processes (all cores)")


def run(args: argparse.Namespace) -> None:
    if args.count < 1 or args.workers < 1 or args.scene_frames < 1:
        raise LedposeError(
            f"--count {args.count}, --workers {args.workers} and --scene-frames {args.scene_frames} must be at least 1"
        )
    # Worker processes render on one thread each; must be set before OpenGL loads.
    os.environ.setdefault("LP_NUM_THREADS", "1")
    from ..simulation import Simulation

    width, height = args.size
    settings = {"seed": args.seed, "width": width, "height": height, "peers": args.peers, "absent": args.absent,
                "rate": RATE, "scene_frames": args.scene_frames}  # fmt: skip
    info = Simulation(**settings).info
    blocks = [
        (settings, index, min(args.scene_frames, args.count - index * args.scene_frames))
        for index in range(-(-args.count // args.scene_frames))
    ]
    with (
        RecordingWriter(args.output, info, with_ground_truth=True) as writer,
        get_context("spawn").Pool(min(args.workers, len(blocks))) as pool,
        tqdm(total=args.count, unit="image", disable=None) as progress,
    ):
        for rows in pool.imap(_render_scene, blocks):
            for image, frame in rows:
                has_peer = bool(len(frame.valid))
                writer.append(
                    image,
                    frame.stamp_ns,
                    frame.stamp_ns,
                    frame.led_states,
                    frame.led_stamp_ns,
                    pose=frame.poses[0] if has_peer and frame.valid[0] else None,
                )
            writer.commit()
            progress.update(len(rows))


def _render_scene(block: tuple) -> list[tuple[bytes, object]]:
    """The pictures of one scene, JPEG-encoded, each with its frame (its raw picture dropped)."""
    from dataclasses import replace

    from ..simulation import Simulation

    settings, index, count = block
    simulation = Simulation(**settings, first_scene=index)
    rows = []
    for _ in range(count):
        frame = simulation.step()
        rows.append((encode_image(frame.rgb, "jpeg"), replace(frame, rgb=np.empty(0, np.uint8))))
    simulation.close()
    return rows


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 640x360") from None
    return width, height
