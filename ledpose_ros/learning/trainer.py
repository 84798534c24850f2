# SPDX-License-Identifier: Apache-2.0
"""The training loop: presets, schedule, checkpoints, log."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from ledpose_ros.errors import LedposeError
from ledpose_ros.learning.dataset import TrainingSet, batch_indices
from ledpose_ros.learning.network import PeerNetwork
from ledpose_ros.learning.objective import Objective

CHECKPOINT_NAME = "checkpoint.pt"
CHECKPOINT_FORMAT = "ledpose-checkpoint-1"
SAVE_PERIOD = 250
"""Steps between two checkpoints."""
AVERAGE_SHARE = 0.04
"""Share of the run over which the exported weights are a moving average."""


@dataclass(frozen=True)
class Preset:
    """Length and pace of a training run.

    The shares are of all steps: the warm-up ends, the fine network joins, it begins to teach the coarse one.
    """

    steps: int
    batch_size: int
    warm_up_batch_size: int
    learning_rate: float
    warm_up_end: float
    fine_start: float
    guide_start: float


PRESETS = {
    "cpu": Preset(5000, 24, 64, learning_rate=3e-3, warm_up_end=0.12, fine_start=0.16, guide_start=0.3),
    "adapt": Preset(400, 16, 64, learning_rate=5e-4, warm_up_end=0.0, fine_start=0.0, guide_start=0.0),
}


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing pickled code; anything else is refused in one sentence."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise LedposeError(
            f"{path} does not exist: there is nothing to resume, start without --resume"
        ) from None
    except Exception as error:
        raise LedposeError(f"{path} is not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise LedposeError(f"{path} is not a checkpoint of this version of ledpose_ros ({CHECKPOINT_FORMAT})")
    return state


def network_from_checkpoint(state: dict[str, Any]) -> PeerNetwork:
    """The averaged network of a checkpoint, ready for inference."""
    network = PeerNetwork(leds=len(state["led_names"]))
    network.load_state_dict(state["average"])
    return network.eval()


@contextmanager
def _interrupt_as_flag() -> Iterator[list[bool]]:
    """Turn SIGINT and SIGTERM into a flag, so that a step is finished and saved before the end."""
    stopped = [False]

    def stop(*_: object) -> None:
        stopped[0] = True

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Trainer:
    """Trains a PeerNetwork on a TrainingSet; all state that a run needs to go on is in its checkpoint.

    `initial` is a network to start from (adapting); None starts from random weights.
    """

    def __init__(
        self,
        data: TrainingSet,
        directory: Path,
        preset: Preset,
        *,
        seed: int = 0,
        device: str = "cpu",
        initial: PeerNetwork | None = None,
    ) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise LedposeError("--device cuda was asked for, but PyTorch sees no CUDA GPU: use --device cpu")
        torch.manual_seed(seed)
        self.data = data
        self.directory = directory
        self.preset = preset
        self.seed = seed
        self.device = torch.device(device)
        self.network = PeerNetwork(leds=len(data.led_names)).to(self.device)
        if initial is not None:
            self.network.load_state_dict(initial.state_dict())
        self.average = torch.optim.swa_utils.AveragedModel(
            self.network,
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(
                1 - 1 / max(2, AVERAGE_SHARE * preset.steps)
            ),
            use_buffers=True,
        )
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=preset.learning_rate, weight_decay=1e-4
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, preset.learning_rate, total_steps=preset.steps + 1, pct_start=0.1
        )
        self.generator = torch.Generator(self.device).manual_seed(seed)
        directions = torch.tensor(data.led_directions, dtype=torch.float32, device=self.device)
        self.objective = Objective(self.network, directions, self.generator)
        self.step = 0

    def state(self) -> dict[str, Any]:
        """The checkpoint: plain tensors, numbers and strings, so that it loads without pickle execution."""
        return {
            "format": CHECKPOINT_FORMAT,
            "led_names": list(self.data.led_names),
            "led_directions": [float(a) for a in self.data.led_directions],
            "input_size": [int(self.data.images.shape[2]), int(self.data.images.shape[1])],
            "digests": self.data.digests,
            "step": self.step,
            "steps": self.preset.steps,
            "seed": self.seed,
            "network": self.network.state_dict(),
            "average": self.average.module.state_dict(),
            "averaged": self.average.n_averaged,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "torch_generator": torch.get_rng_state(),
        }

    def save(self) -> Path:
        """Write the checkpoint; the old one is replaced only when the new one is whole."""
        path = self.directory / CHECKPOINT_NAME
        partial = path.with_suffix(".part")
        torch.save(self.state(), partial)
        os.replace(partial, path)
        return path

    def resume(self) -> None:
        """Continue the run whose checkpoint is in the directory, to the bit where the platform allows."""
        state = load_checkpoint(self.directory / CHECKPOINT_NAME)
        for name, mine in (("steps", self.preset.steps), ("seed", self.seed), ("digests", self.data.digests)):
            if state[name] != mine:
                raise LedposeError(
                    f"the run in {self.directory} had {name} {state[name]}, this one has {mine}: "
                    "resume with the same recordings, --steps and --seed, or start a new directory"
                )
        self.network.load_state_dict(state["network"])
        self.average.module.load_state_dict(state["average"])
        self.average.n_averaged.copy_(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_generator"])
        self.step = state["step"]

    def weights(self) -> tuple[float, float]:
        """Weights of the fine network and of its guidance at this step, rising over 5 % of the run."""
        progress = self.step / self.preset.steps

        def ramp(start: float) -> float:
            return 1.0 if start == 0 else min(1.0, max(0.0, (progress - start) / 0.05))

        return ramp(self.preset.fine_start), ramp(self.preset.guide_start)

    def _loss(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of the next batch."""
        if self.step < self.preset.warm_up_end * self.preset.steps:
            indices = batch_indices(len(self.data), self.preset.warm_up_batch_size, self.seed, self.step)
            _, halves, states = self.data.batch(indices, self.device)
            return self.objective.warm_up(halves, states)
        indices = batch_indices(len(self.data), self.preset.batch_size, self.seed, self.step)
        return self.objective(*self.data.batch(indices, self.device), *self.weights())

    def train_step(self) -> tuple[float, dict[str, torch.Tensor]]:
        """One step of the optimiser; the loss and its parts."""
        loss, parts = self._loss()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise LedposeError(
                f"the loss became {value} at step {self.step}, the last good checkpoint is in "
                f"{self.directory}; run `ledpose inspect` on the recordings and train with another --seed"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.network)
        self.step += 1
        return value, parts

    def run(self) -> bool:
        """Train to the end of the preset; False when a signal ended it early. Always leaves a checkpoint."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.network.train()
        log = SummaryWriter(str(self.directory / "log"), purge_step=self.step)
        progress = tqdm(total=self.preset.steps, initial=self.step, desc="Training", unit="step")
        try:
            with _interrupt_as_flag() as stopped:
                while self.step < self.preset.steps and not stopped[0]:
                    loss, parts = self.train_step()
                    progress.update()
                    if self.step % 20 == 0:
                        progress.set_postfix(loss=f"{loss:.3f}", rate=f"{self.schedule.get_last_lr()[0]:.1e}")
                        log.add_scalar("loss", loss, self.step)
                        log.add_scalar("learning_rate", self.schedule.get_last_lr()[0], self.step)
                        for name, part in parts.items():
                            log.add_scalar(name, float(part), self.step)
                    if self.step % SAVE_PERIOD == 0:
                        self.save()
                self.save()
        finally:
            progress.close()
            log.close()
        return self.step >= self.preset.steps
