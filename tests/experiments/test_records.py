"""The record of a replication: what is written is read, and what does not fit is refused."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from vidbench.experiments.records import Book, Record, mark, read, source_videos, text
from vidbench.methods import classify

HITS = np.array([1, 0, 0, 1, 1, 1, 0, 0, 1, 0, 1], bool)
NAMES = np.array(["to bow"] * 5 + ["kick"] * 6)
FIRST = Record(
    "toy-1",
    3,
    "baseline",
    "one view",
    "abc",
    HITS,
    {"top-1": 6 / 11},
    NAMES,
    np.arange(11) // 2,
    "c0",
)
SECOND = Record("toy-1", 3, "rms", "one view", "abd", ~HITS, {"top-1": 5 / 11, "seconds": 2.5})


def test_what_is_written_is_read(tmp_path):
    book = Book(tmp_path / "runs.csv")
    book.add([FIRST])
    book.add([SECOND])
    again = Book(tmp_path / "runs.csv")
    for own, found in zip((FIRST, SECOND), again.records, strict=True):
        assert found.run == own.run and np.array_equal(found.hits, own.hits)
        assert found.numbers == pytest.approx(own.numbers, rel=1e-5)
        assert (found.test, found.recipe, found.commit) == (own.test, own.recipe, own.commit)
    assert again.records[0].labels.tolist() == NAMES.tolist()
    assert again.records[0].source_videos.tolist() == [str(i // 2) for i in range(11)]
    assert again.records[1].labels is None and text(again.records) == text(book.records)
    assert ("toy-1", 3, "rms") in again and ("toy-1", 4, "rms") not in again
    assert again.at("toy-1", "one view").keys() == {(3, "baseline"), (3, "rms")}
    assert len(source_videos(again.records)) == 11
    with pytest.raises(ValueError, match="keep the first arm's line"):
        source_videos(again.records[1:])


def test_another_recipe_is_not_continued(tmp_path):
    book = Book(tmp_path / "runs.csv")
    book.add([FIRST])
    book.check(FIRST.run, "abc")
    book.check(SECOND.run, "anything")
    with pytest.raises(ValueError, match="toy-1/3/baseline has the recipe abc, this call xyz"):
        book.check(FIRST.run, "xyz")


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda lines: ["a,b", *lines[1:]], "must start with data,seed,arm"),
        (lambda lines: [], "an empty file"),
        (
            lambda lines: [lines[0], lines[1].replace(",11,", ",30,")],
            "line 2: 16 hits of 30 videos",
        ),
        (lambda lines: [lines[0], lines[1].replace("kick*6", "kick*5")], "line 2: 10 labels"),
        (lambda lines: [lines[0], lines[1].partition(",")[0]], "line 2: .*Delete the line"),
    ],
)
def test_a_damaged_record_is_refused_with_its_line(tmp_path, change, says):
    file = tmp_path / "runs.csv"
    file.write_text("\n".join(change(text([FIRST]).splitlines())))
    with pytest.raises(ValueError, match=says):
        read(file)


@dataclass(frozen=True)
class Longer(classify.Recipe):
    """A recipe as a later version may have it."""

    added: bool = False


def test_the_mark_depends_on_the_recipe_and_not_on_paths():
    recipe = classify.PRESETS["rms_tiny"]
    assert mark(recipe) == mark(Longer(**vars(recipe)))
    assert mark(recipe) == mark(replace(recipe, manifest="/elsewhere", classes=("a", "b")))
    assert len({mark(recipe), mark(replace(recipe, dropout=0.1)), mark(recipe, 50)}) == 3
