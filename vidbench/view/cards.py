"""Cards: clips that play, each with a name and a sentence, in a wall of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vidbench.data.flow import estimate
from vidbench.data.video import windows
from vidbench.view import clips
from vidbench.view.galleries import Source, Tile, attributes, clip_html, encode
from vidbench.view.looks import FAINT, FONT, Html, escaped

if TYPE_CHECKING:
    from vidbench.data.manifest import Manifest


class Card(NamedTuple):
    """One clip, which opens in the viewer, with its name and a sentence."""

    tile: Tile
    name: str
    words: str = ""


QUALITY = 60  # of WebP: a wall has dozens of clips


def card(frames: np.ndarray, fps: float, name: str, words: str = "", side: int = 96) -> Card:
    """Make a card of frames.

    The viewer shows its flow next to it, estimated by DIS.

    Args:
        frames: uint8 [T,H,W,3].
        fps: Frames a second.
        name: Set in bold below the clip.
        words: A sentence below the name.
        side: Pixels of the longer side.
    """
    path, number = f"drawn: {name}", range(len(frames))
    times = [place / fps for place in number]

    def tile(kind: str, pictures: np.ndarray) -> Tile:
        shown = len(pictures)
        source = Source(path, kind, len(frames), number[:shown], times[:shown])
        return Tile(encode(pictures, fps, side, QUALITY), name, source=source)

    made = tile("rgb", frames)
    if len(frames) > 1:
        made = replace(made, other=tile("flow", clips.colored(estimate.estimate(frames, "dis"))))
    return Card(made, name, words)


def wall(cards: Sequence[Card], width: int = 140, title: str = "") -> Html:
    """Set cards side by side, as many in a line as fit.

    Args:
        cards: In order.
        width: Pixels of a card; the clips keep their own size.
        title: A heading above them.

    Raises:
        ValueError: There are no cards.
    """
    if not cards:
        raise ValueError("wall: needs at least one card; got none.")
    made = (
        f'<div style="width:{width}px" title="{escaped(one.name)}"{attributes(one.tile)}>'
        f"{clip_html(one.tile.clip, one.name)}"
        '<div style="font-weight:600;margin-top:4px;overflow-wrap:anywhere">'
        f"{escaped(one.name).replace('_', '_<wbr>')}</div>"
        f'<div style="color:{FAINT};font-size:12px;line-height:1.35">{escaped(one.words)}</div></div>'
        for one in cards
    )
    looks = "display:flex;flex-wrap:wrap;gap:14px 12px;margin-bottom:8px"
    looks += f";font-family:{FONT};font-size:13px"
    head = title and f'<div style="font-weight:600;width:100%">{escaped(title)}</div>'
    return Html(f'<div style="{looks}">{head}{"".join(made)}</div>')


def samples(manifest: Manifest, most: int = 6) -> Html:
    """Play videos that are evenly spread over a manifest.

    Args:
        manifest: What to take them from.
        most: How many at most.

    Returns:
        A wall with the class below each clip, or the file's name if there is no label.
    """
    look = clips.playing(manifest, with_flow=clips.QUICK)
    tiles = [look(int(row)) for row in windows.spread(len(manifest), min(most, len(manifest)))]
    return wall(
        [
            Card(tile, tile.label or tile.caption, tile.caption if tile.label else "")
            for tile in tiles
        ],
        width=124,
    )


def shipped(path: str | Path) -> Html:
    """Play a clip that comes with vidbench, while a notebook loads the rest.

    Args:
        path: An animated WebP.

    Returns:
        The clip, or a sentence if the file is missing: a copied notebook lacks it.
    """
    path = Path(path)
    if not path.is_file():
        return Html(
            f'<div style="color:{FAINT}">{escaped(path)} is missing; nothing needs it</div>'
        )
    words, clip = "a clip of the toy world, playing", path.read_bytes()
    tile = Tile(clip, words, source=Source(str(path), "rgb"))
    inside = f"{attributes(tile)}>{clip_html(clip, words, narrow=True)}"
    return Html(f'<div style="display:inline-block" title="{words}"{inside}</div>')
