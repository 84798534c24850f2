# SPDX-License-Identifier: Apache-2.0
"""A simulated camera and peer, the estimator and RViz: ros2 launch ledpose_ros demo.launch.py"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

# The launch and config folders lie side by side, in the checkout as in the installation.
LAUNCH = Path(__file__).resolve().parent
CONFIG = LAUNCH.parent / "config"

FORWARDED = ("image", "camera_info", "model", "namespace", "params_file", "use_sim_time", "log_level", "rviz")


def generate_launch_description() -> LaunchDescription:
    """The simulator (which needs MuJoCo) feeds the same launch file that a real robot uses."""
    arguments = [
        DeclareLaunchArgument("image", default_value="image", description="Topic of the camera's images"),
        DeclareLaunchArgument(
            "camera_info", default_value="camera_info", description="Topic of its CameraInfo"
        ),
        DeclareLaunchArgument(
            "led_states", default_value="led_states", description="Topic of the peer's LEDs"
        ),
        DeclareLaunchArgument(
            "model", default_value="", description="ONNX model; empty: as the parameter file says"
        ),
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the nodes"),
        DeclareLaunchArgument(
            "params_file",
            default_value=str(CONFIG / "estimator.yaml"),
            description="Parameters of the estimator",
        ),
        DeclareLaunchArgument(
            "simulator_params_file",
            default_value=str(CONFIG / "simulator.yaml"),
            description="Parameters of the simulator",
        ),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value="false",
            description="Simulator publishes /clock, estimator follows it",
        ),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn or error"),
        DeclareLaunchArgument("rviz", default_value="true", description="Show the estimates in RViz"),
    ]
    simulator = Node(
        package="ledpose_ros",
        executable="simulator",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            LaunchConfiguration("simulator_params_file"),
            {"publish_clock": LaunchConfiguration("use_sim_time")},
        ],
        remappings=[(topic, LaunchConfiguration(topic)) for topic in ("image", "camera_info", "led_states")],
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        output="screen",
    )
    estimate = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(LAUNCH / "estimate.launch.py")),
        launch_arguments=[(name, LaunchConfiguration(name)) for name in FORWARDED],
    )
    return LaunchDescription([*arguments, simulator, estimate])
