# SPDX-License-Identifier: Apache-2.0
"""Record a camera and a peer's LED states.

ros2 launch ledpose_ros record.launch.py image:=/camera/image_raw camera_info:=/camera/camera_info
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

# The launch and config folders lie side by side, in the checkout as in the installation.
CONFIG = Path(__file__).resolve().parent.parent / "config"


def generate_launch_description() -> LaunchDescription:
    """One recorder; everything else is set in the parameter file."""
    arguments = [
        DeclareLaunchArgument("image", default_value="image", description="Topic of the camera's images"),
        DeclareLaunchArgument(
            "camera_info", default_value="camera_info", description="Topic of its CameraInfo"
        ),
        DeclareLaunchArgument(
            "led_states", default_value="led_states", description="Topic of the peer's LEDs"
        ),
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node"),
        DeclareLaunchArgument(
            "params_file", default_value=str(CONFIG / "recorder.yaml"), description="Parameters of the node"
        ),
        DeclareLaunchArgument("use_sim_time", default_value="false", description="Take the time from /clock"),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn or error"),
    ]
    recorder = Node(
        package="ledpose_ros",
        executable="recorder",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            LaunchConfiguration("params_file"),
            {"use_sim_time": LaunchConfiguration("use_sim_time")},
        ],
        remappings=[(topic, LaunchConfiguration(topic)) for topic in ("image", "camera_info", "led_states")],
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        output="screen",
    )
    return LaunchDescription([*arguments, recorder])
