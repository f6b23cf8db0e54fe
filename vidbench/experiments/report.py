"""The demo's report: one offline page with the numbers, the curves and a gallery of playing clips."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vidbench.data.flow import estimate
from vidbench.data.flow import store as flow_store
from vidbench.data.manifest import Manifest
from vidbench.data.video import clips
from vidbench.engine.runs import Run
from vidbench.evaluate.retrieval import Neighbours
from vidbench.view.figures import PALETTE, Bar, Html, bars, curves
from vidbench.view.galleries import Row, Tile, encode, filmstrip, gallery
from vidbench.view.html import Section, table, write_page

SHOWN_QUERIES, SHOWN_RESULTS = 6, 5
COMPARED = ("infonce-rgb-long", "coclr-rgb")  # equal clip budgets
TITLES = {
    "random": "random net", "infonce-rgb": "InfoNCE RGB", "infonce-rgb-long": "InfoNCE RGB, CoCLR's budget",
    "coclr-rgb": "CoCLR RGB", "infonce-flow": "InfoNCE flow",
}
COLOURS = {TITLES["random"]: PALETTE[6], TITLES["infonce-rgb"]: PALETTE[5], TITLES["infonce-rgb-long"]: PALETTE[0],
           TITLES["coclr-rgb"]: PALETTE[1], TITLES["infonce-flow"]: PALETTE[2]}


def write_report(out: Path, manifest: Manifest, split: str, facts: dict, found: Mapping[str, Neighbours]) -> Path:
    """Write `out`/report.html. facts: what demo's numbers.json holds; found: a run's neighbours of the split's rows."""
    gallery_rows, queries = manifest.select(split="train"), manifest.select(split=split)
    rows = sorted(facts["numbers"], key=lambda row: list(TITLES).index(row["run"]))
    sections = [
        Section("Numbers", [_words(facts, manifest, gallery_rows, queries, split), numbers_table(rows, split),
                            _bars(rows, len(manifest.classes))]),
        Section("Neighbours", [
            f"Queries from {split}, spread evenly over its list, not chosen; their nearest videos in train.",
            neighbours_gallery(gallery_rows, queries, {name: found[name] for name in COMPARED})]),
        Section("Training", _curves(out / "runs")),
        Section("What the networks see", _strips(out, queries, facts["settings"]["flow"])),
        Section("How it was made", [_made(facts)]),
    ]
    write_page(out / "report.html", "vidbench demo: from video files to neighbours", sections)
    return out / "report.html"


def numbers_table(rows: list[dict], split: str):
    """R@1, R@5 and probe of each run in percent, with bootstrap intervals over sources."""
    shown = [{"run": TITLES[row["run"]], "clips seen": row["clips"],
              **{key: tuple(100 * x for x in row[key]) for key in ("R@1", "R@5", "probe")}}
             for row in rows]
    protocol = rows[0]["protocol"]
    note = (f"Percent, with 95 % bootstrap intervals over sources. R@k: {split} queries, train gallery, cosine, "
            f"{protocol['windows']} windows a video, {protocol['crops']} crop, pooled backbone features, "
            f"centring {protocol['centring']}. Probe: logistic regression on the same features, standardised, its C "
            "chosen on train. Clips seen include those of the run a stage starts from; a view pair counts as one.")
    return table(shown, best={"R@1": "max", "R@5": "max", "probe": "max"}, note=note)


def _words(facts: dict, manifest: Manifest, train: Manifest, queries: Manifest, split: str) -> str:
    sources = len(np.unique(manifest.source))
    method = facts["settings"]["flow"].upper()
    return (f"{len(manifest)} videos of {len(manifest.classes)} classes, cut from {sources} sources; {len(train)} for "
            f"training, {len(queries)} held out ({split}). Flow: {method}. No label was used in training; labels serve "
            "the numbers below and the purity curve.")


def _bars(rows: list[dict], classes: int):
    groups = {"R@1": "R@1", "probe": "linear probe"}
    made = [Bar(TITLES[row["run"]], group, *row[key]) for key, group in groups.items() for row in rows]
    return bars(made, "percent", "Retrieval and probe on held-out videos", levels={"chance": 1 / classes},
                colours=COLOURS)


def _curves(runs: Path) -> list:
    logs = {name: Run(runs / name).curves() for name in TITLES if name != "random"}
    figures = ["The first points are of steps that only fill the queue. CoCLR starts from InfoNCE RGB's weights."]
    for key, words, names in (("loss", "Loss", logs), ("accuracy", "Contrastive accuracy, percent", logs),
                              ("purity", "Purity of the mined positives, percent", ["coclr-rgb"])):
        series = {TITLES[name]: (logs[name]["epoch"], [np.nan if y is None else y for y in logs[name][key]])
                  for name in names}
        figures.append(curves(series, "epoch", key, words, percent=key != "loss", colours=COLOURS))
    return figures


def neighbours_gallery(
    train: Manifest, queries: Manifest, found: Mapping[str, Neighbours], *, beside: Mapping[str, str] | None = None,
    flow_folder: str | Path = "", shown: int = SHOWN_QUERIES, results: int = SHOWN_RESULTS,
) -> Html:
    """A gallery of evenly spread queries, each with its nearest training videos, a line for each entry of `found`.

    beside: name -> another name of `found`; neighbours that are in the other line, too, are marked and counted.
    flow_folder: a flow store; the clips are then shown as flow in colours, all on one scale, with its wheel.
    """
    picked = np.unique(np.linspace(0, len(queries) - 1, shown).round().astype(int))
    limit = _top_speed(queries, picked, flow_folder) if flow_folder else 0.0
    made: dict[Path, bytes] = {}

    def tile(manifest: Manifest, row: int, **verdict) -> Tile:
        path = manifest.absolute(row)
        if path not in made:
            clip = _moving(flow_folder, manifest, row, limit) if flow_folder else _small(path)
            made[path] = encode(*clip, side=112)
        return Tile(made[path], manifest.classes[manifest.label[row]], path.stem, **verdict)

    def line(name: str, query: int) -> Row:
        rows, scores = (part[query, :results] for part in (found[name].rows, found[name].scores))
        other = (beside or {}).get(name)
        both = np.isin(rows, found[other].rows[query, :results] if other else [])
        right = train.label[rows] == queries.label[query]
        tiles = [tile(train, row, score=float(score), right=bool(good), mark=bool(mark))
                 for row, score, good, mark in zip(rows, scores, right, both, strict=True)]
        return Row(tile(queries, query), tiles, f"also in {TITLES.get(other, other)}" if other else "")

    made_of = gallery({TITLES.get(name, name): [line(name, query) for query in picked] for name in found})
    wheel = [estimate.wheel(96)[None]], [f"direction by colour; at the rim {limit:.1f} pixels a frame"]
    return Html(filmstrip(*wheel, height=96) + made_of) if flow_folder else made_of


def _small(path: Path, most: int = 24) -> tuple[np.ndarray, float]:
    """At most so many frames, evenly spread over the video, at the rate that keeps its length."""
    video = clips.read(path)
    kept = np.unique(np.linspace(0, len(video.frames) - 1, most).round().astype(int))
    seconds = max(video.times[-1] - video.times[0], 0.1)
    return video.frames[kept], len(kept) / seconds


def _moving(folder: str | Path, manifest: Manifest, row: int, limit: float) -> tuple[np.ndarray, float]:
    """The flow of a video in colours, `limit` pixels in full colour, and the rate that keeps the video's length."""
    flows = _flow(folder, manifest, row)
    about = clips.probe(manifest.absolute(row))
    return estimate.colours(flows, limit), len(flows) * (about.fps or 12.0) / max(about.frames, 1)


def _flow(folder: str | Path, manifest: Manifest, row: int, most: int = 24) -> np.ndarray:
    """At most so many flows of a video, evenly spread: float [T,H,W,2] in pixels."""
    path = str(manifest.path[row])
    info = flow_store.meta(folder, path)
    at = np.unique(np.linspace(0, info["frames"] - 2, most).round().astype(int))
    return estimate.dequantise(flow_store.load(folder, path, at), info["bound"])


def _top_speed(manifest: Manifest, rows: np.ndarray, folder: str | Path) -> float:
    """Pixels a frame that 99 % of the pixels of some rows' flow stay below."""
    speeds = [np.linalg.norm(_flow(folder, manifest, row, 8), axis=-1).ravel() for row in rows]
    return float(np.quantile(np.concatenate(speeds), 0.99))


def _strips(out: Path, queries: Manifest, method: str) -> list:
    picked = np.linspace(0, len(queries) - 1, 3).round().astype(int)
    strips, titles = [], []
    for row in picked:
        path = str(queries.path[row])
        info = flow_store.meta(out / "flow", path)
        coloured = estimate.colours(estimate.dequantise(flow_store.load(out / "flow", path), info["bound"]))
        strips += [clips.read(queries.absolute(row)).frames, coloured]
        titles += [str(queries.classes[queries.label[row]]), f"flow ({method})"]
    return [filmstrip(strips, titles)]


def _made(facts: dict):
    rows = [{"part": name, "seconds": seconds} for name, seconds in facts["seconds"].items()]
    machine = facts["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    where = f"{machine['cores']} cores, {machine['device']}, Python {machine['python']}; {versions}."
    return table(rows, note=f"Seconds of the last call, on {where}")
