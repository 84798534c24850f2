# SPDX-License-Identifier: Apache-2.0
"""What the page is told, without ROS and without a browser; messages are stand-ins with the same fields."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from ledpose_ros.errors import LedposeError
from ledpose_ros.images import decode_image, encode_image
from ledpose_ros.live_view import MAX_WIDTH, STALE, WHAT, LiveView, ellipse
from ledpose_ros.refusals import Refusals
from ledpose_ros.web_server import is_local, is_own_name


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def view(clock: Clock) -> LiveView:
    return LiveView({subject: f"/robot/{subject}" for subject in WHAT}, "/robot", Refusals(), clock)


def pose(position: tuple, turn: tuple = (0.0, math.sqrt(0.5), 0.0, math.sqrt(0.5))) -> SimpleNamespace:
    return SimpleNamespace(
        position=SimpleNamespace(**dict(zip("xyz", position, strict=True))),
        orientation=SimpleNamespace(**dict(zip("xyzw", turn, strict=True))),
    )


def poses(*given: SimpleNamespace, stamp: int = 1) -> SimpleNamespace:
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp), poses=given)


def joints(**values: float) -> SimpleNamespace:
    return SimpleNamespace(name=list(values), position=list(values.values()))


def image(rgb: np.ndarray) -> SimpleNamespace:
    height, width, _ = rgb.shape
    return SimpleNamespace(
        width=width, height=height, step=3 * width, encoding="rgb8", is_bigendian=0, data=rgb.tobytes()
    )


def diagnostics(name: str, level: object = b"\0", message: str = "fine") -> SimpleNamespace:
    values = [SimpleNamespace(key="state", value="active")]
    status = SimpleNamespace(name=name, level=level, message=message, values=values)
    return SimpleNamespace(status=[status])


def test_the_map_has_x_to_the_right_and_z_forward(view):
    # A quarter turn about the optical y axis, which points down: the body's x axis, forward, looks to -z.
    view.hear_poses(poses(pose((0.6, -0.2, 2.0))))
    (peer,) = view.state("overlay")["peers"]["value"]
    assert peer["place"] == [0.6, 2.0]
    assert peer["distance"] == pytest.approx(math.hypot(0.6, 0.2, 2.0), abs=1e-3)
    assert peer["heading"] == pytest.approx([0, -1], abs=1e-4)
    assert peer["ellipse"] is None


def camera_info(strength: float) -> SimpleNamespace:
    """Of a lens that distorts by so much; what its rectified pictures show is twice as narrow."""
    camera = SimpleNamespace(width=640, height=360, binning_x=0, binning_y=0)
    camera.roi = SimpleNamespace(width=0, height=0, x_offset=0, y_offset=0)
    camera.k, camera.distortion_model = [400.0, 0, 319.5, 0, 400.0, 179.5, 0, 0, 1], "plumb_bob"
    camera.d = [strength, 0.0, 0.0, 0.0, 0.0]
    camera.p = [800.0, 0, 319.5, 0, 0, 800.0, 179.5, 0, 0, 0, 1, 0]
    return camera


def test_the_field_of_view_of_rectified_pictures_is_that_of_p(clock):
    for is_rectified, focal_length in ((False, 400.0), (True, 800.0)):
        view = LiveView(dict.fromkeys(WHAT, "/topic"), clock=clock, is_rectified=is_rectified)
        view.hear_camera(camera_info(strength=0.0))
        edges = np.array(view.state("none")["field"])
        assert edges[:, 0] / edges[:, 1] == pytest.approx(np.array([-319.5, 319.5]) / focal_length, abs=1e-3)


def test_a_lens_that_folds_the_picture_back_has_no_edges_on_the_map(view):
    for strength, is_shown in ((-0.05, True), (-0.3, False)):
        view.hear_camera(camera_info(strength))
        # What JSON knows nothing of the page would not understand.
        state = json.loads(json.dumps(view.state("none"), allow_nan=False))
        assert (state["field"] is not None) == is_shown


def test_the_best_peer_has_the_ellipse_of_its_pose_with_covariance(view):
    covariance = np.zeros((6, 6))
    covariance[[0, 1, 2], [0, 1, 2]] = 0.04, 9.0, 0.25
    best = SimpleNamespace(
        header=SimpleNamespace(stamp=7), pose=SimpleNamespace(covariance=covariance.ravel())
    )
    view.hear_best(best)
    view.hear_poses(poses(pose((0.0, 0.0, 2.0)), pose((1.0, 0.0, 3.0)), stamp=7))
    peers = view.state("overlay")["peers"]["value"]
    long, short, direction = peers[0]["ellipse"]
    # Two standard deviations; the longer one lies ahead, whatever the height's.
    assert (long, short, abs(direction)) == pytest.approx((1.0, 0.4, math.pi / 2), abs=1e-4)
    assert peers[1]["ellipse"] is None

    view.hear_poses(poses(pose((0.0, 0.0, 2.0)), stamp=8))
    assert view.state("overlay")["peers"]["value"][0]["ellipse"] is None, "the covariance is of another image"


def test_an_ellipse_lies_along_the_larger_spread():
    axis = np.array([math.cos(0.5), math.sin(0.5)])
    long, short, direction = ellipse(0.09 * np.outer(axis, axis) + 0.01 * np.eye(2))
    assert (long, short) == pytest.approx((2 * math.sqrt(0.1), 0.2), abs=1e-4)
    assert math.tan(direction) == pytest.approx(math.tan(0.5), abs=1e-3)


def test_a_name_comes_from_the_identities_of_that_peer(view):
    view.hear_identities(joints(**{"x/peer_3/a": 0.2, "x/peer_3/b": 0.7, "x/peer_3/stranger": 0.1}))
    box = SimpleNamespace(id=3, ns="box", pose=pose((0.0, 0.0, 2.0)))
    view.hear_markers(SimpleNamespace(markers=[box]))
    (peer,) = view.state("overlay")["peers"]["value"]
    assert peer["label"] == "peer 3"
    assert [(who["name"], who["probability"]) for who in peer["identity"]] == [
        ("b", 0.7),
        ("a", 0.2),
        ("stranger", 0.1),
    ]


def test_silence_is_told_in_words_with_its_reason(view, clock):
    def note(panel: str = "peers") -> str:
        return view.state("camera")[panel]["note"]

    assert note() == "no poses on /robot/peers: nobody publishes it"
    assert note("picture") == "no pictures on /robot/camera: nobody publishes it"
    assert note("leds") == "no LED states on /robot/leds: nobody publishes it"
    assert note("nodes") == "no diagnostics on /robot/nodes: nobody publishes it"
    view.set_publishers({"peers": 1})
    assert note() == "no poses on /robot/peers yet, though somebody publishes it"
    view.hear_poses(poses())
    assert note() == "no peer is seen"
    assert not view.state("camera")["peers"]["is_stale"]
    view.hear_poses(poses(pose((0.0, 0.0, 2.0))))
    assert note() == ""
    clock.time += 7
    assert note() == "no poses on /robot/peers for 7 s"
    assert view.state("camera")["peers"]["is_stale"]
    view.forget("peers")
    assert view.state("camera")["peers"]["value"] == []


def test_the_headline_is_the_estimators_own_word(view, clock):
    def headline() -> tuple[str, str]:
        told = view.state("overlay")["headline"]
        return told["level"], told["text"]

    assert headline() == (
        "error",
        "no estimator is heard: no poses on /robot/peers: nobody publishes it",
    )
    view.hear_poses(poses())
    assert headline() == ("ok", "poses come on /robot/peers")
    view.hear_diagnostics(diagnostics("robot/estimator", b"\1", "no images arrive"))
    assert headline() == ("warn", "robot/estimator: no images arrive")
    clock.time += STALE + 1
    level, text = headline()
    assert level == "stale" and "robot/estimator: silent for" in text and "no images arrive" in text


def test_diagnostics_are_those_of_this_packages_nodes_in_the_namespace(view):
    for name in ("robot/recorder", "robot/battery", "other/estimator", "estimator"):
        view.hear_diagnostics(diagnostics(name))
    nodes = view.state("overlay")["nodes"]["value"]
    assert [(node["name"], node["level"], node["values"]) for node in nodes] == [
        ("robot/recorder", "ok", {"state": "active"})
    ]


@pytest.mark.parametrize(
    ("hear", "message"),
    [
        ("hear_leds", joints(front=1.5)),
        ("hear_leds", joints(front=math.nan)),
        ("hear_leds", SimpleNamespace(name=["front", "left"], position=[1.0])),
        ("hear_identities", joints(nobody=0.5)),
        ("hear_poses", poses(pose((math.nan, 0.0, 1.0)))),
        ("hear_truth", SimpleNamespace(pose=pose((0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.0)))),
    ],
)
def test_what_cannot_be_shown_is_refused_and_the_page_stays_valid(view, hear, message):
    with pytest.raises(LedposeError):
        getattr(view, hear)(message)
    json.dumps(view.state("overlay"), allow_nan=False)


def test_pictures_are_jpeg_of_a_sensible_size(view):
    wide = np.full((400, 2 * MAX_WIDTH, 3), (200, 40, 40), np.uint8)
    view.hear_picture("overlay", image(wide))
    picture = view.picture("overlay")
    assert picture is not None
    shown = decode_image(picture.data)
    assert shown.shape == (200, MAX_WIDTH, 3)
    assert np.abs(shown.mean(axis=(0, 1)) - (200, 40, 40)).max() < 6
    assert view.picture("overlay") is picture, "encoded once for all browsers"
    assert view.picture("camera") is None


def test_compressed_pictures_are_handed_on_as_they_are(view):
    data = encode_image(np.zeros((20, 30, 3), np.uint8), "jpeg")
    view.hear_picture("camera", SimpleNamespace(format="jpeg", data=data))
    picture = view.picture("camera")
    assert picture is not None and picture.data == data


def test_a_picture_that_cannot_be_shown_is_told(view):
    broken = image(np.zeros((4, 4, 3), np.uint8))
    broken.encoding = "no_such_encoding"
    view.hear_picture("overlay", broken)
    assert view.picture("overlay") is None
    assert "no_such_encoding" in view.state("overlay")["picture"]["note"]
    view.hear_picture("overlay", image(np.zeros((4, 4, 3), np.uint8)))
    assert view.picture("overlay") is not None
    assert view.state("overlay")["picture"]["note"] == ""


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1:8080", True),
        ("localhost:8080", True),
        ("192.168.1.7", True),
        ("[::1]:8080", True),
        ("evil.example:8080", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("", False),
        ("[", False),
    ],
)
def test_only_addresses_and_own_names_are_taken(host, is_own):
    assert is_own_name(host) is is_own


def test_which_hosts_are_for_this_machine_alone():
    assert all(is_local(host) for host in ("127.0.0.1", "::1", "localhost"))
    assert not any(is_local(host) for host in ("0.0.0.0", "::", "192.168.1.7", "robot.local"))
