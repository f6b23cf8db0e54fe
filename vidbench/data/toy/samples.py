"""One clip of every action and of every size of the toy worlds, with a sentence on each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vidbench.data.toy import world as toy

ACTIONS = {  # class -> what one sees, by world
    "base": {
        "wave": "One arm goes up, and its forearm swings.",
        "jumping_jack": "Arms and legs open and close in a jump.",
        "squat": "Hips go down over bent knees and come up.",
        "walk": "Arms and legs swing in turn, at a normal pace.",
        "kick": "One leg swings forward and returns.",
        "punch": "The arms shoot forward in turn.",
        "bow": "The torso bends forward and rises.",
        "clap": "Both hands meet in front and part.",
        "cartwheel": "The whole body turns over sideways.",
        "throw": "One arm swings back, then over the head.",
        "sit_down": "Standing, then sitting: only the order of frames differs from stand_up.",
        "stand_up": "Sitting, then standing: sit_down played backwards.",
    },
    "gym": {
        "star_jump": "The same as jumping_jack of the base world.",
        "knee_bend": "The same as squat.",
        "stroll": "A slow walk.",
        "power_walk": "A fast walk.",
        "strike": "A kick or a punch: two base actions in one class.",
        "greeting": "A wave or a bow: two base actions in one class.",
        "to_the_mat": "The same as sit_down.",
        "get_up": "The same as stand_up.",
        "hop": "Jumps on both feet; base has nothing like it.",
        "lunge": "A long step forward and back; base has nothing like it.",
    },
    "street": {
        "hello": "The same as wave.",
        "applause": "The same as clap.",
        "low_kick": "A kick that stays low.",
        "high_kick": "A kick that goes high.",
        "jab": "The same as punch.",
        "pitch": "The same as throw.",
        "passer_by": "The same as walk.",
        "deep_bow": "The same as bow.",
        "rest": "Sitting down or standing up: two base actions in one class.",
        "stretch": "Arms up, leaning to both sides; base has nothing like it.",
        "dance": "Body and arms sway; base has nothing like it.",
    },
    "club": {
        "fight": "Kicks or punches: two base actions in one class.",
        "salute": "Waving, bowing or clapping: three base actions in one class.",
        "floor": "Sitting down or standing up: two base actions in one class.",
        "fitness": "Jumping jack, squat or cartwheel: three base actions in one class.",
        "creep": "Slow walking, a part of walk.",
        "rush": "Fast walking, the other part.",
    },
    "park": {
        "signal": "The same as wave.",
        "cheer": "The same as jumping_jack.",
        "crouch": "The same as squat.",
        "march": "The same as walk.",
        "soccer": "The same as kick.",
        "boxing": "The same as punch.",
        "thanks": "The same as bow.",
        "ovation": "The same as clap.",
        "tumble": "The same as cartwheel.",
        "pelt": "The same as throw.",
        "settle": "The same as sit_down.",
        "rise": "The same as stand_up.",
        "skip": "The same as hop of gym.",
        "fence": "The same as lunge of gym.",
        "reach": "The same as stretch of street.",
        "waltz": "The same as dance of street.",
    },
    "mixed": {
        "kick_ball": "A kick, and a ball on the ground.",
        "throw_ball": "A throw with a ball in the hand.",
        "walk_ball": "A walk, and a ball on the ground: the motion of walk_box.",
        "squat_ball": "A squat, and a ball on the ground: the motion of squat_box.",
        "bow_box": "A bow, and a box on the ground.",
        "hop_box": "Jumps on both feet with a box in the hand.",
        "walk_box": "A walk, and a box on the ground: the motion of walk_ball.",
        "squat_box": "A squat, and a box on the ground: the motion of squat_ball.",
        "stretch_stick": "Arms up, leaning to both sides, with a stick in the hand.",
        "lunge_stick": "A long step forward and back with a stick in the hand.",
        "wave_stick": "A wave, and a stick on the ground: the motion of wave_umbrella.",
        "punch_stick": "Punches, and a stick on the ground: the motion of punch_umbrella.",
        "clap_stick": "Clapping, and a stick on the ground.",
        "jumping_jack_umbrella": "Jumping jacks, and an umbrella on the ground.",
        "dance_umbrella": "Body and arms sway with an umbrella in the hand.",
        "wave_umbrella": "A wave, and an umbrella on the ground: the motion of wave_stick.",
        "punch_umbrella": "Punches, and an umbrella on the ground: the motion of punch_stick.",
    },
}
WORLDS = {
    "base": "Blobs in the background, a camera that drifts",
    "gym": "Stripes, and a camera that zooms",
    "street": "Blocks, and a camera held in a hand",
    "club": "Stripes, and a camera held in a hand",
    "park": "Blobs, and a camera that zooms",
    "mixed": "Blobs, a shaking camera, a prop and a moving disc",
}


class Sample(NamedTuple):
    """One drawn clip: frames uint8 [T,H,W,3], their rate, a name and a sentence."""

    frames: np.ndarray
    fps: int
    name: str
    words: str


def actions(world: str = "base", preset: str = "tiny") -> Iterator[Sample]:
    """Draw the first clip of every class of a world.

    Args:
        world: One of the worlds (base, gym, street, club, park, mixed).
        preset: A size (tiny, small, large).

    Raises:
        ToyError: There is no such world or size.
    """
    for label, frames in _first_clips(preset, world):
        yield Sample(frames, toy.PRESETS[preset].fps, label, ACTIONS[world][label])


def sizes(action: str = "cartwheel") -> Iterator[Sample]:
    """Draw one action of the base world in every size, with what the size contains."""
    classes = len(toy.WORLDS["base"].classes)
    for name, preset in toy.PRESETS.items():
        frames = next(frames for label, frames in _first_clips(name, "base", action))
        videos = classes * preset.source_videos * preset.clips
        words = (
            f"{videos} videos: {classes} classes, {preset.source_videos} source videos of each, "
            f"{preset.clips} clips of each source; {preset.frames} frames of {preset.size} pixels "
            f"at {preset.fps} a second."
        )
        yield Sample(frames, preset.fps, name, words)


def worlds(preset: str = "tiny") -> Iterator[Sample]:
    """Draw the first class of every world next to the base world, with what sets it apart."""
    for name, words in list(WORLDS.items())[1:]:
        label, frames = next(_first_clips(preset, name))
        count = len(toy.WORLDS[name].classes)
        words = f"{words}. {count} classes; this one is {label}."
        yield Sample(frames, toy.PRESETS[preset].fps, f"{preset}-{name}", words)


def _first_clips(preset: str, world: str, only: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The first clip of each class, or of one: pairs of class and frames."""
    seen: set[str] = set()
    for source in toy.plan_videos(preset, world, 0):
        if source.label not in seen and only in ("", source.label):
            seen.add(source.label)
            _, frames = next(toy.draw(source, (0,), toy.PRESETS[preset], world, 0))
            yield source.label, frames
