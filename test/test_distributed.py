# SPDX-License-Identifier: Apache-2.0
"""Training on two processes: the loss curve of one, the same weights in both."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from toy import write_toy_recording

torch = pytest.importorskip("torch")

from ledpose_ros.errors import LedposeError  # noqa: E402
from ledpose_ros.learning import mixed_precision  # noqa: E402
from ledpose_ros.learning.dataset import load_recordings  # noqa: E402
from ledpose_ros.learning.distributed import processes  # noqa: E402
from ledpose_ros.learning.trainer import Phase, Preset, Trainer, load_checkpoint  # noqa: E402

PHASES = {"warm-up": 12, "align": 4, "joint": 4, "glance": 30}
PRESET = Preset(tuple(Phase(kind, steps) for kind, steps in PHASES.items()), learning_rate=1e-3)
STOPPED, AFTERWARDS = 18, 6
"""A step within `joint` after which a run is stopped, and how many are done after it is resumed."""


def train(rank: int, ranks: int, port: int, directory: Path) -> None:
    """Train on the toy recording and leave the losses and the weights of this process."""
    torch.set_num_threads(1)
    if ranks > 1:
        os.environ.update(
            RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
        )
    # In float32, so that the figures are those of all machines.
    in_float32 = patch.object(mixed_precision, "has_bfloat16", return_value=False)
    with in_float32, processes("cpu") as (group, device):
        data = load_recordings([directory / "toy.h5"], share=(group.rank, group.count))
        trainer = Trainer(data, directory / f"run{ranks}", PRESET, device=device, processes=group)
        trainer.directory.mkdir(exist_ok=True)
        trainer.network.train()
        losses = [trainer.train_step()[0] for _ in range(STOPPED)]
        trainer.save()
        resumed = Trainer(data, trainer.directory, PRESET, device=device, processes=group)
        resumed.resume()
        resumed.network.train()
        again = [resumed.train_step()[0] for _ in range(AFTERWARDS)]
        losses += [trainer.train_step()[0] for _ in range(PRESET.steps - STOPPED)]
        trainer.save()
    weights = torch.cat([parameter.detach().flatten() for parameter in trainer.network.parameters()])
    np.savez(
        directory / f"{ranks}-{rank}.npz",
        losses=losses,
        resumed=again,
        weights=weights.numpy(),
        samples=len(data),
    )


def test_two_processes_learn_as_one(tmp_path):
    write_toy_recording(tmp_path / "toy.h5", 160)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    train(0, 1, port, tmp_path)
    torch.multiprocessing.spawn(train, (2, port, tmp_path), nprocs=2)
    one, first, second = (np.load(tmp_path / f"{name}.npz") for name in ("1-0", "2-0", "2-1"))
    assert first["samples"] + second["samples"] == one["samples"] == 160
    np.testing.assert_array_equal(first["weights"], second["weights"])
    np.testing.assert_array_equal(first["losses"], second["losses"])
    # The processes draw other batches, so single losses differ; what is learned does not.
    starts = np.cumsum([0, *PHASES.values()])
    for kind, start, end in zip(PHASES, starts, starts[1:], strict=False):
        # Glances are learned so fast that only their first steps can be compared one by one.
        end = start + 6 if kind == "glance" else end
        both = first["losses"][start:end].mean(), one["losses"][start:end].mean()
        assert both[0] == pytest.approx(both[1], rel=0.05), kind
    for run in (one, first, second):
        np.testing.assert_array_equal(run["resumed"], run["losses"][STOPPED : STOPPED + AFTERWARDS])
    glances = PHASES["glance"]
    for curve in (first["losses"], one["losses"]):
        assert curve[-5:].mean() < curve[-glances] - 1.0, "glances are learned"

    data = load_recordings([tmp_path / "toy.h5"])
    with pytest.raises(LedposeError, match="had 2 processes, this one has 1"):
        Trainer(data, tmp_path / "run2", PRESET).resume()


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("meta", "--device meta cannot be used: give cpu, cuda"),
        ("cuda:0", "--device cuda:0 puts all processes on one GPU: give --device cuda"),
        ("cuda", "--device cuda:1 cannot be used: invalid device ordinal"),
    ],
)
def test_devices_that_several_processes_cannot_have(monkeypatch, device, words):
    """Told as where PyTorch sees a GPU, but fewer than there are processes."""

    def refuse(*_: object, device: str) -> None:
        raise RuntimeError("invalid device ordinal\nCUDA kernel errors might be asynchronously reported")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", refuse)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(LedposeError, match=words), processes(device):
        pass


def test_torchrun_trains_with_two_processes(tmp_path):
    write_toy_recording(tmp_path / "toy.h5", 64)
    words = ["train", tmp_path / "toy.h5", "-o", tmp_path / "run", "--steps", "15"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "ledpose_ros.cli", *map(str, words)], capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Training on 64 images") == 1, "both have a share, one of them talks"
    assert (tmp_path / "run/model.onnx").exists() and (tmp_path / "run/report.html").exists()
    state = load_checkpoint(tmp_path / "run/checkpoint.pt")
    assert state["step"] == 15 and len(state["processes"]) == 2
