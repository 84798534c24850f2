# SPDX-License-Identifier: Apache-2.0
"""Drawing estimates on pictures, and the peer's box that pictures and markers share."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from ledpose_ros.estimator import Detections, PeerEstimate, separate_peaks
from ledpose_ros.geometry import Camera, project, rotation_matrix

# Corners of the box by signs of x, y, z in the body frame, and its twelve edges.
_CORNER_SIGNS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)
_EDGES = [
    (a, b)
    for a in range(8)
    for b in range(a + 1, 8)
    if np.abs(_CORNER_SIGNS[a] - _CORNER_SIGNS[b]).sum() == 2
]

_BEST_COLOUR = (80, 255, 120)
_OTHER_COLOUR = (255, 200, 60)
_REJECTED_COLOUR = (225, 225, 225)
_WHITE = (255, 255, 255)
_HEADING_COLOUR = (255, 80, 80)
_ATTENTION_COLOUR = np.array([255, 0, 255], np.float32)
# Attention this many times the even share gets the full tint, or none.
_FULL_TINT, _NO_TINT = 50.0, 2.0
# Peaks of less confidence are not drawn: there are always as many, also in a picture of nothing.
_FAINT = 0.05
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Pictures of this height have lines of one pixel and text of scale 0.45.
_USUAL_HEIGHT = 360
_MIN_TEXT = 0.4  # smaller letters cannot be read

Colour = tuple[int, int, int]


def led_positions(led_directions: Sequence[float], peer_size: Sequence[float]) -> np.ndarray:
    """Where to draw the LEDs (K, 3) [m] in the body frame: on the box's sides, in the LEDs' directions."""
    directions = np.column_stack(
        [np.cos(led_directions), np.sin(led_directions), np.zeros(len(led_directions))]
    )
    with np.errstate(divide="ignore"):
        reach = np.min(np.array(peer_size[:2]) / 2 / np.abs(directions[:, :2]), axis=1)
    return directions * reach[:, None]


def probability_colour(probability: float) -> Colour:
    """RGB colour of an LED's on-probability: dark blue off, bright yellow on."""
    off, on = np.array([30, 30, 90]), np.array([255, 235, 60])
    red, green, blue = (off + (on - off) * float(np.clip(probability, 0, 1))).astype(int)
    return int(red), int(green), int(blue)


def draw_attention(rgb: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Tint a picture (H, W, 3) where the network looks: nowhere if it looks everywhere alike."""
    height, width = rgb.shape[:2]
    concentration = cv2.resize(attention * attention.size, (width, height))  # 1 where attention is even
    # Most of a picture gets none, and blending is slow.
    is_tinted = concentration > _NO_TINT
    opacity = 0.5 * np.minimum(concentration[is_tinted] / _FULL_TINT, 1)[:, None]
    tinted = np.ascontiguousarray(rgb).copy()
    tinted[is_tinted] = tinted[is_tinted] * (1 - opacity) + _ATTENTION_COLOUR * opacity
    return tinted


def draw_estimates(
    rgb: np.ndarray,
    detections: Detections,
    peers: Sequence[PeerEstimate],
    led_directions: Sequence[float],
    camera: Camera,
    peer_size: Sequence[float],
    note: str = "",
) -> np.ndarray:
    """A copy of the picture with all that the network says of it; `peers` as `locate` made them of that.

    Tinted where the network looks. Corners of a square show the scale it found: the window around each place
    where it settled, in proportion to the apparent size. Thin and pale, with a small x and the confidence,
    where that was too low for a peer, or where the lens shows nothing. For each peer a cross at the image
    position; where the pose is known, a box of `peer_size` (length, width, height) with its heading and the
    LEDs as dots; beside it what a reader wants to know. `note` goes to the bottom.
    """
    drawing = _Drawing(draw_attention(rgb, detections.attention))
    if note:
        drawing.label(note, _WHITE, drawing.padding, drawing.height)
    shown = {peer.peak for peer in peers}
    for m in separate_peaks(detections):
        if m not in shown and detections.confidence[m] >= _FAINT:
            drawing.rejected(detections.uv[m], detections.window_side[m], detections.confidence[m])
    colours = [_BEST_COLOUR if rank == 0 else _OTHER_COLOUR for rank in range(len(peers))]
    places = [(detections.uv[peer.peak], detections.window_side[peer.peak]) for peer in peers]
    for peer, (seen_at, side), colour in zip(peers, places, colours, strict=True):
        drawing.corners(seen_at, side, colour, drawing.thin)
        if peer.pose is not None:
            drawing.box(peer, led_directions, camera, peer_size, colour)
        drawing.cross(peer.uv, side, colour)
    for peer, ((_, v), side), colour in zip(peers, places, colours, strict=True):
        drawing.caption(peer, colour, v - side / 2, v + side / 2)
    return drawing.canvas


class _Drawing:
    """A picture that is drawn on, and where its captions are."""

    def __init__(self, canvas: np.ndarray) -> None:
        self.canvas = canvas
        self.height, self.width = canvas.shape[:2]
        unit = self.height / _USUAL_HEIGHT
        self.thin = max(1, round(unit))
        self.thick = max(1, round(2 * unit))
        self.text = max(0.45 * unit, _MIN_TEXT)
        self.dot = max(3, round(5 * unit))
        self.padding = max(3, round(4 * unit))
        self._taken: list[tuple[int, int, int, int]] = []

    def rejected(self, uv: np.ndarray, side: float, confidence: float) -> None:
        """A place where the network settled, and which is no peer."""
        self.corners(uv, side, _REJECTED_COLOUR, 1)
        cv2.drawMarker(self.canvas, _pixel(uv), _REJECTED_COLOUR, cv2.MARKER_TILTED_CROSS, 2 * self.dot, 1)
        u, v = _pixel(uv)
        self.label(f"{confidence:.0%}", _REJECTED_COLOUR, u, v - self.dot)

    def corners(self, uv: np.ndarray, side: float, colour: Colour, thickness: int) -> None:
        """The corners of a square around a pixel."""
        for across in (-0.5, 0.5):
            for down in (-0.5, 0.5):
                corner = np.asarray(uv) + side * np.array([across, down])
                for leg in ([-0.4 * across, 0], [0, -0.4 * down]):
                    end = corner + side * np.array(leg)
                    cv2.line(self.canvas, _pixel(corner), _pixel(end), colour, thickness, cv2.LINE_AA)

    def cross(self, uv: np.ndarray, side: float, colour: Colour) -> None:
        """The image position of a peer whose window has this side."""
        size = int(np.clip(side / 5, 6, 2.4 * self.dot))
        cv2.drawMarker(self.canvas, _pixel(uv), colour, cv2.MARKER_CROSS, size, self.thick)

    def box(
        self,
        peer: PeerEstimate,
        led_directions: Sequence[float],
        camera: Camera,
        peer_size: Sequence[float],
        colour: Colour,
    ) -> None:
        """Box, heading and LEDs; nothing if it is partly behind the camera."""
        assert peer.pose is not None
        half = np.asarray(peer_size, dtype=np.float64) / 2
        heading = np.array([[half[0], 0, half[2]], [2.2 * half[0], 0, half[2]]])
        leds = led_positions(led_directions, peer_size)
        body_points = np.concatenate([_CORNER_SIGNS * half, heading, leds])
        points = body_points @ rotation_matrix(peer.pose[3:]).T + peer.pose[:3]
        uv = project(points, *camera)
        if not np.isfinite(uv).all():
            return
        corners, (start, tip) = uv[:8], uv[8:10]
        for a, b in _EDGES:
            cv2.line(self.canvas, _pixel(uv[a]), _pixel(uv[b]), colour, self.thin, cv2.LINE_AA)
        cv2.arrowedLine(
            self.canvas, _pixel(start), _pixel(tip), _HEADING_COLOUR, self.thick, cv2.LINE_AA, tipLength=0.3
        )
        radius = int(np.clip(np.ptp(corners[:, 1]) / 9, 2, self.dot))
        for point, probability in zip(uv[10:], peer.led_probability, strict=True):
            self._led(_pixel(point), radius, probability)

    def caption(self, peer: PeerEstimate, colour: Colour, top: float, bottom: float) -> None:
        """Distance, bearing, confidence and a row of LED dots, above or below these rows."""
        distance = "no scale" if peer.distance is None else f"{peer.distance:.2f} m"
        text = f"{distance}  psi {math.degrees(peer.psi):+.0f} deg  {peer.confidence:.0%}"
        (width, letters), _ = cv2.getTextSize(text, _FONT, self.text, self.thin)
        height = letters + 3 * self.padding + 2 * self.dot
        x = int(np.clip(_pixel(peer.uv)[0] - width // 2, self.padding, max(self.width - width, 0)))
        above, below = _pixel(np.array([top - height, bottom + self.padding]))
        y = self._free(x, width, height, (above, below, above - height, below + height))
        self._letters(text, x, y + letters, colour)
        for k, probability in enumerate(peer.led_probability):
            centre = (
                x + self.dot + k * (2 * self.dot + self.padding),
                y + letters + 2 * self.padding + self.dot,
            )
            self._led(centre, self.dot, probability)

    def label(self, text: str, colour: Colour, x: int, bottom: int) -> None:
        """A word that ends at row `bottom`; captions keep away from it."""
        (width, letters), _ = cv2.getTextSize(text, _FONT, self.text, 1)
        height = letters + 2 * self.padding
        x = int(np.clip(x, self.padding, max(self.width - width - self.padding, 0)))
        y = int(np.clip(bottom - height, 0, self.height - height))
        self._taken.append((x, y, x + width, y + height))
        self._letters(text, x, y + self.padding + letters, colour)

    def _free(self, x: int, width: int, height: int, rows: Sequence[int]) -> int:
        """The first of these rows, kept in the picture, at which nothing is written yet; else the first."""
        kept = [int(np.clip(row, 0, max(self.height - height, 0))) for row in rows]
        for row in kept:
            if not any(
                x < right and left < x + width and row < bottom and top < row + height
                for left, top, right, bottom in self._taken
            ):
                break
        else:
            row = kept[0]
        self._taken.append((x, row, x + width, row + height))
        return row

    def _led(self, centre: tuple[int, int], radius: int, probability: float) -> None:
        cv2.circle(self.canvas, centre, radius, _WHITE, -1, cv2.LINE_AA)
        cv2.circle(self.canvas, centre, radius - 1, probability_colour(float(probability)), -1, cv2.LINE_AA)

    def _letters(self, text: str, x: int, y: int, colour: Colour) -> None:
        """Text with a dark rim, legible on every background."""
        rim = self.thin
        # Not a thicker copy below: OpenCV 5 spaces letters by their weight.
        for dx, dy in ((-rim, 0), (rim, 0), (0, -rim), (0, rim)):
            cv2.putText(
                self.canvas, text, (x + dx, y + dy), _FONT, self.text, (0, 0, 0), self.thin, cv2.LINE_AA
            )
        cv2.putText(self.canvas, text, (x, y), _FONT, self.text, colour, self.thin, cv2.LINE_AA)


def _pixel(uv: np.ndarray) -> tuple[int, int]:
    """Rounded pixel, limited to what OpenCV's drawing can take."""
    u, v = np.clip(np.round(uv), -30000, 30000).astype(int)
    return int(u), int(v)
