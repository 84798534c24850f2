#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draw what estimators publish, from above, as RViz shows it, beside their debug images.

    python scripts/picture_of_topics.py estimate.png
    python scripts/picture_of_topics.py team.png --robots alpha beta gamma --ros-args -r __ns:=/lab

Listens for some seconds to markers, debug_image, odometry and ground_truth of a running graph. Of one camera
it draws the last moment with one peer in view. Of several robots it draws the moment in which most peers had
names, and fewest none, and the robots moved least. Boxes, headings, LEDs, ellipses (two standard deviations)
and texts are those of the markers.
"""

import argparse
import io
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import PIL.Image
import rclpy
from geometry_msgs.msg import PoseStamped
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse, FancyArrow, Polygon, Wedge
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import Marker, MarkerArray

from ledpose_ros.geometry import LEVEL_CAMERA, chained_pose, pose_of, quaternion_about, rotation_matrix
from ledpose_ros.images import rgb_from_message
from ledpose_ros.leds import stamp_ns

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BACKGROUND, GRID, TEXT, TRUTH = "#303030", "#4a4a4a", "#f0f0f0", "#5fd35f"
COLOURS = ("#ffa94d", "#4dc4ff", "#ff7ab8", "#c3f25c")
TRAIL_NS = 3_000_000_000
"""How much of the past is drawn as a trail."""
RECENT_NS = 1_000_000_000
"""How old an answer may be to belong to a moment."""
QUEUE = 50
HALF_LENGTH, HALF_WIDTH = 0.16, 0.12
"""Of a robot, where it truly is [m]."""
AT_ORIGIN = np.concatenate([np.zeros(3), quaternion_about(2, 0.0)])


class Robot:
    """What was heard under one robot's name, by stamp [ns]; the name is empty where there is only one."""

    def __init__(self, node: Node, name: str, others: Iterable[str]) -> None:
        self.name = name
        self.images: dict[int, Image] = {}
        self.markers: dict[int, list[Marker]] = {}
        self.bases: dict[int, np.ndarray] = {}
        self.truths: dict[int, list[np.ndarray]] = {}
        self.half_view = 0.0
        prefix = f"{name}/" if name else ""
        node.create_subscription(Image, f"{prefix}debug_image", self._on_image, QUEUE)
        node.create_subscription(MarkerArray, f"{prefix}markers", self._on_markers, QUEUE)
        node.create_subscription(Odometry, f"{prefix}odometry", self._on_odometry, QUEUE)
        node.create_subscription(CameraInfo, f"{prefix}camera_info", self._on_camera_info, QUEUE)
        for topic in [f"{prefix}ground_truth/{other}" for other in others] or ["ground_truth"]:
            node.create_subscription(PoseStamped, topic, self._on_truth, QUEUE)

    def answer(self, now: int) -> int:
        """The last stamp until now of which debug image and markers are known; 0 without a recent one."""
        stamps = (stamp for stamp in self.images if stamp in self.markers and 0 <= now - stamp < RECENT_NS)
        return max(stamps, default=0)

    def base_at(self, stamp: int) -> np.ndarray:
        """The pose (7,) of the robot's base that was told nearest to a stamp."""
        return self.bases[min(self.bases, key=lambda known: abs(known - stamp))] if self.bases else AT_ORIGIN

    def _on_image(self, message: Image) -> None:
        self.images[stamp_ns(message.header.stamp)] = message

    def _on_markers(self, message: MarkerArray) -> None:
        shown = [marker for marker in message.markers if marker.action == Marker.ADD]
        self.markers[stamp_ns(message.markers[0].header.stamp)] = shown

    def _on_odometry(self, message: Odometry) -> None:
        self.bases[stamp_ns(message.header.stamp)] = pose_of(message.pose)

    def _on_truth(self, message: PoseStamped) -> None:
        self.truths.setdefault(stamp_ns(message.header.stamp), []).append(pose_of(message))

    def _on_camera_info(self, message: CameraInfo) -> None:
        self.half_view = float(np.degrees(np.arctan(message.width / 2 / message.k[0])))


def main() -> int:
    """Listen, choose a moment, draw it."""
    arguments = parse_arguments()
    names: list[str] = arguments.robots
    rclpy.init(args=sys.argv)
    node = rclpy.create_node("picture_of_topics")
    robots = [Robot(node, name, [other for other in names if other != name]) for name in names or [""]]
    end = time.monotonic() + arguments.seconds
    while time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)
    rclpy.shutdown()

    moments = {stamp for robot in robots for stamp in robot.images}
    moments = {now for now in moments if all(robot.answer(now) for robot in robots)}
    if not moments:
        print("not all robots published debug images and markers: does the graph run?", file=sys.stderr)
        return 1
    now = max(moments, key=lambda moment: merit(robots, moment))
    figure = draw_team(robots, now, arguments.camera_position) if names else draw_one(robots[0], now)
    write(figure, arguments.output)
    print(f"{arguments.output}: {', '.join(said_at(robots, now)) or 'no peer'}")
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line without what is ROS's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, metavar="PNG", help="the picture to write")
    parser.add_argument("--robots", nargs="+", default=[], metavar="NAME", help="names of several robots")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="how long to listen (20)")
    parser.add_argument(
        "--camera-position",
        type=float,
        nargs=3,
        default=(0.0, 0.0, 0.0),
        metavar=("X", "Y", "Z"),
        help="camera in each robot's base frame [m], as the estimators' parameter (0 0 0)",
    )
    return parser.parse_args(remove_ros_args(sys.argv)[1:])


def merit(robots: Sequence[Robot], now: int) -> tuple[float, ...]:
    """How well a moment suits a picture."""
    said = said_at(robots, now)
    if len(robots) == 1:
        return len(said) == 1, now
    unnamed = sum(text[0].isdigit() for text in said)
    since = min(robot.answer(now) for robot in robots)
    moved = sum(np.linalg.norm((robot.base_at(now) - robot.base_at(since))[:3]) for robot in robots)
    return len(said) - 2 * unnamed, -float(moved)


def said_at(robots: Sequence[Robot], now: int) -> list[str]:
    """The texts of all markers."""
    return [
        marker.text
        for robot in robots
        for marker in robot.markers[robot.answer(now)]
        if marker.type == Marker.TEXT_VIEW_FACING
    ]


def write(figure: Figure, path: Path) -> None:
    """A PNG file of 256 colours, which takes a third of the room."""
    png = io.BytesIO()
    figure.savefig(png, dpi=100)
    picture = PIL.Image.open(png).convert("RGB")
    # This method keeps the rare colours, those of the lines.
    few = picture.quantize(method=PIL.Image.Quantize.MAXCOVERAGE, kmeans=3, dither=PIL.Image.Dither.NONE)
    few.save(path, optimize=True)


# --- figures ------------------------------------------------------------------------------------------------


def draw_one(robot: Robot, now: int) -> Figure:
    """The debug image, and beside it the peers before the camera, whose view opens upwards."""
    figure = plt.figure(figsize=(12, 4.7), facecolor=BACKGROUND)
    answer = robot.answer(now)
    show_image(figure.add_axes((0.01, 0.02, 0.64, 0.91)), robot, answer, "debug_image", TEXT)
    axes = figure.add_axes((0.66, 0.02, 0.335, 0.91))
    camera = np.concatenate([np.zeros(3), LEVEL_CAMERA])
    camera = chained_pose(np.concatenate([np.zeros(3), quaternion_about(2, np.pi / 2)]), camera)
    draw_view(axes, camera, robot.half_view, TEXT, reach=20.0)
    for distance in range(1, 6):
        axes.add_patch(Circle((0, 0), distance, fill=False, color=GRID, linewidth=1))
        axes.text(0, distance + 0.03, f"{distance} m", color="#909090", fontsize=8, ha="center")

    said = {
        stamp: [pose_of(box) for box in markers if box.ns == "box"]
        for stamp, markers in robot.markers.items()
    }
    for poses, colour in ((robot.truths, TRUTH), (said, COLOURS[0])):
        trail = [
            chained_pose(camera, pose)[:2]
            for stamp in poses
            for pose in poses[stamp]
            if 0 <= answer - stamp < TRAIL_NS
        ]
        axes.plot(*np.array(trail).reshape(-1, 2).T, ".", color=colour, markersize=4, alpha=0.6)
    for pose in robot.truths.get(answer, []):
        draw_robot(axes, chained_pose(camera, pose), TRUTH, is_filled=False)
    for marker in robot.markers[answer]:
        draw_marker(axes, marker, camera, COLOURS[0])
    places = [chained_pose(camera, pose)[:2] for pose in said[answer]]
    frame_floor(axes, np.array([(0, 0.15), (-0.5, 1), (0.5, 1), *places]), "markers, from above")
    keys = [
        ("estimate", {"edgecolor": COLOURS[0], "linestyle": "--"}),
        ("ground truth", {"edgecolor": TRUTH}),
    ]
    explain(axes, keys)
    return figure


def draw_team(robots: Sequence[Robot], now: int, camera_position: Sequence[float]) -> Figure:
    """All robots in their room from above, with what each says of the others, and what each sees."""
    figure = plt.figure(figsize=(12, 8.0), facecolor=BACKGROUND)
    axes = figure.add_axes((0.008, 0.012, 0.63, 0.95))
    mount = np.concatenate([camera_position, LEVEL_CAMERA])
    height = 0.988 / len(robots)
    for row, (robot, colour) in enumerate(zip(robots, COLOURS, strict=False)):
        base, answer = robot.base_at(now), robot.answer(now)
        trail = [pose[:2] for stamp, pose in sorted(robot.bases.items()) if 0 <= now - stamp < TRAIL_NS]
        axes.plot(*np.array(trail).T, color=colour, linewidth=1.5, alpha=0.5)
        draw_robot(axes, base, colour, is_filled=True)
        behind = base[:2] - 0.3 * rotation_matrix(base[3:])[:2, 0]
        style = {"fontsize": 12, "fontweight": "bold", "ha": "center", "va": "center", "zorder": 9}
        axes.text(*behind, robot.name, color=colour, **style)
        camera = chained_pose(robot.base_at(answer), mount)
        draw_view(axes, camera, robot.half_view, colour, reach=0.8)
        for marker in robot.markers[answer]:
            draw_marker(axes, marker, camera, colour)
        place = figure.add_axes((0.645, 0.988 - (row + 1) * height + 0.012, 0.347, height - 0.04))
        show_image(place, robot, answer, f"{robot.name}/debug_image", colour)
    places = np.array([robot.base_at(now)[:2] for robot in robots])
    frame_floor(axes, places, "markers and odometry, from above")
    keys = [
        ("robot, where it is", {"facecolor": "#909090"}),
        ("estimate, in the colour of who makes it", {"edgecolor": TEXT, "linestyle": "--"}),
    ]
    explain(axes, keys)
    return figure


def show_image(axes: Axes, robot: Robot, stamp: int, title: str, colour: str) -> None:
    """A debug image in a frame."""
    axes.imshow(rgb_from_message(robot.images[stamp]))
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, color=colour, fontsize=10, loc="left", pad=3)
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=1.5)


def frame_floor(axes: Axes, places: np.ndarray, title: str) -> None:
    """Show so much of the floor that robots at these places (N, 2) are on it, with a grid of half metres."""
    low, high = places.min(0) - 0.55, places.max(0) + 0.55
    window = axes.get_window_extent()
    size = np.array([window.width, window.height])
    half = size * ((high - low) / size).max() / 2
    (left, bottom), (right, top) = (low + high) / 2 - half, (low + high) / 2 + half
    for ticks in (axes.set_xticks, axes.set_yticks):
        ticks(np.arange(-20, 20, 0.5), labels=[])
    axes.set(xlim=(left, right), ylim=(bottom, top), facecolor=BACKGROUND, axisbelow=True)
    axes.tick_params(length=0)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_title(title, color=TEXT, fontsize=10, loc="left", pad=3)
    for spine in axes.spines.values():
        spine.set(color=GRID)


def explain(axes: Axes, keys: Sequence[tuple[str, dict[str, str]]]) -> None:
    """A legend."""
    handles = [
        Polygon([(0, 0)], label=text, **({"facecolor": "none", "linewidth": 1.5} | style))
        for text, style in keys
    ]
    style = {"labelcolor": TEXT, "facecolor": "#383838", "edgecolor": GRID}
    axes.legend(handles=handles, loc="lower left", fontsize=9, **style)


# --- on the floor -------------------------------------------------------------------------------------------


def draw_robot(axes: Axes, pose: np.ndarray, colour: str, is_filled: bool) -> None:
    """A robot where it truly is, with a wedge that points forward."""
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (HALF_LENGTH, HALF_WIDTH)
    wedge = np.array([(-0.3, -0.5), (0.85, 0.0), (-0.3, 0.5)]) * (HALF_LENGTH, HALF_WIDTH)
    turn = rotation_matrix(pose[3:])[:2, :2]
    for points, alpha in ((corners, 0.45 if is_filled else 1.0), (wedge, 1.0)):
        outline = Polygon(
            points @ turn.T + pose[:2], fill=is_filled, color=colour, alpha=alpha, linewidth=1.5
        )
        axes.add_patch(outline).set_zorder(3)


def draw_view(axes: Axes, camera: np.ndarray, half_view: float, colour: str, reach: float) -> None:
    """A camera and its field of view."""
    east, north = rotation_matrix(camera[3:])[:2, 2]
    azimuth = float(np.degrees(np.arctan2(north, east)))
    view = Wedge(camera[:2], reach, azimuth - half_view, azimuth + half_view, color=colour, alpha=0.13)
    axes.add_patch(view).set_linewidth(0)
    axes.plot(*camera[:2], "o", color=colour, markersize=4, zorder=5)


def draw_marker(axes: Axes, marker: Marker, camera: np.ndarray, colour: str) -> None:
    """A marker of the estimator, which is told in the frame of the camera with this pose (7,)."""
    pose = chained_pose(camera, pose_of(marker))
    turn, place = rotation_matrix(pose[3:]), pose[:2]
    points = np.array([(point.x, point.y, point.z) for point in marker.points]).reshape(-1, 3)
    points = (points @ turn.T)[:, :2] + place
    half = np.array([marker.scale.x, marker.scale.y, marker.scale.z]) / 2
    away = (place - camera[:2]) / np.linalg.norm(place - camera[:2])
    if marker.type == Marker.CUBE:
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half[:2] @ turn[:2, :2].T + place
        style = {"edgecolor": colour, "linewidth": 1.6, "linestyle": (0, (4, 1.5))}
        axes.add_patch(Polygon(corners, fill=False, zorder=6, **style))
        axes.plot(*np.stack([camera[:2], place]).T, color=colour, linewidth=0.8, alpha=0.5, zorder=2)
    elif marker.type == Marker.ARROW:
        style = {"width": 0.012, "head_width": 0.06, "length_includes_head": True, "linewidth": 0}
        axes.add_patch(FancyArrow(*points[0], *(points[1] - points[0]), color="#ff5050", zorder=7, **style))
    elif marker.type == Marker.SPHERE_LIST:
        shades = [(led.r, led.g, led.b) for led in marker.colors]
        axes.scatter(*points.T, s=28, c=shades, edgecolors="white", linewidths=0.7, zorder=8)
    elif marker.type == Marker.SPHERE:
        # The ellipsoid's shadow on the floor.
        squares, axes_of_ellipse = np.linalg.eigh((turn * half**2 @ turn.T)[:2, :2])
        angle = np.degrees(np.arctan2(*axes_of_ellipse[::-1, 0]))
        for fill, alpha in ((True, 0.18), (False, 0.8)):
            style = {"angle": angle, "fill": fill, "color": colour, "alpha": alpha, "zorder": 5}
            axes.add_patch(Ellipse(place, *(2 * np.sqrt(squares)), **style))
    elif marker.type == Marker.TEXT_VIEW_FACING:
        # Beside the line of sight, so that what several robots say of one does not overlap.
        beside = place + 0.3 * np.array([-away[1], away[0]])
        axes.text(*beside, marker.text, color=colour, fontsize=10, ha="center", va="center", zorder=9)


if __name__ == "__main__":
    sys.exit(main())
