"""Files whole or not at all, full disks, locks of folders and shards."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import filelock
import pytest

from tests import makes
from vidbench.system import files
from vidbench.system.files import BusyError, DiskError, is_locked, lock_folder, written

# ---- whole files -------------------------------------------------------------------------------


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "new/a.bin"
    with pytest.raises(KeyError):
        with written(file) as temporary:
            temporary.write_bytes(b"half")
            raise KeyError
    assert list(file.parent.iterdir()) == []
    with written(file) as temporary:
        temporary.write_bytes(b"whole")
        assert not file.exists()
    assert file.read_bytes() == b"whole" and list(file.parent.iterdir()) == [file]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    for fails in (True, False):
        try:
            with written(tmp_path / "step") as temporary:
                temporary.mkdir()
                (temporary / "a").write_text("1")
                if fails:
                    raise KeyError
        except KeyError:
            assert list(tmp_path.iterdir()) == []
    assert [p.name for p in tmp_path.iterdir()] == ["step"]
    files.delete_folder(tmp_path / "step")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_written_in_steps_has_its_name_only_when_whole(tmp_path):
    for made in ("first", "second"):
        try:
            with files.written_in_steps(tmp_path / "pictures") as partial:
                assert (partial / "first").exists() == (made == "second")
                with written(partial / made) as temporary:
                    temporary.write_text(made)
                if made == "first":
                    (partial / ".killed.tmp").write_text("half")
                    raise KeyError
        except KeyError:
            assert not (tmp_path / "pictures").exists()
    assert {p.name for p in (tmp_path / "pictures").iterdir()} == {"first", "second"}
    assert [p.name for p in tmp_path.iterdir()] == ["pictures"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """Threads and machines may share a process number."""
    with written(tmp_path / "a") as first, written(tmp_path / "a") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first", "the last to end wins"


def test_bytes_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    done, sync, rename = [], os.fsync, os.replace

    def synced(number):
        done.append(os.readlink(f"/proc/self/fd/{number}"))
        sync(number)

    def renamed(*names):
        done.append("renamed")
        rename(*names)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    files.write_text(tmp_path / "a.txt", "x\n")
    assert [Path(name).suffix or name for name in done] == [".tmp", "renamed", str(tmp_path)]
    done.clear()
    with written(tmp_path / "b", sync=False) as temporary:
        temporary.write_text("x")
    assert done == ["renamed"]


def test_what_a_killed_process_left_is_deleted(tmp_path):
    for name in (".a.mp4.123.tmp", ".a b.mp4.7.tmp", ".b.mp4.9.tmp", "a.mp4", ".c.mp4.tmp"):
        (tmp_path / name).touch()
    (tmp_path / ".step.9.tmp").mkdir()
    files.delete_leftovers(tmp_path / name for name in ("a.mp4", "a b.mp4", "step", "no/x.mp4"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.mp4.9.tmp", ".c.mp4.tmp", "a.mp4"]


# ---- a full disk -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_what_to_do(tmp_path, number):
    with pytest.raises(DiskError, match=f"the disk of {tmp_path} is full; .* make room") as caught:
        with written(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise OSError(number, "as the system says it")
    assert caught.value.errno == number and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_the_systems_words_in_an_error_of_another_language(tmp_path, number):
    with pytest.raises(DiskError, match=f"the disk of {tmp_path} .*; what is finished is kept"):
        with files.explain_full_disk(tmp_path):
            raise RuntimeError(f"Error in a.cpp:9: write error ({os.strerror(number)})")


def test_other_errors_stay_as_they_are(tmp_path):
    with pytest.raises(PermissionError, match="mine"):
        with files.explain_full_disk(tmp_path):
            raise PermissionError(errno.EACCES, "mine")
    with pytest.raises(DiskError, match="^.Errno 28. mine$"):
        with files.explain_full_disk(tmp_path):
            raise DiskError(errno.ENOSPC, "mine")


# ---- locks -------------------------------------------------------------------------------------


def test_a_second_owner_is_refused_until_the_first_has_gone(tmp_path):
    place = tmp_path / "new"
    assert not is_locked(place / ".lock")
    with lock_folder(place, "is training into"):
        said = f"another process is training into {place}: wait for it, or use .*process {os.getpid()} on "
        with pytest.raises(BusyError, match=said):
            lock_folder(place, "is training into")
        lock_folder(tmp_path / "other").close()
        assert is_locked(place / ".lock")
    assert not is_locked(place / ".lock")
    lock_folder(place).close()


def test_shards_share_a_folder_and_exclude_the_whole(tmp_path):
    with lock_folder(tmp_path, shard="0of2"), lock_folder(tmp_path, shard="1of2"):
        for shard in ("0of2", ""):
            with pytest.raises(BusyError):
                lock_folder(tmp_path, shard=shard)
        lock_folder(tmp_path, shard="2of3").close()
    with lock_folder(tmp_path):
        with pytest.raises(BusyError):
            lock_folder(tmp_path, shard="0of2")
    lock_folder(tmp_path, shard="0of2").close()


def test_a_killed_owner_leaves_no_lock(tmp_path):
    code = (
        "import sys, time\nfrom vidbench.system import files\n"
        "with files.lock_folder(sys.argv[1]):\n"
        "    print('mine', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True, cwd=makes.ROOT
    )
    try:
        assert holder.stdout.readline() == "mine\n"
        with pytest.raises(BusyError, match=f"process {holder.pid} on "):
            lock_folder(tmp_path)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    lock_folder(tmp_path).close()


def test_looking_refuses_nobody(tmp_path):
    """Many look while one takes the lock again and again."""
    lock_folder(tmp_path).close()
    lookers = [multiprocessing.Process(target=_look, args=(tmp_path / ".lock",)) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(200):
            lock_folder(tmp_path).close()
    finally:
        for looker in lookers:
            looker.kill()
            looker.join()


def _look(path: Path) -> None:
    while True:
        is_locked(path)
        time.sleep(0.001)


def test_a_file_system_without_locks_is_named_as_such(tmp_path, monkeypatch):
    def refuse(number, blocking):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock, "lock_descriptor", refuse)
    with pytest.raises(OSError, match=f"cannot lock {tmp_path}/.lock: .* no locks; mount it"):
        lock_folder(tmp_path)
    assert is_locked(tmp_path / ".lock"), "nothing shows that its process ended"


# ---- stamps and names --------------------------------------------------------------------------


def test_a_stamp_changes_with_size_time_and_content(tmp_path):
    file = tmp_path / "clip.mp4"
    content = bytearray(os.urandom(1 << 20))
    file.write_bytes(content)
    os.utime(file, ns=(5, 5))
    first = files.stamp(file)
    assert files.stamp(str(file)) == first
    for place in (0, len(content) // 2, len(content) - 1):
        changed = content.copy()
        changed[place] ^= 1
        file.write_bytes(changed)
        os.utime(file, ns=(5, 5))
        assert files.stamp(file) != first
    file.write_bytes(content)
    os.utime(file, ns=(5, 6))
    assert files.stamp(file) != first and files.same_content(files.stamp(file), first)
    file.write_bytes(b"")
    assert not files.same_content(files.stamp(file), first)
    assert files.stamp(file).startswith("0-")
    with pytest.raises(FileNotFoundError):
        files.stamp(tmp_path / "missing")


def test_contents_that_end_with_their_own_crc_differ(tmp_path):
    """As the chunks of a PNG do: the CRC of all of them is the same number."""
    for name in (b"a", b"b"):
        (tmp_path / name.decode()).write_bytes(name + zlib.crc32(name).to_bytes(4, "little"))
    assert not files.same_content(files.stamp(tmp_path / "a"), files.stamp(tmp_path / "b"))


@pytest.mark.parametrize(
    "name",
    [
        "/etc/x",
        "../x",
        "a/../../x",
        "a\\..\\x",
        "C:\\x",
        "\\\\host\\x",
        "",
        ".",
        "..",
        "a\nb",
        "a\x00b",
    ],
)
def test_a_name_that_leads_outside_its_folder_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="does not name a place inside"):
        files.path_inside(tmp_path, name)


@pytest.mark.parametrize("name", ["a", "a/b.mp4", "..a", "a..b", "run 1", "ü/é"])
def test_a_name_inside_its_folder_is_joined(tmp_path, name):
    assert files.path_inside(tmp_path, name) == tmp_path / name
