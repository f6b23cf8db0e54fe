"""Published numbers to compare with, each with its source, from csv files in assets/."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vidbench.evaluate.results import Number

ASSETS = Path(__file__).resolve().parents[2] / "assets"
COUNTS = ASSETS / "published-counts.csv"  # MultiTrain's supplement, table 1
PAIRS = ASSETS / "published-pairs.csv"  # its table 4, 59 of the 60 pairs: one is not legible
TASKS = ("probe", "finetune", "retrieval", "classes")  # classes: supervised, evaluate.classified
STREAMS = ("rgb", "flow", "rgb+flow")
# as papers and as folders name them
DATA = {
    "UCF101": "ucf101",
    "HMDB51": "hmdb51",
    "K400": "kinetics400",
    "MiT": "moments",
    "SSv2": "something",
}
FOLDS = ("1", "2", "3", "")
METRICS = ("top-1", "top-5", "R@1", "R@5", "R@10", "R@20", "R@50")
WORDS = {
    "task": TASKS,
    "stream": (*STREAMS, ""),
    "data": tuple(DATA),
    "metric": METRICS,
    "fold": FOLDS,
}


@dataclass(frozen=True)
class Published:
    """One published number in percent; "" where the source does not say."""

    paper: str
    method: str
    variant: str
    pretrain: str
    stream: str
    backbone: str
    task: str
    metric: str
    data: str
    fold: str
    value: float
    note: str
    source: str  # where it is stated


def read_published(path: str | Path) -> list[Published]:
    """Read published numbers from a csv with Published's columns.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A line has an unknown word, a value out of 0..100, no source, or a number that
            is already there.
    """
    path, names = Path(path), [column.name for column in fields(Published)]
    known: dict[tuple, tuple[int, Published]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != names:
            raise ValueError(
                f"{path}, line 1: wanted the columns {', '.join(names)}, got {reader.fieldnames}"
            )
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            one = _checked(row, where)
            key = tuple(row[name] for name in names if name not in ("value", "note", "source"))
            if key in known:
                raise ValueError(
                    f"{where}: the same number as in line {known[key][0]}; a variant separates two"
                )
            known[key] = (reader.line_num, one)
    return [published for _, published in known.values()]


def counts(path: str | Path = COUNTS) -> list[dict[str, Any]]:
    """Read how many videos of Kinetics the authors of MultiTrain could download: rows of a table.

    Each {"data", "split", "videos", "percent" (of the released list), "released", "source"}."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {**row, "videos": int(row["videos"]), "percent": float(row["percent"])}
            for row in csv.DictReader(file)
        ]


def pairs(path: str | Path = PAIRS) -> list[dict[str, str]]:
    """Read MultiTrain's published pairs of classes, the strongest five weights of each map.

    Returns:
        A row for each map: {"map", "pairs"}, the classes as the data sets spell them.
    """
    found: dict[str, list[str]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            name = f"{row['source']} → {row['target']}"
            words = f"{row['source_class']} → {row['target_class']}"
            found.setdefault(name, []).append(words)
    return [{"map": name, "pairs": "; ".join(words)} for name, words in found.items()]


def _checked(row: dict[str, Any], where: str) -> Published:
    """One line of the csv. Raises ValueError, with the line, where something is wrong."""
    if None in row or None in row.values():
        raise ValueError(f"{where}: wanted {len(fields(Published))} columns")
    for name, allowed in WORDS.items():
        if row[name] not in allowed:
            raise ValueError(
                f"{where}: {name} {row[name]!r} is not one of {', '.join(filter(None, allowed))}"
            )
    value = _percentage(row["value"], where)
    stated = all(row[name].strip() for name in ("paper", "method", "source"))
    if not 0 <= value <= 100 or not stated:
        raise ValueError(
            f"{where}: wanted a value within 0 and 100, paper, method, and the source that has it"
        )
    return Published(**{**row, "value": value})


def _percentage(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{where}: value {text!r} is no number") from None


def _meant(number: Number, data: str) -> tuple[str, str, str, str]:
    """(task, metric, data, stream) of one of our numbers in the words of Published, "" where it has
    none."""
    # a probe's accuracy next to a retrieval's R@k
    named = number.metric if number.metric in TASKS else number.task
    task = next((task for task in TASKS if task in named), "")
    metric = (
        number.metric
        if number.metric in METRICS
        else "top-1"
        if task in ("probe", "finetune", "classes")
        else ""
    )
    place = "".join(letter for letter in (data or number.data).lower() if letter.isalnum())
    known = next(
        (name for name, start in DATA.items() if place.startswith((start, name.lower()))), ""
    )
    return task, metric, known, number.stream


def comparable(
    numbers: Iterable[Number], published: Iterable[Published], data: str = ""
) -> list[Published]:
    """Select the published numbers of the same task, metric, data and stream as any of ours.

    A published number may lack its stream.

    Args:
        numbers: Ours.
        data: Another data set to compare with than that of ours (UCF101 for a toy world's, to see
            the order).
    """
    wanted = {_meant(number, data) for number in numbers}
    wanted |= {(task, metric, known, "") for task, metric, known, _ in wanted}
    return [row for row in published if (row.task, row.metric, row.data, row.stream) in wanted]
