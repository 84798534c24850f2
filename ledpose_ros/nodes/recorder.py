# SPDX-License-Identifier: Apache-2.0
"""The recorder node: camera images with the LED states held when they were taken, into HDF5 files.

Topics, services and parameters: docs/recorder.md.
"""

import math
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_srvs.srv import Trigger

from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import pose_of
from ledpose_ros.led_sources import LedAssembler, LedTopic, read_led_sources
from ledpose_ros.leds import check_leds, nanoseconds, stamp_ns
from ledpose_ros.nodes.common import (
    ERROR,
    OK,
    WARN,
    ImageSubscription,
    declare_parameters,
    diagnostics_message,
    run_node,
    sensor_qos,
    subscribe,
    subscribe_to_leds,
)
from ledpose_ros.pairing import SamplePairer
from ledpose_ros.parameters import NODE_PARAMETERS
from ledpose_ros.paths import user_path
from ledpose_ros.recording import end_process
from ledpose_ros.recording_session import (
    FAILED,
    RECORDING,
    Camera,
    CameraImage,
    RecordingSession,
    SessionSettings,
    usable_camera,
)
from ledpose_ros.refusals import Refusals

POSE_QUEUE = 100
IMAGE_QUEUE = 10
STATUS_PERIOD = 1.0


class RecorderNode(Node):
    """Feeds the messages to a `SamplePairer` and its samples to a `RecordingSession`."""

    def __init__(self) -> None:
        super().__init__("recorder")
        parameters = declare_parameters(self, NODE_PARAMETERS["recorder"])
        check_leds(parameters.led_names, parameters.led_directions)
        self._led_names = tuple(parameters.led_names)
        led_topics = []
        if parameters.led_sources:
            table = read_led_sources(user_path(parameters.led_sources), self._led_names)
            led_topics = [(topic, topic.message_class()) for topic in table]
        self._leds = LedAssembler(self._led_names, nanoseconds(parameters.led_max_age))
        self._records_poses = parameters.record_ground_truth
        self._has_had_poses = False

        self._refusals = Refusals(self.get_logger().warning)
        self._received = 0
        self._camera: Camera | None = None
        self._pairer: SamplePairer[CameraImage] = SamplePairer.from_parameters(
            parameters, self._refusals.count
        )
        image_type = CompressedImage if parameters.image_transport == "compressed" else Image
        ImageSubscription(self, image_type, "image", self._on_image, self._refusals, IMAGE_QUEUE)
        subscribe(self, CameraInfo, "camera_info", self._on_camera_info, sensor_qos(), self._refusals)
        for topic, message_class in led_topics:
            hear = partial(self._on_led_source, topic)
            subscribe_to_leds(self, message_class, topic.name, hear, self._refusals)
        if not led_topics:
            subscribe_to_leds(self, JointState, "led_states", self._on_led_states, self._refusals)
        if self._records_poses:
            subscribe(
                self, PoseStamped, "ground_truth", self._on_pose, sensor_qos(POSE_QUEUE), self._refusals
            )
        # What refuses to start leaves no thread behind.
        self._session = RecordingSession(SessionSettings.from_parameters(parameters), self._refusals)
        if parameters.autostart:
            self._session.start()
        self.create_service(Trigger, "~/start", self._answer(self._start))
        self.create_service(Trigger, "~/stop", self._answer(self._stop))
        self.create_service(Trigger, "~/split", self._answer(self._session.split))
        self._status_publisher = self.create_publisher(DiagnosticStatus, "~/status", 1)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        # Steady time, so that the status also comes while simulated time stands still.
        self.create_timer(STATUS_PERIOD, self._publish_status, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._status_time = time.monotonic()
        self._status_samples = self._status_refusals = 0

    def close(self) -> None:
        """Write all that is queued, finish the file and say what was recorded."""
        self._record_ready_samples(at_end=True)
        try:
            self._session.close()
        except LedposeError as error:
            print(f"error: {error}", file=sys.stderr)
        path, count = self._session.file or ("no file", 0)
        print(
            f"recorder: {self._session.samples} samples of {self._received} images; "
            f"last file: {path} ({count} samples)"
        )
        for reason, refused in self._refusals.counts.most_common():
            print(f"recorder: {refused} refused: {reason}")
        sys.stdout.flush()

    # --- messages -------------------------------------------------------------------------------------------

    def _on_image(self, message: Image | CompressedImage) -> None:
        if self._session.state != RECORDING:
            return
        self._received += 1
        now_ns = self.get_clock().now().nanoseconds
        if now_ns == 0:
            self._refusals.count(
                "no /clock yet", "images come but simulated time has not begun: publish /clock"
            )
        elif self._camera is None:
            self._refusals.count(
                "no CameraInfo yet", "images come but no usable CameraInfo: publish camera_info as well"
            )
        else:
            image = CameraImage(message, self._camera)
            stamp, size = stamp_ns(message.header.stamp), len(message.data)
            self._pairer.add_image(image, stamp, now_ns, time.monotonic(), size)
            self._record_ready_samples()

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._camera = usable_camera(message, self._refusals)

    def _on_led_states(self, message: JointState) -> None:
        now_ns = self.get_clock().now().nanoseconds
        self._pairer.add_led_message(stamp_ns(message.header.stamp), now_ns, message.name, message.position)
        self._record_ready_samples()

    def _on_led_source(self, topic: LedTopic, message: Any) -> None:
        now_ns = self.get_clock().now().nanoseconds
        self._pairer.add_told_leds(self._leds, topic, message, now_ns)
        self._record_ready_samples()

    def _on_pose(self, message: PoseStamped) -> None:
        self._pairer.add_pose(stamp_ns(message.header.stamp), pose_of(message))
        self._record_ready_samples()

    def _record_ready_samples(self, at_end: bool = False) -> None:
        # Asked anew each time: a file that begins before its publisher is noticed would have no poses at all.
        topic = self.resolve_topic_name("ground_truth")
        self._pairer.expects_poses = self._records_poses and self.count_publishers(topic) > 0
        # A publisher that is away when a segment begins may come back.
        self._has_had_poses |= self._pairer.expects_poses
        now, room = (math.inf, math.inf) if at_end else (time.monotonic(), self._session.room)
        for sample in self._pairer.take_ready(now, at_most=room):
            # Only at the end the disk may hold up the node.
            self._session.put(sample, with_ground_truth=self._has_had_poses, wait=at_end)

    # --- services -------------------------------------------------------------------------------------------

    def _start(self) -> str:
        if self._session.state != RECORDING:
            # Messages from before the pause say nothing about what was held in between.
            self._pairer.clear()
        return self._session.start()

    def _stop(self) -> str:
        self._record_ready_samples(at_end=True)
        return self._session.stop()

    def _answer(
        self, command: Callable[[], str]
    ) -> Callable[[Trigger.Request, Trigger.Response], Trigger.Response]:
        def callback(_request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            try:
                response.message, response.success = command(), True
            except LedposeError as error:
                response.message, response.success = str(error), False
            self.get_logger().info(response.message)
            return response

        return callback

    # --- status ---------------------------------------------------------------------------------------------

    def _publish_status(self) -> None:
        self._record_ready_samples()

        session, now = self._session, time.monotonic()
        rate = (session.samples - self._status_samples) / (now - self._status_time)
        self._status_samples, self._status_time = session.samples, now
        refusals = self._refusals.counts
        path, count = session.file or ("none", 0)
        values = {
            "state": session.state,
            "file": path,
            "samples in file": count,
            "samples": session.samples,
            "samples safe": session.safe_samples,
            "rate [Hz]": f"{rate:.1f}",
            "images received": self._received,
            "images waiting": len(self._pairer),
            "queue": session.backlog,
            "disk left [MB]": session.free_space_mb,
        }
        values |= {f"refused: {reason}": count for reason, count in sorted(refusals.items())}
        for name, on_count in zip(self._led_names, session.led_on_counts, strict=True):
            values[f"LED {name} on [%]"] = f"{100 * on_count / max(1, session.samples):.0f}"

        if session.state == FAILED:
            level, summary = ERROR, session.error
        elif session.state == RECORDING and rate == 0:
            level, summary = WARN, "recording, but no sample came in the last second"
            if refusals.total() > self._status_refusals:
                summary += f"; the last refusal: {list(self._refusals.sentences.values())[-1]}"
        else:
            level, summary = OK, session.state
        self._status_refusals = refusals.total()
        diagnostics = diagnostics_message(self, level, summary, values)
        self._diagnostics_publisher.publish(diagnostics)
        self._status_publisher.publish(diagnostics.status[0])


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    return end_process(run_node(RecorderNode, args))


if __name__ == "__main__":
    sys.exit(main())
