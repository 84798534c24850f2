# SPDX-License-Identifier: Apache-2.0
"""From rendered to photographed: glare of the LEDs, exposure, vignetting, blur and sensor noise."""

import cv2
import numpy as np

GAMMA = 2.2


class Lens:
    """One camera's character, drawn from `rng` once and kept for a scene."""

    def __init__(self, width: int, height: int, rng: np.random.Generator):
        self.rng = rng
        self.brightness = float(np.clip(rng.normal(0.52, 0.09), 0.25, 0.75))
        self.white_balance = np.exp(rng.normal(0, 0.06, 3)).astype(np.float32)
        self.contrast = float(rng.uniform(0.85, 1.25))
        self.saturation = float(rng.uniform(0.4, 1.05))
        self.sharpness = float(rng.uniform(0.3, 0.8) * width / 640)
        self.read_noise = float(rng.uniform(0.002, 0.02))
        self.shot_noise = float(rng.uniform(0.005, 0.03))
        self.glare = float(rng.uniform(0.5, 1.3))
        self.gain: float | None = None
        y, x = np.mgrid[:height, :width].astype(np.float32)
        radius = np.hypot(x - (width - 1) / 2, y - (height - 1) / 2) / (width / 2)
        self.vignette = (1 - rng.uniform(0, 0.3) * radius**2)[..., None].astype(np.float32)
        self.grain = rng.standard_normal((height * 5 // 4, width * 5 // 4, 3), dtype=np.float32)

    def expose(self, rgb: np.ndarray, glow: np.ndarray | None, motion: np.ndarray) -> np.ndarray:
        """The picture (H, W, 3) uint8 of a rendered one.

        `glow` (H, W, 3) float32 is light added by LEDs in linear units (1 = white); `motion` (2,) [px] how far the
        picture moved while the shutter was open.
        """
        linear = _TO_LINEAR[rgb]
        if self.gain is None:  # Automatic exposure settles on the scene's first picture.
            self.gain = float(self.brightness**GAMMA / max(np.median(linear), 0.02))
        linear *= self.vignette * (self.white_balance * min(self.gain, 12.0))
        if glow is not None:
            linear += glow * self.glare
        linear = _smear(linear, motion)
        linear = cv2.GaussianBlur(linear, (0, 0), self.sharpness)
        top, left = (int(self.rng.integers(0, s - n + 1)) for s, n in zip(self.grain.shape, linear.shape, strict=False) if s > n)
        display = np.power(np.clip(linear, 0, 1), 1 / GAMMA)
        grey = display.mean(2, keepdims=True)
        display = grey + self.saturation * (display - grey)
        display = 0.5 + self.contrast * (display - 0.5) if self.contrast > 1 else display
        sigma = self.read_noise + self.shot_noise * np.sqrt(np.maximum(grey, 0)) * 0.5
        display += sigma * self.grain[top : top + linear.shape[0], left : left + linear.shape[1]]
        return (np.clip(display, 0, 1) * 255 + 0.5).astype(np.uint8)


_TO_LINEAR = (np.arange(256, dtype=np.float32) / 255) ** GAMMA


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


def draw_ring(glow: np.ndarray, outline: np.ndarray, seen: float, colour: np.ndarray, tube: float) -> None:
    """Add one lit ring to `glow` (H, W, 3): its outline (n, 2) [px], share `seen`, tube width [px]."""
    height, width = glow.shape[:2]
    span = float(np.ptp(outline, 0).max())
    margin = int(np.ceil(1.2 * span + 8))
    low = np.floor(outline.min(0)).astype(int) - margin
    high = np.ceil(outline.max(0)).astype(int) + margin
    low, high = np.maximum(low, 0), np.minimum(high, (width, height))
    if (high <= low).any():
        return
    fine = 4
    mask = np.zeros(((high[1] - low[1]) * fine, (high[0] - low[0]) * fine), np.uint8)
    points = np.round(((outline - low + 0.5) * fine - 0.5) * 16).astype(np.int32)
    thickness = max(1, round(tube * fine))
    cv2.polylines(mask, [points[:, None]], True, 255, thickness, cv2.LINE_AA, 4)
    core = cv2.resize(mask, None, fx=1 / fine, fy=1 / fine, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    core *= seen * min(1.0, tube * fine)
    near = cv2.GaussianBlur(core, (0, 0), 0.7 + 0.05 * span)
    far = cv2.GaussianBlur(core, (0, 0), 1.5 + 0.35 * span)
    white = 0.25 + 0.75 * colour
    light = core[..., None] * white * 1.2 + (1.1 * near + 0.8 * far)[..., None] * colour
    glow[low[1] : high[1], low[0] : high[0]] += light.astype(np.float32)
