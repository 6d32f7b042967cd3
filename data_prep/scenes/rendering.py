"""Rendered scenes: one to three simple objects on a textured, noisy background.

In: a seed. Out: a `Scene` (plain data), its 64 x 64 RGB image and one visible mask per object. Rendering a scene twice gives
the same pixels, so changing one attribute of one object and rendering again gives a pair of images that differ in that
attribute alone (NOTICE's semantic image pair).
"""

from dataclasses import dataclass, replace

import numpy as np

IMAGE_SIZE = 64

COLOURS = {
    "red": (215, 35, 35),
    "orange": (245, 140, 20),
    "yellow": (240, 225, 40),
    "green": (40, 165, 55),
    "cyan": (45, 205, 215),
    "blue": (40, 70, 215),
    "purple": (130, 45, 165),
    "pink": (250, 150, 195),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
TEXTURES = ("plain", "striped", "dotted", "checked")
SIZES = {"small": 8.5, "large": 12.0}  # radius in pixels
POSITIONS = {"left": (13.5, 32.0), "right": (50.5, 32.0), "top": (32.0, 13.5), "bottom": (32.0, 50.5)}  # centre, x then y

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "texture": TEXTURES,
    "size": tuple(SIZES),
    "position": tuple(POSITIONS),
}

BACKGROUNDS = {"train": ("gradient", "grain", "blotches"), "test": ("streaks", "weave", "vignette")}


@dataclass(frozen=True)
class SceneObject:
    """One object. The jitters belong to the object: they stay when an attribute is changed."""

    colour: str
    shape: str
    texture: str
    size: str
    position: str
    offset: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)
    phase: tuple[float, float] = (0.0, 0.0)

    def attributes(self) -> dict[str, str]:
        """The five named attributes, without the jitters."""
        return {name: getattr(self, name) for name in ATTRIBUTES}


@dataclass(frozen=True)
class Scene:
    """Objects from back to front, a kind of background and the seed of all the noise."""

    objects: tuple[SceneObject, ...]
    background: str
    seed: int

    def with_attribute(self, index: int, attribute: str, value: str) -> "Scene":
        """The same scene with one attribute of one object changed.

        Raises
        ------
        ValueError
            For an unknown attribute or value, or a position that another object holds.
        """
        if value not in ATTRIBUTES.get(attribute, ()):
            raise ValueError(f"{attribute}={value!r} is not one of {ATTRIBUTES}")
        if attribute == "position" and any(o.position == value for i, o in enumerate(self.objects) if i != index):
            raise ValueError(f"position {value!r} is taken by another object")
        objects = list(self.objects)
        objects[index] = replace(objects[index], **{attribute: value})  # type: ignore[arg-type]
        return replace(self, objects=tuple(objects))


def is_held_out(colour: str, shape: str, texture: str) -> bool:
    """One combination in eight never appears in a training scene."""
    c, s, t = ATTRIBUTES["colour"].index(colour), SHAPES.index(shape), TEXTURES.index(texture)
    return (c + 2 * s + 3 * t) % 8 == 0


def random_scene(rng: np.random.Generator, split: str) -> Scene:
    """A scene of one to three objects in different positions.

    ``train`` scenes have no held-out combination of colour, shape and texture and three kinds of background. In ``test``
    scenes every object has a held-out combination, and the backgrounds are of three other kinds. ``validation`` scenes are
    like training scenes (told apart by their seeds alone).
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split {split!r} is not one of train, validation, test")
    held_out = split == "test"
    positions = rng.permutation(list(POSITIONS))[: rng.integers(1, 4)]
    objects: list[SceneObject] = []
    for position in positions:
        shared = rng.random() < 0.5 and bool(objects)  # objects that share attributes make questions that need the options
        while True:
            colour, shape, texture = (str(rng.choice(ATTRIBUTES[name])) for name in ("colour", "shape", "texture"))
            if shared:
                kept = rng.choice(["colour", "shape", "texture"])
                colour = objects[0].colour if kept == "colour" else colour
                shape = objects[0].shape if kept == "shape" else shape
                texture = objects[0].texture if kept == "texture" else texture
            if is_held_out(colour, shape, texture) == held_out:
                break
        dx, dy = rng.uniform(-1.5, 1.5, 2)
        red, green, blue = rng.uniform(-18, 18, 3)
        px, py = rng.uniform(0, 6, 2)
        objects.append(
            SceneObject(
                colour=colour,
                shape=shape,
                texture=texture,
                size=str(rng.choice(ATTRIBUTES["size"])),
                position=str(position),
                offset=(float(dx), float(dy)),
                scale=float(rng.uniform(0.94, 1.06)),
                tint=(float(red), float(green), float(blue)),
                phase=(float(px), float(py)),
            )
        )
    background = str(rng.choice(BACKGROUNDS["test" if held_out else "train"]))
    return Scene(tuple(objects), background, int(rng.integers(2**31)))


def render(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene.

    Returns
    -------
    image : uint8 array, [64, 64, 3]
    masks : bool array, [object, 64, 64]; the visible pixels (more than half covered, not hidden by a later object).
    """
    rng = np.random.default_rng(scene.seed)
    canvas = _background(scene.background, rng)
    noise = rng.normal(0, 5, canvas.shape)
    masks = np.zeros((len(scene.objects), IMAGE_SIZE, IMAGE_SIZE), bool)
    for index, thing in enumerate(scene.objects):
        x, y, coverage = _coverage(thing)
        shade = 1 - 0.62 * _texture(thing.texture, x, y, thing.phase)
        paint = (np.asarray(COLOURS[thing.colour]) + thing.tint) * shade[..., None]
        canvas = canvas + coverage[..., None] * (paint - canvas)
        solid = coverage > 0.5
        masks[:index] &= ~solid
        masks[index] = solid
    return np.clip(np.rint(canvas + noise), 0, 255).astype(np.uint8), masks


_Y, _X = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE] + 0.5


def _coverage(thing: SceneObject) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixel coordinates around the object's centre, and the share of each pixel that it covers (anti-aliased)."""
    cx, cy = POSITIONS[thing.position]
    x, y = _X - cx - thing.offset[0], _Y - cy - thing.offset[1]
    r = SIZES[thing.size] * thing.scale
    return x, y, np.clip(0.5 - _signed_distance(thing.shape, x, y, r), 0, 1)


def _signed_distance(shape: str, x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    """Distance in pixels to the outline of a shape of radius about `r`, negative inside."""
    ax, ay = np.abs(x), np.abs(y)
    if shape == "circle":
        return np.hypot(x, y) - 0.93 * r
    if shape == "square":
        return np.maximum(ax, ay) - 0.82 * r
    if shape == "diamond":
        return (ax + ay - 1.12 * r) / np.sqrt(2)
    if shape == "cross":
        return np.minimum(np.maximum(ax - 0.34 * r, ay - r), np.maximum(ax - r, ay - 0.34 * r))
    if shape == "triangle":
        side, y = 1.2 * r, y - 0.2 * r
        return np.maximum(y - side / 2, np.sqrt(3) / 2 * ax - y / 2 - side / 2)
    if shape == "star":  # one tenth of the outline, seen after folding the plane into it
        outer, inner, step = 1.15 * r, 0.48 * r, np.pi / 5
        angle = np.abs((np.arctan2(x, -y) + step) % (2 * step) - step)
        u, v = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
        du, dv = inner * np.cos(step) - outer, inner * np.sin(step)
        return ((u - outer) * dv - v * du) / np.hypot(du, dv)
    raise ValueError(f"unknown shape {shape!r}")


def _texture(texture: str, x: np.ndarray, y: np.ndarray, phase: tuple[float, float]) -> np.ndarray:
    """Darkening in [0, 1] of each pixel."""
    x, y = x + phase[0], y + phase[1]
    if texture == "plain":
        return np.zeros_like(x)
    if texture == "striped":
        return np.clip(0.5 + 1.5 * np.sin(2 * np.pi * x / 5), 0, 1)
    if texture == "dotted":
        return np.clip(2.1 - np.hypot(x % 6 - 3, y % 6 - 3), 0, 1)
    if texture == "checked":
        return np.clip(0.5 + 2 * np.sin(2 * np.pi * x / 8) * np.sin(2 * np.pi * y / 8), 0, 1)
    raise ValueError(f"unknown texture {texture!r}")


def _background(kind: str, rng: np.random.Generator) -> np.ndarray:
    """A muted field of slowly varying brightness, float [64, 64, 3]."""
    base = rng.uniform(70, 185) + rng.uniform(-12, 12, 3)
    u, v = _X / IMAGE_SIZE - 0.5, _Y / IMAGE_SIZE - 0.5
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(12, 30)
    along = u * np.cos(angle) + v * np.sin(angle)
    if kind == "gradient":
        field = 2 * along
    elif kind == "grain":
        field = np.kron(rng.uniform(-1, 1, (32, 32)), np.ones((2, 2)))
    elif kind == "blotches":
        field = _smooth_noise(rng, 8)
    elif kind == "streaks":
        field = np.interp(along, np.linspace(-0.8, 0.8, 24), rng.uniform(-1, 1, 24))
    elif kind == "weave":
        field = np.sin(u * rng.uniform(30, 50)) * np.sin(v * rng.uniform(30, 50))
    elif kind == "vignette":
        field = 1 - 4 * (u**2 + v**2)
    else:
        raise ValueError(f"unknown background {kind!r}")
    return base + strength * field[..., None]


def _smooth_noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Bilinear noise in [-1, 1] on a grid of `cells` x `cells`."""
    grid = rng.uniform(-1, 1, (cells + 1, cells + 1))
    at = np.linspace(0, cells, IMAGE_SIZE, endpoint=False)
    low = at.astype(int)
    part = at - low
    rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part
