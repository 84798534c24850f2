# SPDX-License-Identifier: Apache-2.0
"""Pictures of an evaluation and of a synchronisation, as PNG files."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ledpose_ros.errors import LedposeError
from ledpose_ros.evaluation import Evaluation
from ledpose_ros.metrics import bearing_errors, position_errors_px
from ledpose_ros.paths import check_new
from ledpose_ros.recording import Recording
from ledpose_ros.synchronisation import Synchronisation

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TRUE, SAID = "#2ca02c", "#d62728"
PLOTS = ("predictions.png", "errors.png", "bearings.png", "distances.png")


def check_plots(directory: Path) -> None:
    """Refuse a directory that is none, or that holds any of the plots already."""
    for name in PLOTS:
        check_new(directory / name, ".png")


def write_plots(evaluation: Evaluation, recording: Recording, directory: Path) -> list[Path]:
    """Write predictions on images, errors against distance and bearing, and distances; returns the files."""
    directory.mkdir(parents=True, exist_ok=True)
    figures = [
        predictions_on_images(evaluation, recording),
        errors_against_pose(evaluation),
        bearing_scatter(evaluation),
    ]
    if np.isfinite(evaluation.said.distance).any():
        figures.append(distance_scatter(evaluation))
    written = [directory / name for name in PLOTS[: len(figures)]]
    for path, figure in zip(written, figures, strict=True):
        write_figure(figure, path)
    return written


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and close it; LedposeError if that cannot be written there."""
    try:
        figure.savefig(path, dpi=100)
    except OSError as error:
        raise LedposeError(f"cannot write {path}: {error.strerror}") from error
    finally:
        plt.close(figure)


def predictions_on_images(
    evaluation: Evaluation, recording: Recording, rows: int = 4, columns: int = 3
) -> Figure:
    """Images spread over the recording, true (green) and estimated (red) place, bearing and distance.

    A dial beside each place shows psi: its hand points to the camera as seen from the peer, front up.
    """
    true, said = evaluation.true, evaluation.said
    picks = np.unique(np.linspace(0, len(true.index) - 1, rows * columns).astype(int))
    figure, axes = plt.subplots(rows, columns, figsize=(4.8 * columns, 2.7 * rows), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, pick in zip(axes.flat, picks, strict=False):
        axis.imshow(recording.image(int(true.index[pick])))
        height, width = evaluation.info.height, evaluation.info.width
        for answer, colour, corner in ((true, TRUE, 0.06), (said, SAID, 0.16)):
            axis.plot(*answer.uv[pick], marker="+", markersize=14, markeredgewidth=2, color=colour)
            centre = np.array([corner * width, 0.12 * height])
            hand = 0.045 * width * np.array([-np.sin(answer.psi[pick]), -np.cos(answer.psi[pick])])
            axis.add_patch(
                plt.Circle(
                    (corner * width, 0.12 * height), 0.045 * width, color="black", alpha=0.5, linewidth=0
                )
            )
            axis.plot(*np.stack([centre, centre + hand]).T, color=colour, linewidth=2)
        axis.set_title(
            f"{true.distance[pick]:.2f} m, said {said.distance[pick]:.2f} m", fontsize=9, loc="left", pad=2
        )
        axis.set_xlim(0, width)
        axis.set_ylim(height, 0)
    return figure


def errors_against_pose(evaluation: Evaluation) -> Figure:
    """Median and quartiles of the errors in bins of true distance and true bearing."""
    true, said = evaluation.true, evaluation.said
    errors = {
        "position error [px]": position_errors_px(said.uv, true.uv),
        "bearing error [deg]": np.degrees(bearing_errors(said.psi, true.psi)),
    }
    if np.isfinite(said.distance).any():
        errors["distance error [%]"] = 100 * np.abs(said.distance - true.distance) / true.distance
    against = {
        "true distance [m]": (true.distance, np.linspace(true.distance.min(), true.distance.max() + 1e-6, 9)),
        "true bearing psi [deg]": (np.degrees(true.psi), np.linspace(-180, 180.001, 13)),
    }
    figure, axes = plt.subplots(len(errors), 2, figsize=(10, 8), layout="constrained", squeeze=False)
    for row, (error_name, error) in zip(axes, errors.items(), strict=True):
        for axis, (name, (values, edges)) in zip(row, against.items(), strict=True):
            bins = np.digitize(values, edges) - 1
            filled = [b for b in range(len(edges) - 1) if (bins == b).any()]
            quartiles = np.array([np.nanpercentile(error[bins == b], (25, 50, 75)) for b in filled])
            middle = np.array([(edges[b] + edges[b + 1]) / 2 for b in filled])
            axis.fill_between(middle, quartiles[:, 0], quartiles[:, 2], alpha=0.25, linewidth=0)
            axis.plot(middle, quartiles[:, 1], marker="o")
            axis.set(xlabel=name, ylabel=error_name, ylim=(0, None))
            axis.grid(alpha=0.3)
    figure.suptitle("Median and quartiles")
    return figure


def distance_scatter(evaluation: Evaluation) -> Figure:
    """Estimated against true distance."""
    figure, axis = plt.subplots(figsize=(5, 5), layout="constrained")
    true, said = evaluation.true.distance, evaluation.said.distance
    limit = 1.1 * max(true.max(), float(np.nanpercentile(said, 98)))
    axis.plot([0, limit], [0, limit], color="grey", linewidth=1)
    axis.scatter(true, said, s=8, alpha=0.5, color=SAID)
    axis.set(xlabel="true distance [m]", ylabel="estimated distance [m]", xlim=(0, limit), ylim=(0, limit))
    axis.grid(alpha=0.3)
    return figure


def bearing_scatter(evaluation: Evaluation) -> Figure:
    """Estimated against true bearing."""
    figure, axis = plt.subplots(figsize=(5, 5), layout="constrained")
    axis.plot([-180, 180], [-180, 180], color="grey", linewidth=1)
    axis.scatter(np.degrees(evaluation.true.psi), np.degrees(evaluation.said.psi), s=8, alpha=0.5, color=SAID)
    ticks = range(-180, 181, 90)
    axis.set(xlabel="true psi [deg]", ylabel="estimated psi [deg]", xticks=ticks, yticks=ticks)
    axis.grid(alpha=0.3)
    return figure


def loss_against_offset(found: Synchronisation) -> Figure:
    """The curve whose minimum is the offset, between the losses of unrelated states and of the best ones."""
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    axis.axvspan(found.fits_from, found.fits_to, color=SAID, alpha=0.15, linewidth=0, label="fits as well")
    axis.axhline(found.unrelated_loss, color="grey", linewidth=1, label="unrelated LED states")
    if found.recorded_loss is not None:
        axis.axhline(found.recorded_loss, color=TRUE, linewidth=1, label="LED states in the recording")
    axis.plot(found.offsets, found.losses)
    best = f"{found.led_offset:.3f} s, standard error {found.standard_error:.3f} s"
    axis.axvline(found.led_offset, color=SAID, label=best)
    axis.set(xlabel="led_offset [s]", ylabel="cross-entropy per LED [nat]", ylim=(0, None))
    axis.legend(fontsize=9)
    axis.grid(alpha=0.3)
    return figure
