"""A video file to a float tensor, one thread: random clip of 32 frames, random-resized crop to 128,
flip, normalize.

vidbench's Clips, from the source and from each form of the store, torchvision's VideoClips,
mmaction2's and pytorchvideo's pipelines where they are installed and run, and plain decord
with torchvision's transforms.v2. All take a clip of the same files at the same starts; each draws
its own crops. The goal is against the fastest peer of the run; plain decord counts as one only
where there is no other."""

from __future__ import annotations

import statistics
import sys
import tempfile
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms import v2

from benchmarks import footage, measure
from benchmarks.reader import with_decord
from benchmarks.views import v2_chain
from vidbench.data.loading import augmentation, transforms
from vidbench.data.loading.dataset import Clips, ClipSpec
from vidbench.data.prepare import store
from vidbench.data.video import clips, windows

AUGMENT = replace(augmentation.PRESETS["weak"], size=128)
SPEC = ClipSpec(frames=footage.FRAMES, views=1, augment=AUGMENT)
SOURCE, PLAIN = "vidbench, source", "plain decord + v2"
WANTED = {SOURCE: ">= 1.2", "vidbench, store mp4": ">= 5"}
Way = Callable[
    [int, int, int], torch.Tensor
]  # (round, file's number, first frame) to float [3,T,128,128]


def main(rounds: int = 9, count: int = 8) -> list[dict]:
    """Rows of Kinetics and UCF101 files, and goal P3."""
    measure.one_thread()
    table, goals = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for kind in footage.KINDS:
            paths = footage.files(kind, Path(scratch), count)
            ways = {**ours(paths, Path(scratch) / "stores" / kind), **peers(paths)}
            seconds = compare(ways, paths, rounds)
            for row in measure.rows(seconds, SOURCE, case=f"{kind}, {len(paths)} files"):
                table.append({**row, "ms": round(row["ms"] / len(paths), 2)})
            best = fastest(seconds)
            for name, wanted in WANTED.items():
                speed = measure.ratios(seconds[best], seconds[name])
                goals.append(
                    measure.goal("P3", f"{name}: {best}'s time over it, {kind}", wanted, speed)
                )
    return table + goals


def compare(ways: dict[str, Way], paths: list[Path], rounds: int) -> dict[str, list[float]]:
    """Seconds of each round, a clip of every file, after a look at what comes out."""
    lengths = [clips.probe(path).frames for path in paths]
    draws = [[(r, i, _generator(r, i, n)[1]) for i, n in enumerate(lengths)] for r in range(rounds)]
    for name, way in ways.items():
        out = way(*draws[0][0])
        if out.dtype != torch.float32 or out.shape != (3, footage.FRAMES, 128, 128):
            raise AssertionError(f"{name} gives {out.dtype} {tuple(out.shape)}")
    for r, i, start in draws[0]:
        off = (
            (ways[SOURCE](r, i, start) - expected(paths[i], r, i, lengths[i])).abs().mean()
            * 255
            * 0.225
        )
        if off > 1.5:
            raise AssertionError(
                f"{paths[i].name}: {off:.1f} levels from the same view of a whole decode"
            )
    calls = {
        name: lambda draw, way=way: [way(*clip) for clip in draw] for name, way in ways.items()
    }
    return measure.in_turn(calls, draws=draws)


def _generator(epoch: int, row: int, length: int) -> tuple[np.random.Generator, int]:
    """The generator of a sample of Clips after its window was drawn, and that window's first
    frame."""
    rng = np.random.default_rng([0, epoch, row])
    return rng, int(
        windows.random_windows(length, footage.FRAMES, 1, 1, rng=rng, pad=SPEC.pad)[0, 0]
    )


def expected(path: Path, epoch: int, row: int, length: int) -> torch.Tensor:
    """What Clips should give: the frames out of a whole decode, the view applied by torchvision."""
    rng, start = _generator(epoch, row, length)
    frames = torch.from_numpy(footage.whole(path)[start : start + footage.FRAMES]).permute(
        0, 3, 1, 2
    )
    return v2_chain(
        frames, augmentation.draw(AUGMENT, *frames.shape[-2:], footage.FRAMES, rng), AUGMENT.size
    )


def fastest(seconds: dict[str, list[float]]) -> str:
    """The peer to be measured against."""
    theirs = [name for name in seconds if not name.startswith("vidbench")]
    return min(
        [n for n in theirs if n != PLAIN] or theirs,
        key=lambda name: statistics.median(seconds[name]),
    )


# ---- contestants -------------------------------------------------------------------------------


def ours(paths: list[Path], folder: Path) -> dict[str, Way]:
    """Clips on the source and on the three forms of the store."""
    manifest = footage.manifest(paths)
    samples = {SOURCE: Clips(manifest, SPEC)}
    for format in store.FORMATS:
        stored = store.store(manifest, folder / format, format, progress=False).manifest
        samples[f"vidbench, store {format}"] = Clips(stored, SPEC)
    return {
        name: lambda r, i, start, s=sample: s[r, i]["rgb"][0] for name, sample in samples.items()
    }


def peers(paths: list[Path]) -> dict[str, Way]:
    """Those that can be made and give a clip here; a line for each that cannot."""
    makers = {
        PLAIN: plain,
        "torchvision VideoClips": videoclips,
        "mmaction2, decord": mmaction("Decord"),
        "mmaction2, OpenCV": mmaction("OpenCV"),
        "mmaction2, PyAV": mmaction("PyAV"),
        "pytorchvideo, PyAV": pytorchvideo("pyav"),
        "pytorchvideo, decord": pytorchvideo("decord"),
    }
    found = {}
    for name, make in makers.items():
        try:
            way = make(paths)
            way(0, 0, 0)
            found[name] = way
        except (
            Exception
        ) as error:  # other people's code, of other years: whatever it raises is the reason
            said = " ".join(str(error).split())
            print(f"{name} is skipped: {type(error).__name__}: {said[:100]}")
        bridge("native")
    return found


def bridge(kind: str) -> None:
    """What decord's frames are, in the whole process: pytorchvideo sets it to tensors and leaves it
    so."""
    import decord

    decord.bridge.set_bridge(kind)


def plain(paths: list[Path]) -> Way:
    transform = v2_transform()
    return lambda r, i, start: transform(
        torch.from_numpy(with_decord(paths[i], start)).permute(0, 3, 1, 2)
    )


def v2_transform() -> Callable:
    """uint8 [T,C,H,W] to float [C,T,128,128]."""
    chain = v2.Compose(
        [
            v2.RandomResizedCrop(128, scale=AUGMENT.area, ratio=AUGMENT.aspect, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(transforms.MEAN, transforms.STD),
        ]
    )
    return lambda clip: chain(clip).transpose(0, 1)


def videoclips(paths: list[Path]) -> Way:
    if reason := footage.no_torchcodec():
        raise measure.Skip(reason)
    from torchvision.datasets.video_utils import VideoClips

    table, transform = VideoClips([str(path) for path in paths], footage.FRAMES, 1), v2_transform()
    first = [0, *table.cumulative_sizes]

    def way(r: int, i: int, start: int) -> torch.Tensor:
        frames, _, _, video = table.get_clip(min(first[i] + start, first[i + 1] - 1))
        if video != i:
            raise AssertionError(f"clip of video {video} instead of {i}")
        return transform(frames.permute(0, 3, 1, 2))

    return way


def mmaction(decoder: str) -> Callable:
    """mmaction2's pipeline with one of its decoders; its normalization, which is the model's there,
    comes after."""

    def make(paths: list[Path]) -> Way:
        from mmaction.datasets import transforms as t

        one = {"num_threads": 1} if decoder == "Decord" else {}
        chain = [
            getattr(t, f"{decoder}Init")(**one),
            None,
            getattr(t, f"{decoder}Decode")(),
            t.RandomResizedCrop(AUGMENT.area, AUGMENT.aspect),
            t.Resize((128, 128), keep_ratio=False),
            t.Flip(flip_ratio=0.5),
            t.FormatShape("NCTHW"),
        ]
        mean, std = (
            255 * torch.tensor(v).view(3, 1, 1, 1) for v in (transforms.MEAN, transforms.STD)
        )

        def way(r: int, i: int, start: int) -> torch.Tensor:
            row = {
                "filename": str(paths[i]),
                "start_index": 0,
                "modality": "RGB",
                "num_clips": 1,
                "clip_len": footage.FRAMES,
                "frame_interval": 1,
            }
            for step in chain:
                if step is None:  # instead of SampleFrames, which draws the start
                    row["frame_inds"] = np.arange(start, start + footage.FRAMES)
                else:
                    row = step(row)
            return (torch.from_numpy(row["imgs"][0]).float() - mean) / std

        return way

    return make


def pytorchvideo(decoder: str) -> Callable:
    """pytorchvideo's EncodedVideo; its transforms import what torchvision no longer has, so v2
    follows."""

    def make(paths: list[Path]) -> Way:
        stand_in = "torchvision.transforms.functional_tensor"
        sys.modules.setdefault(stand_in, types.ModuleType(stand_in))
        from pytorchvideo.data.encoded_video import EncodedVideo

        transform, rates = v2_transform(), [clips.probe(path).fps for path in paths]

        def way(r: int, i: int, start: int) -> torch.Tensor:
            bridge("torch" if decoder == "decord" else "native")
            video = EncodedVideo.from_path(str(paths[i]), decode_audio=False, decoder=decoder)
            found = video.get_clip(
                (start - 0.25) / rates[i], (start + footage.FRAMES - 0.25) / rates[i]
            )["video"]
            video.close()
            bridge("native")
            chosen = (
                torch.linspace(0, found.shape[1] - 1, footage.FRAMES).round().long()
            )  # may be one more or less
            return transform(found[:, chosen].byte().transpose(0, 1))

        return way

    return make
