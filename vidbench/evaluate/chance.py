"""What a guess scores, and what to say of a number that counts labels where there are none."""

from collections.abc import Sequence


def chance_level(classes: Sequence[str], name: str = "chance") -> dict[str, float]:
    """Return the share of right guesses as a level of a figure, {name: 1 / L}; {} without classes.

    Args:
        classes: L names.
        name: The level's name in the figure.
    """
    return {name: 1 / len(classes)} if classes else {}


def guess_words(classes: Sequence[str], metric: str) -> str:
    """Say how often a guess is right, for a table's note; "" without classes.

    Args:
        classes: L names.
        metric: Such as R@1.
    """
    share = chance_level(classes, metric)
    return f"A guess is right in {share[metric]:.1%} at {metric}." if share else ""


def no_labels(what: str) -> str:
    """Return the sentence in place of a number or figure that counts labels."""
    return f"no labels: {what} needs them"
