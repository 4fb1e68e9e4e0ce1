"""mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019) on images and on targets.

Both take the images and the targets through the same parameter object, so labels cannot disagree with pixels.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from augment_gpu.ops.boxes import within
from augment_gpu.ops.mix_draws import CutmixParams, MixedParams, MixParams, MixupParams
from augment_gpu.ops.operator import device_op, wants_gradient
from augment_gpu.ops.path import runs_triton
from augment_gpu.ops.upload import upload


def mixup(values: torch.Tensor, params: MixupParams) -> torch.Tensor:
    """Images (B, C, H, W) or targets (B, classes), floating point, mixed into a new tensor of the same dtype."""
    _check_values(values, "mixup")
    tables = plan_mix(params, len(values))
    return blended(values, *upload(values.device, *tables))


def mixup_reference(values: torch.Tensor, params: MixupParams) -> torch.Tensor:
    """The definition of mixup, in float64."""
    rows = []
    for i, (partner, lam) in enumerate(zip(params.partner.tolist(), params.lam.tolist(), strict=True)):
        rows.append(lam * values[i].double() + (1 - lam) * values[partner].double())
    return torch.stack(rows).to(values.dtype) if rows else values[:0]


def cutmix(values: torch.Tensor, params: CutmixParams) -> torch.Tensor:
    """Images (B, C, H, W): each row with its partner's box, in a new tensor. Targets (B, classes): mixed by λ."""
    _check_values(values, "cutmix")
    size = values.shape[2:] if values.ndim == 4 else None
    partner, lam, *box = upload(values.device, *plan_mix(params, len(values), size))
    return _pasted(values, partner, *box) if values.ndim == 4 else blended(values, partner, lam)


def cutmix_reference(values: torch.Tensor, params: CutmixParams | MixedParams) -> torch.Tensor:
    """The definition of cutmix, and of apply_mix where only some rows are cut."""
    if values.ndim == 2:
        return mixup_reference(values, MixupParams(params.partner, params.lam))
    mixed = values[: len(params)].clone()
    if isinstance(params, MixedParams):
        mixed = mixup_reference(values, MixupParams(params.partner, params.stay))
    for i, (partner, (x0, y0, x1, y1)) in enumerate(zip(params.partner.tolist(), params.box.tolist(), strict=True)):
        mixed[i, :, y0:y1, x0:x1] = values[partner, :, y0:y1, x0:x1]
    return mixed


def apply_mix(values: torch.Tensor, params: MixParams) -> torch.Tensor:
    """Images (B, C, H, W) or targets (B, classes), floating point, mixed as the parameters say, which sample_mix drew:
    mixup, cutmix, or each row its own."""
    if isinstance(params, MixupParams):
        return mixup(values, params)
    if isinstance(params, CutmixParams):
        return cutmix(values, params)
    _check_values(values, "apply_mix")
    if values.ndim == 2:
        return mixup(values, MixupParams(params.partner, params.lam))
    return run_mix(values, upload(values.device, *plan_mix(params, len(values), values.shape[2:])))


def mix_targets(labels: torch.Tensor, params: MixParams, num_classes: int, *, smoothing: float = 0.0) -> torch.Tensor:
    """The targets of mixed images, straight from class numbers: one_hot(labels, num_classes, smoothing=smoothing),
    mixed by λ. labels: (B,) integers. Returns (B, num_classes) float32."""
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(f"labels are {labels.dtype} {tuple(labels.shape)}; wanted class numbers (B,)")
    partner, lam, *_ = upload(labels.device, *plan_mix(params, len(labels)))
    return run_mix_targets(labels, partner, lam, num_classes, smoothing)


def mix_targets_reference(
    labels: torch.Tensor, params: MixParams, num_classes: int, *, smoothing: float = 0.0
) -> torch.Tensor:
    """The definition of mix_targets."""
    targets = one_hot(labels, num_classes, smoothing=smoothing)
    return mixup_reference(targets, MixupParams(params.partner, params.lam))


def plan_mix(params: MixParams, rows: int, size: Sequence[int] | None = None) -> list[np.ndarray]:
    """The host part, for a batch of so many rows: partner (B,) int64, lam (B,) float32; where `size` (height, width)
    says that images are mixed, of cutmix also box (B, 4) int32, and of MixedParams box and stay (B,) float32."""
    # As an unsigned number a negative partner is huge.
    if len(params) > rows or (len(params) and params.partner.view(np.uint64).max() >= rows):
        raise ValueError(f"there are {rows} rows to mix; the {len(params)} parameters name rows beyond them")
    if size is None or isinstance(params, MixupParams):
        return [params.partner, params.lam]
    height, width = size
    if not within(params.box, [[width], [height]], empty=True).all():
        raise ValueError(f"a cutmix box lies outside the {width} × {height} images; were they drawn for another size?")
    stay = [params.stay] if isinstance(params, MixedParams) else []
    return [params.partner, params.lam, params.box, *stay]


def run_mix(images: torch.Tensor, tables: Sequence[torch.Tensor]) -> torch.Tensor:
    """The device part of mixing images, by the tables of plan_mix; plain torch for those that want a gradient."""
    partner, lam, *others = tables
    if not others:
        return blended(images, partner, lam)
    if len(others) == 1:
        return _pasted(images, partner, *others)
    return _mixed(images, partner, *others) if wants_gradient(images) else run_mixed(images, partner, *others)


def _mixed_like(values: torch.Tensor, partner: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
    """An empty tensor for the result: a row for each partner, laid out as those of `values` are."""
    return _like_rows(_gapless(values), partner)


def _like_rows(rows: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
    shape = rows.shape[1:]
    return rows.new_empty_strided((partner.shape[0], *shape), (math.prod(shape), *rows.stride()[1:]))


@device_op("mixup(Tensor values, Tensor partner, Tensor lam) -> Tensor", _mixed_like)
def run_mixup(values: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
    """The device part of mixup."""
    rows = _gapless(values)
    out = _like_rows(rows, partner)
    if not runs_triton(rows.device):
        if rows.device.type == "cpu" and rows.ndim == 4:
            return _by_row(rows, partner, out, stay=lam)
        return out.copy_(_blend(rows, partner, lam))
    from augment_gpu.kernels.mix import launch_mixup

    return launch_mixup(rows, partner, lam, out=out)


@device_op("cutmix(Tensor values, Tensor partner, Tensor box) -> Tensor", _mixed_like)
def run_cutmix(values: torch.Tensor, partner: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    """The device part of cutmix on images."""
    rows = _gapless(values)
    out = _like_rows(rows, partner)
    if not runs_triton(rows.device):
        if rows.device.type == "cpu":
            return _by_row(rows, partner, out, box=box)
        return out.copy_(_paste(rows, partner, box))
    from augment_gpu.kernels.mix import launch_cutmix

    return launch_cutmix(rows, partner, box, out=out)


@device_op("mixed(Tensor values, Tensor partner, Tensor box, Tensor stay) -> Tensor", _mixed_like)
def run_mixed(values: torch.Tensor, partner: torch.Tensor, box: torch.Tensor, stay: torch.Tensor) -> torch.Tensor:
    """The device part of a batch of which some rows are cut and the others blended."""
    rows = _gapless(values)
    out = _like_rows(rows, partner)
    if not runs_triton(rows.device):
        if rows.device.type == "cpu":
            return _by_row(rows, partner, out, box=box, stay=stay)
        return out.copy_(_mixed(rows, partner, box, stay))
    from augment_gpu.kernels.mix import launch_cutmix

    return launch_cutmix(rows, partner, box, stay, out=out)


def _targets_like(
    labels: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor, num_classes: int, smoothing: float
) -> torch.Tensor:
    return torch.empty(partner.shape[0], num_classes, dtype=torch.float32, device=labels.device)


@device_op(
    "mix_targets(Tensor labels, Tensor partner, Tensor lam, int num_classes, float smoothing) -> Tensor", _targets_like
)
def run_mix_targets(
    labels: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor, num_classes: int, smoothing: float
) -> torch.Tensor:
    """The device part of mix_targets."""
    if not runs_triton(labels.device):
        targets = one_hot(labels, num_classes, smoothing=smoothing)
        return _blend(targets, partner, lam)
    from augment_gpu.kernels.mix import launch_mix_targets

    on, off = _on_off(num_classes, smoothing)
    out = _targets_like(labels, partner, lam, num_classes, smoothing)
    return launch_mix_targets(labels.contiguous(), partner, lam, out=out, on=on, off=off)


def blended(values: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
    """run_mixup, or plain torch for values that want a gradient, which an operator does not pass on."""
    return _blend(values, partner, lam) if wants_gradient(values) else run_mixup(values, partner, lam)


def _pasted(values: torch.Tensor, partner: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    return _paste(values, partner, box) if wants_gradient(values) else run_cutmix(values, partner, box)


def _gapless(values: torch.Tensor) -> torch.Tensor:
    """The values themselves where each row is one run of memory, contiguous or channels_last; else a copy that is."""
    # Most are so as a whole, which takes less to see.
    return values if _dense(values) or _dense(values[:1]) else values.contiguous()


def _dense(values: torch.Tensor) -> bool:
    return values.is_contiguous() or (values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last))


def _blend(values: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
    """lam · own + (1 − lam) · other in float32, rounded once, whatever the dtype of the values. The tables may lie on
    the host."""
    partner, lam = partner.to(values.device), lam.to(values.device).view(-1, *(1,) * (values.ndim - 1))
    other, own = values[partner].float(), values[: len(lam)].float()
    return torch.lerp(other, own, lam).to(values.dtype)


def _mixed(values: torch.Tensor, partner: torch.Tensor, box: torch.Tensor, stay: torch.Tensor) -> torch.Tensor:
    return _paste(values, partner, box, _blend(values, partner, stay))


def _by_row(
    values: torch.Tensor,
    partner: torch.Tensor,
    out: torch.Tensor,
    *,
    box: torch.Tensor | None = None,
    stay: torch.Tensor | None = None,
) -> torch.Tensor:
    """_blend, _paste or both where the tables can be looked at: a row is read and written once, while in cache."""
    shares = [1.0] * len(partner) if stay is None else stay.tolist()
    boxes = [(0, 0, 0, 0)] * len(partner) if box is None else box.tolist()
    for row, (other, share, (x0, y0, x1, y1)) in enumerate(zip(partner.tolist(), shares, boxes, strict=True)):
        if share == 1:
            out[row].copy_(values[row])
        else:
            out[row].copy_(torch.lerp(values[other].float(), values[row].float(), share))
        out[row, :, y0:y1, x0:x1] = values[other, :, y0:y1, x0:x1]
    return out


def _paste(
    values: torch.Tensor, partner: torch.Tensor, box: torch.Tensor, outside: torch.Tensor | None = None
) -> torch.Tensor:
    """outside: the picture around the box, by default the row's own. The tables may lie on the host."""
    partner, box = partner.to(values.device), box.to(values.device)
    _, _, height, width = values.shape
    x = torch.arange(width, device=values.device)
    y = torch.arange(height, device=values.device)
    left, top, right, bottom = box[:, :, None].unbind(1)
    across, down = (x >= left) & (x < right), (y >= top) & (y < bottom)
    inside = (down[:, :, None] & across[:, None, :])[:, None]
    return torch.where(inside, values[partner], values[: len(partner)] if outside is None else outside)


def _check_values(values: torch.Tensor, name: str) -> None:
    if not values.is_floating_point():
        raise TypeError(f"{name} got {values.dtype} values; wanted floating point, labels as (B, classes) rows")
    if values.ndim not in (2, 4):
        raise ValueError(f"{name} got shape {tuple(values.shape)}; wanted images (B, C, H, W) or targets (B, classes)")


def one_hot(labels: torch.Tensor, num_classes: int, *, smoothing: float = 0.0) -> torch.Tensor:
    """(B,) integer labels to (B, num_classes) float32 targets: 1 − smoothing + smoothing / num_classes at the label,
    smoothing / num_classes elsewhere (Szegedy et al. 2016). Labels outside are not looked at: that would wait for the
    device."""
    on, off = _on_off(num_classes, smoothing)
    targets = torch.full((len(labels), num_classes), off, device=labels.device)
    return targets.scatter_(1, labels.long()[:, None], on)


def _on_off(num_classes: int, smoothing: float) -> tuple[float, float]:
    """What a target holds at its label, and elsewhere."""
    return 1 - smoothing + smoothing / num_classes, smoothing / num_classes
