# SPDX-License-Identifier: Apache-2.0
"""Metrics against values worked out by hand."""

import numpy as np
import pytest

from ledpose_ros import metrics


def test_e_uv_is_the_median_pixel_distance():
    true = np.zeros((3, 2))
    assert metrics.e_uv([[3, 4], [0, 1], [30, 40]], true) == pytest.approx(5)


def test_e_psi_wraps_around_pi():
    assert metrics.e_psi(np.radians([179, -170]), np.radians([-179, 170])) == pytest.approx(11)


def test_e_d_is_relative_to_the_true_distance():
    assert metrics.e_d([1.1, 1.8, 4.0], [1.0, 2.0, 2.0]) == pytest.approx(10)


def test_e_xyz_is_in_centimetres():
    assert metrics.e_xyz([[0, 0, 1.5]], [[0, 0, 1.0]]) == pytest.approx(50)


def test_gamma_needs_both_bearing_and_position():
    psi = np.radians([44, 46, 44])
    position = np.array([[0, 0, 1.9], [0, 0, 1.0], [0, 0, 2.1]])
    true = np.tile([0, 0, 1.0], (3, 1))
    assert metrics.gamma(psi, np.zeros(3), position, true) == pytest.approx(100 / 3)


def test_missing_answers_count_as_the_worst():
    nan = float("nan")
    assert metrics.e_uv([[nan, nan], [nan, nan], [0, 0]], np.zeros((3, 2))) == float("inf")
    assert metrics.e_psi([nan, nan, 0], np.zeros(3)) == pytest.approx(180)
    assert metrics.gamma([nan], [0.0], [[nan] * 3], [[0, 0, 1.0]]) == 0


@pytest.mark.parametrize(
    ("score", "area"),
    [
        ((0.1, 0.2, 0.8, 0.9), 1.0),
        ((0.9, 0.8, 0.2, 0.1), 0.0),
        ((0.5, 0.5, 0.5, 0.5), 0.5),
        ((0.1, 0.6, 0.4, 0.9), 0.75),
    ],
)
def test_roc_area(score, area):
    assert metrics.roc_area(score, [False, False, True, True]) == pytest.approx(area)


def test_led_auc_ignores_leds_that_face_away():
    directions = [0.0, np.pi]
    states = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    psi = np.zeros(4)  # the front is seen, the back is not
    probability = np.array([[0.9, 0.9], [0.1, 0.1], [0.8, 0.1], [0.2, 0.9]])
    facing = metrics.facing_leds(psi, directions)
    assert facing.tolist() == [[True, False]] * 4
    assert metrics.led_auc(probability, states, facing) == pytest.approx(100)
    assert metrics.led_auc(probability, states, ~facing) == pytest.approx(0)
    assert metrics.facing_leds([np.radians(89), np.radians(91)], [0.0]).tolist() == [[True], [False]]


def test_presence_auc_compares_confidences_and_takes_a_missing_one_for_none():
    present = [True, True, False, False]
    assert metrics.presence_auc([0.9, 0.6, 0.4, 0.7], present) == pytest.approx(75)
    assert metrics.presence_auc([0.9, 0.6, 0.4, float("nan")], present) == pytest.approx(100)
    assert np.isnan(metrics.presence_auc([0.9, 0.6], [True, True]))


def test_detections_take_the_nearest_free_peer_in_the_order_of_confidence():
    peers = [[0, 0], [10, 0], [np.nan, np.nan]]
    assert metrics.match_detections([[1, 0], [2, 0], [0, 0]], peers, 20).tolist() == [0, 1, -1]
    assert metrics.match_detections([[30, 0], [31, 0]], peers, 20).tolist() == [1, -1]
    assert metrics.match_detections([[0, 0]], [], 20).tolist() == [-1]
    assert metrics.match_detections([], peers, 20).tolist() == []


def test_recall_and_precision_count_over_all_images():
    detected = [[[0, 0], [1, 1], [100, 100]], [[50, 50]], []]
    peers = [[[0, 0], [100, 110]], [[50, 55], [80, 80]], [[5, 5]]]
    visible = [[True, True], [False, True], [True]]
    recall, precision = metrics.recall_and_precision(detected, peers, visible, 20)
    # Two of the first image. The second image's detection is of a hidden peer: neither right nor wrong.
    assert recall == pytest.approx(100 * 2 / 4)
    # The second detection on one robot is wrong.
    assert precision == pytest.approx(100 * 2 / 3)
    assert np.isnan(metrics.recall_and_precision([[]], [[[0, 0]]], [[False]], 20)).all()
