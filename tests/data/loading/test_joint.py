"""Several data sets in one stream: who comes how often, the plan against what happens, samples kept
apart."""

import numpy as np
import pytest

from vidbench.data.loading import joint
from vidbench.data.loading.augmentation import PRESETS
from vidbench.data.loading.dataset import Clips, ClipSpec
from vidbench.data.loading.joint import Joint, JointBatches, Mix

SIZES = (700, 90, 30)
MIXES = [
    Mix(),
    Mix(repeats=(1, 3, 2)),
    Mix("balanced"),
    Mix("balanced", temperature=0.0),
    Mix("fixed"),
    Mix("fixed", shares=(2.0, 1.0, 1.0)),
]


def of(rows: np.ndarray) -> np.ndarray:
    """The data set of each row."""
    return np.searchsorted(np.cumsum(SIZES), rows, side="right")


def batches(mix: Mix, epoch: int = 0, **options) -> list[np.ndarray]:
    made = JointBatches(SIZES, 16, mix, seed=3, **options)
    made.epoch = epoch
    return [np.array([row for _, row in batch]) for batch in made]


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_the_plan_is_what_comes(mix):
    epochs = [batches(mix, epoch) for epoch in range(30)]
    rows = np.concatenate([np.concatenate(epoch) for epoch in epochs])
    counts = np.bincount(of(rows), minlength=3)
    table = joint.plan_batches(("a", "b", "c"), SIZES, 16, mix, epochs=30)
    for row, count, size in zip(table, counts, SIZES, strict=True):
        assert count == pytest.approx(row["an epoch"] * 30, rel=0.1, abs=30)
        assert row["seen"] == pytest.approx(count / size, rel=0.1, abs=1)
        assert sum(
            value for name, value in row.items() if name.startswith("mixed")
        ) == pytest.approx(1, abs=0.07)
    # each row's random partner in its batch
    rng, mates = np.random.default_rng(0), np.zeros((3, 3))
    for batch in (batch for epoch in epochs for batch in epoch):
        np.add.at(mates, (of(batch), of(batch[rng.permutation(16)])), 1)
    mates /= mates.sum(axis=1, keepdims=True)
    for number, row in enumerate(table):
        for other, name in enumerate("abc"):
            assert mates[number, other] == pytest.approx(row[f"mixed with {name}"], abs=0.06)


def test_natural_is_every_video_once_and_repeats_are_so_many():
    rows = JointBatches(SIZES, 10, seed=0).order(0)
    assert sorted(rows) == list(range(sum(SIZES)))
    counts = np.bincount(JointBatches(SIZES, 10, Mix(repeats=(1, 3, 2)), seed=0).order(4))
    assert (counts[:700] == 1).all() and (counts[700:790] == 3).all() and (counts[790:] == 2).all()


def test_fixed_shares_hold_in_every_batch_and_small_sets_come_around():
    for batch in batches(Mix("fixed", shares=(2.0, 1.0, 1.0))):
        assert np.bincount(of(batch)).tolist() == [8, 4, 4]
    rows = np.concatenate(batches(Mix("fixed")))
    for number, size in enumerate(SIZES):  # each as often as any other of its set, to one time
        seen = np.bincount(rows[of(rows) == number] - sum(SIZES[:number]), minlength=size)
        assert seen.max() - seen.min() <= 1
    with pytest.raises(ValueError, match="no clip of data set 1"):
        joint.whole(np.array([0.99, 0.01]), 4)


@pytest.mark.parametrize("mix", MIXES[:5:2], ids=str)
def test_order_follows_from_seed_and_epoch_and_is_shared_out_over_ranks(mix):
    assert all(np.array_equal(a, b) for a, b in zip(batches(mix), batches(mix), strict=True))
    assert not np.array_equal(batches(mix)[0], batches(mix, epoch=1)[0])
    parts = [batches(mix, rank=rank, world=2) for rank in range(2)]
    for whole, *halves in zip(batches(mix), *parts, strict=True):
        assert np.array_equal(whole, np.concatenate(halves))
    resumed = JointBatches(SIZES, 16, mix, seed=3)
    resumed.start = 2
    assert [row for _, row in next(iter(resumed))] == batches(mix)[2].tolist()


def test_samples_say_of_which_data_set_they_are(toy_tiny):
    spec = ClipSpec(frames=4, stride=2, views=1, augment=PRESETS["toy"])
    segments = ClipSpec(frames=4, views=1, augment=PRESETS["toy"], sampling="random_segments")
    parts = [Clips(toy_tiny, spec), Clips(toy_tiny.select(split="test"), segments)]
    both = Joint(parts)
    last, first = both[0, len(both) - 1], both[0, 0]
    assert (first["dataset"], first["row"], last["dataset"], last["row"]) == (
        0,
        0,
        1,
        len(both) - 1,
    )
    assert (
        last["label"] == parts[1].manifest.label[-1]
        and last["source_video"] > toy_tiny.source_video.max()
    )
    assert last["rgb"].shape == first["rgb"].shape
    assert np.array_equal(last["rgb"], parts[1][0, len(parts[1]) - 1]["rgb"])
    with pytest.raises(IndexError, match="not among"):
        both[0, len(both)]
    with pytest.raises(ValueError, match="same frames, size"):
        Joint([parts[0], Clips(toy_tiny, ClipSpec(frames=8, views=1, augment=PRESETS["toy"]))])


def test_mistakes_are_refused_at_the_door():
    with pytest.raises(ValueError, match="natural, balanced, fixed; got 'even'"):
        Mix("even")
    with pytest.raises(ValueError, match="whole numbers from 1"):
        Mix(repeats=(1, 0))
    with pytest.raises(ValueError, match="repeats needs a value for each of the 3"):
        JointBatches(SIZES, 16, Mix(repeats=(1, 2)), seed=0)
