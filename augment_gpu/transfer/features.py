"""Features of a frozen network: computed once for each image, kept on the disk, mapped into memory."""

import csv
import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from augment_gpu.data.loader import Loader
from augment_gpu.data.sample import user_cache
from augment_gpu.data.sources import Dataset, sample_name
from augment_gpu.info import package_version
from augment_gpu.ops.mix_draws import MixParams
from augment_gpu.predict import BATCH_SIZE, placed, with_progress
from augment_gpu.ragged import RaggedBatch
from augment_gpu.recipe import Recipe
from augment_gpu.stage import Stage
from augment_gpu.transfer.checkpoint import load_json, save_json, write_atomically
from augment_gpu.transfer.config import autocast, autocasts
from augment_gpu.transfer.fingerprint import (
    backbone_fingerprint,
    data_fingerprint,
    file_fingerprint,
    json_fingerprint,
)
from augment_gpu.transfer.interrupt import stop_requests
from augment_gpu.tta import evaluating

_VALUES, _LABELS, _ABOUT = "features.npy", "labels.npy", "features.json"
_MAX = torch.finfo(torch.float16).max


@dataclass(frozen=True, eq=False)
class Features:
    """values: (N, views, D) float16, a read-only map of the file. labels: (N,) int64. names: the path of each sample,
    or what a message calls it. skipped: (path, reason) of the samples that could not be read; the rest stands in the
    order of the dataset."""

    values: np.ndarray
    labels: np.ndarray
    names: list[str]
    skipped: list[tuple[str, str]]


def extract_features(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    *,
    model_name: str,
    views: int = 0,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    batch_size: int = BATCH_SIZE,
    device: torch.device | str | None = None,
    workers: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> Features:
    """What a timm model makes of each image in evaluation mode before its classifier, whatever that is.

    views: 0 is the evaluation view alone, one view an image. Else so many augmented copies of each image, which is read
    and decoded once for all of them: copy v is the very picture that training with `seed` sees in epoch v. Mixing and
    label smoothing, which would need the labels, are left out. Models run under bfloat16 autocast on CUDA. device: None
    is where the model lies, else it is moved there. Memory follows batch_size, which the features depend on by a
    rounding only.

    The features are kept in `cache` (none: ``$XDG_CACHE_HOME/augment_gpu/features``) under a name that follows from
    the network (model_name, and everything in it but the classifier), whether it computes in bfloat16, recipe, views,
    seed, the images (see data_fingerprint), and the versions of this package and timm; a second call checks the files,
    and computes nothing. Files are whole or not there; damaged ones are made again. Nothing is ever deleted from there
    but those.

    Raises ValueError where no image can be read, for features that float16 cannot hold, naming the sample, and for a
    model of another kind; FileExistsError where the cache holds something else in the features' place; OSError and
    DecodeError as the dataset does, unless on_error is "skip".
    """
    if views < 0:
        raise ValueError(f"views is {views}; it must be at least 0")
    if not (hasattr(model, "forward_features") and hasattr(model, "forward_head") and hasattr(model, "get_classifier")):
        raise ValueError(f"the model is a {type(model).__name__}; one of timm's, with forward_features, is wanted")
    unmixed = replace(recipe, mixup_alpha=0.0, cutmix_alpha=0.0, cutmix_minmax=None)
    recipe = replace(unmixed, label_smoothing=0.0, num_classes=None)
    loader = Loader(
        dataset,
        batch_size,
        _FeatureStage(model, recipe, views, seed, dataset),
        device=placed(model, device),
        shuffle=False,
        on_error=on_error,
        workers=workers,
    )
    about = {
        "model": model_name,
        "backbone": backbone_fingerprint(model),
        "recipe": recipe.to_dict(),
        "views": views,
        "seed": seed if views else None,
        "data": data_fingerprint(dataset),
        "autocast": autocasts(loader.device, recipe.torch_dtype),
        "augment_gpu": package_version("augment_gpu"),
        "timm": package_version("timm"),
    }
    root = Path(user_cache() / "features" if cache is None else cache)
    folder = root / json_fingerprint(about)
    found = _stored(folder, about, dataset)
    if found is not None and not (found.skipped and on_error == "raise"):
        return found
    _check_place(folder)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".features-") as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        _extract(made, loader, about)
        _check_place(folder)
        if folder.exists():
            folder.rename(Path(scratch, "damaged"))
        try:
            made.rename(folder)
        except OSError:  # another process was faster
            if _stored(folder, about, dataset) is None:
                raise
    found = _stored(folder, about, dataset)
    if found is None:
        raise OSError(f"{folder} was written, and does not hold what was written; is its disk sound?")
    return found


def export_features(
    output: Path, model: nn.Module, dataset: Dataset, recipe: Recipe, classes: Sequence[str], **options: Any
) -> Features:
    """Extracts features, for use elsewhere, into the new folder `output`, which is whole or not there: features.npy,
    (N, views, D) float16; features.csv with the columns row, path, label, class; features.json, what they are of.

    classes: their names, by label. options: extract_features' other than cache. Raises FileExistsError where `output`
    exists, and what extract_features raises.
    """
    if output.exists():
        raise FileExistsError(f"{output} exists; give another name")
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        features = extract_features(model, dataset, recipe, cache=scratch, **options)
        (folder,) = Path(scratch).iterdir()
        about = load_json(folder / _ABOUT)["about"]
        skipped = [{"path": path, "reason": reason} for path, reason in features.skipped]
        described = {**about, "shape": features.values.shape, "classes": list(classes), "skipped": skipped}
        save_json(folder / _ABOUT, described)
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["row", "path", "label", "class"])
        for row, (name, label) in enumerate(zip(features.names, features.labels.tolist(), strict=True)):
            writer.writerow([row, name, label, classes[label]])
        content = text.getvalue().encode(errors="surrogateescape")  # a path may hold bytes that are no UTF-8
        write_atomically(folder / "features.csv", lambda file: file.write(content))
        (folder / _LABELS).unlink()  # the table has them
        folder.rename(output)
    return features


class _FeatureStage:
    """Takes a stage's place in a Loader, which then yields, on the host, (B, views, D) float16 features, and (B, 2)
    int64: each sample's position in the dataset, and its label."""

    training = False  # nothing is mixed

    def __init__(self, model: nn.Module, recipe: Recipe, views: int, seed: int, dataset: Dataset) -> None:
        self.model = model
        self.recipe = recipe
        self.stage = Stage(recipe, seed).train(views > 0)
        self.seed = self.stage.seed
        self.views = max(views, 1)
        self.dataset = dataset

    def __call__(
        self, images: RaggedBatch, labels: torch.Tensor, *, index: np.ndarray, epoch: int, mix: MixParams | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        known = torch.stack([torch.from_numpy(index), labels.cpu()], dim=1)
        if not len(images):
            return torch.empty(0, self.views, 0, dtype=torch.float16), known
        with torch.inference_mode(), evaluating(self.model):
            seen = [self._features(self.stage(images, index=index, epoch=view)[0]) for view in range(self.views)]
        values = torch.stack(seen, dim=1).float().cpu()
        rounded = values.half()
        unfit = (~rounded.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
        if unfit:
            name, largest = sample_name(self.dataset, int(index[unfit[0]])), float(values[unfit[0]].abs().max())
            raise ValueError(f"{name}: the model's features reach {largest:.6g}; float16 holds at most {_MAX:.0f}")
        return rounded, known

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        model: Any = self.model
        with autocast(images.device, images.dtype):
            features = model.forward_head(model.forward_features(images), pre_logits=True)
        if features.ndim != 2 or len(features) != len(images):
            raise ValueError(
                f"{type(model).__name__} made features of shape {tuple(features.shape)} of {len(images)} images; "
                "(images, D) is wanted"
            )
        return features


def _extract(folder: Path, loader: Loader, about: dict[str, Any]) -> None:
    """Writes the three files. The first batch tells the number of features."""
    path = folder / _VALUES
    values: np.memmap | None = None
    known: list[torch.Tensor] = []
    done = 0
    with stop_requests() as stopped:
        for rows, read in with_progress(loader, "features"):
            if stopped():  # also for SIGTERM, at which Python would leave the files where they are
                raise KeyboardInterrupt
            if not len(rows):
                continue
            if values is None:
                values = _new_array(path, (len(loader.dataset), *rows.shape[1:]))
            values[done : done + len(rows)] = rows.numpy()
            known.append(read)
            done += len(rows)
    if values is None:
        raise ValueError(
            f"none of {len(loader.dataset)} images could be read; the first: {': '.join(loader.skipped[0])}"
        )
    if done < len(values):
        read_rows = values[:done]
        path.unlink()  # its memory map keeps the content
        values = _new_array(path, read_rows.shape)
        values[:] = read_rows
    values.flush()
    positions, labels = torch.cat(known).numpy().T
    write_atomically(folder / _LABELS, lambda file: np.save(file, labels))
    reasons = dict(loader.skipped)
    missing = np.setdiff1d(np.arange(len(loader.dataset)), positions).tolist()
    content = {
        "about": about,
        "skipped": [[position, reasons[sample_name(loader.dataset, position)]] for position in missing],
        "files": {name: file_fingerprint(folder / name) for name in (_VALUES, _LABELS)},
    }
    save_json(folder / _ABOUT, {"key": json_fingerprint(about), **content, "check": json_fingerprint(content)})


def _new_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A new file of float16, mapped for writing."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    if hasattr(os, "posix_fallocate"):  # a full disk is an OSError now, and would end the process at a later write
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error
    return array


def _stored(folder: Path, about: dict[str, Any], dataset: Dataset) -> Features | None:
    """What the folder holds; None where that is not whole, or not of `about`."""
    try:
        stored = load_json(folder / _ABOUT)
        content = {name: stored[name] for name in ("about", "skipped", "files")}
        files = {name: file_fingerprint(folder / name) for name in (_VALUES, _LABELS)}
        if content["about"] != about or content["files"] != files or stored["check"] != json_fingerprint(content):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    reasons = dict(content["skipped"])
    names = [sample_name(dataset, position) for position in range(len(dataset))]
    return Features(
        values=np.load(folder / _VALUES, mmap_mode="r"),
        labels=np.load(folder / _LABELS),
        names=[name for position, name in enumerate(names) if position not in reasons],
        skipped=[(names[position], reason) for position, reason in reasons.items()],
    )


def _check_place(folder: Path) -> None:
    """Raises FileExistsError where there is anything but features that may be replaced."""
    if folder.is_dir():
        others = sorted({path.name for path in folder.iterdir()} - {_VALUES, _LABELS, _ABOUT})
        if others:
            raise FileExistsError(f"{folder} holds {others[0]}, which is not of features; move it away")
    elif folder.exists():
        raise FileExistsError(f"{folder} is a file; the features' folder is to stand there; move it away")
