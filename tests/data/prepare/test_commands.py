"""scan, store and flow on the command line: one bad video costs itself only; exit codes."""

import json
import shutil

import pytest

from tests.data.prepare.test_outputs import contents, listed, moving, run
from tests.makes import encode
from vidbench.data.flow import store as flow_store
from vidbench.data.prepare import facts, scan, store


def unknown_codec(path):
    """A whole mp4 with an unknown codec."""
    whole = encode(path, 4).read_bytes()
    assert whole.count(b"avc1") >= 1
    kinds = whole.replace(b"avc1", b"zzzz")
    path.write_bytes(kinds)
    return path


@pytest.fixture
def place(tmp_path):
    """Two good videos between two of an unknown codec."""
    names = ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]
    listed(tmp_path / "data", names)
    for name in names[1:3]:
        moving(tmp_path / "data" / name)
    unknown_codec(tmp_path / "data/0.mp4")
    shutil.copy(tmp_path / "data/0.mp4", tmp_path / "data/3.mp4")
    return tmp_path / "data"


WORDS = {
    "scan": ("scan",),
    "store": ("store", "--size", 32),
    "flow": ("flow", "--method", "dis"),
    "flow on a device": ("flow", "--method", "tvl1_torch", "--size", 8, "--device", "cpu"),
}


@pytest.mark.parametrize(
    "kind", ["scan", "store", "flow", pytest.param("flow on a device", marks=pytest.mark.slow)]
)
def test_an_unknown_codec_costs_its_own_video(place, tmp_path, kind, capsys):
    command, *more = WORDS[kind]
    words = (command, place, *more, "--workers", 0, "--out", tmp_path / "out")
    assert run(*words) == (0 if command == "scan" else 1)
    said = capsys.readouterr()
    if command == "scan":
        assert "(2 videos), scan.csv" in said.out and "BAD unreadable: 2" in said.out
    else:
        assert said.err.count("failed: ") == 2 and "2 failed" in said.out
    assert "0.mp4: " in said.out + said.err and "Traceback" not in said.err


@pytest.mark.parametrize("kind", ["scan", "store", "flow"])
@pytest.mark.parametrize("error", [AttributeError, KeyError, MemoryError, ZeroDivisionError])
def test_any_exception_costs_its_own_video(tmp_path, monkeypatch, capsys, kind, error):
    listed(tmp_path / "data", ["0.mp4", "1.mp4"])
    for i in range(2):
        moving(tmp_path / f"data/{i}.mp4")
    whole = {"scan": facts.examine, "store": store.one, "flow": flow_store.one}[kind]

    def fails(job):
        if job[0].endswith("1.mp4"):
            raise error("a mistake in a library")
        return whole(job)

    monkeypatch.setattr(scan, "examine", fails)
    monkeypatch.setattr(store, "one", fails)
    monkeypatch.setattr(flow_store, "one", fails)
    command, *more = WORDS[kind]
    words = (command, tmp_path / "data", *more, "--workers", 0, "--out", tmp_path / "out")
    assert run(*words) == (0 if kind == "scan" else 1)
    said = capsys.readouterr()
    said = said.out + said.err
    assert f"1.mp4: {'unreadable: ' if kind == 'scan' else ''}{error.__name__}: " in said
    assert "a mistake in a library" in said and "test_commands.py, line" in said
    monkeypatch.undo()
    assert run(*words) == 0, "the next call tries it again"


@pytest.mark.parametrize("kind", ["scan", "store", "flow"])
@pytest.mark.parametrize("damage", ["facts", "frames", "bytes", "stamp"])
def test_a_damaged_line_of_a_journal_costs_its_own_video(tmp_path, kind, damage, capsys):
    """Whole JSON that says something else."""
    listed(tmp_path / "data", ["0.mp4", "1.mp4"])
    for i in range(2):
        moving(tmp_path / f"data/{i}.mp4")
    command, *more = WORDS[kind]
    words = (command, tmp_path / "data", *more, "--workers", 0, "--out", tmp_path / "out")
    assert run(*words) == 0
    journal = tmp_path / "out" / f"{kind}.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines() if line]
    for line in lines[1:]:
        line[damage] = "damaged"
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    capsys.readouterr()
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert "(2 videos), scan.csv" in said if kind == "scan" else "0 failed" in said


@pytest.mark.parametrize("kind", ["scan", "store", "flow"])
def test_exit_code_2_if_no_video_can_be_done(tmp_path, kind, capsys):
    listed(tmp_path / "data", ["0.mp4", "1.mp4"])
    for i in range(2):
        (tmp_path / f"data/{i}.mp4").write_bytes(b"no video")
    command, *more = WORDS[kind]
    assert run(command, tmp_path / "data", *more, "--workers", 0, "--out", tmp_path / "out") == 2


@pytest.mark.parametrize(
    "words, said",
    [
        (("flow", "--bound", "inf"), "bound must be 0.1 to 1000.0 pixels; got inf"),
        (("flow", "--bound", "1e30"), "bound must be 0.1 to 1000.0 pixels; got 1e+30"),
        (("flow", "--bound", "1e-30"), "bound must be 0.1 to 1000.0 pixels; got 1e-30"),
        (("flow", "--bound", "nan"), "bound must be 0.1 to 1000.0 pixels; got nan"),
        (("flow", "--bound", "0"), "bound must be 0.1 to 1000.0 pixels; got 0.0"),
        (("flow", "--bound=-1"), "bound must be 0.1 to 1000.0 pixels; got -1.0"),
        (
            ("flow", "--size", "0"),
            "must be 2 to 8192 pixels, or nothing for the video's own; got 0",
        ),
        (("flow", "--size=-5"), "got -5"),
        (("store", "--size", "0"), "size in 2..8192 pixels, crf in 0..51; got 'mp4', 0, 18"),
        (("store", "--size=-5"), "got 'mp4', -5, 18"),
        (("flow", "--shard", "0/2/5"), "such as 0/4; got '0/2/5'"),
        (("scan", "--timeout=-1"), "timeout must be a finite number of seconds above 0; got -1"),
        (("store", "--timeout", "nan"), "timeout must be a finite number"),
        (("flow", "--timeout", "inf"), "timeout must be a finite number"),
        (("scan", "--workers=-2"), "workers must be 0 to 1024 processes; got -2"),
    ],
)
def test_values_out_of_range_are_refused_at_the_door(place, tmp_path, capsys, words, said):
    command, *more = words
    before = contents(place)
    code = run(command, place, "--out", tmp_path / "out", "--workers", 0, *more)
    errors = capsys.readouterr().err
    assert code == 2 and said in errors and "Traceback" not in errors
    assert not (tmp_path / "out").exists() and contents(place) == before


@pytest.mark.parametrize("command", ["scan", "store", "flow"])
def test_help_documents_ranges_and_exit_codes(command, capsys):
    assert run(command, "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 some videos failed; the rest is done 2 no video could be done" in said
    assert command == "scan" or "2 to 8192" in said
    assert command != "flow" or "0.1 to 1000" in said
