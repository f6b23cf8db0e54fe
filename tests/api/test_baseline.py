"""`vb.baseline`: a frozen encoder measured under the protocol of a run."""

import numpy as np
import pytest
import torch
from torchvision.models.video import mc3_18, s3d

import vidbench as vb
from vidbench.data.manifest import Manifest
from vidbench.evaluate.features import described
from vidbench.evaluate.protocols import PROTOCOLS
from vidbench.experiments.ready import ready_runs


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "mc3.pth"
    torch.save(mc3_18().state_dict(), file)
    return file


def test_a_baseline_is_a_run_with_the_protocol_of_another(front_door, weights, tmp_path):
    videos, run = front_door
    made = vb.baseline(
        "torchvision:mc3_18", videos=videos, weights=weights, out=tmp_path / "mc3", like=run
    )
    assert made.run.state == "complete" and made.run.budget()["iterations"] == 0
    rows = Manifest.load(videos.folder / "videos").select(split="test")
    protocols = [described(one.run, rows, PROTOCOLS["vidbench"]) for one in (run, made)]
    assert protocols[0] == protocols[1]
    two = made.embed(videos.paths[:2])
    assert two.vectors.shape == (2, 512) and np.isfinite(two.vectors).all()
    again = vb.load(tmp_path / "mc3").embed(videos.paths[:2])
    np.testing.assert_array_equal(two.vectors, again.vectors)


def test_a_clip_is_that_of_the_weights_or_one_that_the_encoder_takes(front_door, weights, tmp_path):
    videos, run = front_door
    clip = vb.baseline(
        "torchvision:mc3_18", videos=videos, weights=weights, out=tmp_path / "mc3"
    ).run.recipe.clip
    assert (clip.frames, clip.target_fps, clip.augment.size) == (16, 15.0, 112)
    file = tmp_path / "s3d.pth"
    torch.save(s3d().state_dict(), file)
    with pytest.raises(ValueError, match="torchvision:s3d takes no clips of 8 frames of 48 pixels"):
        vb.baseline("torchvision:s3d", videos=videos, weights=file, like=run)
    assert not list(videos.folder.glob("baseline-*"))


def test_notebooks_name_a_frozen_encoder_as_a_run(front_door, weights, tmp_path, capsys):
    videos, run = front_door
    Manifest.load(videos.folder / "videos").save(tmp_path / "videos")
    name, trained = f"torchvision:mc3_18={weights}", str(run.run.folder)
    found = ready_runs(tmp_path, name, trained)
    assert list(found) == [name, trained]
    assert found[name].folder.name == "baseline-torchvision-mc3_18-mc3-8x2x48"
    assert found[name].recipe.clip == run.run.recipe.clip
    said = capsys.readouterr().out
    assert "made for torchvision:mc3_18: 16 frames at 15 fps of 112 pixels" in said
    alone = ready_runs(tmp_path, name)[name]
    assert (alone.recipe.clip.frames, alone.recipe.clip.augment.size) == (16, 112)
    said = capsys.readouterr().out
    assert "clips of 16 frames at 15 fps, 112 pixels. The first video has" in said
    assert "smaller ones are enlarged" in said
