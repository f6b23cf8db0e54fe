"""Manifest rows to samples, each a pure function of (seed, epoch, row), and the order in which they
come.

Nothing here knows a process: rank and world size are plain integers, and whichever worker or rank
makes a sample, it is bit for bit the same. Pass `transforms.worker_init` to a DataLoader, so that a
worker keeps to one thread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from vidbench.data.flow import store as flow_store
from vidbench.data.loading import augmentation
from vidbench.data.loading import transforms as views
from vidbench.data.loading.augmentation import SETTINGS, Augment
from vidbench.data.loading.transforms import STREAMS
from vidbench.data.manifest import Manifest
from vidbench.data.video import clips, windows
from vidbench.data.video.decoders import DECODERS, check_decoder

# seconds for a DataLoader to wait for a batch before it gives up: a decoder hangs; `scan` finds the
# file
HANG = 600.0
RANDOM = ("random", "random_segments")
FIXED = ("spread", "sliding", "segments")


@dataclass(frozen=True)
class ClipSpec:
    """How a video becomes clips and clips become views: the plain values of a recipe.

    Training: "random" draws `views` independent windows, "random_segments" a frame from each of
    `frames` equal segments (Something-Something). Testing, without randomness: "spread" (`windows`
    of them), "sliding" (every `hop` frames; the number of views then differs between videos, so
    load with batch 1) or "segments" (middle frames), times `crops`."""

    frames: int = 32
    stride: int = 1  # source frames per clip frame
    target_fps: float | None = (
        None  # instead of stride: whatever brings the video to this frame rate
    )
    streams: tuple[str, ...] = ("rgb",)
    views: int = 2  # V in training
    augment: Augment = SETTINGS["vidbench"]
    pad: str = "last"  # windows.PADS: what a video too short for a window shows
    sampling: str = "random"
    windows: int = 10
    hop: int = 15  # frames; CoCLR's test
    crops: str = "centre"  # transforms.test_crops
    resize: int | None = None  # testing: short side in pixels before the crop
    decode_size: int | tuple[int, int] | None = None  # rgb: short side or (H, W) while decoding
    decoder: str = clips.DECODER  # of video files: pyav, decord or torchcodec

    def __post_init__(self) -> None:
        if (
            not self.streams
            or not set(self.streams) <= set(STREAMS)
            or isinstance(self.streams, str)
        ):
            raise ValueError(f"streams must be a tuple out of {STREAMS}, got {self.streams!r}")
        if self.sampling not in RANDOM + FIXED:
            raise ValueError(
                f"sampling must be one of {', '.join(RANDOM + FIXED)}, got {self.sampling!r}"
            )
        if self.pad not in windows.PADS:
            raise ValueError(f"pad must be one of {windows.PADS}, got {self.pad!r}")
        if self.decoder not in DECODERS:
            raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, got {self.decoder!r}")
        for name in ("frames", "stride", "views", "windows", "hop"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number from 1 up, got {value!r}")
        if self.target_fps is not None and (self.stride != 1 or not self.target_fps > 0):
            raise ValueError(
                f"give stride or a positive target_fps, got {self.stride} and {self.target_fps}"
            )
        if self.augment.one_clip and self.sampling in RANDOM and self.views != 2:
            raise ValueError(
                f"augment.one_clip is about a pair of views, got views={self.views}; set one_clip "
                "to 0"
            )


class Clips(torch.utils.data.Dataset):
    """Samples by (epoch, row): {stream: float32 [V,C,T,size,size], "label", "source", "row": int}.

    In training, rgb and flow of one view share frame numbers, crop and flip. Flow frame i is the
    motion from frame i to i + 1, so with flow a video counts one frame less. `flow_folder` is a
    store written by flow_store.extract.

    cache_bytes: keep whole decoded videos (uint8) in this process until so many bytes are used,
    later ones are decoded anew: for small worlds, where decoding is half of a training step. Each
    worker has a cache of its own.

    Raises clips.VideoError, which names the file, where a video cannot be decoded; nothing is
    replaced."""

    def __init__(
        self,
        manifest: Manifest,
        spec: ClipSpec,
        *,
        flow_folder: str | Path | None = None,
        seed: int = 0,
        cache_bytes: int = 0,
    ) -> None:
        if "flow" in spec.streams and flow_folder is None:
            raise ValueError(
                "stream 'flow' needs flow_folder, a store written by "
                "vidbench.data.flow.store.extract"
            )
        check_decoder(spec.decoder)  # an ImportError here rather than in each worker
        if "flow" in spec.streams:
            made = flow_store.settings_of(flow_folder)
            if "rgb" in spec.streams and made.decoder != spec.decoder:
                raise ValueError(
                    f"{flow_folder} was computed on frames of {made.decoder}, and rgb is to be "
                    "read by "
                    f"{spec.decoder}: set ClipSpec.decoder to {made.decoder!r}, or extract the "
                    "flow again"
                )
        self.manifest, self.spec, self.flow_folder = manifest, spec, flow_folder
        self.seed, self.cache_bytes = seed, cache_bytes
        self._kept: dict[tuple[str, int], tuple[np.ndarray, float]] = {}
        self._used, self._full = 0, False

    def __len__(self) -> int:
        return len(self.manifest)

    def __getstate__(self) -> dict:
        return {
            **self.__dict__,
            "_kept": {},
            "_used": 0,
            "_full": False,
        }  # a worker fills its own cache

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, row = (int(part) for part in key)
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is not in a manifest of {len(self)} videos")
        rng = np.random.default_rng([self.seed, epoch, row])
        frames = self._frames(row, rng)
        make = self._training_views if self.spec.sampling in RANDOM else self._test_views
        sample: dict = make(frames, rng)
        sample["label"], sample["source"] = (
            int(self.manifest.label[row]),
            int(self.manifest.source[row]),
        )
        sample["row"] = row
        return sample

    # ---- from a row to frames

    def _frames(self, row: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Windows of each stream, uint8 [V,T,C,H,W], a permuted view of [V,T,H,W,C] memory."""
        spec, path = self.spec, str(self.manifest.path[row])
        fps = self.manifest.fps  # known without opening the file, after a scan
        needs_video = "rgb" in spec.streams or spec.target_fps is not None and fps is None
        video = _Source(self, row) if needs_video else None
        try:
            lengths = [video.length()] if "rgb" in spec.streams else []
            if "flow" in spec.streams:
                lengths.append(self._flow_length(row, path))
                counted = self.manifest.frames
                frames = lengths[0] if video else None if counted is None else int(counted[row])
                if frames not in (None, lengths[-1] + 1):
                    raise clips.VideoError(
                        f"{path}: the video has {frames} frames, but {self.flow_folder} holds "
                        f"{lengths[-1]} flows, those of {lengths[-1] + 1}: its numbers mean other "
                        "frames. Delete its file there and extract the flow again."
                    )
            stride = spec.stride
            if spec.target_fps is not None:
                stride = windows.stride_for(
                    video.fps() if fps is None else float(fps[row]), spec.target_fps
                )
            chosen = self._windows(min(lengths), stride, rng)
            read = {
                "rgb": lambda flat: video.read(flat),
                "flow": lambda flat: self._flow(row, path, flat),
            }
            arrays = {stream: read[stream](chosen.reshape(-1)) for stream in spec.streams}
        finally:
            if video is not None:
                video.close()
        shape = chosen.shape
        return {
            s: torch.from_numpy(a.reshape(*shape, *a.shape[1:])).permute(0, 1, 4, 2, 3)
            for s, a in arrays.items()
        }

    def _windows(self, length: int, stride: int | Fraction, rng: np.random.Generator) -> np.ndarray:
        """Frame numbers [V,T]."""
        spec = self.spec
        if spec.sampling == "random":
            if length == 1:  # a picture: no choice, no draw
                return np.zeros((spec.views, spec.frames), np.int64)
            return windows.random_windows(
                length, spec.frames, spec.views, stride, rng=rng, pad=spec.pad
            )
        if spec.sampling == "random_segments":
            return np.stack(
                [windows.uniform_segments(length, spec.frames, rng=rng) for _ in range(spec.views)]
            )
        if spec.sampling == "spread":
            return windows.spread_windows(length, spec.frames, spec.windows, stride, spec.pad)
        if spec.sampling == "sliding":
            return windows.sliding_windows(length, spec.frames, spec.hop, stride, spec.pad)
        return windows.uniform_segments(length, spec.frames)[None]

    def _flow_length(self, row: int, path: str) -> int:
        kept = self._kept.get(("flow", row))
        return len(kept[0]) if kept else flow_store.length(self.flow_folder, path)

    def _flow(self, row: int, path: str, flat: np.ndarray) -> np.ndarray:
        kept = self._kept.get(("flow", row))
        if kept is None and self._room():
            kept = self._keep("flow", row, flow_store.load(self.flow_folder, path), 0.0)
        return flow_store.load(self.flow_folder, path, flat) if kept is None else kept[0][flat]

    def _room(self) -> bool:
        return self._used < self.cache_bytes and not self._full

    def _keep(
        self, stream: str, row: int, frames: np.ndarray, fps: float
    ) -> tuple[np.ndarray, float]:
        """Remember a video where it fits; hand it back either way."""
        if self._used + frames.nbytes <= self.cache_bytes:
            self._kept[stream, row] = (frames, fps)
            self._used += frames.nbytes
        else:
            self._full = True  # else every further sample would decode its whole video in vain
        return frames, fps

    # ---- from frames to views

    def _training_views(
        self, frames: dict[str, torch.Tensor], rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        spec = self.spec
        first = next(
            iter(frames.values())
        )  # the view is drawn for the first stream; others of another size rescale it
        height, width = first.shape[-2:]
        if spec.views == 2:
            shown, drawn = augmentation.draw_pair(spec.augment, height, width, spec.frames, rng)
        else:
            shown = range(spec.views)
            drawn = [
                augmentation.draw(spec.augment, height, width, spec.frames, rng) for _ in shown
            ]
        made: dict[str, torch.Tensor] = {}
        for stream, clip in frames.items():
            each = [
                views.apply(clip[i], view, spec.augment, stream)
                for i, view in zip(shown, drawn, strict=True)
            ]
            made[stream] = torch.stack(each) if len(each) > 1 else each[0][None]
        return made

    def _test_views(
        self, frames: dict[str, torch.Tensor], rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        spec, augment = self.spec, self.spec.augment
        return {
            stream: torch.cat(
                [
                    views.test_crops(w, spec.crops, augment.size, spec.resize, stream, augment)
                    for w in windows
                ]
            )
            for stream, windows in frames.items()
        }


class _Source:
    """The frames of one row, out of the cache or out of the file, opened when first needed."""

    def __init__(self, dataset: Clips, row: int) -> None:
        self._dataset, self._row = dataset, row
        self._kept = dataset._kept.get(("rgb", row))
        self._video: clips.Video | None = None
        if self._kept is None:
            spec = dataset.spec
            counted = dataset.manifest.frames
            known = None if counted is None else int(counted[row])
            self._video = clips.Video(
                dataset.manifest.absolute(row), spec.decoder, spec.decode_size, known
            )
            if known not in (None, self._video.frames):
                raise clips.VideoError(
                    f"{self._video.path}: {self._video.frames} frames, {known} when it was "
                    "scanned: the file changed; scan the data set again"
                )
            if dataset._room() and "rgb" in spec.streams:
                self._kept = dataset._keep("rgb", row, self._video.read().frames, self._video.fps)

    def length(self) -> int:
        return len(self._kept[0]) if self._kept else self._video.frames

    def fps(self) -> float:
        return self._kept[1] if self._kept else self._video.fps

    def read(self, flat: np.ndarray) -> np.ndarray:
        return self._kept[0][flat] if self._kept else self._video.read(flat).frames

    def close(self) -> None:
        if self._video is not None:
            self._video.close()


def processes(workers: int, training: bool = False) -> dict:
    """A DataLoader's arguments about its processes: spawned, of one thread each, given up after
    HANG seconds.

    training: they stay between epochs and leave SIGTERM to this process, which must end them, as
    engine.loop.fit does."""
    made = {
        "num_workers": workers,
        "worker_init_fn": views.training_worker if training else views.worker_init,
    }
    if workers:
        made |= {
            "timeout": HANG,
            "multiprocessing_context": "spawn",
            "persistent_workers": training,
        }
    return made


class Batches(torch.utils.data.Sampler):
    """One rank's batches, lists of (epoch, row); `batch` is global and the order depends on (seed,
    epoch) only.

    Rank r takes the r-th of `world` equal, contiguous parts of each global batch, so any number of
    ranks sees the same global batches. Set `epoch` before each pass, and `start` to the first batch
    to yield when resuming within one. With drop_last False the last batch is shared out as evenly
    as it goes; a rank left without a row repeats the last one, which is harmless where results are
    filled in by row. Raises ValueError where batch is not a multiple of world."""

    def __init__(
        self,
        rows: int,
        batch: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
    ) -> None:
        if batch < 1 or world < 1 or batch % world:
            raise ValueError(
                f"the global batch must be a multiple of the number of ranks, got {batch} on "
                f"{world}"
            )
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in 0..{world - 1}, got {rank}")
        self.total = rows // batch if drop_last else -(-rows // batch)  # batches in a whole pass
        if not self.total:
            raise ValueError(
                f"{rows} rows do not fill one batch of {batch}; make the batch smaller"
            )
        self.rows, self.batch, self.seed, self.rank, self.world = rows, batch, seed, rank, world
        self.shuffle, self.epoch, self.start = shuffle, 0, 0

    def __len__(self) -> int:
        return max(0, self.total - self.start)

    def order(self, epoch: int) -> np.ndarray:
        """All rows of an epoch in the order in which they come."""
        if not self.shuffle:
            return np.arange(self.rows)
        return np.random.default_rng([self.seed, epoch]).permutation(self.rows)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        order = self.order(epoch)
        for number in range(self.start, self.total):
            whole = order[number * self.batch : (number + 1) * self.batch]
            low, high = (len(whole) * part // self.world for part in (self.rank, self.rank + 1))
            mine = whole[low:high] if high > low else whole[-1:]
            yield [(epoch, int(row)) for row in mine]
