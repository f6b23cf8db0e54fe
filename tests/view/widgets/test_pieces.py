"""Plotly's 5 MB go into a page once, whatever the number of figures that answer clicks."""

from vidbench.view.figures import curves
from vidbench.view.widgets.pieces import library, whole


def test_figures_of_a_kernel_share_one_library():
    figures = [whole(curves({"a": ([1, 2], [3, 4])}, "x", "y")) for _ in range(2)]
    states = [str(figure.get_state()) for figure in figures]
    assert all(len(state) < 200_000 and library().model_id in state for state in states)
    assert len(library().value) > 1_000_000
