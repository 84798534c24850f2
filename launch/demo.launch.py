# SPDX-License-Identifier: Apache-2.0
"""A simulated camera and peer, the estimator and RViz: ros2 launch ledpose_ros demo.launch.py"""

from launch import LaunchDescription
from launch_ros.actions import Node

from ledpose_ros.launching import (
    NAMESPACE,
    PROCESS,
    RESPAWN,
    RVIZ,
    Arguments,
    Settings,
    estimator,
    node,
    overrides,
    rviz_of_estimates,
)

SIMULATED = ("image", "camera_info", "led_states", "ground_truth")
SEEN = ("image", "camera_info")


def generate_launch_description() -> LaunchDescription:
    """The simulator, which needs MuJoCo, in place of a robot."""
    arguments = Arguments().add_topics(*SIMULATED)
    arguments.add_parameters("estimator").add_parameters("simulator").add(NAMESPACE)
    arguments.add_params_file("estimator").add_params_file("simulator", "simulator_params_file")
    arguments.add(*RVIZ, RESPAWN, *PROCESS, rviz=True)
    return arguments.description(__file__, nodes)


def nodes(settings: Settings) -> list[Node]:
    """The simulator, whose time the estimator follows with use_sim_time, and who looks at its pictures."""
    simulator = node(
        settings,
        "simulator",
        {topic: settings[topic] for topic in SIMULATED},
        # The simulator makes the time, so it does not wait for it.
        {
            **overrides(settings, "simulator"),
            "publish_clock": settings["use_sim_time"],
            "use_sim_time": False,
        },
        params_file="simulator_params_file",
    )
    seen = {topic: settings[topic] for topic in SEEN}
    return [simulator, estimator(settings, seen), *rviz_of_estimates(settings)]
