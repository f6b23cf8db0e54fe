"""torch.compile for the encoders of a method: what is compiled, when it is not used, what fails.

Only the encoders are compiled, where nearly all of a step's work is; heads, losses and queues are
small and have steps that a graph cannot hold. Each encoder is one graph for one shape of clips, in
training alone: validation sees other shapes and runs eagerly. Inductor draws its own random numbers,
so dropout, stochastic depth and random mean scaling differ from an eager run's."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from vidbench.system.errors import InputError


def compile_encoders(method: Any) -> None:
    """Compile the method's `encoders()`, or its `encoder` if it has no such function.

    Names in the state stay. The first step compiles.

    Args:
        method: A method's module, before DDP wraps it.
    """
    # earlier runs of this process count towards the limit of graphs for one function
    torch.compiler.reset()
    # Else graphs are cut where DDP's buckets end, so that ranks exchange gradients during the backward
    # pass. Older versions of torch cannot cut a graph with checkpoints.
    torch._dynamo.config.optimize_ddp = False
    for net in method.encoders() if hasattr(method, "encoders") else [method.encoder]:
        # Inductor would lay the maps of all convolutions out as channels-last, in which cuDNN runs
        # depthwise 3-D ones up to 28 times as slowly as on contiguous maps (H200, PyTorch 2.11).
        depthwise = any(isinstance(one, nn.Conv3d) and one.groups > 1 for one in net.modules())
        options = {"layout_optimization": False} if depthwise else None
        net.compile(dynamic=False, fullgraph=True, options=options)


def eager() -> AbstractContextManager:
    """Run compiled encoders eagerly inside the block."""
    return torch.compiler.set_stance("force_eager")


@contextmanager
def readable() -> Iterator[None]:
    """Say what to do where torch.compile fails inside the block.

    Raises:
        InputError: An encoder could not be compiled.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = next(filter(None, map(str.strip, str(error).splitlines())), "")
        raise InputError(
            f"the encoder cannot be compiled: {type(error).__name__}: {reason}\n"
            "Train with fit.compile = '' in a new run directory."
        ) from error
