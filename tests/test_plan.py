"""The plan for the data at hand: the table of four, and what may be said against it."""

import pytest

from augment_gpu.transfer.config import TrainConfig
from augment_gpu.transfer.plan import FEW_PER_CLASS, SIMILAR, STRATEGIES, TransferPlan, plan_for, recommend


@pytest.mark.parametrize(
    ("images", "similarity", "strategy"),
    [
        (200, 0.9, "linear"),
        (200, 0.1, "mlp"),
        (50_000, 0.9, "top"),
        (50_000, 0.1, "full"),
        # on the lines themselves: few is below, similar is at least
        (12 * FEW_PER_CLASS - 1, SIMILAR, "linear"),
        (12 * FEW_PER_CLASS, SIMILAR, "top"),
        (12 * FEW_PER_CLASS, SIMILAR - 1e-9, "full"),
    ],
)
def test_the_table(images: int, similarity: float, strategy: str) -> None:
    plan = recommend(images, 12, similarity)
    assert plan.strategy == strategy
    assert ("few" in plan.reason.split(" images")[0]) == (strategy in ("linear", "mlp"))


def test_what_each_strategy_trains() -> None:
    plans = {strategy: plan_for(strategy, 1000) for strategy in STRATEGIES}
    assert {name for name, plan in plans.items() if plan.frozen_features} == {"linear", "mlp"}
    assert {name for name, plan in plans.items() if plan.layers is None} == {"full", "lp-ft", "scratch"}
    assert [name for name, plan in plans.items() if plan.head == "mlp"] == ["mlp"]
    assert [name for name, plan in plans.items() if plan.probe] == ["lp-ft"]
    for name in ("top", "full"):  # a new head beside pretrained layers
        assert plans[name].backbone_lr < plans[name].lr
    assert plans["scratch"].backbone_lr == plans["scratch"].lr  # all layers are new
    assert plans["scratch"].epochs == 3 * plans["full"].epochs


def test_few_images_keep_the_statistics_of_the_pretraining() -> None:
    assert [plan_for("full", images).batch_norm for images in (999, 1000)] == ["eval", "train"]
    assert plan_for("scratch", 10).batch_norm == "train"  # there are none to keep


@pytest.mark.parametrize(
    ("images", "epochs"),
    [
        (100, 320),  # 500 steps of 64 images
        (800, 40),
        (1_100, 30),  # 233 by the rule, which nobody waits for
        (12_800, 20),  # 256,000 images seen
        (19_999, 13),
        (20_000, 30),  # the next size: 10,000 steps of 512
        (400_000, 13),
        (1_281_167, 8),  # 20,000 steps of 512: ImageNet
    ],
)
def test_epochs_are_those_of_bits_hyper_rule(images: int, epochs: int) -> None:
    assert plan_for("full", images).epochs == epochs


def test_mixup_begins_where_bits_hyper_rule_has_it() -> None:
    assert plan_for("full", 19_999).augmentation == "medium"
    assert plan_for("full", 20_000).augmentation == "strong"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: recommend(100, 12, 1.1), "similarity is 1.1"),
        (lambda: recommend(100, 12, float("nan")), "similarity is nan"),
        (lambda: recommend(100, 1, 0.5), "classes 1"),
        (lambda: plan_for("best", 100), "auto or one of linear, mlp"),
        (lambda: TransferPlan(strategy="full", epochs=0), "epochs is 0"),
        (lambda: TransferPlan(strategy="full", layers=-1), "layers is -1"),
        (lambda: TransferPlan(strategy="full", layers=True), "layers is True"),
        (lambda: TransferPlan(strategy="full", lr=0.0), "lr is 0.0"),
        (lambda: TransferPlan(strategy="full", layer_decay=1.5), "layer_decay is 1.5"),
        (lambda: TransferPlan(strategy="full", batch_norm="off"), "batch_norm is 'off'"),
        (lambda: TransferPlan(strategy="full", head="mlp"), "layers 0"),
        (lambda: plan_for("full", 100).changed({"learning_rate": 1}), "a plan has no 'learning_rate'; known are"),
        (lambda: TrainConfig(strategy="best"), "strategy is 'best'; it must be one of auto, linear"),
        (lambda: TrainConfig(strategy="full", scratch=True), "strategy is full and scratch is set"),
        (lambda: TrainConfig(strategy="scratch", weights="a.pt"), "weights is a.pt and scratch is set"),
        (lambda: TrainConfig(batch_size=10, accumulate=3), "accumulate, 3, does not divide"),
        (lambda: TrainConfig(lr="best"), "lr is best"),
        (lambda: TrainConfig(ema=1.0), "ema is 1.0"),
        (lambda: TrainConfig(patience=-1), "patience is -1"),
        (lambda: TrainConfig(precision="int8"), "precision is 'int8'"),
        (lambda: TrainConfig(class_weights="some"), "class_weights is 'some'; it must be one of balanced"),
    ],
)
def test_what_is_out_of_range_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        call()
