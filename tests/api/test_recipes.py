"""Fields by plain or dotted names, batch and queue for few videos, names of folders."""

import pytest

from vidbench.api.recipes import fitted, label, with_changes
from vidbench.methods import classify, coclr

TOY = coclr.PRESETS["toy"].together


def test_a_field_is_found_by_its_plain_or_dotted_name():
    changes = {"epochs": 3, "clip.frames": 4, "lr": 0.5, "temperature": 0.2}
    made = with_changes(TOY, changes)
    assert (made.fit.epochs, made.clip.frames, made.fit.lr) == (3, 4, 0.5)
    assert made.temperature == 0.2 and made.clip.stride == TOY.clip.stride


def test_another_network_starts_from_its_own_arguments():
    assert with_changes(TOY, {"network": "slowonly"}).network_args == {}
    given = {"network": "slowonly", "network_args": {"depth": 18}}
    assert with_changes(TOY, given).network_args == {"depth": 18}


@pytest.mark.parametrize("name", ["epoch", "manifest", "seed", "fit.seed", "positives"])
def test_unknown_fields_and_those_of_train_are_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=f"'{name}'.*(unknown|train itself).*fit.epochs"):
        with_changes(TOY, {name: 1})


def test_batch_and_queue_fit_few_videos_and_many_change_nothing():
    made, said = fitted(TOY, 18)
    assert made == coclr.fitted(TOY, 18) and "batch 32 -> 8" in said[0]
    assert "gives 200 steps" in said[1]
    made, said = fitted(classify.PRESETS["toy"], 10)
    assert made.fit.batch == 4 and "batch 32 -> 4" in said[0]
    assert fitted(TOY, 2000) == (TOY, [])
    with pytest.raises(ValueError, match="at least 4 videos that are not held out; got 3"):
        fitted(classify.PRESETS["toy"], 3)


def test_a_folder_is_named_by_what_differs():
    assert label("coclr", "toy", 0, {}) == "coclr-toy-seed0"
    assert label("coclr", "toy", 2, {"epochs": 3}) == "coclr-toy-epochs=3-seed2"
    some = {"network_args": {"width": 0.5, "units": (1, 1, 0)}, "network": "my.code:Net"}
    names = {label("coclr", "toy", 0, {name: some[name]}) for name in some}
    assert len(names) == 2 and all("/" not in name and ":" not in name for name in names)
    many = label("coclr", "toy", 0, {f"field_number_{n}": n for n in range(9)})
    assert many.startswith("coclr-toy-changes=") and len(many) < 40
