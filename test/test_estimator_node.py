# SPDX-License-Identifier: Apache-2.0
"""The estimator as a process of its own, over DDS.

The fake model sees a peer in white pictures and nobody in black ones.
"""

import dataclasses
import hashlib
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from estimator_camera import BLACK, FRAME, HEIGHT, MODULE, WHITE, WIDTH, Camera
from fake_model import LED_PROBABILITY, METADATA, write_fake_model
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped, TransformStamped
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue, SetParametersResult
from rcl_interfaces.srv import DescribeParameters, ListParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_graph import REPOSITORY, Client, ros_client, run_node
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Header
from std_srvs.srv import SetBool
from visualization_msgs.msg import Marker

from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import camera_tilt
from ledpose_ros.images import encode_image
from ledpose_ros.leds import stamp_ns
from ledpose_ros.nodes import estimator
from ledpose_ros.nodes.common import (
    ERROR,
    ImageSubscription,
    SensorThread,
    message_from_rgb,
    stamp_from_ns,
)
from ledpose_ros.nodes.estimator import EstimatorNode, LatestImage, _resolved, _transition
from ledpose_ros.nodes.peer_outputs import PeerOutputs
from ledpose_ros.parameters import NODE_PARAMETERS
from ledpose_ros.refusals import Refusals

SHARED_MEMORY = Path("/dev/shm")
FAKE_TF2 = Path(__file__).parent / "fake_tf2"
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def set_parameter(client: Client, name: str, value: float | bool) -> SetParametersResult:
    """Change a parameter of the estimator live."""
    if isinstance(value, bool):
        value_message = ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=value)
    else:
        value_message = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
    request = SetParameters.Request(parameters=[Parameter(name=name, value=value_message)])
    return client.call(SetParameters, "estimator/set_parameters", request).results[0]


@pytest.fixture
def camera(client: Client) -> Camera:
    return Camera(client)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_fake_model(tmp_path_factory.mktemp("model") / "fake.onnx")


def test_white_picture_gives_a_pose_and_black_one_an_empty_array(camera, domain, model, tmp_path):
    with run_node(MODULE, domain, tmp_path / "log", {"model": model, "drawing_rate": 100.0}) as node:
        camera.wait_for_estimator()

        header, pose = camera.show_until(WHITE, camera.pose, node.log)
        assert pose.header == header
        position = pose.pose.pose.position
        # The model says 2 m, straight ahead, for a camera with the calibration's focal length.
        assert (position.x, position.y, position.z) == pytest.approx((0, 0, 2), abs=1e-5)
        covariance = np.reshape(pose.pose.covariance, (6, 6))
        assert covariance == pytest.approx(covariance.T)
        assert np.linalg.eigvalsh(covariance).min() > 0
        assert covariance[3, 3] == covariance[5, 5] == pytest.approx(math.pi**2)

        camera.client.wait_until(lambda: camera.markers and camera.leds and camera.poses, what="all topics")
        assert [len(poses.poses) for poses in camera.poses[-1:]] == [1]
        assert camera.leds[-1].header == header
        assert tuple(camera.leds[-1].name) == METADATA.led_names
        assert tuple(camera.leds[-1].position) == pytest.approx(LED_PROBABILITY)
        kinds = [(marker.action, marker.ns) for marker in camera.markers[-1].markers]
        assert kinds == [(Marker.DELETEALL, "")] + [
            (Marker.ADD, name) for name in ("box", "wheels", "heading", "leds", "uncertainty", "text")
        ]
        assert all(marker.header == header for marker in camera.markers[-1].markers)

        known = len(camera.pose)
        header, poses = camera.show_until(BLACK, camera.poses, node.log)
        assert poses.header == header
        assert poses.poses == []
        assert len(camera.pose) == known

        def are_markers_deleted() -> bool:
            # Two pictures in quick succession may be too many to draw.
            camera.publish(message_from_rgb(BLACK, camera.header()))
            camera.client.spin_for(0.1)
            return [marker.action for marker in camera.markers[-1].markers] == [Marker.DELETEALL]

        camera.client.wait_until(are_markers_deleted, what=lambda: camera.markers[-1])

        camera.wait_for_value("model", "fake.onnx")
        camera.wait_for_value("inference p95 [ms]")
        camera.wait_for_value("model SHA-256", hashlib.sha256(model.read_bytes()).hexdigest())
        camera.wait_for_value("image age p50 [ms]", r"\d+\.\d+")
        camera.show_until(BLACK, camera.poses, node.log)
        camera.wait_for_summary("nobody in the last image: at most 0.20 sure, 0.7 are asked for")
        assert node.end(signal.SIGINT)[0] == 0
        assert "Traceback" not in node.log


def test_unusable_input_is_counted_and_the_node_lives(camera, domain, model, tmp_path):
    with run_node(MODULE, domain, tmp_path / "log", {"model": model}) as node:
        camera.wait_for_estimator()

        def refuse(reason: str, make_message: Callable[[], Image]) -> None:
            def is_counted() -> bool:
                camera.publish(make_message())
                camera.client.spin_for(0.1)
                return camera.value(f"refused: {reason}") != ""

            camera.client.wait_until(is_counted, what=lambda: f"{reason} in {camera.status()}")

        def white(age: float = 0.0) -> Image:
            return message_from_rgb(WHITE, camera.header(age))

        camera.info = None
        refuse("no camera_info", white)
        camera.info = camera.make_info(focal_length=0.0)
        refuse("unusable camera_info", white)
        camera.info = camera.make_info(width=2 * WIDTH)
        refuse("camera_info of another size", white)
        camera.info = camera.make_info()
        refuse("image too old", lambda: white(age=3.0))

        def is_age_told() -> bool:
            camera.publish(white(age=3.0))
            camera.client.spin_for(0.1)
            return float(camera.value("image age p95 [ms]")) > 2900

        camera.client.wait_until(is_age_told, what=lambda: f"the age in {camera.status()}")

        def unknown_encoding() -> Image:
            message = white()
            message.encoding = "no_such_encoding"
            return message

        refuse("unusable image", unknown_encoding)
        for words in ("no_such_encoding", "max_image_age is 0.5", "256x96, but the image is 128x96"):
            assert words in node.log
        assert node.is_running
        camera.show_until(WHITE, camera.pose, node.log)
        code, seconds = node.end(signal.SIGTERM)
        assert code == 0
        assert seconds < 5  # well under 2 on an idle machine; launch escalates after 5
        assert "Traceback" not in node.log


def malformed_images(header: Header) -> Iterator[Image]:
    yield Image(header=header)
    truncated = message_from_rgb(WHITE, header)
    truncated.data = truncated.data[:100]
    yield truncated
    narrow = message_from_rgb(WHITE, header)
    narrow.step = 7
    yield narrow


def test_malformed_images_are_counted_and_the_next_good_one_is_answered(camera, domain, model, tmp_path):
    with run_node(MODULE, domain, tmp_path / "log", {"model": model}) as node:
        camera.wait_for_estimator()
        camera.show_until(WHITE, camera.pose, node.log)
        for number, message in enumerate(malformed_images(camera.header()), start=1):
            message.header = camera.header()
            camera.publish(message)
            camera.wait_for_value("refused: unusable image", str(number))
        camera.show_until(WHITE, camera.pose, node.log)
        assert "Traceback" not in node.log


def test_uncalibrated_model_says_which_leds_are_on_but_no_position(camera, domain, tmp_path):
    model = write_fake_model(tmp_path / "raw.onnx", dataclasses.replace(METADATA, calibration=None))
    with run_node(MODULE, domain, tmp_path / "log", {"model": model}) as node:
        camera.wait_for_estimator()
        debug = camera.client.collect(Image, "debug_image")
        camera.client.wait_until(
            lambda: camera.client.node.count_publishers("debug_image"), what="debug_image"
        )
        camera.show_until(WHITE, camera.leds, node.log)
        camera.show_until(WHITE, debug, node.log)
        camera.wait_for_value("refused: model not calibrated", "[1-9].*")
        camera.wait_for_value("calibration", "none.*")
        assert not camera.pose and not camera.poses and not camera.markers

        def says_why() -> bool:
            camera.publish(message_from_rgb(WHITE, camera.header()))
            camera.client.spin_for(0.2)
            return "ledpose calibrate" in camera.status().message

        camera.client.wait_until(says_why, what="the reason why")
        assert camera.status().level == DiagnosticStatus.WARN
        assert "is not calibrated" in node.log


def test_debug_image_is_the_picture_with_drawing_on_it(camera, domain, model, tmp_path):
    with run_node(MODULE, domain, tmp_path / "log", {"model": model, "drawing_rate": 100.0}) as node:
        camera.wait_for_estimator()
        debug = camera.client.collect(Image, "debug_image")
        header, image = camera.show_until(WHITE, debug, node.log)
        assert (image.header, image.width, image.height, image.encoding) == (header, WIDTH, HEIGHT, "rgb8")
        drawn = np.frombuffer(image.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
        assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 10


def test_drawings_come_at_most_as_often_as_told(camera, domain, model, tmp_path):
    with run_node(MODULE, domain, tmp_path / "log", {"model": model, "drawing_rate": 0.1}) as node:
        camera.wait_for_estimator()
        debug = camera.client.collect(Image, "debug_image")
        began = time.monotonic()
        camera.show_until(WHITE, debug, node.log)
        for _ in range(3):
            camera.show_until(WHITE, camera.pose, node.log)
        most = 1 + (time.monotonic() - began) / 10
        assert len(debug) <= most
        assert len(camera.markers) <= most


def test_missing_model_leaves_the_node_waiting(camera, domain, tmp_path):
    model = tmp_path / "later.onnx"
    with run_node(MODULE, domain, tmp_path / "log", {"model": model}) as node:
        camera.wait_for_summary("later.onnx does not exist")
        assert camera.status().level == DiagnosticStatus.ERROR
        assert "later.onnx does not exist" in node.log

        def change(transition: int) -> bool:
            request = ChangeState.Request(transition=Transition(id=transition))
            return camera.client.call(ChangeState, "estimator/change_state", request).success

        assert not change(Transition.TRANSITION_CONFIGURE)
        write_fake_model(model)
        assert change(Transition.TRANSITION_CONFIGURE)
        assert change(Transition.TRANSITION_ACTIVATE)
        camera.wait_for_estimator()
        camera.show_until(WHITE, camera.pose, node.log)

        assert change(Transition.TRANSITION_DEACTIVATE)
        topics = camera.images, camera.infos
        camera.client.wait_until(
            lambda: not any(topic.get_subscription_count() for topic in topics), what="no subscription"
        )
        # What the camera was, it need not be any more.
        camera.info, refused = None, "no camera_info"
        enabled = camera.client.call(SetBool, "estimator/enable", SetBool.Request(data=True))
        assert "once the node is active: it is inactive" in enabled.message
        assert change(Transition.TRANSITION_ACTIVATE)
        camera.wait_for_estimator()
        camera.show_until_refused(WHITE, refused)

        assert change(Transition.TRANSITION_DEACTIVATE)
        assert change(Transition.TRANSITION_CLEANUP)
        state = camera.client.call(GetState, "estimator/get_state").current_state
        assert state.id == State.PRIMARY_STATE_UNCONFIGURED
        assert node.end(signal.SIGTERM)[0] == 0


@pytest.mark.skipif(find_spec("tf2_ros") is not None, reason="tf2_ros is installed")
@pytest.mark.parametrize("parameter", [{"publish_tf": True}, {"base_frame": "base_footprint"}])
def test_what_needs_tf2_is_explained_without_it(camera, domain, model, tmp_path, parameter):
    with run_node(MODULE, domain, tmp_path / "log", {"model": model} | parameter) as node:
        camera.wait_for_summary(f"{next(iter(parameter))} needs")
        assert node.is_running


def test_tf_tells_the_tilt_of_the_camera_and_the_frames_of_peers(
    camera, domain, model, tmp_path, monkeypatch
):
    """As camera_pitch and camera_position do in test_floor_and_heights; nothing old after a clock jump."""
    monkeypatch.setenv("PYTHONPATH", str(FAKE_TF2), prepend=os.pathsep)
    parameters = {
        "model": model,
        "base_frame": "base_footprint",
        "peers_on_floor": True,
        "publish_tf": True,
        "use_sim_time": True,
        "max_image_age": 1000.0,
    }
    with run_node(MODULE, domain, tmp_path / "log", parameters) as node:
        client = camera.client
        clock = client.node.create_publisher(ClockMessage, "/clock", 1)
        known = client.node.create_publisher(TransformStamped, "known_transforms", LATCHED)
        said = client.collect(TransformStamped, "transforms", LATCHED)
        camera.wait_for_estimator()
        tell_time = client.node.create_timer(0.05, lambda: clock.publish(ClockMessage(clock=now.stamp)))
        now = camera.header()
        camera.show_until_refused(WHITE, "no transform")
        assert f"TF does not tell where {FRAME} was in base_footprint" in node.log

        def tell_mount(pitch: float) -> None:
            mount = TransformStamped(header=Header(frame_id="base_footprint"), child_frame_id=FRAME)
            mount.transform.translation.z = 0.95
            turn = mount.transform.rotation
            turn.x, turn.y, turn.z, turn.w = camera_tilt(pitch, 0.0)
            known.publish(mount)

        tell_mount(math.radians(30))
        header, pose = camera.show_until(WHITE, camera.pose, node.log)
        position = pose.pose.pose.position
        assert position.z == pytest.approx(1.9, abs=0.03)
        client.wait_until(lambda: any(each.header == header for each in said), what="the peer's transform")
        transform = next(each for each in said if each.header == header)
        assert transform.child_frame_id == "peer_0"
        translation = transform.transform.translation
        assert (translation.x, translation.y, translation.z) == (position.x, position.y, position.z)
        assert transform.transform.rotation == pose.pose.pose.orientation

        refused = int(camera.value("refused: no transform"))
        now.stamp.sec -= 100
        client.spin_for(0.5)
        camera.show_until_refused(WHITE, "no transform", refused)
        result = set_parameter(client, "camera_pitch", 0.1)
        assert not result.successful and "does nothing with base_frame" in result.reason

        def change(transition: int) -> bool:
            request = ChangeState.Request(transition=Transition(id=transition))
            return client.call(ChangeState, "estimator/change_state", request).success

        assert change(Transition.TRANSITION_DEACTIVATE)
        client.wait_until(lambda: known.get_subscription_count() == 0, what="an end of listening to TF")
        assert change(Transition.TRANSITION_ACTIVATE)
        now.stamp.sec += 200
        camera.show_until(WHITE, camera.pose, node.log)
        client.node.destroy_timer(tell_time)
        assert node.end(signal.SIGTERM)[0] == 0


def test_confidences_bear_the_names_and_the_order_of_the_peers(camera, domain, model, tmp_path):
    with run_node(MODULE, domain, tmp_path / "log", {"model": model, "min_confidence": 0.1}) as node:
        confidences = camera.client.collect(JointState, "peer_confidences")
        camera.wait_for_estimator()
        header, poses = camera.show_until(WHITE, camera.poses, node.log)
        camera.client.wait_until(lambda: confidences and confidences[-1].header == header, what="confidences")
        assert len(poses.poses) == 2
        assert list(confidences[-1].name) == ["peer_0", "peer_1"]
        assert list(confidences[-1].position) == pytest.approx([1.0, 0.2])
        header, _ = camera.show_until(BLACK, camera.poses, node.log)
        camera.client.wait_until(lambda: confidences[-1].header == header, what="confidences")
        assert list(confidences[-1].name) == ["peer_1"]


def test_only_the_newest_image_waits_and_those_before_it_are_counted():
    waiting = LatestImage()
    assert [waiting.put(Image(width=number)) for number in range(3)] == [False, True, True]
    assert waiting.take().width == 2
    assert not waiting.put(Image(width=3)), "nothing waited"
    assert waiting.take().width == 3
    waiting.put(Image())
    waiting.close()
    assert waiting.take() is None


def test_an_image_that_comes_late_is_refused_and_peers_keep_their_ids(camera, domain, model, tmp_path):
    parameters = {"model": model, "min_confidence": 0.1, "max_image_age": 0.0}
    with run_node(MODULE, domain, tmp_path / "log", parameters) as node:
        camera.wait_for_estimator()
        confidences = camera.client.collect(JointState, "peer_confidences")
        camera.show_until(WHITE, camera.poses, node.log)
        header, _ = camera.show_until(BLACK, confidences, node.log)
        header.stamp = stamp_from_ns(stamp_ns(header.stamp) - 400_000_000)
        camera.publish(message_from_rgb(WHITE, header))
        camera.wait_for_value("refused: image out of order", "1")
        camera.show_until(BLACK, confidences, node.log)
        # Anew it would be the first.
        assert list(confidences[-1].name) == ["peer_1"]


def test_the_filter_knows_of_the_own_motion(camera, domain, model, tmp_path):
    """The peer is always seen straight ahead by a robot that turns to the left: so it moves, to the left.

    A filter of constant velocity lags behind: the peer is where it was, on the right, and nearer, inside of
    the circle.
    """
    with run_node(MODULE, domain, tmp_path / "log", {"model": model}) as node:
        filtered = camera.client.collect(PoseWithCovarianceStamped, "estimator/filtered_pose")
        camera.wait_for_estimator()
        odometry = camera.client.node.create_publisher(Odometry, "odometry", 10)
        turning = Odometry()

        def lags_behind() -> bool:
            turning.header = camera.header()
            angle = 2.0 * (stamp_ns(turning.header.stamp) / 1e9 % (2 * math.pi))
            turn = turning.pose.pose.orientation
            turn.z, turn.w = math.sin(angle / 2), math.cos(angle / 2)
            odometry.publish(turning)
            camera.publish(message_from_rgb(WHITE, turning.header))
            camera.client.spin_for(0.05)
            if not filtered:
                return False
            position = filtered[-1].pose.pose.position
            return position.x > 0.05 and position.z < 1.99

        camera.client.wait_until(lags_behind, what=lambda: f"{filtered[-1:]} {camera.status()}")
        assert "Traceback" not in node.log


def test_peers_stand_on_no_floor_of_unknown_depth(camera, domain, model, tmp_path):
    with run_node(MODULE, domain, tmp_path / "log", {"model": model, "peers_on_floor": True}) as node:
        camera.wait_for_estimator()
        camera.show_until_refused(WHITE, "camera of no height")
        assert "peers_on_floor needs the camera's height" in node.log


def test_images_are_subscribed_to_while_somebody_listens(domain, model, tmp_path):
    with ros_client(domain) as client, run_node(MODULE, domain, tmp_path / "log", {"model": model}) as node:
        images = client.node.create_publisher(Image, "image", 10)
        diagnostics = client.collect(DiagnosticArray, "/diagnostics")
        client.wait_until(
            lambda: diagnostics and "nobody listens" in diagnostics[-1].status[0].message,
            what=lambda: node.log,
        )
        assert images.get_subscription_count() == 0
        for _ in range(2):
            listener = client.node.create_subscription(PoseArray, "peer_poses", lambda _: None, 10)
            client.wait_until(lambda: images.get_subscription_count() == 1, what="a subscription")
            client.node.destroy_subscription(listener)
            client.wait_until(lambda: images.get_subscription_count() == 0, what="no subscription")


def test_rectified_images_have_the_camera_of_the_projection_matrix(camera, domain, model, tmp_path):
    parameters = {"model": model, "image_is_rectified": True}
    with run_node(MODULE, domain, tmp_path / "log", parameters) as node:
        camera.wait_for_estimator()
        camera.info.d = [0.3, 0.2, 0.0, 0.0, 0.0]
        # Twice the focal length, and the principal point 80 pixels to the right of where the peer is.
        camera.info.p = [800.0, 0, (WIDTH - 1) / 2 + 80, 0, 0, 800.0, (HEIGHT - 1) / 2, 0, 0, 0, 1, 0]
        _, pose = camera.show_until(WHITE, camera.pose, node.log)
        position = pose.pose.pose.position
        # Apparent size follows depth, and the same size means twice the depth in such a camera.
        assert (position.x, position.y, position.z) == pytest.approx((-0.4, 0, 4), abs=1e-3)

        # The middle of a sensor of 4 x 4 times the pixels, of which 2 x 2 become one: P is for all of them.
        camera.info.width, camera.info.height = 4 * WIDTH, 4 * HEIGHT
        region = camera.info.roi
        region.x_offset, region.y_offset, region.width, region.height = WIDTH, HEIGHT, 2 * WIDTH, 2 * HEIGHT
        camera.info.binning_x = camera.info.binning_y = 2
        camera.info.p = [1600.0, 0, 2 * WIDTH - 0.5, 0, 0, 1600.0, 2 * HEIGHT - 0.5, 0, 0, 0, 1, 0]
        _, pose = camera.show_until(WHITE, camera.pose, node.log)
        position = pose.pose.pose.position
        assert (position.x, position.y, position.z) == pytest.approx((0, 0, 4), abs=1e-5)

        camera.info.p[3] = -80.0
        camera.show_until_refused(WHITE, "unusable camera_info")
        assert "second camera of a stereo pair, 0.05 m beside the first" in node.log


def test_floor_and_heights(camera, domain, model, tmp_path):
    parameters = {
        "model": model,
        "camera_pitch": math.radians(30),
        "camera_position": "[0.0, 0.0, 0.95]",
        "peers_on_floor": True,
    }
    with run_node(MODULE, domain, tmp_path / "log", parameters) as node:
        camera.wait_for_estimator()
        # Size says 2 m, the floor 1.9 m: 0.95 m below, under 30 degrees.
        _, pose = camera.show_until(WHITE, camera.pose, node.log)
        assert pose.pose.pose.position.z == pytest.approx(1.9, abs=0.03)
        assert set_parameter(camera.client, "peer_height", 0.2).successful
        # 0.75 m below: 1.5 m; the size's word of 2 m is too far off to be believed then.
        _, pose = camera.show_until(WHITE, camera.pose, node.log)
        # The base is 0.2 m below the reference point, against gravity.
        assert pose.pose.pose.position.y == pytest.approx(0.2 * math.cos(math.radians(30)), abs=0.02)


def test_peers_are_tracked_smoothed_and_recognised_by_their_leds(camera, domain, model, tmp_path):
    parameters = {"model": model, "peers": "[alpha, beta]"}
    with run_node(MODULE, domain, tmp_path / "log", parameters) as node:
        camera.wait_for_estimator()
        client = camera.client
        filtered = client.collect(PoseWithCovarianceStamped, "estimator/filtered_pose")
        alpha = client.collect(PoseWithCovarianceStamped, "identified/alpha/pose")
        beta = client.collect(PoseWithCovarianceStamped, "identified/beta/pose")
        identities = client.collect(JointState, "peer_identities")
        odometry = client.node.create_publisher(Odometry, "odometry", 10)
        # The model sees 0.9, 0.1, 0.8, 0.3.
        said = {"alpha": [1.0, 0.0, 1.0, 0.0], "beta": [0.0, 0.0, 1.0, 1.0]}
        leds = {name: client.node.create_publisher(JointState, f"{name}/led_states", 10) for name in said}

        def show() -> None:
            header = camera.header()
            for name, states in said.items():
                led_names = list(METADATA.led_names)
                leds[name].publish(JointState(header=header, name=led_names, position=states))
            moving = Odometry(header=header)
            moving.pose.pose.orientation.w = 1.0
            odometry.publish(moving)
            camera.publish(message_from_rgb(WHITE, header))
            client.spin_for(0.1)

        def is_recognised() -> bool:
            show()
            return bool(alpha and filtered)

        client.wait_until(is_recognised, what=lambda: f"{identities[-1:]} {node.log}")
        assert not beta
        posterior = dict(zip(identities[-1].name, identities[-1].position, strict=True))
        assert set(posterior) == {"peer_0/alpha", "peer_0/beta", "peer_0/stranger"}
        assert sum(posterior.values()) == pytest.approx(1)
        assert posterior["peer_0/alpha"] > 0.9
        position = filtered[-1].pose.pose.position
        assert (position.x, position.y, position.z) == pytest.approx((0, 0, 2), abs=1e-3)

        def texts() -> list[tuple[int, str]]:
            return [(marker.id, marker.text) for marker in camera.markers[-1].markers if marker.ns == "text"]

        def is_named() -> bool:
            show()
            return texts() == [(0, "0 alpha: 2.00 m")]

        client.wait_until(is_named, what=lambda: texts())
        camera.wait_for_value("own motion", "from odometry")

        leds["alpha"].publish(JointState(header=camera.header(), name=["no_such_led"], position=[1.0]))
        nonsense = Odometry(header=camera.header())
        nonsense.pose.pose.orientation.w = 0.0
        odometry.publish(nonsense)
        camera.wait_for_value("refused: malformed LED message", "1")
        camera.wait_for_value("refused: malformed odometry", "1")
        odometry.publish(Odometry())
        camera.wait_for_value("refused: malformed odometry", "2")
        for name in said:
            camera.wait_for_value(
                f"LEDs of {name}", r"compared with [1-9]\d* pictures.*; told -?\d+\.\d+ s after their stamp"
            )
        assert camera.value("odometry of another time") == ""
        reset = Odometry(header=camera.header())
        reset.pose.pose.orientation.w, reset.pose.pose.position.x = 1.0, 50.0
        odometry.publish(reset)

        def is_noticed() -> bool:
            camera.publish(message_from_rgb(WHITE, camera.header()))
            client.spin_for(0.1)
            return camera.value("odometry jumped") != ""

        client.wait_until(is_noticed, what=lambda: camera.status())
        ahead = Odometry(header=camera.header(age=-60.0))
        ahead.pose.pose.orientation.w = 1.0
        odometry.publish(ahead)
        camera.show_until(WHITE, camera.pose, node.log)
        camera.wait_for_value("odometry of another time", "[1-9].*")
        assert "s off: synchronise the clocks" in node.log
        assert "Traceback" not in node.log


def test_enable_and_live_parameters(camera, domain, model, tmp_path):
    with run_node(MODULE, domain, tmp_path / "log", {"model": model}) as node:
        camera.wait_for_estimator()
        camera.show_until(WHITE, camera.pose, node.log)

        assert camera.client.call(SetBool, "estimator/enable", SetBool.Request(data=False)).success
        camera.wait_for_summary("disabled")
        camera.client.wait_until(lambda: not camera.images.get_subscription_count(), what="no subscription")
        assert camera.client.call(SetBool, "estimator/enable", SetBool.Request(data=True)).success
        camera.wait_for_estimator()

        assert set_parameter(camera.client, "min_confidence", 0.1).successful
        _, poses = camera.show_until(BLACK, camera.poses, node.log)
        assert len(poses.poses) == 1  # the second peak, of confidence 0.2
        assert set_parameter(camera.client, "camera_pitch", math.radians(90)).successful
        _, pose = camera.show_until(WHITE, camera.pose, node.log)
        # A camera that looks straight down: the peer's up is against the optical axis.
        turn = pose.pose.pose.orientation
        assert 1 - 2 * (turn.x**2 + turn.y**2) == pytest.approx(-1)
        assert not set_parameter(camera.client, "min_confidence", math.nan).successful
        assert not set_parameter(camera.client, "min_confidence", 1.5).successful
        result = set_parameter(camera.client, "peers_on_floor", True)
        assert not result.successful and "needs the camera's height" in result.reason
        camera.show_until(WHITE, camera.pose, node.log)


def test_parameters_are_declared_as_in_the_table(client, domain, model, tmp_path):
    with run_node(MODULE, domain, tmp_path / "log", {"model": model}):
        listed = client.call(ListParameters, "estimator/list_parameters").result.names
        table = NODE_PARAMETERS["estimator"]
        others = {name for name in listed if not name.startswith("qos_overrides.")}
        assert others - {each.name for each in table} <= {"use_sim_time", "start_type_description_service"}
        request = DescribeParameters.Request(names=[each.name for each in table])
        answer = client.call(DescribeParameters, "estimator/describe_parameters", request)
        for each, declared in zip(table, answer.descriptors, strict=True):
            assert (declared.name, declared.description) == (each.name, each.description)
            assert declared.type == getattr(ParameterType, f"PARAMETER_{each.type_name.upper()}")
            assert declared.read_only == each.read_only
            ranges = [*declared.integer_range, *declared.floating_point_range]
            is_bounded = (
                each.type_name in ("integer", "double") and (each.minimum, each.maximum) != (None,) * 2
            )
            assert len(ranges) == is_bounded
            if is_bounded:
                low, high = ranges[0].from_value, ranges[0].to_value
                assert each.minimum in (low, None) and each.maximum in (high, None)
            assert all(choice in declared.additional_constraints for choice in each.choices or ())
            if each.type_name.endswith("_array"):
                assert each.allowed in declared.additional_constraints


def test_compressed_images(domain, model, tmp_path):
    with (
        ros_client(domain) as client,
        run_node(MODULE, domain, tmp_path / "log", {"model": model, "image_transport": "compressed"}) as node,
    ):
        camera = Camera(client, CompressedImage)
        camera.wait_for_estimator()

        def show() -> bool:
            data = encode_image(WHITE, "jpeg")
            camera.publish(CompressedImage(header=camera.header(), format="jpeg", data=data))
            client.spin_for(0.1)
            return bool(camera.pose)

        client.wait_until(show, what=lambda: node.log)
        assert stamp_ns(camera.pose[0].header.stamp) > 0


def test_a_best_effort_camera_that_is_found_before_the_node_spins_is_heard(client):
    """A node that starts by itself subscribes when it is made; its sensors have a thread of their own."""
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = client.node.create_publisher(Image, "image", best_effort)
    node = rclpy.create_node("listener", context=client.node.context)
    thread, heard = SensorThread(node, "sensors"), []
    thread.start()
    refusals = Refusals(node.get_logger().warning)
    subscription = ImageSubscription(node, Image, "image", heard.append, refusals, thread=thread)
    client.wait_until(lambda: len(list(node.timers)), what="that the thread is told of the camera")
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)

    def is_heard() -> bool:
        publisher.publish(Image())
        executor.spin_once(timeout_sec=0.02)
        return bool(heard)

    client.wait_until(is_heard, what="a picture")
    assert not refusals.counts
    thread.stop()
    subscription.destroy()
    executor.shutdown()
    node.destroy_node()


@pytest.mark.parametrize("reliability", [ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT])
def test_reliable_and_best_effort_cameras_are_heard(reliability, domain, model, tmp_path):
    with ros_client(domain) as client, run_node(MODULE, domain, tmp_path / "log", {"model": model}) as node:
        camera = Camera(client, qos=QoSProfile(depth=10, reliability=reliability))
        camera.wait_for_estimator()
        camera.show_until(WHITE, camera.pose, node.log)
        assert ("best-effort" in node.log) == (reliability == ReliabilityPolicy.BEST_EFFORT)


def test_every_raw_image_above_half_a_megabyte_arrives(camera, domain, model, tmp_path):
    rgb = np.full((480, 640, 3), 255, np.uint8)
    camera.info.width, camera.info.height = 640, 480
    with run_node(MODULE, domain, tmp_path / "log", {"model": model, "max_image_age": 0.0}) as node:
        camera.wait_for_estimator()
        camera.show_until(rgb, camera.pose, node.log)
        for _ in range(10):
            header = camera.publish(message_from_rgb(rgb, camera.header()))
            camera.client.wait_until(
                lambda header=header: any(pose.header == header for pose in camera.pose), what="its answer"
            )


def test_fast_dds_takes_the_shipped_profile(camera, domain, model, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", str(REPOSITORY / "config" / "fastdds.xml"))
    before = set(SHARED_MEMORY.iterdir())
    with run_node(MODULE, domain, tmp_path / "log", {"model": model}) as node:
        camera.wait_for_estimator()
        camera.show_until(WHITE, camera.pose, node.log)
        assert "xml" not in node.log.lower(), "Fast DDS complains of what it cannot read"
        sizes = [path.stat().st_size for path in set(SHARED_MEMORY.iterdir()) - before]
        assert max(sizes) > 32 * 2**20


def test_wrong_parameters_end_the_node_with_one_sentence(domain, model, tmp_path):
    with run_node(MODULE, domain, tmp_path / "log", {"model": model, "peer_size": "[0.3, 0.2]"}) as node:
        assert node.wait() == 2
        assert node.log.strip().splitlines()[-1].startswith("error: parameter 'peer_size' has 2 numbers")


def test_qos_overrides_that_make_no_sense_are_said(camera, domain, model, tmp_path):
    nonsense = {"qos_overrides./camera_info.subscription.reliability": "nonsense"}
    with run_node(MODULE, domain, tmp_path / "log", {"model": model} | nonsense) as node:
        camera.wait_for_summary("cannot subscribe to camera_info, check the parameters qos_overrides")
        assert camera.status().level == DiagnosticStatus.ERROR
        camera.wait_for_value("state", "inactive")
        assert node.end(signal.SIGTERM)[0] == 0
    nonsense = {"qos_overrides./camera_info.subscription.depth": 2**63 - 1}
    with run_node(MODULE, domain, tmp_path / "log", {"model": model} | nonsense) as node:
        camera.client.wait_until(lambda: "cannot subscribe to camera_info, check" in node.log, what="why not")
        assert "Traceback" not in node.log
    # Images are subscribed to later, when the node must go on.
    nonsense = {"qos_overrides./image.subscription.reliability": "nonsense"}
    with run_node(MODULE, domain, tmp_path / "log", {"model": model} | nonsense) as node:
        camera.wait_for_summary("cannot subscribe to image, check the parameters qos_overrides")
        request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_ACTIVE_SHUTDOWN))
        assert camera.client.call(ChangeState, "estimator/change_state", request).success
        camera.wait_for_summary("the node is finalized: end it and start it anew")
        assert node.end(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize(
    ("peers", "sentence"),
    [
        ("[alpha, /alpha]", "names a peer twice"),
        ("[alpha, ../alpha]", "names a peer twice"),
        ("[alpha, /lab/alpha]", "names a peer twice"),
        ("['not a name']", "'not a name', which is no namespace"),
        ("['~/x']", "'~/x', which is no namespace"),
        ("['../']", "'../', which is no namespace"),
        ("['/']", "'/', which is no namespace"),
        ("[../stranger]", "'../stranger', but so those are called who are none of them"),
        ("[/lab/stranger]", "'/lab/stranger', but so those are called who are none of them"),
    ],
)
def test_names_of_peers_that_cannot_be_topics_end_the_node_with_one_sentence(
    domain, model, tmp_path, peers, sentence
):
    parameters = {"model": model, "peers": peers}
    with run_node(MODULE, domain, tmp_path / "log", parameters, ["-r", "__ns:=/lab"]) as node:
        assert node.wait() == 2
        assert sentence in node.log.strip().splitlines()[-1]


def test_absolute_names_and_pictures_without_peers_before_the_clock_is_set_back(
    camera, domain, model, tmp_path
):
    parameters = {"model": model, "peers": "[/far/alpha]", "max_image_age": 0.0}
    with run_node(MODULE, domain, tmp_path / "log", parameters) as node:
        camera.wait_for_estimator()
        alpha = camera.client.collect(PoseWithCovarianceStamped, "identified/far/alpha/pose")
        identities = camera.client.collect(JointState, "peer_identities")
        leds = camera.client.node.create_publisher(JointState, "/far/alpha/led_states", 10)
        names, states = list(METADATA.led_names), [1.0, 0.0, 1.0, 0.0]

        def show(rgb: np.ndarray, age: float) -> bool:
            header = camera.header(age)
            leds.publish(JointState(header=header, name=names, position=states))
            camera.publish(message_from_rgb(rgb, header))
            camera.client.spin_for(0.1)
            return bool(alpha)

        for _ in range(10):
            show(BLACK, age=0.0)
        # An hour back: what was told before counts no more, what is told now does.
        camera.client.wait_until(lambda: show(WHITE, age=3600.0), what=lambda: node.log)
        assert list(identities[-1].name) == ["peer_0/far/alpha", "peer_0/stranger"]
        camera.wait_for_value("clock jumped backwards", "1")
        assert "Traceback" not in node.log and camera.value("refused: internal error") == ""


def test_namespaces_beside_the_own_one():
    assert _resolved("../beta", own="/lab/alpha") == "/lab/beta"
    assert _resolved("../beta", own="/alpha") == "/beta"
    assert _resolved("../beta", own="/") == "/beta"
    assert _resolved("beta", own="/lab") == "/lab/beta"
    assert _resolved("beta", own="/") == "/beta"
    assert _resolved("/beta", own="/lab") == "/beta"


@pytest.fixture
def own_node(domain, model, monkeypatch) -> Iterator[EstimatorNode]:
    """An active estimator in this process, to which somebody listens."""
    monkeypatch.setattr(PeerOutputs, "are_heard", True)
    rclpy.init(args=["--ros-args", "-p", f"model:={model}"], domain_id=domain)
    node = EstimatorNode()
    yield node
    node.close()
    node.destroy_node()
    rclpy.try_shutdown()


def test_an_activation_that_fails_leaves_nothing_behind(own_node, monkeypatch):
    own_node.trigger_deactivate()
    idle = {subscription.topic_name for subscription in own_node.subscriptions}
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda _: 1 / 0)
        assert own_node.trigger_activate() == TransitionCallbackReturn.FAILURE
    assert {subscription.topic_name for subscription in own_node.subscriptions} == idle
    assert own_node.trigger_activate() == TransitionCallbackReturn.SUCCESS


def test_nothing_but_its_own_thread_hears_the_sensors(own_node):
    """Else rclpy would wait for services and events anew at each picture."""
    heard = []
    own_node._on_odometry = lambda _: heard.append(threading.current_thread().name)
    own_node.trigger_deactivate()
    own_node.trigger_activate()
    odometry = own_node.create_publisher(Odometry, "odometry", 10)
    end = time.monotonic() + 10
    while not heard and time.monotonic() < end:
        odometry.publish(Odometry())
        rclpy.spin_once(own_node, timeout_sec=0.05)
    assert set(heard) == {"sensors"}


def test_what_has_been_mended_is_no_problem_any_more(own_node, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise LedposeError("cannot subscribe")

    own_node.trigger_deactivate()
    with monkeypatch.context() as patch:
        patch.setattr(estimator, "ImageSubscription", fail)
        own_node.trigger_activate()
        own_node._on_timer()
        assert own_node._summary() == (ERROR, "cannot subscribe")
    own_node._on_timer()
    assert own_node.problem == ""


def test_slow_cameras_are_not_taken_for_silent_ones(own_node, monkeypatch):
    clock = SimpleNamespace(now=time.monotonic())
    steady = SimpleNamespace(monotonic=lambda: clock.now, perf_counter=time.perf_counter)
    monkeypatch.setattr(estimator, "time", steady)
    monkeypatch.setattr(own_node._images, "put", lambda _: False)  # so that nobody answers
    for _ in range(3):
        clock.now += 5
        own_node._on_image(Image())
    clock.now += 9
    assert re.fullmatch(r"no image answered for 2\d s", own_node._summary()[1])
    clock.now += 2
    assert "no images arrive" in own_node._summary()[1]


def test_transitions_report_what_went_wrong_instead_of_raising():
    class Stub:
        problem = ""

        def get_logger(self):
            return self

        def error(self, text: str) -> None:
            pass

    stub = Stub()
    assert _transition(lambda node, state: 1 / 0)(stub, None) == TransitionCallbackReturn.FAILURE
    assert stub.problem == "ZeroDivisionError: division by zero"
    assert _transition(lambda node, state: None)(stub, None) == TransitionCallbackReturn.SUCCESS
    assert stub.problem == ""
