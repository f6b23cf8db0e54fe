"""Recipes of InfoNCE, UberNCE and CoCLR, the presets, and the stages of a preset.

Paper and released code differ; both are presets. Sources: the paper's text, its supplement (tables
1 and 2, Algorithm 1), and TengdaHan/CoCLR (main_coclr.py, README, issues).
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from vidbench.data.loading.augmentation import PRESETS as AUGMENTS
from vidbench.data.loading.dataset import ClipSpec
from vidbench.data.loading.transforms import Stream
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run
from vidbench.methods import common
from vidbench.system.ranges import ABOVE_0, AT_LEAST_0, AT_LEAST_1, BELOW_1, SHARE

OTHER: dict[Stream, Stream] = {"rgb": "flow", "flow": "rgb"}
Positives = Literal["instance", "class", "mined"]
Siblings = Literal["positive", "ignore", "negative"]
# fields that a half-cycle takes from `together`, not from its student
SWITCHES = (
    "positives siblings mine_siblings topk drop_own_key queue fill_first key_groups fit".split()
)
FITTED = ("queue", "topk", "siblings")  # what `fitted` may change, and fit.batch


@dataclass(frozen=True)
class Recipe(common.Recipe, method="coclr", home="vidbench.methods.coclr"):
    """One stage of CoCLR. Paths name what it reads: manifest, flow store, student and teacher."""

    # `reverse` of the released code is stream="flow" with an rgb teacher
    positives: Positives = "instance"  # instance, class or mined
    # of siblings in the queue: positive (released CoCLR), ignore or negative (Algorithm 1, InfoNCE)
    siblings: Siblings = "negative"
    # let siblings take places among the topk (Algorithm 1 allows them; the code does not)
    mine_siblings: bool = False
    topk: Annotated[int, AT_LEAST_0] = 5  # CoCLR table 1
    # 0 in the paper, 0.9 in the released code since October 2021 (issue 43)
    drop_own_key: Annotated[float, SHARE] = 0.0
    queue: Annotated[int, AT_LEAST_1] = 2048  # 2,048 on UCF101, 16,384 on Kinetics-400 (supplement)
    dim: Annotated[int, AT_LEAST_1] = 128
    momentum: Annotated[float, SHARE] = 0.999
    temperature: Annotated[float, ABOVE_0] = 0.07
    # no optimizer step before the queue is full. Only main_nce.py steps from the first batch, with
    # random features in the queue
    fill_first: bool = True
    # groups of the shuffled global batch with batch-norm statistics each, for the keys: the GPUs of
    # the released code. More ranks than groups make more groups
    key_groups: Annotated[int, AT_LEAST_1] = 1
    clip: ClipSpec = ClipSpec(frames=32, stride=1, views=2, augment=AUGMENTS["vidbench"])
    fit: Fit = Fit(epochs=300, batch=32, schedule="milestones", milestones=(250, 280))
    held_out: Annotated[float, BELOW_1] = 0.0  # of train, whole sources: watched, not trained on
    monitor_rows: Annotated[int, AT_LEAST_1] = 1024  # of train and of the held-out part, at most
    manifest: str = ""
    flow: str = ""
    student: str = ""  # the run whose encoder starts this one
    teacher: str = ""  # the run of the other stream that mines

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queue % self.fit.batch:
            near = max(1, round(self.queue / self.fit.batch)) * self.fit.batch
            raise ValueError(
                f"CoCLR: the queue, {self.queue} slots, is not divisible by the global batch of "
                f"{self.fit.batch}; {near} would be."
            )
        if self.fit.batch % self.key_groups:
            raise ValueError(
                f"CoCLR: key_groups must divide the global batch of {self.fit.batch}; got "
                f"{self.key_groups}. Use {math.gcd(self.key_groups, self.fit.batch)}."
            )
        if self.positives == "mined" and self.topk >= self.queue:
            raise ValueError(
                f"recipe of coclr: topk must be below the queue's {self.queue} slots; got {self.topk}."
            )

    @property
    def more_forwards(self) -> int:
        """The passes of the key encoder and, with mining, of the teacher."""
        return 1 + (self.positives == "mined")

    def data_sets(self) -> tuple[common.DataSet, ...]:
        """Return the videos of the recipe's manifest."""
        return (common.DataSet(self.manifest, self.flow, self.clip),)

    @property
    def parent(self) -> str:
        """The student; the teacher's weights are not trained on."""
        return self.student

    @property
    def needs(self) -> tuple[str, ...]:
        """Student and teacher."""
        return tuple(filter(None, (self.student, self.teacher)))


@dataclass(frozen=True)
class Preset:
    """The stages of one experiment: one stream alone, a half-cycle of both, and how many cycles."""

    alone: Recipe
    together: Recipe
    cycles: int = 1


def _preset(alone: Recipe, fit: Fit, cycles: int, **changes) -> Preset:
    """A preset whose half-cycle differs from `alone` in the positives, `fit` and `changes`."""
    return Preset(alone, replace(alone, positives="mined", fit=fit, **changes), cycles)


_SMALL = {"width": 0.25, "units": (2, 2, 0)}
_TINY = Recipe(
    queue=64,
    momentum=0.99,
    dim=32,
    network_args={"width": 0.125, "units": (1, 1, 0)},
    held_out=0.2,
    clip=ClipSpec(frames=8, stride=2, views=2, augment=AUGMENTS["toy"]),
    fit=Fit(epochs=2, batch=16, schedule="cosine", log_every=13),
)
_TOY = Recipe(
    siblings="ignore",
    queue=256,
    momentum=0.99,
    key_groups=2,
    network_args=_SMALL,
    clip=ClipSpec(frames=8, stride=3, views=2, augment=AUGMENTS["toy"]),
    fit=Fit(epochs=20, batch=32, log_every=11, schedule="cosine", validate_every=5),
    held_out=0.1,
)
_FEW = replace(
    _TOY,
    clip=replace(_TOY.clip, stride=4, decode_size=64),
    fit=replace(_TOY.fit, epochs=100, validate_every=1),
    held_out=0.0,
)
# The paper: 4 GPUs x 32, the rate divided by ten twice, on a plateau of validation. The share of
# train held out for validation and the patience are assumptions.
_PAPER = Recipe(
    held_out=0.05,
    key_groups=4,
    fit=Fit(epochs=300, batch=128, schedule="plateau", drops=2, patience=10, workers=12),
)
# The released code: its augmentation, milestones (README), 2 GPUs x 32 on UCF101 and 4 x 32 for
# Kinetics' init; dataset/lmdb_dataset.py pads on the left and never reads the last window.
_OFFICIAL = Recipe(
    fill_first=False,
    key_groups=2,
    clip=ClipSpec(
        frames=32,
        stride=1,
        views=2,
        augment=AUGMENTS["coclr_official"],
        pad="first",
        reach_end=False,
    ),
    fit=Fit(epochs=300, batch=64, schedule="milestones", milestones=(250, 280), workers=12),
)
# main_coclr.py
_RELEASED = {"siblings": "positive", "drop_own_key": 0.9, "fill_first": True}
PRESETS = {
    # Tests and notebooks as opened: seconds on a CPU; it learns almost nothing.
    "tiny": _preset(_TINY, _TINY.fit, 1),
    # The toy world `small`: about 1.5 minutes a stage on one core. Chosen on held-out training
    # videos of world 0; a class has 43 slots of the queue there, on UCF101 20, so k may be larger
    # than the paper's 5, too.
    "toy": _preset(_TOY, _TOY.fit, 2, drop_own_key=0.9, queue=512, topk=20),
    # Few real videos, 30 to 500, on a CPU: the switches of `toy`, chosen on held-out training
    # videos of toy world 0. A stage sees 9,600 clips of 96 training videos; for fewer, `fitted`
    # shrinks batch and queue. The stride of 4 is an assumption: 30 frames per second.
    "few": _preset(_FEW, _FEW.fit, 2, drop_own_key=0.9, queue=512, topk=20),
    # UCF101 split 1, 9,537 videos: 300 epochs alone, two cycles of 100 + 100.
    "ucf101_paper": _preset(_PAPER, replace(_PAPER.fit, epochs=100), 2, mine_siblings=True),
    "ucf101_official": _preset(
        _OFFICIAL, replace(_OFFICIAL.fit, epochs=100, milestones=(80,)), 2, **_RELEASED
    ),
    # Kinetics-400: one cycle of 50 + 50, a longer queue.
    "k400_paper": _preset(
        replace(_PAPER, queue=16384), replace(_PAPER.fit, epochs=50), 1, mine_siblings=True
    ),
    "k400_official": _preset(
        replace(_OFFICIAL, queue=16384, key_groups=4, fit=replace(_OFFICIAL.fit, batch=128)),
        replace(_OFFICIAL.fit, epochs=50, milestones=(40,)),
        1,
        key_groups=2,
        **_RELEASED,
    ),
}


def graph(
    preset: Preset, folder: str | Path, *, manifest: str, flow: str, seed: int = 0
) -> dict[str, Recipe]:
    """Plan all stages, by their run's name below `folder`, in an order in which they can run.

    First infonce-rgb and infonce-flow. Then for each cycle coclr-rgb, mined by the newest flow run,
    and coclr-flow, mined by the RGB run just trained (section 3.1). From the second cycle on, names
    end with the cycle's number. Each stage starts from the newest run of its stream.

    Args:
        folder: The folder of the run directories.
        manifest, flow: Folders of the manifest and of the flow store.
        seed: Each stage's seed is 1000 times this plus the stage's position.
    """
    folder = Path(folder)
    stages: dict[str, Recipe] = {}
    newest: dict[str, str] = {}

    def add(name: str, recipe: Recipe, **changes) -> None:
        # another seed, so that a stage does not see its parent's views again
        fit = replace(recipe.fit, seed=1000 * seed + len(stages))
        stages[name] = replace(recipe, manifest=str(manifest), flow=str(flow), fit=fit, **changes)
        newest[stages[name].stream] = str(folder / name)

    for stream in OTHER:
        add(f"infonce-{stream}", preset.alone, stream=stream)
    for cycle in range(1, preset.cycles + 1):
        for stream in OTHER:
            name = f"coclr-{stream}" + (f"-{cycle}" if cycle > 1 else "")
            add(
                name,
                preset.together,
                stream=stream,
                student=newest[stream],
                teacher=newest[OTHER[stream]],
            )
    return stages


def half_cycle(together: Recipe, student: str, teacher: str) -> Recipe:
    """Return the student's recipe (network, clips, data) with positives and schedule of `together`.

    Args:
        together: Gives the fields in SWITCHES.
        student, teacher: Run directories.
    """
    own = Run(student).recipe
    return replace(
        own,
        **{name: getattr(together, name) for name in SWITCHES},
        student=student,
        teacher=teacher,
    )


def fitted(recipe: Recipe, rows: int, share: float = 1.0) -> Recipe:
    """Fit batch, queue and topk to a small data set; a recipe that fits stays as it is.

    An epoch has at least two batches. The queue holds at most an epoch's clips, so the first
    optimizer step comes in the first epoch. topk stays the same share of the queue. In a smaller
    queue, most clips meet older views of themselves, so siblings that were negatives are ignored.

    Args:
        rows: How many training videos there are.
        share: The queue holds at most this share of the training videos.

    Raises:
        ValueError: There are fewer than 4 training videos.
    """
    if rows < 4:
        raise ValueError(
            f"CoCLR needs at least 4 training videos; got {rows}. Add videos, or hold out fewer."
        )
    batch = recipe.fit.batch
    while batch > rows // 2:
        batch = max(2, batch // 2)
    queue = max(batch, min(recipe.queue, int(share * rows)) // batch * batch)
    if (batch, queue) == (recipe.fit.batch, recipe.queue):
        return recipe
    siblings = "ignore" if recipe.siblings == "negative" else recipe.siblings
    return replace(
        recipe,
        queue=queue,
        topk=max(1, round(recipe.topk * queue / recipe.queue)) if recipe.topk else 0,
        siblings=siblings,
        key_groups=math.gcd(recipe.key_groups, batch),
        fit=replace(recipe.fit, batch=batch),
    )


def fitted_words(recipe: Recipe, made: Recipe, rows: int) -> str:
    """Say in one line what `fitted` changed.

    Args:
        recipe, made: Before and after.
        rows: How many training videos there are.
    """
    pairs = {name: (getattr(recipe, name), getattr(made, name)) for name in FITTED}
    pairs["batch"] = recipe.fit.batch, made.fit.batch
    changed = [f"{name} {old} -> {new}" for name, (old, new) in pairs.items() if old != new]
    if not changed:
        return f"the recipe fits {rows} training videos"
    return f"changed to fit {rows} training videos: {', '.join(changed)}"
