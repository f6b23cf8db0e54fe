"""The next batch on the device while the present one is trained on.

On CUDA its copy and what prepares it (augmentation) run on a side stream, one batch ahead. So they
overlap with the step, if the loader's memory is pinned. Elsewhere a batch is prepared when the
step needs it."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

Batch = dict[str, Tensor]
Prepare = Callable[[Batch, torch.device], Batch]


def moved(batch: Batch, device: torch.device) -> Batch:
    """Copy the batch to the device; the host does not wait for the copy.

    Args:
        batch: Name -> tensor.
    """
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def prepared(
    loader: Iterable[Batch], device: torch.device, prepare: Prepare = moved
) -> Iterator[Batch]:
    """Yield the loader's batches as `prepare` makes them on the device.

    Args:
        loader: Yields batches on the CPU.
        prepare: prepare(batch, device) -> the batch on the device.
    """
    if device.type != "cuda":
        for batch in loader:
            yield prepare(batch, device)
        return
    side, coming = torch.cuda.Stream(device), None
    for batch in loader:
        with torch.cuda.stream(side):
            made = prepare(batch, device)
            done = side.record_event()
        if coming is not None:
            yield _taken(*coming, device)
        coming = made, done
    if coming is not None:
        yield _taken(*coming, device)


def _taken(batch: Batch, done: torch.cuda.Event, device: torch.device) -> Batch:
    """The batch for the present stream, which waits on the device until it is made.

    The memory is the side stream's. Without `record_stream` it would be used for another batch as
    soon as Python drops this one, while the step may still read it."""
    present = torch.cuda.current_stream(device)
    present.wait_event(done)
    for value in batch.values():
        value.record_stream(present)
    return batch
