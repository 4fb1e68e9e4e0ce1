"""What to do to images: one frozen, serialisable record, the home of every default."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

import torch

from augment_gpu.ops.blur import gaussian_blur, kernel_fits, sample_gaussian_blur
from augment_gpu.ops.boxes import Flip, check_flip
from augment_gpu.ops.color import color_jitter, sample_color_jitter
from augment_gpu.ops.crop_plan import IMAGENET_MEAN, IMAGENET_STD
from augment_gpu.ops.cutout import Fill
from augment_gpu.ops.elastic import elastic, sample_elastic
from augment_gpu.ops.foreign import Foreign, name_of
from augment_gpu.ops.geometry import (
    affine,
    perspective,
    rotate,
    sample_affine,
    sample_perspective,
    sample_rotate,
    sample_shear,
    sample_translate,
    sample_vertical_flip,
    shear,
    translate,
    vertical_flip,
)
from augment_gpu.ops.jpeg import jpeg, sample_jpeg
from augment_gpu.ops.mix_draws import MixMode, check_mix
from augment_gpu.ops.noise import gaussian_noise, sample_gaussian_noise
from augment_gpu.ops.policies import (
    auto_augment,
    rand_augment,
    sample_aug_mix,
    sample_auto_augment,
    sample_rand_augment,
    sample_trivial_augment_wide,
    trivial_augment_wide,
)
from augment_gpu.ops.policy import aug_mix
from augment_gpu.ops.three_augment import sample_three_augment, three_augment
from augment_gpu.ops.timm_augment import TIMM_STRINGS, sample_timm_augment, timm_augment
from augment_gpu.ops.tone import (
    autocontrast,
    equalize,
    grayscale,
    invert,
    posterize,
    sample_autocontrast,
    sample_equalize,
    sample_grayscale,
    sample_invert,
    sample_posterize,
    sample_sharpness,
    sample_solarize,
    sharpness,
    solarize,
)
from augment_gpu.ops.twist import sample_color_twist
from augment_gpu.rng import Key

# The ops that a recipe can name, each with its sampler. They work on (B, C, S, S) images in [0, 1], between the crop
# and the normalisation. A new one is one more line.
OPS: dict[str, tuple[Callable[..., Any], Callable[..., torch.Tensor]]] = {
    "color_jitter": (sample_color_jitter, color_jitter),
    "gaussian_blur": (sample_gaussian_blur, gaussian_blur),
    "grayscale": (sample_grayscale, grayscale),
    "invert": (sample_invert, invert),
    "solarize": (sample_solarize, solarize),
    "posterize": (sample_posterize, posterize),
    "autocontrast": (sample_autocontrast, autocontrast),
    "equalize": (sample_equalize, equalize),
    "sharpness": (sample_sharpness, sharpness),
    "affine": (sample_affine, affine),
    "rotate": (sample_rotate, rotate),
    "shear": (sample_shear, shear),
    "translate": (sample_translate, translate),
    "perspective": (sample_perspective, perspective),
    "vertical_flip": (sample_vertical_flip, vertical_flip),
    "elastic": (sample_elastic, elastic),
    "gaussian_noise": (sample_gaussian_noise, gaussian_noise),
    "jpeg": (sample_jpeg, jpeg),
    "auto_augment": (sample_auto_augment, auto_augment),
    "rand_augment": (sample_rand_augment, rand_augment),
    "trivial_augment_wide": (sample_trivial_augment_wide, trivial_augment_wide),
    "aug_mix": (sample_aug_mix, aug_mix),
    "timm_augment": (sample_timm_augment, timm_augment),
    "three_augment": (sample_three_augment, three_augment),
}


# Of ops that look around a pixel, how many pixels wide for given parameters.
_KERNELS: dict[str, Callable[[Any], int]] = {
    "gaussian_blur": lambda params: params.kernel_size,
    "three_augment": lambda params: params.blur.kernel_size,
    "elastic": lambda params: params.kernel_size,
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a batch is augmented for training, and seen at evaluation. Names are torchvision's or timm's.

    size: side of the output. crop: "random_resized" (scale, ratio), "scale_jitter" (short_side), or "center", the
    evaluation view in training too, mirrored by `flip`. flip: probability of a mirror image; or "alternate", mirrored
    in every other epoch, for which the stage must be told index and epoch. color_twist: the keywords of
    sample_color_twist, such as {"brightness": 0.4, "hue": 0.05}, or None: per-pixel linear colours, within the launch
    of the crop; they may leave [0, 1], where no ops follow. ops: (name, options) pairs, applied in order, whose options
    are the keywords of that op's sampler, such as ("gaussian_blur", {"p": 0.5}); or timm's strings for auto_augment,
    such as "rand-m9-mstd0.5-inc1", which stand for ("timm_augment", {"auto_augment": …}). Among them may be a module of
    kornia.augmentation or any other callable, of (B, C, S, S) float32 in [0, 1] to as many images. It sees the whole
    batch, under torch generators seeded by (seed, epoch, index of the batch's first sample): the same batches repeat,
    but a sample's picture depends on the batch, and neither replay nor to_dict takes such a recipe. What it draws
    elsewhere, from NumPy or Python, is its own business.
    cutout: side of the square hole, 0 for none. reprob: probability of a random-erasing rectangle. fill: what holes are
    filled with, in normalised units: a number, one per channel, or "noise". mixup_alpha, cutmix_alpha, cutmix_minmax,
    switch_prob, mixup_prob and mixup_mode: see sample_mix, whose prob and mode the last two are; by default all are
    mixed, each by its own λ, and where both kinds are on a whole batch is cut or blended. Mixing and label_smoothing
    need num_classes. mean, std: one number per channel of images in [0, 1], or None for none. dtype: "float32",
    "float16" or "bfloat16". resize: at evaluation the short side becomes this long before the central `size` is cut
    out; None is 8/7 of the size (256 for 224). exact: compute in float on a CPU too (see crop_resize_flip). view: which
    of several pictures of a sample it makes: recipes of other views draw other numbers, from the same seed, epoch and
    index.

    Raises ValueError at construction, naming the field.
    """

    size: int = 224
    crop: Literal["random_resized", "scale_jitter", "center"] = "random_resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    short_side: tuple[int, int] = (256, 480)
    flip: Flip = 0.5
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    antialias: bool = True
    color_twist: Mapping[str, Any] | None = None
    ops: tuple[tuple[str, Mapping[str, Any]] | Foreign, ...] = ()
    cutout: int = 0
    reprob: float = 0.0
    fill: Fill = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    cutmix_minmax: tuple[float, float] | None = None
    switch_prob: float = 0.5
    mixup_prob: float = 1.0
    mixup_mode: MixMode = "sample"
    label_smoothing: float = 0.0
    num_classes: int | None = None
    mean: tuple[float, ...] | None = IMAGENET_MEAN
    std: tuple[float, ...] | None = IMAGENET_STD
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    channels_last: bool = True
    resize: int | None = None
    exact: bool = False
    view: int = 0

    def __post_init__(self) -> None:
        for name in ("scale", "ratio", "short_side", "mean", "std", "fill", "cutmix_minmax"):
            value = getattr(self, name)
            if isinstance(value, Sequence) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        if not isinstance(self.ops, Sequence) or isinstance(self.ops, str):
            raise ValueError(f"ops is {self.ops!r}; wanted a list of (name, options) pairs or callables")
        object.__setattr__(self, "ops", tuple(op if callable(op) else _pair(op) for op in self.ops))
        if not isinstance(self.color_twist, Mapping | None):
            raise ValueError(f"color_twist is {self.color_twist!r}; wanted a mapping of options, or None")
        if self.color_twist is not None:
            object.__setattr__(self, "color_twist", _options(self.color_twist))
        self._check_types()
        self._check()

    def _check_types(self) -> None:
        """Numbers where the field's default is one: what JSON or a command line gives may be anything."""
        for field in fields(self):
            value = getattr(self, field.name)
            kind: Any = type(field.default)
            wanted: Any = {int: int, float: (int, float), bool: bool}.get(kind)
            if field.name in ("fill", "resize", "num_classes"):
                wanted = {"resize": int, "num_classes": int}.get(field.name) if value is not None else None
            if field.name == "flip" and isinstance(value, str):  # check_flip knows the one that is meant
                wanted = None
            if wanted is not None and (not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool)):
                raise ValueError(
                    f"{field.name} is {value!r}; wanted {'a whole number' if wanted is int else kind.__name__}"
                )

    def _check(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is {self.size}; it must be at least 1")
        if self.view < 0:
            raise ValueError(f"view is {self.view}; it must be at least 0")
        if self.evaluation_resize < self.size:
            raise ValueError(f"resize is {self.resize}; it must be at least size, {self.size}")
        choices = {
            "crop": ("random_resized", "scale_jitter", "center"),
            "interpolation": ("bilinear", "bicubic", "nearest"),
            "dtype": ("float32", "float16", "bfloat16"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        check_flip(self.flip)
        for name in ("reprob", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1]")
        if self.cutout < 0:
            raise ValueError(f"cutout is {self.cutout}; it must be at least 0")
        check_mix(
            mixup_alpha=self.mixup_alpha,
            cutmix_alpha=self.cutmix_alpha,
            cutmix_minmax=self.cutmix_minmax,
            prob=self.mixup_prob,
            switch_prob=self.switch_prob,
            mode=self.mixup_mode,
            prefix="mixup_",
        )
        for name in ("scale", "ratio", "short_side"):
            pair = getattr(self, name)
            if not isinstance(pair, tuple) or len(pair) != 2 or not 0 < pair[0] <= pair[1] < float("inf"):
                raise ValueError(f"{name} is {pair}; wanted 0 < low <= high")
        for name, low in (("mean", -math.inf), ("std", 0.0)):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, tuple) or len(value) not in (1, 3, 4):
                raise ValueError(f"{name} is {value!r}; wanted one number per channel, or None")
            if not all(low < number < math.inf for number in value):
                raise ValueError(f"{name} is {value}; each must be finite" + (" and above 0" if low == 0 else ""))
        if isinstance(self.fill, str) and self.fill != "noise":
            raise ValueError(f'fill is {self.fill!r}; wanted a number, one per channel, or "noise"')
        if self.num_classes is not None and self.num_classes < 1:
            raise ValueError(f"num_classes is {self.num_classes}; it must be at least 1")
        if self.crop == "scale_jitter" and not self.size <= self.short_side[0] <= self.short_side[1]:
            raise ValueError(f"short_side is {self.short_side}; wanted size ({self.size}) <= low <= high")
        if self.num_classes is None and (self.mixes or self.label_smoothing):
            raise ValueError("num_classes is None; mixing and label smoothing need the number of classes")
        pairs = [op for op in self.ops if not callable(op)]
        names = [name for name, _ in pairs]
        for name, options in pairs:
            if name not in OPS:
                raise ValueError(f"ops names {name!r}; known are {', '.join(OPS)}")
            if names.count(name) > 1:
                raise ValueError(f"ops names {name!r} twice; both would draw the same numbers")
            params = _check_options(name, OPS[name][0], options)
            kernel = _KERNELS[name](params) if name in _KERNELS else 1
            if not kernel_fits(kernel, (self.size,)):
                raise ValueError(f"{name} has a kernel of {kernel} pixels, for which size {self.size} is too small")
        if self.color_twist is not None:
            _check_options("color_twist", sample_color_twist, self.color_twist)

    @property
    def mixes(self) -> bool:
        """Whether samples of a batch are mixed in training."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0 or self.cutmix_minmax is not None

    @property
    def soft_targets(self) -> bool:
        """Whether training targets are (B, num_classes) float32 rather than (B,) int64."""
        return self.mixes or self.label_smoothing > 0

    @property
    def foreign_ops(self) -> list[Foreign]:
        """The callables among the ops."""
        return [op for op in self.ops if callable(op)]

    @property
    def op_names(self) -> tuple[str, ...]:
        """Of the ops, in order; of a callable its own."""
        return tuple(name_of(op) if callable(op) else op[0] for op in self.ops)

    @property
    def evaluation_resize(self) -> int:
        return round(self.size * 8 / 7) if self.resize is None else self.resize

    @property
    def torch_dtype(self) -> torch.dtype:
        return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[self.dtype]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, as JSON has them. Raises ValueError for a recipe with a callable among its
        ops."""
        if self.foreign_ops:
            raise ValueError(f"ops holds {name_of(self.foreign_ops[0])}, a callable, which no file can hold")
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of to_dict. Raises ValueError for a name that no recipe has."""
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"a recipe has no {name!r}; known are {', '.join(known)}")
        return cls(**values)


def _pair(op: Any) -> tuple[str, dict[str, Any]]:
    """An op and its options."""
    if isinstance(op, str) and op.split("-")[0] in TIMM_STRINGS:
        return "timm_augment", {"auto_augment": op}
    if isinstance(op, str) or not isinstance(op, Sequence) or len(op) != 2 or not isinstance(op[1], Mapping):
        raise ValueError(
            f'ops holds {op!r}; wanted (name, options) pairs, such as ("gaussian_blur", {{}}), callables, or strings '
            f"of timm's, such as rand-m9; those begin with {', '.join(TIMM_STRINGS)}, and names are {', '.join(OPS)}"
        )
    return op[0], _options(op[1])


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """A copy whose pairs are tuples: JSON turns them into lists, and a recipe that was stored is to equal itself."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def _check_options(name: str, sample: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """The parameters of no sample. Raises ValueError, naming op and option, for what the op does not take."""
    known = list(inspect.signature(sample).parameters)[2:]
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; known are {', '.join(known)}")
    try:
        return sample(Key(0), [], **options)  # the sampler checks its own ranges
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
