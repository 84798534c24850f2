# SPDX-License-Identifier: Apache-2.0
"""A tiny ONNX model with the outputs of the real one, for tests that need no real network.

It sees a peer in the centre of the picture, as surely as the brightest pixel is bright: nobody in a black
picture. A second peak, at pixel (10, 20), always has a confidence of 0.2. As a program it writes the model
to a file.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ledpose_ros.leds import DEFAULT_LED_DIRECTIONS, DEFAULT_LED_NAMES
from ledpose_ros.model_metadata import DIGEST_KEY, NO_DIGEST, Calibration, ModelMetadata, signed

CALIBRATION = Calibration(c=1.0, images=1, residual=0.05, width=640, focal_length=400.0)
METADATA = ModelMetadata(
    led_names=DEFAULT_LED_NAMES,
    led_directions=DEFAULT_LED_DIRECTIONS,
    scales=(1.0, 0.5, 0.25),
    stride=8,
    input_size=(640, 360),
    calibration=CALIBRATION,
)
LED_PROBABILITY = (0.9, 0.1, 0.8, 0.3)

_SHAPES = {
    "uv": ["n", 2, 2],
    "log2_scale": ["n", 2],
    "bearing": ["n", 2, 2],
    "led_probability": ["n", 2, 4],
    "confidence": ["n", 2],
    "spread": ["n", 2, 3],
    "attention": ["n", "h", "w"],
}


def write_fake_model(
    path: Path,
    metadata: ModelMetadata | None = METADATA,
    log2_scale: float = 0.0,
    psi: float = math.pi / 2,
    bearing_length: float = 0.9,
    without_output: str | None = None,
    led_count: int = len(LED_PROBABILITY),
) -> Path:
    """Write the model for single images; `metadata=None` leaves the properties out."""
    pytest.importorskip("onnx")
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shapes = _SHAPES | {"led_probability": ["n", 2, led_count]}
    constants = {
        "log2_scale": [[log2_scale, 1.0]],
        "bearing": [[[bearing_length * math.cos(psi), bearing_length * math.sin(psi)], [0.0, 0.1]]],
        "led_probability": [[LED_PROBABILITY[:led_count], (0.5,) * led_count]],
        "spread": [[[4.0, 3.0, 0.1], [8.0, 8.0, 0.5]]],
        "second_uv": [[[10.0, 20.0]]],
        "second_confidence": [[0.2]],
        "half": [0.5],
        "white": [255.0],
        "one": [1.0],
    }
    integers = {
        "height_and_width": [1, 2],
        "flip": [1, 0],
        "uv_shape": [1, 1, 2],
        "eight": [8],
        "single": [1],
        "pixels": [1, 1],
    }
    initializers = [
        numpy_helper.from_array(np.array(v, np.float32), f"{k}_value") for k, v in constants.items()
    ]
    initializers += [
        numpy_helper.from_array(np.array(v, np.int64), f"{k}_value") for k, v in integers.items()
    ]

    def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
        return helper.make_node(operator, inputs.split(), [output], **attributes)

    nodes = [
        # Centre of the picture: (width - 1, height - 1) / 2.
        node("Shape", "image", "shape"),
        node("Gather", "shape height_and_width_value", "size"),
        node("Cast", "size", "size_float", to=TensorProto.FLOAT),
        node("Gather", "size_float flip_value", "width_and_height"),
        node("Sub", "width_and_height one_value", "last_pixel"),
        node("Mul", "last_pixel half_value", "centre"),
        node("Reshape", "centre uv_shape_value", "first_uv"),
        node("Concat", "first_uv second_uv_value", "uv", axis=1),
        # Confidence: brightest pixel / 255.
        node("Cast", "image", "image_float", to=TensorProto.FLOAT),
        node("ReduceMax", "image_float", "brightest", keepdims=0),
        node("Div", "brightest white_value", "brightness"),
        node("Reshape", "brightness pixels_value", "first_confidence"),
        node("Concat", "first_confidence second_confidence_value", "confidence", axis=1),
        # Attention: uniform.
        node("Div", "size eight_value", "cells"),
        node("Concat", "single_value cells", "attention_shape", axis=0),
        node("ReduceProd", "cells", "cell_count", keepdims=0),
        node("Cast", "cell_count", "cell_count_float", to=TensorProto.FLOAT),
        node("Div", "one_value cell_count_float", "share"),
        node("Expand", "share attention_shape", "attention"),
    ]
    nodes += [
        node("Identity", f"{name}_value", name)
        for name in ("log2_scale", "bearing", "led_probability", "spread")
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "height", "width", 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
        if name != without_output
    ]
    graph = helper.make_graph(nodes, "fake", [image], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    if metadata is None:
        onnx.save(model, str(path))
        return path
    return write_signed(path, model, metadata)


def write_signed(path: Path, model: Any, metadata: ModelMetadata = METADATA) -> Path:
    """Write an `onnx.ModelProto` with metadata and digest, as `save_model` does, but without PyTorch."""
    from onnx import helper

    helper.set_model_props(model, metadata.to_properties() | {DIGEST_KEY: json.dumps(NO_DIGEST)})
    path.write_bytes(signed(model.SerializeToString()))
    return path


if __name__ == "__main__":
    write_fake_model(Path(sys.argv[1]))
