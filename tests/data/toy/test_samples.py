"""One clip of every action, world and size."""

import numpy as np

from vidbench.data.toy import samples, world
from vidbench.data.video import clips


def test_every_class_of_every_world_has_a_sentence():
    assert [*samples.ACTIONS] == [*samples.WORLDS] == [*world.WORLDS]
    for name, known in world.WORLDS.items():
        assert [*samples.ACTIONS[name]] == [*known.classes]
        assert all(words.endswith(".") for words in samples.ACTIONS[name].values())


def test_an_action_is_drawn_as_in_its_rendered_video(toy_tiny):
    shown = next(samples.actions("base"))
    assert (shown.name, shown.fps, shown.frames.shape) == ("wave", 15, (30, 64, 64, 3))
    rendered = clips.read(toy_tiny.absolute(0)).frames.astype(float)  # mp4 loses a little
    assert toy_tiny.names(0)["label"] == "wave"
    assert np.abs(rendered - shown.frames).mean() < 8


def test_sizes_and_worlds_say_what_they_contain():
    sizes = {one.name: one for one in samples.sizes()}
    assert [*sizes] == ["tiny", "small", "large"]
    assert sizes["tiny"].words.startswith("288 videos: 12 classes, 8 source videos of each")
    assert sizes["large"].frames.shape == (75, 128, 128, 3)
    worlds = {one.name: one.words for one in samples.worlds()}
    assert [*worlds] == ["tiny-gym", "tiny-street", "tiny-club", "tiny-park", "tiny-mixed"]
    assert "10 classes" in worlds["tiny-gym"] and "17 classes" in worlds["tiny-mixed"]
