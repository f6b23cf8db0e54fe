"""CoCLR's method: golden values on hand-made tensors, hand-over, and one stage of each kind on real
videos."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests import copied
from vidbench.data.manifest import Manifest
from vidbench.engine import ranks
from vidbench.engine.runs import Run, RunError, recipe_dict
from vidbench.methods import coclr
from vidbench.methods.coclr import CoCLR, Recipe, embed
from vidbench.methods.monitor import health
from vidbench.methods.recipes import coclr as coclr_recipes

TINY = coclr.PRESETS["tiny"].alone


def batch_of(size=6, seed=0, source_videos=None):
    generator = torch.Generator().manual_seed(seed)
    clips = {
        stream: torch.randn(size, 2, 3, 8, 48, 48, generator=generator)
        for stream in ("rgb", "flow")
    }
    labels = torch.arange(size) % 3
    return {
        **clips,
        "label": labels,
        "source_video": torch.arange(size) if source_videos is None else source_videos,
        "row": torch.arange(size),
    }


def filled(recipe: Recipe, seed=1) -> CoCLR:
    """A method whose queue holds random features, labels 0..2 and sources 0..K-1."""
    torch.manual_seed(seed)
    method = CoCLR(recipe)
    slots, dim = recipe.queue, recipe.dim
    side = F.normalize(torch.randn(slots, dim), dim=1) if recipe.positives == "mined" else None
    features = F.normalize(torch.randn(slots, dim), dim=1)
    method.queue.enqueue(features, torch.arange(slots) % 3, torch.arange(slots), side)
    return method.eval()


def loss_of(recipe, batch):
    with torch.no_grad():
        return float(filled(recipe)(batch)[0])


def test_infonce_is_cross_entropy_of_own_key_against_the_queue():
    method, batch = filled(TINY), batch_of()
    with torch.no_grad():
        query = embed(method.encoder, method.head, batch["rgb"][:, 0])
        key = embed(method.key_encoder, method.key_head, batch["rgb"][:, 1])
        pairs = zip(query, key, strict=True)
        logits = (
            torch.stack([torch.cat([(q @ k)[None], method.queue.features @ q]) for q, k in pairs])
            / 0.07
        )
        wanted = F.cross_entropy(logits, torch.zeros(6, dtype=torch.long))
        torch.testing.assert_close(method(batch)[0], wanted, rtol=1e-4, atol=1e-4)


def test_coclr_without_mining_siblings_and_drop_own_key_is_infonce():
    batch = batch_of(source_videos=torch.full((6,), 10_000))
    near = replace(TINY, positives="mined", topk=0)
    torch.manual_seed(1)
    method, plain = filled(near), filled(TINY)
    plain.load_state_dict({k: v for k, v in method.state_dict().items() if k in plain.state_dict()})
    with torch.no_grad():
        torch.testing.assert_close(method(batch)[0], plain(batch)[0])


def test_ubernce_with_all_labels_distinct_is_infonce():
    batch = {**batch_of(), "label": torch.arange(6) + 500}
    assert loss_of(replace(TINY, positives="class"), batch) == pytest.approx(loss_of(TINY, batch))


@pytest.mark.parametrize("policy", ["positive", "ignore", "negative"])
def test_mined_slots_are_the_nearest_of_the_other_stream_and_never_siblings(policy):
    recipe = replace(TINY, positives="mined", siblings=policy, topk=4)
    method, batch = filled(recipe), batch_of(source_videos=torch.arange(6) + 3)
    with torch.no_grad():
        other = embed(*method.teacher, batch["flow"][:, 1])
        positives, ignored, mined = method._masks(batch, other)
    similarity = other @ method.queue.other.T
    for i in range(6):
        allowed = [j for j in range(recipe.queue) if j != i + 3]  # slot j holds source j
        best = set(sorted(allowed, key=lambda j: -float(similarity[i, j]))[:4])
        assert set(mined[i].nonzero().flatten().tolist()) == best
        assert bool(positives[i, 1 + i + 3]) == (policy == "positive") and bool(positives[i, 0])
        assert (ignored is not None and bool(ignored[i, 1 + i + 3])) == (policy == "ignore")


def test_drop_own_key_takes_the_own_key_out_only_where_another_positive_is_left():
    recipe = replace(TINY, positives="mined", drop_own_key=1.0, siblings="negative")
    method, batch = filled(recipe), batch_of()
    other = torch.randn(6, recipe.dim)
    positives = method._masks(batch, other)[0]
    assert positives[:, 0].all() and not method.train()._drop_own_key(positives)[:, 0].any()
    assert method.eval()._drop_own_key(positives)[:, 0].all()  # evaluation has no randomness
    lonely = filled(replace(recipe, topk=0)).train()
    assert lonely._drop_own_key(lonely._masks(batch, other)[0])[:, 0].all()


def test_no_optimizer_step_until_the_queue_is_full():
    method = CoCLR(replace(TINY, queue=12, fit=replace(TINY.fit, batch=6))).train()
    for seed in range(2):
        assert not method.ready
        method(batch_of(seed=seed))
    assert method.ready and method.queue.label.tolist() == [0, 1, 2, 0, 1, 2] * 2


def test_released_infonce_steps_from_the_first_batch_and_coclr_waits():
    """main_nce.py trains against a random queue; main_coclr.py checks whether it is full."""
    for name in ("ucf101_official", "k400_official"):
        preset = coclr.PRESETS[name]
        assert not preset.alone.fill_first and preset.together.fill_first
        for recipe in (preset.alone, preset.together):  # dataset/lmdb_dataset.py
            assert recipe.clip.pad == "first" and not recipe.clip.reach_end
    assert "fill_first" in coclr_recipes.SWITCHES
    method = CoCLR(replace(TINY, queue=12, fill_first=False, fit=replace(TINY.fit, batch=6)))
    assert method.train().ready
    loss, _ = method(batch_of())
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.head.parameters())
    coclr.check_budget(replace(method.recipe, fit=replace(method.recipe.fit, epochs=1)), 6)
    assert "against random features" in coclr.effort(method.recipe, 12)


def test_momentum_moves_key_parameters_only_and_own_statistics():
    method = CoCLR(replace(TINY, momentum=0.75))
    for parameter in method.encoder.parameters():
        parameter.data += 1.0
    before = [p.clone() for p in method.key_encoder.parameters()]
    statistics = [b.clone() for b in method.key_encoder.buffers()]
    method.after_step()
    for old, new, query in zip(
        before, method.key_encoder.parameters(), method.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * query)
    assert all(
        torch.equal(a, b) for a, b in zip(statistics, method.key_encoder.buffers(), strict=True)
    )


def test_keys_come_back_in_order_whatever_the_groups():
    batch = batch_of()
    for groups in (1, 2, 3):
        method = filled(TINY)  # eval mode: statistics are fixed, so groups must not show
        method.groups = groups
        with torch.no_grad():
            wanted = embed(method.key_encoder, method.key_head, batch["rgb"][:, 1])
            torch.testing.assert_close(
                method._keys(batch["rgb"][:, 1]), wanted, atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize(
    ("groups", "world", "share"), [(1, 1, 1), (4, 1, 4), (4, 2, 2), (2, 4, 1), (1, 4, 1)]
)
def test_ranks_share_the_key_groups(monkeypatch, groups, world, share):
    monkeypatch.setattr(coclr.ranks, "world", lambda: world)
    recipe = replace(TINY, key_groups=groups, queue=64, fit=replace(TINY.fit, batch=8))
    assert coclr.groups_of_rank(recipe) == share
    count = max(groups, world)
    words = f"normalized in {count} group{'s' * (count > 1)} of {8 // count}"
    assert words in coclr.effort(recipe, 64)


def test_key_groups_that_do_not_fit_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="key_groups must divide .* of 8; got 3. Use 1"):
        replace(TINY, key_groups=3, queue=64, fit=replace(TINY.fit, batch=8))
    monkeypatch.setattr(coclr.ranks, "world", lambda: 3)
    recipe = replace(TINY, key_groups=4, queue=60, fit=replace(TINY.fit, batch=12))
    with pytest.raises(ValueError, match="3 ranks with 4 clips each must share key_groups = 4"):
        coclr.groups_of_rank(recipe)


def test_presets_have_the_groups_of_the_published_gpus():
    wanted = {
        "ucf101_paper": (4, 4),
        "ucf101_official": (2, 2),
        "k400_paper": (4, 4),
        "k400_official": (4, 2),
    }
    for name, groups in wanted.items():
        preset = coclr.PRESETS[name]
        assert (preset.alone.key_groups, preset.together.key_groups) == groups
        assert preset.together.fit.batch // groups[1] == 32


def test_gradient_reaches_the_query_side_only():
    method = filled(replace(TINY, positives="mined")).train()
    method(batch_of())[0].backward()
    assert all(p.grad is not None for p in method.encoder.parameters())
    frozen = [
        *method.key_encoder.parameters(),
        *method.key_head.parameters(),
        *method.teacher.parameters(),
    ]
    assert not any(p.requires_grad for p in frozen) and not method.teacher.training


def test_wrong_words_are_refused():
    for change in (
        {"positives": "all"},
        {"siblings": "drop"},
        {"stream": "depth"},
        {"positives": "mined", "topk": 64},
        {"drop_own_key": 1.5},
    ):
        with pytest.raises(ValueError, match="got"):
            replace(TINY, **change)
    with pytest.raises(
        ValueError, match="60 slots, is not divisible by the global batch of 16; 64 would be"
    ):
        replace(TINY, queue=60)


def test_siblings_take_places_only_where_nothing_bars_them():
    batch = batch_of(source_videos=torch.arange(6) + 3)
    for mine, wanted in ((True, True), (False, False)):
        method = filled(replace(TINY, positives="mined", topk=1, mine_siblings=mine))
        other = method.queue.other[3:9].clone()  # each query's nearest slot is its own sibling's
        mined = method._masks(batch, other)[2]
        assert (
            all(bool(mined[i, i + 3]) == wanted for i in range(6))
            and mined.sum(1).tolist() == [1] * 6
        )


def test_ubernce_and_coclr_agree_where_each_row_has_one_positive():
    """The two forms of the loss are equal with one positive (facts of the released code)."""
    method = filled(replace(TINY, positives="mined", topk=1, drop_own_key=1.0)).train()
    logits, other = torch.randn(6, 65), torch.randn(6, TINY.dim)
    positives = method._drop_own_key(method._masks(batch_of(), other)[0])
    assert positives.sum(1).tolist() == [1] * 6 and not positives[:, 0].any()
    inside, outside = (
        coclr.multi_positive_nce(logits, positives, form) for form in ("inside", "outside")
    )
    torch.testing.assert_close(inside, outside)


@pytest.mark.parametrize("positives", ["instance", "mined"])
def test_labels_never_enter_self_supervised_training(positives):
    """The same loss, queue and gradients whatever the labels are; unknown ones give no purity."""
    recipe = replace(TINY, positives=positives, topk=3)
    found = []
    for labels in (torch.arange(16) % 3, torch.full((16,), -1)):
        torch.manual_seed(3)
        method = CoCLR(recipe)
        for seed in range(recipe.queue // 16 + 1):
            batch = {**batch_of(16, seed), "label": labels}
            loss, numbers = method(batch)
        loss.backward()
        gradients = [p.grad for p in method.parameters() if p.grad is not None]
        found.append([loss.detach(), method.queue.features, *gradients])
        if positives == "mined":
            assert bool(numbers["purity"].isnan()) == bool((labels < 0).all())
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("rows", [4, 5, 9, 14, 18, 24, 40, 63, 64])
def test_a_small_data_set_takes_its_first_step_within_the_first_epoch(rows):
    for recipe in (TINY, coclr.PRESETS["tiny"].together, coclr.PRESETS["toy"].together):
        made = coclr.fitted(recipe, rows)
        assert 2 <= made.fit.batch <= rows // 2 and 1 <= made.topk < made.queue
        assert made.queue <= rows // made.fit.batch * made.fit.batch
        assert (made == recipe) == (recipe.queue <= rows)
        assert made == recipe or made.siblings == "ignore"
        coclr.check_budget(made, rows)
        said = coclr.fitted_words(recipe, made, rows)
        assert (f"queue {recipe.queue} -> {made.queue}" in said) == (made != recipe)
    assert coclr.fitted(TINY, 64) == TINY
    with pytest.raises(ValueError, match="at least 4 training videos; got 3"):
        coclr.fitted(TINY, 3)


def test_ubernce_without_labels_is_refused_in_one_sentence(world, tmp_path):
    _, recipe = world
    bare = Manifest.load(recipe.manifest).without_labels().save(tmp_path / "bare").parent
    recipe = replace(recipe, positives="class", manifest=str(bare))
    with pytest.raises(ValueError, match="UberNCE .* needs labels; got .* videos without labels"):
        coclr.train(recipe_dict(recipe), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_graph_hands_the_newest_runs_on(tmp_path):
    """Init, then 1a (flow mines for rgb), 1b (the rgb just trained mines for flow), 2a, 2b; section
    3.1."""
    preset = coclr.PRESETS["ucf101_official"]
    made = coclr.graph(preset, tmp_path, manifest="videos", flow="flow", seed=2)
    parents = {
        name: tuple(path and path.removeprefix(f"{tmp_path}/") for path in (r.student, r.teacher))
        for name, r in made.items()
    }
    assert parents == {
        "infonce-rgb": ("", ""),
        "infonce-flow": ("", ""),
        "coclr-rgb": ("infonce-rgb", "infonce-flow"),
        "coclr-flow": ("infonce-flow", "coclr-rgb"),
        "coclr-rgb-2": ("coclr-rgb", "coclr-flow"),
        "coclr-flow-2": ("coclr-flow", "coclr-rgb-2"),
    }
    assert [r.fit.epochs for r in made.values()] == [300, 300, 100, 100, 100, 100]
    assert [r.fit.milestones for r in made.values()] == [(250, 280)] * 2 + [(80,)] * 4
    assert len({r.fit.seed for r in made.values()}) == 6
    assert {r.drop_own_key for n, r in made.items() if "coclr" in n} == {0.9} and made[
        "infonce-rgb"
    ].drop_own_key == 0


@pytest.mark.parametrize(
    ("name", "rows", "iterations"),
    [
        ("ucf101_official", 9537, 149),  # issue 21 of the released code
        ("ucf101_paper", 9537 - 477, 70),
        ("k400_official", 219_000, 1710),
    ],
)
def test_effort_is_stated_in_the_papers_units(name, rows, iterations):
    words = coclr.effort(coclr.PRESETS[name].alone, rows)
    assert f"{iterations} iterations an epoch, 300 epochs: {300 * iterations:,} iterations" in words


def test_named_settings_hold_what_the_sources_say():
    paper, official, kinetics = (
        coclr.PRESETS[n] for n in ("ucf101_paper", "ucf101_official", "k400_official")
    )
    assert (paper.alone.fit.batch, official.alone.fit.batch, kinetics.alone.fit.batch) == (
        128,
        64,
        128,
    )
    assert (paper.alone.fit.schedule, paper.alone.fit.drops, paper.cycles) == ("plateau", 2, 2)
    assert (
        paper.together.mine_siblings
        and paper.together.siblings == "negative"
        and paper.together.drop_own_key == 0
    )
    assert (official.together.siblings, official.together.drop_own_key) == ("positive", 0.9)
    assert not official.together.mine_siblings and official.alone.siblings == "negative"
    assert (kinetics.alone.queue, kinetics.cycles, kinetics.together.fit.epochs) == (16384, 1, 50)
    for preset in (paper, official, kinetics):
        for recipe in (preset.alone, preset.together):
            assert (recipe.topk, recipe.dim, recipe.momentum, recipe.temperature) == (
                5,
                128,
                0.999,
                0.07,
            )
            assert (recipe.fit.optimizer, recipe.fit.lr, recipe.fit.weight_decay) == (
                "adam",
                1e-3,
                1e-5,
            )
            assert (recipe.clip.frames, recipe.clip.stride, recipe.clip.augment.size) == (
                32,
                1,
                128,
            )
    assert (
        sum(p.numel() for p in CoCLR(official.together).parameters()) == 27_272_544
    )  # query, key, teacher
    assert sum(p.numel() for p in CoCLR(official.alone).parameters()) == 18_181_696


@pytest.fixture(scope="module")
def world(infonce, tmp_path_factory):
    """A folder with one trained run on each stream of the tiny toy world, and their recipe."""
    runs, recipe = infonce
    return copied(runs, tmp_path_factory.mktemp("coclr") / "runs"), recipe


def test_loading_copies_the_query_encoder_into_query_and_key(world):
    folder, recipe = world
    near = replace(recipe, positives="mined", siblings="positive", drop_own_key=0.9)
    method = CoCLR(near)
    report = method.load_student_and_teacher(Run(folder / "rgb"), Run(folder / "flow"))
    student, teacher = map(str, report)
    assert (
        "of rgb (rgb, its last checkpoint, epoch 2, step 22), into query and key alike" in student
    )
    assert (
        teacher.startswith("teacher, frozen, in eval mode: all ") and "of flow (flow, " in teacher
    )
    assert report[0].tensors == len(method.encoder.state_dict()) + len(method.head.state_dict())
    rgb, flow = Run(folder / "rgb").weights(), Run(folder / "flow").weights()
    for name, value in method.encoder.state_dict().items():
        assert torch.equal(value, rgb[f"encoder.{name}"])
        assert torch.equal(method.key_encoder.state_dict()[name], rgb[f"encoder.{name}"])
        assert torch.equal(method.teacher[0].state_dict()[name], flow[f"encoder.{name}"])
    assert not method.queue.full
    with pytest.raises(RunError, match="trained on rgb; the teacher must be one on flow"):
        CoCLR(near).load_student_and_teacher(Run(folder / "rgb"), Run(folder / "rgb"))
    Run(folder / "flow").status("interrupted")
    with pytest.raises(
        RunError, match="is interrupted, not complete, and cannot be the teacher yet"
    ):
        CoCLR(near).load_student_and_teacher(Run(folder / "rgb"), Run(folder / "flow"))
    Run(folder / "flow").status("complete")
    with pytest.raises(RunError, match="needs a teacher"):
        CoCLR(near).load_student_and_teacher(Run(folder / "rgb"), None)
    with pytest.raises(RunError, match="holds another network"):
        CoCLR(
            replace(near, network_args={"width": 0.25, "units": (1, 1, 0)})
        ).load_student_and_teacher(Run(folder / "rgb"), None)


def test_a_resumed_stage_wants_the_rows_it_began_with(world, toy_tiny, tmp_path):
    folder, recipe = world
    recipe = replace(recipe, manifest=str(tmp_path / "videos"), fit=replace(recipe.fit, epochs=0))
    toy_tiny.save(tmp_path / "videos")
    coclr.train(recipe_dict(recipe), str(tmp_path / "run"), "none")
    coclr.train(recipe_dict(recipe), str(tmp_path / "run"), "none")
    rows = json.loads((tmp_path / "run" / "rows.json").read_text())
    trained, held = coclr.parts(recipe)
    assert rows == {"train": trained.fingerprint(), "held_out": held.fingerprint()}
    toy_tiny.select(mask=toy_tiny.label != 1).save(tmp_path / "videos")
    with pytest.raises(RunError, match=r"the videos changed since .*run began"):
        coclr.train(recipe_dict(recipe), str(tmp_path / "run"), "none")


@pytest.fixture(scope="module")
def mined(world):
    """A complete half-cycle: its recipe, and its run."""
    folder, recipe = world
    near = replace(
        recipe,
        positives="mined",
        siblings="positive",
        drop_own_key=0.9,
        student=str(folder / "rgb"),
        teacher=str(folder / "flow"),
    )
    return near, Run(coclr.train(recipe_dict(near), str(folder / "coclr"), "none"))


def test_a_half_cycle_trains_mines_and_logs_purity(world, mined):
    run = mined[1]
    found = [value for value in run.curves()["purity"] if value is not None]
    assert found and all(0 <= value <= 1 for value in found)
    watched = run.metrics("monitor")
    assert [line["epoch"] for line in watched] == [0, 1, 2] and {
        "knn",
        "rank",
        "spread",
    } <= watched[0].keys()
    assert {
        "loss",
        "accuracy",
        "key_rank",
        "purity",
        "chance",
        "class_recall",
        "sibling_share",
    } <= watched[-1].keys()
    assert run.state == "complete"
    weights = run.weights()
    for name, value in Run(world[0] / "flow").weights().items():
        if name.startswith("encoder."):
            assert torch.equal(
                weights[f"teacher.0.{name.removeprefix('encoder.')}"], value
            )  # stayed frozen


@pytest.mark.parametrize("known", [0, 3])
@pytest.mark.slow
def test_a_half_cycle_without_labels_logs_nothing_that_counts_them(world, tmp_path, known):
    """Only `known` of ten classes are labeled; with some, the numbers exist and are finite."""
    folder, recipe = world
    manifest = Manifest.load(recipe.manifest)
    label = np.where(manifest.label < known, manifest.label, -1)
    made = replace(manifest, label=label) if known else manifest.without_labels()
    near = replace(
        recipe,
        positives="mined",
        manifest=str(made.save(tmp_path / "videos").parent),
        student=str(folder / "rgb"),
        teacher=str(folder / "flow"),
    )
    coclr.train(recipe_dict(near), str(tmp_path / "run"), "none")
    run = Run(tmp_path / "run")
    counted = {"knn", "purity", "chance", "class_recall"}
    seen = set(run.curves()) | set(run.curves("monitor"))
    assert run.state == "complete" and seen & counted == (counted if known else set())
    assert {"loss", "accuracy", "rank", "spread", "key_rank", "sibling_share"} <= seen
    lines = [*run.metrics(), *run.metrics("monitor")]
    assert all(value is not None for line in lines for value in line.values())
    assert health(run.metrics("monitor"), run.recipe, 100) == {}  # too few steps


@pytest.mark.slow
def test_a_stopped_half_cycle_resumes_to_the_same_numbers(mined, tmp_path, monkeypatch):
    near, whole = recipe_dict(mined[0]), mined[1]
    look = coclr.Monitor.__call__

    def stopped(self, epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        return look(self, epoch)

    monkeypatch.setattr(coclr.Monitor, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        coclr.train(near, str(tmp_path / "cut"), "none")
    assert Run(tmp_path / "cut").state == "interrupted"
    monkeypatch.setattr(coclr.Monitor, "__call__", look)
    coclr.train(near, str(tmp_path / "cut"), "none")
    cut = Run(tmp_path / "cut")
    assert all(torch.equal(value, cut.weights()[name]) for name, value in whole.weights().items())
    assert (
        whole.curves("monitor") == cut.curves("monitor")
        and whole.curves()["loss"] == cut.curves()["loss"]
    )


def test_a_half_cycle_keeps_the_students_own_recipe_but_for_the_switches(world):
    folder, recipe = world
    together = coclr.PRESETS["toy"].together
    made = coclr.half_cycle(together, str(folder / "rgb"), str(folder / "flow"))
    assert (made.positives, made.topk, made.drop_own_key, made.queue, made.fit) == (
        "mined",
        together.topk,
        0.9,
        together.queue,
        together.fit,
    )
    kept = ("stream", "network_args", "clip", "dim", "manifest", "flow", "held_out")
    assert all(recipe_dict(made)[name] == recipe_dict(recipe)[name] for name in kept)


def test_a_stage_is_repeatable_to_the_bit(world):
    folder, recipe = world
    coclr.train(recipe_dict(recipe), str(folder / "again"), "none")
    first, second = Run(folder / "rgb").weights(), Run(folder / "again").weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_two_ranks_share_a_half_cycle_and_fill_one_queue(world, tmp_path):
    """The global batch, the gathered queue and the hand-over hold on two ranks; batch-norm
    statistics are per rank."""
    folder, recipe = world
    near = replace(
        recipe,
        positives="mined",
        student=str(folder / "rgb"),
        teacher=str(folder / "flow"),
        fit=replace(recipe.fit, epochs=1),
    )
    coclr.train(recipe_dict(near), str(tmp_path / "one"), "none")
    ranks.launch(
        "vidbench.methods.coclr:train",
        recipe_dict(near),
        str(tmp_path / "two"),
        "none",
        nproc=2,
        log_dir=tmp_path / "logs",
    )
    one, two = (Run(tmp_path / name) for name in ("one", "two"))
    assert two.state == "complete" and two.curves()["clips"] == one.curves()["clips"]
    left, right = one.weights(), two.weights()
    for column in ("queue.label", "queue.source_video", "queue.count"):
        assert torch.equal(left[column], right[column]), column
    torch.testing.assert_close(
        left["queue.other"], right["queue.other"], atol=1e-4, rtol=1e-3
    )  # the teacher's, eval


def test_a_stage_that_would_never_fill_its_queue_does_not_begin(world, tmp_path):
    """Once it ended `complete` with its first weights."""
    _, recipe = world
    recipe = replace(recipe, queue=recipe.fit.batch * 1000)
    with pytest.raises(ValueError, match="before the first optimizer step"):
        coclr.train(recipe_dict(recipe), str(tmp_path / "run"), "none")
    assert not (tmp_path / "run").exists()


def test_a_resumed_stage_refuses_a_video_that_changed(world, toy_tiny, tmp_path):
    """Same paths and labels, other pixels: once it resumed without a message."""
    _, recipe = world
    shutil.copytree(toy_tiny.root, tmp_path / "videos")
    replace(toy_tiny, root=tmp_path / "videos").save(tmp_path / "videos")
    recipe = replace(recipe, manifest=str(tmp_path / "videos"), fit=replace(recipe.fit, epochs=0))
    coclr.train(recipe_dict(recipe), str(tmp_path / "run"), "none")
    rows, _ = coclr.parts(recipe)
    with rows.absolute(0).open("ab") as file:
        file.write(b"more")
    with pytest.raises(RunError, match=r"1 of \d+ videos changed since .*run began, first "):
        coclr.train(recipe_dict(recipe), str(tmp_path / "run"), "none")
