# SPDX-License-Identifier: Apache-2.0
"""How well robots that estimate each other find each other and know who is who: three simulated ones.

One simulator films for all of them, each has an estimator of its own, and all of it runs in real time on the
cores there are. Rooms are those of seeds that no training has used.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from geometry_msgs.msg import PoseArray, PoseStamped, PoseWithCovarianceStamped
from tqdm import tqdm

from benchmarks.command import benchmark_parser, run_command
from ledpose_ros.evaluation import text_table
from ledpose_ros.geometry import pose_of, relative_bearing
from ledpose_ros.leds import stamp_ns
from ledpose_ros.live_graph import Listener, running_nodes, use_private_domain
from ledpose_ros.metrics import bearing_errors
from ledpose_ros.model_metadata import shipped_model
from ledpose_ros.simulation import CAMERA_POSITION

ROBOTS = ("alpha", "beta", "gamma")
PAIRS = tuple(permutations(ROBOTS, 2))
SEEDS = (1001, 1005, 1009)
WIDTH, HEIGHT = 320, 180
RATE = 6.0
"""Pictures a second, of all robots together."""
SAME_PLACE = 0.5
"""Distance [m] up to which an estimate is of the robot there."""

Poses = dict[int, np.ndarray]
"""Stamp [ns] -> pose (7,) in the optical frame of the observer."""


@dataclass
class Heard:
    """What was said, and what was true, of each robot that another one sees."""

    answers: dict[str, dict[int, np.ndarray]] = field(default_factory=lambda: {robot: {} for robot in ROBOTS})
    """Observer -> stamp [ns] -> positions (P, 3) of all peers in its picture."""
    named: dict[tuple[str, str], Poses] = field(default_factory=lambda: {pair: {} for pair in PAIRS})
    """Observer and the robot's name -> poses published under that name."""
    true: dict[tuple[str, str], Poses] = field(default_factory=lambda: {pair: {} for pair in PAIRS})
    """Observer and robot -> true poses, where it is seen."""

    def attach(self, listener: Listener) -> None:
        """Listen to estimators and simulator."""
        for robot, answers in self.answers.items():
            listener.hear(PoseArray, f"{robot}/peer_poses", partial(_keep_places, answers))
        for (robot, other), poses in self.named.items():
            topic = f"{robot}/identified/{other}/pose"
            listener.hear(PoseWithCovarianceStamped, topic, partial(_keep_pose, poses))
        for (robot, other), poses in self.true.items():
            listener.hear(PoseStamped, f"{robot}/ground_truth/{other}", partial(_keep_pose, poses))


def _keep_places(answers: dict[int, np.ndarray], message: PoseArray) -> None:
    places = [(pose.position.x, pose.position.y, pose.position.z) for pose in message.poses]
    answers[stamp_ns(message.header.stamp)] = np.reshape(places, (-1, 3))


def _keep_pose(poses: Poses, message: PoseStamped | PoseWithCovarianceStamped) -> None:
    has_pose = message if isinstance(message, PoseStamped) else message.pose
    poses[stamp_ns(message.header.stamp)] = pose_of(has_pose)


@dataclass
class Score:
    """What came of one room."""

    pictures: int
    seen: int
    """Robots in pictures that were answered; so are all that follow."""
    found: int
    right: int
    wrong: int
    """Named as another robot."""
    nowhere: int
    """Named where no robot is."""
    distances: list[float]
    """Errors [m] of the poses named right, and of their bearings [rad]."""
    bearings: list[float]
    waits: list[float]
    """Seconds from a robot's first picture until it is named, of those that ever were."""


def score(heard: Heard) -> Score:
    """Compare what was said with what was true, picture by picture."""
    result = Score(sum(map(len, heard.answers.values())), 0, 0, 0, 0, 0, [], [], [])
    for observer, answers in heard.answers.items():
        truths = {other: heard.true[observer, other] for other in ROBOTS if other != observer}
        for stamp, places in answers.items():
            for truth in truths.values():
                if stamp in truth:
                    result.seen += 1
                    result.found += bool((_distances(places, truth[stamp]) < SAME_PLACE).any())
        for other in truths:
            _judge_names(result, heard.named[observer, other], other, truths)
    return result


def _judge_names(result: Score, named: Poses, name: str, truths: Mapping[str, Poses]) -> None:
    for stamp, pose in named.items():
        there = {other: truth[stamp] for other, truth in truths.items() if stamp in truth}
        apart = {other: float(_distances(pose[None, :3], truth)[0]) for other, truth in there.items()}
        nearest = min(apart, key=apart.__getitem__, default="")
        if not nearest or apart[nearest] >= SAME_PLACE:
            result.nowhere += 1
        elif nearest != name:
            result.wrong += 1
        else:
            result.right += 1
            result.distances.append(apart[name])
            bearings = relative_bearing(np.array([pose, there[name]]))
            result.bearings.append(float(bearing_errors(bearings[:1], bearings[1:])[0]))
    if named and truths[name]:
        result.waits.append(max(0.0, (min(named) - min(truths[name])) / 1e9))


def _distances(places: np.ndarray, pose: np.ndarray) -> np.ndarray:
    return np.linalg.norm(places - pose[:3], axis=1)


def run_room(seed: int, model: Path, seconds: float, rate: float) -> Score:
    """Let three robots look at each other in the room of a seed."""
    simulator = {
        "robots": f"[{', '.join(ROBOTS)}]",
        "seed": seed,
        "width": WIDTH,
        "height": HEIGHT,
        "rate": rate,
    }
    estimators = {
        f"{robot}/estimator": {
            "model": model,
            "peers": f"[{', '.join(f'../{other}' for other in ROBOTS if other != robot)}]",
            "peer_frame": f"{robot}/peer",
            "camera_position": str(list(CAMERA_POSITION)),
        }
        for robot in ROBOTS
    }
    heard = Heard()
    with (
        TemporaryDirectory() as folder,
        Listener() as listener,
        running_nodes(Path(folder), simulator=simulator, **estimators) as nodes,
        tqdm(desc=f"seed {seed}", total=round(seconds), unit="s") as bar,
    ):
        heard.attach(listener)
        begin: list[float] = []

        def seconds_since_the_first_answer() -> int:
            if not begin and all(heard.answers.values()):
                begin.append(time.monotonic())
            return int(time.monotonic() - begin[0]) if begin else 0

        listener.spin(seconds_since_the_first_answer, nodes, bar)
    return score(heard)


def report(scores: Mapping[int, Score]) -> str:
    """A table, one row a room, and what its columns mean."""
    rows = {
        f"seed {seed}": [
            found.pictures,
            found.seen,
            found.found,
            found.right,
            found.wrong,
            found.nowhere,
            100 * _median(found.distances),
            np.degrees(_median(found.bearings)),
            min(found.waits, default=np.nan),
            max(found.waits, default=np.nan),
        ]
        for seed, found in scores.items()
    }
    columns = [
        "pictures",
        "seen",
        "found",
        "right",
        "wrong",
        "nowhere",
        "E_xyz [cm]",
        "E_psi [deg]",
        "first name [s]",
        "last [s]",
    ]
    return text_table(columns, rows)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else np.nan


def make_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser("benchmarks.team", __doc__)
    parser.add_argument("--model", type=Path, help="exported model (the shipped one)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=40.0,
        metavar="S",
        help="time in each room, from the first answers (40)",
    )
    parser.add_argument(
        "--rate", type=float, default=RATE, metavar="HZ", help=f"pictures a second, of all robots ({RATE:g})"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    model = (args.model or shipped_model()).absolute()
    use_private_domain()
    print(report({seed: run_room(seed, model, args.seconds, args.rate) for seed in SEEDS}))
    print(
        f"\nSeen: robots in the answered pictures. Found: within {SAME_PLACE:g} m of an estimate. "
        "Right, wrong, nowhere: poses\npublished under a robot's name that are its own, another's, nobody's. "
        "Errors are medians of those that are right.\nFirst and last name: from a robot's first picture "
        "until it was named, of the pairs that ever were."
    )


if __name__ == "__main__":
    sys.exit(run_command(run, make_parser()))
