# SPDX-License-Identifier: Apache-2.0
"""A furnished room of random size, textures and light.

The room's frame: origin in the middle of the floor, z up.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import mujoco
import numpy as np

from . import textures
from .furniture import CLUTTER, FURNITURE, Thing
from .parts import Paint, add_texture, box, heading, sheet, yaw_turn
from .textures import random_colour


@dataclass
class Room:
    """What robots need to know of a room: half extents [m] and discs (x, y, radius) to stay clear of."""

    half_x: float
    half_y: float
    obstacles: list[tuple[float, float, float]] = field(default_factory=list)

    def is_free(self, point: np.ndarray, clearance: float) -> bool:
        """Whether a disc of radius `clearance` round `point` (2,) [m] is inside the room and hits nothing."""
        if abs(point[0]) > self.half_x - clearance or abs(point[1]) > self.half_y - clearance:
            return False
        return all(
            np.hypot(point[0] - x, point[1] - y) > radius + clearance for x, y, radius in self.obstacles
        )

    def is_clear(self, start: np.ndarray, end: np.ndarray, clearance: float) -> bool:
        """Whether that disc can go straight from `start` to `end`."""
        steps = max(2, int(np.linalg.norm(end - start) / 0.1))
        return all(self.is_free(start + (end - start) * t, clearance) for t in np.linspace(0, 1, steps))


class RoomBuilder:
    """Adds one random room to a MuJoCo specification, everything drawn from `rng`."""

    def __init__(self, spec: mujoco.MjSpec, rng: np.random.Generator):
        self.spec, self.rng = spec, rng
        self.world, self.paint = spec.worldbody, Paint(spec, rng)
        self.room = Room(*rng.uniform(2.4, 5.0, 2))
        self.height = float(rng.uniform(2.3, 3.4))

    def build(self, robots: list[np.ndarray]) -> None:
        """Build everything; furniture keeps off `robots`, places (2,) [m] in the room."""
        rng = self.rng
        add_texture(self.spec, "sky", textures.sky_cube(rng), mujoco.mjtTexture.mjTEXTURE_SKYBOX)
        self._add_floor()
        self._add_walls()
        if rng.random() < 0.6:
            self._add_ceiling()
        self._add_lights()
        for _ in range(int(rng.integers(2, 10))):
            self._furnish(FURNITURE[rng.integers(len(FURNITURE))], robots)
        for _ in range(int(rng.integers(0, 5))):
            self._furnish(CLUTTER[rng.integers(len(CLUTTER))], robots)

    def _add_floor(self) -> None:
        rng, half = self.rng, np.array([self.room.half_x, self.room.half_y])
        make = textures.FLOORS[rng.integers(len(textures.FLOORS))]
        colour = random_colour(rng, 0.5 if rng.random() < 0.4 else 0.12, 0.3)
        is_polished = rng.random() < 0.25
        floor = self.paint.flat(
            make(rng, colour),
            2 * half / rng.uniform(0.6, 1.6),
            rng.uniform(0.05, 0.3) if is_polished else 0.0,
        )
        self.world.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, material=floor, size=[*half, 0.5])

    def _add_ceiling(self) -> None:
        ceiling = self.paint.flat(
            textures.concrete(self.rng, random_colour(self.rng, 0.1, 0.5, 1.0)), repeat=(2, 2)
        )
        self.world.add_geom(
            type=mujoco.mjtGeom.mjGEOM_PLANE,
            material=ceiling,
            pos=[0, 0, self.height],
            quat=[0, 1, 0, 0],
            size=[self.room.half_x, self.room.half_y, 0.5],
            castshadow=False,
        )

    def _add_walls(self) -> None:
        """Four walls, mostly alike; some are only a parapet before the open."""
        rng = self.rng
        make, colour = _draw_wallpaper(rng)
        scale = rng.uniform(0.8, 2.5)
        skirting = self.paint.plain(random_colour(rng, 0.2, 0.2, 0.95)) if rng.random() < 0.8 else None
        open_share = 0.15 if rng.random() < 0.7 else 0.6
        for side in range(4):
            reach, half_width = (self.room.half_x, self.room.half_y)[:: 1 if side % 2 == 0 else -1]
            outward = heading(side * np.pi / 2)
            if rng.random() < 0.35:
                make, colour = _draw_wallpaper(rng)
            is_open = rng.random() < open_share
            height = float(rng.choice([0.1, 0.4, 0.9])) if is_open else self.height
            wall = self.paint.flat(make(rng, colour), (2 * half_width / scale, height / scale))
            inward_yaw = (side + 2) * np.pi / 2
            centre = (*(reach * outward), height / 2)
            sheet(self.world, wall, centre, (half_width, height / 2), inward_yaw, castshadow=True)
            if skirting:
                base = (reach - 0.008) * outward
                half = (0.008, half_width, rng.uniform(0.03, 0.07))
                box(self.world, skirting, (*base, 0.045), half, yaw_turn(inward_yaw))
            if not is_open:
                self._decorate(reach - 0.012, half_width, inward_yaw)
            elif rng.random() < 0.5:
                self._add_posts(reach, half_width, inward_yaw)

    def _decorate(self, reach: float, half_width: float, inward_yaw: float) -> None:
        """Doors, windows and pictures along a wall, `reach` from the room's middle."""
        rng = self.rng
        at = rng.uniform(-0.9, 0.9) * half_width
        for _ in range(int(rng.integers(1, 4))):
            kind = rng.random()
            if kind < 0.35:
                picture, height, half_size = textures.door(rng), 1.02, (rng.uniform(0.4, 0.6), 1.02)
            elif kind < 0.55:
                picture, height = textures.window(rng), 1.3
                half_size = (rng.uniform(0.4, 1.0), rng.uniform(0.4, 0.7))
            elif kind < 0.65:
                picture, height, half_size = textures.books(rng), 0.8, (rng.uniform(0.3, 0.6), 0.8)
            else:
                picture, height = textures.poster(rng), rng.uniform(0.5, 1.5)
                half_size = (rng.uniform(0.12, 0.4), rng.uniform(0.12, 0.4))
            spot = -reach * heading(inward_yaw) + at * heading(inward_yaw + np.pi / 2)
            sheet(self.world, self.paint.flat(picture), (*spot, height), half_size, inward_yaw)
            at = (at + half_width * rng.uniform(1.4, 2.2)) % (2 * half_width) - half_width

    def _add_posts(self, reach: float, half_width: float, inward_yaw: float) -> None:
        """The posts of an open side."""
        post = self.paint.plain(random_colour(self.rng, 0.4, 0.05, 0.8))
        for at in np.arange(-half_width, half_width, self.rng.uniform(0.7, 2.0)):
            spot = -reach * heading(inward_yaw) + at * heading(inward_yaw + np.pi / 2)
            box(self.world, post, (*spot, self.height / 2), (0.03, 0.03, self.height / 2))

    def _add_lights(self) -> None:
        """Ambient light, one strong light, mostly with shadows, and a weaker one from another side."""
        rng, headlight = self.rng, self.spec.visual.headlight
        ambient = rng.uniform(0.38, 0.75)
        tint = _draw_tint(rng)
        headlight.ambient, headlight.diffuse = ambient * tint, rng.uniform(0, 0.15) * tint
        headlight.specular = [0.05] * 3
        azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(30, 85))
        key = (1.3 - ambient) * rng.uniform(0.5, 1.1) * _draw_tint(rng)
        self._add_light(azimuth, elevation, key, castshadow=rng.random() < 0.85)
        self._add_light(
            azimuth + rng.uniform(0.5, 1.5) * np.pi, 0.5, key * rng.uniform(0, 0.5), castshadow=False
        )

    def _add_light(self, azimuth: float, elevation: float, colour: np.ndarray, castshadow: bool) -> None:
        """A distant light; it shines from `azimuth` and `elevation` [rad]."""
        towards = np.array([*(np.cos(elevation) * heading(azimuth)), np.sin(elevation)])
        self.world.add_light(
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            pos=6 * towards,
            dir=-towards,
            ambient=[0, 0, 0],
            diffuse=colour,
            specular=0.4 * colour,
            castshadow=bool(castshadow),
        )

    def _furnish(self, thing: Thing, robots: list[np.ndarray]) -> None:
        """Put a thing where it fits; leave it out when no place is found soon."""
        rng = self.rng
        radius = rng.uniform(*thing.radius)
        limits = np.array([self.room.half_x, self.room.half_y]) - radius
        for _ in range(20):
            spot = rng.uniform(-limits, limits)
            if rng.random() < thing.share_at_walls:
                axis = int(rng.integers(2))
                spot[axis] = np.copysign(limits[axis], spot[axis])
            is_off_robots = all(np.hypot(*(spot - robot)) > 0.35 + radius for robot in robots)
            if is_off_robots and self.room.is_free(spot, radius - 1e-6):
                thing.build(self.world, self.paint, rng, spot, radius)
                self.room.obstacles.append((*spot, radius))
                return


def _draw_wallpaper(rng: np.random.Generator) -> tuple[Callable[..., textures.Texture], np.ndarray]:
    return textures.WALLS[rng.integers(len(textures.WALLS))], random_colour(rng, 0.3, 0.3, 1.0)


def _draw_tint(rng: np.random.Generator) -> np.ndarray:
    """A colour of light (3,), near white."""
    return 1 - rng.uniform(0, 0.2) * random_colour(rng, 1.0, 0.0, 1.0)
