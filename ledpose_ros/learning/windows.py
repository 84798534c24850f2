# SPDX-License-Identifier: Apache-2.0
"""Where the peer is in each training picture, as far as the networks know by now.

The fine network learns from windows; nobody labels them. They are estimated from the pictures and their LED
states, learned from, and estimated again with better networks: expectation maximisation with hard choices.

1. The coarse network's posterior, which knows the true LED states, proposes where and how big the peer is.
2. The fine network, once it has learned something, moves these proposals and the window of the last estimate
   onto their peers and judges, knowing the states too, which of them holds the peer.
3. From the windows of a clip it tells which LEDs can be told there at all (`told_leds`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid
from tqdm import tqdm

from ledpose_ros.learning.dataset import CROP_CELLS, TrainingSet
from ledpose_ros.learning.loss import (
    coarse_cross_entropy,
    led_cross_entropy,
    location_loss,
    told_share,
)
from ledpose_ros.learning.mixed_precision import in_float32, mixed_precision
from ledpose_ros.learning.network import (
    LOOKS,
    WINDOW_CELLS,
    PeerNetwork,
    Pyramid,
    cut_windows,
    halvings,
    normalise,
    window_side,
)
from ledpose_ros.learning.verdicts import guessing

PROPOSALS = 2
"""Peaks of the posterior that compete, with the last estimates of the image and of the one beside it in the
film, for an image's window."""
LOG2_SCALES = (-4.5, 2.5)
"""Limits of a window's log2 scale: sides of 1,630 to 13 px."""
SURE_MASS = 0.4
"""Mass of the posterior in one place from which on a window is fully trusted."""
AWAY = 0.6
"""Sides of a window from which on another place cannot show the peer."""
RIVALS = 0.5
"""Share of the windows elsewhere that lie at a rival: what is easily taken for a peer."""
PARTS = 0.15
"""Share of the windows elsewhere that show a mere part of the peer, which is no peer."""
PART = (1.5, 2.5)
"""Octaves by which these are smaller than the peer's window."""
ROBOT = 0.6
"""Share of a window's side that the robot fills at least: there its parts are."""
TRUSTED = 0.5
"""Trust from which on a window is learned from."""
CLIP = (0.4, 0.7, 0.5)
"""How far pictures of a clip may lie apart to be averaged: time [s], place [sides], size [octaves]; standard
deviations."""
BALANCED = 4.0
"""Factor by which an LED that is told seldom counts more at most, and one told often less: the first
may be on a side that is never shown."""
CLIP_REACH = 2
"""Standard deviations of time after which a clip ends."""
NEXT_PICTURE = 0.5
"""Seconds within which a peer has hardly moved: the picture before or after tells where it may be."""
FILM = 1.5
"""How many times nearer, on average, pictures of a film are than those far apart in the recording."""
STILL = 0.5
"""Mean nearness from which on they are a film anyway, of a robot that stays where it is."""
CHANCES = 32
"""Pictures far off in the recording with which each is compared for what is near by chance."""
SURE_BEARING = 0.5
"""Length of a bearing from which on it is believed."""
WAVE_DOUBT = 500.0
"""Weight of the doubt, in pictures of which many are of the same clip: with fewer, distances that seem to
depend on the bearing are rather taken for chance."""
_BATCH = 32


@dataclass(frozen=True)
class Windows:
    """One window an image, and its rival: the next best place, where the peer is not."""

    uv: Tensor  # (N, 2) centre [px]
    log2_scale: Tensor  # (N,)
    trust: Tensor  # (N,) how far to believe it, 0..1
    bearing: Tensor  # (N, 2) of the peer in it, as in `FineLook`; zeros while the fine network knows nothing
    rival_uv: Tensor  # (N, 2) [px]
    rival_log2_scale: Tensor  # (N,)

    def of(self, indices: NDArray[np.int64], device: torch.device) -> Windows:
        """The windows of these images on the device."""
        return Windows(*(getattr(self, field.name)[indices].to(device) for field in fields(self)))

    def trusted(self) -> NDArray[np.int64]:
        """The images whose window is learned from: at least the surer half, but none that cannot be right."""
        enough = torch.minimum(self.trust.median(), torch.tensor(TRUSTED))
        chosen = (self.trust >= enough) & (self.trust > 0)
        return np.flatnonzero((chosen if chosen.any() else torch.ones_like(chosen)).cpu().numpy())


@dataclass(frozen=True)
class Crops:
    """What the fine network learns from, cut once per estimate of the windows; index = image."""

    peer: Tensor  # uint8 (N, 3, 160, 160) around the window
    elsewhere: Tensor  # uint8 (N, 3, 64, 64) around the rival, or anywhere in the image
    away: Tensor  # (N,) 1 where `elsewhere` does not show the window's place
    whole: Tensor  # (N,) 1 where the robot does not reach beyond the picture

    def of(self, indices: NDArray[np.int64], device: torch.device) -> Crops:
        """The crops of these images on the device."""
        return Crops(*(getattr(self, field.name)[indices].to(device) for field in fields(self)))


class Proposals(NamedTuple):
    """M places an image that may hold its peer."""

    uv: Tensor  # (B, M, 2)
    log2_scale: Tensor  # (B, M)
    trust: Tensor  # (B, M)
    bearing: Tensor  # (B, M, 2)

    def joined(self, windows: Windows) -> Proposals:
        """These and the windows of some estimate (B,)."""
        more = (getattr(windows, name)[:, None] for name in self._fields)
        return Proposals(*(torch.cat(pair, 1) for pair in zip(self, more, strict=True)))

    def best(self, score: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """uv (B, 2), log2 scale, trust (B,) and bearing (B, 2) of those with the highest score (B, M)."""
        row, best = torch.arange(len(score), device=score.device), score.argmax(1)
        return self.uv[row, best], self.log2_scale[row, best], self.trust[row, best], self.bearing[row, best]


def _batches(data: TrainingSet, what: str) -> tqdm:
    """Samples in order, `_BATCH` at a time, pictures of one size in each."""
    batches = [
        np.arange(start, min(start + _BATCH, end))
        for begin, end in pairwise(data.bounds)
        for start in range(begin, end, _BATCH)
    ]
    return tqdm(batches, desc=what, unit="batch", leave=False)


@torch.no_grad()
def estimate_windows(
    network: PeerNetwork, data: TrainingSet, device: torch.device, refine: bool, last: Windows | None = None
) -> Windows:
    """The window of every image; without `refine` simply at the posterior's highest peak.

    With `refine` the windows of the `last` estimate compete too, an image's own and that of the
    picture before or after: where it is found in one, it is found in all. Only ratios of sizes can be
    learned, so the median log2 scale stays what it was.
    """
    network.eval()
    found: list[tuple[Tensor, ...]] = []
    beside = None if last is None else _surer_neighbours(last, data)
    for indices in _batches(data, "Estimating windows"):
        states = data.states_of(indices, device)
        levels = halvings(normalise(data.halves_of(indices, device)))
        with mixed_precision(device):
            maps = in_float32(network.coarse_maps(levels))
        _, posterior = location_loss(maps, coarse_cross_entropy(maps, states))
        peaks_uv, peaks_scale, mass = network.find_peaks(posterior, maps.log2_scale(), PROPOSALS)
        trust = (mass / SURE_MASS).clamp(0, 1)
        peaks = proposals = Proposals(peaks_uv, peaks_scale, trust, torch.zeros_like(peaks_uv))
        estimate = peaks.best(trust)
        if refine:
            if last is not None and beside is not None:
                for chosen in (indices, beside[indices]):
                    proposals = proposals.joined(last.of(chosen, device))
            pyramid = Pyramid.of(data.images_of(indices, device), levels)
            estimate = _refined(network, pyramid, proposals, states)
        uv, log2_scale, *_ = estimate
        away = (peaks_uv - uv[:, None]).abs().amax(2) > AWAY * window_side(log2_scale)[:, None]
        rival_uv, rival_scale, *_ = peaks.best(trust * away)
        found.append(tuple(values.cpu() for values in (*estimate, rival_uv, rival_scale)))
    network.train()
    windows = Windows(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    if last is not None:
        drift = windows.log2_scale.median() - last.log2_scale.median()
        windows = replace(windows, log2_scale=windows.log2_scale - drift)
    return _on_floor(windows, data) if data.level else windows


def _next_in_time(data: TrainingSet, move: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For each image the one so many later (before, if negative), and if it is near in time; both (N,)."""
    here = np.arange(len(data))
    there = np.clip(here + move, 0, len(data) - 1)
    soon = np.abs(data.seconds[there] - data.seconds) < NEXT_PICTURE
    return there, (there == here + move) & (data.recording[there] == data.recording) & soon


def _surer_neighbours(
    windows: Windows, data: TrainingSet, step: int = 1, to_pair: bool = False
) -> NDArray[np.int64]:
    """For each image (N,) the one `step` before or after, whichever's window is surer; itself without one.

    Only those with other LED states and a trusted window are good enough `to_pair` it with.
    """
    best, best_trust = np.arange(len(data)), np.full(len(data), -1.0)
    for move in (-step, step):
        there, soon = _next_in_time(data, move)
        trust_there = windows.trust[there].numpy()
        surer = soon & (trust_there > best_trust)
        if to_pair:
            differs = (data.led_states[there] != data.led_states).any(1)
            surer &= differs & (trust_there >= TRUSTED)
        best[surer], best_trust[surer] = there[surer], trust_there[surer]
    return best


def pictures_beside(windows: Windows, data: TrainingSet) -> NDArray[np.int64]:
    """For each image (N,) the next in time with other LED states and a trusted window; itself without one.

    Even where the robot is not where it was, as in pictures that are no film, both show it in the same light.
    """
    here = beside = np.arange(len(data))
    for step in range(1, len(data)):
        if not _next_in_time(data, step)[1].any():
            break
        there = _surer_neighbours(windows, data, step, to_pair=True)
        beside = np.where(beside == here, there, beside)
    return beside


def _nearness(windows: Windows, one: NDArray[np.int64], other: NDArray[np.int64]) -> Tensor:
    """How near in place and size (CLIP) the windows of two images are, 0..1 (B,)."""
    _, place, size = CLIP
    side = window_side(windows.log2_scale[one])[:, None]
    moved = ((windows.uv[other] - windows.uv[one]) / (place * side)).square().sum(1)
    grown = ((windows.log2_scale[other] - windows.log2_scale[one]) / size).square()
    return torch.exp(-(moved + grown) / 2)


def _mean_nearness(windows: Windows, one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """The mean over pairs of images, which counts sure windows more."""
    trust = windows.trust[one] * windows.trust[other]
    return float((trust * _nearness(windows, one, other)).sum() / trust.sum().clamp(min=1e-6))


def _nearness_by_chance(windows: Windows, recording: NDArray[np.int64]) -> float:
    """Mean nearness of images of a recording that are a third of it apart, or more."""
    third = max(1, len(recording) // 3)
    steps = np.unique(np.linspace(third, len(recording) - third, CHANCES).astype(int))
    return float(np.mean([_mean_nearness(windows, recording, np.roll(recording, step)) for step in steps]))


def _on_floor(windows: Windows, data: TrainingSet) -> Windows:
    """Windows whose sizes follow from how far below the horizon they are; none above it is trusted.

    The height of the camera is unknown, so the median size of each camera's trusted windows stays. So is the
    height at which a side of the robot is seen: see `_due_to_bearing`.
    """
    log2_depth = torch.from_numpy(np.log2(data.floor_depths(windows.uv.double().numpy()))).float()
    on_floor = log2_depth.isfinite()
    log2_scale = windows.log2_scale.clone()
    trusted = torch.zeros_like(on_floor)
    trusted[windows.trusted()] = True
    for members in data.same_camera():
        known = members[on_floor[members].numpy()]
        sure = trusted[known]
        if sure.any():
            depth = log2_depth[known] - _due_to_bearing(log2_depth[known], windows.bearing[known], sure)
            offset = (windows.log2_scale[known] - depth)[sure].median()
            log2_scale[known] = (depth + offset).clamp(*LOG2_SCALES)
    # Where it touches the floor is told to a few centimetres; a clip of blinking LEDs evens that out.
    log2_scale = _averaged_over_clips(log2_scale[:, None], data, windows)[:, 0]
    return replace(windows, log2_scale=log2_scale, trust=windows.trust * on_floor)


def _due_to_bearing(log2_depth: Tensor, bearing: Tensor, sure: Tensor) -> Tensor:
    """The part (N,) of log2 depths (N,) that depends on the bearing (N, 2), told from those that are `sure`.

    Robots that move about show each of their sides at all distances. If one seems nearer on the whole,
    windows lie lower on it than on the others; and sizes that followed from that would draw them ever lower.
    """
    cosine, sine = bearing.unbind(1)
    # A network that cannot tell far robots' bearings yet gives them all one, of no length.
    sure = sure & (bearing.norm(dim=1) > SURE_BEARING)
    if not sure.any():
        return torch.zeros_like(log2_depth)
    waves = torch.stack([cosine, sine, cosine**2 - sine**2, 2 * cosine * sine], 1).double()
    about = waves - waves[sure].mean(0)
    seen = about[sure]
    doubt = WAVE_DOUBT * torch.eye(waves.shape[1], dtype=torch.float64)
    size = torch.linalg.solve(seen.T @ seen + doubt, seen.T @ log2_depth[sure].double())
    return (about @ size).float()


def _refined(
    network: PeerNetwork, pyramid: Pyramid, proposals: Proposals, states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best proposal, moved onto its peer: uv (B, 2), log2 scale, trust (B,) and bearing (B, 2)."""
    uv, log2_scale = proposals.uv, proposals.log2_scale
    for _ in range(LOOKS):
        with mixed_precision(uv.device):
            uv, moved, look = network.refine(pyramid, uv, log2_scale)
        log2_scale = (log2_scale + (moved - log2_scale).clamp(-1, 1)).clamp(*LOG2_SCALES)
    count = uv.shape[1]
    look = in_float32(look)
    told = -led_cross_entropy(look.leds, states.repeat_interleave(count, 0)).sum(1)
    # The posterior of the coarse network is the prior here; the fine network learns presence last of all.
    evidence = (told + logsigmoid(look.presence)).view(-1, count) + proposals.trust.clamp(min=0.01).log()
    return Proposals(uv, log2_scale, proposals.trust, look.bearing.view_as(uv)).best(evidence)


@torch.no_grad()
def cut_crops(data: TrainingSet, windows: Windows, seed: tuple[int, ...]) -> Crops:
    """Cut the crops of all images; the same seed gives the same places elsewhere."""
    count = len(data)
    random = np.random.default_rng(seed)
    kind = torch.from_numpy(random.random(count))
    at_rival, part = kind < RIVALS, kind > 1 - PARTS
    change, smaller = (
        torch.from_numpy(random.uniform((-1, PART[0]), (1, PART[1]), (count, 2))).float().unbind(1)
    )
    other_scale = windows.log2_scale + torch.where(part, smaller, change)
    other_scale = torch.where(at_rival, windows.rival_log2_scale + change / 2, other_scale)
    beside = torch.from_numpy(random.uniform(-0.5, 0.5, (count, 2))).float() * ROBOT
    inside = windows.uv + beside * window_side(windows.log2_scale)[:, None]
    other_uv = torch.where(at_rival[:, None], windows.rival_uv, inside)
    whole = torch.empty(count)
    peer, elsewhere = (
        torch.from_numpy(data.store.allocate((count, 3, cells, cells)))
        for cells in (CROP_CELLS, WINDOW_CELLS)
    )
    cpu = torch.device("cpu")
    for indices in _batches(data, "Cutting windows"):
        images = data.images_of(indices, cpu)
        height, width = images.shape[1:3]
        anywhere = torch.from_numpy(random.uniform((0, 0), (width, height), (len(indices), 2)))
        size = torch.tensor([width, height])
        reach = ROBOT / 2 * window_side(windows.log2_scale[indices])[:, None]
        uv = windows.uv[indices]
        whole[indices] = ((uv > reach) & (uv < size - 1 - reach)).all(1).float()
        settled = (at_rival | part)[indices, None]
        other_uv[indices] = torch.where(settled, other_uv[indices], anywhere.float())
        pyramid = Pyramid.of(images, halvings(normalise(data.halves_of(indices, cpu))))
        for crops, uv, log2_scale, cells in (
            (peer, windows.uv, windows.log2_scale, CROP_CELLS),
            (elsewhere, other_uv, other_scale, WINDOW_CELLS),
        ):
            cut = cut_windows(pyramid, uv[indices, None], log2_scale[indices, None], cells)
            crops[indices] = ((cut + 1) * 127.5).round().byte()
    away = (other_uv - windows.uv).abs().amax(1) > AWAY * window_side(windows.log2_scale)
    return Crops(peer, elsewhere, (away | part).float(), whole)


@torch.no_grad()
def told_leds(
    network: PeerNetwork, data: TrainingSet, windows: Windows, crops: Crops, device: torch.device
) -> Tensor:
    """Which LEDs can be told in each image, (N, K) 0..1 (`told_share`), with the clip around it as witness.

    In a single image a lit ring may be that of the front or of the back, as long as the network cannot tell
    them apart: both states then agree with it half of the time. Over a clip, in which the robot hardly turns
    while its LEDs blink, only one of them keeps agreeing.

    An LED that is hard to see is told last: where it is on the camera's side, others that can be told from
    there as well would be taken for what is seen, and bearings would turn to them. But robots that move about
    show all their sides equally often, so what is told of each LED counts as a multiple of what is told of it
    on average.
    """
    network.eval()
    margin = (CROP_CELLS - WINDOW_CELLS) // 2
    middle = slice(margin, margin + WINDOW_CELLS)
    cross_entropy = torch.empty(len(data), len(data.led_names))
    for indices in _batches(data, "Telling LEDs"):
        seen = crops.peer[indices][:, :, middle, middle].to(device)
        with mixed_precision(device):
            look = in_float32(network.fine(seen.float() / 127.5 - 1))
        cross_entropy[indices] = led_cross_entropy(look.leds, data.states_of(indices, device)).cpu()
    network.train()
    guessed = torch.from_numpy(guessing(data.led_states)).float()
    return _balanced(told_share(_averaged_over_clips(cross_entropy, data, windows), guessed), windows)


def _balanced(told: Tensor, windows: Windows) -> Tensor:
    """Told shares (N, K) scaled so that in trusted windows all LEDs have one mean, within BALANCED."""
    mean = told[windows.trusted()].mean(0)
    return (told * (mean.mean() / mean.clamp(min=1e-6)).clamp(1 / BALANCED, BALANCED)).clamp(max=1)


def _averaged_over_clips(values: Tensor, data: TrainingSet, windows: Windows) -> Tensor:
    """Values (N, K) averaged with weights that fall with the difference in time, place and size (CLIP).

    Pictures hardly nearer than by chance are no film, and stay as they are: a robot that is where it was in
    another picture has another bearing there.
    """
    total, weights = values.clone(), torch.ones(len(values), 1)
    time, *_ = CLIP
    seconds = torch.from_numpy(data.seconds)
    for recording in (np.flatnonzero(data.recording == number) for number in np.unique(data.recording)):
        by_chance = _nearness_by_chance(windows, recording)
        for step in range(1, len(recording)):
            before, after = recording[:-step], recording[step:]
            passed = seconds[after] - seconds[before]
            is_film = _mean_nearness(windows, before, after) >= min(FILM * by_chance, STILL)
            if not is_film or passed.median() > CLIP_REACH * time:
                break
            soon = torch.exp(-(passed / time).square() / 2)
            for one, other in ((before, after), (after, before)):
                weight = (_nearness(windows, one, other) * soon).float()[:, None]
                total[one] += weight * values[other]
                weights[one] += weight
    return total / weights
