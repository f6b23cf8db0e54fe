"""figures: what is drawn is what was given, colors that stay, and words that stay words."""

import numpy as np
import pytest

from tests.view.test_galleries import HOSTILE
from vidbench.view import figures, looks
from vidbench.view.figures import Bar


def test_curves_draw_what_they_are_given():
    ys = [0.5, float("nan"), 0.25]
    figure = figures.curves(
        {"InfoNCE": ([0, 1, 2], ys), HOSTILE: ([0], [1.0])}, "epoch", "R@1 (%)", "t", percent=True
    )
    np.testing.assert_allclose(figure.data[0].y, [50, np.nan, 25])
    assert figure.layout.showlegend and figure.layout.xaxis.title.text == "epoch"
    assert "<" not in figure.data[1].name and "&lt;b&gt;" in figure.data[1].name
    assert figures.curves({"one": ([0], [1.0])}, "x", "y").layout.showlegend
    level = figures.curves({"one": ([0, 1], [1.0, 10.0])}, "x", "y", levels={"floor": 0.1}).layout
    assert level.annotations[0].y == level.shapes[0].y0 == 0.1


def test_curves_draw_intervals_as_bands_in_the_curves_color():
    ks, ys, lows, highs = [1, 5, 10], [0.3, 0.5, 0.6], [0.2, 0.4, 0.5], [0.4, 0.6, 0.7]
    figure = figures.curves(
        {"CoCLR": (ks, ys, lows, highs), "other": (ks, ys)}, "k", "R@k (%)", percent=True
    )
    band, line, other = figure.data
    assert (
        band.fillcolor == line.line.color == looks.METHODS["coclr"]
        and band.opacity < 0.3
        and not band.showlegend
    )
    np.testing.assert_allclose(band.x, [1, 5, 10, 10, 5, 1])
    np.testing.assert_allclose(
        band.y, [20, 40, 50, 70, 60, 40]
    )  # there along the lows, back along the highs
    np.testing.assert_allclose(line.y, [30, 50, 60])
    assert other.fill is None
    for wrong, says in (
        ((ks, ys, lows), "lows and highs"),
        ((ks, ys, lows, highs[:2]), "lows and highs"),
        ((ks, ys, lows, [40, 60, 70]), "divide by 100"),
    ):
        with pytest.raises(ValueError, match=says):
            figures.curves({"CoCLR": wrong}, "k", "R@k (%)", percent=True)


def test_a_method_keeps_its_color_and_no_two_look_alike():
    one = figures.curves({"CoCLR": ([0], [1]), "mine": ([0], [1])}, "x", "y")
    two = figures.bars([Bar("other", "R@1", 0.1), Bar("CoCLR", "R@1", 0.2)], "y")
    assert one.data[0].line.color == looks.METHODS["coclr"]
    assert [t.marker.color for t in two.data if t.type == "bar"][1] == looks.METHODS["coclr"]
    named = figures.curves({"mine": ([0], [1])}, "x", "y", colors={"mine": "#123456"})
    assert named.data[0].line.color == "#123456"
    many = looks.colors_for([f"m{i}" for i in range(20)] + ["CoCLR", "InfoNCE"])
    assert len(set(many.values())) == 22


@pytest.mark.parametrize(
    ("series", "percent", "says"),
    [
        ({}, False, "at least one"),
        ({"a": ([1, 2], [1])}, False, "'a'"),
        ({"a": ([], [])}, False, r"n > 0"),
        ({"a": ([1], [33.1])}, True, "divide by 100"),
    ],
)
def test_curves_refuse(series, percent, says):
    with pytest.raises(ValueError, match=says):
        figures.curves(series, "x", "y", percent=percent)


def test_bars_show_values_intervals_and_numbers():
    rows = [
        ("A", "R@1", 0.30, 0.25, 0.37),
        ("A", "probe", 0.50, None, None),
        Bar("B", "R@1", 0.6, 0.6, 0.6),
    ]
    figure = figures.bars(rows, "accuracy (%)", levels={"chance": 0.05})
    first, numbers = figure.data[0], figure.data[1]
    np.testing.assert_allclose(first.y, [30, 50])
    np.testing.assert_allclose(first.error_y.array, [7, 0], atol=1e-9)
    np.testing.assert_allclose(first.error_y.arrayminus, [5, 0], atol=1e-9)
    np.testing.assert_allclose(numbers.y, [37, 50])
    assert tuple(numbers.text) == ("30.0", "50.0")
    assert tuple(figure.layout.xaxis.categoryarray) == ("R@1", "probe")
    assert figure.layout.shapes[0].y0 == pytest.approx(5) and figure.layout.yaxis.range[1] >= 66


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "at least one"),
        ([("A", "g", 1.0), ("A", "g", 0.5)], "twice"),
        ([("A", "g", 0.5, 0.6, 0.7)], "low <= value"),
        ([("A", "g", float("nan"))], "low <= value"),
        ([("A", "g", 33.1)], "divide by 100"),
    ],
)
def test_bars_refuse(rows, says):
    with pytest.raises(ValueError, match=says):
        figures.bars(rows, "y")


def test_bars_of_counts_show_whole_numbers_and_no_whiskers():
    counts = figures.bars(
        [figures.Bar("train", "a", 18), figures.Bar("train", "b", 6)], "videos", percent=False
    )
    assert list(counts.data[1].text) == ["18", "6"] and not counts.data[0].error_y.visible
    shares = figures.bars([figures.Bar("m", "a", 0.5, 0.4, 0.6)], "percent")
    assert list(shares.data[1].text) == ["50.0"] and shares.data[0].error_y.visible


def test_whiskers_stand_in_their_methods_row_below_each_other_with_their_intervals():
    rows = [
        Bar("RMS", "toy", 0.1, -0.05, 0.3),
        Bar("RMS", HOSTILE, -0.2, -0.3, -0.1),
        Bar("CutMix", "toy", 0.0),
    ]
    figure = figures.whiskers(rows, "points", "t")
    toy, other = figure.data
    np.testing.assert_allclose(toy.x, [10, 0])
    np.testing.assert_allclose([toy.error_x.array, toy.error_x.arrayminus], [[20, 0], [15, 0]])
    assert (
        abs(toy.y[0]) < 0.5
        and abs(toy.y[1] - 1) < 0.5
        and toy.y[0] < other.y[0] < 0.5
        and "<" not in other.name
    )
    assert toy.marker.color == toy.error_x.color != other.marker.color
    assert figure.layout.yaxis.ticktext == ("RMS", "CutMix") and figure.layout.yaxis.range == (
        1.5,
        -0.5,
    )
    for wrong in ([], [rows[0], rows[0]]):
        with pytest.raises(ValueError, match="one for each method and group"):
            figures.whiskers(wrong, "points")


def test_color_follows_the_method_and_dash_the_stream_in_every_figure():
    names = ["infonce-rgb", "tiny/infonce-flow", "infonce-rgb-long", "coclr-rgb", "CoCLR flow"]
    styles = looks.colors_for(names)
    blue, vermilion = looks.METHODS["infonce"], looks.METHODS["coclr"]
    assert [color for color, _ in styles.values()] == [blue, blue, blue, vermilion, vermilion]
    assert [dash for _, dash in styles.values()] == ["solid", "dash", "dot", "solid", "dash"]
    for few in (names[3:], names[::-1]):
        assert {name: looks.colors_for(few)[name] for name in few[:2]} == {
            name: styles[name] for name in few[:2]
        }, "which others are drawn does not change a run's look"
    both = looks.colors_for(["infonce-rgb", "infonce-flow", "both streams"])["both streams"]
    assert both[0] not in looks.METHODS.values(), "no method's color, while there is another"
    drawn = figures.curves({name: ([0], [1.0]) for name in names}, "x", "y").data
    assert [(one.line.color, one.line.dash) for one in drawn] == [*styles.values()]
    bars = figures.bars([Bar(name, "R@1", 0.5) for name in names[:2]], "y")
    assert [bars.data[0].marker.pattern.shape, bars.data[2].marker.pattern.shape] == ["", "/"]
    runs = figures.bars([Bar("R@1", name, 0.5) for name in names], "y", by_group=True)
    assert list(runs.data[0].marker.color) == [color for color, _ in styles.values()]
    assert not runs.layout.showlegend


def luminance(color):
    shares = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in shares]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_lines_are_seen_on_white_and_on_a_dark_theme():
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    for color in (*looks.PALETTE, looks.RIGHT, looks.WRONG, looks.AXIS_LINE):
        assert min(contrast(color, "#FFFFFF"), contrast(color, "#111111")) >= 3, color
    assert all(contrast(color, "#FFFFFF") >= 3 for color in looks.CLASS_COLORS)
    assert not set(looks.CLASS_COLORS) & set(looks.PALETTE)


def test_figures_have_no_logo_and_icons_only_under_the_pointer():
    from plotly import io

    figures.curves({"one": ([0], [1.0])}, "x", "y")
    for name in looks.RENDERERS:
        assert io.renderers[name].config == looks.CONFIG
