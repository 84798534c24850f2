# SPDX-License-Identifier: Apache-2.0
"""Paths that users give; nothing that is there already is overwritten unasked."""

from pathlib import Path

from ledpose_ros.errors import LedposeError


def user_path(text: str | Path) -> Path:
    """The path, in which ~ and ~NAME are the folders of users; LedposeError for one who is not there."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise LedposeError(f"there is no {text}: {error}") from error


def check_folder(path: Path) -> None:
    """Refuse an output folder that is a file, or would lie in one; best before the work."""
    for folder in (path, *path.parents):
        if folder.exists() and not folder.is_dir():
            raise LedposeError(f"{folder} is a file, not a folder: give another name")


def check_new(path: Path, suffix: str | None = None) -> None:
    """Refuse an output that exists already, or whose name does not end in `suffix`; best before the work."""
    check_folder(path.parent)
    if suffix is not None and path.suffix.lower() != suffix:
        raise LedposeError(f"the output {path} should end in {suffix}")
    if path.exists():
        raise LedposeError(f"{path} exists already: remove it, or give another name")
