# SPDX-License-Identifier: Apache-2.0
"""Where the peer is in each training picture, as far as the networks know by now.

The fine network learns from windows; nobody labels them. They are estimated from the pictures and their LED
states, learned from, and estimated again with better networks: expectation maximisation with hard choices.

1. The coarse network's posterior, which knows the true LED states, proposes where and how big the peer is.
2. The fine network, once it has learned something, moves each proposal onto its peer and judges, knowing the
   states too, which of them holds the peer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid
from tqdm import tqdm

from ledpose_ros.learning.dataset import TrainingSet
from ledpose_ros.learning.loss import led_cross_entropy, location_loss
from ledpose_ros.learning.network import (
    WINDOW_CELLS,
    FineLook,
    PeerNetwork,
    Pyramid,
    cut_windows,
    halvings,
    normalise,
    window_side,
)

PROPOSALS = 2
"""Peaks of the posterior that compete for an image's window."""
LOOKS = 2
"""Times that the fine network moves a proposal."""
CROP_CELLS = 102
"""Side of a kept crop, at 64 cells a window: room for displaced, zoomed and turned windows."""
SPREAD_WEIGHT = 0.3
"""What a nat of certain displacement counts, beside a nat of LED states, in the choice among proposals."""
SURE_MASS = 0.4
"""Mass of the posterior in one place from which on a window is fully trusted."""
_BATCH = 32


@dataclass(frozen=True)
class Windows:
    """One window an image: centre uv (N, 2) [px], log2 scale (N,), share of the posterior there (N,)."""

    uv: Tensor
    log2_scale: Tensor
    mass: Tensor

    def of(self, indices: NDArray[np.int64]) -> Windows:
        """The windows of these images."""
        return Windows(*(getattr(self, field.name)[indices] for field in fields(self)))

    def to(self, device: torch.device) -> Windows:
        """The same on another device."""
        return Windows(*(getattr(self, field.name).to(device) for field in fields(self)))

    def surest_half(self) -> NDArray[np.int64]:
        """The images whose posterior is most concentrated: far more of their windows hold the peer."""
        return np.sort(self.mass.argsort(descending=True)[: (len(self.mass) + 1) // 2].cpu().numpy())

    def trust(self) -> Tensor:
        """How far to believe each window, (N,) 0..1."""
        return (self.mass / SURE_MASS).clamp(0, 1)


@dataclass(frozen=True)
class Crops:
    """What the fine network learns from, cut once per estimate of the windows; index = image."""

    peer: Tensor  # uint8 (N, 3, 102, 102) around the window
    elsewhere: Tensor  # uint8 (N, 3, 64, 64) anywhere in the image
    away: Tensor  # (N,) 1 where `elsewhere` does not show the window's place

    def of(self, indices: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Crops (B, 3, 102, 102) and (B, 3, 64, 64) in [-1, 1], and `away` (B,), of these images."""
        peer, elsewhere = (
            crops[indices].to(device).float() / 127.5 - 1 for crops in (self.peer, self.elsewhere)
        )
        return peer, elsewhere, self.away[indices].to(device)


def _batches(data: TrainingSet, what: str) -> tqdm:
    starts = range(0, len(data), _BATCH)
    return tqdm(
        [np.arange(start, min(start + _BATCH, len(data))) for start in starts],
        desc=what,
        unit="batch",
        leave=False,
    )


@torch.no_grad()
def estimate_windows(network: PeerNetwork, data: TrainingSet, device: torch.device, refine: bool) -> Windows:
    """The window of every image; without `refine` simply at the posterior's highest peak."""
    network.eval()
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for indices in _batches(data, "Estimating windows"):
        images, halves, states = data.batch(indices, device)
        levels = halvings(normalise(halves))
        _, posterior = location_loss(network.coarse_maps(levels), states)
        uv, log2_scale, mass = network.find_peaks(posterior, PROPOSALS if refine else 1)
        if refine:
            uv, log2_scale, best = _refined(network, Pyramid(images, levels), uv, log2_scale, states)
        else:
            best = torch.zeros(len(indices), dtype=torch.long, device=device)
        row = torch.arange(len(indices), device=device)
        found.append((uv[row, best].cpu(), log2_scale[row, best].cpu(), mass[row, best].cpu()))
    network.train()
    return Windows(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _refined(
    network: PeerNetwork, pyramid: Pyramid, uv: Tensor, log2_scale: Tensor, states: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Proposals (B, M) moved onto their peers, and which of them (B,) holds the peer."""
    for _ in range(LOOKS):
        uv, moved, _ = network.refine(pyramid, uv, log2_scale)
        log2_scale = (log2_scale + (moved - log2_scale).clamp(-1, 1)).clamp(-3.5, 0.5)
    look: FineLook = network.fine(cut_windows(pyramid, uv, log2_scale))
    proposals = uv.shape[1]
    told = -led_cross_entropy(look.leds, states.repeat_interleave(proposals, 0)).sum(1)
    plausibility = told + logsigmoid(look.presence) - SPREAD_WEIGHT * look.log_spread.sum(1)
    return uv, log2_scale, plausibility.view(-1, proposals).argmax(1)


@torch.no_grad()
def cut_crops(data: TrainingSet, windows: Windows, seed: tuple[int, ...]) -> Crops:
    """Cut the crops of all images; the same seed gives the same places elsewhere."""
    count, (height, width) = len(data), data.images.shape[1:3]
    random = np.random.default_rng(seed)
    other_uv = torch.from_numpy(random.uniform((0, 0), (width, height), (count, 2)).astype(np.float32))
    other_scale = windows.log2_scale + torch.from_numpy(random.uniform(-1, 1, count).astype(np.float32))
    peer = torch.empty(count, 3, CROP_CELLS, CROP_CELLS, dtype=torch.uint8)
    elsewhere = torch.empty(count, 3, WINDOW_CELLS, WINDOW_CELLS, dtype=torch.uint8)
    for indices in _batches(data, "Cutting windows"):
        images, halves, _ = data.batch(indices, torch.device("cpu"))
        pyramid = Pyramid(images, halvings(normalise(halves)))
        for crops, uv, log2_scale, cells in (
            (peer, windows.uv, windows.log2_scale, CROP_CELLS),
            (elsewhere, other_uv, other_scale, WINDOW_CELLS),
        ):
            cut = cut_windows(pyramid, uv[indices, None], log2_scale[indices, None], cells)
            crops[indices] = ((cut + 1) * 127.5).round().byte()
    away = (other_uv - windows.uv).abs().amax(1) > 0.75 * window_side(windows.log2_scale)
    return Crops(peer, elsewhere, away.float())
