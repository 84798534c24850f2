# SPDX-License-Identifier: Apache-2.0
"""One training step's loss, from images and LED states alone.

A warm-up on small pictures in large batches lets the coarse network discover that LEDs exist: nothing else
can be learned before. From then on the coarse and the fine network teach each other:

1. the coarse network's posterior, which knows the true LED states, proposes where and how big the peer is;
2. the fine network, frozen for the moment, moves the proposed windows and judges, knowing the states too,
which of them holds the peer;
3. the fine network learns from a randomly displaced window: the LED states, the bearing, and the known
   displacement back to where step 2 ended. A proposal's error cannot be told from the picture, the
   displacement can; so it learns the average proposal for a given look, which is sharper than any one of
   them, and zooming a window by z moves its log2 scale by log2 z (equivariance as self-supervision);
4. the coarse network's attention learns the place and scale that step 2 found, where the LEDs could be told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ledpose_ros.learning import augmentation
from ledpose_ros.learning.loss import (
    auxiliary_loss,
    bearing_loss,
    coarse_cross_entropy,
    led_cross_entropy,
    location_loss,
    shift_loss,
)
from ledpose_ros.learning.network import (
    SCALES,
    STRIDE,
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

PROPOSALS = 2
"""Peaks of the posterior that compete for an image's window."""
JITTER_UV = 0.25
"""Displacement of training windows, as a share of their side."""
JITTER_OCTAVES = 0.6
JITTER_TURN = 0.1
"""Rotation of training windows [rad]: floors and cameras are not perfectly level."""

Parts = dict[str, Tensor]
"""Parts of a loss by name, detached."""


def _detached(parts: Parts) -> Parts:
    return {name: part.detach() for name, part in parts.items()}


@dataclass(frozen=True)
class Windows:
    """One window an image: centre uv (B, 2) [px] and log2 scale (B,)."""

    uv: Tensor
    log2_scale: Tensor


class Objective:
    """The loss of a batch; `fine` says whether the fine network takes part already."""

    def __init__(self, network: PeerNetwork, led_directions: Tensor, generator: torch.Generator) -> None:
        self.network = network
        self.led_directions = led_directions
        self.generator = generator
        self.mirrored = augmentation.mirrored_leds(led_directions.cpu().double().numpy())

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.led_directions.device)

    def warm_up(self, halves: Tensor, states: Tensor) -> tuple[Tensor, Parts]:
        """Loss of the coarse network alone, on a single coarse scale: a fraction of the cost a picture.

        halves uint8 (B, H/2, W/2, 3), states (B, K); gives the loss and its parts for the log.
        """
        halves, states, _ = self._mirrored(halves, states)
        quarters = halve(normalise(halves))
        view = augmentation.random_view(len(states), self.generator)
        loss, _, _, parts = self._coarse_loss([view.cut(quarters)], states)
        return loss, parts

    def __call__(
        self, images: Tensor, halves: Tensor, states: Tensor, fine: float, guide: float
    ) -> tuple[Tensor, Parts]:
        """Loss of images uint8 (B, H, W, 3), the same at half size and states (B, K), and its parts for the
        log.

        `fine` and `guide` in [0, 1] weigh steps 3 and 4 of the module's text; 0 skips them.
        """
        halves, states, chosen = self._mirrored(halves, states)
        half = normalise(halves)
        view = augmentation.random_view(len(states), self.generator)
        varied = augmentation.vary_colours(view.cut(half), self.generator)
        loss, maps, posterior, parts = self._coarse_loss(halvings(varied), states)
        if fine > 0:
            pyramid = Pyramid(augmentation.mirror_images(images, chosen), halvings(half))
            windows = self.propose(pyramid, posterior, states, view, refine=guide > 0)
            fine_loss, evidence, fine_parts = self.fine_loss(pyramid, windows, states)
            loss = loss + fine * fine_loss
            parts |= fine_parts
            if guide > 0:
                guided = self.guide_loss(maps, windows, evidence, view, self._size(pyramid))
                loss = loss + guide * guided
                parts["guide"] = guided.detach()
        return loss, parts

    @staticmethod
    def _size(pyramid: Pyramid) -> Tensor:
        """Width and height [px] of the images, (2,)."""
        height, width = pyramid.full.shape[1:3]
        return torch.tensor([width, height], device=pyramid.full.device)

    def _mirrored(self, halves: Tensor, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Half of the pictures mirrored, where the LEDs' places allow it, and which (B,)."""
        chosen = self._rand(len(states)) < (0.5 if self.mirrored is not None else 0.0)
        if self.mirrored is not None:
            states = augmentation.mirror_states(states, self.mirrored, chosen)
        return augmentation.mirror_images(halves, chosen), states, chosen

    def _coarse_loss(self, levels: list[Tensor], states: Tensor) -> tuple[Tensor, CoarseMaps, Tensor, Parts]:
        """Loss of the coarse network on these levels of the pyramid, maps, posterior, parts for the log."""
        maps = self.network.coarse_maps(levels)
        location, posterior = location_loss(maps, states)
        auxiliary = auxiliary_loss(maps, states)
        cross_entropy = coarse_cross_entropy(maps, states).movedim(2, -1)
        cell_bearing = bearing_loss(maps.bearing.movedim(2, -1), cross_entropy, self.led_directions)
        bearing = (posterior * cell_bearing).sum((1, 2, 3)).mean()
        parts = {"location": location, "auxiliary": auxiliary, "bearing/coarse": bearing}
        return location + 0.5 * auxiliary + bearing, maps, posterior, _detached(parts)

    @torch.no_grad()
    def propose(
        self, pyramid: Pyramid, posterior: Tensor, states: Tensor, view: augmentation.View, refine: bool
    ) -> Windows:
        """Where the peer is, by the posterior's best peak.

        With `refine`, the best peaks and the places to which the fine network would move them compete: the
        one wins at which it tells the true LED states best and is surest of a peer.
        """
        batch, size = len(states), self._size(pyramid)
        peaks = PROPOSALS if refine else 1
        uv, log2_scale, _ = self.network.find_peaks(posterior, peaks)
        repeated = augmentation.View(
            view.share.repeat_interleave(peaks), view.centre.repeat_interleave(peaks, 0)
        )
        uv, log2_scale = repeated.to_image(uv.flatten(0, 1), log2_scale.flatten(), size)
        uv, log2_scale = uv.view(batch, peaks, 2), log2_scale.view(batch, peaks)
        if not refine:
            return Windows(uv[:, 0], log2_scale[:, 0])

        def plausibility(look: FineLook) -> Tensor:
            repeated_states = states.repeat_interleave(peaks, 0)
            told = -led_cross_entropy(look.leds, repeated_states).sum(1)
            return (told + logsigmoid(look.presence)).view(batch, peaks)

        training = self.network.fine.training
        self.network.fine.eval()
        moved, scaled, look = self.network.refine(pyramid, uv, log2_scale)
        # On average a look may not zoom: the overall size is a free constant that would drift.
        step = (scaled - log2_scale).clamp(-1, 1)
        scaled = (log2_scale + step - 0.2 * step.mean()).clamp(-3.5, 0.5)
        look_again = self.network.fine(cut_windows(pyramid, moved, scaled))
        self.network.fine.train(training)
        best = torch.cat([plausibility(look), plausibility(look_again)], 1).argmax(1)
        uv, log2_scale = torch.cat([uv, moved], 1), torch.cat([log2_scale, scaled], 1)
        row = torch.arange(batch, device=uv.device)
        return Windows(uv[row, best], log2_scale[row, best])

    def fine_loss(self, pyramid: Pyramid, windows: Windows, states: Tensor) -> tuple[Tensor, Tensor, Parts]:
        """Loss of the fine network, and how far each window's LEDs were told (B,) [nats above chance]."""
        batch, device = len(states), states.device
        side = window_side(windows.log2_scale)
        zoom = (2 * self._rand(batch) - 1) * JITTER_OCTAVES
        seen_scale = windows.log2_scale + zoom
        offset = (2 * self._rand(batch, 2) - 1) * JITTER_UV * window_side(seen_scale)[:, None]
        seen_uv = windows.uv + offset
        turn = (2 * self._rand(batch) - 1) * JITTER_TURN
        # Elsewhere in the image, at least a window away: what a peer does not look like.
        other_uv = self._rand(batch, 2) * self._size(pyramid)
        away = (other_uv - windows.uv).abs().amax(1) > 0.75 * side
        other_scale = windows.log2_scale + (2 * self._rand(batch) - 1)
        cut = cut_windows(
            pyramid,
            torch.stack([seen_uv, other_uv], 1),
            torch.stack([seen_scale, other_scale], 1),
            torch.stack([turn, turn], 1),
        )
        look = self.network.fine(augmentation.vary_colours(cut, self.generator))
        look_at_peer = type(look)(*(values[0::2] for values in look))
        elsewhere = look.presence[1::2]

        back = (windows.uv - seen_uv) / window_side(seen_scale)[:, None]
        cosine, sine = turn.cos(), turn.sin()
        back = torch.stack(
            [cosine * back[:, 0] + sine * back[:, 1], cosine * back[:, 1] - sine * back[:, 0]], 1
        )
        target = torch.cat([back, zoom[:, None]], 1)

        cross_entropy = led_cross_entropy(look_at_peer.leds, states)
        evidence = (math.log(2) - cross_entropy).sum(1).detach()
        trust = (evidence / math.log(2)).clamp(0.1, 1)
        leds = cross_entropy.mean()
        bearing = bearing_loss(look_at_peer.bearing, cross_entropy, self.led_directions).mean()
        shift = (trust * shift_loss(look_at_peer, target)).mean()
        presence = (
            trust * led_cross_entropy(look_at_peer.presence, torch.ones(batch, device=device))
            + away * led_cross_entropy(elsewhere, torch.zeros(batch, device=device))
        ).mean()
        parts = {"leds/fine": leds, "bearing/fine": bearing, "shift": shift, "presence": presence}
        return 4 * leds + bearing + 0.3 * shift + 0.5 * presence, evidence, _detached(parts)

    def guide_loss(
        self, maps: CoarseMaps, windows: Windows, evidence: Tensor, view: augmentation.View, size: Tensor
    ) -> Tensor:
        """Cross-entropy of the attention against the place and scale of the windows, where LEDs were told."""
        _, scales, height, width = maps.location.shape
        cell = STRIDE / SCALES[0]
        uv, log2_scale = view.from_image(windows.uv, windows.log2_scale, size)
        inside = ((uv > 0) & (uv < size - 1)).all(1)
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
        told = (evidence / math.log(2)).clamp(0, 1) * inside
        return -(told * (target.flatten(1) * log_attention).sum(1)).mean()
