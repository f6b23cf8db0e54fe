"""Bad and odd input: a folder of every kind of it through one scan and through the readers, and bad
lists.

Each case says which flags the scan must raise, what the reason must say, and which frames can be
read in spite of it; frames carry their own numbers, and every decoder must give the same ones or
refuse."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests import makes
from tests.makes import SIZE, cut_off, encode, overwritten, picture, stream_copy, turned
from vidbench.data.manifest import Manifest
from vidbench.data.prepare import scan
from vidbench.data.sets import catalogue
from vidbench.data.video import clips
from vidbench.data.video.clips import VideoError

WHOLE = 60  # frames


@dataclass(frozen=True)
class Case:
    """One bad or odd file: made by make(path, whole files by name), and what has to come of it."""

    make: Callable
    flags: str = ""  # as the scan gives them
    error: str = ""  # in the scan's reason, for what is left out
    frames: list[int] | range | str | None = (
        None  # numbers of the frames that reading gives, or PART of them in their
    )
    # order; None: it must refuse
    size: tuple[int, int] | None = SIZE  # (H, W) as shown
    needs: str = ""  # an encoder


def copied(name: str) -> Callable:
    return lambda path, whole: shutil.copy(whole[name], path)


def of_text(text: str | bytes) -> Callable:
    return lambda path, whole: path.write_bytes(text if isinstance(text, bytes) else text.encode())


def made(*arguments, **options) -> Callable:
    return lambda path, whole: encode(path, *arguments, **options)


def late(path: Path, whole: dict[str, Path]) -> None:
    """Variable frame rate: a pause of a third of a second after the eighth frame."""
    encode(path, 20, pts=[40 * i + (300 if i >= 8 else 0) for i in range(20)])


def latin(path: Path, whole: dict[str, Path]) -> None:
    """A title that is not UTF-8, as in one of HMDB51's clips."""
    encode(
        path,
        12,
        "mpeg4",
        prepare=lambda container, stream: container.metadata.update(title="TITLETITLE"),
    )
    data = path.read_bytes()
    assert data.count(b"TITLETITLE") == 1
    path.write_bytes(data.replace(b"TITLETITLE", b"Caf\xe9 \xff\xfe\x80\x81"))


def a_socket(path: Path, whole: dict[str, Path]) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the names of sockets may not be long
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


X265 = {"x265-params": "log-level=none"}
INVALID, PLAYLIST = (
    "unreadable: InvalidDataError: ",
    "unreadable: .* it is a playlist, a text that names other files",
)
PART = "part"
FEWER, SHORTER = (
    r"cut short: \d+ frames promised, \d+ there",
    r"cut short: \d\.\d s are promised beyond what is the",
)
PNG, JPEG = (cv2.imencode(kind, picture(3))[1].tobytes() for kind in (".png", ".jpg"))

FILES = {
    # ---- nothing in it, or no video
    "empty.mp4": Case(of_text(""), "unreadable", r"the file is empty \(0 bytes\)"),
    "text.mp4": Case(of_text("not a video\n" * 100), "unreadable", INVALID),
    "error page.mp4": Case(
        of_text("<!DOCTYPE html><html><body>404</body></html>" * 40), "unreadable", INVALID
    ),
    "zeros.avi": Case(of_text(bytes(100_000)), "unreadable", INVALID),
    "archive.mkv": Case(of_text(b"PK\x03\x04" + bytes(1000)), "unreadable", INVALID),
    "streaming playlist.mp4": Case(
        of_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nwhole.ts\n#EXT-X-ENDLIST\n"),
        "unreadable",
        PLAYLIST,
    ),
    "list of files.mp4": Case(
        of_text("\ufeffffconcat version 1.0\nfile whole.mp4\n"), "unreadable", PLAYLIST
    ),
    "a folder.mp4": Case(
        lambda path, whole: path.mkdir(), "unreadable", "a folder or a device, not a file"
    ),
    "pipe.mp4": Case(
        lambda path, whole: os.mkfifo(path), "unreadable", "a folder or a device, not a file"
    ),
    "device.mp4": Case(
        lambda path, whole: path.symlink_to("/dev/zero"), "unreadable", "a folder or a device"
    ),
    "socket.mp4": Case(a_socket, "unreadable", "a folder or a device, not a file"),
    "loop.mp4": Case(
        lambda path, whole: path.symlink_to(path), "unreadable", "Too many levels of symbolic links"
    ),
    "sound only.mp4": Case(
        lambda path, whole: makes.streams(path, [], 1.0), "unreadable", "it holds no video stream"
    ),
    "no frame.avi": Case(made(0, "mpeg4"), "unreadable | counted", "unreadable: no frame decodes"),
    "no frame.mp4": Case(made(0), "unreadable", "unreadable: .*no video stream"),
    "no frame.mkv": Case(made(0), "unreadable", "unreadable: EOFError"),
    # ---- hardly anything in it
    "one frame.mp4": Case(made(1), "too short", "too short: 1 frame", range(1)),
    "two frames.mp4": Case(made(2), frames=range(2)),
    "picture.mp4": Case(of_text(PNG), "too short", "too short: 1 frame", [3]),
    "photograph.avi": Case(of_text(JPEG), "too short | full range", "too short: 1 frame", [3]),
    # ---- cut off
    "cut, header at the end.mp4": Case(
        lambda p, w: cut_off(p, w["whole.mp4"], 0.6), "unreadable", INVALID
    ),
    "cut, header first.mp4": Case(
        lambda p, w: cut_off(p, w["first.mp4"], 0.8), "cut short", FEWER, PART
    ),
    "cut.avi": Case(lambda p, w: cut_off(p, w["whole.avi"], 0.6), "cut short", FEWER, PART),
    "cut, B-frames.avi": Case(
        lambda p, w: cut_off(p, w["packed.avi"], 0.6), "cut short | counted", FEWER, PART
    ),
    "cut.mkv": Case(lambda p, w: cut_off(p, w["whole.mkv"], 0.5), "cut short", SHORTER, PART),
    "cut.webm": Case(lambda p, w: cut_off(p, w["whole.webm"], 0.6), "cut short", SHORTER, PART),
    "cut, in fragments.mp4": Case(
        lambda p, w: cut_off(p, w["fragments.mp4"], 0.6),
        "cut short",
        r"\d+ frames are whole, the next one",
        PART,
    ),
    "cut.mpg": Case(lambda p, w: cut_off(p, w["whole.mpg"], 0.6), "damaged | counted", "damaged: "),
    # ---- damaged
    "overwritten.mp4": Case(
        lambda p, w: overwritten(p, w["first.mp4"], 0.6), "damaged", "damaged: after frame"
    ),
    "overwritten, noise.mp4": Case(
        lambda p, w: overwritten(p, w["hevc.mp4"], 0.3, noise=True),
        "damaged",
        "damaged: ",
        needs="libx265",
    ),
    "overwritten.avi": Case(lambda p, w: overwritten(p, w["whole.avi"]), "damaged", "damaged: "),
    "overwritten.ts": Case(
        lambda p, w: overwritten(p, w["whole.ts"]),
        "damaged | counted",
        "damaged: .* a part of the file is missing before ",
    ),
    "overwritten.webm": Case(
        lambda p, w: overwritten(p, w["whole.webm"], 0.4), "cut short", SHORTER, PART
    ),
    "headless.mp4": Case(
        lambda p, w: makes.headless(p, w["whole.mp4"], 7), "damaged", "frames by their time stamps"
    ),
    "changing size.mkv": Case(
        lambda p, w: makes.joined(p, [(48, 108), (72, 144)]),
        "damaged",
        "damaged: frame 10 is of another size",
    ),
    # ---- another container than the suffix says
    "mp4 called.avi": Case(copied("whole.mp4"), "same bytes", frames=range(WHOLE)),
    "avi called.mp4": Case(
        copied("packed.avi"), "counted | decord differs | same bytes", frames=range(WHOLE)
    ),
    "mpg called.mp4": Case(
        copied("whole.mpg"), "counted | decord differs | same bytes", frames=range(WHOLE)
    ),
    "mpg called.avi": Case(
        copied("whole.mpg"), "counted | decord differs | same bytes", frames=range(WHOLE)
    ),
    "ts called.mp4": Case(
        copied("whole.ts"), "counted | decord differs | same bytes", frames=range(WHOLE)
    ),
    "gif called.mp4": Case(
        made(20, "gif", pixels="rgb8", kind="gif"), "counted | decord differs", frames=range(20)
    ),
    "no suffix": Case(copied("whole.mp4"), "same bytes", frames=range(WHOLE)),
    # ---- odd, and fine
    "odd size.mp4": Case(
        lambda p, w: encode(p, [picture(i, (49, 111)) for i in range(12)], pixels="yuv444p"),
        frames=range(12),
        size=(49, 111),
    ),
    "narrow.mp4": Case(
        lambda p, w: encode(p, [picture(i, (16, 72)) for i in range(12)]),
        frames=range(12),
        size=(16, 72),
    ),
    "two by two.mp4": Case(
        lambda p, w: encode(p, [np.full((2, 2, 3), 255 * (i > 5), np.uint8) for i in range(12)]),
        frames=[0] * 6 + [511] * 6,
        size=(2, 2),
    ),
    "10 bit.mp4": Case(made(12, pixels="yuv420p10le"), "10 bit", frames=range(12)),
    "full range.mp4": Case(made(12, pixels="yuvj420p"), "full range", frames=range(12)),
    "gray.mkv": Case(made(12, "ffv1", pixels="gray"), frames=range(12)),
    "alpha.mov": Case(made(12, "png", pixels="rgba"), frames=range(12)),
    "one frame an hour.mp4": Case(made(3, rate=makes.Fraction(1, 3600)), frames=range(3)),
    "thousand frames a second.mp4": Case(made(12, rate=1000), frames=range(12)),
    "variable rate.mp4": Case(late, "variable rate", frames=range(20)),
    "variable rate.mkv": Case(late, "variable rate", frames=range(20)),
    "AV1.mp4": Case(
        made(12, "libsvtav1", bits=0), "decord differs", frames=range(12), needs="libsvtav1"
    ),
    "HEVC.mp4": Case(
        copied("hevc.mp4"), "decord differs | same bytes", frames=range(WHOLE), needs="libx265"
    ),
    "open groups.mkv": Case(
        made(40, "mpeg2video", g="10", bf="2"), "decord differs", frames=range(40)
    ),
    "edit list.mp4": Case(
        lambda p, w: stream_copy(p, w["whole.mp4"], 33),
        "edit list | decord differs",
        frames=range(33, WHOLE),
    ),
    "longer sound.mkv": Case(lambda p, w: makes.streams(p, [SIZE], 3.0), frames=range(12)),
    "two videos.mp4": Case(
        lambda p, w: makes.streams(p, [SIZE, (96, 216)]), "decord differs", frames=range(12)
    ),
    "not UTF-8.avi": Case(latin, frames=range(12)),
    "trailing bytes.mp4": Case(
        lambda p, w: p.write_bytes(w["first.mp4"].read_bytes() + b"junk" * 500), frames=range(WHOLE)
    ),
    # ---- names
    **{
        name: Case(copied("whole.mp4"), "same bytes", frames=range(WHOLE))
        for name in (
            "with spaces .mp4",
            "ünï\u2028cödé \U0001f600.mp4",
            "-dash.mp4",
            "quote'\",;.mp4",
            "50%d.mp4",
            "take:1.mp4",
            "#*?[a].mp4",
            "UPPER.MP4",
        )
    },
    # ---- not there
    "missing.mp4": Case(lambda path, whole: None, "missing", "missing: no such file"),
    "dangling.mp4": Case(
        lambda p, w: p.symlink_to(p.parent / "nowhere"), "missing", "missing: no such file"
    ),
    "whole.mp4/below a file.mp4": Case(
        lambda path, whole: None, "missing", "missing: no such file"
    ),
    "n" * 300 + ".mp4": Case(lambda path, whole: None, "unreadable", "File name too long"),
}
TURNS = {f"turned {degrees}.mp4": degrees for degrees in (90, 180, 270)}
FILES |= {
    name: Case(
        lambda p, w, d=degrees: turned(p, w["whole.mp4"], d),
        "rotated",
        frames=range(WHOLE),
        size=SIZE if degrees == 180 else SIZE[::-1],
    )
    for name, degrees in TURNS.items()
}
READABLE = [name for name, case in FILES.items() if case.frames is not None]
ADVICE = "re-encode|drop it|check the manifest|fetch it again|let this user"


def short(name: str) -> str:
    """A name for a test."""
    return name[:40].encode("unicode_escape").decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Every case as a file, and the whole files that they are made of."""
    place = tmp_path_factory.mktemp("bad")
    whole = {
        name: place / name
        for name in (
            "whole.mp4",
            "first.mp4",
            "fragments.mp4",
            "whole.avi",
            "packed.avi",
            "whole.mkv",
            "whole.webm",
            "whole.mpg",
            "whole.ts",
            "hevc.mp4",
        )
    }
    groups = {"g": "25", "bf": "2"}
    encode(whole["whole.mp4"], WHOLE, sc_threshold="0", **groups)
    encode(whole["first.mp4"], WHOLE, opening={"movflags": "+faststart"}, g="10", bf="0")
    encode(
        whole["fragments.mp4"],
        WHOLE,
        opening={"movflags": "+frag_keyframe+empty_moov"},
        g="10",
        bf="0",
    )
    encode(whole["whole.avi"], WHOLE, "mpeg4", g="10")
    encode(whole["packed.avi"], WHOLE, "mpeg4", **groups)
    encode(whole["whole.mkv"], WHOLE, **groups)
    encode(
        whole["whole.webm"],
        WHOLE,
        "libvpx-vp9",
        opening={"fflags": "+bitexact"},
        g="10",
        deadline="good",
    )
    encode(whole["whole.mpg"], WHOLE, "mpeg1video", **groups)
    encode(whole["whole.ts"], WHOLE, **groups)
    if makes.can_write("libx265"):
        encode(whole["hevc.mp4"], WHOLE, "libx265", g="10", **X265)
    for name, case in FILES.items():
        if not case.needs or makes.can_write(case.needs):
            case.make(place / name, whole)
    return place


@pytest.fixture(scope="module")
def scanned(folder, tmp_path_factory) -> scan.Scan:
    """One scan of them all, by two processes."""
    names = [name for name, case in FILES.items() if not case.needs or makes.can_write(case.needs)]
    names += ["whole.mp4", "whole.mpg", "whole.ts", "packed.avi", "hevc.mp4"]
    listed = Manifest.from_rows(folder, [(name, "some", "train", None) for name in names])
    return scan.scan(listed, tmp_path_factory.mktemp("scan"), workers=2, progress=False)


def facts_of(scanned: scan.Scan, name: str) -> scan.Facts:
    case = FILES[name]
    if case.needs and not makes.can_write(case.needs):
        pytest.skip(f"this build of PyAV has no encoder {case.needs}")
    return scanned.facts[scanned.listed.path.tolist().index(name)]


@pytest.mark.parametrize("name", FILES, ids=short)
def test_the_scan_flags_it(scanned, name):
    case, facts = FILES[name], facts_of(scanned, name)
    assert set(facts.flags) == set(filter(None, case.flags.split(" | "))), facts
    assert bool(facts.error) == bool(case.error) == bool(set(facts.flags) & set(scan.BAD))
    if case.error:
        assert re.search(case.error, facts.error), facts.error
        assert facts.error.startswith(facts.flags[0]), "the reason begins with its flag"
    assert (name in scanned.manifest.path.tolist()) == (not case.error)


def test_the_report_counts_them_all(scanned):
    flags = Counter(flag for facts in scanned.facts for flag in facts.flags)
    assert (
        set(scan.BAD) - {"hung"} <= set(flags)
        and len(scanned.bad()) == sum(flags[bad] for bad in scan.BAD) > 35
    )
    lines = scanned.report().splitlines()
    for flag, count in flags.items():
        assert f"{'BAD ' if flag in scan.BAD else ''}{flag}: {count}" in lines
    listed, bad = len(scanned.listed), len(scanned.bad())
    assert lines[0].startswith(f"train     {listed - bad} of {listed} usable (")
    assert len(scanned.manifest) == listed - bad and lines[-1].endswith(
        f"{bad - 10} more in scan.csv"
    )
    assert "  {}: {}".format(*scanned.bad()[0]) in lines


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("name", READABLE, ids=short)
def test_what_is_there_is_read_by_its_number(folder, scanned, name, decoder):
    """From the start, backwards and one by one; decord gives the same frames, or refuses what it is
    flagged for."""
    case, facts = FILES[name], facts_of(scanned, name)
    try:
        with clips.Video(folder / name, decoder) as video:
            every, backwards = (
                video.read().frames,
                video.read(np.arange(video.frames)[::-1]).frames[::-1],
            )
            single = np.concatenate([video.read([i]).frames for i in range(0, video.frames, 3)])
    except VideoError as error:
        assert decoder == "decord" and {"decord differs", *scan.BAD} & set(facts.flags), (
            "only what is flagged"
        )
        assert str(folder / name) in str(error) and "try another decoder (torchcodec, pyav)" in str(
            error
        )
        return
    assert len(every) == facts.frames and every.shape[1:3] == case.size
    assert (backwards == every).all() and (single == every[::3]).all()
    if name in TURNS:
        every = np.rot90(every, TURNS[name] // 90, axes=(1, 2))
    found = makes.numbers(every)
    if case.frames == PART:
        assert (
            5 < len(found) < WHOLE - 5
            and found == sorted(set(found))
            and found[:5] == [0, 1, 2, 3, 4]
        )
    else:
        assert found == list(case.frames)


@pytest.mark.parametrize("name", [name for name in FILES if name not in READABLE], ids=short)
def test_what_is_not_there_is_refused_by_name(folder, scanned, name):
    facts_of(scanned, name)
    with pytest.raises(VideoError, match=ADVICE) as caught:
        clips.read(folder / name)
    assert str(caught.value).startswith(f"{folder / name}: ")
    with pytest.raises(VideoError, match=ADVICE):
        with clips.Video(folder / name) as video:
            for _ in video.stream():
                pass


def test_decord_alone_is_wrong_on_an_edit_list(folder):
    """The trap is real: by itself it counts what is hidden, and repeats the last frame for it
    without a word."""
    import decord

    alone = decord.VideoReader(str(folder / "edit list.mp4"))
    frames = makes.numbers(alone.get_batch(list(range(len(alone)))).asnumpy())
    assert len(frames) > 27 and frames[:27] == list(range(33, 60)) and set(frames[27:]) == {59}


@pytest.mark.skipif(
    not makes.can_write("libx265"), reason="this build of PyAV has no encoder libx265"
)
def test_decord_alone_is_wrong_on_open_groups_of_pictures(folder):
    import decord

    found = [
        makes.numbers(decord.VideoReader(str(folder / "HEVC.mp4")).get_batch([i]).asnumpy())[0]
        for i in range(12)
    ]
    assert found != list(range(12)), "if it is right now, Decord.exact can take HEVC"


def test_a_relative_path_that_looks_like_an_address(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for decoder in ("pyav", "decord"):
        assert makes.numbers(clips.read("take:1.mp4", [3, 1], decoder).frames) == [3, 1]


# ---- files that this user may not read ---------------------------------------------------------

CLOSED = """
import os, sys
from pathlib import Path
from vidbench.data.flow import store as flow_store
from vidbench.data.prepare import scan, store
from vidbench.data.video import clips
from vidbench.data.manifest import Manifest
place, names = Path(sys.argv[1]), ["open.mp4", "closed.mp4", "folder/inside.mp4"]
listed = Manifest.from_rows(place, [(name, None, "none", None) for name in names])
one = listed.select(mask=[0])
scan.scan(one, place / "before/scan", progress=False)  # all that is imported on the way, while it may be read
store.store(one, place / "before/store", size=32, progress=False)
flow_store.extract(one, place / "before/flow", "dis", progress=False)
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
found = scan.scan(listed, place / "out/scan", progress=False)
print(*(f"scan: {facts.flags} {facts.error}" for facts in found.facts), sep="\\n")
for name in names:
    try:
        print("read:", clips.read(place / name).frames.shape)
    except clips.VideoError as error:
        print("read:", error)
for what, report in (("store", store.store(listed, place / "out/store", size=32, progress=False)),
                     ("flow", flow_store.extract(listed, place / "out/flow", "dis", progress=False))):
    print(f"{what}:", report.done, *(f"{path}: {reason}" for path, reason in report.failed), sep="|")
try:
    store.store(listed, place / "sealed", progress=False)
except PermissionError as error:
    print("sealed:", error)
"""


@pytest.fixture(scope="module")
def closed():
    """What a user without rights reads, by what was tried, and the folder it was tried in."""
    if not hasattr(os, "setuid"):
        pytest.skip("no users to switch to")
    with (
        tempfile.TemporaryDirectory() as temporary
    ):  # the folders that pytest makes are closed to others
        place = Path(temporary)
        (place / "folder").mkdir()
        (place / "out").mkdir()
        for name in ("open.mp4", "closed.mp4", "folder/inside.mp4"):
            encode(place / name, 4)
        for name, mode in (("", 0o755), ("out", 0o777), ("closed.mp4", 0), ("folder", 0)):
            (place / name).chmod(mode)
        done = subprocess.run(
            [sys.executable, "-c", CLOSED, temporary],
            cwd=makes.ROOT,
            capture_output=True,
            text=True,
        )
        (place / "folder").chmod(0o755)
        assert not done.returncode, done.stderr
        said = {}
        for line in done.stdout.splitlines():
            said.setdefault(line.split(":")[0], []).append(line.split(":", 1)[1].strip())
        yield place, said


def test_a_closed_file_is_flagged_by_the_scan(closed):
    denied = "('unreadable',) unreadable: PermissionError: [Errno 13] Permission denied: "
    assert closed[1]["scan"][:2] == ["()", f"{denied}'{closed[0]}/closed.mp4'"]


def test_a_closed_folder_is_flagged_by_the_scan(closed):
    assert (
        "('unreadable',) unreadable: PermissionError: [Errno 13] Permission denied: "
        in closed[1]["scan"][2]
    )
    assert "folder/inside.mp4" in closed[1]["scan"][2]


def test_a_closed_file_is_refused_by_the_reader(closed):
    place, said = closed
    assert said["read"][0] == "(4, 48, 108, 3)" and said["read"][1].startswith(
        f"{place}/closed.mp4: pyav cannot open"
    )
    assert said["read"][1].endswith("let this user read it, or drop it from the manifest")


def test_a_closed_folder_is_refused_by_the_reader(closed):
    place, said = closed
    assert said["read"][2] == (
        f"{place}/folder/inside.mp4: it cannot be looked at (Permission denied); let this user "
        "into its folder, or drop it"
    )


@pytest.mark.parametrize("what", ["store", "flow"])
def test_closed_files_do_not_stop_the_work_on_others(closed, what):
    (line,) = closed[1][what]
    assert line.startswith("|1|") and line.count("|") == 3 and line.count("let this user") == 2


def test_a_sealed_place_for_the_store_is_named(closed):
    assert closed[1]["sealed"] == [f"[Errno 13] Permission denied: '{closed[0]}/sealed'"]


# ---- lists -------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path) -> Path:
    """Three videos and a place for a list of them."""
    for name in ("a.mp4", "b c.mp4", "sub/ü.mp4"):
        encode(tmp_path / "data" / name, 3)
    return tmp_path / "data"


def listed(data: Path, text: str | bytes, classes: str = "") -> Path:
    (data / "manifest.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    if classes:
        (data / "classes.txt").write_text(classes)
    return data


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "manifest.csv, line 1: wanted a header of path"),
        ("path,label\n", "lists no videos"),
        ("a.mp4,run\nb c.mp4,run\n", "manifest.csv, line 1: wanted a header of path"),
        (
            "path,label\na.mp4,run\na.mp4,run\n",
            "manifest.csv, line 3: 'a.mp4' is listed twice, first in .*line 2",
        ),
        (
            "path,label\na.mp4,run\nb c.mp4,fly\n",
            "manifest.csv, line 3: label 'fly' is not among the 2 classes",
        ),
        ("path,label\na.mp4,run\nb c.mp4\n", r"manifest.csv, line 3: wanted 2 columns .* got 1"),
        ("path,label\na.mp4,run,train\n", r"manifest.csv, line 2: wanted 2 columns .* got 3"),
        ("path label\na.mp4 run\n", "manifest.csv, line 1: wanted a header of path"),
        ("path,label\na.mp4,run\n,walk\n", "manifest.csv, line 3: the path is empty"),
        ("path,split\na.mp4,dev\n", "manifest.csv, line 2: split 'dev' is not one of"),
        (
            "path,frames\na.mp4,many\n",
            "manifest.csv, line 2: frames must be a whole number from 1 .*; got 'many'",
        ),
    ],
    ids=[
        "empty",
        "header only",
        "no header",
        "duplicate rows",
        "label outside the list",
        "a column missing",
        "a column too many",
        "another separator",
        "no path",
        "unknown split",
        "no number",
    ],
)
def test_a_bad_list_is_an_error_with_its_line(data, text, said):
    with pytest.raises(ValueError, match=said):
        catalogue.open_dataset("csv", listed(data, text, "run\nwalk\n"))


@pytest.mark.parametrize(
    "text",
    [
        b"path,label\r\na.mp4,run\r\nb c.mp4,walk\r\n",
        b"\xef\xbb\xbfpath,label\na.mp4,run\nb c.mp4,walk\n",
        b'path,label\n"a.mp4",run\n\n"b c.mp4",walk',
        b"label,path\nrun,a.mp4\nwalk,b c.mp4\n",
    ],
    ids=["CRLF", "BOM", "quotes, a blank line, no last newline", "another order"],
)
def test_a_list_may_be_written_in_these_ways(data, text):
    manifest = catalogue.open_dataset("csv", listed(data, text))
    assert manifest.path.tolist() == ["a.mp4", "b c.mp4"] and manifest.classes == ("run", "walk")
    assert manifest.label.tolist() == [0, 1]


def test_a_list_that_names_missing_files(data):
    """An error that counts them and names the first; or dropped with a warning; or kept, and
    counted by the scan."""
    listed(
        data,
        "path,split\na.mp4,train\nb "
        "c.mp4,test\ngone.mp4,train\nsub/gone.mp4,test\nsub/ü.mp4,test\n",
    )
    with pytest.raises(
        FileNotFoundError, match="2 of 5 listed videos are missing below .* the first is gone.mp4"
    ):
        catalogue.open_dataset("csv", data)
    with pytest.warns(UserWarning, match="2 of 5 .* dropped"):
        assert len(catalogue.open_dataset("csv", data, missing="drop", overlap="warn")) == 3
    listed_rows = catalogue.open_dataset("csv", data, missing="keep", overlap="warn")
    found = scan.scan(listed_rows, data / "scan", progress=False)
    assert found.availability() == [
        {"split": "train", "listed": 2, "there": 1, "usable": 1, "percent": 50.0},
        {"split": "test", "listed": 3, "there": 2, "usable": 2, "percent": 66.7},
    ]
    assert found.counts()["missing"] == 2 and "BAD missing: 2" in found.report()
    assert "train     1 of 2 usable (50.0 %), 1 there" in found.report()


@pytest.mark.parametrize(
    "names, text, wanted",
    [
        (
            ("classInd.txt", "trainlist01.txt", "testlist01.txt"),
            "brush_hair_clip_0.avi 1\n",
            "ucf101",
        ),
        (("brush_hair_test_split1.txt",), "1 ApplyEyeMakeup\n", "hmdb51"),
        (
            ("mapping_table.txt", "train.txt", "validate.txt"),
            "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\n",
            "arid",
        ),
    ],
    ids=["HMDB51's as UCF101's", "UCF101's as HMDB51's", "UCF101's as ARID's"],
)
def test_a_list_of_another_data_set_is_refused_at_its_line(data, names, text, wanted):
    for name in names:
        (data / name).write_text(text)
    assert catalogue.detect_dataset(data) == wanted
    with pytest.raises(ValueError, match=r"\.txt"):
        catalogue.open_dataset(wanted, data)


def test_a_folder_without_a_data_set_says_what_it_has(tmp_path):
    (tmp_path / "notes.txt").write_text("no videos")
    with pytest.raises(ValueError, match="no data set recognized in .*: 1 .txt, no videos"):
        catalogue.detect_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        catalogue.detect_dataset(tmp_path / "gone")


@pytest.mark.parametrize("command", ["scan", "store", "flow"])
def test_the_command_line_says_what_is_wrong_and_ends_with_2(
    tmp_path, capsys, monkeypatch, command
):
    from vidbench.__main__ import main

    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([command, "nowhere"])
    assert ended.value.code == 2 and "no such folder: nowhere" in capsys.readouterr().err
    listed(tmp_path, "path\na.mp4\na.mp4\n")
    with pytest.raises(SystemExit) as ended:
        main([command, str(tmp_path)])
    assert ended.value.code == 2 and "line 3: 'a.mp4' is listed twice" in capsys.readouterr().err
