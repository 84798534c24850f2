# SPDX-License-Identifier: Apache-2.0
"""Launch files, parameter files and the RViz configuration fit the nodes.

The launch files are read as syntax trees, so that this also runs where the packages launch and launch_ros are
missing; where they are there, the files are loaded as well.
"""

import ast
from pathlib import Path

import pytest
import yaml

from ledpose_ros.cli import NODES
from ledpose_ros.parameters import NODE_PARAMETERS

ROOT = Path(__file__).resolve().parent.parent
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))
# The arguments every user may rely on.
ARGUMENTS = {
    "record": {"image", "camera_info", "led_states"},
    "estimate": {"image", "camera_info", "model", "rviz"},
    "demo": {"image", "camera_info", "led_states", "model", "rviz", "simulator_params_file"},
}
COMMON_ARGUMENTS = {"namespace", "params_file", "use_sim_time", "log_level"}


def calls(path: Path, function: str) -> list[ast.Call]:
    """Every call of `function` in a launch file."""
    return [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function
    ]


def strings(tree: ast.AST) -> set[str]:
    """Every string constant below a node of the syntax tree."""
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def keyword(call: ast.Call, name: str) -> ast.expr:
    return next(entry.value for entry in call.keywords if entry.arg == name)


def ledpose_nodes(path: Path) -> list[tuple[str, ast.Call]]:
    """Executable and call of each `Node` of this package."""
    return [
        (ast.literal_eval(keyword(call, "executable")), call)
        for call in calls(path, "Node")
        if ast.literal_eval(keyword(call, "package")) == "ledpose_ros"
    ]


def node_source(name: str) -> str:
    return (ROOT / "ledpose_ros" / "nodes" / f"{name}.py").read_text()


def name_of(path: Path) -> str:
    return path.name.removesuffix(".launch.py")


def test_all_launch_files_are_here():
    assert {name_of(path) for path in LAUNCH_FILES} == set(ARGUMENTS)


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=name_of)
def test_declared_arguments(path):
    declared = {ast.literal_eval(call.args[0]) for call in calls(path, "DeclareLaunchArgument")}
    assert declared == ARGUMENTS[name_of(path)] | COMMON_ARGUMENTS
    used = {ast.literal_eval(call.args[0]) for call in calls(path, "LaunchConfiguration") if strings(call)}
    assert used <= declared


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=name_of)
def test_executables_parameters_and_topics_exist(path):
    assert ledpose_nodes(path)
    for executable, call in ledpose_nodes(path):
        assert executable in NODES
        known = {parameter.name for parameter in NODE_PARAMETERS[executable]} | {"use_sim_time"}
        overrides = [node for node in ast.walk(keyword(call, "parameters")) if isinstance(node, ast.Dict)]
        assert overrides
        assert {key for override in overrides for key in map(ast.literal_eval, override.keys)} <= known
        for topic in strings(keyword(call, "remappings")):
            assert f'"{topic}"' in node_source(executable), f"{executable} has no topic {topic}"


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=name_of)
def test_files_that_launch_files_name_exist(path):
    named = {text for text in strings(ast.parse(path.read_text())) if text.endswith((".yaml", ".rviz"))}
    assert named
    assert all((ROOT / "config" / name).is_file() for name in named)


def test_demo_forwards_what_the_estimator_takes():
    demo, estimate = ROOT / "launch" / "demo.launch.py", ROOT / "launch" / "estimate.launch.py"
    declared = {ast.literal_eval(call.args[0]) for call in calls(estimate, "DeclareLaunchArgument")}
    assignment = next(
        node
        for node in ast.walk(ast.parse(demo.read_text()))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FORWARDED"
    )
    assert set(ast.literal_eval(assignment.value)) == declared


def test_rviz_shows_what_the_estimator_publishes():
    displays = yaml.safe_load((ROOT / "config" / "ledpose.rviz").read_text())["Visualization Manager"]
    topics = [display["Topic"]["Value"] for display in displays["Displays"] if "Topic" in display]
    assert sorted(topics) == ["/debug_image", "/markers", "/peer_pose"]
    for topic in topics:
        assert f'"{topic[1:]}"' in node_source("peer_outputs")
        # The launch file leads each of them into the namespace.
        assert f'"{topic[1:]}"' in (ROOT / "launch" / "estimate.launch.py").read_text()
    frame = next(
        parameter.default for parameter in NODE_PARAMETERS["simulator"] if parameter.name == "camera_frame"
    )
    assert displays["Global Options"]["Fixed Frame"] == frame


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=name_of)
def test_launch_loads_the_file(path):
    pytest.importorskip("launch_ros.actions")
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    description = PythonLaunchDescriptionSource(str(path)).try_get_launch_description_without_context()
    declared = {argument.name for argument in description.get_launch_arguments()}
    assert declared >= ARGUMENTS[name_of(path)] | COMMON_ARGUMENTS
