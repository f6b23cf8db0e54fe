"""Estimate what flow will cost, by method, from a few pairs of frames of a few videos.

The cost of a pair grows with its pixels, and TV-L1 takes half a minute for one pair of HD frames. So
a pair is measured on a crop from the middle, at most CROP pixels, and multiplied. Time to open a video
counts once, time to decode, estimate and write counts for each pair."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vidbench.data.flow.estimate import METHODS, PIXELS, estimator, levels, to_gray
from vidbench.data.flow.files import FORMATS, Job, Settings, facts_of, write
from vidbench.data.flow.store import jobs_of
from vidbench.data.manifest import Manifest
from vidbench.data.prepare.estimate import SECONDS, Cost, Estimator, Pace, Slice
from vidbench.data.prepare.shards import WHOLE, Shard
from vidbench.data.video import clips
from vidbench.data.video.decoders import check_decoder

CROP = 2**15  # pixels: TV-L1 takes about half a second for a pair


def costs(
    manifest: Manifest,
    folder: str | Path,
    methods: Sequence[str] = METHODS,
    *,
    device: str | None = None,
    shard: Shard = WHOLE,
    workers: int = 0,
    seconds: float = SECONDS,
    **options: Any,
) -> dict[str, Cost]:
    """Estimate time and disk of `store.extract` for each of several methods; write nothing.

    Args:
        folder: The store, which need not exist. Videos whose flow it has, with these settings, cost
            nothing.
        device: For "tvl1_torch".
        workers: Processes that the extraction will use; 0 also measures in this process.
        seconds: Wall time of the measurements, of all methods together.
        options: Further fields of `Settings`.

    Returns:
        The cost of each method.

    Raises:
        ValueError: an argument is out of range.
    """
    settings = {method: Settings(method, **options) for method in methods}
    check_decoder(next(iter(settings.values())).decoder)
    found = {}
    with Estimator(workers, seconds) as limited:
        slow_to_import_last = sorted(settings, key=lambda method: method == "tvl1_torch")
        for number, method in enumerate(slow_to_import_last):
            jobs, weights = jobs_of(manifest, Path(folder), settings[method], shard)
            on_device = method == "tvl1_torch"
            found[method] = limited.cost(
                partial(pace_on_device, device=device, workers=workers) if on_device else pace,
                jobs,
                Path(folder),
                weights=weights,
                part=1 / (len(settings) - number),
                parallel=not on_device,
            )
    return {method: found[method] for method in methods}


def pace(job: Job, sample: Slice) -> Pace:
    """Measure a method of OpenCV on a few frames, scaled to the whole video.

    Args:
        job: The video, its flow file, settings and stamp.
        sample: How many frames to try, for how long, and where to write.
    """
    source, _, settings, stamp = job
    began, decoding = time.perf_counter(), 0.0
    with clips.Video(source, settings.decoder, settings.size) as video:
        opened, stream = time.perf_counter() - began, map(to_gray, video.stream())
        calc, first = estimator(settings.method), next(stream)
        middle = _middle(*first.shape)
        last = np.ascontiguousarray(first[middle])
        facts = facts_of(video, last.shape, settings, stamp)

        def flows() -> Iterator[np.ndarray]:
            nonlocal last, decoding
            since = time.perf_counter()
            for frame in sample.of(stream):
                decoding += time.perf_counter() - since
                gray = np.ascontiguousarray(frame[middle])
                yield levels(calc(last, gray), settings.bound)
                last, since = gray, time.perf_counter()

        start = time.perf_counter()
        file = Path(sample.scratch) / f"pace{FORMATS[settings.format]}"
        pairs, size = write(file, flows(), facts, video.fps)
        larger = first.size / last.size
        each = decoding + larger * (time.perf_counter() - start - decoding)
        times = (video.frames - 1) / pairs
    return Pace(pairs, opened + times * each, times * larger * size)


def pace_on_device(job: Job, sample: Slice, device: str | None, workers: int) -> Pace:
    """Measure TV-L1 in PyTorch on a few frames, without a compiler, scaled to the whole video.

    Other processes decode while the device works, so the slower of both counts.

    Args:
        job: The video, its flow file, settings and stamp.
        sample: How many frames to try, for how long, and where to write.
        device: None: CUDA if there is a card, else the CPU.
        workers: Processes that decode.
    """
    import torch

    from vidbench.data.flow import tvl1

    source, _, settings, stamp = job
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    began = time.perf_counter()
    with clips.Video(source, settings.decoder, settings.size) as video:
        opened, start = time.perf_counter() - began, time.perf_counter()
        stream = sample._replace(frames=sample.frames + 1, seconds=sample.seconds / 4)
        gray = np.stack([to_gray(frame) for frame in stream.of(video.stream())])
        decoding = (time.perf_counter() - start) / len(gray) / max(1, workers)
        larger, pixels = gray[0].size, gray[:, *_middle(*gray.shape[1:])]
        larger /= pixels[0].size
        facts = facts_of(video, pixels.shape[1:], settings, stamp)
        total = video.frames - 1
    # warm
    tvl1.estimate(pixels[:1, :16, :16], pixels[1:2, :16, :16], device=device, compiled=False)
    pairs, took = 1, 0.0
    while (
        not took
        or 2 * pairs < min(len(pixels), PIXELS / pixels[0].size)
        and (4 * took < sample.seconds)
    ):
        pairs, start = 2 * pairs if took else 1, time.perf_counter()
        flow = tvl1.estimate(pixels[:pairs], pixels[1 : pairs + 1], device=device, compiled=False)
        done = [levels(one, settings.bound) for one in flow.cpu().numpy()]
        took = time.perf_counter() - start
    file = Path(sample.scratch) / f"pace{FORMATS[settings.format]}"
    size = write(file, iter(done), facts, video.fps)[1]
    seconds = opened / max(1, workers) + total * max(decoding, larger * took / pairs)
    return Pace(pairs, seconds, total / pairs * larger * size)


def _middle(height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the middle, at most CROP pixels, in the frame's own shape."""
    small = min(1.0, (CROP / (height * width)) ** 0.5)
    sides = [(length, max(3, int(length * small))) for length in (height, width)]
    rows, columns = (slice((n - kept) // 2, (n - kept) // 2 + kept) for n, kept in sides)
    return rows, columns
