"""The scan of a data set: facts, resuming after any kind of stop, looking again at what changed,
real clips' traps."""

import contextlib
import csv
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import makes
from tests.makes import encode
from vidbench.data.loading.augmentation import PRESETS
from vidbench.data.loading.dataset import Clips, ClipSpec
from vidbench.data.manifest import Manifest
from vidbench.data.prepare import jobs, scan, store
from vidbench.data.prepare.facts import LEVELS
from vidbench.data.sets.catalogue import detect_dataset, open_dataset
from vidbench.data.video import clips
from vidbench.data.video.clips import VideoError
from vidbench.system.files import BusyError, DiskError, lock_folder

FRAMES = {"a/one.mp4": 10, "a/two.mp4": 20, "b/three.mkv": 30, "b/four.avi": 12}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    for name, frames in FRAMES.items():
        encode(folder / name, frames, "mpeg4" if name.endswith("avi") else "libx264")
    return folder


@pytest.fixture
def data(whole, tmp_path) -> Manifest:
    """Four videos of two classes, in a folder of the test's own."""
    shutil.copytree(whole, tmp_path / "data")
    splits = ("train", "test", "train", "none")
    rows = [(name, name[0], split, None) for name, split in zip(FRAMES, splits, strict=True)]
    return Manifest.from_rows(tmp_path / "data", rows, ("a", "b"))


@pytest.fixture
def looked(monkeypatch) -> list[str]:
    """The names of the files that a scan in this process looks at."""
    names, examine = [], scan.examine

    def examined(job):
        names.append(os.path.basename(job[0]))
        return examine(job)

    monkeypatch.setattr(scan, "examine", examined)
    return names


def lines(folder: Path) -> list[dict]:
    """The journal's, but for what is torn."""
    found = []
    for text in (folder / "scan.jsonl").read_text().splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(text or "null"))
    return [line for line in found if line]


# ---- what it finds -----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_facts_and_what_is_left_in_the_folder(data, tmp_path, workers):
    (data.absolute(1)).write_bytes(b"no video")
    found = scan.scan(data, tmp_path / "scan", workers=workers, progress=False)
    facts = dict(zip(FRAMES, found.facts, strict=True))
    for name, frames in FRAMES.items():
        if name != "a/two.mp4":
            codec = "mpeg4" if name.endswith("avi") else "h264"
            size = (data.root / name).stat().st_size
            assert facts[name][:8] == ((), "", frames, 25.0, 48, 108, size, codec)
            assert (
                facts[name].sha256
                == subprocess.run(
                    ["sha256sum", data.root / name], capture_output=True, text=True, check=True
                ).stdout[:64]
            )
    assert facts["a/two.mp4"].flags == ("unreadable",) and facts["a/two.mp4"].frames == 0
    good = found.manifest
    assert good.path.tolist() == ["a/one.mp4", "b/three.mkv", "b/four.avi"] and good.classes == (
        "a",
        "b",
    )
    assert (
        good.label.tolist() == [0, 1, 1]
        and good.split.tolist() == [0, 0, 3]
        and good.source_video.tolist() == [0, 2, 3]
    )
    assert good.frames.tolist() == [10, 30, 12] and good.fps.tolist() == [25.0] * 3
    assert good.height.tolist() == [48] * 3 and good.width.tolist() == [108] * 3

    assert detect_dataset(tmp_path / "scan") == "csv"
    opened = open_dataset("csv", tmp_path / "scan")
    assert [opened.names(i) for i in range(3)] == [good.names(i) for i in range(3)]
    assert opened.frames.tolist() == [10, 30, 12] and opened.absolute(0) == data.absolute(0)
    rows = list(csv.DictReader(open(tmp_path / "scan/scan.csv", newline="")))
    assert [row["path"] for row in rows] == list(FRAMES) and rows[1]["flags"] == "unreadable"
    assert {p.name for p in (tmp_path / "scan").iterdir()} == {
        "scan.jsonl",
        "scan.csv",
        "manifest.csv",
        "classes.txt",
        "root.txt",
        ".lock",
        ".made.jsonl",
    }


def test_availability_counts_by_split(data, tmp_path):
    """MultiTrain's supplement, Table 1: videos listed, videos there, and the share of the list that
    can be used."""
    data.absolute(0).unlink()
    data.absolute(2).write_bytes(b"")
    found = scan.scan(data, tmp_path / "scan", progress=False)
    assert found.availability() == [
        {"split": "train", "listed": 2, "there": 1, "usable": 0, "percent": 0.0},
        {"split": "test", "listed": 1, "there": 1, "usable": 1, "percent": 100.0},
        {"split": "none", "listed": 1, "there": 1, "usable": 1, "percent": 100.0},
    ]
    report = found.report().splitlines()
    assert report[:3] == [
        "train     0 of 2 usable (0.0 %), 1 there",
        "test      1 of 1 usable (100.0 %), 1 there",
        "none      1 of 1 usable (100.0 %), 1 there",
    ]
    assert sorted(report[3:5]) == ["BAD missing: 1", "BAD unreadable: 1"]
    assert report[5:] == [
        "  a/one.mp4: missing: no such file",
        "  b/three.mkv: unreadable: the file is empty (0 bytes)",
    ]


def test_same_bytes_are_flagged_wherever_they_lie(data, tmp_path):
    shutil.copy(data.absolute(0), data.absolute(3))
    found = scan.scan(data, tmp_path / "scan", progress=False)
    assert [facts.flags for facts in found.facts] == [("same bytes",), (), (), ("same bytes",)]
    assert found.counts() == {"same bytes": 2} and len(found.manifest) == 4, (
        "a remark leaves them in"
    )
    data.absolute(3).unlink()
    assert scan.scan(data, tmp_path / "scan", progress=False).counts() == {"missing": 1}


def test_bad_videos_can_be_kept_that_are_good_enough(data, tmp_path):
    encode(data.absolute(0), 1)
    encode(data.absolute(1), 60, opening={"movflags": "+faststart"}, g="10", bf="0")
    makes.cut_off(data.absolute(1), data.absolute(1), 0.8)
    data.absolute(2).write_bytes(b"no video")
    found = scan.scan(data, tmp_path / "scan", progress=False)
    assert [facts.flags for facts in found.facts] == [
        ("too short",),
        ("cut short",),
        ("unreadable",),
        (),
    ]
    assert found.manifest.path.tolist() == ["b/four.avi"]
    kept = scan.scan(data, tmp_path / "scan", keep=("cut short", "too short"), progress=False)
    assert (
        kept.manifest.path.tolist() == ["a/one.mp4", "a/two.mp4", "b/four.avi"]
        and len(kept.bad()) == 1
    )
    assert kept.counts() == found.counts(), "kept, and still flagged"
    for i, frames in enumerate(kept.manifest.frames):
        assert len(clips.read(kept.manifest.absolute(i)).frames) == frames > 0, (
            "what is kept can be read whole"
        )


def test_pictures_are_videos_of_one_frame(tmp_path):
    import cv2

    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        cv2.imwrite(
            str(tmp_path / "data" / label / "x.png"), makes.picture(ord(label) - 90)[..., ::-1]
        )
    data = open_dataset("folder", tmp_path / "data", held_out=0)
    found = scan.scan(data, tmp_path / "scan", keep=["too short"], progress=False)
    assert found.manifest.frames.tolist() == [1, 1] and found.manifest.height.tolist() == [48, 48]
    assert makes.numbers(clips.read(found.manifest.absolute(1)).frames) == [8]


def test_nonsense_is_refused(data, tmp_path):
    for wrong in ({"check_with": "ffmpeg"}, {"keep": ["unreadable"]}, {"keep": ["everything"]}):
        with pytest.raises(
            ValueError, match="check_with must be auto, decord, torchcodec or None, keep of"
        ):
            scan.scan(data, tmp_path / "scan", **wrong)


def test_auto_checks_with_the_first_decoder_that_loads(monkeypatch, capsys):
    missing: set[str] = set()

    def failures(name: str):
        if name in missing:
            raise ImportError(name)

    monkeypatch.setattr(scan, "failures", failures)
    for gone, chosen in (("", "decord"), ("decord", "torchcodec"), ("torchcodec", None)):
        missing.add(gone)
        assert scan._checked("auto", ()) == chosen
    assert "frames are checked against none" in capsys.readouterr().out


# ---- called again ------------------------------------------------------------------------------


def test_the_same_call_looks_at_nothing_again(data, tmp_path, looked):
    first = scan.scan(data, tmp_path / "scan", progress=False)
    assert len(looked) == 4
    again = scan.scan(data, tmp_path / "scan", progress=False)
    assert len(looked) == 4 and again.facts == first.facts and len(lines(tmp_path / "scan")) == 4
    backwards = scan.scan(data.select(mask=[3, 2, 1, 0]), tmp_path / "scan", progress=False)
    assert len(looked) == 4 and backwards.facts == first.facts[::-1], "rows are known by their path"


@pytest.mark.parametrize("change", ["bytes", "time", "gone and back", "second decoder"])
def test_a_file_that_changed_is_looked_at_anew(data, tmp_path, looked, change):
    scan.scan(data, tmp_path / "scan", progress=False)
    looked.clear()
    file, second, expected = data.absolute(1), "decord", ["two.mp4"]
    if change == "bytes":
        about = file.stat()
        encode(file, 25)
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    elif change == "time":
        os.utime(file, ns=(0, 10**18))
    elif change == "gone and back":
        file.rename(tmp_path / "aside")
        missing = scan.scan(data, tmp_path / "scan", progress=False)
        assert missing.facts[1].flags == ("missing",) and looked == []
        (tmp_path / "aside").rename(file)
        expected = []  # it is the file that it was
    else:
        second, expected = None, ["four.avi", "one.mp4", "three.mkv", "two.mp4"]
    found = scan.scan(data, tmp_path / "scan", check_with=second, progress=False)
    assert sorted(looked) == expected
    assert found.facts[1].frames == (25 if change == "bytes" else 20) == found.manifest.frames[1]


def test_what_was_unreadable_is_tried_again_since_permissions_mend(data, tmp_path, looked):
    data.absolute(1).rename(tmp_path / "aside")
    data.absolute(1).mkdir()
    assert scan.scan(data, tmp_path / "scan", progress=False).facts[1].flags == ("unreadable",)
    looked.clear()
    scan.scan(data, tmp_path / "scan", progress=False)
    assert looked == ["two.mp4"]


def test_a_torn_journal_costs_one_video(data, tmp_path, looked):
    first = scan.scan(data, tmp_path / "scan", progress=False)
    journal = tmp_path / "scan/scan.jsonl"
    text = journal.read_bytes().rstrip(b"\n")
    journal.write_bytes(text[: len(text) - 20])
    last = json.loads(text.splitlines()[-1])["key"]
    looked.clear()
    assert scan.scan(data, tmp_path / "scan", progress=False).facts == first.facts
    assert looked == [os.path.basename(last)]


def many(folder: Path, count: int) -> Manifest:
    """A data set of so many videos with different frames, with its manifest in the folder."""
    for i in range(count):
        encode(folder / f"{i:02d}.mp4", 8 + i)
    data = Manifest.from_rows(folder, [(f"{i:02d}.mp4", None, "none", None) for i in range(count)])
    data.save(folder)
    return data


def test_stopped_on_the_command_line_and_resumed(tmp_path):
    """Ctrl-C: exit 130, no process and no temporary file left; the same command resumes."""
    data, folder = many(tmp_path / "data", 24), tmp_path / "scan"
    encode(data.absolute(0), 500)
    for i in range(1, 24):
        data.absolute(i).unlink()
        os.link(data.absolute(0), data.absolute(i))
    command = [
        sys.executable,
        "-m",
        "vidbench",
        "scan",
        str(data.root),
        "--out",
        str(folder),
        "--workers",
        "2",
    ]
    process = subprocess.Popen(
        command,
        cwd=makes.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=makes.hear_ctrl_c,
    )
    makes.wait_for(lambda: (folder / "scan.jsonl").is_file() and len(lines(folder)) >= 1, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted; run the same again to resume" in errors
    assert makes.gone(process)
    assert {p.name for p in folder.iterdir()} == {"scan.jsonl", ".lock"}
    done = len(lines(folder))
    assert 1 <= done < 24
    finished = subprocess.run(command, cwd=makes.ROOT, capture_output=True, text=True)
    assert (
        finished.returncode == 0
        and "none      24 of 24 usable (100.0 %), 24 there" in finished.stdout
    )
    assert len(lines(folder)) == 24 and "same bytes: 24" in finished.stdout


# ---- one that hangs, one at a time, a full disk ------------------------------------------------


@pytest.mark.slow
def test_a_video_that_hangs_is_flagged_and_tried_again_with_more_time(data, tmp_path):
    """A terabyte of holes would take hours to read."""
    with open(data.absolute(1), "wb") as file:
        file.truncate(2**40)
    found = scan.scan(data, tmp_path / "scan", workers=2, timeout=4.0, progress=False)
    assert found.facts[1].flags == ("hung",)
    assert (
        found.facts[1].error == "hung: no end after 4 s: its process was stopped"
        and found.facts[1].bytes == 2**40
    )
    assert [facts.frames for facts in found.facts] == [
        10,
        0,
        30,
        12,
    ] and "BAD hung: 1" in found.report()
    journal = lines(tmp_path / "scan")
    encode(data.absolute(1), 20)
    line = next(line for line in journal if line["key"] == "a/two.mp4")
    line["stamp"][0] = jobs.stamp(data.absolute(1))  # as if it were the same file
    (tmp_path / "scan/scan.jsonl").write_text("".join(json.dumps(line) + "\n" for line in journal))
    assert scan.scan(data, tmp_path / "scan", timeout=4.0, progress=False).facts[1].flags == (
        "hung",
    )
    assert scan.scan(data, tmp_path / "scan", timeout=5.0, progress=False).facts[1].frames == 20


def test_one_scan_at_a_time(data, tmp_path):
    with lock_folder(tmp_path / "scan"):
        with pytest.raises(BusyError, match="another process is at work in .*/scan"):
            scan.scan(data, tmp_path / "scan", progress=False)
    assert len(scan.scan(data, tmp_path / "scan", progress=False).manifest) == 4


@pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="needs Linux's /dev/full, where every write fails"
)
def test_a_full_disk_is_told_and_no_process_is_left(data, tmp_path):
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan/scan.jsonl").symlink_to("/dev/full")
    with pytest.raises(
        DiskError, match="the disk of .*/scan is full; .* make room, run the same again"
    ):
        scan.scan(data, tmp_path / "scan", workers=2, progress=False)
    assert not multiprocessing.active_children()
    (tmp_path / "scan/scan.jsonl").unlink()
    assert len(scan.scan(data, tmp_path / "scan", progress=False).manifest) == 4


def test_a_mistake_while_writing_down_leaves_no_process(data, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(jobs.Journal, "add", fails)
    with pytest.raises(ZeroDivisionError) as held:  # as a notebook holds it
        scan.scan(data, tmp_path / "scan", workers=2, progress=False)
    assert held and not multiprocessing.active_children()


# ---- what was scanned, in training -------------------------------------------------------------


def test_a_video_that_changed_since_the_scan_stops_the_loader(data, tmp_path):
    from vidbench.data.loading.augmentation import PRESETS
    from vidbench.data.loading.dataset import Clips, ClipSpec

    found = scan.scan(data, tmp_path / "scan", progress=False)
    spec = ClipSpec(
        frames=4,
        augment=replace(PRESETS["vidbench"], size=32),
        views=1,
        sampling="spread",
        windows=1,
    )
    samples = Clips(found.manifest, spec)
    assert samples[0, 1]["rgb"].shape == (1, 3, 4, 32, 32)
    encode(data.absolute(1), 21)
    with pytest.raises(
        VideoError,
        match="two.mp4: 21 frames, 20 when it was scanned: the file changed; scan the data",
    ):
        samples[0, 1]
    rescanned = Clips(scan.scan(data, tmp_path / "scan", progress=False).manifest, spec)
    assert rescanned[0, 1]["rgb"].shape == (1, 3, 4, 32, 32)


# ---- real clips --------------------------------------------------------------------------------

REAL = {  # flags and frames
    "hmdb51/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi": ("counted | decord differs", 48),
    "hmdb51/wave/RATRACE_wave_f_nm_np1_fr_goo_37.avi": ("counted | decord differs", 72),
    "hmdb51/cartwheel/Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi": (
        "counted | decord differs",
        83,
    ),
    "ucf101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi": ("counted", 164),  # packed B-frames
    "ucf101/Diving/v_Diving_g01_c01.avi": ("", 259),
    "ucf50/v_BaseballPitch_g01_c03.avi": ("counted | decord differs", 103),
    "ucf11/biking/v_biking_01_01.mpg": ("counted | decord differs", 151),
    "kinetics/flipping_a_pancake.mkv": ("", 310),
    "something_v2/166766.mp4": ("", 49),
    "edge_cases/decord_corrupted.mp4": ("damaged", 28),
    "edge_cases/decord_unordered.mov": ("", 4),
    "edge_cases/decord_video_90.mov": ("rotated", 3),
    "edge_cases/decord_video_180.mov": ("rotated", 3),
    "edge_cases/hf_test_video_66x50.mov": ("edit list | decord differs", 82),
    "edge_cases/torchcodec_h264_10bits.mp4": ("10 bit", 30),
    "edge_cases/torchcodec_bt709_full_range.mp4": ("full range", 30),
}


@pytest.fixture(scope="module")
def real(real_data, tmp_path_factory) -> scan.Scan:
    data = Manifest.from_rows(
        real_data / "real_clips", [(name, None, "none", None) for name in REAL]
    )
    return scan.scan(data, tmp_path_factory.mktemp("real"), workers=2, progress=False)


@pytest.mark.parametrize("name", REAL)
def test_real_clips_are_flagged_for_their_traps(real, name):
    facts = real.facts[real.listed.path.tolist().index(name)]
    assert (" | ".join(facts.flags), facts.frames) == REAL[name]
    assert bool(facts.error) == ("damaged" in facts.flags)


@pytest.mark.parametrize(
    "name", [name for name, (flags, _) in REAL.items() if "decord differs" in flags]
)
def test_decord_alone_is_wrong_on_them_and_the_adapter_is_not(real_data, name):
    import decord

    path = real_data / "real_clips" / name
    with clips.Video(path, "decord") as video:
        right = video.read()
        assert video.decoder == "pyav" and video.frames == REAL[name][1]
    alone = decord.VideoReader(str(path), num_threads=1)
    places = [i for i in range(0, len(right.frames), 10)]
    found = [
        decord.VideoReader(str(path), num_threads=1)[i].asnumpy().astype(int) for i in places[:4]
    ]
    gaps = [np.abs(frame - right.frames[i]).mean() for i, frame in zip(places, found, strict=False)]
    assert len(alone) != video.frames or max(gaps) > LEVELS


@pytest.mark.parametrize(
    "name",
    [
        "hmdb51/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi",
        "ucf11/biking/v_biking_01_01.mpg",
        "ucf101/Archery/v_Archery_g03_c03.avi",
    ],
)
def test_another_suffix_does_not_mislead_the_adapters(real_data, tmp_path, name):
    source = real_data / "real_clips" / name
    shutil.copy(source, tmp_path / "renamed.mp4")
    right = clips.read(source, [0, 7, 20, 41]).frames
    for decoder in ("pyav", "decord"):
        assert (clips.read(tmp_path / "renamed.mp4", [0, 7, 20, 41], decoder).frames == right).all()


# ---- pictures ----------------------------------------------------------------------------------


def test_pictures_and_packs_are_usable(tmp_path):
    """A picture is a video of one frame, not one that is too short; a store's packs are scanned
    like any others."""
    for i in range(3):
        file = tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(makes.picture(i)).save(file)
    (tmp_path / "pictures/a/torn.png").write_bytes(
        (tmp_path / "pictures/a/0.png").read_bytes()[:60]
    )
    found = scan.scan(
        open_dataset("folder", tmp_path / "pictures"), tmp_path / "scan", progress=False
    )
    good = [(f.frames, f.height, f.width, f.codec) for f in found.facts if not f.error]
    assert good == [(1, *makes.SIZE, "picture")] * 3
    assert found.counts() == {"unreadable": 1} and "torn.png" in found.report()
    spec = ClipSpec(frames=1, views=1, augment=replace(PRESETS["toy"], size=32, one_clip=0.0))
    assert Clips(found.manifest, spec)[0, 0]["rgb"].shape == (1, 3, 1, 32, 32)

    made = store.store(found.manifest, tmp_path / "stored", "raw", progress=False)
    again = scan.scan(made.manifest, tmp_path / "again", progress=False)
    assert [(f.frames, f.codec, f.error) for f in again.facts] == [(1, "pack", "")] * 3
