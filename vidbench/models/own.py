"""A network of your own by an importable name, `network="mypackage.mine:Net"`: found, built, checked.

The name is a module and, after the colon, a class derived from Backbone or a function annotated to
return one. Nothing else is called, whatever a recipe names, and a module is imported only by the rule
in system/trusted.py. `check_trainable` is called before a run directory is made, so that a network
that breaks the contract fails at once, in words, and not at its first step on two ranks.
"""

import copy
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vidbench.models.backbone import Backbone
from vidbench.system import trusted

HELP = "See assets/docs/extending.md."


def is_own(name: str) -> bool:
    """Return whether a network's name is importable, and not one of the table of builders."""
    return ":" in str(name)


def find(name: str) -> Callable[..., Backbone]:
    """Find the class or function of an importable name.

    Raises:
        UntrustedError: The program neither imported the module nor did the caller name it.
        ValueError: The name is malformed, the import fails, or it is no network.
    """
    place, _, attribute = name.partition(":")
    if not attribute.isidentifier() or place in ("__main__", "__mp_main__"):
        raise ValueError(
            f"a network of your own must be named as 'package.module:Name'; got {name!r}. Write it "
            "into a module: other processes cannot import a cell or a script."
        )
    module = trusted.load(place, f"the network {name!r}")
    found: Any = vars(module).get(attribute)  # no getattr: a module's __getattr__ may import more
    if not _builds(found):
        names = ", ".join(one for one in vars(module) if _builds(vars(module)[one])) or "none"
        raise ValueError(
            f"{name!r} must be a class derived from vidbench.models.Backbone, or a function "
            f"annotated to return one; {attribute} is {found!r}. Networks in {place}: {names}. "
            f"{HELP}"
        )
    return found


def build(name: str, builder: Callable[..., Backbone], arguments: Mapping[str, Any]) -> Backbone:
    """Build a network of your own and check what can be checked without a clip.

    Args:
        name: For messages.
        builder: Its class or function.
        arguments: Of the builder.

    Raises:
        ValueError: The constructor fails, or the network lacks something.
    """
    try:
        net = builder(**arguments)
    except Exception as error:  # whatever the user's own code raises
        raise ValueError(
            f"{name!r} could not be built with {dict(arguments)}: {type(error).__name__}: {error}"
            f"{trusted.place_of(error)}. Change the arguments, or repair the network."
        ) from error
    if not isinstance(net, Backbone):
        raise ValueError(f"{name!r} must return a Backbone; got a {type(net).__name__}. {HELP}")
    width = getattr(net, "out_channels", None)
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise ValueError(
            f"{name!r} must set `self.out_channels`, the channels D of its map [B,D,T',H',W'], as "
            f"a whole number; got {width!r}. {HELP}"
        )
    _check_tensors(name, net)
    return net


def encoder_of(module: nn.Module) -> Backbone:
    """Return the backbone of a method's module.

    Raises:
        ValueError: The module has none as `encoder`.
    """
    found = getattr(module, "encoder", None)
    if not isinstance(found, Backbone):
        raise ValueError(
            f"{type(module).__name__} must have its backbone as `encoder`; got {found!r}. Set "
            f"self.encoder = recipe.build_backbone(). {HELP}"
        )
    return found


def check_trainable(name: str, net: Backbone, frames: int, size: int) -> None:
    """Send two clips of a recipe's size through a copy of a network, forward and back.

    Args:
        frames, size: T frames of H = W = size pixels.

    Raises:
        ValueError: The network cannot be copied or cannot take such clips, returns something else
            than a finite map [2,out_channels,T',H',W'] of floats, or has parameters without
            gradient.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            trial = copy.deepcopy(net).cpu().train()
        except Exception as error:  # such as a tensor that was computed in the constructor
            raise ValueError(
                f"{name!r} cannot be copied, which training needs: {type(error).__name__}: {error}. "
                "Keep computed tensors as buffers or compute them in forward."
            ) from error
        clips = torch.randn(2, 3, frames, size, size)
        try:
            with torch.enable_grad():
                found = trial(clips)
        except Exception as error:  # whatever the user's own code raises
            raise ValueError(
                f"{name!r} cannot take clips {list(clips.shape)} [B,3,T,H,W]: "
                f"{type(error).__name__}: {error}{trusted.place_of(error)}. Repair its forward, or "
                "change the recipe's clip. It takes one argument."
            ) from error
        _check_map(name, found, net.out_channels)
        if any(one.requires_grad for one in trial.parameters()):
            _check_gradients(name, trial, found)


def _builds(found: Any) -> bool:
    """Whether this is a class of Backbones, or a function annotated to return one."""
    if inspect.isfunction(found):
        try:
            found = typing.get_type_hints(found).get("return")
        except Exception:  # an annotation that is only a name for type checkers
            return False
    return inspect.isclass(found) and issubclass(found, Backbone)


def _check_tensors(name: str, net: nn.Module) -> None:
    """Raise ValueError at parameters or states that vidbench cannot train or store."""
    for parameter, value in net.named_parameters():
        if isinstance(value, nn.parameter.UninitializedParameter):
            raise ValueError(
                f"{name!r}: {parameter} has no shape yet, as in nn.Lazy modules. Give the layer "
                "its input channels."
            )
        if value.dtype != torch.float32:
            raise ValueError(
                f"{name!r}: all parameters must be float32; {parameter} is {value.dtype}. Remove "
                "the conversion: fit.precision chooses the precision of training."
            )
    places: dict[int, str] = {}
    for entry, value in net.state_dict().items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{name!r}: its state must contain only tensors, as checkpoints do; {entry} is a "
                f"{type(value).__name__}. Remove get_extra_state."
            )
        other = places.setdefault(value.data_ptr(), entry) if value.numel() else entry
        if other != entry:
            raise ValueError(
                f"{name!r}: {other} and {entry} share memory, which a checkpoint cannot store. "
                "Register the tensor once and use it twice in forward."
            )


def _check_map(name: str, found: Any, width: int) -> None:
    """Raise ValueError unless a network returned a map [2,width,T',H',W'] of finite floats."""
    wanted = f"a map [2,{width},T',H',W'] of floats (out_channels is {width})"
    if not isinstance(found, Tensor) or not found.is_floating_point():
        shown = found.dtype if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise ValueError(f"{name!r} must return {wanted}; got {shown}. {HELP}")
    if found.ndim != 5 or tuple(found.shape[:2]) != (2, width) or 0 in found.shape:
        fix = "Remove its classifier." if found.ndim == 5 else "Remove its pooling."
        if found.ndim == 2:
            fix = "Remove its pooling and classifier, or return rows[:, :, None, None, None]."
        raise ValueError(f"{name!r} must return {wanted}; got {list(found.shape)}. {fix} {HELP}")
    if not bool(found.isfinite().all()):
        raise ValueError(
            f"{name!r} returns values that are not finite for random clips. Check how its weights "
            "begin."
        )


def _check_gradients(name: str, net: nn.Module, found: Tensor) -> None:
    """Raise ValueError at trainable parameters that the map does not depend on."""
    if found.requires_grad:
        found.square().sum().backward()
    idle = [
        one for one, value in net.named_parameters() if value.requires_grad and value.grad is None
    ]
    if idle:
        more = f" and {len(idle) - 1} more" if len(idle) > 1 else ""
        raise ValueError(
            f"{name!r}: {idle[0]}{more} gets no gradient, so several ranks cannot train it. Remove "
            "the unused layer, call requires_grad_(False) on it, or remove a detach or no_grad."
        )
