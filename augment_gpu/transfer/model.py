"""timm models with the weights that were asked for."""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from augment_gpu.transfer.checkpoint import load_checkpoint
from augment_gpu.transfer.freeze import head_names

_NAMED = 8  # layers of each kind, in a message about weights that do not fit


def create_model(
    name: str,
    num_classes: int,
    *,
    weights: str | None = None,
    scratch: bool = False,
    classes: Sequence[str] | None = None,
) -> nn.Module:
    """A timm model with a head for `num_classes`.

    weights: a local file, .safetensors or a torch checkpoint of the same architecture. Its head is left at its
    initialisation where the file's has another number of classes, or is a run's of this package for other classes than
    `classes`, their names. scratch: random weights. With neither, timm's own
    pretrained weights, the one place of this package that uses the network. Random numbers come from torch's global
    generator. Raises ValueError for a name that timm does not know or weights of another model, OSError where weights
    cannot be fetched.
    """
    import timm

    if weights is not None and scratch:
        raise ValueError(f"weights is {weights} and scratch is set; choose one")
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=4)
        raise ValueError(f"timm has no model {name!r}" + (f"; near are {', '.join(near)}" if near else ""))
    if tag and tag not in (tags := [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]):
        raise ValueError(f"{architecture} has no weights {tag!r}; known are {', '.join(tags) or 'none'}")
    if weights is not None:
        model = timm.create_model(name, num_classes=num_classes)
        load_weights(model, weights, classes)
        return model
    if scratch:
        return timm.create_model(name, num_classes=num_classes)
    try:
        return timm.create_model(name, pretrained=True, num_classes=num_classes)
    except Exception as error:  # whatever the network, the hub's client or a proxy raises
        raise OSError(
            f"the pretrained weights of {name} cannot be had: {type(error).__name__}: {error}; "
            "give a local file (--weights FILE) or train from random weights (--scratch)"
        ) from error


def load_weights(model: nn.Module, path: str, classes: Sequence[str] | None = None) -> None:
    """Loads a file into a model; its head only where the shapes agree, and not where both are known to be of other
    classes. Raises ValueError naming the layers that fit and those that do not."""
    state, known = read_weights(path)
    own = model.state_dict()
    heads = tuple(f"{head}." for head in head_names(model))
    others = None not in (known, classes) and known != list(classes or ())
    state = {
        key: value
        for key, value in state.items()
        if not (key.startswith(heads) and (others or key not in own or own[key].shape != value.shape))
    }
    fitting = [key for key in state if key in own and own[key].shape == state[key].shape]
    unknown = [key for key in state if key not in own]
    missing = [key for key in own if key not in state and not key.startswith(heads)]
    misshapen = [key for key in state if key in own and state[key].shape != own[key].shape]
    if unknown or missing or misshapen:
        found = (
            ("in both", fitting),
            ("of another shape in the file", misshapen),
            ("in the file alone", unknown),
            ("in the model alone", missing),
        )
        what = "; ".join(f"{word}: {_layers(keys)}" for word, keys in found if keys)
        raise ValueError(f"{path} holds weights of another model than {type(model).__name__}. Layers {what}")
    model.load_state_dict(state, strict=False)


def _layers(keys: list[str]) -> str:
    """The layers that tensors belong to, each once, with how many there are; the first of many."""
    names = list(dict.fromkeys(key.rpartition(".")[0] or key for key in keys))
    return f"{', '.join(names[:_NAMED])}{', …' if len(names) > _NAMED else ''} ({len(names)})"


def set_head(model: nn.Module, head: nn.Module) -> None:
    """Puts `head` in the place of the model's classifier, on its device, in its dtype.

    Raises ValueError for a model whose classifier is not one linear layer, or is one of other features.
    """
    name, old = classifier(model)
    last = [module for module in head.modules() if isinstance(module, nn.Linear)]
    if last[0].in_features != old.in_features:
        raise ValueError(f"the head takes {last[0].in_features} features; {name} of {type(model).__name__} takes "
                         f"{old.in_features}")  # fmt: skip
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, head.to(old.weight))


def classifier(model: nn.Module) -> tuple[str, nn.Linear]:
    """The linear layer that makes logits of a timm model's features, and its name.

    Raises ValueError for a model that has another kind of classifier, or several."""
    names = head_names(model)
    module = model.get_submodule(names[0]) if len(names) == 1 else None
    if not isinstance(module, nn.Linear):
        raise ValueError(
            f"{type(model).__name__} has no single linear classifier ({', '.join(names) or 'none'}); a head cannot be "
            "fitted to its features. Choose strategy top, full or scratch"
        )
    return names[0], module


def read_weights(path: str) -> tuple[dict[str, torch.Tensor], list[str] | None]:
    """The tensors of a .safetensors file, a torch checkpoint, or a checkpoint of this package; and the names of the
    classes that the head is for, which this package writes into checkpoints and .safetensors files."""
    if Path(path).suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
                return tensors, _classes_of(file.metadata() or {})
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
    state: dict[str, Any] = load_checkpoint(Path(path))
    classes = state["classes"] if isinstance(state.get("classes"), list) else None
    for name in ("average", "model", "state_dict"):
        if isinstance(state.get(name), dict):
            state = state[name]
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no weights: a dictionary of tensors is wanted")
    return state, classes


def _classes_of(metadata: Mapping[str, str]) -> list[str] | None:
    """The names that export.py wrote beside the tensors; another program may keep anything else under that word."""
    try:
        classes = json.loads(metadata["classes"])
    except (KeyError, json.JSONDecodeError):
        return None
    return classes if isinstance(classes, list) and all(isinstance(name, str) for name in classes) else None


def normalization(model: nn.Module) -> dict[str, tuple[float, ...]]:
    """The mean and std that the model's weights were trained with."""
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(model)
    return {"mean": tuple(config["mean"]), "std": tuple(config["std"])}
