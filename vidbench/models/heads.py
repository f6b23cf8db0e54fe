"""Classifier heads by name: what turns pooled features into class scores."""

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F


class UnitRows(nn.Module):
    """Each row to unit length: [B,D] -> [B,D]."""

    def forward(self, rows: Tensor) -> Tensor:
        """Scale rows [B,D] to unit length."""
        return F.normalize(rows, dim=1)


# Name -> what precedes the linear layer, from the width D.
HEADS: dict[str, Callable[[int], dict[str, nn.Module]]] = {
    "linear": lambda width: {},  # CoCLR supplement, table 2; fine-tuning in the released code
    "bn_linear": lambda width: {
        "norm": nn.BatchNorm1d(width)
    },  # eval/feature_linear_probe.py --final_bn
    # model/classifier.py with use_l2_norm and use_final_bn, which eval/main_classifier.py sets for
    # a linear probe
    "norm_linear": lambda width: {"unit": UnitRows(), "norm": nn.BatchNorm1d(width)},
}


def build_head(name: str, width: int, classes: int, dropout: float = 0.0) -> nn.Sequential:
    """Build a head from pooled features [B,D] to class scores [B,classes].

    Source: model/classifier.py of CoCLR. The linear layer `fc` starts with weights of standard
    deviation 0.01 and no bias. With width 1,024 and 101 classes it has 103,525 parameters, and the
    batch norm, whose statistics are those of a rank's part of the batch, 2,048.

    Args:
        name: A key of HEADS.
        width: D.
        dropout: The probability that a feature is dropped just before the linear layer.

    Raises:
        ValueError: an unknown name, fewer than two classes, or a dropout outside of 0 to 1.
    """
    if name not in HEADS:
        raise ValueError(f"a head is one of {', '.join(HEADS)}; got {name!r}.")
    if classes < 2 or not 0 <= dropout < 1:
        raise ValueError(
            f"a head needs at least 2 classes and a dropout from 0 to under 1; got {classes}, "
            f"{dropout}."
        )
    layer = nn.Linear(width, classes)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(OrderedDict(**HEADS[name](width), drop=nn.Dropout(dropout), fc=layer))


def mlp(width: int, hidden: int, out: int, dropout: float = 0.0) -> nn.Sequential:
    """Build a perceptron [B,width] -> [B,out]: linear, GELU, dropout, linear, dropout.

    MultiTrain's heads are such (models/head_helper.py), where the last dropout acts on the scores,
    and, without dropout, so is its expander. Weights start from a normal distribution of standard
    deviation 0.02, cut at 0.04; biases start at 0.

    Args:
        width: Width of the input.
        hidden: Width of the layer between.
        out: Width of the result.

    Raises:
        ValueError: a dropout outside of 0 to 1.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is from 0 to under 1; got {dropout}.")
    fc1, fc2 = nn.Linear(width, hidden), nn.Linear(hidden, out)
    drop1, drop2 = nn.Dropout(dropout), nn.Dropout(dropout)
    for layer in (fc1, fc2):
        nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.04, b=0.04)
        nn.init.zeros_(layer.bias)
    layers = OrderedDict(fc1=fc1, act=nn.GELU(), drop1=drop1, fc2=fc2, drop2=drop2)
    return nn.Sequential(layers)
