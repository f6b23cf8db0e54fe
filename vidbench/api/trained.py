"""`Trained`: runs with what they can do for videos; `vb.load`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vidbench.api.answers import Found, Predicted
from vidbench.api.table import Probe, Table
from vidbench.api.videos import Source, Videos, opened
from vidbench.data.manifest import Manifest
from vidbench.engine.runs import Run, RunError
from vidbench.evaluate import query
from vidbench.evaluate.classes import classify
from vidbench.evaluate.embed import embed, left_out
from vidbench.evaluate.export import export
from vidbench.evaluate.features import load_or_extract
from vidbench.evaluate.protocols import PROTOCOLS, Protocol
from vidbench.evaluate.query import Hits
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
        own = data_set(self.run, data).manifest
        manifest = Manifest.load(own) if videos is None else opened(videos)
        done = embed(self.run, manifest, _protocol(protocol), data=data)
        _say_left_out(done.failed, len(manifest))
        return Table(done.table, done.manifest, self.run.folder.name)

    def search(
        self,
        what: Videos | Source,
        k: int = 5,
        *,
        among: Videos | Source | None = None,
        fused: bool = False,
        index: str = "auto",
        html: str | Path = "",
        data: str = "",
    ) -> Found:
        """Find the nearest videos. Labels are not used.

        Args:
            what: A video file, several, a folder, or `Videos`: the queries.
            k: Hits of each query.
            among: The videos to search in; by default the training videos.
            fused: Sum the cosines of both streams.
            index: auto, exact, or an index for large galleries (flat, ivf_sq8, hnsw).
            html: Also write a page on which the clips play.
            data: Of a run on several data sets, as whose videos these are seen.

        Raises:
            ValueError: There is no run on the other stream, or an argument is out of range.
            RunError: No query can be read.
        """
        if fused and len(self._runs) < 2:
            raise ValueError(
                f"fused=True needs runs on rgb and flow; got {', '.join(self._runs)} of {self!r}. "
                "Train 'coclr', or load the folder of both runs."
            )
        runs = list(self._runs.values()) if fused else [self.run]
        gallery = None if among is None else opened(among)
        found = Found(query.search(runs, opened(what), gallery, k, index=index, data=data))
        if html:
            print(f"gallery: {found.save_html(html)}", flush=True)
        return found

    def predict(
        self, what: Videos | Source, *, protocol: str = "vidbench", data: str = ""
    ) -> Predicted:
        """Compute class probabilities: by the run's head, or by a probe that is fitted and kept.

        Args:
            what: A video file, several, a folder, or `Videos`.
            protocol: How clips become a prediction, a name in evaluate.protocols.
            data: Of a run on several data sets, whose classes are predicted.

        Raises:
            RunError: The run was trained on videos without labels, or no video can be read.
        """
        manifest = opened(what)
        done = classify(self.run, manifest, protocol=_protocol(protocol), data=data)
        _say_left_out(done.failed, len(manifest))
        return Predicted(done.table, done.manifest)

    def export(
        self,
        folder: str | Path,
        *,
        onnx: bool = False,
        torch_export: bool = False,
        data: str = "",
    ) -> Path:
        """Write the backbone for use elsewhere: weights, config.json and a model card.

        Args:
            onnx: Also write backbone.onnx, checked against the network's outputs.
            torch_export: Also write a torch.export program, checked in the same way.
            data: Of a run on several data sets, whose clips and classes are described.

        Returns:
            The folder. `evaluate.export.load_exported` reads it.

        Raises:
            FileExistsError: The folder contains a file that vidbench did not write.
        """
        target = Path(folder).expanduser()
        return export(self.run, target, onnx=onnx, torch_export=torch_export, data=data)

    def probe(self, seed: int = 0) -> Probe:
        """Fit and test a linear probe on the run's own labeled videos: `Table.probe`."""
        return self.embed().probe(seed)

    def browse(self, data: str = "") -> Any:
        """Open the browser of neighbors: held-out videos as queries, training videos as gallery.

        Args:
            data: Of a run on several data sets, whose videos are shown.

        Raises:
            ValueError: Nothing is held out.
        """
        from vidbench.view.widgets import shown
        from vidbench.view.widgets.neighbors import Browser

        manifest = Manifest.load(data_set(self.run, data).manifest)
        sides = ("train", manifest.held_out())
        lists = {
            run.folder.name: [load_or_extract(run, split, data=data) for split in sides]
            for run in self._runs.values()
        }
        gallery, queries = (manifest.select(split=split) for split in sides)
        flow = next((data_set(run, data).flow for run in self._runs.values()), "")
        return shown(Browser(gallery, queries, lists, centering="gallery", flow_folder=flow), 3)

    def query(
        self,
        *others: Trained,
        path: str | Path = "",
        k: int = 5,
        among: Videos | Source | None = None,
        data: str = "",
    ) -> Any:
        """Open a box that takes any video and shows its neighbors by several runs at once.

        The video is dropped, uploaded or named by its path. Uploads are written to the folder
        `queries` next to the runs. Lines: each run, and both streams together.

        Args:
            others: More runs to search by, as `load` gives them.
            path: The first video. Without a kernel's front end, only its neighbors are shown.
            k: Neighbors of each line.
            among: The videos to search in; by default each run's training videos.
            data: Of runs on several data sets, as whose videos these are seen.
        """
        from vidbench.view.widgets import shown
        from vidbench.view.widgets.query import QueryBox

        gallery = None if among is None else opened(among)
        lists: dict[str, list[Run]] = {}
        for one in (self, *others):
            runs = list(one._runs.values())
            for some in [[run] for run in runs] + [runs] * (len(runs) > 1):
                name = " + ".join(run.folder.name for run in some)
                lists[f"{some[0].folder.parent.name}/{name}" if name in lists else name] = some

        def search(runs: list[Run], file: Path) -> Hits:
            return query.search(runs, opened(file), gallery, k, data=data)

        flows = [data_set(run, data).flow for runs in lists.values() for run in runs]
        flow = next(filter(None, flows), "")
        searches = {name: partial(search, runs) for name, runs in lists.items()}
        return shown(QueryBox(searches, self.run.folder.parent / "queries", flow, path))

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
        raise RunError(f"{place} must contain a complete run; {states}. Train first, or resume.")
    last = {run.recipe.stream: run for run in sorted(complete, key=_stages)}
    return Trained({stream: last[stream] for stream in ("rgb", "flow") if stream in last})


def _stages(run: Run) -> int:
    return len(run.budget()["stages"])


def _say_left_out(failed: Sequence[tuple[str, str]], of: int) -> None:
    if failed:
        print(f"{left_out(failed, of)} They are left out.", flush=True)


def _protocol(name: str) -> Protocol:
    if name not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}; got {name!r}.")
    return PROTOCOLS[name]
