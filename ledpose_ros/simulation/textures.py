# SPDX-License-Identifier: Apache-2.0
"""Procedural textures: every function returns an RGB uint8 square of SIZE pixels, drawn from `rng` alone."""

import cv2
import numpy as np

SIZE = 256

Texture = np.ndarray
Colour = np.ndarray


def random_colour(
    rng: np.random.Generator, saturation: float = 0.4, low: float = 0.25, high: float = 0.9
) -> Colour:
    """An RGB colour (3,) in 0..1: random hue, saturation at most the given one, value in low..high."""
    hue = rng.normal(30, 15) % 360 if rng.random() < 0.4 else rng.uniform(0, 360)  # Rooms are mostly warm.
    hsv = np.array([[[hue, saturation * rng.random() ** 1.5, rng.uniform(low, high)]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(float)


def noise(rng: np.random.Generator, coarsest: int = 4, octaves: int = 5, fade: float = 0.55) -> np.ndarray:
    """Multi-octave value noise (SIZE, SIZE) in 0..1 that tiles; `coarsest` cells in the first octave."""
    total, weight = np.zeros((SIZE, SIZE), np.float32), 1.0
    for octave in range(octaves):
        cells = min(coarsest * 2**octave, SIZE)
        grid = np.pad(rng.random((cells, cells)).astype(np.float32), 2, mode="wrap")
        margin = 2 * SIZE // cells
        fine = cv2.resize(grid, (SIZE + 2 * margin,) * 2, interpolation=cv2.INTER_CUBIC)
        total += weight * fine[margin : margin + SIZE, margin : margin + SIZE]
        weight *= fade
    return (total - total.min()) / (np.ptp(total) + 1e-6)


def _blend(dark: Colour, light: Colour, amount: np.ndarray) -> Texture:
    rgb = dark + (light - dark) * amount[..., None]
    return (np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def _pixel(colour: Colour) -> tuple[int, int, int]:
    """A colour as OpenCV's drawing functions take it."""
    red, green, blue = (int(255 * part) for part in colour)
    return red, green, blue


def plain(rng: np.random.Generator, colour: Colour) -> Texture:
    return _blend(colour * rng.uniform(0.85, 1.0), colour, noise(rng, 3, 3))


def plaster(rng: np.random.Generator, colour: Colour) -> Texture:
    relief = noise(rng, int(rng.integers(8, 40)), 5, 0.8)
    shade = np.clip(0.5 + rng.uniform(1.5, 4) * (relief - np.roll(relief, (1, 1), (0, 1))), 0, 1)
    stains = noise(rng, 3, 4)
    return _blend(colour * rng.uniform(0.45, 0.8), colour, 0.5 * shade + 0.5 * stains)


def bricks(rng: np.random.Generator, colour: Colour) -> Texture:
    rows = int(rng.integers(8, 17)) // 2 * 2
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE * rows
    row = y.astype(int)
    column = x / 2 + 0.5 * (row % 2)
    tone = rng.random((rows, rows // 2))[row % rows, column.astype(int) % (rows // 2)]
    joint = rng.uniform(0.04, 0.12)
    mortar = (y % 1 < joint) | (column % 1 < joint / 2)
    rgb = _blend(colour * 0.55, colour, 0.65 * tone + 0.35 * noise(rng, 16, 4, 0.8))
    rgb[mortar] = _blend(random_colour(rng, 0.1, 0.3, 0.8) * 0.7, colour * 0 + 0.8, noise(rng, 16, 3))[mortar]
    return rgb


def panels(rng: np.random.Generator, colour: Colour) -> Texture:
    """Horizontal or vertical boards with dark joints."""
    count = int(rng.integers(3, 9))
    along = np.arange(SIZE) / SIZE * count % 1
    joint = np.clip(along / rng.uniform(0.03, 0.1), 0.25, 1)
    shade = np.broadcast_to(joint[:, None], (SIZE, SIZE)) * (0.85 + 0.15 * noise(rng, 4, 5))
    rgb = _blend(colour * 0.3, colour, shade)
    return rgb if rng.random() < 0.6 else np.ascontiguousarray(rgb.transpose(1, 0, 2))


def stripes(rng: np.random.Generator, colour: Colour) -> Texture:
    count = int(rng.integers(2, 12))
    wave = (np.arange(SIZE) / SIZE * count % 1 < rng.uniform(0.2, 0.8)).astype(float)
    pattern = np.broadcast_to(wave[None, :], (SIZE, SIZE)) * (0.8 + 0.2 * noise(rng))
    return _blend(random_colour(rng, 0.5), colour, pattern)


def checker(rng: np.random.Generator, colour: Colour) -> Texture:
    cell = SIZE // int(rng.choice([2, 4]))
    y, x = np.mgrid[:SIZE, :SIZE] // cell
    first, second = (
        (np.array([0.08] * 3), np.array([0.85] * 3)) if rng.random() < 0.5 else (random_colour(rng), colour)
    )
    marble = 0.25 * np.abs(noise(rng, 3, 6, 0.7) - 0.5)
    return _blend(first, second, np.clip((x + y) % 2 + (0.5 - (x + y) % 2) * marble, 0, 1))


def tiles(rng: np.random.Generator, colour: Colour) -> Texture:
    count = int(rng.integers(2, 5))
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE * count
    tone = rng.random((count, count))[y.astype(int), x.astype(int)]
    width = rng.uniform(0.015, 0.04)
    rgb = _blend(colour * 0.8, colour, 0.4 * tone + 0.6 * noise(rng, 3, 6, 0.7))
    rgb[(y % 1 < width) | (x % 1 < width)] = _pixel(random_colour(rng, 0.1, 0.1, 0.8))
    return rgb


def wood(rng: np.random.Generator, colour: Colour) -> Texture:
    """Planks along the first axis with grain, each of its own tone and offset."""
    count = int(rng.integers(2, 9))
    grain = cv2.resize(noise(rng, 16, 5, 0.8), (SIZE, SIZE * 8))[:SIZE]
    plank = (np.arange(SIZE) * count // SIZE).astype(int)
    tone, shift = rng.random(count), rng.integers(0, SIZE, count)
    shade = np.empty((SIZE, SIZE), np.float32)
    for k in range(count):
        ends = np.ones(SIZE, np.float32)
        ends[(shift[k] + np.arange(2)) % SIZE] = 0.2
        shade[:, plank == k] = (np.roll(grain, shift[k], 0) * ends[:, None])[
            :, plank == k
        ] * 0.6 + 0.4 * tone[k]
    edge = np.arange(SIZE) * count % SIZE < count * rng.uniform(1, 2)
    shade[:, edge] *= 0.4
    return _blend(colour * 0.45, colour, shade)


def carpet(rng: np.random.Generator, colour: Colour) -> Texture:
    grains = noise(rng, 64, 3, 1.2)
    return _blend(colour * rng.uniform(0.2, 0.7), colour, 0.8 * grains + 0.2 * noise(rng, 3, 3))


def concrete(rng: np.random.Generator, colour: Colour) -> Texture:
    grey = 0.3 * colour + 0.7 * colour.mean()
    return _blend(grey * rng.uniform(0.6, 0.85), grey, noise(rng, 4, 7, 0.75))


def poster(rng: np.random.Generator) -> Texture:
    """A framed picture: a background, a few shapes, sometimes a face-like oval."""
    rgb = _blend(random_colour(rng, 0.8), random_colour(rng, 0.8), noise(rng, 2, 4))
    for _ in range(int(rng.integers(2, 9))):
        colour = _pixel(random_colour(rng, 1.0, 0.05, 1.0))
        centre = tuple(int(c) for c in rng.integers(0, SIZE, 2))
        axes = tuple(int(c) for c in rng.integers(SIZE // 16, SIZE // 3, 2))
        if rng.random() < 0.5:
            cv2.ellipse(rgb, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(rgb, centre, (centre[0] + axes[0], centre[1] + axes[1]), colour, -1)
    rgb = cv2.GaussianBlur(rgb, (0, 0), 3)
    frame = int(rng.integers(0, 20))
    if frame:
        cv2.rectangle(rgb, (0, 0), (SIZE - 1, SIZE - 1), _pixel(random_colour(rng, 0.5, 0, 0.6)), frame)
    return rgb


def door(rng: np.random.Generator) -> Texture:
    colour = random_colour(rng, 0.6)
    rgb = plain(rng, colour) if rng.random() < 0.5 else wood(rng, colour)
    dark = _pixel(0.5 * colour)
    for top, bottom in ((20, 120), (140, 236)) if rng.random() < 0.6 else ((24, 232),):
        cv2.rectangle(rgb, (35, top), (SIZE - 36, bottom), dark, int(rng.integers(2, 7)))
    cv2.rectangle(rgb, (0, 0), (SIZE - 1, SIZE - 1), dark, 10)
    cv2.circle(rgb, (SIZE - 26, 130), 7, (200, 200, 190), -1)
    return rgb


def window(rng: np.random.Generator) -> Texture:
    """A framed view of a blurred, bright or dark outside."""
    sky = _blend(
        random_colour(rng, 0.4, 0.0, 0.7),
        random_colour(rng, 0.3, 0.5, 1.0),
        np.tile(np.linspace(1, 0, SIZE)[:, None], SIZE),
    )
    rgb = cv2.addWeighted(sky, 0.8, poster(rng), 0.2, 0)
    frame = _pixel(random_colour(rng, 0.3, 0.05, 0.95))
    bars = int(rng.integers(1, 4))
    for k in range(bars + 1):
        at = round(k * (SIZE - 1) / bars)
        cv2.line(rgb, (at, 0), (at, SIZE), frame, 12)
        cv2.line(rgb, (0, at), (SIZE, at), frame, 12)
    return rgb


def books(rng: np.random.Generator) -> Texture:
    """The front of a bookcase: shelves of upright books."""
    rgb = np.full((SIZE, SIZE, 3), _pixel(random_colour(rng, 0.6, 0.05, 0.25)), np.uint8)
    board = _pixel(random_colour(rng, 0.6, 0.2, 0.8))
    shelves = int(rng.integers(3, 6))
    height = SIZE // shelves
    for shelf in range(shelves):
        x = 14
        while x < SIZE - 20:
            width = int(rng.integers(8, 22))
            top = shelf * height + int(rng.integers(height // 5, height // 2))
            if rng.random() < 0.85:
                book = _pixel(random_colour(rng, 1.0, 0.15, 0.9))
                rgb[top : (shelf + 1) * height, x : min(x + width, SIZE - 14)] = book
            x += width + 2
        rgb[shelf * height : shelf * height + 9] = board
    rgb[-9:] = board
    rgb[:, :14] = board
    rgb[:, -14:] = board
    return rgb


def panorama(rng: np.random.Generator) -> np.ndarray:
    """What lies outside the room, equirectangular (SIZE, 4 SIZE, 3): sky, clouds and a blurred skyline."""
    width = 4 * SIZE
    top, low = random_colour(rng, 0.7, 0.1, 0.9), random_colour(rng, 0.4, 0.4, 1.0)
    elevation = np.linspace(1, -1, SIZE, dtype=np.float32)[:, None]
    clouds = cv2.resize(noise(rng, 4, 5), (width, SIZE))
    sky = low + (top - low) * np.clip(elevation + 0.4 * (clouds - 0.5), 0, 1)[..., None]
    ground = random_colour(rng, 0.3, 0.1, 0.6) * (0.7 + 0.3 * clouds[..., None])
    rgb = np.where(elevation[..., None] > 0, sky, ground).astype(np.float32)
    horizon = SIZE // 2
    for _ in range(int(rng.integers(0, 60))):
        x, span, height = int(rng.integers(0, width)), int(rng.integers(10, 90)), int(rng.integers(2, 60))
        rgb[horizon - height : horizon + 4, x : x + span] = random_colour(rng, 0.4, 0.05, 0.8)
    rgb = cv2.GaussianBlur(rgb, (0, 0), float(rng.uniform(0.5, 4)))
    return (np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def sky_cube(rng: np.random.Generator) -> np.ndarray:
    """The six faces of a sky box (6 SIZE, SIZE, 3), sampled from a `panorama`."""
    image = panorama(rng)
    v, u = np.mgrid[:SIZE, :SIZE].astype(np.float32) / (SIZE / 2) - 1
    one = np.ones_like(u)
    faces = []
    # Right, left, up, down, front, back as an OpenGL cube map has them, with y up.
    for x, y, z in ((one, -v, -u), (-one, -v, u), (u, one, v), (u, -one, -v), (u, -v, one), (-u, -v, -one)):
        column = (np.arctan2(x, z) / (2 * np.pi) + 0.5) * (image.shape[1] - 1)
        row = (0.5 - np.arctan2(y, np.hypot(x, z)) / np.pi) * (SIZE - 1)
        faces.append(cv2.remap(image, column, row, cv2.INTER_LINEAR))
    return np.concatenate(faces)


WALLS = (plain, plain, plaster, plaster, plaster, bricks, bricks, panels, stripes, concrete)
FLOORS = (wood, wood, wood, tiles, tiles, checker, carpet, carpet, concrete, plain)
SURFACES = (plain, plain, wood, panels, concrete, carpet)
