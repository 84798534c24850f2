# SPDX-License-Identifier: Apache-2.0
"""One page that tells how a training run went: what was trained, its curves, and what the model now sees.

The page is a single file, with its pictures in it. True poses, where a recording has them, are looked at here
alone, after training.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from html import escape
from itertools import accumulate, pairwise
from pathlib import Path
from string import Template
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

from ledpose_ros import evaluation, plots
from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import Detections, PeerEstimator
from ledpose_ros.geometry import check_camera, depth_per_range, pixel_rays
from ledpose_ros.learning.trainer import CHECKPOINT_NAME, PRESETS, in_words, load_checkpoint
from ledpose_ros.learning.verdicts import Answers, Curve, dependence, plateaus, verdicts
from ledpose_ros.metrics import facing_leds, roc_area
from ledpose_ros.model_metadata import Calibration
from ledpose_ros.recording import Recording, RecordingInfo
from ledpose_ros.recording_check import Finding
from ledpose_ros.visualization import draw_attention, probability_colour

REPORT_NAME = "report.html"
SAMPLE = 200
"""Pictures that the model is asked about."""
SHOWN = 12

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Training report: $title</title>
<style>
body { font-family: sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: 0.2rem 1rem 0.2rem 0; vertical-align: top; }
th { font-weight: normal; color: #666; }
img { max-width: 100%; }
.warnings, .healthy { padding: 0.8rem 1.2rem; border-left: 0.5rem solid; }
.warnings { background: #fdecea; border-color: #d62728; }
.healthy { background: #eaf5ea; border-color: #2ca02c; }
</style>
</head>
<body>
<h1>Training report: $title</h1>
$verdicts
<h2>What was trained</h2>
$facts
<h2>Curves</h2>
$curves
<h2>What the model sees</h2>
<p>Pictures spread over the recordings: it was trained on them, others may be harder (<code>ledpose
evaluate</code>). Magenta: where the coarse network looks (attention). Square: the
window that the fine network looks at. Arrow: where the peer's front points, as seen from above, down being
towards the camera; the longer, the surer. Dots: the LED states, true and said.</p>
$pictures
<h2>LEDs</h2>
<p>Over $count pictures; on is said from a probability of 0.5. An LED that faces away from the camera cannot
be told, whatever the model has learned; whether it faces the camera is taken from the model's own bearing.
ROC area: 50 % is guessing. What is said of an LED that faces the camera should depend on its own state, and
on that of others only as far as the states do: otherwise the model sees that something is lit, but not which
LED.</p>
$leds
$dependence
$truth
</body>
</html>
""")


@dataclass(frozen=True)
class Report:
    """A written page, and what it warns of."""

    path: Path
    warnings: list[Finding]


def write_report(directory: Path, model: Path, recordings: Sequence[Path]) -> Report:
    """Write DIRECTORY/report.html about the run in this directory.

    `model` is what was exported from it, `recordings` what it was trained on. Raises LedposeError when the
    checkpoint, the model or a recording cannot be read.
    """
    state = load_checkpoint(directory / CHECKPOINT_NAME)
    estimator = PeerEstimator(model)
    led_names = tuple(state["led_names"])
    log = read_log(directory / "log")
    with ExitStack() as files:
        opened = [files.enter_context(Recording(path)) for path in recordings]
        samples = sample_pictures(opened)
        seen = [
            estimator.detect(recording.image(index))
            for recording, index in tqdm(samples, desc="Reporting", unit="image", leave=False)
        ]
        answers = _answers(samples, seen, np.asarray(state["led_directions"]), state["level"])
        found = verdicts(log.curves, answers, led_names)
        phases = [(phase["kind"], phase["steps"]) for phase in state["preset"]["phases"]]
        page = _PAGE.substitute(
            title=escape(directory.resolve().name),
            verdicts=_verdict_box(found),
            facts=_facts(state, log, opened, estimator.metadata.software),
            curves=_picture(_curve_figure(log.curves, phases, plateaus(answers.led_states)))
            if log.curves
            else "<p>The run was too short to log anything.</p>",
            pictures=_picture(sight_figure(samples, seen)),
            count=len(samples),
            leds=_led_table(answers, led_names),
            dependence=_picture(_dependence_figure(answers, led_names)),
            truth=_truth_section(samples, seen, estimator.metadata.calibration),
        )
    path = directory / REPORT_NAME
    path.write_text(page, encoding="utf-8")
    return Report(path, found)


@dataclass(frozen=True)
class Log:
    """What a run wrote for TensorBoard: curves by name, and the times [s since 1970] of all entries."""

    curves: dict[str, Curve]
    times: list[float]


def read_log(directory: Path) -> Log:
    """Read the event files of a run; those of a resumed one follow each other."""
    # It warns of every resumed run.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    curves, times = {}, []
    for name in events.Tags()["scalars"]:
        scalars = events.Scalars(name)
        curves[name] = Curve(
            np.array([scalar.step for scalar in scalars]), np.array([scalar.value for scalar in scalars])
        )
        times += [scalar.wall_time for scalar in scalars]
    return Log(curves, sorted(times))


def sample_pictures(recordings: Sequence[Recording]) -> list[tuple[Recording, int]]:
    """Samples spread evenly over all recordings, each with its index in the recording."""
    every = [(recording, index) for recording in recordings for index in range(len(recording))]
    picks = np.linspace(0, len(every) - 1, min(SAMPLE, len(every))).astype(int)
    return [every[pick] for pick in picks]


def _answers(
    samples: Sequence[tuple[Recording, int]],
    seen: Sequence[Detections],
    led_directions: NDArray[np.float64],
    level: bool,
) -> Answers:
    """What is said of the pictures of the samples, whose cameras are `level` or not known to be."""
    infos = [recording.info for recording, _ in samples]
    sizes = np.array([(info.width, info.height) for info in infos])
    psi = np.array([one.psi[0] for one in seen], float)
    return Answers(
        uv=np.array([one.uv[0] for one in seen]) / sizes,
        log2_scale=np.array([one.log2_scale[0] for one in seen], float),
        psi=psi,
        confidence=np.concatenate([one.confidence for one in seen]),
        led_probability=np.array([one.led_probability[0] for one in seen], float),
        led_states=np.array([recording.led_states[index] for recording, index in samples], float),
        facing=facing_leds(psi, led_directions),
        on_floor=_below_horizon(infos, seen) if level else None,
    )


def _below_horizon(infos: Sequence[RecordingInfo], seen: Sequence[Detections]) -> NDArray[np.bool_]:
    """Whether the first peak of each picture (N,) lies where a level camera sees the floor."""
    rays = [
        pixel_rays(one.uv[:1], info.K, info.D, info.distortion_model)[0]
        for info, one in zip(infos, seen, strict=True)
    ]
    return np.array(rays)[:, 1] > 0


# --- sections -----------------------------------------------------------------------------------------------


def _verdict_box(found: Sequence[Finding]) -> str:
    if not found:
        return (
            '<p class="healthy">No warnings: the losses left their plateaus, the LEDs are told apart, and '
            "different pictures get different answers.</p>"
        )
    items = "".join(f"<li><b>{escape(finding.what)}.</b> {escape(finding.advice)}.</li>" for finding in found)
    return f'<div class="warnings">Warnings:<ul>{items}</ul></div>'


def _table(rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    """An HTML table; the first cell of a row names it."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, *cells in rows
    )
    return f"<table>{f'<tr>{head}</tr>' if header else ''}{body}</table>"


def _facts(state: dict[str, Any], log: Log, recordings: Sequence[Recording], software: str) -> str:
    """What was trained, from what, for how long and by which software."""
    preset, steps = state["preset"], sum(phase["steps"] for phase in state["preset"]["phases"])
    name = next((name for name, known in PRESETS.items() if asdict(known.scaled(steps)) == preset), "own")
    rows = []
    for recording in recordings:
        # Recordings of other folders may bear the same name.
        known = [digest[:12] for name, digest in state["digests"] if name == recording.path.name]
        pictures = f"{len(recording)} pictures of {recording.info.width} x {recording.info.height}"
        words = f"{recording.path.name}: {pictures}, SHA-256 {' or '.join(known) or 'unknown'}"
        rows.append(("recording", words))
    rows += [
        ("LEDs", ", ".join(state["led_names"])),
        ("started from", "a model" if state["adapting"] else "random weights"),
        ("preset", f"{name}: {in_words(preset)}"),
        ("steps", f"{state['step']} of {steps}"),
        ("seed", str(state["seed"])),
    ]
    if log.times:
        began, ended = (datetime.fromtimestamp(log.times[end]) for end in (0, -1))
        minutes = (log.times[-1] - log.times[0]) / 60
        rows.append(("logged", f"{began:%Y-%m-%d %H:%M} to {ended:%Y-%m-%d %H:%M}, {minutes:.0f} min"))
    rows.append(("software", f"{software}, PyTorch {torch.__version__}"))
    return _table(rows)


def _led_table(answers: Answers, led_names: Sequence[str]) -> str:
    """True against said state of each LED."""
    on, said_on = answers.led_states > 0.5, answers.led_probability > 0.5
    rows = []
    for led, name in enumerate(led_names):
        true, said = on[:, led], said_on[:, led]
        counts = [(true & said).sum(), (true & ~said).sum(), (~true & said).sum(), (~true & ~said).sum()]
        right, seen = true == said, answers.facing[:, led]
        rows.append(
            (
                name,
                *(str(count) for count in counts),
                f"{100 * right.mean():.0f} %",
                f"{100 * right[seen].mean():.0f} % of {seen.sum()}" if seen.any() else "-",
                f"{100 * roc_area(answers.led_probability[:, led], true):.0f} %"
                if 0 < true.mean() < 1
                else "-",
            )
        )
    header = (
        "",
        "on, said on",
        "on, said off",
        "off, said on",
        "off, said off",
        "right",
        "right where facing",
    )
    return _table(rows, (*header, "ROC area"))


def _truth_section(
    samples: Sequence[tuple[Recording, int]], seen: Sequence[Detections], calibration: Calibration | None
) -> str:
    """The model against true poses, those of the recording that has most of them; empty without any."""
    sampled: dict[Recording, dict[int, Detections]] = {}
    for (recording, index), one in zip(samples, seen, strict=True):
        sampled.setdefault(recording, {})[index] = one
    truths = {recording: _sampled_truth(recording, list(of)) for recording, of in sampled.items()}
    recording, true = max(truths.items(), key=lambda item: len(item[1].index) if item[1] else 0)
    if true is None:
        return ""
    detections = [sampled[recording][index] for index in true.index]
    note = ""
    if calibration is None:
        calibration = _fitting_calibration(recording, true, detections)
        note = " The model knows no scale yet; it was given the one that fits these poses best."
    said = evaluation.best_peers(detections, calibration, recording.info, true.index)
    scored = evaluation.compare(recording.info, true, said)
    table = evaluation.table({"model": scored.model, "mean predictor": scored.mean})
    figures = (
        plots.errors_against_pose(scored),
        plots.distance_scatter(scored),
        plots.bearing_scatter(scored),
    )
    return (
        f"<h2>Against the truth</h2>\n<p>{len(true.index)} pictures of {escape(recording.path.name)} in "
        f"which the peer is visible, with true poses that training never saw.{note}</p>\n"
        f"<pre>{escape(table)}</pre>\n" + "\n".join(map(_picture, figures))
    )


def _sampled_truth(recording: Recording, indices: Sequence[int]) -> evaluation.Predictions | None:
    """The true poses of these pictures in which the peer is visible; None without any, or any camera."""
    ground_truth = recording.ground_truth()
    if ground_truth is None or not ground_truth.valid[indices].any():
        return None
    info = recording.info
    try:
        check_camera(info.K, info.D, info.distortion_model)
        true = evaluation.truth(recording)
    except LedposeError:
        # The check of the recordings has told of the camera; and true poses go on where it sees no peer.
        return None
    visible = np.isin(true.index, indices)
    return true.of(visible) if visible.any() else None


def _fitting_calibration(
    recording: Recording, true: evaluation.Predictions, detections: Sequence[Detections]
) -> Calibration:
    """The constant c with which half of the distances come out too far and half too near."""
    info = recording.info
    camera = info.K, info.D, info.distortion_model
    depth = true.distance * depth_per_range(pixel_rays(true.uv, *camera), *camera)
    constants = np.log2(depth) - [one.log2_scale[0] for one in detections]
    return Calibration(
        c=float(np.median(constants)),
        images=len(constants),
        residual=float(constants.std()),
        width=info.width,
        focal_length=float(info.K[0, 0]),
    )


# --- figures ------------------------------------------------------------------------------------------------


def _picture(figure: Figure) -> str:
    """The figure as an HTML image that holds its own data."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=80)
    plt.close(figure)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'


def _curve_figure(
    curves: Mapping[str, Curve], phases: Sequence[tuple[str, int]], guessing: Mapping[str, float]
) -> Figure:
    """Every logged quantity over the steps, with the phases as bands and the plateaus of guessing dashed."""
    columns = 3
    rows = -(-len(curves) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(14, 2.3 * rows), layout="constrained", squeeze=False)
    colours = {kind: f"C{number}" for number, kind in enumerate(dict.fromkeys(kind for kind, _ in phases))}
    edges = [0, *accumulate(steps for _, steps in phases)]
    for axis in axes.flat[len(curves) :]:
        axis.axis("off")
    for axis, (name, curve) in zip(axes.flat, curves.items(), strict=False):
        for (kind, _), (first, last) in zip(phases, pairwise(edges), strict=True):
            axis.axvspan(first, last, color=colours[kind], alpha=0.15, linewidth=0)
            axis.axvline(last, color="grey", linewidth=0.5)
            inside = (curve.steps > first) & (curve.steps <= last)
            if inside.any():
                # Averaged in each phase alone: between them losses jump.
                part = Curve(curve.steps[inside], curve.values[inside])
                axis.plot(part.steps, part.values, color="black", alpha=0.25, linewidth=0.8)
                axis.plot(part.steps, part.smooth(), color="black", linewidth=1.4)
        if name in guessing:
            axis.axhline(guessing[name], color="#d62728", linestyle="--", linewidth=1)
        axis.set_title(name, fontsize=10, loc="left")
        axis.grid(alpha=0.3)
    handles = [Patch(color=colour, alpha=0.15, label=kind) for kind, colour in colours.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False)
    return figure


def sight_figure(samples: Sequence[tuple[Recording, int]], seen: Sequence[Detections]) -> Figure:
    """What the model sees in some of the samples, at most SHOWN, spread over them."""
    picks = np.linspace(0, len(samples) - 1, min(SHOWN, len(samples))).astype(int)
    columns = 3
    rows = -(-len(picks) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(14, 3.1 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, pick in zip(axes.flat, picks, strict=False):
        recording, index = samples[pick]
        _draw_sight(axis, recording, index, seen[pick])
    return figure


def _draw_sight(axis: Axes, recording: Recording, index: int, one: Detections) -> None:
    """A picture with attention, window and bearing, and the LED states below it."""
    info = recording.info
    axis.imshow(draw_attention(recording.image(index), one.attention))
    side = float(one.window_side[0])
    u, v = one.uv[0]
    window = plt.Rectangle(
        (u - side / 2, v - side / 2), side, side, fill=False, color=plots.SAID, linewidth=1.5
    )
    axis.add_patch(window)
    window.set_clip_path(plt.Rectangle((0, 0), info.width, info.height, transform=axis.transData))
    cosine, sine = one.bearing[0]
    axis.annotate(
        "",
        (u - side / 2 * sine, v + side / 2 * cosine),
        (u, v),
        arrowprops={"arrowstyle": "-|>", "color": plots.SAID, "linewidth": 2, "shrinkA": 0, "shrinkB": 0},
    )
    step = 0.05 * info.height
    for row, states in enumerate((recording.led_states[index], one.led_probability[0])):
        centre = info.height + (1.6 + 1.4 * row) * step
        axis.text(0.01 * info.width, centre, ("true", "said")[row], fontsize=8, va="center")
        for led, state in enumerate(states):
            left = (0.12 + 0.88 * led / len(states)) * info.width
            colour = np.array(probability_colour(float(state))) / 255
            axis.add_patch(plt.Circle((left + step, centre), 0.6 * step, facecolor=colour, edgecolor="grey"))
            text = info.led_names[led] if row == 0 else f"{state:.2f}"
            axis.text(left + 2 * step, centre, text, fontsize=8, va="center")
    axis.set_title(
        f"{recording.path.name} {index}: psi {np.degrees(one.psi[0]):+.0f} deg, "
        f"log2 scale {one.log2_scale[0]:+.1f}, confidence {one.confidence[0]:.2f}",
        fontsize=8,
        loc="left",
        pad=3,
    )
    axis.set_xlim(0, info.width)
    axis.set_ylim(info.height + 4 * step, 0)


def _dependence_figure(answers: Answers, led_names: Sequence[str]) -> Figure:
    """What is said of each LED, where it faces the camera, against the states of all."""
    figure, axis = plt.subplots(figsize=(5, 4), layout="constrained")
    matrix = dependence(answers)
    axis.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
    for (row, column), value in np.ndenumerate(matrix):
        colour = "white" if abs(value) > 0.6 else "black"
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color=colour)
    axis.set_xticks(range(len(led_names)), led_names)
    axis.set_yticks(range(len(led_names)), led_names)
    axis.set(xlabel="state of", ylabel="said, where it faces the camera, of")
    axis.set_title("Correlation", fontsize=10)
    return figure
