"""maps: numbers as they were given, scales that are shared and honest, 400 classes as readable as
12."""

import numpy as np
import pytest

from tests.view.test_galleries import HOSTILE
from vidbench.view import heatmaps, looks


def shares(count, seed=0):
    """A confusion matrix of so many classes, mostly right."""
    counts = np.random.default_rng(seed).random((count, count)) + count * np.eye(count)
    return counts / counts.sum(axis=1, keepdims=True)


def test_confusion_shows_rounded_percents_by_name():
    figure = heatmaps.confusion(np.array([[0.75, 0.25], [0.004, 0.996]]), ["walk", HOSTILE], "t")
    drawn = figure.data[0]
    np.testing.assert_array_equal(drawn.z, [[75, 25], [0, 100]])
    assert (drawn.zmin, drawn.zmax) == (0, 100) and drawn.texttemplate
    assert (
        drawn.x[0] == "walk"
        and "<" not in drawn.x[1]
        and "<b>" not in "".join(figure.layout.xaxis.ticktext)
    )
    assert figure.layout.yaxis.autorange == "reversed" and figure.layout.hovermode == "closest"


@pytest.mark.parametrize(
    ("count", "named", "numbered"),
    [(12, True, True), (40, True, False), (101, False, False), (400, False, False)],
)
def test_confusion_stays_readable_and_small(count, named, numbered):
    names = [f"a class with rather a long name {i}" for i in range(count)]
    figure = heatmaps.confusion(shares(count), names)
    assert figure.layout.xaxis.showticklabels is figure.layout.yaxis.showticklabels is named
    assert bool(figure.data[0].texttemplate) is numbered
    assert max(map(len, figure.layout.yaxis.ticktext or [""])) <= heatmaps.LETTERS < len(names[0])
    assert list(figure.data[0].y) == names, "whole names where one points at"
    assert figure.layout.height < 800 and len(figure.to_json()) < 300_000


def test_confusion_leaves_a_class_without_videos_empty():
    matrix = shares(3)
    matrix[1] = np.nan
    assert np.isnan(heatmaps.confusion(matrix, "abc").data[0].z[1]).all()
    for wrong, classes in (
        (matrix[:2], "abc"),
        (100 * shares(3), "abc"),
        (-shares(3), "abc"),
        (np.zeros((0, 0)), ""),
    ):
        with pytest.raises(ValueError, match="wanted shares in 0..1"):
            heatmaps.confusion(wrong, list(classes))


def test_heatmaps_share_one_scale_and_differences_another_around_zero():
    low, high = np.zeros((2, 3, 4)), np.full((2, 3, 4), -0.5)
    low[1, 0, 0], high[0, 2, 3] = 7, 0.2
    figure = heatmaps.heatmaps(
        {"x": low - 1, HOSTILE: low, "d": high}, ["one", "two"], "t", signed=["d"], unit="gray"
    )
    assert [trace.coloraxis for trace in figure.data] == ["coloraxis"] * 4 + ["coloraxis2"] * 2
    plain, signed = figure.layout.coloraxis, figure.layout.coloraxis2
    assert (plain.cmin, plain.cmax) == (-1, 7) and signed.cmax == -signed.cmin == 0.5
    assert signed.colorscale[1] == (0.5, "#FFFFFF") and signed.colorbar.title.text == "gray"
    np.testing.assert_array_equal(figure.data[3].z, low[1])
    words = [note.text for note in figure.layout.annotations]
    assert (
        words[0] == "x" and words[-2:] == ["one", "two"] and not any("<" in word for word in words)
    )
    assert len({(trace.xaxis, trace.yaxis) for trace in figure.data}) == 6
    fixed = heatmaps.heatmaps({"x": low}, ends=(0, 10)).layout
    assert (fixed.coloraxis.cmin, fixed.coloraxis.cmax) == (
        0,
        10,
    ) and fixed.width == heatmaps.NARROW


def test_heatmaps_keep_the_pictures_shape_within_a_figures_width():
    rows = {"tall": np.zeros((8, 20, 10)), "square": np.zeros((8, 5, 5))}
    layout = heatmaps.heatmaps(rows).layout
    wide, high = looks.WIDTH - layout.margin.r, layout.height - layout.margin.t - layout.margin.b
    assert layout.width is None and layout.autosize
    assert {layout[f"yaxis{n}"].scaleanchor for n in (1, 9)} == {"x", "x9"}
    for axis, ratio in (("1", 2.0), ("9", 1.0)):
        across, up = layout[f"xaxis{axis}"].domain, layout[f"yaxis{axis}"].domain
        assert (up[1] - up[0]) * high / ((across[1] - across[0]) * wide) == pytest.approx(
            ratio, rel=0.02
        )
    boxes = sorted(layout[f"yaxis{n}"].domain for n in (1, 9))
    assert (
        0 <= boxes[0][0] < boxes[0][1] < boxes[1][0] < boxes[1][1] < 1
    )  # a name has room above each row
    bar = layout.coloraxis.colorbar
    assert bar.y - bar.len / 2 == pytest.approx(
        boxes[0][0]
    ) and bar.y + bar.len / 2 == pytest.approx(boxes[1][1])


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ({}, ()),
        ({"a": np.zeros((2, 3))}, ()),
        ({"a": np.zeros((0, 3, 3))}, ()),
        ({"a": np.zeros((2, 3, 3))}, ["one"]),
        ({"a": np.zeros((2, 3, 3)), "b": np.zeros((1, 3, 3))}, ()),
        ({"a": np.full((1, 2, 2), np.nan)}, ()),
    ],
)
def test_heatmaps_refuse(rows, columns):
    with pytest.raises(ValueError, match="n finite maps"):
        heatmaps.heatmaps(rows, columns)


def test_slider_shows_one_state_at_a_time_and_needs_no_kernel():
    x = np.outer([1.0, 2.0], [1.0, 0.0, -1.0])
    states, profiles = {f"{a:g}": a * x for a in (0, 1, 2)}, {"x": x[1], HOSTILE: x[0]}
    figure = heatmaps.slider(states, "α", 1, "t", profiles=profiles, unit="u")
    assert [trace.visible for trace in figure.data] == [
        False,
        False,
        True,
        True,
        False,
        False,
        None,
        None,
    ]
    np.testing.assert_allclose(
        figure.data[3].y, [2, 0, -2]
    )  # row 1 at α = 1, where the slider begins
    (slider,) = figure.layout.sliders
    assert slider.active == 1 and [step.label for step in slider.steps] == ["0", "1", "2"]
    for number, step in enumerate(slider.steps):
        (change,) = step.args
        assert step.method == "restyle" and len(change["visible"]) == len(figure.data)
        shown = [i for i, seen in enumerate(change["visible"]) if seen]
        assert shown == [2 * number, 2 * number + 1, 6, 7]
    low, high = figure.layout.yaxis2.range  # one range and one scale for all states
    assert (
        low < -4
        and high > 4
        and (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-4, 4)
    )
    assert not any("<" in trace.name for trace in figure.data if trace.type == "scatter")


@pytest.mark.parametrize(
    ("steps", "row", "profiles"),
    [
        ({}, 0, {}),
        ({"0": np.zeros((2, 3)), "1": np.zeros((2, 4))}, 0, {}),
        ({"0": np.zeros((2, 3))}, 2, {}),
        ({"0": np.zeros((2, 3))}, 0, {"x": np.zeros(2)}),
    ],
)
def test_slider_refuses(steps, row, profiles):
    with pytest.raises(ValueError, match="one size with a row"):
        heatmaps.slider(steps, "α", row, profiles=profiles)
