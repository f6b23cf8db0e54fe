"""Networks, and one table that builds them by name."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from torch import nn

from vidbench.models import own
from vidbench.models.backbone import Backbone
from vidbench.models.differences import Differences
from vidbench.models.frozen import Frozen
from vidbench.models.heads import build_head
from vidbench.models.mvit import mvit_v2
from vidbench.models.resnets import Site, cifar_resnet, csn, resnet50, slowonly
from vidbench.models.s3d import S3D
from vidbench.models.slowfast import SlowFast
from vidbench.models.stacked import stacked_resnet

__all__ = ["BUILDERS", "Backbone", "Site", "build", "build_head"]


def difference(
    network: str = "csn",
    arguments: Mapping[str, Any] | None = None,
    regularizer: Callable[[Site], nn.Module] | None = None,
) -> Differences:
    """Build a network of this table that sees differences of frames.

    Args:
        network: Its name in this table.
        arguments: Of its builder.
        regularizer: See `build`.
    """
    return Differences(build(network, regularizer, **(arguments or {})))


# A checkpoint says which network it contains: a name of this table, or an importable one.
BUILDERS: dict[str, Callable[..., Backbone]] = {
    "s3d": S3D,  # CoCLR's backbone, 7,910,048 parameters at width 1
    "slowonly": slowonly,  # depth 50: 31,634,496 parameters; 34: 60,802,880
    "slowfast": SlowFast,  # official 8x8: 33,644,488
    "csn": csn,  # ir-CSN-50: 12,311,552
    "resnet50": resnet50,  # images: 23,508,032
    "cifar_resnet": cifar_resnet,  # depth 110, basic, shortcut A: 1,727,312
    "difference": difference,  # of the frames, into one of the others: as many parameters
    "frozen": Frozen,  # an encoder of another library
    "stacked_resnet": stacked_resnet,  # 10 frames of flow as one image: 11,229,824
    "mvit": mvit_v2,  # MultiTrain's MViTv2-B: 50,986,176; S: 34,401,696
}


def build(
    name: str, regularizer: Callable[[Site], nn.Module] | None = None, **arguments
) -> Backbone:
    """Build a bare backbone: clips [B,3,T,H,W] -> feature map [B,D,T',H',W'], with D as `out_channels`.

    Args:
        name: A network of BUILDERS, or one of your own as "mypackage.mine:Net" (see models/own.py).
        regularizer: Takes each Site of a residual network once and returns the module for the end
            of that branch. It is no argument of the network, so a checkpoint loads with and without.
        arguments: Those of the network.

    Raises:
        UntrustedError: The program neither imported the module of `name` nor did the caller name it.
        ValueError: The name or an argument is unknown (the message lists the known ones), the
            network refuses a value, has no place for a regularizer, or breaks the contract.
    """
    if name not in BUILDERS and not own.is_own(name):
        raise ValueError(
            f"models.build needs one of {sorted(BUILDERS)}, or your own as 'mypackage.mine:Net'; "
            f"got {name!r}."
        )
    builder = BUILDERS[name] if name in BUILDERS else own.find(name)
    known = _arguments(builder)
    unknown = sorted(set(arguments) - known) if "**" not in known else []
    if unknown:
        raise ValueError(
            f"models.build({name!r}): unknown {unknown}; its arguments are {sorted(known)}."
        )
    if regularizer is not None:
        if "regularizer" not in known:
            residual = sorted(n for n in BUILDERS if "regularizer" in _arguments(BUILDERS[n]))
            raise ValueError(
                f"models.build({name!r}) has no place for a regularizer; take one of {residual}."
            )
        arguments["regularizer"] = regularizer
    if own.is_own(name):
        return own.build(name, builder, arguments)
    try:
        return builder(**arguments)
    except TypeError as error:
        raise ValueError(f"models.build({name!r}): {error}.") from error


def _arguments(builder: Callable[..., Backbone]) -> set[str]:
    """The names of a builder's arguments; "**" if it takes any."""
    parameters = signature(builder).parameters.values()
    return {"**" if one.kind is one.VAR_KEYWORD else one.name for one in parameters}
