"""Numbers of runs: one protocol a group, broken folders counted, the csv, and the published
numbers."""

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import ROOT
from vidbench.engine.environment import made_by
from vidbench.engine.runs import Run, protocol_id
from vidbench.evaluate import published as published_numbers
from vidbench.evaluate import results
from vidbench.view import results as drawn

PUBLISHED = ROOT / "assets" / "published.csv"
PROTOCOL = {"stream": "rgb", "windows": 4, "centering": "gallery", "queries": "24-0badcafe"}
NUMBERS = {"R@1": (0.5, 0.25, 0.625), "R@5": (0.75, 0.5, 0.875)}


@dataclass(frozen=True)
class Fit:
    batch: int = 16


@dataclass(frozen=True)
class Recipe:
    stream: str = "rgb"
    manifest: str = ""
    student: str = ""
    fit: Fit = Fit()


def trained(folder: Path, steps: int = 40, state: str = "complete", **fields) -> Run:
    """A run folder as training leaves it, without the training."""
    manifest = str(folder.parent / "videos")
    run = Run.create(folder, "coclr", Recipe(manifest=manifest, **fields))
    run.log(step=steps, clips=16 * steps, epoch=steps / 16, seconds=1.0)
    run.status(state)
    return run


def measured(
    folder: Path,
    task: str = "retrieval",
    numbers: dict = NUMBERS,
    fields: dict | None = None,
    **switches,
):
    run = trained(folder, **(fields or {}))
    run.add_result(task, {**PROTOCOL, **switches}, numbers)
    return run


def text(html: str) -> str:
    """What a reader sees of a piece of HTML."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).replace("\u2007", " ").split())


# ---- collecting --------------------------------------------------------------------------------


def test_numbers_come_back_with_protocol_and_budget(tmp_path):
    first = trained(tmp_path / "tiny/infonce", steps=40)
    run = trained(tmp_path / "tiny/coclr", steps=8, student=str(first.folder))
    run.add_result("retrieval", PROTOCOL, {"R@1": (0.5, 0.25, 0.625), "macro R@1": 0.4375})
    folders = results.collect(tmp_path)
    assert [(f.run, f.method, f.state, len(f.numbers), f.problems) for f in folders] == [
        ("tiny/coclr", "coclr", "complete", 2, ()),
        ("tiny/infonce", "coclr", "complete", 0, ()),
    ]
    one, macro = results.numbers_of(folders)
    assert one == results.Number(
        "tiny/coclr",
        "retrieval",
        "R@1",
        0.5,
        0.25,
        0.625,
        protocol_id("retrieval", PROTOCOL),
        PROTOCOL,
        {"batch": 16, "iterations": 48, "clips": 768, "epochs": 3.0},
        "tiny",
        "rgb",
        "complete",
        results.commit_of(made_by()),
    )
    assert (macro.value, macro.low, macro.high) == (0.4375, None, None)
    assert results.numbers_of(folders, "probe") == []
    assert [f.run for f in results.collect(tmp_path / "tiny/coclr")] == ["coclr"], (
        "a run is below itself"
    )
    assert results.collect(tmp_path / "nowhere") == []


def test_an_evaluation_says_its_own_data_and_stream(tmp_path):
    measured(tmp_path / "K400/coclr", stream="rgb+flow", data="UCF101")
    assert {(n.data, n.stream) for n in results.numbers_of(results.collect(tmp_path))} == {
        ("UCF101", "rgb+flow")
    }


def test_folders_of_videos_are_not_searched(tmp_path):
    measured(tmp_path / "tiny/deep/down/infonce")
    for place, mark in (("videos", "manifest.csv"), ("flow", "flow.json"), (".git", "x")):
        measured(tmp_path / "tiny" / place / "run")
        (tmp_path / "tiny" / place / mark).touch()
    assert [f.run for f in results.collect(tmp_path / "tiny")] == ["deep/down/infonce"]


BREAKS = {
    "cut": ("recipe.json", '{"method": "coc', "recipe.json is damaged: .*JSONDecodeError"),
    "other": ("recipe.json", '["method"]', "recipe.json is damaged: "),
    "half": ("recipe.json", None, "it has no recipe.json"),
    "gone": (
        "recipe.json",
        '{"method": "coclr", "recipe": {"student": "/gone/run", "fit": {"batch": 1}}}',
        "the budget: ",
    ),
    "results": ("results.json", '{"retrieval": {"ta', "results.json is damaged"),
    "list": ("results.json", "[1]", "results.json is damaged"),
    "huge": ("R@1", 10**400, "OverflowError"),
    "older": (
        "results.json",
        '{"retrieval: test": {"R@1": 0.5}}',
        "wanted task, protocol, numbers, budget",
    ),
    "percent": ("R@1", 53.0, "R@1 is 53.0; wanted a fraction within 0 and 1"),
    "nothing": ("R@1", None, "R@1 is None; wanted a fraction"),
    "nan": ("R@1", float("nan"), "R@1 is nan; wanted a fraction"),
    "word": ("R@1", "half", "R@1 is 'half'; wanted a fraction"),
    "pair": ("R@1", [0.5, 0.25], r"R@1 is \[0.5, 0.25\]; wanted a fraction"),
    "misses": ("R@1", [0.5, 0.625, 0.75], "its interval misses its value"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_folder_is_named_and_counted_and_stops_no_other(tmp_path, name):
    what, given, said = BREAKS[name]
    measured(tmp_path / "good")
    run = measured(tmp_path / name)
    if what == "R@1":
        held = run.records()
        held[protocol_id("retrieval", PROTOCOL)]["numbers"]["R@1"] = given
        what, given = "results.json", json.dumps(held)
    (run.folder / what).write_text(given) if given else (run.folder / what).unlink()
    folders = results.collect(tmp_path)
    bad = next(f for f in folders if f.run == name)
    assert len(bad.problems) == 1 and re.search(said, bad.problems[0]), bad.problems
    whole = name in (
        "stateless",
        "gone",
    )  # its numbers were kept with their own protocol and budget
    assert (
        len(bad.numbers) == (2 if whole else 0)
        and len(next(f for f in folders if f.run == "good").numbers) == 2
    )
    seen = text(drawn.inventory(folders))
    assert (
        "2 run folders: 1 complete, 1 broken or incomplete." in seen
        and f"broken or incomplete what {name}" in seen
    )


def test_one_bad_result_leaves_the_others_of_its_run(tmp_path):
    run = measured(tmp_path / "run")
    run.add_result("probe", PROTOCOL, {"top-1": 61.0})
    (folder,) = results.collect(tmp_path)
    assert [n.task for n in folder.numbers] == [
        "retrieval"
    ] * 2 and "result 'probe " in folder.problems[0]


# ---- one protocol a column ---------------------------------------------------------------------


def test_two_protocols_in_one_column_are_refused_by_name(tmp_path):
    measured(tmp_path / "tiny/a")
    measured(tmp_path / "tiny/b", windows=10, centering="none")
    numbers = results.numbers_of(results.collect(tmp_path))
    for refused in (results.one_protocol, drawn.results_table):
        with pytest.raises(results.ProtocolError) as error:
            refused(numbers)
        said = str(error.value)
        assert "tiny/a and tiny/b were measured under two protocols" in said
        assert (
            "windows: wanted 4, found 10" in said
            and "centering: wanted 'gallery', found 'none'" in said
        )
        assert "queries" not in said and "stream" not in said, "only what differs"
    groups = results.by_protocol(numbers)
    assert [{n.run for n in group} for group in groups] == [{"tiny/a"}, {"tiny/b"}]
    assert all(results.one_protocol(group) is group[0] for group in groups)
    with pytest.raises(results.ProtocolError, match="got none"):
        results.one_protocol([])


@pytest.mark.parametrize(
    "other, said",
    [
        ({"folder": "other/a"}, "data: wanted 'other', found 'tiny'"),
        ({"task": "probe"}, "task: wanted 'probe', found 'retrieval'"),
        ({"switches": {"crops": "ten"}}, "crops: wanted 'ten', found 'nothing'"),
    ],
)
def test_another_task_data_set_or_switch_is_another_column(tmp_path, other, said):
    measured(tmp_path / "tiny/b")
    measured(
        tmp_path / other.get("folder", "tiny/a"),
        other.get("task", "retrieval"),
        **other.get("switches", {}),
    )
    with pytest.raises(results.ProtocolError, match=said):
        drawn.results_table(results.numbers_of(results.collect(tmp_path)))


def test_what_protocols_share_is_said_once_and_what_differs_is_a_heading(tmp_path):
    for name, switches in {
        "a": {},
        "b": {"windows": 10},
        "c": {"windows": 10},
        "d": {"stream": "flow"},
    }.items():
        measured(tmp_path / "tiny" / name, **switches)
    measured(tmp_path / "tiny/a", "probe", {"top-1": (0.5, 0.5, 0.5)})
    numbers = results.numbers_of(results.collect(tmp_path))
    (probe, alone, headed), (retrieval, shared, groups) = results.by_task(numbers)
    assert (probe, headed[0][0]) == ("probe", "probe") and alone == {"data": "tiny", **PROTOCOL}
    assert retrieval == "retrieval" and shared == {
        "data": "tiny",
        "centering": "gallery",
        "queries": "24-0badcafe",
    }
    assert {heading: sorted({n.run for n in group}) for heading, group in groups} == {
        "retrieval: stream flow, windows 4": ["tiny/d"],
        "retrieval: stream rgb, windows 10": ["tiny/b", "tiny/c"],
        "retrieval: stream rgb, windows 4": ["tiny/a"],
    }
    seen = text(drawn.results_tables(numbers))
    assert seen.count("queries 24-0badcafe") == 2, "once a task"
    assert "All 3 tables of retrieval: data tiny, centering gallery, queries 24-0badcafe." in seen
    assert (
        "The table of probe: data tiny, centering gallery, queries 24-0badcafe, stream rgb, "
        "windows 4." in seen
    )
    assert seen.index("stream rgb, windows 10") < seen.index("tiny/b") < seen.index("tiny/c")


def test_nested_switches_are_told_with_their_path(tmp_path):
    for name, size in (("a", 112), ("b", 128)):
        measured(tmp_path / "tiny" / name, view={"size": size, "scale": 256 / 224})
    ((_, shared, groups),) = results.by_task(results.numbers_of(results.collect(tmp_path)))
    assert "view" not in shared and groups[0][0] == "retrieval: view.scale 1.14286, view.size 112"
    with pytest.raises(results.ProtocolError, match="view.size: wanted 112, found 128"):
        drawn.results_table(results.numbers_of(results.collect(tmp_path)))


# ---- files -------------------------------------------------------------------------------------


def test_csv_holds_every_number_in_full(tmp_path):
    third = 1 / 3
    measured(
        tmp_path / "runs_dir/tiny/a",
        numbers={"R@1": (third, 0.1, 0.7), "R@5": third},
        note='a, "b"\nc',
    )
    measured(
        tmp_path / "runs_dir/tiny/b, c", "probe", {"top-1": (1.0, 1.0, 1.0)}, fields={"steps": 7}
    )
    numbers = results.numbers_of(results.collect(tmp_path / "runs_dir"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/t.csv").write_text("what was there before")
    path = results.write_csv(tmp_path / "out/t.csv", numbers)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert (
        " ".join(rows[0])
        == "run task metric value low high protocol batch iterations clips epochs data stream "
        "commit"
    )
    for row, number in zip(rows, numbers, strict=True):
        for name in ("run", "task", "metric", "protocol", "data", "stream", "commit"):
            assert row[name] == getattr(number, name)
        for name in ("value", "low", "high"):
            given = getattr(number, name)
            assert row[name] == "" if given is None else float(row[name]) == given
        assert {name: float(row[name]) for name in results.BUDGET} == number.budget
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["t.csv"], (
        "no temporary file is left"
    )
    assert results.write_csv(tmp_path / "new/t.csv", []).read_text().count("\n") == 1


def test_a_csv_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("old")
    measured(tmp_path / "runs_dir/a")
    numbers = results.numbers_of(results.collect(tmp_path / "runs_dir"))
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        results.write_csv(tmp_path / "t.csv", numbers)
    assert (tmp_path / "t.csv").read_text() == "old"


# ---- commits -----------------------------------------------------------------------------------


def recorded(run: Run, **made_by) -> None:
    """Let all results of a run be another vidbench's; none: an older one, which wrote nothing."""
    path = run.folder / "results.json"
    held = json.loads(path.read_text())
    for record in held.values():
        del record["vidbench"]
        record |= {"vidbench": made_by} if made_by else {}
    path.write_text(json.dumps(held))


def test_a_column_of_several_commits_says_which_rows_are_of_which(tmp_path):
    runs = [measured(tmp_path / name) for name in "abcd"]
    (group,) = results.by_protocol(results.numbers_of(results.collect(tmp_path)))
    assert results.mixed_commits(group) == ""
    assert "commit" not in text(drawn.results_table(group))
    recorded(runs[0], version="0.1.0", commit="1" * 40, dirty=False)
    recorded(runs[1], version="0.1.0", commit="1" * 40, dirty=True)
    recorded(runs[2], version="0.2.0", commit=None, dirty=None)
    recorded(runs[3])
    (group,) = results.by_protocol(results.numbers_of(results.collect(tmp_path)))
    ones = "1" * 12
    said = results.mixed_commits(group)
    assert said.startswith(
        f"One column mixes 4 commits of vidbench: {ones} (a); {ones} (dirty) (b); version 0.2.0 (c); "
        "an unknown commit (d). Evaluate"
    )
    assert text(drawn.results_table(group)).endswith(said)
    assert said in text(drawn.results_tables(group))
    assert results.mixed_commits([number for number in group if number.run == "a"]) == ""


# ---- published ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published():
    return published_numbers.read_published(PUBLISHED)


def test_every_published_number_has_a_source_and_stands_once(published):
    key = [
        tuple(
            getattr(row, name)
            for name in row.__dataclass_fields__
            if name not in ("value", "note", "source")
        )
        for row in published
    ]
    assert len(set(key)) == len(key) == len(PUBLISHED.read_text().splitlines()) - 1
    for row in published:
        assert 0 <= row.value <= 100 and len(row.source) > 10 and row.paper and row.method
        assert (
            row.task in published_numbers.TASKS
            and row.metric in published_numbers.METRICS
            and row.data in published_numbers.DATA
        )
        assert row.stream in (*published_numbers.STREAMS, "")
        assert row.metric.startswith("top-") == (row.task != "retrieval")
        assert row.pretrain in ("UCF101", "K400", "HowTo100M", "ImageNet-21K-P", "none", "")
        assert (row.fold == "1") == (row.data in ("UCF101", "HMDB51"))
        links = re.findall(r"https?://[^\s)]+", row.source)
        assert all(re.match(r"https://(github\.com|arxiv\.org)/", link) for link in links)
        assert links or re.match(
            r"MVCGC|VideoMAE paper, table|MultiTrain supplement, table", row.source
        ), row.source


@pytest.mark.parametrize(
    "words, value",
    [
        ("CoCLR k=5|UCF101|rgb|probe|top-1|UCF101", 70.2),
        ("CoCLR k=5|UCF101|rgb|retrieval|R@1|UCF101", 51.8),
        ("CoCLR comparison with others|UCF101|rgb|retrieval|R@1|UCF101", 53.3),
        ("CoCLR k=5|UCF101|rgb+flow|retrieval|R@1|UCF101", 55.9),
        ("CoCLR k=5|UCF101|flow|retrieval|R@1|UCF101", 48.4),
        ("CoCLR k=5|UCF101|rgb+flow|retrieval|R@20|HMDB51", 69.7),
        ("CoCLR|K400|rgb+flow|finetune|top-1|UCF101", 90.6),
        ("CoCLR|K400|rgb|probe|top-1|HMDB51", 46.1),
        ("CoCLR released file|K400|flow|finetune|top-1|UCF101", 85.27),
        ("InfoNCE 500 epochs|UCF101|rgb|probe|top-1|UCF101", 46.8),
        ("InfoNCE|UCF101|flow|probe|top-1|UCF101", 66.8),
        ("supervised from scratch|none|rgb|finetune|top-1|UCF101", 77.0),
        ("VCLR|K400||retrieval|R@1|HMDB51", 35.2),
        ("MoCo rho=4|K400||probe|top-1|K400", 71.0),
        ("MIL-NCE|HowTo100M||finetune|top-1|HMDB51", 61.0),
        ("joint K400+MiT+SSv2 released weights|K400|rgb|classes|top-1|SSv2", 65.2),
        ("K400 alone 32x3|none|rgb|classes|top-1|K400", 79.8),
        ("K400 alone 16x4, 200 epochs from scratch|none|rgb|classes|top-5|K400", 93.5),
        ("K400 alone 16x4, 75 epochs from images|ImageNet-21K-P|rgb|classes|top-5|K400", 94.7),
        ("joint K400+MiT+SSv2 released weights|K400|rgb|classes|top-5|K400", 96.5),
    ],
)
def test_published_numbers_are_those_of_the_papers(published, words, value):
    named = {
        f"{row.method} {row.variant}".strip()
        + f"|{row.pretrain}|{row.stream}|{row.task}|{row.metric}|{row.data}": row.value
        for row in published
    }
    assert named[words] == value


def test_what_is_not_known_stays_out(published):
    """UberNCE, CoCLR-Flow's probe and R@50 of CoCLR are in tables that could not be read."""
    assert not [row for row in published if "UberNCE" in row.method]
    assert not [
        row
        for row in published
        if (row.paper, row.method) == ("CoCLR", "CoCLR")
        and (
            (row.stream, row.task, row.pretrain) == ("flow", "probe", "UCF101")
            or row.metric == "R@50"
        )
    ]


def test_tables_1_and_4_of_multitrains_supplement():
    found = {(row["data"], row["split"]): row for row in published_numbers.counts()}
    videos = [row["videos"] for row in found.values()]
    assert videos == [234_583, 19_760, 525_460, 33_370]
    assert [row["percent"] for row in found.values()] == [95.3, 98.8, 96.4, 95.3]
    maps = {row["map"]: row["pairs"].split("; ") for row in published_numbers.pairs()}
    sets = ("K400", "MiT", "SSv2", "ActNet")
    assert set(maps) == {f"{one} → {other}" for one in sets for other in sets if one != other}
    assert sum(map(len, maps.values())) == 59  # one of 60 is not legible
    assert "sneezing → sneezing" in maps["MiT → K400"]
    assert sum("Baton twirling" in pair for pair in maps["MiT → ActNet"]) == 3


ROW = dict(
    paper="P",
    method="M",
    variant="",
    pretrain="UCF101",
    stream="rgb",
    backbone="S3D",
    task="probe",
    metric="top-1",
    data="UCF101",
    fold="1",
    value="50",
    note="",
    source="P, table 1",
)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"value": "101"}, "line 3: wanted a value within 0 and 100"),
        ({"value": "-1"}, "line 3: wanted a value"),
        ({"value": "x"}, "line 3: value 'x' is no number"),
        ({"source": " "}, "line 3: .* the source that has it"),
        ({"task": "linear"}, "line 3: task 'linear' is not one of probe, finetune, retrieval"),
        ({"stream": "RGB"}, "stream 'RGB' is not one of rgb, flow, rgb.flow"),
        ({"fold": "4"}, "fold '4' is not one of 1"),
        ({"metric": "acc"}, "metric 'acc' is not one of top-1, top-5, R@1"),
        ({"data": "ucf"}, "data 'ucf' is not one of"),
        (
            {"method": "M", "value": "60", "source": "elsewhere"},
            "line 3: the same number as in line 2; a variant separates",
        ),
    ],
)
def test_a_bad_published_row_is_refused_with_its_line(tmp_path, change, said):
    with open(tmp_path / "p.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([ROW, ROW.values(), {**ROW, "method": "N", **change}.values()])
    with pytest.raises(ValueError, match=said):
        published_numbers.read_published(tmp_path / "p.csv")


def test_a_published_file_of_other_columns_is_refused(tmp_path):
    for body, said in (
        ("a,b\n1,2\n", "line 1: wanted the columns paper, method"),
        (",".join(ROW) + "\nP,M\n", "line 2: wanted 13 columns"),
    ):
        (tmp_path / "p.csv").write_text(body)
        with pytest.raises(ValueError, match=said):
            published_numbers.read_published(tmp_path / "p.csv")


@pytest.mark.parametrize("place", ["UCF101", "ucf101-fold2", "UCF-101", "UCF101-scan"])
def test_published_rows_are_found_by_task_metric_data_and_stream(tmp_path, published, place):
    measured(tmp_path / place / "coclr", numbers={"R@1": 0.5})
    measured(tmp_path / place / "coclr", "linear probe", {"top-1": 0.7})
    found = published_numbers.comparable(results.numbers_of(results.collect(tmp_path)), published)
    assert {(row.task, row.metric, row.data) for row in found} == {
        ("retrieval", "R@1", "UCF101"),
        ("probe", "top-1", "UCF101"),
    }
    assert {row.stream for row in found} == {"rgb", ""}, (
        "a source that does not say its stream may be of ours"
    )


def test_published_rows_of_another_data_set_only_where_asked_for(tmp_path, published):
    measured(
        tmp_path / "tiny/coclr", numbers={"R@1": 0.5, "macro R@1": 0.4, "probe": 0.6}, stream="flow"
    )
    numbers = results.numbers_of(results.collect(tmp_path))
    assert published_numbers.comparable(numbers, published) == []
    found = published_numbers.comparable(numbers, published, "UCF101")
    assert {(row.task, row.metric) for row in found} == {("retrieval", "R@1"), ("probe", "top-1")}
    assert {row.value for row in found if row.method in ("InfoNCE", "CoCLR")} >= {66.8, 45.2, 48.4}
    assert not {row.data for row in published_numbers.comparable(numbers, published, "HMDB51")} - {
        "HMDB51"
    }
    assert "Nothing published" in drawn.published_table([])
