# SPDX-License-Identifier: Apache-2.0
"""Parts of the method that can be left out, to see what they are worth."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

from torch import Tensor

from ledpose_ros.learning import augmentation, mixed_precision, objective, trainer, windows
from ledpose_ros.learning import network as networks
from ledpose_ros.learning.network import WINDOW_CELLS, CoarseMaps

Change = tuple[ModuleType, str, Any]
"""What is different in the trainer: the module, the name, the value."""


def _expectation(maps: CoarseMaps, cross_entropy: Tensor) -> tuple[Tensor, Tensor]:
    """The expected loss of all LEDs in place of `location_loss`, and p in place of the posterior."""
    attention = maps.attention()
    return (attention * cross_entropy.sum(2)).sum((1, 2, 3)).mean(), attention.detach()


PARTS: dict[str, tuple[Change, ...]] = {
    "local contrast": ((networks, "local_contrast", networks.standardise),),
    "dark first": ((trainer, "DARKEST", 1.0),),
    "films": ((windows, "NEXT_PICTURE", 0.0), (windows, "CLIP_REACH", 0)),
    "telling films": ((windows, "FILM", 0.0),),
    "marginal likelihood": ((objective, "location_loss", _expectation),),
    "auxiliary classifier": ((objective, "AUXILIARY_WEIGHT", 0.0),),
    "known displacements": ((objective, "SHIFT_WEIGHT", 0.0),),
    "weighty bearings": ((objective, "BEARING_WEIGHT", 1.0),),
    "blurred windows": ((objective, "COARSEST_CELLS", WINDOW_CELLS - 1),),
    "pairs": ((objective, "PAIR_WEIGHT", 0.0),),
    "hidden parts": ((objective, "HIDDEN_SHARE", 0.0),),
    "parts elsewhere": ((windows, "PARTS", 0.0),),
    "mirrored pictures": ((augmentation, "mirrored_leds", lambda directions: None),),
    "rolled windows": ((objective, "JITTER_TURN", 0.0),),
    "varied colours": ((augmentation, "vary_colours", lambda images, generator: images),),
    "enlarged pictures": ((augmentation, "ENLARGED", 0.0),),
    "shrunk pictures": ((objective, "SHRUNK", 0.0),),
    "joined pictures": ((objective, "JOINED_SHARE", 0.0),),
    "depths alike from all sides": ((windows, "WAVE_DOUBT", 1e12),),
    "averaged weights": ((trainer, "AVERAGE_SHARE", 0.0),),
    "balanced LEDs": ((windows, "BALANCED", 1.0),),
    "bfloat16": ((mixed_precision, "has_bfloat16", lambda device: False),),
}
"""What is different in the trainer without them."""


def part_names(text: str) -> list[str]:
    """The parts of `PART, PART...`, for argparse; what is none is refused."""
    names = text.split(", ")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"'{unknown[0]}' is no part; parts are {', '.join(PARTS)}")
    return names


@contextmanager
def left_out(names: Sequence[str]) -> Iterator[None]:
    """Inside, the trainer is without these parts."""
    with ExitStack() as changed:
        for module, name, value in (change for part in names for change in PARTS[part]):
            changed.enter_context(patch.object(module, name, value))
        yield
