"""Published weights: each key finds its one place, outputs are the publisher's, what does not fit
is refused."""

import hashlib

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from vidbench import models
from vidbench.models.published import HEAD, SOURCES, load_published

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
ONES = (1, 1, 1, 1)
NARROW = {  # for each source a small net whose keys are among the published one's
    "pytorchvideo_slow_r50": {"width": 0.125, "blocks": ONES},
    "pytorchvideo_slowfast_r50": {"width": 0.125, "blocks": ONES},
    "pytorchvideo_csn_r101": {"width": 0.125, "blocks": ONES},
    "torchvision_resnet50": {"width": 0.125, "blocks": ONES},
    "torchvision_s3d": {"width": 0.125},
    "torchvision_mvit_v2_s": {"width": 8, "frames": 4, "size": 32},
    "timm_mvitv2_small": {"width": 8, "frames": 4, "size": 32},
    "timm_mvitv2_base": {"width": 8, "frames": 4, "size": 32},
    "timm_mvitv2_base_cls": {"width": 8, "frames": 4, "size": 32},
}


# the authors' own checkpoints are in test_released
LIBRARIES = [name for name, source in SOURCES.items() if source.classifier]


def network(source, **arguments):
    fits = SOURCES[source]
    return models.build(fits.network, **{**fits.arguments, **arguments})


def stage_keys(prefix, count, norms="norm"):
    """pytorchvideo's names of one stage's tensors."""
    for block in range(count):
        for part in (
            *(["branch1_conv", "branch1_norm"] if block == 0 else []),
            *(f"branch2.{kind}_{letter}" for letter in "abc" for kind in ("conv", "norm")),
        ):
            for name in NORM if "norm" in part else ("weight",):
                yield f"{prefix}res_blocks.{block}.{part}.{name}"


def pytorchvideo_keys(counts, pathways=1, head=5):
    """The names in pytorchvideo's files: a rule for what its hub models' state dicts hold."""
    for block, count in enumerate((0, *counts)):
        for pathway in range(pathways):
            prefix = f"blocks.{block}." + (
                f"multipathway_blocks.{pathway}." if pathways > 1 else ""
            )
            if block == 0:
                yield from (f"{prefix}conv.weight", *(f"{prefix}norm.{name}" for name in NORM))
            yield from stage_keys(prefix, count)
        if pathways > 1 and block < 4:
            fusion = f"blocks.{block}.multipathway_fusion."
            yield from (
                f"{fusion}conv_fast_to_slow.weight",
                *(f"{fusion}norm.{name}" for name in NORM),
            )
    yield from (f"blocks.{head}.proj.weight", f"blocks.{head}.proj.bias")


def timm_keys(depths, token=False):
    """The names in timm's files of MViTv2."""
    yield from ["cls_token"] * token
    parts = ["patch_embed.proj", "norm", "head.fc"]
    for stage, depth in enumerate(depths):
        for block in range(depth):
            at = f"stages.{stage}.blocks.{block}."
            parts += [
                at + part
                for part in (
                    "norm1",
                    "attn.qkv",
                    "attn.proj",
                    "attn.norm_q",
                    "attn.norm_k",
                    "attn.norm_v",
                    "norm2",
                    "mlp.fc1",
                    "mlp.fc2",
                )
            ]
            parts += [f"{at}shortcut_proj_attn"] * (stage > 0 and block == 0)
            yield from (
                f"{at}attn.{part}"
                for part in (
                    "pool_q.weight",
                    "pool_k.weight",
                    "pool_v.weight",
                    "rel_pos_h",
                    "rel_pos_w",
                )
            )
    yield from (f"{part}.{name}" for part in parts for name in ("weight", "bias"))


def published_keys(source):
    """Every key of the published file."""
    with torch.device("meta"):
        if source == "torchvision_resnet50":
            return list(torchvision.models.resnet50().state_dict())
        if source == "torchvision_s3d":
            return list(torchvision.models.video.s3d().state_dict())
        if source == "torchvision_mvit_v2_s":
            return list(torchvision.models.video.mvit_v2_s().state_dict())
    return list(
        {
            "pytorchvideo_slow_r50": pytorchvideo_keys((3, 4, 6, 3)),
            "pytorchvideo_slowfast_r50": pytorchvideo_keys((3, 4, 6, 3), 2, 6),
            "pytorchvideo_csn_r101": pytorchvideo_keys((3, 4, 23, 3)),
            "timm_mvitv2_small": timm_keys((1, 2, 11, 2)),
            "timm_mvitv2_base": timm_keys((2, 3, 16, 3)),
            "timm_mvitv2_base_cls": timm_keys((2, 3, 16, 3), True),
        }[source]
    )


# sha256 of the sorted lines "key [shape]" of state_dict() of pytorchvideo 0.1.5's hub.slow_r50,
# slowfast_r50 and csn_r101. With random weights and statistics these three gave the same class
# scores as the nets here to 2e-7. Likewise of timm 1.0.31's mvitv2_small, mvitv2_base and
# mvitv2_base_cls; their features are in test_mvit.
TRUE = {
    "pytorchvideo_slow_r50": "ad055811e9bd8016",
    "pytorchvideo_slowfast_r50": "555841f32f8ad777",
    "pytorchvideo_csn_r101": "7297dc9ace9615bd",
    "timm_mvitv2_small": "129fa3eb1acb6bfb",
    "timm_mvitv2_base": "ab8a3b5df904a3cd",
    "timm_mvitv2_base_cls": "cbd221157b37a384",
}
CLASSES = {
    "timm_mvitv2_small": 1000,
    "timm_mvitv2_base": 1000,
    "timm_mvitv2_base_cls": 19168,
}  # others of TRUE: 400


def starts_empty(source, name):
    """Whether an image net has nothing for this tensor of a video net."""
    return SOURCES[source].inflate and name.endswith(".relative.t")


def flat(value):
    """A tensor as an image net has it: of a kernel in time the middle slice of three."""
    return value[:, :, 1] if value.dim() == 5 else value


@pytest.mark.parametrize("source", LIBRARIES)
def test_every_published_key_has_one_place_and_every_place_a_key(source):
    with torch.device("meta"):
        ours = network(source)
    keys = published_keys(source)
    places = [SOURCES[source].ours(key) for key in keys]
    wanted = {
        name: list((flat(value) if SOURCES[source].inflate else value).shape)
        for name, value in ours.state_dict().items()
        if not starts_empty(source, name)
    }
    assert len(places) == len(set(places)) and sorted(places) == sorted(
        [*wanted, f"{HEAD}weight", f"{HEAD}bias"]
    )
    if source in TRUE:
        classes = CLASSES.get(source, 400)
        wanted |= {f"{HEAD}weight": [classes, ours.out_channels], f"{HEAD}bias": [classes]}
        wanted |= {"class_token": [1, 1, ours.form.width]} if "class_token" in wanted else {}
        lines = sorted(f"{key} {wanted[place]}" for key, place in zip(keys, places, strict=True))
        assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == TRUE[source]
    for key in (
        "",
        "blocks",
        "blocks.0.conv",
        "blocks.4.proj.weight",
        "layer5.0.conv1.weight",
        "fc",
        "conv2.weight",
    ):
        assert SOURCES[source].ours(key) is None


def published_file(source, folder, suffix=".pyth"):
    """A file with the publisher's keys and random values for the narrow net; its path and the
    values by our keys."""
    net = network(source, **NARROW[source])
    state = {
        k: torch.randn(v.shape) if v.is_floating_point() else torch.tensor(7)
        for k, v in net.state_dict().items()
    }
    if SOURCES[
        source
    ].inflate:  # what stands around the middle slices after loading, and in tables of time
        state = {
            k: v * torch.tensor([0, 1, 0])[:, None, None] if v.dim() == 5 else v
            for k, v in state.items()
        }
        state = {k: torch.zeros_like(v) if starts_empty(source, k) else v for k, v in state.items()}
    values = {
        **state,
        f"{HEAD}weight": torch.randn(11, net.out_channels),
        f"{HEAD}bias": torch.randn(11),
    }
    file = {
        key: values[place]
        for key in published_keys(source)
        if (place := SOURCES[source].ours(key)) in values
    }
    assert len(file) == len(values) - sum(starts_empty(source, name) for name in values)
    if SOURCES[source].inflate:
        file = {
            key: value[None, None] if key == "cls_token" else flat(value)
            for key, value in file.items()
        }
    if source == "torchvision_resnet50":
        file = {key: value.squeeze(2) if value.dim() == 5 else value for key, value in file.items()}
    if source == "torchvision_s3d":
        file["classifier.1.weight"] = file["classifier.1.weight"][:, :, None, None, None]
    path = folder / f"{source}{suffix}"
    if suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in file.items()}, path)
    else:
        torch.save(
            {"epoch": 3, "model_state": file} if source.startswith("pytorchvideo") else file, path
        )
    return path, values


@pytest.mark.parametrize("suffix", [".pyth", ".safetensors"])
@pytest.mark.parametrize("source", LIBRARIES)
def test_a_files_tensors_arrive(source, suffix, tmp_path):
    path, values = published_file(source, tmp_path, suffix)
    net = network(source, **NARROW[source])
    read = load_published(net, path, source)
    for name, value in net.state_dict().items():
        assert torch.equal(value, values[name]), name
    assert torch.equal(read.weight, values[f"{HEAD}weight"]) and torch.equal(
        read.bias, values[f"{HEAD}bias"]
    )
    assert read.classes == 11 and read.source == source
    assert (
        f"{path.name} as {source}" in read.report
        and "11 classes is returned, not loaded" in read.report
    )
    weights = sum(p.numel() for p in net.parameters())
    assert f"{len(values) - 2} tensors with {weights:,} weights" in read.report


def shaken(net):
    """Batch norms as after some training, so that a swapped pair would show."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.3, 0.7), nn.init.normal_(module.bias, std=0.1)
            (
                nn.init.normal_(module.running_mean, std=0.1),
                nn.init.uniform_(module.running_var, 0.5, 1.5),
            )
    return net.eval()


@torch.no_grad()
def test_torchvisions_resnet50_gives_the_same_scores(tmp_path):
    theirs = shaken(torchvision.models.resnet50())
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    ours = models.build("resnet50").eval()
    read = load_published(ours, tmp_path / "resnet50.pth", "torchvision_resnet50")
    images = torch.randn(2, 3, 64, 64)
    scores = ours(images.unsqueeze(2)).mean((2, 3, 4)) @ read.weight.T + read.bias
    wanted = theirs(images)
    assert read.classes == 1000 and wanted.std() > 0.01
    torch.testing.assert_close(scores, wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_torchvisions_s3d_gives_the_same_scores(tmp_path):
    theirs = shaken(torchvision.models.video.s3d())
    torch.save(theirs.state_dict(), tmp_path / "s3d.pth")
    with pytest.raises(ValueError, match=r"norm_eps=0.001.*eps 0.001, the network's \[1e-05\]"):
        load_published(models.build("s3d"), tmp_path / "s3d.pth", "torchvision_s3d")
    ours = models.build("s3d", norm_eps=1e-3).eval()
    read = load_published(ours, tmp_path / "s3d.pth", "torchvision_s3d")
    clips = torch.randn(2, 3, 16, 64, 64)
    features = theirs.features(clips)
    assert features.std() > 1e-3
    torch.testing.assert_close(ours(clips), features, atol=1e-5, rtol=1e-4)
    scores = ours(clips).mean((2, 3, 4)) @ read.weight.T + read.bias
    torch.testing.assert_close(
        scores, theirs.classifier(features).mean((2, 3, 4)), atol=1e-5, rtol=1e-4
    )


# ---- what does not fit -------------------------------------------------------------------------


def test_a_regularizers_own_state_stays(tmp_path):
    source = "pytorchvideo_slow_r50"
    path, values = published_file(source, tmp_path)
    net = network(source, regularizer=lambda site: nn.BatchNorm3d(site.channels), **NARROW[source])
    before = net.stages[3][0].regularizer.weight.clone()
    load_published(net, path, source)
    assert torch.equal(net.stages[3][0].regularizer.weight, before)
    assert torch.equal(net.stem.conv1.weight, values["stem.conv1.weight"])


def test_old_files_without_batch_counters_are_read(tmp_path):
    source = "torchvision_resnet50"
    path, _ = published_file(source, tmp_path)
    file = {k: v for k, v in torch.load(path).items() if not k.endswith("num_batches_tracked")}
    torch.save(file, path)
    net = network(source, **NARROW[source])
    assert "no batch counters: 17 stay" in load_published(net, path, source).report
    assert net.stem.norm1.num_batches_tracked == 0


@pytest.mark.parametrize(
    "change, arguments, says",
    [
        (lambda f: f.pop("conv1.weight"), {}, r"the file lacks \(1\): stem.conv1.weight"),
        (
            lambda f: f.pop("fc.bias"),
            {},
            r"a classifier \[\[11, 256\], None\] for \[\[classes, 256\], \[classes\]\]",
        ),
        (
            lambda f: f.update({"fc.weight": torch.ones(11, 99)}),
            {},
            r"a classifier \[\[11, 99\], \[11\]\]",
        ),
        (
            lambda f: f.update({"layer9.0.conv1.weight": torch.ones(1)}),
            {},
            r"does not \(1\): layer9.0.conv1.weight",
        ),
        (lambda f: f.update({"bn1.scale": torch.ones(1)}), {}, r"does not \(1\): stem.norm1.scale"),
        (
            lambda f: f.update({"bn1.bias": torch.ones(3)}),
            {},
            r"Of another shape \(1\): stem.norm1.bias \[3\] for \[8\]",
        ),
        (
            lambda f: None,
            {"width": 0.25},
            r"another shape \(\d\d\): stem.conv1.weight .8, 3, 1, 7, 7. for .16, .*\.\.\.",
        ),
        (
            lambda f: None,
            {"blocks": (1, 1, 1, 2)},
            r"models.build.'resnet50'.*file lacks \(15\): stages.3.1.branch",
        ),
    ],
)
def test_what_does_not_fit_is_listed_and_nothing_is_loaded(change, arguments, says, tmp_path):
    source = "torchvision_resnet50"
    path, _ = published_file(source, tmp_path)
    file = torch.load(path)
    change(file)
    torch.save(file, path)
    net = network(source, **{**NARROW[source], **arguments})
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(ValueError, match=says) as error:
        load_published(net, path, source)
    assert "nothing was loaded" in str(error.value) and "models.build('resnet50')" in str(
        error.value
    )
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    "source, arguments, says",
    [
        (
            "pytorchvideo_csn_r101",
            {"norm_eps": 1e-3},
            r"depth=101, norm_eps=1e-05\).*eps 1e-05, the network's \[0.001\]",
        ),
        (
            "pytorchvideo_csn_r101",
            {"kind": "ip"},
            r"Of another shape.*file lacks|file lacks.*Of another shape",
        ),
        ("pytorchvideo_slowfast_r50", {"alpha": 8}, "Its alpha is 4, the network's 8"),
        (
            "pytorchvideo_slowfast_r50",
            {"preset": "paper"},
            r"does not \(20\): laterals.0.norm1.weight",
        ),
        (
            "pytorchvideo_slowfast_r50",
            {"lateral_kernel": 5},
            r"another shape \(4\): laterals.0.conv1.weight",
        ),
        ("pytorchvideo_slow_r50", {"stem_stride": 2}, r"another shape \(1\): stem.conv1.weight"),
    ],
)
def test_settings_that_differ_are_refused(source, arguments, says, tmp_path):
    path, _ = published_file(source, tmp_path)
    with pytest.raises(ValueError, match=says):
        load_published(network(source, **{**NARROW[source], **arguments}), path, source)


FORM = r"models.build\('mvit', preset='seed_s', relative=True, normed_skip=True, pool_eps=1e-06, kv_stride=4\)"


@pytest.mark.parametrize(
    "source, change, says",
    [
        (
            "timm_mvitv2_small",
            {"relative": False},
            FORM + r".*lacks \(2\): space, time.*does not \(32\): blocks.0.att",
        ),
        ("timm_mvitv2_small", {"kv_stride": 8}, "kv_stride is 4, the network's 8"),
        ("timm_mvitv2_small", {"normed_skip": False}, "normed_skip is True, the network's False"),
        ("timm_mvitv2_small", {"pool_eps": 1e-5}, r"eps 1e-06, the network's \[1e-06, 1e-05\]"),
        ("timm_mvitv2_small", {"class_token": True}, r"the file lacks \(1\): class_token"),
        (
            "timm_mvitv2_small",
            {"width": 16},
            r"another shape \(\d+\): patches.weight .8, 3, 3, 7, 7. for .16, 3, 3, 7, 7.",
        ),
        ("timm_mvitv2_small", {"preset": "seed_b"}, r"the file lacks \(\d+\)"),
        (
            "timm_mvitv2_base_cls",
            {"token_query": False},
            "token_query=True.*token_query is True, the network's False",
        ),
        (
            "timm_mvitv2_base_cls",
            {"class_token": False, "token_query": False},
            r"network does not \(1\): class_token",
        ),
    ],
)
def test_image_nets_of_another_form_are_refused(source, change, says, tmp_path):
    path, _ = published_file(source, tmp_path)
    net = network(source, **{**NARROW[source], **change})
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(ValueError, match=says):
        load_published(net, path, source)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_the_papers_own_form_is_told_which_switches_fit(tmp_path):
    path, _ = published_file("timm_mvitv2_small", tmp_path)
    with pytest.raises(ValueError, match=f"nothing was loaded. The network for it is {FORM}"):
        load_published(
            models.build("mvit", preset="seed_s", **NARROW["timm_mvitv2_small"]),
            path,
            "timm_mvitv2_small",
        )
    with pytest.raises(ValueError, match=FORM):
        load_published(
            network("torchvision_resnet50", **NARROW["torchvision_resnet50"]),
            path,
            "timm_mvitv2_small",
        )


def test_image_nets_are_inflated_as_asked(tmp_path):
    source = "timm_mvitv2_small"
    path, values = published_file(source, tmp_path)
    states = {}
    middle = "stand in the middle slice, zeros around"
    for inflation, says in (
        ("", middle),
        ("center", middle),
        ("mean", "are spread evenly over their slices"),
    ):
        net = network(source, **NARROW[source])
        report = load_published(net, path, source, inflation).report
        assert report.endswith(
            f" Inflated from one frame to 4: 49 kernels {says}, 16 tables of time start at zero."
        )
        states[inflation] = net.state_dict()
    for name, value in values.items():
        if not name.startswith(HEAD):
            assert torch.equal(states[""][name], states["center"][name]), name
            mean = flat(value)[:, :, None].expand_as(value) / 3 if value.dim() == 5 else value
            torch.testing.assert_close(states["mean"][name], mean, msg=name)
    wide = network(source, **{**NARROW[source], "size": 48, "frames": 8})
    report = load_published(wide, path, source).report
    assert report.endswith(
        "16 tables of time start at zero. Position embeddings were interpolated for 8 frames of 48 "
        "pixels: 32 tables of relative positions."
    )
    with pytest.raises(ValueError, match=r"one of \('center', 'mean'\); got 'repeat'"):
        load_published(wide, path, source, "repeat")
    path, _ = published_file("torchvision_mvit_v2_s", tmp_path)
    with pytest.raises(
        ValueError,
        match=r"inflation='mean'.*vision_mvit_v2_s is not inflated; of the sources, \['timm_",
    ):
        load_published(network("torchvision_mvit_v2_s"), path, "torchvision_mvit_v2_s", "mean")


def test_files_of_another_kind_are_refused(tmp_path):
    net = network("torchvision_resnet50", **NARROW["torchvision_resnet50"])
    with pytest.raises(ValueError, match="a source of .*pytorchvideo_csn_r101.*torchvision_s3d"):
        load_published(net, tmp_path / "x.pth", "timm")
    with pytest.raises(ValueError, match="there is none at"):
        load_published(net, tmp_path / "x.pth", "torchvision_resnet50")
    for name, content in (
        ("list.pth", [torch.ones(1)]),
        ("nested.pth", {"state": {"x": torch.ones(1)}}),
    ):
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match="wanted a dict of tensors"):
            load_published(net, tmp_path / name, "torchvision_resnet50")
    torch.save({"x": nn.Linear(1, 1)}, tmp_path / "module.pth")  # would run code on loading
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04torn")
    (tmp_path / "torn.safetensors").write_bytes(b"\x01")
    for name in ("module.pth", "torn.pth", "torn.safetensors"):
        with pytest.raises(ValueError, match="cannot be read as a file of plain tensors"):
            load_published(net, tmp_path / name, "torchvision_resnet50")
