"""affine and its special cases, perspective and vertical_flip: where a planted dot goes, and torchvision's picture."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import augment_gpu as ag
from augment_gpu.recipe import OPS
from augment_gpu.testing import check_augmentation

pytestmark = pytest.mark.usefixtures("threads")

MANY = 5000  # draws of a distribution
LEVEL = 1 / 255
SIZE = (33, 47)  # odd, so that the centre is no pixel's edge, and not square
# Sampling positions in float32 err by up to 1e-5 pixels, and neighbours differ by up to 1.
ROUNDING = 1e-4
STRONG: dict[str, dict[str, Any]] = {
    "affine": {"degrees": 40, "translate": (0.2, 0.1), "scale": (0.7, 1.3), "shear": (-20, 20, -10, 10)},
    "rotate": {"degrees": (10, 170)},
    "shear": {"shear": 30},
    "translate": {"translate": (0.3, 0.2)},
    "perspective": {"distortion_scale": 0.6},
    "vertical_flip": {},
}
MATRIX: dict[str, Callable[..., np.ndarray]] = {
    **dict.fromkeys(("affine", "rotate", "shear", "translate"), ag.affine_matrix),
    "perspective": ag.perspective_matrix,
}

names = pytest.mark.parametrize("name", STRONG)
warps = pytest.mark.parametrize("name", MATRIX)


def sampler(name: str, **options: Any) -> Callable[[ag.Key, Any], Any]:
    return lambda key, index: OPS[name][0](key, index, **{**STRONG[name], **options})


def affine_params(
    rows: int = 1, angle: float = 0, translate: Any = (0, 0), scale: float = 1, shear: Any = (0, 0), **fill: Any
) -> ag.AffineParams:
    one = np.ones(rows)
    return ag.AffineParams(angle * one, np.tile(translate, (rows, 1)), scale * one, np.tile(shear, (rows, 1)), **fill)


def touched(params: Any) -> np.ndarray:
    """Which samples the drawn parameters do something to."""
    if isinstance(params, ag.AffineParams):
        columns = params.angle, *params.translate.T, params.scale - 1, *params.shear.T
        return np.stack(columns).any(axis=0)
    drawn: np.ndarray = params.corners if isinstance(params, ag.PerspectiveParams) else params.chosen
    return drawn.reshape(len(drawn), -1).any(axis=1)


def smooth(rows: int, channels: int = 3, size: tuple[int, int] = SIZE) -> torch.Tensor:
    patches = torch.rand(rows, channels, 4, 5, generator=torch.Generator().manual_seed(0))
    return nn.interpolate(patches, size, mode="bicubic", align_corners=False).clamp(0, 1)


def dot_at(x: int, y: int, rows: int) -> torch.Tensor:
    """Black, but for pixel (x, y), its eight neighbours and half of those around them: it survives being shrunk."""
    image = torch.zeros(rows, 1, *SIZE)
    image[:, :, y - 2 : y + 3, x - 2 : x + 3] = 0.5
    image[:, :, y - 1 : y + 2, x - 1 : x + 2] = 1
    return image


def centre_of_light(image: torch.Tensor) -> tuple[float, float]:
    """In pixels, of which pixel j covers [j, j + 1)."""
    light = image[0] / image[0].sum()
    x, y = torch.arange(SIZE[1]) + 0.5, torch.arange(SIZE[0]) + 0.5
    return (light.sum(0) * x).sum().item(), (light.sum(1) * y).sum().item()


# ---- pixels


@warps
@pytest.mark.parametrize("dot", [(23, 16), (14, 9), (31, 22)])
def test_a_dot_goes_where_the_matrix_says(name: str, dot: tuple[int, int]) -> None:
    params = sampler(name, p=1.0)(ag.Key(1), np.arange(20))
    seen = 0
    for moved, matrix in zip(OPS[name][1](dot_at(*dot, 20), params), MATRIX[name](params, SIZE), strict=True):
        x, y, depth = matrix @ [dot[0] + 0.5, dot[1] + 0.5, 1]
        if 4 < x / depth < SIZE[1] - 4 and 4 < y / depth < SIZE[0] - 4:  # wholly inside
            assert centre_of_light(moved) == pytest.approx((x / depth, y / depth), abs=0.5)
            seen += 1
    assert seen >= 5


def test_motions_by_hand() -> None:
    """On 48 × 32, whose centre is (24, 16): a point 10 to its right goes down when turned clockwise by 90 degrees, and
    stays on its line in a shear along x; a point 10 below goes 10 · tan to the left in that shear."""
    point, below = np.array([34, 16, 1]), np.array([24, 26, 1])
    turned = ag.affine_matrix(affine_params(angle=90), (32, 48))[0]
    assert turned @ point == pytest.approx([24, 26, 1])
    larger = ag.affine_matrix(affine_params(scale=1.5), (32, 48))[0]
    assert larger @ point == pytest.approx([39, 16, 1])
    moved = ag.affine_matrix(affine_params(translate=(0.26, -0.11)), (32, 48))[0]  # 12.48 and −3.52 pixels
    assert moved @ point == pytest.approx([34 + 12, 16 - 4, 1])
    sheared = ag.affine_matrix(affine_params(shear=(45, 0)), (32, 48))[0]
    assert sheared @ point == pytest.approx([34, 16, 1])
    assert sheared @ below == pytest.approx([24 - 10, 26, 1])


def test_the_corners_go_inwards_by_their_shares() -> None:
    corners = np.array([[[0.5, 0.25], [0, 0], [0.25, 0.5], [0, 0.75]]])
    matrix = ag.perspective_matrix(ag.PerspectiveParams(corners), (32, 48))[0]
    for start, end in (((0, 0), (12, 4)), ((48, 0), (48, 0)), ((48, 32), (42, 24)), ((0, 32), (0, 20))):
        x, y, depth = matrix @ [*start, 1]
        assert (x / depth, y / depth) == pytest.approx(end)


@pytest.mark.parametrize(
    "motion",
    [
        {"angle": 30.0},
        {"angle": -135.0},
        {"translate": (0.11, -0.2)},
        {"scale": 0.6},
        {"scale": 1.7},
        {"shear": (25.0, 0.0)},
        {"shear": (-10.0, 20.0)},
        {"angle": 20.0, "translate": (-0.1, 0.1), "scale": 1.2, "shear": (5.0, -15.0)},
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_affine_is_torchvisions(motion: dict[str, Any], channels: int) -> None:
    images = smooth(2, channels)
    full = {"angle": 0.0, "translate": (0.0, 0.0), "scale": 1.0, "shear": (0.0, 0.0), **motion}
    pixels = [round(full["translate"][0] * SIZE[1]), round(full["translate"][1] * SIZE[0])]
    bilinear = F.InterpolationMode.BILINEAR
    wanted = F.affine(images, full["angle"], pixels, full["scale"], list(full["shear"]), bilinear)
    torch.testing.assert_close(ag.affine(images, affine_params(2, **motion)), wanted, rtol=0, atol=ROUNDING)
    # torchvision's own uint8: another rounding
    levels = (images * 255).round().byte()
    wanted = F.affine(levels, full["angle"], pixels, full["scale"], list(full["shear"]), bilinear)
    moved = ag.affine(levels / 255, affine_params(2, **motion))
    torch.testing.assert_close(moved, wanted / 255, rtol=0, atol=LEVEL)


def test_a_drawn_rotation_is_torchvisions_counter_clockwise() -> None:
    images, params = smooth(4), sampler("rotate")(ag.Key(0), np.arange(4))
    angles = (-params.angle).tolist()
    assert all(10 <= angle < 170 for angle in angles)
    bilinear = F.InterpolationMode.BILINEAR
    wanted = [F.rotate(image, angle, bilinear) for image, angle in zip(images, angles, strict=True)]
    torch.testing.assert_close(ag.rotate(images, params), torch.stack(wanted), rtol=0, atol=ROUNDING)


def test_perspective_is_torchvisions() -> None:
    images, params = smooth(6), sampler("perspective", p=1.0)(ag.Key(0), np.arange(6))
    height, width = SIZE
    start = [[0, 0], [width, 0], [width, height], [0, height]]
    for image, moved, matrix in zip(
        images, ag.perspective(images, params), ag.perspective_matrix(params, SIZE), strict=True
    ):
        ends = matrix @ np.array([[*corner, 1] for corner in start]).T
        wanted = F.perspective(image, start, (ends[:2] / ends[2]).T.tolist())
        torch.testing.assert_close(moved, wanted, rtol=0, atol=ROUNDING)


def test_a_vertical_flip_is_torchvisions() -> None:
    images = smooth(3)
    flipped = ag.vertical_flip(images, ag.VerticalFlipParams(np.array([True, False, True])))
    assert torch.equal(flipped[0], F.vertical_flip(images[0]))
    assert torch.equal(flipped[1], images[1])


@warps
@pytest.mark.parametrize("fill", [0.25, [0.25], (0.1, 0.5, 0.9)])
def test_what_comes_from_outside_is_filled(name: str, fill: Any) -> None:
    """Of an image of the filling's own colour nothing is seen to move; of a black one the inside stays black."""
    params = sampler(name, p=1.0, fill=fill)(ag.Key(2), np.arange(8))
    colour = torch.as_tensor(fill).reshape(1, -1, 1, 1).expand(8, 3, *SIZE)
    torch.testing.assert_close(OPS[name][1](colour.contiguous(), params), colour, rtol=0, atol=1e-6)
    result = OPS[name][1](torch.zeros(8, 3, *SIZE), params)
    share = result / colour  # of each pixel, that comes from outside
    torch.testing.assert_close(share[:, 0], share[:, 2], rtol=0, atol=1e-5)
    assert share.min() >= -1e-6
    assert share.max() == pytest.approx(1, abs=1e-5)


def test_a_motion_of_whole_pixels_moves_values_unchanged() -> None:
    images = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    moved = ag.translate(images, affine_params(translate=(5 / SIZE[1], -4 / SIZE[0])))
    torch.testing.assert_close(moved[..., : SIZE[0] - 4, 5:], images[..., 4:, : SIZE[1] - 5], rtol=0, atol=ROUNDING)
    assert moved[..., :5].max() < ROUNDING
    assert moved[..., SIZE[0] - 4 :, :].max() < ROUNDING


@names
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 2)])
def test_the_smallest_pictures(name: str, size: tuple[int, int]) -> None:
    images = torch.rand(4, 3, *size, generator=torch.Generator().manual_seed(1))
    params = sampler(name, p=1.0)(ag.Key(0), np.arange(4))
    wanted = getattr(ag, f"{name}_reference")(images, params)
    torch.testing.assert_close(OPS[name][1](images, params), wanted, rtol=0, atol=ROUNDING)


# ---- promises


@names
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("fill", [0.0, 0.4])
def test_it_keeps_the_promises(
    name: str, channels: int, dtype: torch.dtype, memory_format: torch.memory_format, fill: float
) -> None:
    options = {"fill": fill} if name in MATRIX else {}
    check_augmentation(
        OPS[name][1],
        sampler(name, p=0.6, **options),
        getattr(ag, f"{name}_reference"),
        channels=channels,
        dtype=dtype,
        memory_format=memory_format,
    )


@names
def test_samples_that_drew_nothing_keep_every_bit_and_the_rest_are_what_they_are_without(name: str) -> None:
    images, index = smooth(17), np.arange(17)
    op, params = OPS[name][1], sampler(name, p=0.5)(ag.Key(0), np.arange(17))
    some, every = op(images, params), op(images, sampler(name, p=1.0)(ag.Key(0), index))
    chosen = torch.from_numpy(touched(params))
    assert 0 < chosen.sum() < 17
    assert torch.equal(some[~chosen], images[~chosen])
    assert torch.equal(some[chosen], every[chosen])
    assert op(images, sampler(name, p=0.0)(ag.Key(0), index)) is images


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ["affine", "perspective"])
def test_the_same_bits_alone_at_full_size(threads: Callable[[int], None], name: str, count: int) -> None:
    images, index = smooth(3, 3, (224, 224)), np.arange(3)
    threads(1)
    whole = OPS[name][1](images, sampler(name, p=1.0)(ag.Key(1), index))
    threads(count)
    for row in range(3):
        alone = OPS[name][1](images[row : row + 1], sampler(name, p=1.0)(ag.Key(1), index[row : row + 1]))
        assert torch.equal(alone[0], whole[row]), f"row {row} alone"


@names
def test_a_recipe_takes_it(name: str) -> None:
    recipe = ag.Recipe(size=16, ops=((name, {**STRONG[name], "p": 1.0}),), mean=None, std=None)
    assert ag.Recipe.from_dict(recipe.to_dict()) == recipe
    images, index = (smooth(5) * 255).byte(), np.arange(5)
    plain = ag.Stage(ag.Recipe(size=16, mean=None, std=None))(images, index=index)[0]
    wanted = OPS[name][1](plain, sampler(name, p=1.0)(ag.Key(0), index))
    torch.testing.assert_close(ag.Stage(recipe)(images, index=index)[0], wanted, rtol=0, atol=1e-6)


# ---- draws


def histograms_agree(ours: np.ndarray, theirs: np.ndarray) -> None:
    """20 bins over the range of both, which differ by chance alone."""
    ends = min(ours.min(), theirs.min()), max(ours.max(), theirs.max())
    one, other = np.histogram(ours, 20, ends)[0], np.histogram(theirs, 20, ends)[0]
    # χ² of two samples of equal size; of 19 degrees of freedom it exceeds 60 with probability 4e-6
    assert len(ours) == len(theirs)
    assert ((one - other) ** 2 / np.maximum(one + other, 1)).sum() < 60


def drawn_by_torchvision(transform: Any) -> list[dict[str, Any]]:
    image = torch.zeros(3, 400, 600)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [transform.make_params([image]) for _ in range(MANY)]


@pytest.mark.parametrize("p", [1.0, 0.4])  # whether a sample is moved says nothing about how
def test_affine_draws_as_torchvision(p: float) -> None:
    options: dict[str, Any] = {"degrees": (-10, 40), "translate": (0.2, 0.1), "scale": (0.7, 1.3)}
    options["shear"] = (-20, 20, -5, 15)
    theirs = drawn_by_torchvision(v2.RandomAffine(**options))
    ours = ag.sample_affine(ag.Key(0), np.arange(3 * MANY), **options, p=p)
    rows = np.flatnonzero(touched(ours))[:MANY]
    pixels = np.rint(ours.translate * [600, 400])[rows]
    histograms_agree(ours.angle[rows], np.array([row["angle"] for row in theirs]))
    histograms_agree(ours.scale[rows], np.array([row["scale"] for row in theirs]))
    for axis in (0, 1):
        histograms_agree(pixels[:, axis], np.array([row["translate"][axis] for row in theirs]))
        histograms_agree(ours.shear[rows, axis], np.array([row["shear"][axis] for row in theirs]))
    columns = np.stack([ours.angle, *ours.translate.T, ours.scale, *ours.shear.T])[:, rows]
    assert np.abs(np.corrcoef(columns) - np.eye(6)).max() < 5 / math.sqrt(MANY)


def test_perspective_draws_as_torchvision() -> None:
    """Where the image's centre goes, which takes all four corners."""
    theirs = [row["coefficients"] for row in drawn_by_torchvision(v2.RandomPerspective(0.5))]
    back = np.concatenate([np.array(theirs), np.ones((MANY, 1))], axis=1).reshape(-1, 3, 3)
    ours = ag.perspective_matrix(ag.sample_perspective(ag.Key(0), np.arange(MANY), p=1.0), (400, 600))
    centres = []
    for matrix in (ours, np.linalg.inv(back)):
        x, y, depth = (matrix @ [300, 200, 1]).T
        centres.append((x / depth, y / depth))
    histograms_agree(centres[0][0], centres[1][0])
    histograms_agree(centres[0][1], centres[1][1])


@names
@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
def test_a_share_p_of_the_samples_draws_it(name: str, p: float) -> None:
    share = touched(sampler(name, p=p)(ag.Key(5), np.arange(MANY))).mean()
    assert share == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / MANY))


def test_the_ops_draw_independently_of_each_other() -> None:
    drawn = np.stack([touched(sampler(name, p=0.5)(ag.Key(5), np.arange(MANY))) for name in STRONG])
    assert np.abs(np.corrcoef(drawn) - np.eye(len(STRONG))).max() < 5 / math.sqrt(MANY)


@warps
def test_draws_do_not_depend_on_the_batch_around_a_sample(name: str) -> None:
    whole, alone = (sampler(name, p=1.0)(ag.Key(1, 4), index) for index in ([2**40, 3, 17], [17]))
    assert (MATRIX[name](alone, SIZE)[0] == MATRIX[name](whole, SIZE)[2]).all()


# ---- errors


@names
def test_parameters_for_another_number_of_images_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"got 3 parameters for 2 images"):
        OPS[name][1](smooth(2), sampler(name)(ag.Key(0), [0, 1, 2]))


@names
@pytest.mark.parametrize("images", [torch.zeros(2, 3, 5, 5, dtype=torch.uint8), torch.zeros(3, 5)], ids=["u8", "2d"])
def test_other_tensors_are_refused(name: str, images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"got torch\.\w+ \(.*\); wanted floating point \(B, C, H, W\)"):
        OPS[name][1](images, sampler(name)(ag.Key(0), np.arange(len(images))))


@warps
def test_a_filling_for_another_number_of_channels_is_refused(name: str) -> None:
    params = sampler(name, fill=(0.1, 0.2, 0.3, 0.4))(ag.Key(0), [0, 1])
    with pytest.raises(ValueError, match=r"fill is \(0.1, .*\); wanted a number, or one for each of 3 channels"):
        OPS[name][1](smooth(2), params)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        *((name, "p", value) for name in STRONG for value in (-0.1, 1.1, NAN)),
        *((name, "fill", value) for name in MATRIX for value in ("noise", NAN, (0.1, INF))),
        *((name, "degrees", value) for name in ("affine", "rotate") for value in (-1, (5, 2), NAN, INF, (1, 2, 3))),
        *(
            (name, "translate", value)
            for name in ("affine", "translate")
            for value in (0.1, (0.1,), (-0.1, 0), (0, 1.1))
        ),
        *(("affine", "scale", value) for value in (1.1, (0, 1), (1.2, 0.8), (0.5, INF), (NAN, 1))),
        *(
            (name, "shear", value)
            for name in ("affine", "shear")
            for value in (-1, 90, (5, 2), (0, 1, 2), (0, 1, 0, 95))
        ),
        *(("perspective", "distortion_scale", value) for value in (-0.1, 1.1, NAN)),
    ],
)
def test_an_option_out_of_range_is_named(
    refuses_option: Callable[[str, str, Any], None], name: str, option: str, value: Any
) -> None:
    refuses_option(name, option, value)
