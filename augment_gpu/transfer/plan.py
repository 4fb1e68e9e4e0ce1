"""Which part of a pretrained network to train, and how, for the data at hand.

The table that this is:

|                 | similar to what the network knows          | very different                                   |
|-----------------|--------------------------------------------|--------------------------------------------------|
| **few images**  | a linear classifier on frozen features     | a non-linear classifier on frozen features       |
| **many images** | fine-tune the last layers                  | fine-tune all layers                             |

with smaller learning rates for pretrained layers than for new ones (Yosinski et al. 2014; Girshick et al. 2014).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

Strategy = Literal["linear", "mlp", "top", "full", "lp-ft", "scratch"]
Augmentation = Literal["none", "light", "medium", "strong"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

# Lines of our own, on both sides of which benchmarks/transfer_study.py measures every strategy: below the first the
# weights of a whole network are more than the images can tell, or gain little for a hundred times the work; the second
# is where nearest neighbours on frozen features are right half as often as they could be beyond chance.
FEW_PER_CLASS = 25
SIMILAR = 0.5
# BiT's hyper-rule (Kolesnikov et al. 2020): below 20,000 images 500 steps, below 500,000 images 10,000 steps, else
# 20,000, of 512 images each, and MixUp from 20,000 images on. With few images it would be hundreds of epochs, of which
# the last hardly change a network any more: 30 are the most here, or what makes 500 steps of 64 images, if those are
# more.
_BIT_SMALL, _BIT_MEDIUM = 20_000, 500_000
_BIT_SEEN = {"small": 500 * 512, "medium": 10_000 * 512, "large": 20_000 * 512}
_MOST_EPOCHS, _LEAST_SEEN, _MOST_OF_FEW = 30, 500 * 64, 320
# Of so few images batch normalisation does better by the statistics of the pretraining than by its own: fine-tuning all
# of tf_efficientnet_lite0 on 71 photographs of five classes, 67 % of 73 others against 45 %, at a backbone_lr of 1e-4.
_OWN_STATISTICS = 1_000
# He et al. 2019, "Rethinking ImageNet pre-training": random weights reach what pretrained ones do, given some three
# times as long.
_SCRATCH_FACTOR = 3

# Fields of Recipe. Weights of many layers need stronger augmentation than the few of a head.
AUGMENTATION: dict[Augmentation, dict[str, Any]] = {
    "none": {"crop": "center", "flip": 0.0},
    "light": {"scale": (0.5, 1.0)},
    "medium": {"scale": (0.25, 1.0)},
    "strong": {"mixup_alpha": 0.1, "label_smoothing": 0.1},
}


@dataclass(frozen=True, kw_only=True)
class TransferPlan:
    """How a network is trained on new classes.

    strategy: the name of the whole. head: the new classifier, "linear", or "mlp" with one hidden layer. layers: how
    many of the network's layers, counted down from the head, train with it: 0 for frozen features, None for all (a
    layer is what augment_gpu.transfer.freeze.layers lists). probe: the head is first fitted to frozen features, and
    then trains with the rest (Kumar et al. 2022, "Fine-tuning can distort pretrained features").

    lr: peak learning rate of the head; backbone_lr: of the topmost other layer; layer_decay: the factor from each layer
    to the one below. epochs: passes over the images; of an mlp over their features. augmentation: "none", "light",
    "medium" or "strong" (AUGMENTATION); what a recipe says comes before it. batch_norm: "eval" keeps the running
    statistics of the pretraining in the layers that train, "train" renews them; frozen layers always keep them. views:
    of each image, whose features a head is fitted to. reason: why, in a sentence.

    Raises ValueError at construction, naming the field.
    """

    strategy: Strategy
    head: Literal["linear", "mlp"] = "linear"
    layers: int | None = None
    probe: bool = False
    lr: float = 1e-3
    backbone_lr: float = 1e-3
    layer_decay: float = 1.0
    epochs: int = 10
    augmentation: Augmentation = "medium"
    batch_norm: Literal["eval", "train"] = "train"
    views: int = 10
    reason: str = ""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("strategy", STRATEGIES),
            ("head", ("linear", "mlp")),
            ("augmentation", tuple(AUGMENTATION)),
            ("batch_norm", ("eval", "train")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        for name, least in (("epochs", 1), ("views", 1), ("layers", 0)):
            value = getattr(self, name)
            if name == "layers" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}; wanted a whole number of at least {least}")
        for name in ("lr", "backbone_lr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}; it must lie in (0, 1]")
        if self.strategy in ("linear", "mlp") and self.layers != 0:
            raise ValueError(f"strategy is {self.strategy} and layers is {self.layers}; a head alone trains, layers 0")
        if self.head == "mlp" and self.layers != 0:
            raise ValueError(
                f"head is 'mlp' and layers is {self.layers}; an mlp is fitted to frozen features, layers 0"
            )

    @property
    def frozen_features(self) -> bool:
        """Whether the head alone trains, on features that are computed once."""
        return self.layers == 0

    def changed(self, values: Mapping[str, Any]) -> "TransferPlan":
        """This plan with other values of some fields. Raises ValueError for a field that a plan does not have."""
        known = [field.name for field in fields(self)]
        for name in values:
            if name not in known:
                raise ValueError(f"a plan has no {name!r}; known are {', '.join(known)}")
        return replace(self, **values)

    def with_lr(self, lr: float) -> "TransferPlan":
        """This plan with another learning rate of the head, and the others in proportion."""
        return replace(self, lr=lr, backbone_lr=self.backbone_lr * lr / self.lr)


def recommend(images: int, classes: int, similarity: float) -> TransferPlan:
    """The plan for so many training images of so many classes.

    similarity: in [0, 1], to what the network was pretrained on: Similarity.score of measure_similarity. Few are fewer
    than FEW_PER_CLASS images a class, similar is a score of at least SIMILAR. Raises ValueError for numbers of no data.
    """
    if not 0 <= similarity <= 1:
        raise ValueError(f"similarity is {similarity}; it must lie in [0, 1]")
    if images < 1 or classes < 2:
        raise ValueError(f"images is {images} and classes {classes}; wanted at least 1 and 2")
    few, similar = images < FEW_PER_CLASS * classes, similarity >= SIMILAR
    strategy: Strategy = ("linear" if similar else "mlp") if few else ("top" if similar else "full")
    how = {
        "linear": "a linear classifier on frozen features",
        "mlp": "a non-linear classifier on frozen features",
        "top": "the last layers are fine-tuned",
        "full": "all layers are fine-tuned",
    }[strategy]
    reason = (
        f"{'few' if few else 'many'} images ({images / classes:.0f} a class; few are fewer than {FEW_PER_CLASS}), "
        f"{'similar to' if similar else 'different from'} those of the pretraining (similarity {similarity:.2f}; "
        f"similar is at least {SIMILAR}): {how}"
    )
    return plan_for(strategy, images).changed({"reason": reason})


def plan_for(strategy: Strategy, images: int) -> TransferPlan:
    """The plan of one strategy for so many training images. Raises ValueError for a strategy that there is not."""
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}; it must be auto or one of {', '.join(STRATEGIES)}")
    size: Literal["small", "medium", "large"]
    size = "small" if images < _BIT_SMALL else "medium" if images < _BIT_MEDIUM else "large"
    epochs = max(min(_MOST_EPOCHS, -(-_BIT_SEEN[size] // images)), min(-(-_LEAST_SEEN // images), _MOST_OF_FEW))
    strength: Augmentation = "medium" if size == "small" else "strong"
    statistics: Literal["eval", "train"] = "eval" if images < _OWN_STATISTICS and strategy != "scratch" else "train"
    # In the steps that few images make, AdamW at a tenth of the head's rate leaves pretrained layers where they were.
    plan = TransferPlan(
        strategy="full",
        epochs=epochs,
        augmentation=strength,
        batch_norm=statistics,
        reason=f"{strategy} was asked for",
    )
    differences: dict[Strategy, dict[str, Any]] = {
        "linear": {"layers": 0, "augmentation": "light"},
        "mlp": {"layers": 0, "head": "mlp", "augmentation": "light"},
        "top": {"layers": 3, "backbone_lr": plan.lr / 2},
        "full": {"backbone_lr": plan.lr / 2, "layer_decay": 0.75},
        # The fitted head is no new layer any more.
        "lp-ft": {"probe": True, "lr": plan.lr / 2, "backbone_lr": plan.lr / 2, "layer_decay": 0.75},
        "scratch": {"epochs": epochs * _SCRATCH_FACTOR},
    }
    return plan.changed({"strategy": strategy, **differences[strategy]})
