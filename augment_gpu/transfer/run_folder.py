"""What a run folder gives to those who use its model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from augment_gpu.data.sample import sample_dataset
from augment_gpu.data.sources import Dataset
from augment_gpu.recipe import Recipe
from augment_gpu.transfer.checkpoint import load_checkpoint, load_json
from augment_gpu.transfer.config import TrainConfig
from augment_gpu.transfer.heads import mlp_like
from augment_gpu.transfer.model import classifier, create_model, set_head
from augment_gpu.transfer.setup import is_split, open_data

_CHANNELS = 3  # of the pictures that a run is trained on, and so of its model's input


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """model: on the CPU, channels last, in evaluation mode; it gives (V, len(classes)) logits."""

    model: nn.Module
    classes: list[str]
    recipe: Recipe


def load_run(folder: Path, checkpoint: Literal["best", "last"] = "best") -> TrainedModel:
    """The model of a run's best.pt or last.pt.

    Raises FileNotFoundError or NotADirectoryError where there is no such folder or file, ValueError for files that are
    damaged, of something else, or do not fit each other; each names the file.
    """
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file; the folder of a run is wanted")
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist; the folder of a run is wanted")
    path = folder / f"{checkpoint}.pt"
    state = load_checkpoint(path)
    # last.pt holds what resuming needs beside config.json; best.pt stands alone.
    source = path if checkpoint == "best" else folder / "config.json"
    described = state if checkpoint == "best" else load_json(source)
    classes, recipe = _described(described, source)
    if not isinstance(state.get("model_name"), str) or not isinstance(state.get("model"), dict):
        raise ValueError(f"{path} is not the checkpoint of a run; model_name and model are wanted")
    with torch.random.fork_rng(devices=[]):  # the weights are about to be replaced, and the caller's draws go on
        try:
            model = create_model(state["model_name"], len(classes), scratch=True)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    try:
        # last.pt keeps both the weights that train and their moving average, which is what was validated.
        weights = state.get("average") or state["model"]
        if state.get("head") == "mlp":
            set_head(model, mlp_like(weights, classifier(model)[0]))
        model.load_state_dict(weights)
    except Exception as error:  # of a damaged file any key or value may be of any type
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not fit a {state['model_name']} of {len(classes)} classes: {reason}") from error
    return TrainedModel(model.eval().to(memory_format=torch.channels_last), classes, recipe)


def validation_split(folder: Path, root: Path, classes: Sequence[str]) -> Dataset | None:
    """The images of `root` that the run kept for validation, where it was trained on the others of that very folder.
    None where it was not, or where the folder's own train and val say which images are which.

    What the run kept follows from the files' names, its val_fraction and its seed: of a folder that was changed since,
    it may be other images. Raises ValueError, naming the file, for a config.json that is damaged, and where the classes
    of `root` are no longer the run's.
    """
    path = folder / "config.json"
    if not path.exists():  # best.pt stands alone, and may have been taken elsewhere
        return None
    stored = load_json(path)
    try:
        data = stored["data"]
        config = TrainConfig(val_fraction=stored["config"]["val_fraction"], seed=stored["config"]["seed"])
        if data is None and (root / "about.json").is_file():  # else root is not the sample, which need not be drawn
            data = sample_dataset()
        trained_on = None if data is None else Path(data).resolve()
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the description of a run: {type(error).__name__}: {error}") from error
    if root.resolve() != trained_on or is_split(root):
        return None
    _, kept, found = open_data(str(root), config.val_fraction, config.seed)
    if found != list(classes):
        raise ValueError(f"{root} has classes {found}; the run was trained on it when it had {list(classes)}")
    return kept


def _described(description: Any, source: Path) -> tuple[list[str], Recipe]:
    """The classes and the recipe that a file holds beside other things."""
    if not isinstance(description, dict) or not {"classes", "recipe"} <= set(description):
        raise ValueError(f"{source} is not of a run; classes and recipe are wanted")
    classes, fields = description["classes"], description["recipe"]
    if not isinstance(classes, list) or len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"{source} has classes {classes!r}; a list of at least two names is wanted")
    if len(set(classes)) < len(classes):
        raise ValueError(f"{source} has classes {classes!r}, which name one twice; each is wanted once")
    if not isinstance(fields, dict):
        raise ValueError(f"{source} has recipe {fields!r}; an object with fields of Recipe is wanted")
    try:
        recipe = Recipe.from_dict(fields)
    except (ValueError, TypeError, AttributeError, LookupError) as error:  # fields may hold values of any type
        raise ValueError(f"{source}: {error}") from error
    for name, numbers in (("mean", recipe.mean), ("std", recipe.std)):
        if numbers is not None and len(numbers) not in (1, _CHANNELS):
            raise ValueError(f"{source} has {name} {list(numbers)}; one number or {_CHANNELS} are wanted")
    return classes, recipe
