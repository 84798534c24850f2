# SPDX-License-Identifier: Apache-2.0
"""Nodes as processes, and an ear among them: what the demo needs to run a ROS graph and to follow it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from tqdm import tqdm

from ledpose_ros.errors import LedposeError
from ledpose_ros.nodes.compatibility import LOCAL_DISCOVERY

ENDING_SECONDS = 20.0
SILENCE_LIMIT = 60.0
"""Seconds without any progress after which a graph is taken for broken."""


def use_private_domain() -> None:
    """Keep the graph of this process and its children to themselves: others neither see nor disturb it."""
    # Domains above 101 reach into Linux's ephemeral ports.
    os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
    os.environ.update(LOCAL_DISCOVERY)


class NodeProcess:
    """A node of this package that runs as a process of its own; its output goes to `log`.

    Of `alpha/estimator` the namespace is `/alpha`.
    """

    def __init__(self, name: str, log: Path, parameters: Mapping[str, object]) -> None:
        self.name, self.log = name, log
        settings = [word for key, value in parameters.items() for word in ("-p", f"{key}:={value}")]
        namespace, _, node = name.rpartition("/")
        command = [sys.executable, "-m", f"ledpose_ros.nodes.{node}", "--ros-args", *settings]
        command += ["-r", f"__ns:=/{namespace}"]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def check(self) -> None:
        """Raise `LedposeError` with the node's last words if it has ended."""
        status = self._process.poll()
        if status is not None:
            lines = self.log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            raise LedposeError(
                f"the {self.name} ended with status {status}, it said: {lines[-1]} (see {self.log})"
            )

    def end(self) -> None:
        """Ask the node to end as Ctrl-C does, and wait for it."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def running_nodes(log_folder: Path, **parameters: Mapping[str, object]) -> Iterator[list[NodeProcess]]:
    """Run nodes by name with their parameters; on leaving they end in the reverse order."""
    processes: list[NodeProcess] = []
    try:
        for name, values in parameters.items():
            processes.append(NodeProcess(name, log_folder / f"{name}.log", values))
        yield processes
    finally:
        for process in reversed(processes):
            process.end()


class Listener:
    """This process's own ROS node; a context manager."""

    def __init__(self) -> None:
        # Python's own signal handler stays: Ctrl-C raises KeyboardInterrupt, and that ends the processes.
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("listener")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown()

    def hear(self, message_type: type, topic: str, callback: Callable[[Any], None]) -> None:
        """Have `callback` called with each message of a topic that is published reliably."""
        self._node.create_subscription(message_type, topic, callback, QoSProfile(depth=100))

    def spin(self, progress: Callable[[], float], processes: list[NodeProcess], bar: tqdm) -> None:
        """Handle messages until `progress()` reaches the bar's total.

        Raises `LedposeError` if one of the processes ends or nothing moves on.
        """
        moved = time.monotonic()
        while bar.n < bar.total:
            self._executor.spin_once(timeout_sec=0.1)
            for process in processes:
                process.check()
            step = min(progress(), bar.total) - bar.n
            if step > 0:
                bar.update(step)
                moved = time.monotonic()
            elif time.monotonic() - moved > SILENCE_LIMIT:
                logs = ", ".join(str(process.log) for process in processes)
                raise LedposeError(f"nothing moves on since {SILENCE_LIMIT:g} s: the reason may be in {logs}")
