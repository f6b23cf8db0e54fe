"""Folds by source video: each video tested once, no source video on both sides, one seed one deal."""

import numpy as np
import pytest

from vidbench.data.manifest import Manifest
from vidbench.data.sets import folds
from vidbench.data.sets.folds import Folds


def videos(root, clips, split="train"):
    """A manifest of (label, source video, how many clips)."""
    rows = [
        (f"{label or 'x'}/{source}-{number}.mp4", label, split, f"{label}/{source}")
        for label, source, count in clips
        for number in range(count)
    ]
    return Manifest.from_rows(root, rows)


# three classes of 6, 4 and 5 source videos with 1 to 4 clips each
UNEVEN = [
    (label, f"v{number}", 1 + (number * step) % 4)
    for label, count, step in (("a", 6, 1), ("b", 4, 3), ("c", 5, 2))
    for number in range(count)
]


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("count", [2, 5, 15])
def test_each_video_is_tested_once_and_no_source_video_is_on_both_sides(tmp_path, labels, count):
    manifest = videos(tmp_path, UNEVEN)
    manifest = manifest if labels else manifest.without_labels()
    numbers = folds.fold_numbers(manifest, Folds(count))
    assert set(numbers.tolist()) == set(range(1, count + 1))
    for source in np.unique(manifest.source_video):
        assert len(set(numbers[manifest.source_video == source])) == 1
    for number in range(1, count + 1) if labels else ():
        here = numbers == number
        assert set(manifest.label[here]) <= set(manifest.label[~here])


def test_folds_have_their_share_of_each_class(tmp_path):
    clips = [(label, f"v{number}", 2) for label in "abcd" for number in range(10)]
    manifest = videos(tmp_path, clips)
    numbers = folds.fold_numbers(manifest, Folds(5))
    table = np.array([np.bincount(manifest.label[numbers == n], minlength=4) for n in range(1, 6)])
    assert (table == 4).all()


def test_source_videos_may_show_several_classes(tmp_path):
    """As in Weizmann: nine actors, each with every class; nine folds leave one actor out."""
    rows = [
        (f"{label}/{actor}.mp4", label, "train", f"actor{actor}")
        for actor in range(9)
        for label in "abcd"
    ]
    manifest = Manifest.from_rows(tmp_path, rows)
    numbers = folds.fold_numbers(manifest, Folds(9))
    assert [len(set(manifest.source_video[numbers == n])) for n in range(1, 10)] == [1] * 9


def test_folds_follow_from_the_seed_alone(tmp_path):
    manifest = videos(tmp_path, UNEVEN)
    first = folds.fold_numbers(manifest, Folds(3, seed=0))
    np.random.seed(1)
    assert np.array_equal(first, folds.fold_numbers(manifest, Folds(3, seed=0)))
    others = [folds.fold_numbers(manifest, Folds(3, seed)) for seed in range(1, 6)]
    assert any(not np.array_equal(first, other) for other in others)


def test_written_folds_are_manifests_of_the_same_videos(tmp_path):
    manifest = videos(tmp_path / "clips", UNEVEN)
    left_out = videos(tmp_path / "clips", [("b", "w", 2)], split="none")
    rows = [
        tuple(one.names(row).values()) for one in (manifest, left_out) for row in range(len(one))
    ]
    manifest = Manifest.from_rows(tmp_path / "clips", rows)
    places = folds.write(manifest, tmp_path / "folds", Folds(3))
    found = [Manifest.load(place / "videos") for place in places]
    tested = np.stack([one.split == folds.TEST for one in found])
    assert [place.name for place in places] == ["fold-1", "fold-2", "fold-3"]
    assert (tested.sum(axis=0) == (manifest.split != folds.NONE)).all()
    for one in found:
        assert one.root == manifest.root and one.fingerprint() == manifest.fingerprint()
        assert np.array_equal(one.source_video, manifest.source_video)
        assert not np.isin(
            one.source_video[one.split == folds.TEST], one.source_video[one.split == folds.TRAIN]
        ).any()
    stamps = [(place / "videos" / "manifest.csv").stat().st_mtime_ns for place in places]
    assert folds.write(manifest, tmp_path / "folds", Folds(3)) == places
    assert [(p / "videos" / "manifest.csv").stat().st_mtime_ns for p in places] == stamps
    with pytest.raises(ValueError, match=r"fold-1 holds a fold of other videos .*Delete"):
        folds.write(videos(tmp_path / "clips", UNEVEN[2:]), tmp_path / "folds", Folds(3))


@pytest.mark.parametrize(
    ("clips", "count", "says"),
    [
        (UNEVEN, 16, "16 folds need 16 source videos or more; got 15 in .*Use source:15"),
        ([("a", "v", 9)], 2, "2 folds need 2 source videos or more; got 1 in 9 .*in a csv"),
        ([*UNEVEN, ("d", "v", 3)], 5, "class 'd' has a single source video.*leave the class out"),
    ],
)
def test_too_few_source_videos_are_refused(tmp_path, clips, count, says):
    with pytest.raises(ValueError, match=says):
        folds.fold_numbers(videos(tmp_path, clips), Folds(count))


def test_the_option_is_read():
    assert folds.folds_of("source") == Folds(5) and folds.folds_of("source:9", 3) == Folds(9, 3)
    assert folds.folds_of("source:9", 3).name == "folds-source-9-seed3"
    assert folds.folds_of("split").name == "folds-split"
    for text in ("5", "sources", "source:1", "source:", "source:-2", "actor"):
        with pytest.raises(ValueError, match=r"folds must be source, source:K .* or split"):
            folds.folds_of(text)


def test_a_single_fold_is_the_data_sets_own_split(tmp_path):
    rows = [
        (f"{split}/{name}.mp4", name[0], split, None)
        for split in ("train", "validate", "none")
        for name in ("a1", "a2", "b1", "b2")
    ]
    manifest = Manifest.from_rows(tmp_path, rows)
    (place,) = folds.write(manifest, tmp_path / "folds", folds.folds_of("split"))
    found = Manifest.load(place / "videos")
    assert found.split.tolist() == [folds.TRAIN] * 4 + [folds.TEST] * 4 + [folds.NONE] * 4
    with pytest.raises(ValueError, match="must have a test or validate split"):
        folds.write(manifest.select(split="train"), tmp_path / "other", folds.folds_of("split"))
