# SPDX-License-Identifier: Apache-2.0
"""Estimate the poses of peers in a bag, on the bag's time.

ros2 launch ledpose_ros replay.launch.py bag:=drive image:=/camera/image_raw camera_info:=/camera/camera_info
"""

from launch import LaunchDescription
from launch.action import Action
from launch.actions import ExecuteProcess, Shutdown

from ledpose_ros.errors import LedposeError
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
from ledpose_ros.parameters import Parameter
from ledpose_ros.paths import user_path

TOPICS = ("image", "camera_info", "odometry")
BAG = Parameter("bag", "", "Bag to play: the folder that `ros2 bag record` made, or a file in it.")
PLAYER = (
    Parameter("rate", 1.0, "How many times faster than real time it is played.", 0.01, 100.0),
    Parameter("loop", False, "Begin anew when it ends, in place of ending everything."),
    Parameter("delay", 3.0, "Time that the estimator has to start before it is played [s].", 0.0),
)


def generate_launch_description() -> LaunchDescription:
    """`ros2 bag play`, an estimator that follows its clock, and RViz if asked for."""
    arguments = Arguments().add_required(BAG).add(*PLAYER).add_topics(*TOPICS)
    # The time in a bag is that of recording, and images may have been recorded late.
    arguments.add_parameters("estimator", max_image_age=0.0).add(NAMESPACE)
    arguments.add_params_file("estimator").add(*RVIZ, RESPAWN, *PROCESS, use_sim_time=True)
    return arguments.description(__file__, actions)


def actions(settings: Settings) -> list[Action]:
    """The estimator, RViz and the player, with which everything ends."""
    bag = user_path(settings["bag"])
    if not bag.exists():
        raise LedposeError(f"there is no bag '{bag}'")
    command = ["ros2", "bag", "play", str(bag), "--clock"]
    command += ["--rate", str(settings["rate"]), "--delay", str(settings["delay"])]
    command += ["--loop"] if settings["loop"] else []
    at_end = Shutdown(reason="the bag has ended")
    player = ExecuteProcess(cmd=command, name="player", output="screen", on_exit=at_end)
    topics = {topic: settings[topic] for topic in TOPICS}
    return [estimator(settings, topics), *rviz_of_estimates(settings), player]
