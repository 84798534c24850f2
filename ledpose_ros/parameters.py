# SPDX-License-Identifier: Apache-2.0
"""The parameters of every node, in one table.

The table feeds the nodes' declarations, the YAML files in `config/`, the tables on the nodes' pages
and the launch files, so that none of them can drift from the others. `python -m ledpose_ros.parameters
--write .` rewrites what is generated in a source checkout.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ledpose_ros.errors import LedposeError
from ledpose_ros.leds import DEFAULT_LED_DIRECTIONS, DEFAULT_LED_NAMES

Value = bool | int | float | str | list[float] | list[str]


@dataclass(frozen=True)
class Parameter:
    """One ROS parameter; the type of `default` is the parameter's type.

    `minimum` and `maximum` are inclusive and hold for each element of a list. Read-only parameters are set at
    start (YAML or `-p name:=value`); the others may also be changed while the node runs.
    """

    name: str
    default: Value
    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    read_only: bool = True

    @property
    def type_name(self) -> str:
        """ROS's name of the type."""
        if isinstance(self.default, list):
            return f"{_SCALAR_NAMES[type(self.default[0])]}_array"
        return _SCALAR_NAMES[type(self.default)]

    @property
    def allowed(self) -> str:
        """The range or the choices in words, empty if everything is allowed."""
        if self.choices is not None:
            return ", ".join(self.choices)
        if self.minimum is not None and self.maximum is not None:
            return f"{self.minimum:g} to {self.maximum:g}"
        if self.minimum is not None:
            return f"at least {self.minimum:g}"
        if self.maximum is not None:
            return f"at most {self.maximum:g}"
        return ""

    def parse(self, text: str) -> Value:
        """The value that a text stands for, as that of a launch argument; commas part the elements of a list.

        Raises `LedposeError` if it stands for none that is allowed.
        """
        try:
            if isinstance(self.default, list):
                elements = text.removeprefix("[").removesuffix("]").split(",")
                value: object = [_parse(element.strip(), type(self.default[0])) for element in elements]
            else:
                value = _parse(text, type(self.default))
        except (KeyError, ValueError):
            value = text  # of the wrong type, so refused
        self.check(value)
        return cast(Value, value)

    def check(self, value: object) -> None:
        """Raise `LedposeError` unless `value` has the right type, is finite and lies in the allowed range."""
        elements, sample = [value], self.default
        if isinstance(self.default, list):
            # rclpy delivers arrays as array.array or list, a string is one value
            elements = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [None]
            sample = self.default[0]
        if any(type(element) is not type(sample) for element in elements):
            wanted = f"{self.type_name}, like {self.default!r}"
            raise LedposeError(f"parameter '{self.name}' must be of type {wanted}, but is {value!r}")
        for element in elements:
            if not self._allows(element):
                wanted = f"one of {self.allowed}" if self.choices else self.allowed or "finite"
                raise LedposeError(f"parameter '{self.name}' is {element!r}, but must be {wanted}")

    def _allows(self, element: object) -> bool:
        if self.choices is not None:
            return element in self.choices
        if not isinstance(element, int | float):
            return True
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        return math.isfinite(element) and low <= element <= high


def _parse(text: str, kind: type) -> object:
    return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)


_SCALAR_NAMES = {bool: "bool", int: "integer", float: "double", str: "string"}


IMAGE_TRANSPORT = Parameter(
    "image_transport",
    "raw",
    "Type of the image topic: sensor_msgs/Image or sensor_msgs/CompressedImage.",
    choices=("raw", "compressed"),
)

LED_GUARD = Parameter(
    "led_guard",
    0.05,
    "Images closer than this to a change of the LEDs do not tell what they are [s]; at least the exposure.",
    minimum=0.0,
    maximum=1.0,
)
LED_MAX_AGE = Parameter(
    "led_max_age",
    0.5,
    "LED messages further apart tell nothing in between [s]; a few periods of the driver's keep-alive.",
    minimum=0.01,
    maximum=3600.0,
)

RECORDER: tuple[Parameter, ...] = (
    Parameter("output_directory", "recordings", "Where the recordings go; made if it does not exist."),
    Parameter("autostart", True, "Record from the start, without a call of ~/start."),
    IMAGE_TRANSPORT,
    Parameter("led_names", list(DEFAULT_LED_NAMES), "The peer's LEDs, as named in led_states messages."),
    Parameter(
        "led_directions",
        list(DEFAULT_LED_DIRECTIONS),
        "Direction in the peer's body frame from which each LED is seen best [rad]; front is 0, left +pi/2.",
        minimum=-2 * math.pi,
        maximum=2 * math.pi,
    ),
    Parameter(
        "led_sources",
        "",
        "YAML file that tells which messages tell the LED states; empty for a JointState on led_states.",
    ),
    Parameter(
        "led_offset",
        0.0,
        "An image gets the LED state held at its stamp plus this [s]; mends clocks that differ.",
        minimum=-10.0,
        maximum=10.0,
    ),
    LED_GUARD,
    LED_MAX_AGE,
    Parameter(
        "record_ground_truth",
        True,
        "Record the topic ground_truth, if somebody publishes it; for evaluation only.",
    ),
    Parameter("image_encoding", "jpeg", "How pictures are stored.", choices=("jpeg", "png")),
    Parameter("jpeg_quality", 90, "Quality of JPEG pictures.", minimum=1, maximum=100),
    Parameter(
        "queue_mb",
        256,
        "Memory for images that wait for LED messages or for the disk [MB]; more are rejected.",
        minimum=1,
    ),
    Parameter(
        "flush_samples",
        30,
        "Samples are made safe against crashes in groups of this size.",
        minimum=1,
        maximum=10000,
    ),
    Parameter(
        "flush_period",
        1.0,
        "Longest time that a sample may wait to be made safe [s].",
        minimum=0.01,
        maximum=60.0,
    ),
    Parameter(
        "min_free_space_mb",
        200,
        "Recording stops when the disk has less space left than this [MB].",
        minimum=1,
    ),
    Parameter(
        "segment_size_mb",
        2000,
        "A new file begins when the pictures of the last one take this [MB]; 0 for never.",
        minimum=0,
    ),
    Parameter(
        "segment_duration",
        0.0,
        "A new file begins when the last one has lasted so long [s]; 0 for never.",
        minimum=0.0,
    ),
)

ESTIMATOR: tuple[Parameter, ...] = (
    Parameter("model", "", "Path of the ONNX model; empty takes the model shipped with the package."),
    Parameter("autostart", True, "Configure and activate at start, without a lifecycle manager."),
    IMAGE_TRANSPORT,
    Parameter("threads", 1, "Threads of the network's inference.", minimum=1, maximum=64),
    Parameter(
        "spinning", False, "Inference threads wait for work awake: a little faster, at a core of power each."
    ),
    Parameter(
        "providers",
        ["CPUExecutionProvider"],
        "Where the network runs, the best first, in the names of onnxruntime, as CUDAExecutionProvider.",
    ),
    Parameter(
        "min_confidence",
        0.7,
        "Peers of lower confidence are not published.",
        minimum=0.0,
        maximum=1.0,
        read_only=False,
    ),
    Parameter(
        "max_image_age",
        0.5,
        "Images older than this, or as far in the future, are dropped by the network [s]; 0 takes any age.",
        minimum=0.0,
        read_only=False,
    ),
    Parameter(
        "camera_pitch",
        0.0,
        "Tilt of the camera about its leftward axis [rad]; positive looks down.",
        minimum=-math.pi / 2,
        maximum=math.pi / 2,
        read_only=False,
    ),
    Parameter(
        "camera_roll",
        0.0,
        "Tilt of the camera about its viewing axis [rad]; positive lowers its right side.",
        minimum=-math.pi,
        maximum=math.pi,
        read_only=False,
    ),
    Parameter(
        "camera_yaw",
        0.0,
        "Direction of the camera in the own robot's base frame [rad]; positive looks left.",
        minimum=-math.pi,
        maximum=math.pi,
        read_only=False,
    ),
    Parameter(
        "camera_position",
        [0.0, 0.0, 0.0],
        "Camera in the own robot's base frame, which is on the floor: forward, left, up [m].",
        minimum=-10.0,
        maximum=10.0,
    ),
    Parameter(
        "base_frame",
        "",
        "Take the camera's place and tilt from TF, in this level frame on the floor, in place of camera_*.",
    ),
    Parameter(
        "image_is_rectified",
        False,
        "Images are undistorted, as on image_rect: P of camera_info counts, not K and D.",
    ),
    Parameter(
        "peer_height",
        0.0,
        "Height of the peer's reference point above its base frame [m]; poses are those of the base frame.",
        minimum=-10.0,
        maximum=10.0,
        read_only=False,
    ),
    Parameter(
        "peers_on_floor",
        False,
        "Peers stand on the floor under the own robot: needs the camera's and the peer's height.",
        read_only=False,
    ),
    Parameter(
        "peers",
        [""],
        "Namespaces, as ../NAME, in which peers publish led_states: LEDs tell who is who. [''] is none.",
    ),
    LED_GUARD,
    LED_MAX_AGE,
    Parameter(
        "drawing_rate",
        10.0,
        "Most markers and debug images a second, drawn only while somebody subscribes [Hz].",
        minimum=0.1,
        maximum=100.0,
        read_only=False,
    ),
    Parameter(
        "peer_size",
        [0.32, 0.24, 0.27],
        "Length, width and height of the peer's box in the markers [m].",
        minimum=0.01,
    ),
    Parameter("publish_tf", False, "Publish all peers as transforms from the camera frame to peer_frame_ID."),
    Parameter("peer_frame", "peer", "What the peers' frames in TF begin with; the peer's id follows."),
)

SIMULATOR: tuple[Parameter, ...] = (
    Parameter("seed", 0, "Same seed, same rooms, robots and drives.", minimum=0),
    Parameter(
        "robots",
        [""],
        "Names of 2 to 4 robots that look at each other, each with its own topics; one that looks if empty.",
    ),
    Parameter(
        "rate",
        10.0,
        "Images a second, of all robots together, as far as rendering keeps up [Hz].",
        minimum=0.1,
        maximum=60.0,
    ),
    Parameter("width", 640, "Width of the images [px].", minimum=32, maximum=4096),
    Parameter("height", 360, "Height of the images [px].", minimum=32, maximum=4096),
    Parameter("peers", 1, "Robots before the camera; led_states and ground_truth are the first one's.", 1, 4),
    Parameter("absent", 0.0, "Share of the scenes without any peer.", minimum=0.0, maximum=1.0),
    Parameter(
        "scene_duration",
        20.0,
        "Time after which room, robots and light change [s]; those of `robots` stay.",
        minimum=0.1,
    ),
    Parameter(
        "camera_frame",
        "camera_optical_frame",
        "Frame of the images: x right, y down, z forward; of `robots` NAME/camera_frame.",
    ),
    Parameter("publish_clock", False, "Publish the time of the simulation on /clock."),
)

LED_DRIVER: tuple[Parameter, ...] = (
    Parameter("led_names", list(DEFAULT_LED_NAMES), "The robot's LEDs, as named in led_states messages."),
    Parameter(
        "adapter",
        "",
        "YAML file that tells which messages or pins switch the LEDs; empty prints what would be lit.",
    ),
    Parameter(
        "mode",
        "random",
        "What the LEDs do from the start.",
        choices=("random", "all_on", "all_off", "disabled"),
    ),
    Parameter("rate", 0.5, "Mean number of changes of each LED a second [Hz].", minimum=0.001, maximum=50.0),
    Parameter("hold", 0.25, "Every state is held for at least this long [s].", minimum=0.001, maximum=60.0),
    Parameter("seed", -1, "Same seed, same random states; -1 draws one at every start.", minimum=-1),
    Parameter(
        "camera_rate",
        10.0,
        "Images a second of the slowest camera that records this robot [Hz]: hold must suit it.",
        minimum=0.1,
        maximum=1000.0,
    ),
    Parameter(
        "command_delay",
        0.0,
        "Known time from the end of a command until the LEDs have changed [s].",
        minimum=0.0,
        maximum=1.0,
    ),
    LED_GUARD,
    LED_MAX_AGE,
)

RANDOM_DRIVE: tuple[Parameter, ...] = (
    Parameter(
        "arena",
        [-1.0, -1.0, 1.0, 1.0],
        "Where the robot's centre may be: x and y of two corners in the frame of odometry [m].",
        minimum=-1000.0,
        maximum=1000.0,
    ),
    Parameter("speed", 0.2, "Highest speed [m/s].", minimum=0.01, maximum=2.0),
    Parameter("turn_rate", 0.8, "Highest rate of turning [rad/s].", minimum=0.05, maximum=6.0),
    Parameter("acceleration", 0.4, "Highest acceleration [m/s^2].", minimum=0.05, maximum=5.0),
    Parameter(
        "turn_acceleration", 2.0, "Highest acceleration of turning [rad/s^2].", minimum=0.1, maximum=30.0
    ),
    Parameter("holonomic", False, "The robot can drive sideways, as on mecanum wheels."),
    Parameter("seed", -1, "Same seed, same goals; -1 draws one at every start.", minimum=-1),
    Parameter(
        "odometry_timeout",
        0.5,
        "The robot stands while odometry has been silent for longer than this [s].",
        minimum=0.05,
        maximum=5.0,
    ),
    Parameter(
        "keep_away",
        0.0,
        "Drive no nearer to the peer of peer_pose than this, from the camera [m]; 0 for no care.",
        minimum=0.0,
        maximum=10.0,
    ),
    Parameter("stamped", False, "Publish TwistStamped on cmd_vel, not Twist."),
)

NODE_PARAMETERS: dict[str, tuple[Parameter, ...]] = {
    "recorder": RECORDER,
    "estimator": ESTIMATOR,
    "simulator": SIMULATOR,
    "led_driver": LED_DRIVER,
    "random_drive": RANDOM_DRIVE,
}

# Those that are arguments of the launch files as well: what changes from robot to robot and from try to try.
LAUNCH_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "recorder": (
        "output_directory",
        "autostart",
        "image_transport",
        "led_sources",
        "led_offset",
        "led_guard",
        "image_encoding",
    ),
    "estimator": (
        "model",
        "autostart",
        "image_transport",
        "image_is_rectified",
        "min_confidence",
        "max_image_age",
        "camera_pitch",
        "base_frame",
        "peers",
        "publish_tf",
        "peer_frame",
    ),
    "simulator": ("seed", "rate"),
    "led_driver": (
        "led_names",
        "adapter",
        "mode",
        "rate",
        "hold",
        "camera_rate",
        "command_delay",
        "led_guard",
    ),
    "random_drive": ("arena", "speed", "holonomic", "keep_away", "stamped"),
}


def parameter_of(node_name: str, parameter_name: str) -> Parameter:
    """A node's parameter."""
    return next(p for p in NODE_PARAMETERS[node_name] if p.name == parameter_name)


def default_of(node_name: str, parameter_name: str) -> Value:
    """The default of a node's parameter."""
    return parameter_of(node_name, parameter_name).default


def add_options(parser: argparse.ArgumentParser, title: str, parameters: Sequence[Parameter]) -> None:
    """Options of a command that are named as these parameters, as --led-guard, and described as they are."""
    group = parser.add_argument_group(title)
    for parameter in parameters:
        default, several = parameter.default, isinstance(parameter.default, list)
        group.add_argument(
            f"--{parameter.name.replace('_', '-')}",
            nargs="+" if several else None,
            type=type(default[0] if isinstance(default, list) else default),
            default=default,
            metavar="X",
            help=f"{parameter.description} ({default})",
        )


def check_options(args: argparse.Namespace, parameters: Sequence[Parameter]) -> None:
    """Raise `LedposeError` unless what was given for `add_options` is allowed."""
    for parameter in parameters:
        parameter.check(getattr(args, parameter.name))


def _yaml_value(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(_yaml_value(element) for element in value) + "]"
    return repr(value)


def _change_note(parameter: Parameter) -> str:
    return "set at start" if parameter.read_only else "may change live"


def yaml_text(node_name: str) -> str:
    """The commented YAML parameter file of a node, holding every parameter at its default."""
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        f"# Parameters of the {node_name} node at their defaults.",
        "# Generated: python -m ledpose_ros.parameters --write .",
        f"/**/{node_name}:",
        "  ros__parameters:",
    ]
    for parameter in NODE_PARAMETERS[node_name]:
        notes = [note for note in (parameter.allowed, _change_note(parameter)) if note]
        lines.append(f"    # {parameter.description} ({'; '.join(notes)})")
        lines.append(f"    {parameter.name}: {_yaml_value(parameter.default)}")
    return "\n".join(lines) + "\n"


def markdown_table(node_name: str) -> str:
    """The table of a node's parameters in Markdown."""
    lines = ["| parameter | type | default | allowed | live | launch | meaning |", "|---" * 7 + "|"]
    for parameter in NODE_PARAMETERS[node_name]:
        default, live = f"`{_yaml_value(parameter.default)}`", "no" if parameter.read_only else "yes"
        launch = "yes" if parameter.name in LAUNCH_ARGUMENTS[node_name] else "no"
        kind, allowed = parameter.type_name, parameter.allowed or "any"
        cells = (f"`{parameter.name}`", kind, default, allowed, live, launch)
        lines.append(f"| {' | '.join(cells)} | {parameter.description} |")
    return "\n".join(lines) + "\n"


TABLE_BEGIN = "<!-- generated: python -m ledpose_ros.parameters --write . -->"
TABLE_END = "<!-- end of what is generated -->"


def with_table(page: str, node_name: str) -> str:
    """A node's page with its table of parameters, between the comments that mark its place, up to date."""
    before, begin, rest = page.partition(TABLE_BEGIN)
    _, end, after = rest.partition(TABLE_END)
    if not (begin and end):
        raise LedposeError(f"docs/{node_name}.md needs the lines '{TABLE_BEGIN}' and '{TABLE_END}'")
    return f"{before}{begin}\n\n{markdown_table(node_name)}\n{end}{after}"


def generated_files(checkout: Path) -> dict[str, str]:
    """Path in the source checkout -> text, for every file with something made from the table."""
    files = {}
    for node_name in NODE_PARAMETERS:
        files[f"config/{node_name}.yaml"] = yaml_text(node_name)
        page = f"docs/{node_name}.md"
        files[page] = with_table((checkout / page).read_text(encoding="utf-8"), node_name)
    return files


def main(argv: list[str] | None = None) -> None:
    """Print or rewrite what is generated from the table."""
    parser = argparse.ArgumentParser(prog="python -m ledpose_ros.parameters", description=main.__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--yaml", choices=NODE_PARAMETERS, help="print the YAML parameter file of a node")
    action.add_argument("--markdown", choices=NODE_PARAMETERS, help="print the table of a node")
    action.add_argument("--write", type=Path, metavar="CHECKOUT", help="rewrite the generated files")
    arguments = parser.parse_args(argv)
    if arguments.write:
        for path, text in generated_files(arguments.write).items():
            (arguments.write / path).write_text(text, encoding="utf-8")
    elif arguments.yaml:
        print(yaml_text(arguments.yaml), end="")
    else:
        print(markdown_table(arguments.markdown), end="")


if __name__ == "__main__":
    main()
