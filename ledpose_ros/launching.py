# SPDX-License-Identifier: Apache-2.0
"""What the launch files share: their arguments, the check of what is given for them, and the nodes.

An argument is a `Parameter`, as a node's parameter is, so that both are described and checked alike. Only
launch files import this module, for it needs the packages launch and launch_ros.
"""

import difflib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription, Substitution
from launch.action import Action
from launch.actions import DeclareLaunchArgument, EmitEvent, LogInfo, OpaqueFunction
from launch.events import matches_action
from launch.events.process import ProcessExited, ShutdownProcess
from launch.substitutions import PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from ledpose_ros.errors import LedposeError
from ledpose_ros.parameters import LAUNCH_ARGUMENTS, Parameter, parameter_of

PACKAGE = "ledpose_ros"

# What `ros2 launch` itself hands to a launch file, or understands of what it is given.
FOREIGN_ARGUMENTS = {"launch-prefix", "launch-prefix-filter", "emulate_tty"}

TOPICS = {
    topic: Parameter(topic, topic, description)
    for topic, description in {
        "image": "Topic of the camera's images.",
        "camera_info": "Topic of the camera's CameraInfo.",
        "led_states": "Topic of the LED states of the robot that blinks.",
        "ground_truth": "Topic of the peer's true pose, where something measures it.",
        "odometry": "Topic of the own robot's odometry.",
        "cmd_vel": "Topic on which the own robot is told its velocity.",
        "emergency_stop": "Topic of the message that makes the own robot stand.",
    }.items()
}
NAMESPACE = Parameter("namespace", "", "Namespace of the nodes; their topics are relative to it.")
PROCESS = (
    Parameter("use_sim_time", False, "Take the time from /clock."),
    Parameter(
        "log_level",
        "info",
        "Least severe messages that are logged.",
        choices=("debug", "info", "warn", "error"),
    ),
    # launch itself reads these two.
    Parameter("sigterm_timeout", 5.0, "Time after Ctrl-C until a node that runs on gets SIGTERM [s].", 0.0),
    Parameter("sigkill_timeout", 5.0, "Time from then on until it gets SIGKILL [s].", 0.0),
)
# A recorder writes what it still holds before it ends, and on a slow disk that takes its time.
WRITING_TIME = 60.0
RESPAWN = Parameter("respawn", True, "Start the estimator again, two seconds after it has crashed.")
RVIZ = (
    Parameter("rviz", False, "Show the estimates in RViz."),
    Parameter("fixed_frame", "", "Frame in which RViz shows all; empty for that of its configuration."),
)
RVIZ_TOPICS = ("peer_pose", "markers", "debug_image")
RESPAWN_DELAY = 2.0
# Exit status of a node that ended as asked, and of one that has said what to change.
NOT_CRASHED = {0, 2}

Settings = Mapping[str, Any]


class AsInParamsFile(Substitution):
    """The default of an argument that leaves a parameter to the parameter file: an empty text."""

    def __init__(self, parameter: Parameter) -> None:
        super().__init__()
        self._shipped = parameter.default

    def describe(self) -> str:
        """What `--show-args` shows."""
        return f"as in the parameter file; in the shipped one {_text(self._shipped) or 'empty'}"

    def perform(self, _context: LaunchContext) -> str:
        """Nothing: the argument counts as not given."""
        return ""


class Arguments:
    """The arguments of a launch file, in the order in which `--show-args` lists them."""

    def __init__(self) -> None:
        self._parameters: list[Parameter] = []
        self._defaults: dict[str, Any] = {}
        self._files: list[str] = []

    def add(self, *parameters: Parameter, **defaults: object) -> "Arguments":
        """Add arguments; a default in place of a parameter's own is given by its name."""
        for parameter in parameters:
            default = defaults.get(parameter.name, parameter.default)
            self._declare(parameter, _text(default))
        return self

    def add_required(self, parameter: Parameter) -> "Arguments":
        """Add an argument that has to be given."""
        self._declare(parameter, None)
        return self

    def add_topics(self, *topics: str) -> "Arguments":
        """Add arguments that say where these topics are."""
        return self.add(*(TOPICS[topic] for topic in topics))

    def add_parameters(
        self, node_name: str, leave_out: Iterable[str] = (), **defaults: object
    ) -> "Arguments":
        """Add those of a node's parameters that are arguments; the parameter file's value counts without."""
        for name in LAUNCH_ARGUMENTS[node_name]:
            if name not in leave_out and name not in self._defaults:
                parameter = parameter_of(node_name, name)
                default = defaults.get(name)
                self._declare(parameter, AsInParamsFile(parameter) if default is None else _text(default))
        return self

    def add_params_file(self, node_name: str, argument: str = "params_file") -> "Arguments":
        """Add an argument that names a node's parameter file, found through the package share."""
        described = Parameter(argument, "", f"YAML file with the parameters of the {node_name}.")
        shipped = PathJoinSubstitution([FindPackageShare(PACKAGE), "config", f"{node_name}.yaml"])
        self._declare(described, shipped)
        self._files.append(argument)
        return self

    def description(
        self, launch_file: str, actions: Callable[[Settings], Sequence[Action]]
    ) -> LaunchDescription:
        """A launch file's description: its arguments, and the actions that follow from their checked values.

        `launch_file` is the launch file's `__file__`.
        """

        def checked(context: LaunchContext) -> Sequence[Action]:
            if is_command_of(Path(launch_file), sys.argv):
                refuse_unknown([argument.partition(":=")[0] for argument in context.argv], self._defaults)
            return actions(self._settings(context.launch_configurations))

        declared = [
            DeclareLaunchArgument(
                parameter.name,
                default_value=self._defaults[parameter.name],
                description=_described(parameter),
            )
            for parameter in self._parameters
        ]
        return LaunchDescription([*declared, OpaqueFunction(function=checked)])

    def _declare(self, parameter: Parameter, default: Any) -> None:
        self._parameters.append(parameter)
        self._defaults[parameter.name] = default

    def _settings(self, given: Mapping[str, str]) -> Settings:
        """The values of the arguments; without those that are left to a parameter file."""
        settings: dict[str, Any] = {}
        for parameter in self._parameters:
            text, default = given[parameter.name], self._defaults[parameter.name]
            if text or not isinstance(default, AsInParamsFile):
                settings[parameter.name] = parameter.parse(text)
        for name in self._files:
            if not Path(settings[name]).is_file():
                raise LedposeError(f"{name} is '{settings[name]}', but there is no such file")
        return settings


def _text(value: object) -> str:
    """A value as the text that `Parameter.parse` reads."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _described(parameter: Parameter) -> str:
    if parameter.type_name == "bool":
        return f"{parameter.description} (true, false)"
    return f"{parameter.description} ({parameter.allowed})" if parameter.allowed else parameter.description


def is_command_of(launch_file: Path, command: Sequence[str]) -> bool:
    """Whether a command, as `ros2 launch PACKAGE FILE` or `ros2 launch PATH`, starts this very launch file.

    Arguments of another launch file that includes this one are none of its business.
    """
    if (PACKAGE, launch_file.name) in pairwise(command):
        return True
    paths = [word for word in command if Path(word).name == launch_file.name]
    return any(os.path.isfile(path) and launch_file.samefile(path) for path in paths)


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `LedposeError` for a name that is no argument: `ros2 launch` itself would ignore it."""
    names = list(known)
    for name in given:
        if name not in names and name not in FOREIGN_ARGUMENTS:
            near = difflib.get_close_matches(name, names, n=1)
            advice = f"did you mean '{near[0]}'?" if near else "--show-args lists those that there are"
            raise LedposeError(f"there is no argument '{name}': {advice}")


# --- nodes --------------------------------------------------------------------------------------------------


def overrides(settings: Settings, node_name: str) -> dict[str, Any]:
    """The node's parameters that are given as arguments."""
    return {name: settings[name] for name in LAUNCH_ARGUMENTS[node_name] if name in settings}


def node(
    settings: Settings,
    executable: str,
    topics: Mapping[str, str],
    parameters: Mapping[str, Any],
    params_file: str = "params_file",
    namespace: str | None = None,
    **options: Any,
) -> Node:
    """A node of this package with its `topics` remapped; `parameters` outdo those of the parameter file."""
    values = {"use_sim_time": settings["use_sim_time"], **parameters}
    return Node(
        package=PACKAGE,
        executable=executable,
        namespace=settings["namespace"] if namespace is None else namespace,
        parameters=[settings[params_file], {name: _value(value) for name, value in values.items()}],
        remappings=list(topics.items()),
        ros_arguments=["--log-level", settings["log_level"]],
        output="screen",
        **options,
    )


def _value(value: Any) -> ParameterValue:
    """A parameter's value; a string stays one, even if YAML would make a number of it."""
    return ParameterValue(value, value_type=str if isinstance(value, str) else None)


def estimator(
    settings: Settings,
    topics: Mapping[str, str],
    parameters: Mapping[str, Any] | None = None,
    **options: Any,
) -> Node:
    """An estimator, which is started again if it crashes and `respawn` is set."""

    def stay_down(event: ProcessExited, context: LaunchContext) -> list[Action]:
        if event.returncode not in NOT_CRASHED or not settings["respawn"] or context.is_shutdown:
            return []
        # launch starts a node again whatever it ended with, unless it was told that this one is to end.
        return [
            LogInfo(msg=f"{event.process_name} ended by itself, so it is not started again"),
            EmitEvent(event=ShutdownProcess(process_matcher=matches_action(event.action))),
        ]

    return node(
        settings,
        "estimator",
        topics,
        {**overrides(settings, "estimator"), **(parameters or {})},
        respawn=settings["respawn"],
        respawn_delay=RESPAWN_DELAY,
        on_exit=stay_down,
        **options,
    )


def rviz(settings: Settings, configuration: str, namespace: str, remappings: Mapping[str, str]) -> list[Node]:
    """RViz with a configuration of this package, if asked for."""
    if not settings["rviz"]:
        return []
    frame = ["-f", settings["fixed_frame"]] if settings["fixed_frame"] else []
    path = PathJoinSubstitution([FindPackageShare(PACKAGE), "config", configuration])
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            namespace=namespace,
            arguments=["-d", path, *frame],
            parameters=[{"use_sim_time": settings["use_sim_time"]}],
            remappings=list(remappings.items()),
        )
    ]


def rviz_of_estimates(settings: Settings) -> list[Node]:
    """RViz for one estimator, if asked for; its own topic names are absolute: led into the namespace."""
    topics = {f"/{topic}": topic for topic in RVIZ_TOPICS}
    return rviz(settings, "estimate.rviz", settings["namespace"], topics)
