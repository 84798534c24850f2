# SPDX-License-Identifier: Apache-2.0
"""A camera to test the estimator, which also listens to all that the estimator says.

The fake model sees a peer in white pictures and nobody in black ones. As a program it films white, so many
times a second, until SIGTERM.
"""

import os
import re
import signal
import sys
import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from rclpy.qos import QoSProfile
from ros_graph import PATIENCE, Client, ros_client, values_of
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from ledpose_ros.nodes.common import message_from_rgb

MODULE = "ledpose_ros.nodes.estimator"
FRAME = "test_camera_optical_frame"
WIDTH, HEIGHT = 128, 96
WHITE = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
BLACK = np.zeros((HEIGHT, WIDTH, 3), np.uint8)


class Camera:
    """Publishes pictures, and listens to all that the estimator says."""

    def __init__(self, client: Client, image_type: type = Image, qos: QoSProfile | int = 10) -> None:
        self.client = client
        self.images = client.node.create_publisher(image_type, "image", qos)
        self.infos = client.node.create_publisher(CameraInfo, "camera_info", 10)
        self.info: CameraInfo | None = self.make_info()
        self.pose = client.collect(PoseWithCovarianceStamped, "peer_pose")
        self.poses = client.collect(PoseArray, "peer_poses")
        self.leds = client.collect(JointState, "peer_led_states")
        self.markers = client.collect(MarkerArray, "markers")
        self.diagnostics: list[DiagnosticArray] = client.collect(DiagnosticArray, "/diagnostics")

    def wait_for_estimator(self) -> None:
        subscribed = lambda: self.images.get_subscription_count() and self.infos.get_subscription_count()  # noqa: E731
        self.client.wait_until(subscribed, what="the estimator's subscriptions")
        listened = ("peer_pose", "peer_poses", "peer_led_states", "markers")
        self.client.wait_until(
            lambda: all(self.client.node.count_publishers(topic) for topic in listened), what="its publishers"
        )

    def header(self, age: float = 0.0) -> Header:
        now = self.client.node.get_clock().now().nanoseconds - round(age * 1e9)
        header = Header(frame_id=FRAME)
        header.stamp.sec, header.stamp.nanosec = divmod(now, 1_000_000_000)
        return header

    def make_info(self, focal_length: float = 400.0, width: int = WIDTH) -> CameraInfo:
        info = CameraInfo(width=width, height=HEIGHT, distortion_model="plumb_bob")
        info.k = [focal_length, 0.0, (width - 1) / 2, 0.0, focal_length, (HEIGHT - 1) / 2, 0.0, 0.0, 1.0]
        return info

    def publish(self, message: Image | CompressedImage) -> Header:
        """Publish a picture with its camera_info, as cameras do, and return its header."""
        if self.info is not None:
            self.info.header = message.header
            self.infos.publish(self.info)
        self.images.publish(message)
        return message.header

    def show_until(self, rgb: np.ndarray, answers: list, what: str) -> tuple[Header, object]:
        """Publish the picture until an answer to it comes; the header and the answer."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            known, header = len(answers), self.publish(message_from_rgb(rgb, self.header()))
            next_picture = time.monotonic() + 0.3
            while time.monotonic() < next_picture:
                self.client.spin_once()
                for answer in answers[known:]:
                    if answer.header.stamp == header.stamp:
                        return header, answer
        raise AssertionError(f"no answer: {what}")

    def show_until_refused(self, rgb: np.ndarray, reason: str, known: int = 0) -> None:
        """Publish the picture until it is refused for this reason, more often than the `known` times."""

        def is_refused() -> bool:
            self.publish(message_from_rgb(rgb, self.header()))
            self.client.spin_for(0.1)
            return int(self.value(f"refused: {reason}") or 0) > known

        self.client.wait_until(is_refused, what=lambda: f"refused: {reason} in {self.status()}")

    def status(self) -> DiagnosticStatus | None:
        return self.diagnostics[-1].status[0] if self.diagnostics else None

    def value(self, key: str) -> str:
        return values_of(self.status()).get(key, "")

    def wait_for_summary(self, words: str) -> None:
        self.client.wait_until(
            lambda: (status := self.status()) and words in status.message,
            what=lambda: f"{words} in {self.status()}",
        )

    def wait_for_value(self, key: str, wanted: str = ".+") -> None:
        self.client.wait_until(
            lambda: re.fullmatch(wanted, self.value(key)), what=lambda: f"{key} = {wanted} in {self.status()}"
        )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with ros_client(int(os.environ["ROS_DOMAIN_ID"]), "camera") as own:
        film = Camera(own)
        while True:
            film.publish(message_from_rgb(WHITE, film.header()))
            own.spin_for(1 / float(sys.argv[1]))
