"""The command `vidbench doctor`: the checks of `vb.doctor()` as lines or JSON."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from vidbench.api.runs import add_command
from vidbench.system.door import at_the_door
from vidbench.system.printing import as_json, notes_to_stderr, show
from vidbench.system.usage import ENDS, Commands


def add_doctor(commands: Commands) -> None:
    """Add the command `doctor`."""
    one = add_command(
        commands,
        "doctor",
        "look at this machine: decoders, GPU, packages, memory, disk, reading speed",
        "vidbench doctor\n        vidbench doctor --data runs/UCF101/store-jpeg",
        "Nothing is written.",
        ends={
            0: "vidbench works here",
            1: "something prevents work",
            **{n: ENDS[n] for n in (2, 130)},
        },
    )
    one.add_argument(
        "--data", default="", help="a store or videos to read; default: the shipped toy clips"
    )
    one.add_argument("--preset", default="", help="of CoCLR: its clips and network are measured")


def run_doctor(given: argparse.Namespace) -> int:
    """Print the checks; returns 1 if something prevents work."""
    from vidbench.api.health import doctor

    with notes_to_stderr():
        found = at_the_door(doctor, given.data, preset=given.preset)
    lines = [asdict(check) for check in found.checks]
    show(as_json({"works": found.works, "checks": lines}) if given.json else str(found))
    return 0 if found.works else 1
