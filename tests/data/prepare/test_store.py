"""Stores of frames and of flow: the same frames by the same numbers, stopped and resumed, full
disks, damaged packs."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests import makes
from tests.makes import encode, picture, stream_copy, texture, turned
from vidbench.data.flow import estimate
from vidbench.data.flow import store as flow_store
from vidbench.data.flow.estimate import FlowError
from vidbench.data.manifest import Manifest
from vidbench.data.prepare import jobs, store
from vidbench.data.prepare.store import StoreError
from vidbench.data.sets.catalogue import open_dataset
from vidbench.data.video import clips, framestore
from vidbench.data.video.clips import VideoError
from vidbench.system.files import BusyError, DiskError, lock_folder

FORMATS = tuple(store.FORMATS)


def rows(folder: Path, names: list[str]) -> Manifest:
    return Manifest.from_rows(folder, [(name, None, "none", None) for name in names])


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> Manifest:
    """Videos that are easily taken for others: hidden frames, turned, odd size, variable rate,
    counted."""
    folder = tmp_path_factory.mktemp("kinds")
    encode(folder / "plain.mp4", 60, g="25", bf="2", sc_threshold="0")
    stream_copy(folder / "edit list.mp4", folder / "plain.mp4", 33)
    turned(folder / "turned.mp4", folder / "plain.mp4", 90)
    encode(folder / "odd.mp4", [picture(i, (75, 111)) for i in range(20)], pixels="yuv444p")
    encode(folder / "variable.mkv", 20, pts=[40 * i + (300 if i >= 8 else 0) for i in range(20)])
    encode(folder / "packed.avi", 40, "mpeg4", g="20", bf="2")
    encode(folder / "smaller.mp4", [picture(i, (16, 36)) for i in range(5)])
    encode(folder / "slow.mp4", 3, rate=makes.Fraction(1, 3600))
    return rows(folder, sorted(path.name for path in folder.iterdir()))


@pytest.fixture(scope="module")
def textures(tmp_path_factory) -> Manifest:
    """Eight videos of a moving texture."""
    folder = tmp_path_factory.mktemp("textures")
    for seed in range(8):
        frames = (
            texture(6 if seed == 2 else 12, (64, 96), seed=seed)
            .mean(-1, keepdims=True)
            .repeat(3, -1)
        )
        encode(folder / f"sub/{seed}.mp4", frames.astype(np.uint8), crf="8")
    made = rows(folder, [f"sub/{seed}.mp4" for seed in range(8)])
    made.save(folder)
    return made


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """dB."""
    return float(10 * np.log10(255**2 / max(1e-9, np.square(one.astype(float) - other).mean())))


def bytes_of(folder: Path, names) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


# ---- the same frames ---------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_frame_i_of_the_store_is_frame_i_of_the_source(kinds, tmp_path, format):
    report = store.store(kinds, tmp_path / "store", format, size=32, progress=False)
    assert (report.done, report.skipped, report.failed) == (len(kinds), 0, [])
    assert report.bytes == sum(
        (tmp_path / "store" / str(path)).stat().st_size for path in report.manifest.path
    )
    for i, path in enumerate(kinds.path):
        with clips.Video(kinds.absolute(i), size=32 if path != "smaller.mp4" else None) as video:
            right = video.read().frames
            fps = video.fps
        if format == "mp4":  # even sizes
            size = tuple(n - n % 2 for n in right.shape[1:3])
            right = clips.read(kinds.absolute(i), size=size).frames
        with clips.Video(report.manifest.absolute(i)) as video:
            there = video.read()
            assert video.frames == report.manifest.frames[i] == len(right)
            order = np.random.default_rng(0).permutation(video.frames)
            assert (video.read(order).frames == there.frames[order]).all()
        assert there.frames.shape == right.shape
        assert (report.manifest.height[i], report.manifest.width[i]) == right.shape[1:3]
        if format == "raw":
            assert (there.frames == right).all()
        else:
            assert psnr(there.frames, right) > 25
        if path != "turned.mp4":
            assert makes.numbers(there.frames) == makes.numbers(right)
        assert report.manifest.fps[i] == pytest.approx(fps)
        if path != "slow.mp4":
            assert np.allclose(there.times, np.arange(len(right)) / fps, atol=0.02 / fps), (
                "evenly spaced"
            )


@pytest.mark.parametrize("format, least", [("raw", 89), ("jpeg", 34), ("mp4", 34)])
def test_pictures_are_near_the_source(textures, tmp_path, format, least):
    report = store.store(textures, tmp_path / "store", format, size=48, progress=False)
    for i in range(len(textures)):
        right = clips.read(textures.absolute(i), size=48).frames
        assert psnr(clips.read(report.manifest.absolute(i)).frames, right) > least


@pytest.mark.parametrize("format", FORMATS)
def test_a_store_is_a_data_set_for_clips(textures, tmp_path, format):
    from vidbench.data.loading.augmentation import PRESETS
    from vidbench.data.loading.dataset import Clips, ClipSpec

    store.store(textures, tmp_path / "store", format, size=48, progress=False)
    made = open_dataset("csv", tmp_path / "store")
    assert (
        made.frames.tolist() == [12, 12, 6, 12, 12, 12, 12, 12] and made.split.tolist() == [3] * 8
    )
    assert (
        str(made.path[0]) == f"sub/0.mp4{store.FORMATS[format]}"
        and made.source_videos.tolist() == textures.source_videos.tolist()
    )
    spec = ClipSpec(frames=4, augment=replace(PRESETS["vidbench"], size=32), views=2)
    stored, source = (
        Clips(made, spec, seed=1),
        Clips(textures, replace(spec, decode_size=48), seed=1),
    )
    for key in ((0, 3), (5, 2)):
        one, other = stored[key], source[key]
        gap = (one["rgb"] - other["rgb"]).abs()
        assert one["rgb"].shape == other["rgb"].shape == (2, 3, 4, 32, 32)
        assert gap.max() == 0 if format == "raw" else gap.mean() < 0.2


def test_a_store_of_pictures(tmp_path):
    import cv2

    for number in (3, 7):
        (tmp_path / "data").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"data/{number}.png"), picture(number))
    data = rows(tmp_path / "data", ["3.png", "7.png"])
    for i in range(2):
        with clips.Video(data.absolute(i)) as video:
            assert (video.frames, video.fps, video.decoder) == (1, 1.0, "picture")
            assert makes.numbers(video.read([0, 0]).frames) == [(3, 7)[i]] * 2
    for format in FORMATS:
        report = store.store(data, tmp_path / format, format, size=24, progress=False)
        stored = np.concatenate([clips.read(report.manifest.absolute(i)).frames for i in range(2)])
        assert makes.numbers(stored) == [3, 7]
    assert flow_store.extract(data, tmp_path / "flow", "dis", progress=False).failed == [
        (f"{n}.png", f"FlowError: flow needs two frames, {tmp_path}/data/{n}.png has 1")
        for n in (3, 7)
    ]


# ---- one video that cannot be stored -----------------------------------------------------------


@pytest.fixture
def mixed(tmp_path) -> Manifest:
    """Good ones among a broken, a missing, a changing and a folder."""
    for name in ("a.mp4", "z.mp4"):
        encode(tmp_path / "data" / name, 4)
    (tmp_path / "data/broken.mp4").write_bytes(b"not a video" * 50)
    (tmp_path / "data/folder.mp4").mkdir()
    makes.joined(tmp_path / "data/changing.mkv", [(48, 108), (72, 144)])
    return rows(
        tmp_path / "data",
        ["a.mp4", "broken.mp4", "changing.mkv", "folder.mp4", "missing.mp4", "z.mp4"],
    )


@pytest.mark.parametrize("format", FORMATS)
def test_videos_that_cannot_be_stored_are_named_and_the_rest_is_there(mixed, tmp_path, format):
    """A picture whose size changes on the way would else be stored as pictures of two sizes, or
    stop the work."""
    report = store.store(mixed, tmp_path / "store", format, size=64, progress=False)
    reasons = dict(report.failed)
    assert list(reasons) and sorted(reasons) == [
        "broken.mp4",
        "changing.mkv",
        "folder.mp4",
        "missing.mp4",
    ]
    for name, reason in reasons.items():
        assert reason.startswith(f"{mixed.root}/{name}: ")
    assert (
        "from frame 10 on its size is another (48x108 to 72x144 pixels); re-encode it"
        in reasons["changing.mkv"]
    )
    assert report.done == 2 and [Path(path).stem[:1] for path in report.manifest.path] == ["a", "z"]
    assert not list((tmp_path / "store").rglob("*.tmp")) and not list(
        (tmp_path / "store").rglob("changing*")
    )
    encode(tmp_path / "data/broken.mp4", 9)
    again = store.store(mixed, tmp_path / "store", format, size=64, progress=False)
    assert (again.done, again.skipped, len(again.failed)) == (1, 2, 3), (
        "the next call tries it again"
    )
    with pytest.raises(
        StoreError, match="none of 2 videos could be stored; the first: .*folder.mp4"
    ):
        store.store(mixed.select(mask=[3, 4]), tmp_path / "none", format, progress=False)


@pytest.mark.parametrize("method", ["dis", "tvl1_torch"])
def test_flow_that_cannot_be_computed_is_named_and_the_rest_is_there(mixed, tmp_path, method):
    encode(mixed.root / "missing.mp4", 1)
    report = flow_store.extract(mixed, tmp_path / "flow", method, size=24, progress=False)
    reasons = dict(report.failed)
    assert (
        sorted(reasons) == ["broken.mp4", "changing.mkv", "folder.mp4", "missing.mp4"]
        and report.done == 2
    )
    assert (
        "size is another" in reasons["changing.mkv"]
        and "flow needs two frames" in reasons["missing.mp4"]
    )
    assert not list((tmp_path / "flow").rglob("*.tmp"))


# ---- going on ----------------------------------------------------------------------------------


def journaled(folder: Path) -> list[str]:
    names = []
    for line in (
        (folder / "store.jsonl").read_text().splitlines()
        if (folder / "store.jsonl").is_file()
        else ()
    ):
        with contextlib.suppress(ValueError):
            names += [json.loads(line)["key"]] if line else []
    return names


def test_the_same_call_does_nothing_again(textures, tmp_path):
    first = store.store(textures, tmp_path / "store", size=32, progress=False)
    before = makes.stamps(tmp_path / "store")
    again = store.store(textures, tmp_path / "store", size=32, progress=False)
    assert (first.done, first.skipped, again.done, again.skipped) == (
        8,
        0,
        0,
        8,
    ) and again.bytes == first.bytes
    after = makes.stamps(tmp_path / "store")
    assert all(after[path] == before[path] for path in first.manifest.path.tolist())
    one = store.store(textures.select(mask=[5]), tmp_path / "store", size=32, progress=False)
    assert one.manifest.path.tolist() == ["sub/5.mp4.mp4"] and one.skipped == 1


@pytest.mark.parametrize(
    "change", ["source changed", "source gone", "stored file gone", "stored file cut off"]
)
def test_only_what_changed_is_stored_anew(tmp_path, change):
    for i in range(3):
        encode(tmp_path / f"data/{i}.mp4", 9)
    data = rows(tmp_path / "data", ["0.mp4", "1.mp4", "2.mp4"])
    store.store(data, tmp_path / "store", size=24, progress=False)
    before = makes.stamps(tmp_path / "store")
    stored = tmp_path / "store/1.mp4.mp4"
    if change == "source changed":
        encode(data.absolute(1), 11)
    elif change == "source gone":
        data.absolute(1).unlink()
    elif change == "stored file gone":
        stored.unlink()
    else:
        os.truncate(stored, stored.stat().st_size - 10)
    report = store.store(data, tmp_path / "store", size=24, progress=False)
    after = makes.stamps(tmp_path / "store")
    changed = {
        name for name in ("0.mp4.mp4", "1.mp4.mp4", "2.mp4.mp4") if after[name] != before.get(name)
    }
    assert changed == (
        set() if change == "source gone" else {"1.mp4.mp4"}
    ) and report.skipped == 3 - len(changed)
    assert report.manifest.frames.tolist() == [9, 11 if change == "source changed" else 9, 9]
    assert makes.numbers(clips.read(stored).frames) == list(range(report.manifest.frames[1]))


@pytest.mark.parametrize("stop", ["all are killed", "Ctrl-C", "the parent is killed"])
def test_a_store_that_was_stopped_goes_on(textures, tmp_path, stop):
    """What was finished stays to the byte, and the end is that of a call that was never stopped."""
    folder = tmp_path / "store"
    process = makes.started("store", textures.root, folder)
    makes.wait_for(lambda: len(journaled(folder)) >= 2 and list(folder.rglob("*.tmp")), process)
    if stop == "the parent is killed":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT if stop == "Ctrl-C" else signal.SIGKILL)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode != 0
    if stop == "Ctrl-C":
        assert (
            "KeyboardInterrupt" in errors
            and not list(folder.rglob("*.tmp"))
            and makes.gone(process)
        )
    done = journaled(folder)
    before = makes.stamps(folder)
    assert 2 <= len(done) < 8
    report = store.store(textures, folder, size=32, progress=False)
    after = makes.stamps(folder)
    assert (report.done, report.skipped) == (8 - len(done), len(done))
    assert {name: after[name] for name in done} == {name: before[name] for name in done}, (
        "not touched"
    )
    assert makes.gone(process) and not list(folder.rglob("*.tmp")), (
        "orphans finish their video at most"
    )
    store.store(textures, tmp_path / "whole", size=32, progress=False)
    names = report.manifest.path.tolist()
    assert bytes_of(folder, names) == bytes_of(tmp_path / "whole", names)
    assert (folder / "manifest.csv").read_bytes() == (tmp_path / "whole/manifest.csv").read_bytes()


def test_a_flow_extraction_into_mp4_that_was_killed_goes_on(textures, tmp_path):
    """npz: test_faults."""
    folder, format = tmp_path / "flow", "mp4"
    process = makes.started("flow", textures.root, folder, format)
    makes.wait_for(lambda: len(list(folder.rglob(f"[0-9]*.flow.{format}"))) >= 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = {
        name: about
        for name, about in makes.stamps(folder).items()
        if name.endswith(f".flow.{format}")
    }
    before = {name: about for name, about in before.items() if not Path(name).name.startswith(".")}
    assert 2 <= len(before) < 8
    report = flow_store.extract(textures, folder, "dis", format=format, progress=False)
    assert (report.done, report.skipped, report.failed) == (8 - len(before), len(before), [])
    after = makes.stamps(folder)
    assert {name: after[name] for name in before} == before and not list(folder.rglob("*.tmp"))
    flow_store.extract(textures, tmp_path / "whole", "dis", format=format, progress=False)
    names = [f"{path}.flow.{format}" for path in textures.path]
    assert bytes_of(folder, names) == bytes_of(tmp_path / "whole", names)


# ---- one owner, one preset --------------------------------------------------------------------


@pytest.mark.parametrize("work", [store.store, flow_store.extract])
def test_two_at_work_on_one_folder(textures, tmp_path, work):
    with lock_folder(tmp_path / "out"):
        with pytest.raises(
            BusyError,
            match="another process is at work in .*/out: wait for it, or use another",
        ):
            work(textures, tmp_path / "out", progress=False)
    assert not list((tmp_path / "out").rglob("*.mp4"))


def test_two_extractions_at_once_one_waits_for_another_day(textures, tmp_path):
    process = makes.started("flow", textures.root, tmp_path / "flow")
    try:
        makes.wait_for(lambda: (tmp_path / "flow/flow.json").is_file(), process)
        with pytest.raises(BusyError):
            flow_store.extract(textures, tmp_path / "flow", "dis", format="mp4", progress=False)
        with pytest.raises(BusyError):
            flow_store.extract(
                textures, tmp_path / "flow", "dis", format="mp4", shard=(0, 2), progress=False
            )
    finally:
        process.communicate(timeout=60)
    assert process.returncode == 0
    report = flow_store.extract(textures, tmp_path / "flow", "dis", format="mp4", progress=False)
    assert (report.done, report.skipped) == (0, 8)


def test_other_settings_are_refused_and_nothing_is_lost(textures, tmp_path):
    one = textures.select(mask=[0])
    store.store(one, tmp_path / "store", "jpeg", size=32, progress=False)
    before = makes.stamps(tmp_path / "store")
    for format, options, said in (
        ("raw", {"size": 32}, "format: there 'jpeg', wanted 'raw'"),
        ("jpeg", {"size": 48}, "size: there 32, wanted 48"),
        ("jpeg", {"size": 32, "decoder": "decord"}, "decoder: there 'pyav', wanted 'decord'"),
    ):
        with pytest.raises(
            StoreError,
            match=f"store was made with other settings .*{said}.*: use them or another fol",
        ):
            store.store(textures, tmp_path / "store", format, progress=False, **options)
    after = makes.stamps(tmp_path / "store")
    assert {name: about for name, about in after.items() if "store.jsonl" not in name} == {
        name: about for name, about in before.items() if "store.jsonl" not in name
    }
    with pytest.raises(StoreError, match="is the data set's own folder: take another one"):
        store.store(textures, textures.root, progress=False)
    for wrong in ({"format": "gif"}, {"size": 1}, {"size": 10_000}, {"crf": 60}):
        with pytest.raises(
            ValueError, match="format is of mp4, jpeg, raw, size in 2..8192 pixels, crf in 0..51"
        ):
            store.store(textures, tmp_path / "other", progress=False, **wrong)


# ---- the disk ----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["store", "flow"])
def test_what_will_not_fit_is_refused_after_the_sample(textures, tmp_path, monkeypatch, what):
    monkeypatch.setattr(jobs.shutil, "disk_usage", lambda place: SimpleNamespace(free=2000))
    with pytest.raises(
        DiskError, match=f"{what} .* needs about .* more and .* has 2 kB free: make room"
    ):
        makes.fill(what, "mp4", textures, tmp_path / "out")
    monkeypatch.undo()
    report = makes.fill(what, "mp4", textures, tmp_path / "out")
    assert (report[1:3] if what == "store" else report[:2]) == (4, 4), "the sample of four is kept"


@pytest.fixture(scope="module")
def full_disks(textures, tmp_path_factory) -> list[dict]:
    """What came of every form on a disk of half the room that it takes: real ones, small tmpfs
    mounts."""
    if not shutil.which("unshare"):
        pytest.skip("needs util-linux's unshare, to mount a small disk")
    temporary = tmp_path_factory.mktemp("disk")
    wanted = []
    for what, format, workers in FULL:
        makes.fill(what, format, textures, temporary / f"{what}{format}")
        takes = sum(about[0] for about in makes.stamps(temporary / f"{what}{format}").values())
        wanted.append((what, format, workers, max(24, int(0.6 * takes / 1024))))
    (temporary / "place").mkdir()
    place, alone = str(temporary / "place"), ["unshare", "--map-root-user", "--mount"]
    allowed = subprocess.run(
        [*alone, "mount", "-t", "tmpfs", "none", place], capture_output=True, text=True
    )
    if allowed.returncode:
        pytest.skip(f"may not mount a small disk: {allowed.stderr.strip()}")
    code = (
        f"from tests import makes; makes.on_full_disks({place!r}, {str(textures.root)!r}, {wanted})"
    )
    done = subprocess.run(
        [*alone, sys.executable, "-c", code], cwd=makes.ROOT, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


FULL = [
    ("store", "mp4", 0),
    ("store", "jpeg", 0),
    ("store", "raw", 0),
    ("store", "mp4", 2),
    ("flow", "npz", 0),
    ("flow", "mp4", 0),
]


@pytest.mark.parametrize(
    "number", range(len(FULL)), ids=["{} {}, {} workers".format(*full) for full in FULL]
)
def test_a_full_disk_is_told_and_nothing_finished_is_lost(full_disks, number):
    said = full_disks[number]
    assert [said["what"], said["format"]] == list(FULL[number][:2])
    assert (
        said["error"].startswith("DiskError: [Errno 28] ")
        and "the disk of " in said["error"]
        and "make room, run the same" in said["error"]
    )
    assert said["left"] == [] and said["there"] == said["whole"] != [], "whole files only"
    assert said["again"].startswith("DiskError: "), "it says so again, before or after trying"
    assert said["untouched"] == said["kept"] > 0 and said["all whole"]
    done, skipped, failed = said["report"]
    assert done + skipped == 8 and skipped >= said["kept"] and failed == []


# ---- packs -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packs")
    frames = [picture(i) for i in range(6)]
    framestore.write_pack(folder / "raw.frames.npz", {"fps": 25.0}, rows=np.stack(frames))
    pieces = [framestore.encode_jpeg(frame) for frame in frames]
    framestore.write_pack(folder / "jpeg.frames.npz", {"fps": 25.0}, pieces=pieces)
    return {"raw": folder / "raw.frames.npz", "jpeg": folder / "jpeg.frames.npz"}


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_packs_are_read_at_random_and_by_numpy(packed, kind):
    with clips.Video(packed[kind]) as video:
        assert (video.frames, video.fps, video.decoder) == (6, 25.0, "pack")
        clip = video.read([5, 0, 3, 3])
        assert makes.numbers(clip.frames) == [5, 0, 3, 3] and np.allclose(
            clip.times, [0.2, 0, 0.12, 0.12]
        )
        assert makes.numbers(np.stack(list(video.stream()))) == list(range(6))
        assert video.read([1]).frames.shape == (1, 48, 108, 3)
    assert clips.read(packed[kind], [2], size=24).frames.shape == (1, 24, 54, 3)
    members = np.load(packed[kind])
    assert json.loads(bytes(members["meta"])) == {"fps": 25.0}
    assert (
        members["rows"].shape == (6, 48, 108, 3) if kind == "raw" else members["ends"].shape == (6,)
    )


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_a_pack_that_is_cut_off(packed, tmp_path, kind, share):
    file = makes.cut_off(tmp_path / "cut.frames.npz", packed[kind], share)
    with pytest.raises(
        VideoError, match=r"cut\.frames\.npz: (the file is empty|pack cannot .*make it again)"
    ):
        clips.read(file)


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("text.frames.npz", b"not a pack", "is not a whole pack"),
        ("video.frames.npz", "mp4", "is not a whole pack"),
        (
            "other.frames.npz",
            {"values": np.zeros(3)},
            "is not a whole pack .*no item named 'meta.npy'",
        ),
        ("flow.frames.npz", "flow", "has no frame rate"),
        ("list.frames.npz", "list", "has no frame rate"),
    ],
    ids=["text", "a video", "another npz", "flow", "a list for facts"],
)
def test_a_file_that_is_no_pack(tmp_path, name, content, said):
    file = tmp_path / name
    if content == "mp4":
        shutil.copy(encode(tmp_path / "a.mp4", 3), file)
    elif content == "flow":
        framestore.write_pack(file, {"bound": 20}, [b"1", b"2"])
    elif content == "list":
        framestore.write_pack(file, [25], rows=np.zeros((2, 4, 4, 3), np.uint8))
    elif isinstance(content, dict):
        np.savez(open(file, "wb"), **content)
    else:
        file.write_bytes(content)
    with pytest.raises(
        VideoError, match=f"{name}: pack cannot open it .*{said}.*make it again or drop it"
    ):
        clips.probe(file)


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_damaged_bytes_give_frames_or_a_clear_error(packed, tmp_path, kind):
    """One or eight bytes anywhere: nothing but VideoError comes out, whatever NumPy's and zipfile's
    parsers raise."""
    rng, whole, refused = np.random.default_rng(0), packed[kind].read_bytes(), 0
    file = tmp_path / "damaged.frames.npz"
    for _ in range(200):
        data, at = bytearray(whole), int(rng.integers(0, len(whole)))
        at = (
            at if rng.random() < 0.5 else int(rng.choice([at % 400, len(whole) - 1 - at % 400]))
        )  # the headers
        data[at : at + 8] = rng.bytes(len(data[at : at + 8]))
        file.write_bytes(data)
        try:
            clips.read(file)
        except VideoError as error:
            refused += 1
            assert "make it again" in str(error)
    assert 25 < refused < 200


def test_damaged_pictures_give_a_clear_error(tmp_path):
    import cv2

    rng, refused = np.random.default_rng(0), 0
    for kind in (".png", ".jpg", ".webp", ".bmp"):
        whole, file = cv2.imencode(kind, picture(3))[1].tobytes(), tmp_path / f"damaged{kind}"
        for part in range(24):
            data = bytearray(whole[: int(rng.integers(1, len(whole)))] if part % 2 else whole)
            at = int(rng.integers(0, len(data)))
            data[at : at + 4] = rng.bytes(len(data[at : at + 4]))
            file.write_bytes(data)
            try:
                clips.read(file)
            except VideoError as error:
                refused += 1
                assert "picture cannot open it" in str(error) and "make it again or drop it" in str(
                    error
                )
    assert refused > 24


@pytest.mark.parametrize("fps", [1e-5, 1 / 3600, 23.976, 1000.0, 90000.0])
def test_any_frame_rate_can_be_written(tmp_path, fps):
    count = framestore.write_mp4(tmp_path / "a.mp4", (picture(i) for i in range(20)), fps)
    with clips.Video(tmp_path / "a.mp4") as video:
        assert count == video.frames == 20 and makes.numbers(video.read().frames) == list(range(20))
        assert video.fps == pytest.approx(max(fps, 1 / 1001), rel=0.01)


# ---- flow --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_flow_of_a_store_is_the_flow_of_its_frames(textures, tmp_path, format):
    made = store.store(
        textures.select(mask=[0, 2]), tmp_path / "store", format, size=48, progress=False
    ).manifest
    report = flow_store.extract(made, tmp_path / "flow", "dis", progress=False)
    assert (report.done, report.pairs) == (2, 16)
    for i, path in enumerate(made.path):
        frames = clips.read(made.absolute(i)).frames
        stored = flow_store.load(tmp_path / "flow", path)
        assert np.array_equal(stored, estimate.quantize(estimate.estimate(frames, "dis")))
        assert np.abs(estimate.dequantize(stored)).mean() > 0.2, "something moves"


@pytest.mark.parametrize("workers", [0, 1])
def test_the_torch_method_stores_what_it_estimates(tmp_path, workers):
    frames = texture(3, (32, 48))
    encode(tmp_path / "data/a.mp4", frames, crf="8")
    data = rows(tmp_path / "data", ["a.mp4"])
    report = flow_store.extract(
        data, tmp_path / "flow", "tvl1_torch", workers=workers, device="cpu", progress=False
    )
    assert (report.done, report.pairs, report.failed) == (1, 2, [])
    estimated = estimate.estimate(clips.read(data.absolute(0)).frames, "tvl1_torch", "cpu")
    assert np.array_equal(flow_store.load(tmp_path / "flow", "a.mp4"), estimate.quantize(estimated))
    assert np.abs(np.median(estimated, (0, 1, 2)) - (1.5, -0.75)).max() < 0.3


def added(npz: np.ndarray, mp4: np.ndarray) -> float:
    """Pixels, the mean length of what the coding changed."""
    gap = estimate.dequantize(npz) - estimate.dequantize(mp4)
    return float(np.hypot(gap[..., 0], gap[..., 1]).mean())


def small_in_mp4(data: Manifest, folder: Path, size: int | None) -> None:
    for format in flow_store.FORMATS:
        flow_store.extract(data, folder / format, "dis", size=size, format=format, progress=False)
    path = str(data.path[0])
    exact, coded = (flow_store.load(folder / format, path) for format in ("npz", "mp4"))
    assert exact.shape == coded.shape and 0 < added(exact, coded) <= 0.1
    assert (
        flow_store.flow_path(folder / "mp4", path, "mp4").stat().st_size
        <= 0.05 * exact[..., :2].size
    )
    some = np.random.default_rng(0).permutation(len(coded))[:7]
    assert np.array_equal(flow_store.load(folder / "mp4", path, some), coded[some])
    assert flow_store.meta(folder / "mp4", path)["format"] == "mp4" and (coded[..., 2] == 128).all()


def test_flow_in_mp4_is_small_and_near_on_a_real_clip(real_data, tmp_path):
    small_in_mp4(rows(real_data / "real_clips", ["something_v2/166766.mp4"]), tmp_path, 128)


def test_flow_in_mp4_is_small_and_near_on_a_texture(tmp_path):
    """Of odd size."""
    encode(tmp_path / "data/a.mp4", texture(24, (95, 127)), crf="8", pixels="yuv444p")
    small_in_mp4(rows(tmp_path / "data", ["a.mp4"]), tmp_path / "flow", None)


@pytest.mark.parametrize("shards", [2, 3, 8, 9])
def test_shards_cover_every_row_once(textures, tmp_path, shards):
    done = []
    for number in range(shards):
        before = set(makes.stamps(tmp_path))
        report = flow_store.extract(
            textures, tmp_path, "dis", size=24, shard=(number, shards), progress=False
        )
        new = {name for name in set(makes.stamps(tmp_path)) - before if name.endswith(".npz")}
        assert report.done == len(new) and report.skipped == 0
        done += new
    assert sorted(done) == [f"sub/{i}.mp4.flow.npz" for i in range(8)]
    assert flow_store.extract(textures, tmp_path, "dis", size=24, progress=False)[:2] == (0, 8)
    for wrong in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=r"shard must be \(k, n\) with 0 <= k < n"):
            flow_store.extract(textures, tmp_path, "dis", size=24, shard=wrong, progress=False)


@pytest.mark.parametrize("format", ["npz", "mp4"])
def test_a_damaged_flow_file_says_what_to_do(textures, tmp_path, format):
    flow_store.extract(textures.select(mask=[0]), tmp_path, "dis", format=format, progress=False)
    file = flow_store.flow_path(tmp_path, "sub/0.mp4", format)
    whole = file.read_bytes()
    for content in (
        b"",
        b"no flow" * 100,
        whole[: len(whole) // 2],
        whole[: len(whole) - 1 - len(whole) // 10],
    ):
        file.write_bytes(content)
        with pytest.raises(FlowError, match=r"0\.mp4\.flow.* extract again"):
            flow_store.load(tmp_path, "sub/0.mp4")
    with pytest.raises(FlowError, match="no flow of sub/1.mp4 in .*: run vidbench flow"):
        flow_store.load(tmp_path, "sub/1.mp4")


def test_rgb_and_flow_of_different_decoders_are_refused(textures, tmp_path):
    from vidbench.data.loading.augmentation import PRESETS
    from vidbench.data.loading.dataset import Clips, ClipSpec

    spec = ClipSpec(
        frames=4, streams=("rgb", "flow"), augment=replace(PRESETS["vidbench"], size=32)
    )
    flow_store.extract(textures, tmp_path / "flow", "dis", decoder="decord", progress=False)
    with pytest.raises(
        ValueError, match="computed on frames of decord, and rgb is to be read by pyav: set"
    ):
        Clips(textures, spec, flow_folder=tmp_path / "flow")
    read = Clips(textures, replace(spec, decoder="decord"), flow_folder=tmp_path / "flow")[0, 0]
    assert len(read["flow"]) == 2
    with pytest.raises(ValueError, match="stream 'flow' needs flow_folder"):
        Clips(textures, spec)
    with pytest.raises(FlowError, match="no flow in .*: run vidbench flow"):
        Clips(textures, spec, flow_folder=tmp_path)
