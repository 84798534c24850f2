# SPDX-License-Identifier: Apache-2.0
"""`PeerEstimator` on a fake model: what it accepts, what it says, how sure it is."""

import dataclasses
import math
import re

import numpy as np
import onnxruntime
import pytest
from fake_model import CALIBRATION, LED_PROBABILITY, METADATA, write_fake_model, write_signed

from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import SAME_PEER, PeerEstimator, locate
from ledpose_ros.geometry import camera_tilt, pixel_rays, relative_bearing, rotation_matrix
from ledpose_ros.model_metadata import DIGEST_KEY, NO_DIGEST, WINDOW_SIDE, signed

K = np.array([[400.0, 0.0, 319.5], [0.0, 400.0, 179.5], [0.0, 0.0, 1.0]])
PINHOLE = (K, np.zeros(0), "plumb_bob")
WHITE = np.full((360, 640, 3), 255, np.uint8)
BLACK = np.zeros((360, 640, 3), np.uint8)


@pytest.fixture(scope="module")
def estimator(tmp_path_factory) -> PeerEstimator:
    return PeerEstimator(write_fake_model(tmp_path_factory.mktemp("model") / "fake.onnx"))


def test_a_provider_that_does_not_start_is_refused(estimator, monkeypatch):
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    with pytest.raises(LedposeError, match="a list of names: give \\['CPUExecutionProvider'\\]"):
        PeerEstimator(estimator.path, providers="CPUExecutionProvider")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("it may start here")
    with pytest.raises(LedposeError, match="onnxruntime lacks CUDAExecutionProvider"):
        PeerEstimator(estimator.path, providers=providers)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    with pytest.raises(LedposeError, match="CUDAExecutionProvider cannot be started"):
        PeerEstimator(estimator.path, providers=providers)


def test_detections_have_the_documented_shapes(estimator):
    detections = estimator.detect(WHITE[:, :320])
    assert detections.uv[0] == pytest.approx([159.5, 179.5])
    assert detections.psi[0] == pytest.approx(math.pi / 2)
    shapes = {
        name: getattr(detections, name).shape
        for name in ("log2_scale", "led_probability", "spread", "attention")
    }
    assert shapes == {"log2_scale": (2,), "led_probability": (2, 4), "spread": (2, 3), "attention": (45, 40)}


def test_memory_that_was_given_back_is_taken_again(tmp_path):
    estimator = PeerEstimator(write_fake_model(tmp_path / "fake.onnx"))
    before = estimator.detect(WHITE)
    estimator.release()
    estimator.path.unlink()  # it is read once
    with pytest.raises(LedposeError, match="released"):
        estimator.detect(WHITE)
    estimator.prepare()
    np.testing.assert_array_equal(estimator.detect(WHITE).uv, before.uv)


def test_peer_in_the_centre_that_shows_its_left_side(estimator):
    peer, *others = estimator.estimate(WHITE, *PINHOLE, min_confidence=0.5)
    assert not others
    assert peer.distance == pytest.approx(2.0)  # log2 d = 0 + c, c = 1
    assert peer.pose[:3] == pytest.approx([0, 0, 2])
    assert rotation_matrix(peer.pose[3:])[:, 1] == pytest.approx([0, 0, -1], abs=1e-6)
    assert peer.psi == pytest.approx(math.pi / 2)
    assert relative_bearing(peer.pose[None]) == pytest.approx([math.pi / 2])
    assert peer.led_probability == pytest.approx(LED_PROBABILITY)
    assert peer.confidence == pytest.approx(1.0)


def test_confidence_chooses_and_orders_the_peers(estimator):
    assert estimator.estimate(BLACK, *PINHOLE, min_confidence=0.5) == []
    assert [peer.confidence for peer in estimator.estimate(WHITE, *PINHOLE)] == pytest.approx([1.0, 0.2])
    assert [peer.confidence for peer in estimator.estimate(BLACK, *PINHOLE)] == pytest.approx([0.2, 0.0])
    assert estimator.estimate(BLACK, *PINHOLE)[0].uv == pytest.approx([10, 20])


def test_peaks_on_one_peer_count_once(tmp_path):
    """The second peak of the fake model lies at (10, 20), in the corner of a window of 52 px."""
    estimator = PeerEstimator(write_fake_model(tmp_path / "model.onnx", log2_scale=1.0))
    seen = estimator.detect(WHITE)
    limit = SAME_PEER * WINDOW_SIDE / 2
    for distance, peers in ((0.9 * limit, 1), (1.1 * limit, 2)):
        near = dataclasses.replace(seen, uv=seen.uv[:1] + np.array([[0, 0], [distance, 0]], np.float32))
        found = locate(near, CALIBRATION, *PINHOLE, 640)
        assert [peer.confidence for peer in found] == pytest.approx([1.0, 0.2][:peers])


def test_the_calibrated_offset_moves_the_position_by_its_share_of_the_apparent_size(tmp_path):
    calibration = dataclasses.replace(CALIBRATION, offset=-0.5)
    metadata = dataclasses.replace(METADATA, calibration=calibration)
    estimator = PeerEstimator(write_fake_model(tmp_path / "offset.onnx", metadata, log2_scale=1.0))
    # Half a window, which at twice the scale has half the side; both peaks have that scale.
    shift = -WINDOW_SIDE / 4
    peers = estimator.estimate(WHITE, *PINHOLE)
    assert peers[0].uv == pytest.approx([319.5, 179.5 + shift])
    assert peers[1].uv == pytest.approx([10, 20 + shift])
    assert peers[0].pose[:2] / peers[0].pose[2] == pytest.approx([0, shift / 400])
    assert estimator.detect(WHITE).uv[0] == pytest.approx([319.5, 179.5]), "what is seen stays"


@pytest.mark.parametrize(("degrees", "share"), [(90, -1), (-90, 1), (0, 0), (-30, 0.5)])
def test_the_reference_point_ahead_is_where_the_peers_heading_points(tmp_path, degrees, share):
    """Who looks at its left side sees its front on the left."""
    metadata = dataclasses.replace(METADATA, calibration=dataclasses.replace(CALIBRATION, forward=0.25))
    path = write_fake_model(tmp_path / "forward.onnx", metadata, psi=math.radians(degrees))
    peer = PeerEstimator(path).estimate(WHITE, *PINHOLE)[0]
    assert peer.uv == pytest.approx([319.5 + share * WINDOW_SIDE / 4, 179.5], abs=1e-4)


@pytest.mark.parametrize("pitch", [0.0, 0.3])
def test_the_reference_point_lies_behind_what_is_seen_along_the_floor(tmp_path, pitch):
    metadata = dataclasses.replace(METADATA, calibration=dataclasses.replace(CALIBRATION, recess=0.5))
    estimator = PeerEstimator(write_fake_model(tmp_path / "recess.onnx", metadata))
    # The fake model sees a peer on the optical axis, 2 m away; a camera that looks down sees farther above.
    peer = estimator.estimate(WHITE, *PINHOLE, tilt=camera_tilt(pitch, 0.0))[0]
    expected = [0, -0.5 * math.sin(pitch), 2 + 0.5 * math.cos(pitch)]
    assert peer.pose[:3] == pytest.approx(expected, abs=1e-6)
    assert peer.distance == pytest.approx(np.linalg.norm(expected))
    assert peer.uv == pytest.approx([319.5, 179.5 + 400 * expected[1] / expected[2]])


def test_distance_does_not_depend_on_resolution_of_the_same_camera(tmp_path):
    # Half the picture, half the focal length: the peer is half as large, the scale that fits it doubles.
    half = PeerEstimator(write_fake_model(tmp_path / "half.onnx", log2_scale=1.0))
    half_K = np.array([[200.0, 0, 159.5], [0, 200.0, 89.5], [0, 0, 1]])
    peer = half.estimate(WHITE[::2, ::2], half_K, np.zeros(0), "plumb_bob")[0]
    assert peer.distance == pytest.approx(2.0)


def test_covariance_in_the_centre_by_hand(estimator):
    covariance = estimator.estimate(WHITE, *PINHOLE)[0].covariance
    octaves = math.hypot(0.1, 0.05)
    # At 2 m a pixel of 1/400 rad is 5 mm wide; a spread of 4 by 3 pixels.
    assert np.diag(covariance)[:3] == pytest.approx(
        [(4 * 2 / 400) ** 2, (3 * 2 / 400) ** 2, (2 * math.log(2) * octaves) ** 2], rel=1e-3
    )
    # Rotation about the optical y axis is the peer's yaw; roll and pitch are unknown.
    yaw_variance = -2 * math.log(0.9)
    assert np.diag(covariance)[3:] == pytest.approx([math.pi**2, yaw_variance, math.pi**2], rel=1e-5)
    assert covariance == pytest.approx(np.diag(np.diag(covariance)), abs=1e-9)


def test_covariance_off_the_centre_lies_along_the_ray(estimator):
    second = estimator.estimate(WHITE, *PINHOLE)[1]
    values, vectors = np.linalg.eigh(second.covariance[:3, :3])
    ray = pixel_rays(np.array([[10.0, 20.0]]), *PINHOLE)[0]
    assert abs(vectors[:, 2] @ ray) == pytest.approx(1.0, abs=1e-3)
    assert (values > 0).all()
    # A resultant length of 0.1 is almost no bearing: 4.6 rad^2.
    assert second.covariance[4, 4] == pytest.approx(-2 * math.log(0.1), rel=1e-4)


def test_covariance_of_a_tilted_camera_keeps_yaw_about_the_vertical(estimator):
    tilt = camera_tilt(math.radians(90), 0.0)  # looks straight down: yaw is rotation about the optical axis
    covariance = estimator.estimate(WHITE, *PINHOLE, tilt=tilt)[0].covariance
    assert np.diag(covariance)[3:] == pytest.approx([math.pi**2, math.pi**2, -2 * math.log(0.9)], rel=1e-5)


def test_a_sure_network_is_not_believed_without_limit(tmp_path):
    sure = PeerEstimator(write_fake_model(tmp_path / "sure.onnx", bearing_length=1.0))
    assert sure.estimate(WHITE, *PINHOLE)[0].covariance[4, 4] == pytest.approx(math.radians(1) ** 2)
    lost = PeerEstimator(write_fake_model(tmp_path / "lost.onnx", bearing_length=0.0))
    assert lost.estimate(WHITE, *PINHOLE)[0].covariance[4, 4] == pytest.approx(math.pi**2)


def test_without_calibration_nothing_metric_is_said(tmp_path):
    metadata = dataclasses.replace(METADATA, calibration=None)
    estimator = PeerEstimator(write_fake_model(tmp_path / "uncalibrated.onnx", metadata))
    peer = estimator.estimate(WHITE, *PINHOLE, min_confidence=0.5)[0]
    assert (peer.distance, peer.pose, peer.covariance) == (None, None, None)
    assert peer.uv == pytest.approx([319.5, 179.5])
    assert peer.psi == pytest.approx(math.pi / 2)


def test_uncalibrated_camera_is_refused(estimator):
    with pytest.raises(LedposeError, match="camera is not calibrated"):
        estimator.estimate(WHITE, np.zeros((3, 3)), np.zeros(0), "plumb_bob")


def test_cameras_without_a_finite_pose_are_refused(estimator):
    with pytest.raises(LedposeError, match="no finite pose"):
        estimator.estimate(WHITE, np.diag([1e300, 1e300, 1.0]), np.zeros(0), "plumb_bob")


def test_a_peer_without_a_finite_pose_is_left_out(estimator):
    seen = estimator.detect(WHITE)
    far = dataclasses.replace(seen, log2_scale=np.array([0.0, 3000.0]))
    found = locate(far, CALIBRATION, *PINHOLE, 640)
    assert [peer.confidence for peer in found] == pytest.approx([1.0])


def test_a_lone_peer_where_the_lens_shows_nothing_is_left_out(estimator):
    """Of a lens whose distortion, fitted to the middle, folds the corners back."""
    folding = (
        np.array([[250.0, 0, 320], [0, 250.0, 180], [0, 0, 1]]),
        np.array([-0.35, 0, 0, 0, 0]),
        "plumb_bob",
    )
    seen = estimator.detect(WHITE)
    corner = dataclasses.replace(seen, uv=np.tile([40.0, 60.0], (2, 1)))
    assert locate(corner, CALIBRATION, *folding, 640) == []
    beside = dataclasses.replace(seen, uv=np.array([[40.0, 60.0], [320.0, 180.0]]))
    assert [peer.peak for peer in locate(beside, CALIBRATION, *folding, 640)] == [1]


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (WHITE[..., 0], r"\(360, 640\)"),
        (WHITE.astype(np.float32), "float32"),
        (WHITE[:20], "640x20, but the model needs at least 32"),
        (WHITE[:0], "640x0"),
        (np.broadcast_to(WHITE[:1, :1], (8000, 6000, 3)), "6000x8000, but may have 33,554,432 pixels"),
    ],
)
def test_unusable_pictures_are_refused(estimator, picture, words):
    with pytest.raises(LedposeError, match=words):
        estimator.detect(picture)


def refusal(path, **options) -> str:
    with pytest.raises(LedposeError) as caught:
        PeerEstimator(path, **options)
    return str(caught.value)


def test_unusable_models_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "missing.onnx")
    assert "cannot be read: Is a directory" in refusal(tmp_path)
    assert "cannot be read: File name too long" in refusal(tmp_path / ("x" * 300))
    assert "there is no ~nobody_of_this_name/model.onnx" in refusal("~nobody_of_this_name/model.onnx")

    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"not a model at all")
    assert "it is damaged or not a model, copy it again" in refusal(garbage)
    garbage.write_bytes(signed(f'no model, but {DIGEST_KEY}\x12B"{NO_DIGEST}"'.encode()))
    assert "cannot be loaded by onnxruntime" in refusal(garbage) and "update that" in refusal(garbage)

    assert "not a ledpose model" in refusal(write_fake_model(tmp_path / "foreign.onnx", metadata=None))
    assert "lacks the outputs spread" in refusal(
        write_fake_model(tmp_path / "short.onnx", without_output="spread")
    )

    fewer = dataclasses.replace(METADATA, led_names=("front", "back"), led_directions=(0.0, math.pi))
    assert "4 LEDs, but its metadata names 2" in refusal(write_fake_model(tmp_path / "fewer.onnx", fewer))

    assert "lacks NoSuchProvider" in refusal(
        write_fake_model(tmp_path / "fine.onnx"), providers=["NoSuchProvider"]
    )


def test_a_model_of_which_any_byte_was_changed_or_is_missing_is_refused(tmp_path):
    path = write_fake_model(tmp_path / "model.onnx")
    data = path.read_bytes()
    # 0x80: no longer UTF-8 where there is text.
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x80]) + data[place + 1 :])
        assert "cannot be used: it " in refusal(path)
    for length in range(0, len(data), 10):
        path.write_bytes(data[:length])
        assert re.search("cannot be used: its? |it is damaged or not a model", refusal(path))


@pytest.mark.extra("train")
def test_a_model_of_other_software_need_not_hold_a_digest(tmp_path):
    import onnx

    path = write_fake_model(tmp_path / "model.onnx")
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, METADATA.to_properties())
    onnx.save(model, str(tmp_path / "foreign.onnx"))
    assert PeerEstimator(tmp_path / "foreign.onnx").metadata == PeerEstimator(path).metadata


@pytest.mark.extra("train")
def test_a_model_written_anew_is_one_of_its_own(tmp_path):
    import onnx

    from ledpose_ros.learning.export import save_model

    path = write_fake_model(tmp_path / "model.onnx")
    before = PeerEstimator(path).digest
    save_model(onnx.load(str(path)), path)
    assert PeerEstimator(path).digest == before
    other = write_fake_model(tmp_path / "other.onnx", psi=1.0)
    save_model(onnx.load(str(other)), other)
    assert PeerEstimator(other).digest != before


def test_model_with_another_input_is_refused(tmp_path):
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "other", [value], [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    write_signed(tmp_path / "other.onnx", model)
    assert "its input is x tensor(float) of 1 dim" in refusal(tmp_path / "other.onnx")


def test_calibration_is_what_the_file_says(estimator):
    assert estimator.metadata.calibration == CALIBRATION
