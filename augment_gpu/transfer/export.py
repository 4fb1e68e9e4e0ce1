"""A run's model in formats that other programs read, each with a description of the images that it takes."""

import importlib.util
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from augment_gpu.info import package_version
from augment_gpu.recipe import Recipe
from augment_gpu.transfer.checkpoint import check_new, first_line, json_bytes, load_checkpoint, write_atomically
from augment_gpu.transfer.freeze import head_names
from augment_gpu.transfer.run_folder import load_run

Format = Literal["onnx", "pt2", "safetensors"]
FORMATS: tuple[Format, ...] = get_args(Format)
# How far a file's logits may lie from the model's own, in parts of the largest of them: room for float32 sums in
# another order, and for nothing else.
_TOLERANCE = 1e-4
_BATCHES = (1, 3)  # of the images that a file is tried on; it was traced with two
_INPUT, _OUTPUT = "images", "logits"
_FILTERS = {
    "bilinear": "triangle of radius 1",
    "bicubic": "Keys' cubic with a = -0.5, of radius 2, its overshoot cut off at 0 and 255",
    "nearest": "the pixel in whose area the point lies",
}
Made = tuple[bytes, dict[str, Any]]  # the file, and how it was tried


def export_model(
    folder: Path, output: Path, *, format: Format | None = None, checkpoint: Literal["best", "last"] = "best"
) -> list[Path]:
    """Writes a run's model to `output`, and beside it, to that name with .json after it, what whoever uses it must
    know: the preprocessing step by step, input and output, the classes. Returns both paths.

    format: "onnx"; "pt2", a program of torch.export; "safetensors", the weights alone, for timm and for `train
    --weights`; None: the one that output's ending names. The former two take images of the recipe's size, in batches of
    any length. What was made is tried before it is written: it must give the model's logits of random images within
    1e-4 of the largest of them, or the very same weights. Where onnxruntime is not installed, an ONNX file is only
    checked for its form.

    Raises ValueError for any other ending, where a package is missing, and for a model that the format does not take;
    FileExistsError where there is such a file already; and what load_run raises. A file that could not be finished
    leaves nothing behind.
    """
    chosen = _format(output, format)
    beside = output.with_name(f"{output.name}.json")
    check_new(output)
    check_new(beside)
    run = load_run(folder, checkpoint)
    state = load_checkpoint(folder / f"{checkpoint}.pt")
    name = state["model_name"]
    # Contiguous, as those who feed it will have their images
    model = run.model.to(memory_format=torch.contiguous_format)
    make = {"onnx": _onnx, "pt2": _pt2, "safetensors": _safetensors}[chosen]
    content, trial = make(model, name, run.classes, run.recipe.size)
    description = {
        "model": name,
        "format": chosen,
        "use": _use(chosen, model, name, len(run.classes), output.name),
        "classes": run.classes,
        "preprocessing": preprocessing(run.recipe),
        "input": _input(run.recipe),
        "output": {
            "name": _OUTPUT,
            "shape": ["batch", len(run.classes)],
            "dtype": "float32",
            "meaning": "softmax over the classes gives their probabilities",
        },
        "trial": trial,
        "source": {"run": str(folder.resolve()), "checkpoint": checkpoint, "epoch": _epoch(state)},
        "versions": {package: package_version(package) for package in ("augment_gpu", "torch", "timm")},
    }
    check_new(output)  # once more, since an export may take minutes
    check_new(beside)
    write_atomically(beside, lambda file: file.write(json_bytes(description)))
    try:
        write_atomically(output, lambda file: file.write(content))
    except BaseException:
        beside.unlink()
        raise
    return [output, beside]


def preprocessing(recipe: Recipe) -> list[dict[str, Any]]:
    """The recipe's evaluation view in plain values, one step after the other: from an image file to one image of the
    model's input."""
    size, resize = recipe.size, recipe.evaluation_resize
    mean, std = _per_channel(recipe.mean, 0.0), _per_channel(recipe.std, 1.0)
    return [
        {
            "step": "decode",
            "to": "uint8, RGB",
            "orientation": "upright, as EXIF has it",
            "alpha": "dropped",
            "16-bit grey": "round(value * 255 / 65535)",
        },
        {
            "step": "resize",
            "short_side": resize,
            "long_side": f"int({resize} * long / short)",
            "interpolation": recipe.interpolation,
            "antialias": recipe.antialias,
            "filter": _FILTERS[recipe.interpolation]
            + (", stretched by source / result where that is above 1" if recipe.antialias else ""),
            "rounding": "to uint8; programs differ by up to one level",
        },
        {
            "step": "center_crop",
            "height": size,
            "width": size,
            "top": f"round((height - {size}) / 2), halves to even",
            "left": f"round((width - {size}) / 2), halves to even",
        },
        {"step": "scale", "divide_by": 255, "to": "float32"},
        {"step": "normalize", "mean": mean, "std": std, "formula": "(value - mean) / std, by channel"},
        {"step": "layout", "order": "CHW"},
    ]


def _use(format: Format, model: nn.Module, name: str, classes: int, file: str) -> str:
    """What somebody writes in Python who has the file beside him and whose images are prepared."""
    if format == "onnx":
        return f"onnxruntime.InferenceSession({file!r}).run(['{_OUTPUT}'], {{'{_INPUT}': images}})"
    if format == "pt2":
        return f"torch.export.load({file!r}).module()(images)"
    head = head_names(model)[0]
    layers = model.get_submodule(head)
    if not isinstance(layers, nn.Sequential):
        return f"timm.create_model({name!r}, num_classes={classes}, checkpoint_path={file!r}).eval()(images)"
    return (  # an mlp, which timm does not make
        f"model = timm.create_model({name!r}, num_classes={classes}); "
        f"model.{head} = torch.nn.Sequential({', '.join(f'torch.nn.{layer!r}' for layer in layers)}); "
        f"timm.models.load_checkpoint(model, {file!r}); model.eval()(images)"
    )


def _input(recipe: Recipe) -> dict[str, Any]:
    mean, std = _per_channel(recipe.mean, 0.0), _per_channel(recipe.std, 1.0)
    return {
        "name": _INPUT,
        "shape": ["batch", 3, recipe.size, recipe.size],
        "dtype": "float32",
        "layout": "NCHW",
        "channel_order": "RGB",
        "value_range": [
            min((0 - m) / s for m, s in zip(mean, std, strict=True)),
            max((1 - m) / s for m, s in zip(mean, std, strict=True)),
        ],
    }


def _per_channel(values: Sequence[float] | None, default: float) -> list[float]:
    """Of the three channels, from one number for all, one for each, or none."""
    numbers = [default] if values is None else list(values)
    return numbers * 3 if len(numbers) == 1 else numbers


def _format(output: Path, format: Format | None) -> Format:
    if format is None:
        ending = output.suffix.lower().removeprefix(".")
        format = next((known for known in FORMATS if known == ending), None)
        if format is None:
            raise ValueError(
                f"{output} ends in {output.suffix or 'nothing'}; {', '.join(f'.{known}' for known in FORMATS)} are "
                "known (torch has given up TorchScript, for which .pt2 now stands)"
            )
    elif format not in FORMATS:
        raise ValueError(f"format is {format!r}; it must be one of {', '.join(FORMATS)}")
    return format


def _epoch(state: dict[str, Any]) -> int | None:
    """Of the weights, from 0; last.pt holds the metrics of every epoch so far."""
    metrics = state.get("metrics")
    row = metrics[-1] if isinstance(metrics, list) and metrics else metrics
    return row.get("epoch") if isinstance(row, dict) else None


def _onnx(model: nn.Module, name: str, classes: Sequence[str], size: int) -> Made:
    missing = [package for package in ("onnx", "onnxscript") if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(f"ONNX needs {' and '.join(missing)}; pip install 'augment_gpu[export]'")
    import onnx

    try:
        program = torch.onnx.export(
            model,
            (torch.zeros(2, 3, size, size),),
            dynamo=True,
            verbose=False,
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        assert program is not None  # dynamo=True
        content = program.model_proto.SerializeToString()
        onnx.checker.check_model(content)
    except Exception as error:  # whatever the exporter raises of a model; of 2 GiB or more, protobuf
        reason = first_line(error.__cause__ or error)  # the exporter's own words are how to report it
        raise ValueError(f"{name} cannot be written as ONNX: {reason}") from error
    if importlib.util.find_spec("onnxruntime") is None:
        return content, {"by": f"onnx.checker {package_version('onnx')}"}
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run([_OUTPUT], {_INPUT: images.numpy()})[0])

    return content, _tried(f"onnxruntime {package_version('onnxruntime')}", run, model, name, size)


def _pt2(model: nn.Module, name: str, classes: Sequence[str], size: int) -> Made:
    file = io.BytesIO()
    try:
        program = torch.export.export(
            model, (torch.zeros(2, 3, size, size),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
        torch.export.save(program, file)
    except Exception as error:  # whatever the exporter raises of a model
        raise ValueError(f"{name} cannot be written as pt2: {first_line(error)}") from error
    content = file.getvalue()
    run = torch.export.load(io.BytesIO(content)).module()
    return content, _tried(f"torch.export {torch.__version__}", run, model, name, size)


def _safetensors(model: nn.Module, name: str, classes: Sequence[str], size: int) -> Made:
    from safetensors.torch import load, save

    # Copies, since it refuses tensors that share memory
    weights = {key: value.clone(memory_format=torch.contiguous_format) for key, value in model.state_dict().items()}
    content = save(weights, {"format": "pt", "model_name": name, "classes": json.dumps(list(classes))})
    stored = load(content)
    if set(stored) != set(weights) or not all(torch.equal(stored[key], weights[key]) for key in weights):
        raise ValueError(f"{name} does not survive as safetensors: its weights differ")
    return content, {"by": f"safetensors {package_version('safetensors')}", "largest_difference": 0.0}


def _tried(
    by: str, run: Callable[[torch.Tensor], torch.Tensor], model: nn.Module, name: str, size: int
) -> dict[str, Any]:
    """Raises ValueError unless `run` gives what the model gives."""
    random = torch.Generator().manual_seed(0)
    largest = 0.0
    for batch in _BATCHES:
        images = torch.randn(batch, 3, size, size, generator=random)
        with torch.inference_mode():
            wanted, got = model(images), run(images)
        # The least number, should all logits be 0
        least = torch.finfo(torch.float32).tiny
        difference = ((got - wanted).abs().max() / wanted.abs().max().clamp_min(least)).item()
        if not difference <= _TOLERANCE:  # nor NaN
            raise ValueError(
                f"{name} does not survive its export: by {by} its logits differ by {difference:.2g} of the largest; "
                f"at most {_TOLERANCE} is wanted"
            )
        largest = max(largest, difference)
    return {"by": by, "batches": list(_BATCHES), "largest_difference": largest, "tolerance": _TOLERANCE}
