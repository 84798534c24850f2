# SPDX-License-Identifier: Apache-2.0
"""What the documentation tells to type works, and what it links to is there.

Commands stand in blocks that begin with ```sh. All are checked against the code: options, launch arguments,
parameters, topics, make's targets. They are then run, page by page and in order, with fewer and smaller
pictures, in a folder that holds what readers are said to have; but for blocks whose first line is a comment
`# needs ...` or `# takes ...`.
"""

import argparse
import functools
import glob
import inspect
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from test_offline import CAMERA_YAML

from ledpose_ros.cli import COMMANDS, EXTRAS, NODES, main
from ledpose_ros.parameters import NODE_PARAMETERS

ROOT = Path(__file__).resolve().parents[1]
CHANGELOG = ROOT / "CHANGELOG.md"  # tells of commands as they were
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "models/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
    if path != CHANGELOG
)
SITE = ROOT / "mkdocs.yml"

pytestmark = [
    pytest.mark.extra("train"),
    # Programs are imported by other tests as well.
    pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning"),
]

PROGRAMS = ("ledpose", "ros2", "python", "make", "pip", "torchrun", "colcon", "rosdep", "git", "sudo")
# Beyond this repository: only where they are not run.
FOREIGN = {"cd", "git", "mkdir", "rosdep", "colcon", "docker", "source", "sudo"}
ROS_TOOLS = {("bag", "record"), ("interface", "show"), ("pkg", "prefix"), ("topic", "hz"), ("topic", "list")}


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, ```language, its text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def is_run(self) -> bool:
        return not re.match(r"# (needs|takes) \w", self.text)

    @property
    def exit_status(self) -> int:
        stated = re.match(r"# exits with (\d+)$", self.text, re.MULTILINE)
        return int(stated[1]) if stated else 0

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command."""
        lines = re.sub(r"\\\n", " ", self.text).splitlines()
        found = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
        return [words for words in found if words]


def blocks_of(page: Path) -> Iterator[Block]:
    fence = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
    text = page.read_text(encoding="utf-8")
    for match in fence.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page, line, match[2], inspect.cleandoc(match[3]))


def prose_of(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELL = [block for block in BLOCKS if block.language == "sh"]
RUN = [block for block in SHELL if block.is_run]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def pages_of(blocks: list[Block]) -> list[Path]:
    return sorted({block.page for block in blocks})


def block_name(block: Block) -> str:
    return f"{name_of(block.page)}:{block.line}"


# --- every command fits the code ----------------------------------------------------------------------------


class Caught(Exception):
    """Holds the parser of a program that was about to read its arguments."""


@functools.cache
def parser_of(module: str, *arguments: str) -> argparse.ArgumentParser:
    """The parser of `python -m MODULE`, or of `python FILE.py`, which goes no further."""

    def catch(parser, *_):
        raise Caught(parser)

    with (
        patch.object(argparse.ArgumentParser, "parse_args", catch),
        patch.object(sys, "argv", [module, *arguments]),
        pytest.raises(Caught) as caught,
    ):
        if module.endswith(".py"):
            runpy.run_path(str(ROOT / module), run_name="__main__")
        else:
            runpy.run_module(module, run_name="__main__")
    return caught.value.args[0]


def command_parser(command: str) -> argparse.ArgumentParser:
    """The parser of `ledpose COMMAND`."""
    assert command in COMMANDS, f"there is no ledpose {command}"
    parser = parser_of("ledpose_ros.cli", command)
    choices = next(action.choices for action in parser._actions if action.choices)
    assert isinstance(choices, dict)
    return choices[command]


def node_sources(node: str) -> str:
    parts = [node, "common", *({"peer_outputs", "markers"} if node == "estimator" else ())]
    return "".join((ROOT / "ledpose_ros" / "nodes" / f"{part}.py").read_text() for part in parts)


def has_name(node: str, name: str) -> bool:
    """Whether a node has a topic or service of this name, its own or with the node's name before it."""
    source = node_sources(node)
    return any(f'"{known}"' in source for known in (name, name.lstrip("/"), name.replace(f"/{node}/", "~/")))


@functools.cache
def launch_arguments(file: str) -> set[str]:
    """What `ros2 launch ledpose_ros FILE` takes; without the package launch, what it may by its text."""
    path = ROOT / "launch" / file
    assert path.is_file(), f"there is no launch file {file}"
    try:
        import launch_ros.actions  # noqa: F401
        from launch.launch_description_sources import AnyLaunchDescriptionSource
    except ImportError:
        sources = [path, *ROOT.glob("ledpose_ros/launching.py")]
        names = {name for source in sources for name in re.findall(r'"(\w+)"', source.read_text())}
        return names | {parameter.name for table in NODE_PARAMETERS.values() for parameter in table}
    description = AnyLaunchDescriptionSource(str(path)).try_get_launch_description_without_context()
    return {argument.name for argument in description.get_launch_arguments()}


def check_launch(words: list[str]) -> None:
    file, *arguments = words
    given = {word.partition(":=")[0] for word in arguments if word != "--show-args"}
    assert given <= launch_arguments(file), f"{file} has no arguments {given - launch_arguments(file)}"


def check_node(node: str, words: list[str]) -> None:
    """Parameters (name and value) and remapped topics of `ros2 run ledpose_ros NODE --ros-args ...`."""
    known = {parameter.name: parameter for parameter in NODE_PARAMETERS[node]}
    options = [word for word in words if word != "--ros-args"]
    for option, value in zip(options[::2], options[1::2], strict=True):
        name, assigned, to = value.partition(":=")
        assert assigned, f"{option} {value} assigns nothing"
        if option == "-r" and name in ("__ns", "__node"):
            continue
        if option == "-r":
            assert has_name(node, name), f"the {node} has no topic {name}"
        elif option == "-p" and name.partition(".")[0] != "qos_overrides" and name != "use_sim_time":
            assert name in known, f"the {node} has no parameter {name}"
            known[name].check(yaml.safe_load(to))
        else:
            assert option in ("-p", "--params-file", "--log-level"), option


def check_ros2(words: list[str]) -> None:
    match words:
        case ["launch", "ledpose_ros", *rest]:
            check_launch(rest)
        case ["launch", package, *_]:
            assert package.isidentifier()
        case ["run", "ledpose_ros", name, *rest] if name in NODES:
            check_node(name, rest)
        case ["run", "ledpose_ros", name, *rest]:
            command_parser(name).parse_args(rest)
        case ["param", "set", node, name, value]:
            parameter = next(p for p in NODE_PARAMETERS[node.lstrip("/")] if p.name == name)
            assert not parameter.read_only, f"{name} cannot be set live"
            parameter.check(yaml.safe_load(value))
        case ["service", "call", service, type_name]:
            assert any(has_name(node, service) for node in NODES), f"nobody offers {service}"
            package, _, name = type_name.split("/")
            assert hasattr(pytest.importorskip(f"{package}.srv"), name)
        case ["topic", "echo", topic]:
            assert any(has_name(node, topic) for node in NODES), f"nobody publishes {topic}"
        case [first, second, *_]:
            assert (first, second) in ROS_TOOLS, f"ros2 {first} {second} is not known to this test"


def check(words: list[str]) -> None:
    """Fail unless the code takes these words."""
    match words:
        case ["ledpose", "--help" | "--version"]:
            pass
        case ["ledpose", command, *rest]:
            command_parser(command).parse_args(rest)
        case ["ros2", *rest]:
            check_ros2(rest)
        case ["python" | ".venv/bin/python", "-m", "pytest", *rest]:
            assert all((ROOT / word).exists() for word in rest if not word.startswith("-"))
        case ["python", "-m", module, *rest]:
            parser_of(module).parse_args(rest)
        case ["python", script, *rest]:
            if "ArgumentParser" in (ROOT / script).read_text():
                parser_of(script).parse_args(rest)
        case ["torchrun", *rest]:
            module = rest.index("-m")
            assert rest[module + 1] == "ledpose_ros.cli"
            check(["ledpose", *rest[module + 2 :]])
        case ["make", *targets]:
            phony = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
            unknown = {word for word in targets if "=" not in word} - set(" ".join(phony).split())
            assert not unknown, f"make has no {unknown}"
        case ["pip", "install", *packages]:
            extras = {name for package in packages for name in re.findall(r"\w+", package.partition("[")[2])}
            assert extras <= {*EXTRAS, "test", "docs"}, f"there are no extras {extras}"
        case [program, *_] if "=" not in program:
            assert program in FOREIGN, f"{program} is not known to this test"


@pytest.mark.parametrize("block", SHELL, ids=block_name)
def test_commands_fit_the_code(block):
    assert block.commands
    for words in block.commands:
        try:
            check(words)
        except SystemExit:
            pytest.fail(f"{shlex.join(words)} is not taken: see the message above")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_stand_in_blocks_of_their_own(page):
    indented = re.findall(rf"^ {{4,}}(?:\$ )?(?:{'|'.join(PROGRAMS)}) .*$", prose_of(page), re.MULTILINE)
    others = [
        line
        for block in blocks_of(page)
        if block.language != "sh"
        for line in block.text.splitlines()
        if re.match(rf"(\$ )?({'|'.join(PROGRAMS)}) ", line)
    ]
    assert not indented + others, "put commands in a block that begins with ```sh"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_sentences_exist_with_their_options(page):
    for span in re.findall(r"`([^`]+)`", prose_of(page)):
        program, *words = span.removesuffix(" ...").split()
        if program == "ledpose" and words and words[0][0].islower():
            options = command_parser(words[0])._option_string_actions
        elif span.startswith("python -m ") and "pytest" not in span:
            options = parser_of(words[1])._option_string_actions
        elif program == "make" and words:
            check([program, words[0]])
            continue
        elif span.startswith(("pip install", "ros2 launch")) and not span.endswith("..."):
            check(shlex.split(span))
            continue
        else:
            continue
        unknown = {word for word in words if word.startswith("--") and word not in {*options, "--help"}}
        assert not unknown, f"`{span}`: there is no {unknown}"


# --- every command that needs nothing special is run --------------------------------------------------------


SMALL = ["--size", "320x180", "--workers", "1"]


@pytest.fixture(scope="module")
def possessions(tmp_path_factory) -> Path:
    """A folder with what readers are said to have: recordings, a model, a picture, a video, a bag."""
    pytest.importorskip("mujoco")
    folder = tmp_path_factory.mktemp("reader")
    for name in ("models", "config"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "runs" / "mine").mkdir(parents=True)
    for name in ("runs/mine/model.onnx", "model.onnx", "mine.onnx", "my.onnx"):
        shutil.copy(ROOT / "models" / "robomaster_sim.onnx", folder / name)
    recording = folder / "recordings" / "ledpose_20260101_120000.h5"
    recording.parent.mkdir()
    simulate(recording, 40, "--seed", "1001")
    for name in (
        "test.h5",
        "recording.h5",
        "ledpose_20260101_120000.h5",
        "morning.h5",
        "evening.h5",
        "day.h5",
    ):
        shutil.copy(recording, folder / name)
    (folder / "torn.h5").write_bytes(recording.read_bytes()[:200_000])
    for name, distance in (("near.h5", "0.7"), ("far.h5", "1.5")):
        simulate(folder / name, 3, "--seed", "21", "--scene-frames", "1", "--distance", distance)
    write_pictures(folder, recording)
    return folder


def simulate(path: Path, count: int, *words: str) -> None:
    assert main(["simulate", "-o", str(path), "--count", str(count), *SMALL, *words]) == 0


def write_pictures(folder: Path, recording_path: Path) -> None:
    """Pictures, a video and a bag of a recording."""
    import cv2

    from ledpose_ros.recording import Recording

    (folder / "pictures").mkdir()
    with Recording(recording_path) as recording:
        size = width, height = recording.info.width, recording.info.height
        camera = CAMERA_YAML.format(width=width, height=height, f=160, cx=width / 2, cy=height / 2)
        (folder / "camera.yaml").write_text(camera)
        video = cv2.VideoWriter(str(folder / "video.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5.0, size)
        for index in range(len(recording)):
            bgr = cv2.cvtColor(recording.image(index), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(folder / "pictures" / f"{index}.png"), bgr)
            video.write(bgr)
        video.release()
    with Recording(folder / "far.h5") as recording:
        cv2.imwrite(str(folder / "picture.png"), cv2.cvtColor(recording.image(0), cv2.COLOR_RGB2BGR))
    assert main(["export-bag", str(recording_path), "-o", str(folder / "bag_folder")]) == 0


def smaller(words: list[str]) -> list[str]:
    """The same command with fewer and smaller pictures, and with the files that a pattern stands for."""
    words = [file for word in words for file in (sorted(glob.glob(word)) if "*" in word else [word])]
    if words[:2] == ["ledpose", "simulate"]:
        words[words.index("--count") + 1] = "3"
        words += SMALL
    if words[1] in ("simulate", "calibrate", "export") and "-o" in words:
        # What the page makes, other pages take for granted.
        Path(words[words.index("-o") + 1]).unlink(missing_ok=True)
    return words


@pytest.mark.parametrize("page", pages_of(RUN), ids=name_of)
def test_commands_run(page, possessions, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "reader"
    shutil.copytree(possessions, folder, symlinks=True)
    monkeypatch.chdir(folder)
    for block in (block for block in RUN if block.page == page):
        for words in map(smaller, block.commands):
            assert words[0] == "ledpose", f"mark {shlex.join(words)} by '# needs ...' or '# takes ...'"
            status = main(words[1:])
            assert status == block.exit_status, f"{shlex.join(words)}: {capsys.readouterr().err}"


@pytest.mark.parametrize("page", pages_of(PYTHON), ids=name_of)
def test_python_examples_run(page, possessions, monkeypatch):
    examples = [block for block in PYTHON if block.page == page]
    if any("rclpy" in block.text for block in examples):
        pytest.importorskip("rclpy")
    from ledpose_ros.recording import Recording

    monkeypatch.chdir(possessions)
    with Recording("recording.h5") as recording:
        given = {"rgb": recording.image(0), "K": recording.info.K, "D": recording.info.D}
    for block in examples:
        exec(compile(block.text, block_name(block), "exec"), given)


# --- every link and every file ------------------------------------------------------------------------------


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, CHANGELOG], ids=name_of)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", prose_of(page)):
        if target.startswith(("http://", "https://")):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"there is no {target}"
        assert not anchor or anchor in anchors_of(path), f"{target or 'this page'} has no heading #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_pages_name_exist(page):
    folders = "benchmarks|config|docs|launch|ledpose_ros|models|scripts|test"
    named = re.findall(rf"`((?:{folders})/[\w/.]*\.\w+)`", prose_of(page))
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def navigation(entry: object) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        yield from navigation(list(entry.values()))
    elif isinstance(entry, list):
        for part in entry:
            yield from navigation(part)


def test_every_page_is_in_the_navigation():
    listed = list(navigation(yaml.safe_load(SITE.read_text())["nav"]))
    assert sorted(listed) == sorted(map(name_of, [*PAGES, CHANGELOG]))


def test_the_site_builds(tmp_path):
    if find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: make docs brings it")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "index.html").is_file()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150
