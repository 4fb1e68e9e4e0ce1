"""The metrics of each epoch, for TensorBoard."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Write = Callable[[dict[str, Any]], None]


def require_tensorboard() -> None:
    """Raises ValueError, saying how to get it, where tensorboard is not installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise ValueError("tensorboard is not installed; pip install 'augment_gpu[tensorboard]'") from error


@contextmanager
def metrics_writer(folder: Path, epoch: int, *, on: bool) -> Iterator[Write]:
    """Gives a function that writes a row of metrics into folder/tensorboard; what is there of `epoch` and later ones,
    from a run that was stopped, is forgotten. on=False: it does nothing."""
    if not on:
        yield lambda row: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder / "tensorboard", purge_step=epoch) as writer:

        def write(row: dict[str, Any]) -> None:
            for name, value in row.items():
                if name != "epoch":
                    writer.add_scalar(name, value, row["epoch"])
            writer.flush()

        yield write
