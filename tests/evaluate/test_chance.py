"""What a guess scores, with and without classes."""

from vidbench.evaluate.chance import chance_level, guess_words, no_labels


def test_a_guess_among_four_classes_and_among_none():
    assert chance_level("abcd") == {"chance": 0.25} and chance_level("ab", "top-1") == {
        "top-1": 0.5
    }
    assert guess_words("abcd", "R@1") == "A guess is right in 25.0% at R@1."
    assert chance_level(()) == {} and guess_words((), "R@1") == ""
    assert no_labels("R@k") == "no labels: R@k needs them"
