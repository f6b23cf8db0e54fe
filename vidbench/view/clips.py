"""Playing clips of videos and of their flow; a gallery of neighbors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidbench.data.flow import estimate
from vidbench.data.flow import store as flow_store
from vidbench.data.video import windows
from vidbench.data.video.clips import Video
from vidbench.view.galleries import Row, Source, Tile, encode, filmstrip, gallery
from vidbench.view.looks import FAINT, FONT, Html, colors_for, escaped

if TYPE_CHECKING:
    from vidbench.data.manifest import Manifest
    from vidbench.evaluate.search import Neighbors

WHOLE, SHORT = 300, 288  # frames of the viewer's clip at most, pixels of its shorter side at most
QUICK = ":dis:"  # in place of a flow store's folder: flow is estimated from the frames, by DIS
EASY = 128  # pixels of their shorter side at most
FINE = 18  # lines of a gallery of neighbors whose clips have all their frames
NO_LABELS = "No labels. A blue frame: a clip of the query's own source video."


def playing(
    manifest: Manifest,
    *,
    side: int = 96,
    most: int = 16,
    quality: int = 60,
    flow_folder: str | Path = "",
    speed: Callable[[], float] | None = None,
    with_flow: str | Path = "",
) -> Callable[[int], Tile]:
    """Make a function from a row of the manifest to its Tile.

    The clip has frames spread over the video and plays at the video's own pace.

    Args:
        side: Pixels of the clip's longer side.
        most: Frames of a clip at most.
        quality: Of WebP, from 0 to 100. A page holds dozens of clips, hence the low default.
        flow_folder: A flow store, or QUICK. If given, the tiles show flow in colors.
        speed: Returns the pixels a frame that get full color. Default: `top_speed` of this
            manifest.
        with_flow: A flow store, or QUICK, whose flow the viewer shows next to the tile. Each clip
            has its own full color.
    """
    speed = speed or cache(partial(top_speed, manifest, flow_folder))

    def tile(row: int) -> Tile:
        with Video(manifest.absolute(row), size=side) as video:
            of = video.frames
            at = windows.spread(of, most)
            decoded = video.read(at[[0, -1]] if flow_folder else at)
        frames = (
            estimate.colors(_flows(manifest, flow_folder, row, most), speed())
            if flow_folder
            else decoded.frames
        )
        seconds = max(float(decoded.times[-1] - decoded.times[0]), 0.1)
        named = manifest.names(row)
        clip = encode(frames, len(frames) / seconds, side=side, quality=quality)
        source = _source(named["path"], of, at, decoded.times, bool(flow_folder), most)
        made = Tile(clip, named["label"], Path(named["path"]).stem, source=source)
        if not with_flow or of < 2:
            return made
        flows = _flows(manifest, with_flow, row, most)
        moving = encode(colored(flows), len(flows) / seconds, side=side, quality=quality)
        second = _source(named["path"], of, at, decoded.times, True, most)
        return replace(made, other=Tile(moving, named["label"], source=second))

    return tile


def colored(flows: np.ndarray) -> np.ndarray:
    """Draw flows [T,H,W,2] in colors, uint8 [T,H,W,3]; full color is their own 99 % quantile."""
    limit = float(np.quantile(np.linalg.norm(flows, axis=-1), 0.99))
    return estimate.colors(flows, max(limit, 0.5))  # noise below half a pixel stays pale


def whole(
    manifest: Manifest,
    row: int,
    *,
    flow_folder: str | Path = "",
    speed: Callable[[], float] | None = None,
) -> list[Tile]:
    """Make the clips that the viewer shows of a video: its frames and, second, its flow.

    They have all frames up to `WHOLE`, evenly spread if there are more. The shorter side is `SHORT`
    pixels, or the file's if that is less.

    Args:
        flow_folder: A flow store, QUICK, or "" for the frames alone.
        speed: Returns the pixels a frame that get full color. Default: the clip's own, see
            `colored`.

    Returns:
        One tile, or two with flow (if the video has more than one frame).
    """
    path = manifest.absolute(row)
    with Video(path) as video:
        of = video.frames
        short = min(SHORT, *video.read([0]).frames.shape[1:3])
    with Video(path, size=short) as video:
        at = windows.spread(of, WHOLE)
        decoded = video.read(at)
    named = manifest.names(row)
    shown = {"rgb": decoded.frames}
    if flow_folder and of > 1:
        flows = _flows(manifest, flow_folder, row, WHOLE)
        shown["flow"] = estimate.colors(flows, speed()) if speed else colored(flows)
    made = []
    for kind, frames in shown.items():
        source = _source(os.path.abspath(path), of, at, decoded.times, kind == "flow", WHOLE)
        clip = encode(frames, 25, quality=75, effort=0)
        made.append(Tile(clip, named["label"], Path(named["path"]).stem, source=source))
    return made


def _source(path: str, of: int, at: np.ndarray, times: np.ndarray, flow: bool, most: int) -> Source:
    """What the viewer says of a clip of the frames `at`, shown at `times` (of the first and the last
    frame at least). A flow counts as the frame from which it starts."""
    if not flow:
        return Source(path, "rgb", of, at.tolist(), times.tolist())
    frames = windows.spread(max(of - 1, 1), most)
    return Source(
        path,
        "flow",
        of,
        frames.tolist(),
        np.interp(frames, at[[0, -1]], times[[0, -1]]).tolist(),
    )


def top_speed(
    manifest: Manifest, flow_folder: str | Path, videos: int = 8, flows: int = 4
) -> float:
    """Return the speed in pixels per frame that 99 % of the pixels do not exceed.

    Args:
        flow_folder: A flow store, or QUICK.
        videos: How many are read, evenly spread.
        flows: How many of each video, evenly spread.
    """
    speeds = [
        np.linalg.norm(_flows(manifest, flow_folder, row, flows), axis=-1).ravel()
        for row in windows.spread(len(manifest), videos)
    ]
    return float(np.quantile(np.concatenate(speeds), 0.99))


def neighbors_gallery(
    train: Manifest,
    queries: Manifest,
    found: Mapping[str, Neighbors],
    *,
    titles: Mapping[str, str] | None = None,
    compared: Mapping[str, str] | None = None,
    flow_folder: str | Path = "",
    shown: int = 6,
    results: int = 5,
) -> Html:
    """Draw evenly spread queries, each with its nearest training videos.

    A query has a line of neighbors for each entry of `found`.

    Args:
        found: Name of a search -> the queries' neighbors.
        titles: Name in `found` -> what the page calls it. Default: the names themselves.
        compared: Name -> another name in `found`. Neighbors that the other line has too are marked
            and counted.
        flow_folder: A flow store. If given, the clips show flow in colors, all on one scale, with
            its wheel.
        shown: How many queries.
        results: How many neighbors of each.
    """
    titles = {name: (titles or {}).get(name, name) for name in found}
    limit = top_speed(queries, flow_folder, shown, 8) if flow_folder else 0.0
    # many clips are smaller, so that a page stays below 10 MB
    most, quality = (24, 80) if shown * len(found) <= FINE else (16, 60)
    look = partial(
        playing,
        side=112,
        most=most,
        quality=quality,
        flow_folder=flow_folder,
        speed=lambda: limit,
    )
    plays = {"train": look(train), "query": look(queries)}
    made: dict[Path, Tile] = {}

    def tile(side: str, path: Path, row: int, **verdict) -> Tile:
        if path not in made:
            made[path] = plays[side](row)
        return replace(made[path], **verdict)

    def line(name: str, query: int) -> Row:
        rows, scores = (part[query, :results] for part in (found[name].rows, found[name].scores))
        other = (compared or {}).get(name)
        both = np.isin(rows, found[other].rows[query, :results] if other else [])
        verdicts = [_verdict(train, queries, row, query) for row in rows]
        tiles = [
            tile("train", train.absolute(row), row, score=float(score), mark=bool(mark), **verdict)
            for row, score, mark, verdict in zip(rows, scores, both, verdicts, strict=True)
        ]
        query_tile = tile("query", queries.absolute(query), query)
        return Row(query_tile, tiles, f"also in {titles[other]}" if other else "")

    picked = windows.spread(len(queries), shown)
    lines = {titles[name]: [line(name, query) for query in picked] for name in found}
    made_of = gallery(lines, looks=colors_for(list(lines)))
    unlabeled = "" if train.labeled and queries.labeled else _unlabeled(train, queries)
    return Html(f"{wheel(limit) if flow_folder else ''}{unlabeled}{made_of}")


def wheel(limit: float | None = None, side: int = 96) -> Html:
    """Draw the key to the colors of flow.

    Args:
        limit: Pixels a frame of full color; None if each picture has its own.
        side: Pixels of the wheel.
    """
    speed = f"at the rim {limit:.1f} pixels per frame" if limit else "stronger color: faster motion"
    words = f"direction by color; {speed}"
    return filmstrip([estimate.wheel(side)[None]], [words], height=side)


def said(words: str) -> Html:
    """Set a line of words among clips."""
    return Html(
        f'<div style="font-family:{FONT};font-size:13px;color:{FAINT};padding:8px '
        f'0">{escaped(words)}</div>'
    )


def _verdict(train: Manifest, queries: Manifest, row: int, query: int) -> dict[str, bool | None]:
    """What a neighbor's frame says: right or wrong, or its source if a label is unknown."""
    both = int(train.label[row]), int(queries.label[query])
    if min(both) >= 0:
        return {"right": both[0] == both[1]}
    own, its = (_source_video(*one) for one in ((train, row), (queries, query)))
    return {"sibling": own == its if its in _sources(train) else None}


def _unlabeled(train: Manifest, queries: Manifest) -> Html:
    """Say that labels are unknown, and what a blue frame is if any can come."""
    who = "gallery" if queries.labeled else "queries"
    related = _sources(train) & _sources(queries)
    return said(NO_LABELS if related else f"No labels of the {who}.")


def _source_video(manifest: Manifest, row: int) -> str:
    return str(manifest.source_videos[manifest.source_video[row]])


def _sources(manifest: Manifest) -> set[str]:
    """The source videos of a manifest, by name."""
    return set(map(str, manifest.source_videos[np.unique(manifest.source_video)]))


def _flows(manifest: Manifest, folder: str | Path, row: int, most: int) -> np.ndarray:
    """Read or estimate at most so many flows of a video, evenly spread: [T,H,W,2] in pixels."""
    path = str(manifest.path[row])
    if folder == QUICK:
        return _estimated(manifest.absolute(row), most)
    held = flow_store.meta(folder, path, manifest.absolute(row))
    return estimate.dequantize(
        flow_store.load(folder, path, windows.spread(held["frames"] - 1, most)), held["bound"]
    )


def _estimated(path: Path, most: int) -> np.ndarray:
    """Estimate at most so many flows of a video by DIS; one without motion if it has one frame."""
    with Video(path) as video:
        of = video.frames
        size = min(EASY, *video.read([0]).frames.shape[1:3])
    at = windows.spread(max(of - 1, 1), most)
    with Video(path, size=size) as video:
        pairs = video.read(np.minimum(np.stack([at, at + 1], 1), of - 1).ravel()).frames
    firsts = [pairs[place : place + 2] for place in range(0, len(pairs), 2)]
    return np.concatenate([estimate.estimate(pair, "dis") for pair in firsts])
