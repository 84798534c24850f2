# SPDX-License-Identifier: Apache-2.0
"""Shapes and materials: thin wrappers that keep the descriptions of rooms and robots readable.

Positions and sizes are in metres in the parent body's frame, `half` means half extents, quaternions are
MuJoCo's (w, x, y, z).
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import mujoco
import numpy as np

Body: TypeAlias = mujoco.MjsBody
Vector = Sequence[float] | np.ndarray

UPRIGHT_Y = (float(np.sqrt(0.5)), float(np.sqrt(0.5)), 0.0, 0.0)
"""Turns a cylinder's axis, z, to y."""

ALONG_X = (float(np.sqrt(0.5)), 0.0, float(np.sqrt(0.5)), 0.0)
"""Turns a cylinder's axis, z, to x."""

NO_TURN = (1.0, 0.0, 0.0, 0.0)


def yaw_turn(yaw: float) -> tuple[float, float, float, float]:
    """The quaternion of a turn about z."""
    return float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))


def heading(yaw: float) -> np.ndarray:
    """The horizontal unit vector (2,) at this angle from x."""
    return np.array([np.cos(yaw), np.sin(yaw)])


def box(body: Body, material: str, centre: Vector, half: Vector, turn: Vector = NO_TURN) -> None:
    _add(body, "BOX", material, centre, half, turn)


def cylinder(
    body: Body, material: str, centre: Vector, radius: float, half_length: float, turn: Vector = NO_TURN
) -> None:
    _add(body, "CYLINDER", material, centre, (radius, half_length, 0), turn)


def sphere(body: Body, material: str, centre: Vector, radius: float) -> None:
    _add(body, "SPHERE", material, centre, (radius, 0, 0), NO_TURN)


def capsule(
    body: Body, material: str, start: Vector, end: Vector, radius: float, castshadow: bool = True
) -> None:
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        material=material,
        fromto=[*start, *end],
        size=[radius, 0, 0],
        castshadow=castshadow,
    )


def sheet(
    body: Body, material: str, centre: Vector, half: Vector, yaw: float, castshadow: bool = False
) -> None:
    """An upright rectangle, `half` its width and height, whose face looks horizontally to `yaw`."""
    turn = np.empty(4)
    mujoco.mju_mulQuat(turn, np.array(yaw_turn(yaw + np.pi / 2)), np.array(UPRIGHT_Y))
    # The third size of a plane is the spacing of its grid lines.
    _add(body, "PLANE", material, centre, (*half, 0.5), turn, castshadow=castshadow)


def mesh(
    body: Body,
    material: str,
    meshname: str,
    centre: Vector = (0, 0, 0),
    turn: Vector = NO_TURN,
    name: str = "",
) -> None:
    """A geom called `name` that shows the mesh `meshname` of the specification."""
    _add(body, "MESH", material, centre, (0, 0, 0), turn, meshname=meshname, name=name)


def _add(
    body: Body, shape: str, material: str, centre: Vector, size: Vector, turn: Vector, **more: Any
) -> None:
    kind = getattr(mujoco.mjtGeom, f"mjGEOM_{shape}")
    body.add_geom(type=kind, material=material, pos=centre, size=size, quat=turn, **more)


def add_texture(spec: mujoco.MjSpec, name: str, rgb: np.ndarray, kind: mujoco.mjtTexture) -> None:
    """Add the texture `rgb` (H, W, 3) uint8; a cube or sky box has its six faces one below the other."""
    texture = spec.add_texture(name=name, type=kind, width=rgb.shape[1], height=rgb.shape[0], nchannel=3)
    texture.data = rgb.tobytes()


class Paint:
    """Makes materials of random gloss, each under a new name."""

    def __init__(self, spec: mujoco.MjSpec, rng: np.random.Generator):
        self.spec, self.rng = spec, rng
        self.count = 0

    def plain(self, colour: np.ndarray) -> str:
        """A material of one colour (3,) in 0..1."""
        material = self._material()
        material.rgba = [*colour, 1]
        return material.name

    def flat(self, rgb: np.ndarray, repeat: Vector = (1, 1), reflectance: float = 0.0) -> str:
        """A textured material for a plane or a sheet, the texture repeated so many times along x and y."""
        return self._textured(rgb, mujoco.mjtTexture.mjTEXTURE_2D, repeat, reflectance)

    def solid(self, rgb: np.ndarray) -> str:
        """A textured material for a solid: the same texture from each of the six sides."""
        return self._textured(np.tile(rgb, (6, 1, 1)), mujoco.mjtTexture.mjTEXTURE_CUBE, (1, 1), 0.0)

    def _textured(self, rgb: np.ndarray, kind: mujoco.mjtTexture, repeat: Vector, reflectance: float) -> str:
        material = self._material()
        material.texrepeat, material.reflectance = repeat, reflectance
        add_texture(self.spec, material.name, rgb, kind)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = material.name
        return material.name

    def _material(self) -> mujoco.MjsMaterial:
        self.count += 1
        return self.spec.add_material(
            name=f"paint{self.count}",
            specular=float(self.rng.uniform(0, 0.5)),
            shininess=float(self.rng.uniform(0, 0.6)),
        )
