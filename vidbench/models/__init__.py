"""Wing 2: networks, and one table of builders by name."""

from torch import nn

from vidbench.models.heads import build_head
from vidbench.models.s3d import S3D

__all__ = ["BUILDERS", "build", "build_head"]

# The only registry of the house: a checkpoint must say which network it holds.
BUILDERS = {
    "s3d": S3D,  # CoCLR's backbone, 7,910,048 parameters at width 1
}


def build(name: str, **arguments) -> nn.Module:
    """The bare backbone `name`: clips [B,3,T,H,W] -> feature map [B,D,T',H',W'], with its D as `out_channels`.

    Raises ValueError for an unknown name (the known ones are listed) or for arguments the network refuses.
    """
    if name not in BUILDERS:
        raise ValueError(f"models.build wants one of {sorted(BUILDERS)}; got {name!r}.")
    try:
        return BUILDERS[name](**arguments)
    except TypeError as error:
        raise ValueError(f"models.build({name!r}): {error}.") from error
