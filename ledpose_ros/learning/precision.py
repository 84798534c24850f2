# SPDX-License-Identifier: Apache-2.0
"""Exported models that compute with fewer bits: the work is done by ONNX Runtime's own tools.

8-bit weights and activations (static quantisation, QDQ) make the networks that look at windows twice as fast
on processors. Of the coarse network the first and the last layers stay as they are: peers beside a nearer one
have little attention, and would vanish in their steps. `python -m benchmarks.precision` prints accuracy
beside speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import PeerEstimator
from ledpose_ros.learning.export import save_model
from ledpose_ros.model_metadata import FLOAT16, FLOAT32, INT8
from ledpose_ros.recording import Recording

PICTURES = 100
"""Of a recording, to see between which values activations lie."""
LAYERS = ("Conv", "Gemm")
ACTIVATION = "Relu"
"""Merged into the layer before it, whose 8 bits then tell only what passes."""
EXACT = ("coarse.layers.0", "coarse.layers.4", "head.")
"""In names of weights whose layers are left as they are."""


def export_float16(model: Path, output: Path) -> None:
    """Write the model so that it computes with float16 where that is safe; inputs and outputs stay."""
    graph = OnnxModel(convert_float_to_float16(_optimised(model), keep_io_types=True))
    graph.topological_sort()
    _save(graph.model, FLOAT16, model, output)


def export_int8(model: Path, recording: Recording, output: Path) -> None:
    """Write the model with 8 bits but in EXACT layers, of the ranges that the pictures need."""
    smallest = PeerEstimator(model).min_image_side
    if not len(recording) or min(recording.info.width, recording.info.height) < smallest:
        raise LedposeError(
            f"{recording.path} holds {len(recording)} pictures of {recording.info.width}x"
            f"{recording.info.height}: some of at least {smallest} pixels on each side are needed"
        )
    exact = _optimised(model)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            exact,
            path,
            _Pictures(recording),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*LAYERS, ACTIVATION],
            nodes_to_exclude=list(_exact_nodes(exact.graph)),
            per_channel=True,
            # x86 processors without VNNI add two products in 16 bits: weights of 7 bits cannot overflow.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        _save(onnx.load(path), INT8, model, output)


def _exact_nodes(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of the layers that are left as they are, and of their activations."""
    exact: set[str] = set()
    for node in graph.node:
        is_exact_layer = node.op_type in LAYERS and any(name in node.input[1] for name in EXACT)
        if is_exact_layer or (node.op_type == ACTIVATION and node.input[0] in exact):
            exact.update(node.output)
            yield node.name


class _Pictures(CalibrationDataReader):
    """Pictures from all over a recording, as the session takes them."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._indices = iter(np.linspace(0, len(recording) - 1, PICTURES).astype(int).tolist())

    def get_next(self) -> dict[str, np.ndarray] | None:
        index = next(self._indices, None)
        return None if index is None else {"image": self._recording.image(index)[None]}


def _optimised(model: Path) -> onnx.ModelProto:
    """The graph with float32 weights and batch normalisation merged, as the tools need it."""
    precision = PeerEstimator(model).metadata.precision
    if precision != FLOAT32:
        raise LedposeError(f"{model} is {precision} already: give the model that it was made of")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        quant_pre_process(model, path, skip_symbolic_shape=True)
        return onnx.load(path)


def _save(converted: onnx.ModelProto, precision: str, model: Path, output: Path) -> None:
    """Write what was made of a model, with its metadata."""
    metadata = replace(PeerEstimator(model).metadata, precision=precision)
    del converted.metadata_props[:]
    onnx.helper.set_model_props(converted, metadata.to_properties())
    save_model(converted, output)
