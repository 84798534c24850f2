# SPDX-License-Identifier: Apache-2.0
"""The simulator node: a camera that looks at robots with LEDs, in real time.

Topics and parameters: docs/simulator.md.
"""

import sys
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Header

from ledpose_ros.nodes.common import declare_parameters, message_from_rgb, run_node, stamp_from_ns
from ledpose_ros.parameters import NODE_PARAMETERS

if TYPE_CHECKING:
    from ledpose_ros.simulation import Frame

IMAGE_QUEUE = 5
LED_QUEUE = 100
KEEP_ALIVE_NS = 100_000_000
CLOCK_PERIOD_NS = 20_000_000


class SimulatorNode(Node):
    """Publishes the frames of a `Simulation` at their time.

    One thread renders and publishes, for an OpenGL context belongs to one thread. A frame is rendered ahead
    of its time, so that the LED change before it can be announced when it takes effect. Where rendering is
    slower than `rate`, the simulation runs slower than real time: pictures come less often, stamps stay true.
    """

    def __init__(self) -> None:
        # Imported here, so that a missing graphics library ends the node with one sentence.
        from ledpose_ros.simulation import Simulation

        super().__init__("simulator")
        self.parameters = parameters = declare_parameters(self, NODE_PARAMETERS["simulator"])
        self._simulation = Simulation(
            seed=parameters.seed,
            width=parameters.width,
            height=parameters.height,
            peers=parameters.peers,
            absent=parameters.absent,
            rate=parameters.rate,
            scene_frames=max(1, round(parameters.scene_duration * parameters.rate)),
        )
        # Try once here, where an error ends the node; the thread starts anew.
        self._simulation.step()
        self._simulation.close()
        # Reliable: best effort loses some messages of this size, and a reliable publisher suits every reader.
        self._images = self.create_publisher(Image, "image", QoSProfile(depth=IMAGE_QUEUE))
        self._camera_infos = self.create_publisher(CameraInfo, "camera_info", QoSProfile(depth=IMAGE_QUEUE))
        self._led_states = self.create_publisher(JointState, "led_states", QoSProfile(depth=LED_QUEUE))
        self._ground_truth = self.create_publisher(PoseStamped, "ground_truth", QoSProfile(depth=LED_QUEUE))
        self._clock_publisher = (
            self.create_publisher(Clock, "/clock", QoSProfile(depth=1)) if parameters.publish_clock else None
        )
        self._camera_info = self._make_camera_info()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="simulation")
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and free the renderer."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        frame = self._simulation.step()
        offset = time.time_ns() - frame.stamp_ns  # From the simulation's stamps to the clock's.
        held = frame.led_states
        while not self._stopping.is_set():
            change = max(frame.led_stamp_ns, frame.stamp_ns - self._simulation.period_ns) + offset
            if not np.array_equal(frame.led_states, held):
                self._wait_until(change, held)
                held = frame.led_states
                self._publish_leds(change, held)
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
                self._publish_leds(now, held)
                next_keep_alive = now + KEEP_ALIVE_NS
            tick = CLOCK_PERIOD_NS if self._clock_publisher is not None else KEEP_ALIVE_NS
            self._stopping.wait(min(target_ns - now, tick) / 1e9)

    def _publish_leds(self, stamp: int, states: np.ndarray) -> None:
        message = JointState(header=Header(stamp=stamp_from_ns(stamp)))
        message.name = list(self._simulation.info.led_names)
        message.position = states.tolist()
        self._led_states.publish(message)

    def _publish_frame(self, frame: "Frame", stamp: int) -> None:
        """The picture and, after it, that the LEDs were the same at its stamp."""
        header = Header(stamp=stamp_from_ns(stamp), frame_id=self.parameters.camera_frame)
        if self._clock_publisher is not None:
            self._clock_publisher.publish(Clock(clock=header.stamp))
        self._camera_info.header = header
        self._camera_infos.publish(self._camera_info)
        self._images.publish(message_from_rgb(frame.rgb, header))
        if frame.valid[:1].any():
            message = PoseStamped(header=header)
            position, orientation = message.pose.position, message.pose.orientation
            position.x, position.y, position.z = frame.poses[0, :3].tolist()
            orientation.x, orientation.y, orientation.z, orientation.w = frame.poses[0, 3:].tolist()
            self._ground_truth.publish(message)
        self._publish_leds(stamp, frame.led_states)

    def _make_camera_info(self) -> CameraInfo:
        info = self._simulation.info
        message = CameraInfo(width=info.width, height=info.height, distortion_model=info.distortion_model)
        message.d = info.D.tolist()
        message.k = info.K.ravel()
        message.r = np.eye(3).ravel()
        message.p = np.column_stack([info.K, np.zeros(3)]).ravel()
        return message


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    return run_node(SimulatorNode, args)


if __name__ == "__main__":
    sys.exit(main())
