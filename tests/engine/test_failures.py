"""What ranks leave for their launcher, kept apart from a user's files in the same folder."""

from vidbench.engine import failures
from vidbench.system.files import write_text


def test_only_the_ranks_own_files_are_read_and_deleted(tmp_path):
    kept = ["failed-runs.json", "failed-0-1.json.bak", "failed-0.json", "stack-trace.txt", "a.txt"]
    for name in kept:
        write_text(tmp_path / name, "mine")
    assert not failures.known(tmp_path) and failures.stopped(tmp_path) == ""
    report = '{"rank": "1", "nanoseconds": 1, "stopped": true, "error": "Interrupted: x"}'
    write_text(tmp_path / "failed-0-1.json", report)
    write_text(tmp_path / "stack-0-0.txt", "a stack")
    assert failures.known(tmp_path) and failures.stopped(tmp_path) == "Interrupted: x"
    failures.clear(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
