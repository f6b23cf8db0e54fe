"""vb.train: all stages in a folder of their own, resumed and complete ones, what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import vidbench as vb
from vidbench.api import training
from vidbench.data.flow import store as flow_store
from vidbench.engine.runs import Run

STAGES = ["coclr-flow", "coclr-rgb", "infonce-flow", "infonce-rgb"]


def test_all_stages_are_in_one_folder_below_the_videos(front_door):
    videos, run = front_door
    folder = run.run.folder.parent
    assert folder == videos.folder / "coclr-tiny-epochs=2-seed0"
    assert sorted(path.name for path in folder.iterdir()) == STAGES
    assert run.run.folder.name == "coclr-rgb" and list(run.streams) == ["rgb", "flow"]
    assert run.streams["flow"].run.folder.name == "coclr-flow"
    recipe = run.run.recipe
    assert recipe.clip.decode_size == 64 and recipe.fit.epochs == 2
    held = flow_store.settings_of(recipe.flow)
    assert (held.method, held.size) == ("dis", 64)


def test_a_complete_call_prints_nothing_and_returns_the_same_runs(front_door, capsys):
    videos, run = front_door
    before = run.run.checkpoint_stamp()
    again = vb.train(videos, "coclr", preset="tiny", epochs=2)
    assert capsys.readouterr().out == ""
    assert again.run.folder == run.run.folder and again.run.checkpoint_stamp() == before


def test_load_takes_a_run_or_the_folder_of_all(front_door):
    _, run = front_door
    folder = run.run.folder.parent
    assert vb.load(folder).run.folder == run.run.folder
    assert repr(vb.load(folder)) == repr(run)
    assert vb.load(folder / "infonce-flow").streams.keys() == {"flow"}


def test_a_folder_without_a_complete_run_says_so(tmp_path):
    with pytest.raises(Exception, match="must contain a complete run; it has no runs. Train first"):
        vb.load(tmp_path)


def test_another_seed_is_another_recipe_of_the_same_stages(front_door):
    videos, _ = front_door
    job = training._Job([videos], "coclr", "tiny", 1, "", {})
    recipes, _ = training._stages(job, Path("elsewhere"))
    assert sorted(recipes) == STAGES
    assert [recipe.fit.seed for recipe in recipes.values()] == [1000, 1001, 1002, 1003]


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("byol", {}, "vb.train also knows infonce, ubernce, coclr"),
        ("coclr", {"preset": "big"}, "preset of coclr must be one of tiny, toy.*got 'big'"),
        ("coclr", {"epoch": 3}, "'epoch' of coclr's recipe is unknown.*fit.epochs"),
        ("coclr", {"stream": "flow"}, "coclr trains both streams"),
        ("infonce", {"stream": "sound"}, "sound"),
    ],
)
def test_what_train_refuses(front_door, method, options, says):
    videos, _ = front_door
    with pytest.raises(Exception, match=says):
        vb.train(videos, method, **{"preset": "tiny", **options})


def test_methods_that_learn_labels_want_them(front_door, tmp_path):
    videos, _ = front_door
    loose = vb.videos(videos.paths, out=tmp_path)
    assert not loose.labeled
    for method in ("ubernce", "classify", "multitrain"):
        with pytest.raises(ValueError, match=f"{method} learns labels.*infonce or coclr"):
            vb.train(loose, method, preset="tiny")


def test_labels_do_not_enter_self_supervised_training(front_door, tmp_path):
    """The same videos with and without labels give the same weights."""
    videos, _ = front_door
    weights = []
    for name, label in ("with", videos.manifest.label), ("without", np.full(len(videos), -1)):
        manifest = replace(videos.manifest, label=label)
        manifest.save(tmp_path / name / "videos")
        some = vb.Videos(manifest, tmp_path / name)
        run = vb.train(some, "infonce", preset="tiny", epochs=1, held_out=0.0, processes=0)
        weights.append(run.run.weights())
    names = [name for name in weights[0] if name != "queue.label"]
    assert len(names) > 100
    assert all(weights[0][name].equal(weights[1][name]) for name in names)


def test_classify_learns_and_a_run_elsewhere_loads(front_door, tmp_path):
    videos, _ = front_door
    run = vb.train(videos, "classify", preset="tiny", epochs=1, processes=0, out=tmp_path / "mine")
    assert run.run.folder == tmp_path / "mine" / "classify-rgb"
    assert Run(run.run.folder).recipe.classes == videos.classes
