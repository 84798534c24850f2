# SPDX-License-Identifier: Apache-2.0
"""The program `ledpose`: one command per module of `ledpose_ros.commands`.

A command module has a docstring (its first line is the help), `add_arguments(parser)` and `run(args)`, which
returns an exit status or None for 0. Only the module of the asked command is imported: `ledpose inspect` runs
where torch and MuJoCo are not installed.

This module needs the standard library alone: setup.py reads its tables.
"""

import argparse
import ast
import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ledpose_ros import __version__
from ledpose_ros.errors import BAD_INPUT, INTERRUPTED, UNREAD, LedposeError, system_error

COMMANDS = (
    "demo",
    "simulate",
    "import-bag",
    "import-idsia",
    "export-bag",
    "inspect",
    "check",
    "merge",
    "split",
    "train",
    "calibrate",
    "export",
    "evaluate",
    "estimate",
    "sync",
    "view",
)
NODES = ("recorder", "estimator", "simulator", "led_driver", "random_drive")

EXTRAS = {
    "train": ("torch", "onnx", "onnxscript", "tensorboard", "matplotlib", "psutil"),
    "sim": ("mujoco",),
    "gpio": ("gpiozero",),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ledpose` with the given arguments (those of the process if None); return its exit status."""
    _open_standard_streams()
    try:
        try:
            return _status(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has seen enough, as `head` has. Python would try to write the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD


def _open_standard_streams() -> None:
    """Let streams that were closed lead nowhere, else the next file that is opened takes their place.

    What the terminal cannot show, in a file's name say, is spelled out.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for good
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _status(arguments: list[str]) -> int:
    command = arguments[0] if arguments and arguments[0] in COMMANDS else None
    try:
        parser = _parser(command)
        parsed = parser.parse_args(arguments)
        return parsed.run(parsed) or 0
    except LedposeError as error:
        print(f"ledpose: {error}", file=sys.stderr)
        return BAD_INPUT
    except ModuleNotFoundError as error:
        sentence = _missing_module_sentence(command, error.name)
        if sentence is None:
            raise
        print(f"ledpose: {sentence}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"ledpose: {system_error(error, command or 'failed')}", file=sys.stderr)
        return BAD_INPUT


def run_executable() -> int:
    """Run the command that the executable itself is named after, as in `ros2 run ledpose_ros train`."""
    return main([Path(sys.argv[0]).stem, *sys.argv[1:]])


def _parser(command: str | None) -> argparse.ArgumentParser:
    """Build the parser; only `command` has its arguments, because they are known to its module alone."""
    parser = argparse.ArgumentParser(
        prog="ledpose", description="Robots that learn to see each other from the states of their LEDs."
    )
    parser.add_argument("--version", action="version", version=f"ledpose {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        docstring = _docstring(name)
        subparser = subparsers.add_parser(
            name,
            help=docstring.partition("\n")[0],
            description=docstring,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == command:
            module = importlib.import_module(_module_name(name))
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def _module_name(command: str) -> str:
    return f"ledpose_ros.commands.{command.replace('-', '_')}"


def _docstring(command: str) -> str:
    """Read a command's docstring from its source: importing it could need torch or MuJoCo."""
    spec = importlib.util.find_spec(_module_name(command))
    assert spec is not None and spec.origin is not None
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""


def _missing_module_sentence(command: str | None, module: str | None) -> str | None:
    """Say how to install a missing module, or None for a module that is no optional part of the package."""
    package = (module or "").partition(".")[0]
    for extra, requirements in EXTRAS.items():
        if package in requirements:
            return (
                f"{command} needs {package}, which comes with the extra '{extra}': "
                f"run pip install '.[{extra}]' in the source folder of ledpose_ros"
            )
    if package == "rosbags":
        return f"{command} reads bags with rosbags, which is missing: run pip install rosbags-image"
    if package == "tornado":
        return f"{command} needs tornado, which is missing: run pip install tornado"
    if package == "rclpy" or package.endswith("_msgs"):
        return f"{command} needs ROS 2, {package} is missing: source /opt/ros/<distribution>/setup.bash first"
    return None


if __name__ == "__main__":
    sys.exit(main())
