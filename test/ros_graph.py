# SPDX-License-Identifier: Apache-2.0
"""Helpers for tests over real DDS: node processes, a client in this process, waiting without fixed sleeps.

Every test uses a domain of its own, so that tests in parallel and the host's own graph stay apart.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

from ledpose_ros.nodes.compatibility import LOCAL_DISCOVERY

# Seconds; a machine that trains beside the tests starts a node slowly.
PATIENCE = 40.0

REPOSITORY = Path(__file__).resolve().parent.parent
# Domains above 101 reach into Linux's ephemeral ports; 10 per process keep parallel test runs apart.
_domains = itertools.cycle(10 + (os.getpid() * 10 + offset) % 90 for offset in range(10))


def new_domain() -> int:
    """A ROS domain id that none of the nine tests before has used."""
    return next(_domains)


def ros_environment(domain: int) -> dict[str, str]:
    """The environment of a process in the domain, invisible to other machines."""
    return {
        **os.environ,
        **LOCAL_DISCOVERY,
        "ROS_DOMAIN_ID": str(domain),
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "PYTHONUNBUFFERED": "1",
    }


def run_benchmark(program: str, options: Sequence[str]) -> str:
    """What a Python program that runs a benchmark, in a domain of its own, prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", program, *options],
        env=ros_environment(new_domain()),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def values_of(status: DiagnosticStatus | None) -> dict[str, str]:
    """The values of a status by their keys; none of none."""
    return {pair.key: pair.value for pair in status.values} if status else {}


class NodeProcess:
    """A node that runs as a process of its own; its output is collected in `log`."""

    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """What the node has printed so far, stdout and stderr together."""
        return self._log.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit code of a node that ends by itself."""
        return self._process.wait(timeout)

    def end(self, number: signal.Signals = signal.SIGINT, timeout: float = PATIENCE) -> tuple[int, float]:
        """Send a signal; return the exit code and how many seconds the node took to end.

        Time in which it was ready to run but other programs had the processor does not count.
        """
        start, waited = time.monotonic(), self._seconds_without_processor()
        self._process.send_signal(number)
        # WNOWAIT keeps the ended process in /proc, for its statistics.
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            assert time.monotonic() - start < timeout, f"the node did not end on {number.name}:\n{self.log}"
            time.sleep(0.01)
        seconds = time.monotonic() - start - (self._seconds_without_processor() - waited)
        return self._process.wait(), seconds

    def _seconds_without_processor(self) -> float:
        """How long the process has been ready to run without a processor so far, by Linux's statistics."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9


@contextmanager
def run_node(
    module: str,
    domain: int,
    log: Path,
    parameters: Mapping[str, object] | None = None,
    arguments: Sequence[str] = (),
) -> Iterator[NodeProcess]:
    """Run `python -m MODULE --ros-args -p ...`; ended on leaving if it still runs.

    `log` is the file that takes its output; `arguments` are further ROS arguments (`-r image:=camera/image`).
    """
    settings = [text for name, value in (parameters or {}).items() for text in ("-p", f"{name}:={value}")]
    with run_program([module, "--ros-args", *settings, *arguments], domain, log) as process:
        yield process


@contextmanager
def run_program(words: Sequence[str], domain: int, log: Path) -> Iterator[NodeProcess]:
    """Run `python -m WORDS...` in a ROS domain; ended on leaving if it still runs."""
    command = [sys.executable, "-m", *words]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=ros_environment(domain), stdout=output, stderr=subprocess.STDOUT, cwd=log.parent
        )
    with end_on_leaving(process):
        yield NodeProcess(process, log)


@contextmanager
def end_on_leaving(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """End a process of the ROS graph on leaving, if it still runs.

    By SIGTERM: one killed while it writes to the shared memory of the test's own participant can break that,
    and Fast DDS then crashes the test when it closes the participant.
    """
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()


class Client:
    """A node of the test itself, spun while it waits."""

    def __init__(self, domain: int, name: str = "test_client") -> None:
        os.environ.update(LOCAL_DISCOVERY)
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node: Node = rclpy.create_node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def spin_once(self, timeout: float = 0.02) -> None:
        """Handle what has come in."""
        self._executor.spin_once(timeout_sec=timeout)

    def spin_for(self, seconds: float) -> None:
        """Handle what comes in during the next seconds: to keep a rate, not to wait for an event."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.spin_once(left)

    def wait_until(
        self, predicate: Callable[[], Any], timeout: float = PATIENCE, what: str | Callable[[], str] = ""
    ) -> Any:
        """Spin until the predicate is true and return its value; fail after the timeout, saying `what`."""
        end = time.monotonic() + timeout
        while not (value := predicate()):
            assert time.monotonic() < end, f"not within {timeout} s: {what() if callable(what) else what}"
            self.spin_once()
        return value

    def collect(self, message_type: type, topic: str, qos: Any = 10) -> list:
        """A list that grows by every message of the topic."""
        messages: list = []
        self.node.create_subscription(message_type, topic, messages.append, qos)
        return messages

    def collect_status(self, node_name: str) -> dict[str, str]:
        """The values of the last message on a node's `~/status`, kept up to date."""
        values: dict[str, str] = {}
        self.node.create_subscription(
            DiagnosticStatus,
            f"{node_name}/status",
            lambda message: values.update(values_of(message)),
            10,
        )
        return values

    def call(self, service_type: Any, name: str, request: Any = None, timeout: float = PATIENCE) -> Any:
        """Call a service and return its answer."""
        client: Any = self.node.create_client(service_type, name)
        self.wait_until(client.service_is_ready, timeout, f"service {name}")
        future: Future = client.call_async(request or service_type.Request())
        self.wait_until(future.done, timeout, f"answer of {name}")
        return future.result()

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()


@contextmanager
def ros_client(domain: int, name: str = "test_client") -> Iterator[Client]:
    """A `Client`, closed on leaving."""
    client = Client(domain, name)
    try:
        yield client
    finally:
        client.close()
