"""The command line: parses arguments, calls one function for each command, turns errors into one line."""

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from augment_gpu.transfer.config import TrainConfig
from augment_gpu.transfer.train import InterruptedRunError, is_split, train


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for an error that it printed, 130 for a run that was stopped."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    command = given.pop("run")
    try:
        command(given)
    except InterruptedRunError as stopped:
        print(f"augment-gpu: {stopped}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("augment-gpu: interrupted", file=sys.stderr)
        return 130
    except (OSError, ValueError) as error:
        print(f"augment-gpu: error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="augment-gpu", description="Batched image augmentation, and training on it.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands.add_parser("train", help="train a timm model on a folder of images"))
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
    if output.exists():
        raise FileExistsError(f"{output} exists; give another --output")
    root = Path(given["data"] or sample_dataset())
    dataset = ImageFolder(root / "train" if is_split(root) else root)
    picture = preview(dataset, recipe, rows=given["rows"], columns=given["columns"], seed=given["seed"])
    image_format = Image.registered_extensions().get(output.suffix.lower())
    if image_format is None:
        raise ValueError(f"{output} has no ending that names an image format, such as .png")
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
