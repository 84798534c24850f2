# SPDX-License-Identifier: Apache-2.0
"""Files that commands write: nothing that is there already is overwritten unasked."""

from pathlib import Path

from ledpose_ros.errors import LedposeError


def check_new(path: Path, suffix: str | None = None) -> None:
    """Refuse an output that exists already, or whose name does not end in `suffix`; best before the work."""
    if suffix is not None and path.suffix.lower() != suffix:
        raise LedposeError(f"the output {path} should end in {suffix}")
    if path.exists():
        raise LedposeError(f"{path} exists already: remove it, or give another name")
