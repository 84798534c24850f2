# SPDX-License-Identifier: Apache-2.0
"""Errors with their sign: does a model look beside the peer, depending on which side it sees and how far?

Errors of the image position are given in robot lengths: the length's pixels are f * ROBOT_LENGTH / z.
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ledpose_ros.evaluation import Predictions, text_table
from ledpose_ros.geometry import wrap_angle

Array = NDArray[np.float64]

ROBOT_LENGTH = 0.32
"""Length [m] of the simulated robot."""
SECTORS = 8
DISTANCE_EDGES = (0.4, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.5)
"""Limits [m] of the distance bins."""

Quartiles = dict[str, Array]
"""For each bin by name: n, then lower quartile, median and upper quartile of each error in turn."""


def _quartiles(bins: Mapping[str, NDArray[np.bool_]], errors: Array) -> Quartiles:
    """Of errors (N, E) in bins, bool (N,) each; NaN where a bin is empty."""
    rows = {}
    for name, chosen in bins.items():
        inside = errors[chosen]
        known = np.isfinite(inside).all() and len(inside)
        quartiles = (
            np.percentile(inside, (25, 50, 75), axis=0) if known else np.full((3, errors.shape[1]), np.nan)
        )
        rows[name] = np.array([len(inside), *quartiles.T.ravel()])
    return rows


def position_bias(said: Predictions, true: Predictions, focal_length: float) -> Quartiles:
    """Errors du, dv [% of the robot's length] in sectors of the true bearing, named by their middle [deg]."""
    length = focal_length * ROBOT_LENGTH / true.position[:, 2]
    errors = 100 * (said.uv - true.uv) / length[:, None]
    width = 2 * np.pi / SECTORS
    sector = np.round(wrap_angle(true.psi) / width).astype(int) % SECTORS
    middles = {k: float(np.degrees(wrap_angle(k * width))) for k in range(SECTORS)}
    ordered = sorted(middles, key=lambda k: middles[k])
    return _quartiles({f"{middles[k]:.0f} deg": sector == k for k in ordered}, errors)


def distance_bias(said: Predictions, true: Predictions) -> Quartiles:
    """Error of log2 distance [octaves] in bins of the true distance; above 0 means said to be too far."""
    errors = np.log2(said.distance / true.distance)[:, None]
    edges = pairwise(DISTANCE_EDGES)
    return _quartiles(
        {f"{low:g}-{high:g} m": (true.distance >= low) & (true.distance < high) for low, high in edges},
        errors,
    )


def bias_tables(position: Quartiles, distance: Quartiles) -> str:
    """Both as text: medians, and the interquartile ranges (IQR)."""

    def columns(row: Array) -> list[float]:
        low, middle, high = row[1:].reshape(-1, 3).T
        return [row[0], *np.stack([middle, high - low], 1).ravel()]

    by_bearing = text_table(
        ["n", "du [%]", "IQR", "dv [%]", "IQR"], {name: columns(row) for name, row in position.items()}
    )
    by_distance = text_table(
        ["n", "log2 d [octaves]", "IQR"], {name: columns(row) for name, row in distance.items()}
    )
    return f"{by_bearing}\n\n{by_distance}"


def plot_bias(name: str, position: Quartiles, distance: Quartiles, path: Path) -> None:
    """Draw both, medians with quartiles, into a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    by_bearing, by_distance = figure.subplots(1, 2)
    panels = (
        (by_bearing, position, ("du", "dv"), "error [% of the robot's length]", "true bearing psi"),
        (by_distance, distance, (None,), "error of log2 distance [octaves]", "true distance"),
    )
    for axis, rows, labels, unit, against in panels:
        values = np.array(list(rows.values()))
        for column, label in enumerate(labels):
            low, middle, high = values[:, 1 + 3 * column : 4 + 3 * column].T
            axis.fill_between(range(len(rows)), low, high, alpha=0.25, linewidth=0)
            axis.plot(range(len(rows)), middle, marker="o", label=label)
        axis.axhline(0, color="grey", linewidth=1)
        axis.set(xlabel=against, ylabel=unit, xticks=range(len(rows)))
        axis.set_xticklabels(rows, rotation=30)
        axis.grid(alpha=0.3)
    by_bearing.legend(loc="upper right")
    figure.suptitle(f"{name}: median and quartiles")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
