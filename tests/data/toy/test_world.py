"""The toy world: files that every decoder reads, the same bytes each time; motion is the label,
appearance is noise."""

import csv
import json
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest

from vidbench.data.manifest import Manifest
from vidbench.data.sets import catalogue
from vidbench.data.toy import figure, props, scene, worlds
from vidbench.data.toy import world as toy
from vidbench.data.video import framestore

av = pytest.importorskip("av")
MINI = toy.Preset(size=32, fps=8, frames=10, source_videos=4, clips=2)
ALL_ACTIONS = (*figure.ACTIONS, *figure.REVERSED)


def frames_of(file):
    convert = (
        av.video.reformatter.VideoReformatter()
    )  # one for all frames: making one takes longer than using it
    with av.open(str(file)) as video:
        return np.stack(
            [convert.reformat(f, format="rgb24").to_ndarray() for f in video.decode(video=0)]
        )


def contents(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


# ---- what is measured: one still frame, and statistics of flow ---------------------------------


def measure(file):
    """Statistics of one clip: two of the middle frame, one of signed flow, three that are blind to
    time's order."""
    frames = frames_of(file)
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    side = gray[0].shape[0] // 16 * 16
    hog = cv2.HOGDescriptor((side, side), (16, 16), (8, 8), (8, 8), 9)
    solver = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    solver.setFinestScale(0)  # the figure is small: look at every pixel
    flow = np.stack([solver.calc(gray[i], gray[i + 1], None) for i in range(0, len(gray) - 1, 4)])
    size = np.hypot(flow[..., 0], flow[..., 1])
    return {
        "still": pool(frames[len(frames) // 2], 16).astype(float),
        "hog": hog.compute(gray[len(gray) // 2]).ravel(),
        "flow": orientations(flow),
        "bag of frames": np.mean([hog.compute(g).ravel() for g in gray[::4]], 0),
        "energy": pool(size.mean(0), 8),
        "sorted energy": np.sort(size.mean((1, 2))),
        "camera": np.median(flow, axis=(1, 2)),
        "fastest": np.percentile(size, 98, axis=(1, 2)),
    }


def pool(picture, cells):
    return cv2.resize(picture, (cells, cells), interpolation=cv2.INTER_AREA).ravel()


def orientations(flow, bins=8, grid=4):
    """Mean speed in each of `bins` directions in each cell of a grid, the camera's motion taken
    away, over the clip."""
    flow = flow - np.median(flow, axis=(1, 2), keepdims=True)
    turn = ((np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) + 0.5) * bins).astype(int) % bins
    size = np.hypot(flow[..., 0], flow[..., 1])
    return np.sqrt(
        np.concatenate([pool(np.where(turn == b, size, 0).mean(0), grid) for b in range(bins)])
    )


def measure_all(manifest):
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(2) as two:
        rows = list(two.map(measure, [manifest.absolute(i) for i in range(len(manifest))]))
    cv2.setNumThreads(before)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def linear(strength=0.01):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))


def accuracy(features, manifest, strength=0.01):
    return right(features, manifest, strength).mean()


def right(features, manifest, strength=0.01):
    """Which test videos a linear classifier of the training videos gets right."""
    train, test = (manifest.split == part for part in (0, 2))
    model = linear(strength).fit(features[train], manifest.label[train])
    return model.predict(features[test]) == manifest.label[test]


def twins(features, manifest):
    """How well sit_down and stand_up are distinguished, over five folds in which siblings stay together."""
    from sklearn.model_selection import GroupKFold, cross_val_score

    rows = np.isin(
        manifest.label, [manifest.classes.index(name) for name in ("sit_down", "stand_up")]
    )
    folds = {"cv": GroupKFold(5), "groups": manifest.source_video[rows]}
    return cross_val_score(linear(), features[rows], manifest.label[rows], **folds).mean()


@pytest.mark.slow
def test_tiny_motion_says_more_than_a_still_frame(toy_tiny):
    got = measure_all(toy_tiny)
    still, flow = accuracy(got["still"], toy_tiny), accuracy(got["flow"], toy_tiny)
    print(f"\ntiny: still frame {still:.2f}, flow {flow:.2f}")
    assert still < 0.35 and flow > still + 0.3
    # the camera drifts by less than a pixel a frame, and what moves fast is the figure
    drift = np.linalg.norm(got["camera"], axis=-1)
    assert np.percentile(drift, 99) < 1.0
    assert np.median(got["fastest"].max(1)) > 5 * np.median(drift)


@pytest.mark.slow
def test_small_motion_is_the_label_and_twins_need_the_order_of_time(tmp_path):
    manifest = toy.render(tmp_path, "small", workers=2, progress=False)
    assert len(manifest) == 80 * 12 and (manifest.split == 2).sum() == 20 * 12
    got = measure_all(manifest)
    still, hog, flow = (accuracy(got[name], manifest) for name in ("still", "hog", "flow"))
    print(
        f"\nsmall, 12 classes: still frame, pixels {still:.3f}, gradients (HOG) {hog:.3f}; flow "
        f"{flow:.3f}"
    )
    assert still <= 0.40 and hog <= 0.40 and flow >= 0.75

    blind = ("bag of frames", "energy", "sorted energy")
    got["all blind"] = np.concatenate([got[name] for name in blind], axis=1)
    apart = {name: twins(got[name], manifest) for name in (*blind, "all blind", "flow")}
    print(
        "small, sit_down against stand_up: "
        + ", ".join(f"{name} {value:.3f}" for name, value in apart.items())
    )
    assert all(apart[name] <= 0.65 for name in (*blind, "all blind"))
    assert apart["flow"] >= 0.85


@pytest.mark.long
def test_each_stream_of_the_mixed_world_tells_part_of_the_label(tmp_path):
    """Still frame (gradients) and flow each predict part, and together at least 10 points more.
    Over the experiment's five worlds, as the shares of one vary: it has 80 test source videos."""
    hits = {"pixels": [], "still": [], "flow": []}
    for seed in (1, 2, 3, 4, 5):
        folder = tmp_path / str(seed)
        manifest = toy.render(folder, "small", "mixed", seed, workers=2, progress=False)
        got = measure_all(manifest)
        for name, features in (("pixels", "still"), ("still", "hog"), ("flow", "flow")):
            hits[name].append(right(got[features], manifest))
        print(seed, {name: round(float(parts[-1].mean()), 3) for name, parts in hits.items()})
    pixels, still, flow = (np.concatenate(parts) for parts in hits.values())
    either = (still | flow).mean()
    print(f"\nmixed: still {still.mean():.3f}, flow {flow.mean():.3f}, either {either:.3f}")
    assert 0.40 <= still.mean() <= 0.55 and 0.65 <= flow.mean() <= 0.80
    assert pixels.mean() <= 0.55 and either >= flow.mean() + 0.10


def test_classes_of_the_mixed_world_share_their_motion_or_their_prop():
    world = toy.WORLDS["mixed"]
    shown = Counter(action for (action,) in world.classes.values())
    held = Counter(prop.partition("/")[0] for prop in world.props.values())
    assert len([action for action, times in shown.items() if times == 1]) == 9
    assert len([action for action, times in shown.items() if times == 2]) == 4
    assert held == dict.fromkeys(props.PROPS, 4) | {"stick": 5} and len(world.classes) == 17
    kinds = {tuple(prop.split("/")) for prop in world.props.values()}
    assert {place for _, place in kinds} == set(props.PLACES)
    # a pair that shares its motion differs in the prop
    pairs = {(*actions, world.props[name]) for name, actions in world.classes.items()}
    assert len(pairs) == 17 and "mixed" not in toy.RELATED


def test_the_mixed_world_is_a_built_in_data_set():
    assert catalogue.is_built_in("tiny-mixed") and catalogue.is_built_in("large-mixed")
    with pytest.raises(FileNotFoundError, match="Did you mean the built-in data set 'small-mixed'"):
        catalogue.detect_dataset("smal-mixed")


def test_a_still_frame_of_the_mixed_world_shows_the_prop_and_not_the_shake():
    size = toy.Preset(size=64, fps=8, frames=1, source_videos=16, clips=1)
    hog, found = cv2.HOGDescriptor((64, 64), (16, 16), (8, 8), (8, 8), 9), []
    plan = toy.plan_videos(size, "mixed", 0)
    for source in plan:
        ((_, frames),) = toy.draw(source, (0,), size, "mixed", 0)
        found.append(hog.compute(cv2.cvtColor(frames[0], cv2.COLOR_RGB2GRAY)).ravel())
    prop = np.array([source.label.rpartition("_")[2] for source in plan])
    test = np.array([source.split == "test" for source in plan])
    model = linear().fit(np.array(found)[~test], prop[~test])
    assert model.score(np.array(found)[test], prop[test]) > 0.4  # chance 0.25


def test_the_mixed_world_shakes_and_has_a_moving_distractor():
    looks = [
        scene.draw_look(64, "blobs", "shake", np.random.default_rng(i), "box/ground")
        for i in range(40)
    ]
    sway = np.array([look.sway[:2, :2] for look in looks])
    assert 0.01 <= sway[..., 0].min() < 0.014 and 0.026 < sway[..., 0].max() <= 0.03
    assert 0.5 <= sway[..., 1].min() < 0.7 and 1.8 < sway[..., 1].max() <= 2.0
    times = np.arange(16) / 8
    look = looks[0]
    still = replace(look, sway=np.zeros((4, 3)))  # the camera stands, and so does the figure
    poses = figure.pose("walk", np.zeros(16))
    frames = scene.paint(poses, times, still, 64).astype(int)
    moved = np.abs(np.diff(frames, axis=0)).max(axis=(0, 3)) > 8
    assert 0.01 < moved.mean() < 0.4  # the disc's path
    alone = scene.paint(poses, times, replace(still, distractor=None), 64)
    assert not np.diff(alone.astype(int), axis=0).any()
    bare = scene.paint(poses, times, replace(still, distractor=None, prop=None), 64)
    assert 0.01 < (np.abs(alone.astype(int) - bare).max(axis=(0, 3)) > 8).mean() < 0.2


@pytest.mark.parametrize(
    "world, wanted", [("base", 3557314963), ("gym", 1086140971), ("street", 1884948016)]
)
def test_the_frames_of_the_related_worlds_stay_what_they_were(world, wanted):
    """Published numbers are of these pictures. Another version of OpenCV may draw others: compare
    with the version of the lock file before you change a checksum."""
    found = 0
    for source in toy.plan_videos(MINI, world, 5)[::7]:
        ((_, frames),) = toy.draw(source, (0,), MINI, world, 5)
        found = zlib.crc32(frames.tobytes(), found)
    assert found == wanted


@pytest.mark.parametrize("prop", sorted(set(toy.WORLDS["mixed"].props.values())))
def test_a_prop_is_drawn_where_it_belongs(prop):
    one = props.Prop(prop, np.array([255.0, 0, 0]), 1.0)
    at = {"hand_near": np.array([60.0, 30.0]), "elbow_near": np.array([50.0, 30.0])}
    canvas = np.zeros((128, 128, 3), np.uint8)
    props.draw_prop(canvas, one, at, np.array([40.0, 110.0]), 1.0, 80.0)
    rows, columns = np.nonzero(canvas[..., 0])
    if one.held:  # along the forearm, which points to the right
        assert abs(rows.mean() - 30) < 3 and columns.mean() > 58
    else:  # it stands on the ground in front of the figure
        assert abs(columns.mean() - (40 + 0.42 * 80)) < 3 and 105 < rows.max() <= 114


def test_appearance_gives_siblings_away(toy_tiny):
    """The shortcut that instance discrimination on RGB takes: the nearest picture by mean colors
    is a sibling's."""
    pictures = np.array(
        [pool(frames_of(toy_tiny.absolute(i))[::6].mean(0), 4) for i in range(len(toy_tiny))]
    )
    apart = np.linalg.norm(pictures[:, None] - pictures[None], axis=-1) + 1e9 * np.eye(
        len(pictures)
    )
    assert (toy_tiny.source_video[apart.argmin(1)] == toy_tiny.source_video).mean() > 0.9


# ---- labels, splits, worlds --------------------------------------------------------------------


def test_manifest_is_stratified_and_siblings_stay_together(toy_tiny):
    assert toy_tiny.classes == worlds.BASE and len(toy_tiny) == 24 * len(worlds.BASE)
    for label in range(len(toy_tiny.classes)):
        assert sorted(np.bincount(toy_tiny.split[toy_tiny.label == label], minlength=4)) == [
            0,
            0,
            6,
            18,
        ]
    for source_video in np.unique(toy_tiny.source_video):
        rows = toy_tiny.source_video == source_video
        assert (
            rows.sum() == 3
            and len(set(toy_tiny.split[rows])) == 1
            and len(set(toy_tiny.label[rows])) == 1
        )
    again = Manifest.load(toy_tiny.root)
    assert [again.names(i) for i in range(len(again))] == [
        toy_tiny.names(i) for i in range(len(toy_tiny))
    ]


@pytest.mark.parametrize("world", toy.WORLDS)
@pytest.mark.parametrize("preset", toy.PRESETS)
def test_every_variant_is_trained_and_tested(world, preset):
    shown = {}
    for source_video in toy.plan_videos(preset, world, seed=3):
        shown.setdefault((source_video.label, source_video.part), []).append(source_video.split)
    if preset != "tiny":  # its classes have two sources for testing, and one class has three parts
        assert all(set(splits) == {"train", "test"} for splits in shown.values())
    for label, actions in toy.WORLDS[world].classes.items():
        splits = [s for (name, _), found in shown.items() if name == label for s in found]
        assert splits.count("test") / len(splits) == pytest.approx(0.25, abs=0.01)
        assert {part.split("/")[0] for name, part in shown if name == label} == {
            a.split("/")[0] for a in actions
        }


def test_correspondence_agrees_with_the_manifests(tmp_path):
    small = replace(MINI, frames=2, clips=1)
    worlds = {
        name: toy.render(tmp_path / name, small, name, workers=1, progress=False)
        for name in toy.RELATED
    }
    tables = [
        list(csv.DictReader((tmp_path / name / "correspondence.csv").open())) for name in worlds
    ]
    assert tables[0] == tables[1] == tables[2]
    rows = {(row["world"], row["class"], row["other_world"]): row for row in tables[0]}
    assert len(rows) == len(tables[0])
    assert set(rows) == {
        (w, c, o) for w in worlds for c in worlds[w].classes for o in worlds if o != w
    }
    # the oracle: what was drawn. Two classes are related where the same action (or variant) was
    # drawn for both.
    drawn = {}
    for name in worlds:
        for source_video in toy.plan_videos("large", name):
            drawn.setdefault((name, source_video.label), set()).add(source_video.part)
    opposite = {"same": "same", "merged": "split", "split": "merged"}
    for (world, label, other), row in rows.items():
        held, matches = drawn[world, label], [m for m in row["matches"].split(";") if m]
        assert matches == [c for c in worlds[other].classes if drawn[other, c] & held]
        if row["relation"] == "private":
            assert not matches
        elif row["relation"] == "same":
            assert [drawn[other, m] for m in matches] == [held]
        elif row["relation"] == "merged":
            assert all(drawn[other, m] < held for m in matches)
        else:
            assert (
                row["relation"] == "split" and len(matches) == 1 and held < drawn[other, matches[0]]
            )
        assert all(rows[other, m, world]["relation"] == opposite[row["relation"]] for m in matches)
        assert all(label in rows[other, m, world]["matches"].split(";") for m in matches)
    for world in worlds:  # each world shows every kind, so joint training is tried on all of them
        found = {row["relation"] for row in tables[0] if row["world"] == world}
        assert found == {"same", "merged", "split", "private"}


# ---- poses -------------------------------------------------------------------------------------


def test_twins_are_mirrored_in_time():
    phase = np.linspace(0, 1, 65)
    down, up = figure.pose("sit_down", phase), figure.pose("stand_up", 1 - phase)
    np.testing.assert_allclose(down, up, atol=1e-9)
    assert (
        np.abs(down - down[::-1]).max() > 60
    )  # degrees: the path itself is not its own mirror image
    # so are the holds around it: the law of the phases of many takes is the same, run backwards
    size, rng = toy.PRESETS["small"], np.random.default_rng(0)
    takes = np.array([toy._take("sit_down", 1.0, size, 0, rng)[1] for _ in range(4000)])
    assert takes[:, 0].max() == 0 and takes[:, -1].min() == 1 and (np.diff(takes) >= 0).all()
    np.testing.assert_allclose(takes.mean(0), 1 - takes.mean(0)[::-1], atol=0.02)


@pytest.mark.parametrize("action", ALL_ACTIONS)
def test_actions_are_smooth_and_pass_through_the_neutral_pose(action):
    phase = np.linspace(0, 1, 400)
    poses = figure.pose(action, phase)
    neutral = np.array([figure.NEUTRAL[joint] for joint in figure.JOINTS])
    spin = figure.JOINTS.index("spin")
    ends = poses[[0, -1]].copy()
    ends[:, spin] %= 360
    standing = np.abs(ends - neutral).max(1) < 1e-9
    assert standing.tolist() == {"sit_down": [True, False], "stand_up": [False, True]}.get(
        action, [True, True]
    )
    points = figure.skeleton(poses, figure.Body())
    step = max(np.linalg.norm(np.diff(xy, axis=0), axis=-1).max() for xy in points.values())
    assert 0.002 < step < 0.04  # body heights in a 400th of the cycle: it moves, and nothing jumps
    low = min(xy[:, 1].min() for name, xy in points.items() if "toe" not in name)
    assert low > -1e-9 or action in (
        "sit_down",
        "stand_up",
        "cartwheel",
        "squat",
    )  # on the ground, not in it
    assert low > -0.06


def test_figure_fills_half_to_most_of_the_frame():
    neutral = figure.skeleton(figure.pose("walk", np.zeros(1)), figure.Body())
    tall = neutral["head"][0, 1] + figure.Body().head
    looks = [scene.draw_look(64, "blobs", "drift", np.random.default_rng(i)) for i in range(50)]
    shares = [look.height * tall for look in looks]
    assert 0.5 < min(shares) and max(shares) < 0.85
    assert {look.mirror for look in looks} == {True, False}


def test_unknown_action_names_the_known_ones():
    with pytest.raises(ValueError, match="jumping_jack.*got 'fly'"):
        figure.pose("fly", np.zeros(1))


# ---- files -------------------------------------------------------------------------------------


def test_same_seed_same_bytes_whatever_the_workers(tmp_path):
    for name, workers, seed in (("a", 1, 5), ("b", 2, 5), ("c", 1, 6)):
        toy.render(tmp_path / name, MINI, "street", seed, workers=workers, progress=False)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b and len([name for name in a if name.endswith(".mp4")]) == 4 * 2 * len(
        toy.WORLDS["street"].classes
    )
    assert set(a) == set(c) and all(a[name] != c[name] for name in a if name.endswith(".mp4"))


def test_resume_renders_only_what_is_missing(tmp_path):
    manifest = toy.render(tmp_path, MINI, "gym", workers=1, progress=False)
    before = contents(tmp_path)
    gone = manifest.absolute(17)
    gone.unlink()
    (tmp_path / "manifest.csv").unlink()
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.mp4")}
    toy.render(tmp_path, MINI, "gym", workers=1, progress=False)
    assert contents(tmp_path) == before
    written = [
        file for file in tmp_path.rglob("*.mp4") if times.get(file) != file.stat().st_mtime_ns
    ]
    assert written == [gone]


def test_other_settings_are_refused_with_the_difference(tmp_path):
    toy.render(tmp_path, replace(MINI, frames=2), workers=1, progress=False)
    before = contents(tmp_path)
    with pytest.raises(toy.ToyError, match="seed: the folder has 0, this call needs 1"):
        toy.render(tmp_path, replace(MINI, frames=2), seed=1, workers=1)
    with pytest.raises(
        toy.ToyError,
        match="world: the folder has 'base', this call needs 'gym'.*frames: .* 2, .* 10",
    ):
        toy.render(tmp_path, MINI, "gym", workers=1)
    assert contents(tmp_path) == before
    (tmp_path / "toy.json").unlink()
    with pytest.raises(toy.ToyError, match="no toy.json"):
        toy.render(tmp_path, MINI, workers=1)


def test_unknown_names_and_odd_sizes_are_refused(tmp_path):
    for call, message in (
        ({"preset": "huge"}, "tiny, small, large; got 'huge'"),
        ({"preset": replace(MINI, size=33)}, "even size"),
        ({"preset": MINI, "world": "mars"}, "base, gym, street, club, park, mixed; got 'mars'"),
    ):
        with pytest.raises(toy.ToyError, match=message):
            toy.render(tmp_path / "never", **call)
    assert not (tmp_path / "never").exists()


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises((ValueError, TypeError)):
        framestore.write_mp4(tmp_path / "a.mp4", np.zeros((3, 32, 32, 3), np.float64), 8)
    assert list(tmp_path.iterdir()) == []


def test_files_are_h264_that_both_decoders_read_alike(toy_tiny):
    decord = pytest.importorskip("decord")
    size = toy.PRESETS["tiny"]
    assert json.loads((toy_tiny.root / "toy.json").read_text())["fps"] == size.fps
    for row in range(0, len(toy_tiny), 41):
        file = toy_tiny.absolute(row)
        frames = frames_of(file)
        reader = decord.VideoReader(str(file), num_threads=1)
        assert frames.shape == (size.frames, size.size, size.size, 3) and len(reader) == size.frames
        assert reader.get_avg_fps() == pytest.approx(size.fps)
        assert (
            np.abs(reader[:].asnumpy().astype(int) - frames).max() <= 2
        )  # the decoders' color arithmetic
        with av.open(str(file)) as video:
            stream = video.streams.video[0]
            assert (stream.codec_context.name, stream.pix_fmt, stream.frames) == (
                "h264",
                "yuv420p",
                size.frames,
            )
            assert stream.average_rate == size.fps and stream.start_time == 0
            packets = [p for p in video.demux(stream) if p.size]
        keys = [i for i, p in enumerate(packets) if p.is_keyframe]
        assert keys[0] == 0 and np.diff([*keys, len(packets)]).max() <= 8
        assert [p.pts for p in packets] == [p.dts for p in packets]  # no reordering: no edit list
        raw = file.read_bytes()
        assert raw.index(b"moov") < raw.index(b"mdat")  # a browser can start before it has all
        assert b"edts" not in raw[: raw.index(b"mdat")]


def test_decoded_frames_are_what_was_painted(tmp_path):
    look = scene.draw_look(64, "blobs", "drift", np.random.default_rng(1))
    times = np.arange(24) / 16
    painted = scene.paint(figure.pose("cartwheel", times % 1), times, look, 64)
    framestore.write_mp4(tmp_path / "a.mp4", painted, 16, crf=19, g=toy.GOP)
    error = frames_of(tmp_path / "a.mp4").astype(float) - painted
    assert (
        np.sqrt((error**2).mean((1, 2, 3))).max() < 14
    )  # gray levels; half-resolution color costs most of it
    assert not np.array_equal(painted[0], painted[6])
