# SPDX-License-Identifier: Apache-2.0
"""Estimate the poses of peers.

ros2 launch ledpose_ros estimate.launch.py image:=/camera/image_raw camera_info:=/camera/camera_info
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

# The launch and config folders lie side by side, in the checkout as in the installation.
CONFIG = Path(__file__).resolve().parent.parent / "config"

RVIZ_TOPICS = ("peer_pose", "markers", "debug_image")


def estimator(context: LaunchContext) -> list[Node]:
    """The estimator node; an empty `model` leaves the choice to the parameter file."""
    model = LaunchConfiguration("model").perform(context)
    return [
        Node(
            package="ledpose_ros",
            executable="estimator",
            namespace=LaunchConfiguration("namespace"),
            parameters=[
                LaunchConfiguration("params_file"),
                {"use_sim_time": LaunchConfiguration("use_sim_time")},
                *([{"model": model}] if model else []),
            ],
            remappings=[(topic, LaunchConfiguration(topic)) for topic in ("image", "camera_info")],
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            output="screen",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """One estimator, and RViz if asked for."""
    arguments = [
        DeclareLaunchArgument("image", default_value="image", description="Topic of the camera's images"),
        DeclareLaunchArgument(
            "camera_info", default_value="camera_info", description="Topic of its CameraInfo"
        ),
        DeclareLaunchArgument(
            "model", default_value="", description="ONNX model; empty: as the parameter file says"
        ),
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node"),
        DeclareLaunchArgument(
            "params_file", default_value=str(CONFIG / "estimator.yaml"), description="Parameters of the node"
        ),
        DeclareLaunchArgument("use_sim_time", default_value="false", description="Take the time from /clock"),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn or error"),
        DeclareLaunchArgument("rviz", default_value="false", description="Show the estimates in RViz"),
    ]
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        namespace=LaunchConfiguration("namespace"),
        arguments=["-d", str(CONFIG / "ledpose.rviz")],
        parameters=[{"use_sim_time": LaunchConfiguration("use_sim_time")}],
        # RViz's own topic names are absolute: lead them into the namespace.
        remappings=[(f"/{topic}", topic) for topic in RVIZ_TOPICS],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    return LaunchDescription([*arguments, OpaqueFunction(function=estimator), rviz])
