"""CoCLR's method: golden values on hand-made tensors, hand-over, and one stage of each kind on real videos."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from vidbench.engine import ranks
from vidbench.engine.runs import Run, RunError, recipe_dict
from vidbench.methods import coclr
from vidbench.methods.coclr import CoCLR, Recipe, embed

TINY = coclr.SETTINGS["tiny"]


def batch_of(size=6, seed=0, sources=None):
    generator = torch.Generator().manual_seed(seed)
    clips = {stream: torch.randn(size, 2, 3, 8, 48, 48, generator=generator) for stream in ("rgb", "flow")}
    labels = torch.arange(size) % 3
    return {**clips, "label": labels, "source": torch.arange(size) if sources is None else sources,
            "row": torch.arange(size)}


def filled(recipe: Recipe, seed=1) -> CoCLR:
    """A method whose queue holds random features, labels 0..2 and sources 0..K-1."""
    torch.manual_seed(seed)
    method = CoCLR(recipe)
    slots, dim = recipe.queue, recipe.dim
    side = F.normalize(torch.randn(slots, dim), dim=1) if recipe.positives == "near" else None
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
        logits = torch.stack([torch.cat([(q @ k)[None], method.queue.features @ q]) for q, k in pairs]) / 0.07
        wanted = F.cross_entropy(logits, torch.zeros(6, dtype=torch.long))
        torch.testing.assert_close(method(batch)[0], wanted, rtol=1e-4, atol=1e-4)


def test_coclr_without_mining_siblings_and_self_drop_is_infonce():
    batch = batch_of(sources=torch.full((6,), 10_000))
    near = replace(TINY, positives="near", topk=0)
    torch.manual_seed(1)
    method, plain = filled(near), filled(TINY)
    plain.load_state_dict({k: v for k, v in method.state_dict().items() if k in plain.state_dict()})
    with torch.no_grad():
        torch.testing.assert_close(method(batch)[0], plain(batch)[0])


def test_ubernce_with_all_labels_distinct_is_infonce():
    batch = {**batch_of(), "label": torch.arange(6) + 500}
    assert loss_of(replace(TINY, positives="label"), batch) == pytest.approx(loss_of(TINY, batch))


@pytest.mark.parametrize("policy", ["positive", "ignore", "negative"])
def test_mined_slots_are_the_nearest_of_the_other_stream_and_never_siblings(policy):
    recipe = replace(TINY, positives="near", siblings=policy, topk=4)
    method, batch = filled(recipe), batch_of(sources=torch.arange(6) + 3)
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


def test_self_drop_takes_the_own_key_out_only_where_another_positive_is_left():
    recipe = replace(TINY, positives="near", self_drop=1.0, siblings="negative")
    method, batch = filled(recipe), batch_of()
    other = torch.randn(6, recipe.dim)
    positives = method._masks(batch, other)[0]
    assert positives[:, 0].all() and not method.train()._drop_self(positives)[:, 0].any()
    assert method.eval()._drop_self(positives)[:, 0].all()  # evaluation has no randomness
    lonely = filled(replace(recipe, topk=0)).train()
    assert lonely._drop_self(lonely._masks(batch, other)[0])[:, 0].all()


def test_no_optimiser_step_until_the_queue_is_full():
    method = CoCLR(replace(TINY, queue=12)).train()
    for seed in range(2):
        assert not method.ready
        method(batch_of(seed=seed))
    assert method.ready and method.queue.label.tolist() == [0, 1, 2, 0, 1, 2] * 2


def test_momentum_moves_key_parameters_only_and_own_statistics():
    method = CoCLR(replace(TINY, momentum=0.75))
    for parameter in method.encoder.parameters():
        parameter.data += 1.0
    before = [p.clone() for p in method.key_encoder.parameters()]
    statistics = [b.clone() for b in method.key_encoder.buffers()]
    method.after_step()
    for old, new, query in zip(before, method.key_encoder.parameters(), method.encoder.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * query)
    assert all(torch.equal(a, b) for a, b in zip(statistics, method.key_encoder.buffers(), strict=True))


def test_keys_come_back_in_order_whatever_the_groups():
    batch = batch_of()
    for groups in (1, 2, 3):
        method = filled(replace(TINY, key_groups=groups))  # eval mode: statistics are fixed, so groups must not show
        with torch.no_grad():
            wanted = embed(method.key_encoder, method.key_head, batch["rgb"][:, 1])
            torch.testing.assert_close(method._keys(batch["rgb"][:, 1]), wanted, atol=1e-5, rtol=1e-4)


def test_gradient_reaches_the_query_side_only():
    method = filled(replace(TINY, positives="near")).train()
    method(batch_of())[0].backward()
    assert all(p.grad is not None for p in method.encoder.parameters())
    frozen = [*method.key_encoder.parameters(), *method.key_head.parameters(), *method.teacher.parameters()]
    assert not any(p.requires_grad for p in frozen) and not method.teacher.training


def test_wrong_words_are_refused():
    for change in ({"positives": "all"}, {"siblings": "drop"}, {"stream": "depth"}):
        with pytest.raises(ValueError, match="got"):
            CoCLR(replace(TINY, **change))


@pytest.fixture(scope="module")
def world(toy_tiny, tmp_path_factory):
    """The tiny toy world with its flow, and one trained run on each stream."""
    from vidbench.data import flow_store

    folder = tmp_path_factory.mktemp("coclr")
    report = flow_store.extract(toy_tiny, folder / "flow", "dis", workers=1)
    assert not report.failed
    toy_tiny.save(folder / "videos")
    recipe = replace(TINY, manifest=str(folder / "videos"), flow=str(folder / "flow"))
    for stream in ("rgb", "flow"):
        coclr.train(recipe_dict(replace(recipe, stream=stream)), str(folder / stream), "none")
    return folder, recipe


def test_hand_over_copies_the_query_encoder_into_query_and_key(world):
    folder, recipe = world
    near = replace(recipe, positives="near", siblings="positive", self_drop=0.9)
    method = CoCLR(near)
    report = method.hand_over(Run(folder / "rgb"), Run(folder / "flow"))
    assert len(report) == 2 and "query and key: from rgb" in report[0] and "frozen: from flow" in report[1]
    rgb, flow = Run(folder / "rgb").weights(), Run(folder / "flow").weights()
    for name, value in method.encoder.state_dict().items():
        assert torch.equal(value, rgb[f"encoder.{name}"])
        assert torch.equal(method.key_encoder.state_dict()[name], rgb[f"encoder.{name}"])
        assert torch.equal(method.teacher[0].state_dict()[name], flow[f"encoder.{name}"])
    assert not method.queue.full
    with pytest.raises(RunError, match="trained on rgb; a run on flow is wanted"):
        CoCLR(near).hand_over(Run(folder / "rgb"), Run(folder / "rgb"))
    with pytest.raises(RunError, match="wants a teacher"):
        CoCLR(near).hand_over(Run(folder / "rgb"), None)
    with pytest.raises(RunError, match="holds another network"):
        CoCLR(replace(near, network_args={"width": 0.25, "units": (1, 1, 0)})).hand_over(Run(folder / "rgb"), None)


def test_a_half_cycle_trains_mines_and_logs_purity(world):
    folder, recipe = world
    near = replace(recipe, positives="near", siblings="positive", self_drop=0.9, student=str(folder / "rgb"),
                   teacher=str(folder / "flow"))
    coclr.train(recipe_dict(near), str(folder / "coclr"), "none")
    curves = Run(folder / "coclr").curves()
    found = [value for value in curves["purity"] if value is not None]
    assert found and all(0 <= value <= 1 for value in found)
    assert Run(folder / "coclr").state == "complete"
    weights = Run(folder / "coclr").weights()
    for name, value in Run(folder / "flow").weights().items():
        if name.startswith("encoder."):
            assert torch.equal(weights[f"teacher.0.{name.removeprefix('encoder.')}"], value)  # stayed frozen


def test_a_stage_is_repeatable_to_the_bit(world):
    folder, recipe = world
    coclr.train(recipe_dict(recipe), str(folder / "again"), "none")
    first, second = Run(folder / "rgb").weights(), Run(folder / "again").weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_ranks_share_a_half_cycle_and_fill_one_queue(world, tmp_path):
    """The global batch, the gathered queue and the hand-over hold on two ranks; batch-norm statistics are per rank."""
    folder, recipe = world
    near = replace(recipe, positives="near", student=str(folder / "rgb"), teacher=str(folder / "flow"),
                   fit=replace(recipe.fit, epochs=1))
    coclr.train(recipe_dict(near), str(tmp_path / "one"), "none")
    ranks.launch("vidbench.methods.coclr:train", recipe_dict(near), str(tmp_path / "two"), "none", nproc=2,
                 log_dir=tmp_path / "logs")
    one, two = (Run(tmp_path / name) for name in ("one", "two"))
    assert two.state == "complete" and two.curves()["clips"] == one.curves()["clips"]
    left, right = one.weights(), two.weights()
    for column in ("queue.label", "queue.source", "queue.count"):
        assert torch.equal(left[column], right[column]), column
    torch.testing.assert_close(left["queue.other"], right["queue.other"], atol=1e-4, rtol=1e-3)  # the teacher's, eval
