# SPDX-License-Identifier: Apache-2.0
"""Estimate the poses of peers.

ros2 launch ledpose_ros estimate.launch.py image:=/camera/image_raw camera_info:=/camera/camera_info
"""

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
    rviz_of_estimates,
)

TOPICS = ("image", "camera_info", "odometry")


def generate_launch_description() -> LaunchDescription:
    """One estimator, and RViz if asked for."""
    arguments = Arguments().add_topics(*TOPICS).add_parameters("estimator").add(NAMESPACE)
    arguments.add_params_file("estimator").add(*RVIZ, RESPAWN, *PROCESS)
    return arguments.description(__file__, nodes)


def nodes(settings: Settings) -> list[Node]:
    """The estimator and RViz."""
    topics = {topic: settings[topic] for topic in TOPICS}
    return [estimator(settings, topics), *rviz_of_estimates(settings)]
