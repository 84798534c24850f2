# SPDX-License-Identifier: Apache-2.0
"""What was refused, counted by reason; and what each of the recorder's reasons means and is mended by."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

MAX_LENGTH = 500
"""Characters of a sentence that are kept: it may quote what came, however much that was."""


def shortened(sentence: str) -> str:
    """A sentence of at most MAX_LENGTH characters, and dots if it went on."""
    return sentence if len(sentence) <= MAX_LENGTH else f"{sentence[:MAX_LENGTH]} ..."


class Refusals:
    """Counts by reason, may be used from any thread.

    `tell` is called with a sentence at most every `period` seconds for each reason. Steady time throttles, so
    that sentences also appear while simulated time stands still.
    """

    def __init__(self, tell: Callable[[str], object] | None = None, period: float = 5.0) -> None:
        self._tell = tell
        self._period = period
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._sentences: dict[str, str] = {}
        self._told: dict[str, float] = {}

    def count(self, reason: str, sentence: str) -> None:
        """Count one refusal; `reason` is a short fixed key, `sentence` tells of this case."""
        now, sentence = time.monotonic(), shortened(sentence)
        with self._lock:
            self._counts[reason] += 1
            self._sentences.pop(reason, None)  # so that the latest comes last
            self._sentences[reason] = sentence
            due = now - self._told.get(reason, -math.inf) >= self._period
            if due:
                self._told[reason] = now
        if due and self._tell is not None:
            self._tell(f"{sentence} ({self._counts[reason]} so far)")

    @property
    def counts(self) -> Counter[str]:
        """How often each reason was counted so far; a copy."""
        with self._lock:
            return self._counts.copy()

    @property
    def sentences(self) -> dict[str, str]:
        """The latest case of each reason in a sentence, the latest of all last; a copy."""
        with self._lock:
            return self._sentences.copy()


@dataclass(frozen=True)
class Reason:
    """A reason of the recorder in words for its user."""

    meaning: str
    advice: str


RECORDER_REASONS: dict[str, Reason] = {
    # images and the LED states held when they were taken
    "no LED state yet": Reason("no LED message at or before the image", "start the LED driver first"),
    "newer than last LED message": Reason(
        "no LED message came after the image, while it waited 10 s or until `queue_mb` were full",
        "repeat the LED states more often; synchronise the clocks, or set `led_offset`",
    ),
    "LED states too old": Reason(
        "more than `led_max_age` between the LED messages before and after the image",
        "repeat the LED states more often",
    ),
    "within guard of a change": Reason(
        "the LEDs changed less than `led_guard` before or after the image",
        "some loss is meant, a tenth of a second per change with the default; change the LEDs less often",
    ),
    "disputed LED state": Reason(
        "around the image LED messages came out of order, or the clock was set back a little",
        "let one node alone publish them, and set the clock before recording",
    ),
    "unknown LED state": Reason(
        "a table of LED sources told last, before the image, of something whose LEDs cannot be observed",
        "let the robot show nothing of its own meanwhile, such as an effect that flashes",
    ),
    # LED messages
    "malformed LED message": Reason(
        "names or positions are not those of `led_names`", "name every LED once, each from 0 (off) to 1 (on)"
    ),
    "LED message without stamp": Reason(
        "its stamp is 0", "let the LED driver stamp when the state took effect"
    ),
    "LED message out of order": Reason(
        "it is older than the one before it", "let one node alone publish them"
    ),
    "LED message before a clock jump": Reason(
        "it came after images whose clock had been set back", "set the clock before recording"
    ),
    "LEDs not told": Reason(
        "a message of an LED source does not tell the LEDs",
        "let no effects run on the robot; see `led_sources`",
    ),
    # images
    "image without stamp": Reason("its stamp is 0", "let the camera driver set it"),
    "image out of order": Reason(
        "it is older than the one before it", "set the clock before recording; give each camera its own topic"
    ),
    "image before a clock jump": Reason(
        "it waited for LED states when the clock jumped, or came late", "set the clock before recording"
    ),
    "unreadable image": Reason(
        "the message is cut off or of an unknown encoding",
        "look at the log, which tells what is wrong with it",
    ),
    "image size differs from CameraInfo": Reason(
        "the calibration is for another size", "calibrate the camera at the size it publishes"
    ),
    "camera changed": Reason(
        "size or calibration changed within a recording", "call `~/split` to go on in a new file"
    ),
    "no CameraInfo yet": Reason("images came before any usable CameraInfo", "publish `camera_info` as well"),
    "camera not calibrated": Reason(
        "the CameraInfo has no focal length", "calibrate the camera, or let its driver load the calibration"
    ),
    "queue full": Reason(
        "the disk is too slow", "write to a faster disk, or lower rate, size or `jpeg_quality`"
    ),
    "recording failed": Reason(
        "it waited to be written when writing failed", "see the error in the recorder's status"
    ),
    # the rest
    "malformed ground truth": Reason("the pose is no pose", "publish finite numbers and unit quaternions"),
    "clock jumped backwards": Reason(
        "stamps went back by a second or more, as when a bag starts over; LED states were forgotten",
        "set the clock before recording, and not during it",
    ),
    "no /clock yet": Reason("simulated time has not begun", "publish `/clock`"),
    "incompatible QoS": Reason(
        "a publisher offers less than the recorder asks for; the log names topic and policy",
        "let LED states be published reliably",
    ),
    "unreadable message": Reason("a message of a bag cannot be decoded", "repair the bag"),
    "internal error": Reason(
        "a mistake of ours, or a request that makes no sense", "report the traceback in the log"
    ),
}
