# SPDX-License-Identifier: Apache-2.0
"""The datasets that the method's authors have published, as samples of a recording.

https://github.com/idsia-robotics/ssl-pretext-multi-led: RoboMaster S1 robots that look at each other, HDF5.
For a robot a that carries the camera and a robot b in front of it, one row is an image, the LED states of b,
and from motion capture the pose of b in a's base frame, that of a's camera there, and where b's turret is in
the image.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
from numpy.typing import NDArray

from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import (
    LEVEL_CAMERA,
    project,
    quaternion_about,
    quaternion_inverse,
    quaternion_product,
    rotation_matrix,
)
from ledpose_ros.recording import RecordingInfo

LEDS = {
    "front": ("bf", 0.0),
    "left": ("bl", math.pi / 2),
    "back": ("bb", math.pi),
    "right": ("br", -math.pi / 2),
    "top_left": ("tl", math.pi / 2),
    "top_right": ("tr", -math.pi / 2),
}
"""For each LED the end of its dataset's name, and the direction [rad] from which it is seen best."""
K = np.array([[314.267, 0, 322.317], [0, 314.248, 176.740], [0, 0, 1]])
D = np.array([-0.07173926, 0.0384923, -0.00145677, 0.0002169, -0.03831285])
CAMERA = K, D, "plumb_bob"

ROWS = 64
"""Images read at once: the files are far larger than memory."""
COMPARED_ROWS = 2000
AGREEMENT = 25.0
"""Pixels by which a robot's base may lie beside its turret in an upright picture."""
SECONDS_BELOW = ((1e11, 1.0), (1e14, 1e-3), (1e17, 1e-6), (math.inf, 1e-9))
"""Stamps since 1970 below these limits count in these seconds."""


@dataclass(frozen=True, eq=False)
class IdsiaSample:
    """A row: RGB image (H, W, 3), stamp, LED states (K,), true pose (7,) in the optical frame or None."""

    image: NDArray[np.uint8]
    stamp_ns: int
    led_states: NDArray[np.float32]
    pose: NDArray[np.float64] | None


class IdsiaDataset:
    """A dataset to read; `robots` are its names. Raises `LedposeError` for a file that is none.

    `left_out` counts, by reason, the rows that `samples` has passed over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_out: Counter[str] = Counter()
        if not path.is_file():
            raise LedposeError(f"there is no dataset {path}: check its name")
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise LedposeError(f"{path} cannot be read as HDF5 ({error}): download it again") from error
        try:
            names = np.atleast_1d(self._file.attrs["RIDs"])
            text = " ".join(name.decode() if isinstance(name, bytes) else str(name) for name in names)
            self.robots = tuple(re.findall(r"RM\d+", text))
            self._number = np.asarray(self._file["robot_id"][:])
            self._stamps_ns = self._read_stamps()
            self._images = self._file["image"]
            shape = self._images.shape
            if shape[1:] != (360, 640, 3) or not len(self._number) == len(self._stamps_ns) == shape[0]:
                raise LedposeError(f"its images are {shape}, (N, 360, 640, 3) is expected")
        except (KeyError, OSError, LedposeError) as error:
            self._file.close()
            raise LedposeError(f"{path} is no dataset of ssl-pretext-multi-led: {error}") from error

    def _read_stamps(self) -> NDArray[np.int64]:
        """Stamps (N,) [ns]; 0 where there is none."""
        values = np.asarray(self._file["timestamp"][:])
        known = np.isfinite(values)
        largest = float(np.abs(values[known]).max()) if known.any() else 0.0
        unit = next(seconds for limit, seconds in SECONDS_BELOW if largest < limit)
        if np.issubdtype(values.dtype, np.integer):
            return values.astype(np.int64) * round(unit * 1e9)
        return np.round(np.where(known, values, 0) * unit * 1e9).astype(np.int64)

    def pairs(self, camera: str | None = None, peer: str | None = None) -> list[tuple[str, str]]:
        """Who looks and who is looked at: robots that took images, each with its peer; only those named."""
        for robot in (camera, peer):
            if robot is not None and robot not in self.robots:
                raise LedposeError(f"{self.path} has no {robot}: its robots are {', '.join(self.robots)}")
        pairs = [
            (looking, seen)
            for looking in self.robots
            for seen in self.robots
            if looking != seen and camera in (None, looking) and peer in (None, seen) and self.count(looking)
        ]
        if not pairs:
            raise LedposeError(f"{self.path} has no image that fits, of its robots {', '.join(self.robots)}")
        if len({looking for looking, _ in pairs}) < len(pairs):
            raise LedposeError(
                f"in {self.path} an image may show several of {', '.join(self.robots)}: choose with --peer"
            )
        return pairs

    def led_names(self, peer: str) -> tuple[str, ...]:
        """The LEDs of a robot whose states the file has."""
        return tuple(name for name, (end, _) in LEDS.items() if f"{peer}_led_{end}" in self._file)

    def info(self, led_names: tuple[str, ...], image_encoding: str) -> RecordingInfo:
        """What holds for a recording of these LEDs."""
        unknown = [name for name in led_names if name not in LEDS]
        if unknown:
            raise LedposeError(f"there is no LED {', '.join(unknown)}: choose from {', '.join(LEDS)}")
        directions = tuple(LEDS[name][1] for name in led_names)
        height, width = self._images.shape[1:3]
        return RecordingInfo(
            led_names, directions, "camera_optical_frame", *CAMERA, width, height, image_encoding
        )

    def count(self, camera: str) -> int:
        """Rows whose image a robot has taken."""
        return len(self._rows(camera))

    def _rows(self, camera: str) -> NDArray[np.int64]:
        return np.flatnonzero(self._number == int(camera.removeprefix("RM")))

    def samples(self, camera: str, peer: str, led_names: tuple[str, ...]) -> Iterator[IdsiaSample | None]:
        """The rows of a camera robot in order; None for one that is left out."""
        missing = [name for name in led_names if name not in self.led_names(peer)]
        if missing:
            raise LedposeError(f"{self.path} has no states of the LED {', '.join(missing)} of {peer}")
        states = np.stack([self._column(f"{peer}_led_{LEDS[name][0]}") for name in led_names], axis=1)
        return self._samples(self._rows(camera), states, self._poses(camera, peer))

    def _samples(
        self, rows: NDArray[np.int64], states: NDArray[np.float64], poses: NDArray[np.float64]
    ) -> Iterator[IdsiaSample | None]:
        known_states = np.all((states >= 0) & (states <= 1), axis=1)
        for first in range(0, len(self._images), ROWS):
            block = rows[(rows >= first) & (rows < first + ROWS)]
            if not len(block):
                continue
            try:
                images = self._images[block[0] : block[-1] + 1]
            except OSError as error:
                raise LedposeError(f"cannot read image {block[0]} of {self.path}: {error}") from error
            for row in block:
                if not self._stamps_ns[row]:
                    self.left_out["no time stamp"] += 1
                    yield None
                elif not known_states[row]:
                    self.left_out["LED states not between 0 and 1"] += 1
                    yield None
                else:
                    yield IdsiaSample(
                        images[row - block[0]],
                        int(self._stamps_ns[row]),
                        states[row].astype(np.float32),
                        poses[row] if np.isfinite(poses[row]).all() else None,
                    )

    def _column(self, name: str) -> NDArray[np.float64]:
        if name not in self._file:
            raise LedposeError(f"{self.path} has no dataset {name}")
        values = np.asarray(self._file[name][:], np.float64)
        if len(values) != len(self._number):
            raise LedposeError(f"{self.path}: {name} has {len(values)} rows instead of {len(self._number)}")
        return values

    def _poses(self, camera: str, peer: str) -> NDArray[np.float64]:
        """Poses (N, 7) of the peer in the optical frame; NaN where it is not in the picture or not known."""
        poses = np.full((len(self._number), 7), np.nan)
        if f"{camera}_pose_rel_{peer}" not in self._file:
            return poses
        x, y, theta = self._column(f"{camera}_pose_rel_{peer}").T
        uvz = self._column(f"{camera}_proj_uvz_{peer}")
        camera_poses = self._column(f"{camera}_camera_pose")
        height, width = self._images.shape[1:3]
        known = np.isfinite(np.column_stack([x, y, theta, uvz, camera_poses])).all(axis=1)
        known &= (uvz[:, 2] > 0) & np.all((uvz[:, :2] >= 0) & (uvz[:, :2] < (width, height)), axis=1)
        if not known.any():
            return poses
        base, turret = camera_poses[known], uvz[known, :2]
        position = np.column_stack([x, y, np.zeros_like(x)])[known] - base[:, :3]
        errors = {}
        # The file does not say whether the camera's axes are those of its body or of its picture: they are
        # those with which robots stand below their turrets.
        for axes in (LEVEL_CAMERA, np.array([0.0, 0.0, 0.0, 1.0])):
            optical = quaternion_product(base[:, 3:], axes)
            seen = np.einsum("nij,ni->nj", rotation_matrix(optical), position)
            uv = project(seen[:COMPARED_ROWS], *CAMERA)
            beside = np.abs(uv[:, 0] - turret[:COMPARED_ROWS, 0])
            orientation = quaternion_product(quaternion_inverse(optical), quaternion_about(2, theta[known]))
            found = np.column_stack([seen, orientation / np.linalg.norm(orientation, axis=1, keepdims=True)])
            errors[float(np.median(np.nan_to_num(beside, nan=np.inf)))] = found
        best = min(errors)
        if best > AGREEMENT:
            raise LedposeError(
                f"in {self.path} the poses of {peer} seen from {camera} lie {best:.0f} px beside its turret: "
                "the file has another layout than the published ones"
            )
        poses[known] = errors[best]
        return poses

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> IdsiaDataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
