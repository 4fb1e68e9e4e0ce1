"""Files that are either whole or not there, and errors that name them."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls write(file) on a new file beside `path` and renames it to `path` when it is complete and on the disk. What
    was at `path` before is kept until then. Raises OSError, naming the file, where the disk does not take it."""
    descriptor, temporary = _temporary(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            disk = _Disk(file)
            try:
                write(disk)  # type: ignore[arg-type]  # what it is asked of a file, it passes on
            except Exception as error:
                # torch.save turns an OSError into a RuntimeError of its own, whose cause the file knows.
                raise disk.failure or error from error
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's files are the owner's alone
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:
            kept = "; the earlier one is kept" if path.exists() else ""
            raise OSError(error.errno, f"cannot be written: {error.strerror}{kept}", str(path)) from error
        raise


class _Disk:
    """A file that remembers why it failed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def check_new(path: Path) -> None:
    """Raises FileExistsError where there is such a file, and the OSError that write_atomically would raise where it
    cannot make one; leaves nothing behind."""
    if path.exists():
        raise FileExistsError(f"{path} exists; give another name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder; {path} cannot be written")
    try:
        descriptor, temporary = _temporary(path)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror}") from error
    os.close(descriptor)
    os.unlink(temporary)


def _temporary(path: Path) -> tuple[int, str]:
    return tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Tensors and plain values, so that `load_checkpoint` needs no pickled code."""
    write_atomically(path, lambda file: torch.save(state, file))


def save_json(path: Path, value: Any) -> None:
    write_atomically(path, lambda file: file.write(json_bytes(value)))


def json_bytes(value: Any) -> bytes:
    """Indented, as a reader likes it."""
    return json.dumps(value, indent=2).encode() + b"\n"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """On the CPU. Raises FileNotFoundError, or ValueError where the file is damaged or holds anything but data."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; a checkpoint is wanted") from None
    except Exception as error:  # damaged bytes may be any program to the unpickler, and so raise anything
        if isinstance(error, OSError) and error.filename is not None:
            raise  # such as a file that may not be read
        raise ValueError(f"{path} is damaged, or no checkpoint: {first_line(error)}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}; a dictionary is wanted")
    return state


def load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def first_line(error: BaseException) -> str:
    """Of its message, or its name where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
