# SPDX-License-Identifier: Apache-2.0
"""How much is learned in how much time: our preset against the paper's plain loss.

Both train on the same recordings for the same time, measuring not counted. So does ours without one of its
parts, if asked for; on a machine that has other things to do rather for the same steps, and from a checkpoint
of ours on, if that part comes late. The plain loss trains the coarse network alone, as in the paper, and is
decoded as there. Size tells distance but for a constant, so all get the one that fits the pictures they are
measured on best. These are not those of `benchmarks.accuracy`: what is chosen here
is measured there on pictures that had no part in the choice.
"""

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.accuracy import as_json
from benchmarks.command import benchmark_parser, new_file, run_command
from benchmarks.parts import PARTS, left_out, part_names
from benchmarks.recordings import VALIDATION, leds_in_view, provide
from ledpose_ros.errors import LedposeError
from ledpose_ros.evaluation import COLUMNS, Predictions, score, table, truth
from ledpose_ros.geometry import distance_from_scale, pixel_rays
from ledpose_ros.learning.dataset import TrainingSet, load_recordings
from ledpose_ros.learning.network import PeerNetwork, image_pyramid
from ledpose_ros.learning.trainer import CHECKPOINT_NAME, PRESETS, Phase, Preset, Trainer
from ledpose_ros.metrics import Metrics
from ledpose_ros.model_metadata import Calibration
from ledpose_ros.recording import Recording

BATCH = 16
PACED_STEPS = 30
"""Steps that tell how many there is time for."""

Answer = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""uv (B, 2), log2 scale (B,), bearing (B, 2) and LED probability (B, K) of the best peer in each image."""


def best_peak(network: PeerNetwork, images: torch.Tensor) -> Answer:
    """The answer of the whole network to images uint8 (B, H, W, 3)."""
    uv, log2_scale, bearing, leds, *_ = network(images)
    return uv[:, 0], log2_scale[:, 0], bearing[:, 0], leds[:, 0]


def under_attention(network: PeerNetwork, images: torch.Tensor) -> Answer:
    """The answer of the coarse network alone, decoded as in the paper.

    The place is the centroid of p, summed over scales, in 3x3 cells about its maximum; the log2 scale is the
    mean under p there, the bearing and the LED states are means under all of p.
    """
    maps = network.coarse_maps(image_pyramid(images).halves)
    attention = maps.attention()
    total = attention.sum(1)
    height, width = total.shape[1:]
    best = total.flatten(1).argmax(1)
    row = (torch.arange(height) - best[:, None] // width).abs() <= 1
    column = (torch.arange(width) - best[:, None] % width).abs() <= 1
    near = attention * (row[:, :, None] & column[:, None])[:, None]
    near = near / near.sum((1, 2, 3), keepdim=True)
    u, v = network.cell_centres(height, width)
    uv = torch.stack([(near.sum((1, 2)) * u).sum(1), (near.sum((1, 3)) * v).sum(1)], 1)
    bearing = (attention[:, :, None] * maps.bearing).sum((1, 3, 4))
    leds = (attention[:, :, None] * maps.leds.sigmoid()).sum((1, 3, 4))
    return uv, (near * maps.log2_scale()).sum((1, 2, 3)), bearing, leds


class Method(NamedTuple):
    """A way to learn: its preset, given the steps that there is time for, and how its network answers."""

    preset: Callable[[int], Preset]
    answer: Callable[[PeerNetwork, torch.Tensor], Answer]
    without: tuple[str, ...] = ()


def preset_cpu(steps: int) -> Preset:
    """The preset, which ends when it ends."""
    return PRESETS["cpu"]


def plain_loss(steps: int) -> Preset:
    """The paper's loss, for all of them: its learning rate falls with the planned steps."""
    return Preset((Phase("expected", steps),), PRESETS["cpu"].learning_rate)


OURS = "ours"
PLAIN = "plain expected loss"
BOTH = (OURS, PLAIN)
COARSE = f"{OURS}, coarse network alone"
WITHOUT = f"{OURS} without "


def method_named(name: str) -> Method:
    """The method of a name, for argparse; any other name is refused."""
    if name in (PLAIN, COARSE):
        return Method(plain_loss if name == PLAIN else preset_cpu, under_attention)
    if name != OURS and not name.startswith(WITHOUT):
        raise argparse.ArgumentTypeError(
            f"'{name}' is neither '{OURS}', '{COARSE}', '{PLAIN}' nor '{WITHOUT}PART'"
        )
    return Method(
        preset_cpu, best_peak, tuple([] if name == OURS else part_names(name.removeprefix(WITHOUT)))
    )


def method_argument(name: str) -> str:
    """The name itself, for argparse, if there is such a method."""
    method_named(name)
    return name


@torch.no_grad()
def measure(
    network: PeerNetwork,
    answer: Callable[[PeerNetwork, torch.Tensor], Answer],
    recording: Recording,
    true: Predictions,
    in_view: NDArray[np.bool_],
) -> Metrics:
    """The row of a network on the images of `true`."""
    info = recording.info
    parts = []
    for start in range(0, len(true.index), BATCH):
        images = np.stack([recording.image(int(index)) for index in true.index[start : start + BATCH]])
        parts.append([values.double().numpy() for values in answer(network, torch.from_numpy(images))])
    uv, log2_scale, bearing, leds = (np.concatenate(part) for part in zip(*parts, strict=True))
    camera = info.K, info.D, info.distortion_model
    rays = pixel_rays(uv, *camera)
    c = float(np.median(np.log2(true.position[:, 2]) - log2_scale))
    fitting = Calibration(c, len(uv), 0.0, info.width, float(info.K[0, 0]))
    distance = distance_from_scale(log2_scale, rays, fitting, *camera, info.width)
    psi = np.arctan2(bearing[:, 1], bearing[:, 0])
    said = Predictions(true.index, uv, psi, distance, distance[:, None] * rays, leds, np.ones(len(uv)))
    return score(said, true, in_view)


def steps_within(minutes: float, data: TrainingSet) -> int:
    """How many steps of the plain loss there is time for on this machine, by the pace of the first ones."""
    with TemporaryDirectory() as folder:
        trainer = Trainer(data, Path(folder), plain_loss(PACED_STEPS + 1))
        trainer.train_step()
        start = time.perf_counter()
        for _ in range(PACED_STEPS):
            trainer.train_step()
        return max(1, round(60 * minutes * PACED_STEPS / (time.perf_counter() - start)))


def learn(
    data: TrainingSet,
    method: str,
    minutes: float,
    every: float,
    seed: int,
    scored: Callable[..., Metrics],
    keep: Path | None = None,
    steps: int | None = None,
    begun: Path | None = None,
) -> list[tuple[float, Metrics]]:
    """Minutes of training, and the row of the averaged network then; `keep` is for the checkpoint.

    It goes on from the checkpoint `begun`, if given, and ends after `minutes` or, if given, `steps`.
    """
    preset, answer, without = method_named(method)
    planned = preset(steps or (steps_within(minutes, data) if method == PLAIN else 0))
    rows: list[tuple[float, Metrics]] = []
    with TemporaryDirectory() as folder, left_out(without):
        directory = keep or Path(folder)
        directory.mkdir(parents=True, exist_ok=True)
        training = Trainer(data, directory, planned, seed=seed)
        if begun is not None:
            shutil.copy(begun, directory / CHECKPOINT_NAME)
            training.resume()
        training.network.train()
        spent = 0.0
        last_step = min(training.step + (steps or training.preset.steps), training.preset.steps)
        while training.step < last_step and (steps or spent < minutes):
            start = time.perf_counter()
            training.train_step()
            spent += (time.perf_counter() - start) / 60
            if spent >= every * (len(rows) + 1):
                rows.append((spent, scored(training.average.module.eval(), answer)))
                print(f"{method}, {spent:.1f} minutes, step {training.step}: {rows[-1][1]}", flush=True)
                training.save()
        rows.append((spent, scored(training.average.module.eval(), answer)))
        training.save()
    return rows


def draw(rows: dict[str, list[tuple[float, Metrics]]], path: Path) -> None:
    """Errors against time, a line a method, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.5), layout="constrained")
    columns = [(key, title) for key, title in COLUMNS if key in ("E_uv", "E_psi", "E_d", "auc")]
    for axis, (key, title) in zip(figure.subplots(1, len(columns)), columns, strict=True):
        for method, measured in rows.items():
            times, values = zip(*((minute, getattr(row, key)) for minute, row in measured), strict=True)
            axis.plot(times, values, marker="o", markersize=3, label=method)
        axis.set(xlabel="minutes of training", ylabel=title, ylim=(50, 100) if key == "auc" else (0, None))
        axis.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=100)


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = benchmark_parser("benchmarks.learning", __doc__)
    parser.add_argument(
        "recordings", nargs="*", type=Path, metavar="RECORDING", help="to train on; none for --with alone"
    )
    parser.add_argument(
        "--with",
        dest="earlier",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="what earlier runs have written with --json, to be in table and plot as well",
    )
    parser.add_argument("--minutes", type=float, default=60, metavar="M", help="of training each (60)")
    parser.add_argument("--steps", type=int, metavar="N", help="of training each, whatever time they take")
    parser.add_argument(
        "--from",
        dest="begun",
        type=Path,
        metavar="CHECKPOINT",
        help="of `ledpose train` with the same recordings, --level and --seed, from which all go on",
    )
    parser.add_argument(
        "--every", type=float, default=5, metavar="M", help="minutes between measurements (5)"
    )
    parser.add_argument(
        "--images", type=int, default=300, metavar="N", help="of those for validation to measure on (300)"
    )
    parser.add_argument("--level", action="store_true", help="cameras are level, as for `ledpose train`")
    parser.add_argument(
        "--method",
        type=method_argument,
        action="append",
        metavar="METHOD",
        help=f"'{OURS}', '{PLAIN}', '{COARSE}', which learns as ours and answers as the plain loss does, "
        f"or '{WITHOUT}PART, PART...'; repeatable (the first two). Parts: {', '.join(PARTS)}",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the training (0)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave each method's checkpoint there")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write all figures there as JSON")
    parser.add_argument("--plot", type=new_file, metavar="PNG", help="draw errors against time")
    return parser


def run(args: argparse.Namespace) -> None:
    """Train, measure and print."""
    if args.begun is not None and PLAIN in (args.method or BOTH):
        raise LedposeError(f"--from goes on with ours: name what with --method, and not {PLAIN}")
    for method in args.method or ():
        if args.begun and args.keep and args.begun.resolve().parent == (args.keep / method).resolve():
            raise LedposeError(f"--keep would overwrite {args.begun}, from which to go on: keep elsewhere")
    rows: dict[str, list[tuple[float, Metrics]]] = {}
    for path in args.earlier:
        for method, found in json.loads(path.read_text()).items():
            rows[method] = [(float(minute), _row(values)) for minute, values in found.items()]
    if args.recordings:
        rows |= measured(args)
    if not rows:
        raise LedposeError("there is nothing to show: give recordings to train on, or --with FILE")
    print(
        table({f"{method}, {minute:.1f} min": row for method, found in rows.items() for minute, row in found})
    )
    if args.json:
        args.json.write_text(json.dumps(as_json({m: {f"{t:.2f}": r for t, r in v} for m, v in rows.items()})))
    if args.plot:
        draw(rows, args.plot)


def _row(values: dict[str, Any]) -> Metrics:
    """A row as it is in JSON, where null stands for what is unknown."""
    known: dict[str, Any] = {key: math.nan if value is None else value for key, value in values.items()}
    return Metrics(**known)


def measured(args: argparse.Namespace) -> dict[str, list[tuple[float, Metrics]]]:
    """Each method, named with its seed, trained and measured."""
    data = load_recordings(args.recordings, level=args.level)
    with Recording(provide(VALIDATION, args.data)) as recording:
        true = truth(recording)
        # Spread over the rooms.
        chosen = np.isin(
            np.arange(len(true.index)), np.linspace(0, len(true.index) - 1, args.images).astype(int)
        )
        true = true.of(chosen)
        in_view = leds_in_view(recording, true.index)

        def scored(network: PeerNetwork, answer: Callable[[PeerNetwork, torch.Tensor], Answer]) -> Metrics:
            return measure(network, answer, recording, true, in_view)

        return {
            f"{method}, seed {args.seed}": learn(
                data,
                method,
                args.minutes,
                args.every,
                args.seed,
                scored,
                args.keep and args.keep / method,
                args.steps,
                args.begun,
            )
            for method in args.method or BOTH
        }


if __name__ == "__main__":
    sys.exit(run_command(run, make_parser()))
