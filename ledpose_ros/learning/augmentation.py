# SPDX-License-Identifier: Apache-2.0
"""Augmentation of whole batches on the device, each with what it does to the labels."""

from __future__ import annotations

from typing import NamedTuple

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


def mirror_images(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen (B,) images (B, H, W, 3) left to right."""
    mirrored = images.clone()
    # One by one: to pick them by a mask takes seven times as long.
    for index in chosen.nonzero().flatten().tolist():
        mirrored[index] = images[index].flip(1)
    return mirrored


def mirror_states(states: Tensor, leds: list[int], chosen: Tensor) -> Tensor:
    """LED states (B, K) of the chosen images after mirroring: left and right swap (see mirrored_leds).

    Several values of each LED, (B, nK), are swapped alike.
    """
    mirrored = states.unflatten(1, (-1, len(leds)))[..., leds].flatten(1)
    return torch.where(chosen[:, None], mirrored, states)


class View(NamedTuple):
    """A part of each image enlarged, or the image shrunk: places and sizes change, LED states do not.

    Without it a network soon knows each training picture, and with it the LED states, by heart.
    """

    share: Tensor  # (B,) of the width and height, 1 = all
    centre: Tensor  # (B, 2) of the part, -1..1 across the image

    def cut(self, images: Tensor) -> Tensor:
        """The views of images (B, 3, H, W), same shape."""
        matrix = torch.zeros(len(images), 2, 3, device=images.device)
        matrix[:, 0, 0] = matrix[:, 1, 1] = self.share
        matrix[:, :, 2] = self.centre
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)

    def from_image(self, uv: Tensor, log2_scale: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Place (B, 2) [px] and log2 scale (B,) in the view of these in the image; size (2,) w, h [px]."""
        across = ((2 * uv + 1) / size - 1 - self.centre) / self.share[:, None]
        return ((across + 1) * size - 1) / 2, log2_scale + self.share.log2()


class Shown(NamedTuple):
    """What pictures joined of several samples show: V pairs of a picture and a sample between two columns.

    The first `alone` pictures show one sample each, their own.
    """

    alone: int
    picture: Tensor  # (V,) index
    sample: Tensor  # (V,) index
    begin: Tensor  # (V,) share of the width
    end: Tensor  # (V,)

    def shows(self, uv: Tensor, size: Tensor) -> Tensor:
        """Whether the pictures show these places (V, 2) [px] in their samples; size (2,) w, h [px]."""
        u, v = ((uv + 0.5) / size).unbind(1)
        return (u > self.begin) & (u < self.end) & (v > 0) & (v < 1)


def join_some(images: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Shown]:
    """The last `share` of the images (B, 3, H, W) go on as the first ones right of an upright line.

    The line lies in the middle half of the width. Of few images it is their share on the average.
    """
    batch, width = len(images), images.shape[3]
    spare = torch.rand((), generator=generator, device=images.device).item()
    joined = min(int(share * batch + spare), batch // 2)
    alone = batch - joined
    line = 0.25 + 0.5 * torch.rand(joined, generator=generator, device=images.device)
    right = (torch.arange(width, device=images.device) + 0.5) / width > line[:, None]
    both = torch.where(right[:, None, None], images[:joined], images[alone:])
    index, whole = torch.arange(batch, device=images.device), line.new_ones(alone)
    shown = Shown(
        alone,
        torch.cat([index, index[alone:]]),
        torch.cat([index, index[:joined]]),
        torch.cat([0 * whole, 0 * line, line]),
        torch.cat([whole, line, torch.ones_like(line)]),
    )
    return torch.cat([images[:alone], both]), shown


ENLARGED = 0.8
"""Octaves by which views enlarge at most: they show 57 % of the width."""


ROBOT_END = 0.9
"""Share of a window's side at which the robot ends that stands in front of another."""
EDGES = (0, 2, 3)
"""Quarter turns after which a picture's left, right or lower edge is on the left."""
NOISE_ROOM = 64
"""Rows and columns by which the field of noise is larger than the images that take their part of it."""


def random_view(batch: int, generator: torch.Generator, shrunk: float = 0.0) -> View:
    """Views enlarged by up to ENLARGED octaves or shrunk by up to `shrunk`, anywhere; around them is grey."""
    device = generator.device
    share = torch.exp2((ENLARGED + shrunk) * torch.rand(batch, generator=generator, device=device) - ENLARGED)
    centre = 2 * torch.rand(batch, 2, generator=generator, device=device) - 1
    return View(share, centre * (1 - share).abs()[:, None])


def blur_some(images: Tensor, coarsest: int, generator: torch.Generator) -> Tensor:
    """Half of the images (B, 3, H, H) with the detail of a smaller side, of `coarsest` to H samples."""
    side = images.shape[-1]
    fewer = int(torch.randint(coarsest, side, (), generator=generator, device=generator.device))
    half = len(images) // 2
    small = F.interpolate(images[:half], size=(fewer, fewer), mode="bilinear", antialias=True)
    return torch.cat([F.interpolate(small, size=(side, side), mode="bilinear"), images[half:]])


def hide_some(images: Tensor, share: float, deepest: float, generator: torch.Generator) -> Tensor:
    """A share of the images (B, 3, H, H) hidden up to `deepest` sides from their left, right or lower edge.

    There half of them are grey, as if the picture ended, and half show the side of another image's robot, as
    if that stood in front. A robot seen in part is where it would be if all of it were seen.
    """
    batch, side = len(images), images.shape[-1]
    depth, chosen, behind = torch.rand(3, batch, generator=generator, device=images.device)
    depth = deepest * depth * (chosen < share)
    edge = EDGES[int(torch.randint(len(EDGES), (), generator=generator, device=images.device))]
    images = images.rot90(edge, (2, 3))
    hidden = (torch.arange(side, device=images.device) + 0.5) / side < depth[:, None]
    # What hides the robot ends at the line, and so do most windows' robots short of their edge.
    shift = ((ROBOT_END - depth) * side).long()
    column = (torch.arange(side, device=images.device) + shift[:, None]).clamp(max=side - 1)
    others = images.roll(1, 0).gather(3, column[:, None, None].expand_as(images))
    others = others * (behind < 0.5).view(-1, 1, 1, 1)
    return torch.where(hidden[:, None, None], others, images).rot90(-edge, (2, 3))


def vary_colours(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random brightness, white balance, saturation, order of channels, blur and noise.

    Images (B, 3, H, W) in [-1, 1] give the same; labels stay. LEDs come in any colour, hence the order of
    channels.
    """
    batch, device = len(images), images.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(batch, *shape, generator=generator, device=device)

    # All linear changes of colour are one 3x3 matrix and one offset an image: one pass over the pixels.
    saturation = uniform(0.5, 1.3, 1, 1)
    identity = torch.eye(3, device=device)
    matrix = saturation * identity + (1 - saturation) / 3
    order = uniform(0, 1, 3).argsort(1)
    shuffled = uniform(0, 1, 1, 1) < 0.5
    matrix = torch.where(shuffled, identity[order] @ matrix, matrix)
    gain = torch.exp2(uniform(-0.5, 0.4, 1, 1)) * uniform(0.85, 1.15, 3, 1)
    offset = gain - 1 + uniform(-0.12, 0.12, 1, 1)  # the gain acts on [0, 2], not on [-1, 1]
    images = torch.baddbmm(offset, gain * matrix, images.flatten(2)).view_as(images)
    if torch.rand((), generator=generator, device=device) < 0.3:
        # The detail of half the size: three times faster than the mean of neighbours.
        small = F.interpolate(images, scale_factor=0.5, mode="bilinear")
        blurred = F.interpolate(small, size=images.shape[2:], mode="bilinear")
        images = torch.lerp(images, blurred, uniform(0, 1, 1, 1, 1))
    _add_noise(images, uniform(0, 0.04).tolist(), generator)
    return images.clamp_(-1, 1)


def _add_noise(images: Tensor, deviations: list[float], generator: torch.Generator) -> None:
    """Add normal noise of these standard deviations to images (B, 3, H, W), in place.

    All take theirs from different places of one field: fresh noise for each would cost more than all else.
    """
    height, width = images.shape[-2:]
    field = torch.randn(3, height + NOISE_ROOM, width + NOISE_ROOM, generator=generator, device=images.device)
    corners = torch.randint(
        NOISE_ROOM + 1, (len(images), 2), generator=generator, device=images.device
    ).tolist()
    for image, deviation, (row, column) in zip(images, deviations, corners, strict=True):
        image.add_(field[:, row : row + height, column : column + width], alpha=deviation)
