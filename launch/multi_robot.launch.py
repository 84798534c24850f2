# SPDX-License-Identifier: Apache-2.0
"""Several robots that record and estimate one another, each in a namespace of its own.

ros2 launch ledpose_ros multi_robot.launch.py robots:=anna,bert,carl simulate:=true rviz:=true
"""

import re
from itertools import permutations, product

from launch import LaunchDescription
from launch_ros.actions import Node

from ledpose_ros.errors import LedposeError
from ledpose_ros.launching import (
    PROCESS,
    RESPAWN,
    RVIZ,
    WRITING_TIME,
    Arguments,
    Settings,
    estimator,
    node,
    overrides,
    rviz,
)
from ledpose_ros.parameters import Parameter

# In each robot's namespace.
TOPICS = ("image", "camera_info", "led_states", "odometry")
ROBOTS = Parameter("robots", ["robot_1", "robot_2", "robot_3"], "The robots' namespaces, parted by commas.")
WHAT = (
    Parameter("estimate", True, "Each robot estimates the poses of the others, and tells who is who."),
    Parameter("record", False, "Each robot records each of the others: OUTPUT_DIRECTORY/ROBOT_sees_OTHER."),
    Parameter("simulate", False, "Simulate the robots, in place of real ones."),
)
# A robot's name is all that its namespace consists of: output folders and frames in TF bear it as well.
NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")
# Those that config/multi_robot.rviz shows; RViz hears the given ones in their place.
SHOWN_ROBOTS = ("robot_1", "robot_2", "robot_3")


def generate_launch_description() -> LaunchDescription:
    """An estimator a robot, a recorder a pair of robots, the simulator of all, and RViz."""
    arguments = Arguments().add(ROBOTS, *WHAT).add_topics(*TOPICS)
    arguments.add_parameters("estimator", leave_out=("autostart", "base_frame", "peers", "peer_frame"))
    # The topics of a table of LED sources would be looked for in the recorder's own namespace; `autostart` of
    # the recorder is another one than that of the estimator.
    recorder_only = ("autostart", "led_sources")
    arguments.add_parameters("recorder", leave_out=recorder_only, output_directory="recordings")
    arguments.add_parameters("simulator")
    arguments.add_params_file("estimator", "estimator_params_file")
    arguments.add_params_file("recorder", "recorder_params_file")
    arguments.add_params_file("simulator", "simulator_params_file")
    arguments.add(*RVIZ, RESPAWN, *PROCESS, sigkill_timeout=WRITING_TIME)
    return arguments.description(__file__, nodes)


def nodes(settings: Settings) -> list[Node]:
    """All that is asked for."""
    robots = names_of(settings["robots"])
    made = []
    if settings["simulate"]:
        made.append(simulator_of(settings, robots))
    if settings["estimate"]:
        made += [estimator_of(settings, robot, robots) for robot in robots]
    if settings["record"]:
        made += [recorder_of(settings, *pair) for pair in permutations(robots, 2)]
    return [*made, *rviz(settings, "multi_robot.rviz", "", shown_topics(robots))]


def names_of(robots: list[str]) -> list[str]:
    """The robots' names; LedposeError unless there are several, each of another name."""
    names = [robot.strip("/") for robot in robots]
    for name in names:
        if not NAME.fullmatch(name):
            raise LedposeError(f"robots holds '{name}', which is no name: letters, digits and _ make one")
    if len(names) < 2 or len(set(names)) < len(names):
        raise LedposeError(f"robots must name two or more different ones, but is {','.join(names)}")
    return names


def topics_of(settings: Settings, robot: str, *topics: str) -> dict[str, str]:
    """Where a robot's topics are; LedposeError for one that all robots would share."""
    for topic in topics:
        if settings[topic].startswith("/"):
            raise LedposeError(
                f"{topic} is '{settings[topic]}', but each robot has its own: leave the first / away"
            )
    return {topic: f"/{robot}/{settings[topic]}" for topic in topics}


def simulator_of(settings: Settings, robots: list[str]) -> Node:
    """The simulator, which publishes under each robot's namespace."""
    remappings = {f"/{robot}/{topic}": f"/{robot}/{settings[topic]}" for robot in robots for topic in TOPICS}
    return node(
        settings,
        "simulator",
        remappings,
        {
            **overrides(settings, "simulator"),
            "robots": robots,
            "publish_clock": settings["use_sim_time"],
            "use_sim_time": False,
        },
        "simulator_params_file",
        namespace="",
    )


def estimator_of(settings: Settings, robot: str, robots: list[str]) -> Node:
    """A robot's estimator, which publishes what it knows of OTHER on identified/OTHER/pose."""
    others = [other for other in robots if other != robot]
    heard = {
        f"/{other}/led_states": topics_of(settings, other, "led_states")["led_states"] for other in others
    }
    parameters: dict[str, object] = {
        "peers": [f"/{other}" for other in others],
        "peer_frame": f"{robot}/peer",
    }
    if settings["simulate"]:
        from ledpose_ros.simulation import CAMERA_POSITION

        parameters["camera_position"] = list(CAMERA_POSITION)
    return estimator(
        settings,
        topics_of(settings, robot, "image", "camera_info", "odometry") | heard,
        parameters,
        params_file="estimator_params_file",
        namespace=robot,
    )


def recorder_of(settings: Settings, robot: str, other: str) -> Node:
    """A recorder of what one robot sees while another one blinks.

    It has a namespace of its own, so that its services have, and its name is that of the parameter file.
    """
    topics = topics_of(settings, robot, "image", "camera_info")
    topics |= topics_of(settings, other, "led_states")
    topics |= {"ground_truth": f"/{robot}/ground_truth/{other}"}
    directory = f"{settings['output_directory']}/{robot}_sees_{other}"
    return node(
        settings,
        "recorder",
        topics,
        {**overrides(settings, "recorder"), "output_directory": directory},
        "recorder_params_file",
        namespace=f"{robot}/sees_{other}",
    )


def shown_topics(robots: list[str]) -> dict[str, str]:
    """RViz's topic names -> those of the given robots, as far as its configuration shows so many."""
    names = dict(zip(SHOWN_ROBOTS, robots, strict=False))
    topics = {
        f"/{shown}/{topic}": f"/{robot}/{topic}"
        for (shown, robot), topic in product(names.items(), ("markers", "debug_image"))
    }
    for shown, other in permutations(names, 2):
        topics[f"/{shown}/identified/{other}/pose"] = f"/{names[shown]}/identified/{names[other]}/pose"
    return topics
