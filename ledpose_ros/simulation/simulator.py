# SPDX-License-Identifier: Apache-2.0
"""`Simulation`: an endless, seeded sequence of pictures with their LED states and true poses."""

from dataclasses import dataclass

import numpy as np

from ..errors import LedposeError
from ..leds import DEFAULT_LED_DIRECTIONS, DEFAULT_LED_NAMES
from ..recording import RecordingInfo
from .drive import FARTHEST, NEAREST
from .leds import Blinking
from .scene import Scene
from .view import camera_matrix

SCENE_GAP_NS = 1_000_000_000
"""Pause [ns] between the last picture of a scene and the first of the next."""
SIDES = 32, 4096
"""Shortest and longest side of a picture [px]."""


@dataclass(frozen=True)
class Frame:
    """One picture and what was true when it was taken.

    `rgb` (H, W, 3) uint8; `stamp_ns` of the exposure; `led_states` (K,) float32 of the first peer, held since
    `led_stamp_ns`; `poses` (P, 7) of the peers' body frames in the optical frame (x y z qx qy qz qw) and
    `valid` (P,), True where a peer is seen; P is 0 in a scene without peers.
    """

    rgb: np.ndarray
    stamp_ns: int
    led_states: np.ndarray
    led_stamp_ns: int
    poses: np.ndarray
    valid: np.ndarray


class Simulation:
    """Pictures of scene after scene, a pure function of the arguments.

    A scene (room, robots, light, camera) lasts `scene_frames` pictures, `rate` a second; stamps start near 0
    and leave a gap between scenes. A share `absent` of the scenes has no peer. LEDs change half-way between
    two pictures. `dim` darkens the rooms and keeps peers within 1.6 m, which makes LEDs easy to
    discover: a first recording to learn from. With `distance` [m] the peers stand still at that range:
    pictures to calibrate on. With `led_state` (0 off, 1 on) all LEDs keep it, and all else stays as without:
    does it matter what they show? `first_scene` starts later in the same sequence: so several processes share
    one recording.
    """

    def __init__(
        self,
        seed: int,
        width: int = 640,
        height: int = 360,
        peers: int = 1,
        absent: float = 0.0,
        rate: float = 30.0,
        scene_frames: int = 40,
        first_scene: int = 0,
        dim: bool = False,
        distance: float | None = None,
        led_state: float | None = None,
    ):
        shortest, longest = SIDES
        is_sized = shortest <= min(width, height) and max(width, height) <= longest
        if peers < 1 or not 0 <= absent <= 1 or rate <= 0 or not is_sized:
            raise LedposeError(
                f"cannot simulate peers={peers}, absent={absent}, rate={rate}, size {width}x{height}: "
                "peers must be at least 1, absent in 0..1, rate above 0 and both sides "
                f"{shortest} to {longest} px"
            )
        if led_state not in (None, 0, 1):
            raise LedposeError(f"cannot simulate LEDs in state {led_state}: it must be 0 (off) or 1 (on)")
        if distance is not None and not NEAREST <= distance <= FARTHEST:
            raise LedposeError(
                f"cannot simulate a peer at {distance} m: it must be within {NEAREST} and {FARTHEST} m"
            )
        self.seed, self.width, self.height, self.peers, self.absent = seed, width, height, peers, absent
        self.scene_frames, self.dim, self.distance, self.led_state = scene_frames, dim, distance, led_state
        self.period_ns = round(1e9 / rate)
        self.scene_index, self.frame_index = first_scene, 0
        self.scene: Scene | None = None

    @property
    def info(self) -> RecordingInfo:
        """The camera and the LEDs, as a recording describes them."""
        return camera_info(self.width, self.height)

    def step(self) -> Frame:
        """Move on by one picture."""
        if self.scene is not None and self.frame_index == self.scene_frames:
            self.close()
            self.scene_index += 1
        if self.scene is None:
            self.scene = self._enter_scene()
        else:
            self.scene.advance(self.period_ns / 1e9)
            self.stamp_ns += self.period_ns
            self._blinking.switch(self.stamp_ns - self.period_ns // 2, self.period_ns)
        self.frame_index += 1
        return Frame(
            rgb=self.scene.picture(self._blinking.states),
            stamp_ns=self.stamp_ns,
            led_states=self._blinking.states[0].copy(),
            led_stamp_ns=int(self._blinking.stamps[0].max()),
            poses=self.scene.poses,
            valid=self.scene.visible(),
        )

    def close(self) -> None:
        """Free the renderer; the next step enters the current scene anew."""
        if self.scene is not None:
            self.scene.close()
            self.scene = None

    def _enter_scene(self) -> Scene:
        self.rng = np.random.default_rng((self.seed, self.scene_index))
        self.frame_index = 0
        span_ns = self.scene_frames * self.period_ns + SCENE_GAP_NS
        self.stamp_ns = SCENE_GAP_NS + self.scene_index * span_ns
        lit_since_ns = self.stamp_ns - SCENE_GAP_NS // 2
        self._blinking = Blinking(self.rng, self.peers, lit_since_ns, forced=self.led_state)
        is_empty = self.rng.random() < self.absent
        peers = 0 if is_empty else self.peers
        return Scene(self.rng, self.width, self.height, peers, self.dim, self.distance)


def camera_info(width: int, height: int) -> RecordingInfo:
    """The camera of these pictures and the LEDs, as a recording describes them."""
    return RecordingInfo(
        led_names=DEFAULT_LED_NAMES,
        led_directions=DEFAULT_LED_DIRECTIONS,
        camera_frame="camera_optical_frame",
        K=camera_matrix(width, height),
        D=np.zeros(5),
        distortion_model="plumb_bob",
        width=width,
        height=height,
    )
