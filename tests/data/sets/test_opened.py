"""What opening a data set says: files left out, and what is in more than one split."""

import os
import tempfile
import warnings
from pathlib import Path

import pytest

from vidbench.data.sets import opened
from vidbench.data.sets.catalogue import detect_dataset, open_dataset
from vidbench.data.sets.reading import files_below, numbered, walk


def put(root: Path, *paths: str, text: str = "") -> Path:
    """Files whose content is their own path, or `text`."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text or path)
    return root


def opens(name: str, root: Path, **options) -> tuple[list[str], str]:
    """The paths, and what opening warned of."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        manifest = open_dataset(name, root, **options)
    return manifest.path.tolist(), " ".join(str(one.message) for one in said)


def test_a_link_to_a_parent_adds_no_rows(tmp_path):
    put(tmp_path, "run/a.mp4", "walk/b.mp4")
    (tmp_path / "run/all").symlink_to(tmp_path, target_is_directory=True)
    paths, said = opens("folder", tmp_path)
    assert paths == ["run/a.mp4", "walk/b.mp4"]
    assert "left out: 1 links to folders that were already read: 'run/all'" in said


def test_a_real_folder_comes_before_links_to_it(tmp_path):
    put(tmp_path / "data", "run/a.mp4", "walk/b.mp4")
    put(tmp_path / "else", "c.mp4")
    (tmp_path / "data/0first").symlink_to(tmp_path / "data/run", target_is_directory=True)
    (tmp_path / "data/other").symlink_to(tmp_path / "else", target_is_directory=True)
    assert files_below(tmp_path / "data") == ["other/c.mp4", "run/a.mp4", "walk/b.mp4"]


def test_nothing_to_say_is_said_by_nothing(tmp_path):
    put(tmp_path, "train/run/a.mp4", "train/walk/b.mp4", "test/run/c.mp4", "test/walk/d.mp4")
    assert opens("folder", tmp_path)[1] == ""


@pytest.mark.parametrize("name", [b"caf\xe9.mp4", b"a\rb.mp4", b"a\nb.mp4", b"a\\b.mp4"])
def test_a_name_no_manifest_can_hold_costs_that_file_only(tmp_path, name):
    put(tmp_path, "run/a.mp4", "walk/b.mp4")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path / "run") + b"/" + name)).write_text("odd")
    except OSError:
        pytest.skip("this file system refuses the name")
    paths, said = opens("folder", tmp_path)
    assert paths == ["run/a.mp4", "walk/b.mp4"]
    assert f"1 names that a manifest cannot hold: {'run/' + os.fsdecode(name)!r}" in said
    said.encode()  # it can be printed


def test_two_files_whose_names_look_the_same_are_one_row(tmp_path):
    put(tmp_path, "run/caf\u00e9.mp4", "run/cafe\u0301.mp4", "walk/b.mp4")
    if len(os.listdir(tmp_path / "run")) == 1:
        pytest.skip("this file system has one spelling")
    paths, said = opens("folder", tmp_path)
    assert len(paths) == 2 and "1 names that a manifest cannot hold" in said


def test_a_list_with_other_accents_than_the_disk(tmp_path):
    put(tmp_path, "cafe\u0301.mp4")
    (tmp_path / "manifest.csv").write_text("path,label\ncaf\u00e9.mp4,run\n")
    manifest = open_dataset("csv", tmp_path)
    assert manifest.absolute(0).is_file()


@pytest.mark.skipif(os.name == "nt", reason="no POSIX permissions")
def test_a_class_folder_that_may_not_be_entered_is_named():
    with tempfile.TemporaryDirectory() as name:
        root = put(Path(name), "run/a.mp4", "walk/b.mp4", "secret/c.mp4")
        root.chmod(0o755)
        (root / "secret").chmod(0)
        me = os.geteuid()
        try:
            if me == 0:
                os.seteuid(65534)
            assert detect_dataset(root) == "folder"
            paths, said = opens("folder", root)
        finally:
            os.seteuid(me)
            (root / "secret").chmod(0o755)
    assert paths == ["run/a.mp4", "walk/b.mp4"]
    assert "1 folders that could not be entered: 'secret (Permission denied)'" in said


def test_what_was_not_understood_is_named_with_counts(tmp_path):
    put(tmp_path, "run/a.mp4", "walk/b.mp4", "run/c.MTS", "run/d.ts", "run/e.MTS", "walk/f.gif")
    put(tmp_path, "walk/g.y4m", "train.csv", "run/thumb.jpg")
    said = opens("folder", tmp_path)[1]
    for part in (
        "2 .mts files that were not understood: 'run/c.MTS', 'run/e.MTS'",
        "1 .ts files",
        "1 .gif files",
        "1 .y4m files",
        "1 .csv list files that were not understood: 'train.csv'",
        "1 pictures next to videos: 'run/thumb.jpg'",
        f"opened {tmp_path} as folder, 2 videos in 2 classes",
    ):
        assert part in said


def test_a_flat_folder_is_opened_without_labels_and_its_list_is_named(tmp_path):
    put(tmp_path, "1.webm", "2.webm", "something-something-v2-train.json")
    assert detect_dataset(tmp_path) == "loose"
    said = opens("loose", tmp_path)[1]
    assert "as loose, 2 videos without labels. left out: 1 .json list files" in said


def test_an_unknown_folder_is_refused_in_three_lines(tmp_path):
    put(tmp_path, *(f"{n}.txt" for n in range(24)))
    with pytest.raises(ValueError) as refused:
        detect_dataset(tmp_path)
    lines = str(refused.value).splitlines()
    assert len(lines) == 3 and lines[0].endswith(f"in {tmp_path}: 24 .txt, no videos.")
    assert "a csv with a column path" in lines[1] and "assets/docs/data.md" in lines[2]


def test_equal_content_in_two_splits_is_counted(tmp_path):
    put(tmp_path, "train/run/a.mp4", "test/run/b.mp4", "train/walk/c.mp4", text="same")
    put(tmp_path, "train/walk/d.mp4", text="else")  # of the same size
    put(tmp_path, "test/walk/e.mp4", "train/walk/f.mp4")
    said = opens("folder", tmp_path)[1]
    assert "3 files have equal content and are in more than one split: 'test/run/b.mp4 =" in said
    assert "d.mp4" not in said


def test_files_that_differ_between_the_samples_are_not_called_equal(tmp_path):
    put(tmp_path, "train/run/a.mp4", text="a" * 100_000)
    put(tmp_path, "test/run/b.mp4", text="a" * 30_000 + "b" + "a" * 69_999)
    assert opens("folder", tmp_path)[1] == ""


def test_a_scan_refuses_a_csv_whose_splits_overlap(tmp_path):
    """A scan keeps missing files, and its own manifest is taken as it is later."""
    put(tmp_path, "a.mp4", "b.mp4", text="same")
    rows = "a.mp4,run,train\nb.mp4,run,test\nmissing.mp4,run,test\ngone.mp4,run,train\n"
    (tmp_path / "manifest.csv").write_text(f"path,label,split\n{rows}")
    with pytest.raises(ValueError, match="2 files have equal content .* overlap='warn'"):
        open_dataset("csv", tmp_path, missing="keep")
    assert len(opens("csv", tmp_path, missing="keep", overlap="warn")[0]) == 4


def test_pictures_of_one_size_are_not_called_equal(tmp_path):
    """PNG files hold checksums of their parts, so a crc32 of the whole is the same for many."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(40):
        file = tmp_path / ("train" if i % 2 else "test") / "noise" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file)
    sizes = {file.stat().st_size for file in tmp_path.rglob("*.png")}
    assert len(sizes) < 40 and opens("folder", tmp_path)[1] == ""


def test_a_csv_of_ones_own_is_refused_if_its_splits_overlap(tmp_path):
    put(tmp_path, "a.mp4", "b.mp4", text="same")
    csv = tmp_path / "manifest.csv"
    csv.write_text("path,label,split\na.mp4,run,train\nb.mp4,run,test\n")
    with pytest.raises(ValueError, match="2 files have equal .*'a.mp4 = b.mp4'. .*overlap='warn'"):
        open_dataset("csv", tmp_path)
    assert "2 files have equal content" in opens("csv", tmp_path, overlap="warn")[1]
    put(tmp_path, "b.mp4")
    assert opens("csv", tmp_path)[1] == ""
    csv.write_text("path,split,source_video\na.mp4,train,film\nb.mp4,test,film\n")
    with pytest.raises(ValueError, match="1 source videos are in more than one split: 'film'"):
        open_dataset("csv", tmp_path)
    with pytest.raises(ValueError, match="overlap must be 'error' or 'warn'"):
        open_dataset("csv", tmp_path, overlap="drop")
    put(tmp_path, "store.json")  # the splits of a stored data set are its lists'
    assert "1 source videos are in more than one split" in opens("csv", tmp_path)[1]


def test_rows_of_no_split_overlap_nothing(tmp_path):
    put(tmp_path, "a.mp4", "b.mp4", text="same")
    (tmp_path / "manifest.csv").write_text("path,split\na.mp4,train\nb.mp4,none\n")
    assert opens("csv", tmp_path)[1] == ""


def test_too_many_files_of_equal_size_are_said_to_be_uncompared(tmp_path, monkeypatch):
    monkeypatch.setattr(opened, "MOST", 1)
    put(tmp_path, "train/run/a.mp4", "test/run/b.mp4", text="same")
    assert "too many to compare" in opens("folder", tmp_path)[1]


def test_walk_of_nothing_names_it(tmp_path):
    assert walk(tmp_path / "none").closed == [". (No such file or directory)"]


def test_a_scan_hears_of_what_is_left_out_too(tmp_path):
    put(tmp_path, "run/a.mp4", "walk/b.mp4", "run/c.MTS")
    assert "1 .mts files" in opens("folder", tmp_path, missing="keep")[1]


def test_pictures_that_are_no_rows_are_counted(tmp_path):
    put(tmp_path, "train/apple/1.png", "test/apple/2.png", "valid/apple/3.png")
    assert "1 pictures that are no rows: 'valid/apple/3.png'" in opens("cifar100", tmp_path)[1]


def test_a_list_from_windows(tmp_path):
    (tmp_path / "trainlist01.txt").write_bytes(b"Archery\\v_Archery_g08_c01.avi 1\r\n")
    (found,) = numbered(tmp_path / "trainlist01.txt", None, 2, "2 columns")
    assert found[0] == ["Archery/v_Archery_g08_c01.avi", "1"]


def test_an_open_quote_in_a_kinetics_list_swallows_no_rows(tmp_path):
    put(tmp_path, "a.mp4")
    lines = [f"yoga,abcdefghij{i},1,11,{chr(34) if i == 1 else ''}train" for i in range(3)]
    text = "\n".join(["label,youtube_id,time_start,time_end,split", *lines])
    (tmp_path / "kinetics-400_train.csv").write_text(text)
    assert detect_dataset(tmp_path) == "kinetics400"
    with pytest.raises(ValueError, match="kinetics-400_train.csv, line 3: a row must end"):
        open_dataset("kinetics400", tmp_path)


def test_a_line_of_imagenets_names_without_a_name_is_shown(tmp_path):
    put(tmp_path, "train/n01440764/a.JPEG")
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01440764\n")
    with pytest.raises(ValueError, match="LOC_synset_mapping.txt: wanted lines like .* got 'n0144"):
        open_dataset("imagenet", tmp_path)


def test_classes_that_differ_in_capitals_only_are_named(tmp_path):
    put(tmp_path, "Run_fast/a.mp4", "run fast/b.mp4", "walk/c.mp4")
    said = opens("folder", tmp_path)[1]
    assert "1 groups of classes with one name: 'Run_fast = run fast'" in said


def test_classes_that_look_the_same_are_named(tmp_path):
    put(tmp_path, "of\u200bf/a.mp4", "off/b.mp4", "o\ufb00/c.mp4", "walk/d.mp4")
    said = opens("folder", tmp_path)[1]
    assert "1 groups of classes with one name" in said and "'off = of" in said
