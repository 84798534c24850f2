# SPDX-License-Identifier: Apache-2.0
"""The simulator node, in real time: robots with LEDs before a camera, or before each other's cameras.

Topics and parameters: docs/simulator.md.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import (
    PoseStamped,
    PoseWithCovariance,
    Transform,
    TransformStamped,
    Twist,
    TwistWithCovariance,
    Vector3,
)
from nav_msgs.msg import Odometry
from rclpy.exceptions import InvalidNodeNameException
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.validate_node_name import validate_node_name
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Header

from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import LEVEL_CAMERA
from ledpose_ros.nodes.common import (
    LED_QUEUE,
    declare_parameters,
    message_from_rgb,
    pose_message,
    run_node,
    stamp_from_ns,
)
from ledpose_ros.parameters import NODE_PARAMETERS

if TYPE_CHECKING:
    from ledpose_ros.recording import RecordingInfo
    from ledpose_ros.simulation import Frame, TeamFrame

IMAGE_QUEUE = 5
ODOMETRY_QUEUE = 20
KEEP_ALIVE_NS = 100_000_000
CLOCK_PERIOD_NS = 20_000_000
ROOM_FRAME = "map"
TEAM_SIZES = range(2, 5)


class RobotTopics:
    """A camera's pictures and a robot's LEDs, on topics that begin with `prefix`."""

    def __init__(self, node: Node, prefix: str, camera_frame: str, info: "RecordingInfo") -> None:
        self._camera_frame, self._led_names = camera_frame, list(info.led_names)
        # Reliable: best effort loses some messages of this size, and a reliable publisher suits every reader.
        qos = QoSProfile(depth=IMAGE_QUEUE)
        self._images = node.create_publisher(Image, prefix + "image", qos)
        self._camera_infos = node.create_publisher(CameraInfo, prefix + "camera_info", qos)
        self._led_states = node.create_publisher(JointState, prefix + "led_states", LED_QUEUE)
        self._camera_info = _camera_info_message(info)

    def say_leds(self, stamp: int, states: np.ndarray) -> None:
        """What the LEDs (K,) show at this time [ns]."""
        message = JointState(header=Header(stamp=stamp_from_ns(stamp)), name=self._led_names)
        message.position = states.tolist()
        self._led_states.publish(message)

    def say_picture(self, stamp: int, rgb: np.ndarray) -> Header:
        """A picture with its camera_info; returns their header."""
        header = Header(stamp=stamp_from_ns(stamp), frame_id=self._camera_frame)
        self._camera_info.header = header
        self._camera_infos.publish(self._camera_info)
        self._images.publish(message_from_rgb(rgb, header))
        return header


class Pair:
    """An observer's camera, and the LEDs and true pose of the first peer before it."""

    def __init__(self, node: Node, parameters: SimpleNamespace) -> None:
        from ledpose_ros.simulation import Simulation

        self.simulation = Simulation(
            seed=parameters.seed,
            width=parameters.width,
            height=parameters.height,
            peers=parameters.peers,
            absent=parameters.absent,
            rate=parameters.rate,
            scene_frames=max(1, round(parameters.scene_duration * parameters.rate)),
        )
        self._topics = RobotTopics(node, "", parameters.camera_frame, self.simulation.info)
        self._ground_truth = node.create_publisher(PoseStamped, "ground_truth", LED_QUEUE)

    def say_leds(self, stamp: int, states: np.ndarray) -> None:
        """What the LEDs (K,) show at this time [ns]."""
        self._topics.say_leds(stamp, states)

    def say_frame(self, stamp: int, frame: "Frame") -> None:
        """The picture and what is true of it, at this time [ns]."""
        header = self._topics.say_picture(stamp, frame.rgb)
        if frame.valid[:1].any():
            self._ground_truth.publish(PoseStamped(header=header, pose=pose_message(frame.poses[0])))


class Team:
    """Robots that look at each other: each has a camera, LEDs and odometry under its name."""

    def __init__(self, node: Node, parameters: SimpleNamespace, names: Sequence[str]) -> None:
        from ledpose_ros.simulation import CAMERA_POSITION, TeamSimulation

        self.simulation = TeamSimulation(
            seed=parameters.seed,
            robots=len(names),
            width=parameters.width,
            height=parameters.height,
            rate=parameters.rate,
        )
        self._base_frames = [f"{name}/base_link" for name in names]
        camera_frames = [f"{name}/{parameters.camera_frame}" for name in names]
        info = self.simulation.info
        self._topics = [
            RobotTopics(node, f"{name}/", frame, info)
            for name, frame in zip(names, camera_frames, strict=True)
        ]
        self._odometry = [
            node.create_publisher(Odometry, f"{name}/odometry", ODOMETRY_QUEUE) for name in names
        ]
        self._ground_truth = [
            [
                node.create_publisher(PoseStamped, f"{name}/ground_truth/{other}", LED_QUEUE)
                for other in names
                if other != name
            ]
            for name in names
        ]
        self._tf_broadcaster: Any = None
        try:
            import tf2_ros
        except ImportError:
            node.get_logger().info("no transforms are published: that needs the Python package tf2_ros")
            return
        self._tf_broadcaster = tf2_ros.TransformBroadcaster(node)
        self._static_broadcaster = tf2_ros.StaticTransformBroadcaster(node)
        mount = np.concatenate([CAMERA_POSITION, LEVEL_CAMERA])
        now = node.get_clock().now().to_msg()
        self._static_broadcaster.sendTransform(
            [
                _transform(Header(stamp=now, frame_id=base), camera, mount)
                for base, camera in zip(self._base_frames, camera_frames, strict=True)
            ]
        )

    def say_leds(self, stamp: int, states: np.ndarray) -> None:
        """What the LEDs (R, K) show at this time [ns]."""
        for topics, of_robot in zip(self._topics, states, strict=True):
            topics.say_leds(stamp, of_robot)

    def say_frame(self, stamp: int, frame: "TeamFrame") -> None:
        """Where the robots are, then the picture and what is true of it, at this time [ns]."""
        header = Header(stamp=stamp_from_ns(stamp), frame_id=ROOM_FRAME)
        for base, publisher, pose, velocity in zip(
            self._base_frames, self._odometry, frame.body_poses, frame.velocities, strict=True
        ):
            publisher.publish(_odometry(header, base, pose, velocity))
            if self._tf_broadcaster is not None:
                self._tf_broadcaster.sendTransform(_transform(header, base, pose))
        header = self._topics[frame.robot].say_picture(stamp, frame.rgb)
        truths = zip(self._ground_truth[frame.robot], frame.poses, frame.valid, strict=True)
        for publisher, pose, is_visible in truths:
            if is_visible:
                publisher.publish(PoseStamped(header=header, pose=pose_message(pose)))


class SimulatorNode(Node):
    """Publishes the frames of a simulation at their time.

    One thread renders and publishes, for an OpenGL context belongs to one thread. A frame is rendered ahead
    of its time, so that the LED change before it can be announced when it takes effect. Where rendering is
    slower than `rate`, the simulation runs slower than real time: pictures come less often, stamps stay true.
    What fails in that thread ends the node: without pictures it would only seem to be there.
    """

    def __init__(self) -> None:
        super().__init__("simulator")
        self.parameters = parameters = declare_parameters(self, NODE_PARAMETERS["simulator"])
        robots = _checked_robots(parameters.robots)
        # Imports the simulation, so that a missing graphics library ends the node with one sentence.
        self._world: Any = Team(self, parameters, robots) if robots else Pair(self, parameters)
        self._simulation = self._world.simulation
        # Try once here, where an error ends the node; the thread starts anew.
        self._simulation.step()
        self._simulation.close()
        self._clock_publisher = (
            self.create_publisher(Clock, "/clock", QoSProfile(depth=1)) if parameters.publish_clock else None
        )
        self._stopping = threading.Event()
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="simulation")
        self._simulating = pool.submit(self._run)
        self._simulating.add_done_callback(self._end_if_failed)
        pool.shutdown(wait=False)

    def close(self) -> None:
        """Stop the thread and free the renderer; raises what has ended the simulation early."""
        self._stopping.set()
        self._simulating.result()

    def _end_if_failed(self, simulating: Future[None]) -> None:
        if error := simulating.exception():
            self.get_logger().fatal(f"the simulation failed ({type(error).__name__}: {error})")
            os.kill(os.getpid(), signal.SIGTERM)

    def _run(self) -> None:
        frame = self._simulation.step()
        offset = time.time_ns() - frame.stamp_ns  # From the simulation's stamps to the clock's.
        held = frame.led_states
        while not self._stopping.is_set():
            change = max(frame.led_stamp_ns, frame.stamp_ns - self._simulation.period_ns) + offset
            if not np.array_equal(frame.led_states, held):
                self._wait_until(change, held)
                held = frame.led_states
                self._world.say_leds(change, held)
            self._wait_until(frame.stamp_ns + offset, held)
            if self._stopping.is_set():
                break
            self._publish_frame(frame, frame.stamp_ns + offset)
            frame = self._simulation.step()
            late = time.time_ns() - (frame.stamp_ns + offset)
            if late > 0:
                offset += late
        self._simulation.close()

    def _wait_until(self, target_ns: int, held: np.ndarray) -> None:
        """Sleep until a time of the clock, saying meanwhile what the LEDs still show and what time it is."""
        next_keep_alive = time.time_ns() + KEEP_ALIVE_NS
        while (now := time.time_ns()) < target_ns and not self._stopping.is_set():
            if self._clock_publisher is not None:
                self._clock_publisher.publish(Clock(clock=stamp_from_ns(now)))
            if now >= next_keep_alive:
                self._world.say_leds(now, held)
                next_keep_alive = now + KEEP_ALIVE_NS
            tick = CLOCK_PERIOD_NS if self._clock_publisher is not None else KEEP_ALIVE_NS
            self._stopping.wait(min(target_ns - now, tick) / 1e9)

    def _publish_frame(self, frame: Any, stamp: int) -> None:
        """The picture and, after it, that the LEDs were the same at its stamp."""
        if self._clock_publisher is not None:
            self._clock_publisher.publish(Clock(clock=stamp_from_ns(stamp)))
        self._world.say_frame(stamp, frame)
        self._world.say_leds(stamp, frame.led_states)


def _checked_robots(robots: Sequence[str]) -> list[str]:
    """The names that are not empty; LedposeError if one is none or is there twice, or for a wrong number."""
    names = [name for name in robots if name]
    for name in names:
        try:
            validate_node_name(name)
        except InvalidNodeNameException as error:
            reason = str(error).partition("\n")[0].rstrip(":")
            raise LedposeError(
                f"parameter 'robots' holds '{name}', which is no name for a robot: {reason}"
            ) from error
    if len(set(names)) < len(names):
        raise LedposeError(f"parameter 'robots' names a robot twice: {', '.join(names)}")
    if names and len(names) not in TEAM_SIZES:
        wanted = f"{TEAM_SIZES.start} to {TEAM_SIZES.stop - 1}"
        raise LedposeError(f"parameter 'robots' has {len(names)} names, but must have {wanted}, or none")
    return names


def _camera_info_message(info: "RecordingInfo") -> CameraInfo:
    message = CameraInfo(width=info.width, height=info.height, distortion_model=info.distortion_model)
    message.d = info.D.tolist()
    message.k = info.K.ravel()
    message.r = np.eye(3).ravel()
    message.p = np.column_stack([info.K, np.zeros(3)]).ravel()
    return message


def _odometry(header: Header, base_frame: str, pose: np.ndarray, velocity: np.ndarray) -> Odometry:
    """The true pose (7,) and velocity (3,): forward, left, counter-clockwise; without any covariance."""
    forward, left, turning = velocity.tolist()
    twist = Twist(linear=Vector3(x=forward, y=left), angular=Vector3(z=turning))
    return Odometry(
        header=header,
        child_frame_id=base_frame,
        pose=PoseWithCovariance(pose=pose_message(pose)),
        twist=TwistWithCovariance(twist=twist),
    )


def _transform(header: Header, child: str, pose: np.ndarray) -> TransformStamped:
    """The pose (7,) of a frame as a transform."""
    posed = pose_message(pose)
    place = posed.position
    transform = Transform(translation=Vector3(x=place.x, y=place.y, z=place.z), rotation=posed.orientation)
    return TransformStamped(header=header, child_frame_id=child, transform=transform)


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    return run_node(SimulatorNode, args)


if __name__ == "__main__":
    sys.exit(main())
