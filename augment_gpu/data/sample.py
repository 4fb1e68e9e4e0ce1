"""A small image classification set that the program draws itself, so that a demo needs no download."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "star", "triangle")
TEXTURES = ("dotted", "striped")
CLASSES = tuple(f"{texture}_{shape}" for texture in TEXTURES for shape in SHAPES)  # sorted, as ImageFolder has them
SIDES = (96, 320)  # range of an image's height and of its width, in pixels
_VERSION = 1  # a change of the pictures raises it, so that nobody compares results on two different sets
_LUMA = np.array([0.299, 0.587, 0.114])  # brightness of red, green and blue (ITU-R BT.601)
_FINE = 2  # shapes are drawn this many times larger, then averaged down: smooth edges


def sample_dataset(root: str | os.PathLike[str] | None = None, *, per_class: int = 200, seed: int = 0) -> Path:
    """The folder of the demo set, ``root/<class>/<nnn>.jpg``, drawn on the first call (8 x 100 images take about 6 s).

    Eight classes: four shapes, each filled with dots or with stripes, of random colour, place, size and turn, on
    gradients, blotches and noise, 96 to 320 pixels a side. Image n of a class depends on `seed` and n alone, to the
    byte under one version of Pillow and NumPy. A whole shape lies in each image's central square.

    `root` is by default in the user's cache (``$XDG_CACHE_HOME`` or ``~/.cache``), one folder for each `per_class` and
    `seed`. The set is drawn elsewhere and renamed to `root`, so an interrupted call leaves no half of it, and of two
    processes one simply wins. Raises FileExistsError where `root` holds something else.
    """
    if per_class < 1:
        raise ValueError(f"per_class is {per_class}; it must be at least 1")
    if root is None:
        root = user_cache() / f"sample-v{_VERSION}-{per_class}-{seed}"
    root = Path(root)
    about = json.dumps({"augment_gpu sample": _VERSION, "per_class": per_class, "seed": seed})
    if _finished(root, about):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".sample-") as scratch:
        made = Path(scratch, "set")
        for label, name in enumerate(CLASSES):
            (made / name).mkdir(parents=True)
            for number in range(per_class):
                image = draw_sample(label, number, seed=seed)
                Image.fromarray(image).save(made / name / f"{number:03d}.jpg", quality=90)
        (made / "about.json").write_text(about)
        try:
            made.rename(root)
        except OSError:  # root is no longer empty, where another process was faster
            if not _finished(root, about):
                raise
    return root


def user_cache() -> Path:
    """The folder for what this package makes and can make again: in ``$XDG_CACHE_HOME``, else in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "augment_gpu"


def draw_sample(label: int, number: int, *, seed: int = 0) -> np.ndarray:
    """Image `number` of class `label`, (H, W, 3) uint8."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, label, number])))
    texture, shape = CLASSES[label].split("_")
    height, width = _sides(rng)
    short = min(height, width)
    radius = short * rng.uniform(0.3, 0.44)
    # The centre may leave the image's by as much as keeps the shape in the central square, which evaluation crops.
    free = short / 2 - radius
    centre = np.array([width, height]) / 2 + rng.uniform(-free, free, 2)

    inside = _coverage(height, width, [centre + radius * _outline(shape, rng)])
    pattern = _coverage(height, width, [centre + radius * polygon for polygon in _texture(texture, rng)])
    background, ink, paper = _colours(rng)
    shade = 1 + rng.uniform(-0.25, 0.25) * _ramp(height, width, rng)
    filled = (paper + (ink - paper) * pattern) * shade
    image = _background(background, height, width, rng)
    image += (filled - image) * inside
    image += rng.normal(0, rng.uniform(2, 14), (height, width, 1)).astype(np.float32)  # a camera's grain
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _finished(root: Path, about: str) -> bool:
    """Whether `root` is this set; about.json came with the rename that made it. Raises where it is something else."""
    note = root / "about.json"
    if note.is_file() and note.read_text() == about:
        return True
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise FileExistsError(f"{root} exists and is not the sample set {about}; an empty or a new folder is wanted")
    return False


def _coverage(height: int, width: int, polygons: list[np.ndarray]) -> np.ndarray:
    """(H, W, 1) float32 in [0, 1]: how much of each pixel lies in filled polygons, each (corners, 2), x y in pixels."""
    canvas = Image.new("L", (width * _FINE, height * _FINE))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        draw.polygon([(x, y) for x, y in polygon * _FINE], fill=255)
    return np.asarray(canvas.reduce(_FINE), dtype=np.float32)[:, :, None] / 255


def _sides(rng: np.random.Generator) -> tuple[int, int]:
    """(height, width), each log-uniform in SIDES, neither more than twice the other."""
    low, high = np.log(SIDES)
    long = rng.uniform(low, high)
    short = rng.uniform(max(low, long - np.log(2)), long)
    first, second = (int(side) for side in np.rint(np.exp(rng.permutation([long, short]))))
    return first, second


def _outline(shape: str, rng: np.random.Generator) -> np.ndarray:
    """Corners (n, 2) of a shape that touches the unit circle, turned at random."""
    corners = {"circle": 72, "square": 4, "triangle": 3, "star": 10}[shape]
    angle = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(corners) / corners
    reach = np.ones(corners)
    if shape == "star":
        reach[1::2] = rng.uniform(0.4, 0.5)
    return np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=1)


def _texture(texture: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Polygons that cover the unit circle with stripes or dots, turned at random; the shape cuts them off."""
    pitch = rng.uniform(0.36, 0.52)  # of the shape's radius: at 64 pixels a side still 7 to 15 pixels
    turn = rng.uniform(0, np.pi)
    axes = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    places = np.arange(-4, 5) * pitch + rng.uniform(-0.5, 0.5) * pitch
    if texture == "striped":
        half = pitch * rng.uniform(0.22, 0.3)
        bars = [[(-2, y - half), (2, y - half), (2, y + half), (-2, y + half)] for y in places]
        return [np.array(bar) @ axes for bar in bars]
    dot = pitch * rng.uniform(0.27, 0.35) * _outline("circle", rng)
    return [(dot + np.array([x, y])) @ axes for x in places for y in places]


def _colours(rng: np.random.Generator) -> np.ndarray:
    """Colours (3, 3) of background, ink and paper in [0, 255], drawn until all three differ clearly in brightness."""
    while True:
        colours = rng.uniform(15, 240, (3, 3))
        light = np.sort(colours @ _LUMA)
        if np.diff(light).min() > 28:
            return colours


def _ramp(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 1) float32 from about -1 to 1, linear in a random direction."""
    turn = rng.uniform(0, 2 * np.pi)
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    return (x * np.cos(turn) + y * np.sin(turn)).astype(np.float32)[:, :, None]


def _background(colour: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) float32: `colour`, paled so that the shape stands out, with a gradient and blotches of random size."""
    pale = 0.5 * colour + 0.5 * (colour @ _LUMA)
    image = pale + rng.uniform(-40, 40, 3) * _ramp(height, width, rng)
    cell = min(height, width) / rng.uniform(2, 10)
    grid = rng.normal(128, 50, (int(height / cell) + 1, int(width / cell) + 1, 3)).clip(0, 255).astype(np.uint8)
    blotches = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    return (image + rng.uniform(0.1, 0.5) * (np.asarray(blotches, dtype=np.float32) - 128)).astype(np.float32)
