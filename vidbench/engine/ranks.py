"""Start a stage on n processes or nodes; rank, gather, agree.

`launch` starts one process for each GPU. They join a group, and each trains on its part of every
global batch. A function that is called without a group works, too: there is one rank, 0, and all
rows are its own. So methods are written once. Sources: torch.distributed; the shuffle of CoCLR's
keys is MoCo's shuffle-BN, of which the released code gathers all clips on all GPUs and `permuted`
moves only the rows that change their rank.

Example, without a group:

>>> rank(), world(), gather(torch.arange(3)).tolist(), any_rank(False)
(0, 1, [0, 1, 2], False)
>>> permuted(torch.tensor([10, 11, 12]), torch.tensor([2, 0, 1])).tolist()
[12, 10, 11]
"""

import hashlib
import importlib
import itertools
import os
import signal
import tempfile
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from vidbench.engine import failures, meeting, outside
from vidbench.engine.meeting import JOIN
from vidbench.system.errors import Brief, calm_stops
from vidbench.system.processes import cores
from vidbench.system.signals import Interrupted, kept
from vidbench.system.trusted import spread


class RankError(Brief, RuntimeError):
    """A rank failed and ended the others; the message shows the one that failed first."""


def rank() -> int:
    """Return this process's number, 0 if no group was started."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Return how many processes share the work, 1 if no group was started."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> torch.device:
    """Return where this rank computes: its own GPU if there is one, else the CPU.

    Experimental, untested by us: a Mac's GPU (mps) if one process trains. The variable
    VIDBENCH_DEVICE=cpu chooses the CPU on any machine.
    """
    if os.environ.get("VIDBENCH_DEVICE") == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("mps" if torch.backends.mps.is_available() and world() == 1 else "cpu")


def gather(tensor: Tensor) -> Tensor:
    """Gather all ranks' rows in order of rank, without gradient: [B,...] -> [world*B,...]."""
    if world() == 1:
        return tensor
    parts = [
        torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world())
    ]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def permuted(rows: Tensor, order: Tensor) -> Tensor:
    """Return this rank's part of all ranks' rows in another order; only these rows move.

    Args:
        rows: [B,...], as many on each rank.
        order: Which of the world*B rows comes at each place, int64 on the CPU, the same on each
            rank.

    Returns:
        Rows [B,...] of places rank*B to (rank+1)*B, without gradient.
    """
    if world() == 1:
        return rows[order.to(rows.device, non_blocking=True)]
    count, me = len(rows), rank()
    wanted = order.view(world(), count)
    owner = wanted // count
    sent = torch.cat([wanted[to][owner[to] == me] - me * count for to in range(world())])
    leaving = (owner == me).sum(dim=1).tolist()
    coming = torch.bincount(owner[me], minlength=world()).tolist()
    received = torch.empty_like(rows, memory_format=torch.contiguous_format)
    outgoing = rows[sent.to(rows.device, non_blocking=True)].contiguous()
    dist.all_to_all_single(received, outgoing, coming, leaving)
    # what arrives is in order of the sending rank, and within a rank in order of place
    place = owner[me].argsort(stable=True).to(rows.device, non_blocking=True)
    result = torch.empty_like(received)
    result[place] = received
    return result


def mean(tensor: Tensor) -> Tensor:
    """Average over ranks, without gradient: the same shape."""
    if world() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world()


def any_rank(flag: bool) -> bool:
    """Return whether the flag is set on any rank; every rank must call it."""
    if world() == 1:
        return flag
    return bool(mean(torch.tensor(float(flag), device=device())) > 0)


def barrier() -> None:
    """Wait for the other ranks."""
    if world() > 1:
        dist.barrier()


# signals that torch's launcher handles; Windows has the first two
HANDLED = [
    getattr(signal, n) for n in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, n)
]

# What `launch` takes from the environment where the call leaves it open, as `vidbench run --nproc
# 4` sets it: how many processes there are is a fact of the launch, not of the experiment.
VARIABLES = {
    "nproc": "VIDBENCH_NPROC",
    "nnodes": "VIDBENCH_NNODES",
    "endpoint": "VIDBENCH_ENDPOINT",
    "restarts": "VIDBENCH_RESTARTS",
    "hang_timeout": "VIDBENCH_HANG_TIMEOUT",
    "log_dir": "VIDBENCH_RANK_LOGS",
}


def launch(
    target: str,
    *args,
    nproc: int = 1,
    nnodes: int = 0,
    endpoint: str = "",
    restarts: int | None = None,
    hang_timeout: float = 0,
    log_dir: str | Path = "",
) -> Any:
    """Run `module:function`(*args) on nproc processes of each of nnodes nodes.

    torch's elastic launcher starts the processes. One process on one node without restarts is this
    one. If torchrun, accelerate or srun started several ranks, the function runs in them instead
    (engine/outside.py). On many nodes the same call is made on each, and the run directories are on
    a disk that all share. What crosses to a rank is an importable name and plain values.

    Args:
        nproc: 0 is VIDBENCH_NPROC of the environment, or one process for each GPU, or one.
        nnodes, endpoint, restarts, hang_timeout, log_dir: What is left open comes from VARIABLES, or
            is one node, no restart, 600 seconds and a temporary folder.
        endpoint: host:port of one of the nodes, the same on all.
        restarts: How often all ranks start again after one failed; each node counts its
            ranks' failures. Training resumes from its checkpoint.
        hang_timeout: Seconds that a rank waits for the others in one exchange before one of them
            counts as hung.
        log_dir: Folder of every rank's streams. Rank 0's standard output is also shown here.

    Returns:
        The return value of this node's first rank.

    Raises:
        RankError: A rank failed and no restart is left, or the nodes did not meet. The text shows
            the root cause; the other ranks are stopped.
        KeyboardInterrupt: A signal stopped the ranks.
        ValueError: The ranks cannot start so: too few GPUs, or contradictory variables.
    """
    environment = {name: os.environ.get(variable, "") for name, variable in VARIABLES.items()}
    wanted = nproc if nproc > 1 else _number(environment, "nproc", 0)
    place = outside.found() if nnodes < 2 else None
    if place:
        outside.check_size(place, wanted)
        seconds = hang_timeout or _number(environment, "hang_timeout", 600)
        return _run_joined(place, seconds, target, args)
    nproc = nproc or wanted or max(1, torch.cuda.device_count())
    nnodes, endpoint = (
        nnodes or _number(environment, "nnodes", 1),
        endpoint or environment["endpoint"],
    )
    restarts = _number(environment, "restarts", 0) if restarts is None else restarts
    hang_timeout = hang_timeout or _number(environment, "hang_timeout", 600)
    _check_gpus(nproc)
    if nproc == 1 and nnodes == 1 and not restarts:
        return _function(target)(*args)
    if nnodes > 1 and not endpoint:
        raise ValueError(
            "launch on several nodes needs one endpoint, host:port of a node that all can reach."
        )
    _function(target)  # an unknown name fails here, not in a rank
    for recipe in args:
        if isinstance(recipe, dict):
            spread(str(recipe.get("network", "")))
    folder = Path(log_dir or environment["log_dir"] or tempfile.mkdtemp(prefix="vidbench-ranks-"))
    folder.mkdir(parents=True, exist_ok=True)
    failures.clear(folder)
    work = _Work(target, args, nproc, nnodes, endpoint, restarts, hang_timeout, folder)
    # Nodes meet by a name only if they are about to do the same; a used name is closed for good.
    digest = hashlib.sha256(repr((target, args)).encode()).hexdigest()[:12]
    for again in itertools.count(1):
        if results := work.launched(f"vidbench-{digest}-{again}"):
            return results[min(results)]


@dataclass(frozen=True)
class _Work:
    """What `launch` starts, under whatever name the nodes meet."""

    target: str
    args: tuple
    nproc: int
    nnodes: int
    endpoint: str
    restarts: int
    hang_timeout: float
    folder: Path

    def launched(self, name: str) -> dict[int, Any]:
        """Rank -> return value, of this node's ranks; empty if the nodes have met by this name."""
        from torch.distributed.elastic.multiprocessing import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousError
        from torch.distributed.launcher.api import elastic_launch

        places = ExitStack()
        address = meeting.point(self.endpoint) if self.nnodes > 1 else ""
        given = (self.target, self.nproc, str(self.folder), address, self.hang_timeout, *self.args)
        config = self._config(name, address, places)
        try:
            # torch's launcher leaves its own handlers behind, and Ctrl-C then raises nothing
            with kept(*HANDLED), places:
                return elastic_launch(config, _rank_main)(*given)
        except ChildFailedError as error:
            if asked_to := failures.stopped(self.folder):
                _saved(asked_to, error)
            said = failures.root_cause(error.failures, self.folder, self.nnodes)
            raise RankError(said) from error
        except SignalException as error:
            if asked_to := failures.stopped(self.folder):
                _saved(asked_to, error)
            raise KeyboardInterrupt(f"the ranks were stopped by {error.sigval.name}") from error
        except (RendezvousError, dist.DistError) as error:
            started = list(self.folder.glob(f"{name}_*"))
            if isinstance(error, RendezvousClosedError) and not started:
                return {}
            raise RankError(self._not_met(error)) from error

    def _config(self, name: str, address: str, places: ExitStack) -> Any:
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
        from torch.distributed.launcher.api import LaunchConfig

        return LaunchConfig(
            min_nodes=self.nnodes,
            max_nodes=self.nnodes,
            nproc_per_node=self.nproc,
            run_id=name,
            max_restarts=self.restarts,
            start_method="spawn",
            rdzv_backend=meeting.backend(),
            rdzv_endpoint=self.endpoint,
            rdzv_configs={
                "timeout": JOIN,
                "join_timeout": JOIN,
                "read_timeout": 300,
                "is_host": False,
                "places": places,
            },
            local_addr=address or None,
            monitor_interval=0.5,
            logs_specs=DefaultLogsSpecs(
                log_dir=str(self.folder), redirects=Std.ALL, tee={0: Std.OUT}
            ),
            log_line_prefix_template="[rank ${rank}] ",
        )

    def _not_met(self, error: Exception) -> str:
        if failures.known(self.folder):  # the node that holds the store left first
            return failures.root_cause({}, self.folder, self.nnodes)
        return (
            f"the {self.nnodes} nodes did not meet, or lost each other, at {self.endpoint}: "
            f"{type(error).__name__}: {error} Start the same command on each of them within "
            f"{JOIN // 60} minutes; {self.endpoint} must be an address of one of them which all "
            "others reach."
        )


def _saved(words: str, error: Exception) -> NoReturn:
    """Raise Interrupted, which a notebook shows without alarm: the ranks saved themselves."""
    calm_stops(Interrupted)
    raise Interrupted(words) from error


def _check_gpus(nproc: int) -> None:
    """Raise ValueError if there are fewer GPUs than processes."""
    if torch.cuda.is_available() and nproc > (gpus := torch.cuda.device_count()):
        raise ValueError(
            f"{nproc} processes want {nproc} GPUs, one each; here are {gpus}. Use that many processes, or "
            "set CUDA_VISIBLE_DEVICES= (empty) for ranks on the CPU."
        )


def _number(environment: dict[str, str], name: str, default: int) -> int:
    """A number of the environment. Raises ValueError where it is none."""
    try:
        return int(environment[name] or default)
    except ValueError:
        raise ValueError(
            f"{VARIABLES[name]} needs a whole number; got {environment[name]!r}."
        ) from None


def _function(target: str):
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        raise ValueError(
            f"{module} has no function {name!r}; a stage is importable, not made in a cell."
        ) from None


def _rank_main(target: str, nproc: int, folder: str, address: str, hang_timeout: float, *args):
    """What each rank runs: join the group, do the stage, leave the group; report a failure."""
    number, store = os.environ["RANK"], None
    try:
        on_gpu = _prepare(nproc, address)
        store = meeting.store()
        done = failures.watch(folder, number, meeting.store() if address else None)
        _join(store, int(number), int(os.environ["WORLD_SIZE"]), on_gpu, hang_timeout)
        result = _function(target)(*args)
        done.set()
        # after a failure the launcher ends the process: leaving the group could hang
        dist.destroy_process_group()
        return result
    except BaseException as error:
        failures.report(folder, number, error, store)
        raise


def _prepare(nproc: int, address: str) -> bool:
    """Choose this rank's device, threads and network interface; whether it computes on a GPU."""
    on_gpu = device().type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device())
    else:
        torch.set_num_threads(max(1, cores() // nproc))
    meeting.bind(address)
    return on_gpu


def _join(store: dist.Store, number: int, size: int, on_gpu: bool, hang_timeout: float) -> None:
    """Join the group of `size` ranks as this number."""
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=number,
        world_size=size,
        timeout=timedelta(seconds=JOIN),  # processes may start far apart
    )
    # torch 2.12 and earlier have it by another name
    set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    set_timeout(timedelta(seconds=hang_timeout))


_stages = itertools.count()  # of this process among another launcher's ranks


def _run_joined(place: outside.Place, hang_timeout: float, target: str, args: tuple) -> Any:
    """Run a function in the ranks of another launcher, which meet for it alone."""
    os.environ["LOCAL_RANK"] = str(outside.gpu(place, torch.cuda.device_count()))
    on_gpu = _prepare(place.local_world, outside.way(place))
    store = dist.PrefixStore(f"stage-{next(_stages)}", outside.store(place))
    with outside.quiet(), warnings.catch_warnings():
        # our own launch keeps them in each rank's log
        warnings.filterwarnings("ignore", module=r"torch\.")
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
        _join(store, place.rank, place.world, on_gpu, hang_timeout)
        result = _function(target)(*args)
        barrier()  # rank 0 writes the run's last state before the others read it
    dist.destroy_process_group()
    return result
