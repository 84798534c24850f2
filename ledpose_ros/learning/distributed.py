# SPDX-License-Identifier: Apache-2.0
"""Training on several processes: PyTorch's own engine, started by torchrun.

Each process loads its share of the recordings and estimates its own windows; gradients are averaged by
DistributedDataParallel.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ledpose_ros.errors import LedposeError


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; alone by default."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Is this the process that writes files and talks?"""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        if self.count > 1:
            dist.all_reduce(values)
        return values / self.count

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        values = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(values, value)
        return values

    def wrap(self, module: nn.Module) -> nn.Module:
        """A module whose gradients are averaged over the processes."""
        if self.count == 1:
            return module
        # Each phase trains only some of the parameters.
        return DistributedDataParallel(module, find_unused_parameters=True)


ALONE = Processes()


@contextmanager
def processes(device: str) -> Iterator[tuple[Processes, str]]:
    """The processes that torchrun started, or this one alone, and the device of this one."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise LedposeError(f"--device {device} cannot be used: give cpu, cuda, or one of several as cuda:1")
    on_gpu, alone = device != "cpu", "RANK" not in os.environ or "WORLD_SIZE" not in os.environ
    if on_gpu and not torch.cuda.is_available():
        raise LedposeError(f"--device {device} was asked for, but PyTorch sees no CUDA GPU: use --device cpu")
    if on_gpu and not alone:
        if device != "cuda":
            raise LedposeError(f"--device {device} puts all processes on one GPU: give --device cuda")
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.empty(0, device=device)
    except RuntimeError as error:
        raise LedposeError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error
    if alone:
        yield ALONE, device
        return
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()
