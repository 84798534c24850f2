# SPDX-License-Identifier: Apache-2.0
"""The losses of a training step, from images and LED states alone.

The coarse network first discovers that LEDs exist (`warm_up`, on small pictures in large batches), then where
and how big they are (`coarse`). The fine network learns (`fine`) from the windows estimated by `windows.py`:
the LED states, the bearing, and the known displacement of a window that was moved at random. A window's own
error cannot be told from the picture, the displacement can; so it learns the average window for a given look,
which is sharper than any one of them, and zooming a window by z moves its log2 scale by log2 z (equivariance
as self-supervision). At last the windows teach the coarse attention where to look (`guide_loss`). When all
this is learned, the network for glances learns from what the fine network sees (`glance`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ledpose_ros.learning import augmentation
from ledpose_ros.learning.dataset import CROP_CELLS
from ledpose_ros.learning.loss import (
    auxiliary_loss,
    bearing_loss,
    coarse_cross_entropy,
    expected_loss,
    led_cross_entropy,
    location_loss,
    pair_loss,
    shift_loss,
    visibility_loss,
)
from ledpose_ros.learning.mixed_precision import in_float32, mixed_precision
from ledpose_ros.learning.network import (
    GLANCE_CELLS,
    MAX_PEAKS,
    SCALES,
    STRIDE,
    WINDOW_CELLS,
    CoarseMaps,
    FineLook,
    PeerNetwork,
    Pyramid,
    cut_windows,
    halve,
    halvings,
    normalise,
    window_side,
)
from ledpose_ros.learning.windows import Crops, Windows

JITTER_TURN = 0.1
"""Rotation of training windows [rad]: floors and cameras are not perfectly level."""
COARSEST_CELLS = 32
"""Side [samples] to which windows are blurred at most: near robots teach what far ones look like."""
HIDDEN_SHARE = 0.3
"""Share of the windows that are hidden in part."""
HIDDEN = 0.5
"""Share of a window's side that is hidden at most."""
JOINED_SHARE = 0.25
"""Share of the pictures that are joined of two, once windows guide."""
AUXILIARY_WEIGHT = 0.5
"""Of the LED states told from the whole picture."""
SHIFT_WEIGHT = 0.2
"""Of what is told of a window's displacement."""
BEARING_WEIGHT = 5
"""Of the fine network's bearing: clips tell it far more surely than single pictures tell LED states, whose
noise drowns it at a weight of 1; then all LEDs stay alike for thousands of steps."""
PAIR_WEIGHT = 4
"""Of the LED states in which pictures next in time differ."""
ELSEWHERE_SHARE = 0.4
"""Windows without the peer, as a share of those with it."""
GLANCED_TWO_SHARE = 0.5
"""Share of the pictures that are joined of two where glances are learned."""
FARTHEST = 1.5
"""Of what the fine network finds this far from a window [sides, octaves] that window says nothing."""
SHRUNK = 1.0
"""Octaves by which pictures shrink at most, once windows guide: near peers teach what far ones look like."""

Parts = dict[str, Tensor]
"""Parts of a loss by name, detached."""


def _detached(parts: Parts) -> Parts:
    return {name: part.detach() for name, part in parts.items()}


class Jitter(NamedTuple):
    """By how much training windows are displaced at most."""

    uv: float  # share of the window's side
    octaves: float


WIDE = Jitter(0.2, 1.0)
"""Sizes of different windows overlap, so that the network learns one size for all of them."""
NARROW = Jitter(0.12, 0.5)
"""What is left to tell after the glance."""


class Objective(nn.Module):
    """The losses of a batch, each with its parts for the log.

    A module with one `forward`, because that is what several processes can average the gradients of.
    """

    def __init__(self, network: PeerNetwork, led_directions: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.network = network
        self.led_directions = led_directions
        self.generator = generator
        self.mirrored = augmentation.mirrored_leds(led_directions.cpu().double().numpy())

    def forward(
        self,
        warm_up: tuple[Tensor, Tensor] | None = None,
        expected: tuple[Tensor, Tensor] | None = None,
        coarse: tuple[Tensor, Tensor, Windows | None] | None = None,
        fine: tuple[Crops, Tensor, Windows, Tensor, Tensor, Jitter] | None = None,
        glance: tuple[Tensor] | None = None,
    ) -> tuple[Tensor, Parts]:
        """The sum of the losses asked for, by the arguments of the methods of these names."""
        losses = [
            method(*arguments)
            for method, arguments in (
                (self.warm_up, warm_up),
                (self.expected, expected),
                (self.coarse, coarse),
                (self.fine, fine),
                (self.glance, glance),
            )
            if arguments is not None
        ]
        parts = {name: part for _, of_loss in losses for name, part in of_loss.items()}
        return torch.stack([loss for loss, _ in losses]).sum(), parts

    def _uniform(self, limit: float, *shape: int) -> Tensor:
        """Random numbers in -limit..limit."""
        random = torch.rand(*shape, generator=self.generator, device=self.led_directions.device)
        return limit * (2 * random - 1)

    def _some(self, batch: int) -> Tensor:
        """Which pictures to mirror (B,): half of them where the LEDs' places allow it."""
        if self.mirrored is None:
            return torch.zeros(batch, dtype=torch.bool, device=self.led_directions.device)
        return self._uniform(1, batch) < 0

    def _mirror_some(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Which pictures to mirror (B,), and the states after that.

        states (B, K), or several values of each LED, (B, 2K).
        """
        chosen = self._some(len(states))
        if self.mirrored is None:
            return chosen, states
        return chosen, augmentation.mirror_states(states, self.mirrored, chosen)

    def warm_up(self, halves: Tensor, states: Tensor) -> tuple[Tensor, Parts]:
        """Loss of the coarse network on a single coarse scale: a fraction of the cost a picture.

        halves uint8 (B, H/2, W/2, 3), states (B, K).
        """
        chosen, states = self._mirror_some(states)
        quarters = halve(normalise(augmentation.mirror_images(halves, chosen)))
        view = augmentation.random_view(len(states), self.generator)
        loss, parts = self._coarse_loss(self._coarse_maps([view.cut(quarters)]), states)
        return loss, _detached(parts)

    def _varied(
        self, halves: Tensor, states: Tensor, shrunk: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor, augmentation.View]:
        """Half-size pictures (B, 3, H/2, W/2) as learned from, states, which are mirrored (B,), views."""
        chosen, states = self._mirror_some(states)
        half = normalise(augmentation.mirror_images(halves, chosen))
        view = augmentation.random_view(len(states), self.generator, shrunk)
        return augmentation.vary_colours(view.cut(half), self.generator), states, chosen, view

    def expected(self, halves: Tensor, states: Tensor) -> tuple[Tensor, Parts]:
        """The paper's plain loss of the coarse network on all scales, with the same augmentation as `coarse`.

        halves uint8 (B, H/2, W/2, 3), states (B, K).
        """
        varied, states, _, _ = self._varied(halves, states)
        maps = self._coarse_maps(halvings(varied))
        loss = expected_loss(maps, states, self.led_directions)
        return loss, {"expected": loss.detach()}

    def coarse(self, halves: Tensor, states: Tensor, windows: Windows | None) -> tuple[Tensor, Parts]:
        """Loss of the coarse network on all scales; windows, if there are any, guide its attention.

        halves uint8 (B, H/2, W/2, 3), states (B, K). Windows also guide it in pictures joined of two, where a
        far peer stands beside a near one; from these no LED states are learned.
        """
        if windows is None:
            varied, states, _, _ = self._varied(halves, states)
            loss, parts = self._coarse_loss(self._coarse_maps(halvings(varied)), states)
            return loss, _detached(parts)
        varied, states, chosen, view = self._varied(halves, states, SHRUNK)
        size = 2 * torch.tensor([varied.shape[3], varied.shape[2]], device=varied.device)
        uv = windows.uv.clone()
        uv[chosen, 0] = size[0] - 1 - uv[chosen, 0]
        uv, log2_scale = view.from_image(uv, windows.log2_scale, size)
        joined, shown = augmentation.join_some(varied, JOINED_SHARE, self.generator)
        maps = self._coarse_maps(halvings(joined))
        alone = CoarseMaps(*(values[: shown.alone] for values in maps))
        loss, parts = self._coarse_loss(alone, states[: shown.alone])
        seen = shown.shows(uv[shown.sample], size)
        guide = self._guide_loss(
            CoarseMaps(*(values[shown.picture] for values in maps)),
            uv[shown.sample],
            log2_scale[shown.sample],
            seen * windows.trust[shown.sample].square(),
        )
        return loss + guide, _detached(parts | {"guide": guide})

    def _coarse_maps(self, levels: list[Tensor]) -> CoarseMaps:
        with mixed_precision(levels[0].device):
            return in_float32(self.network.coarse_maps(levels))

    def _coarse_loss(self, maps: CoarseMaps, states: Tensor) -> tuple[Tensor, Parts]:
        """Loss of the coarse network by LED states (B, K) alone, and its parts."""
        cross_entropy = coarse_cross_entropy(maps, states)
        location, posterior = location_loss(maps, cross_entropy)
        auxiliary = auxiliary_loss(maps, states)
        cell_bearing = visibility_loss(
            maps.bearing.movedim(2, -1), cross_entropy.movedim(2, -1), self.led_directions
        )
        bearing = (posterior * cell_bearing).sum((1, 2, 3)).mean()
        parts = {"location": location, "auxiliary": auxiliary, "bearing/coarse": bearing}
        return location + AUXILIARY_WEIGHT * auxiliary + bearing, parts

    def fine(
        self,
        crops: Crops,
        states: Tensor,
        windows: Windows,
        told: Tensor,
        pairs: Tensor,
        jitter: Jitter,
    ) -> tuple[Tensor, Parts]:
        """Loss of the fine network on windows cut at random out of crops around the peer.

        states (B, K), told (B, K) as from `told_leds`. The second half of the batch belongs to the first,
        picture by picture; where `pairs` (B / 2,) is 1, the two are next in time.
        """
        peer, elsewhere = (pixels.float() / 127.5 - 1 for pixels in (crops.peer, crops.elsewhere))
        batch, device = len(states), states.device
        views, shift = self._displaced(peer, jitter)
        both_values = torch.cat([states, told], 1)
        chosen, mirrored = self._mirror_some(torch.cat(both_values.chunk(2), 1))
        chosen = chosen.repeat(2)
        states, told = torch.cat(mirrored.chunk(2, 1)).chunk(2, 1)
        views = torch.where(chosen[:, None, None, None], views.flip(3), views)
        shift = torch.where(chosen[:, None], shift * shift.new_tensor([-1.0, 1.0, 1.0]), shift)

        others = math.ceil(ELSEWHERE_SHARE * batch)
        views = augmentation.blur_some(views, COARSEST_CELLS, self.generator)
        seen = augmentation.vary_colours(torch.cat([views, elsewhere[:others]]), self.generator)
        # Windows without the peer are hidden as often, else a straight edge would tell of a peer.
        seen = torch.cat(
            [
                augmentation.hide_some(part, HIDDEN_SHARE, HIDDEN, self.generator)
                for part in (seen[:batch], seen[batch:])
            ]
        )
        with mixed_precision(seen.device):
            both = in_float32(self.network.fine(seen))
        look = FineLook(*(values[:batch] for values in both))
        absent = led_cross_entropy(both.presence[batch:], torch.zeros(others, device=device))
        present = led_cross_entropy(look.presence, torch.ones(batch, device=device))

        trust = windows.trust.clamp(min=0.1)
        halves = (2, batch // 2, -1)
        parts = {
            "leds/fine": led_cross_entropy(look.leds, states).mean(),
            "leds/pairs": pair_loss(look.leds.view(halves), states.view(halves), pairs),
            "bearing/fine": bearing_loss(look.bearing, told, self.led_directions).mean(),
            # Where a robot is that reaches beyond the picture is learned from others, hidden in part: its own
            # window was drawn to what is left of it.
            "shift": (trust * crops.whole * shift_loss(look, shift)).mean(),
            "presence": (trust * present).mean() + (crops.away[:others] * absent).mean(),
        }
        loss = (
            states.shape[1] * parts["leds/fine"]  # the sum over LEDs
            + PAIR_WEIGHT * parts["leds/pairs"]
            + BEARING_WEIGHT * parts["bearing/fine"]
            + SHIFT_WEIGHT * parts["shift"]
            + 0.3 * parts["presence"]
        )
        return loss, _detached(parts)

    def _displaced(self, crops: Tensor, jitter: Jitter) -> tuple[Tensor, Tensor]:
        """Windows cut at random out of crops (B, 3, H, H), and the peer's shift (B, 3) as in `Glance`.

        Both pictures of a pair, one of each half of the batch, are displaced alike.
        """
        batch = len(crops)
        zoom = self._uniform(jitter.octaves, batch // 2).repeat(2)
        offset = self._uniform(jitter.uv, batch // 2, 2).repeat(2, 1)
        turn = self._uniform(JITTER_TURN, batch // 2).repeat(2)
        cosine, sine = turn.cos(), turn.sin()
        # The window's side in the crop's coordinates, -1..1 across the crop.
        side = torch.exp2(-zoom) * WINDOW_CELLS / CROP_CELLS
        matrix = torch.stack(
            [
                torch.stack([side * cosine, -side * sine, 2 * side * offset[:, 0]], 1),
                torch.stack([side * sine, side * cosine, 2 * side * offset[:, 1]], 1),
            ],
            1,
        )
        grid = F.affine_grid(matrix, [batch, 3, WINDOW_CELLS, WINDOW_CELLS], align_corners=False)
        # Windows zoomed out have fewer samples than the crop: blend in its half size against aliasing.
        half = F.grid_sample(F.avg_pool2d(crops, 2), grid, align_corners=False)
        views = torch.lerp(
            F.grid_sample(crops, grid, align_corners=False), half, (-zoom).clamp(0, 1).view(-1, 1, 1, 1)
        )
        # Where the undisplaced window is, seen from the displaced one.
        back_u = -cosine * offset[:, 0] - sine * offset[:, 1]
        back_v = sine * offset[:, 0] - cosine * offset[:, 1]
        return views, torch.stack([back_u, back_v, zoom], 1)

    def glance(self, images: Tensor) -> tuple[Tensor, Parts]:
        """Loss of the network for glances: it should see at once what the fine network sees in two looks.

        images uint8 (B, H, W, 3), of which no label is needed. The teachers stay as they are (Hinton, Vinyals
        and Dean, *Distilling the Knowledge in a Neural Network*, 2015).
        """
        network, batch = self.network, len(images)
        with torch.no_grad():
            mirrored = augmentation.mirror_images(images, self._some(batch))
            view = augmentation.random_view(batch, self.generator, SHRUNK)
            full, _ = augmentation.join_some(view.cut(normalise(mirrored)), GLANCED_TWO_SHARE, self.generator)
            clear = Pyramid.of(full, halvings(halve(full)))
            varied = augmentation.vary_colours(full, self.generator)
            seen = Pyramid.of(varied, halvings(halve(varied)))
            maps = self._coarse_maps(seen.halves)
            uv, log2_scale, _ = network.find_peaks(maps.attention(), maps.log2_scale(), MAX_PEAKS)
            with mixed_precision(images.device):
                found = network.refine(clear, uv, log2_scale)[:2]
                found_uv, found_log2_scale, look = network.refine(clear, *found)
            # It is found from beside it, too: in other rooms the coarse network errs more.
            beside = uv + window_side(log2_scale)[..., None] * self._uniform(NARROW.uv, *uv.shape)
            uv = torch.cat([uv, beside], 1)
            log2_scale = torch.cat(
                [log2_scale, log2_scale + self._uniform(NARROW.octaves, *log2_scale.shape)], 1
            )
            moved = found_uv.repeat(1, 2, 1) - uv, (log2_scale - found_log2_scale.repeat(1, 2))[..., None]
            shift = torch.cat([moved[0] / window_side(log2_scale)[..., None], moved[1]], -1).view(-1, 3)
            presence = look.presence.float().sigmoid().view(batch, -1).repeat(1, 2).flatten()
            presence = presence * (shift.abs().amax(1) < FARTHEST)
            windows = cut_windows(seen, uv, log2_scale, GLANCE_CELLS, GLANCE_CELLS)
        with mixed_precision(images.device):
            told = in_float32(network.glance(windows))
        parts = {
            "shift/glance": (presence * shift_loss(told, shift)).sum() / presence.sum().clamp(min=1),
            "presence/glance": F.binary_cross_entropy_with_logits(told.presence, presence),
        }
        loss = parts["shift/glance"] + 2 * parts["presence/glance"]
        return loss, _detached(parts)

    @staticmethod
    def _guide_loss(maps: CoarseMaps, uv: Tensor, log2_scale: Tensor, weight: Tensor) -> Tensor:
        """Cross-entropy of the attention against windows' place [px] and scale, and the error of the size."""
        _, scales, height, width = maps.location.shape
        cell = STRIDE / SCALES[0]
        column = ((uv[:, 0] + 0.5) / cell - 0.5).clamp(0, width - 1)
        row = ((uv[:, 1] + 0.5) / cell - 0.5).clamp(0, height - 1)
        level = torch.tensor([math.log2(s) for s in SCALES], device=row.device)

        def share(position: Tensor, count: int) -> Tensor:
            """Linear interpolation weights of a position among 0..count-1, (B, count)."""
            return (1 - (position[:, None] - torch.arange(count, device=position.device)).abs()).clamp(min=0)

        scale = share((level[0] - log2_scale).clamp(0, scales - 1), scales)
        target = (
            scale[:, :, None, None]
            * share(row, height)[:, None, :, None]
            * share(column, width)[:, None, None]
        )
        log_attention = maps.location.flatten(1).log_softmax(1)
        place = -(target.flatten(1) * log_attention).sum(1)
        size_error = (maps.log2_scale() - log2_scale[:, None, None, None]).abs()
        return (weight * (place + (target * size_error).sum((1, 2, 3)))).mean()
