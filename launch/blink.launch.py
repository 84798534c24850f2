# SPDX-License-Identifier: Apache-2.0
"""Blink, and drive about if asked for, to be recorded by a peer.

ros2 launch ledpose_ros blink.launch.py adapter:=my_leds.yaml drive:=true odometry:=odom
"""

from launch import LaunchDescription
from launch_ros.actions import Node

from ledpose_ros.launching import NAMESPACE, PROCESS, Arguments, Settings, node, overrides
from ledpose_ros.parameters import Parameter

DRIVE = Parameter(
    "drive", False, "Start the random drive too; the robot stands until its service ~/start is called."
)
BLINKS = ("led_states",)
DRIVES = ("odometry", "cmd_vel", "emergency_stop")


def generate_launch_description() -> LaunchDescription:
    """The nodes of a robot that is to be seen."""
    arguments = Arguments().add(DRIVE).add_topics(*BLINKS, *DRIVES)
    arguments.add_parameters("led_driver").add_parameters("random_drive").add(NAMESPACE)
    arguments.add_params_file("led_driver").add_params_file("random_drive", "random_drive_params_file")
    return arguments.add(*PROCESS).description(__file__, nodes)


def nodes(settings: Settings) -> list[Node]:
    """The LED driver, and the random drive if asked for."""
    topics = {topic: settings[topic] for topic in BLINKS}
    blinking = node(settings, "led_driver", topics, overrides(settings, "led_driver"))
    if not settings["drive"]:
        return [blinking]
    topics = {topic: settings[topic] for topic in DRIVES}
    given = overrides(settings, "random_drive")
    return [blinking, node(settings, "random_drive", topics, given, "random_drive_params_file")]
