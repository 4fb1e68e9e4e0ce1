"""Which layers train: timm's models taken apart, frozen, and given their learning rates."""

import pytest
import timm
import torch

from augment_gpu.transfer.config import TrainConfig
from augment_gpu.transfer.distributed import Ranks
from augment_gpu.transfer.freeze import freeze, head_names, layers, parameter_groups, train_mode
from augment_gpu.transfer.plan import TransferPlan
from augment_gpu.transfer.updates import Updates


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 10),  # stem, eight blocks, head
        ("test_vit", 8),  # embedding, six blocks, head with the norm before it
        ("test_convnext", 11),
        ("test_efficientnet", None),
        ("vgg11", 10),  # eight convolutions, the two hidden layers together, head
        ("deit_tiny_distilled_patch16_224", 14),  # two heads, which are one layer
    ],
)
def test_every_parameter_is_in_one_layer_and_the_head_in_the_last(name: str, count: int | None) -> None:
    model = timm.create_model(name, num_classes=7)
    found = layers(model)
    assert sorted(parameter for names in found for parameter in names) == sorted(dict(model.named_parameters()))
    heads = tuple(f"{head}." for head in head_names(model))
    assert [any(parameter.startswith(heads) for parameter in names) for names in found] == [False] * (
        len(found) - 1
    ) + [True]
    assert count is None or len(found) == count


def test_what_a_reader_expects_of_vgg() -> None:
    """The lecture's network: its last layer, its last three, and the convolutions below one by one."""
    model = timm.create_model("vgg11", num_classes=7)
    trained = []
    for count in (0, 1, 2):
        freeze(model, count)
        trained.append({name.rpartition(".")[0] for name, value in model.named_parameters() if value.requires_grad})
    assert trained[0] == {"head.fc"}
    assert trained[1] == {"head.fc", "pre_logits.fc1", "pre_logits.fc2"}
    assert trained[2] - trained[1] == {"features.18"}


def test_freezing_is_undone_by_freezing_less() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    freeze(model, 0)
    assert {name for name, value in model.named_parameters() if value.requires_grad} == {"fc.weight", "fc.bias"}
    freeze(model, 99)  # more layers than there are
    assert all(value.requires_grad for value in model.parameters())
    freeze(model, 0)
    freeze(model, None)
    assert all(value.requires_grad for value in model.parameters())


def test_frozen_parameters_take_no_gradient_and_no_memory_of_the_optimizer() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan = TransferPlan(strategy="top", layers=1, lr=0.1, backbone_lr=0.01)
    updates = Updates(model, plan, TrainConfig(), lambda step: 1.0, device=torch.device("cpu"), ranks=Ranks())
    updates.step([(torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))])
    trained = {name for names in layers(model)[-2:] for name in names}
    for name, parameter in model.named_parameters():
        assert (parameter in updates.optimizer.state) == (name in trained)
        assert name in trained or torch.equal(parameter, before[name])
    assert not torch.equal(model.fc.weight, before["fc.weight"])
    assert not torch.equal(model.layer4[0].bn2.weight, before["layer4.0.bn2.weight"])
    # Batch normalisation of frozen layers goes on by the statistics that it had; that of the others renews them.
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):
            assert torch.equal(value, before[name]) == (not name.startswith("layer4"))


def test_batch_normalisation_of_trained_layers_can_keep_its_statistics_too() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    train_mode(model, "eval")
    assert model.training
    assert not any(m.training for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    train_mode(model, "train")
    assert all(m.training for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_learning_rates_go_down_from_layer_to_layer() -> None:
    model = timm.create_model("test_vit", num_classes=3)
    plan = TransferPlan(strategy="full", lr=1.0, backbone_lr=0.1, layer_decay=0.5)
    rates = {}
    decays = {}
    for group in parameter_groups(model, plan, weight_decay=0.3):
        for parameter in group["params"]:
            rates[parameter], decays[parameter] = group["lr"], group["weight_decay"]
    named = dict(model.named_parameters())
    assert len(rates) == len(named)
    assert rates[named["head.weight"]] == 1.0
    assert [rates[named[f"blocks.{block}.mlp.fc1.weight"]] for block in (5, 4, 0)] == [0.1, 0.05, 0.1 * 0.5**5]
    assert rates[named["cls_token"]] == 0.1 * 0.5**6
    assert decays[named["blocks.0.mlp.fc1.weight"]] == 0.3
    # biases, normalisation, and what a transformer asks to spare: its tokens and places
    assert [decays[named[name]] for name in ("head.bias", "blocks.0.norm1.weight", "cls_token", "pos_embed")] == [0] * 4


def test_a_model_that_names_no_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear does not say what its layers are; a timm model is wanted"):
        layers(torch.nn.Linear(2, 2))
