# SPDX-License-Identifier: Apache-2.0
"""Make the computed pictures of the documentation, in docs/figures: `make figures`.

They show the shipped model in simulated rooms that it has never seen (seeds from 1000 on). architecture.svg
beside them is drawn by hand.
"""

import tempfile
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Polygon

from ledpose_ros import cli
from ledpose_ros.estimator import PeerEstimator
from ledpose_ros.learning.export import load_onnx
from ledpose_ros.learning.loss import FACING_SHARPNESS
from ledpose_ros.learning.network import (
    GLANCE_CELLS,
    LOOKS,
    WINDOW_CELLS,
    cut_windows,
    image_pyramid,
    window_side,
)
from ledpose_ros.learning.report import sight_figure
from ledpose_ros.leds import DEFAULT_LED_DIRECTIONS, DEFAULT_LED_NAMES
from ledpose_ros.model_metadata import DEFAULT_MODEL, TRAINABLE_MODEL, shipped_model
from ledpose_ros.recording import Recording
from ledpose_ros.visualization import draw_attention

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"

QUALITY = 80
"""Of JPEGs."""
FILM_WIDTH, FILM_COLOURS = 480, 96
UNCHANGED = 24
"""A film's pixel that differs by less than this from the last picture's keeps its colour: noise is bytes."""

COARSE, FIRST, SECOND = "#ff00ff", "#ff9f1c", "#d62728"


def main() -> None:
    """Render two recordings, make all figures, and say how large they are."""
    FIGURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        film, views = Path(folder) / "film.h5", Path(folder) / "views.h5"
        ledpose("simulate", "-o", film, "--count", 40, "--seed", 1019, "--scene-frames", 20)
        ledpose("estimate", film, "-o", film.with_suffix(".mp4"))
        ledpose("simulate", "-o", views, "--count", 12, "--seed", 1033, "--scene-frames", 1)
        write_film(film.with_suffix(".mp4"), FIGURES / "demo.gif")
        ledpose("inspect", views, "--contact-sheet", views.with_suffix(".png"))
        Image.open(views.with_suffix(".png")).save(FIGURES / "sheet.jpg", quality=QUALITY)
        with Recording(views) as recording:
            save(sights(recording, (0, 4, 8)), "sights.jpg")
            save(looks(recording, (1, 5)), "looks.jpg")
    save(bearing(), "bearing.png")
    for path in sorted(FIGURES.iterdir()):
        print(f"{path.relative_to(FIGURES.parents[1])}: {path.stat().st_size / 1000:.0f} kB")


def ledpose(*words: object) -> None:
    if cli.main([str(word) for word in words]):
        raise SystemExit(f"ledpose {words[0]} failed")


def save(figure: Figure, name: str) -> None:
    options = {"pil_kwargs": {"quality": QUALITY}} if name.endswith("jpg") else {}
    figure.savefig(FIGURES / name, dpi=90, **options)
    plt.close(figure)


def write_film(video: Path, gif: Path) -> None:
    """Make a small GIF of a video of 5 pictures a second whose scenes take 20 pictures."""
    capture, pictures = cv2.VideoCapture(str(video)), []
    while (read := capture.read())[0]:
        height = round(FILM_WIDTH * read[1].shape[0] / read[1].shape[1])
        small = cv2.resize(read[1], (FILM_WIDTH, height), interpolation=cv2.INTER_AREA)
        pictures.append(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))
    frames = []
    for first in range(0, len(pictures), 20):
        scene = pictures[first : first + 20]
        some = Image.fromarray(np.vstack(scene[::3]))
        palette = some.quantize(FILM_COLOURS, method=Image.Quantize.FASTOCTREE)
        shown = scene[0]
        for picture in scene:
            unchanged = np.abs(picture.astype(int) - shown).max(2, keepdims=True) < UNCHANGED
            shown = np.where(unchanged, shown, picture)
            frames.append(Image.fromarray(shown).quantize(palette=palette, dither=Image.Dither.NONE))
    frames[0].save(gif, save_all=True, append_images=frames[1:], duration=200, loop=0, optimize=True)


def sights(recording: Recording, indices: tuple[int, ...]) -> Figure:
    """What the shipped model sees in some pictures, as a training's report shows it."""
    estimator = PeerEstimator(shipped_model(DEFAULT_MODEL))
    samples = [(recording, index) for index in indices]
    return sight_figure(samples, [estimator.detect(recording.image(index)) for index in indices])


def looks(recording: Recording, indices: tuple[int, ...]) -> Figure:
    """From the coarse network's strongest peak to the peer, by a glance and two looks."""
    network, metadata = load_onnx(shipped_model(TRAINABLE_MODEL))
    figure, axes = plt.subplots(
        len(indices), 4, figsize=(13, 2.9 * len(indices)), width_ratios=(1.9, 1, 1, 1), layout="constrained"
    )
    for row, index in zip(axes, indices, strict=True):
        rgb = recording.image(index)
        with torch.no_grad():
            pyramid = image_pyramid(torch.from_numpy(rgb)[None])
            maps = network.coarse_maps(pyramid.halves)
            attention = maps.attention()
            window = network.find_peaks(attention, maps.log2_scale(), 1)[:2]
            row[0].imshow(draw_attention(rgb, attention.sum(1)[0].numpy()))
            *aimed, presence = network.aim(pyramid, *window)
            measured = aimed
            for _ in range(LOOKS):
                *measured, look = network.refine(pyramid, *measured)
            leds = " ".join(f"{p:.2f}" for p in look.leds[0].sigmoid().tolist())
            psi = np.degrees(np.arctan2(*look.bearing[0].flip(0).tolist()))
            words = f"a peer: {float(presence):.2f}", f"psi {psi:+.0f} deg\nLEDs {leds}", ""
            cells = GLANCE_CELLS, WINDOW_CELLS, WINDOW_CELLS
            colours = COARSE, FIRST, SECOND
            for axis, at, side, said, colour in zip(
                row[1:], (window, aimed, measured), cells, words, colours, strict=True
            ):
                draw_window(row[0], *at, colour)
                axis.imshow(np.clip(shown_window(cut_windows(pyramid, *at, side, side)), 0, 1))
                for spine in axis.spines.values():
                    spine.set(color=colour, linewidth=4)
                axis.set_xlabel(said, fontsize=9)
        row[0].set(xlim=(0, rgb.shape[1]), ylim=(rgb.shape[0], 0))
        true = " ".join(f"{state:.0f}" for state in recording.led_states[index])
        row[0].set_xlabel(f"true LEDs ({', '.join(metadata.led_names)}): {true}", fontsize=9)
        for axis in row:
            axis.set(xticks=[], yticks=[])
    titles = ("attention, and windows", "coarse peak", "after the glance", "after the looks")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    return figure


def draw_window(axis: Axes, uv: torch.Tensor, log2_scale: torch.Tensor, colour: str) -> None:
    side = float(window_side(log2_scale)[0, 0])
    corner = uv[0, 0].numpy() - side / 2
    axis.add_patch(plt.Rectangle(tuple(corner), side, side, fill=False, color=colour, linewidth=1.8))


def shown_window(window: torch.Tensor) -> np.ndarray:
    """A window (1, 3, H, W), normalised for the network, with its darkest and brightest at 0 and 1."""
    picture = window[0].permute(1, 2, 0).numpy()
    low, high = np.percentile(picture, (1, 99))
    return (picture - low) / (high - low)


def bearing() -> Figure:
    """The bearing psi seen from above, and how much each LED faces the camera at each psi."""
    figure, (above, facing) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    camera, peer = np.array([0.0, 0.0]), np.array([0.75, 1.55])
    towards = np.arctan2(*(camera - peer)[::-1])
    psi = np.radians(55)
    heading = towards - psi
    forward, left = direction(heading), direction(heading + np.pi / 2)
    corners = [x * 0.36 * forward + y * 0.26 * left + peer for x, y in ((1, 1), (1, -1), (-1, -1), (-1, 1))]
    above.add_patch(Polygon(corners, facecolor="#dddddd", edgecolor="black"))
    above.plot(*np.stack([camera, peer]).T, "--", color=SECOND)
    above.text(0.2, 0.72, "d", color=SECOND, fontsize=13)
    above.annotate("", peer + 0.85 * forward, peer, arrowprops={"arrowstyle": "-|>", "linewidth": 2})
    above.text(*(peer + 0.9 * forward), "x, its front", ha="right", va="center")
    above.add_patch(
        Arc(tuple(peer), 1.1, 1.1, theta1=np.degrees(heading), theta2=np.degrees(towards), color=SECOND)
    )
    above.text(*(peer + 0.68 * direction(heading + psi / 2)), "psi", color=SECOND, ha="center", fontsize=13)
    psis = np.radians(np.linspace(-180, 180, 361))
    for led, (name, alpha) in enumerate(zip(DEFAULT_LED_NAMES, DEFAULT_LED_DIRECTIONS, strict=True)):
        place = 0.36 * np.cos(alpha) * forward + 0.26 * np.sin(alpha) * left + peer
        above.plot(*place, "o", color=f"C{led}", markersize=11)
        share = 1 / (1 + np.exp(-FACING_SHARPNESS * np.cos(psis - alpha)))
        facing.plot(np.degrees(psis), share, color=f"C{led}", label=name)
    above.plot(*camera, "k^", markersize=14)
    above.text(0.14, -0.04, "camera", va="center")
    above.set(aspect="equal", xlim=(-1.2, 2.0), ylim=(-0.25, 2.1), title="from above")
    above.axis("off")
    facing.axvline(np.degrees(psi), color=SECOND, linestyle="--")
    facing.set(xlabel="psi [deg]", xticks=range(-180, 181, 90), title="how much each LED faces the camera")
    facing.grid(alpha=0.3)
    figure.legend(loc="outside lower right", ncols=len(DEFAULT_LED_NAMES), frameon=False)
    return figure


def direction(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle)])


if __name__ == "__main__":
    main()
