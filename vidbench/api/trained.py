"""`Trained`: runs with what they can do for videos; `vb.load`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vidbench.api.table import Probe, Table
from vidbench.api.videos import Source, Videos, opened
from vidbench.data.manifest import SPLITS, Manifest
from vidbench.engine.runs import Run, RunError
from vidbench.evaluate.features import PROTOCOLS, extract, load_or_extract
from vidbench.evaluate.tables import Features
from vidbench.methods.common import data_set
from vidbench.view.html import table


class Trained:
    """A trained network: the last RGB run, or the last run if no run is on RGB.

    run: its run directory. streams: stream (rgb, flow) -> Trained, the last run of each."""

    def __init__(self, runs: Mapping[str, Run]):
        self._runs = dict(runs)
        self.run = self._runs.get("rgb") or next(iter(self._runs.values()))

    @property
    def streams(self) -> dict[str, Trained]:
        """The last run of each stream."""
        return {stream: Trained({stream: run}) for stream, run in self._runs.items()}

    def embed(
        self, videos: Videos | Source | None = None, *, protocol: str = "vidbench", data: str = ""
    ) -> Table:
        """Compute a vector for each video, without randomness.

        Args:
            videos: Any videos; by default those that the run was trained on, all splits.
            protocol: How clips become a vector, a name in evaluate.protocols.
            data: Of a run on several data sets, as whose videos these are seen.

        Raises:
            ValueError: The protocol is unknown.
            RunError: A feature is not finite.
            VideoError: A video cannot be read.
        """
        if protocol not in PROTOCOLS:
            known = ", ".join(PROTOCOLS)
            raise ValueError(f"protocol must be one of {known}; got {protocol!r}.")
        own = Manifest.load(data_set(self.run, data).manifest)
        manifest = own if videos is None else opened(videos)
        if manifest.fingerprint() == own.fingerprint() and manifest.root == own.root:
            features = _kept(self.run, own, protocol, data)
        else:
            features = extract(self.run, manifest, PROTOCOLS[protocol], data=data)
        return Table(features, manifest, self.run.folder.name)

    def probe(self, seed: int = 0) -> Probe:
        """Fit and test a linear probe on the run's own labeled videos: `Table.probe`."""
        return self.embed().probe(seed)

    def browse(self) -> Any:
        """Open the browser of neighbors: held-out videos as queries, training videos as gallery.

        Raises:
            ValueError: Nothing is held out.
        """
        from vidbench.view.widgets import shown
        from vidbench.view.widgets.neighbors import Browser

        manifest = Manifest.load(data_set(self.run).manifest)
        sides = ("train", manifest.held_out())
        lists = {
            run.folder.name: [load_or_extract(run, split) for split in sides]
            for run in self._runs.values()
        }
        gallery, queries = (manifest.select(split=split) for split in sides)
        flow = next((data_set(run).flow for run in self._runs.values()), "")
        return shown(Browser(gallery, queries, lists, centering="gallery", flow_folder=flow), 3)

    def __repr__(self) -> str:
        streams = ", ".join(f"{stream} {run.folder.name}" for stream, run in self._runs.items())
        return f"Trained({streams}; in {self.run.folder.parent})"

    def _repr_html_(self) -> str:
        rows = []
        for stream, run in self._runs.items():
            budget = run.budget()
            facts = {"epochs": budget["epochs"], "clips": budget["clips"]}
            stages = " > ".join(budget["stages"])
            rows.append({"stream": stream, "run": run.folder.name, **facts, "stages": stages})
        return table(rows, note=f"Runs in {self.run.folder.parent}")


def load(folder: str | Path) -> Trained:
    """Load a run directory, or a folder of runs: of each stream the one with most stages behind it.

    Raises:
        RunError: There is no complete run in the folder.
    """
    place = Path(folder).expanduser().resolve()
    if (place / "recipe.json").is_file():
        run = Run(place)
        return Trained({run.recipe.stream: run})
    found = [Run(file.parent) for file in sorted(place.glob("*/recipe.json"))]
    complete = [run for run in found if run.state == "complete"]
    if not complete:
        states = ", ".join(f"{run.folder.name} is {run.state}" for run in found) or "it has no runs"
        raise RunError(f"{place} must hold a complete run; {states}. Train first, or resume.")
    last = {run.recipe.stream: run for run in sorted(complete, key=_stages)}
    return Trained({stream: last[stream] for stream in ("rgb", "flow") if stream in last})


def _stages(run: Run) -> int:
    return len(run.budget()["stages"])


def _kept(run: Run, manifest: Manifest, protocol: str, data: str) -> Features:
    """The features of all splits that are kept in the run, in the manifest's order."""
    parts = {
        number: load_or_extract(run, SPLITS[number], PROTOCOLS[protocol], data=data)
        for number in np.unique(manifest.split).tolist()
    }
    first = next(iter(parts.values()))
    values = np.empty((len(manifest), first.values.shape[1]), first.values.dtype)
    video = np.empty(len(manifest), np.int64)
    for number, part in parts.items():
        values[manifest.split == number] = part.values
        if part.video is not None:
            video[manifest.split == number] = part.video
    protocol_ = {**first.protocol, "rows": manifest.fingerprint()}
    return Features(
        values, manifest.label, manifest.source_video, manifest.classes, protocol_, video=video
    )
