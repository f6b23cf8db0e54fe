"""Class probabilities of any videos, by the run's own classifier or by a probe on its features.

A supervised run (classify, multitrain) has a classifier. A self-supervised run has none: a logistic
probe is fitted on the features of its labeled training videos, as `probe.logistic` does, and kept:

    <run>/probe/logistic.safetensors    weight [L,D] and bias [L], standardization folded in
    <run>/probe/logistic.json           classes, protocol, C and the rule that selected it

The probe is fitted again if the checkpoint, the protocol or the labeled rows change."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vidbench.data.manifest import Manifest
from vidbench.engine import ranks
from vidbench.engine.runs import Run, RunError
from vidbench.evaluate import probe
from vidbench.evaluate.embed import Embedded, embed
from vidbench.evaluate.features import described, fitting, load_or_extract
from vidbench.evaluate.protocols import PROTOCOLS, Protocol
from vidbench.methods.common import data_set
from vidbench.system.files import write_text, written

HEAD = "logistic regression, standardized"


def classify(
    run: Run,
    manifest: Manifest,
    *,
    cache: str | Path = "",
    protocol: Protocol = PROTOCOLS["vidbench"],
    workers: int = 0,
    data: str = "",
) -> Embedded:
    """Predict the class probabilities of the videos that can be read, and name the others.

    Args:
        manifest: Any videos. Labels are kept where their class is one of the run's.
        cache, workers: See `embed.embed`.
        data: Of a run on several data sets, the one whose classifier is used.

    Returns:
        Probabilities [N,L] with the run's classes, and the videos that are left out.

    Raises:
        RunError: No video can be read, or the run was trained on videos without labels.
    """
    part = data_set(run, data)
    protocol = fitting(protocol, part)
    if part.classes and run.recipe.build_head(1, part) is not None:
        known = _relabeled(manifest, part.classes)
        return embed(
            run, known, protocol, cache=cache, workers=workers, data=data, what="probabilities"
        )
    train = _labeled(run, Manifest.load(part.manifest).select(split="train"))
    fitted = _kept_probe(run, train, protocol, data)
    known = _relabeled(manifest, train.classes)
    done = embed(run, known, protocol, cache=cache, workers=workers, data=data)
    facts = {"head": HEAD, "selection": fitted.facts["selection"]}
    table = replace(
        done.table,
        values=fitted.probabilities(done.table.values),
        protocol={**done.table.protocol, "train_rows": train.fingerprint(), **facts},
        made_from="",
    )
    return replace(done, table=table)


def _relabeled(manifest: Manifest, classes: Sequence[str]) -> Manifest:
    """A manifest with the run's classes; a label that is none of them is unknown."""
    if manifest.classes == tuple(classes):
        return manifest
    number = {name: i for i, name in enumerate(classes)}
    found = [number.get(name, -1) for name in manifest.classes]
    label = np.array([*found, -1], np.int64)[manifest.label]  # -1 picks the last
    return replace(manifest, classes=tuple(classes), label=label)


def _labeled(run: Run, train: Manifest) -> Manifest:
    """The labeled rows of a run's split train.

    Raises:
        RunError: There is no label.
    """
    labeled = train.select(mask=train.label >= 0)
    if len(np.unique(labeled.label)) < 2:
        has = f"labels of one class, {train.classes[labeled.label[0]]!r}" if len(labeled) else ""
        raise RunError(
            f"{run.folder} was trained on videos with {has or 'no labels'}, so it cannot predict "
            "classes. Use search, which needs no labels, or open the videos with labels (class "
            "folders, or a csv with path,label) and train again."
        )
    return labeled


# ---- the probe of a self-supervised run --------------------------------------------------------


def _kept_probe(run: Run, train: Manifest, protocol: Protocol, data: str) -> probe.Linear:
    """Read the probe of a run, or fit and keep it."""
    wanted = {
        "checkpoint": run.checkpoint_stamp(),
        "protocol": described(run, train, protocol, data=data),
        "classes": list(train.classes),
    }
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
    folder = run.folder / "probe"
    found = _read_probe(folder, digest)
    if found is None:
        table = load_or_extract(run, "train", protocol, data=data)
        table = table.select(table.label >= 0, train.fingerprint())
        try:
            found = probe.linear(table)
        except ValueError as error:
            raise RunError(f"{run.folder}: no probe can be fitted. {error}") from error
        if ranks.rank() == 0:
            _write_probe(folder, found, wanted, digest)
    return found


def _read_probe(folder: Path, digest: str) -> probe.Linear | None:
    """The kept probe if it was fitted from the same; a damaged one is reported and is not."""
    from safetensors import SafetensorError, safe_open

    side = folder / "logistic.json"
    if not side.is_file():
        return None
    try:
        facts = json.loads(side.read_text(encoding="utf-8"))
        if facts["made_from"] != digest:
            return None
        with safe_open(folder / "logistic.safetensors", "numpy") as file:
            if (file.metadata() or {}).get("made_from") != digest:
                return None
            weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
        return probe.Linear(weight, bias, {name: facts[name] for name in ("C", "selection")})
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        print(f"{folder} holds no readable probe ({error}). It is fitted again now.", flush=True)
        return None


def _write_probe(folder: Path, made: probe.Linear, wanted: dict[str, Any], digest: str) -> None:
    from safetensors.numpy import save

    with written(folder / "logistic.safetensors") as temporary:
        temporary.write_bytes(
            save({"weight": made.weight, "bias": made.bias}, {"made_from": digest})
        )
    facts = {**wanted, "head": HEAD, **made.facts, "made_from": digest}
    write_text(folder / "logistic.json", json.dumps(facts, indent=1) + "\n")
