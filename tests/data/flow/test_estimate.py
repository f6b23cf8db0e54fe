"""Flow: OpenCV's known errors on RubberWhale, signs, the 8-bit store and its way back, resuming,
colors."""

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from vidbench.data.flow import estimate
from vidbench.data.flow import store as flow_store
from vidbench.data.flow import truth as known
from vidbench.data.manifest import Manifest
from vidbench.system.files import lock_folder


def moving_texture(frames=4, size=128, speed=(1.5, -0.75), seed=0) -> np.ndarray:
    """A texture that moves by speed = (right, down) pixels a frame: uint8 [T,H,W,3]."""
    texture = cv2.GaussianBlur(
        np.random.default_rng(seed).random((2 * size, 2 * size, 3)), (0, 0), 2
    )
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX).astype(np.float32)
    shown = []
    for t in range(frames):
        shift = np.float32([[1, 0, speed[0] * t - size / 2], [0, 1, speed[1] * t - size / 2]])
        shown.append(cv2.warpAffine(texture, shift, (size, size), flags=cv2.INTER_CUBIC))
    return np.clip(np.rint(shown), 0, 255).astype(np.uint8)


def write_video(path: Path, frames: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def videos(tmp_path) -> Manifest:
    """Four readable videos of 9 frames in two folders, one broken file, one missing."""
    names = [f"{label}/{i}.mp4" for label in "ab" for i in range(2)]
    for seed, name in enumerate(names):
        write_video(tmp_path / "videos" / name, moving_texture(9, 64, seed=seed))
    (tmp_path / "videos/b/broken.mp4").write_bytes(b"not a video at all" * 50)
    rows = [
        (name, name[0], "none", None)
        for name in [*names[:3], "b/broken.mp4", "b/missing.mp4", names[3]]
    ]
    return Manifest.from_rows(tmp_path / "videos", rows, ("a", "b"))


def good(manifest: Manifest) -> list[str]:
    return [str(p) for p in manifest.path if str(p)[2:3].isdigit()]


def end_point(flow_a, flow_b) -> np.ndarray:
    return np.hypot(*np.moveaxis(flow_a - flow_b, -1, 0))


@pytest.mark.parametrize(
    "method, error", [("tvl1", 0.157), ("tvl1_fast", 0.198), ("tvl1_torch", 0.157), ("dis", 0.225)]
)
def test_rubberwhale(real_data, method, error):
    """End-point errors on Middlebury's RubberWhale, unknown ground truth masked; TV-L1's at most
    0.20 is wanted."""
    frames, truth = known.read_pair(real_data / "flow_gt/middlebury_rubberwhale")
    missed = known.end_point(estimate.estimate(frames, method)[0], truth)
    assert abs(np.nanmean(missed) - error) < 0.01 and 0.01 < np.isnan(missed).mean() < 0.02


def test_a_known_motion():
    """A texture that turns by 2 degrees and grows by 2 %: the truth is arithmetic, the frames are
    warped pictures."""
    frames, truth = known.turning_pair(96)
    corner = truth[
        0, 0
    ]  # at the top left a turn against the clock, in picture coordinates, leads left and down or up
    angle, zoom, middle = np.deg2rad(2.0), 1.02, 47.5
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert np.allclose(corner, turn @ [-middle, -middle] + middle, atol=1e-4)
    inside = (slice(16, -16), slice(16, -16))
    for method in estimate.METHODS:
        missed = known.end_point(estimate.estimate(frames, method)[0], truth)
        assert missed[inside].mean() < 0.1 < np.linalg.norm(truth[inside], axis=-1).mean(), method


def test_flo_files(tmp_path):
    truth = np.random.default_rng(0).normal(0, 3, (5, 7, 2)).astype("<f4")
    truth[1, 2] = 1.7e9
    file = tmp_path / "a.flo"
    head = np.float32(202021.25).tobytes() + np.int32([7, 5]).tobytes()
    file.write_bytes(head + truth.tobytes())
    read = known.read_flo(file)
    assert (
        np.isnan(read[1, 2]).all()
        and np.isnan(read).sum() == 2
        and np.array_equal(read[0], truth[0])
    )
    file.write_bytes(head + truth.tobytes()[:-4])
    with pytest.raises(ValueError, match="wanted 292 bytes for 7 x 5, got 288"):
        known.read_flo(file)
    negative = np.int32([-7, -5]).tobytes()  # their product fits the bytes
    file.write_bytes(head[:4] + negative + truth.tobytes())
    with pytest.raises(ValueError, match="wanted 292 bytes for -7 x -5"):
        known.read_flo(file)
    file.write_bytes(b"PIEH" * 20)
    with pytest.raises(ValueError, match="wanted 80|wanted .* bytes"):
        known.read_flo(file)
    file.write_bytes(b"no flow at all, but long enough")
    with pytest.raises(ValueError, match="no .flo file"):
        known.read_flo(file)
    with pytest.raises(ValueError, match="wanted two pictures and one .flo, got 0 and 1"):
        known.read_pair(tmp_path)


@pytest.mark.parametrize("method", estimate.METHODS)
def test_sign_and_size_of_a_known_motion(method):
    found = estimate.estimate(moving_texture(3), method)
    assert found.shape == (2, 128, 128, 2) and found.dtype == np.float32
    assert np.allclose(np.median(found, (0, 1, 2)), (1.5, -0.75), atol=0.05), (
        "u to the right, v down"
    )


def test_time_reversal_and_flip():
    frames = moving_texture(3, speed=(1.0, 0.5))
    forward, middle = (
        estimate.estimate(frames, "tvl1_fast"),
        (slice(None), slice(16, -16), slice(16, -16)),
    )
    backward = -estimate.estimate(frames[::-1], "tvl1_fast")[::-1]
    assert end_point(forward, backward)[middle].mean() < 0.1
    mirrored = estimate.estimate(frames[:, :, ::-1].copy(), "tvl1_fast")[:, :, ::-1] * np.float32(
        [-1, 1]
    )
    assert end_point(forward, mirrored)[middle].mean() < 0.05
    stored, negated = (estimate.quantize(f)[..., :2].astype(int) for f in (forward, -forward))
    assert np.abs(255 - stored - negated).max() <= 1, "255 - x negates a stored flow"


def test_fast_preset_is_near_the_default():
    frames = moving_texture(3, speed=(2.2, 1.3))
    difference = end_point(
        estimate.estimate(frames, "tvl1"), estimate.estimate(frames, "tvl1_fast")
    )
    assert 0 < difference.mean() <= 0.2


def test_quantize_round_trip_is_within_half_a_step():
    values = np.random.default_rng(0).uniform(-25, 25, (5, 7, 9, 2)).astype(np.float32)
    stored = estimate.quantize(values, 20.0)
    assert (
        stored.shape == (5, 7, 9, 3) and stored.dtype == np.uint8 and (stored[..., 2] == 128).all()
    )
    error = np.abs(estimate.dequantize(stored, 20.0) - np.clip(values, -20, 20)).max()
    assert 0.9 * 20 / 255 < error <= 1.001 * 20 / 255
    assert estimate.quantize(np.float32([[[[0, -20]], [[20, 0.1]]]]))[0, :, 0, :2].tolist() == [
        [128, 0],
        [255, 128],
    ]


def test_extract_stores_what_estimate_finds_and_resumes(videos, tmp_path):
    store = tmp_path / "flow"
    report = flow_store.extract(videos, store, "dis", progress=False)
    assert (report.done, report.skipped, report.pairs) == (4, 0, 32) and report.seconds > 0
    reasons = dict(report.failed)
    assert set(reasons) == {"b/broken.mp4", "b/missing.mp4"} and all(
        "VideoError" in r for r in reasons.values()
    )

    from vidbench.data.video import clips

    for name in good(videos):
        whole, frames = flow_store.load(store, name), clips.read(videos.root / name).frames
        assert flow_store.length(store, name) == 8 == len(whole)
        assert np.array_equal(whole, estimate.quantize(estimate.estimate(frames, "dis")))
        picked = flow_store.load(store, name, np.array([3, 0, 3, 7, 8]))
        assert np.array_equal(picked, whole[[3, 0, 3, 7, 7]]), "the last frame takes the last flow"
        facts = flow_store.meta(store, name)
        assert (
            facts["method"] == "dis" and facts["frames"] == 9 and facts["opencv"] == cv2.__version__
        )
    assert json.loads((store / "flow.json").read_text())["settings"]["bound"] == 20.0

    gone = flow_store.flow_path(store, "b/0.mp4")
    gone.unlink()
    kept = {
        n: flow_store.flow_path(store, n).stat().st_mtime_ns for n in good(videos) if n != "b/0.mp4"
    }
    report = flow_store.extract(videos, store, "dis", progress=False)
    assert (report.done, report.skipped, len(report.failed), report.pairs) == (
        1,
        3,
        2,
        8,
    ) and gone.is_file()
    assert kept == {n: flow_store.flow_path(store, n).stat().st_mtime_ns for n in kept}
    assert not list(store.rglob("*.tmp"))


def test_complete_goes_on_with_a_stores_own_settings_and_takes_no_lock_where_nothing_is_missing(
    videos, tmp_path, capsys
):
    fine, store = videos.select(mask=np.isin(videos.path, good(videos))), tmp_path / "flow"
    flow_store.extract(fine, store, "dis", bound=10.0, format="mp4", progress=False)
    before = flow_store.settings_of(store)
    flow_store.flow_path(
        store, "b/0.mp4", "mp4"
    ).unlink()  # as after a kill: flow.json is there, a video's flow is not
    assert flow_store.complete(fine, store, "tvl1", progress=False).done == 1
    assert (
        flow_store.settings_of(store) == before
        and flow_store.flow_path(store, "b/0.mp4", "mp4").is_file()
    )
    with lock_folder(store):
        assert flow_store.complete(fine, store).skipped == 4
    assert capsys.readouterr().out == ""
    assert flow_store.complete(fine, tmp_path / "new", "dis", progress=False).done == 4
    assert "computing it by dis. The papers use TV-L1" in capsys.readouterr().out
    assert flow_store.settings_of(tmp_path / "new") == flow_store.Settings("dis")


def test_spawned_processes_store_the_same(videos, tmp_path):
    flow_store.extract(videos, tmp_path / "one", "dis", progress=False)
    report = flow_store.extract(videos, tmp_path / "two", "dis", workers=2, progress=False)
    assert (report.done, len(report.failed), report.pairs) == (4, 2, 32)
    for name in good(videos):
        assert np.array_equal(
            flow_store.load(tmp_path / "one", name), flow_store.load(tmp_path / "two", name)
        )


@pytest.mark.slow
def test_a_killed_worker_costs_no_video(tmp_path):
    """Its video is tried again."""
    for i in range(3):
        write_video(tmp_path / f"{i}.mp4", moving_texture(24, 96, seed=i))
    manifest = Manifest.from_rows(
        tmp_path, [(f"{i}.mp4", None, "none", None) for i in range(3)], ()
    )
    killed = []

    def kill_one():
        while not killed:
            for child in multiprocessing.active_children():
                time.sleep(1.0)
                os.kill(child.pid, signal.SIGKILL)
                killed.append(child.pid)
                break
            time.sleep(0.01)

    thread = threading.Thread(target=kill_one)
    thread.start()
    report = flow_store.extract(manifest, tmp_path / "flow", "tvl1", workers=2, progress=False)
    thread.join()
    assert killed and report.done == 3 and not report.failed


def test_a_folder_refuses_other_settings(videos, tmp_path):
    flow_store.extract(
        videos.select(mask=np.arange(6) == 0), tmp_path / "flow", "dis", progress=False
    )
    with pytest.raises(
        estimate.FlowError, match="method: there 'dis', wanted 'tvl1'; size: there None, wanted 32"
    ):
        flow_store.extract(videos, tmp_path / "flow", "tvl1", size=32, progress=False)


def test_size_is_the_short_side(videos, tmp_path):
    one = videos.select(mask=np.arange(6) == 0)
    flow_store.extract(one, tmp_path / "flow", "dis", size=32, progress=False)
    assert flow_store.load(tmp_path / "flow", str(one.path[0])).shape == (8, 32, 32, 3)
    facts = flow_store.meta(tmp_path / "flow", str(one.path[0]))
    assert (facts["height"], facts["width"], facts["size"], facts["read_by"]) == (
        32,
        32,
        32,
        "pyav",
    )


def test_doors(videos, tmp_path):
    store = tmp_path / "flow"
    flow_store.extract(videos.select(mask=np.arange(6) == 0), store, "dis", progress=False)
    name = str(videos.path[0])
    with pytest.raises(IndexError, match="frames 0..8, got 0..9"):
        flow_store.load(store, name, np.array([0, 9]))
    with pytest.raises(estimate.FlowError, match="no flow of b/0.mp4"):
        flow_store.load(store, "b/0.mp4")
    with pytest.raises(ValueError, match="at least two frames"):
        estimate.estimate(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="see dequantize"):
        estimate.colors(np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(ValueError, match="farneback"):
        flow_store.extract(videos, store, "farneback")
    file = flow_store.flow_path(store, name)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(estimate.FlowError, match="extract again"):
        flow_store.load(store, name)
    file.write_bytes(whole[:-2000] + bytes(1000) + whole[-1000:])
    with pytest.raises(estimate.FlowError, match="extract again"):
        flow_store.load(store, name)


def test_colors_and_wheel():
    assert (estimate.colors(np.zeros((4, 5, 2), np.float32)) == 255).all(), "no motion is white"
    right, left, half, fast = estimate.colors(
        np.float32([[1, 0], [-1, 0], [0.5, 0], [3, 0]]), limit=1.0
    )
    assert right.tolist() == [255, 0, 0] and left[0] < 50 and left[2] > 200, (
        "right is red, left opposite on the wheel"
    )
    assert half.tolist() == [255, 128, 128] and fast.tolist() == [191, 0, 0], (
        "slower is paler, beyond the limit darker"
    )
    for angle in np.linspace(0, 2 * np.pi, 9):
        there = np.float32([np.cos(angle), np.sin(angle)])
        one, other = estimate.colors(np.stack([there, -there]), limit=1.0).astype(int)
        assert np.abs(one - other).max() > 120
    disc = estimate.wheel(101)
    assert disc.shape == (101, 101, 3) and disc.dtype == np.uint8
    assert (disc[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all() and (disc[50, 50] >= 250).all()
    assert disc[50, 99, 0] > 245 and disc[50, 99, 1:].max() < 15, (
        "its right edge is motion to the right"
    )


def test_flow_of_another_version_of_a_video_is_refused(videos):
    """Its numbers would mean other frames; the loader says which file and what to do."""
    from vidbench.data.loading import dataset
    from vidbench.data.video import clips

    listed = videos.select(mask=[0, 1])
    folder = videos.root.parent / "flow"
    flow_store.extract(listed, folder, "dis", workers=0, progress=False)
    spec = dataset.ClipSpec(frames=4, stride=1, streams=("rgb", "flow"), views=2)
    assert dataset.Clips(listed, spec, flow_folder=folder)[0, 0]["flow"].shape[2] == 4
    write_video(listed.absolute(0), moving_texture(12, 64))
    with pytest.raises(
        clips.VideoError,
        match=r"a/0.mp4: the video has 12 frames, but .* holds 8 flows, those of 9",
    ):
        dataset.Clips(listed, spec, flow_folder=folder)[0, 0]
    counted = Manifest(
        **{
            **vars(listed),
            "frames": [12, 9],
            "fps": [16, 16],
            "height": [64] * 2,
            "width": [64] * 2,
        }
    )
    with pytest.raises(
        clips.VideoError, match="has 12 frames"
    ):  # flow alone, of a data set that was scanned
        dataset.Clips(counted, dataset.ClipSpec(frames=4, streams=("flow",)), flow_folder=folder)[
            0, 0
        ]
    assert (
        dataset.Clips(counted, dataset.ClipSpec(frames=4, streams=("flow",)), flow_folder=folder)[
            0, 1
        ]["row"]
        == 1
    )
