"""Ranks that torchrun, accelerate or srun started: recognized, checked, and made to meet.

Every rank then runs the whole command. Rank 0 prepares what training reads while the others wait
(`in_turn`), and `ranks.launch` trains in these processes instead of starting its own.
"""

import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from itertools import count

import torch.distributed as dist

from vidbench.engine import meeting
from vidbench.system.errors import InputError

OURS = ("VIDBENCH_NNODES", "VIDBENCH_ENDPOINT")  # with these `ranks.launch` starts the ranks
PORTS = range(20_000, 32_000)  # below those that Linux gives to outgoing connections
_turns = count()


@dataclass(frozen=True)
class Place:
    """One of several ranks that another launcher started.

    launcher is torchrun (accelerate calls it, too) or srun. address and port are where rank 0 is
    met. local_rank counts on this node, which has local_world ranks."""

    launcher: str
    rank: int
    world: int
    local_rank: int
    local_world: int
    address: str
    port: int

    @property
    def one_node(self) -> bool:
        """Whether all ranks are on this machine."""
        return self.local_world == self.world


def found(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Find this process's place among the ranks of another launcher; None if it is alone.

    torchrun's variables count before those of Slurm. Slurm's count only in a step of several tasks
    that srun started. They do not count in notebooks without a browser, and not if VIDBENCH_NNODES
    or VIDBENCH_ENDPOINT makes our own launch start the ranks, as assets/slurm_nodes.sh does.

    Raises:
        InputError: The variables are incomplete, or contradict each other.
    """
    if environment.get("TORCHELASTIC_RUN_ID", "").startswith("vidbench-"):
        return None  # a rank of our own launch
    if environment.get("RANK") or environment.get("WORLD_SIZE"):
        return _of_torchrun(environment)
    ours = any(environment.get(name) not in (None, "", "1") for name in OURS)
    if ours or environment.get("VIDBENCH_HEADLESS") == "1" or not environment.get("SLURM_STEP_ID"):
        return None
    return _of_slurm(environment)


def _of_torchrun(environment: Mapping[str, str]) -> Place | None:
    rank, world = (_number(environment, name) for name in ("RANK", "WORLD_SIZE"))
    _check("RANK", rank, "WORLD_SIZE", world)
    if world == 1:
        return None
    for name in OURS:
        if environment.get(name) not in (None, "", "1"):
            raise InputError(
                f"{name} starts ranks, but {world} of them run already (WORLD_SIZE). Unset {name}, "
                "or start the command without torchrun."
            )
    local = _number(environment, "LOCAL_RANK")
    size = _number(environment, "LOCAL_WORLD_SIZE")
    _check("LOCAL_RANK", local, "LOCAL_WORLD_SIZE", size)
    if not environment.get("MASTER_ADDR"):
        raise _missing("MASTER_ADDR")
    port = _number(environment, "MASTER_PORT")
    return Place("torchrun", rank, world, local, size, environment["MASTER_ADDR"], port)


def _of_slurm(environment: Mapping[str, str]) -> Place | None:
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    if environment.get(tasks, "1") == "1":
        return None
    rank, world = _number(environment, "SLURM_PROCID"), _number(environment, tasks)
    _check("SLURM_PROCID", rank, tasks, world)
    local = _number(environment, "SLURM_LOCALID")
    each = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE")
    size = int(re.sub(r"\D.*", "", each or "") or 1)  # "4(x2)" is two nodes with four each
    names = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", "")
    address = environment.get("MASTER_ADDR") or first_node(names)
    if not address and size < world:
        raise _missing("SLURM_STEP_NODELIST")
    return Place("srun", rank, world, local, size, address or "127.0.0.1", _port(environment))


def first_node(names: str) -> str:
    """Return the first name of Slurm's list: "gpu[003-005,9],cpu1" -> "gpu003"."""
    return re.sub(r"\[(\w+)[^]]*\]", r"\1", re.split(r",(?![^[]*\])", names)[0])


def _port(environment: Mapping[str, str]) -> int:
    """MASTER_PORT, else one that follows from the job's and the step's number."""
    if environment.get("MASTER_PORT"):
        return _number(environment, "MASTER_PORT")
    job, step = (_number(environment, name) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return PORTS[(job * 101 + step) % len(PORTS)]


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text:
        raise _missing(name)
    if not text.isdecimal():
        raise InputError(f"{name} must be a number from 0 on; got {text!r}. Start the ranks again.")
    return int(text)


def _missing(name: str) -> InputError:
    return InputError(
        f"{name} is missing, but other variables of ranks are set. Start the ranks by torchrun or "
        "srun, which set all of them, or unset RANK and WORLD_SIZE to train without them."
    )


def _check(name: str, rank: int, of: str, world: int) -> None:
    if not 0 <= rank < world:
        raise InputError(
            f"{name} must be less than {of}; got {name}={rank}, {of}={world}. Start the ranks by "
            "torchrun or srun, which set both."
        )


def check_size(place: Place, nproc: int) -> None:
    """Check that as many processes run on this node as the call wants.

    Args:
        nproc: The number that the call wants; 0 accepts any.

    Raises:
        InputError: The numbers differ.
    """
    if nproc and nproc != place.local_world:
        raise InputError(
            f"nproc is {nproc}, but {place.launcher} started {place.local_world} ranks on this "
            "node. Leave out --nproc and VIDBENCH_NPROC."
        )


def gpu(place: Place, gpus: int) -> int:
    """Return the number of this rank's GPU among the visible ones.

    srun may show each task its own GPU only, which is then number 0.

    Args:
        gpus: How many GPUs are visible; with 0 the answer is 0.

    Raises:
        InputError: The node has fewer GPUs than ranks.
    """
    if not gpus or place.launcher == "srun" and gpus == 1:
        return 0
    if place.local_rank >= gpus:
        raise InputError(
            f"each rank needs a GPU: this node has {place.local_world} ranks and {gpus} GPUs. Start "
            "fewer ranks, or set CUDA_VISIBLE_DEVICES= (empty) to train on the CPU."
        )
    return place.local_rank


def refuse(what: str) -> None:
    """Refuse several ranks of torchrun where one process does the work.

    srun's tasks pass: each may do another part, such as a shard.

    Raises:
        InputError: There are several ranks.
    """
    place = found()
    if place and place.launcher == "torchrun":
        raise InputError(
            f"{what} must be one process; got {place.world} ranks. Only `vidbench train` runs under "
            "torchrun. Start this without it: training then starts its ranks (--nproc)."
        )


# ---- meeting -----------------------------------------------------------------------------------


@lru_cache
def store(place: Place) -> dist.Store:
    """Connect to the store of all ranks. torchrun has opened it; else rank 0 opens it.

    Raises:
        InputError: The address is public and not trusted, or the port is used by another program.
    """
    join = timedelta(seconds=meeting.JOIN)
    if _has_agent():
        if place.rank == 0:
            warnings.warn(
                f"torchrun's store listens on port {place.port} of every network interface. To "
                "listen on loopback only, start `vidbench train --nproc N` without torchrun.",
                stacklevel=2,
            )
    elif place.rank == 0:
        _, where = meeting.place(f"{_host(place)}:{place.port}")
        try:
            _opened.append(meeting.listen(where[0], place.port))
        except OSError as error:
            raise InputError(
                f"rank 0 cannot listen on {where[0]}:{place.port}: {error}. Set MASTER_PORT to a "
                "free port, the same for all ranks."
            ) from error
    met = dist.TCPStore(_host(place), place.port, is_master=False, timeout=join)
    return dist.PrefixStore(f"vidbench-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", met)


_opened: list[dist.TCPStore] = []  # it serves as long as this process


def _has_agent() -> bool:
    """Whether torchrun's own process keeps the store."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _host(place: Place) -> str:
    return "127.0.0.1" if place.one_node and not _has_agent() else place.address


def way(place: Place) -> str:
    """Return this machine's address on the way to rank 0; empty if all ranks are here."""
    return "" if place.one_node else meeting.way(f"{place.address}:{place.port}")


@contextmanager
def in_turn() -> Iterator[bool]:
    """Let rank 0 do a block before the others do it; they do it in silence.

    Yields whether this process is rank 0, or alone. If rank 0 fails, the others raise its error.

    Raises:
        InputError: Rank 0 failed; or the launcher's variables are incomplete.
    """
    place = found()
    if place is None:
        yield True
        return
    key, ranks_store = f"turn-{next(_turns)}", store(place)
    if place.rank == 0:
        try:
            yield True
        except BaseException as error:
            ranks_store.set(key, f"rank 0 failed: {error}")
            raise
        ranks_store.set(key, "done")
        return
    while not ranks_store.check([key]):  # a wait in C++ would not see a signal
        time.sleep(0.1)
    if (said := ranks_store.get(key).decode()) != "done":
        raise InputError(said)
    with quiet():
        yield False


@contextmanager
def quiet() -> Iterator[None]:
    """Print and warn of nothing, on ranks other than 0."""
    if speaks():
        yield
        return
    with (
        open(os.devnull, "w") as nothing,
        redirect_stdout(nothing),
        warnings.catch_warnings(action="ignore"),
    ):
        yield


def speaks() -> bool:
    """Return whether this process is rank 0, or alone."""
    place = found()
    return place is None or place.rank == 0
