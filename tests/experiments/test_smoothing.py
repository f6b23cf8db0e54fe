"""What notebook 22 shows of the filter."""

import numpy as np
import pytest
import torch

from vidbench.experiments import smoothing
from vidbench.tensors.scaling import BORDERS, Filter

F = Filter(3)
CLIP = torch.randn(1, 3, 8, 10, 10, generator=torch.Generator().manual_seed(0))


def test_the_two_parts_add_up_and_energies_are_shares():
    parts = smoothing.split(CLIP, F)
    assert torch.allclose(parts[smoothing.LOW] + parts[smoothing.HIGH], CLIP, atol=1e-6)
    rows = smoothing.energies({"clip": CLIP}, F, seed=0)
    assert [row["of"] for row in rows] == ["clip", "white noise"]
    assert 0 < rows[1]["low part"] < 0.1 < rows[1]["high part"] < 1


@pytest.mark.parametrize("sigma", [0.0, 0.8])
def test_the_response_is_what_the_filter_does_to_a_wave(sigma):
    periods = np.linspace(2, 16, 15)
    answer = smoothing.response(3, sigma, periods)
    wave = torch.cos(2 * torch.pi / torch.tensor(periods)[:, None] * (torch.arange(65) - 32))
    done = Filter((1, 1, 3), sigma or None)(wave[:, None, None, None])[..., 32].flatten()
    np.testing.assert_allclose(done.numpy(), answer, atol=1e-6)
    assert len(smoothing.responses(3, periods)) == 1 + len(smoothing.SIGMAS)


def test_only_counted_zeros_change_a_constant_at_the_border():
    gains = smoothing.borders(3, 0.0)
    rows = {row["border"]: row for row in smoothing.border_rows(gains)}
    assert [*rows] == [*BORDERS] and rows["zero"]["corner"] == pytest.approx(8 / 27)
    assert rows["valid"]["corner"] == pytest.approx(1) == rows["replicate"]["corner"]
    assert [one.shape for one in smoothing.middles(gains).values()] == [(3, 14, 14), (3, 7, 7)]


def test_a_scaled_frame_is_itself_at_one():
    steps, fixed = smoothing.scaled(CLIP[:, :1], F)
    assert len(steps) == 9 and np.allclose(steps["1"], CLIP[0, 0, 4].numpy(), atol=1e-6)
    assert np.allclose(steps["1"][5], fixed["x"], atol=1e-6)


def test_the_noise_follows_its_formula():
    rows = smoothing.noise_rows(CLIP, F, seed=0)
    assert [row["scaled"] for row in rows] == ["low", "low", "high", "high", "whole", "whole"]
    assert all(abs(row["measured / formula"] - 1) < 0.1 for row in rows)


def test_the_whole_branch_is_scaled_alike_at_every_period():
    periods = np.linspace(2, 16, 5)
    lines = smoothing.relatives(smoothing.response(3, 0.0, periods), periods)
    assert [*lines] == ["low, which is RMS", "high", "whole"]
    assert np.allclose(lines["whole"]["α = 2"][1], 2)


def test_a_fresh_network_gives_a_feature(toy_tiny, tmp_path):
    shown = smoothing.subject(tmp_path, toy_tiny, "", 0, seed=0)
    assert shown.gray.shape[:2] == (1, 1) and shown.feature.ndim == 5 and not shown.flat
    assert 0 <= shown.channel < shown.feature.shape[1]
