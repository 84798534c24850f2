# SPDX-License-Identifier: Apache-2.0
"""What is said about the package in several places says the same everywhere."""

import ast
import importlib.util
import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import setuptools

from ledpose_ros import __version__
from ledpose_ros.cli import COMMANDS, EXTRAS, NODES
from ledpose_ros.web_server import FILES

ROOT = Path(__file__).parents[1]

ROSDEP_KEYS = {
    "cv2": "python3-opencv",
    "h5py": "python3-h5py",
    "numpy": "python3-numpy",
    "onnxruntime": "python3-onnxruntime-pip",
    "pytest": "python3-pytest",
    "rosbags": "python3-rosbags-pip",
    "setuptools": "python3-setuptools",
    "tornado": "python3-tornado",
    "tqdm": "python3-tqdm",
    "yaml": "python3-yaml",
}
# Needed by some tests only, which say so themselves where it is missing; mostly there is no key of rosdep.
TEST_EXTRAS = {"mcap", "onnx", "playwright", "psutil"}
# rosbags-image does for pip installations what cv_bridge does on a ROS distribution.
PIP_NAMES = {"cv2": "opencv-python-headless", "rosbags": "rosbags-image", "yaml": "PyYAML"}
# Modules of rclpy that Humble (3.3.15) lacks, by its sources, or that are deprecated since.
NOT_EVERYWHERE = {
    f"rclpy.{name}"
    for name in (
        "clock_type",
        "destroyable",
        "event_handler",
        "experimental",
        "logging_service",
        "parameter_client",
        "parameter_event_handler",
        "qos_event",
        "service_introspection",
        "type_description_service",
        "type_hash",
    )
}
OPTIONAL = {module for modules in EXTRAS.values() for module in modules}


@pytest.fixture
def package_xml() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def setup_arguments(monkeypatch: pytest.MonkeyPatch, *command: str) -> dict:
    """What setup.py hands to setuptools when it is run with the given command."""
    arguments: dict = {}
    with monkeypatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", ["setup.py", *command])
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(setuptools, "setup", lambda **given: arguments.update(given))
        runpy.run_path(str(ROOT / "setup.py"))
    return arguments


def imported_modules() -> set[str]:
    """What the package and its launch files import, as top-level names without Python's own modules."""
    names = {name.partition(".")[0] for name in imports("ledpose_ros/**/*.py", "launch/*.py")}
    return names - set(sys.stdlib_module_names) - {"ledpose_ros"}


def imports(*patterns: str) -> set[str]:
    """What the files import, as full names of modules."""
    found = set()
    for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module)
    return found


def test_the_version_is_the_same_everywhere(package_xml, monkeypatch):
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__), "semantic versioning, and all that package.xml allows"
    assert package_xml.findtext("version") == __version__
    assert setup_arguments(monkeypatch, "bdist_wheel")["version"] == __version__
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest[1] == __version__


def test_package_xml_describes_an_ament_python_package(package_xml):
    assert package_xml.get("format") == "3"
    assert package_xml.findtext("name") == "ledpose_ros"
    assert package_xml.findtext("export/build_type") == "ament_python"
    assert package_xml.findtext("license") == "Apache-2.0"


def test_package_xml_names_what_is_imported_and_nothing_else(package_xml):
    named = {element.text for element in package_xml.findall("exec_depend")}
    needed = {ROSDEP_KEYS.get(module, module) for module in imported_modules() - OPTIONAL}
    # launch_xml reads launch/robot.launch.xml, which ros2launch starts; replay.launch.py calls ros2bag.
    assert named == needed | {"launch_xml", "ros2launch", "ros2bag"}


def test_package_xml_names_what_tests_import(package_xml):
    named = {element.text for kind in ("exec_depend", "test_depend") for element in package_xml.findall(kind)}
    ours = {path.stem for path in ROOT.glob("test/*.py")} | {"benchmarks", "ledpose_ros"}
    imported = {name.partition(".")[0] for name in imports("test/*.py")} - set(sys.stdlib_module_names) - ours
    assert {ROSDEP_KEYS.get(module, module) for module in imported - OPTIONAL - TEST_EXTRAS} <= named
    # Imported by nobody, but in pyproject.toml.
    assert "python3-pytest-timeout" in named


def test_pip_requires_what_is_imported_besides_ros(monkeypatch):
    requires = set(setup_arguments(monkeypatch, "bdist_wheel")["install_requires"])
    imported = imported_modules() & {*ROSDEP_KEYS, *PIP_NAMES}
    assert requires == {PIP_NAMES.get(module, module) for module in imported}


def test_a_wheel_puts_ledpose_alone_on_the_path(monkeypatch):
    for command in ("bdist_wheel", "dist_info", "editable_wheel"):
        arguments = setup_arguments(monkeypatch, command)
        assert arguments["entry_points"] == {"console_scripts": ["ledpose = ledpose_ros.cli:main"]}
        assert "bin" not in dict(arguments["data_files"])


def test_colcon_gives_every_node_and_command_an_executable(monkeypatch):
    arguments = setup_arguments(monkeypatch, "build", "install")
    targets = dict(line.split(" = ") for line in arguments["entry_points"]["console_scripts"])
    assert set(targets) == {*NODES, *COMMANDS}
    for target in targets.values():
        module, function = target.split(":")
        spec = importlib.util.find_spec(module)
        assert spec and spec.origin
        statements = ast.parse(Path(spec.origin).read_text()).body
        assert any(isinstance(node, ast.FunctionDef) and node.name == function for node in statements), target
    assert dict(arguments["data_files"])["bin"] == ["scripts/ledpose"]


def test_all_that_nodes_and_launch_files_look_for_is_installed(monkeypatch):
    files = dict(setup_arguments(monkeypatch, "bdist_wheel")["data_files"])
    assert files["share/ament_index/resource_index/packages"] == ["resource/ledpose_ros"]
    for kind in ("launch", "config", "models"):
        here = {str(path.relative_to(ROOT)) for path in (ROOT / kind).iterdir() if path.is_file()}
        assert here and set(files[f"share/ledpose_ros/{kind}"]) == here


def test_the_page_for_browsers_is_installed(monkeypatch):
    globs = setup_arguments(monkeypatch, "bdist_wheel")["package_data"]["ledpose_ros"]
    installed = {path.name for glob in globs for path in (ROOT / "ledpose_ros").glob(glob)}
    assert installed == {name for name, _ in FILES.values()}


def test_every_package_that_make_installs_is_pinned(monkeypatch):
    arguments = setup_arguments(monkeypatch, "editable_wheel")
    wanted = set(arguments["install_requires"]).union(*arguments["extras_require"].values())
    wanted |= set(re.findall(r"\bros-[a-z-]+", (ROOT / "Makefile").read_text()))
    for distribution in ("kilted", "jazzy"):
        files = (ROOT / "constraints.txt", ROOT / f"constraints-{distribution}.txt")
        pinned = re.findall(r"^([\w.-]+)==", "".join(file.read_text() for file in files), re.MULTILINE)
        assert wanted <= set(pinned)


def test_pre_commit_runs_the_ruff_that_lint_runs():
    hooks = re.findall(r"ruff==[\d.]+", (ROOT / ".pre-commit-config.yaml").read_text())
    assert hooks and set(hooks) == set(re.findall(r"^ruff==.*", (ROOT / "constraints.txt").read_text(), re.M))


# Files that hold no comments, or are rewritten by the programs that they are for.
NO_COMMENTS = {".gif", ".h5", ".jpg", ".json", ".md", ".onnx", ".png", ".rviz", ".svg"}
NO_LICENCE = {".dockerignore", ".gitignore", "LICENSE", "NOTICE"}


def test_every_source_file_names_its_licence():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no checkout")
    unnamed = [
        name
        for name in listed.stdout.split()
        if (path := ROOT / name).suffix not in NO_COMMENTS
        and path.name not in NO_LICENCE
        and (text := path.read_text())
        and "SPDX-License-Identifier: Apache-2.0" not in text
    ]
    assert not unnamed


def test_only_compatibility_knows_that_distributions_differ():
    for path in ROOT.glob("ledpose_ros/**/*.py"):
        if path.name != "compatibility.py":
            assert not imports(str(path.relative_to(ROOT))) & NOT_EVERYWHERE, path
            assert not re.search("ROS_DISTRO|ROS_AUTOMATIC_DISC|ROS_LOCALHOST_ONLY", path.read_text()), path


def test_the_robot_side_runs_without_torch_and_mujoco():
    pytest.importorskip("rclpy")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({sorted(OPTIONAL)}))\n"
        "import ledpose_ros.nodes.recorder, ledpose_ros.nodes.estimator, ledpose_ros.nodes.viewer\n"
        "import ledpose_ros.nodes.led_driver, ledpose_ros.nodes.random_drive"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
