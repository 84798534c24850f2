# SPDX-License-Identifier: Apache-2.0
"""The random drive node: a robot that drives about in an arena, so that data collects itself.

Topics, services, parameters and what makes it stand: docs/random_drive.md.
"""

import sys
import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped, Twist, TwistStamped
from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import pose_of, rotation_matrix
from ledpose_ros.leds import CLOCK_JUMP_NS
from ledpose_ros.nodes.common import (
    OK,
    WARN,
    declare_parameters,
    diagnostics_message,
    run_node,
    sensor_qos,
    subscribe,
)
from ledpose_ros.odometry import is_pose
from ledpose_ros.parameters import NODE_PARAMETERS
from ledpose_ros.refusals import Refusals
from ledpose_ros.wandering import Arena, DriveGate, Limits, Wanderer

PERIOD = 0.05
# A peer that has not been seen for so long is not cared for.
PEER_TIMEOUT = 1.0
# Who stands says so for so long; then cmd_vel is free for others.
FAREWELL = 1.0
DIAGNOSTICS_PERIOD = 1.0


class RandomDriveNode(Node):
    """Publishes what a `Wanderer` wants while a `DriveGate` allows it, and else that the robot stands."""

    def __init__(self) -> None:
        super().__init__("random_drive")
        self._settings = parameters = declare_parameters(self, NODE_PARAMETERS["random_drive"])
        arena = Arena.from_corners(parameters.arena)
        limits = Limits(
            parameters.speed, parameters.turn_rate, parameters.acceleration, parameters.turn_acceleration
        )
        rng = np.random.default_rng(None if parameters.seed < 0 else parameters.seed)
        self._wanderer = Wanderer(arena, limits, parameters.holonomic, rng, parameters.keep_away)
        self._gate = DriveGate(arena, parameters.odometry_timeout, parameters.speed)
        self._refusals = Refusals(self.get_logger().warning)
        self._base_frame = ""
        self._peer: np.ndarray | None = None  # where it is (2,), in the frame of odometry
        self._peer_time = -np.inf
        self._velocity = np.zeros(3)
        self._driven = 0.0
        self._time = time.monotonic()
        self._stand_time = -np.inf
        self._reason = self._gate.why_standing(self._time)
        self.get_logger().info(f"the robot stands: {self._reason}")
        self._clock_ns = 0

        message_type = TwistStamped if parameters.stamped else Twist
        self._publisher = self.create_publisher(message_type, "cmd_vel", 1)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        subscribe(self, Odometry, "odometry", self._on_odometry, sensor_qos(), self._refusals)
        # Reliable: of all messages, this one must not get lost.
        subscribe(
            self,
            Bool,
            "emergency_stop",
            self._on_emergency_stop,
            QoSProfile(depth=10),
            self._refusals,
            on_reliability_refused=self._on_unreliable_stop,
        )
        if parameters.keep_away > 0:
            subscribe(
                self, PoseWithCovarianceStamped, "peer_pose", self._on_peer, sensor_qos(), self._refusals
            )
        self.create_service(Trigger, "~/start", self._on_start)
        self.create_service(Trigger, "~/stop", self._on_stop)
        # Steady time, so that the robot also stops while simulated time stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(PERIOD, self._on_timer, clock=steady)
        self.create_timer(DIAGNOSTICS_PERIOD, self._publish_diagnostics, clock=steady)

    def close(self) -> None:
        """Stop the robot."""
        self._publish(np.zeros(3))
        self._publisher.wait_for_all_acked(Duration(seconds=0.2))

    # --- messages -------------------------------------------------------------------------------------------

    def _on_odometry(self, message: Odometry) -> None:
        pose = pose_of(message.pose)
        if not is_pose(pose):
            self._refusals.count("malformed odometry", f"an odometry message holds no pose: {pose.tolist()}")
            return
        self._base_frame = message.child_frame_id
        forward = rotation_matrix(pose[3:])[:, 0]
        planar = np.array([pose[0], pose[1], np.arctan2(forward[1], forward[0])])
        self._gate.hear_odometry(planar, time.monotonic())

    def _on_emergency_stop(self, message: Bool) -> None:
        self._gate.hear_emergency(message.data)
        if message.data:
            self._publish(np.zeros(3))  # also where it stands already
        self._drive()

    def _on_unreliable_stop(self) -> None:
        self._gate.forbid(
            "a publisher of emergency_stop is best effort, so a stop may get lost: mend it, restart"
        )
        self._drive()

    def _on_peer(self, message: PoseWithCovarianceStamped) -> None:
        position, pose = message.pose.pose.position, self._gate.pose
        if pose is None or not np.isfinite([position.x, position.z]).all():
            return
        # From the optical frame of a camera that looks ahead: forward is z, left is -x.
        cosine, sine = np.cos(pose[2]), np.sin(pose[2])
        forward, left = position.z, -position.x
        towards = np.array([cosine * forward - sine * left, sine * forward + cosine * left])
        self._peer = pose[:2] + towards
        self._peer_time = time.monotonic()

    # --- services -------------------------------------------------------------------------------------------

    def _on_start(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            self._gate.start(time.monotonic())
            response.success, response.message = True, f"drives in the arena {list(self._settings.arena)}"
        except LedposeError as error:
            response.success, response.message = False, str(error)
        self.get_logger().info(response.message)
        return response

    def _on_stop(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._gate.halt("stopped: call ~/start to go on")
        self._drive()
        response.success, response.message = True, "the robot stands"
        return response

    # --- driving --------------------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        clock_ns = self.get_clock().now().nanoseconds
        if clock_ns < self._clock_ns - CLOCK_JUMP_NS:
            self._gate.halt("the clock jumped backwards: call ~/start to go on")
        self._clock_ns = clock_ns
        self._drive()

    def _drive(self) -> None:
        now = time.monotonic()
        seconds, self._time = min(now - self._time, 2 * PERIOD), now
        reason = self._gate.why_standing(now)
        if reason and not self._reason:
            self._stand_time = now
            self._wanderer.stand()
            self.get_logger().warning(f"the robot stands: {reason}")
        self._reason = reason
        if not reason:
            pose = self._gate.pose
            assert pose is not None, "nobody starts without odometry"
            peer = self._peer if now - self._peer_time < PEER_TIMEOUT else None
            self._velocity = self._wanderer.step(pose, seconds, peer)
            self._driven += float(np.linalg.norm(self._velocity[:2])) * seconds
            self._publish(self._velocity)
        elif now - self._stand_time < FAREWELL:
            self._velocity = np.zeros(3)
            self._publish(self._velocity)

    def _publish(self, velocity: np.ndarray) -> None:
        twist = Twist()
        twist.linear.x, twist.linear.y, twist.angular.z = (float(part) for part in velocity)
        if not self._settings.stamped:
            self._publisher.publish(twist)
            return
        stamped = TwistStamped(twist=twist)
        stamped.header.stamp = self.get_clock().now().to_msg()
        stamped.header.frame_id = self._base_frame
        self._publisher.publish(stamped)

    def _publish_diagnostics(self) -> None:
        pose = self._gate.pose
        forward, leftward, turning = self._velocity
        values = {
            "state": "stands" if self._reason else "drives",
            "place [m]": "not known" if pose is None else f"({pose[0]:.2f}, {pose[1]:.2f})",
            "speed [m/s]": f"{np.hypot(forward, leftward):.2f}",
            "turning [rad/s]": f"{turning:.2f}",
            "driven [m]": f"{self._driven:.1f}",
        }
        values |= {f"refused: {reason}": str(n) for reason, n in sorted(self._refusals.counts.items())}
        level, summary = (WARN, f"the robot stands: {self._reason}") if self._reason else (OK, "it drives")
        self._diagnostics_publisher.publish(diagnostics_message(self, level, summary, values))


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    return run_node(RandomDriveNode, args)


if __name__ == "__main__":
    sys.exit(main())
