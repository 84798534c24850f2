# SPDX-License-Identifier: Apache-2.0
"""How fast training data comes: whole batches from memory, against pictures one at a time from the file.

Both ways give batches of the same: pictures mirrored at random, with colours, blur and noise varied, as float
tensors on the CPU. One at a time, decoded and varied by a PyTorch DataLoader, is how the method's first
implementation and most others do it; of its numbers of worker processes the fastest one counts.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.command import benchmark_parser, run_command, verdict
from benchmarks.recordings import PICTURES, provide
from ledpose_ros.evaluation import text_table
from ledpose_ros.learning import augmentation
from ledpose_ros.learning.dataset import TrainingSet, batch_indices, load_recordings
from ledpose_ros.learning.network import normalise
from ledpose_ros.learning.trainer import PRESETS, SMALL_BATCH, Kind, Phase, Preset, Trainer
from ledpose_ros.learning.windows import Crops
from ledpose_ros.recording import Recording

MEASURED_BATCHES = 32
MEASURED_STEPS = 12
REQUIRED_RATIO = 3.0
ALLOWED_SHARE = 5.0
"""Share [%] of a training step that may be spent waiting for its pictures."""
FETCHES = (TrainingSet, "halves_of"), (TrainingSet, "images_of"), (Crops, "of")
"""All that a training step gets its pictures by."""
CPU = torch.device("cpu")


class PicturesOneByOne(Dataset):
    """Pictures read, decoded and varied one at a time, at full size or at `half` of it."""

    def __init__(self, path: Path, half: bool) -> None:
        self.path, self.half = path, half
        self.recording: Recording | None = None
        self.generator = torch.Generator()
        with Recording(path) as recording:
            self.count = len(recording)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        if self.recording is None:  # Each worker process opens the file anew, and varies in its own way.
            self.recording = Recording(self.path)
            self.generator.manual_seed(torch.initial_seed())
        image = self.recording.image(index)
        if self.half:
            image = np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        return varied(torch.from_numpy(image)[None], self.generator)[0]


def varied(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures uint8 (B, H, W, 3) as training varies them, (B, 3, H, W) in [-1, 1]."""
    chosen = torch.rand(len(pictures), generator=generator) < 0.5
    return augmentation.vary_colours(normalise(augmentation.mirror_images(pictures, chosen)), generator)


def whole_batches(data: TrainingSet, half: bool) -> Iterable[Tensor]:
    """Batches as training makes them, (B, 3, H, W) in [-1, 1], without end."""
    generator = torch.Generator().manual_seed(0)
    for step in count():
        indices = batch_indices(np.arange(len(data)), data.bounds, SMALL_BATCH, 0, step)
        yield varied((data.halves_of if half else data.images_of)(indices, CPU), generator)


def images_per_second(batches: Iterable[Tensor]) -> float:
    """Pictures a second over some batches after a first one that does not count."""
    source = iter(batches)
    next(source)
    start = time.perf_counter()
    pictures = sum(len(batch) for batch in islice(source, MEASURED_BATCHES))
    return pictures / (time.perf_counter() - start)


def one_by_one(path: Path, half: bool, workers: int) -> float:
    """Pictures a second of a DataLoader with so many worker processes."""
    dataset = PicturesOneByOne(path, half)
    sampler = torch.utils.data.RandomSampler(
        dataset, replacement=True, num_samples=SMALL_BATCH * (MEASURED_BATCHES + 1)
    )
    loader = DataLoader(dataset, SMALL_BATCH, sampler=sampler, num_workers=workers)
    return images_per_second(loader)


@contextmanager
def timed() -> Iterator[list[float]]:
    """Seconds of each time that training fetches pictures, or windows of them, meanwhile."""
    waits: list[float] = []

    def watched(fetch: Callable[..., Any]) -> Callable[..., Any]:
        def fetch_timed(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return fetch(*args)
            finally:
                waits.append(time.perf_counter() - start)

        return fetch_timed

    with ExitStack() as patches:
        for owner, name in FETCHES:
            patches.enter_context(mock.patch.object(owner, name, watched(getattr(owner, name))))
        yield waits


def waiting_share(data: TrainingSet, kind: Kind, steps: int = MEASURED_STEPS) -> float:
    """Share [%] of training steps of a kind of phase that passes in fetching their pictures.

    The first step, at which windows are estimated, does not count.
    """
    with TemporaryDirectory() as folder:
        preset = Preset((Phase(kind, steps + 1),), PRESETS["cpu"].learning_rate)
        trainer = Trainer(data, Path(folder), preset)
        trainer.train_step()
        with timed() as waits:
            start = time.perf_counter()
            for _ in range(steps):
                trainer.train_step()
            return 100 * sum(waits) / (time.perf_counter() - start)


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = benchmark_parser("benchmarks.loading", __doc__)
    parser.add_argument(
        "recording", nargs="?", type=Path, metavar="RECORDING", help="HDF5 recording (a small simulated one)"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    path = args.recording or provide(PICTURES, args.data)
    data = load_recordings([path])
    width, height = data.input_size
    rows: dict[str, list[float]] = {}
    for workers in sorted({0, os.cpu_count() or 1}):
        rows[f"one by one, {workers} worker processes"] = [
            one_by_one(path, half, workers) for half in (False, True)
        ]
    fastest = np.max(list(rows.values()), axis=0)
    rows["whole batches"] = [images_per_second(whole_batches(data, half)) for half in (False, True)]
    rows["ratio"] = (np.array(rows["whole batches"]) / fastest).tolist()
    full_size, half_size = f"{width}x{height}", f"{width // 2}x{height // 2}"
    kinds = list(dict.fromkeys(phase.kind for phase in PRESETS["cpu"].phases))
    shares = {kind: waiting_share(data, kind) for kind in kinds}
    print(f"Pictures a second, batches of {SMALL_BATCH}, {torch.get_num_threads()} threads:")
    print(text_table([full_size, half_size], rows))
    as_trained = rows["whole batches"][1] / fastest[0]
    same = rows["ratio"][1]
    print(
        f"Ratio for the same pictures, {half_size}: {same:.3g}, required {REQUIRED_RATIO:g}: "
        f"{verdict(same >= REQUIRED_RATIO)}."
    )
    print(f"Ratio of {half_size}, from which we train, to {full_size} one by one: {as_trained:.3g}.")
    print("Share of a training step that is waiting for pictures [%]:")
    print(text_table(kinds, {"": list(shares.values())}))
    print(f"Allowed {ALLOWED_SHARE:g}: {verdict(max(shares.values()) <= ALLOWED_SHARE)}.")


if __name__ == "__main__":
    sys.exit(run_command(run, make_parser()))
