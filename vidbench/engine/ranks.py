"""Start a stage on n processes or nodes; rank, gather, agree."""

import importlib
import json
import os
import tempfile
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor


class RankError(RuntimeError):
    """A rank failed and ended the others; the message shows the one that failed first."""


def rank() -> int:
    """This process's number, 0 where no group was started."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes share the work, 1 where no group was started."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> torch.device:
    """Where this rank computes: its own GPU if there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def cores() -> int:
    """The cores this process may use, which on a cluster are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gather(tensor: Tensor) -> Tensor:
    """All ranks' rows in order of rank, without gradient: [B,...] -> [world*B,...]."""
    if world() == 1:
        return tensor
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def mean(tensor: Tensor) -> Tensor:
    """The mean over ranks, without gradient."""
    if world() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world()


def any_rank(flag: bool) -> bool:
    """Whether the flag is up on any rank; every rank must ask."""
    if world() == 1:
        return flag
    return bool(mean(torch.tensor(float(flag), device=device())) > 0)


def barrier() -> None:
    """Wait for the other ranks."""
    if world() > 1:
        dist.barrier()


def launch(target: str, *args, nproc: int = 1, nnodes: int = 1, endpoint: str = "", log_dir: str | Path = "",
           restarts: int = 0):
    """Run `module:function`(*args) on nproc processes of each of nnodes nodes with torch's elastic launcher.

    nproc 0 is one process for each GPU, and one without GPUs. What crosses to a rank is an importable name and plain
    values. One process on one node runs in this process. On many nodes the same call is made on each, with one c10d
    `endpoint` (host:port). Rank 0's standard output is teed; every rank's streams lie below `log_dir`. Returns the
    return value of this node's first rank.
    Raises RankError, whose text shows the root cause, as soon as one rank fails; the other ranks are stopped.
    """
    nproc = nproc or max(1, torch.cuda.device_count())
    if nproc == 1 and nnodes == 1:
        return _function(target)(*args)
    if nnodes > 1 and not endpoint:
        raise ValueError("launch on several nodes wants one endpoint, host:port of a node that all can reach.")
    _function(target)  # an unknown name fails here, not in a rank
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    log_dir = Path(log_dir or tempfile.mkdtemp(prefix="vidbench-ranks-"))
    log_dir.mkdir(parents=True, exist_ok=True)
    for old in log_dir.glob("failed-*.json"):
        old.unlink()
    logs = DefaultLogsSpecs(log_dir=str(log_dir), redirects=Std.ALL, tee={0: Std.OUT})
    config = LaunchConfig(
        min_nodes=nnodes, max_nodes=nnodes, nproc_per_node=nproc, run_id="vidbench", max_restarts=restarts,
        start_method="spawn", rdzv_backend="c10d", rdzv_endpoint=endpoint or "localhost:0", monitor_interval=0.5,
        logs_specs=logs, log_line_prefix_template="[rank ${rank}] ",
    )
    try:
        results = elastic_launch(config, _rank_main)(target, nproc, str(log_dir), *args)
    except ChildFailedError as error:
        raise RankError(_root_cause(error, log_dir)) from error
    return results[min(results)]


def _root_cause(error, log_dir: Path) -> str:
    """Of all ranks' failures the first: torch counts whole seconds, in which the others fail of a lost connection."""
    for number, failure in error.failures.items():
        if failure.exitcode < 0 and failure.exitcode != -15:  # killed, by memory or by hand; 15 is the launcher's own
            return f"rank {number} was ended by {failure.signal_name()}; every rank's output lies below {log_dir}"
    reports = [json.loads(path.read_text()) for path in log_dir.glob("failed-*.json")]
    if not reports:
        return str(error)
    first = min(reports, key=lambda report: report["nanoseconds"])
    return f"rank {first['rank']} failed first:\n{first['traceback']}\nEvery rank's output lies below {log_dir}"


def _function(target: str):
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        raise ValueError(f"{module} has no function {name!r}; a stage is importable, not made in a cell.") from None


def _rank_main(target: str, nproc: int, log_dir: str, *args):
    """What each rank runs: join the group, do the stage, leave the group; a failure leaves a report behind."""
    try:
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(device())
        else:
            torch.set_num_threads(max(1, cores() // nproc))
        dist.init_process_group("nccl" if on_gpu else "gloo")
        result = _function(target)(*args)
        dist.destroy_process_group()  # after a failure the launcher ends the process: leaving the group could hang
        return result
    except BaseException:
        number = os.environ.get("RANK", "0")
        report = {"rank": number, "nanoseconds": time.time_ns(), "traceback": traceback.format_exc()}
        Path(log_dir, f"failed-{number}.json").write_text(json.dumps(report))
        raise
