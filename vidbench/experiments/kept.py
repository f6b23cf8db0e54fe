"""What an experiment found, one csv row a test, with a hit for each video: numbers without the runs.

Runs are large and are not committed. This file is small and can be: tables and figures of a results
page follow from it. `hits` has one character a video, 1 if the prediction is right, in groups of
one source video each, because the bootstrap draws whole source videos:

    seed,steps,arm,data,test,value,hits,plan,commit
    1,600,joint,toy-gym,test,0.75000,1101 1111 0101 1110,3f0c...,9f9a40a
"""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from hashlib import blake2b
from pathlib import Path

import numpy as np

from vidbench.engine.environment import made_by
from vidbench.system.errors import InputError
from vidbench.system.files import write_text


@dataclass(frozen=True)
class Found:
    """The result of one test of a run.

    Args:
        data: The data set that was tested; empty for facts of the whole run.
        test: What was measured.
        value: The mean of the hits, or a number without hits such as seconds.
        hits: One character a video, in groups of one source video; empty for a number.
    """

    data: str
    test: str
    value: float
    hits: str = ""

    @property
    def right(self) -> np.ndarray:
        """Whether each video is right, bool [N]."""
        return np.array([one == "1" for one in self.hits.replace(" ", "")])

    @property
    def source_video(self) -> np.ndarray:
        """The number of each video's source video [N]."""
        groups = self.hits.split()
        return np.repeat(np.arange(len(groups)), [len(group) for group in groups])


def of_hits(data: str, test: str, right: np.ndarray, source_video: np.ndarray) -> Found:
    """A test's hits [N] as a `Found`; source videos [N] keep their order of first appearance."""
    _, first = np.unique(source_video, return_index=True)
    groups = [right[source_video == source_video[row]] for row in np.sort(first)]
    text = " ".join("".join("01"[int(one)] for one in group) for group in groups)
    return Found(data, test, float(np.mean(right)), text)


@dataclass(frozen=True)
class Row:
    """A `Found` with the run that it is of."""

    seed: int
    steps: int
    arm: str
    found: Found
    commit: str


class Kept:
    """The rows of one plan in one csv file, written whole after each unit of work.

    A unit is all arms of a seed and a number of steps. It is complete if it has rows.
    """

    def __init__(self, path: Path, plan: object):
        """Read the rows if the file exists.

        Args:
            path: The csv.
            plan: What the rows depend on in addition to seed and steps, in JSON's values.

        Raises:
            ValueError: The file is of another plan.
        """
        text = json.dumps(plan, sort_keys=True)
        self.path, self.plan = path, blake2b(text.encode(), digest_size=4).hexdigest()
        self.rows: list[Row] = []
        if path.exists():
            lines = list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))
            if other := {line.get("plan", "none") for line in lines} - {self.plan}:
                raise InputError(
                    f"{path} must have rows of plan {self.plan}; got {', '.join(sorted(other))}: an "
                    "experiment with other settings. Use another --out, or delete the file."
                )
            self.rows = [_read(line) for line in lines]

    def has(self, seed: int, steps: int) -> bool:
        """Whether a unit is complete."""
        return any((row.seed, row.steps) == (seed, steps) for row in self.rows)

    def add(self, seed: int, steps: int, found: Iterable[tuple[str, Found]]) -> None:
        """Add a unit, pairs of arm and `Found`, and write the file."""
        made = made_by()
        commit = f"{(made['commit'] or made['version'])[:7]}{'+' * bool(made['dirty'])}"
        self.rows += [Row(seed, steps, arm, one, commit) for arm, one in found]
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["seed", "steps", "arm", *(field.name for field in fields(Found)), "plan", "commit"]
        )
        for row in self.rows:
            data, test, value, hits = astuple(row.found)
            head = (row.seed, row.steps, row.arm, data, test, f"{value:.5f}", hits)
            writer.writerow([*head, self.plan, row.commit])
        write_text(self.path, file.getvalue())


def _read(line: dict[str, str]) -> Row:
    found = Found(line["data"], line["test"], float(line["value"]), line["hits"])
    return Row(int(line["seed"]), int(line["steps"]), line["arm"], found, line["commit"])
