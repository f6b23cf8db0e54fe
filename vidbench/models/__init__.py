"""Networks, and one table that builds them by name."""

from collections.abc import Callable
from inspect import signature

from torch import nn

from vidbench.models.backbone import Backbone
from vidbench.models.heads import build_head
from vidbench.models.mvit import mvit_v2
from vidbench.models.resnets import Site, cifar_resnet, csn, resnet50, slowonly
from vidbench.models.s3d import S3D
from vidbench.models.slowfast import SlowFast

__all__ = ["BUILDERS", "Backbone", "Site", "build", "build_head"]

# The only registry of the house: a checkpoint must say which network it holds.
BUILDERS: dict[str, Callable[..., Backbone]] = {
    "s3d": S3D,  # CoCLR's backbone, 7,910,048 parameters at width 1
    "slowonly": slowonly,  # depth 50: 31,634,496 parameters; 34: 60,802,880
    "slowfast": SlowFast,  # official 8x8: 33,644,488
    "csn": csn,  # ir-CSN-50: 12,311,552
    "resnet50": resnet50,  # images: 23,508,032
    "cifar_resnet": cifar_resnet,  # depth 110, basic, shortcut A: 1,727,312
    "mvit": mvit_v2,  # MultiTrain's MViTv2-B: 50,986,176; S: 34,401,696
}


def build(
    name: str, regularizer: Callable[[Site], nn.Module] | None = None, **arguments
) -> Backbone:
    """The bare backbone `name`: clips [B,3,T,H,W] -> feature map [B,D,T',H',W'], with its D as
    `out_channels`.

    `regularizer` is given each Site of a residual net once and returns the module for the end of
    that branch. It is not part of a network's arguments, so that a checkpoint loads with and
    without it. Raises ValueError for an unknown name or argument (the known ones are listed), for
    values the network refuses, and for a regularizer that it has no place for."""
    if name not in BUILDERS:
        raise ValueError(f"models.build wants one of {sorted(BUILDERS)}; got {name!r}.")
    known = set(signature(BUILDERS[name]).parameters)
    unknown = sorted(set(arguments) - known)
    if unknown:
        raise ValueError(
            f"models.build({name!r}): unknown {unknown}; its arguments are {sorted(known)}."
        )
    if regularizer is not None:
        if "regularizer" not in known:
            residual = sorted(
                n
                for n, builder in BUILDERS.items()
                if "regularizer" in signature(builder).parameters
            )
            raise ValueError(
                f"models.build({name!r}) has no place for a regularizer; take one of {residual}."
            )
        arguments["regularizer"] = regularizer
    try:
        return BUILDERS[name](**arguments)
    except TypeError as error:
        raise ValueError(f"models.build({name!r}): {error}.") from error
