"""What a model makes of images: mean probabilities over the views of each, read and computed batch by batch."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from augment_gpu.data.files import ImageFiles
from augment_gpu.data.loader import Loader
from augment_gpu.data.sources import Dataset, sample_name
from augment_gpu.ops.mix_draws import MixParams
from augment_gpu.ops.views import SCALES
from augment_gpu.ragged import RaggedBatch
from augment_gpu.recipe import Recipe
from augment_gpu.tta import TTA

Model = Callable[[torch.Tensor], torch.Tensor]
Mode = Literal["none", "flip", "ten-crop", "multi-scale"]
MODES: tuple[Mode, ...] = get_args(Mode)
BATCH_SIZE = 64
MAX_VIEWS = 128


def tta_for(model: Model, recipe: Recipe, mode: Mode, *, num_classes: int, max_views: int = MAX_VIEWS) -> TTA:
    """TTA of the views that `mode` names, made as the recipe makes its evaluation view.

    "none" is that view; "flip" adds its mirror image, "ten-crop" the corners of the same resized image and all mirror
    images. "multi-scale" is ten crops at each of the scales 224, 256, 384, 480 and 640, in proportion to the size.
    Raises ValueError for another mode.
    """
    if mode not in MODES:
        raise ValueError(f"tta is {mode!r}; it must be one of {', '.join(MODES)}")
    scales: Sequence[int] = (recipe.evaluation_resize,)
    if mode == "multi-scale":
        scales = [round(recipe.size * scale / SCALES[0]) for scale in SCALES]
    return TTA(
        model,
        size=recipe.size,
        scales=scales,
        crops={"none": 1, "flip": 2, "ten-crop": 10, "multi-scale": 10}[mode],
        max_views=max_views,
        num_classes=num_classes,
        interpolation=recipe.interpolation,
        antialias=recipe.antialias,
        mean=recipe.mean,
        std=recipe.std,
        dtype=recipe.torch_dtype,
        channels_last=recipe.channels_last,
        exact=recipe.exact,
    )


class Predictor:
    """Takes a stage's place in a Loader, which then yields (B, classes) probabilities in place of pictures.

    index: positions in the dataset of the batch that was yielded last, without the samples that could not be read.
    Raises ValueError for probabilities that are not finite, naming the samples.
    """

    seed = 0
    training = False

    def __init__(self, tta: TTA, recipe: Recipe, dataset: Dataset) -> None:
        self.tta = tta
        self.recipe = recipe
        self.dataset = dataset
        self.index = np.zeros(0, dtype=np.int64)

    def __call__(
        self, images: RaggedBatch, labels: torch.Tensor, *, index: np.ndarray, epoch: int, mix: MixParams | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.index = index
        return self.tta(images, names=[sample_name(self.dataset, int(i)) for i in index]), labels


def open_loader(
    predictor: Predictor, *, batch_size: int, device: torch.device | str | None, workers: int | None
) -> Loader:
    """Of the predictor's dataset, in its order, leaving out what cannot be read. device: see placed."""
    return Loader(
        predictor.dataset,
        batch_size,
        predictor,
        device=placed(predictor.tta.model, device),
        shuffle=False,
        on_error="skip",
        workers=workers,
    )


def placed(model: Model, device: torch.device | str | None) -> torch.device | str:
    """Where the model is to work: None is where it lies; a module is moved to another device."""
    if isinstance(model, nn.Module):
        if device is not None:
            model.to(device)
        device = next((parameter.device for parameter in model.parameters()), device)
    return device or "cpu"


def progress_bar() -> Progress:
    """A bar on stderr, where that is a terminal; its tasks have a note."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def with_progress(loader: Loader, title: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The loader's batches, and a bar on stderr while they come."""
    with progress_bar() as bar:
        task = bar.add_task(title, total=len(loader.dataset), note="")
        clock = time.perf_counter()
        for batch in loader:
            yield batch
            done = loader.state_dict()["used"]
            bar.update(task, completed=done, note=f"{done / (time.perf_counter() - clock):.1f} images/s")


@dataclass(frozen=True)
class Prediction:
    """top: (class, probability in [0, 1]), the most probable first."""

    path: str
    top: list[tuple[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return {"path": self.path, "top": [{"class": name, "probability": value} for name, value in self.top]}


def predict(
    model: Model,
    recipe: Recipe,
    classes: Sequence[str],
    paths: Sequence[str],
    *,
    top: int = 5,
    tta: Mode = "none",
    batch_size: int = BATCH_SIZE,
    max_views: int = MAX_VIEWS,
    device: torch.device | str | None = None,
    workers: int | None = None,
) -> tuple[list[Prediction], list[tuple[str, str]]]:
    """The `top` most probable classes of each image file, at most all of them, in the order of `paths`; and (path,
    reason) of each file that could not be read.

    model: gives (V, len(classes)) logits. See tta_for for tta, TTA for max_views, open_loader for
    device. Raises ValueError for no paths, for a model that gives another number of classes or values that are not
    finite, naming the files.
    """
    if top < 1:
        raise ValueError(f"top is {top}; it must be at least 1")
    views = tta_for(model, recipe, tta, num_classes=len(classes), max_views=max_views)
    predictor = Predictor(views, recipe, ImageFiles(paths))
    loader = open_loader(predictor, batch_size=batch_size, device=device, workers=workers)
    predictions = []
    for probabilities, positions in with_progress(loader, "predict"):
        best = probabilities.cpu().topk(min(top, len(classes)), dim=1)
        for position, values, labels in zip(
            positions.tolist(), best.values.tolist(), best.indices.tolist(), strict=True
        ):
            ranked = [(classes[label], value) for label, value in zip(labels, values, strict=True)]
            predictions.append(Prediction(paths[position], ranked))
    return predictions, loader.skipped
