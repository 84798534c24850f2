# SPDX-License-Identifier: Apache-2.0
"""A toy world that trains in seconds: a grey robot whose four sides are strips with an LED each, on noise."""

from pathlib import Path

import cv2
import numpy as np

from ledpose_ros.images import encode_image
from ledpose_ros.leds import DEFAULT_LED_DIRECTIONS, DEFAULT_LED_NAMES
from ledpose_ros.recording import RecordingInfo, RecordingWriter

WIDTH, HEIGHT = 240, 136


def toy_sample(
    rng: np.random.Generator, size: tuple[int, int] = (WIDTH, HEIGHT)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image with a robot of 24 px at a random place, its LED states (4,) and its centre (2,) [px]."""
    width, height = size
    image = cv2.resize(rng.integers(60, 120, (17, 30, 3), np.uint8), size, interpolation=cv2.INTER_CUBIC)
    states = rng.integers(0, 2, 4)
    u, v = rng.integers(20, width - 20), rng.integers(20, height - 20)
    cv2.rectangle(image, (u - 12, v - 12), (u + 12, v + 12), (20, 20, 20), -1)
    for led, (du, dv) in enumerate(((-6, -6), (6, -6), (-6, 6), (6, 6))):
        if states[led]:
            cv2.circle(image, (u + du, v + dv), 4, (255, 255, 255), -1)
    return image, states.astype(np.float32), np.array([u, v], float)


def write_toy_recording(
    path: Path,
    count: int,
    seed: int = 0,
    with_ground_truth: bool = False,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> np.ndarray:
    """Write `count` toy samples; returns the robots' centres (count, 2) [px]. The poses are nonsense."""
    rng = np.random.default_rng(seed)
    width, height = size
    info = RecordingInfo(
        led_names=DEFAULT_LED_NAMES,
        led_directions=DEFAULT_LED_DIRECTIONS,
        camera_frame="camera_optical_frame",
        K=np.array([[100.0, 0, width / 2], [0, 100, height / 2], [0, 0, 1]]),
        D=np.zeros(5),
        distortion_model="plumb_bob",
        width=width,
        height=height,
        image_encoding="png",
    )
    centres = []
    with RecordingWriter(path, info, with_ground_truth=with_ground_truth) as writer:
        for index in range(count):
            image, states, centre = toy_sample(rng, size)
            stamp = 10**9 + index * 10**8
            pose = np.array([0, 0, 1 + index, 0, 0, 0, 1.0]) if with_ground_truth else None
            writer.append(encode_image(image, "png"), stamp, stamp, states, stamp - 10**7, pose)
            centres.append(centre)
    return np.array(centres)
