"""What `vidbench doctor` looks at on a machine: packages, GPU, cuDNN, fast paths, memory, disk.

Each check returns `Check`s and starts nothing. What depends on a version or a number is a function
of plain values with a table, so it is tested without the hardware."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
import torch
from packaging.requirements import Requirement

from vidbench.engine.environment import driver
from vidbench.system import kernels
from vidbench.system.processes import cores

GIB = 2**30
SHM = Path("/dev/shm")
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4294967296"}  # the Makefile's
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# NVIDIA, "CUDA compatibility": the first driver that runs every release of a CUDA generation
DRIVERS = {"11": 450, "12": 525, "13": 580}
# (from, before, what happens, whether it prevents work): pytorch issues 163539 (wrong: reported on
# 9.8 to 9.10, gone in 9.13), 166122, 166643 and 174051 (slow, much memory: until 9.15)
CUDNN = (
    ((9, 8), (9, 11), "gives wrong values of 3-D convolutions in bfloat16", True),
    (
        (9, 11),
        (9, 15),
        "is up to 20 times as slow and needs more memory in 3-D convolutions",
        False,
    ),
)


State = Literal["ok", "warning", "missing"]


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report.

    Args:
        name: What was looked at.
        state: "missing" is nothing that prevents work, unless `needed` is true.
        found: What is there, with its version.
        todo: What to do; empty if nothing.
        needed: Whether vidbench cannot work like this.
    """

    name: str
    state: State
    found: str
    todo: str = ""
    needed: bool = False


# ---- packages ----------------------------------------------------------------------------------


def packages(installed: Mapping[str, str] | None = None) -> list[Check]:
    """Compare installed packages with the bounds of vidbench's metadata.

    There is a line for the core, and one for each extra.

    Args:
        installed: Versions by package; default: those of this environment.
    """
    about = metadata.metadata("vidbench")
    wanted = [Requirement(text) for text in metadata.requires("vidbench") or ()]
    checks = []
    for extra in ("", *(about.get_all("Provides-Extra") or ())):
        own = [one for one in wanted if _belongs(one, extra)]
        found = {one.name: _version(one.name, installed) for one in own}
        missing = [name for name, version in found.items() if not version]
        outside = [
            f"{one.name} {found[one.name]} ({one.specifier})"
            for one in own
            if found[one.name] and not one.specifier.contains(found[one.name], prereleases=True)
        ]
        name = f"extra {extra}" if extra else "packages"
        install = f"pip install 'vidbench[{extra}]'" if extra else "pip install vidbench"
        if missing:
            said = f"{', '.join(missing)} not installed"
            checks.append(Check(name, "missing", said, install, needed=not extra))
        elif outside:
            said = f"outside the tested versions: {', '.join(outside)}"
            checks.append(Check(name, "warning", said, f"Install a tested version: {install}."))
        else:
            said = ", ".join(f"{one} {version}" for one, version in found.items()) if extra else ""
            checks.append(Check(name, "ok", said or f"{len(found)}, all in their tested bounds"))
    return checks


def _belongs(requirement: Requirement, extra: str) -> bool:
    """Whether an extra (none: the core) brings this requirement on this platform."""
    if requirement.marker is None:
        return not extra
    without = requirement.marker.evaluate({"extra": ""})
    return without if not extra else not without and requirement.marker.evaluate({"extra": extra})


def _version(package: str, installed: Mapping[str, str] | None) -> str:
    if installed is not None:
        return installed.get(package, "")
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


# ---- GPU ---------------------------------------------------------------------------------------


def gpus() -> list[Check]:
    """Check the GPUs, their driver and cuDNN. A machine without a GPU is all right."""
    built, kernel, cudnn = torch.version.cuda, driver(), torch.backends.cudnn.version()
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        said = f"{', '.join(names)}; driver {kernel or 'unknown'}, CUDA {built}"
        return [Check("GPU", "ok", said), cudnn_check(cudnn), *_gpu_paths()]
    if kernel:
        return [driver_check(kernel, built)]
    if torch.backends.mps.is_available():
        return [Check("GPU", "ok", "a Mac's GPU (mps): experimental")]
    return [Check("GPU", "ok", f"none: the CPU trains; torch {torch.__version__}, CUDA {built}")]


def driver_check(kernel: str, built: str | None) -> Check:
    """Say why torch sees no GPU although NVIDIA's driver is loaded.

    Args:
        kernel: The driver's version, such as "535.104".
        built: The CUDA version that torch is built for; None for a build for the CPU.
    """
    found = f"driver {kernel}, but torch sees no GPU"
    if built is None:
        return Check("GPU", "warning", f"{found}: it is built for the CPU", "Install a CUDA build.")
    least = DRIVERS.get(built.partition(".")[0], 0)
    if int(kernel.partition(".")[0]) < least:
        said = f"{found}: CUDA {built} needs {least} or later"
        todo = "Update the driver, or install a torch for an older CUDA (assets/docs/install.md)."
        return Check("GPU", "warning", said, todo)
    return Check("GPU", "warning", found, "Check CUDA_VISIBLE_DEVICES, and run nvidia-smi.")


def cudnn_check(version: int | None) -> Check:
    """Say whether a cuDNN computes 3-D convolutions well.

    Args:
        version: As torch gives it, 91002 for 9.10.2; None if there is none.
    """
    todo = "Install cuDNN 9.15 or later: pip install -U nvidia-cudnn-cu13 (cu12 for CUDA 12)."
    if version is None:
        return Check("cuDNN", "warning", "none: convolutions on the GPU are slow", todo)
    number = version // 10000, version // 100 % 100
    words = f"{number[0]}.{number[1]}.{version % 100}"
    for first, end, what, wrong in CUDNN:
        if first <= number < end:
            state: State = "missing" if wrong else "warning"
            return Check("cuDNN", state, f"{words} {what}", todo, needed=wrong)
    return Check("cuDNN", "ok", words)


def _gpu_paths() -> list[Check]:
    """Fast paths of a GPU: Triton's kernels, bfloat16, attention."""
    lacks = []
    if not kernels.INSTALLED:
        lacks.append("triton (compiled kernels)")
    elif not kernels.kernels_run(torch.cuda.get_device_capability()):
        lacks.append(f"vidbench's kernels ({kernels.SWITCH}=off, or an older GPU)")
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        lacks.append("bfloat16 in hardware")
    if not torch.backends.cuda.flash_sdp_enabled():
        lacks.append("flash attention")
    if lacks:
        return [Check("GPU's fast paths", "warning", f"without {', '.join(lacks)}", "Expect less.")]
    return [Check("GPU's fast paths", "ok", "triton, bfloat16, flash attention")]


def cpu_paths(
    capability: str | None = None, onednn: bool | None = None, architecture: str = ""
) -> Check:
    """Say which instructions convolutions use.

    Args:
        capability: As torch names it: AVX512, AVX2, DEFAULT, ...; default: this CPU's.
        onednn: Whether torch has oneDNN; default: this torch.
        architecture: Such as x86_64; default: this machine's.
    """
    capability = capability or torch.backends.cpu.get_cpu_capability()
    onednn = torch.backends.mkldnn.is_available() if onednn is None else onednn
    limits = [name for name in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY") if name in os.environ]
    architecture = architecture or platform.machine()
    said = f"{architecture}: {capability}{', oneDNN' if onednn else ''}"
    if not onednn:
        return Check("CPU", "warning", f"{said}: torch lacks oneDNN", "Install torch's own wheel.")
    if limits:
        return Check("CPU", "warning", f"{said}, limited", f"Unset {' and '.join(limits)}.")
    if architecture in ("x86_64", "AMD64") and not capability.startswith("AVX"):
        return Check("CPU", "warning", f"{said}: neither AVX2 nor AVX-512", "Expect slow training.")
    return Check("CPU", "ok", said)


# ---- memory, threads, disk ---------------------------------------------------------------------


def memory(available: int, total: int, shared: int | None) -> Iterator[Check]:
    """Check memory, and the shared memory in which a loader's processes hand over batches.

    Args:
        available: Bytes that programs can still use.
        total: Bytes of the machine.
        shared: Free bytes of /dev/shm; None if there is no such folder.
    """
    said = f"{available / GIB:.1f} of {total / GIB:.1f} GiB are free"
    if available < 2 * GIB:
        yield Check("memory", "warning", said, "The toy presets need 2 GiB: end other programs.")
    else:
        yield Check("memory", "ok", said)
    if shared is not None:
        said = f"{shared / GIB:.1f} GiB of {SHM} are free"
        low = shared < GIB
        todo = "Loaders with processes fail: docker run --shm-size 8g, or fit.workers 0."
        yield Check("shared memory", "warning" if low else "ok", said, todo if low else "")


def locked_memory(limit: int, gpus: int) -> Check:
    """Check how much memory a process may lock, which NCCL needs between nodes.

    Args:
        limit: Bytes of RLIMIT_MEMLOCK; negative: no limit.
        gpus: How many the machine has.
    """
    said = "no limit" if limit < 0 else f"at most {limit / 2**20:,.0f} MiB"
    if gpus > 1 and 0 <= limit < GIB:
        return Check("locked memory", "warning", said, "For several nodes: ulimit -l unlimited.")
    return Check("locked memory", "ok", said)


def threads(environ: Mapping[str, str], usable: int, load: float, linux: bool) -> Iterator[Check]:
    """Check the environment's settings of threads and of glibc's memory.

    Args:
        environ: The environment's variables.
        usable: Cores that this process may use.
        load: Programs that want a core, over the last minute.
        linux: Whether glibc's settings count.
    """
    given = environ.get("OMP_NUM_THREADS", "")
    said = f"{usable} cores, load {load:.1f}, OMP_NUM_THREADS {given or 'not set'}"
    if given.isdecimal() and int(given) > usable:
        yield Check("threads", "warning", said, f"Set OMP_NUM_THREADS to at most {usable}.")
    elif not given and load > usable:
        todo = "Other programs use the cores: export OMP_NUM_THREADS=1."
        yield Check("threads", "warning", said, todo)
    else:
        yield Check("threads", "ok", said)
    unset = [f"{name}={value}" for name, value in MALLOC.items() if environ.get(name) != value]
    if linux and unset:
        todo = f"Training on a CPU is a tenth faster with: export {' '.join(unset)}."
        yield Check("allocator", "warning", "MALLOC_* of the Makefile not set", todo)
    elif linux:
        yield Check("allocator", "ok", "MALLOC_* set as in the Makefile")


def disk(folder: str, free: int) -> Check:
    """Check the free space of a disk.

    Args:
        folder: Where runs are written.
        free: Bytes.
    """
    said = f"{free / GIB:.1f} GiB are free in {folder}"
    if free < GIB // 4:
        return Check("disk", "missing", said, "Free some space: nothing can be saved.", needed=True)
    if free < 5 * GIB:
        return Check("disk", "warning", said, "A data set's store and flow need more.")
    return Check("disk", "ok", said)


def browser() -> Check:
    """Check for Chromium, which only the browser's tests need."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found:
        return Check("Chromium", "ok", found)
    return Check("Chromium", "missing", "not on PATH", "Only `make test-browser` needs it.")


def machine() -> list[Check]:
    """Make all checks of this file."""
    free = psutil.virtual_memory()
    shared = shutil.disk_usage(SHM).free if SHM.is_dir() else None
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    linux = os.name == "posix" and SHM.is_dir()
    checks = [*packages(), *gpus(), cpu_paths()]
    checks += threads(os.environ, cores(), load, linux)
    checks += memory(free.available, free.total, shared)
    if os.name == "posix":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        checks.append(locked_memory(limit, torch.cuda.device_count()))
    return [*checks, disk(os.getcwd(), shutil.disk_usage(".").free), browser()]
