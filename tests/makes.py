"""Videos made for tests, whole and broken, of frames that carry their own number; jobs for
processes to trip over."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np

from tests import ROOT
from vidbench.data.flow import store as flow_store
from vidbench.data.manifest import Manifest
from vidbench.data.prepare import jobs, scan, store
from vidbench.data.video import clips

SIZE, BITS = (48, 108), 9  # pixels; vertical bars, black or white, that spell the frame's number


# ---- pictures ----------------------------------------------------------------------------------


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A frame that carries its number: uint8 [H,W,3]."""
    bars = np.array([[235 if number >> bit & 1 else 20 for bit in range(BITS)]], np.uint8)
    return np.repeat(
        cv2.resize(bars, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)[..., None], 3, -1
    )


def numbers(frames: np.ndarray) -> list[int]:
    """What frames carry."""
    bars = np.stack(
        [
            cv2.resize(frame.mean(-1).astype(np.uint8), (BITS, 1), interpolation=cv2.INTER_AREA)[0]
            for frame in frames
        ]
    )
    return ((bars > 127) * (1 << np.arange(BITS))).sum(1).tolist()


def texture(
    frames: int, size: tuple[int, int] = (96, 128), speed=(1.5, -0.75), seed: int = 0
) -> np.ndarray:
    """A texture that moves by speed = (right, down) pixels a frame: uint8 [T,H,W,3]."""
    canvas = cv2.GaussianBlur(
        np.random.default_rng(seed).random((2 * size[0], 2 * size[1], 3)), (0, 0), 2
    )
    canvas = cv2.normalize(canvas, None, 0, 255, cv2.NORM_MINMAX).astype(np.float32)
    shown = []
    for t in range(frames):
        shift = np.float32([[1, 0, speed[0] * t - size[1] / 2], [0, 1, speed[1] * t - size[0] / 2]])
        shown.append(cv2.warpAffine(canvas, shift, (size[1], size[0]), flags=cv2.INTER_CUBIC))
    return np.clip(np.rint(shown), 0, 255).astype(np.uint8)


# ---- whole videos ------------------------------------------------------------------------------


def can_write(codec: str) -> bool:
    """Whether this build of PyAV has the encoder."""
    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def encode(
    path: Path,
    frames: int | Iterable[np.ndarray] = 12,
    codec: str = "libx264",
    *,
    rate=25,
    pixels: str = "yuv420p",
    bits: int = 2_000_000,
    pts: Iterable[int] | None = None,
    kind: str | None = None,
    opening: dict | None = None,
    prepare: Callable | None = None,
    **options: str,
) -> Path:
    """A video of so many numbered frames, or of these pictures. pts: time stamps in thousandths of
    a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = (picture(i) for i in range(frames)) if isinstance(frames, int) else frames
    times = None if pts is None else iter(pts)
    with av.open(str(path), "w", format=kind, options=opening or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.pix_fmt = pixels
        stream.bit_rate = bits
        if prepare:
            prepare(container, stream)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        stream.height, stream.width = SIZE
        started = False
        for image in shown:
            if not started:
                stream.height, stream.width = image.shape[:2]
                started = True
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            if times is not None:
                frame.pts, frame.time_base = next(times), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        if started:
            container.mux(stream.encode())
        else:
            container.start_encoding()  # a header and no picture
    return path


def streams(
    path: Path, sizes: Iterable[tuple[int, int]], seconds: float = 0.0, frames: int = 12
) -> Path:
    """A file with a video stream of each size, and so many seconds of silence."""
    with av.open(str(path), "w") as container:
        videos = [container.add_stream("libx264", rate=25) for _ in sizes]
        for stream, size in zip(videos, sizes, strict=True):
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        sound = container.add_stream("aac", rate=8000) if seconds else None
        for stream, size in zip(videos, sizes, strict=True):
            for number in range(frames):
                container.mux(
                    stream.encode(av.VideoFrame.from_ndarray(picture(number, size), "rgb24"))
                )
            container.mux(stream.encode())
        if sound:
            silence = np.zeros((1, int(8000 * seconds)), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, "fltp", "mono")
            frame.sample_rate = 8000
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return path


# ---- odd ones ----------------------------------------------------------------------------------


def turned(path: Path, whole: Path, degrees: int) -> Path:
    """An mp4 whose header asks players to turn it clockwise, by its track's matrix."""
    data = bytearray(whole.read_bytes())
    at = data.index(b"tkhd") + 4
    at += 40 if data[at] == 0 else 52  # version 1 has longer times
    a, b, c, d = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    struct.pack_into(">9i", data, at, a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def stream_copy(path: Path, whole: Path, first: int) -> Path:
    """A cut without a new encoding: from the key frame before frame `first`; in mp4 an edit list
    hides those between."""
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        packets = [p for p in source.demux(stream) if p.size]
        start = sorted(p.pts for p in packets)[first]
        key = max(p.pts for p in packets if p.is_keyframe and p.pts <= start)
        for packet in packets:
            if packet.pts >= key:
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, copy
                out.mux(packet)
    return path


def headless(path: Path, whole: Path, first: int) -> Path:
    """A cut that begins between two key frames, without what its first frames lean on."""
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for packet in [p for p in source.demux(stream) if p.size][first:]:
            packet.stream = copy
            out.mux(packet)
    return path


def cut_off(path: Path, whole: Path, share: float) -> Path:
    """The first part of a file, as a download that broke off leaves it."""
    path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    return path


def overwritten(
    path: Path, whole: Path, at: float = 0.45, share: float = 0.08, noise: bool = False
) -> Path:
    """A file with a part of it overwritten, by zeros or noise."""
    data = bytearray(whole.read_bytes())
    first, count = int(at * len(data)), int(share * len(data))
    data[first : first + count] = np.random.default_rng(0).bytes(count) if noise else bytes(count)
    path.write_bytes(data)
    return path


def joined(path: Path, sizes: list[tuple[int, int]], frames: int = 10) -> Path:
    """A video whose picture size changes on the way, as a recorded stream's does: key frames carry
    their headers."""
    with av.open(str(path), "w", format="matroska") as out:
        copy, shift = None, 0
        for size in sizes:
            piece = path.with_name(f"{path.stem}-{size[0]}.mkv")
            encode(
                piece,
                [picture(i, size) for i in range(frames)],
                bf="0",
                **{"x264-params": "repeat-headers=1"},
            )
            with av.open(str(piece)) as source:
                stream = source.streams.video[0]
                copy = copy or out.add_stream_from_template(stream)
                for packet in [p for p in source.demux(stream) if p.size]:
                    packet.pts, packet.dts, packet.stream = (
                        packet.pts + shift,
                        packet.dts + shift,
                        copy,
                    )
                    out.mux(packet)
            shift += 40 * frames
            piece.unlink()
    return path


# ---- jobs to trip over -------------------------------------------------------------------------


def trip(job: tuple[str, int, str]) -> tuple[int, int]:
    """A job for jobs.work: (what happens, number, folder); writes down that it was called, and
    gives number * 2."""
    what, number, folder = job
    with open(Path(folder) / "calls", "a") as calls:
        calls.write(f"{number}\n")
    if what == "hangs":
        while True:
            time.sleep(0.01)
    if what == "deaf":  # as a decoder that never comes back from its library is
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)
    if (
        what == "dies"
        or what == "dies once"
        and Path(folder, "calls").read_text().split().count(str(number)) == 1
    ):
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "stops":
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "bad":
        raise jobs.Bad(f"{number} is bad")
    if what == "wrong":
        raise ZeroDivisionError(f"a mistake in the code at {number}")
    if what.startswith("errno "):
        raise OSError(int(what[6:]), "said by the system")
    if what == "slow":
        time.sleep(0.05)
    return 2 * number, 100


def calls(folder: Path) -> list[int]:
    """The numbers of the jobs that were called, in their order."""
    return [int(line) for line in (folder / "calls").read_text().split()]


def slow_examine(job):
    """scan.examine, slow enough to be stopped on the way."""
    time.sleep(0.2)
    return scan.examine(job)


def slow_store(job):
    """store.one, slow enough to be stopped while it writes."""
    return _dawdling(STORE, job)


def slow_flow(job):
    """flow_store.one, slow enough to be stopped while it writes."""
    return _dawdling(FLOW, job)


STORE, FLOW = store.one, flow_store.one


def _dawdling(function: Callable, job):
    whole = clips.Video.stream

    def stream(self):
        for frame in whole(self):
            time.sleep(0.02)
            yield frame

    clips.Video.stream = stream
    try:
        return function(job)
    finally:
        clips.Video.stream = whole


def run(what: str, data: str, out: str, format: str = "mp4") -> None:
    """A long scan, store or flow on two processes, for tests to stop."""
    manifest = Manifest.load(data)
    scan.examine, store.one, flow_store.one = slow_examine, slow_store, slow_flow
    if what == "scan":
        scan.scan(manifest, out, workers=2, progress=False)
    elif what == "store":
        store.store(manifest, out, format, size=32, workers=2, progress=False)
    else:
        flow_store.extract(manifest, out, "dis", format=format, workers=2, progress=False)


def hear_ctrl_c() -> None:
    """Undo what a shell does to its jobs in the background: they and their children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(what: str, data: Path, out: Path, format: str = "mp4") -> subprocess.Popen:
    """`run` as its own process group."""
    code = f"from tests import makes; makes.run({what!r}, {str(data)!r}, {str(out)!r}, {format!r})"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )


def wait_for(there: Callable[[], object], process: subprocess.Popen, seconds: float = 60.0) -> None:
    """Wait until something is there while a process runs."""
    end = time.monotonic() + seconds
    while not there():
        if process.poll() is not None or time.monotonic() > end:
            os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
            raise AssertionError(f"never came: {process.communicate()[1][-2000:]}")
        time.sleep(0.01)


def gone(process: subprocess.Popen, seconds: float = 5.0) -> bool:
    """Whether a process and all that it started have gone, or go within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def stamps(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Each file below a folder but the locks, with size, time of change and the file's own
    number."""
    files = [
        file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".lock")
    ]
    about = {str(file.relative_to(folder)): file.stat() for file in files}
    return {name: (a.st_size, a.st_mtime_ns, a.st_ino) for name, a in sorted(about.items())}


def on_full_disks(place: str, data: str, wanted: list[tuple[str, str, int, int]]) -> None:
    """Store or flow on disks that are too small, then with room; prints what came of each as a line
    of JSON.

    wanted: (what, form, workers, kB). Wants the right to mount, as `unshare --map-root-user
    --mount` gives it."""
    manifest, disk_usage = Manifest.load(data), jobs.shutil.disk_usage
    for what, format, workers, room in wanted:
        folder = Path(place)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}k", "none", place], check=True)
        # an estimate would stop it before the disk is full; that is the second thing to try
        jobs.shutil.disk_usage = lambda path: SimpleNamespace(free=10**15)
        said = {"what": what, "format": format}
        try:
            fill(what, format, manifest, folder, workers)
        except Exception as error:
            said["error"] = f"{type(error).__name__}: {error}"
        said["left"] = [file.name for file in folder.rglob("*.tmp")]
        said["whole"] = [
            name
            for name in stamps(folder)
            if name.endswith((".mp4", ".npz")) and _reads(folder, name)
        ]
        said["there"] = [name for name in stamps(folder) if name.endswith((".mp4", ".npz"))]
        finished = said["there"]
        if what == "store":
            with jobs.Journal(folder, "store") as journal:
                finished = [name for name in journal.known if (folder / name).is_file()]
        before = {name: about for name, about in stamps(folder).items() if name in finished}
        jobs.shutil.disk_usage = disk_usage
        try:
            fill(what, format, manifest, folder, workers)
        except Exception as error:
            said["again"] = f"{type(error).__name__}: {error}"
        subprocess.run(["mount", "-o", "remount,size=100m", "none", place], check=True)
        report = fill(what, format, manifest, folder, workers)
        after = stamps(folder)
        said["kept"] = len(before)
        said["untouched"] = sum(after[name] == about for name, about in before.items())
        said["report"] = report[1:4] if what == "store" else report[:3]
        said["all whole"] = all(
            _reads(folder, name) for name in after if name.endswith((".mp4", ".npz"))
        )
        print(json.dumps(said), flush=True)
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(what: str, format: str, manifest: Manifest, folder: Path, workers: int = 0):
    """Store a data set's videos, or their flow; the report."""
    if what == "store":
        return store.store(manifest, folder, format, workers=workers, progress=False)
    return flow_store.extract(
        manifest, folder, "dis", format=format, workers=workers, progress=False
    )


def _reads(folder: Path, name: str) -> bool:
    try:
        if ".flow." in name:
            return len(flow_store.load(folder, name.split(".flow.")[0])) > 0
        with clips.Video(folder / name) as video:
            return sum(1 for _ in video.stream()) == video.frames > 0
    except (clips.VideoError, flow_store.FlowError):
        return False
