# SPDX-License-Identifier: Apache-2.0
"""Things that stand about in rooms.

Each builder adds one thing to `world`, centred on `spot` (2,) on the floor and within `radius` of it [m].
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import textures
from .parts import Body, Paint, box, capsule, cylinder, heading, sheet, sphere, yaw_turn
from .textures import random_colour

Rng = np.random.Generator


@dataclass(frozen=True)
class Thing:
    """A kind of thing: how to build it, its range of radii [m] and how often it stands at a wall."""

    build: Callable[[Body, Paint, Rng, np.ndarray, float], None]
    radius: tuple[float, float]
    share_at_walls: float


def _surface(paint: Paint, rng: Rng, saturation: float = 0.7) -> str:
    make = textures.SURFACES[rng.integers(len(textures.SURFACES))]
    return paint.solid(make(rng, random_colour(rng, saturation)))


def _bright(paint: Paint, rng: Rng) -> str:
    return paint.solid(textures.plain(rng, random_colour(rng, 1.0)))


def _square_yaw(rng: Rng) -> float:
    return int(rng.integers(4)) * np.pi / 2


def boxes(world: Body, paint: Paint, rng: Rng, spot: np.ndarray, radius: float) -> None:
    """A stack of one to three boxes."""
    top = 0.0
    for _ in range(int(rng.integers(1, 4))):
        half = radius * rng.uniform(0.4, 0.65, 3)
        centre = spot + radius * rng.uniform(-0.08, 0.08, 2)
        box(world, _surface(paint, rng), (*centre, top + half[2]), half, yaw_turn(rng.uniform(0, np.pi)))
        top += 2 * half[2]


def cabinet(world: Body, paint: Paint, rng: Rng, spot: np.ndarray, radius: float) -> None:
    half = (radius * rng.uniform(0.4, 0.7), radius * 0.7, rng.uniform(0.3, 1.0))
    box(world, _surface(paint, rng), (*spot, half[2]), half, yaw_turn(_square_yaw(rng)))


def bookcase(world: Body, paint: Paint, rng: Rng, spot: np.ndarray, radius: float) -> None:
    """Books on both broad sides, so that neither looks bare."""
    half = np.array([radius * rng.uniform(0.3, 0.5), radius * 0.8, rng.uniform(0.4, 1.0)])
    yaw = _square_yaw(rng)
    box(world, _surface(paint, rng), (*spot, half[2]), half, yaw_turn(yaw))
    books = paint.flat(textures.books(rng))
    for side in (yaw, yaw + np.pi):
        sheet(world, books, (*(spot + (half[0] + 0.004) * heading(side)), half[2]), half[1:], side)


def table(world: Body, paint: Paint, rng: Rng, spot: np.ndarray, radius: float) -> None:
    half, height = radius * rng.uniform(0.5, 0.7, 2), rng.uniform(0.4, 0.75)
    top, leg = _surface(paint, rng), paint.plain(random_colour(rng, 0.5, 0.1))
    box(world, top, (*spot, height), (*half, 0.02))
    for corner in ((-0.9, -0.9), (-0.9, 0.9), (0.9, -0.9), (0.9, 0.9)):
        cylinder(world, leg, (*(spot + half * corner), height / 2), 0.02, height / 2)


def chair(world: Body, paint: Paint, rng: Rng, spot: np.ndarray, radius: float) -> None:
    """An office chair on a star of five feet."""
    seat, steel = _surface(paint, rng), paint.plain(random_colour(rng, 0.2, 0.05, 0.6))
    yaw, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 0.5)
    back = (*(spot + 0.65 * radius * heading(yaw)), height + 0.35)
    cylinder(world, seat, (*spot, height), 0.7 * radius, 0.03)
    box(world, seat, back, (0.025, 0.6 * radius, 0.25), yaw_turn(yaw))
    cylinder(world, steel, (*spot, height / 2), 0.025, height / 2)
    for angle in yaw + np.arange(5) * 2 * np.pi / 5:
        capsule(world, steel, (*spot, 0.1), (*(spot + 0.85 * radius * heading(angle)), 0.05), 0.02)


def drum(world: Body, paint: Paint, rng: Rng, spot: np.ndarray, radius: float) -> None:
    material, half_height = _surface(paint, rng, saturation=1.0), rng.uniform(0.25, 0.5)
    cylinder(world, material, (*spot, half_height), 0.95 * radius, half_height)
    for height in (0.65, 1.3):
        cylinder(world, material, (*spot, half_height * height), radius, 0.012)


def sofa(world: Body, paint: Paint, rng: Rng, spot: np.ndarray, radius: float) -> None:
    material, yaw = _bright(paint, rng), _square_yaw(rng)
    turn, half_width = yaw_turn(yaw), 0.75 * radius
    box(world, material, (*spot, 0.2), (0.35, half_width, 0.2), turn)
    box(world, material, (*(spot - 0.28 * heading(yaw)), 0.4), (0.1, half_width, 0.4), turn)
    for side in (-1, 1):
        arm = spot + side * half_width * heading(yaw + np.pi / 2)
        box(world, material, (*arm, 0.3), (0.38, 0.09, 0.3), turn)


def ball(world: Body, paint: Paint, rng: Rng, spot: np.ndarray, radius: float) -> None:
    sphere(world, _bright(paint, rng), (*spot, radius), radius)


def cone(world: Body, paint: Paint, rng: Rng, spot: np.ndarray, radius: float) -> None:
    """A traffic cone with a white band."""
    colour, white = _bright(paint, rng), paint.plain(np.full(3, 0.85))
    box(world, colour, (*spot, 0.01), (0.7 * radius, 0.7 * radius, 0.01))
    for k in range(8):
        height = 0.02 + (k + 0.5) * radius / 3
        cylinder(
            world, white if k in (3, 4) else colour, (*spot, height), radius * (0.65 - 0.08 * k), radius / 6
        )


def suitcase(world: Body, paint: Paint, rng: Rng, spot: np.ndarray, radius: float) -> None:
    half = radius * np.array([0.4, 0.9, 0.6])
    box(world, _bright(paint, rng), (*spot, half[2]), half, yaw_turn(rng.uniform(0, np.pi)))


def waste_bin(world: Body, paint: Paint, rng: Rng, spot: np.ndarray, radius: float) -> None:
    cylinder(world, _bright(paint, rng), (*spot, 1.4 * radius), radius, 1.4 * radius)


FURNITURE = (
    Thing(boxes, (0.2, 0.6), 0.5),
    Thing(cabinet, (0.35, 0.7), 0.9),
    Thing(bookcase, (0.35, 0.6), 0.9),
    Thing(table, (0.5, 0.9), 0.4),
    Thing(chair, (0.3, 0.36), 0.2),
    Thing(drum, (0.15, 0.35), 0.5),
    Thing(sofa, (0.6, 1.0), 0.7),
)
CLUTTER = (
    Thing(ball, (0.05, 0.16), 0.0),
    Thing(cone, (0.08, 0.16), 0.0),
    Thing(suitcase, (0.06, 0.18), 0.0),
    Thing(waste_bin, (0.06, 0.14), 0.2),
)
"""Small things that lie on the floor."""
