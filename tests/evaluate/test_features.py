"""Tables of features and of class probabilities, against plain loops over videos, windows and
crops."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from tests import makes
from vidbench.data.flow import store as flow_store
from vidbench.data.loading import dataset
from vidbench.data.loading.augmentation import PRESETS as AUGMENTS
from vidbench.data.loading.dataset import ClipSpec
from vidbench.data.loading.transforms import test_crops as crops_of
from vidbench.data.manifest import Manifest
from vidbench.data.video import clips
from vidbench.engine import ranks
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run, RunError, recipe_dict
from vidbench.evaluate import features
from vidbench.evaluate.features import (
    PROTOCOLS,
    Features,
    Protocol,
    extract,
    load_encoder,
    load_or_extract,
    predict,
)
from vidbench.methods import classify, coclr

CLASSES = ("bow", "clap", "wave")
LENGTHS = (
    12,
    5,
    30,
    23,
    61,
    41,
)  # frames; one shorter than a window, one of more windows than are read at once
CLIP = ClipSpec(frames=4, stride=2, views=1, augment=replace(AUGMENTS["toy"], size=32))
RECIPE = classify.Recipe(
    network_args={"width": 0.125, "units": (1, 0, 0)}, clip=CLIP, fit=Fit(epochs=0, batch=2)
)
HOP = 4


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Six videos of numbered frames and of many lengths, two of them for training."""
    folder = tmp_path_factory.mktemp("videos")
    for i, frames in enumerate(LENGTHS):
        # the numbers start elsewhere in each video, so no two windows show the same
        makes.encode(folder / f"{i}.mp4", [makes.picture(40 * i + t) for t in range(frames)])
    rows = [
        (f"{i}.mp4", CLASSES[i % 3], "train" if i < 2 else "test", f"source {i}")
        for i in range(len(LENGTHS))
    ]
    manifest = Manifest.from_rows(folder, rows, CLASSES)
    manifest.save(folder)
    return manifest


@pytest.fixture(scope="module")
def run(videos, tmp_path_factory):
    """A classifier as it was born, but for weights that tell clips and classes apart."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    recipe = replace(RECIPE, manifest=str(videos.root))
    classify.train(recipe_dict(recipe), str(folder), "none")
    torch.manual_seed(0)
    method = classify.Classifier(replace(recipe, classes=CLASSES))
    for module in method.encoder.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.momentum = 1.0
    views = next(iter(classify.loader(replace(recipe, fit=replace(recipe.fit, batch=6)), videos)))[
        "rgb"
    ]
    method.encoder(views.flatten(0, 1))
    method.head.fc.weight.data.normal_()
    run = Run(folder)
    (run.checkpoint() / "weights.safetensors").unlink()
    save_file(method.state_dict(), run.checkpoint() / "weights.safetensors")
    return run


def windows_of(
    length: int, protocol: Protocol, frames: int = 4, stride: int = 2
) -> list[list[int]]:
    """Frame numbers of every window, as plain loops."""
    span = (frames - 1) * stride + 1
    if length < span:
        inside = [i * stride for i in range(frames) if i * stride < length]
        short = (
            [0] * (frames - len(inside)) + inside
            if protocol.pad == "first"
            else [min(i * stride, length - 1) for i in range(frames)]
        )
        return [short] if protocol.sampling == "sliding" else [short] * protocol.windows
    room = length - span
    if protocol.sampling == "sliding":
        starts = list(range(0, room + 1, protocol.hop))
        starts += [room] if starts[-1] != room else []
    else:
        gaps = protocol.windows - 1
        starts = [
            int(w * room / gaps + 0.5) if gaps else room // 2 for w in range(protocol.windows)
        ]
    return [[start + i * stride for i in range(frames)] for start in starts]


@torch.no_grad()
def by_hand(run, manifest, protocol, of_clips) -> np.ndarray:
    """Each video's mean of `of_clips` over windows and crops: one video, one window at a time."""
    rows = []
    for row in range(len(manifest)):
        frames = torch.from_numpy(clips.read(manifest.absolute(row)).frames).permute(0, 3, 1, 2)
        made = []
        for window in windows_of(len(frames), protocol):
            size, short = round(32 * protocol.crop), round(32 * protocol.scale)
            views = crops_of(frames[window], protocol.crops, size, short, "rgb", CLIP.augment)
            made += list(of_clips(views))
        rows.append(torch.stack(made).mean(dim=0))
    return torch.stack(rows).numpy()


PROTOCOLS_TRIED = [
    Protocol(sampling="sliding", hop=HOP, pad="first"),
    Protocol(sampling="sliding", hop=HOP, crops="three", normalize_clips=False, scale=1.5),
    Protocol(windows=3, crops="five"),
    Protocol(windows=1),
    Protocol(windows=2, crops="three", crop=256 / 224, scale=1.5),
    Protocol(windows=1, crop=0.75),
]


@pytest.mark.parametrize("protocol", PROTOCOLS_TRIED, ids=str)
def test_a_table_is_a_plain_loop_over_videos_windows_and_crops(run, videos, protocol, monkeypatch):
    monkeypatch.setattr(dataset, "DECODED", 5)  # the longest has 15 windows
    encoder = load_encoder(run)

    def of_clips(views):
        pooled = encoder(views).mean(dim=(2, 3, 4))
        return F.normalize(pooled, dim=1) if protocol.normalize_clips else pooled

    made = extract(run, videos, protocol, batch=7)
    assert made.values.std(axis=0).mean() > 0.01  # else everything would be near everything
    np.testing.assert_allclose(
        made.values, by_hand(run, videos, protocol, of_clips), atol=1e-5, rtol=1e-4
    )
    assert np.array_equal(made.label, videos.label) and np.array_equal(
        made.source_video, videos.source_video
    )


def test_probabilities_are_the_mean_of_each_crops_softmax(run, videos):
    protocol = Protocol(sampling="sliding", hop=HOP, crops="ten", pad="first")
    encoder = load_encoder(run)
    head = features.load_head(run, encoder.out_channels)

    def of_clips(views):
        return head(encoder(views).mean(dim=(2, 3, 4))).softmax(dim=1)

    few = videos.select(mask=np.arange(len(videos)) < 4)
    made, wanted = predict(run, few, protocol, batch=16), by_hand(run, few, protocol, of_clips)
    np.testing.assert_allclose(made.values, wanted, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(made.values.sum(axis=1), 1, atol=1e-5)
    center = predict(run, few, replace(protocol, crops="center"))
    assert np.abs(center.values - made.values).max() > 0.01  # so the crops are in it


def test_batch_order_and_a_worker_do_not_matter(run, videos):
    """Two workers: test_catalogue."""
    protocol = Protocol(sampling="sliding", hop=HOP, crops="three")
    whole = extract(run, videos, protocol, batch=32)
    turned = extract(
        run, videos.select(mask=np.arange(len(videos))[::-1]), protocol, batch=4, workers=1
    )
    np.testing.assert_allclose(turned.values[::-1], whole.values, atol=1e-5)
    assert turned.label[::-1].tolist() == whole.label.tolist()


def test_a_long_video_takes_no_more_memory_than_a_short_one(run, videos, monkeypatch):
    read, seen, plain = [], [], clips.Video.read

    def recorded(self, indices=None):
        read.append(len(indices))
        return plain(self, indices)

    monkeypatch.setattr(clips.Video, "read", recorded)
    encoder = load_encoder(run)
    encoder.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    monkeypatch.setattr(features, "load_encoder", lambda run: encoder)
    longest = videos.select(mask=np.array(LENGTHS) == max(LENGTHS))
    extract(run, longest, Protocol(sampling="sliding", hop=1, crops="three"), batch=8)
    windows = max(LENGTHS) - 6
    assert (
        windows > 2 * dataset.DECODED
        and sum(read) == windows * CLIP.frames
        and sum(seen) == 3 * windows
    )
    assert max(read) <= dataset.DECODED * CLIP.frames and max(seen) <= 8


def predictions_on_ranks(folder: str, manifest: str, out: str):
    """A stage for two ranks: rank 0 keeps the table."""
    made = predict(
        Run(folder),
        Manifest.load(manifest),
        Protocol(sampling="sliding", hop=HOP, crops="ten"),
        batch=16,
    )
    if ranks.rank() == 0:
        made.save(out)


@pytest.mark.slow
def test_two_ranks_fill_one_processes_table(run, videos, tmp_path):
    for name, nproc in (("one", 1), ("two", 2)):
        ranks.launch(
            "tests.evaluate.test_features:predictions_on_ranks",
            str(run.folder),
            str(videos.root),
            str(tmp_path / f"{name}.npz"),
            nproc=nproc,
            log_dir=tmp_path / "logs",
        )
    one, two = Features.load(tmp_path / "one.npz"), Features.load(tmp_path / "two.npz")
    np.testing.assert_allclose(one.values, two.values, atol=1e-5)
    assert one.protocol == two.protocol and one.values.std(axis=0).max() > 0.01


def test_the_protocol_names_every_switch_and_both_fingerprints(run, videos):
    protocol = Protocol(sampling="sliding", hop=HOP, pad="first")
    test = videos.select(split="test")
    made = features.described(run, test, protocol)
    assert made == {
        "sampling": "sliding",
        "windows": 4,
        "hop": HOP,
        "crops": "center",
        "normalize_clips": True,
        "scale": 256 / 224,
        "crop": 1.0,
        "pad": "first",
        "stream": "rgb",
        "frames": 4,
        "stride": 2,
        "size": 32,
        "rows": test.fingerprint(),
    }
    known = features.described(run, test, protocol, what="probabilities")
    assert "normalize_clips" not in known  # it moves no probability
    assert known["train_rows"] == videos.select(split="train").fingerprint() != known["rows"]
    assert known["head"] == "linear" and known["training"] == "adam, 0 epochs of batch 2"
    assert (known["backbone"], known["selection"]) == (
        "1.0 of the rate",
        "rate 0.001, decay 1e-05, fixed; last epoch",
    )
    usual, official = (
        features.described(run, test, PROTOCOLS[name]) for name in ("vidbench", "coclr_official")
    )
    assert not {"reach_end", "cut_first", "grid"} & set(usual)  # earlier numbers stay comparable
    assert (official["reach_end"], official["cut_first"]) == (False, True)
    assert len(
        {json.dumps(features.described(run, test, one)) for one in PROTOCOLS.values()}
    ) == len(PROTOCOLS)


def test_named_protocols_are_what_their_sources_say():
    official = PROTOCOLS["coclr_official"]
    assert (official.sampling, official.hop, official.crops) == (
        "sliding",
        15,
        "center",
    ) and official.normalize_clips
    assert replace(official, crops="ten") == PROTOCOLS["coclr_ten_crop"]
    assert (official.pad, official.reach_end, official.cut_first) == ("first", False, True)
    assert not PROTOCOLS["multitrain_k400"].reach_end and PROTOCOLS["multitrain"].reach_end
    iic = PROTOCOLS["iic"]
    assert (iic.sampling, iic.windows, iic.crops, iic.normalize_clips) == (
        "spread",
        10,
        "center",
        False,
    )
    for wrong in (
        {"sampling": "random"},
        {"crops": "two"},
        {"scale": 0.5},
        {"crop": 0.0},
        {"crop": -1.0},
        {"crop": 256 / 224 + 0.01},
        {"crop": 1.5, "scale": 1.4},
    ):
        with pytest.raises(ValueError, match="got"):
            Protocol(**wrong)


def test_tables_lie_side_by_side_and_are_read_back_only_where_they_fit(run, videos, monkeypatch):
    protocol, made = Protocol(windows=1), []
    plain = features._table
    monkeypatch.setattr(features, "_table", lambda *given: made.append(given[2]) or plain(*given))
    first = load_or_extract(run, "test", protocol)
    other, known = (
        load_or_extract(run, "test", replace(protocol, windows=2)),
        load_or_extract(run, "test", protocol, what="probabilities"),
    )
    again = load_or_extract(run, "test", protocol)
    assert (
        len(made) == 3
        and np.array_equal(first.values, again.values)
        and first.protocol == again.protocol
    )
    assert other.protocol["windows"] == 2 and known.values.shape == (4, 3)
    renamed = replace(
        videos, path=np.array([f"./{path}" for path in videos.path])
    )  # another data set, to the table
    elsewhere = load_or_extract(run, "test", protocol, manifest=renamed)
    assert len(made) == 4 and elsewhere.protocol["rows"] != first.protocol["rows"]
    np.testing.assert_allclose(elsewhere.values, first.values, atol=1e-6)
    relabeled = replace(videos, label=np.roll(videos.label, 1))
    assert np.array_equal(
        load_or_extract(run, "test", protocol, manifest=relabeled).label, relabeled.label[2:]
    )
    assert len(made) == 5 and len(list((run.folder / "features").glob("*.npz"))) == 5


def test_a_table_comes_back_from_its_file(tmp_path):
    made = Features(
        np.eye(3, dtype=np.float32), np.array([0, 1, -1]), np.arange(3), CLASSES, {"windows": 2}
    )
    made.save(tmp_path / "t.npz")
    read = Features.load(tmp_path / "t.npz")
    assert np.array_equal(read.values, made.values) and np.array_equal(read.label, made.label)
    assert read.classes == made.classes and read.protocol == {"windows": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["t.npz"]


def test_what_cannot_give_a_table_is_refused(run, videos, tmp_path, monkeypatch):
    with pytest.raises(RunError, match="split is empty"):
        extract(run, videos.select(split="validate"))
    other = replace(videos, classes=("bow", "clap", "walk"))
    with pytest.raises(
        RunError,
        match=r"tells 3 classes \(bow, clap, wave\); the manifest has 3 classes .*, walk\)",
    ):
        predict(run, other)
    with pytest.raises(flow_store.FlowError, match="no flow in"):
        monkeypatch.setitem(run.values, "stream", "flow")
        load_or_extract(run, "test", flow=tmp_path)
    monkeypatch.undo()
    monkeypatch.setitem(run.values, "network_args", {"width": 0.25, "units": (1, 0, 0)})
    with pytest.raises(RunError, match="holds another network"):
        extract(run, videos)
    monkeypatch.undo()
    alone = Run.create(tmp_path / "coclr", "coclr", coclr.Recipe(network_args=RECIPE.network_args))
    alone.save(1, run.weights(), {})
    with pytest.raises(RunError, match="without a classifier"):
        predict(alone, videos)
    broken = {
        name: value * torch.nan if value.is_floating_point() else value
        for name, value in run.weights().items()
    }
    monkeypatch.setattr(Run, "weights", lambda self: broken)
    with pytest.raises(RunError, match=r"2 rows are not finite, first row 0 \(0.mp4\)"):
        extract(run, videos.select(split="train"), Protocol(windows=1))


def test_thirty_views_of_256_pixels_reach_the_network(run, videos, monkeypatch):
    """10 windows of 3 crops as large as the frame's short side; one view is 224 of 256 pixels."""
    encoder, seen = load_encoder(run), []
    encoder.register_forward_pre_hook(lambda module, given: seen.append(tuple(given[0].shape)))
    monkeypatch.setattr(features, "load_encoder", lambda run: encoder)
    few = videos.select(mask=np.arange(len(videos)) < 3)  # one of them shorter than a window
    extract(run, few, PROTOCOLS["thirty_views"], batch=16)
    assert {shape[1:] for shape in seen} == {(3, 4, 37, 37)} and sum(
        shape[0] for shape in seen
    ) == 3 * 30
    seen.clear()
    extract(run, few, PROTOCOLS["one_view"], batch=16)
    assert seen == [(3, 3, 4, 32, 32)]
    monkeypatch.setitem(run.values["clip"]["augment"], "size", 224)
    cuts = {name: features.spec_of(run, PROTOCOLS[name]) for name in ("thirty_views", "one_view")}
    assert {name: (spec.resize, spec.augment.size) for name, spec in cuts.items()} == {
        "thirty_views": (256, 256),
        "one_view": (256, 224),
    }
    facts = features.described(run, few, PROTOCOLS["thirty_views"])
    assert (facts["size"], round(facts["size"] * facts["crop"])) == (224, 256)
