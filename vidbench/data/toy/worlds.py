"""What each toy world shows: its classes, their actions and props, and which classes are related."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class World(NamedTuple):
    """Class names, each with the base actions it shows ("walk" or one variant of it, "walk/slow"),
    and a style."""

    background: str
    camera: str
    classes: dict[str, tuple[str, ...]]
    props: dict[str, str] = {}  # class -> what the figure holds or stands next to, of toy.props


BASE = (
    "wave",
    "jumping_jack",
    "squat",
    "walk",
    "kick",
    "punch",
    "bow",
    "clap",
    "cartwheel",
    "throw",
    "sit_down",
    "stand_up",
)
# (action, prop) of each class of the mixed world: each of nine motions belongs to one class, each of
# four to two classes, and each prop to four or five. So no stream can predict every label.
#
# The classes were chosen by linear classifiers on the worlds of seeds 11 to 14, not by a trained
# network: flow predicts 69 % of test videos (67 % without clap_stick), a still frame 47 %, and either
# is right in 80 %. Pairs that share a motion have props of similar shape: an umbrella hides more of
# the figure than a ball, so flow could distinguish them.
MIXED = (
    ("kick", "ball/ground"),
    ("throw", "ball/hand"),
    ("walk", "ball/ground"),
    ("squat", "ball/ground"),
    ("bow", "box/ground"),
    ("hop", "box/hand"),
    ("walk", "box/ground"),
    ("squat", "box/ground"),
    ("stretch", "stick/hand"),
    ("lunge", "stick/hand"),
    ("wave", "stick/ground"),
    ("punch", "stick/ground"),
    ("clap", "stick/ground"),
    ("jumping_jack", "umbrella/ground"),
    ("dance", "umbrella/hand"),
    ("wave", "umbrella/ground"),
    ("punch", "umbrella/ground"),
)
WORLDS = {
    "base": World("blobs", "drift", {name: (name,) for name in BASE}),
    "gym": World(
        "stripes",
        "zoom",
        {
            "star_jump": ("jumping_jack",),
            "knee_bend": ("squat",),
            "stroll": ("walk/slow",),
            "power_walk": ("walk/fast",),
            "strike": ("kick", "punch"),
            "greeting": ("wave", "bow"),
            "to_the_mat": ("sit_down",),
            "get_up": ("stand_up",),
            "hop": ("hop",),
            "lunge": ("lunge",),
        },
    ),
    "street": World(
        "blocks",
        "hand",
        {
            "hello": ("wave",),
            "applause": ("clap",),
            "low_kick": ("kick/low",),
            "high_kick": ("kick/high",),
            "jab": ("punch",),
            "pitch": ("throw",),
            "passer_by": ("walk",),
            "deep_bow": ("bow",),
            "rest": ("sit_down", "stand_up"),
            "stretch": ("stretch",),
            "dance": ("dance",),
        },
    ),
    # Every class is a union or a part of base's.
    "club": World(
        "stripes",
        "hand",
        {
            "fight": ("kick", "punch"),
            "salute": ("wave", "bow", "clap"),
            "floor": ("sit_down", "stand_up"),
            "fitness": ("jumping_jack", "squat", "cartwheel"),
            "creep": ("walk/slow",),
            "rush": ("walk/fast",),
        },
    ),
    # One class for each action, in its own style: to test what a network learned elsewhere.
    "park": World(
        "blobs",
        "zoom",
        {
            "signal": ("wave",),
            "cheer": ("jumping_jack",),
            "crouch": ("squat",),
            "march": ("walk",),
            "soccer": ("kick",),
            "boxing": ("punch",),
            "thanks": ("bow",),
            "ovation": ("clap",),
            "tumble": ("cartwheel",),
            "pelt": ("throw",),
            "settle": ("sit_down",),
            "rise": ("stand_up",),
            "skip": ("hop",),
            "fence": ("lunge",),
            "reach": ("stretch",),
            "waltz": ("dance",),
        },
    ),
    "mixed": World(
        "blobs",
        "shake",
        {f"{action}_{prop.partition('/')[0]}": (action,) for action, prop in MIXED},
        {f"{action}_{prop.partition('/')[0]}": prop for action, prop in MIXED},
    ),
}
# Their classes are compared in `correspondence`. A prop makes a class of the mixed world another one.
RELATED = tuple(name for name, world in WORLDS.items() if not world.props)
# What is drawn for each source: speed and amplitude. The variants are what other worlds call
# classes of their own; both survive a horizontal flip, which left- and right-handed waving would
# not.
RANGES = {"": {"speed": (0.88, 1.15), "amplitude": (0.9, 1.08)}}
VARIANTS = {
    "walk": {"slow": {"speed": (0.6, 0.75)}, "fast": {"speed": (1.2, 1.45)}},
    "kick": {"low": {"amplitude": (0.5, 0.62)}, "high": {"amplitude": (0.95, 1.1)}},
}


def correspondence() -> list[dict[str, str]]:
    """Return which classes of the worlds are related: one row for a class and another world.

    Columns world, class, actions, other_world, matches, relation (lists are joined by ";").
    relation is seen from the class: same, merged (it holds all of its matches and more than any one
    of them), split (it is a part of its match), private (no match in that world).
    """
    rows = []
    for name in RELATED:
        for label, actions in WORLDS[name].classes.items():
            held = _content(actions)
            for other in RELATED:
                if other == name:
                    continue
                contents = {c: _content(a) for c, a in WORLDS[other].classes.items()}
                matches = {c: content for c, content in contents.items() if content & held}
                rows.append(
                    {
                        "world": name,
                        "class": label,
                        "actions": ";".join(actions),
                        "other_world": other,
                        "matches": ";".join(matches),
                        "relation": _relation(held, list(matches.values())),
                    }
                )
    return rows


def _relation(held: frozenset[str], matches: list[frozenset[str]]) -> str:
    if not matches:
        return "private"
    if matches == [held]:
        return "same"
    if all(match < held for match in matches):
        return "merged"
    if len(matches) == 1 and held < matches[0]:
        return "split"
    raise ValueError(
        f"the worlds must nest: {sorted(held)} overlaps {[sorted(m) for m in matches]} in part"
    )


def parts_of(action: str) -> tuple[str, ...]:
    """Return an action's variants, or itself if it has none: "walk" -> ("walk/slow", "walk/fast")."""
    return tuple(f"{action}/{v}" for v in VARIANTS.get(action, ())) or (action,)


def _content(actions: Iterable[str]) -> frozenset[str]:
    return frozenset(part for action in actions for part in parts_of(action))
