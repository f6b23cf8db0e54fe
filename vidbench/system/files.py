"""Write files whole or not at all, explain a full disk, lock a folder.

`written` makes the temporary name, syncs, then renames. A reader sees the old file or the new one,
also after a power cut. A lock belongs to an open file (filelock: flock, on Windows LockFileEx), so
it ends with its process, even after kill -9. `is_locked` itself takes the lock for microseconds, so
`lock_file` tries several times.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO

from vidbench.system.errors import Brief

TRIES, BETWEEN = 12, 0.05  # for a lock, seconds between them
SAMPLE = 1 << 16  # bytes of each of the three places that a stamp reads
FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or this user's share of it


class BusyError(Brief, RuntimeError):
    """Another process holds the lock."""


class DiskError(Brief, OSError):
    """The disk is full, or will be."""


@contextmanager
def written(path: str | Path, sync: bool = True) -> Iterator[Path]:
    """Write a file, or a folder of files, whole or not at all.

    Yields a temporary path in the folder of `path`: make a file or a folder of that name. When the
    body ends well, the result is synced and renamed to `path`; after an error it is deleted.

    Args:
        path: The final name. Missing folders above it are made.
        sync: False for one of very many small files that are cheap to make again: a sync takes
            milliseconds. A kill then still leaves whole files; a power cut may not.

    Raises:
        DiskError: the disk is full; the message says what to do.
    """
    path = Path(path)
    with explain_full_disk(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with explain_full_disk(path.parent):
            yield temporary
            if sync:
                for file in temporary.iterdir() if temporary.is_dir() else ():
                    _sync(file)
                _sync(temporary)
            os.replace(temporary, path)
            if sync:
                _sync(path.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)  # on a full disk it takes the room that is left


@contextmanager
def written_in_steps(folder: str | Path) -> Iterator[Path]:
    """Write a folder of very many files whole or not at all; a killed call resumes.

    Yields the hidden folder in which the body makes the files, each by `written`; those of an
    earlier call are still in it. When the body ends well, the folder is renamed to `folder`.
    """
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    yield partial
    for left in partial.rglob("*.tmp"):
        left.unlink()
    os.replace(partial, folder)


def unused(path: str | Path) -> Path:
    """Return the path if nothing has that name, else with the first free number: `name-2.csv`."""
    path, number = Path(path), 2
    tried = path
    while os.path.lexists(tried):
        tried, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
    return tried


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all, in UTF-8.

    Args:
        text: Its line ends are kept.

    Raises:
        DiskError: the disk is full.
    """
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def stamp(path: str | Path) -> str:
    """Read the stamp of a file's content: what a cache made from the file stores to notice changes.

    The stamp has the size, the time of the last change and a checksum of the first, the middle and
    the last 64 kB. It costs about 0.1 ms, whatever the size of the file.

    Returns:
        "SIZE-NANOSECONDS-CHECKSUM", equal if and only if the file seems unchanged.

    Raises:
        OSError: the file is missing or cannot be read.
    """
    with open(path, "rb") as file:
        facts = os.fstat(file.fileno())
        check = hashlib.blake2b(digest_size=8)  # not a CRC, which every PNG of one size shares
        for start in (0, (facts.st_size - SAMPLE) // 2, facts.st_size - SAMPLE):
            file.seek(max(0, start))
            check.update(file.read(SAMPLE))
    return f"{facts.st_size}-{facts.st_mtime_ns}-{check.hexdigest()}"


def same_content(one: str, other: str) -> bool:
    """Return whether two stamps have the same size and checksum; a copy of a file has another time.

    Args:
        one, other: Stamps.
    """
    return _content(one) == _content(other)


def _content(stamp: str) -> tuple[str, str]:
    size, _, rest = stamp.partition("-")
    return size, rest.rpartition("-")[2]


def path_inside(folder: str | Path, name: str | Path) -> Path:
    """Join a name that a user or a file gave to the folder it must stay in.

    Args:
        folder: Where it must stay.
        name: A relative path.

    Raises:
        ValueError: the name is absolute, contains `..` or a control character, or is empty.
    """
    text = str(name)
    parts = text.replace("\\", "/").split("/")
    if (
        not text.strip(". ")
        or ".." in parts
        or Path(text).is_absolute()
        or text[:1] in "/\\"
        or text[1:2] == ":"
        or any(ord(letter) < 32 or ord(letter) == 127 for letter in text)
    ):
        raise ValueError(
            f"{text!r} does not name a place inside {folder}: use a relative path without `..` and "
            "control characters"
        )
    return Path(folder) / text


def delete_leftovers(files: Iterable[Path]) -> None:
    """Delete what a killed process left half-written of these files or folders."""
    names = {(file.parent, file.name) for file in files}
    for folder in {folder for folder, _ in names}:
        for left in folder.glob(".*.tmp"):
            if (folder, left.name[1:].rsplit(".", 2)[0]) in names:
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                left.unlink(missing_ok=True)


def delete_folder(folder: Path) -> None:
    """Delete a folder; a kill never leaves half of it under its own name."""
    shutil.rmtree(folder.rename(folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")))


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Turn the error for a full disk, or for a file that is too large for it, into a DiskError.

    Libraries in other languages raise errors of other classes, with the system's words.

    Raises:
        DiskError: it says what to do.
    """
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        number = _system_error(error)
        if number in FULL:
            what, todo = "is full", "make room"
        elif number == errno.EFBIG:
            what = "or a limit of the shell (ulimit -f) allows no file of that size"
            todo = "use another disk or raise the limit"
        else:
            raise
        raise DiskError(
            number,
            f"{os.strerror(number)}: the disk of {folder} {what}; what is finished is kept: {todo}, "
            "run the same again",
        ) from error


def _system_error(error: Exception) -> int:
    """The number of the system's error, by its words if a library hides it; 0 if it is another."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    return next((n for n in (*FULL, errno.EFBIG) if os.strerror(n) in str(error)), 0)


def lock_folder(folder: str | Path, what: str = "is at work in", shard: str = "") -> FileIO:
    """Lock a folder, or one shard of the work in it, until the returned file is closed.

    Shards of one folder do not exclude each other, but each excludes the whole folder and itself.

    Args:
        folder: It is made if it does not exist.
        what: What the other process does, for the message: "is training into".
        shard: The shard's name; empty for the whole folder.

    Raises:
        BusyError: another process holds the lock; the message names it.
        OSError: the file system has no locks.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Whoever passes the gate is alone: a shard then takes its own lock, the whole folder keeps the
    # gate and looks for shards.
    with ExitStack() as on_error:
        gate = on_error.enter_context(lock_file(folder / ".lock", what, folder))
        if shard:
            return lock_file(folder / f".lock{shard}", what, folder)
        for other in folder.glob(".lock?*"):
            lock_file(other, what, folder).close()
        on_error.pop_all()
        return gate


def lock_file(path: Path, what: str, place: Path) -> FileIO:
    """Take the lock of one file, as `lock_folder` does.

    Args:
        what: What the other process does, for the message: "is writing results into".
        place: The file or folder that the message names.

    Raises:
        BusyError: another process holds the lock; the message names it.
        OSError: the file system has no locks.
    """
    with explain_full_disk(path.parent), ExitStack() as on_error:
        file = on_error.enter_context(open(path, "a+b", buffering=0))
        for _ in range(TRIES):
            if _take(file):
                break
            time.sleep(BETWEEN)
        else:
            file.seek(1)  # Windows lets no other process read the locked byte 0
            who = file.read().decode(errors="replace") or "one that just began"
            raise BusyError(
                f"another process {what} {place}: wait for it, or use another place (it is {who})"
            )
        file.truncate(0)
        file.write(f" process {os.getpid()} on {socket.gethostname()}".encode())
        on_error.pop_all()
        return file


def is_locked(path: str | Path) -> bool:
    """Return whether a process holds the lock of this file; False if the file does not exist.

    If the file system has no locks, the answer is True: nothing shows that the process ended.
    Across machines the answer is right if the file system shares locks (NFS does, Lustre if mounted
    with flock).
    """
    try:
        mode = "r+b" if os.access(path, os.W_OK) else "rb"  # others' folders may be read only
        with open(path, mode, buffering=0) as file:
            return not _take(file)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _take(file: IO) -> bool:
    from filelock import lock_descriptor

    try:
        return lock_descriptor(file.fileno(), blocking=False)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot lock {file.name}: {error.strerror}. Its file system seems to have "
            "no locks; mount it with them (Lustre: -o flock) or use a folder on another disk",
        ) from error


def _sync(path: Path) -> None:
    """Have the disk hold a file's bytes, or a folder's names."""
    if not path.is_dir():
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    elif os.name != "nt":  # Windows syncs no folders
        number = os.open(path, os.O_RDONLY)
        try:
            with suppress(OSError):  # nor do some network file systems
                os.fsync(number)
        finally:
            os.close(number)
