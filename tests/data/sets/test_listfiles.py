"""Each named data set's own lists, whole if they are available, and tiny ones with every fault
that has a message."""

import csv
import json
import pickle
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.sets.test_catalogue import touch, ucf, words
from vidbench.data.manifest import SPLITS, Manifest
from vidbench.data.sets.catalogue import DATASETS, detect_dataset, open_dataset, prepare_dataset
from vidbench.data.sets.images import CIFAR100

ENDS = pytest.mark.parametrize("newline, bom", [("\n", ""), ("\r\n", "\ufeff")])


def write(file: Path, *lines: str, newline: str = "\n", bom: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes((bom + "".join(line + newline for line in lines)).encode())
    return file


def write_json(file: Path, value, bom: str = "") -> Path:
    return write(file, json.dumps(value), bom=bom)


def rows(manifest: Manifest) -> list[tuple[str, ...]]:
    return [tuple(row.values()) for row in words(manifest)]


def counted(name: str, root: Path, **options) -> tuple[list[int], Manifest]:
    """Rows by split of all that a data set lists, whether or not the files are there."""
    manifest = open_dataset(name, root, missing="keep", **options)
    return np.bincount(manifest.split, minlength=len(SPLITS)).tolist(), manifest


# ---- the door ----------------------------------------------------------------------------------


def test_missing_rows_are_kept_if_wanted(tmp_path):
    root = ucf(tmp_path)
    whole = words(open_dataset("ucf101", root))
    (root / whole[2]["path"]).unlink()
    assert words(open_dataset("ucf101", root, missing="keep")) == whole
    with pytest.raises(ValueError, match="one of 'error', 'drop', 'keep', got 'ignore'"):
        open_dataset("ucf101", root, missing="ignore")


def test_a_manifest_of_ones_own_keeps_what_a_scan_added(tmp_path):
    manifest = Manifest.from_rows(touch(tmp_path, "a.mp4"), [("a.mp4", "run", "train", None)])
    replace(manifest, frames=[30]).save(tmp_path)
    assert open_dataset("csv", tmp_path).frames.tolist() == [30]
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of 1 listed videos are missing .* is a.mp4 \(row 1\)"
    ):
        open_dataset("csv", tmp_path)


def test_options_that_are_paths_are_kept_as_text(tmp_path):
    root = ucf(tmp_path / "ucf")
    _, manifest = prepare_dataset(tmp_path / "runs_dir", root, lists=root / "lists", fold=1)
    assert words(
        prepare_dataset(tmp_path / "runs_dir", root, lists=str(root / "lists"), fold=1)[1]
    ) == words(manifest)


@pytest.mark.parametrize(
    "name, known",
    [
        ("ucf101", "fold, lists"),
        ("kinetics400", "lists, classes"),
        ("csv", "overlap, held_out, seed, into"),
        ("activitynet", "lists, classes, pattern"),
        ("folder", "held_out, seed, into"),
    ],
)
def test_an_unknown_option_is_told_with_the_known_ones(tmp_path, name, known):
    with pytest.raises(
        ValueError, match=f"'{name}' has no option 'folds'; its options are {known}$"
    ):
        open_dataset(name, tmp_path, folds=1)


@pytest.mark.parametrize("name", sorted(DATASETS.keys() - {"csv", "loose", "folder"}))
def test_a_folder_without_lists_says_what_was_wanted(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="wanted "):
        open_dataset(name, touch(tmp_path, "run/a.mp4"))


@pytest.mark.parametrize("name", ["ucf101", "hmdb51", "arid"])
def test_a_fold_that_is_not(tmp_path, name):
    with pytest.raises(ValueError, match="fold must be one of 1, 2, 3, got 4"):
        open_dataset(name, tmp_path, fold=4)


def test_ucf101_lists_of_another_data_set(tmp_path):
    write(ucf(tmp_path) / "lists/classInd.txt", "1 Archery", "2 HandstandPushups")
    with pytest.raises(ValueError, match="classInd.txt: UCF101 has 101 classes, this list has 2"):
        open_dataset("ucf101", tmp_path)
    (tmp_path / "lists/classInd.txt").write_bytes(b"1 Caf\xe9\n")
    with pytest.raises(ValueError, match="classInd.txt, line 1: must be UTF-8 text"):
        open_dataset("ucf101", tmp_path)


# ---- HMDB51 ------------------------------------------------------------------------------------


def hmdb(root: Path, **ends) -> Path:
    """51 lists: two real classes, the others with a clip each."""
    texts = {f"class{i:02d}": [f"Film_class{i:02d}_f_cm_np1_le_med_0.avi 1 "] for i in range(49)}
    texts["cartwheel"] = [
        "Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi 2 ",
        "(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_0.avi 0 ",
    ]
    texts["brush_hair"] = ["Turnk_r_Pippi_Michel_brush_hair_u_nm_np10_ba_goo_1.avi 1 "]
    for name, lines in texts.items():
        write(root / f"lists/{name}_test_split2.txt", *lines, **ends)
    write(root / "lists/brush_hair_test_split1.txt", *texts["brush_hair"])
    return root


@ENDS
def test_hmdb51_films_and_unused_clips(tmp_path, newline, bom):
    root = hmdb(tmp_path, newline=newline, bom=bom)
    touch(root, "hmdb51_org/cartwheel/Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.mp4")
    assert detect_dataset(root) == "hmdb51"
    manifest = open_dataset("hmdb51", root, fold=2, missing="keep")
    assert rows(manifest)[0] == (
        "hmdb51_org/brush_hair/Turnk_r_Pippi_Michel_brush_hair_u_nm_np10_ba_goo_1.avi",
        "brush_hair",
        "train",
        "Turnk_r_Pippi_Michel",
    )
    assert rows(manifest)[1:3] == [
        (
            "hmdb51_org/cartwheel/Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.mp4",
            "cartwheel",
            "test",
            "Turnk_r_Pippi_Michel",
        ),
        (
            "hmdb51_org/cartwheel/(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_0.avi",
            "cartwheel",
            "none",
            "(Rad)Schlag_die_Bank!",
        ),
    ]
    with pytest.warns(UserWarning, match="51 of 52 listed videos are missing"):
        assert len(open_dataset("hmdb51", root, fold=2, missing="drop")) == 1
    with pytest.raises(
        ValueError, match=r"\*_test_split1.txt: HMDB51 has 51 classes, this list has 1"
    ):
        open_dataset("hmdb51", root)


@pytest.mark.parametrize(
    "line, said",
    [
        (
            "Film_jump_f_cm_np1_le_med_0.avi 1",
            "wanted film_cartwheel_..._0.avi and 0, 1 or 2, got 'Film_jump_",
        ),
        ("Film_cartwheel_f_cm_np1_le_med_0.avi 3", "and '3'"),
        ("Film_cartwheel_f_cm_np1_le_med_0.avi", "wanted 2 columns"),
        (
            "Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi 1",
            "is listed twice, first in .*, line 1",
        ),
    ],
)
def test_hmdb51_lists_with_a_bad_line(tmp_path, line, said):
    with open(hmdb(tmp_path) / "lists/cartwheel_test_split2.txt", "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=f"cartwheel_test_split2.txt, line 3: .*{said}"):
        open_dataset("hmdb51", tmp_path, fold=2)


def test_hmdb51s_own_lists(real_data):
    lists, videos = real_data / "annotations/hmdb51", real_data / "real_clips/hmdb51"
    assert detect_dataset(lists) == "hmdb51"
    for fold in (1, 2, 3):
        split, whole = counted("hmdb51", videos, lists=lists, fold=fold)
        assert split == [3570, 0, 1530, 1666] and len(whole.classes) == 51
        for label in range(51):
            own = whole.select(mask=whole.label == label)
            train, test = (
                set(own.select(part).source_video.tolist()) for part in ("train", "test")
            )
            assert train and test and not train & test, (
                "the authors keep a film's clips of one class on one side"
            )
    with pytest.warns(UserWarning, match="6762 of 6766 listed videos are missing"):
        some = open_dataset("hmdb51", videos, lists=lists, missing="drop")
    assert {row["source_video"] for row in words(some)} == {
        "RATRACE",
        "SchoolRulesHowTheyHelpUs",
        "TrumanShow",
        "Turnk_r_Pippi_Michel",
    }


# ---- Kinetics ----------------------------------------------------------------------------------

K400 = "label,youtube_id,time_start,time_end,split,is_cc"
K600 = "label,youtube_id,time_start,time_end,split"


def kinetics(number: int, *extra: str, first: int = 0) -> list[str]:
    """Lines of a list with one clip a class, and then others."""
    return [
        f'"class {i:03d} (x)",id{first + i:09d},{i},{i + 10},val,0' for i in range(number)
    ] + list(extra)


@ENDS
def test_kinetics_files_are_found_in_any_layout(tmp_path, newline, bom):
    films = [f"abcdefghij{i}" for i in range(3)]
    train = [
        f"class 007 (x),{films[0]},0,10,train,0",
        f"class 007 (x),{films[0]},30,40,train,1",
        f"class 007 (x),{films[1]},1,11,train,0",
        f"class 007 (x),{films[2]},2,12,train,0",
        f"class 008 (x),{films[0]},50,60,train,0",
        f"class 009 (x),{films[0]},70,80,train,0",
    ]
    test = ["youtube_id,time_start,time_end,split", "testtest_-1,5,15,test"]
    for name, lines in {
        "train": [K400, *train],
        "val": [K400, *kinetics(400)],
        "test": test,
    }.items():
        write(tmp_path / f"annotations/{name}.csv", *lines, newline=newline, bom=bom)
    found = [
        f"train/class_007_(x)/{films[0]}_000000_000010.mp4",
        f"flat/{films[0]}_30_40.mkv",
        f"{films[1]}.mp4",
        f"replacement_for_corrupted_k400/{films[2]}_000002_000012.mp4",
        f"train/class 008 (x)/{films[0]}.mp4",
    ]
    labeled, split = (
        "Class-001 X/id000000001_000001_000011.mp4",
        "val/id000000002_000002_000012.mp4",
    )
    tested = "test/testtest_-1_000005_000015.mp4"
    touch(
        tmp_path,
        *found,
        labeled,
        split,
        tested,
        f"train/class_007_(x)/{films[2]}_000002_000012.mp4",
        "any/id000000001_000001_000011.mp4",
        "any/id000000002_000002_000012.mp4",
        f"any/{films[2]}.webm",
    )
    assert detect_dataset(tmp_path) == "kinetics400"
    manifest = open_dataset("kinetics400", tmp_path, missing="keep")
    paths = manifest.path.tolist()
    assert paths[:6] == [*found, f"train/class 009 (x)/{films[0]}_000070_000080.mp4"]
    assert paths[6:9] == ["val/class 000 (x)/id000000000_000000_000010.mp4", labeled, split]
    assert rows(manifest)[-1] == (tested, "", "test", "testtest_-1")
    assert (
        manifest.source_video[:6].tolist() == [0, 0, 1, 2, 0, 0]
        and manifest.classes[7] == "class 007 (x)"
    )
    with pytest.warns(UserWarning, match="399 of 407 listed videos are missing"):
        open_dataset("kinetics400", tmp_path, missing="drop")
    assert (
        len(
            open_dataset(
                "kinetics400", tmp_path, lists=tmp_path / "annotations/val.csv", missing="keep"
            )
        )
        == 400
    )


def test_kinetics_releases_are_told_apart(tmp_path):
    for number in (400, 600, 700):
        head = K400 if number == 400 else K600
        lines = [
            head,
            *(line.removesuffix("" if number == 400 else ",0") for line in kinetics(number)),
        ]
        write(tmp_path / f"{number}/validate.csv", *lines)
        assert detect_dataset(tmp_path / f"{number}") == f"kinetics{number}"
        split, manifest = counted(f"kinetics{number}", tmp_path / f"{number}")
        assert split == [0, number, 0, 0] and len(manifest.classes) == number
        write(tmp_path / f"both/k{number}_val.csv", *lines)
    with pytest.raises(
        ValueError, match="validate.csv: Kinetics-400 has at most 400 classes, this list has 600"
    ):
        open_dataset("kinetics400", tmp_path / "600")
    assert counted("kinetics600", tmp_path / "both")[0] == [0, 600, 0, 0], (
        "the number in a name decides"
    )
    write(tmp_path / "both/kinetics700_2020_validate.csv", K600)
    with pytest.raises(
        ValueError, match="two lists of split 'validate': .*k700_val.csv.* by `lists`"
    ):
        open_dataset("kinetics700", tmp_path / "both")
    write(tmp_path / "odd/val.csv", K400, *kinetics(7))
    touch(tmp_path, "odd/run/a.mp4")
    assert detect_dataset(tmp_path / "odd") == "folder"


def test_kinetics_without_labels_needs_classes(tmp_path):
    write(
        tmp_path / "kinetics-400_test.csv",
        "youtube_id,time_start,time_end,split",
        "testtest_-1,5,15,test",
    )
    assert detect_dataset(tmp_path) == "kinetics400"
    with pytest.raises(ValueError, match="kinetics-400_test.csv has no labels: .* by `classes`"):
        open_dataset("kinetics400", tmp_path)
    names = write(
        tmp_path / "names.txt",
        *(f"c{i}" for i in reversed(range(400))),
        newline="\r\n",
        bom="\ufeff",
    )
    manifest = open_dataset("kinetics400", tmp_path, classes=names, missing="keep")
    assert manifest.classes[0] == "c399" and manifest.label.tolist() == [-1]
    assert rows(manifest)[0][0] == "test/testtest_-1_000005_000015.mp4"
    write(names, *(f"c{i}" for i in range(401)))
    with pytest.raises(
        ValueError, match="names.txt: Kinetics-400 has at most 400 classes, this list has 401"
    ):
        open_dataset("kinetics400", tmp_path, classes=str(names))


@pytest.mark.parametrize(
    "line, said",
    [
        ("sofa,abcdefghijk,1,11,train,0", "label 'sofa' is not among the 400 classes"),
        ("class 001 (x),abcdefghijk,1,11,train", r"wanted 6 columns \(label,.*got 5"),
        ("class 001 (x),#NAME?,1,11,train,0", "wanted a video id of 11 letters.*'#NAME"),
        ("class 001 (x),abcdefghijk,one,11,train,0", "times in seconds, got 'one'"),
        ("class 001 (x),abcdefghijk,1,11,dev,0", "one of the splits .* got 'dev'"),
        ("class 000 (x),abcdefghij0,0,10,train,0", "listed twice, first in .*train.csv, line 2"),
    ],
)
def test_kinetics_lists_with_a_bad_line(tmp_path, line, said):
    write(tmp_path / "val.csv", K400, *kinetics(400))
    write(tmp_path / "train.csv", K400, "class 000 (x),abcdefghij0,0,10,train,0", line)
    with pytest.raises(ValueError, match=f"train.csv, line 3: .*{said}"):
        open_dataset("kinetics400", tmp_path)


def test_kinetics_lists_of_another_make(tmp_path):
    write(tmp_path / "train.csv", "some/video.mp4 17", "some/other.mp4 3")
    with pytest.raises(
        ValueError, match="train.csv, line 1: wanted a header of label,.*got 'some/video.mp4 17'"
    ):
        open_dataset("kinetics400", tmp_path)


def test_kinetics_own_lists(real_data, tmp_path):
    lists = real_data / "annotations/kinetics"
    assert detect_dataset(lists) == "kinetics400", "it holds 600's too: the first in the table"
    split, whole = counted("kinetics400", tmp_path, lists=lists)
    assert split == [0, 19906, 38685, 0] and len(set(whole.source_video.tolist())) == 19906 + 38685
    assert list(whole.classes) == (lists / "label_map_k400.txt").read_text().splitlines()
    assert (whole.label[whole.split == 2] == -1).all()
    split, whole = counted(
        "kinetics600", tmp_path, lists=lists, classes=lists / "label_map_k600.txt"
    )
    assert split == [0, 30000, 0, 0] and len(set(whole.source_video.tolist())) == 29994, (
        "6 clips have siblings"
    )
    assert whole.classes == counted("kinetics600", tmp_path, lists=lists)[1].classes
    shutil.copy(lists / "kinetics-600_val.csv", tmp_path / "val.csv")
    assert detect_dataset(tmp_path) == "kinetics600"
    with pytest.raises(FileNotFoundError, match="wanted kinetics-700_train.csv"):
        open_dataset("kinetics700", tmp_path / "..", lists=lists)
    with pytest.raises(
        ValueError, match="val.csv, line 52: label 'acting in play' is not among the 400 classes"
    ):
        open_dataset("kinetics400", tmp_path, classes=lists / "label_map_k400.txt")


def test_kinetics_file_given_to_a_row_once(tmp_path):
    write(tmp_path / "val.csv", K400, *kinetics(400))
    write(tmp_path / "train.csv", K400, "class 000 (x),id000000000,0,10,train,0")
    touch(tmp_path, "flat/id000000000_000000_000010.mp4")
    manifest = open_dataset("kinetics400", tmp_path, missing="keep")
    assert [words(manifest)[i]["path"] for i in (0, 1)] == [
        "flat/id000000000_000000_000010.mp4",
        "val/class 000 (x)/id000000000_000000_000010.mp4",
    ]


# ---- Mini-Kinetics-200 -------------------------------------------------------------------------


@pytest.mark.slow
def test_mini_kinetics_own_lists(real_data, tmp_path):
    own = real_data / "annotations/mini_kinetics200"
    assert detect_dataset(own) == "minikinetics200"
    split, whole = counted("minikinetics200", tmp_path, lists=own)
    assert split == [80000, 5000, 0, 0] and len(whole.classes) == 200
    assert (np.bincount(whole.select("train").label) == 400).all()
    assert (np.bincount(whole.select("validate").label) == 25).all()
    for name, place in (
        ("train_ytid_list.txt", "train_ytid_list.txt"),
        ("val_ytid_list.txt", "val_ytid_list.txt"),
        ("train_k200.csv", "k400/train.csv"),
    ):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        shutil.copy(own / name, tmp_path / place)
    with pytest.raises(FileNotFoundError, match="has ids only: put kinetics-400_train.csv and"):
        open_dataset("minikinetics200", tmp_path)
    shutil.copy(real_data / "annotations/kinetics/kinetics-400_val.csv", tmp_path / "k400/val.csv")
    assert detect_dataset(tmp_path) == "minikinetics200"
    by_id = counted("minikinetics200", tmp_path)[1]
    assert by_id.classes == whole.classes and sorted(rows(by_id)) == sorted(rows(whole))
    write(
        tmp_path / "val_ytid_list.txt", "zkyy5cC7SL4", "abcdefghijk", newline="\r\n", bom="\ufeff"
    )
    with pytest.raises(
        ValueError, match="val_ytid_list.txt, line 2: 'abcdefghijk' is not in .*val.csv"
    ):
        open_dataset("minikinetics200", tmp_path)


def test_mini_kinetics_of_another_count(tmp_path):
    write(tmp_path / "train_k200.csv", K400, *kinetics(3))
    write(tmp_path / "val_k200.csv", K400, *kinetics(3, first=50))
    with pytest.raises(
        ValueError, match="train_k200.csv: Mini-Kinetics-200 has 200 classes, this list has 3"
    ):
        open_dataset("minikinetics200", tmp_path)


# ---- Something-Something-v2 --------------------------------------------------------------------


def ssv2(root: Path, head: str = "something-something-v2-", bom: str = "") -> Path:
    templates = ["Putting [something similar to other things] on [something]"]
    templates += [f"Doing [thing {i}]" for i in range(173)]
    labels = {name.replace("[", "").replace("]", ""): str(i) for i, name in enumerate(templates)}
    write_json(root / f"labels/{head}labels.json", labels, bom)
    train = [
        {
            "id": "78687",
            "label": "putting a cup on a table",
            "template": templates[0],
            "placeholders": ["a cup"],
        },
        {"id": "42326", "label": "doing it", "template": templates[5], "placeholders": []},
    ]
    write_json(root / f"labels/{head}train.json", train, bom)
    write_json(root / f"labels/{head}validation.json", [{**train[1], "id": "74225"}], bom)
    write_json(root / f"labels/{head}test.json", [{"id": "1420"}, {"id": "1421"}], bom)
    folder = "20bn-something-something-v2"
    return touch(root, f"{folder}/78687.webm", "mp4/42326.mp4", f"{folder}/1420.webm")


@pytest.mark.parametrize("head, bom", [("something-something-v2-", ""), ("", "\ufeff")])
def test_ssv2_lists(tmp_path, head, bom):
    root = ssv2(tmp_path, head, bom)
    assert detect_dataset(root) == "ssv2"
    manifest = open_dataset("ssv2", root, missing="keep")
    assert len(manifest.classes) == 174 and manifest.classes[5] == "Doing thing 4"
    first, folder = (
        "Putting something similar to other things on something",
        "20bn-something-something-v2",
    )
    assert rows(manifest) == [
        (f"{folder}/78687.webm", first, "train", f"{folder}/78687.webm"),
        ("mp4/42326.mp4", "Doing thing 4", "train", "mp4/42326.mp4"),
        (f"{folder}/74225.webm", "Doing thing 4", "validate", f"{folder}/74225.webm"),
        (f"{folder}/1420.webm", "", "test", f"{folder}/1420.webm"),
        (f"{folder}/1421.webm", "", "test", f"{folder}/1421.webm"),
    ]
    write(root / f"labels/{head}test-answers.csv", f"1420;{first}", "1421;Doing thing 0")
    assert open_dataset("ssv2", root, missing="keep").label.tolist() == [0, 5, 5, 0, 1]


@pytest.mark.parametrize(
    "word, value, said",
    [
        (
            "train",
            [{"id": "1", "template": "Doing [nothing]"}],
            "train.json, entry 1: label 'Doing nothing' is not among the 174",
        ),
        ("train", [{"id": "1"}], "train.json, entry 1: wanted an object with id and template"),
        ("train", {"id": "1"}, "train.json: wanted a json list, got dict"),
        (
            "train",
            [{"id": "78687", "template": "Doing [thing 1]"}] * 2,
            "train.json, entry 2: .* is listed twice",
        ),
        (
            "labels",
            {"a": "0", "b": "1"},
            "labels.json: Something-Something-v2 has 174 classes, this list has 2",
        ),
        (
            "labels",
            {"a": "0", "b": "2"},
            "labels.json: classes count from 0, but 'b' has '2', not 1",
        ),
    ],
)
def test_ssv2_lists_that_do_not_fit(tmp_path, word, value, said):
    write_json(ssv2(tmp_path) / f"labels/something-something-v2-{word}.json", value)
    with pytest.raises(ValueError, match=said):
        open_dataset("ssv2", tmp_path)


def test_ssv2_json_that_is_cut_off(tmp_path):
    write(ssv2(tmp_path) / "labels/something-something-v2-train.json", "[", '{"id": "1", ')
    with pytest.raises(ValueError, match="train.json, line 3: not json"):
        open_dataset("ssv2", tmp_path)


@pytest.mark.slow
def test_ssv2s_own_labels_and_the_full_size(real_data, tmp_path):
    """Its json lists are not available: lists of their sizes, made of the 174 real templates."""
    labels = (
        (real_data / "annotations/something_v2/mmaction2_label_map.txt").read_text().splitlines()
    )
    with open(
        real_data / "annotations/something_v2/hierarchies/fine_grained_classes.csv", newline=""
    ) as file:
        templates = [line["class_name"] for line in csv.DictReader(file)]
    write_json(
        tmp_path / "something-something-v2-labels.json",
        {name: str(i) for i, name in enumerate(labels)},
    )
    begin = 0
    for word, count in (("train", 168913), ("validation", 24777), ("test", 27157)):
        entries = [{"id": str(begin + i), "template": templates[i % 174]} for i in range(count)]
        write_json(tmp_path / f"something-something-v2-{word}.json", entries)
        begin += count
    split, whole = counted("ssv2", tmp_path)
    assert split == [168913, 24777, 27157, 0] and list(whole.classes) == labels
    assert (whole.label[:174] == np.arange(174)).all()


# ---- Moments in Time ---------------------------------------------------------------------------


def moments(root: Path, classes: list[str], *train: str, **ends) -> Path:
    write(
        root / "moments_categories.txt", *(f"{name},{i}" for i, name in enumerate(classes)), **ends
    )
    siblings = ("run/yt-5of6ffo6-Bw_205.mp4,run,3,0", "run/yt-5of6ffo6-Bw_7.mp4,run,3,0")
    write(root / "trainingSet.csv", *siblings, *train, **ends)
    write(root / "validationSet.csv", "fly/getty-karate-video-id635808620_4.mp4,fly", **ends)
    return touch(
        root,
        "training/run/yt-5of6ffo6-Bw_205.mp4",
        "training/run/yt-5of6ffo6-Bw_7.mp4",
        "validation/fly/getty-karate-video-id635808620_4.mp4",
    )


@ENDS
def test_moments_lists(tmp_path, newline, bom):
    classes = ["fly", "run", *(f"c{i}" for i in range(337))]
    root = moments(tmp_path, classes, newline=newline, bom=bom)
    assert detect_dataset(root) == "moments"
    manifest = open_dataset("moments", root)
    assert list(manifest.classes) == classes
    assert rows(manifest) == [
        ("training/run/yt-5of6ffo6-Bw_205.mp4", "run", "train", "yt-5of6ffo6-Bw"),
        ("training/run/yt-5of6ffo6-Bw_7.mp4", "run", "train", "yt-5of6ffo6-Bw"),
        (
            "validation/fly/getty-karate-video-id635808620_4.mp4",
            "fly",
            "validate",
            "getty-karate-video-id635808620",
        ),
    ]


@pytest.mark.parametrize(
    "line, said",
    [
        ("sit/a_1.mp4,sit,3,0", "label 'sit' is not among the 339 classes"),
        ("run/a_1.mp4,run,3", "wanted path,label or"),
        ("run/yt-5of6ffo6-Bw_7.mp4,run,3,0", "listed twice"),
        ("run/a.mp4", "got 1 columns"),
    ],
)
def test_moments_lists_with_a_bad_line(tmp_path, line, said):
    moments(tmp_path, ["fly", "run", *(f"c{i}" for i in range(337))], line)
    with pytest.raises(ValueError, match=f"trainingSet.csv, line 3: .*{said}"):
        open_dataset("moments", tmp_path)


def test_moments_classes_of_both_versions(real_data, tmp_path):
    own = real_data / "annotations/moments"
    for name, count in (("category_momentsv2.txt", 305), ("mmaction2_mit_label_map.txt", 339)):
        classes = (own / name).read_text().splitlines()
        write(tmp_path / f"{count}/category_momentsv2.txt", *classes)
        clips = (f"{label}/flickr-1-2_{i}.mp4,{label},3,1" for i, label in enumerate(classes))
        write(tmp_path / f"{count}/trainingSet.csv", *clips)
        split, whole = counted("moments", tmp_path / str(count))
        assert (
            split == [count, 0, 0, 0]
            and list(whole.classes) == classes
            and len(whole.source_videos) == 1
        )
    shutil.copy(own / "category_multi_momentsv2.txt", tmp_path / "305/category_momentsv2.txt")
    with pytest.raises(
        ValueError, match="Moments in Time has 339 or 305 or 200 classes, this list has 292"
    ):
        open_dataset("moments", tmp_path / "305")


# ---- ActivityNet -------------------------------------------------------------------------------


def activitynet(root: Path, classes: list[str], bom: str = "", **videos) -> Path:
    whole = {
        f"id{i:09d}": {
            "subset": "validation",
            "annotations": [{"segment": [0, 5.5], "label": name}],
        }
        for i, name in enumerate(classes)
    }
    write_json(
        root / "activity_net.v1-3.min.json",
        {"database": {**videos, **whole}, "version": "VERSION 1.3"},
        bom,
    )
    return root


CLASSES = [f"Doing {i:03d}" for i in range(200)]
VIDEO = {
    "subset": "training",
    "annotations": [
        {"segment": [6.27, 17.0049], "label": CLASSES[3]},
        {"segment": [6.27, 17.0049], "label": CLASSES[4]},
        {"segment": [30, 41.5], "label": CLASSES[3]},
    ],
}
TESTED = {"subset": "testing", "annotations": []}


def test_activitynet_segments_are_found_by_pattern_or_by_time(tmp_path):
    root = activitynet(tmp_path, CLASSES, "\ufeff", abcdefghijk=VIDEO, lmnopqrstuv=TESTED)
    assert detect_dataset(root) == "activitynet"
    touch(
        root,
        "clips/v_abcdefghijk_6.27_17.00.mp4",
        "train/abcdefghijk_000029_000041.mkv",
        "v_id000000000_2_5.mp4",
    )
    manifest = open_dataset("activitynet", root, missing="keep")
    assert np.bincount(manifest.split).tolist() == [2, 200] and list(manifest.classes) == CLASSES
    assert rows(manifest)[:3] == [
        ("clips/v_abcdefghijk_6.27_17.00.mp4", CLASSES[3], "train", "abcdefghijk"),
        ("train/abcdefghijk_000029_000041.mkv", CLASSES[3], "train", "abcdefghijk"),
        ("v_id000000000_0.00_5.50.mp4", CLASSES[0], "validate", "id000000000"),
    ]
    touch(root, "Doing_003/abcdefghijk_2.mp4")
    file = root / "activity_net.v1-3.min.json"
    overlapping = {
        "subset": "training",
        "annotations": [
            {"segment": [1, 2], "label": CLASSES[0]},
            {"segment": [1.5, 2.5], "label": CLASSES[0]},
        ],
    }
    place = activitynet(tmp_path / "near", CLASSES, abcdefghijk=overlapping)
    near = open_dataset("activitynet", touch(place, "v_abcdefghijk_1.50_2.50.mp4"), missing="keep")
    assert near.path[:2].tolist() == ["v_abcdefghijk_1.00_2.00.mp4", "v_abcdefghijk_1.50_2.50.mp4"]
    numbers = open_dataset("activitynet", root, pattern="{id}_{n}", missing="keep", lists=file)
    assert [row["path"] for row in words(numbers)[:2]] == [
        "clips/v_abcdefghijk_6.27_17.00.mp4",
        "Doing_003/abcdefghijk_2.mp4",
    ]


@pytest.mark.parametrize(
    "video, said",
    [
        ({"subset": "dev"}, "video abcdefghijk: wanted a subset of"),
        (
            {"subset": "training", "annotations": [{"label": "x"}]},
            "abcdefghijk, annotation 0: wanted label and segment",
        ),
        (
            {"subset": "training", "annotations": [{"segment": [1, 2], "label": "Sofa"}]},
            "200 classes, this list has 201",
        ),
    ],
)
def test_activitynet_json_that_does_not_fit(tmp_path, video, said):
    activitynet(tmp_path, CLASSES, abcdefghijk=video)
    with pytest.raises(ValueError, match=f"activity_net.v1-3.min.json.*{said}"):
        open_dataset("activitynet", tmp_path)


def test_activitynet_other_faults(tmp_path, real_data):
    names = real_data / "annotations/activitynet/label_map.txt"
    own = names.read_text().splitlines()
    assert counted("activitynet", activitynet(tmp_path, own), classes=names)[1].classes == tuple(
        own
    )
    activitynet(tmp_path, [*own[:-1], "Sofa"])
    with pytest.raises(
        ValueError,
        match="video id000000199, annotation 0: label 'Sofa' is not among the 200 classes",
    ):
        open_dataset("activitynet", tmp_path, classes=names)
    with pytest.raises(ValueError, match=r"pattern '\{video\}': wanted \{id\}, \{start\}"):
        open_dataset("activitynet", tmp_path, pattern="{video}")
    write_json(tmp_path / "activity_net.v1-3.min.json", {"videos": {}})
    with pytest.raises(ValueError, match='wanted an object with "database"'):
        open_dataset("activitynet", tmp_path)


# ---- pictures ----------------------------------------------------------------------------------


def cifar(root: Path, kind: str, names=CIFAR100, each: int = 2) -> np.ndarray:
    """An archive as the authors pack it, with a few pictures a class. Returns train's pixels
    [N,32,32,3]."""
    rng = np.random.default_rng(0)
    place = root / f"cifar-100-{kind}"
    place.mkdir(parents=True)
    label = np.tile(np.arange(len(names)), each)
    if kind == "python":
        (place / "meta").write_bytes(pickle.dumps({"fine_label_names": list(names)}, protocol=2))
    else:
        write(place / "fine_label_names.txt", *names)
    pixels = {}
    for split in ("train", "test"):
        pixels[split] = rng.integers(0, 256, (len(label), 3072), dtype=np.uint8)
        if kind == "python":
            batch = {
                "fine_labels": label.tolist(),
                "coarse_labels": label.tolist(),
                "data": pixels[split],
            }
            (place / split).write_bytes(pickle.dumps(batch, protocol=2))
        else:
            records = np.concatenate(
                [np.zeros((len(label), 1)), label[:, None], pixels[split]], axis=1
            )
            records.astype(np.uint8).tofile(place / f"{split}.bin")
    return pixels["train"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("kind", ["python", "binary"])
@pytest.mark.parametrize("packed", [False, True])
def test_cifar100_archives_are_unpacked_once(tmp_path, kind, packed):
    pixels = cifar(tmp_path, kind)
    if packed:
        with tarfile.open(tmp_path / f"cifar-100-{kind}.tar.gz", "w:gz") as tar:
            tar.add(tmp_path / f"cifar-100-{kind}", f"cifar-100-{kind}")
        shutil.rmtree(tmp_path / f"cifar-100-{kind}")
    assert detect_dataset(tmp_path) == "cifar100"
    manifest = open_dataset("cifar100", tmp_path)
    assert manifest.classes == CIFAR100 and np.bincount(manifest.split).tolist() == [200, 0, 200]
    row = manifest.select("train").select(mask=manifest.select("train").label == 7)
    assert [str(path) for path in row.path] == [
        f"cifar100-png/train/{CIFAR100[7]}/{i:05d}.png" for i in (7, 107)
    ]
    assert (np.asarray(Image.open(row.absolute(1))) == pixels[107]).all()
    before = row.absolute(0).stat().st_mtime_ns
    for archive in tmp_path.glob("cifar-100-*"):
        shutil.rmtree(archive) if archive.is_dir() else archive.unlink()
    assert detect_dataset(tmp_path) == "cifar100" and words(
        open_dataset("cifar100", tmp_path)
    ) == words(manifest)
    assert row.absolute(0).stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["cifar100-png"]


def test_cifar100_unpacking_goes_on_where_it_stopped(tmp_path, monkeypatch):
    cifar(tmp_path, "binary")
    save, count = Image.Image.save, [0]

    def full_disk(self, file, **kwargs):
        count[0] += 1
        if count[0] == 150:
            Path(file).write_bytes(b"half")
            raise OSError("no space left")
        save(self, file, **kwargs)

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        open_dataset("cifar100", tmp_path)
    assert not (tmp_path / "cifar100-png").exists()
    manifest = open_dataset("cifar100", tmp_path)
    assert count[0] == 401 and len(manifest) == 400, (
        "each picture once, and the one that failed again"
    )
    assert sum(1 for _ in (tmp_path / "cifar100-png").rglob("*.*")) == 400


def test_cifar100_archives_of_another_make(tmp_path):
    cifar(tmp_path / "a", "python", names=[*CIFAR100[:5], "sofa", *CIFAR100[6:]])
    with pytest.raises(
        ValueError, match="cifar-100-python: label 5 is 'sofa', CIFAR-100's is 'bed'"
    ):
        open_dataset("cifar100", tmp_path / "a")
    cifar(tmp_path / "b", "binary", names=CIFAR100[:10])
    with pytest.raises(
        ValueError, match="cifar-100-binary: label 10 is None, CIFAR-100's is 'bowl'"
    ):
        open_dataset("cifar100", tmp_path / "b")
    cifar(tmp_path / "c", "python")
    (tmp_path / "c/cifar-100-python/train").write_bytes(
        pickle.dumps({"fine_labels": Path("x")}, protocol=2)
    )
    with pytest.raises(
        ValueError, match="it asks for pathlib.*only arrays, lists and dicts are read"
    ):
        open_dataset("cifar100", tmp_path / "c")
    cifar(tmp_path / "d", "binary")
    with open(tmp_path / "d/cifar-100-binary/train.bin", "ab") as file:
        file.write(b"0")
    with pytest.raises(ValueError, match="no multiple of a picture's 3074"):
        open_dataset("cifar100", tmp_path / "d")


def test_cifar100_folders(tmp_path, real_data):
    root = touch(tmp_path, "train/train/1.png", "train/apple/1.png", "test/apple/2.png")
    assert detect_dataset(root) == "cifar100"
    assert rows(open_dataset("cifar100", root)) == [
        ("test/apple/2.png", "apple", "test", "test/apple/2.png"),
        ("train/apple/1.png", "apple", "train", "train/apple/1.png"),
        ("train/train/1.png", "train", "train", "train/train/1.png"),
    ]
    touch(root, "train/sofa/1.png")
    assert detect_dataset(root) == "folder"
    with pytest.raises(
        ValueError, match=r"train/sofa/1.png: wanted train/<class>/\*.png with one of CIFAR-100's"
    ):
        open_dataset("cifar100", root)
    with tarfile.open(real_data / "cifar10of100.tar") as tar:
        names = [name for name in tar.getnames() if name.endswith(".png")]
    touch(tmp_path / "real", *names)
    assert detect_dataset(tmp_path / "real/cifar10of100") == "cifar100"
    manifest = open_dataset("cifar100", tmp_path / "real/cifar10of100")
    assert np.bincount(manifest.split).tolist() == [5000, 0, 1000] and len(manifest.classes) == 10


@pytest.mark.parametrize("place", ["", "ILSVRC/Data/CLS-LOC/"])
def test_imagenet_folders_and_readable_names(tmp_path, place):
    paths = (
        "train/n03126707/n03126707_1.JPEG",
        "train/n01440764/n01440764_10.JPEG",
        "train/n02012849/n02012849_2.JPEG",
        "val/n01440764/ILSVRC2012_val_00000293.JPEG",
    )
    root = touch(tmp_path, *(place + path for path in paths))
    assert detect_dataset(root) == "imagenet"
    manifest = open_dataset("imagenet", root)
    assert manifest.classes == (
        "n01440764",
        "n02012849",
        "n03126707",
    ) and manifest.label.tolist() == [0, 1, 2, 0]
    assert rows(manifest)[-1][0::2] == (
        f"{place}val/n01440764/ILSVRC2012_val_00000293.JPEG",
        "validate",
    )
    assert len(manifest.source_videos) == 4
    write(
        root / "LOC_synset_mapping.txt",
        "n01440764 tench, Tinca tinca",
        "n02012849 crane",
        "n03126707 crane",
        newline="\r\n",
        bom="\ufeff",
    )
    named = open_dataset("imagenet", root)
    assert named.classes == ("tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)")
    assert named.label.tolist() == manifest.label.tolist()


@pytest.mark.parametrize(
    "path, said",
    [
        (
            "val/ILSVRC2012_val_00000001.JPEG",
            r"is in no class folder: move each picture into val/<wnid>/.*ground_truth",
        ),
        ("val/n00000001/a.JPEG", "class 'n00000001' is no wnid like n01440764, or not in train"),
        ("train/sofa/a.JPEG", "class 'sofa' is no wnid"),
    ],
)
def test_imagenet_folders_that_do_not_fit(tmp_path, path, said):
    touch(tmp_path, "train/n01440764/a.JPEG", path, "ILSVRC2012_validation_ground_truth.txt")
    with pytest.raises(ValueError, match=f"{path.split('/')[-1]}.*{said}"):
        open_dataset("imagenet", tmp_path)


def test_any_folder_of_pictures(tmp_path):
    root = touch(
        tmp_path,
        "cat/a.jpg",
        "cat/b.JPEG",
        "cat/c_c01.webp",
        "dog/d.bmp",
        "dog/clip/1.png",
        "dog/clip/2.png",
    )
    assert detect_dataset(root) == "folder"
    manifest = open_dataset("folder", root, held_out=0)
    assert {(row["path"], row["source_video"]) for row in words(manifest)} == {
        *((path, path) for path in ("cat/a.jpg", "cat/b.JPEG", "cat/c_c01.webp", "dog/d.bmp")),
        ("dog/clip/1.png", "dog/clip"),
        ("dog/clip/2.png", "dog/clip"),
    }
    touch(root, "cat/film.mp4")
    assert [row["path"] for row in words(open_dataset("folder", root))] == ["cat/film.mp4"], (
        "thumbnails are no samples"
    )


# ---- recognizing -------------------------------------------------------------------------------


def test_each_data_set_is_recognized_by_what_its_folder_holds(tmp_path):
    """No one's folder fits another's row, but the rows further down, which are never tried."""
    write(touch(tmp_path / "csv", "a.mp4") / "manifest.csv", "path", "a.mp4")
    ucf(tmp_path / "ucf101")
    hmdb(tmp_path / "hmdb51")
    for name in ("train_k200.csv", "val_k200.csv"):
        write(tmp_path / "minikinetics200" / name, K400)
    for number in (400, 600, 700):
        write(tmp_path / f"kinetics{number}/annotations/val.csv", K400, *kinetics(number))
    write(tmp_path / "arid/mapping_table.txt", "0\tRun")
    for name in ("train.txt", "validate.txt"):
        write(tmp_path / "arid" / name, "0\t0\tRun/Run_1_2.mp4")
    ssv2(tmp_path / "ssv2")
    moments(tmp_path / "moments", ["fly", "run"])
    activitynet(tmp_path / "activitynet", CLASSES)
    write(touch(tmp_path / "pathlabel", "a.mp4") / "train.csv", "a.mp4 0")
    touch(
        tmp_path,
        "cifar100/train/apple/1.png",
        "imagenet/train/n01440764/1.JPEG",
        "weizmann/0/00000002.jpg",
        "loose/a.mp4",
        "folder/run/a.mp4",
    )
    assert {path.name for path in tmp_path.iterdir()} == DATASETS.keys()
    for name in DATASETS:
        fits = [other for other, row in DATASETS.items() if row.fits(tmp_path / name)]
        assert detect_dataset(tmp_path / name) == name and set(fits) <= {name, "folder", "loose"}
    (tmp_path / "plain.txt").touch()
    assert not any(row.fits(tmp_path / "plain.txt") for row in DATASETS.values())
