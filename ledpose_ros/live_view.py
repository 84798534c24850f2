# SPDX-License-Identifier: Apache-2.0
"""What `ledpose view` shows: the newest word of every topic, as pictures and plain values for the page."""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from ledpose_ros.camera_info import camera_from_info, image_size
from ledpose_ros.cli import NODES
from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import pixel_rays, pose_of, rotation_matrix
from ledpose_ros.images import encode_image, encoding_of, rgb_from_message
from ledpose_ros.refusals import Refusals

PICTURES = ("overlay", "camera")
# Seconds after which what was said last is stale; diagnostics come once a second.
STALE = 2.5
# Ellipses on the map hold this many standard deviations, as those of the markers do.
DEVIATIONS = 2.0
MAX_WIDTH = 1280
STRANGER = "/stranger"
JPEG_QUALITY = 80
LEVELS = ("ok", "warn", "error", "stale")

# The page says in words where these are missing: subject -> what comes on its topic.
WHAT = {
    "overlay": "pictures",
    "camera": "pictures",
    "peers": "poses",
    "leds": "LED states",
    "nodes": "diagnostics",
}


@dataclass(frozen=True)
class Picture:
    """An encoded picture; the number tells it from those before."""

    number: int
    data: bytes


class LiveView:
    """Hears messages in the node's thread and answers the web server in another.

    Of each subject it holds only what was said last, and when. `topics` are the full names of their topics;
    diagnostics count only of this package's nodes in `namespace`. Of rectified pictures P of the CameraInfo
    counts, not K and D.
    """

    def __init__(
        self,
        topics: Mapping[str, str],
        namespace: str = "/",
        refusals: Refusals | None = None,
        clock: Callable[[], float] = time.monotonic,
        is_rectified: bool = False,
    ) -> None:
        self._topics = dict(topics)
        self._prefix = namespace.strip("/") + "/" if namespace.strip("/") else ""
        self._refusals = refusals or Refusals()
        self._clock = clock
        self._is_rectified = is_rectified
        self._lock = threading.Lock()
        self._publishers: dict[str, int] = {}
        self._said: dict[str, Any] = {}
        self._times: dict[str, float] = {}
        self._best: tuple[Any, np.ndarray] | None = None
        self._marked = -math.inf
        self._count = 0
        self._encoded: dict[str, Picture] = {}

    # --- the node's thread ----------------------------------------------------------------------------------

    def set_publishers(self, counts: Mapping[str, int]) -> None:
        """How many publishers each subject's topic has."""
        with self._lock:
            self._publishers = dict(counts)

    def forget(self, subject: str) -> None:
        """Forget what was said, because nobody listens any more."""
        with self._lock:
            self._said.pop(subject, None)
            self._times.pop(subject, None)
            self._encoded.pop(subject, None)

    def hear_picture(self, subject: str, message: Any) -> None:
        """An Image or CompressedImage for `overlay` or `camera`; encoded only when somebody looks."""
        self._count += 1
        self._say(subject, (self._count, message))

    def hear_markers(self, message: Any) -> None:
        """The estimator's MarkerArray, which tells all there is of each peer but its name."""
        self._marked = self._clock()
        self._say("peers", peers_of_markers(message.markers))

    def hear_best(self, message: Any) -> None:
        """The best peer's PoseWithCovarianceStamped."""
        self._best = message.header.stamp, np.reshape(message.pose.covariance, (6, 6))[:3, :3]

    def hear_poses(self, message: Any) -> None:
        """A PoseArray: the peers where there are no markers, as in bags of `ledpose estimate`."""
        if self._clock() - self._marked < STALE:
            return
        peers = []
        for rank, pose in enumerate(message.poses):
            covariance = None
            if rank == 0 and self._best is not None and self._best[0] == message.header.stamp:
                covariance = self._best[1]
            peers.append(_peer(None, rank, pose, covariance))
        self._say("peers", peers)

    def hear_leds(self, message: Any) -> None:
        """The best peer's LEDs, a JointState; empty when there is none."""
        probabilities = _probabilities(message)
        self._say("leds", [{"name": name, "on": on} for name, on in probabilities.items()])

    def hear_identities(self, message: Any) -> None:
        """Who the peers are: a JointState of `peer_ID/NAME`; both may hold slashes themselves."""
        probabilities = _probabilities(message)
        # Of each frame there is a stranger.
        frames = [key.removesuffix(STRANGER) for key in probabilities if key.endswith(STRANGER)]
        identities: dict[int, dict[str, float]] = {}
        for key, probability in probabilities.items():
            frame = next((frame for frame in frames if key.startswith(f"{frame}/")), "")
            number = frame.rpartition("_")[2]
            if not number.isdecimal():
                raise LedposeError(
                    f"'{key}' is no identity: 'peer_ID/NAME' is needed, with a stranger for each"
                )
            identities.setdefault(int(number), {})[key.removeprefix(f"{frame}/")] = probability
        self._say("identities", identities)

    def hear_truth(self, message: Any) -> None:
        """The peer's true pose, a PoseStamped in the camera's frame."""
        self._say("truth", _place(message))

    def hear_camera(self, message: Any) -> None:
        """The CameraInfo, for the edges of the field of view on the map."""
        width, height = image_size(message)
        row = (height - 1) / 2
        camera = camera_from_info(message, self._is_rectified)
        rays = pixel_rays(np.array([[0, row], [width - 1, row]]), *camera)
        # Where a lens's distortion folds the picture back there is no ray.
        self._say("field", [_rounded(ray[[0, 2]]) for ray in rays] if np.isfinite(rays).all() else None)

    def hear_diagnostics(self, message: Any) -> None:
        """A DiagnosticArray; the statuses of other packages' nodes are left aside."""
        now = self._clock()
        with self._lock:
            for status in message.status:
                node = status.name.rpartition("/")[2]
                if node in NODES and status.name.startswith(self._prefix):
                    self._said.setdefault("nodes", {})[status.name] = (now, status)
                    self._times["nodes"] = now

    def _say(self, subject: str, value: Any) -> None:
        with self._lock:
            self._said[subject] = value
            self._times[subject] = self._clock()

    # --- the server's thread --------------------------------------------------------------------------------

    def picture(self, subject: str) -> Picture | None:
        """The newest picture for the page, None if there is none that can be shown."""
        with self._lock:
            number, message = self._said.get(subject, (0, None))
            encoded = self._encoded.get(subject)
        if message is None:
            return None
        if encoded is None or encoded.number != number:
            try:
                data = _encoded(message)
            except LedposeError as error:
                self._refusals.count("unusable image", str(error))
                data = b""
            encoded = Picture(number, data)
            with self._lock:
                if subject in self._said:
                    self._encoded[subject] = encoded
        return encoded if encoded.data else None

    def state(self, picture: str) -> dict[str, Any]:
        """All that the page says, for one that shows the given picture, or none if that is no subject."""
        with self._lock:
            nodes, identities = self._nodes(), self._fresh("identities") or {}
            peers = self._panel("peers", "no peer is seen")
            peers["value"] = [peer | _identity(identities.get(peer["id"])) for peer in peers["value"]]
            return {
                "headline": self._headline(nodes),
                "picture": self._picture_panel(picture),
                "peers": peers,
                "leds": self._panel("leds", "no peer is seen"),
                "truth": self._fresh("truth"),
                "field": self._said.get("field"),
                "nodes": self._panel("nodes") | {"value": nodes, "is_stale": False},
            }

    def _age(self, subject: str) -> float:
        return self._clock() - self._times.get(subject, -math.inf)

    def _fresh(self, subject: str) -> Any:
        return self._said.get(subject) if self._age(subject) < STALE else None

    def _note(self, subject: str) -> str:
        """Why there is nothing new of a subject in words; empty if there is."""
        age, what, topic = self._age(subject), WHAT[subject], self._topics[subject]
        if age < STALE:
            return ""
        if not self._publishers.get(subject):
            return f"no {what} on {topic}: nobody publishes it"
        if age == math.inf:
            return f"no {what} on {topic} yet, though somebody publishes it"
        return f"no {what} on {topic} for {age:.0f} s"

    def _panel(self, subject: str, if_empty: str = "") -> dict[str, Any]:
        """What a panel shows; the note says what is amiss, if only that there is nothing to show."""
        value, silence = self._said.get(subject, []), self._note(subject)
        note = silence or ("" if value else if_empty)
        return {"value": value, "note": note, "is_stale": bool(silence)}

    def _picture_panel(self, subject: str) -> dict[str, Any]:
        if subject not in PICTURES:
            return {"note": "", "is_stale": False}
        note, encoded = self._note(subject), self._encoded.get(subject)
        is_stale = bool(note)
        if not note and encoded is not None and not encoded.data:
            note = self._refusals.sentences["unusable image"]
        return {"note": note, "is_stale": is_stale}

    def _nodes(self) -> list[dict[str, Any]]:
        now, nodes = self._clock(), []
        for name, (heard, status) in sorted(self._said.get("nodes", {}).items()):
            level, age = LEVELS[min(_number(status.level), len(LEVELS) - 1)], now - heard
            text = status.message
            if age >= STALE:
                level, text = "stale", f"silent for {age:.0f} s; it last said: {text}"
            values = {pair.key: pair.value for pair in status.values}
            nodes.append({"name": name, "level": level, "text": text, "values": values})
        return nodes

    def _headline(self, nodes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """How things are in one line: above all whether there is an estimator that says anything."""
        estimators = [node for node in nodes if node["name"].rpartition("/")[2] == "estimator"]
        if estimators:
            worst = max(estimators, key=lambda node: LEVELS.index(node["level"]))
            return {"level": worst["level"], "text": f"{worst['name']}: {worst['text']}"}
        if self._age("peers") < STALE:
            return {"level": "ok", "text": f"poses come on {self._topics['peers']}"}
        return {"level": "error", "text": f"no estimator is heard: {self._note('peers')}"}


def peers_of_markers(markers: Sequence[Any]) -> list[dict[str, Any]]:
    """The peers in a message of `markers.peer_markers`, best first."""
    boxes = {marker.id: marker.pose for marker in markers if marker.ns == "box"}
    spreads = {marker.id: marker for marker in markers if marker.ns == "uncertainty"}
    peers = []
    for rank, (number, pose) in enumerate(boxes.items()):
        covariance = None
        if (spread := spreads.get(number)) is not None:
            axes = rotation_matrix(pose_of(spread)[3:])
            scale = np.array([spread.scale.x, spread.scale.y, spread.scale.z]) / 2 / DEVIATIONS
            covariance = axes @ np.diag(scale**2) @ axes.T
        peers.append(_peer(number, rank, pose, covariance))
    return peers


def ellipse(covariance: np.ndarray) -> list[float]:
    """Semi-axes [m] and direction [rad] of the first, from x to z, of a covariance (2, 2) on the map."""
    variances, axes = np.linalg.eigh(covariance)
    long, short = DEVIATIONS * np.sqrt(np.maximum(variances[::-1], 0))
    return _rounded([long, short, math.atan2(axes[1, 1], axes[0, 1])])


def _peer(number: int | None, rank: int, pose: Any, covariance: np.ndarray | None) -> dict[str, Any]:
    """A peer for the page; one without an id is told by its rank."""
    label = f"#{rank + 1}" if number is None else f"peer {number}"
    on_map = None if covariance is None else ellipse(covariance[np.ix_([0, 2], [0, 2])])
    return {"id": number, "label": label, "ellipse": on_map} | _place(SimpleNamespace(pose=pose))


def _place(message: Any) -> dict[str, Any]:
    """Where on the map something with a pose is: x right, z forward [m]; its distance and heading."""
    pose = pose_of(message)
    if not np.isfinite(pose).all() or not pose[3:].any():
        raise LedposeError(f"a pose is no pose: {pose.tolist()}")
    heading = rotation_matrix(pose[3:])[[0, 2], 0]
    return {
        "place": _rounded(pose[[0, 2]]),
        "distance": round(float(np.linalg.norm(pose[:3])), 3),
        "heading": _rounded(heading),
    }


def _identity(probabilities: Mapping[str, float] | None) -> dict[str, Any]:
    """Who a peer probably is, likeliest first."""
    ranked = sorted((probabilities or {}).items(), key=lambda item: -item[1])
    return {"identity": [{"name": name, "probability": probability} for name, probability in ranked]}


def _probabilities(message: Any) -> dict[str, float]:
    """Name -> probability of a JointState; LedposeError unless each name has one."""
    names, values = list(message.name), [float(value) for value in message.position]
    if len(names) != len(values) or not all(0 <= value <= 1 for value in values):
        raise LedposeError(f"{len(names)} names do not have a probability each: {values}")
    return {name: round(value, 4) for name, value in zip(names, values, strict=True)}


def _encoded(message: Any) -> bytes:
    """A picture that browsers show: compressed ones as they are, others as JPEG of a sensible size."""
    if hasattr(message, "format") and encoding_of(data := bytes(message.data)) is not None:
        return data
    rgb = rgb_from_message(message)
    height, width = rgb.shape[:2]
    if width > MAX_WIDTH:
        size = MAX_WIDTH, max(1, round(height * MAX_WIDTH / width))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return encode_image(rgb, "jpeg", JPEG_QUALITY)


def _number(level: bytes | int) -> int:
    """A DiagnosticStatus level: rclpy has a byte for it."""
    return level if isinstance(level, int) else level[0]


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]
