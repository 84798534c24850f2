# SPDX-License-Identifier: Apache-2.0
"""The network: a coarse look that finds the peer, a fine look that measures it, and the decoder.

The coarse network is the paper's `m_theta`: fully convolutional, stride 8, shared weights on S rescaled
versions of the image, giving per cell a location logit P, the bearing pair C, S, K LED logits L and how the
peer's size differs from that of the cell's scale. The fine network looks once more, at a window cut around
each peak at the peer's own size. There the peer always looks alike, which makes bearing, size and LED states
far easier to tell than from a sliding cell. Between the two a small network glances at all peaks: it moves
their windows onto peers, and tells which of them deserve the fine look.

`PeerNetwork.forward` is what is exported and what evaluation uses: there is one decoder.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ledpose_ros.model_metadata import SAME_PEER, WINDOW_SIDE

SCALES = (0.5, 0.25, 0.125)
"""Scales on which the coarse network looks, finest first; each half the one before."""
STRIDE = 8
WINDOW_CELLS = 64
"""Side [samples] of the square window that the fine network sees."""
MAX_PEAKS = 12
"""Peaks of an image at which the network glances."""
GLANCE_CELLS = 32
"""Side [samples] of the same windows at a glance."""
LOOKS = 2
"""Times that the fine network looks at a window, which it moves onto the peer each time."""
WORTH_A_LOOK = 0.25
"""Presence, as told by the glance or look before, from which on it looks."""


class CoarseMaps(NamedTuple):
    """Maps of all scales on the finest grid; B images, S scales, h x w cells, K LEDs."""

    location: Tensor  # (B, S, h, w) logits P
    bearing: Tensor  # (B, S, 2, h, w) C, S with a length below 1
    leds: Tensor  # (B, S, K, h, w) logits L
    zoom: Tensor  # (B, S, h, w) log2 scale of the peer less that of the map

    def attention(self) -> Tensor:
        """p, the softmax of P over all cells and scales, (B, S, h, w)."""
        return self.location.flatten(1).softmax(1).view_as(self.location)

    def log2_scale(self) -> Tensor:
        """log2 scale of the peer, as each cell and scale tells it, (B, S, h, w)."""
        scales = torch.tensor([math.log2(scale) for scale in SCALES], device=self.zoom.device)
        return self.zoom + scales.view(1, -1, 1, 1)


class Glance(NamedTuple):
    """What is told of W windows at a glance."""

    shift: Tensor  # (W, 3) where the peer is, seen from the window: u, v [sides], log2 of the size ratio
    log_spread: Tensor  # (W, 3) log of the scale (Laplace) of `shift`
    presence: Tensor  # (W,) logit: is a peer in the window?


class FineLook(NamedTuple):
    """What the fine network tells of W windows."""

    leds: Tensor  # (W, K) logits
    bearing: Tensor  # (W, 2) cosine and sine of psi, length below 1
    shift: Tensor  # (W, 3) as in `Glance`
    log_spread: Tensor  # (W, 3)
    presence: Tensor  # (W,)


def squash(pair: Tensor, dim: int) -> Tensor:
    """Shrink vectors along `dim` to a length below 1, keeping their direction."""
    return pair / (1 + pair.square().sum(dim, keepdim=True)).sqrt()


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU; `same` padding."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def standardise(image: Tensor) -> Tensor:
    """Images (B, 3, H, W) scaled to one contrast each, whatever the exposure; hues stay."""
    image = image - image.mean((1, 2, 3), keepdim=True)
    return image / (image.square().mean((1, 2, 3), keepdim=True).sqrt() + 0.03)


def local_contrast(image: Tensor) -> Tensor:
    """What stands out from its surroundings of about 16 px, of one contrast an image.

    Lit LEDs do, bright walls and windows do not: where no recording is dark, learning hardly leaves the first
    plateau without it.
    """
    surroundings = F.avg_pool2d(image, 8, ceil_mode=True, count_include_pad=False)
    surroundings = F.interpolate(surroundings, size=image.shape[-2:], mode="bilinear", align_corners=False)
    return standardise(image - surroundings)


class CoarseNetwork(nn.Module):
    """m_theta on one scale: (B, 3, H, W) in [-1, 1] -> (B, 1 + 2 + K + 1, H/8, W/8)."""

    def __init__(self, leds: int, width: int = 12) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            # A strided 5x5 stem: two 3x3 layers at full resolution would cost four times as much.
            convolution(3, width, 5, 2),
            convolution(width, 2 * width, 3, 2),
            convolution(2 * width, 4 * width, 3, 2),
            convolution(4 * width, 4 * width, 3),
            # A field of view of 49 px: a wider one takes in whole rooms at the coarsest scale, and learns
            # them by heart instead of looking at the robot.
            convolution(4 * width, 4 * width, 3),
        )
        self.head = nn.Conv2d(4 * width, 1 + 2 + leds + 1, 1)
        # Until windows teach it otherwise, a peer is as large as the scale on which it is found.
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter[-1] = 0

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.layers(local_contrast(image)))


class GlanceNetwork(nn.Module):
    """The glance: windows (W, 3, 32, 32) in [-1, 1] -> Glance, at a fifth of the work of a look."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            convolution(3, width, 5, 2),
            convolution(width, width),
            convolution(width, 2 * width, 3, 2),
            convolution(2 * width, 2 * width),
            convolution(2 * width, 4 * width, 3, 2),
            nn.Flatten(),
            nn.Linear(4 * width * (GLANCE_CELLS // 8) ** 2, 128),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(128, 3 + 3 + 1)

    def forward(self, windows: Tensor) -> Glance:
        shift, log_spread, presence = self.head(self.layers(standardise(windows))).split([3, 3, 1], dim=1)
        return Glance(shift, log_spread.clamp(-5, 1), presence[:, 0])


class FineNetwork(nn.Module):
    """The look: windows (W, 3, 64, 64) in [-1, 1] -> FineLook."""

    def __init__(self, leds: int, width: int = 32) -> None:
        super().__init__()
        self.leds = leds
        self.layers = nn.Sequential(
            convolution(3, width, 5, 2),
            convolution(width, width),
            convolution(width, 2 * width, 3, 2),
            convolution(2 * width, 2 * width),
            convolution(2 * width, 4 * width, 3, 2),
            convolution(4 * width, 4 * width),
            # A dense layer, not pooling: where in the window something is seen matters.
            nn.Flatten(),
            nn.Linear(4 * width * (WINDOW_CELLS // 8) ** 2, 128),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(128, leds + 2 + 3 + 3 + 1)

    def forward(self, windows: Tensor) -> FineLook:
        leds, bearing, shift, log_spread, presence = self.head(self.layers(standardise(windows))).split(
            [self.leds, 2, 3, 3, 1], dim=1
        )
        return FineLook(leds, squash(bearing, 1), shift, log_spread.clamp(-5, 1), presence[:, 0])


class Pyramid(NamedTuple):
    """An image at falling resolutions. In training the full size stays uint8: few pixels are looked at."""

    full: Tensor  # (B, H, W, 3) uint8, or (B, 3, H, W) in [-1, 1]
    halves: list[Tensor]  # level l = 1, 2, ... (B, 3, H / 2^l, W / 2^l) in [-1, 1]
    stack: Tensor  # the halves one below the other, beside and between them grey (0), (B, 3, rows, W / 2)

    @classmethod
    def of(cls, full: Tensor, halves: list[Tensor]) -> Pyramid:
        """The pyramid of an image and its smaller levels."""
        width = halves[0].shape[-1]
        framed = [F.pad(level, (0, width - level.shape[-1], 0, 1)) for level in halves]
        return cls(full, halves, torch.cat(framed, 2))


def normalise(image: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) RGB -> float (B, 3, H, W) in [-1, 1]."""
    planes = image.permute(0, 3, 1, 2).contiguous()
    return planes.float().mul_(1 / 127.5).sub_(1)


def halve(image: Tensor) -> Tensor:
    """Average pooling by 2; an odd last row or column is kept."""
    return F.avg_pool2d(image, 2, ceil_mode=True, count_include_pad=False)


def halvings(half: Tensor) -> list[Tensor]:
    """The levels below and with a half-size image, down to the coarsest scale."""
    levels = [half]
    for _ in range(round(-math.log2(SCALES[-1])) - 1):
        levels.append(halve(levels[-1]))
    return levels


def image_pyramid(image: Tensor) -> Pyramid:
    """The pyramid of images uint8 (B, H, W, 3)."""
    full = normalise(image)
    return Pyramid.of(full, halvings(halve(full)))


def window_side(log2_scale: Tensor) -> Tensor:
    """Side [px of the full image] of the window around a peer of this log2 scale."""
    return WINDOW_SIDE * torch.exp2(-log2_scale)


def sample_pixels(image: Tensor, points: Tensor) -> Tensor:
    """Bilinear interpolation of uint8 images (B, H, W, 3) at points (B, P, 2) [px] -> (B, 3, P) in [-1, 1].

    Only the four neighbours of each point are converted, which is much cheaper than converting the image.
    Outside the image is grey (0).
    """
    batch, height, width, _ = image.shape
    pixels = image.reshape(batch * height * width, 3)
    first = torch.arange(batch, device=image.device)[:, None] * (height * width)
    corner = points.floor()
    fraction = points - corner
    total = torch.zeros((), device=image.device)
    for du in (0, 1):
        for dv in (0, 1):
            u, v = corner[..., 0] + du, corner[..., 1] + dv
            inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
            weight_u = fraction[..., 0] if du else 1 - fraction[..., 0]
            weight_v = fraction[..., 1] if dv else 1 - fraction[..., 1]
            index = first + v.clamp(0, height - 1).long() * width + u.clamp(0, width - 1).long()
            values = pixels[index.flatten()].view(batch, -1, 3).float() * (1 / 127.5) - 1
            total = total + values * (weight_u * weight_v * inside)[..., None]
    return total.transpose(1, 2)


def sample_windows(image: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Bilinear interpolation of images, as `Pyramid.full`, in windows -> (B, 3, M, cells, cells) in [-1, 1].

    Windows lie along the image's axes: `columns` and `rows` are (B, M, cells) [px].
    """
    batch, peaks, cells = columns.shape
    shape = (batch, peaks, cells, cells)

    def crossed(u: Tensor, v: Tensor) -> Tensor:
        pair = torch.stack([u[:, :, None].expand(shape), v[..., None].expand(shape)], -1)
        return pair.view(batch, peaks * cells, cells, 2)

    if image.dtype == torch.uint8:
        sampled = sample_pixels(image, crossed(columns, rows).flatten(1, 2))
    else:
        height, width = image.shape[-2:]
        grid = crossed((2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1)
        sampled = F.grid_sample(image, grid, mode="bilinear", align_corners=False)
    return sampled.reshape(batch, 3, peaks, cells, cells)


def cut_windows(
    pyramid: Pyramid,
    uv: Tensor,
    log2_scale: Tensor,
    cells: int = WINDOW_CELLS,
    resolution: int = WINDOW_CELLS,
) -> Tensor:
    """Cut one square window per peak out of the pyramid level of fitting resolution.

    uv (B, M, 2) are centres [px of the full image], log2_scale (B, M) their scales. Gives
    (B*M, 3, cells, cells) with `resolution` cells a window: more cells show more around it. Outside the image
    is grey (0). The resolution of a glance spares the full size of the image.
    """
    side = window_side(log2_scale)
    steps = (torch.arange(cells, device=uv.device, dtype=uv.dtype) + 0.5 - cells / 2) / resolution
    u, v = (uv[..., axis, None] + side[..., None] * steps for axis in (0, 1))
    # The level whose pixels are about as large as the samples, so that far and near peers are equally free of
    # aliasing. To blend two levels takes more time than it gains.
    finest = round(math.log2(WINDOW_CELLS / resolution))
    level = torch.log2(side / resolution).round().clamp(finest, len(pyramid.halves))[..., None]

    shrunk = torch.exp2(-level.clamp(min=1))
    first_row = torch.zeros_like(level)
    for above, image in enumerate(pyramid.halves[:-1], start=1):
        first_row = first_row + (level > above).to(level.dtype) * (image.shape[2] + 1)
    height = (2 * pyramid.halves[0].shape[2] * shrunk).ceil()
    # No farther than the grey beside the level: beyond it is another one.
    rows = torch.minimum(((v + 0.5) * shrunk - 0.5).clamp(min=-1), height)
    windows = sample_windows(pyramid.stack, (u + 0.5) * shrunk - 0.5, first_row + rows)
    if finest == 0:
        at_full_size = (level == 0)[:, None, ..., None]
        windows = torch.where(at_full_size, sample_windows(pyramid.full, u, v), windows)
    return windows.transpose(1, 2).flatten(0, 1)


def moved(uv: Tensor, log2_scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (B, M, 2) and log2 scales (B, M) of windows, moved to where their peers are seen, (B*M, 3)."""
    shift = shift.view(*log2_scale.shape, 3)
    return uv + shift[..., :2] * window_side(log2_scale).unsqueeze(-1), log2_scale - shift[..., 2]


def shadowed(uv: Tensor, log2_scale: Tensor, presence: Tensor) -> Tensor:
    """1 for windows (B, M) that show the same peer as one with a larger presence, else 0."""
    side = window_side(log2_scale)
    reach = SAME_PEER * (side[:, :, None] * side[:, None]).sqrt()
    apart = (uv[:, :, None] - uv[:, None]).abs().amax(-1)
    return ((apart < reach) & (presence[:, None] > presence[:, :, None])).any(2).float()


def worthy(scores: Tensor) -> Tensor:
    """Indices of the best windows (B, M), at least one: as many in each image as any image deserves."""
    scores, order = scores.sort(dim=1, descending=True)
    count = (scores > WORTH_A_LOOK).sum(1).max().clamp(min=1).item()
    # The exporter cannot know.
    torch._check(count >= 1)
    torch._check(count <= order.shape[1])
    return order[:, :count]


class PeerNetwork(nn.Module):
    """Image -> peers. See the module's text; `forward` is the exported graph.

    `glances` says that the network for glances has learned; until then the fine network glances, too.
    """

    def __init__(self, leds: int = 4, glances: bool = False) -> None:
        super().__init__()
        self.leds = leds
        self.glances = glances
        self.coarse = CoarseNetwork(leds)
        self.fine = FineNetwork(leds)
        self.glance = GlanceNetwork()

    def coarse_maps(self, halves: list[Tensor]) -> CoarseMaps:
        """The coarse network on every scale (levels 1, 2, ... of a pyramid), upsampled to the finest grid."""
        maps = [self.coarse(image) for image in halves]
        height, width = maps[0].shape[-2:]
        # By whole factors, and then cut: the last coarse cell may reach beyond the last one of the finest.
        enlarged = [F.interpolate(m, scale_factor=2.0**n, mode="nearest") for n, m in enumerate(maps[1:], 1)]
        stacked = torch.stack([maps[0]] + [m[..., :height, :width] for m in enlarged], 1)
        location, bearing, leds, zoom = stacked.split([1, 2, self.leds, 1], dim=2)
        return CoarseMaps(location[:, :, 0], squash(bearing, 2), leds, zoom[:, :, 0])

    def cell_centres(
        self, height: int, width: int, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Pixel coordinates u (w,), v (h,) of the cells' centres on the finest grid."""
        cell = STRIDE / SCALES[0]
        u = (torch.arange(width, device=device) + 0.5) * cell - 0.5
        v = (torch.arange(height, device=device) + 0.5) * cell - 0.5
        return u, v

    def find_peaks(self, attention: Tensor, log2_scale: Tensor, peaks: int) -> tuple[Tensor, Tensor, Tensor]:
        """The strongest separate peaks of p: uv (B, M, 2), log2 scale (B, M) and mass (B, M).

        `attention` and `log2_scale` are (B, S, h, w). A peak is the strongest of its neighbours on its own
        scale, else a far peer would vanish in the slope of a near one. Position and log2 scale are means
        under p in 3x3 cells there and on the scales beside it. Of places whose windows would show the same
        peer, on whichever scale, only the strongest is a peak.
        """
        _, _, height, width = attention.shape
        u, v = self.cell_centres(height, width, attention.device)
        moments = torch.stack([attention, attention * u, attention * v[:, None], attention * log2_scale], 1)
        local = F.avg_pool3d(moments, 3, 1, 1, count_include_pad=True) * 27
        mass = F.avg_pool2d(attention, 3, 1, 1) * (F.max_pool2d(attention, 3, 1, 1) == attention)
        total, *sums = local.flatten(2).unbind(1)
        mean_u, mean_v, mean_scale = (values / total.clamp(min=1e-12) for values in sums)
        # One row a picture, one entry a cell on a scale.
        mass, means = mass.flatten(1), torch.stack([mean_u, mean_v], 1)
        cells = attention.shape[1:]
        centres = torch.stack([u.expand(cells).flatten(), v[:, None].expand(cells).flatten()])
        # SAME_PEER times the geometric mean of two windows' sides is the product of these.
        root, mean_root = (
            (SAME_PEER * window_side(scale)).sqrt() for scale in (log2_scale.flatten(1), mean_scale)
        )
        picks = []
        for _ in range(peaks):
            pick = mass.argmax(1, keepdim=True)
            picks.append(pick)
            reach = (root * mean_root.gather(1, pick)).clamp(min=STRIDE / SCALES[0])
            apart = (centres - means.gather(2, pick[:, None].expand(-1, 2, -1))).abs().amax(1)
            mass = mass * (apart > reach)
        picked = torch.cat(picks, 1)
        uv = torch.stack([mean_u.gather(1, picked), mean_v.gather(1, picked)], -1)
        return uv, mean_scale.gather(1, picked), total.gather(1, picked)

    def aim(self, pyramid: Pyramid, uv: Tensor, log2_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Glance at windows (B, M) and move them onto their peers: new uv and log2 scale, presence (B, M)."""
        windows = cut_windows(pyramid, uv, log2_scale, GLANCE_CELLS, GLANCE_CELLS)
        if self.glances:
            shift, _, presence = self.glance(windows)
        else:
            enlarged = F.interpolate(windows, size=(WINDOW_CELLS, WINDOW_CELLS), mode="bilinear")
            _, _, shift, _, presence = self.fine(enlarged)
        return *moved(uv, log2_scale, shift), presence.view(log2_scale.shape).sigmoid()

    def refine(self, pyramid: Pyramid, uv: Tensor, log2_scale: Tensor) -> tuple[Tensor, Tensor, FineLook]:
        """Look at windows (B, M) and move them onto their peers: new uv, new log2 scale, what was seen."""
        look = self.fine(cut_windows(pyramid, uv, log2_scale))
        return *moved(uv, log2_scale, look.shift), look

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """uint8 (N, H, W, 3) RGB -> uv, log2_scale, bearing, led_probability, confidence, spread, attention.

        Shapes and meanings stand in docs/model.md; peaks come by falling confidence.
        """
        pyramid = image_pyramid(image)
        maps = self.coarse_maps(pyramid.halves)
        attention = maps.attention()
        uv, log2_scale, _ = self.find_peaks(attention, maps.log2_scale(), MAX_PEAKS)
        uv, log2_scale, presence = self.aim(pyramid, uv, log2_scale)
        for _ in range(LOOKS):
            best = worthy(presence * (1 - shadowed(uv, log2_scale, presence)))
            uv = uv.gather(1, best.unsqueeze(-1).expand(-1, -1, 2))
            log2_scale = window_log2_scale = log2_scale.gather(1, best)
            uv, log2_scale, look = self.refine(pyramid, uv, log2_scale)
            presence = look.presence.view(log2_scale.shape).sigmoid()
        batch, peaks = log2_scale.shape
        confidence, order = presence.sort(dim=1, descending=True)

        def sorted_peaks(values: Tensor) -> Tensor:
            values = values.reshape(batch, peaks, -1)
            return values.gather(1, order.unsqueeze(-1).expand(-1, -1, values.shape[-1]))

        # A Laplace distribution of scale b has the standard deviation sqrt(2) b.
        spread = math.sqrt(2) * look.log_spread.exp().view(batch, peaks, 3)
        side = window_side(window_log2_scale).unsqueeze(-1)
        spread = torch.cat([spread[..., :2] * side, spread[..., 2:]], -1)
        return (
            sorted_peaks(uv),
            sorted_peaks(log2_scale)[..., 0],
            sorted_peaks(look.bearing),
            sorted_peaks(look.leds.sigmoid()),
            confidence,
            sorted_peaks(spread),
            attention.sum(1),
        )
