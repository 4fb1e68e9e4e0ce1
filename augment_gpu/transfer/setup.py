"""What a run starts from: its data, its network, and the plan for them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from augment_gpu.data.in_memory import InMemory
from augment_gpu.data.loader import Loader
from augment_gpu.data.sample import sample_dataset
from augment_gpu.data.sources import Dataset, ImageFolder, stratified_split, subset
from augment_gpu.recipe import Recipe
from augment_gpu.stage import Stage
from augment_gpu.transfer.checkpoint import first_line
from augment_gpu.transfer.config import TrainConfig, usable_device
from augment_gpu.transfer.distributed import Ranks
from augment_gpu.transfer.model import classifier, create_model, normalization
from augment_gpu.transfer.plan import AUGMENTATION, Strategy, TransferPlan, plan_for, recommend


@dataclass(frozen=True, eq=False)
class Setup:
    """data: the folder, or None for the built-in sample. model: channels last; on the device, unless it is yet to be
    shared out to several. recipe: of the training images. output: the run folder."""

    data: str | None
    config: TrainConfig
    plan: TransferPlan
    recipe: Recipe
    classes: list[str]
    train_data: Dataset
    val_data: Dataset
    model: nn.Module
    device: torch.device
    output: Path
    ranks: Ranks

    @property
    def train_targets(self) -> list[int]:
        """The class of each training image."""
        targets: list[int] = self.train_data.targets  # type: ignore[attr-defined]  # a folder, or a subset of one
        return targets

    def say(self, text: str) -> None:
        """To the user, once for all ranks."""
        if self.ranks.leads:
            print(text, flush=True)

    def train_loader(self) -> Loader:
        """Of the parts of a step. It leaves an epoch's rest out, unless there is nothing else."""
        part = self.config.batch_size // self.config.accumulate
        rest = len(self.train_data) >= part
        return self._loader(self.train_data, stage=Stage(self.recipe, self.config.seed), drop_last=rest)

    def val_loader(self) -> Loader:
        return self._loader(self.val_data, stage=Stage(self.recipe, self.config.seed).eval(), shuffle=False)

    def _loader(self, dataset: Dataset, **options: Any) -> Loader:
        part = self.config.batch_size // self.config.accumulate
        if part % self.ranks.world_size:
            raise ValueError(
                f"batch_size is {self.config.batch_size} in {self.config.accumulate} parts, which "
                f"{self.ranks.world_size} processes cannot share evenly"
            )
        share = len(dataset) / (len(self.train_data) + len(self.val_data))
        return Loader(
            InMemory(dataset, int(min(self.config.cache * share * 2**30, 2**62))),
            part // self.ranks.world_size,
            device=self.device,
            seed=self.config.seed,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            on_error=self.config.on_error,
            workers=self.config.workers,
            **options,
        )

    def description(self) -> dict[str, Any]:
        """What config.json holds."""
        return {
            "data": self.data,
            "config": asdict(self.config),
            "plan": asdict(self.plan),
            "recipe": self.recipe.to_dict(),
            "classes": self.classes,
            "torch": torch.__version__,
        }

    def result(self, weights: Mapping[str, Any], row: dict[str, Any]) -> dict[str, Any]:
        """What best.pt holds: what evaluation needs, and nothing of the optimizer. weights: the model's state_dict."""
        return {
            "model_name": self.config.model,
            "head": self.plan.head,
            "model": weights,
            "classes": self.classes,
            "recipe": self.recipe.to_dict(),
            "metrics": row,
        }


def set_up(
    data: str | None,
    config: TrainConfig,
    output: Path,
    ranks: Ranks,
    *,
    device: str | None,
    stored: TransferPlan | None,
    initial: bool,
) -> Setup:
    """device: of this rank. stored: the plan of a run that goes on. initial: whether the weights to start from are
    wanted; a run that goes on has its own, and fetches nothing."""
    where = usable_device(device)
    train_data, val_data, classes = open_data(data, config.val_fraction, config.seed)
    weights, scratch = (config.weights, config.random_weights) if initial else (None, True)
    model = create_model(config.model, len(classes), weights=weights, scratch=scratch, classes=classes)
    if not config.fsdp:  # else no single device may have room for it
        model = model.to(where)
    model = model.to(memory_format=torch.channels_last)
    fields = {"size": config.size, "num_classes": len(classes), **normalization(model)}
    seen = Recipe.from_dict({**fields, **_evaluation_fields(config)})
    if initial and not config.fsdp:
        _try_size(model, config, where)
    plan = stored
    if plan is None:
        plan = ranks.from_first(_plan(config, model, train_data, len(classes), seen) if ranks.leads else None)
        plan = _adjusted(plan, config)
        if plan.frozen_features or plan.probe:
            classifier(model)  # raises where there is not one that a head could take the place of
    recipe = Recipe.from_dict({**seen.to_dict(), **AUGMENTATION[plan.augmentation], **(config.recipe or {})})
    for name in ("size", "num_classes"):
        if getattr(recipe, name) != fields[name]:
            raise ValueError(f"the recipe has {name} {getattr(recipe, name)}, and the run {fields[name]}")
    setup = Setup(data, config, plan, recipe, classes, train_data, val_data, model, where, output, ranks)
    if stored is None:
        setup.say(f"strategy {plan.strategy}: {plan.reason}")
        if unused := _unused(config, plan):
            setup.say(f"a head on frozen features makes no use of {', '.join(unused)}")
    for name in _unvalidated(setup):
        setup.say(f"class {name!r} has one image: it is trained on, and not validated")
    return setup


@torch.no_grad()
def _try_size(model: nn.Module, config: TrainConfig, device: torch.device) -> None:
    """Raises ValueError where the model does not take images of this size: before anything is computed with it."""
    try:
        model.eval()(torch.zeros((1, 3, config.size, config.size), device=device))
    except (RuntimeError, AssertionError, ValueError) as error:
        own = getattr(model, "default_cfg", {}).get("input_size")
        known = "" if own is None else f"; its own size is {own[-1]}"
        raise ValueError(
            f"{config.model} cannot take images of size {config.size}: {first_line(error)}{known}"
        ) from error


def _unused(config: TrainConfig, plan: TransferPlan) -> list[str]:
    """Settings that were changed, and that only a network in training has a use for."""
    if not plan.frozen_features:
        return []
    names = [
        "accumulate", "clip", "ema", "class_weights", "patience", "precision", "compile", "fsdp", "optimizer",
        "warmup_epochs", "tensorboard", "cache",
    ]  # fmt: skip
    # Logistic regression is solved, and not trained step by step.
    names += ["epochs", "lr", "weight_decay"] if plan.head == "linear" else []
    return [name for name in names if getattr(config, name) != getattr(TrainConfig, name)]


def _evaluation_fields(config: TrainConfig) -> dict[str, Any]:
    """What the run's recipe says of the evaluation view, by which similarity is measured."""
    recipe = config.recipe or {}
    return {name: recipe[name] for name in ("dtype", "interpolation", "resize", "mean", "std") if name in recipe}


def _plan(config: TrainConfig, model: nn.Module, train_data: Dataset, classes: int, recipe: Recipe) -> TransferPlan:
    if config.random_weights:
        return plan_for("scratch", len(train_data))
    if config.strategy != "auto":
        strategy: Strategy = config.strategy  # type: ignore[assignment]
        return plan_for(strategy, len(train_data))
    from augment_gpu.transfer.similarity import measure_similarity

    measured = measure_similarity(
        model,
        train_data,
        recipe=recipe,
        model_name=config.model,
        seed=config.seed,
        workers=config.workers,
        device=next(model.parameters()).device,
        on_error=config.on_error,
    )
    print(
        f"similarity {measured.score:.2f}: of {measured.images} images k-NN on frozen features recognises "
        f"{measured.knn:.1%} (chance {measured.chance:.1%}); LogME {measured.log_me:.3f}",
        flush=True,
    )
    plan = recommend(len(train_data), classes, measured.score)
    if plan.frozen_features:
        try:
            classifier(model)
        except ValueError as error:
            top = plan_for("top", len(train_data))
            return top.changed({"reason": f"{plan.reason}; but {error}: the last layers are fine-tuned"})
    return plan


def _adjusted(plan: TransferPlan, config: TrainConfig) -> TransferPlan:
    """The plan with what the configuration says of it. Other learning rates keep their proportion to the head's."""
    given = dict(config.plan or {})
    # SGD's learning rates are another scale: 0.1 for a batch of 256 is where AdamW has 0.001 (He et al. 2016).
    # Heads on frozen features are not its business.
    sgd = config.optimizer == "sgd" and not plan.frozen_features
    factor = 100 * config.batch_size / 256 if sgd else 1.0
    lr = config.lr if isinstance(config.lr, int | float) else plan.lr * factor
    plan = plan.with_lr(lr)
    if config.epochs is not None:
        given["epochs"] = config.epochs
    return plan.changed(given)


def given_lr(config: TrainConfig) -> dict[str, float]:
    """The learning rates that the configuration fixes, whatever the head's may be."""
    return {name: value for name, value in (config.plan or {}).items() if name == "backbone_lr"}


def is_split(root: Path) -> bool:
    """Whether a data folder brings its own train and val folders."""
    return (root / "train").is_dir() and (root / "val").is_dir()


def open_data(data: str | None, val_fraction: float, seed: int) -> tuple[Dataset, Dataset, list[str]]:
    """(train, val, classes) of a folder, which brings its own val folder or is split by class."""
    root = Path(sample_dataset() if data is None else data)
    if is_split(root):
        folder = ImageFolder(root / "train")
        train_data: Dataset = folder
        val_data: Dataset = ImageFolder(root / "val", classes=folder.classes)
    else:
        folder = ImageFolder(root)
        chosen, kept = stratified_split(folder.targets, val_fraction, seed=seed)
        train_data, val_data = subset(folder, chosen), subset(folder, kept)
    if len(folder.classes) < 2:
        raise ValueError(f"{folder.root} has one class only, {folder.classes[0]!r}; a classifier needs at least two")
    if len(val_data) == 0:
        raise ValueError(f"{root} has one image a class; none is left to validate on")
    return train_data, val_data, folder.classes


def _unvalidated(setup: Setup) -> list[str]:
    """Classes of which a split left the one image that there is to training."""
    seen: set[int] = set(setup.val_data.targets)  # type: ignore[attr-defined]
    targets = setup.train_targets
    return [name for label, name in enumerate(setup.classes) if label not in seen and targets.count(label) == 1]
