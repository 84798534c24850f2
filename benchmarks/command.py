# SPDX-License-Identifier: Apache-2.0
"""What the benchmark commands share."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.recordings import DEFAULT_DIRECTORY
from ledpose_ros.errors import BAD_INPUT, INTERRUPTED, LedposeError, system_error


def benchmark_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser for `python -m NAME` with the option --data."""
    parser = argparse.ArgumentParser(
        prog=name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=DEFAULT_DIRECTORY,
        metavar="DIR",
        help="where the benchmark's recordings are kept (benchmarks/data)",
    )
    return parser


def new_file(text: str) -> Path:
    """The path of a file to write, for argparse: refused before an hour of measuring, not after it."""
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path} cannot be written: its folder does not exist, or it is one")
    return path


def two_cores() -> tuple[int, int]:
    """A core for who publishes pictures, another one for who is measured; LedposeError without them."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise LedposeError("two cores are needed, one for the camera and one for who is measured")
    return cores[0], cores[-1]


def verdict(is_met: bool) -> str:
    return "met" if is_met else "missed"


def run_command(run: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> int:
    """Run a benchmark with the process's arguments; its exit status, as of `ledpose`."""
    try:
        run(parser.parse_args())
    except LedposeError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"{parser.prog}: {system_error(error, 'failed')}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0
