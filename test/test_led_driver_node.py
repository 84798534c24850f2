# SPDX-License-Identifier: Apache-2.0
"""The LED driver as a process of its own, with a robot in the test that has LEDs on topics."""

import re
import signal
import time
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

from blinking_camera import (
    HEIGHT,
    WIDTH,
    camera_info,
    finished_recordings,
    picture_of,
    recorder,
    states_shown,
)
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PointStamped
from rclpy.qos import QoSProfile
from ros_graph import Client, NodeProcess, run_node, values_of
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import ColorRGBA, Header
from std_srvs.srv import SetBool, Trigger

from ledpose_ros.led_sources import LedAssembler, read_led_sources
from ledpose_ros.leds import led_states_from_message, stamp_ns
from ledpose_ros.nodes.common import message_from_rgb, stamp_from_ns
from ledpose_ros.nodes.compatibility import IS_HUMBLE
from ledpose_ros.recording import Recording

MODULE = "ledpose_ros.nodes.led_driver"
NAMES = ("front", "left", "back", "right")
COLOUR_TOPICS = Path(__file__).parents[1] / "config" / "led_sources" / "color_topics.yaml"
GPIO = COLOUR_TOPICS.parents[1] / "led_drivers" / "gpio.yaml"
FAST = {"rate": 1.5, "hold": 0.15, "led_guard": 0.02, "camera_rate": 20.0, "seed": 1}


class Robot:
    """LEDs that a colour on a topic each switches, at the time at which it was sent."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.lit = dict.fromkeys(NAMES, False)
        self.changes: list[tuple[int, tuple[bool, ...]]] = []
        self._subscriptions: list = []
        self.said = client.collect(JointState, "led_states", QoSProfile(depth=1000))
        self.diagnostics: list[DiagnosticArray] = client.collect(DiagnosticArray, "/diagnostics", 100)
        self.appear()

    def appear(self) -> None:
        for name in NAMES:
            self._subscriptions.append(
                self.client.node.create_subscription(
                    ColorRGBA, f"leds/{name}", partial(self._switch, name), 10
                )
            )

    def vanish(self) -> None:
        for subscription in self._subscriptions:
            self.client.node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def states(self, message: JointState) -> tuple[bool, ...]:
        return tuple(led_states_from_message(NAMES, message.name, message.position) > 0.5)

    def wait_for_status(self, level: bytes, words: str, node: NodeProcess) -> DiagnosticStatus:
        def newest() -> DiagnosticStatus | None:
            found = self.diagnostics and self.diagnostics[-1].status[0]
            return found if found and found.level == level and words in found.message else None

        return self.client.wait_until(newest, what=lambda: f"{words}: {self.diagnostics[-1:]} {node.log}")

    def lit_at(self, stamp: int) -> tuple[bool, ...]:
        return [states for since, states in self.changes if since <= stamp][-1]

    def _switch(self, name: str, message: ColorRGBA, info: Mapping[str, int]) -> None:
        is_lit = message.r > 0.5
        assert [message.r, message.g, message.b, message.a] == [float(is_lit)] * 3 + [1.0]
        self.lit[name] = is_lit
        self.changes.append((info["source_timestamp"], tuple(self.lit.values())))


def driver(domain: int, tmp_path: Path, **settings: object):
    return run_node(MODULE, domain, tmp_path / "driver.log", settings)


@pytest.fixture
def robot(client: Client) -> Robot:
    if IS_HUMBLE:
        pytest.skip("Humble's rclpy does not tell when a message was sent")
    return Robot(client)


def test_what_is_said_is_what_the_robot_was_told_and_when(domain, client, robot, tmp_path):
    with driver(domain, tmp_path, adapter=COLOUR_TOPICS, **FAST) as node:
        client.wait_until(lambda: len(robot.changes) > 120, what=lambda: node.log)
        assert node.end(signal.SIGINT)[0] == 0, node.log
        assert "Traceback" not in node.log
        client.spin_for(0.5)
    assert not any(robot.lit.values()) and not any(robot.states(robot.said[-1])), "dark at the end"

    stamps = [stamp_ns(message.header.stamp) for message in robot.said]
    states = [robot.states(message) for message in robot.said]
    assert stamps == sorted(stamps)
    said = [
        (stamp, now)
        for (stamp, now), before in zip(pairs(stamps, states), [None, *states], strict=False)
        if now != before
    ]
    told = [robot.changes[0], *(after for before, after in pairwise(robot.changes) if after[1] != before[1])]
    # All off at the end is one command, of a message for each LED.
    assert len(told) - len(said) < len(NAMES)
    del told[len(said) - 1 : -1]
    assert [now for _, now in said] == [now for _, now in told]
    delays = [stamp - sent for (stamp, _), (sent, _) in zip(said, told, strict=True)]
    assert min(delays) >= 0, "a state is said after its command"
    assert np.median(delays) < 50e6
    holds = np.diff([stamp for stamp, _ in said[:-1]]) / 1e9
    assert holds.min() >= FAST["hold"] - 0.001
    assert len(set(states)) >= 8


def test_the_recorder_labels_pictures_with_what_is_lit_in_them(domain, client, robot, tmp_path):
    images = client.node.create_publisher(Image, "image", 20)
    cameras = client.node.create_publisher(CameraInfo, "camera_info", 20)
    status = client.collect_status("recorder")
    # Pictures are taken so much later that the robot has heard all by then.
    period, ago = 50_000_000, 500_000_000
    with (
        recorder(domain, tmp_path, led_guard=FAST["led_guard"]) as recorder_node,
        driver(domain, tmp_path, adapter=COLOUR_TOPICS, **FAST) as node,
    ):
        client.wait_until(lambda: robot.said and images.get_subscription_count(), what=lambda: node.log)
        client.spin_for(ago / 1e9)
        stamp = time.time_ns() - ago
        while int(status.get("samples", 0)) < 100:
            while time.time_ns() - ago < stamp:
                client.spin_once()
            header = Header(stamp=stamp_from_ns(stamp), frame_id="camera")
            cameras.publish(camera_info(header, WIDTH, HEIGHT))
            images.publish(message_from_rgb(picture_of(np.array(robot.lit_at(stamp)), 0), header))
            stamp += period
        assert node.end()[0] == 0 and recorder_node.end()[0] == 0
    (path,) = finished_recordings(tmp_path)
    with Recording(path) as recording:
        shown = np.array([states_shown(recording.image(index)) for index in range(len(recording))])
        assert np.array_equal(shown, recording.led_states)
        assert len(np.unique(shown, axis=0)) > 6


def pairs(*columns):
    return list(zip(*columns, strict=True))


def test_a_robot_that_does_not_listen_is_told_of_and_waited_for(domain, client, robot, tmp_path):
    robot.vanish()
    with driver(domain, tmp_path, adapter=COLOUR_TOPICS, **FAST) as node:
        status = robot.wait_for_status(DiagnosticStatus.ERROR, "nobody listens to /leds/front", node)
        assert {"LED front": "not known", "commands": "0"}.items() <= values_of(status).items()
        assert not robot.said, "what was not commanded is not claimed"
        robot.appear()
        robot.wait_for_status(DiagnosticStatus.OK, "the LEDs change at random", node)
        client.wait_until(lambda: robot.said, what=lambda: node.log)
        robot.vanish()
        status = robot.wait_for_status(DiagnosticStatus.ERROR, "nobody listens", node)
        assert int(values_of(status)["refused: failed command"]) >= 2
        count = len(robot.said)
        client.spin_for(0.5)
        assert len(robot.said) == count
        code, _ = node.end()
        assert code == 0 and "the LEDs may still be on" in node.log


def test_all_on_all_off_and_disabled(domain, client, robot, tmp_path):
    def becomes(*states: bool) -> bool:
        return bool(robot.said) and robot.states(robot.said[-1]) == tuple(robot.lit.values()) == states

    with driver(domain, tmp_path, adapter=COLOUR_TOPICS, mode="all_off", **FAST) as node:
        client.wait_until(lambda: becomes(False, False, False, False), what=lambda: node.log)
        for service, state in (("all_on", True), ("all_off", False), ("all_on", True)):
            answer = client.call(Trigger, f"led_driver/{service}")
            assert answer.success and "all LEDs are kept" in answer.message
            client.wait_until(lambda state=state: becomes(*[state] * 4), what=service)
        assert client.call(SetBool, "led_driver/enable", SetBool.Request(data=False)).success
        client.wait_until(lambda: becomes(False, False, False, False), what="off")
        robot.wait_for_status(DiagnosticStatus.OK, "disabled", node)
        count = len(robot.said)
        client.spin_for(0.5)
        assert len(robot.said) == count, "who is disabled says nothing"
        assert client.call(SetBool, "led_driver/enable", SetBool.Request(data=True)).success
        client.wait_until(lambda: len({robot.states(message) for message in robot.said[count:]}) > 3)
        assert node.end(signal.SIGTERM)[0] == 0


def test_without_an_adapter_states_are_printed(domain, client, tmp_path):
    said = client.collect(JointState, "led_states", QoSProfile(depth=1000))
    with driver(domain, tmp_path, **FAST) as node:
        client.wait_until(lambda: len(said) > 20, what=lambda: node.log)
        assert node.end()[0] == 0
        assert "LEDs on: none" in node.log and "seed of the random states: 1" in node.log
        assert node.log.count("LEDs on: ") > 3


@pytest.mark.parametrize(
    ("table", "package"), [("robomaster", "robomaster_msgs"), ("create3", "irobot_create_msgs")]
)
def test_messages_of_vendors_where_they_are_installed(domain, client, tmp_path, table, package):
    pytest.importorskip(f"{package}.msg")
    path = COLOUR_TOPICS.with_name(f"{table}.yaml")
    names = next(iter(yaml.safe_load(path.read_text()).values()))["leds"]
    (topic,) = read_led_sources(path, names)
    said = client.collect(JointState, "led_states", QoSProfile(depth=1000))
    leds, told = LedAssembler(tuple(names), 10**18), []
    # A queue of one, as robomaster_ros has it.
    client.node.create_subscription(
        topic.message_class(), topic.name, lambda message: told.append(leds.take(topic, message, 0)), 1
    )
    settings = FAST | {"adapter": path, "led_names": f"[{', '.join(names)}]", "rate": 0.9}
    with driver(domain, tmp_path, **settings) as node:
        client.wait_until(lambda: len(told) > 20, what=lambda: node.log)
        assert node.end()[0] == 0
        client.spin_for(0.5)
    states = [list(message.position) for message in said]
    assert [now for before, now in pairwise([None, *states]) if now != before] == told


def test_each_start_draws_another_seed(domain, tmp_path):
    """Two robots that blink alike are one to whoever looks for them."""
    seeds = set()
    for _ in range(2):
        with driver(domain, tmp_path, **FAST | {"seed": -1}) as node:
            while not (found := re.search(r"seed of the random states: (\d+)", node.log)):
                assert node.is_running, node.log
                time.sleep(0.05)
            seeds.add(found[1])
    assert len(seeds) == 2


def test_before_simulated_time_has_begun_leds_change_but_nothing_is_said(domain, client, tmp_path):
    said = client.collect(JointState, "led_states", QoSProfile(depth=1000))
    with driver(domain, tmp_path, use_sim_time=True, **FAST) as node:
        client.wait_until(lambda: "simulated time has not begun" in node.log, what=lambda: node.log)
        client.wait_until(lambda: node.log.count("LEDs on: ") > 3, what=lambda: node.log)
        assert not said


def test_messages_with_a_stamp_tell_when_they_were_sent(domain, client, tmp_path):
    table = tmp_path / "points.yaml"
    table.write_text(
        "leds/front: {type: geometry_msgs/msg/PointStamped, stamp: header.stamp, "
        "leds: {front: {value: point.x}}}"
    )
    told = client.collect(PointStamped, "leds/front")
    before = time.time_ns()
    with driver(domain, tmp_path, adapter=table, led_names="[front]", **FAST) as node:
        client.wait_until(lambda: len({message.point.x for message in told}) > 1, what=lambda: node.log)
    stamps = [stamp_ns(message.header.stamp) for message in told]
    assert before < stamps[0] and stamps == sorted(set(stamps)) and stamps[-1] < time.time_ns()


def test_pins_are_switched(domain, client, tmp_path, monkeypatch):
    pytest.importorskip("gpiozero")
    monkeypatch.setenv("GPIOZERO_PIN_FACTORY", "mock")
    said = client.collect(JointState, "led_states", QoSProfile(depth=1000))
    with driver(domain, tmp_path, adapter=GPIO, **FAST) as node:
        client.wait_until(
            lambda: len({tuple(message.position) for message in said}) > 2, what=lambda: node.log
        )
        assert node.end()[0] == 0 and "error" not in node.log


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rate": 3.0}, "set rate below 1"),
        ({"hold": 0.1}, "raise hold"),
        ({"led_names": "[a, a]"}, "different names"),
        ({"adapter": "missing.yaml"}, "cannot be read"),
        ({"mode": "blink"}, "must be one of random"),
    ],
)
def test_settings_that_will_not_do_are_one_sentence_and_exit_code_2(domain, tmp_path, settings, words):
    with driver(domain, tmp_path, **settings) as node:
        assert node.wait() == 2
        assert words in node.log and "Traceback" not in node.log
