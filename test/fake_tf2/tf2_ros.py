# SPDX-License-Identifier: Apache-2.0
"""What the nodes need of tf2_ros, which no package index has: on topics of which the tests have the messages.

Transforms are said on `transforms` and heard on `known_transforms`. `lookup_transform` finds the newest one
directly between two frames up to a time; the real one also follows chains and interpolates.
"""

import time

from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time

QOS = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class TransformBroadcaster:
    topic = "transforms"

    def __init__(self, node):
        self._publisher = node.create_publisher(TransformStamped, self.topic, QOS)

    def sendTransform(self, transforms):
        for transform in transforms if isinstance(transforms, list) else [transforms]:
            self._publisher.publish(transform)


class StaticTransformBroadcaster(TransformBroadcaster):
    topic = "static_transforms"


class Buffer:
    def __init__(self):
        self.known = []

    def clear(self):
        self.known.clear()

    def lookup_transform(self, target_frame, source_frame, stamp, timeout):
        end = time.monotonic() + timeout.nanoseconds / 1e9
        while True:
            for transform in reversed(self.known):
                frames = transform.header.frame_id, transform.child_frame_id
                if frames == (target_frame, source_frame) and Time.from_msg(transform.header.stamp) <= stamp:
                    return transform
            if time.monotonic() > end:
                raise LookupError(f"{source_frame} is not connected with {target_frame}")
            time.sleep(0.01)


class TransformListener:
    def __init__(self, buffer, node):
        self._node = node
        self._heard = node.create_subscription(TransformStamped, "known_transforms", buffer.known.append, QOS)

    def unregister(self):
        self._node.destroy_subscription(self._heard)
