# SPDX-License-Identifier: Apache-2.0
"""What a model says of itself survives the file, and nonsense is refused."""

import json

import pytest

from ledpose_ros.errors import LedposeError
from ledpose_ros.model_metadata import DEFAULT_MODEL, Calibration, ModelMetadata, shipped_model

METADATA = ModelMetadata(
    led_names=("front", "left", "back", "right"),
    led_directions=(0.0, 1.5707963267948966, 3.141592653589793, -1.5707963267948966),
    scales=(1.0, 0.5, 0.25),
    stride=8,
    input_size=(640, 360),
    calibration=Calibration(
        c=0.3, images=2, residual=0.05, width=640, focal_length=400.0, rejected=1, offset=-0.1
    ),
    training={"steps": 100, "recordings": ["abc"]},
)


def test_round_trip():
    assert ModelMetadata.from_properties(METADATA.to_properties()) == METADATA


def test_round_trip_without_calibration():
    properties = METADATA.to_properties() | {"calibration": "null"}
    assert ModelMetadata.from_properties(properties).calibration is None


def test_a_calibration_of_before_offsets_has_none():
    old = {"calibration": '{"c": 0.3, "images": 2, "residual": 0.05, "width": 640, "focal_length": null}'}
    calibration = ModelMetadata.from_properties(METADATA.to_properties() | old).calibration
    assert calibration == Calibration(c=0.3, images=2, residual=0.05, width=640)
    assert (calibration.rejected, calibration.offset) == (0, 0.0)


def test_a_model_of_before_precisions_is_float32():
    properties = METADATA.to_properties()
    del properties["precision"]
    assert ModelMetadata.from_properties(properties).precision == "float32"


def test_properties_are_json_under_the_documented_keys():
    properties = METADATA.to_properties()
    assert set(properties) == {
        "ledpose.version", "led_names", "led_directions", "scales", "stride", "input_size",
        "calibration", "training", "precision", "software",
    }  # fmt: skip
    assert json.loads(properties["ledpose.version"]) == 1
    assert json.loads(properties["input_size"]) == [640, 360]
    assert json.loads(properties["calibration"])["focal_length"] == 400.0


@pytest.mark.parametrize("key", sorted(METADATA.to_properties().keys() - {"ledpose.version", "precision"}))
def test_missing_and_damaged_properties_are_named(key):
    properties = METADATA.to_properties()
    with pytest.raises(LedposeError, match=f"'{key}' is not JSON"):
        ModelMetadata.from_properties(properties | {key: "[1,"})
    del properties[key]
    with pytest.raises(LedposeError, match=f"lacks '{key}'"):
        ModelMetadata.from_properties(properties)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ledpose.version": "2"}, "version is 2, but this software reads 1"),
        ({"led_names": '["a", "a", "b", "c"]'}, "different names"),
        ({"led_names": "4"}, "damaged"),
        ({"led_directions": "[0.0, 1.0]"}, "differ in number"),
        ({"led_directions": "[0.0, 1.0, 2.0, NaN]"}, "finite angles"),
        ({"scales": "[]"}, "scales"),
        ({"stride": "0"}, "stride is 0"),
        ({"input_size": "[640]"}, "input size"),
        ({"training": "3"}, "damaged"),
        ({"calibration": "{}"}, "damaged"),
        ({"calibration": '{"c": NaN, "images": 1, "residual": 0, "width": 640}'}, "constant c is nan"),
        ({"calibration": '{"c": 0, "images": 0, "residual": 0, "width": 640}'}, "from 0 images"),
        ({"calibration": '{"c": 0, "images": 1, "residual": -1, "width": 640}'}, "residual is -1"),
        (
            {"calibration": '{"c": 0, "images": 1, "residual": 0, "width": 640, "focal_length": 0}'},
            "focal length is 0",
        ),
        (
            {"calibration": '{"c": 0, "images": 1, "residual": 0, "width": 640, "rejected": -1}'},
            "rejected -1 images",
        ),
        (
            {"calibration": '{"c": 0, "images": 1, "residual": 0, "width": 640, "offset": NaN}'},
            "offset is nan",
        ),
    ],
)
def test_nonsense_is_refused(changes, words):
    with pytest.raises(LedposeError, match=words):
        ModelMetadata.from_properties(METADATA.to_properties() | changes)


def test_foreign_model_is_refused():
    with pytest.raises(LedposeError, match="not a ledpose model"):
        ModelMetadata.from_properties({"author": "somebody"})


def test_default_model_lies_in_a_models_folder():
    path = shipped_model()
    assert path.name == DEFAULT_MODEL
    assert path.parent.name == "models"
