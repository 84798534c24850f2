# SPDX-License-Identifier: Apache-2.0
"""What the nodes share: parameters, QoS, diagnostics, message conversion and a clean end."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, Pose, Quaternion
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, NameValidationException, ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ledpose_ros.errors import LedposeError
from ledpose_ros.nodes.compatibility import (
    PublisherEventCallbacks,
    SubscriptionEventCallbacks,
    publisher_callbacks,
)
from ledpose_ros.parameters import Parameter
from ledpose_ros.refusals import Refusals, shortened

LED_QUEUE = 100
# Seconds between looks at whether a camera that was best effort still is.
RECONSIDERING_PERIOD = 1.0
UNBOUNDED_INTEGER = 2**63 - 1
OVERRIDABLE_POLICIES = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
)


# --- parameters ---------------------------------------------------------------------------------------------


def declare_parameters(
    node: Node,
    table: Sequence[Parameter],
    check_changes: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> SimpleNamespace:
    """Declare a node's parameters; return their values as attributes, kept up to date when they change live.

    `check_changes` raises `LedposeError` for live changes, name -> value, that do not go with what is set.
    Raises `LedposeError` if a value given at start has the wrong type or lies outside its range.
    """
    values = SimpleNamespace()
    by_name = {parameter.name: parameter for parameter in table}
    for parameter in table:
        try:
            declared: Any = node.declare_parameter(parameter.name, parameter.default, _descriptor(parameter))
        except InvalidParameterTypeException as error:
            wanted = f"{parameter.type_name}, like {parameter.default!r}"
            raise LedposeError(f"parameter '{parameter.name}' must be of type {wanted}: {error}") from error
        except ParameterException as error:
            wanted = parameter.allowed
            raise LedposeError(f"parameter '{parameter.name}' must be {wanted}: {error}") from error
        parameter.check(declared.value)
        setattr(values, parameter.name, declared.value)

    def on_change(changes: list) -> SetParametersResult:
        known = [change for change in changes if change.name in by_name]
        try:
            for change in known:
                by_name[change.name].check(change.value)
            check_changes({change.name: change.value for change in known})
        except LedposeError as error:
            return SetParametersResult(successful=False, reason=str(error))
        for change in known:
            setattr(values, change.name, change.value)
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(on_change)
    return values


def _descriptor(parameter: Parameter) -> ParameterDescriptor:
    """What `ros2 param describe` shows; `Parameter.check` enforces the same and more."""
    constraints = f"one of: {parameter.allowed}" if parameter.choices else ""
    if parameter.allowed and parameter.type_name.endswith("_array"):
        constraints = f"each {parameter.allowed}"  # ROS has ranges for numbers alone
    descriptor = ParameterDescriptor(
        description=parameter.description,
        additional_constraints=constraints,
        read_only=parameter.read_only,
    )
    low, high = parameter.minimum, parameter.maximum
    if low is not None or high is not None:
        if parameter.type_name == "integer":
            descriptor.integer_range = [
                IntegerRange(
                    from_value=-UNBOUNDED_INTEGER if low is None else int(low),
                    to_value=UNBOUNDED_INTEGER if high is None else int(high),
                )
            ]
        elif parameter.type_name == "double":
            descriptor.floating_point_range = [
                FloatingPointRange(
                    from_value=-sys.float_info.max if low is None else float(low),
                    to_value=sys.float_info.max if high is None else float(high),
                )
            ]
    return descriptor


# --- topics -------------------------------------------------------------------------------------------------


def sensor_qos(depth: int = 1) -> QoSProfile:
    """QoS for subscribing to sensor topics: best effort, so that it matches every publisher."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)


def subscribe(
    node: Node,
    message_type: type,
    topic: str,
    callback: Callable[[Any], None],
    qos: QoSProfile,
    refusals: Refusals,
    on_reliability_refused: Callable[[], None] | None = None,
    overridable: Sequence[QoSPolicyKind] = OVERRIDABLE_POLICIES,
    thread: "SensorThread | None" = None,
) -> Subscription:
    """Subscribe; users may override these policies by parameters, `qos_overrides.TOPIC.subscription.POLICY`.

    A publisher that offers less than is asked for is counted and named: else nothing would come, silently.
    Where that is reliable delivery, `on_reliability_refused` is called in place of this if given. Raises
    `LedposeError` for overrides that make no sense.
    """

    def on_incompatible_qos(event: Any) -> None:
        policy = QoSPolicyKind(event.last_policy_kind)
        if policy is QoSPolicyKind.RELIABILITY and on_reliability_refused is not None:
            on_reliability_refused()
            return
        name, policy_name = subscription.topic_name, policy.name.lower()
        advice = "change its QoS"
        if policy in overridable:
            advice += f", or set the parameter qos_overrides.{name}.subscription.{policy_name}"
        refusals.count(
            "incompatible QoS",
            f"a publisher of {name} offers less {policy_name} than is asked for: {advice}",
        )

    try:
        subscription = node.create_subscription(
            message_type,
            topic,
            callback,
            qos,
            callback_group=thread,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=on_incompatible_qos),
            qos_overriding_options=QoSOverridingOptions(overridable),
        )
    except NameValidationException as error:
        raise LedposeError(f"{topic} is no name of a topic: {error}") from error
    except (RuntimeError, TypeError, ValueError, ParameterException) as error:
        raise LedposeError(
            f"cannot subscribe to {topic}, check the parameters qos_overrides: {error}"
        ) from error
    if thread is not None:
        thread.wake()
    return subscription


def subscribe_to_leds(
    node: Node,
    message_type: type,
    topic: str,
    callback: Callable[[Any], None],
    refusals: Refusals,
    thread: "SensorThread | None" = None,
) -> Subscription:
    """Subscribe to LED states, reliably and with a deep queue: after a lost change a wrong state is told."""
    qos = QoSProfile(depth=LED_QUEUE)
    policies = (QoSPolicyKind.DURABILITY,)
    return subscribe(node, message_type, topic, callback, qos, refusals, overridable=policies, thread=thread)


class ImageSubscription:
    """A subscription that asks for reliable delivery, and settles for best effort where that is all there is.

    Best effort alone would match every publisher, but with its default settings Fast DDS then loses most
    messages above half a megabyte, such as raw pictures of 640x360. Reliable alone would hear nothing of a
    best-effort camera driver. DDS tells which of the two it is. Once all that is published is reliable, it is
    asked for again. See `subscribe` for everything else.
    """

    def __init__(
        self,
        node: Node,
        message_type: type,
        topic: str,
        callback: Callable[[Any], None],
        refusals: Refusals,
        depth: int = 1,
        thread: "SensorThread | None" = None,
    ) -> None:
        self._node = node
        self._thread = thread
        self._subscribe = partial(
            subscribe, node, message_type, topic, callback, refusals=refusals, thread=thread
        )
        self._depth = depth
        self._is_destroyed = False
        self._timer: Timer | None = None
        self._subscription = self._subscribe_reliably()

    def destroy(self) -> None:
        """End the subscription."""
        self._is_destroyed = True
        self._end_subscription()

    def _subscribe_reliably(self) -> Subscription:
        qos = QoSProfile(depth=self._depth)
        return self._subscribe(qos=qos, on_reliability_refused=self._on_reliability_refused)

    def _end_subscription(self) -> None:
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
        self._node.destroy_subscription(self._subscription)
        if self._thread is not None:
            self._thread.wake()

    def _on_reliability_refused(self) -> None:
        # Later, not here: a subscription cannot be destroyed in a callback of its own. By a timer, for the
        # thread of the sensors may be told before the node spins.
        if self._timer is None:
            self._timer = self._every(0.0, self._settle_for_best_effort)

    def _settle_for_best_effort(self) -> None:
        if self._is_destroyed:
            return  # meanwhile
        topic, qos = self._subscription.topic_name, self._subscription.qos_profile
        self._node.get_logger().info(f"{topic} is published best-effort, so messages may get lost on the way")
        self._end_subscription()
        qos.reliability = ReliabilityPolicy.BEST_EFFORT
        settled = [policy for policy in OVERRIDABLE_POLICIES if policy is not QoSPolicyKind.RELIABILITY]
        self._subscription = self._subscribe(qos=qos, overridable=settled)
        self._timer = self._every(RECONSIDERING_PERIOD, self._ask_for_reliability)

    def _every(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return self._node.create_timer(seconds, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _ask_for_reliability(self) -> None:
        topic = self._subscription.topic_name
        offered = {info.qos_profile.reliability for info in self._node.get_publishers_info_by_topic(topic)}
        if offered == {ReliabilityPolicy.RELIABLE}:
            self._node.get_logger().info(f"{topic} is published reliably now")
            self._end_subscription()
            self._subscription = self._subscribe_reliably()


def listener_callbacks(
    topic: str, on_listeners: Callable[[], None], refusals: Refusals
) -> PublisherEventCallbacks:
    """Have `on_listeners` called when somebody subscribes to a publisher, or no longer does.

    Who asks for more than is offered, and so hears nothing, is counted. Humble does not tell that listeners
    have come: whoever needs to know must also poll.
    """

    def on_incompatible_qos(event: Any) -> None:
        policy = QoSPolicyKind(event.last_policy_kind).name.lower()
        refusals.count(
            "incompatible QoS",
            f"a subscriber of {topic} asks for more {policy} than is offered, so it hears nothing: "
            "change its QoS",
        )

    return publisher_callbacks(on_listeners, on_incompatible_qos)


def stamp_from_ns(nanoseconds: int) -> Time:
    """Nanoseconds as a ROS stamp."""
    seconds, remainder = divmod(int(nanoseconds), 1_000_000_000)
    return Time(sec=seconds, nanosec=remainder)


def message_from_rgb(rgb: np.ndarray, header: Header) -> Image:
    """A `sensor_msgs/Image` (rgb8) of a uint8 (H, W, 3) array."""
    height, width, _ = rgb.shape
    message = Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width)
    # The array is filled in place: the setter would check a bytes object element by element.
    message.data.frombytes(np.ascontiguousarray(rgb, dtype=np.uint8).tobytes())
    return message


def pose_message(pose: np.ndarray) -> Pose:
    """A pose 7-vector, x y z qx qy qz qw, as a message."""
    x, y, z, qx, qy, qz, qw = (float(value) for value in pose)
    return Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


# --- diagnostics --------------------------------------------------------------------------------------------

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def diagnostics_message(
    node: Node, level: bytes, summary: str, values: Mapping[str, object], hardware_id: str = ""
) -> DiagnosticArray:
    """A `/diagnostics` message with one status, named after the node, stamped with the node's clock."""
    status = DiagnosticStatus(
        level=level,
        name=node.get_fully_qualified_name().lstrip("/"),
        message=shortened(summary),
        hardware_id=hardware_id,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
    return DiagnosticArray(header=Header(stamp=node.get_clock().now().to_msg()), status=[status])


# --- threads ------------------------------------------------------------------------------------------------


class SensorThread(MutuallyExclusiveCallbackGroup):
    """Callbacks of a node that come at the rate of its sensors, handled in a thread of their own.

    For each callback, rclpy's executors build two wait sets of all that a node has. With the services and
    events of a lifecycle node, this takes as much time as locating the peers: so subscriptions of this group
    are hidden from the node's executor, and have one that knows nothing else.
    """

    def __init__(self, node: Node, name: str) -> None:
        super().__init__()
        self._node, self._name = node, name
        self._thread: threading.Thread | None = None
        self._executor: SingleThreadedExecutor | None = None
        self._ending = threading.Event()

    def can_execute(self, entity: Any) -> bool:
        return threading.current_thread() is self._thread and super().can_execute(entity)

    def start(self) -> None:
        """Begin to handle callbacks."""
        self._ending.clear()
        executor = _GroupExecutor(self._node, self)
        thread = threading.Thread(
            target=_spin, args=(executor, self._node, self._ending), name=self._name, daemon=True
        )
        thread.start()
        self._executor, self._thread = executor, thread
        # It could not execute anything yet: see `can_execute`.
        self.wake()

    def wake(self) -> None:
        """Take notice of subscriptions that have come or gone."""
        if self._executor is not None:
            self._executor.wake()

    def stop(self) -> None:
        """Finish the callback that runs, if one does, and handle no more."""
        if self._thread is None or self._executor is None:
            return
        _end_spinning(self._executor, self._ending)
        self._thread.join()
        self._executor.shutdown()
        self._thread = self._executor = None


class _GroupExecutor(SingleThreadedExecutor):
    """Handles one callback group of a node that remains with its own executor."""

    def __init__(self, node: Node, group: CallbackGroup) -> None:
        super().__init__(context=node.context)
        self._node, self._group = node, group

    def get_nodes(self) -> list[Node]:
        return [self._node]

    def can_execute(self, entity: Any) -> bool:
        return entity.callback_group is self._group and super().can_execute(entity)


# --- main ---------------------------------------------------------------------------------------------------


def run_node(factory: Callable[[], Any], args: list[str] | None = None) -> int:
    """Run the node that `factory` makes until SIGINT or SIGTERM; return the process's exit code.

    The node releases its threads and files in `close()`, which is called in every case. A `LedposeError` at
    start is printed as one sentence and gives exit code 2. What a callback raises is logged, and counted
    where the node counts refusals.
    """
    # Signals only wake the main thread; the spinning happens beside it. So no exception can strike in the
    # middle of close(), and the node can still publish and log there: rclpy's own handlers prevent both. They
    # do so by a pipe: handlers in Python run in the main thread alone, which a signal does not wake if the
    # system gives it to another thread, as happens when several come at once.
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    node = None
    try:
        node = factory()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        ending = threading.Event()
        with ThreadPoolExecutor(max_workers=1) as pool:
            spinning = pool.submit(_spin, executor, node, ending)
            spinning.add_done_callback(lambda _: os.write(wake, b"\0"))
            os.read(woken, 1)
            _end_spinning(executor, ending)
        executor.shutdown()
        spinning.result()
    except LedposeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        try:
            if node is not None:
                node.close()
                node.destroy_node()
        finally:
            rclpy.try_shutdown()
        # All is done, but launch may repeat itself: at its end Python puts the deadly defaults back in place
        # of handlers, but not of this.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    return 0


def _spin(executor: SingleThreadedExecutor, node: Any, ending: threading.Event) -> None:
    """Handle what comes until `ending` is set: a callback during executor.shutdown() may fail."""
    refusals: Refusals | None = getattr(node, "_refusals", None)
    while not ending.is_set():
        try:
            executor.spin_once()
        except Exception as error:  # a bug, or a request that rclpy's own callbacks cannot take
            node.get_logger().error(traceback.format_exc(), throttle_duration_sec=5.0)
            if refusals is not None:
                refusals.count("internal error", f"{type(error).__name__}: {error}")
            # An executor that always fails must not take a core of its own.
            ending.wait(0.01)


def _end_spinning(executor: SingleThreadedExecutor, ending: threading.Event) -> None:
    """End `_spin` in another thread."""
    ending.set()
    # Work for the executor, for otherwise it would go on to wait for some.
    executor.create_task(lambda: None)
