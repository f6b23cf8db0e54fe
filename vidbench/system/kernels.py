"""Whether Triton kernels replace PyTorch's own operations: one rule for all of vidbench.

A kernel runs if all of this holds; otherwise PyTorch computes the same formula:

- VIDBENCH_KERNELS is not `off`.
- The package triton is installed. Its wheels exist for Linux; CPU builds of PyTorch lack it.
- The tensors are on an NVIDIA GPU of compute capability 8.0 or more, or Triton interprets its kernels
  (TRITON_INTERPRET=1, which checks kernels without a GPU and takes seconds for each)."""

import os
from importlib.util import find_spec

from vidbench.system.errors import InputError

SWITCH = "VIDBENCH_KERNELS"
LEAST = (8, 0)  # bfloat16 in hardware
INSTALLED = find_spec("triton") is not None


def kernels_run(capability: tuple[int, int] = (0, 0)) -> bool:
    """Say whether a device's tensors go to Triton kernels.

    Args:
        capability: of a CUDA device, (major, minor); (0, 0) means any other device.

    Raises:
        InputError: VIDBENCH_KERNELS is neither on nor off.
    """
    switch = os.environ.get(SWITCH, "on")
    if switch not in ("on", "off"):
        raise InputError(f"{SWITCH} must be on or off; got {switch!r}. Unset it for on.")
    return switch == "on" and INSTALLED and (capability >= LEAST or interpreted())


def interpreted() -> bool:
    """Say whether Triton interprets kernels, as it decides when a kernel is defined."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
