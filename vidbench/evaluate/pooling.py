"""Clips of videos to one row for each video: what a function makes of each clip, then the mean.

A video's clips come a few at a time and are put together with those of other videos, so memory
follows the batch and not the length of a video. Ranks share the rows out and add their sums."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from vidbench.data.flow.store import FlowError
from vidbench.data.loading.dataset import Clips, processes
from vidbench.data.video.clips import VideoError
from vidbench.engine import ranks
from vidbench.system.progress import Progress, Style

ELSEWHERE = "another rank could not read it; its output says why"


@torch.no_grad()
def pooled(
    clips: Clips,
    function: Callable[[Tensor], Tensor],
    width: int,
    *,
    name: str,
    batch: int = 32,
    workers: int = 0,
    faults: dict[int, str] | None = None,
) -> np.ndarray:
    """Average `function` ([n,C,T,H,W] -> [n,width]) over the clips of each video.

    Rows are shared out over ranks and filled in by row index, so neither rank order nor padding
    matters.

    Args:
        name: What lines about a long table call it.
        batch: Clips that the function sees at once.
        faults: None stops at the first video that cannot be read. A dictionary is filled with the
            reason by row, and that row is NaN.

    Returns:
        float32 [N,width].

    Raises:
        VideoError, FlowError: A video or its flow cannot be read, and faults is None.
    """
    device, mine = ranks.device(), list(range(ranks.rank(), len(clips), ranks.world()))
    share = _Share(clips, mine, batch, faults is not None)
    loader = DataLoader(share, batch_size=None, **processes(workers))
    sums = torch.zeros(len(clips), width + 1)  # the last column counts clips
    shown: Style = "auto" if ranks.rank() == 0 else "none"
    what = f"features of {name}"
    with Progress(what, len(mine), "video", shown, late=True) as bar:
        for views, rows in _batches(_readable(loader, faults), batch):
            made = function(views.to(device)).float().cpu()
            sums.index_add_(0, rows, torch.cat([made, torch.ones(len(rows), 1)], dim=1))
            bar.show(int((sums[:, -1] > 0).sum()))
    for row in faults or ():
        sums[row] = 0.0  # clips before the damaged one do not count
    sums = (ranks.mean(sums.to(device)) * ranks.world()).cpu()
    if faults is not None:
        for row in np.flatnonzero(sums[:, -1].numpy() == 0).tolist():
            faults.setdefault(row, ELSEWHERE)
    return (sums[:, :-1] / sums[:, -1:]).numpy()


class _Share(IterableDataset):
    """(views [n,C,T,H,W], row) of some rows, each worker its part of them.

    With `tolerant` a row that cannot be read gives (the reason, row) and ends there."""

    def __init__(self, clips: Clips, rows: list[int], most: int, tolerant: bool):
        self.clips, self.rows, self.most, self.tolerant = clips, rows, most, tolerant

    def __iter__(self) -> Iterator[tuple[Tensor | str, int]]:
        worker = get_worker_info()
        for row in self.rows[worker.id :: worker.num_workers] if worker else self.rows:
            try:
                for views in self.clips.test_views(row, self.most):
                    yield views, row
            except (VideoError, FlowError) as error:
                if not self.tolerant:
                    raise
                yield str(error), row


def _readable(pieces: Iterable, faults: dict[int, str] | None) -> Iterator[tuple[Tensor, int]]:
    """The pieces that are views; reasons go to `faults`."""
    for views, row in pieces:
        if isinstance(views, str) and faults is not None:
            faults[int(row)] = views
        else:
            yield views, row


def _batches(pieces: Iterable, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pieces (views [n,...], row) put together, or cut, to at most `batch` clips, with the row of
    each clip [n]."""
    held: list[Tensor] = []
    rows: list[int] = []
    for views, row in pieces:
        if held and len(rows) + len(views) > batch:
            yield torch.cat(held), torch.tensor(rows)
            held, rows = [], []
        for part in views.split(batch):
            held.append(part)
            rows += [row] * len(part)
            if len(rows) >= batch:
                yield torch.cat(held), torch.tensor(rows)
                held, rows = [], []
    if held:
        yield torch.cat(held), torch.tensor(rows)
