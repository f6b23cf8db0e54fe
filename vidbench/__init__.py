"""vidbench: a workbench for video representation learning.

The legend, used in every docstring of the package:

    B  clips in a batch          C  channels         D  feature width
    V  views of one clip         T  frames           K  queue slots
    N  videos (or rows)          H, W  pixels        L  classes

A path through the rooms: manifest row -> frame indices -> frames uint8 [T,H,W,C] -> views float
[V,C,T,H,W] -> encoder [B,D] -> bank -> loss -> run folder -> features [N,D] -> index -> neighbors
-> figure.

Words with one meaning: a *stream* is "rgb" or "flow"; a *source video* is the long video that
sibling clips were cut from; a *view* is one augmented look at one clip; a *run* is a folder on disk; a
*recipe* is the frozen set of plain values that made it; a *stage* is one training job; *purity* is
the share of mined positives whose label is the query's."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidbench.api.baseline import baseline as baseline
    from vidbench.api.folds import CrossValidated as CrossValidated
    from vidbench.api.folds import cross_validate as cross_validate
    from vidbench.api.health import Health as Health
    from vidbench.api.health import doctor as doctor
    from vidbench.api.table import Table as Table
    from vidbench.api.trained import Trained as Trained
    from vidbench.api.trained import load as load
    from vidbench.api.training import train as train
    from vidbench.api.training import trust as trust
    from vidbench.api.videos import Videos as Videos
    from vidbench.api.videos import videos as videos

    __version__: str

_HOMES = {
    "videos": "videos",
    "Videos": "videos",
    "train": "training",
    "cross_validate": "folds",
    "CrossValidated": "folds",
    "baseline": "baseline",
    "doctor": "health",
    "Health": "health",
    "trust": "training",
    "load": "trained",
    "Trained": "trained",
    "Table": "table",
}
__all__ = [
    *("CrossValidated", "Health", "Table", "Trained", "Videos", "__version__"),
    *("baseline", "cross_validate", "doctor", "load", "train", "trust", "videos"),
]


def __getattr__(name: str) -> Any:
    """Load a name of the front door when it is first used, so that `import vidbench` is fast."""
    import importlib
    from importlib import metadata

    if name == "__version__":
        return metadata.version("vidbench")
    if name not in _HOMES:
        raise AttributeError(f"module 'vidbench' has no attribute {name!r}; it has {__all__}")
    value = getattr(importlib.import_module(f"vidbench.api.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
