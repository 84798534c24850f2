# SPDX-License-Identifier: Apache-2.0
"""Robots that teach themselves to see each other, from LED states alone.

`from ledpose_ros import PeerEstimator` is all it takes to find peers in pictures, see docs/estimator.md.
"""

import os
from typing import TYPE_CHECKING, Any

# A few megabytes can unpack to pictures of gigabytes. OpenCV looks here when it is first imported.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**26))

if TYPE_CHECKING:
    from ledpose_ros.estimator import PeerEstimate as PeerEstimate
    from ledpose_ros.estimator import PeerEstimator as PeerEstimator

__version__ = "0.1.0"
__all__ = ["PeerEstimate", "PeerEstimator", "__version__"]


def __getattr__(name: str) -> Any:
    # Later, not here: most of the package does without onnxruntime.
    if name in ("PeerEstimate", "PeerEstimator"):
        from ledpose_ros import estimator

        return getattr(estimator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
