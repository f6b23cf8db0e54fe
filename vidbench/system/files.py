"""Write files whole or not at all, explain a full disk, lock a folder.

`written` makes the temporary name, syncs, then renames. A reader sees the old file or the new one,
also after a power cut. A lock belongs to an open file (filelock: flock, on Windows
LockFileEx), so it ends with its process, even after kill -9. Whoever asks whether a lock is held
takes it for microseconds, so whoever takes one tries several times.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

TRIES, BETWEEN = 12, 0.05  # for a lock, seconds between them
FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or this user's share of it
NOTE_AT = 1  # the holder's name begins there: Windows lets nobody read the locked byte 0


class BusyError(RuntimeError):
    """Another process holds the lock."""


class DiskError(OSError):
    """The disk is full, or will be."""


@contextmanager
def written(path: str | Path, sync: bool = True):
    """Write a file, or a folder of files, whole or not at all.

    Yields a temporary path beside `path`: create a file or make a folder there. When the body ends
    well, the result is synced and gets its name; after an error it is deleted.

    Args:
        path: The final name. Missing folders above it are made.
        sync: False for one of very many small files that are cheap to make again: a sync takes
            milliseconds. A kill then still leaves whole files; a power cut may not.

    Raises:
        DiskError: the disk is full; the message says what to do.
    """
    path = Path(path)
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


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all, in UTF-8 and with the line ends of `text`."""
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def delete_leftovers(files: Iterable[Path]) -> None:
    """Delete what a killed process left half-written beside these files or folders."""
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
def explain_full_disk(folder: Path):
    """Turn the system's error for a full disk into a DiskError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL or isinstance(error, DiskError):
            raise
        raise DiskError(
            error.errno,
            f"{os.strerror(error.errno)}: the disk of {folder} is full; what is finished is kept: "
            "make room, run the same again",
        ) from error


class Lock:
    """A lock that is held until `close`, the end of a with block or the end of the process."""

    def __init__(self, number: int) -> None:
        self._number = number

    def close(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._number >= 0:
            os.close(self._number)
            self._number = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def lock_folder(folder: str | Path, what: str = "is at work in", shard: str = "") -> Lock:
    """Lock a folder, or one shard of the work in it.

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
    gate = lock_file(folder / ".lock", what, folder)
    # Whoever passes the gate is alone: a shard then takes its own lock, the whole folder keeps the
    # gate and looks for shards.
    try:
        if shard:
            own = lock_file(folder / f".lock{shard}", what, folder)
            gate.close()
            return own
        for other in folder.glob(".lock?*"):
            lock_file(other, what, folder).close()
        return gate
    except BaseException:
        gate.close()
        raise


def lock_file(path: Path, what: str, place: Path) -> Lock:
    """Take the lock of one file, as `lock_folder` does. place: what the message names."""
    with explain_full_disk(path.parent):
        number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    lock = Lock(number)
    try:
        for _ in range(TRIES):
            if _take(number, path):
                break
            time.sleep(BETWEEN)
        else:
            os.lseek(number, NOTE_AT, os.SEEK_SET)
            who = os.read(number, 1000).decode(errors="replace") or "one that just began"
            raise BusyError(
                f"another process {what} {place}: wait for it, or use another place (it is {who})"
            )
        with explain_full_disk(path.parent):
            os.ftruncate(number, 0)
            os.lseek(number, NOTE_AT, os.SEEK_SET)
            os.write(number, f"process {os.getpid()} on {socket.gethostname()}".encode())
    except BaseException:
        lock.close()
        raise
    return lock


def is_locked(path: str | Path) -> bool:
    """Whether a process holds the lock of this file; False if the file does not exist.

    Where the file system has no locks, the answer is True: nothing shows that the process ended.
    Across machines the answer is right if the file system shares locks (NFS does, Lustre if mounted
    with flock).
    """
    try:
        try:
            number = os.open(path, os.O_RDWR)
        except PermissionError:  # a folder that others may read only
            number = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    with Lock(number):
        try:
            return not _take(number, Path(path))
        except OSError:
            return True


def _take(number: int, path: Path) -> bool:
    from filelock import lock_descriptor

    try:
        return lock_descriptor(number, blocking=False)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot lock {path}: {os.strerror(error.errno)}. Its file system seems to have no "
            "locks; mount it with them (Lustre: -o flock) or use a folder on another disk",
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
