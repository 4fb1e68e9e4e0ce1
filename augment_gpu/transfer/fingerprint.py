"""What decides the features of images, the network and the pictures, each as one short string."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from augment_gpu.data.sources import Dataset, ImageFolder, Subset, sample_name
from augment_gpu.ragged import as_array, as_hwc

# Settings that differ with the head, or from step to step, and leave features in evaluation mode as they are.
_WITHOUT_EFFECT = ("num_classes", "training", "grad_checkpointing")


def backbone_fingerprint(model: nn.Module) -> str:
    """Of all that makes features in a timm model: its modules, their settings and their tensors, whatever the device
    and memory format; the classifier, which comes after the features, is left out."""
    source: Any = model
    found = source.get_classifier()  # distilled models have two
    classifiers = found if isinstance(found, tuple | list) else (found,)
    left_out = {module for classifier in classifiers for module in classifier.modules()}
    digest = _digest()
    for name, module in model.named_modules():
        if module in left_out:
            continue
        settings = {key: value for key, value in vars(module).items() if _is_setting(key, value)}
        digest.update(repr((name, type(module).__qualname__, sorted(settings.items()))).encode())
        for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            digest.update(repr((key, tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_setting(key: str, value: Any) -> bool:
    values = value if isinstance(value, tuple) else (value,)
    plain = all(isinstance(item, bool | int | float | str | None) for item in values)
    return plain and not key.startswith("_") and key not in _WITHOUT_EFFECT


def data_fingerprint(dataset: Dataset) -> str:
    """Of the samples in their order. Of ImageFolder and its subsets: each file's path from the folder common to all,
    its size and time of change, and the label, so that nothing is read and the whole may be moved. Any other dataset is
    read once, and known by its pixels and labels."""
    digest = _digest()
    samples = range(len(dataset))
    if _shows_whole_files(dataset):
        paths = [os.path.abspath(sample_name(dataset, index)) for index in samples]
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
        targets: Any = dataset
        for path, label in zip(paths, targets.targets, strict=True):
            digest.update(repr((os.path.relpath(path, root), *_size_and_time(path), label)).encode())
        return digest.hexdigest()
    for index in samples:
        try:
            image, label = dataset[index]
            pixels = np.ascontiguousarray(as_hwc(as_array(image), sample_name(dataset, index)).numpy())
        except (OSError, ValueError):
            digest.update(b"unreadable")
            continue
        digest.update(repr((pixels.shape, int(label))).encode())
        digest.update(pixels.data)
    return digest.hexdigest()


def _shows_whole_files(dataset: Dataset) -> bool:
    """Whether a sample is its file, and nothing else: another class with a path() may show a part of the file, or
    change it."""
    return type(dataset) is ImageFolder or (type(dataset) is Subset and _shows_whole_files(dataset.dataset))


def _size_and_time(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:  # whoever reads it will tell
        return -1, -1
    return found.st_size, found.st_mtime_ns


def json_fingerprint(value: Any) -> str:
    """Of plain values, as JSON has them."""
    digest = _digest()
    digest.update(json.dumps(value, sort_keys=True).encode())
    return digest.hexdigest()


def file_fingerprint(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, _digest).hexdigest()


def _digest() -> Any:
    return hashlib.blake2b(digest_size=16)
