# SPDX-License-Identifier: Apache-2.0
"""Run the whole loop for real, in simulation: record, adapt, calibrate, estimate, compare with the truth.

Two robots drive through simulated rooms; simulator, recorder and estimator are processes of their own that
talk over DDS on this machine. Recording, models, pictures, logs and report are left in the output folder.
Ends with status 1 if the published poses are worse than always saying the mean.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Pose, PoseArray, PoseStamped, PoseWithCovarianceStamped
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sensor_msgs.msg import Image, JointState
from tqdm import tqdm

from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import PeerEstimator
from ledpose_ros.evaluation import Predictions, mean_predictor, score, table
from ledpose_ros.geometry import project, relative_bearing
from ledpose_ros.images import encode_image, rgb_from_message
from ledpose_ros.leds import HeldState, LedHistory, stamp_ns
from ledpose_ros.live_graph import Listener, running_nodes, use_private_domain
from ledpose_ros.metrics import facing_leds
from ledpose_ros.model_metadata import TRAINABLE_MODEL, shipped_model
from ledpose_ros.parameters import parameter_of
from ledpose_ros.paths import check_folder
from ledpose_ros.plots import SAID, TRUE
from ledpose_ros.recording import Recording, RecordingInfo
from ledpose_ros.recording_check import TOO_FEW

Array = NDArray[np.float64]

RATE = 8.0
"""Pictures a second that the simulator is asked for: what two cores render while the other nodes run."""

SCENE_SECONDS = 10.0
"""Time after which room, robots and light change."""

TAPE_MEASURE = 1.5
"""Distance [m] at which a person would put the peer for calibration."""

DEBUG_PICTURES = 12
RESULTS = {
    "report.txt": "this table",
    "recording.png": "pictures of the recording, with the LED states",
    "poses.png": "truth and published poses, from above and over time",
    "debug_images.png": "what the estimator saw, with its answers drawn on it",
    "calibration.png": "the picture that gave the model its scale",
    "model.onnx": "the adapted, calibrated model",
    "recordings/": "the recording",
    "adapted/": "the training run, with its report",
    "logs/": "what the nodes said",
}
MARK = ".ledpose_demo"
"""File that says that the results in a folder are those of a demo, which the next one may replace."""
DECISIVE = ("E_uv", "E_psi", "E_d", "E_xyz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ledpose demo`."""
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo_output"), metavar="DIR", help="demo_output"
    )
    parser.add_argument("--model", type=Path, metavar="MODEL", help="model to start from (the shipped one)")
    parser.add_argument("--samples", type=int, default=300, metavar="N", help="samples to record (300)")
    parser.add_argument(
        "--steps", type=int, default=80, metavar="N", help="optimiser steps of adaptation (80)"
    )
    parser.add_argument("--watch", type=float, default=60.0, metavar="S", help="seconds of estimation (60)")
    parser.add_argument("--seed", type=int, default=1, help="seed of rooms and drives (1)")


def run(args: argparse.Namespace) -> int:
    """Run all steps in order; 1 if the result is worse than the mean predictor."""
    started = time.monotonic()
    initial = args.model or shipped_model(TRAINABLE_MODEL)
    if not initial.is_file():
        raise LedposeError(f"there is no model {initial} to start from: give another one with --model")
    for name, least in (("samples", TOO_FEW), ("steps", 1), ("watch", 1), ("seed", 0)):
        if not getattr(args, name) >= least:
            raise LedposeError(f"--{name} {getattr(args, name)}: at least {least} is needed")
    output: Path = args.output
    make_room(output)
    use_private_domain()

    announce(
        1, f"Record {args.samples} samples of a peer with blinking LEDs: simulator and recorder, over DDS"
    )
    recording = record(output, args.samples, args.seed)
    ledpose("inspect", recording, "--contact-sheet", output / "recording.png")

    announce(2, "Adapt the model to this recording, from pictures and LED states alone")
    ledpose("train", recording, "-o", output / "adapted", "--init", initial, "--steps", args.steps)

    announce(3, "Export it and calibrate it on one picture of the peer at a known distance")
    model = output / "model.onnx"
    ledpose("export", output / "adapted" / "checkpoint.pt", "-o", model)
    picture, distance, focal_length = take_calibration_picture(recording, output)
    known = ("--image", picture, "--distance", f"{distance:.2f}", "--focal-length", f"{focal_length:.1f}")
    # One picture tells the scale; where the reference point lies is as in the model that it started from.
    like = ("--like", initial) if PeerEstimator(initial).metadata.calibration else ()
    ledpose("calibrate", model, *known, *like)

    announce(4, f"Estimate live in rooms never seen before, and listen for {args.watch:g} s")
    heard = estimate(output, model, args.watch, seed=args.seed + 1000)

    announce(5, "Compare what was published with the truth")
    with Recording(recording) as file:
        info = file.info  # The camera and the LEDs are the same.
    return report(heard, info, output, time.monotonic() - started)


def make_room(output: Path) -> None:
    """Remove the results of a demo before; LedposeError for a folder with results of something else."""
    check_folder(output)
    output.mkdir(parents=True, exist_ok=True)
    there = [output / name for name in RESULTS if (output / name).exists()]
    if there and not (output / MARK).exists():
        raise LedposeError(f"{there[0]} is not of a demo and would be replaced: give another folder with -o")
    (output / MARK).touch()
    for path in there:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def announce(step: int, what: str) -> None:
    print(f"\n== {step}. {what}", flush=True)


def ledpose(*arguments: object) -> None:
    """Run a command of `ledpose` as a user would, in a process of its own, and show it."""
    words = [str(argument) for argument in arguments]
    print(f"$ ledpose {shlex.join(words)}", flush=True)
    status = subprocess.run([sys.executable, "-m", "ledpose_ros.cli", *words]).returncode
    if status:
        raise LedposeError(f"the demo ends here, because 'ledpose {words[0]}' ended with status {status}")


# --- steps --------------------------------------------------------------------------------------------------


def simulator(seed: int) -> dict[str, object]:
    """Parameters of the simulator."""
    return {"seed": seed, "rate": RATE, "scene_duration": SCENE_SECONDS}


def record(output: Path, samples: int, seed: int) -> Path:
    """Record live until the recorder reports so many samples; return the file."""
    folder = output / "recordings"
    status: dict[str, str] = {}

    def on_status(message: DiagnosticStatus) -> None:
        status.update((item.key, item.value) for item in message.values)

    with (
        running_nodes(
            output / "logs", simulator=simulator(seed), recorder={"output_directory": folder}
        ) as processes,
        Listener() as listener,
        tqdm(total=samples, unit="sample", desc="Recording", mininterval=1.0) as bar,
    ):
        listener.hear(DiagnosticStatus, "recorder/status", on_status)
        listener.spin(lambda: int(status.get("samples", 0)), processes, bar)
    for reason in sorted(key for key in status if key.startswith("refused")):
        print(f"The recorder {reason}: {status[reason]} images.")
    files = sorted(folder.glob("*.h5"))
    if not files:
        raise LedposeError(f"the recorder left no finished recording in {folder}: see {output / 'logs'}")
    return files[0]


def take_calibration_picture(recording_path: Path, output: Path) -> tuple[Path, float, float]:
    """A picture with the peer well in view, its range [m] as a tape would measure it, the focal length [px].

    This range is the only true number that goes into the model.
    """
    with Recording(recording_path) as recording:
        info, truth = recording.info, recording.ground_truth()
        if truth is None or not truth.valid.any():
            raise LedposeError(f"{recording_path} never shows the peer, so there is nothing to calibrate on")
        distance = np.linalg.norm(truth.pose[:, :3], axis=1)
        u = project(truth.pose[:, :3], info.K, info.D, info.distortion_model)[:, 0]
        towards_camera = np.cos(relative_bearing(truth.pose)[:, None] - np.asarray(info.led_directions))
        shines = (recording.led_states * towards_camera).max(1)
        # As a person would place it: that far away, in the middle, an LED lit towards the camera. Half a
        # picture aside or a dark robot is as bad as 1 m too near.
        unsuited = np.abs(distance - TAPE_MEASURE) + 2 * np.abs(u / info.width - 0.5) + 1 - shines
        best = int(np.argmin(np.where(truth.valid, unsuited, np.inf)))
        picture = output / "calibration.png"
        picture.write_bytes(encode_image(recording.image(best), "png"))
        return picture, float(distance[best]), float(info.K[0, 0])


@dataclass
class Heard:
    """What the graph said, by the stamp [ns] of the image that it is about."""

    truth: dict[int, Array] = field(default_factory=dict)
    """Poses (7,) of the peer, of images in which it is visible."""
    peers: dict[int, int] = field(default_factory=dict)
    """How many peers the estimator saw."""
    pose: dict[int, Array] = field(default_factory=dict)
    """The estimator's pose (7,) of the best peer."""
    led_probability: dict[int, Array] = field(default_factory=dict)
    """The estimator's probabilities (K,) of the best peer's LEDs."""
    leds: LedHistory = field(default_factory=lambda: LedHistory(0, 10**9, horizon_ns=10**13))
    debug_images: list[NDArray[np.uint8]] = field(default_factory=list)


def estimate(output: Path, model: Path, seconds: float, seed: int) -> Heard:
    """Run simulator and estimator and listen for so long from the first answer on."""
    heard = Heard()
    first: list[float] = []

    def on_peers(message: PoseArray) -> None:
        first.append(time.monotonic())
        heard.peers[stamp_ns(message.header.stamp)] = len(message.poses)

    def on_pose(message: PoseWithCovarianceStamped) -> None:
        heard.pose[stamp_ns(message.header.stamp)] = pose_vector(message.pose.pose)

    def on_truth(message: PoseStamped) -> None:
        heard.truth[stamp_ns(message.header.stamp)] = pose_vector(message.pose)

    def on_peer_leds(message: JointState) -> None:
        if message.position:
            heard.led_probability[stamp_ns(message.header.stamp)] = np.array(message.position)

    def on_leds(message: JointState) -> None:
        heard.leds.add(stamp_ns(message.header.stamp), np.array(message.position))

    slowest = parameter_of("estimator", "drawing_rate").minimum or 0.0
    estimator = {"model": model, "drawing_rate": max(DEBUG_PICTURES / seconds, slowest)}
    with (
        running_nodes(output / "logs", simulator=simulator(seed), estimator=estimator) as processes,
        Listener() as listener,
        tqdm(
            total=seconds, desc="Listening", mininterval=1.0, bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s"
        ) as bar,
    ):
        listener.hear(PoseArray, "peer_poses", on_peers)
        listener.hear(PoseWithCovarianceStamped, "peer_pose", on_pose)
        listener.hear(JointState, "peer_led_states", on_peer_leds)
        listener.hear(PoseStamped, "ground_truth", on_truth)
        listener.hear(JointState, "led_states", on_leds)
        listener.hear(
            Image, "debug_image", lambda message: heard.debug_images.append(rgb_from_message(message))
        )
        listener.spin(lambda: time.monotonic() - first[0] if first else 0.0, processes, bar)
    return heard


def pose_vector(pose: Pose) -> Array:
    """x y z qx qy qz qw of a message."""
    position, turn = pose.position, pose.orientation
    return np.array([position.x, position.y, position.z, turn.x, turn.y, turn.z, turn.w])


# --- report -------------------------------------------------------------------------------------------------


def report(heard: Heard, info: RecordingInfo, output: Path, seconds: float) -> int:
    """Score what was heard, print and write the result; 1 if it is worse than the mean predictor."""
    true, said = compare(heard, info)
    facing = facing_leds(true.psi, info.led_directions)
    rows = {
        "published": score(said, true, facing),
        "mean predictor": score(mean_predictor(true), true, facing),
    }
    worse = [
        name
        for name in DECISIVE
        if not getattr(rows["published"], name) < getattr(rows["mean predictor"], name)
    ]
    missed = int(np.isnan(said.distance).sum())

    sheet = contact_sheet(heard.debug_images)
    if sheet is not None:
        (output / "debug_images.png").write_bytes(encode_image(sheet, "png"))
    poses_figure(true, said).savefig(output / "poses.png", dpi=100)

    verdict = (
        f"WORSE than the mean predictor in {', '.join(worse)}."
        if worse
        else "Better than the mean predictor in place, bearing and distance, learned without a pose label."
    )
    text = f"""{table(rows)}

The estimator answered {len(heard.peers)} images; {len(true.index)} of them show the peer, and it was not
found in {missed} of these, which count as wrong. E_uv, E_psi, E_d, E_xyz: medians of the errors of image
position, bearing, distance and position; Gamma: share of images less than 45 degrees and 1 m off; AUC: how
well lit LEDs are told from dark ones (50 is guessing).

{verdict}
"""
    (output / "report.txt").write_text(text, encoding="utf-8")
    print(text)
    print(f"All this took {seconds / 60:.1f} minutes. In {output}/ are")
    for name, meaning in RESULTS.items():
        print(f"  {name:18} {meaning}")
    return 1 if worse else 0


def compare(heard: Heard, info: RecordingInfo) -> tuple[Predictions, Predictions]:
    """Truth and answers of the images that were answered, show the peer, and whose LED states are known."""
    held = {stamp: heard.leds.lookup(stamp) for stamp in sorted(heard.truth.keys() & heard.peers.keys())}
    states = {stamp: state.states for stamp, state in held.items() if isinstance(state, HeldState)}
    if not states:
        raise LedposeError(
            f"none of {len(heard.peers)} answers belongs to any of {len(heard.truth)} true poses"
        )
    unseen_pose, unseen_leds = np.full(7, np.nan), np.full(len(info.led_names), np.nan)
    true = predictions(info, [heard.truth[stamp] for stamp in states], list(states.values()))
    said = predictions(
        info,
        [heard.pose.get(stamp, unseen_pose) for stamp in states],
        [heard.led_probability.get(stamp, unseen_leds) for stamp in states],
    )
    return true, said


def predictions(info: RecordingInfo, poses: list[Array], led_probability: list[Array]) -> Predictions:
    """What poses (N, 7) say, in the terms of the metrics."""
    stacked = np.array(poses)
    return Predictions(
        index=np.arange(len(poses)),
        uv=project(stacked[:, :3], info.K, info.D, info.distortion_model),
        psi=relative_bearing(stacked),
        distance=np.linalg.norm(stacked[:, :3], axis=1),
        position=stacked[:, :3],
        led_probability=np.array(led_probability),
        confidence=np.isfinite(stacked[:, 0]).astype(float),  # it was published, that is all that is known
    )


def contact_sheet(
    pictures: list[NDArray[np.uint8]], columns: int = 3, width: int = 480
) -> NDArray[np.uint8] | None:
    """Pictures of one size beside and below each other, as many as fill whole rows; None without pictures."""
    rows = min(len(pictures), DEBUG_PICTURES) // columns
    if rows == 0:
        return None
    height = round(width * pictures[0].shape[0] / pictures[0].shape[1])
    tiles = [
        cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        for picture in pictures[: rows * columns]
    ]
    return np.vstack([np.hstack(tiles[row * columns : (row + 1) * columns]) for row in range(rows)])


def poses_figure(true: Predictions, said: Predictions) -> Figure:
    """Truth and answers from above, and distance and bearing over time."""
    figure = Figure(figsize=(14, 7), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.3))
    above, distance, bearing = (
        figure.add_subplot(grid[place]) for place in (np.s_[:, 0], np.s_[0, 1], np.s_[1, 1])
    )
    both = ((true, TRUE, "truth"), (said, SAID, "published"))
    for right, forward in zip(
        np.stack([true.position[:, 0], said.position[:, 0]], 1),
        np.stack([true.position[:, 2], said.position[:, 2]], 1),
        strict=True,
    ):
        above.plot(right, forward, color="grey", linewidth=0.5, alpha=0.6)
    for answer, colour, name in both:
        above.plot(answer.position[:, 0], answer.position[:, 2], ".", color=colour, label=name)
        distance.plot(answer.index, answer.distance, ".", color=colour)
        bearing.plot(answer.index, np.degrees(answer.psi), ".", color=colour)
    above.plot(0, 0, "k^", markersize=12, label="camera")
    above.set(
        xlabel="right [m]", ylabel="forward [m]", title="from above; a line joins each answer to its truth"
    )
    above.set_aspect("equal")
    above.legend()
    distance.set(ylabel="distance [m]", ylim=(0, None))
    bearing.set(xlabel="image", ylabel="relative bearing psi [deg]", yticks=range(-180, 181, 90))
    for axis in (above, distance, bearing):
        axis.grid(alpha=0.3)
    return figure
