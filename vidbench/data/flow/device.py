"""Extract flow on a GPU: processes decode, one estimates many frame pairs at once and writes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from vidbench.data.flow.estimate import FlowError, batched, to_gray
from vidbench.data.flow.files import facts_of, write
from vidbench.data.prepare import jobs
from vidbench.data.prepare.pool import unforeseen
from vidbench.data.video import clips


class _Gray:
    """Gray frames of one video after the other, for a DataLoader: (job, frames [T,H,W] or a reason,
    facts, fps)."""

    def __init__(self, tasks: list[tuple], order: list[int]) -> None:
        self.tasks, self.order = tasks, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int):
        number = self.order[place]
        source, _, settings, stamp = self.tasks[number]
        try:
            with clips.Video(source, settings.decoder, settings.size) as video:
                frames = np.stack([to_gray(frame) for frame in video.stream()])
                return number, frames, facts_of(video, frames.shape[1:], settings, stamp), video.fps
        except (clips.VideoError, FlowError) as error:
            return number, f"{type(error).__name__}: {error}", {}, 0.0
        except Exception as error:
            return number, unforeseen(error), {}, 0.0


def _as_is(sample):
    return sample


def on_device(
    tasks: list[tuple], order: list[int], workers: int, device: str | None
) -> jobs.Outcomes:
    """Yield results for jobs.work: processes decode, this one estimates in batches and writes.

    Args:
        tasks: The jobs of `vidbench.data.flow.store`.
        order: Numbers of tasks, in the order to do them.
        workers: Processes that decode; 0 decodes here.
        device: None: CUDA if there is a card, else the CPU.
    """
    import torch

    loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
        cast(torch.utils.data.Dataset, _Gray(tasks, order)),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_is,
        multiprocessing_context="spawn" if workers else None,
    )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    began = time.perf_counter()
    for number, frames, facts, fps in loader:
        if isinstance(frames, str):
            yield jobs.Done(number, error=frames, seconds=time.perf_counter() - began)
        else:
            yield _estimated(number, Path(tasks[number][1]), frames, facts, fps, device)._replace(
                seconds=time.perf_counter() - began
            )
        began = time.perf_counter()


def _estimated(
    number: int, file: Path, frames: np.ndarray, facts: dict[str, Any], fps: float, device: str
) -> jobs.Done:
    """Estimate and write the flow of gray frames [T,H,W]."""
    bound = facts["bound"]
    try:
        # estimate.levels on the device, to the bit: a fourth of the bytes come back
        parts = [
            ((f.clamp(-bound, bound) + bound) * (255 / (2 * bound))).round().byte().cpu().numpy()
            for f in batched(frames, device)
        ]
        count, size = write(file, (flow for part in parts for flow in part), facts, fps)
    except Exception as error:
        return jobs.Done(number, error=unforeseen(error))
    return jobs.Done(number, count, "", 0.0, size)
