# SPDX-License-Identifier: Apache-2.0
"""What the estimator says of the peers in an image, on all its topics."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from geometry_msgs.msg import (
    Pose,
    PoseArray,
    PoseWithCovariance,
    PoseWithCovarianceStamped,
    Transform,
    TransformStamped,
    Vector3,
)
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from ledpose_ros.estimator import PeerEstimate
from ledpose_ros.nodes.common import listener_callbacks, pose_message
from ledpose_ros.nodes.markers import peer_markers
from ledpose_ros.refusals import Refusals
from ledpose_ros.tracking import Track, filtered_pose

# A name is given to a peer that bears it with at least this probability.
SURE = 0.9
# Who bears none of the names.
STRANGER = "stranger"


def identified_topic(name: str) -> str:
    """The topic of the poses that are surely this peer's."""
    return f"identified/{name}/pose"


def _is_heard(publisher: Any) -> bool:
    """Whether to make a message at all."""
    return bool(publisher.get_subscription_count())


class PeerOutputs:
    """The publishers, and the transforms if asked for; `on_listeners` is called when who listens changes."""

    def __init__(
        self,
        node: LifecycleNode,
        settings: SimpleNamespace,
        names: Sequence[str],
        on_listeners: Callable[[], None],
        refusals: Refusals,
    ) -> None:
        self._settings = settings
        self._names = tuple(names)
        self._publishers: list[Any] = []

        def publisher(message_type: type, topic: str, depth: int = 10) -> Any:
            events = listener_callbacks(topic, on_listeners, refusals)
            made: Any = node.create_publisher(message_type, topic, depth, event_callbacks=events)
            self._publishers.append(made)
            return made

        self._pose = publisher(PoseWithCovarianceStamped, "peer_pose")
        self._poses = publisher(PoseArray, "peer_poses")
        self._confidences = publisher(JointState, "peer_confidences")
        self._leds = publisher(JointState, "peer_led_states")
        self._markers = publisher(MarkerArray, "markers")
        self._filtered = publisher(PoseWithCovarianceStamped, "~/filtered_pose")
        self.debug_image = publisher(Image, "debug_image", depth=1)
        if names:
            self._identities = publisher(JointState, "peer_identities")
            self._named = {
                name: publisher(PoseWithCovarianceStamped, identified_topic(name)) for name in names
            }
        self.tf_broadcaster: Any = None

    @property
    def are_heard(self) -> bool:
        """Whether anybody would notice that nothing is said."""
        if self.tf_broadcaster is not None:
            return True
        return any(map(_is_heard, self._publishers))

    def say_leds(self, header: Header, led_names: Sequence[str], peers: Sequence[PeerEstimate]) -> None:
        """On-probabilities of the best peer's LEDs; empty without a peer."""
        if not _is_heard(self._leds):
            return
        message = JointState(header=header)
        if peers:
            message.name = list(led_names)
            message.position = [float(probability) for probability in peers[0].led_probability]
        self._leds.publish(message)

    def say_poses(
        self,
        header: Header,
        peers: Sequence[PeerEstimate],
        tracks: Sequence[Track],
        camera: np.ndarray,
    ) -> None:
        """Poses of all peers by falling confidence; `camera` (7,) is the tracker's view of the camera."""
        poses = [pose_message(peer.pose) for peer in peers if peer.pose is not None]
        self._poses.publish(PoseArray(header=header, poses=poses))
        frames = [self._frame(track) for track in tracks]
        if self.tf_broadcaster is not None:
            for pose, frame in zip(poses, frames, strict=True):
                self._say_transform(header, frame, pose)
        if _is_heard(self._confidences):
            confidences = [peer.confidence for peer in peers]
            self._confidences.publish(JointState(header=header, name=frames, position=confidences))
        if poses and _is_heard(self._pose):
            self._pose.publish(_with_covariance(header, peers[0].pose, peers[0].covariance))
        if poses and _is_heard(self._filtered):
            self._filtered.publish(_with_covariance(header, *filtered_pose(tracks[0], camera)))

    def say_identities(
        self, header: Header, peers: Sequence[PeerEstimate], tracks: Sequence[Track], posterior: np.ndarray
    ) -> None:
        """Who each peer is, posterior (T, P + 1), and the poses of those of whom that is sure."""
        message = JointState(header=header, position=posterior.ravel().tolist())
        for track in tracks:
            message.name += [f"{self._frame(track)}/{name}" for name in (*self._names, STRANGER)]
        self._identities.publish(message)
        for peer, name in zip(peers, self.names_of(posterior), strict=True):
            if name:
                self._named[name].publish(_with_covariance(header, peer.pose, peer.covariance))

    def _frame(self, track: Track) -> str:
        """What a peer is called: its frame in TF."""
        return f"{self._settings.peer_frame}_{track.id}"

    def names_of(self, posterior: np.ndarray) -> list[str]:
        """The name of each peer, empty for those whose name is not sure."""
        names = (*self._names, "")
        return [names[int(row.argmax())] if row.max() >= SURE else "" for row in posterior]

    def say_markers(
        self,
        header: Header,
        peers: Sequence[PeerEstimate],
        tracks: Sequence[Track],
        names: Sequence[str],
        led_directions: Sequence[float],
    ) -> None:
        """All peers with a pose for RViz."""
        if _is_heard(self._markers):
            ids = [track.id for track in tracks]
            lifetime = max(1.0, 2 / self._settings.drawing_rate)
            size = self._settings.peer_size
            self._markers.publish(peer_markers(header, peers, ids, names, led_directions, size, lifetime))

    def _say_transform(self, header: Header, child: str, pose: Pose) -> None:
        position = pose.position
        transform = Transform(
            translation=Vector3(x=position.x, y=position.y, z=position.z), rotation=pose.orientation
        )
        self.tf_broadcaster.sendTransform(
            TransformStamped(header=header, child_frame_id=child, transform=transform)
        )


def _with_covariance(
    header: Header, pose: np.ndarray | None, covariance: np.ndarray | None
) -> PoseWithCovarianceStamped:
    assert pose is not None and covariance is not None
    value = PoseWithCovariance(pose=pose_message(pose), covariance=covariance.ravel())
    return PoseWithCovarianceStamped(header=header, pose=value)
