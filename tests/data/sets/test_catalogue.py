"""Manifests and readers of named data sets; samples that depend on (seed, epoch, row) only; batches
for any ranks."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from vidbench.data.flow import store as flow_store
from vidbench.data.loading import augmentation, transforms
from vidbench.data.loading.augmentation import PRESETS
from vidbench.data.loading.dataset import Batches, Clips, ClipSpec
from vidbench.data.manifest import Manifest
from vidbench.data.sets.catalogue import (
    DATASETS,
    detect_dataset,
    keep,
    open_dataset,
    prepare_dataset,
)
from vidbench.data.video import clips, windows
from vidbench.data.video.clips import VideoError
from vidbench.data.video.decoders import DECODERS, check_decoder

ROWS = [
    ("a b,ü.mp4", "run", "train", "s"),
    ("sub/c.mp4", None, "val", None),
    ("d.mp4", "walk", "test", "s"),
]
SMALL = replace(PRESETS["vidbench"], size=32)
SPEC = ClipSpec(frames=4, stride=2, augment=SMALL)


def touch(root: Path, *paths: str) -> Path:
    """Empty files: readers of lists look at names only."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def words(manifest: Manifest) -> list[dict[str, str]]:
    return [manifest.names(i) for i in range(len(manifest))]


# ---- the manifest ------------------------------------------------------------------------------


def test_manifest_holds_columns_and_survives_disk_and_pickle(tmp_path):
    manifest = Manifest.from_rows(tmp_path / "videos", ROWS)
    assert manifest.classes == ("run", "walk") and manifest.label.tolist() == [0, -1, 1]
    assert manifest.split.tolist() == [0, 1, 2] and manifest.source_video.tolist() == [0, 1, 0]
    assert manifest.absolute(1) == tmp_path / "videos/sub/c.mp4"
    csv = manifest.save(tmp_path / "elsewhere")
    assert csv.read_text().splitlines()[:2] == [
        "path,label,split,source_video",
        '"a b,ü.mp4",run,train,s',
    ]
    for other in (
        Manifest.load(csv),
        Manifest.load(csv.parent),
        pickle.loads(pickle.dumps(manifest)),
    ):
        assert words(other) == words(manifest) and other.classes == manifest.classes
        assert other.absolute(0) == manifest.absolute(0).resolve()
    assert Manifest.load(csv, root="/x").absolute(0) == Path("/x/a b,ü.mp4")
    manifest = replace(manifest, root=csv.parent)
    manifest.save(csv.parent)
    assert Manifest.load(csv).root == csv.parent, "the root of an earlier save must not linger"
    assert sorted(p.name for p in csv.parent.iterdir()) == ["classes.txt", "manifest.csv"]


def test_manifest_selects_and_keeps_labels_and_sources():
    manifest = Manifest.from_rows("/v", ROWS)
    test = manifest.select("test")
    assert (
        test.path.tolist() == ["d.mp4"]
        and test.label.tolist() == [1]
        and test.source_video.tolist() == [0]
    )
    assert test.classes == manifest.classes and words(test) == words(manifest)[2:]
    assert manifest.select(mask=np.array([True, False, True])).path.tolist() == [
        "a b,ü.mp4",
        "d.mp4",
    ]
    assert manifest.select("test", mask=np.array([2, 0])).path.tolist() == ["d.mp4"]
    with pytest.raises(ValueError, match="train, validate, test, none"):
        manifest.select("dev")
    with pytest.raises(IndexError):
        manifest.select(mask=np.array([True]))


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "path,label\na.mp4,run\nb.mp4,fly\n",
            r"manifest.csv, line 3: label 'fly' is not among the 2 classes \(run, w",
        ),
        ("path,label\na.mp4,run\n\nb.mp4\n", r"line 4: wanted 2 columns .* got 1"),
        ("path,label,split\na.mp4,run,dev\n", "line 2: split 'dev' is not one of"),
        (
            "path,split\na.mp4,train\nb.mp4,test\na.mp4,test\n",
            "line 4: 'a.mp4' is listed twice, first in .*line 2",
        ),
        ("path,lable\na.mp4,run\n", "line 1: wanted a header of path and some of"),
        ("a.mp4,run\n", "line 1: wanted a header"),
        ("path,label\n,run\n", "line 2: the path is empty"),
        ("", "line 1"),
    ],
)
def test_bad_csv_names_file_and_line(tmp_path, text, said):
    (tmp_path / "manifest.csv").write_text(text)
    (tmp_path / "classes.txt").write_text("run\nwalk\n")
    touch(tmp_path, "a.mp4", "b.mp4")
    for read in (lambda: Manifest.load(tmp_path), lambda: open_dataset("csv", tmp_path)):
        with pytest.raises(ValueError, match=said):
            read()


def test_manifest_refuses_columns_that_do_not_fit():
    with pytest.raises(ValueError, match="label must have shape"):
        Manifest(Path("/v"), ("run",), ["a.mp4"], [0, 0], [0], [0])
    with pytest.raises(ValueError, match="labels must be in -1..0"):
        Manifest(Path("/v"), ("run",), ["a.mp4"], [1], [0], [0])
    with pytest.raises(ValueError, match="names a class twice: 'run'"):
        Manifest.from_rows("/v", [], ["run", "run"])
    with pytest.raises(FileNotFoundError, match="header path,label,split,source_video"):
        Manifest.load("/nowhere")


# ---- readers -----------------------------------------------------------------------------------


def test_csv_with_only_paths(tmp_path):
    touch(tmp_path, "x/a.mp4", "b.mp4")
    (tmp_path / "mine.csv").write_text("path\nx/a.mp4\nb.mp4\n")
    assert detect_dataset(tmp_path / "mine.csv") == "csv"
    manifest = open_dataset("csv", tmp_path / "mine.csv")
    assert manifest.label.tolist() == [-1, -1] and manifest.classes == ()
    assert sorted(manifest.split.tolist()) == [0, 2], "one of two source videos is held out"
    assert manifest.source_video.tolist() == [0, 1]


def test_class_folders_with_splits_and_sources(tmp_path):
    touch(
        tmp_path,
        "train/run/film_clip1.mp4",
        "train/walk/film_clip2.mp4",
        "train/run/v_run_g01_c01.avi",
        "val/run/v_run_g01_c02.MP4",
        "test/walk/v_run_g01_c03.webm",
        "test/walk/film.mp4",
        "test/walk/notes.txt",
        "train/run/.hidden.mp4",
        ".cache/run/x.mp4",
    )
    assert detect_dataset(tmp_path) == "folder"
    manifest = open_dataset("folder", tmp_path)
    assert [tuple(row.values()) for row in words(manifest)] == [
        (
            "test/walk/film.mp4",
            "walk",
            "test",
            "test/walk/film.mp4",
        ),  # no clip number: nothing is guessed
        (
            "test/walk/v_run_g01_c03.webm",
            "walk",
            "test",
            "walk/v_run_g01",
        ),  # groups count within the class
        ("train/run/film_clip1.mp4", "run", "train", "film"),
        ("train/run/v_run_g01_c01.avi", "run", "train", "run/v_run_g01"),
        ("train/walk/film_clip2.mp4", "walk", "train", "film"),
        ("val/run/v_run_g01_c02.MP4", "run", "validate", "run/v_run_g01"),
    ]


def test_class_folders_without_splits_are_split_by_source(tmp_path):
    touch(
        tmp_path,
        *(
            f"{label}/film{label}{film}_c{clip}.mp4"
            for label in "xyz"
            for film in range(8)
            for clip in range(3)
        ),
        "one/single.mp4",
    )
    manifest = open_dataset("folder", tmp_path)
    for label in "xyz":
        rows = manifest.label == manifest.classes.index(label)
        assert (manifest.split[rows] == 2).sum() == 2 * 3  # a quarter of 8 sources, 3 clips each
    train, test = (
        set(manifest.select("train").source_video.tolist()),
        set(manifest.select("test").source_video.tolist()),
    )
    assert not train & test and "single.mp4" not in "".join(manifest.select("test").path)
    assert words(open_dataset("folder", tmp_path)) == words(manifest)
    assert words(open_dataset("folder", tmp_path, seed=1)) != words(manifest)
    validate = open_dataset("folder", tmp_path, into="validate", held_out=0.5).select("validate")
    assert len(validate) == 3 * 4 * 3
    before = {row["path"]: row["split"] for row in words(manifest)}
    touch(tmp_path, "x/filmx0_c9.mp4")
    assert (
        before.items()
        <= {r["path"]: r["split"] for r in words(open_dataset("folder", tmp_path))}.items()
    )


def test_films_that_serve_several_classes_stay_on_one_side(tmp_path):
    films = {"x": range(8), "y": range(4, 12), "z": range(0, 12, 2)}
    touch(
        tmp_path,
        *(f"{label}/film{n}_clip{ord(label)}.mp4" for label in films for n in films[label]),
    )
    for seed in range(12):
        manifest = open_dataset("folder", tmp_path, seed=seed)
        test = manifest.select("test")
        assert not set(manifest.select("train").source_video.tolist()) & set(
            test.source_video.tolist()
        )
        assert (np.bincount(test.label, minlength=3) >= 2).all(), (
            "at least a quarter of each class's films"
        )


def test_folders_that_make_no_sense(tmp_path):
    with pytest.raises(ValueError, match="no videos"):
        open_dataset("folder", tmp_path)
    with pytest.raises(ValueError, match="no data set recognized in .*: no files"):
        detect_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        detect_dataset(tmp_path / "gone")
    with pytest.raises(
        ValueError, match="known are csv, ucf101, hmdb51, .*imagenet, weizmann, loose, folder"
    ):
        open_dataset("ucf", tmp_path)
    with pytest.raises(ValueError, match=r"1 files outside of class folders \(a.mp4\)"):
        open_dataset("folder", touch(tmp_path / "loose", "a.mp4", "run/b.mp4"))
    with pytest.raises(ValueError, match=r"mixes split folders \(train\) with others \(run\)"):
        open_dataset("folder", touch(tmp_path / "mixed", "train/run/a.mp4", "run/b.mp4"))
    with pytest.raises(ValueError, match="in a split folder, but in no class folder"):
        open_dataset("folder", touch(tmp_path / "flat", "train/a.mp4"))


def ucf(root: Path, *, newline: str = "\n", folder: str = "HandstandPushups") -> Path:
    lists = root / "lists"
    lists.mkdir(parents=True)
    handstand = "HandstandPushups/v_HandStandPushups"
    texts = {
        "classInd.txt": [
            "1 Archery",
            "2 HandstandPushups",
            *(f"{i} Class{i}" for i in range(3, 102)),
        ],
        "trainlist01.txt": ["Archery/v_Archery_g08_c01.avi 1", f"{handstand}_g08_c02.avi 2"],
        "testlist01.txt": ["Archery/v_Archery_g01_c01.avi", f"{handstand}_g01_c01.avi"],
    }
    for name, lines in texts.items():
        (lists / name).write_bytes("".join(line + newline for line in lines).encode())
    return touch(
        root,
        "UCF-101/Archery/v_Archery_g08_c01.avi",
        f"UCF-101/{folder}/v_HandstandPushups_g08_c02.avi",
        "UCF-101/Archery/v_Archery_g01_c01.avi",
        f"UCF-101/{folder}/v_HandStandPushups_g01_c01.avi",
    )


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("folder", ["HandstandPushups", "HandStandPushups"])
def test_ucf101_lists_and_the_two_spellings_of_handstand(tmp_path, newline, folder):
    root = ucf(tmp_path, newline=newline, folder=folder)
    assert detect_dataset(root) == "ucf101"
    manifest = open_dataset("ucf101", root)
    assert manifest.classes[:3] == ("Archery", "HandstandPushups", "Class3")
    assert [tuple(row.values()) for row in words(manifest)] == [
        ("UCF-101/Archery/v_Archery_g08_c01.avi", "Archery", "train", "v_Archery_g08"),
        (
            f"UCF-101/{folder}/v_HandstandPushups_g08_c02.avi",
            "HandstandPushups",
            "train",
            "v_HandStandPushups_g08",
        ),
        ("UCF-101/Archery/v_Archery_g01_c01.avi", "Archery", "test", "v_Archery_g01"),
        (
            f"UCF-101/{folder}/v_HandStandPushups_g01_c01.avi",
            "HandstandPushups",
            "test",
            "v_HandStandPushups_g01",
        ),
    ]
    assert all(manifest.absolute(i).is_file() for i in range(4))


def test_ucf101_prefers_the_exact_name(tmp_path):
    root = touch(ucf(tmp_path), "UCF-101/HandstandPushups/v_HandStandPushups_g08_c02.avi")
    if len(list((root / "UCF-101/HandstandPushups").iterdir())) < 3:
        pytest.skip("this file system does not tell upper from lower case")
    assert open_dataset("ucf101", root).names(1)["path"].endswith("v_HandStandPushups_g08_c02.avi")
    (root / "UCF-101/Archery/V_Archery_g01_c01.avi").touch()
    assert open_dataset("ucf101", root).names(2)["path"].endswith("/v_Archery_g01_c01.avi")


@pytest.mark.parametrize(
    "name, line, said",
    [
        (
            "trainlist01.txt",
            "Archery/v_Archery_g09_c01.avi 2",
            "trainlist01.txt, line 3: class number 2 is not that of",
        ),
        (
            "trainlist01.txt",
            "Archery/v_Archery_g09_c01.avi",
            "trainlist01.txt, line 3: wanted 2 columns",
        ),
        (
            "testlist01.txt",
            "Sofa/v_Sofa_g09_c01.avi",
            "testlist01.txt, line 3: label 'Sofa' is not among the 101 classes",
        ),
        (
            "testlist01.txt",
            "Archery/v_Archery_g08_c01.avi",
            "testlist01.txt, line 3: .* twice, first in .*trainlist01.txt",
        ),
        ("classInd.txt", "4 Sofa", "classInd.txt, line 102: wanted class number 102, got '4'"),
    ],
)
def test_ucf101_lists_with_a_bad_line(tmp_path, name, line, said):
    root = ucf(tmp_path)
    with open(root / "lists" / name, "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=said):
        open_dataset("ucf101", root)


def test_missing_files_are_counted_and_never_dropped_silently(tmp_path):
    root = ucf(tmp_path)
    (root / "UCF-101/Archery/v_Archery_g08_c01.avi").unlink()
    (root / "UCF-101/Archery/v_Archery_g01_c01.avi").unlink()
    said = r"2 of 4 listed videos are missing .*v_Archery_g08_c01.avi \(.*trainlist01.txt, line 1\)"
    with pytest.raises(FileNotFoundError, match=said):
        open_dataset("ucf101", root)
    with pytest.warns(UserWarning, match=said):
        manifest = open_dataset("ucf101", root, missing="drop")
    assert manifest.label.tolist() == [1, 1] and manifest.classes[:3] == (
        "Archery",
        "HandstandPushups",
        "Class3",
    )
    with pytest.raises(ValueError, match="missing must be"):
        open_dataset("ucf101", root, missing="ignore")


@pytest.mark.parametrize("ends", ["crlf", "lf"])
def test_ucf101s_own_lists(real_data, ends):
    lists, videos = real_data / f"annotations/ucf101_{ends}", real_data / "real_clips/ucf101"
    assert detect_dataset(lists) == "ucf101"
    for fold, (train, test) in {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}.items():
        rows = DATASETS["ucf101"].read(videos, lists=lists, fold=fold)
        whole = Manifest.from_rows(videos, rows.rows, rows.classes)
        assert np.bincount(whole.split).tolist() == [train, 0, test] and len(whole.classes) == 101
        assert len(whole.source_videos) == 101 * 25
        assert not set(whole.select("train").source_video.tolist()) & set(
            whole.select("test").source_video.tolist()
        )
        with pytest.warns(UserWarning, match="13296 of 13320 listed videos are missing"):
            assert len(open_dataset("ucf101", videos, lists=lists, fold=fold, missing="drop")) == 24


def test_arids_own_lists_and_the_six_class_subset(real_data):
    lists = real_data / "annotations/arid_v1"
    assert detect_dataset(lists) == detect_dataset(real_data / "arid6") == "arid"
    for fold in (1, 2, 3):
        rows = DATASETS["arid"].read(lists, fold=fold)
        whole = Manifest.from_rows(lists, rows.rows, rows.classes)
        files = (lists / f"ARID_split{fold}_{word}.txt" for word in ("train", "test", "other"))
        lines = [len(file.read_text().splitlines()) for file in files]
        assert (
            np.bincount(whole.split).tolist() == [lines[0], 0, lines[1], lines[2]]
            and len(whole.classes) == 11
        )
    manifest = open_dataset("arid", real_data / "arid6")
    assert manifest.classes == ("Jump", "Run", "Sit", "Stand", "Turn", "Walk")
    assert np.bincount(manifest.split).tolist() == [90, 45]
    assert words(manifest)[0] == {
        "path": "train/Jump/Jump_11_1.mp4",
        "label": "Jump",
        "split": "train",
        "source_video": "Jump_11",
    }
    assert words(manifest)[90]["source_video"] == "validate/24.mp4"


def test_arid_lists_with_a_bad_line(tmp_path):
    (tmp_path / "mapping_table.txt").write_text("0\tJump\n1\tRun\n")
    (tmp_path / "validate.txt").write_text("0\t0\t24.mp4\n")
    for line, said in (
        ("0\t2\tRun/Run_1_1.mp4", "number 2 is not in"),
        ("0\t0\tRun/Run_1_1.mp4", "is 'Jump', but"),
        ("0 1 Run/Run_1_1.mp4", "wanted 3 columns"),
    ):
        (tmp_path / "train.txt").write_text(f"0\t1\tRun/Run_1_2.mp4\n{line}\n")
        with pytest.raises(ValueError, match=f"train.txt, line 2: .*{said}"):
            open_dataset("arid", tmp_path)


# ---- samples -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(toy_tiny, tmp_path_factory):
    """A few toy videos and their flow."""
    few = toy_tiny.select(mask=np.arange(len(toy_tiny)) % 25 == 0)
    folder = tmp_path_factory.mktemp("flow")
    flow_store.extract(few, folder, "dis", workers=1)
    return few, folder


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) if isinstance(one[k], torch.Tensor) else one[k] == other[k]
        for k in one
    )


def test_a_sample_is_a_function_of_seed_epoch_and_row(world):
    manifest, folder = world
    spec = replace(SPEC, streams=("rgb", "flow"))
    dataset = Clips(manifest, spec, flow_folder=folder, seed=7)
    sample = dataset[3, 2]
    assert {key: getattr(value, "shape", value) for key, value in sample.items()} == {
        "rgb": (2, 3, 4, 32, 32),
        "flow": (2, 3, 4, 32, 32),
        "label": int(manifest.label[2]),
        "source_video": int(manifest.source_video[2]),
        "row": 2,
    }
    assert sample["rgb"].dtype == torch.float32
    assert not equal(sample, dataset[4, 2]), "another epoch draws other clips"
    assert equal(sample, dataset[3, 2]) and equal(sample, pickle.loads(pickle.dumps(dataset))[3, 2])
    assert not equal(sample, Clips(manifest, spec, flow_folder=folder, seed=8)[3, 2])
    cached = Clips(manifest, spec, flow_folder=folder, seed=7, cache_bytes=1 << 28)
    assert equal(sample, cached[3, 2]) and equal(sample, cached[3, 2]) and cached.cache.used > 0
    assert len(pickle.dumps(cached)) < 1 << 16, "a worker is not sent the cache"
    tiny = Clips(manifest, spec, flow_folder=folder, seed=7, cache_bytes=1000)
    assert equal(sample, tiny[3, 2]) and not tiny.cache.used
    with pytest.raises(IndexError, match="row 99"):
        dataset[0, 99]


def test_streams_of_a_view_share_frames_crop_and_flip(world):
    """What comes out is what the pieces give by hand, with the documented order of draws."""
    manifest, folder = world
    row, spec = 1, replace(SPEC, streams=("rgb", "flow"), augment=replace(SMALL, one_clip=0.5))
    dataset = Clips(manifest, spec, flow_folder=folder, seed=5)
    path, kinds = str(manifest.path[row]), set()
    for epoch in range(6):
        rng = np.random.default_rng([5, epoch, row])
        length = min(clips.probe(manifest.absolute(row)).frames, flow_store.length(folder, path))
        drawn = windows.random_windows(length, 4, 2, 2, rng=rng)
        assert length == 29, "flow of the tiny world's 30 frames"
        pair = augmentation.draw_pair(spec.augment, 64, 64, 4, rng)
        kinds.add(pair.clips[0] == pair.clips[1])
        sample = dataset[epoch, row]
        for v in range(2):
            window = drawn[pair.clips[v]]
            rgb = clips.read(manifest.absolute(row), window).frames
            frames = {"rgb": rgb, "flow": flow_store.load(folder, path, window)}
            for stream, array in frames.items():
                clip = torch.from_numpy(array).permute(0, 3, 1, 2)
                assert torch.equal(
                    sample[stream][v], transforms.apply(clip, pair.views[v], spec.augment, stream)
                )
    assert kinds == {True, False}, "one clip twice and two clips must both have been seen"


def test_test_windows_times_crops_without_randomness(world):
    manifest, folder = world
    for sampling, count in (("spread", 3), ("sliding", 4), ("segments", 1)):
        spec = replace(
            SPEC, sampling=sampling, windows=3, hop=10, crops="three", streams=("rgb", "flow")
        )
        one, other = (Clips(manifest, spec, flow_folder=folder, seed=s)[s, 0] for s in (1, 2))
        assert equal(one, other) and one["rgb"].shape == one["flow"].shape == (
            count * 3,
            3,
            4,
            32,
            32,
        )
    spread = windows.spread_windows(29, 4, 3, 2)
    clip = torch.from_numpy(clips.read(manifest.absolute(0), spread[1]).frames).permute(0, 3, 1, 2)
    spread = Clips(manifest, replace(spec, sampling="spread"), flow_folder=folder)[0, 0]["rgb"]
    assert torch.equal(spread[3:6], transforms.test_crops(clip, "three", 32, None, "rgb", SMALL)), (
        "windows, then crops"
    )


def test_target_frame_rate_and_segments(world):
    manifest, _ = world  # 15 fps
    by_rate = Clips(
        manifest, replace(SPEC, stride=1, target_fps=5.0, sampling="spread", windows=2)
    )[0, 0]
    by_stride = Clips(manifest, replace(SPEC, stride=3, sampling="spread", windows=2))[0, 0]
    assert equal(by_rate, by_stride)
    drawn = Clips(manifest, replace(SPEC, sampling="random_segments", views=3, frames=8))[0, 0][
        "rgb"
    ]
    assert drawn.shape == (3, 3, 8, 32, 32)
    small, whole = (
        Clips(manifest, replace(SPEC, decode_size=size))[0, 0]["rgb"] for size in (48, None)
    )
    assert small.shape == whole.shape and 0 < (small - whole).abs().mean() < 1


@pytest.mark.parametrize(
    "change, said",
    [
        ({"streams": ("depth",)}, "streams"),
        ({"streams": "rgb"}, "streams"),
        ({"sampling": "dense"}, "sampling must be"),
        ({"pad": "zero"}, "pad must be"),
        ({"decoder": "cv2"}, "decoder must be one of decord, torchcodec, pyav"),
        ({"frames": 0}, "frames"),
        ({"stride": 1.5}, "stride"),
        ({"stride": 2, "target_fps": 5.0}, "stride or"),
        ({"views": 3, "augment": replace(SMALL, one_clip=0.5)}, "one_clip"),
    ],
)
def test_spec_refuses_nonsense(change, said):
    with pytest.raises(ValueError, match=said):
        ClipSpec(**change)


def test_dataset_refuses_nonsense(world):
    with pytest.raises(ValueError, match="flow_folder"):
        Clips(world[0], replace(SPEC, streams=("flow",)))


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_recipe_chooses_the_decoder(world, decoder, monkeypatch):
    manifest, opened = world[0], []
    video = clips.Video
    monkeypatch.setattr(
        clips, "Video", lambda path, *rest: opened.append(rest[0]) or video(path, *rest)
    )
    spec = replace(SPEC, decoder=decoder)
    try:
        check_decoder(decoder)
    except ImportError:  # refused before training starts, not in a worker
        with pytest.raises(ImportError, match=f"decoder '{decoder}' does not load; use decoder="):
            Clips(manifest, spec)
        return
    mine, default = Clips(manifest, spec)[0, 3]["rgb"], Clips(manifest, SPEC)[0, 3]["rgb"]
    assert opened == [decoder, "pyav"]
    assert (mine - default).abs().max() < 0.2  # the same frames in another color arithmetic


def test_samples_do_not_depend_on_workers_or_ranks(world):
    manifest, folder = world
    dataset = Clips(manifest, replace(SPEC, streams=("rgb", "flow")), flow_folder=folder, seed=7)

    def run(workers: int, rank: int = 0, world: int = 1) -> list[dict]:
        batches = Batches(len(manifest), 4, seed=7, rank=rank, world=world)
        batches.epoch = 2
        loader = DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=workers,
            worker_init_fn=transforms.worker_init,
            multiprocessing_context="spawn" if workers else None,
        )
        return list(loader)

    alone = run(0)
    assert len(alone) == len(manifest) // 4 >= 2
    assert all(equal(one, other) for one, other in zip(alone, run(2), strict=True))
    halves = zip(run(0, 0, 2), run(0, 1, 2), strict=True)
    joined = [{key: torch.cat([low[key], high[key]]) for key in low} for low, high in halves]
    assert all(equal(one, other) for one, other in zip(alone, joined, strict=True))


def test_a_corrupt_video_stops_the_loader_and_is_named(world, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(world[0].absolute(0).read_bytes()[:2000])
    manifest = Manifest.from_rows(tmp_path, [("broken.mp4", None, "train", None)])
    with pytest.raises(VideoError, match="broken.mp4"):
        Clips(manifest, SPEC)[0, 0]
    loader = DataLoader(Clips(manifest, SPEC), batch_sampler=Batches(1, 1, seed=0), num_workers=1)
    with pytest.raises(VideoError, match="broken.mp4"):
        next(iter(loader))


# ---- batches -----------------------------------------------------------------------------------


def all_rows(batches: Batches) -> list[list[int]]:
    return [[row for _, row in batch] for batch in batches]


def test_batches_show_a_row_once_an_epoch_in_an_order_of_its_own():
    batches = Batches(23, 4, seed=0)
    orders = []
    for epoch in range(3):
        batches.epoch = epoch
        assert {e for batch in batches for e, _ in batch} == {epoch}
        orders.append(sum(all_rows(batches), []))
        assert len(set(orders[-1])) == 20 and set(orders[-1]) < set(range(23))
        assert len(batches) == 5
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] != sum(all_rows(Batches(23, 4, seed=1)), [])


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("rows", [40, 41, 43, 46])
def test_any_number_of_ranks_sees_the_same_global_batches(world, rows):
    whole = all_rows(Batches(rows, 8, seed=3))
    parts = [all_rows(Batches(rows, 8, seed=3, rank=rank, world=world)) for rank in range(world)]
    for number, batch in enumerate(whole):
        assert [row for part in parts for row in part[number]] == batch
        assert len({len(part[number]) for part in parts}) == 1


def test_resume_within_an_epoch():
    batches = Batches(50, 5, seed=0)
    batches.epoch = 4
    whole = list(batches)
    batches.start = 7
    assert list(batches) == whole[7:] and len(batches) == 3


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"batch": 6, "world": 4}, "multiple of the number of ranks"),
        ({"batch": 64}, "do not fill one batch"),
        ({"batch": 4, "world": 2, "rank": 2}, "rank must be in 0..1"),
        ({"batch": 0}, "multiple"),
    ],
)
def test_batches_refuse_nonsense(arguments, said):
    with pytest.raises(ValueError, match=said):
        Batches(50, seed=0, **arguments)


@pytest.mark.slow
def test_a_big_manifest_is_small():
    """100,000 rows: columns of a few bytes, no list of objects."""
    rows = (
        (f"train/c{i % 400:03d}/video_{i:07d}.mp4", f"c{i % 400:03d}", "train", None)
        for i in range(100_000)
    )
    manifest = Manifest.from_rows("/v", rows)
    assert (
        sum(column.nbytes for column in (manifest.label, manifest.split, manifest.source_video))
        == 100_000 * 17
    )
    assert len(manifest.classes) == 400 and manifest.names(99_999)["path"].endswith(
        "video_0099999.mp4"
    )


def test_a_home_keeps_the_manifest_it_first_read(tmp_path):
    touch(tmp_path / "mine", "a/1.mp4", "a/2.mp4", "b/3.mp4", "b/4.mp4")
    place, first = prepare_dataset(tmp_path / "runs_dir", str(tmp_path / "mine"), held_out=0.5)
    assert place == tmp_path / "runs_dir" / "mine" and (place / "videos" / "manifest.csv").is_file()
    touch(
        tmp_path / "mine", "c/5.mp4"
    )  # whatever came later, what was trained on stays what is tested
    for options in ({}, {"held_out": 0.5}):
        assert words(
            prepare_dataset(tmp_path / "runs_dir", str(tmp_path / "mine"), **options)[1]
        ) == words(first)
    with pytest.raises(ValueError, match="held_out.*take another runs_dir"):
        prepare_dataset(tmp_path / "runs_dir", str(tmp_path / "mine"), held_out=0.25)
    touch(tmp_path / "other" / "mine", "a/1.mp4")
    with pytest.raises(ValueError, match="take another runs_dir"):
        prepare_dataset(tmp_path / "runs_dir", str(tmp_path / "other" / "mine"))
    assert len(prepare_dataset(tmp_path / "second", str(tmp_path / "mine"))[1]) == 5


def test_a_home_of_a_csv_and_of_nothing(tmp_path):
    touch(tmp_path, "x.mp4")
    (tmp_path / "list.csv").write_text("path\nx.mp4\n")
    place, manifest = prepare_dataset(tmp_path / "runs_dir", str(tmp_path / "list.csv"))
    assert place.name == "list" and manifest.absolute(0) == tmp_path / "x.mp4"
    assert (
        prepare_dataset(tmp_path / "runs_dir", str(tmp_path / "list.csv"))[1]
        .absolute(0)
        .samefile(tmp_path / "x.mp4")
    )
    with pytest.raises(FileNotFoundError, match="no such folder"):
        prepare_dataset(tmp_path / "runs_dir", str(tmp_path / "nowhere"))


# ---- folds -------------------------------------------------------------------------------------


def folds(root: Path) -> Path:
    """Two folds of UCF101's make: the second is the first with its sides changed."""
    ucf(root)
    for name, other in (
        ("trainlist02.txt", "testlist01.txt"),
        ("testlist02.txt", "trainlist01.txt"),
    ):
        lines = [line.split()[0] for line in (root / "lists" / other).read_text().splitlines()]
        ends = [" 1", " 2"] if name.startswith("train") else ["", ""]
        (root / "lists" / name).write_text(
            "".join(f"{a}{b}\n" for a, b in zip(lines, ends, strict=True))
        )
    return root


def test_each_fold_beyond_the_first_has_a_place_of_its_own(tmp_path):
    root, runs_dir = folds(tmp_path / "UCF101"), tmp_path / "runs_dir"
    (first_place, first), (place, second) = (
        prepare_dataset(runs_dir, str(root), fold=fold) for fold in (1, 2)
    )
    assert first_place == runs_dir / "UCF101" and place == runs_dir / "UCF101-fold2"
    assert second.split.tolist() == [0, 0, 2, 2] and first.split.tolist() == [0, 0, 2, 2]
    assert sorted(first.select("train").path) == sorted(second.select("test").path)
    assert json.loads((first_place / "videos/origin.json").read_text())["options"] == {}, (
        "as places were before folds"
    )
    assert json.loads((place / "videos/origin.json").read_text())["options"] == {"fold": 2}
    for fold, manifest in (
        (1, first),
        (2, second),
    ):  # read back, the second with and without what it was read with
        assert words(prepare_dataset(runs_dir, str(root), fold=fold)[1]) == words(manifest)
    assert words(keep(place / "videos", root)) == words(second), "unasked, the fold that is there"
    with pytest.raises(ValueError, match="fold must be one of 1, 2, 3, got 4"):
        prepare_dataset(runs_dir, str(root), fold=4)
    assert not (runs_dir / "UCF101-fold4").exists()


def test_a_place_of_another_fold_is_refused(tmp_path):
    root = folds(tmp_path / "UCF101")
    keep(tmp_path / "runs_dir/UCF101/videos", root, 2, lists=root / "lists")
    with pytest.raises(ValueError, match="'fold': 2.*wanted .*'fold': 1.*take another runs_dir"):
        prepare_dataset(tmp_path / "runs_dir", str(root))
    assert len(keep(tmp_path / "runs_dir/UCF101/videos", root, 2)) == 4, (
        "options that are not given are not compared"
    )
    with pytest.raises(ValueError, match="take another runs_dir"):
        keep(tmp_path / "runs_dir/UCF101/videos", root, 2, lists=root)


def test_what_has_no_folds_says_what_has(tmp_path):
    touch(tmp_path / "mine", "a/1.mp4", "a/2.mp4")
    for data in ("tiny", str(tmp_path / "mine")):
        with pytest.raises(
            ValueError,
            match="has no folds; got fold 2. .* ucf101, hmdb51, arid, weizmann have several",
        ):
            prepare_dataset(tmp_path / "runs_dir", data, fold=2)
    touch(tmp_path / "arid", "train/Run/Run_1_2.mp4", "validate/24.mp4")
    (tmp_path / "arid/mapping_table.txt").write_text("0\tRun\n")
    (tmp_path / "arid/train.txt").write_text("0\t0\tRun/Run_1_2.mp4\n")
    (tmp_path / "arid/validate.txt").write_text("0\t0\t24.mp4\n")
    with pytest.raises(ValueError, match="six-class subset, which has no fold 3"):
        prepare_dataset(tmp_path / "runs_dir", str(tmp_path / "arid"), fold=3)
    assert not (tmp_path / "runs_dir").exists(), "a refusal leaves nothing behind"
    assert len(prepare_dataset(tmp_path / "runs_dir", str(tmp_path / "arid"))[1]) == 2


@pytest.mark.parametrize("fold, train, test", [(1, 3570, 1530), (2, 3570, 1530), (3, 3570, 1530)])
def test_hmdb51s_own_folds_at_home(real_data, tmp_path, fold, train, test):
    data = str(real_data / "annotations/hmdb51")
    place, manifest = prepare_dataset(tmp_path, data, fold, missing="keep")
    assert np.bincount(manifest.split)[[0, 2]].tolist() == [train, test]
    assert place.name == ("hmdb51" if fold == 1 else f"hmdb51-fold{fold}")


# ---- strips, and Weizmann's actors -------------------------------------------------------------


def strip(file: Path, frames: np.ndarray, **options) -> Path:
    """uint8 [T,H,W,3] side by side in one picture, as PNG whatever the suffix says: so are
    MoCoGAN's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(list(frames), axis=1)).save(file, "png", **options)
    return file


def weizmann(root: Path, actors=range(9), seed: int = 0) -> dict[str, np.ndarray]:
    """Strips of noise under MoCoGAN's names: two mirror images a file; path -> frames."""
    made, rng = {}, np.random.default_rng(seed)
    for actor in actors:
        for folder, action in (("1", 0), ("0", 1), ("3", 2), ("4", 3)):
            frames = rng.integers(0, 256, (16 + actor, 8, 8, 3), np.uint8)
            for odd in (0, 1):
                path = f"{folder}/{8 * actor + 2 * action + odd:08d}.jpg"
                strip(root / path, frames[:, :, ::-1] if odd else frames)
                made[path] = frames[:, :, ::-1] if odd else frames
    return made


def test_a_strip_is_a_video_of_its_squares(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    file = strip(tmp_path / "a.png", frames)
    assert clips.probe(file) == (20, 25.0, 8, 8, "picture")
    clip = clips.read(file, [19, 3, 3])
    assert np.array_equal(clip.frames, frames[[19, 3, 3]]) and np.allclose(
        clip.times, np.array([19, 3, 3]) / 25
    )
    with clips.Video(file, size=4) as video:
        small = np.stack(list(video.stream()))
    assert small.shape == (20, 4, 4, 3)
    assert np.abs(small - frames.reshape(20, 4, 2, 4, 2, 3).mean((2, 4))).max() <= 1, (
        "each square by itself"
    )
    for wide in (
        frames[:15],
        frames[:, :, :7],
    ):  # fewer than a strip, and no whole number of squares
        assert clips.probe(strip(tmp_path / "b.png", wide)).frames == 1
    (tmp_path / "c.png").write_bytes(file.read_bytes()[:700])
    with pytest.raises(VideoError, match="c.png: picture cannot open it"):
        clips.Video(tmp_path / "c.png")


def test_weizmann_leaves_one_actor_out(tmp_path):
    made = weizmann(tmp_path / "w")
    assert detect_dataset(tmp_path / "w") == "weizmann"
    manifests = [open_dataset("weizmann", tmp_path / "w", fold=fold) for fold in range(1, 10)]
    left = np.stack([manifest.split == 2 for manifest in manifests])
    assert left.sum(1).tolist() == [8] * 9 and (left.sum(0) == 1).all(), (
        "each video is tested on in one fold"
    )
    for fold, manifest in enumerate(manifests, 1):
        assert manifest.classes == ("two-hand wave", "one-hand wave", "jumping jack", "bend")
        assert {row["source_video"] for row in words(manifest.select("test"))} == {f"actor{fold}"}
        assert not set(manifest.select("train").source_video) & set(
            manifest.select("test").source_video
        )
        assert np.bincount(manifest.select("train").label).tolist() == [16] * 4
    rows = {row["path"]: row for row in words(manifests[0])}
    assert rows.keys() == made.keys()
    assert rows["3/00000028.jpg"] == {
        "path": "3/00000028.jpg",
        "label": "jumping jack",
        "split": "train",
        "source_video": "actor4",
    }
    assert rows["3/00000029.jpg"]["source_video"] == "actor4", "a mirror image is of the same actor"
    assert prepare_dataset(tmp_path / "runs_dir", str(tmp_path / "w"), fold=9)[0].name == "w-fold9"
    for fold in (0, 10):
        with pytest.raises(ValueError, match="the actor to leave out, must be one of 1, .* 9, got"):
            open_dataset("weizmann", tmp_path / "w", fold=fold)


@pytest.mark.parametrize(
    "path", ["3/00000002.jpg", "0/00000074.jpg", "0/2.jpg", "0/x/00000002.jpg", "2/00000002.jpg"]
)
def test_strips_that_are_not_weizmanns(tmp_path, path):
    frames = np.zeros((16, 8, 8, 3), np.uint8)
    for name in (path, "1/00000000.jpg"):
        strip(tmp_path / name, frames)
    assert detect_dataset(tmp_path) == "folder", (
        "any other folder of strips is a folder of class folders"
    )
    with pytest.raises(
        ValueError, match=rf"{path}: none of Weizmann's; wanted an eight-digit number"
    ):
        open_dataset("weizmann", tmp_path)


def test_weizmann_without_the_actor_to_leave_out(tmp_path):
    weizmann(tmp_path, actors=[1])
    for fold in (1, 2):
        with pytest.raises(
            ValueError, match=rf"tests on actor{fold} and trains on the others; there is actor2"
        ):
            open_dataset("weizmann", tmp_path, fold=fold)


def test_strips_have_flow_and_make_batches(tmp_path):
    made = weizmann(tmp_path / "w", actors=[0, 1])
    place, manifest = prepare_dataset(tmp_path / "runs_dir", str(tmp_path / "w"), fold=2)
    done = flow_store.extract(manifest, place / "flow", "dis", size=16, progress=False)
    assert done.failed == [] and done.pairs == sum(len(frames) - 1 for frames in made.values())
    spec = replace(SPEC, streams=("rgb", "flow"))
    dataset = Clips(manifest.select("train"), spec, flow_folder=place / "flow", seed=0)
    batch = next(iter(DataLoader(dataset, batch_sampler=Batches(8, 4, seed=0))))
    assert batch["rgb"].shape == batch["flow"].shape == (4, 2, 3, 4, 32, 32) and set(
        batch["source_video"].tolist()
    ) == {0}


def test_weizmanns_own_strips(real_data, tmp_path):
    root = real_data / "weizmann4"
    assert detect_dataset(root) == "weizmann"
    place, manifest = prepare_dataset(tmp_path, str(root), fold=9)
    assert np.bincount(manifest.split).tolist() == [32, 0, 4] and len(manifest.source_videos) == 9
    lengths = [clips.probe(manifest.absolute(row)).frames for row in range(len(manifest))]
    assert (min(lengths), max(lengths), sum(lengths)) == (51, 146, 2645)
    clip, whole = (
        clips.read(manifest.absolute(0)),
        np.array(Image.open(manifest.absolute(0)).convert("RGB")),
    )
    assert np.array_equal(clip.frames[7], whole[:, 7 * 64 : 8 * 64])
    moved = np.abs(np.diff(clip.frames.astype(int), axis=0)).mean()
    assert moved < np.abs(clip.frames[:-1].astype(int) - clip.frames[::-1][:-1]).mean(), (
        "neighbors are neighbors"
    )
