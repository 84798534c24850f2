# SPDX-License-Identifier: Apache-2.0
"""What an ONNX model says about itself, and where the shipped model lies.

The model file's metadata properties are JSON strings under fixed keys, see `docs/model.md`.
"""

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ledpose_ros import __version__
from ledpose_ros.errors import LedposeError
from ledpose_ros.leds import check_leds

VERSION = 1
DEFAULT_MODEL = "robomaster_sim_int8.onnx"
TRAINABLE_MODEL = "robomaster_sim.onnx"
"""What the default model was made of: training cannot begin with 8-bit weights."""
FLOAT32, FLOAT16, INT8 = PRECISIONS = ("float32", "float16", "int8")
WINDOW_SIDE = 72.0
"""Side [px] of the fine network's window in an image rescaled to log2_scale = 0 by definition."""
SAME_PEER = 0.3
"""Windows nearer to each other than this share of the geometric mean of their sides show the same peer.

Of the larger side, it would hide peers beside a near one; of the smaller, find parts of one.
"""


DeviationScale = tuple[float, float, float, float]

DIGEST_KEY = "ledpose.digest"
NO_DIGEST = "0" * 64
# The digest's entry in the file: key, then tag and length of the value, a JSON string.
SIGNATURE = re.compile(re.escape(DIGEST_KEY.encode()) + rb'\x12\x42"([0-9a-f]{64})"')
# What is left of it when one part of it was damaged.
REMAINS = re.compile(re.escape(DIGEST_KEY.encode()) + rb'|\x12\x42"[0-9a-f]{64}"')


@dataclass(frozen=True)
class Calibration:
    """What LED states cannot teach: log2 depth = log2_scale + c, and where the peer's reference point is.

    `c` holds for pictures of `width` pixels; `focal_length` [px] is their camera's, None if it was not known.
    `residual` [octaves] is the standard deviation of log2 depth that it leaves over `images` pictures;
    `rejected` more disagreed with them.

    The network settles on a point of the peer's near side. The reference point is `recess` [m] farther from
    the camera, along the floor; lower by `offset` and, along the peer's heading, further on by `forward`,
    both in sides of the window, WINDOW_SIDE * 2^-log2_scale pixels.

    `deviation_scale` says by which factors errors are larger than the network says, in u, v, log2 distance
    and bearing.
    """

    c: float
    images: int
    residual: float
    width: int
    focal_length: float | None = None
    rejected: int = 0
    offset: float = 0.0
    forward: float = 0.0
    recess: float = 0.0
    deviation_scale: DeviationScale = (1.0, 1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        _require(_is_number(self.c), f"calibration constant c is {self.c!r}, but must be a finite number")
        _require(
            _is_count(self.images), f"calibration was made from {self.images!r} images, but needs at least 1"
        )
        _require(
            _is_number(self.residual) and self.residual >= 0,
            f"calibration residual is {self.residual!r}, but must be at least 0",
        )
        _require(_is_count(self.width), f"calibration width is {self.width!r}, but must be at least 1 pixel")
        _require(
            self.focal_length is None or (_is_number(self.focal_length) and self.focal_length > 0),
            f"calibration focal length is {self.focal_length!r}, but must be above 0 or null",
        )
        _require(
            self.rejected == 0 or _is_count(self.rejected),
            f"calibration rejected {self.rejected!r} images, but it must be a number from 0",
        )
        for name in ("offset", "forward", "recess"):
            value = getattr(self, name)
            _require(_is_number(value), f"calibration {name} is {value!r}, but must be a finite number")
        factors = tuple(self.deviation_scale)
        _require(
            len(factors) == 4 and all(_is_number(factor) and factor > 0 for factor in factors),
            f"calibration deviation scale is {list(factors)}, but must be four numbers above 0",
        )
        object.__setattr__(self, "deviation_scale", factors)  # a tuple, though JSON has lists


@dataclass(frozen=True)
class ModelMetadata:
    """Everything besides the weights: which LEDs it tells, at which scales it looks, how it was made.

    `led_directions` [rad] are the method's alpha_k; `scales` the image pyramid's factors, finest first;
    `stride` [px] the network's; `input_size` (width, height) of the training images, a hint, not a limit;
    `training` is free JSON (recordings' digests, preset, step); `precision`, one of PRECISIONS, what the
    network computes with. Raises `LedposeError` for values that make no sense.
    """

    led_names: tuple[str, ...]
    led_directions: tuple[float, ...]
    scales: tuple[float, ...]
    stride: int
    input_size: tuple[int, int]
    calibration: Calibration | None = None
    training: dict[str, Any] = field(default_factory=dict)
    precision: str = FLOAT32
    software: str = f"ledpose_ros {__version__}"

    def __post_init__(self) -> None:
        check_leds(self.led_names, self.led_directions)
        _require(
            len(self.scales) > 0 and all(_is_number(scale) and scale > 0 for scale in self.scales),
            f"scales {list(self.scales)} must be numbers above 0",
        )
        _require(_is_count(self.stride), f"stride is {self.stride!r}, but must be at least 1")
        _require(
            len(self.input_size) == 2 and all(_is_count(side) for side in self.input_size),
            f"input size {list(self.input_size)} must be width and height in pixels",
        )
        _require(
            self.precision in PRECISIONS,
            f"precision is {self.precision!r}, but must be one of {', '.join(PRECISIONS)}",
        )

    def to_properties(self) -> dict[str, str]:
        """The metadata properties of the ONNX file: key -> JSON."""
        values = {
            "ledpose.version": VERSION,
            "led_names": self.led_names,
            "led_directions": self.led_directions,
            "scales": self.scales,
            "stride": self.stride,
            "input_size": self.input_size,
            "calibration": None if self.calibration is None else asdict(self.calibration),
            "training": self.training,
            "precision": self.precision,
            "software": self.software,
        }
        return {key: json.dumps(value) for key, value in values.items()}

    @classmethod
    def from_properties(cls, properties: dict[str, str]) -> "ModelMetadata":
        """Parse the metadata properties of an ONNX file; `LedposeError` for a foreign or damaged model."""
        if "ledpose.version" not in properties:
            raise LedposeError(
                "it is not a ledpose model: its metadata lacks 'ledpose.version'; use `ledpose export`"
            )
        version = _parse(properties, "ledpose.version")
        if version != VERSION:
            raise LedposeError(
                f"its format version is {version!r}, but this software reads {VERSION}; update one of them"
            )
        calibration = _parse(properties, "calibration")
        try:
            return cls(
                led_names=tuple(_parse(properties, "led_names")),
                led_directions=tuple(_parse(properties, "led_directions")),
                scales=tuple(_parse(properties, "scales")),
                stride=_parse(properties, "stride"),
                input_size=tuple(_parse(properties, "input_size")),
                calibration=None if calibration is None else Calibration(**calibration),
                training=dict(_parse(properties, "training")),
                # Models of earlier software do not say it.
                precision=_parse({"precision": json.dumps(FLOAT32)} | properties, "precision"),
                software=str(_parse(properties, "software")),
            )
        except TypeError as error:
            raise LedposeError(f"its metadata is damaged: {error}; export the model again") from error


def signed(data: bytes) -> bytes:
    """A model file whose metadata holds NO_DIGEST, with its digest in place of that.

    The digest is the SHA-256 of the file in which it is NO_DIGEST itself, so that a robot can verify a model
    without knowing ONNX.
    """
    placeholder = NO_DIGEST.encode()
    assert data.count(placeholder) == 1
    return data.replace(placeholder, hashlib.sha256(data).hexdigest().encode())


def read_model(path: Path) -> bytes:
    """The bytes of a model file; `LedposeError` unless it is there and, if signed, as it was written."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise LedposeError(
            f"the model {path} does not exist; give the path of a file made by `ledpose train`"
        ) from None
    except OSError as error:
        raise LedposeError(f"the model {path} cannot be read: {error.strerror}") from error
    try:
        _verify_digest(data)
    except LedposeError as error:
        raise LedposeError(f"the model {path} cannot be used: {error}") from error
    return data


def is_signed(data: bytes) -> bool:
    """Whether a model file holds its digest: those of other software, or the first ones, do not."""
    return SIGNATURE.search(data) is not None


def _verify_digest(data: bytes) -> None:
    """`LedposeError` if a model file holds a digest and is not as it was written, by its bytes alone."""
    signature = SIGNATURE.search(data)
    if signature is None:
        if REMAINS.search(data):
            raise LedposeError("it is damaged: its digest is none; copy it again")
        return
    said = signature[1]
    found = hashlib.sha256(data.replace(said, NO_DIGEST.encode())).hexdigest()
    if said.decode() != found:
        raise LedposeError(
            f"it is damaged or was changed: its digest is {found[:12]}, but should be {said[:12].decode()}; "
            "copy it again"
        )


def shipped_model(name: str = DEFAULT_MODEL) -> Path:
    """A model shipped with the package, in a source checkout or in the installation's share folder."""
    module = Path(__file__).resolve()
    checkout = module.parents[1]
    if (checkout / "package.xml").is_file():
        return checkout / "models" / name
    # Both pip and colcon install to PREFIX/lib/pythonX.Y/site-packages and PREFIX/share.
    return module.parents[4] / "share" / "ledpose_ros" / "models" / name


def _parse(properties: dict[str, str], key: str) -> Any:
    if key not in properties:
        raise LedposeError(f"its metadata lacks '{key}'; export the model again")
    try:
        return json.loads(properties[key])
    except json.JSONDecodeError as error:
        raise LedposeError(
            f"its metadata '{key}' is not JSON but {properties[key]!r}; export the model again"
        ) from error


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise LedposeError(message)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
