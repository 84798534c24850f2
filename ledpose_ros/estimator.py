# SPDX-License-Identifier: Apache-2.0
"""From one picture to the poses of the peers in it: one run of the ONNX model and a few lines of numpy."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

from ledpose_ros.errors import LedposeError, one_line
from ledpose_ros.geometry import (
    LEVEL_CAMERA,
    distance_from_scale,
    farther_along_floor,
    pixel_rays,
    project,
    rotation_matrix,
    upright_in_image,
    upright_poses,
)
from ledpose_ros.model_metadata import (
    SAME_PEER,
    WINDOW_SIDE,
    Calibration,
    ModelMetadata,
    is_signed,
    read_model,
)
from ledpose_ros.paths import user_path

# Variance of an angle of which nothing is known, as roll and pitch of the peer [rad^2].
UNKNOWN_ANGLE_VARIANCE = math.pi**2
# The network's own word is never believed to be surer than this: it leaves out its bias.
MIN_DEVIATIONS = (0.5, 0.5, 0.01, math.radians(1.0))  # u, v [px], log2 distance [octaves], psi [rad]

# A picture takes some 40 bytes a pixel in the network, which ONNX Runtime keeps afterwards.
MAX_PIXELS = 2**25


def _window_side(log2_scale: np.ndarray) -> np.ndarray:
    return WINDOW_SIDE * np.exp2(-log2_scale)


@dataclass(frozen=True)
class Detections:
    """What the network says of one image: M peaks by falling confidence, K LEDs (see `docs/model.md`)."""

    uv: np.ndarray  # (M, 2) [px] of what the network settles on, on the peer's near side
    log2_scale: np.ndarray  # (M,) [octaves]
    bearing: np.ndarray  # (M, 2) cos psi, sin psi; the length tells how sure it is
    led_probability: np.ndarray  # (M, K)
    confidence: np.ndarray  # (M,)
    spread: np.ndarray  # (M, 3) standard deviation of u, v [px] and log2_scale [octaves]
    attention: np.ndarray  # (h, w), sums to 1

    @property
    def window_side(self) -> np.ndarray:
        """Side (M,) [px] of the window around each peer: its apparent size but for a constant factor."""
        return _window_side(self.log2_scale)

    @property
    def psi(self) -> np.ndarray:
        """Relative bearing (M,) [rad]."""
        return np.arctan2(self.bearing[:, 1], self.bearing[:, 0])

    @property
    def yaw_variance(self) -> np.ndarray:
        """Variance (M,) [rad^2] of psi: -2 ln R, as of a wrapped normal distribution of mean length R."""
        length = np.clip(np.linalg.norm(self.bearing.astype(np.float64), axis=1), 1e-6, 1.0)
        return np.minimum(-2 * np.log(length), UNKNOWN_ANGLE_VARIANCE)


OUTPUT_NAMES = tuple(field.name for field in fields(Detections))


@dataclass(frozen=True)
class PeerEstimate:
    """One peer. Without a calibrated model distance, pose and covariance are None: refused, not guessed."""

    uv: np.ndarray  # (2,) [px] of the reference point as far as the calibration tells it
    psi: float  # relative bearing [rad]
    confidence: float
    led_probability: np.ndarray  # (K,)
    distance: float | None = None  # range [m]
    pose: np.ndarray | None = None  # (7,) in the optical frame
    covariance: np.ndarray | None = None  # (6, 6) x y z, rotation about x y z of the optical frame
    peak: int = 0  # of the `Detections` it was made of


class PeerEstimator:
    """A loaded model.

    Raises `LedposeError` if the file is missing, damaged or no ledpose model. Not safe for calls from
    several threads at once.
    """

    def __init__(
        self,
        model_path: str | Path,
        threads: int = 1,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        spinning: bool = False,
    ) -> None:
        path = user_path(model_path)
        data = read_model(path)
        if isinstance(providers, str):
            raise LedposeError(f"providers are a list of names: give ['{providers}']")
        available = onnxruntime.get_available_providers()
        missing = [provider for provider in providers if provider not in available]
        if missing:
            raise LedposeError(f"onnxruntime lacks {', '.join(missing)}, it offers {', '.join(available)}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin between images burn most of a core for a network that needs a tenth of it.
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        self.digest = hashlib.sha256(data).hexdigest()
        self._make_session = partial(onnxruntime.InferenceSession, data, options, providers=list(providers))
        try:
            session = self._make_session()
        except Exception as error:  # onnxruntime's own exceptions have no common public base
            advice = "update that" if is_signed(data) else "it is damaged or not a model, copy it again"
            raise LedposeError(
                f"the model {path} cannot be loaded by onnxruntime {onnxruntime.__version__}, {advice}: "
                f"{one_line(error)}"
            ) from error
        self._session: onnxruntime.InferenceSession | None = session
        started = session.get_providers()
        # onnxruntime goes on without those that do not start, and hardly says so.
        failed = [provider for provider in providers if provider not in started]
        if failed:
            raise LedposeError(
                f"{', '.join(failed)} cannot be started: mend its libraries or its device, "
                "or leave it out of the providers"
            )
        try:
            self.metadata = ModelMetadata.from_properties(session.get_modelmeta().custom_metadata_map)
            self._check_graph(session)
        except (LedposeError, UnicodeDecodeError) as error:
            raise LedposeError(f"the model {path} cannot be used: {error}") from error
        self.path = path

    def _check_graph(self, session: onnxruntime.InferenceSession) -> None:
        inputs = [(value.name, value.type, len(value.shape)) for value in session.get_inputs()]
        if inputs != [("image", "tensor(uint8)", 4)]:
            found = ", ".join(f"{name} {type_name} of {rank} dimensions" for name, type_name, rank in inputs)
            raise LedposeError(
                f"its input is {found}, but must be image, uint8 (N, H, W, 3); export it again"
            )
        outputs = {value.name: value for value in session.get_outputs()}
        missing = [name for name in OUTPUT_NAMES if name not in outputs]
        if missing:
            raise LedposeError(f"it lacks the outputs {', '.join(missing)}; export it again")
        leds, named = outputs["led_probability"].shape[-1], len(self.metadata.led_names)
        if isinstance(leds, int) and leds != named:
            raise LedposeError(f"it tells {leds} LEDs, but its metadata names {named}; export it again")

    def release(self) -> None:
        """Give back the memory that the network works in; until `prepare` pictures cannot be answered."""
        self._session = None

    def prepare(self) -> None:
        """Make ready again what `release` gave back, from the file as it was read."""
        if self._session is None:
            self._session = self._make_session()

    @property
    def min_image_side(self) -> int:
        """The smallest picture side [px] that still has a cell at the coarsest scale."""
        return math.ceil(self.metadata.stride / min(self.metadata.scales))

    def run(self, rgb: np.ndarray) -> list[np.ndarray]:
        """The network's outputs for a picture, as they are; see `docs/model.md`."""
        assert self._session is not None, "released"
        return list(self._session.run(OUTPUT_NAMES, {"image": np.ascontiguousarray(rgb)[None]}))

    def detect(self, rgb: np.ndarray) -> Detections:
        """What the network says of one picture, uint8 (H, W, 3) RGB; needs no camera and no calibration."""
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
            raise LedposeError(
                f"the picture is {rgb.dtype} {rgb.shape}, but must be uint8 (height, width, 3)"
            )
        if min(rgb.shape[:2]) < self.min_image_side:
            raise LedposeError(
                f"the picture is {rgb.shape[1]}x{rgb.shape[0]}, but the model needs at least "
                f"{self.min_image_side} pixels on each side"
            )
        if rgb.shape[0] * rgb.shape[1] > MAX_PIXELS:
            raise LedposeError(
                f"the picture is {rgb.shape[1]}x{rgb.shape[0]}, but may have {MAX_PIXELS:,} pixels at most: "
                "scale it down"
            )
        try:
            outputs = self.run(rgb)
        except Exception as error:  # see __init__
            size = f"{rgb.shape[1]}x{rgb.shape[0]}"
            raise LedposeError(f"the model {self.path} fails on a picture of {size}: {error}") from error
        return Detections(*(output[0] for output in outputs))

    def estimate(
        self,
        rgb: np.ndarray,
        K: np.ndarray,
        D: np.ndarray,
        distortion_model: str,
        min_confidence: float = 0.0,
        tilt: np.ndarray = LEVEL_CAMERA,
    ) -> list[PeerEstimate]:
        """Peers in a picture by falling confidence from `min_confidence`; `tilt` as in `camera_tilt`."""
        detections = self.detect(rgb)
        calibration = self.metadata.calibration
        return locate(detections, calibration, K, D, distortion_model, rgb.shape[1], min_confidence, tilt)


def locate(
    detections: Detections,
    calibration: Calibration | None,
    K: np.ndarray,
    D: np.ndarray,
    distortion_model: str,
    width: int,
    min_confidence: float = 0.0,
    tilt: np.ndarray = LEVEL_CAMERA,
) -> list[PeerEstimate]:
    """Peers in the optical frame of the camera whose picture, `width` pixels wide, gave `detections`.

    One without a finite pose is left out, as where the lens shows nothing. Raises `LedposeError` for a camera
    with which they would not have any in the middle of the picture either.
    """
    chosen = [m for m in separate_peaks(detections) if detections.confidence[m] >= min_confidence]
    psi = detections.psi
    peers = [
        PeerEstimate(
            detections.uv[m],
            float(psi[m]),
            float(detections.confidence[m]),
            detections.led_probability[m],
            peak=m,
        )
        for m in chosen
    ]
    if calibration is None:
        return peers

    def located(seen: Detections) -> list[PeerEstimate]:
        camera = K, D, distortion_model
        points = reference_points(seen.uv, seen.log2_scale, psi, calibration, *camera, width, tilt)
        uv, distance = project(points, *camera), np.linalg.norm(points, axis=1)
        poses = upright_poses(points, psi, tilt)
        spread = covariances(seen, distance, calibration, *camera, tilt)
        return [
            replace(peer, uv=uv[m], distance=float(distance[m]), pose=poses[m], covariance=spread[m])
            for m, peer in zip(chosen, peers, strict=True)
            if all(np.isfinite(values[m]).all() for values in (uv, poses, spread))
        ]

    found = located(detections)
    if peers and not found:
        middle = np.broadcast_to(np.asarray(K)[:2, 2], detections.uv.shape)
        if not located(replace(detections, uv=middle)):
            raise LedposeError(
                f"with K = {K.tolist()} and D = {D.tolist()} there is no finite pose: "
                "calibrate the camera again"
            )
    return found


def reference_points(
    uv: np.ndarray,
    log2_scale: np.ndarray,
    psi: np.ndarray,
    calibration: Calibration,
    K: np.ndarray,
    D: np.ndarray,
    distortion_model: str,
    width: int,
    tilt: np.ndarray = LEVEL_CAMERA,
) -> np.ndarray:
    """Reference points (M, 3) [m] in the optical frame of peers on which the network has settled at `uv`.

    See `Calibration`: first along the image by shares of the apparent size, then away from the camera.
    """
    side = _window_side(log2_scale.astype(np.float64))
    # Who looks at the peer's left side, psi = 90 degrees, sees its front on the left.
    across = -calibration.forward * np.sin(psi)
    shares = np.column_stack([across, np.full_like(across, calibration.offset)])
    uv = uv + side[:, None] * shares @ upright_in_image(tilt)
    rays = pixel_rays(uv, K, D, distortion_model)
    distance = distance_from_scale(log2_scale, rays, calibration, K, D, distortion_model, width)
    return farther_along_floor(distance[:, None] * rays, calibration.recess, tilt)


def separate_peaks(detections: Detections) -> list[int]:
    """Peaks by falling confidence, without those that show the same peer as a more confident one."""
    kept: list[int] = []
    side = detections.window_side
    for m in np.argsort(-detections.confidence, kind="stable"):
        apart = np.abs(detections.uv[kept] - detections.uv[m]).max(1)
        if (apart >= SAME_PEER * np.sqrt(side[kept] * side[m])).all():
            kept.append(int(m))
    return kept


def standard_deviations(detections: Detections, calibration: Calibration) -> np.ndarray:
    """Standard deviations (M, 4) of u [px], v [px], log2 distance [octaves] and psi [rad].

    What the network says of its own spread, times the factors by which it was found to err more
    (`Calibration.deviation_scale`); that of the distance also holds the calibration's residual.
    """
    octaves = np.hypot(detections.spread[:, 2], calibration.residual)
    said = np.column_stack([detections.spread[:, :2], octaves, np.sqrt(detections.yaw_variance)])
    scaled = np.maximum(said, MIN_DEVIATIONS) * np.asarray(calibration.deviation_scale)
    scaled[:, 3] = np.minimum(scaled[:, 3], math.sqrt(UNKNOWN_ANGLE_VARIANCE))
    return np.asarray(scaled)


def covariances(
    detections: Detections,
    distance: np.ndarray,
    calibration: Calibration,
    K: np.ndarray,
    D: np.ndarray,
    distortion_model: str,
    tilt: np.ndarray = LEVEL_CAMERA,
) -> np.ndarray:
    """Covariances (M, 6, 6) in the optical frame, in the order of geometry_msgs: x y z, rotation about x y z.

    First order. Across the ray: pixel deviation times the ray's derivative times distance. Along the ray: a
    deviation of s octaves is one of s ln 2 of the distance. Rotation: the bearing's variance about the
    vertical, nothing known of roll and pitch.
    """
    uv = detections.uv.astype(np.float64)
    beside = uv + np.array([[0, 0], [0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])[:, None]
    ray, right, left, below, above = pixel_rays(beside, K, D, distortion_model).reshape(5, -1, 3)
    deviations = standard_deviations(detections, calibration)
    # Displacement by one standard deviation of u, of v and of the range, per metre of distance: the columns
    # of a square root of the covariance.
    across_u = (right - left) * deviations[:, :1]
    across_v = (below - above) * deviations[:, 1:2]
    along = ray * (math.log(2) * deviations[:, 2:3])
    columns = np.stack([across_u, across_v, along], axis=2)
    columns *= distance[:, None, None]

    optical_from_level = rotation_matrix(tilt).T
    rotation = np.zeros((len(uv), 3, 3))
    rotation[:, 0, 0] = rotation[:, 1, 1] = UNKNOWN_ANGLE_VARIANCE
    rotation[:, 2, 2] = deviations[:, 3] ** 2

    result = np.zeros((len(uv), 6, 6))
    result[:, :3, :3] = columns @ columns.transpose(0, 2, 1)
    result[:, 3:, 3:] = optical_from_level @ rotation @ optical_from_level.T
    return result
