# SPDX-License-Identifier: Apache-2.0
"""How accurate models are, in rooms that they have not seen, beside the paper and beside what is required.

Of several models, such as training runs with different seeds, the mean and the spread (standard deviation)
are shown as well. The recordings are rendered at the first run and then reused.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks import adaptation
from benchmarks.bias import bias_tables, distance_bias, plot_bias, position_bias
from benchmarks.command import benchmark_parser, new_file, run_command, verdict
from benchmarks.degradations import DEGRADATIONS
from benchmarks.recordings import (
    ABSENT,
    LEDS_OFF,
    LEDS_ON,
    ONE_DISTANCE,
    ONE_PICTURE,
    SETS,
    TEST,
    THREE_PEERS,
    TWO_PEERS,
    BenchmarkSet,
    leds_facing,
    leds_in_view,
    peers_of,
    provide,
)
from ledpose_ros import metrics
from ledpose_ros.calibration import Picture, Setup, calibrate
from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import PeerEstimator
from ledpose_ros.evaluation import (
    COLUMNS,
    Predictions,
    mean_predictor,
    predict,
    score,
    table,
    text_table,
    truth,
)
from ledpose_ros.geometry import Camera, project
from ledpose_ros.metrics import Metrics
from ledpose_ros.model_metadata import shipped_model
from ledpose_ros.parameters import default_of
from ledpose_ros.recording import Recording
from ledpose_ros.uncertainty import COMPONENTS, coverage

ERRORS = ("E_uv", "E_psi", "E_d", "E_xyz")
"""Columns in which less is better; in the others it is more."""
TITLES = [title for _, title in COLUMNS]

NAN = float("nan")
PAPER = {
    "paper: mean predictor": (141, 86, 34, 116, 10, 50, NAN),
    "paper: self-supervised": (17, 17, 24, 54, 70, 98, NAN),
    "paper: self-supervised, out of domain": (27, 55, 60, 66, 29, 89, NAN),
    "paper: CNOS (3-D model)": (13, 72, 35, 77, 25, NAN, NAN),
    "paper: upper bound (pose labels)": (18, 14, 11, 33, 93, 99, NAN),
}
"""Table 1 of Carlotti, Nava, Giusti, CoRL 2025 (arXiv 2509.10405), on a test set of real robots, 640x360."""
REQUIRED = {"E_uv": 12, "E_psi": 14, "E_d": 11, "E_xyz": 33, "gamma": 93, "auc": 99}
AIM = {"E_uv": 5, "E_psi": 6, "E_d": 5, "E_xyz": 12, "gamma": 98, "auc": 99.5}
ALLOWED_RATIO = 1.3
"""How much larger errors may be with all LEDs off or on than with random states."""
REQUIRED_PRESENCE = 97
REQUIRED_DETECTION = 90
ALLOWED_COVERAGE = {68: (60, 76), 95: (90, 99)}
"""Share of errors [%] within the intervals that should hold 68 and 95 %."""
ONE_CALIBRATION = "one calibration picture"
DETECTION_LIMIT = 20.0
"""Distance [px] within which a detection has found a peer."""
MIN_CONFIDENCE = cast(float, default_of("estimator", "min_confidence"))
"""Confidence from which on the estimator node publishes a peer."""

Row = Sequence[float]


def row_of(scores: Metrics) -> list[float]:
    """The metrics in the order of the table."""
    return list(scores.as_dict().values())


def limits_row(limits: Mapping[str, float]) -> list[float]:
    """Required or aimed at, in the order of the table."""
    return [limits.get(key, NAN) for key, _ in COLUMNS]


def met(values: Mapping[str, float], limits: Mapping[str, float]) -> list[str]:
    """The columns whose value is as good as its limit; what is unknown is not."""
    return [
        key
        for key, limit in limits.items()
        if (values[key] <= limit if key in ERRORS else values[key] >= limit)
    ]


def with_spread(rows: Mapping[str, Row]) -> dict[str, Row]:
    """The rows, and of several their mean and spread, the standard deviation."""
    if len(rows) < 2:
        return dict(rows)
    values = np.array(list(rows.values()), float)
    return {**rows, "mean": values.mean(0).tolist(), "spread": values.std(0, ddof=1).tolist()}


def error_ratios(scores: Metrics, usual: Metrics) -> dict[str, float]:
    """Errors as multiples of the usual ones."""
    return {key: getattr(scores, key) / getattr(usual, key) for key in ERRORS}


def names_of(models: Iterable[Path]) -> list[str]:
    """File names without suffix where they differ, otherwise whole paths."""
    models = list(models)
    stems = [model.stem for model in models]
    return stems if len(set(stems)) == len(stems) else [str(model) for model in models]


# --- measuring ----------------------------------------------------------------------------------------------


class Bench:
    """The benchmark's recordings, opened, and what is true of them."""

    def __init__(self, directory: Path, files: ExitStack) -> None:
        self.directory = directory
        self.recordings = {
            wanted: files.enter_context(Recording(provide(wanted, directory))) for wanted in SETS
        }
        self.true = {wanted: truth(self.recordings[wanted]) for wanted in (TEST, LEDS_OFF, LEDS_ON)}
        self.in_view = leds_in_view(self.recordings[TEST], self.true[TEST].index)
        self.facing = leds_facing(self.recordings[TEST], self.true[TEST].index)
        for forced in (LEDS_OFF, LEDS_ON):
            if not np.array_equal(self.true[forced].position, self.true[TEST].position):
                raise LedposeError(
                    f"{forced.path(directory)} and {TEST.path(directory)} do not show the same poses: "
                    "remove both, and they are rendered anew"
                )

    def score(self, said: Predictions, wanted: BenchmarkSet) -> Metrics:
        """The row of what was said of a set that shows the poses of TEST; LEDs count where they are seen."""
        return score(said, self.true[wanted], self.in_view)

    def predict(self, estimator: PeerEstimator, wanted: BenchmarkSet) -> Predictions:
        """What the model says of the images of a set in which the peer is visible."""
        return predict(estimator, self.recordings[wanted], self.true[wanted].index)


def measure(model: Path, bench: Bench) -> dict[str, Any]:
    """All figures of a model, ready for JSON but for the Metrics and the arrays of quartiles."""
    estimator = PeerEstimator(model)
    test, true = bench.recordings[TEST], bench.true[TEST]
    said = bench.predict(estimator, TEST)
    published = said.confidence >= MIN_CONFIDENCE
    absent = bench.recordings[ABSENT]
    confidence = predict(estimator, absent, np.arange(len(absent))).confidence
    recall, precision = several_peers(estimator, bench)
    one_picture = bench.predict(with_one_picture(model, bench), TEST)
    by_bearing = metrics.facing_leds(true.psi, test.info.led_directions)
    focal_length = float(test.info.K[0, 0])
    return {
        "accuracy": bench.score(said, TEST),
        "one picture": bench.score(one_picture, TEST),
        "auc_facing": metrics.led_auc(said.led_probability, true.led_probability, bench.facing),
        "auc_by_bearing": metrics.led_auc(said.led_probability, true.led_probability, by_bearing),
        "leds": {
            "all off": bench.score(bench.predict(estimator, LEDS_OFF), LEDS_OFF),
            "all on": bench.score(bench.predict(estimator, LEDS_ON), LEDS_ON),
        },
        "presence": metrics.presence_auc(
            np.concatenate([said.confidence, confidence]),
            np.arange(len(said.index) + len(absent)) < len(said.index),
        ),
        "recall": recall,
        "precision": precision,
        "robustness": {
            name: bench.score(predict(estimator, test, true.index, change), TEST)
            for name, change in DEGRADATIONS.items()
        },
        # Of what the estimator node would publish.
        "coverage": coverage(said.of(published), true.of(published)),
        "position_bias": position_bias(said, true, focal_length),
        "distance_bias": distance_bias(said, true),
        # Of where windows settle: one picture tells how large a robot is, and no more.
        "one picture, position_bias": position_bias(one_picture, true, focal_length),
        "one picture, distance_bias": distance_bias(one_picture, true),
    }


def with_one_picture(model: Path, bench: Bench) -> PeerEstimator:
    """The model, calibrated as the paper does: by nothing but the peer's distance in one picture."""
    estimator, recording = PeerEstimator(model), bench.recordings[ONE_PICTURE]
    estimator.metadata = replace(estimator.metadata, calibration=None)
    info = recording.info
    picture = Picture(str(recording.path), recording.image(0), ONE_DISTANCE)
    calibration, _ = calibrate(estimator, [picture], Setup(Camera(info.K, info.D, info.distortion_model)))
    estimator.metadata = replace(estimator.metadata, calibration=calibration)
    return estimator


def several_peers(estimator: PeerEstimator, bench: Bench) -> tuple[float, float]:
    """Recall and precision [%] with two and three peers, of what the estimator node would publish."""
    found, peers, seen = [], [], []
    for wanted in (TWO_PEERS, THREE_PEERS):
        recording = bench.recordings[wanted]
        info = recording.info
        camera = info.K, info.D, info.distortion_model
        for index, (poses, visible) in enumerate(zip(*peers_of(wanted, bench.directory), strict=True)):
            estimates = estimator.estimate(recording.image(index), *camera, MIN_CONFIDENCE)
            found.append([peer.uv for peer in estimates])
            peers.append(project(poses[:, :3], *camera))
            seen.append(visible)
    return metrics.recall_and_precision(found, peers, seen, DETECTION_LIMIT)


# --- reporting ----------------------------------------------------------------------------------------------


def report(results: Mapping[str, Mapping[str, Any]], mean: Metrics) -> str:
    """Everything that was measured of the models, by name, as text; `mean` is the mean predictor's row."""
    return "\n\n".join(
        [
            accuracy_section(
                {name: result["accuracy"] for name, result in results.items()},
                {f"{name}, {ONE_CALIBRATION}": result["one picture"] for name, result in results.items()},
                mean,
            ),
            hidden_section(results),
            leds_section(results),
            shares_section(results),
            robustness_section(results),
            coverage_section({name: result["coverage"] for name, result in results.items()}),
            *(
                f"== Bias of {name}{calibration}: by true bearing in shares of the robot's length, by true "
                f"distance\n{bias_tables(result[f'{of}position_bias'], result[f'{of}distance_bias'])}"
                for name, result in results.items()
                for calibration, of in (("", ""), (f", {ONE_CALIBRATION}", "one picture, "))
            ),
        ]
    )


def accuracy_section(
    scores: Mapping[str, Metrics], of_one_picture: Mapping[str, Metrics], mean: Metrics
) -> str:
    """The main table, and which columns are as good as required."""
    rows = with_spread({name: row_of(row) for name, row in scores.items()})
    rows |= {name: row_of(row) for name, row in of_one_picture.items()}
    lines = [
        "== Accuracy in unseen rooms",
        text_table(
            TITLES,
            {
                **rows,
                "mean predictor": row_of(mean),
                **PAPER,
                "required": limits_row(REQUIRED),
                "aim": limits_row(AIM),
            },
        ),
    ]
    for name in (name for name in rows if name != "spread"):
        values = dict(zip((key for key, _ in COLUMNS), rows[name], strict=True))
        reached = met(values, REQUIRED)
        missed = [key for key in REQUIRED if key not in reached]
        lines.append(
            f"{name}: required met in {', '.join(reached) or 'nothing'}; missed in "
            f"{', '.join(missed) or 'nothing'}; aim met in {', '.join(met(values, AIM)) or 'nothing'}"
        )
    return "\n".join(lines)


def hidden_section(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The AUC with LEDs that the camera cannot see."""
    lines = [f"AUC counts LEDs that are in the picture and face the camera; {REQUIRED['auc']} or more:"]
    for words, key in (
        ("with those that face it beyond the picture's edge", "auc_facing"),
        (
            "with those that the bearing alone puts on its side, hidden by the robot's own edge",
            "auc_by_bearing",
        ),
    ):
        found = {name: result[key] for name, result in results.items()}
        values = ", ".join(f"{value:.1f} ({name})" for name, value in found.items())
        is_met = all(value >= REQUIRED["auc"] for value in found.values())  # unknown is not met
        lines.append(f"{words}: {values}, {verdict(is_met)}")
    return "\n".join(lines)


def leds_section(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Rows and ratios with all LEDs off and on."""
    ratios = {
        f"{name}, {state}": error_ratios(scores, result["accuracy"])
        for name, result in results.items()
        for state, scores in result["leds"].items()
    }
    worst = np.max([list(row.values()) for row in ratios.values()])  # NaN if any is: unknown is not met
    rows = {
        f"{name}, {state}": row_of(scores)
        for name, result in results.items()
        for state, scores in {"random": result["accuracy"], **result["leds"]}.items()
    }
    return "\n".join(
        [
            "== LED states must not matter: the same scenes with all LEDs off and on",
            text_table(TITLES, rows),
            "",
            "Errors as multiples of those with random states:",
            text_table(ERRORS, {name: list(row.values()) for name, row in ratios.items()}),
            f"Largest: {worst:.3g}, allowed {ALLOWED_RATIO}: {verdict(worst <= ALLOWED_RATIO)}.",
        ]
    )


def shares_section(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Presence and several peers."""
    keys = ("presence", "recall", "precision")
    rows = with_spread({name: [result[key] for key in keys] for name, result in results.items()})
    limits = (REQUIRED_PRESENCE, REQUIRED_DETECTION, REQUIRED_DETECTION)
    passed = [
        all(value >= limit for value, limit in zip(rows[name], limits, strict=True)) for name in results
    ]
    return "\n".join(
        [
            "== Presence: ROC area of the confidence, images with against images without a peer\n"
            "== Several peers: recall and precision with two and three of them, "
            f"confidence from {MIN_CONFIDENCE}, within {DETECTION_LIMIT:g} px",
            text_table(
                ["presence [%]", "recall [%]", "precision [%]"], {**rows, "required, at least": limits}
            ),
            f"All of it: {verdict(all(passed))}.",
        ]
    )


def robustness_section(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Rows of degraded pictures."""
    rows = {
        f"{name}, {how}": row_of(scores)
        for name, result in results.items()
        for how, scores in {"as they are": result["accuracy"], **result["robustness"]}.items()
    }
    return f"== Robustness: the same pictures made worse\n{text_table(TITLES, rows)}"


def coverage_section(coverages: Mapping[str, Mapping[int, NDArray[np.float64]]]) -> str:
    """How many errors lie within the stated intervals."""
    rows = {
        f"{name}, {percentage} %": shares.tolist()
        for name, found in coverages.items()
        for percentage, shares in found.items()
    }
    passed = all(
        (low <= shares).all() and (shares <= high).all()
        for found in coverages.values()
        for (low, high), shares in ((ALLOWED_COVERAGE[p], shares) for p, shares in found.items())
    )
    allowed = " and ".join(f"{low} to {high} %" for low, high in ALLOWED_COVERAGE.values())
    return "\n".join(
        [
            "== Uncertainty: share of errors within the stated interval or, of positions, ellipsoid [%], "
            f"confidence from {MIN_CONFIDENCE}",
            text_table([*COMPONENTS, "position"], rows),
            f"Allowed {allowed}: {verdict(passed)}.",
        ]
    )


def adaptation_section(rows: Mapping[str, Metrics]) -> str:
    """Rows of another robot."""
    return "\n".join(
        [
            "== Another robot: scored on the second half, adapted to the first by LED states alone",
            table(rows),
        ]
    )


def as_json(value: Any) -> Any:
    """Dictionaries, lists and numbers of it, null for what is unknown."""
    if isinstance(value, Metrics):
        return as_json(value.as_dict())
    if isinstance(value, Mapping):
        return {key: as_json(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return [as_json(number) for number in value.tolist()]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- command ------------------------------------------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = benchmark_parser("benchmarks.accuracy", __doc__)
    parser.add_argument(
        "models",
        nargs="*",
        type=Path,
        default=[shipped_model()],
        metavar="MODEL",
        help="ONNX models, calibrated (the estimator's default)",
    )
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write all figures there as JSON")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw the bias of each model there")
    other = parser.add_argument_group("another robot")
    other.add_argument(
        "--other",
        type=Path,
        metavar="RECORDING",
        help="with ground truth: adapt to its first half, score on its second",
    )
    adaptation.add_options(other)
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    known = adaptation.KnownDistance.of(args)
    for option in ("calibration", "level"):
        if getattr(args, option) and not args.other:
            raise LedposeError(f"--{option} is for another robot: give its recording with --other")
    for model in args.models:
        # Better told now than after an hour.
        if PeerEstimator(model).metadata.calibration is None:
            raise LedposeError(f"{model} is not calibrated: give it a scale with `ledpose calibrate` first")
        if args.other:
            from ledpose_ros.learning.export import load_onnx

            load_onnx(model)  # And that a model is too coarse to adapt.
    halves = None
    if args.other:
        with Recording(args.other) as recording:
            halves = adaptation.split(recording, args.data)
    names = names_of(args.models)
    with ExitStack() as files:
        bench = Bench(args.data, files)
        results = {name: measure(model, bench) for name, model in zip(names, args.models, strict=True)}
        mean = bench.score(mean_predictor(bench.true[TEST]), TEST)
    print(report(results, mean))
    if args.plots:
        for name, result in results.items():
            path = args.plots / f"bias_{name.replace(os.sep, '_')}.png"
            plot_bias(name, result["position_bias"], result["distance_bias"], path)
            print(f"Wrote {path}.")
    summary = {"models": results, "mean predictor": mean}
    _write(summary, args.json)
    if halves is not None:
        options = ["--level"] if args.level else []
        rows: dict[str, Metrics] = {}
        for name, model in zip(names, args.models, strict=True):
            as_it_is = adaptation.evaluate_calibrated(model, model, halves[1], known)
            rows[f"{name}, as it is"] = as_it_is.model
            rows[f"{name}, adapted"] = adaptation.evaluate_adapted(model, halves, known, options).model
        rows["mean predictor"] = as_it_is.mean
        print(f"\n{adaptation_section(rows)}")
        _write({**summary, "other robot": rows}, args.json)


def _write(summary: Mapping[str, Any], path: Path | None) -> None:
    """What is known so far, to be kept whatever comes of the rest."""
    if path is not None:
        path.write_text(json.dumps(as_json(summary), indent=1) + "\n", encoding="utf-8")
        print(f"Wrote {path}.")


if __name__ == "__main__":
    sys.exit(run_command(run, make_parser()))
