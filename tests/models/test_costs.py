"""Costs counted on the meta device: by hand on one layer, and the facts of a step's autocast."""

import pytest
import torch
from torch import nn

from vidbench import models
from vidbench.models.costs import CARDS, count

CARD = CARDS["H200"]


class Layer(nn.Module):
    """A linear layer on the mean over time and space: clips [B,3,T,H,W] -> [B,5,1,1,1]."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 5, bias=False)

    def forward(self, clips):
        return torch.relu(self.linear(clips[:, :, 0, 0, 0]))[..., None, None, None]


def test_one_layer_by_hand():
    cost = count(Layer, (4, 3, 1, 1, 1), "fp32")
    found = {}
    for name, one in cost.operations:
        found.setdefault(name, []).append(one)
    forward, backward = found["mm"]
    assert forward.flop == backward.flop == 2 * 4 * 3 * 5
    assert forward.bytes == 4 * (4 * 3 + 3 * 5 + 4 * 5)
    assert backward.bytes == 4 * (4 * 5 + 4 * 3 + 3 * 5)  # the weight's gradient alone
    assert found["relu"][0].bytes == 4 * 2 * 20
    assert cost.weights == 4 * 15 and cost.flop == 2 * forward.flop
    wanted = sum(
        max(one.bytes / CARD.bandwidth, one.flop / CARD.rate) for _, one in cost.operations
    )
    assert cost.limit(CARD) == pytest.approx(wanted)
    assert sum(seconds for _, seconds in cost.kinds(CARD).values()) == pytest.approx(wanted)


def test_kept_bytes_do_not_count_weights_and_count_a_feature_once():
    cost = count(Layer, (4, 3, 1, 1, 1), "fp32")
    assert cost.kept == 4 * (4 * 3 + 4 * 5)  # the layer's input, relu's output


@pytest.mark.parametrize("groups", (1, 8))
def test_a_convolution_s_backward_pass_costs_twice_its_forward_pass(groups):
    def net():
        inner = nn.Conv3d(8, 8, 3, padding=1, groups=groups, bias=False)
        return nn.Sequential(nn.Conv3d(3, 8, 1, bias=False), inner)

    cost = count(net, (2, 3, 4, 6, 6), "fp32")
    forward = [one.flop for name, one in cost.operations if name == "convolution"]
    backward = [one.flop for name, one in cost.operations if name == "convolution_backward"]
    assert forward[1] == 2 * 2 * 8 * (8 // groups) * 27 * 4 * 6 * 6
    assert sorted(backward) == sorted((forward[0], 2 * forward[1]))  # clips need no gradient


def test_autocast_halves_products_and_leaves_norms_in_float32():
    def net():
        return models.build("mvit", preset="tiny")

    half, whole = (count(net, (2, 3, 8, 64, 64), kind) for kind in ("bf16", "fp32"))
    products = [
        sum(one.bytes for name, one in cost.operations if name in ("mm", "addmm"))
        for cost in (half, whole)
    ]
    assert 0.45 < products[0] / products[1] < 0.6
    assert half.flop == whole.flop
    norms = [
        [one.bytes for name, one in c.operations if name == "native_layer_norm"]
        for c in (half, whole)
    ]
    assert norms[0] == norms[1]
    assert "_scaled_dot_product_flash_attention" in dict(half.operations)


def test_norms_in_autocast_s_precision_halve_their_bytes_and_save_copies():
    def norms_and_copies(norms):
        cost = count(lambda: models.build("mvit", preset="tiny", norms=norms), (2, 3, 8, 64, 64))
        kinds = cost.kinds(CARD)
        return kinds["native_layer_norm"][0].bytes, kinds["_to_copy"][0].bytes, cost.bytes

    before, after = norms_and_copies("float32"), norms_and_copies("autocast")
    ratios = [new / old for new, old in zip(after, before, strict=True)]
    assert 0.45 < ratios[0] < 0.6 and ratios[1] < 0.5 and ratios[2] < 0.85
