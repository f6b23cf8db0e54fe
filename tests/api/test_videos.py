"""vb.videos: what a person may give, the list that is kept, what is shown of it."""

import os
import subprocess
import sys

import pytest

import vidbench as vb
from vidbench.data.manifest import Manifest


@pytest.fixture(scope="module")
def flat(tmp_path_factory, toy_tiny):
    """A flat folder of six videos."""
    folder = tmp_path_factory.mktemp("flat")
    for row in range(0, 36, 6):
        os.link(toy_tiny.absolute(row), folder / f"clip{row:02d}.mp4")
    return folder


def test_importing_the_front_door_does_not_import_torch():
    code = "import sys, vidbench as vb; dir(vb); vb.__version__; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="no attribute 'vidoes'.*videos"):
        getattr(vb, "vidoes")  # noqa: B009
    assert {"videos", "train", "load", "Videos", "Trained", "Table"} <= set(dir(vb))


def test_a_list_of_files_is_kept_and_found_again(flat, tmp_path):
    files = sorted(flat.iterdir())
    one = vb.videos(files, out=tmp_path)
    assert len(one) == 6 and not one.labeled and one.classes == ()
    assert sorted(one.paths) == [str(file) for file in files]
    assert Manifest.load(one.folder / "videos").fingerprint() == one.manifest.fingerprint()
    assert vb.videos(files, out=tmp_path).folder == one.folder
    assert vb.videos(files[:3], out=tmp_path).folder != one.folder
    with pytest.raises(ValueError, match="keeps another list of 6 videos; got 3"):
        vb.videos(files[:3], out=tmp_path, name=one.folder.name)


def test_class_folders_have_labels_and_two_folders_of_one_name_are_kept_apart(toy_tiny, tmp_path):
    for place, some in (("a", (0, 1)), ("b", (2, 3))):
        for row in some:
            source = toy_tiny.absolute(row)
            folder = tmp_path / place / "clips" / "wave"
            folder.mkdir(parents=True, exist_ok=True)
            os.link(source, folder / source.name)
    one, other = (vb.videos(tmp_path / place / "clips", out=tmp_path / "runs") for place in "ab")
    assert one.labeled and one.classes == ("wave",)
    assert one.folder.name == "clips" and other.folder.name.startswith("clips-")
    assert set(one.paths).isdisjoint(other.paths)
    assert vb.videos(tmp_path / "b" / "clips", out=tmp_path / "runs").folder == other.folder


def test_a_repr_says_counts_splits_and_labels_and_a_notebook_shows_clips(flat, tmp_path):
    found = vb.videos(sorted(flat.iterdir()), out=tmp_path)
    assert repr(found).startswith("Videos(6 videos (train ") and "no labels" in repr(found)
    page = found._repr_html_()
    assert page.count("data:image/webp") == 4 and "no labels" in page


def test_videos_that_came_later_are_named(flat, tmp_path, capsys):
    folder = tmp_path / "clips"
    folder.mkdir()
    files = sorted(flat.iterdir())
    for file in files[:4]:
        os.link(file, folder / file.name)
    assert len(vb.videos(folder, out=tmp_path / "runs")) == 4
    os.link(files[5], folder / files[5].name)
    assert len(vb.videos(folder, out=tmp_path / "runs")) == 4
    assert f"1 videos in {folder} are not in the list" in capsys.readouterr().out
    assert len(vb.videos(folder, out=tmp_path / "runs", name="more")) == 5
    assert capsys.readouterr().out == ""


def test_wrong_sources_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        vb.videos(tmp_path / "nowhere", out=tmp_path)
    for nothing in ("", []):
        with pytest.raises(ValueError, match="source must be a folder, a csv or files"):
            vb.videos(nothing, out=tmp_path)
    with pytest.raises(FileNotFoundError, match="gone.mp4"):
        vb.videos([tmp_path / "gone.mp4"], out=tmp_path)
    with pytest.raises(ValueError, match="toy world 'tiny' has its own name"):
        vb.videos("tiny", name="mine", out=tmp_path)
