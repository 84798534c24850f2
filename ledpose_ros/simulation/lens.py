# SPDX-License-Identifier: Apache-2.0
"""From rendered to photographed: glare of LEDs, exposure, vignetting, blur and sensor noise."""

import cv2
import numpy as np

GAMMA = 2.2
LEVELS = 4096

_TO_LINEAR = ((np.arange(256) / 255) ** GAMMA).astype(np.float32)


class Lens:
    """One camera's character, drawn from `rng` once and kept for a scene; `dim` exposes for a dark room."""

    def __init__(self, width: int, height: int, rng: np.random.Generator, dim: bool = False):
        self.rng = rng
        self.brightness = float(
            rng.uniform(0.06, 0.16) if dim else np.clip(rng.normal(0.52, 0.09), 0.25, 0.75)
        )
        self.white_balance = np.exp(rng.normal(0, 0.06, 3)).astype(np.float32)
        self.softness = float(rng.uniform(0.45, 1.0) * width / 640)
        self.led_brightness = float(rng.uniform(0.6, 1.6))
        self.glare = float(rng.uniform(1.0, 1.6) if dim else np.exp(rng.uniform(np.log(0.1), np.log(1.6))))
        self.gain: float | None = None
        y, x = np.mgrid[:height, :width].astype(np.float32)
        radius = np.hypot(x - (width - 1) / 2, y - (height - 1) / 2) / (width / 2)
        self.vignette = (1 - rng.uniform(0, 0.3) * radius**2)[..., None].astype(np.float32)

        contrast, saturation = rng.uniform(0.85, 1.1), rng.uniform(0.65, 1.1)
        colour = contrast * (saturation * np.eye(3) + (1 - saturation) / 3)
        self.grading = np.column_stack([colour, np.full(3, 0.5 * (1 - contrast))]).astype(np.float32)
        level = np.linspace(0, 1, LEVELS)
        self.to_display = (level ** (1 / GAMMA)).astype(np.float32)
        # Shot noise grows as the square root of the light, read noise is constant.
        self.to_sigma = (rng.uniform(0.002, 0.02) + rng.uniform(0.002, 0.015) * np.sqrt(level)).astype(
            np.float32
        )
        self.grain = rng.standard_normal((height + 64, width + 64, 3), dtype=np.float32)

    def expose(self, rgb: np.ndarray, glow: np.ndarray | None, motion: np.ndarray) -> np.ndarray:
        """The picture (H, W, 3) uint8 of a rendered one.

        `glow` (H, W, 3) float32 is light added by LEDs in linear units (1 = white); `motion` (2,) [px] is how
        far the picture moved while the shutter was open.
        """
        linear = _TO_LINEAR[rgb]
        if self.gain is None:  # Automatic exposure settles on the scene's first picture.
            self.gain = float(min(self.brightness**GAMMA / max(np.median(linear[::4, ::4]), 0.02), 12.0))
        linear = linear * (self.vignette * (self.white_balance * self.gain))
        if glow is not None:
            linear = linear + self.led_brightness * glow
        np.minimum(linear, 1, out=linear)
        linear = _smear(linear, motion)
        linear = cv2.GaussianBlur(linear, (0, 0), self.softness)
        level = (linear * (LEVELS - 1)).astype(np.uint16)
        display = cv2.transform(self.to_display[level], self.grading)
        top, left = self.rng.integers(0, 64, 2)
        height, width = level.shape[:2]
        noise = self.to_sigma[level] * self.grain[top : top + height, left : left + width]
        return cv2.convertScaleAbs(np.maximum(display + noise, 0), alpha=255)


def _smear(image: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Directional blur over `motion` pixels."""
    length = float(np.hypot(*motion))
    if length < 0.5:
        return image
    size = 2 * int(np.ceil(length / 2)) + 3
    kernel = np.zeros((size, size), np.float32)
    for t in np.linspace(-0.5, 0.5, 4 * size):
        x, y = size // 2 + motion * t
        x0, y0 = int(x), int(y)
        for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
            kernel[y0 + dy, x0 + dx] += (1 - abs(x - x0 - dx)) * (1 - abs(y - y0 - dy))
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def draw_ring(
    glow: np.ndarray, outline: np.ndarray, seen: float, colour: np.ndarray, tube: float, glare: float
) -> None:
    """Add one lit ring to `glow` (H, W, 3): its outline (n, 2) [px], share `seen`, tube width [px].

    `glare` is how much light spreads round the ring, compared with its own.
    """
    height, width = glow.shape[:2]
    span = float(np.ptp(outline, 0).max())
    margin = int(np.ceil(1.2 * span + 8))
    low = np.maximum(np.floor(outline.min(0)).astype(int) - margin, 0)
    high = np.minimum(np.ceil(outline.max(0)).astype(int) + margin, (width, height))
    if (high <= low).any():
        return
    fine = 4  # The ring is drawn at four times the resolution: far away its tube is thinner than a pixel.
    mask = np.zeros(((high[1] - low[1]) * fine, (high[0] - low[0]) * fine), np.uint8)
    points = np.round(((outline - low + 0.5) * fine - 0.5) * 16).astype(np.int32)
    cv2.polylines(mask, [points[:, None]], True, (255,), max(1, round(tube * fine)), cv2.LINE_AA, 4)
    core = (
        cv2.resize(mask, None, fx=1 / fine, fy=1 / fine, interpolation=cv2.INTER_AREA).astype(np.float32)
        / 255
    )
    core *= seen * min(1.0, tube * fine)
    near = cv2.GaussianBlur(core, (0, 0), 0.7 + 0.05 * span)
    far = cv2.GaussianBlur(core, (0, 0), 1.5 + 0.35 * span)
    core_colour = 0.1 + 0.9 * colour
    light = core[..., None] * core_colour + ((0.5 + 0.6 * glare) * near + glare * far)[..., None] * colour
    glow[low[1] : high[1], low[0] : high[0]] += light.astype(np.float32)
