"""Exported backbones: what the folder contains, and who loads it with the same outputs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from tests import copied
from vidbench import models
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run, RunError, recipe_dict
from vidbench.evaluate import export as module
from vidbench.evaluate.export import (
    Config,
    export,
    exported_config,
    load_exported,
    load_into_torchvision,
)
from vidbench.methods import classify
from vidbench.methods.common import load_encoder
from vidbench.tensors.regularizers import Regularizer


@pytest.fixture(scope="module")
def runs(infonce, tmp_path_factory) -> dict[str, Run]:
    folder = copied(infonce[0], tmp_path_factory.mktemp("export") / "runs")
    found = {stream: Run(folder / stream) for stream in ("rgb", "flow")}
    found["rgb"].add_result(
        "retrieval", {"windows": 4, "rows": "72-ab"}, {"R@1": (0.5, 0.25, 0.75), "R@5": 0.9}
    )
    return found


def clips_of(config: Config, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, config.frames, config.size, config.size)


@pytest.mark.parametrize("stream", ["rgb", "flow"])
@torch.no_grad()
def test_the_backbone_is_loaded_with_the_same_outputs(runs, toy_tiny, tmp_path, stream):
    run = runs[stream]
    folder = export(run, tmp_path / "out")
    assert sorted(file.name for file in folder.iterdir() if file.name[0] != ".") == [
        "README.md",
        "backbone.safetensors",
        "config.json",
    ]
    assert len({file.stat().st_mode for file in folder.glob("*.*")}) == 1  # all as readable
    weights = load_file(folder / "backbone.safetensors")
    kept = {name for name in run.weights() if name.startswith("encoder.")}
    assert set(weights) == {name.removeprefix("encoder.") for name in kept}
    config = exported_config(folder)
    clip = run.recipe.clip
    assert (config.frames, config.stride, config.size) == (8, clip.stride, clip.augment.size)
    assert config.stream == stream and config.classes == toy_tiny.classes
    assert (config.flow or {}).get("method") == {"rgb": None, "flow": "dis"}[stream]
    assert (config.mean[2] == 0.406) == (stream == "rgb") and config.license is None
    clips = clips_of(config)
    assert torch.equal(load_exported(folder)(clips), load_encoder(run)(clips))


def test_the_card_has_data_numbers_and_provenance(runs, toy_tiny, tmp_path):
    train = toy_tiny.select(split="train")
    said = (export(runs["rgb"], tmp_path / "out") / "README.md").read_text()
    for part in (
        "| R@1 | 50.0 [25.0, 75.0] |",
        "| R@5 | 90.0 |",
        "Protocol: rows 72-ab, windows 4.",
        f"`{json.loads((runs['rgb'].folder / 'rows.json').read_text())['train']}`",
        f"| videos of split train | {len(train)} |",
        runs["rgb"].checkpoint_stamp(),
        "| torch | 2.",
        "| license | none given |",
        '"network": "s3d"',
        "| `backbone.safetensors` | 0 |",
    ):
        assert part in said, part
    assert str(toy_tiny.root.parent) not in said  # a card may be published
    assert "None yet" in (export(runs["flow"], tmp_path / "flow") / "README.md").read_text()


@torch.no_grad()
def test_a_regularizer_that_scales_in_evaluation_is_exported(classifier, tmp_path):
    recipe = replace(
        classifier[1],
        network="csn",
        network_args={"width": 0.125, "blocks": (1, 1, 1, 1), "stem_stride": 4},
        regularizer=Regularizer("shake_drop", last=0.5),
        fit=Fit(epochs=0, batch=12),
    )
    run = Run(classify.train(recipe_dict(recipe), str(tmp_path / "run"), "none"))
    folder = export(run, tmp_path / "out")
    clips = clips_of(exported_config(folder))
    wanted = load_encoder(run)(clips)
    assert torch.equal(load_exported(folder)(clips), wanted)
    bare = models.build("csn", **recipe.network_args)
    bare.load_state_dict(load_file(folder / "backbone.safetensors"))
    assert not torch.allclose(bare.eval()(clips), wanted)
    assert exported_config(folder).classes == run.recipe.classes


def test_only_an_own_folder_is_written_to(runs, tmp_path):
    out = tmp_path / "out"
    export(runs["rgb"], out)
    (out / "config.json").write_text("{}")  # changed, and still the export's own
    export(runs["flow"], out)
    assert exported_config(out).stream == "flow"
    (out / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="vidbench did not write: mine.txt"):
        export(runs["rgb"], out)
    assert exported_config(out).stream == "flow"
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(FileExistsError, match="it is a file"):
        export(runs["rgb"], file)


def test_a_damaged_folder_is_refused(runs, tmp_path):
    with pytest.raises(RunError, match="it has no config.json"):
        load_exported(tmp_path)
    out = export(runs["rgb"], tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    for change, says in (
        ({"format": 9}, "must have format 1; got 9"),
        ({"depth": 3}, "no field 'depth'"),
        ({"network_args": {"width": 0.5}}, "does not fit config.json"),
    ):
        (out / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(RunError, match=says):
            load_exported(out)
    (out / "config.json").write_text(json.dumps(config))
    (out / "backbone.safetensors").write_bytes(b"torn")
    with pytest.raises(RunError, match="does not fit config.json"):
        load_exported(out)


def test_a_program_with_other_features_is_not_kept(runs, tmp_path, monkeypatch):
    def wrong(network, file):
        file.write_bytes(b"a program")
        return lambda clips: network(clips) * 1.01

    monkeypatch.setattr(module, "_program", lambda network, clips: network)
    monkeypatch.setattr(module, "_pt2", wrong)
    with pytest.raises(RunError, match="backbone.pt2 of .* gives other features"):
        export(runs["rgb"], tmp_path / "out", torch_export=True)
    assert not (tmp_path / "out" / "backbone.pt2").exists()
    with pytest.raises(RunError, match="it has no config.json"):
        load_exported(tmp_path / "out")


@pytest.mark.slow
def test_programs_take_any_number_of_clips(runs, tmp_path):
    import onnxruntime

    folder = export(runs["rgb"], tmp_path / "out", onnx=True, torch_export=True)
    clips = clips_of(exported_config(folder), 5)
    with torch.no_grad():
        wanted = load_exported(folder)(clips).mean(dim=(2, 3, 4)).numpy()
    with open(folder / "backbone.pt2", "rb") as file:
        program = torch.export.load(file).module()
    session = onnxruntime.InferenceSession(folder / "backbone.onnx")
    found = session.run(None, {"clips": clips.numpy()})[0]
    np.testing.assert_allclose(program(clips).detach().numpy(), wanted, atol=1e-5)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    said = (folder / "README.md").read_text()
    assert "| `backbone.onnx` | " in said and "| `backbone.pt2` | " in said


# ---- torchvision -------------------------------------------------------------------------------


def exported(folder: Path, network: str, **arguments) -> tuple[Path, models.Backbone]:
    """A network with random weights and statistics as an exported folder."""
    torch.manual_seed(0)
    net = models.build(network, **arguments).eval()
    for name, value in net.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(std=0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
    config = Config(network, net.out_channels, 16, 64, 73, (0.0,) * 3, (1.0,) * 3)
    values = {**vars(config), "network_args": arguments}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    save_file(net.state_dict(), folder / "backbone.safetensors")
    return folder, net


@torch.no_grad()
def test_a_full_s3d_loads_into_torchvision(tmp_path):
    folder, ours = exported(tmp_path / "s3d", "s3d")
    theirs = load_into_torchvision(folder, torchvision.models.video.s3d())
    clips = torch.randn(1, 3, 16, 64, 64)
    wanted = ours(clips)
    assert wanted.std() > 1e-3
    torch.testing.assert_close(theirs.features(clips), wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.slow
def test_a_full_mvit_loads_into_torchvision(tmp_path):
    folder, ours = exported(tmp_path / "mvit", "mvit", preset="official_s")
    theirs = load_into_torchvision(folder, torchvision.models.video.mvit_v2_s())
    theirs.head = torch.nn.Identity()
    theirs.pos_encoding.temporal_size, theirs.pos_encoding.spatial_size = 2, (16, 16)
    clips = torch.randn(1, 3, 4, 64, 64)
    wanted = ours(clips).mean(dim=(2, 3, 4))
    assert wanted.std() > 1e-2
    torch.testing.assert_close(theirs(clips), wanted, atol=1e-4, rtol=1e-4)


def test_what_torchvision_does_not_have_is_refused(tmp_path):
    narrow, _ = exported(tmp_path / "narrow", "s3d", width=0.125)
    with pytest.raises(ValueError, match="does not fit S3D: .* differences, first features.0"):
        load_into_torchvision(narrow, torchvision.models.video.s3d())
    csn, _ = exported(tmp_path / "csn", "csn", width=0.125, blocks=(1, 1, 1, 1))
    with pytest.raises(ValueError, match="contains 'csn'. Use load_exported"):
        load_into_torchvision(csn, torchvision.models.video.s3d())
