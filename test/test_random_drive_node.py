# SPDX-License-Identifier: Apache-2.0
"""Random driving as a process of its own, of a robot that the test simulates."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped, Twist, TwistStamped
from nav_msgs.msg import Odometry
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_graph import Client, run_node, values_of
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from ledpose_ros.nodes.common import stamp_from_ns

MODULE = "ledpose_ros.nodes.random_drive"
FAST = {"seed": 0, "speed": 0.5, "acceleration": 2.0, "turn_rate": 3.0, "turn_acceleration": 20.0}
PERIOD = 0.02


class Robot:
    """Does what cmd_vel says, and publishes where that leads."""

    def __init__(self, client: Client, command_type: type = Twist) -> None:
        self.client = client
        self.pose = np.zeros(3)
        self.has_odometry = True
        self.commands: list[tuple[float, np.ndarray]] = []
        self.poses: list[np.ndarray] = []
        self._publisher = client.node.create_publisher(Odometry, "odometry", 10)
        client.node.create_subscription(command_type, "cmd_vel", self._obey, 10)
        self._timer = client.node.create_timer(PERIOD, self._move)
        self.diagnostics = client.collect(DiagnosticArray, "/diagnostics", 10)

    @property
    def velocity(self) -> np.ndarray:
        return self.commands[-1][1] if self.commands else np.zeros(3)

    @property
    def drives(self) -> bool:
        return bool(self.velocity.any())

    def start(self, node) -> None:
        """Call ~/start until odometry has reached the node, then wait for the first motion."""
        self.client.wait_until(
            lambda: self.client.call(Trigger, "random_drive/start").success, what=lambda: node.log
        )
        self.client.wait_until(lambda: self.drives, what=lambda: node.log)

    def wait_for_words(self, words: str, node) -> None:
        self.client.wait_until(
            lambda: self.diagnostics and words in self.diagnostics[-1].status[0].message,
            what=lambda: f"{words}: {self.diagnostics[-1:]} {node.log}",
        )

    def _obey(self, message: Twist | TwistStamped) -> None:
        twist = message.twist if isinstance(message, TwistStamped) else message
        velocity = np.array([twist.linear.x, twist.linear.y, twist.angular.z])
        self.commands.append((time.monotonic(), velocity))

    def _move(self) -> None:
        forward, leftward, turning = self.velocity
        cosine, sine = np.cos(self.pose[2]), np.sin(self.pose[2])
        self.pose = self.pose + PERIOD * np.array(
            [cosine * forward - sine * leftward, sine * forward + cosine * leftward, turning]
        )
        self.poses.append(self.pose)
        message = Odometry(child_frame_id="base_link")
        message.pose.pose.position.x, message.pose.pose.position.y = map(float, self.pose[:2])
        message.pose.pose.orientation.z = float(np.sin(self.pose[2] / 2))
        message.pose.pose.orientation.w = float(np.cos(self.pose[2] / 2))
        if self.has_odometry:
            self._publisher.publish(message)


@pytest.fixture
def robot(client: Client) -> Robot:
    return Robot(client)


def driver(domain: int, tmp_path: Path, arguments=(), **settings: object):
    return run_node(MODULE, domain, tmp_path / "drive.log", FAST | settings, arguments)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_waits_for_its_start_stays_in_the_arena_and_ends_standing(domain, client, robot, tmp_path, number):
    with driver(domain, tmp_path, arena="[-0.5, -0.5, 0.5, 0.5]") as node:
        robot.wait_for_words("not started yet", node)
        assert not robot.commands, "nothing is published before the start"
        robot.start(node)
        robot.wait_for_words("it drives", node)
        client.wait_until(lambda: np.ptp([pose[:2] for pose in robot.poses], axis=0).min() > 0.3)
        client.wait_until(lambda: robot.drives)
        code, seconds = node.end(number)
        assert code == 0 and seconds < 2 and "Traceback" not in node.log
        client.wait_until(lambda: not robot.drives, what="the last word is to stand")
    velocities = np.array([velocity for _, velocity in robot.commands])
    assert np.abs(velocities[:, 0]).max() <= 0.5 and np.abs(velocities[:, 2]).max() <= 3.0
    assert not velocities[:, 1].any()
    assert np.abs(np.array(robot.poses)[:, :2]).max() < 0.5


def test_who_has_stopped_soon_leaves_the_robot_to_others(domain, client, robot, tmp_path):
    with driver(domain, tmp_path) as node:
        robot.start(node)
        assert client.call(Trigger, "random_drive/stop").success
        client.wait_until(lambda: not robot.drives, what="standing")
        client.wait_until(lambda: time.monotonic() - robot.commands[-1][0] > 1, what="silence")
        assert not robot.drives


def test_odometry_that_holds_no_pose_is_counted_and_moves_nothing(domain, client, robot, tmp_path):
    broken = client.node.create_publisher(Odometry, "odometry", 10)
    nonsense = Odometry()
    nonsense.pose.pose.position.x = float("nan")
    with driver(domain, tmp_path) as node:
        robot.start(node)

        def is_refused() -> bool:
            broken.publish(nonsense)
            client.spin_for(0.1)
            status = robot.diagnostics[-1].status[0] if robot.diagnostics else None
            return "refused: malformed odometry" in values_of(status)

        client.wait_until(is_refused, what=lambda: node.log)
        assert all(np.isfinite(velocity).all() for _, velocity in robot.commands)
        client.wait_until(lambda: robot.drives, what="driving on")


def test_silent_odometry_stops_it_and_it_goes_on_by_itself(domain, client, robot, tmp_path):
    with driver(domain, tmp_path, odometry_timeout=0.3) as node:
        robot.start(node)
        robot.has_odometry, silent_since = False, time.monotonic()
        client.wait_until(lambda: not robot.drives, what="standing")
        # Time to hear of it beside, on a machine with more to do.
        assert robot.commands[-1][0] - silent_since < 0.3 + 1.0
        robot.wait_for_words("odometry has been silent for", node)
        count = len(robot.commands)
        client.spin_for(0.5)
        assert not any(velocity.any() for _, velocity in robot.commands[count:])
        robot.has_odometry = True
        client.wait_until(lambda: robot.drives, what="driving again")


def test_an_emergency_stop_lasts_until_the_next_start(domain, client, robot, tmp_path):
    stop = client.node.create_publisher(Bool, "emergency_stop", 10)
    with driver(domain, tmp_path) as node:
        client.wait_until(lambda: stop.get_subscription_count() > 0)
        robot.start(node)
        stop.publish(Bool(data=True))
        client.wait_until(lambda: not robot.drives, what="standing")
        robot.wait_for_words("emergency stop", node)
        answer = client.call(Trigger, "random_drive/start")
        assert not answer.success and "emergency_stop is true" in answer.message
        stop.publish(Bool(data=False))
        count = len(robot.commands)
        client.spin_for(0.5)
        assert not any(velocity.any() for _, velocity in robot.commands[count:]), "not by itself"
        robot.start(node)
        assert client.call(Trigger, "random_drive/stop").success
        client.wait_until(lambda: not robot.drives, what="standing")


def test_an_emergency_stop_that_may_get_lost_is_not_accepted(domain, client, robot, tmp_path):
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    client.node.create_publisher(Bool, "emergency_stop", best_effort)
    with driver(domain, tmp_path) as node:
        robot.wait_for_words("best effort", node)
        answer = client.call(Trigger, "random_drive/start")
        assert not answer.success and "may get lost" in answer.message


def test_a_clock_that_jumps_back_stops_it(domain, client, robot, tmp_path):
    clock = client.node.create_publisher(Clock, "/clock", 10)
    now = [100.0]

    def tick() -> None:
        now[0] += 0.05
        clock.publish(Clock(clock=stamp_from_ns(int(now[0] * 1e9))))

    timer = client.node.create_timer(0.05, tick)
    with driver(domain, tmp_path, use_sim_time=True) as node:
        robot.start(node)
        client.spin_for(0.3)
        now[0] = 5.0
        client.wait_until(lambda: not robot.drives, what="standing")
        robot.wait_for_words("the clock jumped backwards", node)
    timer.destroy()


def test_it_keeps_away_from_the_peer_that_the_estimator_sees(domain, client, robot, tmp_path):
    poses = client.node.create_publisher(PoseWithCovarianceStamped, "peer_pose", 10)
    ahead = PoseWithCovarianceStamped()
    ahead.pose.pose.position.z = 0.4
    timer = client.node.create_timer(0.05, lambda: poses.publish(ahead))
    with driver(domain, tmp_path, keep_away=0.5) as node:
        client.wait_until(lambda: poses.get_subscription_count() > 0)
        client.spin_for(0.3)
        robot.start(node)
        client.wait_until(lambda: len(robot.commands) > 60, what="it turns")
        assert not any(velocity[0] for _, velocity in robot.commands), "the peer is always ahead"
        timer.cancel()
        client.wait_until(lambda: robot.velocity[0] > 0, what=lambda: node.log)


def test_stamped_velocities(domain, client, tmp_path):
    robot = Robot(client, TwistStamped)
    stamped = client.collect(TwistStamped, "cmd_vel")
    with driver(domain, tmp_path, stamped=True, holonomic=True) as node:
        robot.start(node)
        client.wait_until(lambda: stamped and robot.velocity[1], what="sideways")
    assert stamped[-1].header.frame_id == "base_link" and stamped[-1].header.stamp.sec > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"arena": "[0.0, 0.0, 1.0]"}, "four numbers"), ({"speed": 3.0}, "must be 0.01 to 2")],
)
def test_settings_that_will_not_do_are_one_sentence_and_exit_code_2(domain, tmp_path, settings, words):
    with driver(domain, tmp_path, **settings) as node:
        assert node.wait() == 2
        assert words in node.log and "Traceback" not in node.log
