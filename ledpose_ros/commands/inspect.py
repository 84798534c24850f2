# SPDX-License-Identifier: Apache-2.0
"""Tell what is in a recording, and whether it will do for training.

Prints samples, rate, gaps, camera, balance of the LEDs, what the recorder refused, and what is amiss. Some
pictures are decoded; `ledpose check` decodes all of them.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ledpose_ros.errors import LedposeError
from ledpose_ros.images import encode_image
from ledpose_ros.paths import check_new
from ledpose_ros.recording import Recording
from ledpose_ros.recording_check import Finding, findings, joint_entropy, time_span
from ledpose_ros.refusals import RECORDER_REASONS

GAP_FACTOR = 5
"""An interval this many times the usual one is a gap."""

SHEET_COLUMNS, SHEET_ROWS, TILE_WIDTH = 4, 4, 320


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="recording (.h5, or .h5.part of a recorder that died)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--fix-advice", action="store_true", help="tell what to do about what is amiss")
    parser.add_argument(
        "--contact-sheet", type=Path, metavar="PNG", help="draw sample pictures with their LED states"
    )


def run(args: argparse.Namespace) -> None:
    sheet = args.contact_sheet
    if sheet is not None:
        check_new(sheet, ".png")
    with Recording(args.file) as recording:
        summary, found = summarize(recording), findings([recording])
        if sheet is not None:
            _write_sheet(sheet, contact_sheet(recording))
    if args.json:
        print(json.dumps(summary | {"findings": [asdict(finding) for finding in found]}, indent=2))
    else:
        print(as_text(summary))
        for line in advice(summary["refused"], found) if args.fix_advice else hints(found):
            print(line)


def summarize(recording: Recording) -> dict[str, Any]:
    """What a recording holds, in plain values ready for JSON; angles in degrees, times in seconds."""
    info, truth = recording.info, recording.ground_truth()
    lit = recording.led_states > 0.5
    intervals = np.diff(recording.image_stamps_ns) / 1e9
    interval = float(np.median(intervals)) if len(intervals) else 0.0
    gaps = intervals[intervals > GAP_FACTOR * interval] if interval > 0 else intervals[:0]
    return {
        "file": str(recording.path),
        "bytes": recording.path.stat().st_size,
        "created": _date(recording.created_ns),
        "software": recording.software,
        "samples": len(recording),
        "uncommitted": recording.uncommitted,
        "refused": recording.refused,
        "duration": round(time_span(recording), 3),
        "rate": round(1 / interval, 2) if interval > 0 else 0.0,
        "gaps": len(gaps),
        "longest_gap": round(float(gaps.max()), 3) if len(gaps) else 0.0,
        "backward_stamps": int((intervals < 0).sum()),
        "camera": {
            "frame": info.camera_frame,
            "width": info.width,
            "height": info.height,
            "encoding": info.image_encoding,
            "fx": info.K[0, 0],
            "fy": info.K[1, 1],
            "cx": info.K[0, 2],
            "cy": info.K[1, 2],
            "distortion_model": info.distortion_model,
            "distortion": info.D.tolist(),
        },
        "leds": [
            {
                "name": name,
                "direction": round(float(np.degrees(direction)), 1),
                "on_share": round(float(share), 3),
            }
            for name, direction, share in zip(
                info.led_names,
                info.led_directions,
                lit.mean(axis=0) if len(lit) else np.zeros(lit.shape[1]),
                strict=True,
            )
        ],
        "led_changes": int(np.any(lit[1:] != lit[:-1], axis=1).sum()),
        "distinct_states": len(np.unique(lit, axis=0)),
        "possible_states": 2 ** len(info.led_names),
        "entropy": round(joint_entropy(lit), 3),
        "ground_truth": None if truth is None else int(truth.valid.sum()),
    }


def _date(stamp_ns: int) -> str:
    """Local time; "unknown" for what is beyond the calendar."""
    try:
        return datetime.fromtimestamp(stamp_ns / 1e9).isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):
        return "unknown"


def as_text(summary: dict[str, Any]) -> str:
    """The summary as a table for people."""
    camera, truth = summary["camera"], summary["ground_truth"]
    uncommitted = f" (and {summary['uncommitted']} never committed)" if summary["uncommitted"] else ""
    gaps = (
        f", {summary['gaps']} gaps up to {summary['longest_gap']:.1f} s" if summary["gaps"] else ", no gaps"
    )
    rows = [
        ("file", f"{summary['file']} ({summary['bytes'] / 1e6:.1f} MB)"),
        ("created", f"{summary['created']} by {summary['software']}"),
        ("samples", f"{summary['samples']}{uncommitted}"),
        ("duration", f"{summary['duration']:.1f} s at {summary['rate']:g} Hz{gaps}"),
        ("camera", f"{camera['frame']}, {camera['width']}x{camera['height']}, {camera['encoding']}"),
        ("", f"fx {camera['fx']:.1f}, fy {camera['fy']:.1f}, cx {camera['cx']:.1f}, cy {camera['cy']:.1f}"),
        ("", f"distortion {camera['distortion_model'] or 'none'} {camera['distortion']}"),
        ("ground truth", "no" if truth is None else f"yes, valid in {truth} samples"),
    ]
    for number, led in enumerate(summary["leds"]):
        rows.append(
            (
                "" if number else "LEDs",
                f"{led['name']:<10} {led['direction']:+7.1f} deg   on {100 * led['on_share']:3.0f} %",
            )
        )
    rows.append(
        (
            "LED states",
            f"{summary['distinct_states']} of {summary['possible_states']} seen, "
            f"{summary['led_changes']} changes, {summary['entropy']:.2f} of {len(summary['leds'])} bits",
        )
    )
    for number, (reason, count) in enumerate(summary["refused"].items()):
        rows.append(("" if number else "refused", f"{count} {reason}"))
    return "\n".join(f"{label:<14}{text}" for label, text in rows)


def hints(found: Sequence[Finding]) -> list[str]:
    """What is amiss, in short."""
    lines = [f"{finding.severity}: {finding.what}" for finding in found]
    return [*lines, "--fix-advice tells what to do"] if lines else []


def advice(refused: Mapping[str, int], found: Sequence[Finding]) -> list[str]:
    """What is amiss and why images or messages were refused, each with what to do about it."""
    lines = [str(finding) for finding in found]
    for reason, count in refused.items():
        known = RECORDER_REASONS.get(reason)
        explained = f": {known.meaning}: {known.advice}" if known else ""
        lines.append(f"refused {count} times: {reason}{explained}")
    return lines or ["nothing is amiss"]


def contact_sheet(recording: Recording) -> np.ndarray:
    """A picture (RGB) of samples spread over the recording, with a dot per LED, filled where it is on."""
    if not len(recording):
        raise LedposeError(f"{recording.path} has no samples to draw")
    count = min(len(recording), SHEET_COLUMNS * SHEET_ROWS)
    tiles = [_tile(recording, int(index)) for index in np.linspace(0, len(recording) - 1, count)]
    tiles += [np.zeros_like(tiles[0])] * (-count % SHEET_COLUMNS)
    rows = [np.hstack(tiles[start : start + SHEET_COLUMNS]) for start in range(0, len(tiles), SHEET_COLUMNS)]
    return np.vstack(rows)


def _tile(recording: Recording, index: int) -> np.ndarray:
    info, rgb = recording.info, recording.image(index)
    height = round(TILE_WIDTH * info.height / info.width)
    caption = np.full((26, TILE_WIDTH, 3), 30, np.uint8)
    cv2.putText(caption, str(index), (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (160, 160, 160), 1, cv2.LINE_AA)
    spacing = (TILE_WIDTH - 60) // len(info.led_names)
    for led, (name, state) in enumerate(zip(info.led_names, recording.led_states[index], strict=True)):
        left = 60 + led * spacing
        colour = (255, 210, 60) if state > 0.5 else (110, 110, 110)
        cv2.circle(caption, (left, 13), 6, colour, cv2.FILLED if state > 0.5 else 1, cv2.LINE_AA)
        cv2.putText(caption, name, (left + 10, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.38, colour, 1, cv2.LINE_AA)
    return np.vstack([cv2.resize(rgb, (TILE_WIDTH, height), interpolation=cv2.INTER_AREA), caption])


def _write_sheet(path: Path, sheet: np.ndarray) -> None:
    try:
        path.write_bytes(encode_image(sheet, "png"))
    except OSError as error:
        raise LedposeError(f"cannot write {path}: {error.strerror}") from error
