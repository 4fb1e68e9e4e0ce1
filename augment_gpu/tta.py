"""Test-time augmentation: a model's mean prediction over many views of each image.

The views are rows of crop_resize_flip, made and forgotten chunk by chunk: what is kept of a view is its share of the
mean. (Krizhevsky et al. 2012 averaged ten crops; Simonyan & Zisserman 2015 and He et al. 2016 ten crops at several
scales, or the network over the whole image.)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from augment_gpu.ops.crop import crop_resize_flip
from augment_gpu.ops.crop_plan import IMAGENET_MEAN, IMAGENET_STD, image_sizes
from augment_gpu.ops.views import SCALES, Crops, resized_images, view_boxes
from augment_gpu.ragged import RaggedBatch

Images = RaggedBatch | torch.Tensor | Sequence[torch.Tensor | np.ndarray]


class TTA:
    """`TTA(model)(batch)`: (B, classes) float32, the mean of the model's probabilities over the views of each image.

    model: anything that maps (V, C, S, S) normalised images to (V, classes) logits; a module is put in evaluation mode
    for the call, and works where its parameters lie. batch: a RaggedBatch, a list of uint8 images, or dense (B, C, H,
    W), uint8 or floating point in [0, 1]. size, scales, crops: see augment_gpu.ops.views.view_boxes; fifty views an
    image by default. weights: one a scale, of its views in the mean (None: equal). average: "probabilities", or
    "logits", whose mean is then turned into probabilities. max_views: how many views are held and run through the
    model at a time, which bounds the memory; their one buffer is written to again for the next ones. dtype: of the
    views, float32, or a 16-bit one, which runs the model under autocast.
    num_classes: what the model must give, where it is known. mean, std: as the model was trained, None for none.

    fully_convolutional: instead of crops, the whole of each image at each scale goes through `model.forward_features`,
    and `model.forward_head` over every place of the feature map (timm's names); the places are averaged, then the
    scales, with `crops` 2 or 10 also the mirror image. Images go through one at a time, since their shapes differ, and
    whole, whatever max_views is. A head that takes several places at once, or tells them apart, is refused.

    The same image has the same prediction at any max_views and in any batch, to 1e-5 in float32: what differs is how
    the model's own arithmetic is divided. Raises ValueError for outputs of another shape or that are not finite,
    naming the images, and for arguments that make no views.
    """

    def __init__(
        self,
        model: Callable[[torch.Tensor], torch.Tensor],
        *,
        size: int = 224,
        scales: Sequence[int] = SCALES,
        crops: Crops = 10,
        weights: Sequence[float] | None = None,
        average: Literal["probabilities", "logits"] = "probabilities",
        max_views: int = 128,
        num_classes: int | None = None,
        interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear",
        antialias: bool = True,
        mean: Sequence[float] | None = IMAGENET_MEAN,
        std: Sequence[float] | None = IMAGENET_STD,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
        exact: bool = False,
        fully_convolutional: bool = False,
    ) -> None:
        self.views = len(view_boxes([1], [1], size, scales, crops))  # of an image; this checks all three
        if average not in ("probabilities", "logits"):
            raise ValueError(f'average is {average!r}; it must be "probabilities" or "logits"')
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(f"dtype is {dtype}; it must be torch.float32, torch.float16 or torch.bfloat16")
        if max_views < 1:
            raise ValueError(f"max_views is {max_views}; it must be at least 1")
        shares = np.ones(len(scales)) if weights is None else np.array(weights, dtype=np.float64)
        if shares.shape != (len(scales),) or not ((shares >= 0) & (shares < np.inf)).all() or not shares.sum():
            raise ValueError(f"weights is {weights}; wanted {len(scales)} numbers, one a scale, at least one above 0")
        if fully_convolutional and not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
            raise ValueError(
                f"{type(model).__name__} has no forward_features and forward_head; fully_convolutional needs both"
            )
        self.model = model
        self.size = size
        self.scales = tuple(scales)
        self.crops = crops
        self.weights = shares / shares.max() / (shares / shares.max()).sum()
        self.average = average
        self.max_views = max_views
        self.num_classes = num_classes
        self.fully_convolutional = fully_convolutional
        self._map_checked = False
        self.dtype = dtype
        self.options: dict[str, Any] = {
            "interpolation": interpolation,
            "antialias": antialias,
            "mean": mean,
            "std": std,
            "exact": exact,
        }
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, batch: Images, *, names: Sequence[str] | None = None) -> torch.Tensor:
        """names: of the images, for the message about those whose outputs are not finite; None: their places."""
        half = self.dtype != torch.float32
        with torch.inference_mode(), evaluating(self.model):
            images = self._on_device(batch)
            predict = self._over_whole_images if self.fully_convolutional else self._over_crops
            # Where the views are float32, a caller's own autocast stays as it is.
            with torch.autocast(images.device.type, dtype=self.dtype) if half else nullcontext():
                seen = predict(images)
            if seen is None:
                total = torch.zeros(0, self.num_classes or 0, device=images.device)
            else:
                total, finite = seen
                _check_finite(finite, names)
                total = (total if self.average == "probabilities" else total.softmax(dim=1)).float()
        return total.clone()  # outside, so that it may be changed and differentiated with

    def _on_device(self, batch: Images) -> RaggedBatch | torch.Tensor:
        images: RaggedBatch | torch.Tensor
        if isinstance(batch, torch.Tensor):
            images = batch.float() if batch.is_floating_point() else batch
        else:
            images = batch if isinstance(batch, RaggedBatch) else RaggedBatch.from_images(batch)
        parameter = next(self.model.parameters(), None) if isinstance(self.model, nn.Module) else None
        return images if parameter is None else images.to(parameter.device, non_blocking=True)

    def _over_crops(self, images: RaggedBatch | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(B, classes) float64, the weighted mean over the views, of probabilities or logits; and (B,) bool, whether
        all that it was made of is finite. None for a batch of no images."""
        heights, widths = image_sizes(images)
        rows = view_boxes(heights, widths, self.size, self.scales, self.crops)
        if not len(rows):
            return None
        views = len(rows) // len(heights)
        share = np.tile(np.repeat(self.weights / (views // len(self.scales)), views // len(self.scales)), len(heights))
        channels = images.channels if isinstance(images, RaggedBatch) else images.shape[1]
        shape = (min(self.max_views, len(rows)), channels, self.size, self.size)
        held = torch.empty(shape, dtype=self.dtype, device=images.device, memory_format=self.memory_format)
        total, finite = None, torch.ones(len(rows), dtype=torch.bool, device=images.device)
        for start in range(0, len(rows), self.max_views):
            part = np.arange(start, min(start + self.max_views, len(rows)))
            chunk = held[: len(part)]
            crop_resize_flip(images, rows.take(part), size=self.size, out=chunk, **self.options)
            seen, finite[start : start + len(part)] = self._checked(self.model(chunk), len(part))
            if total is None:
                total = seen.new_zeros(len(heights), seen.shape[1])
            elif seen.shape[1] != total.shape[1]:
                raise ValueError(f"the model gave {seen.shape[1]} classes, and before {total.shape[1]}")
            # Each image's views of this chunk, summed as one row of a product: in float64, and unlike index_add_ in the
            # same order every time.
            first, last = rows.source[part[0]], rows.source[part[-1]] + 1
            summing = np.where(rows.source[part] == np.arange(first, last)[:, None], share[part], 0.0)
            total[first:last] += torch.from_numpy(summing).to(images.device, non_blocking=True) @ seen
        assert total is not None  # there are rows
        return total, finite.view(len(heights), views).all(dim=1)

    def _over_whole_images(self, images: RaggedBatch | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """As _over_crops, each view being an image's whole feature map at one scale."""
        model: Any = self.model
        mirrored = (False, True) if self.crops in (2, 10) else (False,)
        sums, finite = [], []
        for image in images if isinstance(images, RaggedBatch) else images.permute(0, 2, 3, 1):
            shares, all_finite = [], []
            for scale, weight in zip(self.scales, self.weights, strict=True):
                resized = self._whole(image, scale)
                for flip in mirrored:
                    features = model.forward_features(resized.flip(-1) if flip else resized)
                    if not self._map_checked:
                        _check_map(model, features)
                        self._map_checked = True
                    places = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1], 1, 1)
                    seen, whole = self._checked(model.forward_head(places), len(places))
                    shares.append(seen.mean(dim=0) * (weight / len(mirrored)))
                    all_finite.append(whole.all())
            sums.append(torch.stack(shares).sum(dim=0))
            finite.append(torch.stack(all_finite).all())
        return (torch.stack(sums), torch.stack(finite)) if sums else None

    def _whole(self, image: torch.Tensor, scale: int) -> torch.Tensor:
        """(H, W, C) to (1, C, h, w): resized to this short side, normalised."""
        from torchvision.transforms.v2 import functional as F

        for name, value in (("mean", self.options["mean"]), ("std", self.options["std"])):
            if value is not None and len(value) not in (1, image.shape[2]):
                raise ValueError(f"{name} is {value}; the images have {image.shape[2]} channels")
        chw = F.to_dtype(image.permute(2, 0, 1), torch.float32, scale=True)
        resized = resized_images(chw, scale, self.options["interpolation"], self.options["antialias"]).clamp(0, 1)
        mean, std = self.options["mean"] or (0.0,), self.options["std"] or (1.0,)
        return F.normalize(resized, list(mean), list(std))[None].to(self.dtype, memory_format=self.memory_format)

    def _checked(self, output: Any, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's logits in float64, or the probabilities of them; and (rows,) bool, whether they were finite."""
        wanted = f"({rows}, {'classes' if self.num_classes is None else self.num_classes})"
        if not isinstance(output, torch.Tensor):
            raise ValueError(f"the model gave a {type(output).__name__}; a tensor {wanted} is wanted")
        if output.ndim != 2 or len(output) != rows or self.num_classes not in (None, output.shape[1]):
            raise ValueError(f"the model gave {tuple(output.shape)}; {wanted} is wanted")
        logits = output.double()
        return logits.softmax(dim=1) if self.average == "probabilities" else logits, logits.isfinite().all(dim=1)


def _check_map(model: Any, features: Any) -> None:
    """Raises ValueError unless `features` is a map whose places the model's head takes one like the other: not so where
    the head is a convolution over several places, or attention among them."""
    what = f"{type(model).__name__} cannot be evaluated fully convolutionally: "
    if not isinstance(features, torch.Tensor) or features.ndim != 4:
        got = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise ValueError(f"{what}forward_features gave {got}; a map (B, C, H, W) is wanted")
    channels = getattr(model, "num_features", features.shape[1])
    if features.shape[1] != channels:
        raise ValueError(f"{what}forward_features gave {tuple(features.shape)}; {channels} channels are wanted second")
    pooled, mirrored = model.forward_head(features), model.forward_head(features.flip((2, 3)))
    if not torch.allclose(pooled, mirrored, rtol=1e-2, atol=1e-2 * float(pooled.std())):
        raise ValueError(f"{what}its head depends on where in the map a feature lies")


def _check_finite(finite: torch.Tensor, names: Sequence[str] | None) -> None:
    """finite: (B,) bool. Waits for the device, once a batch."""
    wrong = (~finite).nonzero().flatten().tolist()
    if wrong:
        which = f"images {wrong} of the batch" if names is None else ", ".join(names[i] for i in wrong)
        raise ValueError(f"the model gave values that are not finite for {which}")


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model in evaluation mode, and as it was afterwards, module by module."""
    training = (
        [module for module in model.modules() if getattr(module, "training", False)]
        if isinstance(model, nn.Module)
        else []
    )
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
