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

ROOT = Path(__file__).parents[1]

ROSDEP_KEYS = {
    "cv2": "python3-opencv",
    "h5py": "python3-h5py",
    "numpy": "python3-numpy",
    "onnxruntime": "python3-onnxruntime-pip",
    "tqdm": "python3-tqdm",
    "yaml": "python3-yaml",
}
# rosbags-image does for pip installations what cv_bridge does on a ROS distribution.
PIP_NAMES = {"cv2": "opencv-python-headless", "rosbags": "rosbags-image", "yaml": "PyYAML"}
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
    found = set()
    for path in [*ROOT.glob("ledpose_ros/**/*.py"), *ROOT.glob("launch/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module)
    return {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names) - {"ledpose_ros"}


def test_the_version_is_the_same_everywhere(package_xml, monkeypatch):
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
    needed = {ROSDEP_KEYS.get(module, module) for module in imported_modules() - OPTIONAL - {"rosbags"}}
    assert named == needed | {"launch_xml"}  # which reads launch/robot.launch.xml


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


def test_every_package_that_make_installs_is_pinned(monkeypatch):
    arguments = setup_arguments(monkeypatch, "editable_wheel")
    wanted = set(arguments["install_requires"]).union(*arguments["extras_require"].values())
    wanted |= set(re.findall(r"\bros-[a-z-]+", (ROOT / "Makefile").read_text()))
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert wanted <= pinned


def test_the_robot_side_runs_without_torch_and_mujoco():
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({sorted(OPTIONAL)}))\n"
        "import ledpose_ros.nodes.recorder, ledpose_ros.nodes.estimator"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
