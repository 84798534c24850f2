# SPDX-License-Identifier: Apache-2.0
"""The training loop: phases, schedule, checkpoints, log."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from ledpose_ros.errors import LedposeError, one_line
from ledpose_ros.learning.dataset import TrainingSet, batch_indices
from ledpose_ros.learning.distributed import ALONE, Processes
from ledpose_ros.learning.network import PeerNetwork
from ledpose_ros.learning.objective import NARROW, WIDE, Objective, Parts
from ledpose_ros.learning.windows import (
    Crops,
    Windows,
    cut_crops,
    estimate_windows,
    pictures_beside,
    told_leds,
)

CHECKPOINT_NAME = "checkpoint.pt"
CHECKPOINT_FORMAT = "ledpose-checkpoint-9"
SAVE_PERIOD = 250
"""Steps between two checkpoints."""
LOG_PERIOD = 20
"""Steps between two entries of the log."""
METRIC_PACE = 0.1
"""Weight of the last entry in the moving averages of losses that a model tells of its training."""
AVERAGE_SHARE = 0.04
"""Share of the run over which the exported weights are a moving average."""


DARKEST = 0.25
"""Share of the pictures, the darkest, in which LEDs are discovered: in bright rooms they hardly are."""
SMALL_BATCH = 24
"""Pictures a step of the coarse network on all scales."""
BATCH = 64
"""Pictures a step of the warm-up, windows a step of the fine network."""
GLANCED = 8
"""Pictures a step of the network for glances, which takes all the peaks of each."""
GLANCE_RATE = 1e-3
"""Learning rate of the network for glances, which is new when the others are done."""
LEAST_GLANCES = 800
"""Steps after which a new network for glances aims well enough; before them the fine one goes on glancing."""
RAMP = 50
"""Steps over which the learning rate rises at the begin of a phase."""
TELLING_PERIOD = 500
"""Steps after which it is told anew which LEDs can be told."""


Kind = Literal["warm-up", "search", "expected", "align", "look", "joint", "glance"]


@dataclass(frozen=True)
class Phase:
    """A part of a training run.

    warm-up: the coarse network on one scale, on the darkest pictures; search: on all scales, with ever
    brighter pictures. expected: the paper's plain loss on all scales, to compare with. The others begin with
    newly estimated windows. align: the fine network, on widely displaced windows, so that they become alike;
    look: on slightly displaced ones; joint: both networks, and the windows guide the coarse one. glance, the
    last: the network for glances, from the averaged weights of the others.
    """

    kind: Kind
    steps: int


@dataclass(frozen=True)
class Preset:
    """Phases and pace of a training run."""

    phases: tuple[Phase, ...]
    learning_rate: float

    @property
    def steps(self) -> int:
        """Optimiser steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def labelled_steps(self) -> int:
        """Those that learn from LED states: all but the glances'."""
        return sum(phase.steps for phase in self.phases if phase.kind != "glance")

    def scaled(self, steps: int) -> Preset:
        """The same with so many steps in all, shared among the phases as before.

        As long as glances do not take more than half of all, so many are left as make them of use.
        """
        glances = self.steps - self.labelled_steps
        fewest = min(glances, LEAST_GLANCES) if steps >= 2 * LEAST_GLANCES else 0
        kept = max(glances * steps / self.steps, fewest)
        glance_pace, pace = kept / max(1, glances), (steps - kept) / max(1, self.labelled_steps)
        shares = (phase.steps * (glance_pace if phase.kind == "glance" else pace) for phase in self.phases)
        lengths = np.diff([0, *(round(end) for end in accumulate(shares))])
        return Preset(
            tuple(Phase(p.kind, int(n)) for p, n in zip(self.phases, lengths, strict=True)),
            self.learning_rate,
        )


PRESETS = {
    "cpu": Preset(
        (
            Phase("warm-up", 800),
            Phase("search", 1400),
            Phase("align", 250),
            Phase("align", 250),
            # From the surest windows the coarse network learns what the robot looks like, and finds more.
            Phase("joint", 500),
            Phase("align", 250),
            Phase("look", 1300),
            Phase("joint", 350),
            Phase("look", 1900),
            Phase("look", 1700),
            Phase("joint", 600),
            Phase("glance", 800),
        ),
        learning_rate=2.5e-3,
    ),
    "full": Preset(
        (
            Phase("warm-up", 1600),
            Phase("search", 4000),
            *(Phase("align", 600),) * 2,
            Phase("joint", 3000),
            Phase("align", 600),
            *(Phase("look", 6000), Phase("joint", 3000)) * 3,
            Phase("glance", 4000),
        ),
        learning_rate=2.5e-3,
    ),
    "tune": Preset((Phase("look", 1600), Phase("joint", 1000), Phase("glance", 1000)), learning_rate=2e-3),
    "adapt": Preset((Phase("joint", 400), Phase("glance", 200)), learning_rate=5e-4),
    "glance": Preset((Phase("glance", 6000),), learning_rate=GLANCE_RATE),
}


def in_words(preset: Mapping[str, Any]) -> str:
    """The phases of a preset as it is in a checkpoint."""
    phases = ", ".join(f"{phase['kind']} {phase['steps']}" for phase in preset["phases"])
    return f"{phases}; learning rate {preset['learning_rate']:g}"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing pickled code; anything else is refused in one sentence."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise LedposeError(f"there is no checkpoint {path}: check its name") from None
    except Exception as error:
        raise LedposeError(f"{path} is not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise LedposeError(f"{path} is not a checkpoint of this version of ledpose_ros ({CHECKPOINT_FORMAT})")
    return state


def network_from_checkpoint(state: dict[str, Any]) -> PeerNetwork:
    """The averaged network of a checkpoint, ready for inference."""
    network = PeerNetwork(leds=len(state["led_names"]), glances=state["glances"])
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


def _moving_average(steps: float) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor | int], torch.Tensor]:
    """How weights are averaged over so many steps, and over a tenth of all as long as there are fewer.

    So random weights, which there were at the begin, soon count for nothing.
    """

    def average(averaged: torch.Tensor, now: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
        # Batch normalisation counts its batches in whole numbers.
        return (
            averaged.lerp(now, max(1 / max(2, steps), 9 / (10 + int(count))))
            if now.is_floating_point()
            else now
        )

    return average


class Trainer:
    """Trains a PeerNetwork on a TrainingSet; all state that a run needs to go on is in its checkpoint.

    `initial` is a network to start from (adapting); None starts from random weights. `before` is what the
    metadata of its model says of its training, kept for those of the next. Of several `processes` each has a
    trainer with its share of the samples.
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
        before: Mapping[str, Any] | None = None,
        processes: Processes = ALONE,
    ) -> None:
        torch.manual_seed(seed)
        self.data = data
        self.directory = directory
        self.preset = preset
        self.seed = seed
        self.processes = processes
        self.device = torch.device(device)
        glances = initial is not None and initial.glances
        self.network = PeerNetwork(leds=len(data.led_names), glances=glances).to(self.device)
        # Convolutions are faster so, on processors and GPUs.
        torch.nn.utils.convert_conv2d_weight_memory_format(self.network, torch.channels_last)
        if initial is not None:
            learned = ["coarse", "fine", *(["glance"] if glances else [])]  # the rest is random, by the seed
            for name in learned:
                getattr(self.network, name).load_state_dict(getattr(initial, name).state_dict())
        self.average = torch.optim.swa_utils.AveragedModel(
            self.network,
            avg_fn=_moving_average(AVERAGE_SHARE * preset.steps),
            use_buffers=True,
        )
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(self.network.coarse.parameters()), "weight_decay": 1e-4},
                {"params": list(self.network.fine.parameters()), "weight_decay": 1e-2},
                {"params": list(self.network.glance.parameters()), "weight_decay": 1e-2},
            ]
        )
        self.generator = torch.Generator(self.device).manual_seed(seed + 1_000_003 * processes.rank)
        directions = torch.tensor(data.led_directions, dtype=torch.float32, device=self.device)
        self.objective = processes.wrap(Objective(self.network, directions, self.generator))
        self.adapting = initial is not None
        self.before = None if before is None else dict(before)
        self.by_brightness = np.argsort(data.brightness(), kind="stable")
        self.windows: Windows | None = None
        self.told: torch.Tensor | None = None
        self.metrics: dict[str, float] = {}
        self._crops: Crops | None = None
        self._beside = np.arange(len(data))
        self.step = 0

    def state(self) -> dict[str, Any]:
        """The checkpoint: plain tensors, numbers and strings, so that it loads without pickle execution.

        All processes must ask for it together.
        """
        own = {
            "windows": None if self.windows is None else asdict(self.windows),
            "told": self.told,
            "generator": self.generator.get_state(),
            "torch_generator": torch.get_rng_state(),
        }
        return {
            "format": CHECKPOINT_FORMAT,
            "led_names": list(self.data.led_names),
            "led_directions": self.data.led_directions.tolist(),
            "input_size": list(self.data.input_size),
            "digests": self.data.digests,
            "level": self.data.level,
            "device": self.device.type,
            "step": self.step,
            "preset": asdict(self.preset),
            "adapting": self.adapting,
            "before": self.before,
            "glances": self.network.glances,
            "seed": self.seed,
            "metrics": self.metrics,
            "network": self.network.state_dict(),
            "average": self.average.module.state_dict(),
            "averaged": self.average.n_averaged,
            "optimizer": self.optimizer.state_dict(),
            "processes": self.processes.gather(own),
        }

    def save(self) -> None:
        """Write the checkpoint; the old one is replaced only when the new one is whole."""
        state = self.state()
        if self.processes.first:
            path = self.directory / CHECKPOINT_NAME
            partial = path.with_suffix(".part")
            try:
                torch.save(state, partial)
                os.replace(partial, path)
            except (OSError, RuntimeError) as error:  # PyTorch's own, for instance of a full disk
                partial.unlink(missing_ok=True)
                raise LedposeError(f"cannot write the checkpoint {path}: {one_line(error)}") from error

    def resume(self) -> None:
        """Continue the run whose checkpoint is in the directory, to the bit where the platform allows."""
        state = load_checkpoint(self.directory / CHECKPOINT_NAME)
        mine = {
            "preset": asdict(self.preset),
            "seed": self.seed,
            "digests": self.data.digests,
            "led_names": list(self.data.led_names),
            "led_directions": self.data.led_directions.tolist(),
            "level": self.data.level,
            "device": self.device.type,
        }
        for name, value in mine.items():
            if state[name] != value:
                both = state[name], value
                had, has = map(in_words, both) if name == "preset" else both
                raise LedposeError(
                    f"the run in {self.directory} had {name} {had}, this one has {has}: resume with the same "
                    "recordings in the same order, --preset (or --init, which chooses one), --steps, --seed, "
                    "--level and --device, or start a new directory"
                )
        if len(state["processes"]) != self.processes.count:
            raise LedposeError(
                f"the run in {self.directory} had {len(state['processes'])} processes, this one has "
                f"{self.processes.count}: resume with as many, or start a new directory"
            )
        own = state["processes"][self.processes.rank]
        self.network.load_state_dict(state["network"])
        self.average.module.load_state_dict(state["average"])
        self.average.n_averaged.copy_(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.adapting, self.before = state["adapting"], state["before"]
        self._let_glance(state["glances"])
        self.metrics = state["metrics"]
        self.windows = None if own["windows"] is None else Windows(**own["windows"])
        self.told = own["told"]
        self.generator.set_state(own["generator"])
        torch.set_rng_state(own["torch_generator"])
        self.step = state["step"]

    @property
    def will_glance(self) -> bool:
        """Whether the network for glances will have learned enough when the run is done."""
        return self.network.glances or self.preset.steps - self.preset.labelled_steps >= LEAST_GLANCES

    def _let_glance(self, learned: bool) -> None:
        """Say whether the network for glances has learned, else the fine one glances."""
        for network in (self.network, cast(PeerNetwork, self.average.module)):
            network.glances = learned

    def phase(self) -> tuple[int, int]:
        """Index of the present phase and the step within it."""
        first = 0
        for index, phase in enumerate(self.preset.phases):
            if self.step < first + phase.steps:
                return index, self.step - first
            first += phase.steps
        raise LedposeError(f"all {self.preset.steps} steps are done already: start a new directory")

    def _learning_rate(self, phase: Phase, step_of_phase: int) -> float:
        """Rises in each phase, falls to a tenth over the last 40 % of the run, for glances of their phase."""
        if phase.kind == "glance":
            rate, progress = GLANCE_RATE, step_of_phase / phase.steps
        else:
            rate, progress = self.preset.learning_rate, self.step / self.preset.labelled_steps
        fall = 0.55 + 0.45 * math.cos(math.pi * max(0.0, (progress - 0.6) / 0.4))
        return rate * fall * min(1.0, (step_of_phase + 1) / RAMP)

    def _prepare_windows(self, phase: int, step_of_phase: int) -> tuple[Windows, Crops, torch.Tensor]:
        """Windows, crops and told LEDs of a phase, estimated at its begin; what a resumed run lacks, anew."""
        if step_of_phase == 0 or self.windows is None:
            # The first windows of a new network come before the fine network has learned anything.
            refine = self.adapting or self.windows is not None
            self.windows = estimate_windows(self.network, self.data, self.device, refine, self.windows)
            self._crops = None
        if self._crops is None:
            self._crops = cut_crops(self.data, self.windows, seed=(self.seed, phase))
            self._beside = pictures_beside(self.windows, self.data)
        if step_of_phase % TELLING_PERIOD == 0 or self.told is None:
            self.told = told_leds(self.network, self.data, self.windows, self._crops, self.device)
        return self.windows, self._crops, self.told

    def _indices(self, pool: NDArray[np.int64], batch_size: int) -> NDArray[np.int64]:
        own_share = max(2, batch_size // self.processes.count)  # of one none could be joined
        return batch_indices(np.sort(pool), self.data.bounds, own_share, self.seed, self.step)

    def _pictures(self, indices: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Half-size pictures and LED states of these samples, on the device."""
        return self.data.halves_of(indices, self.device), self.data.states_of(indices, self.device)

    def _loss(self) -> tuple[torch.Tensor, Parts]:
        """The loss of the next batch."""
        phase, step = self.phase()
        kind, steps = self.preset.phases[phase].kind, self.preset.phases[phase].steps
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(self.preset.phases[phase], step)
        if kind == "glance":
            if step == 0:
                self.network.load_state_dict(self.average.module.state_dict())
                self.average.n_averaged.zero_()
            for teacher in (self.network.coarse, self.network.fine):
                teacher.eval()
            indices = self._indices(np.arange(len(self.data)), GLANCED)
            return self.objective(glance=(self.data.images_of(indices, self.device),))
        if kind in ("warm-up", "search"):
            share = DARKEST if kind == "warm-up" else DARKEST + (1 - DARKEST) * min(1.0, 1.5 * step / steps)
            pool = self.by_brightness[: max(1, round(share * len(self.data)))]
            indices = self._indices(pool, BATCH if kind == "warm-up" else SMALL_BATCH)
            pictures = self._pictures(indices)
            if kind == "warm-up":
                return self.objective(warm_up=pictures)
            return self.objective(coarse=(*pictures, None))
        if kind == "expected":
            indices = self._indices(np.arange(len(self.data)), SMALL_BATCH)
            return self.objective(expected=self._pictures(indices))
        windows, crops, told = self._prepare_windows(phase, step)
        trusted = windows.trusted()
        indices = self._indices(trusted, BATCH // 2)
        random = np.random.default_rng((self.seed, self.step, self.processes.rank))
        beside = self._beside[indices]
        paired = beside != indices
        # What has no picture next in time has any other beside it.
        indices = np.concatenate([indices, np.where(paired, beside, random.choice(trusted, len(indices)))])
        fine = (
            crops.of(indices, self.device),
            self.data.states_of(indices, self.device),
            windows.of(indices, self.device),
            told[indices].to(self.device),
            torch.from_numpy(paired).float().to(self.device),
            WIDE if kind == "align" else NARROW,
        )
        if kind != "joint":
            return self.objective(fine=fine)
        indices = self._indices(np.arange(len(self.data)), SMALL_BATCH)
        coarse = (*self._pictures(indices), windows.of(indices, self.device))
        return self.objective(coarse=coarse, fine=fine)

    def train_step(self) -> tuple[float, Parts]:
        """One step of the optimiser; the loss, its mean over the processes, and its parts in this one."""
        loss, parts = self._loss()
        value = float(self.processes.mean(loss.detach().clone()))
        if not math.isfinite(value):
            raise self._diverged(f"the loss became {value}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for network in (self.network.coarse, self.network.fine, self.network.glance):
            norm = float(torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0))
            # Before it spoils the weights, and with them the next checkpoint.
            if not math.isfinite(norm):
                raise self._diverged(f"the norm of a gradient became {norm}")
        self.optimizer.step()
        self.average.update_parameters(self.network)
        self.step += 1
        if self.step == self.preset.steps and self.will_glance:
            self._let_glance(True)
        return value, parts

    def _diverged(self, what: str) -> LedposeError:
        path = self.directory / CHECKPOINT_NAME
        kept = (
            f"{path} is the last good checkpoint, of which `ledpose export` makes a model"
            if path.exists()
            else f"there was no checkpoint yet, the first comes at step {SAVE_PERIOD}"
        )
        return LedposeError(
            f"{what} at step {self.step}: run `ledpose inspect` on the recordings, and train anew with "
            f"another --seed; {kept}"
        )

    def run(self) -> bool:
        """Train to the end of the preset, or to a signal; whether it is done. Either leaves a checkpoint."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.network.train()
        talks = self.processes.first
        log = SummaryWriter(str(self.directory / "log"), purge_step=self.step) if talks else None
        progress = tqdm(
            total=self.preset.steps, initial=self.step, desc="Training", unit="step", disable=not talks
        )
        try:
            with _interrupt_as_flag() as stopped:
                while self.step < self.preset.steps and not self._any(stopped[0]):
                    loss, parts = self.train_step()
                    progress.update()
                    if log is not None and self.step % LOG_PERIOD == 0:
                        rate = self.optimizer.param_groups[0]["lr"]
                        progress.set_postfix(loss=f"{loss:.3f}", rate=f"{rate:.1e}")
                        log.add_scalar("learning_rate", rate, self.step)
                        log.add_scalar("loss", loss, self.step)
                        for name, part in parts.items():
                            log.add_scalar(name, value := float(part), self.step)
                            before = self.metrics.get(name, value)
                            self.metrics[name] = before + METRIC_PACE * (value - before)
                    if self.step % SAVE_PERIOD == 0:
                        self.save()
                self.save()
        finally:
            progress.close()
            if log is not None:
                log.close()
        return self.step >= self.preset.steps

    def _any(self, flag: bool) -> bool:
        """Whether any process says so: all of them must leave the loop at the same step."""
        return bool(self.processes.mean(torch.tensor(float(flag), device=self.device)) > 0)
