# SPDX-License-Identifier: Apache-2.0
"""The peer: a small mecanum robot with a turret and four light rings, built from primitives.

Body frame: origin at the base centre, `BASE_HEIGHT` above the floor, x forward, y left, z up (REP 103). About
0.32 x 0.24 x 0.27 m. The turret's blaster and the antennas tell front from back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from .parts import ALONG_X, UPRIGHT_Y, Body, box, capsule, cylinder, mesh, sphere, yaw_turn
from .textures import random_colour

BASE_HEIGHT = 0.1
"""Height [m] of the body frame's origin above the floor."""

WHEEL_RADIUS = 0.05
WHEELS = ((0.1, 0.1), (0.1, -0.1), (-0.1, 0.1), (-0.1, -0.1))
"""Places (x, y) [m] of the wheels in the body frame."""

LED_CENTRES = np.array(
    [[0.163, 0.0, -0.047], [0.0, 0.119, -0.05], [-0.163, 0.0, -0.047], [0.0, -0.119, -0.05]]
)
"""Centres (K, 3) [m] of the light rings in the body frame: front, left, back, right."""

LED_TUBE = 0.006
"""Thickness [m] of the light rings."""

BODY_POINTS = np.array(
    [
        *([x, y, -0.05] for x in (-0.1, 0.1) for y in (-0.1, 0.1)),
        [0.15, 0, -0.05], [-0.15, 0, -0.05], [0, 0.1, -0.05], [0, -0.1, -0.05],
        [0, 0, -0.01], [-0.03, 0, 0.1], [-0.02, 0.06, 0.1], [-0.02, -0.06, 0.1], [-0.03, 0, 0.145],
        [0.1, 0, 0.095],
    ]
)  # fmt: skip
"""Points (14, 3) [m] spread over the body: how many are seen tells how much of it is."""

CONTACT_SHADOW_GROUP = 2
"""Geom group of the dark discs under a robot, which rays must not hit."""

LED_COLOURS = {
    "blue": (0.05, 0.25, 1.0),
    "red": (1.0, 0.06, 0.05),
    "green": (0.05, 1.0, 0.12),
    "cyan": (0.0, 0.85, 1.0),
    "magenta": (1.0, 0.1, 0.8),
    "orange": (1.0, 0.45, 0.05),
}


@dataclass(frozen=True)
class RobotLook:
    """Everything about a robot's appearance that a seed decides."""

    shell: np.ndarray
    dark: np.ndarray
    light: np.ndarray
    tyre: np.ndarray
    accent: np.ndarray
    has_accents: bool
    led_colour: np.ndarray
    scale: np.ndarray
    turret_yaw: float
    turret_pitch: float
    shininess: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "RobotLook":
        tint = random_colour(rng, 0.12, 0.9, 1.0) if rng.random() < 0.8 else random_colour(rng, 0.6, 0.7, 1.0)
        shell = tint * rng.uniform(0.25, 0.55)
        names = list(LED_COLOURS)
        name = rng.choice(names, p=[0.28, 0.24, 0.24, 0.08, 0.08, 0.08])
        return cls(
            shell=shell,
            dark=shell * rng.uniform(0.45, 0.9),
            light=np.clip(shell * rng.uniform(1.1, 2.2), 0, 0.9),
            tyre=np.full(3, rng.uniform(0.08, 0.35)),
            accent=random_colour(rng, 0.9, 0.2, 0.9),
            has_accents=bool(rng.random() < 0.2),
            led_colour=np.array(LED_COLOURS[name]),
            scale=rng.uniform(0.95, 1.05, 3),
            turret_yaw=float(rng.normal(0, np.radians(3))),
            turret_pitch=float(rng.uniform(np.radians(-12), np.radians(8))),
            shininess=float(rng.uniform(0.1, 0.7)),
        )


def ring_outline(points: int) -> np.ndarray:
    """The light ring's centre line (points, 2) [m]: a stadium 0.050 wide and 0.024 high."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([0.013 * np.sign(np.cos(angle)) + 0.012 * np.cos(angle), 0.012 * np.sin(angle)], 1)


def led_outward() -> np.ndarray:
    """Unit vectors (K, 3) out of the chassis at the LEDs, in the body frame."""
    horizontal = LED_CENTRES * (1, 1, 0)
    return horizontal / np.linalg.norm(horizontal, axis=1, keepdims=True)


def led_rings(scale: np.ndarray, points: int = 24) -> np.ndarray:
    """Centre lines (K, points, 3) [m] of the light rings in the body frame of a robot of this `scale`."""
    outline = ring_outline(points)
    across = np.cross([0, 0, 1], led_outward())
    flat = outline[:, :1] * across[:, None] + outline[:, 1:] * np.array([0, 0, 1])
    return (LED_CENTRES * scale)[:, None] + flat


def _extrude(profile: Sequence[tuple[float, float]], half_width: float, bevel: float) -> np.ndarray:
    """Vertices of a convex solid: an x-z profile drawn out along y, its rims pulled in by `bevel`."""
    points = np.array(profile)
    middle = points.mean(0)
    shrunk = middle + (points - middle) * (1 - bevel / np.maximum(np.abs(points - middle).max(0), 1e-6))
    outer = [(x, y, z) for x, z in points for y in (-half_width + bevel, half_width - bevel)]
    rims = [(x, y, z) for x, z in shrunk for y in (-half_width, half_width)]
    return np.array(outer + rims)


def _ring_mesh(sides: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """A tube round `ring_outline` in the y-z plane: vertices (n, 3), faces (m, 3)."""
    outline, radius = ring_outline(20), LED_TUBE / 2
    count = len(outline)
    tangent = np.roll(outline, -1, 0) - np.roll(outline, 1, 0)
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], 1) / np.linalg.norm(tangent, axis=1, keepdims=True)
    angle = np.arange(sides) * 2 * np.pi / sides
    in_plane = outline[:, None] + radius * np.cos(angle)[None, :, None] * normal[:, None]
    height = np.broadcast_to(radius * np.sin(angle), (count, sides))
    vertices = np.concatenate([height[..., None], in_plane], 2).reshape(-1, 3)
    faces = []
    for i in range(count):
        for j in range(sides):
            a, b = i * sides + j, i * sides + (j + 1) % sides
            c, d = (i + 1) % count * sides + j, (i + 1) % count * sides + (j + 1) % sides
            faces += [(a, c, b), (b, c, d)]
    return vertices, np.array(faces)


# The body's convex parts by their side view (x, z), front to the right [m], their half width and bevel.
_HULL = ((0.16, -0.035), (0.163, -0.06), (0.145, -0.083), (-0.145, -0.083), (-0.163, -0.06), (-0.16, -0.035),
         (-0.135, -0.01), (0.135, -0.01))  # fmt: skip
_DECK = ((0.1, -0.008), (-0.1, -0.008), (-0.105, 0.004), (-0.06, 0.014), (0.06, 0.014), (0.105, 0.004))
_YOKE = ((0.01, 0.012), (-0.05, 0.012), (-0.085, 0.07), (-0.07, 0.115), (-0.03, 0.12), (-0.005, 0.09))
_HEAD = ((0.045, -0.02), (-0.05, -0.035), (-0.06, 0.02), (-0.04, 0.035), (0.045, 0.03))
_ROOF = ((0.05, 0.032), (0.03, 0.05), (-0.06, 0.056), (-0.085, 0.042), (-0.075, 0.026), (0.03, 0.026))
_SOLIDS = {
    "hull": _extrude(_HULL, 0.076, 0.008),
    "deck": _extrude(_DECK, 0.068, 0.006),
    "yoke": _extrude(_YOKE, 0.008, 0.002),
    "head": _extrude(_HEAD, 0.034, 0.006),
    "roof": _extrude(_ROOF, 0.046, 0.01),
}


def add_robot_assets(spec: mujoco.MjSpec, look: RobotLook) -> None:
    """Meshes and materials that all robots of a scene share."""
    for name, vertices in _SOLIDS.items():
        spec.add_mesh(name=name, uservert=vertices.ravel(), scale=look.scale)
    vertices, faces = _ring_mesh()
    spec.add_mesh(
        name="ring",
        uservert=vertices.ravel(),
        userface=faces.ravel(),
        inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
    )

    def material(name: str, colour: np.ndarray, emission: float = 0.0, specular: float = 0.3) -> None:
        spec.add_material(
            name=name, rgba=[*colour, 1], emission=emission, specular=specular, shininess=look.shininess
        )

    material("shell", look.shell)
    material("dark", look.dark)
    material("light", look.light)
    material("tyre", look.tyre, specular=0.1)
    material("rim", look.shell * 0.8)
    material("accent", look.accent)
    material("lens", np.full(3, 0.02), specular=1.0)
    material("led_off", look.shell * 0.65, specular=0.6)
    material("led_on", 0.15 + 0.85 * look.led_colour, emission=1.0)
    spec.add_material(name="contact", rgba=[0, 0, 0, 0.22])


def add_robot(spec: mujoco.MjSpec, name: str, look: RobotLook) -> Body:
    """Add a robot as mocap body `name`, and return that body.

    Its LEDs are the geoms `name/led0` .. `name/led3`, its wheels turn about the joints `name/axle0` ..
    `name/axle3`, in the order of `WHEELS`.
    """
    body = spec.worldbody.add_body(name=name, mocap=True)
    mesh(body, "shell", "hull")
    mesh(body, "dark", "deck")
    box(body, "shell", (0, 0, -0.052), (0.048, 0.116, 0.026))
    cylinder(body, "dark", (-0.01, 0, 0.016), 0.045, 0.006)
    if look.has_accents:
        for y in (-0.055, 0.055):
            box(body, "accent", (0.152, y, -0.045), (0.012, 0.012, 0.018))
    for k, (x, y) in enumerate(WHEELS):
        wheel = body.add_body(pos=np.array([x, y, WHEEL_RADIUS - BASE_HEIGHT]) * look.scale)
        wheel.add_joint(name=f"{name}/axle{k}", type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 1, 0])
        _add_wheel_parts(wheel, lean=np.sign(x * y))
    _add_turret(body, look)
    for k, centre in enumerate(LED_CENTRES):
        turn = yaw_turn(np.arctan2(centre[1], centre[0]))
        mesh(body, "led_off", "ring", centre * look.scale, turn, name=f"{name}/led{k}")
    for k, reach in enumerate((0.8, 1.0, 1.2)):
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_ELLIPSOID,
            material="contact",
            pos=[0, 0, 0.0015 + 0.0005 * k - BASE_HEIGHT],
            size=[0.15 * reach, 0.11 * reach, 0.0004],
            group=CONTACT_SHADOW_GROUP,
            castshadow=False,
        )
    return body


def _add_wheel_parts(wheel: Body, lean: float) -> None:
    """A mecanum wheel round its y axis; its rollers lean by 45 degrees to the side of `lean`'s sign."""
    cylinder(wheel, "tyre", (0, 0, 0), 0.042, 0.018, UPRIGHT_Y)
    cylinder(wheel, "rim", (0, 0, 0), 0.027, 0.0225, UPRIGHT_Y)
    cylinder(wheel, "dark", (0, 0, 0), 0.018, 0.0232, UPRIGHT_Y)
    for angle in np.arange(9) * 2 * np.pi / 9:
        middle = 0.041 * np.array([np.cos(angle), 0, np.sin(angle)])
        along = np.array([-np.sin(angle) * lean, 1.1, np.cos(angle) * lean])
        reach = 0.024 * along / np.linalg.norm(along)
        capsule(wheel, "tyre", middle - reach, middle + reach, 0.0092, castshadow=False)


def _add_turret(body: Body, look: RobotLook) -> None:
    """The yoke, and between its arms the head with blaster, camera, roof and antennas."""
    turret = body.add_body(quat=yaw_turn(look.turret_yaw))
    for y in (-0.05, 0.05):
        mesh(turret, "dark", "yoke", (0, y * look.scale[1], 0))
    box(turret, "dark", (-0.02, 0, 0.022), (0.024, 0.055, 0.007))
    pitch = look.turret_pitch / 2
    head = turret.add_body(
        pos=np.array([-0.02, 0, 0.1]) * look.scale, quat=[np.cos(pitch), 0, np.sin(pitch), 0]
    )
    mesh(head, "dark", "head")
    mesh(head, "light", "roof")
    for side in (-1, 1):
        cylinder(head, "shell", (0, side * 0.062, 0), 0.027, 0.014, UPRIGHT_Y)
        box(head, "dark", (0, side * 0.082, 0), (0.012, 0.008, 0.006))
        capsule(head, "light", (-0.06, side * 0.026, 0.04), (-0.072, side * 0.034, 0.125), 0.0042)
    box(head, "dark", (0.055, 0, 0.026), (0.012, 0.022, 0.009))
    sphere(head, "lens", (0.066, 0, 0.026), 0.006)
    box(head, "dark", (0.05, 0, -0.006), (0.02, 0.024, 0.018))
    cylinder(head, "dark", (0.1, 0, -0.006), 0.0105, 0.05, ALONG_X)
    cylinder(head, "tyre", (0.145, 0, -0.006), 0.013, 0.012, ALONG_X)


def add_observer(spec: mujoco.MjSpec, name: str) -> Body:
    """Add a robot whose own camera alone looks, as mocap body: coarse, for it is seen by its shadow only."""
    body = spec.worldbody.add_body(name=name, mocap=True)
    box(body, "shell", (-0.2, 0, -0.05), (0.15, 0.11, 0.045))
    box(body, "shell", (-0.15, 0, 0.08), (0.06, 0.06, 0.08))
    return body


def add_camera(body: Body, ahead: float, height: float, fovy: float) -> None:
    """Put a level camera on a robot, `height` [m] above the floor; it is called like the robot, `/camera`."""
    # A MuJoCo camera looks along its -z with y up: x of the picture is the body's -y.
    turn = [0.5, 0.5, -0.5, -0.5]
    body.add_camera(name=f"{body.name}/camera", pos=[ahead, 0, height - BASE_HEIGHT], fovy=fovy, quat=turn)
