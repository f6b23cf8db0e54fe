"""The checkpoints of a run: step-NUMBER/{weights.safetensors, state.pt}, whole or absent.

Training keeps the newest one. A folder of any other name, such as a copy `step-best`, belongs to the
user: it is neither read nor deleted."""

import io
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from vidbench.engine.recipes import RunError
from vidbench.system.files import delete_folder, written

DIGITS = "[0-9]" * 9  # of a checkpoint's step: step-000000026


def checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints that training wrote into a folder, oldest first."""
    return sorted(place for place in folder.glob(f"step-{DIGITS}") if place.is_dir())


def write_checkpoint(
    folder: Path, step: int, weights: dict[str, torch.Tensor], state: dict[str, Any]
) -> Path:
    """Write a checkpoint, and delete the older ones once it is on the disk.

    Args:
        step: How many steps were taken; the folder is named after it.
        weights: The method's state dict (buffers such as the queue among them).
        state: Optimizer, schedule, position.

    Returns:
        Its folder, which is left as it is if it exists: the same run at the same step.

    Raises:
        DiskError: The disk is full.
    """
    place = folder / f"step-{step:09d}"
    if place.exists():
        return place
    for left in folder.glob(f".step-{DIGITS}.*.tmp"):  # a killed process left it
        shutil.rmtree(left, ignore_errors=True)
    weights = {name: tensor.contiguous() for name, tensor in weights.items()}
    packed = safetensors.torch.save(weights, {"crc32": _sum(weights)})
    noted = io.BytesIO()  # torch, writing to the disk itself, does not say what is wrong
    torch.save(state, noted)
    with written(place) as temporary:
        temporary.mkdir()
        (temporary / "weights.safetensors").write_bytes(packed)
        (temporary / "state.pt").write_bytes(noted.getbuffer())
    for old in checkpoints(folder):  # `written` has synced the new one by now
        if old.name < place.name:
            delete_folder(old)
    return place


def checkpoint_stamp(place: Path) -> str:
    """Read the stamp of a checkpoint's weights, as `Run.checkpoint_stamp` describes it."""
    check = size = 0
    with _whole(place / "weights.safetensors") as path, path.open("rb") as file:
        while block := file.read(1 << 20):
            check, size = zlib.crc32(block, check), size + len(block)
    return f"{place.name}-{size}-{check:08x}"


def read_weights(place: Path) -> dict[str, torch.Tensor]:
    """Read a checkpoint's weights on the CPU.

    Raises:
        RunError: They are damaged.
        ValueError: Never reaches the caller: `_whole` makes a RunError of it.
    """
    with (
        _whole(place / "weights.safetensors") as file,
        safetensors.safe_open(file, "pt") as held,
    ):
        weights = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118, it is no dict
        wanted = (held.metadata() or {}).get("crc32")
        if wanted and wanted != _sum(weights):
            raise ValueError("its bytes are not those that were written")
    return weights


def read_state(place: Path) -> dict[str, Any]:
    """Read what a checkpoint contains in addition to weights, on the CPU.

    Raises:
        RunError: It is damaged.
        ValueError: Never reaches the caller: `_whole` makes a RunError of it.
    """
    with _whole(place / "state.pt") as file, zipfile.ZipFile(file) as parts:
        if parts.testzip():
            raise ValueError("its bytes are not those that were written")
        return torch.load(file, map_location="cpu", weights_only=True)


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """Turn whatever reading the file raises into a RunError that names it and says what to do."""
    try:
        yield file
    except Exception as error:  # zipfile, pickle, torch and safetensors raise a dozen kinds
        places = checkpoints(file.parent.parent)
        rest = (
            f"the same call then resumes from {places[-2].name}"
            if len(places) > 1
            else "no older one exists, so the same call then trains from the beginning"
        )
        raise RunError(
            f"{file} is damaged ({type(error).__name__}: {error}). Bring back a copy of it, or "
            f"delete {file.parent}: {rest}."
        ) from error


def _sum(weights: dict[str, torch.Tensor]) -> str:
    """CRC-32 of names, kinds, shapes and bytes, in hex; safetensors itself has no checksum."""
    total = 0
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"
