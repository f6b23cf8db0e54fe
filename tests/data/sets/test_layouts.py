"""Layouts that people have: re-encoded, unpacked twice, split into folders, lists of other tools.

Every case opens a few empty files; the rows say which file on disk each line of a list got."""

import pytest

from tests.data.sets.test_catalogue import touch, ucf, words
from tests.data.sets.test_listfiles import (
    CLASSES,
    K400,
    activitynet,
    hmdb,
    kinetics,
    moments,
    rows,
    write,
)
from vidbench.data.manifest import Manifest
from vidbench.data.sets.catalogue import detect_dataset, open_dataset
from vidbench.system.errors import Brief


def paths(manifest: Manifest) -> list[str]:
    return [row["path"] for row in words(manifest)]


# ---- UCF101 ------------------------------------------------------------------------------------

CLIPS = (
    "Archery/v_Archery_g08_c01",
    "HandstandPushups/v_HandStandPushups_g08_c02",
    "Archery/v_Archery_g01_c01",
    "HandstandPushups/v_HandStandPushups_g01_c01",
)


def lists_of_ucf(root):
    """UCF101's lists, without its videos."""
    for video in ucf(root).rglob("*.avi"):
        video.unlink()
    return root


@pytest.mark.parametrize(
    "layout",
    [
        "UCF-101/{clip}.mp4",
        "UCF-101/{split}/{clip}.avi",
        "{split}/{clip}.mp4",
        "{split}/{name}.avi",
        "UCF-101/UCF-101/{clip}.avi",
    ],
)
def test_ucf101_re_encoded_or_split_into_folders(tmp_path, layout):
    root = lists_of_ucf(tmp_path)
    made = [
        layout.format(clip=clip, name=clip.split("/")[1], split="train" if i < 2 else "test")
        for i, clip in enumerate(CLIPS)
    ]
    touch(root, *made)
    manifest = open_dataset(detect_dataset(root), root)
    assert paths(manifest) == made and manifest.split.tolist() == [0, 0, 2, 2]
    assert manifest.source_videos[0] == "v_Archery_g08"


def test_ucf101_with_several_copies_takes_the_listed_one(tmp_path):
    root = ucf(tmp_path)
    touch(root, f"UCF-101/{CLIPS[0]}.mp4", f"mp4/{CLIPS[0]}.avi", f"a/{CLIPS[0]}.avi")
    with pytest.warns(UserWarning, match="3 videos that no list names"):
        assert paths(open_dataset("ucf101", root))[0] == f"UCF-101/{CLIPS[0]}.avi"


def test_lists_and_paths_with_backslashes(tmp_path):
    root = ucf(tmp_path / "ucf")
    for name in ("trainlist01.txt", "testlist01.txt"):
        file = root / "lists" / name
        file.write_text(file.read_text().replace("/", "\\"))
    assert paths(open_dataset("ucf101", root))[2] == f"UCF-101/{CLIPS[2]}.avi"
    text = "path,label,split\nrun\\a.mp4,run,train\nwalk\\b.mp4,walk,test\n"
    (touch(tmp_path / "own", "run/a.mp4", "walk/b.mp4") / "manifest.csv").write_text(text)
    assert paths(open_dataset("csv", tmp_path / "own")) == ["run/a.mp4", "walk/b.mp4"]


# ---- HMDB51 ------------------------------------------------------------------------------------


def test_hmdb51_unpacked_twice_with_files_of_macos(tmp_path):
    root = hmdb(tmp_path)
    for file in list((root / "lists").iterdir()):
        (root / "lists" / f"._{file.name}").write_bytes(b"\0\5\x16\7")
    name = "brush_hair/brush_hair/Turnk_r_Pippi_Michel_brush_hair_u_nm_np10_ba_goo_1.avi"
    other = "cartwheel/Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi"
    touch(root, f"org/{name}", f"org/{other}", "org/brush_hair/brush_hair/._a.avi")
    with pytest.warns(UserWarning, match="50 of 52 listed videos are missing"):
        manifest = open_dataset(detect_dataset(root), root, fold=2, missing="drop")
    assert paths(manifest) == [f"org/{name}", f"org/{other}"] and len(manifest.classes) == 51


# ---- Kinetics ----------------------------------------------------------------------------------


def test_kinetics_raw_names_float_times_and_a_subset_of_classes(tmp_path):
    lines = [
        "class 001 (x),abcdefghij0,12.0,22.0,train,0",
        "class 002 (x),abcdefghij1,0.5,10.5,train,0",
        "class 002 (x),abcdefghij2,3,13,train,0",
        "class 001 (x),abcdefghij3,1.25,9.75,train,0",
    ]
    write(tmp_path / "lists/train.csv", K400, *lines)
    write(tmp_path / "lists/valid.csv", K400, "class 001 (x),abcdefghij4,7.0,17.0,valid,0")
    made = [
        "train/class 001 (x)/abcdefghij0_000012_000022.mp4",
        "train/class 002 (x)/abcdefghij1_0.5_10.5.mp4",
        "videos/abcdefghij2_raw.mp4",
    ]
    touch(tmp_path, *made)
    assert detect_dataset(tmp_path) == "kinetics400"
    with pytest.warns(UserWarning, match="valid.csv lists 2 of Kinetics-400's 400 classes"):
        write(
            tmp_path / "lists/valid.csv",
            K400,
            "class 001 (x),abcdefghij4,7.0,17.0,valid,0",
            "class 002 (x),abcdefghij5,7.0,17.0,valid,0",
        )
        manifest = open_dataset("kinetics400", tmp_path, missing="keep")
    assert paths(manifest)[:3] == made
    assert paths(manifest)[3:5] == [
        "train/class 001 (x)/abcdefghij3_1.25_9.75.mp4",
        "val/class 001 (x)/abcdefghij4_000007_000017.mp4",
    ]
    assert manifest.split.tolist() == [0, 0, 0, 0, 1, 1]
    write(tmp_path / "more/val.csv", K400, *kinetics(401))
    touch(tmp_path, "more/id000000003.mp4")
    assert detect_dataset(tmp_path / "more") == "kinetics600"
    with pytest.raises(Brief, match="Kinetics-400 has at most 400 classes, this list has 401"):
        open_dataset("kinetics400", tmp_path / "more")


# ---- splits, Moments ---------------------------------------------------------------------------


def test_valid_is_a_split(tmp_path):
    touch(tmp_path / "folder", "train/run/a.mp4", "valid/run/b.mp4")
    touch(tmp_path / "loose", "train/a.mp4", "valid/b.mp4")
    for name in ("folder", "loose"):
        assert detect_dataset(tmp_path / name) == name
        assert open_dataset(name, tmp_path / name).split.tolist() == [0, 1]
    (touch(tmp_path / "csv", "a.mp4") / "manifest.csv").write_text("path,split\na.mp4,valid\n")
    assert open_dataset("csv", tmp_path / "csv").split.tolist() == [1]


def test_moments_mini(tmp_path):
    root = moments(tmp_path, ["fly", "run", *(f"c{i}" for i in range(198))])
    assert [row[1] for row in rows(open_dataset(detect_dataset(root), root))] == [
        "run",
        "run",
        "fly",
    ]


# ---- lists of SlowFast and VideoMAE --------------------------------------------------------------


def test_lists_of_path_and_label(tmp_path):
    touch(
        tmp_path,
        "videos/jump rope/a b.mp4",
        "videos/run/c.mp4",
        "videos/run/d.webm",
        "videos/jump rope/e.mp4",
    )
    write(
        tmp_path / "train.csv",
        "/data/k400/jump rope/a b.mp4 1",
        f"{tmp_path}/videos/run/c.mp4 0",
        newline="\r\n",
    )
    write(tmp_path / "val.csv", "videos/run/d.webm 0", "videos\\jump rope\\e.mp4 1")
    write(tmp_path / "test.csv", "videos/run/d.webm 0", "videos\\jump rope\\e.mp4 1")
    assert detect_dataset(tmp_path) == "pathlabel"
    with pytest.warns(UserWarning, match="2 lines of .* name videos of an earlier list"):
        manifest = open_dataset("pathlabel", tmp_path)
    assert [row[:3] for row in rows(manifest)] == [
        ("videos/jump rope/a b.mp4", "jump rope", "train"),
        ("videos/run/c.mp4", "run", "train"),
        ("videos/run/d.webm", "run", "validate"),
        ("videos/jump rope/e.mp4", "jump rope", "validate"),
    ]
    assert manifest.classes == ("run", "jump rope")
    (tmp_path / "names.txt").write_text("running\nrope\n")
    with pytest.warns(UserWarning, match="earlier list"):
        named = open_dataset("pathlabel", tmp_path, classes=tmp_path / "names.txt")
    assert named.classes == ("running", "rope") and named.label.tolist() == [1, 0, 0, 1]
    one = open_dataset("pathlabel", tmp_path, lists=str(tmp_path / "val.csv"))
    assert [row[2] for row in rows(one)] == ["none", "none"]


@pytest.mark.parametrize(
    "line, said",
    [
        ("frames/a 120 0", "train.txt, line 2: wanted a video and its class number"),
        ("a.mp4", "train.txt, line 2: .*got 'a.mp4'"),
        ("b.mp4,2", "line 2: class number 2 is not in .*names.txt, which has 2 names"),
        ("a.mp4\t0", "line 2: 'a.mp4' is listed twice, first in .*line 1"),
    ],
)
def test_a_list_of_path_and_label_with_a_bad_line(tmp_path, line, said):
    touch(tmp_path, "a.mp4", "b.mp4")
    write(tmp_path / "train.txt", "a.mp4 0", line)
    (tmp_path / "names.txt").write_text("run\nwalk\n")
    with pytest.raises(Brief, match=said):
        open_dataset("pathlabel", tmp_path, classes=str(tmp_path / "names.txt"))


def test_numbers_are_the_names_where_folders_do_not_name_the_classes(tmp_path):
    touch(tmp_path, *(f"all/{i}.mp4" for i in range(11)))
    write(tmp_path / "train.csv", *(f"all/{i}.mp4 {i}" for i in range(11)))
    manifest = open_dataset(detect_dataset(tmp_path), tmp_path)
    assert manifest.classes == tuple(map(str, range(11))) and manifest.label[10] == 10


# ---- ActivityNet ---------------------------------------------------------------------------------


def test_activitynet_segments_without_a_length_are_counted(tmp_path):
    segments = [[5, 5], [9, 2], [-1, 4], [1, 3]]
    video = {
        "subset": "training",
        "annotations": [{"segment": segment, "label": CLASSES[0]} for segment in segments],
    }
    root = activitynet(tmp_path, CLASSES, abcdefghijk=video)
    touch(root, "v_abcdefghijk_1.00_3.00.mp4")
    said = r"3 of 204 segments do not end .* the first is \[5, 5\] \(.*abcdefghijk, annotation 0"
    with pytest.warns(UserWarning, match=said):
        manifest = open_dataset("activitynet", root, missing="keep")
    assert len(manifest) == 201 and paths(manifest)[0] == "v_abcdefghijk_1.00_3.00.mp4"


def test_activitynet_of_untrimmed_videos_is_named_as_such(tmp_path):
    root = activitynet(tmp_path, CLASSES)
    touch(root, "train_val/v_id000000000.mp4", "train_val/v_id000000001.mkv")
    said = "must have a file for each segment; got 2 untrimmed videos, the first is train_val/v_id"
    for missing in ("error", "keep"):
        with pytest.raises(Brief, match=said):
            open_dataset("activitynet", root, missing=missing)
