# SPDX-License-Identifier: Apache-2.0
"""Networks compute in bfloat16 where that is faster; pictures, windows and losses stay float32.

bfloat16 has the range of float32, so no gradient needs scaling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from ledpose_ros.learning.network import CoarseMaps, FineLook, Glance

Said = TypeVar("Said", CoarseMaps, FineLook, Glance)


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster: on GPUs and processors with instructions for it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Not every version of PyTorch can tell.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def mixed_precision(device: torch.device) -> torch.autocast:
    """The context in which networks compute so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))


def in_float32(said: Said) -> Said:
    """What a network has said in it, widened again."""
    return type(said)(*(values.float() for values in said))
