# SPDX-License-Identifier: Apache-2.0
"""Another robot: a model as it is, and adapted to the first half of a recording by LED states alone."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ledpose_ros import cli
from ledpose_ros.errors import LedposeError
from ledpose_ros.evaluation import evaluate
from ledpose_ros.metrics import Metrics
from ledpose_ros.recording import Recording, RecordingWriter, copy_samples


@dataclass(frozen=True)
class KnownDistance:
    """A picture of the other robot, its range [m], and if known the camera's focal length and where the
    reference point is in the picture, both in pixels."""

    picture: Path
    distance: float
    focal_length: float | None = None
    reference: tuple[float, float] | None = None


def split(recording: Recording, directory: Path) -> tuple[Path, Path]:
    """Write the first half, without ground truth, to train on, and the second half, with it, to score on."""
    if not recording.has_ground_truth:
        raise LedposeError(f"{recording.path} has no ground truth to score with")
    if len(recording) < 2:
        raise LedposeError(f"{recording.path} has {len(recording)} samples, two halves need at least 2")
    middle = len(recording) // 2
    first, second = (directory / f"{recording.path.stem}_{half}_half.h5" for half in ("first", "second"))
    for path, samples in ((first, range(middle)), (second, range(middle, len(recording)))):
        for left_over in (path, Path(f"{path}.part")):
            left_over.unlink(missing_ok=True)
        with RecordingWriter(path, recording.info, with_ground_truth=path == second) as writer:
            copy_samples(recording, samples, writer)
    return first, second


def adapt_and_score(
    model: Path, first: Path, second: Path, known: KnownDistance | None, level: bool = False
) -> tuple[dict[str, Metrics], Metrics]:
    """The model's rows on the second half, as it is and adapted to the first, and the mean predictor's.

    With a known distance both are calibrated on it; without, the adapted one has no scale. `level` as for
    `ledpose train`.
    """
    with TemporaryDirectory() as folder:
        run = Path(folder, "run")
        options = ["--level"] if level else []
        _ledpose("train", first, "-o", run, "--init", model, "--preset", "adapt", *options)
        candidates = {"as it is": model, "adapted": run / "model.onnx"}
        if known is not None:
            words = ["--image", known.picture, "--distance", known.distance, "--like", model]
            if known.focal_length is not None:
                words += ["--focal-length", known.focal_length]
            if known.reference is not None:
                words += ["--reference", *known.reference]
            for name, path in candidates.items():
                candidates[name] = Path(folder, f"{name}.onnx")
                _ledpose("calibrate", path, *words, "-o", candidates[name])
        with Recording(second) as recording:
            evaluations = {name: evaluate(path, recording) for name, path in candidates.items()}
    return {name: found.model for name, found in evaluations.items()}, evaluations["adapted"].mean


def _ledpose(*words: object) -> None:
    status = cli.main([str(word) for word in words])
    if status:
        raise LedposeError(
            f"the benchmark ends here, because 'ledpose {words[0]}' ended with status {status}"
        )
