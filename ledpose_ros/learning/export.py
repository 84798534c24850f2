# SPDX-License-Identifier: Apache-2.0
"""The network to and from one ONNX file with its metadata.

The file keeps every weight under its own name, so that it is also where training continues from
(`ledpose train --init MODEL`): no pickled file travels with it.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch

from ledpose_ros.errors import LedposeError
from ledpose_ros.estimator import OUTPUT_NAMES
from ledpose_ros.learning.network import PeerNetwork
from ledpose_ros.model_metadata import (
    DIGEST_KEY,
    FLOAT32,
    NO_DIGEST,
    ModelMetadata,
    read_model,
    signed,
)

OPSET = 18
LARGE_WEIGHT = 1000
"""Numbers from which on a weight is kept as float16."""


def export_onnx(network: PeerNetwork, metadata: ModelMetadata, path: Path) -> None:
    """Write the network with pyramid and decoder as one file; any number and any size of images go in.

    Large weights are kept with the 11 bits of float16, which halves the file, and computed with as float32.
    """
    width, height = metadata.input_size
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    dimension = torch.export.Dim
    network = copy.deepcopy(network).cpu().eval()
    with warnings.catch_warnings():
        # The exporter talks at length about its own internals.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            network,
            (example,),
            input_names=["image"],
            output_names=list(OUTPUT_NAMES),
            dynamic_shapes={"image": {0: dimension.DYNAMIC, 1: dimension.DYNAMIC, 2: dimension.DYNAMIC}},
            opset_version=OPSET,
            dynamo=True,
            # Folding batch normalisation is left to the runtime: here it would lose the weights' names.
            optimize=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        # The exporter notes for each node where it stands in the source code, with this machine's folders.
        del node.metadata_props[:]
    _drop_zero_biases(model)
    _halve_weights(model)
    onnx.helper.set_model_props(model, metadata.to_properties())
    save_model(model, path)


def _drop_zero_biases(model: onnx.ModelProto) -> None:
    """Take away the computed zeros that the exporter adds to convolutions that have no bias.

    They keep the runtime from merging batch normalisation into the convolution before it.
    """
    weights = {initializer.name for initializer in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and len(node.input) == 3 and node.input[2] not in weights:
            del node.input[2]


def _halve_weights(model: onnx.ModelProto) -> None:
    """Turn large float32 initialisers into float16 ones of the same name, each followed by a cast."""
    casts = []
    for initializer in model.graph.initializer:
        weight = onnx.numpy_helper.to_array(initializer)
        if weight.dtype != np.float32 or weight.size < LARGE_WEIGHT:
            continue
        name, widened = initializer.name, f"{initializer.name}_float32"
        for node in model.graph.node:
            for place, given in enumerate(node.input):
                if given == name:
                    node.input[place] = widened
        casts.append(onnx.helper.make_node("Cast", [name], [widened], to=onnx.TensorProto.FLOAT))
        initializer.CopyFrom(onnx.numpy_helper.from_array(weight.astype(np.float16), name))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def load_onnx(path: Path) -> tuple[PeerNetwork, ModelMetadata]:
    """Read the network's weights and metadata back; LedposeError for a file that is not such a model."""
    data = read_model(path)
    try:
        model = onnx.load_from_string(data)
    except Exception as error:
        raise LedposeError(f"{path} is not an ONNX file ({type(error).__name__})") from error
    properties = {p.key: p.value for p in model.metadata_props}
    try:
        metadata = ModelMetadata.from_properties(properties)
    except LedposeError as error:
        raise LedposeError(f"the model {path} cannot be used: {error}") from error
    if metadata.precision != FLOAT32:
        raise LedposeError(
            f"{path} is {metadata.precision}, too coarse to train from: give the model that it was made of"
        )
    weights = {
        i.name: torch.from_numpy(onnx.numpy_helper.to_array(i).copy()).float()
        for i in model.graph.initializer
    }
    glances = any(name.startswith("glance.") for name in weights)
    network = PeerNetwork(leds=len(metadata.led_names), glances=glances)
    try:
        missing = network.load_state_dict(
            {name: weight for name, weight in weights.items() if name in network.state_dict()}, strict=False
        ).missing_keys
    except RuntimeError:
        missing = ["of these shapes"]
    # Not in the file are the counters of batch normalisation, on which nothing depends, and a network for
    # glances that has not learned yet.
    missing = [
        name
        for name in missing
        if not name.endswith("num_batches_tracked") and (glances or not name.startswith("glance."))
    ]
    if missing:
        raise LedposeError(
            f"{path} lacks the weights {missing[0]}: it was not exported by this version of ledpose_ros, "
            "export it again"
        )
    return network.eval(), metadata


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Check, sign and write a model; an existing file is replaced only when the new one is whole.

    Of a link, what it points to is replaced.
    """
    if path.is_dir():
        raise LedposeError(f"cannot write {path}: Is a directory")
    path = path.resolve()
    if path.exists() and not os.access(path, os.W_OK):
        raise LedposeError(f"cannot write {path}: it is write-protected")
    onnx.checker.check_model(model)
    properties = {p.key: p.value for p in model.metadata_props}
    onnx.helper.set_model_props(model, properties | {DIGEST_KEY: json.dumps(NO_DIGEST)})
    partial = path.with_name(f"{path.name}.part")
    try:
        partial.write_bytes(signed(model.SerializeToString()))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise LedposeError(f"cannot write {path}: {error.strerror}") from error
