"""timm models with the weights that were asked for."""

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from augment_gpu.transfer.checkpoint import load_checkpoint


def create_model(name: str, num_classes: int, *, weights: str | None = None, scratch: bool = False) -> nn.Module:
    """A timm model with a head for `num_classes`.

    weights: a local file, .safetensors or a torch checkpoint of the same architecture, whose head may have another
    number of classes and is then left at its initialisation. scratch: random weights. With neither, timm's own
    pretrained weights, the one place of this package that uses the network. Random numbers come from torch's global
    generator. Raises ValueError for a name that timm does not know or weights of another model, OSError where weights
    cannot be fetched.
    """
    import timm

    if weights is not None and scratch:
        raise ValueError(f"weights is {weights} and scratch is set; choose one")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=4)
        raise ValueError(f"timm has no model {name!r}" + (f"; near are {', '.join(near)}" if near else ""))
    if weights is not None:
        model = timm.create_model(name, num_classes=num_classes)
        load_weights(model, weights)
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


def load_weights(model: nn.Module, path: str) -> None:
    """Loads a file into a model; its head only where the shapes agree. Raises ValueError naming what does not fit."""
    state = read_weights(path)
    own = model.state_dict()
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    heads = tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier))
    state = {
        key: value
        for key, value in state.items()
        if not (key.startswith(heads) and (key not in own or own[key].shape != value.shape))
    }
    unknown = sorted(set(state) - set(own))
    missing = sorted(key for key in set(own) - set(state) if not key.startswith(heads))
    misshapen = [key for key in sorted(set(state) & set(own)) if state[key].shape != own[key].shape]
    if unknown or missing or misshapen:
        found = (("unknown", unknown), ("missing", missing), ("of another shape", misshapen))
        what = ", ".join(f"{len(keys)} {word} (such as {keys[0]})" for word, keys in found if keys)
        raise ValueError(f"{path} holds weights of another model than {type(model).__name__}: tensors {what}")
    model.load_state_dict(state, strict=False)


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file, a torch checkpoint, or a checkpoint of this package."""
    if Path(path).suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
    state: dict[str, Any] = load_checkpoint(Path(path))
    for name in ("model", "state_dict"):
        if isinstance(state.get(name), dict):
            state = state[name]
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no weights: a dictionary of tensors is wanted")
    return state


def normalization(model: nn.Module) -> dict[str, tuple[float, ...]]:
    """The mean and std that the model's weights were trained with."""
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(model)
    return {"mean": tuple(config["mean"]), "std": tuple(config["std"])}
