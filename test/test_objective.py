# SPDX-License-Identifier: Apache-2.0
"""What is known of pictures that are displaced, mirrored and zoomed in training: is it so in their pixels?

Robots are bright squares on black ground, so that pixels tell by themselves where they are and how large.
"""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ledpose_ros.learning import augmentation, objective  # noqa: E402
from ledpose_ros.learning.dataset import CROP_CELLS  # noqa: E402
from ledpose_ros.learning.loss import auxiliary_loss, shift_loss, visibility_loss  # noqa: E402
from ledpose_ros.learning.network import (  # noqa: E402
    SCALES,
    STRIDE,
    WINDOW_CELLS,
    CoarseMaps,
    FineLook,
    Glance,
    PeerNetwork,
)
from ledpose_ros.learning.objective import NARROW, WIDE, Objective  # noqa: E402
from ledpose_ros.learning.windows import Crops, Windows  # noqa: E402

pytestmark = pytest.mark.extra("train")

DIRECTIONS = torch.tensor([0, math.pi / 2, math.pi, -math.pi / 2])
SIDE = 16
"""Side of a square [px] at scale 1, or in a window that is not displaced [samples]."""


@pytest.fixture
def learner(monkeypatch):
    """An Objective whose pictures keep their colours, are not blurred, and nothing in them is hidden."""
    monkeypatch.setattr(augmentation, "vary_colours", lambda images, generator: images)
    monkeypatch.setattr(augmentation, "blur_some", lambda images, cells, generator: images)
    monkeypatch.setattr(objective, "HIDDEN_SHARE", 0)
    monkeypatch.setattr(objective, "JOINED_SHARE", 0)
    return Objective(PeerNetwork(), DIRECTIONS, torch.Generator().manual_seed(3))


def centres_and_sides(images):
    """Centre (B, 2) u, v and side (B,) [px] of the bright square in each of the images (B, 3, H, W)."""
    light = ((images[:, 0] + 1) / 2).clamp(min=0)
    light = torch.where(light > 0.02, light, 0)
    total = light.sum((1, 2))
    v, u = (torch.arange(count, dtype=torch.float32) for count in light.shape[1:])
    centre = torch.stack([(light.sum(1) * u).sum(1), (light.sum(2) * v).sum(1)], 1) / total[:, None]
    return centre, total.sqrt()


def windows_at(uv, log2_scale) -> Windows:
    count = len(uv)
    return Windows(uv, log2_scale, torch.ones(count), torch.zeros(count, 2), uv, log2_scale)


@pytest.mark.parametrize("jitter", [NARROW, WIDE], ids=["narrow", "wide"])
def test_the_fine_network_is_told_how_its_windows_are_displaced(learner, monkeypatch, jitter):
    """Place, size, mirror image and LED states of each window; the two of a pair are displaced alike."""
    count = 64
    crops = torch.zeros(count, 3, CROP_CELLS, CROP_CELLS, dtype=torch.uint8)
    middle = slice((CROP_CELLS - SIDE) // 2, (CROP_CELLS + SIDE) // 2)
    crops[..., middle, middle] = 255
    # What lies right of the square tells which windows are mirrored.
    crops[:, 1, :, CROP_CELLS // 2 + SIDE :] = 255
    nowhere = torch.zeros(count, 3, WINDOW_CELLS, WINDOW_CELLS, dtype=torch.uint8)
    told = torch.tensor([[0.9, 0.5, 0.3, 0.1]]).repeat(count, 1)
    seen, shifts, losses = [], [], []

    def fine(windows):
        seen.append(windows)
        zeros = torch.zeros(len(windows), 4)
        return FineLook(zeros, zeros[:, :2], zeros[:, :3], zeros[:, :3], zeros[:, 0])

    monkeypatch.setattr(learner.network.fine, "forward", fine)
    monkeypatch.setattr(
        objective, "shift_loss", lambda look, shift: shifts.append(shift) or shift_loss(look, shift)
    )
    monkeypatch.setattr(
        objective, "bearing_loss", lambda bearing, told, directions: losses.append(told) or told.sum(1)
    )
    learner.fine(
        Crops(crops, nowhere, torch.ones(count), torch.ones(count)),
        torch.zeros(count, 4),
        windows_at(torch.zeros(count, 2), torch.zeros(count)),
        told,
        torch.ones(count // 2),
        jitter,
    )
    views, shift = seen[0][:count], shifts[0]
    centre, side = centres_and_sides(views)
    place = (centre + 0.5) / WINDOW_CELLS - 0.5
    # The widest windows may reach beyond the crop, where it is grey, which is not black.
    is_filled = views[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]].amax(1) < -0.9
    assert is_filled.float().mean() > 0.85
    assert torch.allclose(place[is_filled], shift[is_filled, :2], atol=0.005)
    assert torch.allclose(torch.log2(side / SIDE)[is_filled], shift[is_filled, 2], atol=0.03)
    assert shift[:, :2].abs().amax() > 0.9 * jitter.uv and shift[:, 2].abs().amax() > 0.8 * jitter.octaves
    assert torch.equal(shift[: count // 2], shift[count // 2 :])
    # Left and right swap in mirrored windows: in their LEDs as in their pixels.
    is_mirrored = (views[:, 1] - views[:, 0]).clamp(min=0)[:, :, : WINDOW_CELLS // 4].sum((1, 2)) > 0
    assert 0.2 < is_mirrored.float().mean() < 0.8
    swapped = told[:, [0, 3, 2, 1]]
    assert torch.equal(losses[0], torch.where(is_mirrored[:, None], swapped, told))


def test_a_view_shows_the_robot_where_and_as_large_as_it_says():
    height, width, count = 120, 200, 48
    rng = np.random.default_rng(1)
    corner = torch.from_numpy(rng.integers([40, 20], [width - 60, height - 40], (count, 2)))
    images = -torch.ones(count, 3, height, width)
    for image, (u, v) in zip(images, corner.tolist(), strict=True):
        image[:, v : v + SIDE, u : u + SIDE] = 1
    view = augmentation.random_view(count, torch.Generator().manual_seed(0), objective.SHRUNK)
    uv, log2_scale = view.from_image(
        corner + (SIDE - 1) / 2, torch.zeros(count), torch.tensor([width, height])
    )
    # The scale at which a robot has its size of reference is the smaller the larger it is.
    side = SIDE * torch.exp2(-log2_scale)
    reach = side[:, None] / 2 + 2
    whole = ((uv > reach) & (uv < torch.tensor([width, height]) - 1 - reach)).all(1)
    # Beyond the image a view is grey, as bright as half of the square.
    cut = view.cut(images + 1)[whole] - 1
    centre, seen_side = centres_and_sides(cut)
    assert whole.sum() > count / 2
    assert log2_scale[whole].amin() < -0.4 and log2_scale[whole].amax() > 0.4
    assert torch.allclose(centre, uv[whole], atol=0.3)
    assert torch.allclose(torch.log2(seen_side / side[whole]), torch.zeros(int(whole.sum())), atol=0.06)


def test_windows_guide_attention_to_the_robot_in_the_picture_that_is_seen(learner, monkeypatch):
    """Mirrored and zoomed: the loss pulls at the cell and scale at which the robot is in the pixels."""
    height, width, count, side = 192, 320, 48, 48
    rng = np.random.default_rng(2)
    corner = torch.from_numpy(rng.integers([20, 20], [width - 80, height - 80], (count, 2)))
    halves = torch.zeros(count, height // 2, width // 2, 3, dtype=torch.uint8)
    for image, (u, v) in zip(halves, (corner // 2).tolist(), strict=True):
        image[v : v + side // 2, u : u + side // 2] = 255
    uv = 2 * (corner // 2) + (side - 1) / 2
    cells = -(-height // 16), -(-width // 16)
    shape = count, len(SCALES)
    maps = CoarseMaps(
        torch.zeros(*shape, *cells, requires_grad=True),
        torch.zeros(*shape, 2, *cells),
        torch.zeros(*shape, 4, *cells),
        torch.zeros(*shape, *cells, requires_grad=True),
    )
    seen = []

    def coarse_maps(levels):
        seen.append(levels[0])
        return maps

    monkeypatch.setattr(learner, "_coarse_maps", coarse_maps)
    loss, parts = learner.coarse(halves, torch.zeros(count, 4), windows_at(uv, torch.full((count,), -2.0)))
    loss.backward()
    # Grey beyond the picture is no square.
    bright = torch.where(seen[0] > 0.5, seen[0], -1.0)
    centre, seen_side = centres_and_sides(bright)
    centre = 2 * centre + 0.5
    sizes = torch.log2(2 * seen_side / side)
    reach = seen_side[:, None] + 4  # in half-size pictures half of its side
    inside = ((centre > reach) & (centre < torch.tensor([width, height]) - 1 - reach)).all(1)
    assert inside.sum() > count / 2 and set(parts) == {"location", "auxiliary", "bearing/coarse", "guide"}
    pull = -maps.location.grad.flatten(1)
    scale, row, column = np.unravel_index(pull.argmax(1).numpy(), maps.location.shape[1:])
    at = (STRIDE / SCALES[0]) * (np.stack([column, row], 1) + 0.5) - 0.5
    errors = np.abs(at - centre.numpy())[inside]
    assert errors.max() < 0.75 * STRIDE / SCALES[0]
    wanted = (-2 - sizes).clamp(-3, -1)
    levels = np.log2(SCALES)[scale]
    assert np.abs(levels - wanted.numpy())[inside].max() < 0.65
    assert len(set(levels[inside])) > 1


def test_a_displacement_is_told_best_by_itself_with_a_spread_of_its_error():
    """Laplace: of an error of 0.2 the likeliest spread is 0.2, at which the loss is 1 + log 0.2 each."""
    shift = torch.tensor([[0.1, -0.2, 0.5]])

    def loss(error: float, spread: float) -> float:
        said = Glance(shift + error, torch.full((1, 3), math.log(spread)), torch.zeros(1))
        return float(shift_loss(said, shift)[0])

    assert loss(0.2, 0.2) == pytest.approx(3 * (1 + math.log(0.2)))
    assert loss(0.2, 0.2) < min(loss(0.2, 0.15), loss(0.2, 0.25), loss(0.3, 0.2), loss(-0.3, 0.2))


def test_the_coarse_bearing_turns_to_the_side_whose_leds_can_be_told():
    cross_entropy = torch.tensor([0.7, 0.1, 0.7, 0.7], requires_grad=True)  # the left one can
    bearing = torch.tensor([0.5, 0.0], requires_grad=True)  # to the front
    loss = visibility_loss(bearing, cross_entropy, DIRECTIONS)
    weights = np.exp(2 * 0.5 * np.cos(DIRECTIONS.numpy()))
    assert float(loss.detach()) == pytest.approx(float(weights @ [0.7, 0.1, 0.7, 0.7] / weights.sum()))
    loss.backward()
    assert float(bearing.grad[1]) < -0.1 and cross_entropy.grad is None


def test_the_auxiliary_classifier_listens_to_where_an_led_is_said_to_be_on():
    """Of 40 cells one says on for sure, the others 0: that one counts, whatever their number."""
    leds = torch.zeros(1, 1, 2, 4, 10)
    leds[0, 0, 0, 2, 3] = 8
    nothing = torch.zeros(1, 1, 4, 10)
    maps = CoarseMaps(nothing, torch.zeros(1, 1, 2, 4, 10), leds, nothing)
    pooled = 8 * math.exp(8) / (math.exp(8) + 39)
    on, off = math.log(1 + math.exp(-pooled)), math.log(1 + math.exp(pooled))
    unknown = math.log(2)
    assert float(auxiliary_loss(maps, torch.tensor([[1.0, 1.0]]))) == pytest.approx(
        (on + unknown) / 2, rel=1e-4
    )
    assert float(auxiliary_loss(maps, torch.tensor([[0.0, 1.0]]))) == pytest.approx(
        (off + unknown) / 2, rel=1e-4
    )
