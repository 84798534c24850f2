# SPDX-License-Identifier: Apache-2.0
"""Brings together what belongs to one moment: an image, the LED state held then, the true pose if known."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from ledpose_ros.errors import LedposeError
from ledpose_ros.led_sources import LedAssembler, LedTopic
from ledpose_ros.leds import (
    CLOCK_JUMP_NS,
    HeldState,
    LedHistory,
    Rejection,
    led_states_from_message,
    nanoseconds,
)
from ledpose_ros.recording import checked_pose

POSES_KEPT = 1000
# How long an image waits for the LED message after it [s]: generous, for the queue is bounded anyway, and a
# simulator on a busy machine sends its messages late.
LONGEST_WAIT = 10.0
# How long an image waits on [s] once there are LED messages enough: those that were overtaken come meanwhile.
SETTLING = 0.2

ImageT = TypeVar("ImageT")

Refuse = Callable[[str, str], None]
"""Called with a short fixed reason, to count, and a sentence for the log."""


@dataclass(frozen=True, eq=False)
class PairedSample(Generic[ImageT]):
    """An image in whatever form it came, and what was true at its stamp; `pose` (7,) is None if unknown."""

    image: ImageT
    image_stamp_ns: int
    receive_stamp_ns: int
    led_states: np.ndarray
    led_stamp_ns: int
    pose: np.ndarray | None


@dataclass(eq=False)
class _PendingImage(Generic[ImageT]):
    image: ImageT
    stamp_ns: int
    receive_stamp_ns: int
    arrival: float
    size: int
    tellable: float | None = None
    """Since when there are LED messages enough to tell its state."""


class SamplePairer(Generic[ImageT]):
    """Holds images back until the LED state at their stamp is certain.

    Each image gets the state held at its stamp + `led_offset_ns`. It waits for LED messages (and for the pose
    when `expects_poses`) at most `timeout` seconds, and then `settling` seconds more, in a queue whose
    images' sizes sum up to at most `capacity`. Whatever cannot be used goes to `refuse`; nothing is lost
    silently. Not thread-safe.
    """

    def __init__(
        self,
        led_names: Sequence[str],
        history: LedHistory,
        refuse: Refuse,
        led_offset_ns: int = 0,
        settling: float = SETTLING,
        timeout: float = LONGEST_WAIT,
        capacity: float = math.inf,
    ) -> None:
        self.expects_poses = False
        self._led_names = tuple(led_names)
        self._history = history
        self._refuse = refuse
        self._led_offset_ns = led_offset_ns
        self._settling = settling
        self._timeout = timeout
        self._capacity = capacity
        self._pending: deque[_PendingImage[ImageT]] = deque()
        self._pending_size = 0
        self._poses: dict[int, np.ndarray] = {}
        self._newest_ns: dict[str, int] = {}
        self._now = -math.inf
        self._behind: set[str] = set()
        self._behind_until = -math.inf

    @classmethod
    def from_parameters(cls, parameters: Any, refuse: Refuse) -> "SamplePairer[ImageT]":
        """A pairer with the recorder's parameters (attributes)."""
        return cls(
            parameters.led_names,
            LedHistory(nanoseconds(parameters.led_guard), nanoseconds(parameters.led_max_age)),
            refuse,
            led_offset_ns=nanoseconds(parameters.led_offset),
            capacity=parameters.queue_mb * 1_000_000,
        )

    def __len__(self) -> int:
        """Images that wait."""
        return len(self._pending)

    def add_led_message(
        self, stamp_ns: int, receive_stamp_ns: int, names: Sequence[str], positions: Sequence[float]
    ) -> None:
        """Take in `name` and `position` of an LED message."""
        try:
            states = led_states_from_message(self._led_names, names, positions)
        except LedposeError as error:
            self._refuse("malformed LED message", str(error))
            return
        if stamp_ns == 0:
            self._refuse(
                "LED message without stamp", "an LED message has the stamp 0: stamp it when it takes effect"
            )
            return
        late_ns = self._notice_time("LED", stamp_ns)
        if late_ns > 0:
            self._refuse(
                "LED message out of order",
                f"an LED message is {late_ns / 1e9:.3f} s older than the one before it: "
                "let one node alone publish them",
            )
        if "LED" in self._behind:
            self._refuse(
                "LED message before a clock jump",
                "an LED message is of the time before the images' clock jumped: it came late",
            )
            return
        self._history.add(stamp_ns, states, receive_stamp_ns)

    def add_told_leds(self, leds: LedAssembler, topic: LedTopic, message: Any, receive_stamp_ns: int) -> None:
        """Take in a message of an LED source."""
        since_ns, states = receive_stamp_ns, None
        try:
            since_ns = topic.since_ns(message, receive_stamp_ns)
            states = leds.take(topic, message, since_ns)
        except LedposeError as error:
            self._refuse("LEDs not told", str(error))
        if states is not None:
            self.add_led_message(since_ns, receive_stamp_ns, self._led_names, states)
        elif "LED" not in self._behind:
            self._history.interrupt(since_ns)

    def add_image(
        self, image: ImageT, stamp_ns: int, receive_stamp_ns: int, now: float, size: int = 1
    ) -> None:
        """Take in an image of this size, in the unit of the capacity; `now` [s] is of a monotonic clock."""
        if stamp_ns == 0:
            self._refuse("image without stamp", "an image has the stamp 0: the camera driver must set it")
            return
        self._now = now
        back_ns = self._notice_time("image", stamp_ns)
        if "image" in self._behind:
            self._refuse(
                "image before a clock jump",
                "an image is of the time before the LEDs' clock jumped: it came late",
            )
            return
        if back_ns > 0:
            # Those that wait may be of the time before, for which LED messages will not come.
            self._refuse_pending()
            self._refuse(
                "image out of order",
                f"an image is {back_ns / 1e9:.3f} s older than the one before it: the clock was set back, "
                "or several cameras publish on one topic",
            )
            return
        self._pending.append(_PendingImage(image, stamp_ns, receive_stamp_ns, now, size))
        self._pending_size += size

    def add_pose(self, stamp_ns: int, pose: np.ndarray) -> None:
        """Take in the true pose (7,) at exactly the stamp of an image."""
        try:
            checked = checked_pose(pose)
        except LedposeError as error:
            self._refuse("malformed ground truth", str(error))
            return
        if stamp_ns == 0:
            self._refuse("malformed ground truth", "a true pose has the stamp 0: give it that of its image")
            return
        newest_ns = self._newest_ns.get("ground truth", stamp_ns)
        if newest_ns - stamp_ns >= CLOCK_JUMP_NS:
            # Poses say nothing of the clocks of images and LEDs, which jump by themselves.
            self._poses.clear()
            newest_ns = stamp_ns
        self._newest_ns["ground truth"] = max(newest_ns, stamp_ns)
        self._poses[stamp_ns] = checked
        while len(self._poses) > POSES_KEPT:
            del self._poses[next(iter(self._poses))]

    def take_ready(self, now: float, at_most: float = math.inf) -> list[PairedSample[ImageT]]:
        """The samples that are complete, in order of arrival; refuses images that have waited in vain.

        No more than `at_most`, as many as there is room for elsewhere; the others wait on.
        """
        if math.isfinite(now):
            self._now = now
        ready: list[PairedSample[ImageT]] = []
        for image in self._pending:
            if image.tellable is None:
                if self._leds_may_come(self._held(image)):
                    break
                image.tellable = now
        while self._pending and len(ready) < at_most:
            image = self._pending[0]
            held = self._held(image)
            leds_may_come = image.tellable is None or now - image.tellable < self._settling
            pose_may_come = self.expects_poses and self._newest_ns.get("ground truth", 0) < image.stamp_ns
            waited_in_vain = now - image.arrival > self._timeout or self._pending_size > self._capacity
            if (leds_may_come or (pose_may_come and not isinstance(held, Rejection))) and not waited_in_vain:
                break
            self._drop_first()
            if isinstance(held, Rejection):
                self._refuse(held.value, f"an image is rejected: {held.value}")
                continue
            pose = self._poses.pop(image.stamp_ns, None)
            ready.append(
                PairedSample(
                    image.image, image.stamp_ns, image.receive_stamp_ns, held.states, held.stamp_ns, pose
                )
            )
        while self._pending_size > self._capacity:
            self._drop_first()
            self._refuse(
                "queue full", "an image waited to be written until there was no memory left for more"
            )
        return ready

    def _drop_first(self) -> None:
        self._pending_size -= self._pending.popleft().size

    def _held(self, image: _PendingImage[ImageT]) -> HeldState | Rejection:
        return self._history.lookup(image.stamp_ns + self._led_offset_ns)

    def _leds_may_come(self, held: HeldState | Rejection) -> bool:
        return held is Rejection.NEWER or not len(self._history)

    def clear(self) -> None:
        """Forget all messages and waiting images."""
        self._forget()
        self._newest_ns.clear()
        self._behind.clear()

    def _forget(self) -> None:
        self._history.clear()
        self._pending.clear()
        self._pending_size = 0
        self._poses.clear()

    def _refuse_pending(self) -> None:
        while self._pending:
            self._drop_first()
            self._refuse("image before a clock jump", "an image waited for LED states when the clock jumped")

    def _notice_time(self, topic: str, stamp_ns: int) -> int:
        """Keep the newest stamp of a topic; start afresh when it has jumped backwards.

        Messages of the other topic that come after that may be of the time before, for seconds if one was
        lost and sent again. Until it has jumped as well, or LONGEST_WAIT has shown that its clock is another
        one, it is `_behind`. Returns by how much the stamp is older than the newest, at most CLOCK_JUMP_NS.
        """
        if self._now > self._behind_until:
            self._behind.clear()
        back_ns = self._newest_ns.get(topic, stamp_ns) - stamp_ns
        if back_ns < CLOCK_JUMP_NS:
            self._newest_ns[topic] = max(self._newest_ns.get(topic, stamp_ns), stamp_ns)
            return back_ns
        self._newest_ns[topic] = stamp_ns
        if topic in self._behind:
            self._behind.remove(topic)
            return 0
        self._refuse(
            "clock jumped backwards",
            f"{topic} stamps went back by {back_ns / 1e9:.1f} s: LED history and waiting images are dropped",
        )
        self._refuse_pending()
        self._forget()
        self._behind = {"LED", "image"}.intersection(self._newest_ns) - {topic}
        self._behind_until = self._now + LONGEST_WAIT
        return 0
