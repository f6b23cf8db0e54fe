"""Classes that a horizontal flip exchanges, and the warning if an augmentation flips them."""

import re
from collections.abc import Sequence

from vidbench.data.loading.augmentation import Augment

MIRRORED = {
    "left": "right",
    "leftward": "rightward",
    "leftwards": "rightwards",
    "lefthanded": "righthanded",
    "clockwise": "counterclockwise",
}
MIRRORED |= {other: word for word, other in MIRRORED.items()}


def mirrored_classes(classes: Sequence[str]) -> list[tuple[str, str]]:
    """List the pairs of classes that a horizontal flip exchanges.

    Examples: "from left to right" and "from right to left", "TurnLeft" and "TurnRight", "clockwise"
    and "counterclockwise".
    """
    words = {name: _words(name) for name in classes}
    known = {said: name for name, said in words.items()}
    pairs = []
    for name, said in words.items():
        other = known.get(tuple(MIRRORED.get(word, word) for word in said), name)
        if other != name and (other, name) not in pairs:
            pairs.append((name, other))
    return pairs


def _words(name: str) -> tuple[str, ...]:
    """The words of a class name in lower case, whether blanks, signs or capitals part them."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    parted = re.sub(r"(?:counter|anti)[\W_]*clockwise", "counterclockwise", parted)
    return tuple(re.findall(r"[^\W_]+", parted))


def flip_warning(what: str, classes: Sequence[str], augment: Augment) -> list[str]:
    """Warn if an augmentation flips clips whose classes a flip exchanges.

    Args:
        what: The data set's name.
        classes: Its class names.
        augment: What changes its clips in training.

    Returns:
        One line, or none.
    """
    pairs = mirrored_classes(classes) if augment.flip else []
    if not pairs:
        return []
    shown = "; ".join(f"{one!r} and {other!r}" for one, other in pairs[:3])
    more = f"; {len(pairs) - 3} more pairs" if len(pairs) > 3 else ""
    return [
        f"classes of {what} tell left from right ({shown}{more}), and its clips are flipped with "
        f"probability {augment.flip:g} in training: set flip=0 in the clip's augmentation "
        "(Augment(flip=0.0); MultiTrain: clip=ClipChange(flip=0.0), as SEGMENTS does)"
    ]
