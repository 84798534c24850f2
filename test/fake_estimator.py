# SPDX-License-Identifier: Apache-2.0
"""A camera and an estimator that say what a test wants, on the topics of real ones; and `ledpose view`."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from blinking_camera import camera_info
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseArray, PoseStamped
from ros_graph import Client, NodeProcess, run_program
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from ledpose_ros.estimator import PeerEstimate
from ledpose_ros.geometry import Camera, compose_poses, pinhole_camera
from ledpose_ros.leds import DEFAULT_LED_DIRECTIONS, DEFAULT_LED_NAMES
from ledpose_ros.nodes.common import message_from_rgb, pose_message
from ledpose_ros.nodes.markers import peer_markers

PEER_SIZE = (0.3, 0.25, 0.25)
WIDTH, HEIGHT = 320, 180
CAMERA: Camera = pinhole_camera(160.0, WIDTH, HEIGHT)
DEVIATIONS = (0.05, 0.05, 0.2)


def peer(u: float, distance: float, psi: float = 0.0) -> PeerEstimate:
    """A peer seen in column `u` of the picture's middle row."""
    uv = np.array([[u, (HEIGHT - 1) / 2]])
    pose = compose_poses(uv, np.array([distance]), np.array([psi]), *CAMERA)[0]
    return PeerEstimate(
        uv=uv[0],
        psi=psi,
        distance=distance,
        pose=pose,
        covariance=np.diag([*np.square(DEVIATIONS), 9.0, 0.1, 9.0]),
        led_probability=np.array([0.93, 0.04, 0.6, 0.5]),
        confidence=0.9,
    )


class FakeEstimator:
    """Publishes one moment over and over; tests set what there is to say."""

    def __init__(self, client: Client, namespace: str = "") -> None:
        self.client = client

        def publisher(kind: type, topic: str) -> Any:
            return client.node.create_publisher(kind, f"{namespace}{topic}", 10)

        self._overlay, self._camera = publisher(Image, "debug_image"), publisher(Image, "image")
        self._info, self._markers = publisher(CameraInfo, "camera_info"), publisher(MarkerArray, "markers")
        self._poses, self._truth = publisher(PoseArray, "peer_poses"), publisher(PoseStamped, "ground_truth")
        self._leds = publisher(JointState, "peer_led_states")
        self._identities = publisher(JointState, "peer_identities")
        self._diagnostics = client.node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._name = f"{namespace}estimator".lstrip("/")
        self.peers: list[PeerEstimate] = [peer(WIDTH / 2, 2.0)]
        self.level, self.summary = DiagnosticStatus.OK, "1 peers in the last image"
        self.grey = 100

    def say(self) -> None:
        """Publish everything once, with a new stamp."""
        header = Header(stamp=self.client.node.get_clock().now().to_msg(), frame_id="camera")
        self._overlay.publish(message_from_rgb(np.full((HEIGHT, WIDTH, 3), self.grey, np.uint8), header))
        small = np.full((HEIGHT // 2, WIDTH // 2, 3), 255 - self.grey, np.uint8)
        self._camera.publish(message_from_rgb(small, header))
        self._info.publish(camera_info(header, WIDTH, HEIGHT, 160.0))
        ids = [4 + rank for rank in range(len(self.peers))]
        self._markers.publish(
            peer_markers(header, self.peers, ids, [""] * len(ids), DEFAULT_LED_DIRECTIONS, PEER_SIZE, 1.0)
        )
        poses = [pose_message(found.pose) for found in self.peers if found.pose is not None]
        self._poses.publish(PoseArray(header=header, poses=poses))
        if poses:
            self._truth.publish(PoseStamped(header=header, pose=poses[0]))
        leds, who = JointState(header=header), JointState(header=header)
        if self.peers:
            leds.name, leds.position = list(DEFAULT_LED_NAMES), self.peers[0].led_probability.tolist()
            who.name, who.position = ["peer_4/robot_b", "peer_4/stranger"], [0.97, 0.03]
        self._leds.publish(leds)
        self._identities.publish(who)
        status = DiagnosticStatus(level=self.level, name=self._name, message=self.summary)
        status.values = [KeyValue(key="images answered", value="12")]
        self._diagnostics.publish(DiagnosticArray(header=header, status=[status]))

    def say_until(self, predicate: Callable[[], Any], what: str | Callable[[], str] = "") -> Any:
        """Speak ten times a second until the predicate is true; its value."""

        def is_true() -> Any:
            self.say()
            self.client.spin_for(0.1)
            return predicate()

        return self.client.wait_until(is_true, what=what)


@contextmanager
def running_view(
    client: Client, domain: int, log: Path, arguments: Sequence[str] = ()
) -> Iterator[tuple[NodeProcess, str]]:
    """`ledpose view` on a free port, and the address of its page."""
    with run_program(["ledpose_ros.cli", "view", "--port", "0", *arguments], domain, log) as process:
        told = client.wait_until(
            lambda: re.search(r"Open (http://\S+) in a browser", process.log) or not process.is_running,
            what=lambda: f"the page's address in: {process.log}",
        )
        assert isinstance(told, re.Match), process.log
        yield process, told[1]
