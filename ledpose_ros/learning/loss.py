# SPDX-License-Identifier: Apache-2.0
"""The loss: nothing but LED states says where the peer is, how big and seen from which side.

Notation of the paper: p attention over cells and scales, Lambda_k(psi) visibility weight of LED k,
bce_k cross-entropy of LED k.

The paper's expected loss `sum p * sum_k Lambda_k * bce_k` is `expected_loss`. It leaves its plateau slowly,
so the trainer uses the marginal likelihood of the same model, `location_loss`: which place explains the
states of *all* LEDs? It must be all of them: a likelihood in which a cell may ignore LEDs is won by hedging.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ledpose_ros.learning.network import CoarseMaps, FineLook, Glance

VISIBILITY_SHARPNESS = 2.0
"""Inverse temperature of Lambda: an LED seen from alpha_k weighs e^2 times one seen edge-on."""
FACING_SHARPNESS = 3.0
"""Log-odds that an LED seen from alpha_k can be told; edge-on they are even."""


def visibility(bearing: Tensor, led_directions: Tensor) -> Tensor:
    """Lambda_k(psi): (..., 2) cosine and sine of psi, (K,) alpha_k -> (..., K) weights, sum 1.

    A bearing vector shorter than 1 flattens the weights: a network unsure of psi spreads its bet.
    """
    return (VISIBILITY_SHARPNESS * bearing @ _towards(led_directions)).softmax(-1)


def _towards(led_directions: Tensor) -> Tensor:
    """Unit vectors (2, K) of the angles alpha_k."""
    return torch.stack([led_directions.cos(), led_directions.sin()])


def led_cross_entropy(logits: Tensor, states: Tensor) -> Tensor:
    """bce_k of each LED, shapes alike."""
    return F.binary_cross_entropy_with_logits(logits, states, reduction="none")


def coarse_cross_entropy(maps: CoarseMaps, states: Tensor) -> Tensor:
    """bce of every cell and scale against the image's states (B, K) -> (B, S, K, h, w)."""
    target = states[:, None, :, None, None].expand_as(maps.leds)
    return led_cross_entropy(maps.leds, target)


def expected_loss(maps: CoarseMaps, states: Tensor, led_directions: Tensor) -> Tensor:
    """The paper's loss: sum over cells and scales of p * sum_k Lambda_k(psi) * bce_k, batch mean."""
    weights = visibility(maps.bearing.movedim(2, -1), led_directions).movedim(-1, 2)
    per_cell = (weights * coarse_cross_entropy(maps, states)).sum(2)
    return (maps.attention() * per_cell).sum((1, 2, 3)).mean()


def location_loss(maps: CoarseMaps, cross_entropy: Tensor) -> tuple[Tensor, Tensor]:
    """-log sum_i p_i prod_k P(state_k | cell i), mean over the batch, and the posterior of i (B, S, h, w).

    `cross_entropy` (B, S, K, h, w) is that of `coarse_cross_entropy`.

    The posterior knows the true states: it says where the peer must be for the LEDs to be what they are.
    """
    log_attention = maps.location.flatten(1).log_softmax(1)
    log_likelihood = -cross_entropy.sum(2).flatten(1)
    joint = log_attention + log_likelihood
    evidence = joint.logsumexp(1)
    posterior = (joint - evidence[:, None]).exp().view_as(maps.location)
    return -evidence.mean(), posterior.detach()


def auxiliary_loss(maps: CoarseMaps, states: Tensor) -> Tensor:
    """Pooled LED classifier: each LED may be told anywhere. It is what leaves the first plateau.

    Logits are pooled with their own softmax as weights: the plain maximum would teach one cell an image.
    """
    logits = maps.leds.movedim(2, 1).flatten(2)
    return led_cross_entropy((logits * logits.softmax(2)).sum(2), states).mean()


def visibility_loss(bearing: Tensor, cross_entropy: Tensor, led_directions: Tensor) -> Tensor:
    """sum_k Lambda_k(psi) * bce_k with bce a constant: psi turns to the side whose LEDs can be told.

    The paper's term for the bearing. bearing (..., 2), cross_entropy (..., K) -> (...).
    """
    return (visibility(bearing, led_directions) * cross_entropy.detach()).sum(-1)


def pair_loss(logits: Tensor, states: Tensor, pairs: Tensor) -> Tensor:
    """Which picture of a pair has LED k on, where only one has?

    logits and states (2, P, K), pairs (P,) 1, or 0 where they are none -> mean over all states that differ.
    Of one film, the two pictures differ in little but their LEDs, and in colours as far as these are varied.
    """
    change = states[0] - states[1]
    disagreement = F.softplus(-change * (logits[0] - logits[1]))
    changed = change.abs()
    return (pairs[:, None] * changed * disagreement).sum() / changed.sum().clamp(min=1)


def told_share(cross_entropy: Tensor, guessing: Tensor) -> Tensor:
    """How much of an LED's state is told, 0 (nothing, or wrongly) .. 1 (all).

    cross_entropy (..., K) is compared with that of guessing (K,).
    """
    return (1 - cross_entropy / guessing).clamp(0, 1)


def bearing_loss(bearing: Tensor, told: Tensor, led_directions: Tensor) -> Tensor:
    """Cross-entropy between `which LEDs can be told` (W, K), see `told_share`, and `which face the camera`.

    The paper's term draws psi towards the directions alpha_k, where one LED is seen best; here psi must also
    say which LEDs are *not* to be seen, and so gets its place between them. bearing (W, 2) -> (W,).
    """
    facing = FACING_SHARPNESS * bearing @ _towards(led_directions)
    # Far or in bright light little is told of any LED; what is told of the best one is the measure.
    best = told.amax(-1)
    share = told / (best[:, None] + 1e-3)
    return best * F.binary_cross_entropy_with_logits(facing, share, reduction="none").sum(-1)


def shift_loss(look: Glance | FineLook, shift: Tensor) -> Tensor:
    """Negative log-likelihood (Laplace) of the known displacement (W, 3) of a jittered window -> (W,)."""
    return ((look.shift - shift).abs() / look.log_spread.exp() + look.log_spread).sum(-1)
