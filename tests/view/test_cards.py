"""Cards of playing clips."""

import re

import numpy as np
import pytest

from tests.view.test_viewer import facts
from vidbench.view import cards


def test_a_wall_plays_each_clip_with_its_name_and_sentence():
    frames = np.random.default_rng(0).integers(0, 255, (4, 16, 24, 3), np.uint8)
    made = cards.wall([cards.card(frames, 8, "<wave>", "One arm & a hand.", side=48)], title="base")
    assert "&lt;wave&gt;" in made and "One arm &amp; a hand." in made and "<wave>" not in made
    assert ">base<" in made
    assert made.count("data:image/webp;base64,") == 2, "the clip, and its flow for the viewer"
    (said,), (flow,) = facts(made), facts(made, "facts")
    assert said["kind"] == "rgb" and said["path"] == flow["path"] == "drawn: <wave>"
    assert len(said["frames"]) == 4 and len(flow["frames"]) == 3 and said["times"][1] == 0.125
    assert "<script>" in made._repr_html_() and 'tabindex="0" role="button"' in made
    with pytest.raises(ValueError, match="at least one card"):
        cards.wall([])


def test_samples_are_spread_over_a_manifest_with_class_or_file_name(toy_tiny):
    made = cards.samples(toy_tiny, 4)
    names = re.findall(r"font-weight:600[^>]*>([^<]+)", made.replace("<wbr>", ""))
    assert len(names) == 4 and names[0] == "wave" and names[-1] == toy_tiny.classes[-1]
    shown, flow = facts(made), facts(made, "facts")
    assert [one["path"] for one in shown] == [one["path"] for one in flow]
    assert {one["kind"] for one in flow} == {"flow"} and shown[0]["path"] == str(toy_tiny.path[0])
    bare = cards.samples(toy_tiny.without_labels(), 2)
    assert "wave_<wbr>s00_<wbr>c0</div>" in bare


def test_a_shipped_clip_plays_and_a_missing_one_is_a_sentence(tmp_path):
    from tests import ROOT

    clip = ROOT / "assets" / "demo" / "toy.webp"
    assert clip.stat().st_size < 100_000 and "<img" in cards.shipped(clip)
    assert facts(cards.shipped(clip))[0]["path"] == str(clip)
    assert "is missing" in cards.shipped(tmp_path / "none.webp")
