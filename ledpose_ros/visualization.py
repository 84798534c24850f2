# SPDX-License-Identifier: Apache-2.0
"""Drawing estimates on pictures, and the peer's box that pictures and markers share."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from ledpose_ros.estimator import PeerEstimate
from ledpose_ros.geometry import project, rotation_matrix

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
_HEADING_COLOUR = (255, 80, 80)
_ATTENTION_COLOUR = np.array([255.0, 0.0, 255.0])
# Attention this many times the even share gets the full tint.
_FULL_TINT = 50.0
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def led_positions(led_directions: Sequence[float], peer_size: Sequence[float]) -> np.ndarray:
    """Where to draw the LEDs (K, 3) [m] in the body frame: on the box's sides, in the LEDs' directions."""
    directions = np.column_stack(
        [np.cos(led_directions), np.sin(led_directions), np.zeros(len(led_directions))]
    )
    with np.errstate(divide="ignore"):
        reach = np.min(np.array(peer_size[:2]) / 2 / np.abs(directions[:, :2]), axis=1)
    return directions * reach[:, None]


def probability_colour(probability: float) -> tuple[int, int, int]:
    """RGB colour of an LED's on-probability: dark blue off, bright yellow on."""
    off, on = np.array([30, 30, 90]), np.array([255, 235, 60])
    red, green, blue = (off + (on - off) * float(np.clip(probability, 0, 1))).astype(int)
    return int(red), int(green), int(blue)


def draw_attention(rgb: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Tint a picture (H, W, 3) where the network looks: nowhere if it looks everywhere alike."""
    height, width = rgb.shape[:2]
    concentration = cv2.resize(attention * attention.size, (width, height))  # 1 where attention is even
    opacity = 0.5 * np.clip(concentration / _FULL_TINT, 0, 1)[..., None]
    return (rgb * (1 - opacity) + _ATTENTION_COLOUR * opacity).astype(np.uint8)


def draw_peers(
    rgb: np.ndarray,
    peers: Sequence[PeerEstimate],
    led_directions: Sequence[float],
    K: np.ndarray,
    D: np.ndarray,
    distortion_model: str,
    peer_size: Sequence[float],
    note: str = "",
) -> np.ndarray:
    """A copy of the picture with the peers drawn on it.

    A cross marks the image position; where the pose is known, a box of `peer_size` (length, width, height)
    with its heading and the LEDs as dots; beside it what a reader wants to know. `note` goes to the bottom.
    """
    canvas = np.ascontiguousarray(rgb).copy()
    for rank, peer in enumerate(peers):
        colour = _BEST_COLOUR if rank == 0 else _OTHER_COLOUR
        u, v = _pixel(peer.uv)
        top = v - 10
        if peer.pose is not None:
            top = _draw_box(canvas, peer, led_directions, K, D, distortion_model, peer_size, colour)
        cv2.drawMarker(canvas, (u, v), colour, cv2.MARKER_CROSS, 12, 2)
        _draw_caption(canvas, peer, colour, top)
    if note:
        _draw_text(canvas, note, 8, canvas.shape[0] - 10, (255, 255, 255))
    return canvas


def _draw_box(
    canvas: np.ndarray,
    peer: PeerEstimate,
    led_directions: Sequence[float],
    K: np.ndarray,
    D: np.ndarray,
    distortion_model: str,
    peer_size: Sequence[float],
    colour: tuple[int, int, int],
) -> int:
    """Box, heading and LEDs; returns the row of the topmost corner."""
    assert peer.pose is not None
    half = np.asarray(peer_size, dtype=np.float64) / 2
    heading = np.array([[half[0], 0, half[2]], [2.2 * half[0], 0, half[2]]])
    body_points = np.concatenate([_CORNER_SIGNS * half, heading, led_positions(led_directions, peer_size)])
    points = body_points @ rotation_matrix(peer.pose[3:]).T + peer.pose[:3]
    uv = project(points, K, D, distortion_model)
    if not np.isfinite(uv).all():
        return _pixel(peer.uv)[1]  # partly behind the camera
    for a, b in _EDGES:
        cv2.line(canvas, _pixel(uv[a]), _pixel(uv[b]), colour, 1, cv2.LINE_AA)
    cv2.arrowedLine(canvas, _pixel(uv[8]), _pixel(uv[9]), _HEADING_COLOUR, 2, cv2.LINE_AA, tipLength=0.3)
    for point, probability in zip(uv[10:], peer.led_probability, strict=True):
        cv2.circle(canvas, _pixel(point), 5, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(canvas, _pixel(point), 4, probability_colour(float(probability)), -1, cv2.LINE_AA)
    return _pixel(uv[:8].min(axis=0))[1]


def _draw_caption(canvas: np.ndarray, peer: PeerEstimate, colour: tuple[int, int, int], top: int) -> None:
    """Distance, bearing, confidence and a row of LED dots above `top`, kept inside the picture."""
    height, width = canvas.shape[:2]
    distance = "no scale" if peer.distance is None else f"{peer.distance:.2f} m"
    text = f"{distance}  psi {math.degrees(peer.psi):+.0f} deg  {peer.confidence:.0%}"
    (text_width, text_height), _ = cv2.getTextSize(text, _FONT, 0.45, 1)
    x = min(max(_pixel(peer.uv)[0] - text_width // 2, 4), max(width - text_width - 4, 4))
    y = min(max(top - 28, text_height + 4), height - 30)
    _draw_text(canvas, text, x, y, colour)
    for k, probability in enumerate(peer.led_probability):
        centre = (x + 6 + 14 * k, y + 12)
        cv2.circle(canvas, centre, 6, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(canvas, centre, 5, probability_colour(float(probability)), -1, cv2.LINE_AA)


def _draw_text(canvas: np.ndarray, text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    """Text with a dark rim, legible on every background."""
    # Not a thicker copy below: OpenCV 5 spaces letters by their weight.
    for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        cv2.putText(canvas, text, (x + dx, y + dy), _FONT, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(canvas, text, (x, y), _FONT, 0.45, colour, 1, cv2.LINE_AA)


def _pixel(uv: np.ndarray) -> tuple[int, int]:
    """Rounded pixel, limited to what OpenCV's drawing can take."""
    u, v = np.clip(np.round(uv), -30000, 30000).astype(int)
    return int(u), int(v)
