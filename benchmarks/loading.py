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
from collections.abc import Iterable
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.command import benchmark_parser, run_command
from benchmarks.recordings import PICTURES, provide
from ledpose_ros.evaluation import text_table
from ledpose_ros.learning import augmentation
from ledpose_ros.learning.dataset import TrainingSet, batch_indices, load_recordings
from ledpose_ros.learning.network import normalise
from ledpose_ros.learning.trainer import PRESETS, SMALL_BATCH, Trainer
from ledpose_ros.recording import Recording

MEASURED_BATCHES = 32
MEASURED_STEPS = 12
REQUIRED_RATIO = 3.0
ALLOWED_SHARE = 5.0
"""Share [%] of a training step that may be spent waiting for its pictures."""
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


class TimedTrainingSet(TrainingSet):
    """A TrainingSet that knows how long it was asked for pictures."""

    waited = 0.0

    def halves_of(self, indices: NDArray[np.int64], device: torch.device) -> Tensor:
        start = time.perf_counter()
        found = super().halves_of(indices, device)
        TimedTrainingSet.waited += time.perf_counter() - start
        return found


def waiting_share(data: TrainingSet) -> float:
    """Share [%] of the first, shortest steps of a training run that passes in fetching their pictures."""
    timed = TimedTrainingSet(**vars(data))
    with TemporaryDirectory() as folder:
        trainer = Trainer(timed, Path(folder), PRESETS["cpu"])
        trainer.train_step()
        TimedTrainingSet.waited, start = 0.0, time.perf_counter()
        for _ in range(MEASURED_STEPS):
            trainer.train_step()
        return 100 * TimedTrainingSet.waited / (time.perf_counter() - start)


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
    share = waiting_share(data)
    print(f"Pictures a second, batches of {SMALL_BATCH}, {torch.get_num_threads()} threads:")
    print(text_table([full_size, half_size], rows))
    as_trained = rows["whole batches"][1] / fastest[0]
    print(f"Ratio for the same pictures: {rows['ratio'][1]:.3g}, required {REQUIRED_RATIO:g}.")
    print(f"Ratio of {half_size}, from which we train, to {full_size} one by one: {as_trained:.3g}.")
    print(f"Waiting for pictures: {share:.3g} % of a training step, allowed {ALLOWED_SHARE:g} %.")


if __name__ == "__main__":
    sys.exit(run_command(run, make_parser()))
