# SPDX-License-Identifier: Apache-2.0
"""The recordings that models are measured on: defined by their seeds, rendered once, then reused.

Seeds from 1000 on are for benchmarks alone, so no model has seen their rooms, lights, textures or robots.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import project, rotation_matrix
from ledpose_ros.recording import Recording

DEFAULT_DIRECTORY = Path(__file__).parent / "data"
SCENE_FRAMES = 4
"""Pictures a scene: few, so that there are many rooms."""


@dataclass(frozen=True, eq=False)
class BenchmarkSet:
    """`count` pictures (640x360) of the `Simulation` with these settings."""

    name: str
    count: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_several_peers(self) -> bool:
        """Whether the poses of all peers are kept beside the recording, which has room for the first's."""
        return self.settings.get("peers", 1) > 1

    def path(self, directory: Path) -> Path:
        """The recording's file."""
        return directory / f"{self.name}.h5"

    def peers_path(self, directory: Path) -> Path:
        """The file with the poses of all peers."""
        return directory / f"{self.name}_peers.npz"


ONE_DISTANCE = 1.5
"""Range [m] of the peer in ONE_PICTURE."""
TEST = BenchmarkSet("test", 1000, {"seed": 2001})
# The same scenes as TEST, the same poses: only the LEDs differ.
LEDS_OFF = BenchmarkSet("leds_off", 1000, {"seed": 2001, "led_state": 0})
LEDS_ON = BenchmarkSet("leds_on", 1000, {"seed": 2001, "led_state": 1})
ABSENT = BenchmarkSet("absent", 400, {"seed": 2002, "absent": 1.0})
TWO_PEERS = BenchmarkSet("two_peers", 100, {"seed": 2003, "peers": 2})
THREE_PEERS = BenchmarkSet("three_peers", 100, {"seed": 2004, "peers": 3})
PICTURES = BenchmarkSet("loading", 192, {"seed": 2005})
"""To measure how fast pictures are handled, whatever they show."""
ONE_PICTURE = BenchmarkSet("one_picture", 1, {"seed": 2006, "distance": ONE_DISTANCE})
"""To calibrate on."""
SETS = (TEST, LEDS_OFF, LEDS_ON, ABSENT, TWO_PEERS, THREE_PEERS, ONE_PICTURE)
VALIDATION = BenchmarkSet("validation", 320, {"seed": 2007, "scene_frames": 1})
"""To choose between ways to learn, so that TEST stays for what comes of the choice."""


def provide(wanted: BenchmarkSet, directory: Path, workers: int | None = None) -> Path:
    """The recording of a set, rendered by `workers` processes (all cores) unless it is in the directory.

    Raises LedposeError for a recording there that cannot be this set.
    """
    path, peers_path = wanted.path(directory), wanted.peers_path(directory)
    if not path.exists() or (wanted.has_several_peers and not peers_path.exists()):
        _render(wanted, path, peers_path, workers or os.cpu_count() or 1)
    with Recording(path) as recording:
        if len(recording) != wanted.count:
            raise LedposeError(
                f"{path} holds {len(recording)} pictures instead of {wanted.count}: "
                "remove it, and it is rendered anew"
            )
    return path


def some_pictures(directory: Path) -> list[np.ndarray]:
    """48 pictures (640x360) of different rooms, uint8 (H, W, 3) RGB."""
    with Recording(provide(PICTURES, directory)) as recording:
        return [recording.image(index) for index in range(0, len(recording), SCENE_FRAMES)]


def _render(wanted: BenchmarkSet, path: Path, peers_path: Path, workers: int) -> None:
    # Imported here: recordings that are there need no OpenGL.
    from ledpose_ros.commands.simulate import write_recording

    for left_over in (path, Path(f"{path}.part")):
        left_over.unlink(missing_ok=True)
    tqdm.write(f"Rendering {path}, {wanted.count} pictures.")
    settings = {"scene_frames": SCENE_FRAMES, **wanted.settings}
    poses, visible = write_recording(path, settings, wanted.count, workers)
    if wanted.has_several_peers:
        np.savez(peers_path, poses=poses, visible=visible)


def peers_of(wanted: BenchmarkSet, directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """Poses (N, P, 7) of all peers in the optical frame and whether each is seen, bool (N, P)."""
    with np.load(wanted.peers_path(directory)) as peers:
        return peers["poses"], peers["visible"]


def leds_facing(recording: Recording, index: np.ndarray) -> np.ndarray:
    """Which LEDs face the camera in these simulated pictures, bool (N, K): it stands before their plane.

    The bearing alone does not tell: from 0.6 m away, the LED at the front of a robot 0.33 m long faces away
    from 74 degrees on.
    """
    from ledpose_ros.simulation.robot import led_outward

    leds, turn = _leds(recording, index)
    outward = np.einsum("nij,kj->nki", turn, led_outward())
    return np.asarray((leds * outward).sum(2) < 0)


def leds_in_view(recording: Recording, index: np.ndarray) -> np.ndarray:
    """Which LEDs the camera sees in these simulated pictures, bool (N, K).

    They face it, and their middles are in the picture.
    """
    info, (leds, _) = recording.info, _leds(recording, index)
    uv = project(leds.reshape(-1, 3), info.K, info.D, info.distortion_model)
    u, v = uv.T.reshape(2, *leds.shape[:2])
    inside = (u > -0.5) & (u < info.width - 0.5) & (v > -0.5) & (v < info.height - 0.5)
    return np.asarray(leds_facing(recording, index) & inside)


def _leds(recording: Recording, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the LEDs are, optical frame (N, K, 3) [m], and the peer's rotation (N, 3, 3)."""
    from ledpose_ros.simulation.robot import LED_CENTRES

    ground_truth = recording.ground_truth()
    assert ground_truth is not None
    pose = ground_truth.pose[index]
    turn = rotation_matrix(pose[:, 3:])
    return pose[:, None, :3] + np.einsum("nij,kj->nki", turn, LED_CENTRES), turn
