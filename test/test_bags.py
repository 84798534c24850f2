# SPDX-License-Identifier: Apache-2.0
"""Bags are read in order, and what is wrong with one is said with the topics to choose from."""

import os
from pathlib import Path

import numpy as np
import pytest
from blinking import IMAGE_TOPIC, LED_TOPIC, TYPES, blink, picture, write_bag
from rosbags.rosbag2 import StoragePlugin, Writer

from ledpose_ros.bags import IMAGE_TYPES, LED_TYPES, Bag, BagWriter
from ledpose_ros.errors import LedposeError
from ledpose_ros.geometry import pinhole_camera
from ledpose_ros.images import rgb_from_message
from ledpose_ros.leds import stamp_ns

BLINKING = blink(60)


def storage_file(bag: Path) -> Path:
    return next(path for path in bag.iterdir() if path.suffix in (".db3", ".mcap"))


@pytest.fixture(params=StoragePlugin, scope="module")
def bag(request, tmp_path_factory) -> Path:
    return write_bag(tmp_path_factory.mktemp("bags") / "bag", BLINKING, 7, request.param)


@pytest.mark.parametrize("of", [lambda bag: bag, storage_file], ids=["folder", "file"])
def test_messages_come_in_the_order_of_recording_and_decoded(bag, of):
    with Bag(of(bag)) as opened:
        entries = list(opened.messages(IMAGE_TOPIC, LED_TOPIC))
        received = [entry.receive_stamp_ns for entry in entries]
        assert received == sorted(received)
        images = [entry.decode() for entry in entries if entry.topic == IMAGE_TOPIC]
        leds = [entry.decode() for entry in entries if entry.topic == LED_TOPIC]
    assert len(images) == 60 and len(leds) == len(BLINKING.messages(7)) == len(entries) - 60
    assert [stamp_ns(image.header.stamp) for image in images] == BLINKING.images_ns.tolist()
    first = BLINKING.images_ns[0]
    np.testing.assert_array_equal(rgb_from_message(images[0]), picture(BLINKING.at(first)))
    assert stamp_ns(leds[0].header.stamp) == BLINKING.changes_ns[0] + 7
    assert leds[0].position.tolist() == BLINKING.states[0].tolist()


def test_the_only_topic_of_a_fitting_type_need_not_be_named(bag):
    with Bag(bag) as opened:
        assert opened.choose_topic(LED_TYPES, None, "--led-topic") == LED_TOPIC
        assert opened.choose_topic(IMAGE_TYPES, IMAGE_TOPIC, "--image-topic") == IMAGE_TOPIC
        assert opened.count(IMAGE_TOPIC) == 60


@pytest.mark.parametrize(
    ("types", "topic", "words"),
    [
        (IMAGE_TYPES, None, "several topics .* --image-topic one of /camera/image_raw, /camera/unused"),
        (IMAGE_TYPES, "/other", "has no topic /other, needed is .*Image .* one of /camera/image_raw"),
        (IMAGE_TYPES, LED_TOPIC, "has /peer/led_states of type sensor_msgs/msg/JointState, needed is"),
        (IMAGE_TYPES, "/camera/unused", "the topic /camera/unused in .* has no messages"),
        (("std_msgs/msg/Empty",), None, "no fitting topic, .* there are /camera/camera_info, .*/led_states"),
    ],
)
def test_a_topic_that_will_not_do_is_explained(bag, types, topic, words):
    with Bag(bag) as opened, pytest.raises(LedposeError, match=words):
        opened.choose_topic(types, topic, "--image-topic")


def test_what_is_no_bag_is_refused(tmp_path):
    with pytest.raises(LedposeError, match="there is no bag"):
        Bag(tmp_path / "absent")
    with pytest.raises(LedposeError, match=r"no metadata\.yaml"):
        Bag(tmp_path)
    noise = tmp_path / "noise.mcap"
    noise.write_bytes(bytes(range(256)))
    with pytest.raises(LedposeError, match="cannot be read"):
        Bag(noise)


@pytest.mark.parametrize("storage", StoragePlugin)
def test_a_bag_that_was_cut_off_is_refused(tmp_path, storage):
    bag = write_bag(tmp_path / "bag", BLINKING, 0, storage)
    file = storage_file(bag)
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(LedposeError, match="cannot be read"), Bag(bag) as opened:
        list(opened.messages(IMAGE_TOPIC, LED_TOPIC))


def test_a_damaged_message_is_refused_when_it_is_decoded(tmp_path):
    with Writer(tmp_path / "bag", version=9) as writer:
        connection = writer.add_connection(LED_TOPIC, "sensor_msgs/msg/JointState", typestore=TYPES)
        writer.write(connection, 1, b"\x00\x01\x00\x00\x05")
    with Bag(tmp_path / "bag") as opened:
        (entry,) = opened.messages(LED_TOPIC)
        with pytest.raises(LedposeError, match="cannot be read"):
            entry.decode()


@pytest.mark.parametrize(("stamp", "received"), [(-1, 0), (2**63, 0), (2**62, 0), (0, -1), (0, 2**63)])
@pytest.mark.parametrize("name", ["bag", "bag.mcap"])
def test_a_stamp_that_no_bag_can_hold_is_said_and_no_bag_left(tmp_path, name, stamp, received):
    words = f"the stamp {stamp or received} ns is not of the years"
    with pytest.raises(LedposeError, match=words), BagWriter(tmp_path / name) as bag:
        header = bag.header(stamp, "camera")
        info = bag.camera_info(header, pinhole_camera(100.0, 32, 32), 32, 32)
        bag.write("info", "sensor_msgs/msg/CameraInfo", info, received)
    assert not list(tmp_path.iterdir())
