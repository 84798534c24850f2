# SPDX-License-Identifier: Apache-2.0
"""Three simulated robots in one graph, within a namespace; each estimates the others, or records one of them.

The shipped model has not seen their room.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ledpose_ros.simulation")

from geometry_msgs.msg import Pose, PoseArray, PoseStamped, PoseWithCovarianceStamped
from ros_graph import Client, NodeProcess, run_node
from sensor_msgs.msg import JointState

from ledpose_ros.geometry import pose_of, relative_bearing
from ledpose_ros.leds import stamp_ns
from ledpose_ros.metrics import bearing_errors
from ledpose_ros.recording import Recording
from ledpose_ros.simulation import CAMERA_POSITION, TeamSimulation

LAB = "/lab"
ROBOTS = ("alpha", "beta", "gamma")
PAIRS = tuple(permutations(ROBOTS, 2))
SEED, WIDTH, HEIGHT = 1001, 320, 180
SIMULATOR = {"robots": f"[{', '.join(ROBOTS)}]", "seed": SEED, "width": WIDTH, "height": HEIGHT}
# In the global namespace on purpose: two of ROS itself, and what all robots share.
SHARED_TOPICS = {"/rosout", "/parameter_events", "/diagnostics", "/clock", "/tf", "/tf_static"}


@contextmanager
def running(
    node: str,
    namespace: str,
    domain: int,
    folder: Path,
    parameters: Mapping[str, object],
    remappings: Sequence[str] = (),
) -> Iterator[NodeProcess]:
    """One of our nodes in a namespace."""
    log = folder / f"{node}{namespace.replace('/', '_')}.log"
    arguments = [word for rule in (f"__ns:={namespace}", *remappings) for word in ("-r", rule)]
    with run_node(f"ledpose_ros.nodes.{node}", domain, log, parameters, arguments) as process:
        yield process


def poses_by_stamp(messages: Sequence[PoseStamped | PoseWithCovarianceStamped]) -> dict[int, np.ndarray]:
    """Stamp [ns] -> pose (7,)."""
    return {
        stamp_ns(message.header.stamp): pose_of(message if isinstance(message, PoseStamped) else message.pose)
        for message in messages
    }


def distance(message: Pose, pose: np.ndarray) -> float:
    """How far [m] a message is from a pose (7,)."""
    place = message.position
    return float(np.linalg.norm(pose[:3] - (place.x, place.y, place.z)))


def topics_outside(client: Client) -> set[str]:
    """What is published outside of the lab's namespace, but for what the client itself publishes."""
    node = client.node
    return {
        topic
        for topic, _ in node.get_topic_names_and_types()
        if not topic.startswith(f"{LAB}/")
        and any(info.node_name != node.get_name() for info in node.get_publishers_info_by_topic(topic))
    }


def test_each_of_three_robots_estimates_the_others_and_knows_who_is_who(domain, client, tmp_path):
    said = {
        (robot, other): client.collect(
            PoseWithCovarianceStamped, f"{LAB}/{robot}/identified/{other}/pose", 100
        )
        for robot, other in PAIRS
    }
    true = {
        (robot, other): client.collect(PoseStamped, f"{LAB}/{robot}/ground_truth/{other}", 100)
        for robot, other in PAIRS
    }
    poses = {robot: client.collect(PoseArray, f"{LAB}/{robot}/peer_poses", 100) for robot in ROBOTS}
    identities = {
        robot: client.collect(JointState, f"{LAB}/{robot}/peer_identities", 100) for robot in ROBOTS
    }
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(running("simulator", LAB, domain, tmp_path, SIMULATOR | {"rate": 9.0})),
            *(
                stack.enter_context(
                    running("estimator", f"{LAB}/{robot}", domain, tmp_path, estimator_settings(robot))
                )
                for robot in ROBOTS
            ),
        ]
        # After ten there is something to take the median of.
        client.wait_until(
            lambda: min(map(len, said.values())) >= 10,
            timeout=150,
            what=lambda: f"{ {pair: len(heard) for pair, heard in said.items()} } {[n.log for n in nodes]}",
        )
        assert topics_outside(client) <= SHARED_TOPICS
        assert all(node.is_running for node in nodes)

    is_right = []
    for robot, other in PAIRS:
        truths = {name: poses_by_stamp(true[robot, name]) for name in ROBOTS if name != robot}
        estimates = poses_by_stamp(said[robot, other])
        for stamp, pose in estimates.items():
            distances = {
                name: np.linalg.norm(pose[:3] - truth[stamp][:3])
                for name, truth in truths.items()
                if stamp in truth
            }
            if distances:
                is_right.append(min(distances, key=distances.__getitem__) == other)
        both = sorted(estimates.keys() & truths[other].keys())
        estimated, truth = (np.array([told[stamp] for stamp in both]) for told in (estimates, truths[other]))
        assert np.median(np.linalg.norm(estimated[:, :3] - truth[:, :3], axis=1)) < 0.3
        bearings = bearing_errors(relative_bearing(estimated), relative_bearing(truth))
        assert np.degrees(np.median(bearings)) < 30
    assert np.mean(is_right) > 0.9, "given blindly, every other name would be wrong"

    for robot, other in PAIRS:
        truths = poses_by_stamp(true[robot, other])
        nearest = [
            min((distance(pose, truths[stamp]) for pose in message.poses), default=np.inf)
            for message in poses[robot]
            if (stamp := stamp_ns(message.header.stamp)) in truths
        ]
        assert np.mean(np.array(nearest) < 0.5) > 0.75, "where it is seen it is mostly found"

    for robot in ROBOTS:
        assert all(message.header.frame_id == f"{robot}/camera_optical_frame" for message in poses[robot])
        who = "|".join([*(other for other in ROBOTS if other != robot), "stranger"])
        names = {name for message in identities[robot] for name in message.name}
        assert all(re.fullmatch(rf"{robot}/peer_\d+/({who})", name) for name in names)
        surest = max(identities[robot], key=lambda message: max(message.position, default=0))
        assert max(surest.position) > 0.99


def estimator_settings(robot: str) -> dict[str, object]:
    """Parameters of a robot's estimator, which knows the others by name."""
    others = [f"../{other}" for other in ROBOTS if other != robot]
    return {
        "peers": f"[{', '.join(others)}]",
        "peer_frame": f"{robot}/peer",
        "camera_position": str(list(CAMERA_POSITION)),
        # A machine with too few cores is slow, which is not what this is about.
        "max_image_age": 0.0,
    }


def test_each_of_three_robots_records_the_leds_of_another(domain, client, tmp_path):
    pairs = list(zip(ROBOTS, ROBOTS[1:] + ROBOTS[:1], strict=True))
    status = {robot: client.collect_status(f"{LAB}/{robot}/recorder") for robot in ROBOTS}
    with ExitStack() as stack:
        recorders = []
        for robot, other in pairs:
            settings = {"output_directory": tmp_path / robot, "image_encoding": "png"}
            remappings = (
                f"led_states:={LAB}/{other}/led_states",
                f"ground_truth:={LAB}/{robot}/ground_truth/{other}",
            )
            recorder = running("recorder", f"{LAB}/{robot}", domain, tmp_path, settings, remappings)
            recorders.append(stack.enter_context(recorder))
        # Slowly, so that a busy machine keeps up.
        simulator = stack.enter_context(
            running("simulator", LAB, domain, tmp_path, SIMULATOR | {"rate": 4.0})
        )
        client.wait_until(
            lambda: all(int(values.get("samples", 0)) >= 2 for values in status.values()),
            timeout=90,
            what=lambda: f"{status} {simulator.log} {[recorder.log for recorder in recorders]}",
        )
        assert all(recorder.end()[0] == 0 for recorder in recorders)

    simulation = TeamSimulation(SEED, len(ROBOTS), WIDTH, HEIGHT, rate=4.0)
    frames = {}
    for robot, other in pairs:
        with Recording(next((tmp_path / robot).glob("*.h5"))) as recording:
            assert recording.info.camera_frame == f"{robot}/camera_optical_frame"
            assert recording.has_ground_truth, "where its topic was remapped to"
            for index in range(2):
                picture = recording.image(index).tobytes()
                while picture not in frames:
                    assert len(frames) < 300, "this picture is not of this simulation"
                    frame = simulation.step()
                    frames[frame.rgb.tobytes()] = frame
                frame = frames[picture]
                assert ROBOTS[frame.robot] == robot
                states = frame.led_states[ROBOTS.index(other)]
                np.testing.assert_array_equal(recording.led_states[index], states)
    simulation.close()
