"""The policies: each op against torchvision's and Pillow's uint8 results; draws against torchvision's and timm's own
tables and code; strings; two views."""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm_code
from torchvision.transforms import InterpolationMode, v2

import augment_gpu as ag
from augment_gpu.ops.policy import NUMBER
from augment_gpu.recipe import OPS
from augment_gpu.rng import dirichlet
from augment_gpu.testing import check_augmentation

pytestmark = pytest.mark.usefixtures("threads")

MANY = 100_000
LEVEL = 1 / 255
REFERENCES = {
    "auto_augment": ag.auto_augment_reference,
    "rand_augment": ag.rand_augment_reference,
    "trivial_augment_wide": ag.trivial_augment_wide_reference,
    "aug_mix": ag.aug_mix_reference,
    "timm_augment": ag.timm_augment_reference,
    "three_augment": ag.three_augment_reference,
}
# torchvision's names, but for those that are ours with other capitals.
NAMES = {"autocontrast": "AutoContrast"}
names = pytest.mark.parametrize("name", REFERENCES)


def theirs(name: str) -> str:
    return NAMES.get(name, name.removesuffix("_abs").title().replace("_", ""))


def alike(op: str, magnitude: float, rows: int = 3, **options: Any) -> ag.PolicyParams:
    """All rows the same op."""
    return ag.PolicyParams(np.full((rows, 1), NUMBER[op]), np.full((rows, 1), float(magnitude)), **options)


@pytest.fixture
def pictures(photo: Callable[..., np.ndarray]) -> Callable[..., torch.Tensor]:
    """(3, channels, 33, 47) uint8."""

    def make(channels: int = 3) -> torch.Tensor:
        return torch.from_numpy(np.stack([photo(33, 47, channels, seed).transpose(2, 0, 1) for seed in range(3)]))

    return make


def chi_squared(counts: np.ndarray, shares: np.ndarray) -> None:
    """counts: of draws. Raises unless they have these shares, within 6 standard deviations of χ²."""
    wanted = counts.sum() * shares
    freedom = len(counts) - 1
    assert ((counts - wanted) ** 2 / wanted).sum() < freedom + 6 * math.sqrt(2 * freedom)


# ---- pixels

COLOR = [
    *(("brightness", value) for value in (-0.99, -0.27, 0.27, 0.9)),
    *(("color", value) for value in (-0.99, -0.27, 0.27, 0.9)),
    *(("contrast", value) for value in (-0.99, -0.27, 0.27, 0.9)),
    *(("sharpness", value) for value in (-0.99, -0.27, 0.27, 0.9)),
    *(("posterize", bits) for bits in (2, 4, 7)),
    *(("solarize", value) for value in (0.05, 0.3, 0.71, 1.0)),
    *((name, 0) for name in ("identity", "autocontrast", "equalize", "invert")),
]
MOVES = [
    *((f"shear_{axis}", value) for axis in "xy" for value in (-0.99, -0.09, 0.3)),
    *((f"translate_{axis}_abs", value) for axis in "xy" for value in (-32, 5)),
    *(("rotate", value) for value in (-135, -9, 30)),
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("op", "magnitude"), COLOR)
def test_an_op_on_colours_is_torchvisions(
    op: str, magnitude: float, channels: int, pictures: Callable[..., torch.Tensor]
) -> None:
    images, policy = pictures(channels), v2.RandAugment()
    wanted = [
        policy._apply_image_or_video_transform(image, theirs(op), magnitude, InterpolationMode.NEAREST, policy._fill)
        for image in images
    ]
    result = ag.rand_augment(images / 255, alike(op, magnitude))
    torch.testing.assert_close(result, torch.stack(wanted) / 255, rtol=0, atol=2 * LEVEL)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("fill", [0, 128])
@pytest.mark.parametrize(("op", "magnitude"), MOVES)
def test_an_op_that_moves_pixels_is_torchvisions(
    op: str, magnitude: float, fill: int, interpolation: Any, pictures: Callable[..., torch.Tensor]
) -> None:
    images, policy = pictures(), v2.RandAugment(fill=fill or None)
    mode = InterpolationMode(interpolation)
    wanted = torch.stack(
        [
            policy._apply_image_or_video_transform(image, theirs(op), magnitude, mode, policy._fill).float()
            for image in images
        ]
    )
    params = alike(op, magnitude, interpolation=interpolation, fill=fill / 255)
    result = ag.rand_augment(images / 255, params) * 255
    far = (result - wanted).abs() > 1.001
    if interpolation == "bilinear":
        # torchvision weighs a border's pixels twice before it fills; nothing else differs.
        assert far.float().mean() < (0.07 if fill else 1e-9)
        return
    # A place halfway between two pixels is rounded either way, so a neighbour will do; most are the pixel itself, and
    # few a neighbour that the other rounding passes over.
    assert far.float().mean() < 0.03
    padded = torch.nn.functional.pad(wanted, (1, 1, 1, 1), mode="replicate").unfold(2, 3, 1).unfold(3, 3, 1)
    assert ((padded - result[..., None, None]).abs().amin(dim=(4, 5)) > 1.001).float().mean() < 2e-3


def test_a_translation_is_a_share_of_the_side_cut_off_to_whole_pixels(pictures: Callable[..., torch.Tensor]) -> None:
    images = pictures() / 255
    moved = ag.rand_augment(images, alike("translate_x", -0.136))  # of 47 pixels 6.4
    assert torch.equal(moved[..., :-6], images[..., 6:])
    assert not moved[..., -6:].any()
    moved = ag.rand_augment(images, alike("translate_y", 0.136))  # of 33 pixels 4.5
    assert torch.equal(moved[..., 4:, :], images[..., :-4, :])


@pytest.mark.parametrize(
    ("op", "magnitude", "name", "argument"),
    [
        ("solarize", 127.5 / 255, "Solarize", 128),
        ("solarize_add", 33 / 255, "SolarizeAdd", 33),
        ("color", -1, "Desaturate", 1),
        ("translate_x_rel", 0.2, "TranslateXRel", -0.2),
        ("translate_y_rel", 0.2, "TranslateYRel", -0.2),
        ("shear_x", 0.2, "ShearX", 0.2),
        ("rotate", 20, "Rotate", 20),
        ("posterize", 3, "Posterize", 3),
        ("sharpness", 0.6, "Sharpness", 1.6),
        ("contrast", -0.6, "Contrast", 0.4),
    ],
)
def test_an_op_is_what_timm_does_with_pillow(
    op: str, magnitude: float, name: str, argument: float, pictures: Callable[..., torch.Tensor]
) -> None:
    images = pictures()
    options = {"fillcolor": (128, 128, 128), "resample": Image.Resampling.BILINEAR}
    wanted = []
    for image in images:
        pil = Image.fromarray(image.permute(1, 2, 0).numpy())
        done = timm_code.NAME_TO_OP[name](pil, argument, **options)
        wanted.append(torch.from_numpy(np.array(done)).permute(2, 0, 1).float())
    result = ag.timm_augment(images / 255, alike(op, magnitude, interpolation="bilinear", fill=128 / 255)) * 255
    far = (result - torch.stack(wanted)).abs() > 2
    # Pillow's border is hard, where ours fades out over a pixel; sharpness too treats the border otherwise.
    assert far.float().mean() < (0.07 if name[:5] in ("Shear", "Rotat", "Trans") else 1e-9)


@pytest.mark.parametrize(
    ("op", "magnitude", "message"),
    [
        ([[0, len(NUMBER)]], [[0, 0]], "op holds 21"),
        ([[-1]], [[0]], "op holds -1"),
        ([[0.7]], [[0]], "op is float64"),
        ([[0]], [[np.nan]], "not finite"),
        ([[0]], [[0, 0]], r"shape \(1, 1\) and magnitude \(1, 2\)"),
        ([0], [0], r"wanted \(B, n\)"),
    ],
)
def test_parameters_of_no_op_are_refused(op: Any, magnitude: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ag.PolicyParams(op, magnitude)


@pytest.mark.parametrize(
    ("op", "magnitude", "message"),
    [
        ("posterize", -1, r"posterize is -1; it must lie in \[0, 8\]"),
        ("posterize", 128, "posterize is 128"),
        ("gaussian_blur", -1, r"gaussian_blur is -1; it must lie in \[0, 2\]"),
        ("gaussian_blur", 2.5, "gaussian_blur is 2.5"),
    ],
)
def test_magnitudes_that_an_op_cannot_take_are_refused(op: str, magnitude: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        alike(op, magnitude)
    assert len(alike("rotate", 128)) == len(alike("rotate", -1)), "another op may have them"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"interpolation": "bicubic"}, "interpolation is 'bicubic'"), ({"fill": np.nan}, "fill is nan")],
)
def test_options_that_no_op_has_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        alike("rotate", 10, **options)


# ---- promises


@names
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_it_keeps_the_promises(
    name: str, channels: int, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    if name == "three_augment" and channels == 1:
        pytest.skip("it needs three channels")
    # bilinear: of nearest single pixels may differ
    options = {} if name == "three_augment" else {"interpolation": "bilinear", "fill": 0.3}
    # A quarter of a grey level, since a chain stretches roundings; in bfloat16 two of its own. A chain of aug_mix's
    # moves a picture and then equalizes it, to which a value halfway between two levels may be either.
    tolerance = (1e-3 if dtype == torch.float32 else 2.0**-7) + (1 / 255 if name == "aug_mix" else 0)
    check_augmentation(
        OPS[name][1],
        lambda key, index: OPS[name][0](key, index, **options),
        REFERENCES[name],
        channels=channels,
        dtype=dtype,
        memory_format=memory_format,
        atol=tolerance,
    )


@names
def test_a_large_picture_alone_is_what_it_is_in_a_batch(name: str) -> None:
    """More than one picture in a part, and sums long enough for torch to split."""
    images = torch.rand(7, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    index = np.arange(7)
    batch = OPS[name][1](images, OPS[name][0](ag.Key(3), index))
    for row in range(7):
        alone = OPS[name][1](images[row : row + 1], OPS[name][0](ag.Key(3), index[row : row + 1]))
        assert torch.equal(alone[0], batch[row])


@names
def test_where_nothing_is_drawn_nothing_is_copied(name: str) -> None:
    images = torch.rand(4, 3, 33, 33)
    options: dict[str, Any] = {"auto_augment": "rand-p0"} if name == "timm_augment" else {"p": 0.0}
    assert OPS[name][1](images, OPS[name][0](ag.Key(0), np.arange(4), **options)) is images


def test_a_magnitude_of_nothing_costs_nothing() -> None:
    images = torch.rand(3, 3, 9, 9)
    still = {"identity": 0, "posterize": 8, "rotate": 0, "shear_x": 0, "translate_y": 0, "color": 0, "sharpness": 0}
    for op, magnitude in still.items():
        assert ag.rand_augment(images, alike(op, magnitude)) is images
    grey = images[:, :1]
    assert ag.rand_augment(grey, alike("color", 0.5)) is grey


@names
def test_a_recipe_takes_it_and_a_sample_is_replayed(name: str, photo: Callable[..., np.ndarray]) -> None:
    recipe = ag.Recipe(size=32, ops=((name, {}),))
    assert ag.Recipe.from_dict(recipe.to_dict()) == recipe
    dataset = [(photo(40, 50, 3, seed), 0) for seed in range(5)]
    batch = ag.Stage(recipe, seed=4)([picture for picture, _ in dataset], index=np.arange(5), epoch=2)[0]
    assert torch.equal(ag.replay(recipe, dataset, 3, 2, 4), batch[3])


# ---- draws, against torchvision's tables


def space_of(policy: Any) -> dict[str, tuple[Any, bool]]:
    space: dict[str, tuple[Any, bool]] = policy._AUGMENTATION_SPACE
    return space


def pixels(op: str, magnitude: np.ndarray, side: int) -> np.ndarray:
    """Shares of the side as torchvision's pixels."""
    return magnitude * side if op in ("translate_x", "translate_y") else magnitude


def test_rand_augments_draws_are_torchvisions() -> None:
    params = ag.sample_rand_augment(ag.Key(1), np.arange(MANY // 2))
    space = space_of(v2.RandAugment)
    number = {theirs(op): (op, NUMBER[op]) for op in ag.POLICY_OPS if "_abs" not in op and "_rel" not in op}
    counts = np.array([(params.op == number[name][1]).sum() for name in space])
    assert counts.sum() == MANY
    chi_squared(counts, np.full(len(space), 1 / len(space)))
    # The two places draw independently.
    chi_squared(np.unique(params.op @ [100, 1], return_counts=True)[1], np.full(14**2, 1 / 14**2))
    for name, (magnitudes, signed) in space.items():
        op, place = number[name]
        table, drawn = magnitudes(31, 200, 200), params.magnitude[params.op == place]
        if table is None:
            continue
        np.testing.assert_allclose(np.abs(pixels(op, drawn, 200)), float(table[9]), rtol=1e-5)
        if signed:
            chi_squared(np.array([(drawn < 0).sum(), (drawn > 0).sum()]), np.full(2, 0.5))
        else:
            assert (drawn >= 0).all()


def test_trivial_augments_draws_are_torchvisions() -> None:
    params = ag.sample_trivial_augment_wide(ag.Key(1), np.arange(MANY))
    space = space_of(v2.TrivialAugmentWide)
    number = {theirs(op): NUMBER[op] for op in ag.POLICY_OPS if op not in ("translate_x", "translate_y")}
    chi_squared(np.array([(params.op == number[name]).sum() for name in space]), np.full(14, 1 / 14))
    for name in ("ShearX", "TranslateY", "Rotate", "Color", "Posterize", "Solarize"):
        magnitudes, signed = space[name]
        table = np.asarray(magnitudes(31, 200, 200), dtype=np.float64)
        table = np.trunc(table) if name == "TranslateY" else table  # int(magnitude)
        wanted = np.concatenate([table, -table]) if signed else table
        values, shares = np.unique(wanted.round(4), return_counts=True)
        drawn = params.magnitude[params.op == number[name]]
        found, counts = np.unique(drawn.round(4) + 0.0, return_counts=True)
        np.testing.assert_allclose(found, np.unique(values + 0.0), atol=2e-4)
        merged = np.array([shares[np.abs(values - value) < 1e-9].sum() for value in found.tolist()], dtype=float)
        if (merged > 0).all():
            chi_squared(counts, merged / merged.sum())


@pytest.mark.parametrize("policy", ["imagenet", "cifar10", "svhn"])
def test_auto_augments_draws_are_torchvisions(policy: Any) -> None:
    """The share of every (op, magnitude) in each of the two places."""
    params = ag.sample_auto_augment(ag.Key(1), np.arange(MANY), policy=policy)
    code = v2.AutoAugment(v2.AutoAugmentPolicy(policy))
    number = {theirs(op): op for op in ag.POLICY_OPS if "_abs" not in op and "_rel" not in op}
    for place in range(2):
        wanted: dict[tuple[int, float], float] = {}
        for pair in code._policies:
            name, chance, level = pair[place]
            op = number[name]
            magnitudes, signed = space_of(code)[name]
            value = 0.0 if level is None else float(magnitudes(10, 331, 331)[level])
            for sign in (1, -1) if signed else (1,):
                entry = NUMBER[op], round(sign * value / (331 if "translate" in op else 1), 4) + 0.0
                wanted[entry] = wanted.get(entry, 0) + chance / 25 / (2 if signed else 1)
            wanted[0, 0.0] = wanted.get((0, 0.0), 0) + (1 - chance) / 25
        wanted = {entry: share for entry, share in wanted.items() if share > 0}
        drawn = list(
            zip(params.op[:, place].tolist(), (params.magnitude[:, place].round(4) + 0.0).tolist(), strict=True)
        )
        found = {entry: drawn.count(entry) for entry in set(drawn)}
        assert set(found) == set(wanted)
        chi_squared(np.array([found[entry] for entry in wanted]), np.array(list(wanted.values())))


@pytest.mark.parametrize("all_ops", [True, False])
def test_aug_mixs_draws_are_torchvisions(all_ops: bool) -> None:
    params = ag.sample_aug_mix(ag.Key(1), np.arange(MANY // 3), severity=4, all_ops=all_ops)
    space = v2.AugMix._AUGMENTATION_SPACE if all_ops else v2.AugMix._PARTIAL_AUGMENTATION_SPACE
    number = {theirs(op): op for op in ag.POLICY_OPS if "_abs" not in op and "_rel" not in op}
    assert len(params.chains) == 3
    for chain in params.chains:
        chi_squared(np.bincount((chain.op != 0).sum(axis=1))[1:], np.full(3, 1 / 3))
        counts = np.array([(chain.op == NUMBER[number[name]]).sum() for name in space])
        chi_squared(counts, np.full(len(space), 1 / len(space)))
        for name in ("Rotate", "Posterize", "TranslateX"):
            op = number[name]
            table = np.asarray(space[name][0](10, 300, 300), dtype=np.float64)[:4]
            drawn = np.abs(pixels(op, chain.magnitude[chain.op == NUMBER[op]], 300))
            np.testing.assert_allclose(np.unique(drawn.round(3)), np.unique(table.round(3)), atol=2e-3)
    np.testing.assert_allclose(params.weight.sum(axis=1), 1, atol=1e-6)
    # Beta(1, 1) and Dirichlet(1, 1, 1): means 1/2 and 1/6, variances 1/12 and (1/3)(1/6) - 1/36
    assert params.weight[:, 0].var() == pytest.approx(1 / 12, rel=0.03)
    np.testing.assert_allclose(params.weight.mean(axis=0), [1 / 2, 1 / 6, 1 / 6, 1 / 6], atol=5e-3)
    assert params.weight[:, 2].var() == pytest.approx(1 / 36, rel=0.05)


@pytest.mark.parametrize("magnitude", range(31))
def test_solarize_at_every_bin_is_torchvisions(magnitude: int) -> None:
    """Thresholds fall on grey levels, which a last bit takes to either side."""
    levels = torch.arange(256).view(1, 1, 16, 16).to(torch.float32) / 255
    threshold = v2.RandAugment(magnitude=magnitude)._AUGMENTATION_SPACE["Solarize"][0](31, 0, 0)[magnitude].item()  # type: ignore[index, misc]
    params = ag.sample_rand_augment(ag.Key(0), np.arange(400), num_ops=1, magnitude=magnitude)
    row = int(np.flatnonzero(params.op[:, 0] == NUMBER["solarize"])[0])
    one = ag.PolicyParams(params.op[[row]], params.magnitude[[row]])
    assert torch.equal(ag.rand_augment(levels, one), v2.functional.solarize(levels, threshold))


def test_no_op_at_all_leaves_the_images_alone(pictures: Callable[..., torch.Tensor]) -> None:
    images = pictures(3).float() / 255
    assert ag.timm_augment(images, ag.sample_timm_augment(ag.Key(0), np.arange(3), auto_augment="rand-n0")) is images
    assert ag.rand_augment(images, ag.sample_rand_augment(ag.Key(0), np.arange(3), num_ops=0)) is images


@pytest.mark.parametrize(("height", "width"), [(8, 8), (1, 1), (40, 3)])
def test_blur_of_small_images_has_the_kernel_that_fits(height: int, width: int) -> None:
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    params = alike("gaussian_blur", 1.5, rows=2)
    blurred = ag.timm_augment(images, params)
    torch.testing.assert_close(blurred, ag.timm_augment_reference(images, params), rtol=0, atol=1e-5)
    kernel = [2 * min(height, width) - 1] * 2
    torch.testing.assert_close(blurred, v2.functional.gaussian_blur(images, kernel, [1.5, 1.5]), rtol=0, atol=1e-5)


def test_a_chains_depth_can_be_given() -> None:
    params = ag.sample_aug_mix(ag.Key(0), np.arange(9), mixture_width=2, chain_depth=5)
    assert [(chain.op != 0).sum(axis=1).tolist() for chain in params.chains] == [[5] * 9] * 2


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_dirichlets_moments(alpha: float) -> None:
    weight = dirichlet(ag.Key(0), np.arange(MANY), "a name", alpha, 4)
    np.testing.assert_allclose(weight.sum(axis=1), 1)
    variance = (1 / 4) * (3 / 4) / (4 * alpha + 1)
    np.testing.assert_allclose(weight.mean(axis=0), 1 / 4, atol=6 * math.sqrt(variance / MANY))
    np.testing.assert_allclose(weight.var(axis=0), variance, rtol=0.03)


# ---- draws, against timm's code


def recorded(config: str, monkeypatch: pytest.MonkeyPatch, draws: int) -> list[list[tuple[str, float]]]:
    """Of timm's own transform: (op, argument) of all that it does, for each draw."""
    done: list[tuple[str, float]] = []

    def record(function: str, image: Any, *arguments: float, **_: Any) -> Any:
        done.append((function, float(arguments[0]) if arguments else 0.0))
        return image

    for name in timm_code.NAME_TO_OP:
        function = timm_code.NAME_TO_OP[name].__name__
        monkeypatch.setitem(timm_code.NAME_TO_OP, name, lambda *a, function=function, **k: record(function, *a, **k))
    build = timm_code.rand_augment_transform if config.startswith("rand") else timm_code.auto_augment_transform
    transform, result = build(config, {"img_mean": (128, 128, 128)}), []
    before = np.random.get_state(), random.getstate()
    np.random.seed(0)
    random.seed(0)
    for _ in range(draws):
        transform(None)
        result.append(list(done))
        done.clear()
    np.random.set_state(before[0])
    random.setstate(before[1])
    return result


# Of timm's functions: ours, and their argument as our magnitude.
TIMM: dict[str, tuple[str, Callable[[float], float]]] = {
    "rotate": ("rotate", float),
    "shear_x": ("shear_x", float),
    "translate_y_rel": ("translate_y_rel", float),
    "posterize": ("posterize", lambda bits: max(bits, 0.0)),
    "solarize": ("solarize", lambda threshold: (threshold - 0.5) / 255),
    "solarize_add": ("solarize_add", lambda add: add / 255),
    "color": ("color", lambda factor: factor - 1),
    "brightness": ("brightness", lambda factor: factor - 1),
    "desaturate": ("color", lambda factor: -factor),
    "gaussian_blur": ("gaussian_blur", float),
    "gaussian_blur_rand": ("gaussian_blur", lambda factor: 0.0),  # draws itself; see below
}


@pytest.mark.parametrize(
    "config",
    [
        "rand-m9-mstd0.5-inc1",
        "rand-m7-mstd101-n3-p0.7",
        "rand-m15-mmax20-mstd2-inc1",
        "rand-tweights-m5",
        "rand-t3aw-mstd1",
        "rand-t3a-n1",
        "original-mstd0.5",
        "originalr",
        "v0",
        "v0r-mstd1",
        "3a",
    ],
)
def test_timms_strings_draw_what_timms_code_draws(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = 10_000  # timm's; ours are 100 000
    theirs_drawn = recorded(config, monkeypatch, draws)
    params = ag.sample_timm_augment(ag.Key(2), np.arange(MANY), auto_augment=config)
    assert isinstance(params, ag.PolicyParams)
    lengths = np.bincount([len(done) for done in theirs_drawn], minlength=4) / draws
    ours = np.bincount((params.op != 0).sum(axis=1), minlength=4) / MANY
    np.testing.assert_allclose(ours, lengths, atol=0.025)
    for name, (op, magnitude_of) in TIMM.items():
        values = np.array([magnitude_of(value) for done in theirs_drawn for which, value in done if which == name])
        others = [other for other, (ours_too, _) in TIMM.items() if ours_too == op and other != name]
        if len(values) < 100 or any(which in others for done in theirs_drawn for which, _ in done):
            continue
        drawn = params.magnitude[params.op == NUMBER[op]]
        share = len(values) / draws
        assert len(drawn) / MANY == pytest.approx(share, abs=5 * math.sqrt(share / draws))
        if name != "gaussian_blur_rand":
            points = np.concatenate([np.quantile(values, np.linspace(0, 1, 41)) + shift for shift in (-1e-9, 1e-9)])
            apart = [(values < point).mean() - (drawn < point).mean() for point in points]
            # Kolmogorov and Smirnov: at 2.5 a chance of 7e-6
            assert np.abs(apart).max() < 2.5 * math.sqrt(1 / len(values) + 1 / len(drawn))


def test_the_blur_of_3a_is_uniform() -> None:
    params = ag.sample_timm_augment(ag.Key(2), np.arange(MANY), auto_augment="3a")
    assert isinstance(params, ag.PolicyParams)
    sigma = params.magnitude[params.op == NUMBER["gaussian_blur"]]
    chi_squared(np.histogram(sigma, 10, (0.1, 2))[0], np.full(10, 0.1))


def test_timms_augmix_has_its_ops_and_levels() -> None:
    params = ag.sample_timm_augment(ag.Key(2), np.arange(20_000), auto_augment="augmix-m5-w4-d2")
    assert isinstance(params, ag.AugMixParams)
    assert params.weight.shape == (20_000, 5)
    number = {"autocontrast", "equalize", "rotate", "posterize", "solarize", "color", "contrast", "brightness"}
    number |= {"sharpness", "shear_x", "shear_y", "translate_x_rel", "translate_y_rel"}
    for chain in params.chains:
        counts = np.bincount(chain.op.ravel(), minlength=len(ag.POLICY_OPS))
        assert {ag.POLICY_OPS[place] for place in np.flatnonzero(counts)} == number
        chi_squared(counts[counts > 0], np.full(13, 1 / 13))
        degrees = chain.magnitude[chain.op == NUMBER["rotate"]]
        chi_squared(np.histogram(degrees, 10, (-15, 15))[0], np.full(10, 0.1))  # uniform up to 5 of 10 levels of 30°
        share = np.abs(chain.magnitude[chain.op == NUMBER["translate_x_rel"]])
        assert 0.14 < share.max() < 0.15  # half of 0.3


# ---- three_augment, two views


def test_three_augment_does_one_of_three_to_each_sample() -> None:
    params = ag.sample_three_augment(ag.Key(0), np.arange(MANY))
    done = np.stack([params.grayscale.chosen, np.isfinite(params.solarize.threshold), params.blur.sigma > 0])
    assert (done.sum(axis=0) == 1).all()
    chi_squared(done.sum(axis=1), np.full(3, 1 / 3))
    chi_squared(np.histogram(params.blur.sigma[done[2]], 10, (0.1, 2))[0], np.full(10, 0.1))
    for column in params.jitter.factor.T[:3]:
        chi_squared(np.histogram(column, 10, (0.7, 1.3))[0], np.full(10, 0.1))
    assert not params.jitter.factor[:, 3].any()


def test_three_augment_wants_three_channels() -> None:
    with pytest.raises(ValueError, match=r"^three_augment got 1 channels; it needs 3: red, green and blue$"):
        ag.three_augment(torch.rand(2, 1, 33, 33), ag.sample_three_augment(ag.Key(0), [0, 1]))


def test_byols_two_views() -> None:
    recipes = ag.two_views("byol", size=24)
    assert [recipe.view for recipe in recipes] == [0, 1]
    assert [recipe.interpolation for recipe in recipes] == ["bicubic", "bicubic"]
    assert ag.two_views("byol", interpolation="bilinear")[1].interpolation == "bilinear"
    options = [dict(recipe.ops) for recipe in recipes if all(not callable(op) for op in recipe.ops)]  # type: ignore[arg-type]
    assert [(view["gaussian_blur"]["p"], view["solarize"]["p"]) for view in options] == [(1.0, 0.0), (0.1, 0.2)]
    jitter = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "p": 0.8}
    assert all(view["color_jitter"] == jitter and view["grayscale"] == {"p": 0.2} for view in options)


def test_a_view_is_no_field_of_two_views() -> None:
    with pytest.raises(ValueError, match="view is 3; the two recipes differ in it"):
        ag.two_views("byol", view=3)


def test_views_have_draws_of_their_own_and_are_replayed(photo: Callable[..., np.ndarray]) -> None:
    first, second = ag.two_views("simclr", size=32)
    assert first.ops == second.ops
    dataset = [(photo(40, 50, 3, seed), 0) for seed in range(4)]
    images = [picture for picture, _ in dataset]
    views = [ag.Stage(recipe, seed=1)(images, index=np.arange(4), epoch=2)[0] for recipe in (first, second)]
    assert all(not torch.equal(*pair) for pair in zip(*views, strict=True))
    for recipe, view in zip((first, second), views, strict=True):
        assert torch.equal(ag.replay(recipe, dataset, 2, 2, 1), view[2])
        assert ag.Recipe.from_dict(recipe.to_dict()) == recipe
    draws = [ag.uniform(ag.Key(0, view=view), np.arange(MANY), "a name")[:, 0] for view in range(3)]
    assert np.abs(np.corrcoef(draws) - np.eye(3)).max() < 5 / math.sqrt(MANY)


def test_without_a_view_draws_are_what_they_were() -> None:
    assert np.array_equal(ag.uniform(ag.Key(3, 1), [5], "a"), ag.uniform(ag.Key(3, 1, view=0), [5], "a"))


# ---- errors


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        *((name, "p", value) for name in REFERENCES if name != "timm_augment" for value in (-0.1, 1.1, math.nan)),
        *((n, "interpolation", "bicubic") for n in REFERENCES if n != "three_augment"),
        *((n, "fill", "mean") for n in REFERENCES if n != "three_augment"),
        *(("rand_augment", "num_ops", value) for value in (-1, 1.5, True)),
        *(("rand_augment", "magnitude", value) for value in (-1, 31, 2.5)),
        *((n, "num_magnitude_bins", value) for n in ("rand_augment", "trivial_augment_wide") for value in (1, 2.5)),
        ("auto_augment", "policy", "cifar100"),
        *(("aug_mix", "severity", value) for value in (0, 11, 1.5)),
        *(("aug_mix", "mixture_width", value) for value in (0, 1.5)),
        *(("aug_mix", "chain_depth", value) for value in (-2, 1.5)),
        *(("aug_mix", "alpha", value) for value in (0, math.inf, -1)),
        *(("three_augment", "kernel_size", value) for value in (0, 4)),
        *(("three_augment", "color_jitter", value) for value in (-0.1, math.nan)),
    ],
)
def test_an_option_out_of_range_is_named(
    refuses_option: Callable[[str, str, Any], None], name: str, option: str, value: Any
) -> None:
    refuses_option(name, option, value)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("randaugment", "known are rand, augmix, original, originalr, v0, v0r, 3a"),
        ("", "known are rand, augmix"),
        ("gaussian_blur", "known are rand, augmix"),
        ("rand-m9-w0", "of which 'w0' is not known; rand has m, n, p, mstd, mmax, inc, t3a, t3aw, tweights"),
        ("rand-m9.5", "of which 'm9.5' is not known"),
        ("rand-mstdinf", "of which 'mstdinf' is not known"),
        ("rand-tmine", "of which 'tmine' is not known"),
        ("rand-p2", "p lies in"),
        ("rand-tweights-n16", "weights has 15 ops, and none is drawn twice"),
        ("augmix-b1", "b1, has no counterpart"),
        ("v0-m9", "of which 'm9' is not known; v0 has mstd"),
        ("rand-", "of which '' is not known"),
    ],
)
def test_a_string_that_is_not_understood_says_what_is(config: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf"^auto_augment is {config!r}.*{said}"):
        ag.sample_timm_augment(ag.Key(0), [0], auto_augment=config)
    with pytest.raises(ValueError, match=rf"^timm_augment: auto_augment is {config!r}"):
        ag.Recipe(ops=(("timm_augment", {"auto_augment": config}),))


def test_a_string_that_is_not_timms_is_no_op() -> None:
    said = "^ops holds 'gaussian_blur'; .* strings of timm's, .* begin with rand, augmix, .* names are color_jitter, "
    with pytest.raises(ValueError, match=said):
        ag.Recipe(ops=("gaussian_blur",))  # type: ignore[arg-type]


def test_a_recipe_takes_timms_string_alone() -> None:
    recipe = ag.Recipe(ops=["rand-m9-mstd0.5-inc1"])  # type: ignore[arg-type]
    assert recipe.ops == (("timm_augment", {"auto_augment": "rand-m9-mstd0.5-inc1"}),)
    assert ag.Recipe.from_dict(recipe.to_dict()) == recipe


def test_an_unknown_method_of_two_views_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^method is 'moco'; known are byol, simclr$"):
        ag.two_views("moco")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in REFERENCES if name != "three_augment"])
def test_other_tensors_are_refused(name: str) -> None:
    draw, op = OPS[name]
    with pytest.raises(ValueError, match=f"^{name} got 3 parameters for 2 images"):
        op(torch.rand(2, 3, 5, 5), draw(ag.Key(0), [0, 1, 2]))
    with pytest.raises(ValueError, match=f"^{name} got 2 channels; wanted 1 or 3"):
        op(torch.rand(3, 2, 5, 5), draw(ag.Key(0), [0, 1, 2]))
    with pytest.raises(ValueError, match=f"^{name} got torch.uint8"):
        op(torch.zeros(3, 3, 5, 5, dtype=torch.uint8), draw(ag.Key(0), [0, 1, 2]))
