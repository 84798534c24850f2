# SPDX-License-Identifier: Apache-2.0
"""The viewer node: what the estimator says, on a web page. It runs as `ledpose view`, see docs/view.md."""

from collections.abc import Callable
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, PoseStamped, PoseWithCovarianceStamped
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from visualization_msgs.msg import MarkerArray

from ledpose_ros.errors import LedposeError
from ledpose_ros.live_view import PICTURES, LiveView
from ledpose_ros.nodes.common import ImageSubscription, sensor_qos, subscribe
from ledpose_ros.refusals import Refusals
from ledpose_ros.web_server import PageServer

QUEUE = 10
GRAPH_PERIOD = 1.0

# Subjects of the page -> their topics.
TOPICS = {
    "overlay": "debug_image",
    "camera": "image",
    "peers": "peer_poses",
    "leds": "peer_led_states",
    "truth": "ground_truth",
    "field": "camera_info",
    "identities": "peer_identities",
    "nodes": "/diagnostics",
}


class ViewerNode(Node):
    """Subscribes while a browser looks, for as long as nobody listens the estimator may rest."""

    def __init__(self, host: str, port: int, is_rectified: bool = False) -> None:
        super().__init__("viewer")
        self._refusals = Refusals(self.get_logger().warning)
        self._topics = {subject: self.resolve_topic_name(topic) for subject, topic in TOPICS.items()}
        self._view = LiveView(self._topics, self.get_namespace(), self._refusals, is_rectified=is_rectified)
        self._sayings: list[Any] = []
        self._pictures: dict[str, tuple[tuple[type, str], ImageSubscription]] = {}
        self._server = PageServer(self._view, host, port, self._on_demand)
        self.port = self._server.port
        # Steady time, so that it also works while simulated time stands still.
        self.create_timer(GRAPH_PERIOD, self._meet_demand, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self) -> None:
        """End the web server."""
        self._server.close()

    def _on_demand(self) -> None:
        # In the server's thread: subscriptions come and go in the executor's.
        if self.executor is not None:
            self.executor.create_task(self._meet_demand)

    def _meet_demand(self) -> None:
        """Subscribe to what browsers show and to nothing else; look who publishes it."""
        wanted = self._server.wanted
        if wanted is not None and not self._sayings:
            self._sayings = self._subscribe_to_sayings()
        elif wanted is None and self._sayings:
            for subscription in self._sayings:
                self.destroy_subscription(subscription)
            self._sayings = []
            for subject in TOPICS:
                self._view.forget(subject)
        for subject in PICTURES:
            self._meet_picture_demand(subject, subject in (wanted or ()))
        if wanted is not None:
            counts = {subject: self.count_publishers(topic) for subject, topic in self._topics.items()}
            for subject, ((_, topic), _) in self._pictures.items():
                counts[subject] = self.count_publishers(topic)
            self._view.set_publishers(counts)

    def _subscribe_to_sayings(self) -> list[Any]:
        view = self._view
        heard: list[tuple[type, str, Callable[[Any], None]]] = [
            (MarkerArray, "markers", view.hear_markers),
            (PoseWithCovarianceStamped, "peer_pose", view.hear_best),
            (PoseArray, TOPICS["peers"], view.hear_poses),
            (JointState, TOPICS["leds"], view.hear_leds),
            (JointState, TOPICS["identities"], view.hear_identities),
            (PoseStamped, TOPICS["truth"], view.hear_truth),
            (CameraInfo, TOPICS["field"], view.hear_camera),
            (DiagnosticArray, TOPICS["nodes"], view.hear_diagnostics),
        ]
        return [
            subscribe(self, kind, topic, partial(self._hear, topic, hear), sensor_qos(QUEUE), self._refusals)
            for kind, topic, hear in heard
        ]

    def _hear(self, topic: str, hear: Callable[[Any], None], message: Any) -> None:
        try:
            hear(message)
        except LedposeError as error:
            self._refusals.count(f"malformed message on {topic}", f"{topic} cannot be shown: {error}")

    def _meet_picture_demand(self, subject: str, is_wanted: bool) -> None:
        source = self._picture_source(subject)
        if subject in self._pictures and (not is_wanted or self._pictures[subject][0] != source):
            self._pictures.pop(subject)[1].destroy()
            self._view.forget(subject)
        if is_wanted and subject not in self._pictures:
            hear = partial(self._view.hear_picture, subject)
            self._pictures[subject] = source, ImageSubscription(self, *source, hear, self._refusals)

    def _picture_source(self, subject: str) -> tuple[type, str]:
        """Type and topic of pictures: compressed where they are published, else raw."""
        topic = self._topics[subject]
        for name in (topic, f"{topic}/compressed"):
            publishers = self.get_publishers_info_by_topic(name)
            if any(publisher.topic_type.endswith("/CompressedImage") for publisher in publishers):
                return CompressedImage, name
        return Image, topic
