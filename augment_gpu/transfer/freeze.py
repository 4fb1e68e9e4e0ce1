"""Which layers of a network train, and at which learning rate."""

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from augment_gpu.transfer.plan import TransferPlan


def head_names(model: nn.Module) -> tuple[str, ...]:
    """The modules that make logits of features, as timm names them; most models have one, distilled ones two."""
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    return (classifier,) if isinstance(classifier, str) else tuple(classifier)


def layers(model: nn.Module) -> list[list[str]]:
    """The names of the parameters of each layer of a timm model, from the input to the head, which is the last.

    Layers are timm's (`group_matcher`): the blocks of a residual network, of a transformer, of an EfficientNet, the
    convolutions of VGG. The head is the classifier, with the normalisation right before it; what else timm counts to
    it, such as VGG's two hidden layers, is a layer of its own, below.

    Raises ValueError for a model without timm's description of its layers.
    """
    from timm.models import group_parameters

    matcher: Any = getattr(model, "group_matcher", None)
    if matcher is None or not head_names(model):
        raise ValueError(f"{type(model).__name__} does not say what its layers are; a timm model is wanted")
    grouped: dict[int, list[str]] = {}
    for name, number in group_parameters(model, matcher(coarse=False), reverse=True).items():
        grouped.setdefault(number, []).append(name)
    parameters = dict(model.named_parameters())
    heads = tuple(f"{head}." for head in head_names(model))
    found: list[list[str]] = []
    classifier: list[str] = []
    for _, names in sorted(grouped.items()):
        below = [name for name in names if not name.startswith(heads)]
        own = [name for name in names if name.startswith(heads)]
        if own and all(parameters[name].ndim <= 1 for name in below):
            below, own = [], names
        classifier += own
        if below:
            found.append(below)
    return [*found, classifier]


def freeze(model: nn.Module, count: int | None) -> None:
    """Leaves gradients to the head and the `count` layers below it, or to all layers where it is None; a frozen
    parameter has no gradient and, in parameter_groups, no state of an optimizer."""
    parameters = dict(model.named_parameters())
    order = layers(model)
    frozen = 0 if count is None else max(0, len(order) - 1 - count)
    for number, names in enumerate(order):
        for name in names:
            parameters[name].requires_grad_(number >= frozen)


def train_mode(model: nn.Module, batch_norm: str) -> None:
    """`model.train()`, but frozen batch normalisation, or with batch_norm="eval" all of it, keeps the running
    statistics that it has and normalises by them."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and (batch_norm == "eval" or _is_frozen(module)):
            module.eval()


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def parameter_groups(model: nn.Module, plan: TransferPlan, weight_decay: float) -> list[dict[str, Any]]:
    """Of the parameters that train: each group has its learning rate, and no decay of biases and normalisation, nor of
    what the model asks to spare. From the head's lr the groups go down: backbone_lr for the layer below it, and a
    layer_decay for each layer further from it (Howard & Ruder 2018; Clark et al. 2020)."""
    spared: set[str] = getattr(model, "no_weight_decay", set)()
    parameters = dict(model.named_parameters())
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for lr, names in _rates(model, plan):
        for name in names:
            parameter = parameters[name]
            if parameter.requires_grad:
                decays = parameter.ndim > 1 and not name.endswith(".bias") and name not in spared
                groups.setdefault((lr, weight_decay if decays else 0.0), []).append(parameter)
    return [{"params": members, "lr": lr, "weight_decay": decay} for (lr, decay), members in groups.items()]


def _rates(model: nn.Module, plan: TransferPlan) -> Iterator[tuple[float, list[str]]]:
    *backbone, head = layers(model)
    yield plan.lr, head
    for depth, names in enumerate(reversed(backbone)):
        yield plan.backbone_lr * plan.layer_decay**depth, names
