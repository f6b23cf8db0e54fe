"""Shards of a scan and of a store: the last one writes the whole's manifest, missing ones are named."""

from pathlib import Path

import pytest

from tests.makes import encode
from vidbench.__main__ import main
from vidbench.data.manifest import Manifest
from vidbench.data.prepare import scan, shards, store

WRITTEN = {
    "scan": ("scan.csv", "manifest.csv", "classes.txt"),
    "store": ("manifest.csv", "classes.txt"),
}


@pytest.fixture(scope="module")
def listed(tmp_path_factory) -> Manifest:
    """Five videos, of which one is damaged and one is missing."""
    folder = tmp_path_factory.mktemp("listed")
    for number in range(4):
        encode(folder / f"{number}.mp4", 6 + number)
    (folder / "1.mp4").write_bytes(b"no video")
    rows = [(f"{number}.mp4", "ab"[number % 2], "none", None) for number in range(5)]
    return Manifest.from_rows(folder, rows, ("a", "b"))


def done(what: str, listed: Manifest, folder: Path, shard=(0, 1)):
    if what == "scan":
        return scan.scan(listed, folder, check_with=None, shard=shard, progress=False)
    return store.store(listed, folder, size=32, shard=shard, progress=False)


def failed(found) -> list[tuple[str, str]]:
    return sorted(found.bad() if isinstance(found, scan.Scan) else found.failed)


@pytest.mark.parametrize("what", ["scan", "store"])
def test_shards_in_any_order_give_the_manifest_of_the_whole(listed, tmp_path, what):
    whole = done(what, listed, tmp_path / "whole")
    assert len(whole.manifest) == 3 and len(failed(whole)) == 2
    parts = tmp_path / "parts"
    for number, missing in ((2, (0, 1)), (0, (1,))):
        assert done(what, listed, parts, (number, 3)).missing == missing
        assert not (parts / "manifest.csv").exists()
    last = done(what, listed, parts, (1, 3))
    assert last.missing == () and failed(last) == failed(whole)
    for name in WRITTEN[what]:
        left, right = ((folder / name).read_text() for folder in (tmp_path / "whole", parts))
        assert left == right, name
    again = done(what, listed, parts)
    assert again.manifest.fingerprint() == whole.manifest.fingerprint()


@pytest.mark.parametrize("what", ["scan", "store"])
def test_the_whole_does_what_a_missing_shard_left(listed, tmp_path, what):
    done(what, listed, tmp_path, (0, 2))
    assert len(done(what, listed, tmp_path).manifest) == 3
    assert done(what, listed, tmp_path, (1, 2)).missing == (), "all is there"


def test_a_shard_of_the_command_names_the_missing_ones(listed, tmp_path, capsys):
    words = ["scan", str(listed.root), "--out", str(tmp_path), "--check-with", "none"]
    assert main([*words, "--workers", "0", "--shard", "1/3"]) == 0
    said = capsys.readouterr().out
    assert "no manifest yet" in said and "shard 0/3, 2/3" in said
    assert main([*words, "--workers", "0"]) == 0
    assert f"-> {tmp_path}/manifest.csv (3 videos)" in capsys.readouterr().out


def test_rows_and_names_of_shards():
    assert [*shards.rows(7, (1, 3))] == [1, 4] and shards.name((1, 3)) == "1of3"
    assert [*shards.rows(3, (0, 1))] == [0, 1, 2] and shards.name((0, 1)) == ""
    assert shards.missing([0, 3, 5], (1, 3)) == (0, 2)
