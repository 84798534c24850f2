# SPDX-License-Identifier: Apache-2.0
"""The estimator node: camera images in, relative poses of the peers out.

Topics, services, parameters and diagnostics: docs/estimator.md.
"""

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import (
    PoseArray,
    PoseWithCovariance,
    PoseWithCovarianceStamped,
    Transform,
    TransformStamped,
    Vector3,
)
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Header
from std_srvs.srv import SetBool
from visualization_msgs.msg import MarkerArray

from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import Detections, PeerEstimate, PeerEstimator, locate
from ledpose_ros.geometry import camera_tilt, check_camera
from ledpose_ros.images import rgb_from_message
from ledpose_ros.leds import stamp_ns
from ledpose_ros.model_metadata import default_model_path
from ledpose_ros.nodes.common import (
    ERROR,
    OK,
    WARN,
    ImageSubscription,
    declare_parameters,
    diagnostics_message,
    message_from_rgb,
    pose_message,
    run_node,
    sensor_qos,
    subscribe,
)
from ledpose_ros.nodes.markers import peer_markers
from ledpose_ros.parameters import NODE_PARAMETERS
from ledpose_ros.refusals import Refusals
from ledpose_ros.visualization import draw_attention, draw_peers

DIAGNOSTICS_PERIOD = 1.0
# Without images or results for so long, the diagnostics say why.
SILENCE = 2.0


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

    Messages and services are handled by the executor's thread, images by a worker thread that exists only
    while the node is active.
    """

    def __init__(self) -> None:
        super().__init__("estimator")
        self.problem = ""
        self._settings = declare_parameters(self, NODE_PARAMETERS["estimator"])
        if len(self._settings.peer_size) != 3:
            raise LedposeError(
                f"parameter 'peer_size' has {len(self._settings.peer_size)} numbers, "
                "but must have 3: length, width, height"
            )
        self._refusals = Refusals(self.get_logger().warning)
        self._is_enabled = True
        self._estimator: PeerEstimator | None = None
        self._tf_broadcaster: Any = None
        self._camera_info: CameraInfo | None = None
        self._images = LatestImage()
        self._worker: threading.Thread | None = None
        self._image_subscription: ImageSubscription | None = None

        self._received = self._answered = self._superseded = 0
        self._received_before = 0
        self._diagnostics_time = self._image_time = self._answer_time = time.monotonic()
        self._peer_count = 0
        self._durations: deque[float] = deque(maxlen=300)
        self._debug_time = 0.0

        self._pose_publisher = self.create_publisher(PoseWithCovarianceStamped, "peer_pose", 10)
        self._poses_publisher = self.create_publisher(PoseArray, "peer_poses", 10)
        self._leds_publisher = self.create_publisher(JointState, "peer_led_states", 10)
        self._markers_publisher = self.create_publisher(MarkerArray, "markers", 10)
        self._debug_publisher = self.create_publisher(Image, "debug_image", 1)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        subscribe(self, CameraInfo, "camera_info", self._on_camera_info, sensor_qos(), self._refusals)
        self.create_service(SetBool, "~/enable", self._on_enable)
        # Steady time, so that diagnostics also come while simulated time stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(DIAGNOSTICS_PERIOD, self._publish_diagnostics, clock=steady)

        if self._settings.autostart and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def close(self) -> None:
        """End the worker thread."""
        self._stop()

    # --- lifecycle ------------------------------------------------------------------------------------------

    @_transition
    def on_configure(self, _state: LifecycleState) -> None:
        settings = self._settings
        if settings.publish_tf:
            self._tf_broadcaster = self._make_tf_broadcaster()
        self._estimator = PeerEstimator(settings.model or default_model_path(), settings.threads)
        calibration = self._estimator.metadata.calibration
        self.get_logger().info(
            f"model {self._estimator.path}: LEDs {', '.join(self._estimator.metadata.led_names)}; "
            + ("not calibrated, so no positions" if calibration is None else "calibrated")
        )

    @_transition
    def on_activate(self, _state: LifecycleState) -> None:
        image_type = CompressedImage if self._settings.image_transport == "compressed" else Image
        self._images = LatestImage()
        self._worker = threading.Thread(target=self._answer_images, name="estimator", daemon=True)
        self._worker.start()
        self._image_subscription = ImageSubscription(
            self, image_type, "image", self._on_image, self._refusals
        )

    @_transition
    def on_deactivate(self, _state: LifecycleState) -> None:
        self._stop()

    @_transition
    def on_cleanup(self, _state: LifecycleState) -> None:
        self._estimator = None
        self._tf_broadcaster = None

    @_transition
    def on_shutdown(self, _state: LifecycleState) -> None:
        self._stop()
        self._estimator = None

    @property
    def _state(self) -> str:
        """The lifecycle state, as far as a reader of the diagnostics cares."""
        if self._worker is not None:
            return "active"
        return "unconfigured" if self._estimator is None else "inactive"

    def _stop(self) -> None:
        """End what on_activate began."""
        if self._image_subscription is not None:
            self._image_subscription.destroy()
            self._image_subscription = None
        self._images.close()
        if self._worker is not None:
            self._worker.join()
            self._worker = None

    def _make_tf_broadcaster(self) -> Any:
        try:
            from tf2_ros import TransformBroadcaster
        except ImportError as error:
            raise LedposeError(
                f"publish_tf needs the Python package tf2_ros, which cannot be imported ({error}): "
                "install it from the ROS distribution or set publish_tf to false"
            ) from error
        return TransformBroadcaster(self)

    # --- messages -------------------------------------------------------------------------------------------

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._received += 1
        self._image_time = time.monotonic()
        if self._is_enabled:
            self._superseded += self._images.put(message)

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._camera_info = message

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._is_enabled = request.data
        response.success = True
        response.message = "images are answered" if request.data else "images are ignored"
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

    def _answer(self, message: Image | CompressedImage) -> None:
        """Estimate and publish the peers of one image."""
        assert self._estimator is not None
        settings, metadata = self._settings, self._estimator.metadata
        self._check_age(message.header)
        rgb = rgb_from_message(message)
        camera = self._camera_of(rgb)

        start = time.perf_counter()
        detections = self._estimator.detect(rgb)
        tilt = camera_tilt(settings.camera_pitch, settings.camera_roll)
        width, confidence = rgb.shape[1], settings.min_confidence
        peers = locate(detections, metadata.calibration, *camera, width, confidence, tilt)
        duration = time.perf_counter() - start
        self._durations.append(duration)

        self._publish_leds(message.header, peers)
        self._publish_debug_image(message.header, rgb, detections, peers, camera, duration)
        if metadata.calibration is None:
            raise Refusal(
                "model not calibrated",
                f"the model {self._estimator.path} is not calibrated, so positions cannot be told: "
                "run `ledpose calibrate` with a picture at a known distance",
            )
        self._publish_poses(message.header, peers)
        self._peer_count = len(peers)
        self._answered += 1
        self._answer_time = time.monotonic()

    def _check_age(self, header: Header) -> None:
        age = (self.get_clock().now().nanoseconds - stamp_ns(header.stamp)) / 1e9
        limit = self._settings.max_image_age
        if 0 < limit < age:
            raise Refusal(
                "image too old",
                f"an image is {age:.3f} s old, max_image_age is {limit:g} s: "
                "check the clocks, or use_sim_time if it comes from a simulator or a bag",
            )

    def _camera_of(self, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
        """K, D and distortion model for an image, from the newest camera_info."""
        info = self._camera_info
        if info is None:
            raise Refusal(
                "no camera_info", f"no camera_info has arrived on {self.resolve_topic_name('camera_info')}"
            )
        try:
            camera = check_camera(info.k, info.d, info.distortion_model)
        except LedposeError as error:
            raise Refusal("unusable camera_info", str(error)) from error
        height, width = rgb.shape[:2]
        if (info.width, info.height) != (width, height):
            raise Refusal(
                "camera_info of another size",
                f"camera_info is for {info.width}x{info.height}, but the image is {width}x{height}: "
                "publish the camera_info of this resolution",
            )
        return camera

    def _publish_leds(self, header: Header, peers: list[PeerEstimate]) -> None:
        assert self._estimator is not None
        message = JointState(header=header)
        if peers:
            message.name = list(self._estimator.metadata.led_names)
            message.position = [float(probability) for probability in peers[0].led_probability]
        self._leds_publisher.publish(message)

    def _publish_poses(self, header: Header, peers: list[PeerEstimate]) -> None:
        assert self._estimator is not None
        poses = [pose_message(peer.pose) for peer in peers if peer.pose is not None]
        self._poses_publisher.publish(PoseArray(header=header, poses=poses))
        directions, size = self._estimator.metadata.led_directions, self._settings.peer_size
        self._markers_publisher.publish(peer_markers(header, peers, directions, size))
        if not poses:
            return
        assert peers[0].covariance is not None
        best = PoseWithCovariance(pose=poses[0], covariance=peers[0].covariance.ravel())
        self._pose_publisher.publish(PoseWithCovarianceStamped(header=header, pose=best))
        if self._tf_broadcaster is not None:
            position = poses[0].position
            transform = Transform(
                translation=Vector3(x=position.x, y=position.y, z=position.z), rotation=poses[0].orientation
            )
            self._tf_broadcaster.sendTransform(
                TransformStamped(header=header, child_frame_id=self._settings.peer_frame, transform=transform)
            )

    def _publish_debug_image(
        self,
        header: Header,
        rgb: np.ndarray,
        detections: Detections,
        peers: list[PeerEstimate],
        camera: tuple[np.ndarray, np.ndarray, str],
        duration: float,
    ) -> None:
        now = time.monotonic()
        is_due = now - self._debug_time >= 1 / self._settings.debug_image_rate
        if not is_due or self._debug_publisher.get_subscription_count() == 0:
            return
        assert self._estimator is not None
        self._debug_time = now
        directions, size = self._estimator.metadata.led_directions, self._settings.peer_size
        tinted = draw_attention(rgb, detections.attention)
        drawn = draw_peers(tinted, peers, directions, *camera, size, note=f"{1000 * duration:.0f} ms")
        self._debug_publisher.publish(message_from_rgb(drawn, header))

    # --- diagnostics ----------------------------------------------------------------------------------------

    def _publish_diagnostics(self) -> None:
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
        values |= {f"refused: {reason}": count for reason, count in self._refusals.counts.items()}
        durations = list(self._durations)
        if durations:
            half, most = 1000 * np.percentile(durations, [50, 95])
            values |= {"inference p50 [ms]": f"{half:.1f}", "inference p95 [ms]": f"{most:.1f}"}
        if self._estimator is not None:
            calibration = self._estimator.metadata.calibration
            values["model"] = self._estimator.path.name
            values["calibration"] = (
                "none: positions are refused"
                if calibration is None
                else f"from {calibration.images} images, residual {calibration.residual:.3f} octaves"
            )
        self._diagnostics_publisher.publish(diagnostics_message(self, level, summary, values))

    def _summary(self) -> tuple[bytes, str]:
        """How well the node does, in words: above all why nothing is published."""
        if self.problem:
            return ERROR, self.problem
        if self._state != "active":
            return WARN, f"the node is {self._state}: configure and activate it"
        if not self._is_enabled:
            return WARN, "disabled by the enable service"
        now = time.monotonic()
        if now - self._image_time > SILENCE:
            topic = self.resolve_topic_name("image")
            count = self.count_publishers(topic)
            return WARN, f"no images arrive on {topic}, which has {count} publishers"
        if now - self._answer_time > SILENCE:
            sentences = list(self._refusals.sentences.values())
            return WARN, sentences[-1] if sentences else "no image has been answered yet"
        return OK, f"{self._peer_count} peers in the last image"


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    return run_node(EstimatorNode, args)


if __name__ == "__main__":
    sys.exit(main())
