"""Manifest rows to samples, each a pure function of (seed, epoch, row), and their order.

Nothing here knows a process: rank and world size are plain integers, and whichever worker or rank
makes a sample, it is bit for bit the same. Pass `transforms.worker_init` to a DataLoader, so that a
worker keeps to one thread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
import torch

from vidbench.data.flow import store as flow_store
from vidbench.data.loading import augmentation, batched
from vidbench.data.loading import transforms as views
from vidbench.data.loading.augmentation import PRESETS, Augment
from vidbench.data.loading.cache import VideoCache
from vidbench.data.loading.transforms import STREAMS, Crops, Stream
from vidbench.data.manifest import Manifest
from vidbench.data.video import clips, windows
from vidbench.data.video.decoders import DECODERS, check_decoder
from vidbench.system.ranges import AT_LEAST_1, check_fields

# seconds for a DataLoader to wait for a batch before it gives up: a decoder hangs; `scan` finds the
# file
HANG = 600.0
FixedSampling = Literal["spread", "sliding", "segments"]
Sampling = Literal["random", "random_segments", "spread", "sliding", "segments"]
FIXED = get_args(FixedSampling)
RANDOM = tuple(name for name in get_args(Sampling) if name not in FIXED)
DECODED = 16  # windows that `test_views` decodes together; of a long video no more is in memory


@dataclass(frozen=True)
class ClipSpec:
    """How a video becomes clips and clips become views: the plain values of a recipe.

    Training: "random" draws `views` independent windows, "random_segments" a frame from each of
    `frames` equal segments (Something-Something). With `one_window` it draws one window for all
    views. Testing, without randomness: "spread" (`windows` of them), "sliding" (every `hop` frames;
    the number of views then differs between videos, so load with batch 1) or "segments" (middle
    frames), times `crops`."""

    frames: Annotated[int, AT_LEAST_1] = 32
    stride: Annotated[int, AT_LEAST_1] = 1  # source frames per clip frame
    target_fps: float | None = (
        None  # instead of stride: whatever brings the video to this frame rate
    )
    streams: tuple[Stream, ...] = ("rgb",)
    views: Annotated[int, AT_LEAST_1] = 2  # V in training
    one_window: bool = False  # in training all views augment one window
    augment: Augment = PRESETS["vidbench"]
    pad: windows.Pad = "last"  # windows.PADS: what a video too short for a window shows
    # how the frames of a window and segments are spaced, and whether the last window that fits may
    # come: see data.video.windows for what released code does
    grid: windows.Grid = "stride"
    reach_end: bool = True
    sampling: Sampling = "random"
    windows: Annotated[int, AT_LEAST_1] = 10
    hop: Annotated[int, AT_LEAST_1] = 15  # frames; CoCLR's test
    crops: Crops = "center"  # transforms.test_crops
    # testing: short side in pixels before the crop
    resize: Annotated[int | None, AT_LEAST_1] = None
    cut_first: bool = False  # testing: crop the frame as it is, then scale (CoCLR's code)
    # rgb: short side or (H, W) while decoding
    decode_size: Annotated[int | tuple[int, int] | None, AT_LEAST_1] = None
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
        if self.decoder not in DECODERS:
            raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, got {self.decoder!r}")
        check_fields(self, "clip")
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
    """Samples by (epoch, row): {stream: float32 [V,C,T,size,size], "label", "source_video", "row": int}.

    In training, rgb and flow of one view share frame numbers, crop and flip. Flow frame i is the
    motion from frame i to i + 1, so with flow a video counts one frame less. `flow_folder` is a
    store written by flow_store.extract.

    cache_bytes: limit of the VideoCache, for small worlds, where decoding is half of a step.
    packed: training views are what `batched.pack` gives; `batched.finish` makes the rest of them.

    Raises clips.VideoError, which names the file, if a video cannot be decoded."""

    def __init__(
        self,
        manifest: Manifest,
        spec: ClipSpec,
        *,
        flow_folder: str | Path | None = None,
        seed: int = 0,
        cache_bytes: int = 0,
        packed: bool = False,
    ) -> None:
        # without flow nothing reads it
        self.flow_folder: str | Path = "" if flow_folder is None else flow_folder
        if "flow" in spec.streams and flow_folder is None:
            raise ValueError(
                "stream 'flow' needs flow_folder, a store written by "
                "vidbench.data.flow.store.extract"
            )
        check_decoder(spec.decoder)  # an ImportError here rather than in each worker
        if "flow" in spec.streams:
            made = flow_store.settings_of(self.flow_folder)
            if "rgb" in spec.streams and made.decoder != spec.decoder:
                raise ValueError(
                    f"{flow_folder} was computed on frames of {made.decoder}, and rgb is to be "
                    f"read by {spec.decoder}: set ClipSpec.decoder to {made.decoder!r}, or extract "
                    "the flow again"
                )
        self.manifest, self.spec, self.seed, self.packed = manifest, spec, seed, packed
        self.cache = VideoCache(cache_bytes)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, row = (int(part) for part in key)
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is not in a manifest of {len(self)} videos")
        rng = np.random.default_rng([self.seed, epoch, row])
        with _Row(self, row) as video:
            frames = video.frames(self._windows(video.length, video.stride, rng))
        make = self._training_views if self.spec.sampling in RANDOM else self._test_views
        sample: dict = make(frames, rng)
        sample["label"], sample["source_video"] = (
            int(self.manifest.label[row]),
            int(self.manifest.source_video[row]),
        )
        sample["row"] = row
        return sample

    def test_views(self, row: int, most: int) -> Iterator[torch.Tensor]:
        """Yield all test views of a row of one stream, a few windows at a time.

        A long video takes no more memory than a short one.

        Args:
            most: The largest n of a tensor float32 [n,C,T,size,size], or the crops of one window if
                these are more.
        """
        (stream,), rng = self.spec.streams, np.random.default_rng(0)  # nothing is drawn
        step = max(1, most // views.CROPS[self.spec.crops])
        with _Row(self, row) as video:
            chosen = self._windows(video.length, video.stride, rng)
            for first in range(0, len(chosen), DECODED):
                frames = video.frames(chosen[first : first + DECODED])[stream]
                for few in frames.split(step):
                    yield self._test_views({stream: few}, rng)[stream]

    def _windows(self, length: int, stride: int | Fraction, rng: np.random.Generator) -> np.ndarray:
        """Frame numbers [V,T]."""
        spec = self.spec
        if spec.sampling in RANDOM:
            drawn = self._random_windows(length, stride, 1 if spec.one_window else spec.views, rng)
            return drawn.repeat(spec.views, axis=0) if spec.one_window else drawn
        if spec.sampling == "segments":
            return windows.uniform_segments(length, spec.frames, grid=spec.grid)[None]
        rule = (stride, spec.pad, spec.grid, spec.reach_end)
        if spec.sampling == "spread":
            return windows.spread_windows(length, spec.frames, spec.windows, *rule)
        return windows.sliding_windows(length, spec.frames, spec.hop, *rule)

    def _random_windows(
        self, length: int, stride: int | Fraction, count: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Frame numbers [count,T]."""
        spec = self.spec
        if spec.sampling == "random_segments":
            segments = (
                windows.uniform_segments(length, spec.frames, rng=rng, grid=spec.grid)
                for _ in range(count)
            )
            return np.stack(list(segments))
        if length == 1:  # a picture: no choice, no draw
            return np.zeros((count, spec.frames), np.int64)
        return windows.random_windows(
            length,
            spec.frames,
            count,
            stride,
            rng=rng,
            pad=spec.pad,
            grid=spec.grid,
            reach_end=spec.reach_end,
        )

    # ---- from frames to views

    def _training_views(
        self, frames: dict[str, torch.Tensor], rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        spec = self.spec
        # the view is drawn for the first stream; others of another size rescale it
        first = next(iter(frames.values()))
        height, width = first.shape[-2:]
        if spec.views == 2:
            pair = augmentation.draw_pair(spec.augment, height, width, spec.frames, rng)
            chosen = list(zip(*pair, strict=True))
        else:
            chosen = [
                (i, augmentation.draw(spec.augment, height, width, spec.frames, rng))
                for i in range(spec.views)
            ]
        made: dict[str, torch.Tensor] = {}
        for stream, clip in frames.items():
            if self.packed:
                made |= batched.pack([(clip[i], v) for i, v in chosen], spec.augment, stream)
                continue
            each = [views.apply(clip[i], view, spec.augment, stream) for i, view in chosen]
            made[stream] = torch.stack(each) if len(each) > 1 else each[0][None]
        return made

    def _test_views(
        self, frames: dict[str, torch.Tensor], rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        spec, augment = self.spec, self.spec.augment

        def crops(window: torch.Tensor, stream: str) -> torch.Tensor:
            return views.test_crops(
                *(window, spec.crops, augment.size, spec.resize, stream, augment),
                cut_first=spec.cut_first,
            )

        return {
            stream: torch.cat([crops(window, stream) for window in windows])
            for stream, windows in frames.items()
        }


class _Row:
    """One row's video and flow while they are read, from the cache or from open files."""

    def __init__(self, dataset: Clips, row: int) -> None:
        self._dataset, self._row = dataset, row
        self._path = str(dataset.manifest.path[row])
        self._kept = dataset.cache.get("rgb", row)
        self._video: clips.Video | None = None
        self._times: np.ndarray | None = None  # seconds, where a rate is wanted of an uneven file

    def __enter__(self) -> _Row:
        spec, fps = self._dataset.spec, self._dataset.manifest.fps  # known without opening the file
        try:
            if "rgb" in spec.streams or (spec.target_fps is not None and fps is None):
                self._open()
            self.length = self._length()
            self.stride: int | Fraction = spec.stride
            if spec.target_fps is not None:
                self._rate = self._fps() if fps is None else float(fps[self._row])
                self.stride = windows.stride_for(self._rate, spec.target_fps)
                self._times = clips.uneven_times(self._dataset.manifest.absolute(self._row))
                if self._times is not None:
                    self.length = windows.length_at(self._times, self._rate)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error) -> None:
        if self._video is not None:
            self._video.close()

    def frames(self, chosen: np.ndarray) -> dict[str, torch.Tensor]:
        """Read windows of each stream: uint8 [V,T,C,H,W], a permuted view of [V,T,H,W,C] memory.

        Args:
            chosen: Frame numbers [V,T].
        """
        if self._times is not None:
            chosen = windows.by_time(chosen, self._times, self._rate).clip(0, self._length() - 1)
        found: dict[str, torch.Tensor] = {}
        for stream in self._dataset.spec.streams:
            read = self._rgb if stream == "rgb" else self._flow
            array = read(chosen.reshape(-1))
            frames = torch.from_numpy(array.reshape(*chosen.shape, *array.shape[1:]))
            found[stream] = frames.permute(0, 1, 4, 2, 3)
        return found

    def _open(self) -> None:
        """Open the video unless it is cached; cache it whole while there is room."""
        if self._kept is not None:
            return
        dataset, row = self._dataset, self._row
        counted = dataset.manifest.frames
        known = None if counted is None else int(counted[row])
        self._video = clips.Video(
            dataset.manifest.absolute(row), dataset.spec.decoder, dataset.spec.decode_size, known
        )
        if known not in (None, self._video.frames):
            raise clips.VideoError(
                f"{self._video.path}: {self._video.frames} frames, {known} when it was "
                "scanned: the file changed; scan the data set again"
            )
        if dataset.cache.room and "rgb" in dataset.spec.streams:
            whole = self._video.read().frames
            self._kept = dataset.cache.keep("rgb", row, whole, self._video.fps)

    def _length(self) -> int:
        """Frames to choose windows from, the same in each stream."""
        dataset, counted = self._dataset, self._dataset.manifest.frames
        if "flow" not in dataset.spec.streams:
            return self._frames()
        kept = dataset.cache.get("flow", self._row)
        flows = len(kept[0]) if kept else flow_store.length(dataset.flow_folder, self._path)
        frames: int | None = None
        if self._video or self._kept:
            frames = self._frames()
        elif counted is not None:
            frames = int(counted[self._row])
        if frames not in (None, flows + 1):
            raise clips.VideoError(
                f"{self._path}: the video has {frames} frames, but {dataset.flow_folder} holds "
                f"{flows} flows, those of {flows + 1}: its numbers mean other "
                "frames. Delete its file there and extract the flow again."
            )
        if not kept:  # the right number of flows, maybe of another video
            flow_store.length(dataset.flow_folder, self._path, dataset.manifest.absolute(self._row))
        return flows

    def _opened(self) -> clips.Video:
        assert self._video is not None, "the row is read within its context"
        return self._video

    def _frames(self) -> int:
        return len(self._kept[0]) if self._kept else self._opened().frames

    def _fps(self) -> float:
        return self._kept[1] if self._kept else self._opened().fps

    def _rgb(self, flat: np.ndarray) -> np.ndarray:
        return self._kept[0][flat] if self._kept else self._opened().read(flat).frames

    def _flow(self, flat: np.ndarray) -> np.ndarray:
        dataset, row = self._dataset, self._row
        kept = dataset.cache.get("flow", row)
        if kept is None and dataset.cache.room:
            whole = flow_store.load(dataset.flow_folder, self._path)
            kept = dataset.cache.keep("flow", row, whole, 0.0)
        if kept is None:
            return flow_store.load(dataset.flow_folder, self._path, flat)
        return kept[0][flat]


def processes(workers: int, training: bool = False) -> dict:
    """Return a DataLoader's arguments for its processes.

    They are spawned, have one thread each, and are given up after HANG seconds.

    Args:
        workers: The number of processes; 0 loads in this one.
        training: Whether they stay between epochs and leave SIGTERM to this process, which must end
            them, as engine.loop.fit does.
    """
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
    to yield when resuming within one. Rows that do not fill a batch wait for another epoch. Raises
    ValueError where batch is not a multiple of world."""

    def __init__(
        self,
        rows: int,
        batch: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch < 1 or world < 1 or batch % world:
            raise ValueError(
                f"the global batch must be a multiple of the number of ranks, got {batch} on "
                f"{world}"
            )
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in 0..{world - 1}, got {rank}")
        self.total = rows // batch  # batches in a whole pass
        if not self.total:
            raise ValueError(
                f"{rows} rows do not fill one batch of {batch}; make the batch smaller"
            )
        self.rows, self.batch, self.seed, self.rank, self.world = rows, batch, seed, rank, world
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return max(0, self.total - self.start)

    def order(self, epoch: int) -> np.ndarray:
        """Return all rows [N] of an epoch in their order."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.rows)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        order, share = self.order(epoch), self.batch // self.world
        for number in range(self.start, self.total):
            first = number * self.batch + self.rank * share
            yield [(epoch, int(row)) for row in order[first : first + share]]
