# SPDX-License-Identifier: Apache-2.0
"""Launch files, and what RViz and Foxglove are told to show, fit the nodes.

Where the packages launch and launch_ros are missing, their tests are left out; those of `ros2 launch` itself
need the package installed, as by colcon.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy")

from ros_graph import new_domain, ros_client, ros_environment, run_node

from ledpose_ros.cli import NODES
from ledpose_ros.errors import LedposeError
from ledpose_ros.parameters import LAUNCH_ARGUMENTS, default_of, parameter_of

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "launch"
PYTHON_FILES = ("blink", "demo", "estimate", "multi_robot", "record", "replay")
PARAMS_FILES = {
    "estimator_params_file": "estimator",
    "recorder_params_file": "recorder",
    "simulator_params_file": "simulator",
    "random_drive_params_file": "random_drive",
}
# Where it is not the estimator's.
PARAMS_FILE = {"record": "recorder", "blink": "led_driver"}
ONE_NODE = [("record", "recorder"), ("estimate", "estimator"), ("blink", "led_driver")]
ROBOTS = ("robot_1", "robot_2", "robot_3")
RVIZ_CLASSES = {
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
    "rviz_default_plugins/PoseWithCovariance": "geometry_msgs/msg/PoseWithCovarianceStamped",
}

needs_ros2 = pytest.mark.skipif(shutil.which("ros2") is None, reason="needs the command ros2")


def test_every_launch_file_is_documented():
    files = {path.name for path in LAUNCH.iterdir() if path.is_file()}
    assert files == {f"{name}.launch.py" for name in PYTHON_FILES} | {"robot.launch.xml"}
    page = (ROOT / "docs" / "launch.md").read_text()
    assert all(f"`{name}`" in page for name in files)


# --- the nodes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executable", NODES)
def test_a_node_ends_cleanly_however_often_it_is_told_to(executable: str, domain: int, tmp_path: Path):
    """Ctrl-C reaches launch and its nodes, and launch sends its own: even while Python itself ends."""
    if executable == "simulator":
        pytest.importorskip("ledpose_ros.simulation")
    with (
        ros_client(domain) as client,
        run_node(f"ledpose_ros.nodes.{executable}", domain, tmp_path / "log") as node,
    ):
        client.wait_until(lambda: executable in client.node.get_node_names(), what=lambda: node.log)
        while node.is_running:
            os.kill(node.pid, signal.SIGINT)
            time.sleep(0.01)
        assert node.wait() == 0, node.log
        assert "Traceback" not in node.log


# --- RViz and Foxglove --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Topic -> type of all that an estimator of robot_1 publishes; its peers are robot_2 and robot_3."""
    domain, log = new_domain(), tmp_path_factory.mktemp("estimator") / "log"
    settings = {"peers": "[/robot_2, /robot_3]"}
    namespace = ["-r", "__ns:=/robot_1"]
    with (
        ros_client(domain) as client,
        run_node("ledpose_ros.nodes.estimator", domain, log, settings, namespace) as node,
    ):

        def topics() -> dict[str, str]:
            with contextlib.suppress(Exception):  # NodeNameNonExistentError, of a private module
                told = client.node.get_publisher_names_and_types_by_node("estimator", "/robot_1")
                return {name: types[0] for name, types in told}
            return {}

        client.wait_until(
            lambda: {"/diagnostics", "/robot_1/debug_image"} <= topics().keys(), what=lambda: node.log
        )
        return topics()


def rviz_displays(name: str) -> tuple[dict[str, str], str]:
    """Topic -> RViz class of each display that has one, and the fixed frame."""
    manager = yaml.safe_load((ROOT / "config" / name).read_text())["Visualization Manager"]
    displays = [display for entry in manager["Displays"] for display in (entry, *entry.get("Displays", ()))]
    topics = {entry["Topic"]["Value"]: entry["Class"] for entry in displays if "Topic" in entry}
    return topics, manager["Global Options"]["Fixed Frame"]


def test_rviz_shows_what_an_estimator_publishes(published: dict[str, str]):
    topics, frame = rviz_displays("estimate.rviz")
    assert topics.keys() == {"/peer_pose", "/markers", "/debug_image"}
    for topic, kind in topics.items():
        assert published[f"/robot_1{topic}"] == RVIZ_CLASSES[kind]
    assert frame == default_of("simulator", "camera_frame")


def test_rviz_shows_what_several_robots_know_of_each_other(published: dict[str, str]):
    topics, frame = rviz_displays("multi_robot.rviz")
    of_first = {topic: kind for topic, kind in topics.items() if topic.startswith("/robot_1/")}
    for topic, kind in of_first.items():
        assert published[topic] == RVIZ_CLASSES[kind]
    wanted = {f"/{robot}/{topic}" for robot in ROBOTS for topic in ("markers", "debug_image")}
    wanted |= {f"/{robot}/identified/{other}/pose" for robot, other in permutations(ROBOTS, 2)}
    assert topics.keys() == wanted
    assert frame == "map"


def test_foxglove_shows_what_an_estimator_publishes(published: dict[str, str]):
    layout = json.loads((ROOT / "config" / "foxglove_layout.json").read_text())
    panels = layout["configById"]
    shown = set(re.findall(r'"(?:first|second)": "([^"]+)"', json.dumps(layout["layout"])))
    assert shown == panels.keys()
    assert {panel.partition("!")[0] for panel in panels} == {
        "3D",
        "Image",
        "Plot",
        "DiagnosticSummary",
        "RawMessages",
    }
    view = panels["3D!peers"]
    frames = {view["followTf"], *(layer["frameId"] for layer in view["layers"].values())}
    assert frames == {default_of("simulator", "camera_frame")}
    paths = [
        *view["topics"],
        panels["Image!debug"]["imageMode"]["imageTopic"],
        panels["RawMessages!poses"]["topicPath"],
        panels["DiagnosticSummary!nodes"]["topicToRender"],
        *(path["value"] for name in panels if name.startswith("Plot!") for path in panels[name]["paths"]),
    ]
    for path in paths:
        topic, *fields = re.sub(r"\[\d\]", "", path).split(".")
        package, _, name = published["/diagnostics" if topic == "/diagnostics" else f"/robot_1{topic}"].split(
            "/"
        )
        value: Any = getattr(import_module(f"{package}.msg"), name)()
        for field in fields:
            value = getattr(value, field)
    leds = [path["label"] for path in panels["Plot!leds"]["paths"]]
    assert leds == default_of("recorder", "led_names")


# --- launch files -------------------------------------------------------------------------------------------

Launched = Callable[..., list[SimpleNamespace]]


@pytest.fixture
def describe() -> Callable[[str], Any]:
    """Load a launch file."""
    pytest.importorskip("launch_ros.actions")
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    def loaded(name: str) -> Any:
        source = PythonLaunchDescriptionSource(str(LAUNCH / f"{name}.launch.py"))
        return source.try_get_launch_description_without_context()

    return loaded


@pytest.fixture
def launched(describe: Callable[[str], Any]) -> Launched:
    """What a launch file starts when it is given these arguments; nothing is really started."""
    from launch import LaunchContext
    from launch_ros.actions import Node

    def processes(file: str, **given: str) -> list[SimpleNamespace]:
        description, context = describe(file), LaunchContext()
        # The shipped files, which the package share holds only once it is installed.
        files = PARAMS_FILES | {"params_file": PARAMS_FILE.get(file, "estimator")}
        shipped = {name: str(ROOT / "config" / f"{node}.yaml") for name, node in files.items()}
        context.launch_configurations.update(shipped | given)
        *declared, opaque = description.entities
        for argument in declared:
            argument.execute(context)
        found = []
        for action in opaque.execute(context):
            if isinstance(action, Node) and action.node_package == "ledpose_ros":
                action._perform_substitutions(context)
                *_, (overrides, _) = action._Node__expanded_parameter_arguments
                (values,) = yaml.safe_load(Path(overrides).read_text()).values()
                Path(overrides).unlink()
                found.append(
                    SimpleNamespace(
                        executable=action.node_executable,
                        namespace=action.expanded_node_namespace,
                        parameters=values["ros__parameters"],
                        topics=dict(action.expanded_remapping_rules or []),
                    )
                )
            else:
                found.append(action)
        return found

    return processes


@pytest.mark.parametrize("file", PYTHON_FILES)
def test_arguments_read_like_documentation(file: str, describe: Callable[[str], Any]):
    arguments = {argument.name: argument for argument in describe(file).get_launch_arguments()}
    assert {"use_sim_time", "log_level", "sigterm_timeout", "sigkill_timeout"} <= arguments.keys()
    if file != "blink":
        assert {"image", "camera_info"} <= arguments.keys()
    if file not in PARAMS_FILE:
        assert {"model", "rviz", "fixed_frame", "respawn"} <= arguments.keys()
    assert {name for name, argument in arguments.items() if argument.default_value is None} <= {"bag"}
    for argument in arguments.values():
        assert re.fullmatch(r"[A-Z].*[.\]]( \(.*\))?", argument.description)


@pytest.mark.parametrize(("file", "node"), ONE_NODE)
def test_an_argument_says_what_the_table_says(file: str, node: str, describe: Callable[[str], Any]):
    arguments = {argument.name: argument for argument in describe(file).get_launch_arguments()}
    for name in LAUNCH_ARGUMENTS[node]:
        parameter = parameter_of(node, name)
        description = arguments[name].description
        assert description.startswith(parameter.description) and (parameter.allowed in description)
        assert "as in the parameter file" in arguments[name].default_value[0].describe()


@pytest.mark.parametrize(("file", "node"), ONE_NODE)
def test_a_parameter_is_overridden_only_if_it_is_given(file: str, node: str, launched: Launched):
    (alone,) = launched(file)
    assert alone.executable == node and alone.parameters == {"use_sim_time": False}
    for name in LAUNCH_ARGUMENTS[node]:
        default = default_of(node, name)
        # What looks like a number stays a string where one is wanted.
        value = {"": "7", str([""]): ["7", "8"]}.get(str(default), default)
        (process,) = launched(file, **{name: ",".join(value) if isinstance(value, list) else str(value)})
        assert process.parameters == {"use_sim_time": False, name: value}
        assert type(process.parameters[name]) is type(default)


@pytest.mark.parametrize("file", ["record", "estimate", "demo", "blink"])
def test_topics_are_those_of_the_node(file: str, launched: Launched):
    from ledpose_ros.launching import TOPICS

    given = {topic: f"my/{topic}" for topic in TOPICS}
    for process in launched(file, namespace="bot", rviz="false", drive="true", **given):
        assert process.namespace == "/bot" and process.topics
        source = (ROOT / "ledpose_ros" / "nodes" / f"{process.executable}.py").read_text()
        for topic, target in process.topics.items():
            assert f'"{topic}"' in source and target == f"my/{topic}"


@pytest.mark.parametrize(
    ("file", "given", "words"),
    [
        ("estimate", {"min_confidence": "2"}, "'min_confidence' is 2.0, but must be 0 to 1"),
        ("estimate", {"camera_pitch": "down"}, "type double, like 0.0, but is 'down'"),
        ("estimate", {"rviz": "maybe"}, "'rviz' must be of type bool"),
        ("estimate", {"params_file": "none.yaml"}, "params_file is 'none.yaml', but there is no such file"),
        ("record", {"image_transport": "jpeg"}, "'jpeg', but must be one of raw, compressed"),
        ("record", {"log_level": "loud"}, "one of debug, info, warn, error"),
        ("record", {"sigterm_timeout": "-1"}, "at least 0"),
        ("replay", {"bag": "no_bag"}, "there is no bag 'no_bag'"),
        ("multi_robot", {"robots": "anna"}, "two or more different ones, but is anna"),
        ("multi_robot", {"robots": "anna,/anna"}, "two or more different ones"),
        ("multi_robot", {"robots": "anna,2 b"}, "'2 b', which is no name"),
        ("multi_robot", {"image": "/camera/image_raw"}, "each robot has its own: leave the first / away"),
    ],
)
def test_unusable_values_are_refused(file: str, given: dict[str, str], words: str, launched: Launched):
    with pytest.raises(LedposeError, match=words):
        launched(file, **given)


def test_unknown_arguments_are_refused(launched: Launched):
    from ledpose_ros.launching import refuse_unknown

    known = ("image", "min_confidence", "model")
    refuse_unknown(["model", "launch-prefix"], known)
    with pytest.raises(LedposeError, match="'min_confidense': did you mean 'min_confidence'"):
        refuse_unknown(["image", "min_confidense"], known)
    with pytest.raises(LedposeError, match="'zzz': --show-args lists"):
        refuse_unknown(["zzz"], known)


@pytest.mark.parametrize(
    ("command", "is_own"),
    [
        ("ros2 launch ledpose_ros estimate.launch.py", True),
        (f"ros2 launch {LAUNCH}/estimate.launch.py model:=m.onnx", True),
        ("ros2 launch ledpose_ros demo.launch.py", False),
        ("ros2 launch my_robot estimate.launch.py", False),
        ("ros2 launch my_robot bringup.launch.py", False),
    ],
)
def test_only_its_own_command_line_is_a_launch_files_business(command: str, is_own: bool, launched: Launched):
    from ledpose_ros.launching import is_command_of

    assert is_command_of(LAUNCH / "estimate.launch.py", command.split()) == is_own


def test_the_demo_is_a_simulator_and_an_estimator_on_its_time(launched: Launched):
    simulator, estimator = launched("demo", rviz="false", use_sim_time="true", seed="7", model="m.onnx")
    assert simulator.executable == "simulator"
    assert simulator.parameters == {"seed": 7, "publish_clock": True, "use_sim_time": False}
    assert estimator.parameters == {"model": "m.onnx", "use_sim_time": True}


def test_a_robot_that_blinks_drives_only_if_asked_for(launched: Launched):
    (driver,) = launched("blink", led_names="red, green")
    assert driver.executable == "led_driver" and driver.parameters["led_names"] == ["red", "green"]
    driver, drive = launched("blink", drive="true", arena="[0, 0, 3, 2.5]", holonomic="true")
    assert driver.parameters == {"use_sim_time": False} and drive.executable == "random_drive"
    assert drive.parameters == {"use_sim_time": False, "arena": [0.0, 0.0, 3.0, 2.5], "holonomic": True}


def test_replay_follows_the_clock_of_the_bag(launched: Launched, tmp_path: Path):
    estimator, player = launched("replay", bag=str(tmp_path), rate="2", loop="true")
    assert estimator.parameters == {"use_sim_time": True, "max_image_age": 0.0}
    command = " ".join(part[0].text for part in player.cmd)
    assert command == f"ros2 bag play {tmp_path} --clock --rate 2.0 --delay 3.0 --loop"


def test_several_robots_estimate_each_other(launched: Launched):
    processes = launched("multi_robot", robots="anna,/bert,carl", image="camera/image", led_states="leds")
    assert [process.namespace for process in processes] == ["/anna", "/bert", "/carl"]
    bert = processes[1]
    assert bert.executable == "estimator"
    assert bert.parameters == {"use_sim_time": False, "peers": ["/anna", "/carl"], "peer_frame": "bert/peer"}
    assert bert.topics == {
        "image": "/bert/camera/image",
        "camera_info": "/bert/camera_info",
        "odometry": "/bert/odometry",
        "/anna/led_states": "/anna/leds",
        "/carl/led_states": "/carl/leds",
    }


def test_several_robots_record_each_other(launched: Launched):
    processes = launched("multi_robot", robots="anna,bert", estimate="false", record="true")
    first, second = processes
    assert {process.executable for process in processes} == {"recorder"}
    assert first.namespace == "/anna/sees_bert" and second.namespace == "/bert/sees_anna"
    assert first.parameters["output_directory"] == "recordings/anna_sees_bert"
    assert first.topics == {
        "image": "/anna/image",
        "camera_info": "/anna/camera_info",
        "led_states": "/bert/led_states",
        "ground_truth": "/anna/ground_truth/bert",
    }


def test_no_argument_sets_parameters_of_one_name_but_two_meanings(describe: Callable[[str], Any]):
    """The recorder's `autostart` is not the estimator's."""
    assert "autostart" not in {argument.name for argument in describe("multi_robot").get_launch_arguments()}


def test_several_robots_are_simulated_by_one_simulator(launched: Launched):
    simulator, anna, _ = launched("multi_robot", robots="anna,bert", simulate="true", use_sim_time="true")
    assert simulator.executable == "simulator" and simulator.namespace == "/"
    assert simulator.parameters == {"robots": ["anna", "bert"], "publish_clock": True, "use_sim_time": False}
    assert simulator.topics["/bert/led_states"] == "/bert/led_states"
    assert anna.parameters["camera_position"] == [0.15, 0.0, 0.13]


def test_rviz_hears_the_robots_by_the_names_they_have(launched: Launched):
    rviz = launched("multi_robot", robots="anna,bert,carl,dora", estimate="false", rviz="true")[0]
    assert rviz.node_executable == "rviz2"
    rules = {source[0].text: target[0].text for source, target in rviz._Node__remappings}
    assert rules.keys() == rviz_displays("multi_robot.rviz")[0].keys()
    assert rules["/robot_1/identified/robot_3/pose"] == "/anna/identified/carl/pose"


def test_the_xml_example_gives_arguments_that_there_are(describe: Callable[[str], Any]):
    root = ElementTree.parse(LAUNCH / "robot.launch.xml").getroot()
    (include,) = root.iter("include")
    assert include.get("file") == "$(find-pkg-share ledpose_ros)/launch/estimate.launch.py"
    known = {argument.name for argument in describe("estimate").get_launch_arguments()}
    assert {argument.get("name") for argument in include} <= known


# --- ros2 launch --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def ros2_launch(domain: int, log: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    """`ros2 launch ledpose_ros ...` in a process group of its own, as in a terminal."""
    with log.open("w") as output:
        process = subprocess.Popen(
            ["ros2", "launch", "ledpose_ros", *arguments],
            env=ros_environment(domain),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=log.parent,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@needs_ros2
def test_ros2_launch_names_the_argument_that_was_meant(domain: int, tmp_path: Path):
    with ros2_launch(domain, tmp_path / "log", "estimate.launch.py", "modle:=mine.onnx") as process:
        assert process.wait(60) == 1
    assert "there is no argument 'modle': did you mean 'model'?" in (tmp_path / "log").read_text()


@needs_ros2
def test_an_estimator_that_was_killed_comes_back_and_ctrl_c_ends_all(domain: int, tmp_path: Path):
    log = tmp_path / "log"

    def pids() -> list[int]:
        return [int(pid) for pid in re.findall(r"process started with pid \[(\d+)\]", log.read_text())]

    with ros_client(domain) as client, ros2_launch(domain, log, "estimate.launch.py") as process:
        client.wait_until(lambda: "calibrated" in log.read_text(), what=log.read_text)
        os.kill(pids()[0], signal.SIGKILL)
        client.wait_until(lambda: log.read_text().count("calibrated") == 2, what=log.read_text)
        assert len(pids()) == 2
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
            client.spin_for(0.2)
        assert process.wait(60) == 0
    assert f"finished cleanly [pid {pids()[1]}]" in log.read_text()


@needs_ros2
def test_an_estimator_that_says_what_to_change_stays_down(domain: int, tmp_path: Path):
    log, settings = tmp_path / "log", tmp_path / "bad.yaml"
    settings.write_text("/**/estimator: {ros__parameters: {min_confidence: 3.0}}")
    with ros2_launch(domain, log, "estimate.launch.py", f"params_file:={settings}") as process:
        assert process.wait(60) == 0
    assert "must be 0 to 1" in log.read_text() and "not started again" in log.read_text()
