# SPDX-License-Identifier: Apache-2.0
"""The LED driver node: LEDs that change at random, and on led_states what is so.

Topics, services, parameters and adapters: docs/led_driver.md.
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from ledpose_ros.blinking import BlinkSettings, LedDriver, Mode, States
from ledpose_ros.errors import LedposeError
from ledpose_ros.led_adapters import (
    GpioLeds,
    LedAdapter,
    PrintedLeds,
    command_messages,
    read_adapter_topics,
    read_pins,
)
from ledpose_ros.led_sources import LedTopic, set_value
from ledpose_ros.leds import check_led_names
from ledpose_ros.nodes.common import (
    ERROR,
    LED_QUEUE,
    OK,
    WARN,
    declare_parameters,
    diagnostics_message,
    run_node,
    stamp_from_ns,
)
from ledpose_ros.parameters import NODE_PARAMETERS
from ledpose_ros.paths import user_path
from ledpose_ros.refusals import Refusals

COMMAND_QUEUE = 10
# For the middleware to send what was said last.
FAREWELL = Duration(seconds=0.2)
DIAGNOSTICS_PERIOD = 1.0
IDLE_PERIOD = 1.0
IN_WORDS = {
    Mode.RANDOM: "the LEDs change at random",
    Mode.ALL_ON: "all LEDs are kept on",
    Mode.ALL_OFF: "all LEDs are kept off",
    Mode.DISABLED: "disabled: all LEDs were switched off and are left to others",
}


class TopicLeds:
    """LEDs that messages on topics switch.

    A command has returned when the middleware has the messages. Waiting for those who listen to acknowledge
    them is no use: with Fast DDS they do so when asked, every three seconds.
    """

    def __init__(self, node: Node, led_names: Sequence[str], topics: Sequence[LedTopic]) -> None:
        self._clock = node.get_clock()
        self._led_names = tuple(led_names)
        self._outputs = [
            (
                topic,
                topic.message_class(),
                node.create_publisher(topic.message_class(), topic.name, COMMAND_QUEUE),
            )
            for topic in topics
        ]

    def command(self, states: Sequence[bool], before: Sequence[bool] | None) -> None:
        self.check()
        now = dict(zip(self._led_names, states, strict=True))
        then = None if before is None else dict(zip(self._led_names, before, strict=True))
        for topic, message_class, publisher in self._outputs:
            for message in command_messages(topic, message_class, now, then):
                if topic.stamp is not None:
                    stamp = self._clock.now().to_msg()
                    set_value(message, f"{topic.stamp}.sec", stamp.sec)
                    set_value(message, f"{topic.stamp}.nanosec", stamp.nanosec)
                publisher.publish(message)

    def check(self) -> None:
        for _, _, publisher in self._outputs:
            if publisher.get_subscription_count() == 0:
                raise LedposeError(
                    f"nobody listens to {publisher.topic_name}: start the robot's driver, or remap the topic"
                )

    def close(self) -> None:
        pass


class LedDriverNode(Node):
    """Gives a `LedDriver` its adapter, the time and a voice."""

    def __init__(self) -> None:
        super().__init__("led_driver")
        parameters = declare_parameters(self, NODE_PARAMETERS["led_driver"])
        self._led_names = list(parameters.led_names)
        check_led_names(self._led_names)
        settings = BlinkSettings(
            parameters.rate,
            parameters.hold,
            parameters.command_delay,
            parameters.led_guard,
            parameters.led_max_age,
        )
        settings.check(len(self._led_names), parameters.camera_rate)
        seed = parameters.seed if parameters.seed >= 0 else int(np.random.SeedSequence().generate_state(1)[0])
        self.get_logger().info(f"seed of the random states: {seed}")

        self._refusals = Refusals(self.get_logger().warning)
        self._publisher = self.create_publisher(JointState, "led_states", QoSProfile(depth=LED_QUEUE))
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self._adapter = self._make_adapter(parameters.adapter)
        self._driver = LedDriver(
            len(self._led_names),
            self._adapter,
            settings,
            seed,
            self._say,
            self._refusals.count,
            lambda: self.get_clock().now().nanoseconds,
        )
        self._driver.set_mode(Mode(parameters.mode))
        self.create_service(SetBool, "~/enable", self._on_enable)
        self.create_service(Trigger, "~/all_on", partial(self._on_hold, Mode.ALL_ON))
        self.create_service(Trigger, "~/all_off", partial(self._on_hold, Mode.ALL_OFF))
        # Steady time, so that LEDs and diagnostics go on while simulated time stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._slow_before = 0
        self.create_timer(DIAGNOSTICS_PERIOD, self._publish_diagnostics, clock=steady)
        self._timer = self.create_timer(0.001, self._step, clock=steady)

    def close(self) -> None:
        """Switch the LEDs off, say so, and let go of them."""
        self._driver.finish()
        if self._driver.error:
            print(f"error: the LEDs may still be on: {self._driver.error}", file=sys.stderr)
        self._publisher.wait_for_all_acked(FAREWELL)
        self._adapter.close()

    def _make_adapter(self, path: str) -> LedAdapter:
        if not path:
            return PrintedLeds(self._led_names, self.get_logger().info)
        table = user_path(path)
        pins = read_pins(table, self._led_names)
        if pins is not None:
            return GpioLeds(self._led_names, pins)
        return TopicLeds(self, self._led_names, read_adapter_topics(table, self._led_names))

    def _step(self) -> None:
        due = min(self._driver.step(), IDLE_PERIOD)
        # Rounded up: a timer that fires too early would have nothing to do.
        self._timer.timer_period_ns = int(due * 1e9) + 1_000
        self._timer.reset()

    def _say(self, stamp_ns: int, states: States) -> None:
        if stamp_ns <= 0:
            self._refusals.count(
                "no /clock yet", "the LEDs change but simulated time has not begun: publish /clock"
            )
            return
        message = JointState(header=Header(stamp=stamp_from_ns(stamp_ns)))
        message.name = self._led_names
        message.position = [float(state) for state in states]
        self._publisher.publish(message)

    # --- services -------------------------------------------------------------------------------------------

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        return self._change_mode(Mode.RANDOM if request.data else Mode.DISABLED, response)

    def _on_hold(self, mode: Mode, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._change_mode(mode, response)

    def _change_mode(self, mode: Mode, response: Any) -> Any:
        self._driver.set_mode(mode)
        self._step()
        response.success = not self._driver.error
        response.message = self._driver.error or f"from the end of the present state on {IN_WORDS[mode]}"
        return response

    # --- diagnostics ----------------------------------------------------------------------------------------

    def _publish_diagnostics(self) -> None:
        driver = self._driver
        states = driver.states
        values: dict[str, object] = {"mode": driver.mode.value}
        for led, name in enumerate(self._led_names):
            values[f"LED {name}"] = "not known" if states is None else "on" if states[led] else "off"
        values |= {
            "commands": driver.commands,
            "longest command [s]": f"{driver.longest_command:.3f}",
            "blinking for [s]": f"{driver.random_time:.0f}",
        }
        for name, lit_time in zip(self._led_names, driver.lit_time, strict=True):
            values[f"LED {name} on [%]"] = f"{100 * lit_time / max(driver.random_time, 1e-9):.0f}"
        values |= {f"refused: {reason}": count for reason, count in sorted(self._refusals.counts.items())}
        level, summary = OK, IN_WORDS[driver.mode]
        if driver.error:
            level, summary = ERROR, f"the states of the LEDs are not known: {driver.error}"
        elif driver.slow_commands > self._slow_before:
            level, summary = WARN, self._refusals.sentences["slow command"]
        self._slow_before = driver.slow_commands
        self._diagnostics_publisher.publish(diagnostics_message(self, level, summary, values))


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    return run_node(LedDriverNode, args)


if __name__ == "__main__":
    sys.exit(main())
