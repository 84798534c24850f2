# SPDX-License-Identifier: Apache-2.0
"""A furnished room of random size, textures and light."""

from dataclasses import dataclass, field

import mujoco
import numpy as np

from . import textures
from .textures import random_colour

GEOM = mujoco.mjtGeom
UPRIGHT = (np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0)


@dataclass
class Room:
    """What robots need to know of a room: its half extents [m] and the discs (x, y, radius) to stay clear of."""

    half_x: float
    half_y: float
    obstacles: list[tuple[float, float, float]] = field(default_factory=list)

    def is_free(self, point: np.ndarray, clearance: float) -> bool:
        """Whether a disc of radius `clearance` round `point` (2,) [m] is inside the room and hits nothing."""
        if abs(point[0]) > self.half_x - clearance or abs(point[1]) > self.half_y - clearance:
            return False
        return all(np.hypot(point[0] - x, point[1] - y) > radius + clearance for x, y, radius in self.obstacles)

    def is_clear(self, start: np.ndarray, end: np.ndarray, clearance: float) -> bool:
        """Whether that disc can go straight from `start` to `end`."""
        steps = max(2, int(np.linalg.norm(end - start) / 0.1))
        return all(self.is_free(start + (end - start) * t, clearance) for t in np.linspace(0, 1, steps))


class RoomBuilder:
    """Adds one random room to a MuJoCo specification, everything drawn from `rng`."""

    def __init__(self, spec: mujoco.MjSpec, rng: np.random.Generator):
        self.spec, self.rng = spec, rng
        self.room = Room(*rng.uniform(2.4, 5.0, 2))
        self.height = float(rng.uniform(2.3, 3.4))
        self.count = 0

    def build(self, observer: np.ndarray) -> Room:
        """Build everything; furniture keeps off `observer` (2,) [m]."""
        self._sky()
        self._floor()
        self._walls()
        self._lights()
        for _ in range(int(self.rng.integers(2, 10))):
            self._furniture(observer)
        for _ in range(int(self.rng.integers(0, 5))):
            self._clutter(observer)
        return self.room

    # -- surfaces ---------------------------------------------------------------------------------------------

    def _material(self, rgb: np.ndarray | None = None, colour: np.ndarray | None = None, cube: bool = False,
                  repeat: tuple[float, float] = (1, 1), reflectance: float = 0.0) -> str:  # fmt: skip
        """A new material from a square texture (flat, or on the six faces of a solid) or a plain colour."""
        self.count += 1
        name = f"room{self.count}"
        look = {"specular": float(self.rng.uniform(0, 0.5)), "shininess": float(self.rng.uniform(0, 0.6))}
        material = self.spec.add_material(name=name, reflectance=reflectance, texrepeat=repeat, **look)
        if colour is not None:
            material.rgba = [*colour, 1]
        if rgb is not None:
            data = np.tile(rgb, (6, 1, 1)) if cube else rgb
            kind = mujoco.mjtTexture.mjTEXTURE_CUBE if cube else mujoco.mjtTexture.mjTEXTURE_2D
            self._texture(name, kind, data)
            material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
        return name

    def _texture(self, name: str, kind: mujoco.mjtTexture, rgb: np.ndarray) -> None:
        texture = self.spec.add_texture(name=name, type=kind, width=rgb.shape[1], height=rgb.shape[0], nchannel=3)
        texture.data = rgb.tobytes()

    def _surface(self, cube: bool = True, saturation: float = 0.7) -> str:
        make = textures.SURFACES[self.rng.integers(len(textures.SURFACES))]
        return self._material(make(self.rng, random_colour(self.rng, saturation)), cube=cube)

    def _add(self, kind: mujoco.mjtGeom, material: str, pos, size, yaw: float = 0.0, quat=None, **more) -> None:
        quat = quat if quat is not None else (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        self.spec.worldbody.add_geom(type=kind, material=material, pos=pos, size=size, quat=quat, **more)

    def _sky(self) -> None:
        self._texture("sky", mujoco.mjtTexture.mjTEXTURE_SKYBOX, textures.sky_cube(self.rng))

    def _floor(self) -> None:
        make = textures.FLOORS[self.rng.integers(len(textures.FLOORS))]
        scale = self.rng.uniform(0.6, 1.6)
        repeat = (2 * self.room.half_x / scale, 2 * self.room.half_y / scale)
        shine = float(self.rng.uniform(0.05, 0.3)) if self.rng.random() < 0.25 else 0.0
        material = self._material(make(self.rng, random_colour(self.rng, 0.5 if self.rng.random() < 0.4 else 0.12, 0.3)), repeat=repeat, reflectance=shine)
        self._add(GEOM.mjGEOM_PLANE, material, (0, 0, 0), (self.room.half_x, self.room.half_y, 0.5))

    def _walls(self) -> None:
        rng, room = self.rng, self.room
        make = textures.WALLS[rng.integers(len(textures.WALLS))]
        colour = random_colour(rng, 0.25, 0.35, 1.0)
        scale = rng.uniform(0.8, 2.5)
        skirting = self._material(colour=random_colour(rng, 0.2, 0.2, 0.95)) if rng.random() < 0.8 else None
        open_share = 0.15 if rng.random() < 0.7 else 0.6
        for k in range(4):
            yaw = k * np.pi / 2
            inward = -np.array([np.cos(yaw), np.sin(yaw)])
            along = np.array([-inward[1], inward[0]])
            reach, half = (room.half_x, room.half_y) if k % 2 == 0 else (room.half_y, room.half_x)
            if rng.random() < 0.35:
                make, colour = textures.WALLS[rng.integers(len(textures.WALLS))], random_colour(rng, 0.4, 0.3, 1.0)
            is_open = rng.random() < open_share
            height = float(rng.choice([0.1, 0.4, 0.9])) if is_open else self.height
            material = self._material(make(rng, colour), repeat=(2 * half / scale, height / scale))
            quat = _facing(inward)
            self._add(GEOM.mjGEOM_PLANE, material, (*(-inward * reach), height / 2), (half, height / 2, 0.5), quat=quat)
            if skirting:
                base = -inward * (reach - 0.008)
                self._add(GEOM.mjGEOM_BOX, skirting, (*base, 0.045), (0.008, half, rng.uniform(0.03, 0.07)), yaw=yaw)
            if is_open:
                if rng.random() < 0.5:
                    self._posts(-inward * reach, along, half)
                continue
            at = rng.uniform(-0.9, 0.9) * half
            for _ in range(int(rng.integers(1, 4))):
                self._hang(-inward * (reach - 0.012) + along * at, inward)
                at = (at + half * rng.uniform(0.4, 1.2) + half) % (2 * half) - half
        if rng.random() < 0.6:
            ceiling = self._material(textures.concrete(rng, random_colour(rng, 0.1, 0.5, 1.0)), repeat=(2, 2))
            self._add(GEOM.mjGEOM_PLANE, ceiling, (0, 0, self.height), (room.half_x, room.half_y, 0.5),
                      quat=(0, 1, 0, 0), castshadow=False)  # fmt: skip

    def _posts(self, middle: np.ndarray, along: np.ndarray, half: float) -> None:
        """Window posts of an open wall."""
        material = self._material(colour=random_colour(self.rng, 0.4, 0.05, 0.8))
        for at in np.arange(-half, half, self.rng.uniform(0.7, 2.0)):
            self._add(GEOM.mjGEOM_BOX, material, (*(middle + along * at), self.height / 2), (0.03, 0.03, self.height / 2))

    def _hang(self, at: np.ndarray, inward: np.ndarray) -> None:
        """A door, a window or a picture on a wall at `at`."""
        rng, kind = self.rng, self.rng.random()
        if kind < 0.35:
            picture, half_width, half_height, centre = textures.door(rng, random_colour(rng, 0.6)), rng.uniform(0.4, 0.6), 1.02, 1.02
        elif kind < 0.55:
            picture, half_width, half_height, centre = textures.window(rng), rng.uniform(0.4, 1.0), rng.uniform(0.4, 0.7), 1.3
        elif kind < 0.65:
            picture, half_width, half_height, centre = textures.books(rng), rng.uniform(0.3, 0.6), 0.8, 0.8
        else:
            picture, half_width, half_height, centre = textures.poster(rng), *rng.uniform(0.12, 0.4, 2), rng.uniform(0.5, 1.5)
        material = self._material(picture)
        self._add(GEOM.mjGEOM_PLANE, material, (*at, centre), (half_width, half_height, 1), quat=_facing(inward), castshadow=False)

    # -- light ------------------------------------------------------------------------------------------------

    def _lights(self) -> None:
        rng = self.rng
        tint = 1 - rng.uniform(0, 0.2) * random_colour(rng, 1.0, 0.0, 1.0)
        ambient = rng.uniform(0.3, 0.7)
        head = self.spec.visual.headlight
        head.ambient, head.diffuse = ambient * tint, rng.uniform(0, 0.15) * tint
        head.specular = [0.05] * 3
        elevation, azimuth = rng.uniform(np.radians(30), np.radians(85)), rng.uniform(0, 2 * np.pi)
        direction = -np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
        key = (1.3 - ambient) * rng.uniform(0.5, 1.1) * (1 - rng.uniform(0, 0.2) * random_colour(rng, 1.0, 0.0, 1.0))
        self.spec.worldbody.add_light(type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, dir=direction, pos=-6 * direction,
                                      diffuse=key, ambient=[0] * 3, specular=0.4 * key, castshadow=bool(rng.random() < 0.85))  # fmt: skip
        turn = azimuth + rng.uniform(np.pi / 2, 3 * np.pi / 2)
        fill = key * rng.uniform(0, 0.5)
        self.spec.worldbody.add_light(type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, dir=[np.cos(turn), np.sin(turn), -0.6],
                                      pos=[0, 0, 3], diffuse=fill, ambient=[0] * 3, specular=0.3 * fill, castshadow=False)  # fmt: skip

    # -- things -----------------------------------------------------------------------------------------------

    def _place(self, observer: np.ndarray, radius: float, from_wall: float) -> np.ndarray | None:
        """A free spot for a thing of this radius, more often near a wall; None when none is found."""
        for _ in range(20):
            spot = self.rng.uniform(-1, 1, 2) * (self.room.half_x - radius, self.room.half_y - radius)
            if self.rng.random() < from_wall:
                axis = int(self.rng.integers(2))
                spot[axis] = np.sign(spot[axis]) * ((self.room.half_x, self.room.half_y)[axis] - radius)
            if np.linalg.norm(spot - observer) > 0.8 + radius and self.room.is_free(spot, radius - 1e-6):
                return spot
        return None

    def _furniture(self, observer: np.ndarray) -> None:
        kinds = (self._boxes, self._cabinet, self._table, self._chair, self._drum, self._sofa, self._shelf)
        kinds[self.rng.integers(len(kinds))](observer)

    def _boxes(self, observer: np.ndarray) -> None:
        rng = self.rng
        half = rng.uniform(0.12, 0.35)
        spot = self._place(observer, half * 1.5, 0.5)
        if spot is None:
            return
        top = 0.0
        for _ in range(int(rng.integers(1, 4))):
            extent = half * rng.uniform(0.6, 1.0, 3)
            offset = rng.uniform(-0.15, 0.15, 2) * half
            self._add(GEOM.mjGEOM_BOX, self._surface(), (*(spot + offset), top + extent[2]), extent, yaw=rng.uniform(0, np.pi))
            top += 2 * extent[2]
        self.room.obstacles.append((*spot, half * 1.4))

    def _cabinet(self, observer: np.ndarray) -> None:
        rng = self.rng
        half = np.array([rng.uniform(0.2, 0.35), rng.uniform(0.25, 0.5), rng.uniform(0.3, 1.0)])
        spot = self._place(observer, float(half[:2].max()), 0.9)
        if spot is None:
            return
        self._add(GEOM.mjGEOM_BOX, self._surface(), (*spot, half[2]), half, yaw=rng.integers(4) * np.pi / 2)
        self.room.obstacles.append((*spot, float(np.hypot(*half[:2]))))

    def _shelf(self, observer: np.ndarray) -> None:
        """A bookcase: books on all four sides, so that no side looks bare."""
        rng = self.rng
        half = np.array([rng.uniform(0.15, 0.3), rng.uniform(0.25, 0.5), rng.uniform(0.4, 1.0)])
        spot = self._place(observer, float(half[:2].max()), 0.9)
        if spot is None:
            return
        yaw = float(rng.integers(4) * np.pi / 2)
        self._add(GEOM.mjGEOM_BOX, self._surface(), (*spot, half[2]), half, yaw=yaw)
        books = self._material(textures.books(rng))
        for side in (yaw, yaw + np.pi):
            out = np.array([np.cos(side), np.sin(side)])
            self._add(GEOM.mjGEOM_PLANE, books, (*(spot + out * (half[0] + 0.004)), half[2]), (half[1], half[2], 1),
                      quat=_facing(out), castshadow=False)  # fmt: skip
        self.room.obstacles.append((*spot, float(np.hypot(*half[:2]))))

    def _table(self, observer: np.ndarray) -> None:
        rng = self.rng
        half, height = rng.uniform(0.3, 0.6, 2), rng.uniform(0.4, 0.75)
        spot = self._place(observer, float(half.max()), 0.4)
        if spot is None:
            return
        top, leg = self._surface(), self._material(colour=random_colour(rng, 0.5, 0.1))
        self._add(GEOM.mjGEOM_BOX, top, (*spot, height), (*half, 0.02))
        for x in (-0.9, 0.9):
            for y in (-0.9, 0.9):
                foot = spot + half * (x, y)
                self._add(GEOM.mjGEOM_CYLINDER, leg, (*foot, height / 2), (0.02, height / 2, 0))
        self.room.obstacles.append((*spot, float(np.hypot(*half))))

    def _chair(self, observer: np.ndarray) -> None:
        """An office chair on a star of five feet."""
        rng = self.rng
        spot = self._place(observer, 0.35, 0.2)
        if spot is None:
            return
        seat, steel, yaw = self._surface(), self._material(colour=random_colour(rng, 0.2, 0.05, 0.6)), rng.uniform(0, 2 * np.pi)
        height = rng.uniform(0.4, 0.5)
        back = spot + 0.22 * np.array([np.cos(yaw), np.sin(yaw)])
        self._add(GEOM.mjGEOM_CYLINDER, seat, (*spot, height), (0.23, 0.03, 0))
        self._add(GEOM.mjGEOM_BOX, seat, (*back, height + 0.35), (0.025, 0.2, 0.25), yaw=yaw)
        self._add(GEOM.mjGEOM_CYLINDER, steel, (*spot, height / 2), (0.025, height / 2, 0))
        for angle in yaw + np.arange(5) * 2 * np.pi / 5:
            foot = spot + 0.28 * np.array([np.cos(angle), np.sin(angle)])
            self.spec.worldbody.add_geom(type=GEOM.mjGEOM_CAPSULE, material=steel, size=[0.02, 0, 0], fromto=[*spot, 0.1, *foot, 0.05])
        self.room.obstacles.append((*spot, 0.33))

    def _drum(self, observer: np.ndarray) -> None:
        rng = self.rng
        radius, half = rng.uniform(0.15, 0.35), rng.uniform(0.25, 0.5)
        spot = self._place(observer, radius, 0.5)
        if spot is None:
            return
        material = self._surface(saturation=1.0)
        self._add(GEOM.mjGEOM_CYLINDER, material, (*spot, half), (radius, half, 0))
        for height in (0.65, 1.3):
            self._add(GEOM.mjGEOM_CYLINDER, material, (*spot, half * height), (radius + 0.012, 0.012, 0))
        self.room.obstacles.append((*spot, radius))

    def _sofa(self, observer: np.ndarray) -> None:
        rng = self.rng
        spot = self._place(observer, 0.6, 0.7)
        if spot is None:
            return
        material, yaw = self._material(textures.plain(rng, random_colour(rng, 1.0)), cube=True), float(rng.integers(4) * np.pi / 2)
        forward, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
        width = rng.uniform(0.35, 0.8)
        self._add(GEOM.mjGEOM_BOX, material, (*spot, 0.2), (0.35, width, 0.2), yaw=yaw)
        self._add(GEOM.mjGEOM_BOX, material, (*(spot - 0.28 * forward), 0.4), (0.1, width, 0.4), yaw=yaw)
        for side in (-1, 1):
            self._add(GEOM.mjGEOM_BOX, material, (*(spot + side * width * left), 0.3), (0.38, 0.09, 0.3), yaw=yaw)
        self.room.obstacles.append((*spot, 0.3 + width))

    def _clutter(self, observer: np.ndarray) -> None:
        """Something small on the floor: a ball, a cone, a case, a bin."""
        rng = self.rng
        radius = rng.uniform(0.05, 0.16)
        spot = self._place(observer, radius, 0.0)
        if spot is None:
            return
        kind, material = rng.integers(4), self._material(textures.plain(rng, random_colour(rng, 1.0)), cube=True)
        if kind == 0:
            self._add(GEOM.mjGEOM_SPHERE, material, (*spot, radius), (radius, 0, 0))
        elif kind == 1:
            white = self._material(colour=np.full(3, 0.85))
            self._add(GEOM.mjGEOM_BOX, material, (*spot, 0.01), (radius, radius, 0.01))
            for k in range(8):
                ring = white if k in (3, 4) else material
                self._add(GEOM.mjGEOM_CYLINDER, ring, (*spot, 0.02 + (k + 0.5) * radius / 3),
                          (radius * (0.8 - 0.09 * k), radius / 6, 0))  # fmt: skip
        elif kind == 2:
            yaw = rng.uniform(0, np.pi)
            self._add(GEOM.mjGEOM_BOX, material, (*spot, 0.7 * radius), (0.5 * radius, radius, 0.7 * radius), yaw=yaw)
        else:
            self._add(GEOM.mjGEOM_CYLINDER, material, (*spot, 1.2 * radius), (0.8 * radius, 1.2 * radius, 0))
        self.room.obstacles.append((*spot, radius))


def _facing(normal: np.ndarray) -> np.ndarray:
    """Quaternion (w, x, y, z) of an upright plane whose z axis is the horizontal `normal` and whose y axis is up."""
    yaw = np.arctan2(normal[0], -normal[1])
    turn = np.empty(4)
    mujoco.mju_mulQuat(turn, np.array([np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]), np.array(UPRIGHT))
    return turn
