"""The model card of an exported backbone: what it is, how to use it, what it was measured to do."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidbench.data.manifest import Manifest
from vidbench.engine.recipes import recipe_dict
from vidbench.engine.records import Result, read_record
from vidbench.engine.runs import Run
from vidbench.evaluate.tables import class_words
from vidbench.methods.common import data_set
from vidbench.system.version import version

INTERVAL = "95 % bootstrap intervals"


@dataclass(frozen=True)
class Export:
    """What an export did: config.json, the checks (file -> largest absolute difference), the shape
    of the clips that it checked with, and which of several data sets is described."""

    config: Mapping[str, Any]
    checks: Mapping[str, float]
    clips: tuple[int, ...]
    data: str = ""


def card(run: Run, about: Export) -> str:
    """Write the model card of a run as Markdown.

    Args:
        about: What was exported.
    """
    parts = (_what(run, about), _use(about), _data(run, about), _numbers(run), _made(run, about))
    return "\n".join(line for part in parts for line in part) + "\n"


def _what(run: Run, about: Export) -> Iterator[str]:
    config = about.config
    yield f"# {run.folder.name}: {config['network']} on {config['stream']}, method {run.method}"
    yield ""
    yield "A video backbone without a head, exported by vidbench."
    yield ""
    rate = f"{config['fps']:g} frames per second" if config["fps"] else f"stride {config['stride']}"
    rows = {
        "network": f"{config['network']} {json.dumps(config['network_args'])}",
        "stream": config["stream"],
        "input": f"clips [B,3,{config['frames']},{config['size']},{config['size']}], {rate}",
        "frames": f"short side to {config['resize']} pixels, center crop of {config['size']}",
        "normalization": f"mean {_list(config['mean'])}, deviation {_list(config['std'])} of 0..1",
        "output": f"a map [B,{config['features']},T',H',W']; its mean over positions is the feature",
        "license": "none given",
    }
    if config["flow"]:
        rows["flow"] = ", ".join(f"{name} {value}" for name, value in config["flow"].items())
    yield from _table(("", ""), rows.items())


def _use(about: Export) -> Iterator[str]:
    yield "\n## Use\n\n```python"
    yield "from vidbench.evaluate.export import load_exported"
    yield ""
    yield 'features = load_exported(".")(clips).mean(dim=(2, 3, 4))'
    yield "```\n"
    yield f"Each file was compared with the network on fixed clips {list(about.clips)}:\n"
    rows = [(f"`{name}`", f"{gap:.2g}") for name, gap in about.checks.items()]
    yield from _table(("file", "largest absolute difference"), rows)


def _data(run: Run, about: Export) -> Iterator[str]:
    part = data_set(run, about.data)
    classes = about.config["classes"]
    yield "\n## Data\n"
    rows: dict[str, Any] = {"data set": part.name or Path(part.manifest).resolve().name}
    try:
        train = Manifest.load(part.manifest).select(split="train")
        rows |= {
            "videos of split train": len(train),
            "source videos of split train": len(set(train.source_video.tolist())),
        }
    except FileNotFoundError:
        rows["videos of split train"] = "unknown: the manifest is gone"
    kept = run.folder / "rows.json"
    if kept.is_file():
        for name, fingerprint in read_record(kept, "Restore it from a copy.").items():
            rows[f"fingerprint of rows {name}"] = f"`{fingerprint}`" if fingerprint else "no rows"
    rows["classes"] = class_words(classes) if classes else "no labels"
    yield from _table(("", ""), rows.items())


def _numbers(run: Run) -> Iterator[str]:
    """Numbers grouped by protocol."""
    yield "\n## Numbers\n"
    found: Mapping[str, Result] = run.results()
    if not found:
        yield "None yet: the run was not evaluated."
        return
    yield f"In percent with {INTERVAL} if there are any. Numbers under one protocol compare."
    for result in found.values():
        yield f"\n### {result.task}\n"
        yield from _table(
            ("measure", "value"), ((name, _value(it)) for name, it in result.numbers.items())
        )
        switches = ", ".join(f"{name} {value}" for name, value in sorted(result.protocol.items()))
        yield f"\nProtocol: {switches}."


def _made(run: Run, about: Export) -> Iterator[str]:
    yield "\n## Training\n"
    budget = run.budget()
    facts = ("batch", "iterations", "clips", "epochs", "seconds")
    yield from _table(
        ("", ""),
        [
            ("stages", " -> ".join(budget["stages"])),
            *((name, f"{budget[name]:,}") for name in facts),
        ],
    )
    yield "\n<details><summary>Recipe</summary>\n\n```json"
    yield json.dumps(_without_folders(recipe_dict(run.recipe)), indent=1)
    yield "```\n\n</details>"
    yield "\n## Provenance\n"
    kept = run.folder / "environment.json"
    held = read_record(kept, "Restore it from a copy.") if kept.is_file() else {}
    rows = [("exported by", str(version()))]
    rows += [("trained by", _trained_by(held)), ("checkpoint", f"`{run.checkpoint_stamp()}`")]
    rows += [(name, str(held[name])) for name in ("python", "device") if name in held]
    versions = held.get("versions")
    rows += list(versions.items()) if isinstance(versions, dict) else []
    yield from _table(("", ""), rows)


def _without_folders(value: Any) -> Any:
    """A recipe whose absolute paths are cut to their last part: a card may be published."""
    if isinstance(value, dict):
        return {name: _without_folders(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def _trained_by(held: Mapping[str, Any]) -> str:
    """Version and commit as environment.json has them; older runs kept none."""
    inner = held.get("vidbench")
    facts = inner if isinstance(inner, dict) else held
    if not facts.get("commit"):
        return "commit not recorded"
    return f"commit {facts['commit']}{' (dirty)' if facts.get('dirty') else ''}"


def _value(number: Any) -> str:
    if isinstance(number, list | tuple) and len(number) == 3:
        value, low, high = (100 * one for one in number)
        return f"{value:.1f} [{low:.1f}, {high:.1f}]"
    return f"{100 * number:.1f}"


def _list(values: Any) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _table(head: tuple[str, str], rows: Any) -> Iterator[str]:
    yield f"| {head[0]} | {head[1]} |"
    yield "| --- | --- |"
    for name, value in rows:
        safe = str(value).replace("|", "\\|").replace("\n", " ")
        yield f"| {name} | {safe} |"
