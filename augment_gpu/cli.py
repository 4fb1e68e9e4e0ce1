"""The command line: parses arguments, calls one function for each command, turns errors into one line."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from augment_gpu.predict import BATCH_SIZE, MAX_VIEWS, MODES
from augment_gpu.results import printable
from augment_gpu.transfer.config import TrainConfig, usable_device
from augment_gpu.transfer.train import InterruptedRunError, is_split, train


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
        # torch's, of a device, its memory, or a kernel: its first line says what happened, the others how to debug it.
        reason = (str(error).strip().splitlines() or ["no more is known"])[0]
        return _failed(f"error: {type(error).__name__}: {reason}", 1)
    return 0


def _failed(message: str, status: int) -> int:
    print(f"augment-gpu: {printable(message)}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="augment-gpu", description="Batched image augmentation, and training on it.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands.add_parser("train", help="train a timm model on a folder of images"))
    _add_evaluate(commands.add_parser("evaluate", help="measure a trained model on labelled images"))
    _add_predict(commands.add_parser("predict", help="print what a trained model sees in images"))
    _add_export(commands.add_parser("export", help="write a trained model for other programs"))
    _add_preview(commands.add_parser("preview", help="write a picture of what a recipe does"))
    information = commands.add_parser("info", help="print devices, versions, and which path each op takes")
    information.set_defaults(run=lambda given: _print_info())
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    default = TrainConfig()
    parser.set_defaults(run=_train)
    # An option that is not given does not appear at all, so that --resume can tell it from one given at its default.
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument(
        "data",
        nargs="?",
        default=None,
        help="root/<class>/<image>, or root/train and root/val of that layout; none: the built-in sample",
    )
    parser.add_argument("--output", type=Path, help="run folder, made by the run (runs/<model>-<time>)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    parser.add_argument("--model", help=f"a timm model ({default.model})")
    parser.add_argument("--weights", metavar="FILE", help="local weights: .safetensors, or a torch checkpoint")
    parser.add_argument(
        "--scratch", action="store_true", help="random weights; else timm's pretrained ones are fetched"
    )
    parser.add_argument("--epochs", type=int, help=f"({default.epochs})")
    parser.add_argument("--batch-size", type=int, help=f"({default.batch_size})")
    parser.add_argument("--size", type=int, help=f"side of the network's input in pixels ({default.size})")
    parser.add_argument("--optimizer", choices=("adamw", "sgd"), help=f"({default.optimizer})")
    parser.add_argument("--lr", type=float, help="peak learning rate (1e-3 adamw, 0.1 · batch / 256 sgd; a fifth of it "
                        "from pretrained weights)")  # fmt: skip
    parser.add_argument("--weight-decay", type=float, help=f"({default.weight_decay})")
    parser.add_argument("--warmup-epochs", type=float, help=f"({default.warmup_epochs})")
    parser.add_argument("--val-fraction", type=float, help=f"share kept for validation ({default.val_fraction})")
    parser.add_argument("--seed", type=int, help=f"({default.seed})")
    parser.add_argument("--device", help="cuda, cuda:1, cpu (a GPU where there is one)")
    parser.add_argument("--workers", type=int, help="reading threads (one a core, at most 16)")
    parser.add_argument("--on-error", choices=("raise", "skip"), help=f"at an unreadable image ({default.on_error})")
    parser.add_argument("--recipe", metavar="FILE", help="JSON with fields of Recipe that the run is to use")


def _train(given: dict[str, Any]) -> None:
    data, resume, output = given.pop("data"), given.pop("resume", False), given.pop("output", None)
    if output is None:
        if resume:
            raise ValueError("--resume needs --output, the folder of the run that is to go on")
        output = Path("runs", f"{given.get('model', TrainConfig.model)}-{datetime.now():%Y%m%d-%H%M%S}")
    if "recipe" in given:
        given["recipe"] = _read_recipe(given["recipe"])
    train(data, output, given, resume=resume)
    print(f"run folder: {output}")


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
    parser.add_argument("--device", help="cuda, cuda:1, cpu (a GPU where there is one)")
    parser.add_argument("--workers", type=int, help="reading threads (one a core, at most 16)")


def _evaluate(given: dict[str, Any]) -> None:
    from augment_gpu.data.sources import Dataset, ImageFolder
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


def _add_preview(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_preview)
    parser.add_argument("data", nargs="?", help="root/<class>/<image>; none: the built-in sample")
    parser.add_argument("-o", "--output", type=Path, default=Path("preview.png"), help="(preview.png)")
    parser.add_argument("--recipe", metavar="FILE", help="JSON with fields of Recipe (none: the default recipe)")
    parser.add_argument("--rows", type=int, default=6, help="samples (6)")
    parser.add_argument("--columns", type=int, default=6, help="epochs (6)")
    parser.add_argument("--seed", type=int, default=0, help="(0)")


def _preview(given: dict[str, Any]) -> None:
    from PIL import Image

    from augment_gpu.data.sample import sample_dataset
    from augment_gpu.data.sources import ImageFolder
    from augment_gpu.preview import preview
    from augment_gpu.recipe import Recipe
    from augment_gpu.transfer.checkpoint import write_atomically

    recipe = Recipe.from_dict(_read_recipe(given["recipe"]) if given["recipe"] else {})
    output: Path = given["output"]
    image_format = Image.registered_extensions().get(output.suffix.lower())
    if image_format is None:
        raise ValueError(f"{output} has no ending that names an image format, such as .png")
    _check_outputs(given, "output")
    root = Path(given["data"] or sample_dataset())
    dataset = ImageFolder(root / "train" if is_split(root) else root)
    picture = preview(dataset, recipe, rows=given["rows"], columns=given["columns"], seed=given["seed"])
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
