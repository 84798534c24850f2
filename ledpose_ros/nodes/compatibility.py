# SPDX-License-Identifier: Apache-2.0
"""The one place that knows in what ROS 2 Humble, Jazzy and Kilted differ, as far as this package goes."""

from collections.abc import Callable
from typing import Any

from rclpy import lifecycle
from rclpy._rclpy_pybind11 import RCLError

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks

    IS_HUMBLE = False
except ModuleNotFoundError:
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

    IS_HUMBLE = True

__all__ = [
    "LOCAL_DISCOVERY",
    "LifecycleNode",
    "PublisherEventCallbacks",
    "SubscriptionEventCallbacks",
    "publisher_callbacks",
]

LOCAL_DISCOVERY = {"ROS_LOCALHOST_ONLY": "1"} if IS_HUMBLE else {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
"""Environment variables that keep a graph on this machine. Kilted warns of Humble's."""


def publisher_callbacks(
    on_matched: Callable[[], None], on_incompatible_qos: Callable[[Any], None]
) -> PublisherEventCallbacks:
    """Have `on_matched` called when somebody subscribes to a publisher, or no longer does.

    Humble has no such events: whoever needs them must also poll.
    """
    if IS_HUMBLE:
        return PublisherEventCallbacks(incompatible_qos=on_incompatible_qos)
    return PublisherEventCallbacks(matched=lambda _event: on_matched(), incompatible_qos=on_incompatible_qos)


class LifecycleNode(lifecycle.LifecycleNode):
    """A lifecycle node that answers when it is asked for a transition that is not possible now.

    Before Kilted rclpy raises an error in the executor, which ends the node, and never answers.
    """

    def _LifecycleNodeMixin__change_state(self, transition_id: int) -> Any:
        try:
            return getattr(super(), "_LifecycleNodeMixin__change_state")(transition_id)  # noqa: B009
        except RCLError as error:
            self.get_logger().error(f"transition {transition_id} is not possible now: {error}")
            return lifecycle.TransitionCallbackReturn.ERROR
