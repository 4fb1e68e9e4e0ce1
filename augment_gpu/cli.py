"""The command line: parses arguments, calls one function for each command, turns errors into one line."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import torch

from augment_gpu.data.sample import sample_dataset
from augment_gpu.data.sources import Dataset, ImageFolder
from augment_gpu.ops.path import DeviceError
from augment_gpu.predict import BATCH_SIZE, MAX_VIEWS, MODES
from augment_gpu.results import printable
from augment_gpu.transfer.config import TrainConfig, forked_generators, usable_device
from augment_gpu.transfer.plan import AUGMENTATION, STRATEGIES
from augment_gpu.transfer.run import InterruptedRunError
from augment_gpu.transfer.setup import is_split
from augment_gpu.transfer.train import train

# Of `train`: fields of the plan, which the strategy sets otherwise.
_PLAN_OPTIONS = ("layers", "backbone_lr", "layer_decay", "batch_norm", "augmentation", "views")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for an error that it printed, 130 for a run that was stopped, 141
    where what it prints is no longer read."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    command = given.pop("run")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # its encoding may lack a character of a file's name
    try:
        command(given)
        print(end="", flush=True)
    except BrokenPipeError:
        # As a shell has it of a program that a closed pipe ended. What waits in the buffer would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except InterruptedRunError as stopped:
        return _failed(str(stopped), 130)
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    except (OSError, ValueError) as error:
        return _failed(f"error: {error}", 1)
    except (RuntimeError, MemoryError) as error:
        if not _is_of_the_machine(error):
            raise  # a mistake of this package, whose traceback says where
        # The first line says what happened, the others how to debug it.
        reason = (str(error).strip().splitlines() or ["no more is known"])[0]
        return _failed(f"error: {type(error).__name__}: {reason}", 1)
    return 0


def _is_of_the_machine(error: RuntimeError | MemoryError) -> bool:
    """Whether a device, its driver or the memory failed. torch has types for some of that, for the rest only words."""
    if isinstance(error, MemoryError | DeviceError | torch.OutOfMemoryError | torch.AcceleratorError):
        return True
    return any(words in str(error) for words in ("CUDA error", "cuDNN error", "DefaultCPUAllocator"))


def _failed(message: str, status: int) -> int:
    print(f"augment-gpu: {printable(message)}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="augment-gpu", description="Batched image augmentation, and training on it.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands.add_parser("train", help="train a timm model on a folder of images"))
    _add_evaluate(commands.add_parser("evaluate", help="measure a trained model on labelled images"))
    _add_predict(commands.add_parser("predict", help="print what a trained model sees in images"))
    _add_features(commands.add_parser("features", help="write what a network makes of images, for use elsewhere"))
    _add_export(commands.add_parser("export", help="write a trained model for other programs"))
    _add_preview(commands.add_parser("preview", help="write a picture of what a recipe does"))
    _add_compare(commands.add_parser("compare", help="train by every strategy, and show what each is worth"))
    information = commands.add_parser("info", help="print devices, versions, and which path each op takes")
    information.set_defaults(run=lambda given: _print_info())
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_train)
    # An option that is not given does not appear at all, so that --resume can tell it from one given at its default.
    parser.argument_default = argparse.SUPPRESS
    _add_data(parser)
    parser.add_argument("--output", type=Path, help="run folder, made by the run (runs/<model>-<time>)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    _add_settings(parser)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_compare)
    parser.argument_default = argparse.SUPPRESS
    _add_data(parser)
    parser.add_argument("--strategies", type=lambda text: text.split(","), default=list(STRATEGIES),
                        help=f"with commas ({','.join(STRATEGIES)})")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="runs of each strategy (3)")
    parser.add_argument("--scratch-epochs", type=int, default=None, help="of scratch (three times the others')")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of all the runs; goes on where it was stopped"
    )
    _add_settings(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        nargs="?",
        default=None,
        help="root/<class>/<image>, or root/train and root/val of that layout; none: the built-in sample",
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """The fields of TrainConfig."""
    default = TrainConfig()
    _add_network(parser)
    parser.add_argument("--strategy", choices=("auto", *STRATEGIES), help="what of the network trains: a linear or an "
                        "mlp head on frozen features, the top layers, all of them (full), all after a fitted head "
                        "(lp-ft), or random weights (scratch); auto measures the data and chooses "
                        f"({default.strategy})")  # fmt: skip
    parser.add_argument("--epochs", type=int, help="(the strategy's)")
    parser.add_argument("--batch-size", type=int, help=f"of a step, over all processes ({default.batch_size})")
    parser.add_argument("--accumulate", type=int, help=f"parts that a step is computed in ({default.accumulate})")
    parser.add_argument("--size", type=int, help=f"side of the network's input in pixels ({default.size})")
    parser.add_argument("--optimizer", choices=("adamw", "sgd"), help=f"({default.optimizer})")
    parser.add_argument("--lr", type=_lr, help="peak learning rate of the head, or find, which measures one (1e-3 "
                        "adamw, 0.1 · batch / 256 sgd; other pretrained layers half of it or less)")  # fmt: skip
    parser.add_argument("--weight-decay", type=float, help=f"({default.weight_decay})")
    parser.add_argument("--warmup-epochs", type=float, help=f"({default.warmup_epochs})")
    parser.add_argument("--clip", type=float, help="largest norm of a step's gradient, 0 for any (0)")
    parser.add_argument("--ema", type=float, help="decay of a moving average of the weights, 0 for none (0)")
    parser.add_argument("--class-weights", choices=("balanced",), help="weigh classes by their rarity")
    parser.add_argument("--patience", type=int, help="epochs without a better top-1 that end the run, 0 for none (0)")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), help="(bfloat16 on a GPU)")
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    parser.add_argument("--fsdp", action="store_true", help="share weights out to the processes of torchrun")
    parser.add_argument("--layers", type=int, help="layers below the head that train, 0 for none (the strategy's)")
    parser.add_argument("--backbone-lr", type=float, help="of the topmost pretrained layer (the strategy's)")
    parser.add_argument("--layer-decay", type=float, help="of the learning rate, layer by layer (the strategy's)")
    parser.add_argument(
        "--batch-norm", choices=("eval", "train"), help="running statistics are kept, or renewed (train)"
    )
    parser.add_argument("--augmentation", choices=tuple(AUGMENTATION), help="(the strategy's)")
    parser.add_argument("--views", type=int, help="of an image, whose features a head is fitted to (10)")
    parser.add_argument("--val-fraction", type=float, help=f"share kept for validation ({default.val_fraction})")
    parser.add_argument("--seed", type=int, help=f"({default.seed})")
    _add_reading(parser)
    parser.add_argument("--cache", type=float, metavar="GIB", help="of decoded images that each process keeps for the "
                        f"epochs to come ({default.cache:g})")  # fmt: skip
    parser.add_argument("--on-error", choices=("raise", "skip"), help=f"at an unreadable image ({default.on_error})")
    parser.add_argument("--recipe", metavar="FILE", help="JSON with fields of Recipe that the run is to use")
    parser.add_argument(
        "--save-minutes", type=float, help=f"between two states within an epoch ({default.save_minutes:g})"
    )
    parser.add_argument("--tensorboard", action="store_true", help="write the metrics for TensorBoard, too")


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help=f"a timm model ({TrainConfig.model})")
    parser.add_argument("--weights", metavar="FILE", help="local weights: .safetensors, or a torch checkpoint")
    parser.add_argument(
        "--scratch", action="store_true", help="random weights; else timm's pretrained ones are fetched"
    )


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cuda, cuda:1, cpu (a GPU where there is one)")
    parser.add_argument("--workers", type=int, help="reading threads (one a core, at most 16)")


def _training_images(data: str | None) -> ImageFolder:
    """Of a folder that may bring its own train and val, or of the built-in sample."""
    root = Path(data or sample_dataset())
    return ImageFolder(root / "train" if is_split(root) else root)


def _lr(text: str) -> float | str:
    return text if text == "find" else float(text)


def _train(given: dict[str, Any]) -> None:
    data, resume, output = given.pop("data"), given.pop("resume", False), given.pop("output", None)
    if output is None:
        if resume:
            raise ValueError("--resume needs --output, the folder of the run that is to go on")
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise ValueError("many processes need --output, the one folder that they share")
        output = Path("runs", f"{given.get('model', TrainConfig.model)}-{datetime.now():%Y%m%d-%H%M%S}")
    train(data, output, _settings(given), resume=resume)
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"run folder: {output}")


def _compare(given: dict[str, Any]) -> None:
    from augment_gpu.transfer.compare import compare, comparison_table, scratch_sentences

    data, output = given.pop("data"), given.pop("output")
    options = {name: given.pop(name) for name in ("strategies", "seeds", "scratch_epochs")}
    outcomes = compare(data, output, _settings(given), **options)
    print(comparison_table(outcomes), *scratch_sentences(outcomes), f"pictures and figures: {output}", sep="\n")


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """Fields of TrainConfig, as the options give them."""
    settings = {name: value for name, value in given.items() if name not in _PLAN_OPTIONS}
    if "recipe" in given:
        settings["recipe"] = _read_recipe(given["recipe"])
    if plan := {name: given[name] for name in _PLAN_OPTIONS if name in given}:
        settings["plan"] = plan
    return settings


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_evaluate)
    _add_run(parser)
    parser.add_argument("data", help="root/<class>/<image>, or a folder whose val/ is of that layout")
    _add_views(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, also by class and skipped files")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="write the confusion matrix as a picture")


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_predict)
    _add_run(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a file, a folder, or a pattern such as 'a/*.jpg'")
    parser.add_argument("--top", type=int, default=5, help="how many classes of each image (5)")
    _add_views(parser)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write path, rank, class, probability")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the same as a list")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="the folder of a training run")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="of the run (best)")


def _add_views(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tta", choices=MODES, default=MODES[0], help="views of an image whose predictions are "
                        "averaged: 1, 2, 10 or 50 (none, which is 1)")  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help=f"images read together ({BATCH_SIZE})")
    parser.add_argument("--max-views", type=int, default=MAX_VIEWS, help="views in the model at a time, which bounds "
                        f"the memory ({MAX_VIEWS})")  # fmt: skip
    _add_reading(parser)


def _evaluate(given: dict[str, Any]) -> None:
    from augment_gpu.evaluate import evaluate
    from augment_gpu.results import print_evaluation, save_confusion
    from augment_gpu.transfer.checkpoint import json_bytes
    from augment_gpu.transfer.run_folder import load_run, validation_split

    json_path, picture = given["json"], given["picture"]
    _check_outputs(given, "json", "picture")
    if picture is not None and picture.suffix.lower() != ".png":
        raise ValueError(f"--picture is {picture}; its name must end in .png")
    options = _view_options(given)
    run = load_run(given["folder"], given["checkpoint"])
    root = Path(given["data"])
    if "val" not in run.classes and (root / "val").is_dir():
        root = root / "val"
    kept = validation_split(given["folder"], root, run.classes)
    dataset: Dataset = ImageFolder(root, classes=run.classes) if kept is None else kept
    evaluation = evaluate(run.model, run.recipe, dataset, run.classes, **options)
    source = {
        "run": str(given["folder"]),
        "checkpoint": given["checkpoint"],
        "data": str(root),
        "split": "all" if kept is None else "validation",
        "device": str(options["device"]),
    }

    def show() -> None:
        if kept is not None:
            print(f"the run was trained on {printable(str(root))}; these are the {len(kept)} images that it kept back")
        print_evaluation(evaluation)

    writers = {
        json_path: lambda file: file.write(json_bytes({**source, **evaluation.to_dict()})),
        picture: lambda file: save_confusion(evaluation, file),
    }
    _deliver(writers, show, evaluation.skipped, len(dataset))


def _predict(given: dict[str, Any]) -> None:
    from augment_gpu.data.files import find_images
    from augment_gpu.predict import predict
    from augment_gpu.results import predictions_csv, print_predictions
    from augment_gpu.transfer.checkpoint import json_bytes
    from augment_gpu.transfer.run_folder import load_run

    _check_outputs(given, "csv", "json")
    options = _view_options(given)
    paths = find_images(given["images"])
    run = load_run(given["folder"], given["checkpoint"])
    predictions, unreadable = predict(run.model, run.recipe, run.classes, paths, top=given["top"], **options)
    writers = {
        given["csv"]: lambda file: file.write(predictions_csv(predictions)),
        given["json"]: lambda file: file.write(json_bytes([prediction.to_dict() for prediction in predictions])),
    }
    _deliver(writers if predictions else {}, lambda: print_predictions(predictions), unreadable, len(paths))


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_export)
    _add_run(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="its ending says what it "
                        "becomes: .onnx, .pt2 (a program for torch), .safetensors (weights); FILE.json, beside it, "
                        "says what images to feed it")  # fmt: skip


def _export(given: dict[str, Any]) -> None:
    from augment_gpu.transfer.export import export_model

    for path in export_model(given["folder"], given["output"], checkpoint=given["checkpoint"]):
        print(f"wrote {printable(str(path))}")


def _view_options(given: dict[str, Any]) -> dict[str, Any]:
    options = {name: given[name] for name in ("tta", "batch_size", "max_views", "workers")}
    return {**options, "device": usable_device(given["device"])}


def _check_outputs(given: Mapping[str, Any], *options: str) -> None:
    """Before the work that the files are to hold, which would be lost."""
    from augment_gpu.transfer.checkpoint import check_new

    chosen: dict[str, str] = {}
    for option in options:
        output: Path | None = given[option]
        if output is None:
            continue
        other = chosen.setdefault(os.path.realpath(output), option)
        if other != option:
            raise ValueError(f"--{other} and --{option} are both {output}; each needs a file of its own")
        check_new(output)


def _deliver(
    writers: Mapping[Path | None, Callable[[BinaryIO], object]],
    show: Callable[[], None],
    unreadable: Sequence[tuple[str, str]],
    total: int,
) -> None:
    """Writes the files that were asked for, which are the keys other than None; then prints; then reports on stderr
    what could not be written or read. One that fails takes none of the others with it, and a file does not depend on
    whether somebody reads what is printed."""
    from augment_gpu.transfer.checkpoint import write_atomically

    wanted = {path: write for path, write in writers.items() if path is not None}
    unwritten = []
    for path, write in wanted.items():
        try:
            write_atomically(path, write)
        except Exception as error:  # a full disk, or whatever matplotlib raises
            unwritten.append((str(path), f"cannot be written: {error or type(error).__name__}"))
    try:
        show()
        print(end="", flush=True)
    finally:
        for name, reason in [*unwritten, *unreadable]:
            print(printable(f"{name}: {reason.removeprefix(f'{name}: ')}"), file=sys.stderr)
    verdict = [f"{len(unwritten)} of {len(wanted)} files could not be written"] if unwritten else []
    if unreadable:
        verdict.append(f"{len(unreadable)} of {total} images could not be read")
    if verdict:
        raise ValueError("; ".join(verdict))


def _add_features(parser: argparse.ArgumentParser) -> None:
    default = TrainConfig()
    parser.set_defaults(run=_features)
    parser.add_argument(
        "data", nargs="?", help="root/<class>/<image>, or a folder whose train/ is of that layout; none: the sample"
    )
    parser.add_argument("--output", type=Path, required=True, help="new folder: features.npy, .csv and .json")
    _add_network(parser)
    parser.set_defaults(model=default.model)
    parser.add_argument("--views", type=int, default=0, help="augmented copies of an image (0, the evaluation view)")
    parser.add_argument("--size", type=int, default=default.size, help=f"side of the network's input ({default.size})")
    parser.add_argument("--seed", type=int, default=default.seed, help=f"({default.seed})")
    _add_reading(parser)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help=f"images read together ({BATCH_SIZE})")
    parser.add_argument("--on-error", choices=("raise", "skip"), default=default.on_error, help="at an unreadable "
                        f"image ({default.on_error})")  # fmt: skip
    parser.add_argument("--recipe", metavar="FILE", help="JSON with fields of Recipe that the views are to use")


def _features(given: dict[str, Any]) -> None:
    from augment_gpu.recipe import Recipe
    from augment_gpu.transfer.features import export_features
    from augment_gpu.transfer.model import create_model, normalization

    output, size = given["output"], given["size"]
    _check_outputs(given, "output")
    device = usable_device(given["device"])
    changed = _read_recipe(given["recipe"]) if given["recipe"] else {}
    dataset = _training_images(given["data"])
    with forked_generators():
        torch.manual_seed(given["seed"])
        model = create_model(given["model"], len(dataset.classes), weights=given["weights"], scratch=given["scratch"])
    recipe = Recipe.from_dict({"size": size, "num_classes": len(dataset.classes), **normalization(model), **changed})
    if recipe.size != size:
        raise ValueError(f"the recipe has size {recipe.size}, and --size is {size}")
    options = {name: given[name] for name in ("views", "seed", "batch_size", "workers", "on_error")}
    features = export_features(
        output, model, dataset, recipe, dataset.classes, model_name=given["model"], device=device, **options
    )
    for path, reason in features.skipped:
        print(f"skipped {printable(path)}: {printable(reason)}")
    images, views, width = features.values.shape
    print(f"wrote {output}: {images} images, {views} {'view' if views == 1 else 'views'} of each, {width} features")


def _add_preview(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_preview)
    parser.add_argument("data", nargs="?", help="root/<class>/<image>; none: the built-in sample")
    parser.add_argument("-o", "--output", type=Path, default=Path("preview.png"), help="(preview.png)")
    parser.add_argument("--recipe", metavar="FILE", help="JSON with fields of Recipe (none: the default recipe)")
    parser.add_argument("--rows", type=int, help="samples (6)")
    parser.add_argument("--columns", type=int, help="epochs (6)")
    parser.add_argument("--gallery", action="store_true", help="every op at five strengths, in place of a recipe")
    parser.add_argument("--seed", type=int, default=0, help="(0)")


def _preview(given: dict[str, Any]) -> None:
    from PIL import Image

    from augment_gpu.gallery import gallery
    from augment_gpu.preview import preview
    from augment_gpu.recipe import Recipe
    from augment_gpu.transfer.checkpoint import write_atomically

    grid = {name: given[name] for name in ("rows", "columns") if given[name] is not None}
    if given["gallery"] and (given["recipe"] or grid):
        raise ValueError("--gallery shows every op; it takes no --recipe, --rows or --columns")
    recipe = Recipe.from_dict(_read_recipe(given["recipe"]) if given["recipe"] else {})
    output: Path = given["output"]
    image_format = Image.registered_extensions().get(output.suffix.lower())
    if image_format is None:
        raise ValueError(f"{output} has no ending that names an image format, such as .png")
    _check_outputs(given, "output")
    if given["gallery"]:
        picture = gallery(_training_images(given["data"]) if given["data"] else None, seed=given["seed"])
    else:
        picture = preview(_training_images(given["data"]), recipe, seed=given["seed"], **grid)
    write_atomically(output, lambda file: picture.save(file, image_format))
    print(f"wrote {output}, {picture.width} x {picture.height}")


def _read_recipe(path: str) -> dict[str, Any]:
    from augment_gpu.transfer.checkpoint import load_json

    fields = load_json(Path(path))
    if not isinstance(fields, dict):
        raise ValueError(f"{path} holds a {type(fields).__name__}; an object with fields of Recipe is wanted")
    return fields


def _print_info() -> None:
    from augment_gpu.info import info

    print(info())
