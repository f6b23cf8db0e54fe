"""`vb.baseline`: a pretrained encoder of torchvision, timm or transformers, measured like a run."""

from __future__ import annotations

from pathlib import Path

from vidbench.api.trained import Trained, load
from vidbench.api.videos import Source, Videos
from vidbench.api.videos import videos as open_videos
from vidbench.methods import baseline as method


def baseline(
    source: str,
    *,
    videos: Videos | Source,
    weights: str | Path = "",
    out: str | Path = "",
    like: Trained | None = None,
) -> Trained:
    """Make a run of a frozen encoder. Notebooks 12, 40 and 42 take its directory like any other.

    Args:
        source: "torchvision:mvit_v2_s", "timm:vit_small_patch16_224", "transformers:videomae", ...
            (models/frozen.py).
        videos: What it is measured on: what `vb.videos` returned, or its source.
        weights: A local file or folder. torchvision and transformers also look into their caches.
            Nothing is downloaded.
        out: The run directory. By default it is below the videos' folder.
        like: A run whose clips (frames, stride, pixels) it gets, so that both have one protocol; by
            default the clips are those that the weights were made for.

    Returns:
        The run: `embed`, `search`, `predict`, `browse`.

    Raises:
        FileNotFoundError: The weights are not on this machine.
        ImportError: The library is not installed.
        ValueError: The network is unknown, or the weights do not fit.
    """
    found = videos if isinstance(videos, Videos) else open_videos(videos)
    run = method.make(
        source,
        weights,
        str(found.folder / "videos"),
        found.folder,
        clip=like.run.recipe.clip if like else None,
        folder=Path(out).expanduser().resolve() if out else None,
    )
    return load(run.folder)
