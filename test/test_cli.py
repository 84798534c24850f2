# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy import write_toy_recording

import ledpose_ros.commands
from ledpose_ros import __version__, cli
from ledpose_ros.recording import Recording

HEAVY = ("numpy", "cv2", "h5py", "torch", "mujoco", "onnxruntime", "matplotlib", "rclpy")
EXTRAS_OF = {"demo": ("train", "sim"), "simulate": ("sim",)}
"""Without these extras a command cannot even explain itself."""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A function that makes `toy`, whose `run` has the given body, the only command of `ledpose`."""

    def add(body: str) -> None:
        source = (
            '"""Play with a toy.\n\nFor long."""\n'
            "def add_arguments(parser):\n    parser.add_argument('--size', type=int, default=1)\n"
            f"def run(args):\n    {body}\n"
        )
        (tmp_path / "toy.py").write_text(source)
        monkeypatch.setattr(ledpose_ros.commands, "__path__", [str(tmp_path)])
        monkeypatch.setattr(cli, "COMMANDS", ("toy",))
        monkeypatch.delitem(sys.modules, "ledpose_ros.commands.toy", raising=False)

    return add


def test_a_command_gets_its_arguments_and_gives_the_exit_status(command):
    command("return args.size")
    assert cli.main(["toy", "--size", "3"]) == 3
    assert cli.main(["toy"]) == 1


def test_a_command_that_returns_nothing_succeeded(command):
    command("pass")
    assert cli.main(["toy"]) == 0


def test_an_executable_runs_the_command_that_it_is_named_after(command, monkeypatch):
    command("return args.size")
    monkeypatch.setattr(sys, "argv", ["/opt/ws/install/ledpose_ros/lib/ledpose_ros/toy", "--size", "5"])
    assert cli.run_executable() == 5


def test_bad_input_is_one_sentence_and_status_2(command, capsys):
    command("from ledpose_ros.errors import LedposeError; raise LedposeError('width 0 is not positive')")
    assert cli.main(["toy"]) == 2
    assert capsys.readouterr().err == "ledpose: width 0 is not positive\n"


def test_a_reader_who_leaves_makes_no_traceback(tmp_path):
    toy = tmp_path / "toy.h5"
    toy.write_bytes(b"not a recording")
    process = subprocess.Popen(
        [sys.executable, "-m", "ledpose_ros.cli", "check", str(toy)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr.read() == ""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(tmp_path, closed):
    write_toy_recording(tmp_path / "toy.h5", 3)
    words = f"'{sys.executable}' -m ledpose_ros.cli merge toy.h5 toy.h5 -o merged.h5 {closed}"
    assert subprocess.run(["bash", "-c", words], cwd=tmp_path, check=False).returncode == 0
    with Recording(tmp_path / "merged.h5") as recording:
        assert len(recording) == 6


def test_names_that_the_terminal_cannot_show_are_spelled_out(tmp_path):
    write_toy_recording(tmp_path / "toy.h5", 3)
    words = [sys.executable, "-m", "ledpose_ros.cli", "merge", "toy.h5", "-o", "\u20ac.h5"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin1"}
    said = subprocess.run(words, cwd=tmp_path, env=environment, check=True, capture_output=True).stdout
    assert b"\\u20ac.h5 holds 3 samples" in said


def test_an_interrupt_leaves_no_traceback(command, capsys):
    command("raise KeyboardInterrupt")
    assert cli.main(["toy"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("torch", ["toy needs torch", "pip install '.[train]'"]),
        ("mujoco", ["toy needs mujoco", "pip install '.[sim]'"]),
        ("rosbags", ["toy reads bags", "pip install rosbags-image"]),
        ("tornado", ["toy needs tornado", "pip install tornado"]),
        ("sensor_msgs", ["toy needs ROS 2", "sensor_msgs", "setup.bash"]),
    ],
)
def test_a_missing_part_is_one_sentence_that_says_how_to_get_it(command, capsys, monkeypatch, module, words):
    monkeypatch.setitem(sys.modules, module, None)
    command(f"import {module}.something")
    assert cli.main(["toy"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(word in error for word in words), error


def test_a_missing_module_of_another_kind_is_a_bug_and_keeps_its_traceback(command):
    command("import ledpose_ros.no_such_module")
    with pytest.raises(ModuleNotFoundError):
        cli.main(["toy"])


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["toy", "--size", "large"]])
def test_bad_usage_is_status_2(command, capsys, arguments):
    command("pass")
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: ledpose" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"ledpose {__version__}\n"


def test_help_lists_every_command_with_its_line_and_imports_nothing_heavy():
    program = (
        "import sys\nfrom ledpose_ros.cli import main\n"
        "try:\n    main(['--help'])\nfinally:\n"
        f"    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert ran.stderr == "[]\n"
    for name in cli.COMMANDS:
        listed = ran.stdout.partition(f"    {name}")[2].lstrip()
        assert listed and not listed.startswith(cli.COMMANDS), f"no help line for {name}:\n{ran.stdout}"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.extra(extra) for extra in EXTRAS_OF.get(name, ())])
        for name in cli.COMMANDS
    ],
)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "--help"])
    assert caught.value.code == 0
    assert f"usage: ledpose {name}" in capsys.readouterr().out


@pytest.mark.parametrize("port", ["-1", "99999", "abc"])
def test_a_port_that_is_none_is_said(capsys, port):
    with pytest.raises(SystemExit):
        cli.main(["view", f"--port={port}"])
    assert f"{port} must be a whole number from 0 to 65535" in capsys.readouterr().err
