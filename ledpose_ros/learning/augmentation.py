# SPDX-License-Identifier: Apache-2.0
"""Augmentation of whole batches on the device, each with what it does to the labels."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ledpose_ros.geometry import wrap_angle


def mirrored_leds(led_directions: NDArray[np.float64]) -> list[int] | None:
    """For each LED the one whose place it takes in a mirrored image (alpha -> -alpha).

    None when the directions are not symmetric: such a robot's images must not be mirrored.
    """
    order = []
    for direction in led_directions:
        gap = np.abs(wrap_angle(led_directions + direction))
        order.append(int(gap.argmin()))
        if gap.min() > 0.05:
            return None
    return order if sorted(order) == list(range(len(order))) else None


def mirror(images: Tensor, states: Tensor, leds: list[int], chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror the chosen (B,) images (B, H, W, 3) left to right and swap the states (B, K) accordingly."""
    images = torch.where(chosen[:, None, None, None], images.flip(2), images)
    states = torch.where(chosen[:, None], states[:, leds], states)
    return images, states


def vary_colours(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random gain, white balance, contrast, hue, blur and noise of images (B, 3, H, W) in [-1, 1].

    LEDs come in any colour, so channels are also permuted. Labels stay.
    """
    batch, device = len(images), images.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        values = torch.rand(batch, *shape, 1, 1, generator=generator, device=device)
        return low + (high - low) * values

    if torch.rand((), generator=generator, device=device) < 0.5:
        images = images[:, torch.randperm(3, generator=generator, device=device)]
    gain = torch.exp2(uniform(-0.5, 0.4, 1)) * uniform(0.85, 1.15, 3)
    grey = images.mean(1, keepdim=True)
    saturation = uniform(0.5, 1.3, 1)
    images = torch.lerp(grey.expand_as(images), images, saturation)
    images = (images + 1) * gain - 1 + uniform(-0.12, 0.12, 1)
    if torch.rand((), generator=generator, device=device) < 0.3:
        images = torch.lerp(images, F.avg_pool2d(images, 3, 1, 1), uniform(0, 1, 1))
    noise = torch.randn(images.shape, generator=generator, device=device)
    return (images + noise * uniform(0, 0.06, 1)).clamp(-1, 1)
