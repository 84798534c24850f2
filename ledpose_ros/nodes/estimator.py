# SPDX-License-Identifier: Apache-2.0
"""The estimator node: camera images in, relative poses of the peers out.

Topics, services, parameters and diagnostics: docs/estimator.md.
"""

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial, wraps
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.subscription import Subscription
from rclpy.time import Time
from rclpy.validate_full_topic_name import validate_full_topic_name
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Header
from std_srvs.srv import SetBool

from ledpose_ros.camera_info import camera_from_info, image_size, whole_width
from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import Detections, PeerEstimate, PeerEstimator, locate
from ledpose_ros.floor import at_base, stand_on_floor
from ledpose_ros.geometry import (
    Camera,
    chained_pose,
    mounted_camera,
    pose_of,
)
from ledpose_ros.identification import PeerIdentifier
from ledpose_ros.images import rgb_from_message
from ledpose_ros.leds import CLOCK_JUMP_NS, LedHistory, led_states_from_message, nanoseconds, stamp_ns
from ledpose_ros.model_metadata import shipped_model
from ledpose_ros.nodes.common import (
    ERROR,
    OK,
    WARN,
    ImageSubscription,
    SensorThread,
    declare_parameters,
    diagnostics_message,
    message_from_rgb,
    run_node,
    sensor_qos,
    subscribe,
    subscribe_to_leds,
)
from ledpose_ros.nodes.compatibility import LifecycleNode
from ledpose_ros.nodes.peer_outputs import STRANGER, PeerOutputs, identified_topic
from ledpose_ros.odometry import OdometryHistory
from ledpose_ros.pacing import Pace
from ledpose_ros.parameters import NODE_PARAMETERS
from ledpose_ros.refusals import Refusals
from ledpose_ros.tracking import TIMEOUT, PeerTracker, Track
from ledpose_ros.visualization import draw_estimates

ODOMETRY_QUEUE = 20
DIAGNOSTICS_PERIOD = 1.0
# Without images or results for so long, or for twice the camera's period, the diagnostics say why.
SILENCE = 2.0
# So long may TF take to tell where the camera was.
TF_PATIENCE = Duration(seconds=0.1)
NO_HEIGHT = "peers_on_floor needs the camera's height: set camera_position or base_frame"
# What begins the name of a namespace beside the node's own.
BESIDE = "../"
# What an image goes through, in the order of the diagnostics.
STAGES = ("conversion", "inference", "decoding", "publishing")

# What to do in which state of the lifecycle.
ADVICE = {
    "unconfigured": "configure and activate it",
    "inactive": "activate it",
    "finalized": "end it and start it anew",
}


class Refusal(Exception):
    """An image that is not worth an answer: a short reason to count and a sentence to log."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class LatestImage:
    """Hands the newest image to the worker thread; an older one that still waits is dropped."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._message: Image | CompressedImage | None = None
        self._is_closed = False

    def put(self, message: Image | CompressedImage) -> bool:
        """Replace the waiting image; True if there was one."""
        with self._condition:
            replaces, self._message = self._message is not None, message
            self._condition.notify()
            return replaces

    def take(self) -> Image | CompressedImage | None:
        """Wait for an image; None once closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._is_closed or self._message is not None)
            message, self._message = self._message, None
            return None if self._is_closed else message

    def close(self) -> None:
        with self._condition:
            self._is_closed = True
            self._condition.notify()


Transition = Callable[["EstimatorNode", LifecycleState], None]


def _transition(
    callback: Transition,
) -> Callable[["EstimatorNode", LifecycleState], TransitionCallbackReturn]:
    """Make a lifecycle callback of a method that raises: rclpy itself would swallow the exception."""

    @wraps(callback)
    def guarded(node: "EstimatorNode", state: LifecycleState) -> TransitionCallbackReturn:
        try:
            callback(node, state)
        except LedposeError as error:
            node.problem = str(error)
        except Exception as error:
            node.problem = f"{type(error).__name__}: {error}"
            node.get_logger().error(traceback.format_exc())
        else:
            node.problem = ""
            return TransitionCallbackReturn.SUCCESS
        node.get_logger().error(node.problem)
        return TransitionCallbackReturn.FAILURE

    return guarded


class EstimatorNode(LifecycleNode):
    """Lifecycle node around a `PeerEstimator`: configured it holds the model, active it answers images.

    Services and timers are handled by the executor's thread. Messages of sensors have a thread of their own,
    and a worker thread answers images; both exist only while the node is active. Images are subscribed to
    only while somebody listens to the answers.
    """

    def __init__(self) -> None:
        super().__init__("estimator")
        self.problem = ""
        self._settings = settings = declare_parameters(
            self, NODE_PARAMETERS["estimator"], self._check_changes
        )
        for name, meaning in (("peer_size", "length, width, height"), ("camera_position", "x, y, z")):
            if (count := len(getattr(settings, name))) != 3:
                raise LedposeError(f"parameter '{name}' has {count} numbers, but must have 3: {meaning}")
        self._refusals = Refusals(self.get_logger().warning)
        # What is told and counted, though the image is answered.
        self._remarks = Refusals(self.get_logger().warning)
        self._is_enabled = True
        self._is_finalized = False
        self._estimator: PeerEstimator | None = None
        self._camera_info: CameraInfo | None = None
        self._known_camera: tuple[object, ...] = ()
        self._images = LatestImage()
        self._sensors = SensorThread(self, "sensors")
        self._image_type = CompressedImage if settings.image_transport == "compressed" else Image
        self._worker: threading.Thread | None = None
        self._image_subscription: ImageSubscription | None = None
        self._heard: list[Subscription] = []
        self._tf: Any = None
        self._tf_listener: Any = None

        # What the thread of the sensors hears and the worker needs.
        self._senses = threading.Lock()
        self._odometry = OdometryHistory()
        self._peer_namespaces = _peer_namespaces(settings.peers, self.get_namespace())
        self._peer_names = list(self._peer_namespaces)
        self._led_delays: dict[str, float] = {}
        guard, max_age = nanoseconds(settings.led_guard), nanoseconds(settings.led_max_age)
        self._led_histories = [LedHistory(guard, max_age) for _ in self._peer_names]
        # What the worker remembers of the images before.
        self._forget_peers()
        self._newest_ns = 0
        self._knows_own_motion = False
        self._own_motion_ns = 0
        self._own_pose: np.ndarray | None = None

        self._received = self._answered = self._superseded = 0
        self._received_before = 0
        self._diagnostics_time = self._image_time = self._answer_time = time.monotonic()
        self._image_intervals: deque[float] = deque(maxlen=2)
        self._peer_count, self._confidence = 0, 0.0
        self._why_not = ""
        self._ages: deque[float] = deque(maxlen=300)
        self._durations = {stage: deque[float](maxlen=300) for stage in STAGES}
        self._drawing = Pace()

        self._outputs = PeerOutputs(self, settings, self._peer_names, self._on_listeners, self._refusals)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self.create_service(SetBool, "~/enable", self._on_enable)
        # Steady time, so that diagnostics also come while simulated time stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(DIAGNOSTICS_PERIOD, self._on_timer, clock=steady)

        if settings.autostart and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def close(self) -> None:
        """End the worker thread."""
        self._stop()

    def _check_changes(self, changes: Mapping[str, Any]) -> None:
        """Refuse live changes that would do nothing, or that would have every image refused."""
        settings = self._settings
        for name in ("camera_pitch", "camera_roll", "camera_yaw"):
            if name in changes and settings.base_frame:
                raise LedposeError(f"parameter '{name}' does nothing with base_frame, for which TF tells it")
        if changes.get("peers_on_floor") and not settings.base_frame and settings.camera_position[2] == 0:
            raise LedposeError(NO_HEIGHT)

    # --- lifecycle ------------------------------------------------------------------------------------------

    @_transition
    def on_configure(self, _state: LifecycleState) -> None:
        settings = self._settings
        estimator = PeerEstimator(
            settings.model or shipped_model(), settings.threads, settings.providers, settings.spinning
        )
        # Once: what tf2 publishes stays with the node, and so does what it has heard.
        if settings.publish_tf and self._outputs.tf_broadcaster is None:
            self._outputs.tf_broadcaster = _tf2("publish_tf", "false").TransformBroadcaster(self)
        if settings.base_frame and self._tf is None:
            tf2_ros = _tf2("base_frame", "an empty string")
            # Without the node, whose simulated time may stand still: waiting for a transform must end.
            self._tf = tf2_ros.Buffer()
            self._make_tf_listener = partial(tf2_ros.TransformListener, self._tf, self)
            back = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-CLOCK_JUMP_NS))
            self._tf.on_jump = self.get_clock().create_jump_callback(
                back, post_callback=lambda _: self._tf.clear()
            )
        self._estimator = estimator
        calibration = self._estimator.metadata.calibration
        self.get_logger().info(
            f"model {self._estimator.path}: LEDs {', '.join(self._estimator.metadata.led_names)}; "
            + ("not calibrated, so no positions" if calibration is None else "calibrated")
        )

    @_transition
    def on_activate(self, _state: LifecycleState) -> None:
        assert self._estimator is not None
        self._estimator.prepare()
        try:
            self._listen()
            self._images = LatestImage()
            worker = threading.Thread(target=self._answer_images, name="estimator", daemon=True)
            worker.start()
            self._sensors.start()
        except Exception:
            self._stop()
            raise
        self._worker = worker
        self._meet_demand()

    @_transition
    def on_deactivate(self, _state: LifecycleState) -> None:
        assert self._estimator is not None
        self._stop()
        self._estimator.release()

    @_transition
    def on_cleanup(self, _state: LifecycleState) -> None:
        self._estimator = None
        # The next model may tell other LEDs.
        for history in self._led_histories:
            history.clear()
        self._forget_peers()

    @_transition
    def on_shutdown(self, _state: LifecycleState) -> None:
        self._stop()
        self._estimator = None
        self._is_finalized = True

    @property
    def _state(self) -> str:
        """The lifecycle state, as far as a reader of the diagnostics cares."""
        if self._is_finalized:
            return "finalized"
        if self._worker is not None:
            return "active"
        return "unconfigured" if self._estimator is None else "inactive"

    def _listen(self) -> None:
        """Subscribe to all but images, of which `_meet_demand` takes care."""
        hear = partial(subscribe, self, refusals=self._refusals, thread=self._sensors)
        odometry_qos = sensor_qos(ODOMETRY_QUEUE)
        self._heard.append(hear(CameraInfo, "camera_info", self._on_camera_info, sensor_qos()))
        self._heard.append(hear(Odometry, "odometry", self._on_odometry, odometry_qos))
        for (name, namespace), history in zip(
            self._peer_namespaces.items(), self._led_histories, strict=True
        ):
            topic = f"{namespace}/led_states"
            on_states = partial(self._on_led_states, name, topic, history)
            self._heard.append(
                subscribe_to_leds(self, JointState, topic, on_states, self._refusals, self._sensors)
            )
        if self._tf is not None:
            self._tf_listener = self._make_tf_listener()

    def _stop(self) -> None:
        """End what on_activate began."""
        self._sensors.stop()
        for subscription in self._heard:
            self.destroy_subscription(subscription)
        self._heard.clear()
        if self._tf_listener is not None:
            self._tf_listener.unregister()
            self._tf_listener = None
        self._images.close()
        if self._worker is not None:
            self._worker.join()
            self._worker = None
        # Another camera may be there when it goes on.
        self._camera_info, self._known_camera = None, ()
        self._meet_demand()

    # --- who listens ----------------------------------------------------------------------------------------

    def _on_listeners(self) -> None:
        # Later, not here: a subscription should not come or go in the middle of an event.
        if self.executor is not None:
            self.executor.create_task(self._meet_demand)

    def _meet_demand(self) -> None:
        """Subscribe to images only while the node is active, enabled, and somebody listens to its answers."""
        is_demanded = self._worker is not None and self._is_enabled and self._outputs.are_heard
        if is_demanded and self._image_subscription is None:
            self._image_time = self._answer_time = time.monotonic()
            # The node goes on without: listeners come and go, so this cannot be left to its activation.
            try:
                self._image_subscription = ImageSubscription(
                    self, self._image_type, "image", self._on_image, self._refusals, thread=self._sensors
                )
            except LedposeError as error:
                self.problem = str(error)
                self._refusals.count("no subscription", self.problem)
            else:
                self.problem = ""
        elif not is_demanded and self._image_subscription is not None:
            self._image_subscription.destroy()
            self._image_subscription = None

    # --- messages -------------------------------------------------------------------------------------------

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._received += 1
        now = time.monotonic()
        self._image_intervals.append(now - self._image_time)
        self._image_time = now
        self._superseded += self._images.put(message)

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._camera_info = message

    def _on_odometry(self, message: Odometry) -> None:
        pose, stamp = pose_of(message.pose), stamp_ns(message.header.stamp)
        if stamp == 0:
            self._refusals.count("malformed odometry", "an odometry message has the stamp 0")
            return
        with self._senses:
            is_pose = self._odometry.add(stamp, pose)
        if not is_pose:
            self._refusals.count("malformed odometry", f"an odometry message holds no pose: {pose.tolist()}")

    def _on_led_states(self, name: str, topic: str, history: LedHistory, message: JointState) -> None:
        if self._estimator is None:
            return
        names = self._estimator.metadata.led_names
        try:
            states = led_states_from_message(names, message.name, message.position)
        except LedposeError as error:
            self._refusals.count("malformed LED message", f"{topic}: {error}")
            return
        stamp = stamp_ns(message.header.stamp)
        if stamp == 0:
            self._refusals.count("malformed LED message", f"{topic}: the LED message has the stamp 0")
            return
        now_ns = self.get_clock().now().nanoseconds
        self._led_delays[name] = (now_ns - stamp) / 1e9
        with self._senses:
            if history.newest_ns - stamp >= CLOCK_JUMP_NS:
                history.clear()
            history.add(stamp, states, now_ns)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._is_enabled = request.data
        self._meet_demand()
        response.success = True
        response.message = "images are answered" if request.data else "images are ignored"
        if request.data and self._state != "active":
            response.message = f"images are answered once the node is active: it is {self._state}"
        return response

    # --- worker thread --------------------------------------------------------------------------------------

    def _answer_images(self) -> None:
        images = self._images
        while (message := images.take()) is not None:
            try:
                self._answer(message)
                continue
            except Refusal as refusal:
                reason, sentence = refusal.reason, str(refusal)
            except LedposeError as error:
                reason, sentence = "unusable image", str(error)
            except Exception as error:  # a bug must not silence the node
                reason, sentence = "internal error", f"{type(error).__name__}: {error}"
                self.get_logger().error(traceback.format_exc(), throttle_duration_sec=5.0)
            self._refusals.count(reason, sentence)
            self._why_not = sentence

    def _answer(self, message: Image | CompressedImage) -> None:
        """Estimate and publish the peers of one image."""
        assert self._estimator is not None
        settings, metadata, header = self._settings, self._estimator.metadata, message.header
        self._check_stamp(header)
        times = [time.perf_counter()]
        rgb = rgb_from_message(message)
        camera, width = self._camera_of(rgb)
        mount = self._mount(header)
        times.append(time.perf_counter())
        detections = self._estimator.detect(rgb)
        times.append(time.perf_counter())
        try:
            peers = locate(
                detections, metadata.calibration, *camera, width, settings.min_confidence, mount[3:]
            )
        except LedposeError as error:
            raise Refusal("unusable camera_info", str(error)) from error
        self._note_camera(camera, rgb)
        if settings.peers_on_floor:
            peers = [stand_on_floor(peer, mount, settings.peer_height) for peer in peers]
        times.append(time.perf_counter())
        self._outputs.say_leds(header, metadata.led_names, peers)
        draws = self._drawing.allows(time.monotonic(), settings.drawing_rate)
        if metadata.calibration is not None:
            self._publish_poses(header, peers, mount, draws)
            times.append(time.perf_counter())
        # After the poses, which need not wait for drawing.
        if draws:
            note = f"{1000 * (times[2] - times[1]):.0f} ms"
            self._publish_debug_image(header, rgb, detections, peers, camera, note)
        if metadata.calibration is None:
            raise Refusal(
                "model not calibrated",
                f"the model {self._estimator.path} is not calibrated, so positions cannot be told: "
                "run `ledpose calibrate` with a picture at a known distance",
            )
        for stage, duration in zip(STAGES, np.diff(times), strict=True):
            self._durations[stage].append(duration)
        self._peer_count, self._confidence = len(peers), float(detections.confidence.max(initial=0.0))
        self._answered += 1
        self._why_not = ""
        self._answer_time = time.monotonic()

    def _check_stamp(self, header: Header) -> None:
        taken_ns, now_ns = stamp_ns(header.stamp), self.get_clock().now().nanoseconds
        if taken_ns == 0:
            raise Refusal("image without stamp", "an image has the stamp 0: the camera driver must set it")
        age, limit = (now_ns - taken_ns) / 1e9, self._settings.max_image_age
        if limit != 0 and now_ns == 0:
            raise Refusal("no /clock yet", "images come but simulated time has not begun: publish /clock")
        self._ages.append(age)
        if limit != 0:
            self._check_age(age, limit)
        if 0 < self._newest_ns - taken_ns < CLOCK_JUMP_NS:
            raise Refusal(
                "image out of order",
                f"an image is {(self._newest_ns - taken_ns) / 1e9:.3f} s older than the one before it: "
                "set the clock before, and give each camera its own topic",
            )
        if self._newest_ns > taken_ns:
            self._remarks.count(
                "clock jumped backwards",
                f"an image is {(self._newest_ns - taken_ns) / 1e9:.3f} s older than the one before it, "
                "as when a bag starts over: set the clock before",
            )
        self._newest_ns = taken_ns

    @staticmethod
    def _check_age(age: float, limit: float) -> None:
        if abs(age) > limit:
            words = f"{age:.3f} s old" if age > 0 else f"stamped {-age:.3f} s in the future"
            raise Refusal(
                "image too old" if age > 0 else "image of the future",
                f"an image is {words}, max_image_age is {limit:g} s: "
                "check the clocks, or use_sim_time if it comes from a simulator or a bag",
            )

    def _camera_of(self, rgb: np.ndarray) -> tuple[Camera, int]:
        """The camera of an image and its whole width, from the newest camera_info."""
        info = self._camera_info
        if info is None:
            raise Refusal(
                "no camera_info", f"no camera_info has arrived on {self.resolve_topic_name('camera_info')}"
            )
        try:
            camera = camera_from_info(info, self._settings.image_is_rectified)
        except LedposeError as error:
            raise Refusal("unusable camera_info", str(error)) from error
        (height, width), told = rgb.shape[:2], image_size(info)
        if told != (width, height):
            raise Refusal(
                "camera_info of another size",
                "camera_info is for {}x{}, but the image is ".format(*told) + f"{width}x{height}: "
                "publish the camera_info of this resolution",
            )
        return camera, whole_width(info)

    def _note_camera(self, camera: Camera, rgb: np.ndarray) -> None:
        """Count a usable camera that is another one than before."""
        K, D, distortion_model = camera
        known = K.tolist(), D.tolist(), distortion_model, rgb.shape
        if self._known_camera not in ((), known):
            self._remarks.count(
                "camera_info changed",
                f"camera_info tells another camera than before, with K = {K.tolist()}: "
                "if it is the same one, let one node alone publish it",
            )
        self._known_camera = known

    def _mount(self, header: Header) -> np.ndarray:
        """Pose (7,) of the optical frame in the own robot's base frame, which is level and on the floor."""
        settings = self._settings
        if not settings.base_frame:
            if settings.peers_on_floor and settings.camera_position[2] == 0:
                raise Refusal("camera of no height", NO_HEIGHT)
            angles = settings.camera_yaw, settings.camera_pitch, settings.camera_roll
            return _mounted(tuple(settings.camera_position), *angles)
        try:
            # A camera that moves was elsewhere a moment ago, and where it was may be told a moment late.
            found = self._tf.lookup_transform(
                settings.base_frame, header.frame_id, Time.from_msg(header.stamp), TF_PATIENCE
            ).transform
        except Exception as error:  # tf2 has many, with no common base
            raise Refusal(
                "no transform",
                f"TF does not tell where {header.frame_id} was in {settings.base_frame}: {error}",
            ) from error
        position, turn = found.translation, found.rotation
        return np.array([position.x, position.y, position.z, turn.x, turn.y, turn.z, turn.w])

    def _publish_poses(
        self, header: Header, peers: list[PeerEstimate], mount: np.ndarray, draws: bool
    ) -> None:
        assert self._estimator is not None
        bases = [at_base(peer, mount, self._settings.peer_height) for peer in peers]
        camera = self._camera_pose(stamp_ns(header.stamp), mount)
        tracks = self._tracker.update(stamp_ns(header.stamp), bases, camera)
        for ended in self._tracker.ended_ids:
            self._identifier.forget(ended)
        self._outputs.say_poses(header, bases, tracks, camera)
        names = self._identify(header, bases, tracks) if self._peer_names else [""] * len(peers)
        if draws:
            directions = self._estimator.metadata.led_directions
            self._outputs.say_markers(header, peers, tracks, names, directions)

    def _camera_pose(self, image_stamp_ns: int, mount: np.ndarray) -> np.ndarray:
        """Pose (7,) of the optical frame for the tracker: among standing things if odometry tells it."""
        with self._senses:
            base, newest_ns = self._odometry.pose_at(image_stamp_ns), self._odometry.newest_ns
            jumps, self._odometry.jumps = self._odometry.jumps, 0
        if jumps:
            self._remarks.count(
                "odometry jumped",
                "odometry has the robot elsewhere all at once: what was known of peers is not any more",
            )
            self._own_pose = None
            self._forget_peers()
        if base is None and newest_ns is not None:
            self._remarks.count(
                "odometry of another time",
                f"odometry does not tell where the robot was when an image was taken: its newest is "
                f"{(newest_ns - image_stamp_ns) / 1e9:+.3f} s off: synchronise the clocks, and publish it at "
                "10 Hz or more",
            )
        if base is None and 0 <= image_stamp_ns - self._own_motion_ns < TIMEOUT * 1e9:
            base = self._own_pose  # a gap, after which things go on
        elif base is not None:
            self._own_motion_ns, self._own_pose = image_stamp_ns, base
        if (base is not None) != self._knows_own_motion:
            # Places in one frame mean nothing in the other.
            self._knows_own_motion = base is not None
            self._forget_peers()
        return mount if base is None else chained_pose(base, mount)

    def _forget_peers(self) -> None:
        self._tracker = PeerTracker()
        self._identifier = PeerIdentifier(self._peer_names, self._led_histories)

    def _identify(
        self, header: Header, peers: Sequence[PeerEstimate], tracks: Sequence[Track]
    ) -> Sequence[str]:
        """Publish who the peers are; their names, empty where that is not sure."""
        ids = [track.id for track in tracks]
        shown = np.array([peer.led_probability for peer in peers])
        with self._senses:
            self._identifier.see(stamp_ns(header.stamp), ids, shown)
        posterior = self._identifier.posterior(ids)
        self._outputs.say_identities(header, peers, tracks, posterior)
        return self._outputs.names_of(posterior)

    def _publish_debug_image(
        self,
        header: Header,
        rgb: np.ndarray,
        detections: Detections,
        peers: list[PeerEstimate],
        camera: Camera,
        note: str,
    ) -> None:
        if self._outputs.debug_image.get_subscription_count() == 0:
            return
        assert self._estimator is not None
        directions, size = self._estimator.metadata.led_directions, self._settings.peer_size
        drawn = draw_estimates(rgb, detections, peers, directions, camera, size, note)
        self._outputs.debug_image.publish(message_from_rgb(drawn, header))

    # --- diagnostics ----------------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        self._meet_demand()  # for distributions of ROS that do not tell when listeners come
        level, summary = self._summary()
        now = time.monotonic()
        rate = (self._received - self._received_before) / (now - self._diagnostics_time)
        self._received_before, self._diagnostics_time = self._received, now
        values: dict[str, object] = {
            "state": self._state,
            "images received": self._received,
            "image rate [Hz]": f"{rate:.1f}",
            "images answered": self._answered,
            "dropped for a newer image": self._superseded,
        }
        values |= self._remarks.counts
        values |= {f"refused: {reason}": count for reason, count in self._refusals.counts.items()}
        for name, durations in {"image age": self._ages, **self._durations}.items():
            if measured := list(durations):
                half, most = 1000 * np.percentile(measured, [50, 95])
                values |= {f"{name} p50 [ms]": f"{half:.2f}", f"{name} p95 [ms]": f"{most:.2f}"}
        values["own motion"] = "from odometry" if self._knows_own_motion else "not known"
        values |= {f"LEDs of {name}": words for name, words in self._leds_compared()}
        if self._estimator is not None:
            calibration = self._estimator.metadata.calibration
            values["model"] = self._estimator.path.name
            values["model SHA-256"] = self._estimator.digest
            values["calibration"] = (
                "none: positions are refused"
                if calibration is None
                else f"from {calibration.images} images, residual {calibration.residual:.3f} octaves"
            )
        self._diagnostics_publisher.publish(diagnostics_message(self, level, summary, values))

    def _leds_compared(self) -> Iterator[tuple[str, str]]:
        """Each peer's name, and whether it can be recognised: where not, why nothing would ever be sure."""
        identifier = self._identifier
        for name, count, rejection in zip(
            identifier.names, identifier.compared, identifier.rejections, strict=True
        ):
            words = f"compared with {count} pictures"
            if rejection is not None:
                words += f", not with the last: {rejection.value}"
            delay = self._led_delays.get(name)
            words += "; none told yet" if delay is None else f"; told {delay:.3f} s after their stamp"
            yield name, words

    def _summary(self) -> tuple[bytes, str]:
        """How well the node does, in words: above all why nothing is published."""
        if self.problem:
            return ERROR, self.problem
        if self._state != "active":
            return WARN, f"the node is {self._state}: {ADVICE[self._state]}"
        if not self._is_enabled:
            return WARN, "disabled by the enable service"
        if self._image_subscription is None:
            return OK, "nobody listens, so no images are looked at"
        now = time.monotonic()
        # The shorter interval, so that one image after hours without does not make for hours of patience.
        patience = max(SILENCE, 2 * min(self._image_intervals, default=0.0))
        if now - self._image_time > patience:
            return WARN, self._why_silent()
        if now - self._answer_time > patience:
            return WARN, self._why_not or f"no image answered for {now - self._answer_time:.0f} s"
        if not self._peer_count:
            least = self._settings.min_confidence
            return (
                OK,
                f"nobody in the last image: at most {self._confidence:.2f} sure, {least:g} are asked for",
            )
        return OK, f"{self._peer_count} peers in the last image"

    def _why_silent(self) -> str:
        topic = self.resolve_topic_name("image")
        types = [info.topic_type for info in self.get_publishers_info_by_topic(topic)]
        sentence = f"no images arrive on {topic}, which has {len(types)} publishers"
        wanted = f"sensor_msgs/msg/{self._image_type.__name__}"
        if others := set(types) - {wanted}:
            sentence += f", of {', '.join(sorted(others))}, not {wanted}: see the parameter image_transport"
        elif (misfit := self._refusals.sentences.get("incompatible QoS", "")) and topic in misfit:
            sentence += f"; {misfit}"
        return sentence


@lru_cache(maxsize=1)
def _mounted(position: tuple[float, ...], yaw: float, pitch: float, roll: float) -> np.ndarray:
    """`mounted_camera`, worked out again only after a live change."""
    return mounted_camera(position, yaw, pitch, roll)


def _peer_namespaces(peers: Sequence[str], own: str) -> dict[str, str]:
    """Name -> namespace of the peers that are not empty; LedposeError if one is none, or is there twice."""
    namespaces: dict[str, str] = {}
    for peer in filter(None, peers):
        name = peer.removeprefix(BESIDE).strip("/")
        try:
            validate_full_topic_name(f"/{identified_topic(name)}")
        except InvalidTopicNameException as error:
            reason = str(error).partition("\n")[0].rstrip(":")
            raise LedposeError(
                f"parameter 'peers' holds '{peer}', which is no namespace: {reason}"
            ) from error
        if name.rpartition("/")[2] == STRANGER:
            raise LedposeError(
                f"parameter 'peers' holds '{peer}', but so those are called who are none of them: rename it"
            )
        namespace = _resolved(peer, own)
        if name in namespaces or namespace in namespaces.values():
            raise LedposeError(f"parameter 'peers' names a peer twice: {', '.join(filter(None, peers))}")
        namespaces[name] = namespace
    return namespaces


def _resolved(peer: str, own: str) -> str:
    """A peer's absolute namespace; ../NAME lies beside the node's own, which ROS has no word for."""
    name = peer.removeprefix(BESIDE).strip("/")
    if peer.startswith("/"):
        return f"/{name}"
    above = own.rpartition("/")[0] if peer.startswith(BESIDE) else own.rstrip("/")
    return f"{above}/{name}"


def _tf2(parameter: str, without: str) -> Any:
    """The package tf2_ros, which only some parameters need."""
    try:
        import tf2_ros
    except ImportError as error:
        raise LedposeError(
            f"{parameter} needs the Python package tf2_ros, which cannot be imported ({error}): "
            f"install it from the ROS distribution or set {parameter} to {without}"
        ) from error
    return tf2_ros


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    return run_node(EstimatorNode, args)


if __name__ == "__main__":
    sys.exit(main())
