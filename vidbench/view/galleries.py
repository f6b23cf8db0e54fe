"""Encoded clips, filmstrips, galleries of neighbors: clips in, HTML out.

Pieces are `looks.Html`, which a notebook shows as it is: inline styles only and no script,
because an untrusted notebook loses <style> and <script>; the page contains clips as data URIs, so
it loads nothing from a network. Every text from outside is escaped on its way in."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vidbench.data.video import windows
from vidbench.view.looks import (
    AXIS_LINE,
    BACK,
    BAD,
    CARD,
    FAINT,
    FONT,
    GOOD,
    INK,
    LINE,
    PALETTE,
    RIGHT,
    WIDTH,
    WRONG,
    Html,
    escaped,
    swatch,
)

OWN = "the query's source video"
LETTER = 7  # pixels at most of a letter in names, in the fonts that browsers take


@dataclass(frozen=True)
class Source:
    """The video that a clip was made from, as the viewer names it.

    Args:
        path: The video's path.
        kind: What the clip shows, rgb or flow.
        of: Frames of the video.
        frames, times: Number (from 0) and seconds of each frame of the clip; () if unknown.
    """

    path: str = ""
    kind: str = ""
    of: int = 0
    frames: Sequence[int] = ()
    times: Sequence[float] = ()

    @property
    def facts(self) -> str:
        """JSON for viewer.js, safe in an attribute."""
        times = [round(float(time), 4) for time in self.times]
        frames = [int(frame) for frame in self.frames]
        facts = {"path": self.path, "kind": self.kind, "of": self.of} | {
            "frames": frames,
            "times": times,
        }
        return escaped(json.dumps({name: one for name, one in facts.items() if one}))


@dataclass(frozen=True)
class Tile:
    """One clip of a gallery: encoded bytes or a data URI, its class ("" if unknown), a line under it.

    Args:
        score, right: A neighbor's; right is None if a label is unknown.
        mark: It is in two lists of neighbors; which, the `mark` of its Row says.
        rank: Where it is not its place in its Row.
        sibling: Whether it comes from the query's own source video, for videos without labels;
            None: not said.
        pick: What a click on it chooses, "" if a click opens the viewer.
        source: The video behind it.
        other: A clip that the viewer shows next to this one, such as its flow.
    """

    clip: bytes | str
    label: str
    caption: str = ""
    score: float | None = None
    right: bool | None = None
    mark: bool = False
    rank: int = 0
    sibling: bool | None = None
    pick: str = ""
    source: Source = Source()
    other: Tile | None = None


@dataclass(frozen=True)
class Row:
    """One query and its neighbors, nearest first.

    Args:
        mark: What the marked neighbors are, such as "also in flow".
    """

    query: Tile
    results: Sequence[Tile]
    mark: str = ""


# ------------------------------------------------------------------------------------------ clips


def encode(
    frames: np.ndarray, fps: float, side: int | None = None, quality: int = 80, effort: int = 4
) -> bytes:
    """Encode frames as an animated WebP that loops; it plays in every browser and in JupyterLab.

    It needs no encoder but Pillow.

    Args:
        frames: uint8 [T,H,W,3] RGB.
        fps: Frames a second.
        side: The longer side in pixels; None keeps it.
        quality: 1 to 100.
        effort: 0 (fast) to 6 (small).

    Raises:
        TypeError: frames are no uint8 array.
        ValueError: frames have another shape, or fps is not positive.
    """
    from PIL import Image

    frames = _checked(frames, "encode")
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(
            f"encode: wanted fps > 0, got {fps}; a clip's own rate is in probe(path).fps"
        )
    pictures = [Image.fromarray(frame) for frame in np.ascontiguousarray(frames)]
    if side is not None:
        scale = side / max(pictures[0].size)
        width, height = (max(1, round(s * scale)) for s in pictures[0].size)
        pictures = [
            picture.resize((width, height), Image.Resampling.LANCZOS) for picture in pictures
        ]
    # WebP counts whole milliseconds: rounding the times, not the steps, keeps the clip's length
    steps = np.diff(np.round(np.arange(len(frames) + 1) * 1000.0 / fps)).astype(int).tolist()
    out = io.BytesIO()
    pictures[0].save(
        out,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=steps,
        loop=0,
        quality=quality,
        method=effort,
    )
    return out.getvalue()


def data_uri(data: bytes, mime: str) -> str:
    """Return bytes as a data URI, an address that contains them.

    Args:
        mime: image/...

    Raises:
        ValueError: there are no bytes, or `mime` is not of an image.
    """
    if not data:
        raise ValueError("data_uri: wanted bytes, got none; was the clip written?")
    if not re.fullmatch(r"image/[a-z0-9.+-]+", mime):
        raise ValueError(f"data_uri: wanted a mime like image/webp, got {mime!r}")
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def clip_html(
    clip: bytes | str,
    alt: str,
    width: int | None = None,
    height: int | None = None,
    narrow: bool = False,
) -> Html:
    """Write one clip as an <img> tag.

    Args:
        clip: WebP, GIF, PNG or JPEG as bytes, or its data URI.
        alt: Text for those who do not see the picture.
        width, height: Pixels on the screen.
        narrow: Whether it shrinks in a place that is narrower.
    """
    sides = [(side, int(n)) for side, n in (("width", width), ("height", height)) if n is not None]
    size = "".join(f' {side}="{n}"' for side, n in sides)
    style = "display:block;margin:0;" + "".join(f"{side}:{n}px;" for side, n in sides)
    style += "max-width:100%;height:auto" if narrow else "max-width:none"
    return Html(
        f'<img src="{uri(clip)}" alt="{escaped(alt)}"{size} loading="lazy" style="{style}">'
    )


def filmstrip(
    clips: Sequence[np.ndarray],
    titles: Sequence[str] | None = None,
    frames: int = 8,
    height: int = 84,
    noun: str = "frames",
) -> Html:
    """Draw rows of small frames, one row per clip, to compare clips, views or flow colors.

    Args:
        clips: uint8 [T,H,W,3] each.
        titles: A title for each clip; default: its number.
        frames: At most so many per row, spread from the first to the last.
        height: Pixels of a frame; less if a row would be wider than a figure.
        noun: What T counts, such as "pictures".

    Raises:
        ValueError: no clips, a wrong number of titles, or frames of another shape.
        TypeError: a clip is no uint8 array.
    """
    if not len(clips):
        raise ValueError("filmstrip: wanted at least one clip, got none")
    if titles is not None and len(titles) != len(clips):
        raise ValueError(
            f"filmstrip: wanted one title per clip, got {len(titles)} for {len(clips)}"
        )
    rows = []
    for i, clip in enumerate(clips):
        clip = _checked(clip, f"filmstrip: clip {i}")
        length = len(clip)
        shown = windows.spread(length, frames)
        encoded, wide, tall = _strip(clip[shown], height)
        title = titles[i] if titles else f"clip {i}"
        count = (
            f"({len(shown)} of {length} {noun})"
            if len(shown) < length
            else f"({length} {noun})" * (length > 1)
        )
        rows.append(
            '<div style="margin:0 0 10px"><div style="margin:0 0 '
            f'3px;font-size:13px">{escaped(title)}'
            f' <span style="color:{FAINT}">{escaped(count)}</span></div>'
            f"{clip_html(encoded, f'{title} {count}'.strip(), wide, tall, narrow=True)}</div>"
        )
    return Html(f'<div style="font-family:{FONT};overflow-x:auto">{"".join(rows)}</div>')


def _strip(frames: np.ndarray, height: int) -> tuple[bytes, int, int]:
    """Frames [n,H,W,3] in a row, as WEBP, with its width and height in pixels."""
    from PIL import Image

    tall, wide = frames.shape[1:3]
    # a row is never wider than a figure
    width = max(1, min(round(wide * height / tall), WIDTH // len(frames) - 2))
    size = (width, max(1, round(tall * width / wide)))
    # transparent between the frames: a theme may be dark
    strip = Image.new("RGBA", ((width + 2) * len(frames) - 2, size[1]))
    for j, frame in enumerate(frames):
        picture = Image.fromarray(np.ascontiguousarray(frame))
        strip.paste(picture.resize(size, Image.Resampling.LANCZOS), (j * (width + 2), 0))
    out = io.BytesIO()
    strip.save(out, "WEBP", quality=90)
    return out.getvalue(), strip.width, strip.height


def _checked(frames: np.ndarray, who: str) -> np.ndarray:
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        kind = getattr(frames, "dtype", type(frames).__name__)
        raise TypeError(
            f"{who}: wanted a numpy array uint8 [T,H,W,3], got {kind}; scale to 0..255 and cast"
        )
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(
            f"{who}: wanted uint8 [T,H,W,3], none of them 0; got {list(frames.shape)}; move "
            "channels last"
        )
    return frames


def uri(clip: bytes | str) -> str:
    """Return an encoded picture as a data URI.

    Args:
        clip: WebP, GIF, PNG or JPEG as bytes, or a picture's data URI, which is returned unchanged.

    Raises:
        ValueError: it is anything else.
    """
    if isinstance(clip, str):
        if not re.match(r"data:image/[a-z0-9.+-]+;base64,[A-Za-z0-9+/=]+\Z", clip):
            raise ValueError(
                f"clip: wanted bytes or a picture's base64 data URI, got {clip[:40]!r}; use encode"
            )
        return clip
    heads = {
        b"RIFF": "image/webp",
        b"\x89PNG": "image/png",
        b"GIF8": "image/gif",
        b"\xff\xd8\xff": "image/jpeg",
    }
    mime = next((mime for head, mime in heads.items() if clip.startswith(head)), None)
    if mime is None:
        raise ValueError(f"clip: wanted WebP, GIF, PNG or JPEG, got {clip[:12]!r}...; use encode")
    return data_uri(clip, mime)


# -------------------------------------------------------------------------------------- galleries


def gallery(
    queries: Sequence[Row] | Mapping[str, Sequence[Row]],
    title: str = "",
    side: int = 108,
    looks: Mapping[str, tuple[str, str]] | None = None,
) -> Html:
    """Draw queries on the left and their neighbors on the right, nearest first.

    The layout is that of Figure 1 in CoCLR's supplement. Right and wrong differ by color and by
    sign.

    Args:
        queries: Rows of one method, or method -> rows; then each query is shown once, with a line
            of neighbors per method.
        side: Pixels of a tile.
        looks: Method -> color and dash of the square before its name, see `looks.colors_for`.

    Raises:
        ValueError: there is nothing to show, or the methods' queries or their order differ.
    """
    blocks = dict(queries) if isinstance(queries, Mapping) else {"": list(queries)}
    shown = [[(row.query.label, row.query.caption) for row in rows] for rows in blocks.values()]
    if not shown or not shown[0]:
        raise ValueError("gallery: wanted at least one query, got none")
    if any(other != shown[0] for other in shown):
        raise ValueError(
            "gallery: wanted the same queries in the same order for every method; select them once"
        )
    parts = (
        [f'<div style="font-size:16px;font-weight:600;margin:0 0 10px">{escaped(title)}</div>']
        if title
        else []
    )
    for rows in zip(*blocks.values(), strict=True):
        lines = "".join(
            _neighbors(name, row, side, (looks or {}).get(name))
            for name, row in zip(blocks, rows, strict=True)
        )
        parts.append(
            '<div style="display:flex;flex-wrap:wrap;gap:14px;align-items:stretch;padding:12px 0;border-top:1px '
            f'solid {LINE}">'
            '<div style="padding-right:14px;border-right:1px solid '
            f'{LINE}">{_tile(rows[0].query, 0, side)}</div>'
            f'<div style="flex:1 1 {2 * side + 20}px;min-width:{side + 6}px">{lines}</div></div>'
        )
    return Html(
        f'<div style="font-family:{FONT};line-height:1.35;overflow-x:auto;padding:0 4px 4px">{"".join(parts)}</div>'
    )


def _neighbors(name: str, row: Row, side: int, look: tuple[str, str] | None) -> str:
    """One method's neighbors of one query; a named method counts the right and the marked ones."""
    head = name and f"<b>{escaped(name)}</b>{_counted(row)}"
    square = swatch(look) if look else ""
    head = head and f'<div style="font-size:13px;margin:0 0 4px">{square}{head}</div>'
    strip = "".join(
        _tile(tile, tile.rank or place, side, row.mark) for place, tile in enumerate(row.results, 1)
    )
    strip = strip or f'<span style="font-size:13px;color:{FAINT}">no neighbors</span>'
    strip = f'<div style="display:flex;flex-wrap:wrap;gap:8px;align-items:flex-start">{strip}</div>'
    return f'<div style="margin:0 0 10px">{head}{strip}</div>'


def _counted(row: Row) -> str:
    """How many neighbors are right, or siblings where labels are unknown, and how many marked."""
    judged = [tile for tile in row.results if tile.right is not None]
    known = [tile for tile in row.results if tile.sibling is not None]
    words = []
    if judged:
        words.append(f"{sum(bool(tile.right) for tile in judged)} of {len(judged)} right")
    elif known:
        count = sum(bool(tile.sibling) for tile in known)
        words.append(f"{count} of {len(known)} from {OWN}")
    if row.mark:
        words.append(f"{sum(tile.mark for tile in row.results)} {row.mark}")
    said = "".join(f" · {escaped(one)}" for one in words)
    return f'<span style="color:{FAINT}">{said}</span>'


def _verdict(tile: Tile, rank: int) -> tuple[str, str, str]:
    """The color of a tile's frame, the sign before its rank, and what both say in words."""
    if tile.right is not None:
        if tile.right:
            return RIGHT, f'<b style="color:{GOOD}">✓</b> ', "right"
        return WRONG, f'<b style="color:{BAD}">✗</b> ', "wrong"
    if tile.sibling:
        return PALETTE[0], "", f"from {OWN}"
    return (AXIS_LINE if rank else ""), "", ""


def _tile(tile: Tile, rank: int, side: int, mark: str = "") -> str:
    """A framed clip, its class in the corner; below it verdict, rank (0: query), score, caption."""
    color, sign, word = _verdict(tile, rank)
    score, mark = "" if tile.score is None else f"{tile.score:.2f}", mark if tile.mark else ""
    place = f"rank {rank}" if rank else "query"
    words = [place, tile.label, score and f"score {score}", word, mark]
    alt = ", ".join(filter(None, words))
    width, height = _fit(uri(tile.clip), side)
    line = f"{sign}{rank}" if rank else "<b>query</b>"
    chip = f"position:absolute;left:0;max-width:{side - 8}px;overflow:hidden;white-space:nowrap;text-overflow:ellipsis;"
    chip += "padding:0 4px 1px;font-size:11px;"
    label = tile.label and f'<span style="{chip}top:0;{CARD}">{escaped(tile.label)}</span>'
    marked = (
        mark
        and f'<span style="{chip}top:{side - 16}px;background-color:{INK};color:#FFFFFF">in '
        "both</span>"
    )
    return (
        f'<div style="width:{side + 6}px;font-size:12px" title="{escaped(alt)}"{attributes(tile)}>'
        f'<div style="position:relative;box-sizing:border-box;width:{side + 6}px;height:{side + 6}px;display:flex;'
        f'align-items:center;justify-content:center;background-color:{BACK};border:3px solid {color}">'
        f"{clip_html(tile.clip, alt, width, height)}{label}{marked}</div>"
        f'<div style="display:flex;justify-content:space-between;margin-top:2px"><span>{line}</span>'
        f'<span>{score}</span></div><div style="color:{FAINT};font-size:11px;'
        f'overflow:hidden;white-space:nowrap"><span title="{escaped(tile.caption)}">'
        f"{escaped(fitted(tile.caption, side))}</span></div></div>"
    )


def attributes(tile: Tile) -> str:
    """Return a tile's HTML attributes, which viewer.js and `widgets.pieces` read.

    A click or the Tab key reaches the tile, and JupyterLab does not take its key presses."""
    pick = f' data-pick="{escaped(tile.pick)}"' if tile.pick else ""
    keys = 'tabindex="0" role="button" data-lm-suppress-shortcuts="true"'
    other = (
        tile.other
        and f' data-other="{uri(tile.other.clip)}" data-facts="{tile.other.source.facts}"'
    )
    return f'{pick} data-clip="{tile.source.facts}"{other or ""} {keys}'


def fitted(text: str, width: int) -> str:
    """Shorten a name in its middle, as names of one class differ at their ends.

    Args:
        text: Drawn 11 pixels high.
        width: Pixels.
    """
    letters = width // LETTER
    tail = letters * 2 // 3
    return text if len(text) <= letters else f"{text[: letters - tail - 1]}…{text[-tail:]}"


def _fit(uri: str, side: int) -> tuple[int, int]:
    """Width and height that fit a picture into a square."""
    from PIL import Image

    width, height = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size
    scale = side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))
