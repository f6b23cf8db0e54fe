"""A box for a video from outside: dropped, uploaded or named by its path, it meets its neighbors by
several searches at once.

The page sends an uploaded file in parts, because JupyterLab's server closes the connection on a
message of over 10 MB. Nothing is sent of a file above `MOST` bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidbench.evaluate.query import Hits
from vidbench.system.files import written
from vidbench.view.clips import neighbors_gallery, said
from vidbench.view.galleries import Tile
from vidbench.view.looks import BACK, FAINT, FONT, LINE, Html
from vidbench.view.widgets.pieces import Clicks
from vidbench.view.widgets.videos import Videos, whole_of

if TYPE_CHECKING:
    from anywidget import AnyWidget

MOST, PART = 200 * 2**20, 2 * 2**20  # bytes of an uploaded file at most, and of one message
EMPTY = "Name a video to see its neighbors, or run this cell in JupyterLab and drop one."

DROP = f"""
const MOST = {MOST}, PART = {PART};
export default {{ render({{ model, el }}) {{
  el.innerHTML = `<label class="drop">Drop a video here, or <input type="file" accept="video/*,image/*"
    aria-label="a video to upload"> <span class="limit">${{MOST / 2 ** 20}} MB at most</span></label>`;
  const place = el.querySelector(".drop"), limit = el.querySelector(".limit");
  place.style = "display:block;padding:14px;border:2px dashed {LINE};border-radius:6px;font:13px {FONT}";
  limit.style.color = "{FAINT}";
  const bound = `${{MOST / 2 ** 20}} MB at most`, say = words => {{ limit.textContent = words; }};
  const send = async (files, none) => {{
    const [file] = files;
    if (!file) return say(none);
    say(files.length > 1 ? `${{bound}}; of ${{files.length}} files the first is taken` : bound);
    if (file.size > MOST) return model.send({{ name: file.name, size: file.size }});
    const parts = Math.max(1, Math.ceil(file.size / PART)), id = `${{Math.random()}}`;
    try {{
      for (let part = 0; part < parts; part++) {{
        const bytes = await file.slice(part * PART, (part + 1) * PART).arrayBuffer();
        model.send({{ name: file.name, size: file.size, id, part, parts }}, undefined, [bytes]);
      }}
    }} catch {{  // a folder, or a file that is gone
      say(`${{file.name}} cannot be read; drop a video file`);
    }}
  }};
  place.querySelector("input").onchange = event => send(event.target.files, bound);
  const light = on => {{
    place.style.borderColor = on ? "var(--jp-brand-color1, #0072B2)" : "{LINE}";
    place.style.backgroundColor = on ? "{BACK}" : "";
  }};
  place.ondragenter = () => light(true);
  place.ondragleave = event => {{ if (!place.contains(event.relatedTarget)) light(false); }};
  place.ondragover = event => {{ event.preventDefault(); event.dataTransfer.dropEffect = "copy"; light(true); }};
  place.ondrop = event => {{
    event.preventDefault();
    event.stopPropagation();
    light(false);
    place.querySelector("input").value = "";  // the name of an earlier upload
    send(event.dataTransfer.files, "that was no file; drop a video file");
  }};
  // a file dropped outside the box must not replace the page, as browsers have it: no drop is offered
  const outside = event => {{
    const file = event.dataTransfer?.types.includes("Files") && event.target.closest?.(".jp-Notebook");
    if (!file || event.defaultPrevented) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "none";
  }};
  document.addEventListener("dragover", outside);
  return () => document.removeEventListener("dragover", outside);
}} }};
"""


class QueryBox:
    """The neighbors of one video by several searches.

    Args:
        searches: Name -> a function from a video file to its `Hits`.
        folder: Where uploaded videos are written; made when the first one comes.
        flow_folder: The flow store of the galleries, which the clip viewer shows next to RGB.
        path: The first video, "" for none.
    """

    def __init__(
        self,
        searches: Mapping[str, Callable[[Path], Hits]],
        folder: str | Path,
        flow_folder: str | Path = "",
        path: str | Path = "",
    ):
        if not searches:
            raise ValueError("QueryBox needs at least one search by name; got none.")
        self.searches, self.folder, self.flow = dict(searches), Path(folder), flow_folder
        self.path = str(path)
        self.sides: dict[str, Videos] = {}  # what is shown, for the viewer

    def html(self, path: str | Path = "") -> Html:
        """Draw a video and its neighbors, a line for each search; a sentence if it cannot be read.

        path: of the video; the first one if empty.
        """
        path = str(path) or self.path
        if not path:
            return said(EMPTY)
        try:
            found = {name: search(Path(path)) for name, search in self.searches.items()}
        except (
            OSError,
            ValueError,
            RuntimeError,
        ) as error:  # one sentence, not one for each search
            return said(str(error))
        self.sides = {}
        blocks: dict[str, dict[str, Hits]] = {}  # searches of one gallery share a picture
        for name, hits in found.items():
            key = f"{hits.gallery.root} {hits.gallery.fingerprint()}"
            blocks.setdefault(key, {})[name] = hits
            self.sides.setdefault(key, Videos.of(hits.gallery, flow_folder=self.flow))
            self.sides.setdefault("query", Videos.of(hits.queries))
        return Html("".join(map(_drawn, blocks.values())))

    def whole(self, path: str) -> list[Tile]:
        """Return the clips that the viewer shows of a video of the last picture."""
        return whole_of(self.sides, path)

    def keep(self, name: str, data: bytes) -> Path:
        """Write an uploaded video into the folder; equal bytes of one name are written once.

        Args:
            name: The upload's file name.
            data: Its bytes.

        Returns:
            The file, whose name begins with the checksum of its bytes.
        """
        clean = re.sub(r"[^\w.-]+", "_", Path(name).name)[-80:]
        path = self.folder / f"{hashlib.sha256(data).hexdigest()[:8]}-{clean}"
        if not path.exists():
            with written(path) as temporary:
                temporary.write_bytes(data)
        return path


def _drawn(found: Mapping[str, Hits]) -> Html:
    hits = next(iter(found.values()))
    near = {name: one.neighbors for name, one in found.items()}
    deep = max(one.rows.shape[1] for one in near.values())
    return neighbors_gallery(hits.gallery, hits.queries, near, shown=1, results=deep)


class QueryControls:
    """A place to drop a video, a field for its path, and the gallery of its neighbors."""

    def __init__(self, box: QueryBox):
        import ipywidgets

        self.query = box
        self._parts: dict[str, list[bytes]] = {}  # of the upload that is on its way
        self.path = ipywidgets.Text(
            placeholder="or type a path on the kernel's machine, then Enter",
            description="path",
            continuous_update=False,
            layout={"width": "520px", "max_width": "100%"},
            style={"description_width": "initial"},
        )
        self.where = said(f"An uploaded video is written to {box.folder}.")
        self.said, self.tiles = ipywidgets.HTML(self.where), ipywidgets.HTML()
        self.tiles.add_class("vidbench-tiles")
        self.box = ipywidgets.VBox()
        self.clicks, self.drop = Clicks(self.box, whole=box.whole), _drop()()
        self.box.children = [
            self.drop,
            self.path,
            self.said,
            self.clicks.late,
            self.clicks.answer,
            self.tiles,
            self.clicks.widget,
        ]
        self.drop.on_msg(lambda _, message, buffers: self._came(message, buffers))
        self.path.observe(lambda change: self.look(change["new"].strip()), "value")

    def look(self, path: str | Path) -> None:
        """Show the neighbors of a video; nothing for an empty path."""
        if not str(path):
            return
        searches = ", ".join(self.query.searches)
        self.said.value = said(f"Searching for {Path(path).name} by {searches} ...")
        self.tiles.value = str(self.query.html(path))
        self.said.value = self.where

    def _came(self, message: Mapping[str, Any], buffers: Sequence[Any]) -> None:
        """A part of an uploaded file, or the name of one that is too large."""
        name, size = message["name"], message["size"]
        if size > MOST:
            self.said.value = said(
                f"A video may have at most {MOST / 2**20:.0f} MB; {name} has {size / 2**20:.0f} MB. "
                "Type its path instead."
            )
            return
        if message["part"] == 0:
            self._parts = {message["id"]: []}  # an upload that was left half done is dropped
        parts = self._parts.get(message["id"])
        if parts is None or len(parts) != message["part"]:
            return
        parts.append(bytes(buffers[0]))
        self.said.value = said(f"{name}: part {len(parts)} of {message['parts']}")
        if len(parts) == message["parts"]:
            self._parts = {}
            self.path.value = ""
            self.path.value = str(
                self.query.keep(name, b"".join(parts))
            )  # searched by its observer

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.box)
        self.path.value = self.query.path  # it searches after the controls are there


@cache
def _drop() -> type[AnyWidget]:
    import anywidget

    class Drop(anywidget.AnyWidget):
        _esm = DROP

    return Drop


def show(box: QueryBox) -> QueryControls:
    """Put controls on a box: a place to drop a video and a field for its path. Needs a kernel."""
    return QueryControls(box)
