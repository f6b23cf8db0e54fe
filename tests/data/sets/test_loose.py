"""Videos without labels: loose folders, lists of files, csvs of paths; their splits and sources."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from vidbench.data.manifest import Manifest
from vidbench.data.sets.catalogue import (
    detect_dataset,
    keep,
    open_dataset,
    open_files,
    prepare_dataset,
)

FLAT = [f"clip {number:02}.mp4" for number in range(24)]


def put(root: Path, *paths: str) -> Path:
    """Files whose content is their path, so that no two are equal."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    return root


def splits(manifest: Manifest) -> dict[str, str]:
    return {row["path"]: row["split"] for row in map(manifest.names, range(len(manifest)))}


def test_a_flat_folder_is_loose_with_a_quarter_held_out(tmp_path):
    root = put(tmp_path / "clips", *FLAT)
    assert detect_dataset(root) == "loose"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manifest = open_dataset("loose", root)
    assert manifest.classes == () and not manifest.labeled and (manifest.label == -1).all()
    assert manifest.words == "24 videos without labels"
    assert np.bincount(manifest.split).tolist() == [18, 0, 6]
    assert splits(open_dataset("loose", root)) == splits(manifest)
    assert splits(open_dataset("loose", root, seed=1)) != splits(manifest)
    assert len(open_dataset("loose", root, held_out=0.5, into="validate").select("validate")) == 12


def test_the_kept_manifest_survives_disk_and_parts_of_train_can_be_held_out(tmp_path):
    put(tmp_path / "clips", *FLAT)
    folder, manifest = prepare_dataset(tmp_path / "runs", str(tmp_path / "clips"))
    again = Manifest.load(folder / "videos")
    assert again.classes == () and splits(again) == splits(manifest)
    train, held = again.select("train").hold_out(0.2)
    assert (len(train), len(held)) == (14, 4)
    with pytest.raises(ValueError, match="nothing to hold out of 1 videos: the videos without"):
        again.select(mask=[0]).hold_out(0.2)


def test_csvs_of_paths_and_of_splits(tmp_path):
    put(tmp_path, *FLAT)
    (tmp_path / "paths.csv").write_text("path\n" + "".join(f"{name}\n" for name in FLAT))
    of_paths = open_dataset(detect_dataset(tmp_path / "paths.csv"), tmp_path / "paths.csv")
    assert splits(of_paths) == splits(open_dataset("loose", tmp_path)), "like the folder itself"
    rows = "".join(f"{name},{'test' if 'p 0' in name else 'train'}\n" for name in FLAT)
    (tmp_path / "mine.csv").write_text("\npath, split\n" + rows)
    manifest = keep(tmp_path / "kept", tmp_path / "mine.csv")
    assert not manifest.labeled and np.bincount(manifest.split).tolist() == [14, 0, 10]
    with pytest.raises(ValueError, match="no column split if held_out is given; got both"):
        open_dataset("csv", tmp_path / "mine.csv", held_out=0.5)


def test_clips_that_are_all_of_one_source_video_by_name_are_held_out_one_by_one(tmp_path):
    put(tmp_path, *(f"my_clip{number}.mp4" for number in range(8)))
    manifest = open_dataset("loose", tmp_path)
    assert len(set(manifest.source_video)) == 8 and np.bincount(manifest.split).tolist() == [
        6,
        0,
        2,
    ]


def test_a_csv_keeps_its_labels_sources_and_scanned_columns(tmp_path):
    put(tmp_path, *(f"x/{name}_c{clip}.mp4" for name in "abcd" for clip in (1, 2)))
    rows = [f"x/{name}_c{clip}.mp4,run,{clip},7" for name in "abcd" for clip in (1, 2)]
    (tmp_path / "a.csv").write_text("\n".join(["path,label,source_video,frames", *rows]))
    named = open_dataset("csv", tmp_path / "a.csv")
    assert named.labeled and set(named.source_videos) == {"1", "2"}
    assert named.frames is not None and set(named.frames) == {7}
    (tmp_path / "b.csv").write_text("\n".join(["path", *(row.split(",")[0] for row in rows)]))
    guessed = open_dataset("csv", tmp_path / "b.csv")
    assert guessed.source_video.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert np.bincount(guessed.split).tolist() == [6, 0, 2]


def test_pictures_of_a_csv_are_no_frames_of_their_folder(tmp_path):
    paths = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(4)]
    put(tmp_path, *paths)
    rows = "".join(f"{path},{path[:3]}\n" for path in paths)
    (tmp_path / "a.csv").write_text("path,label\n" + rows)
    manifest = open_dataset("csv", tmp_path / "a.csv")
    assert manifest.labeled and len(set(manifest.source_video)) == 8
    assert len(set(open_dataset("loose", tmp_path).source_video)) == 2


def test_a_nested_folder_is_class_folders_unless_labels_are_unwanted(tmp_path):
    put(tmp_path / "in", *(f"day{day}/{n}.mp4" for day in (1, 2) for n in range(4)))
    assert detect_dataset(tmp_path / "in") == "folder"
    assert open_dataset("folder", tmp_path / "in").classes == ("day1", "day2")
    for manifest in (
        open_dataset("loose", tmp_path / "in"),
        open_dataset("folder", tmp_path / "in", labels=False),
        keep(tmp_path / "kept", tmp_path / "in", labels=False),
    ):
        assert manifest.words == "8 videos without labels"
        assert np.bincount(manifest.split).tolist() == [6, 0, 2]


def test_split_folders_of_loose_videos(tmp_path):
    put(tmp_path, "train/a.mp4", "train/b.mp4", "val/c.mp4")
    assert detect_dataset(tmp_path) == "loose"
    found = splits(open_dataset("loose", tmp_path))
    assert found == {"train/a.mp4": "train", "train/b.mp4": "train", "val/c.mp4": "validate"}
    put(tmp_path, "d.mp4")
    with pytest.raises(ValueError, match=r"mixes split folders .* \(files outside of folders\)"):
        open_dataset("loose", tmp_path)


def test_loose_videos_next_to_class_folders_are_refused(tmp_path):
    put(tmp_path, "a.mp4", "b.mp4", "run/c.mp4")
    said = (
        r"class folders \(run\) and 2 files outside of class folders \(a.mp4 and 1 more\). Move "
        "these into class folders, or open all without labels: labels=False"
    )
    with pytest.raises(ValueError, match=said):
        open_dataset(detect_dataset(tmp_path), tmp_path)
    assert len(open_dataset("folder", tmp_path, labels=False)) == 3
    put(tmp_path / "flat", "a.mp4")
    with pytest.raises(ValueError, match="got no class folders and 1 files"):
        open_dataset("folder", tmp_path / "flat")


def test_files_from_anywhere(tmp_path):
    put(tmp_path, "x/a_c1.mp4", "x/a_c2.mp4", "y/b.mp4")
    paths = [tmp_path / "y/b.mp4", str(tmp_path / "x/a_c2.mp4"), tmp_path / "x/a_c1.mp4"]
    manifest = open_files(paths)
    assert manifest.root == tmp_path and manifest.absolute(0) == paths[0]
    assert manifest.path.tolist() == ["y/b.mp4", "x/a_c2.mp4", "x/a_c1.mp4"]
    assert manifest.source_video.tolist() == [0, 1, 1] and not manifest.labeled
    some = open_files(paths, ["run", None, "walk"])
    assert some.label.tolist() == [0, -1, 1] and some.countable.label.tolist() == [0, 1]
    assert some.words == "3 videos in 2 classes, 1 of them without a label"
    assert len(manifest.countable) == 3
    assert open_files(paths[:1]).path.tolist() == ["b.mp4"]
    for given, labels, said in (
        ([], None, "got no paths"),
        (paths, ["run"], "got 3 paths and 1 labels"),
        ([tmp_path / "x"], None, "got the folder .*x. Use open_dataset"),
        ([*paths, paths[0]], None, "path 4: .* is listed twice, first in path 1"),
    ):
        with pytest.raises(ValueError, match=said):
            open_files(given, labels)
    with pytest.raises(FileNotFoundError, match="no such file: .*gone.mp4"):
        open_files([tmp_path / "gone.mp4"])


def test_a_name_close_to_a_built_in_data_set_is_suggested(tmp_path):
    with pytest.raises(FileNotFoundError, match="Did you mean the built-in data set 'tiny'"):
        prepare_dataset(tmp_path, "tinny")
    with pytest.raises(FileNotFoundError, match="'tiny' is a built-in data set: notebooks and"):
        detect_dataset(tmp_path / "tiny")
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*elsewhere$"):
        prepare_dataset(tmp_path, str(tmp_path / "elsewhere"))
