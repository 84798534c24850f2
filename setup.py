# SPDX-License-Identifier: Apache-2.0
"""Build file for both worlds: `colcon build` in a ROS 2 workspace and `pip install .` anywhere else."""

import sys
from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from ledpose_ros import __version__  # noqa: E402
from ledpose_ros.cli import COMMANDS, EXTRAS, NODES  # noqa: E402

NAME = "ledpose_ros"

# A wheel (what pip builds and installs, editable or not) puts each executable on everybody's PATH, where
# names as common as `train` or `check` have no business: it gets `ledpose` alone. colcon puts executables in
# lib/ledpose_ros (see setup.cfg), where only `ros2 run ledpose_ros train` looks; there each node and command
# gets one, and `ledpose` comes to bin/, which colcon's setup files add to the PATH.
BUILDS_WHEEL = not {"bdist_wheel", "dist_info", "editable_wheel"}.isdisjoint(sys.argv)

SHARE = f"share/{NAME}"
data_files = [
    ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
    (SHARE, ["package.xml"]),
    (f"{SHARE}/launch", sorted(glob("launch/*.launch.*"))),
    (f"{SHARE}/config", sorted(path for path in glob("config/*") if Path(path).is_file())),
    (f"{SHARE}/config/led_sources", sorted(glob("config/led_sources/*.yaml"))),
    (f"{SHARE}/config/led_drivers", sorted(glob("config/led_drivers/*.yaml"))),
    (f"{SHARE}/models", sorted(glob("models/*.onnx") + glob("models/*.md"))),
]

if BUILDS_WHEEL:
    executables = ["ledpose = ledpose_ros.cli:main"]
else:
    executables = [f"{node} = ledpose_ros.nodes.{node}:main" for node in NODES]
    executables += [f"{command} = ledpose_ros.cli:run_executable" for command in COMMANDS]
    data_files.append(("bin", ["scripts/ledpose"]))

setup(
    name=NAME,
    version=__version__,
    description="Robots that teach themselves to see each other: relative pose from LED states alone",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The ledpose_ros developers",
    maintainer="The ledpose_ros developers",
    maintainer_email="ledpose-ros@example.org",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["web/*"]},
    data_files=data_files,
    # What the robot needs besides ROS itself, which comes from the distribution or from `make venv`. colcon
    # installs none of these: there rosdep reads package.xml.
    install_requires=[
        "numpy",
        "h5py",
        "opencv-python-headless",
        "onnxruntime",
        "PyYAML",
        "rosbags-image",
        "tornado",
        "tqdm",
    ],
    extras_require={name: list(requirements) for name, requirements in EXTRAS.items()}
    | {
        "test": [
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            "mypy",
            "PyYAML",
            "mcap",
            "gpiozero",
            "playwright",
        ],
        "docs": ["mkdocs-material"],
    },
    entry_points={"console_scripts": executables},
    zip_safe=False,
)
