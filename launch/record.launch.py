# SPDX-License-Identifier: Apache-2.0
"""Record a camera and a peer's LED states.

ros2 launch ledpose_ros record.launch.py image:=/camera/image_raw camera_info:=/camera/camera_info
"""

from launch import LaunchDescription
from launch_ros.actions import Node

from ledpose_ros.launching import NAMESPACE, PROCESS, WRITING_TIME, Arguments, Settings, node, overrides

TOPICS = ("image", "camera_info", "led_states", "ground_truth")


def generate_launch_description() -> LaunchDescription:
    """One recorder."""
    arguments = Arguments().add_topics(*TOPICS).add_parameters("recorder").add(NAMESPACE)
    arguments.add_params_file("recorder").add(*PROCESS, sigkill_timeout=WRITING_TIME)
    return arguments.description(__file__, recorder)


def recorder(settings: Settings) -> list[Node]:
    """The recorder."""
    topics = {topic: settings[topic] for topic in TOPICS}
    return [node(settings, "recorder", topics, overrides(settings, "recorder"))]
