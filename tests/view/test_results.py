"""Result tables, bars and the report page of all runs."""

import re
from dataclasses import replace

import pytest

from tests.evaluate.test_results import PROTOCOL, PUBLISHED, measured, text, trained
from vidbench.evaluate import published as published_numbers
from vidbench.evaluate import results
from vidbench.view import results as drawn


@pytest.fixture(scope="module")
def published():
    return published_numbers.read_published(PUBLISHED)


def test_runs_are_rows_and_metrics_columns(tmp_path):
    measured(tmp_path / "tiny/a", fields={"steps": 2000})
    measured(tmp_path / "tiny/b", numbers={"R@1": (0.25, 0.125, 0.375)})
    html = drawn.results_table(results.numbers_of(results.collect(tmp_path)))
    seen = re.sub(
        r'<span style="visibility:hidden[^>]*>.*?</span>', "", html
    )  # room kept for an interval
    assert text(seen) == (
        "run R@1 R@5 batch iterations clips epochs "
        "tiny/a 50.0 [25.0, 62.5] 75.0 [50.0, 87.5] 16 2,000 32,000 125.0 "
        "tiny/b 25.0 [12.5, 37.5] – 16 40 640 2.5"
    )


def test_a_run_that_is_not_complete_says_so_next_to_its_numbers(tmp_path):
    measured(tmp_path / "tiny/a")
    run = measured(tmp_path / "tiny/b")
    run.status("running")
    seen = text(drawn.results_table(results.numbers_of(results.collect(tmp_path))))
    assert "epochs state tiny/a" in seen and "2.5 complete tiny/b" in seen
    assert seen.endswith("2.5 died"), "no process trains it"
    with run.lock():
        seen = text(drawn.results_table(results.numbers_of(results.collect(tmp_path))))
    assert seen.endswith("2.5 running")


def test_runs_are_counted_by_state(tmp_path):
    for name, state in {"a": "complete", "b": "interrupted", "c": "running", "d": "failed"}.items():
        trained(tmp_path / "tiny" / name, state=state)
    (tmp_path / "tiny/half").mkdir()
    (tmp_path / "tiny/half/environment.json").write_text("{}")
    seen = text(drawn.inventory(results.collect(tmp_path)))
    assert (
        "5 run folders: 1 complete, 1 interrupted, 1 died, 1 failed, 1 broken or incomplete."
        in seen
    )
    assert "1 run folder: 1 broken" in text(
        drawn.inventory(results.collect(tmp_path / "tiny/half"))
    )


def fused(folder, other, **switches):
    run = trained(folder)
    protocol = {**PROTOCOL, "stream": "rgb+flow", "fused_with": other, **switches}
    run.add_result("retrieval", protocol, {"R@1": (0.75, 0.5, 0.875)})
    return run


def test_streams_of_a_method_are_columns_and_both_together_is_one(tmp_path):
    measured(tmp_path / "tiny/infonce-rgb")
    flow = {"R@1": (0.25, 0.125, 0.375)}
    measured(tmp_path / "tiny/infonce-flow", numbers=flow, fields={"stream": "flow"}, stream="flow")
    measured(tmp_path / "tiny/coclr-rgb", numbers={"R@1": (0.625, 0.5, 0.75)})
    fused(tmp_path / "tiny/infonce-rgb", "infonce-flow")
    fused(tmp_path / "tiny/coclr-rgb", "infonce-flow")
    measured(tmp_path / "tiny/coclr-rgb", windows=8)  # another protocol, of one stream
    numbers = results.numbers_of(results.collect(tmp_path))
    html = drawn.stream_tables(numbers)
    seen = text(re.sub(r'<span style="visibility:hidden[^>]*>.*?</span>', "", html))
    assert seen == (
        "retrieval: windows 4: R@1, percent method rgb flow both "
        "tiny/coclr 62.5 [50.0, 75.0] – – "
        "tiny/coclr-rgb + infonce-flow 62.5 [50.0, 75.0] 25.0 [12.5, 37.5] 75.0 [50.0, 87.5] "
        "tiny/infonce 50.0 [25.0, 62.5] 25.0 [12.5, 37.5] 75.0 [50.0, 87.5]"
    )
    rgb = [number for number in numbers if number.stream == "rgb"]
    assert "No two streams" in drawn.stream_tables(rgb)


def test_many_metrics_keep_the_interval_of_the_main_one(tmp_path):
    numbers = {f"R@{k}": (k / 40, k / 80, k / 20) for k in (20, 10, 5, 1)}
    measured(tmp_path / "tiny/a", numbers=numbers)
    shown = text(drawn.results_table(results.numbers_of(results.collect(tmp_path))))
    assert "50.0 25.0 12.5 2.5 [1.2, 5.0] 16 40 640 2.5" in shown


def test_bars_are_drawn_a_protocol_a_figure(tmp_path):
    for name, value in {"a": 0.5, "b": 0.25}.items():
        measured(
            tmp_path / "tiny" / name, numbers={"R@5": 0.75, "R@1": (value, value / 2, 2 * value)}
        )
    measured(tmp_path / "tiny/c", stream="flow")
    numbers = results.numbers_of(results.collect(tmp_path))
    (figure,) = drawn.charts(numbers)
    assert (
        figure.layout.title.text == "retrieval: stream rgb"
        and figure.layout.yaxis.title.text == "R@1, percent"
    )
    assert list(figure.data[0].x) == ["tiny/a", "tiny/b"] and list(figure.data[0].y) == [50.0, 25.0]
    assert list(figure.data[0].error_y.array) == [50.0, 25.0] and list(
        figure.data[0].error_y.arrayminus
    ) == [25, 12.5]
    assert drawn.charts([n for n in numbers if n.run != "tiny/b"]) == [], (
        "a bar by itself says nothing"
    )


def test_the_report_is_one_offline_page(tmp_path):
    measured(tmp_path / "runs_dir/tiny/<b>run")
    (tmp_path / "runs_dir/tiny/half").mkdir()
    (tmp_path / "runs_dir/tiny/half/environment.json").write_text("{}")
    folders = results.collect(tmp_path / "runs_dir")
    published = published_numbers.read_published(PUBLISHED)
    page = drawn.write_report(
        tmp_path / "r.html", "All runs", folders, published, data="UCF101"
    ).read_text()
    assert "tiny/&lt;b&gt;run" in page and "<b>run" not in page and "default-src 'none'" in page
    seen = text(re.sub(r"(?s)<script>.*?</script>", "", page))
    for words in (
        "50.0 [25.0, 62.5]",
        "Published on UCF101",
        "2 run folders: 1 complete, 1 broken",
        "tiny/half",
    ):
        assert words in seen
    empty = drawn.write_report(tmp_path / "e.html", "None", [], published).read_text()
    assert (
        "There is no run below this folder yet." in empty
        and "No run below this folder has been evaluated" in empty
    )


@pytest.mark.parametrize("file", ["recipe.json", "status.json", "results.json"])
@pytest.mark.parametrize("damage", ["{", "[1]", "7", '{"a": 1}', '{"a": {"task": 1}}'])
def test_one_damaged_run_is_named_on_the_page_and_the_others_are_shown(tmp_path, file, damage):
    for name in ("a", "b", "bad"):
        measured(tmp_path / "runs_dir/tiny" / name)
    (tmp_path / "runs_dir/tiny/bad" / file).write_text(damage)
    path = drawn.write_report(tmp_path / "r.html", "Runs", results.collect(tmp_path / "runs_dir"))
    seen = text(re.sub(r"(?s)<script>.*?</script>", "", path.read_text()))
    assert "tiny/a 50.0" in seen and "1 broken or incomplete" in seen
    assert re.search(rf"tiny/bad [^:]*({file}|result|recipe)", seen[seen.index("run folders") :])


def test_published_numbers_never_stand_in_our_tables(tmp_path, published):
    measured(tmp_path / "UCF101/coclr")
    numbers = results.numbers_of(results.collect(tmp_path))
    rows = published_numbers.comparable(numbers, published)
    ours, theirs = text(drawn.results_tables(numbers)), text(drawn.published_table(rows))
    assert "51.8" not in ours and "CoCLR," not in ours and "UCF101/coclr" not in theirs
    assert "Protocol, backbone and data differ from ours" in theirs
    sources = {source for row in rows for source in row.source.split("; ")}
    assert all(f" {source}" in theirs for source in sources), "each source is named"


def test_published_notes_and_sources_are_numbered_by_row(published):
    rows = [
        row
        for row in published
        if row.method == "InfoNCE" and row.task == "probe" and row.stream == "rgb"
    ]
    rows = [
        replace(row, source="A; B", note=row.note and f"note {row.variant[:3]}") for row in rows
    ]
    seen = text(drawn.published_table(rows))
    assert "InfoNCE, 500 epochs (CoCLR) UCF101 rgb S3D 46.8 1, 2, 3" in seen
    assert "InfoNCE, 800 epochs, arXiv v1 (CoCLR) UCF101 rgb S3D 52.3 1, 2, 4" in seen
    assert seen.endswith("1 A 2 B 3 note 500 4 note 800")
