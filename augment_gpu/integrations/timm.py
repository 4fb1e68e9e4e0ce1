"""timm.data.Mixup with keyed draws: a script of timm's changes an import. (timm's train.py mixes by FastCollateMixup,
on the workers' CPUs, unless it is given --no-prefetcher.)"""

from collections.abc import Sequence
from typing import Literal

import torch

from augment_gpu.ops.mix import apply_mix, mix_targets
from augment_gpu.ops.mix_draws import check_mix, sample_mix
from augment_gpu.rng import Key
from augment_gpu.stage import next_positions


class Mixup:
    """`images, targets = mixup_fn(images, labels)`, with timm.data.Mixup's arguments, attributes and distributions.

    Images (B, C, H, W), floating point, of any B: the middle row of an odd batch is its own partner. Labels (B,) or
    (B, 1) are class numbers, or with multi_label (B, num_classes). Returns new images and (B, num_classes) float32
    targets, on the images' device. With mixup_enabled set to False nothing is mixed, but labels are still smoothed.

    Draws come from no global generator: they follow seed, epoch, and how many rows were seen in that epoch, over all
    ranks where torch.distributed runs (taking the ranks' batches to be of one size). set_epoch begins one; a script
    that never calls it goes on counting. For a run that is resumed within an epoch, `seen` can be read and set.

    Raises ValueError at construction, naming the argument.
    """

    def __init__(
        self,
        mixup_alpha: float = 1.0,
        cutmix_alpha: float = 0.0,
        cutmix_minmax: Sequence[float] | None = None,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        mode: Literal["batch", "pair", "elem"] = "batch",
        correct_lam: bool = True,
        label_smoothing: float = 0.1,
        num_classes: int = 1000,
        multi_label: bool = False,
        *,
        seed: int = 0,
    ) -> None:
        check_mix(mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha, cutmix_minmax=cutmix_minmax, prob=prob,
                  switch_prob=switch_prob, mode=mode)  # fmt: skip
        if not mixup_alpha and not cutmix_alpha and cutmix_minmax is None:
            raise ValueError("mixup_alpha and cutmix_alpha are 0 and cutmix_minmax is None; one of them must be on")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; it must lie in [0, 1]")
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes is {num_classes!r}; wanted a whole number of at least 1")
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha if cutmix_minmax is None else 1.0  # as timm has it
        self.cutmix_minmax = cutmix_minmax
        self.mix_prob = prob
        self.switch_prob = switch_prob
        self.mode = mode
        self.correct_lam = correct_lam
        self.label_smoothing = label_smoothing
        self.num_classes = num_classes
        self.multi_label = multi_label
        self.mixup_enabled = True
        self.seed = Key(seed).seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = Key(self.seed, epoch).epoch
        self.seen = 0

    def __call__(self, x: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.multi_label and target.shape != (len(x), self.num_classes):
            raise ValueError(f"target has shape {tuple(target.shape)}; wanted ({len(x)}, {self.num_classes})")
        if x.ndim != 4:
            raise ValueError(f"x has shape {tuple(x.shape)}; wanted (B, C, H, W)")
        if len(target) != len(x):
            raise ValueError(f"there are {len(target)} targets for {len(x)} images")
        index, self.seen = next_positions(self.seen, len(x))
        params = sample_mix(
            Key(self.seed, self.epoch),
            index,
            mixup_alpha=self.mixup_alpha,
            cutmix_alpha=self.cutmix_alpha,
            cutmix_minmax=self.cutmix_minmax,
            prob=self.mix_prob if self.mixup_enabled else 0.0,
            switch_prob=self.switch_prob,
            mode=self.mode,
            correct_lam=self.correct_lam,
            size=(x.shape[2], x.shape[3]),
            partners="mirror",
        )
        target = target.to(x.device)
        if not self.multi_label and target.ndim == 2 and target.shape[1] == 1:
            target = target[:, 0]
        if self.multi_label:
            smooth = target.float() * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
            return apply_mix(x, params), apply_mix(smooth, params)
        return apply_mix(x, params), mix_targets(target, params, self.num_classes, smoothing=self.label_smoothing)
