"""Execute one notebook: its kernel, its output as lines, its HTML, what remains if it stops."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from itertools import takewhile
from pathlib import Path
from typing import Any, TextIO

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbclient.util import ensure_async, run_sync
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NotebookExecutionManager
from papermill.exceptions import strip_color
from papermill.log import logger

from vidbench.headless.bars import Bars
from vidbench.headless.status import BATCH, Status
from vidbench.headless.streams import Lines, Streams
from vidbench.system.files import write_text
from vidbench.system.signals import PAUSE, deferred

# seconds from a stop to the kernel's end, for a checkpoint; Slurm's default KillWait is 30
GRACE = 25.0
# The kernel's own, where the caller's environment does not say otherwise: lines instead of bars,
# pages instead of controls, and figures that survive the conversion to HTML.
ENVIRONMENT = {
    "VIDBENCH_PROGRESS": "lines",
    "VIDBENCH_HEADLESS": "1",
    "PLOTLY_RENDERER": "plotly_mimetype+notebook",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
# Of the client, unless a caller passes others; nbclient's own merging of streams moves outputs
# that cells update.
FIXED = {"log": logger, "store_widget_state": False, "coalesce_streams": False, "iopub_timeout": 60}
# JupyterLab's page without the scripts that it fetches from elsewhere; formulas stay as text
OFFLINE = "{% extends 'index.html.j2' %}" + "".join(
    f"{{%- block {name} -%}}{{%- endblock -%}}"
    for name in (
        "html_head_js_requirejs",
        "html_head_js_mathjax",
        "html_head_js_mermaidjs",
        "jupyter_widgets",
    )
)
FIGURE = "application/vnd.plotly.v1+json"
# of the output by which plotly brings its script into a page, and within how many letters
PLOTLY_LIBRARY, LIBRARY_HEAD = "plotly.js v", 5000
TRAIN_ONLY = "VIDBENCH_TRAIN_ONLY"  # on all nodes but one, which draws and evaluates
CLEAN_EXITS = (("SystemExit", ""), ("SystemExit", "0"))


def last_training_cell(nb: nbformat.NotebookNode) -> int:
    """Return the index of the last cell tagged `train`; without one, that of the last cell."""
    tagged = [n for n, cell in enumerate(nb.cells) if "train" in cell.metadata.get("tags", [])]
    return max(tagged, default=len(nb.cells) - 1)


class Stopped(Exception):
    """A stop was requested: no further cell starts."""


def run(
    nb: nbformat.NotebookNode,
    copy: Path,
    facts: dict,
    kernel: dict,
    manager: dict,
    client: dict,
    cell_seconds: int | None = None,
    echo: TextIO | None = None,
) -> tuple[str, int, str | None]:
    """Execute a notebook that papermill prepared.

    However it ends, it writes the copy and, next to it:

    - STEM.html, STEM.status.json, and STEM.log with the streams as lines
    - STEM.kernel.log, if the kernel died: what it wrote outside its streams
    - STEM.ranks, if the notebook launched processes: their streams

    Ctrl-C and SIGTERM interrupt the cell, which has GRACE seconds to save what it does; a second
    one ends it at once.

    Args:
        nb: The notebook.
        copy: Path of the executed copy.
        facts: Further fields of the status: notebook, digest, parameters.
        kernel, manager, client: Arguments of the kernel's start, such as cwd, and of papermill's
            classes.
        cell_seconds: Time limit of a cell; None or 0: no limit.
        echo: A file that receives the log's lines, too.

    Returns:
        How it ended (a key of status.EXIT), the number of the cell from 1, and why; None if
        complete.

    Raises:
        BusyError: another process executes into the copy.
        BaseException: any other error, such as a kernel that does not start, after all is written.
    """
    if os.environ.get(TRAIN_ONLY) == "1":
        nb.cells = nb.cells[: last_training_cell(nb) + 1]
    with closing(Status(copy, cells=len(nb.cells), **facts)) as status, _log(copy) as log:
        lines = Lines([log, echo] if echo else [log])
        runner = Client(Manager(nb, **manager), **client | FIXED)
        runner.lines, runner.status, runner.cell_seconds = lines, status, cell_seconds
        runner.bars, runner.streams = Bars(), Streams()
        runner.nb_man.settle = runner.streams.settle
        runner.nb_man.notebook_start()
        with deferred(lambda names: runner.ask("interrupted", names[-1])):
            try:
                state, error = _execute(runner, copy, kernel, _named(facts))
            except BaseException as trouble:  # such as a kernel that is not there
                state, error = "failed", f"{type(trouble).__name__}: {trouble}"
                raise
            finally:
                _conclude(runner, copy, state, error)
    return state, runner.at + 1, error


def _conclude(client: "Client", copy: Path, state: str, error: str | None) -> None:
    """Write the copy, the status and the page; a copy that fails (disk full) is in the status."""
    try:
        client.nb_man.end(copy)
    except OSError as trouble:
        state, error = "failed", f"{type(trouble).__name__}: {trouble}"
        raise
    finally:
        client.status.end(state, error)
        client.lines.say(f"[{state}{f' in cell {client.at + 1}: {error}' if error else ''}]")
        client.status.write(html=_html(client.nb, copy.with_suffix(".html")))


def _named(facts: dict) -> str:
    """The notebook and its parameters, for the environment.json of its runs."""
    return json.dumps({name: facts.get(name) for name in ("notebook", "parameters")})


def _execute(client: "Client", copy: Path, kernel: dict, named: str) -> tuple[str, str | None]:
    """How it ended and why."""
    raw, own = (
        copy.with_suffix(".kernel.log"),
        {
            "VIDBENCH_RANK_LOGS": str(copy.with_suffix(".ranks")),
            "VIDBENCH_NOTEBOOK": named,
            BATCH: "",  # what a notebook starts is no row of a batch
        },
    )
    try:
        with raw.open("w") as past:
            client.execute(env=ENVIRONMENT | os.environ | own, stdout=past, stderr=past, **kernel)
    except (Stopped, RuntimeError) as ended:
        # nbclient's and its client's
        if not isinstance(ended, Stopped) and not str(ended).startswith("Kernel died"):
            raise
        client.nb_man.cell_exception(client.nb.cells[client.at])
        if not client.reason:
            return "kernel died", client.why or f"it never was ready; see {raw.name}"
    finally:
        if client.km is not None and client.km.has_kernel:  # it never was ready
            client._cleanup_kernel()
        if not raw.stat().st_size:
            raw.unlink()
    raw.unlink(missing_ok=True)  # the streams have it all
    if client.reason:
        return client.reason, client.why
    for index, cell in enumerate(client.nb.cells):  # papermill will raise the same
        for output in cell.get("outputs", []):
            if output.output_type == "error" and (output.ename, output.evalue) not in CLEAN_EXITS:
                client.at = index
                client.status.write(cell=index + 1)
                client.lines.say(strip_color("\n".join(output.traceback)))
                return "failed", f"{output.ename}: {output.evalue}"
    return "complete", None


class Client(PapermillNotebookClient):
    """papermill's client, which merges streams, writes them as lines, and can be stopped.

    To be set before it executes: lines, status, cell_seconds, bars, streams.
    """

    reason, why, since = "", "", 0.0  # why it stops: a state, in words, since when
    at = 0  # the cell that runs, or ran last
    loop: asyncio.AbstractEventLoop | None = None  # while a cell runs
    timers: list[asyncio.TimerHandle]
    lines: "Lines"
    status: Status
    cell_seconds: int | None
    bars: Bars
    streams: Streams

    def ask(self, reason: str, why: str) -> None:
        """Interrupt the cell and begin no other.

        The kernel ends after GRACE seconds, or at a second request more than PAUSE seconds later.

        Args:
            reason: How the run ends, a key of status.EXIT.
            why: What the status gives as error.
        """
        now = time.monotonic()
        if not self.reason:
            self.reason, self.why, self.since = reason, why, now
            self._soon(self._interrupt)
        elif now - self.since > PAUSE:
            self._soon(self._abandon)

    def _soon(self, call) -> None:
        if self.loop:
            self.loop.call_soon_threadsafe(call)

    def _interrupt(self) -> None:
        if self.loop:
            self.interrupting = asyncio.ensure_future(ensure_async(self.km.interrupt_kernel()))
            self.timers.append(self.loop.call_later(GRACE, self._abandon))

    def _abandon(self) -> None:
        self.shutdown_kernel = "immediate"
        if self.task_poll_for_reply:
            self.task_poll_for_reply.cancel()  # nbclient takes it for a dead kernel

    async def async_execute_cell(
        self, cell: nbformat.NotebookNode, cell_index: int, **options: Any
    ) -> nbformat.NotebookNode:
        """Execute a cell; interrupt it when its time is up.

        Raises:
            Stopped: a stop was requested, before the cell or during it.
        """
        if self.reason:
            raise Stopped
        self.at, self.loop, self.timers = cell_index, asyncio.get_running_loop(), []
        if cell.cell_type == "code":
            self.status.write(cell=cell_index + 1)
            self.lines.say(f"[cell {cell_index + 1} of {len(self.nb.cells)}]")
        if self.cell_seconds:
            up = ("timed out", f"its {self.cell_seconds} seconds were up")
            self.timers.append(self.loop.call_later(self.cell_seconds, self.ask, *up))
        try:
            return await super().async_execute_cell(cell, cell_index, **options)
        finally:
            for timer in self.timers:
                timer.cancel()
            self.loop = None
            self.lines.flush()
            self.streams.close()
            if self.reason:
                raise Stopped

    execute_cell = run_sync(async_execute_cell)

    async def _async_check_alive(self) -> None:
        try:
            await super()._async_check_alive()
        except DeadKernelError:
            process = getattr(self.km.provisioner, "process", None)
            code = process.poll() if process else None
            ended = (
                f"died of {signal.Signals(-code).name}"
                if code and code < 0
                else f"ended with exit code {code}"
            )
            self.why = self.why or f"the kernel {ended}{'; out of memory?' if code == -9 else ''}"
            raise

    def on_comm_open_jupyter_widget(self, msg: dict) -> None:
        """Open no widget: what goes into an Output widget is shown as the cell's own output."""

    def handle_comm_msg(self, outs: list, msg: dict, cell_index: int) -> None:
        """Follow a widget; a progress bar becomes a line that redraws itself.

        Args:
            outs, msg, cell_index: nbclient's arguments.
        """
        super().handle_comm_msg(outs, msg, cell_index)
        changed = self.bars.take(msg)
        if changed:
            self.lines.redraw(*changed)

    def output(
        self, outs: list, msg: dict, display_id: str, cell_index: int
    ) -> nbformat.NotebookNode | None:
        """Merge an output: a stream continues the one of its name if no other output came between.

        Args:
            outs, msg, display_id, cell_index: nbclient's arguments.
        """
        out = super().output(outs, msg, display_id, cell_index)
        if out is None or out.output_type != "stream":
            self.bars.show(out or {})
            return out
        self.lines.write(out.name, out.text)
        outs.pop()
        streams = takewhile(lambda output: output.output_type == "stream", reversed(outs))
        same = next((output for output in streams if output.name == out.name), None)
        if same is None:
            same = nbformat.from_dict({**out, "text": ""})
            outs.append(same)
        self.streams.add(same, out.text)
        return out  # unchanged, for papermill's own log


class OwnInterpreter(AsyncKernelManager):
    """A kernel of the interpreter that runs this, whatever its name means elsewhere."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3 (ipykernel)", language="python")


class Manager(NotebookExecutionManager):
    """papermill's manager; it saves whole or not at all, and calls no cell complete that never ran."""

    nb: nbformat.NotebookNode
    output_path: str | None
    settle: Callable[[], None]  # gives outputs that grow their text

    def save(self, **changes: Any) -> None:
        """Write the executed copy, if papermill wants it written before the end.

        Args:
            **changes: Papermill's; `nb` is the notebook to write from now on.
        """
        self.settle()
        self.nb = changes.get("nb") or self.nb
        if self.output_path:
            write_text(Path(self.output_path), nbformat.writes(slim(self.nb)))
        self.last_save_time = self.now()

    def end(self, copy: Path) -> None:
        """Save for the last time."""
        noted = self.nb.metadata.papermill
        noted["end_time"], noted["duration"] = (
            self.now().isoformat(),
            (self.now() - self.start_time).total_seconds(),
        )
        self.cleanup_pbar()
        self.output_path = str(copy)
        self.save()


def slim(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the notebook with each figure once, as JSON, which JupyterLab draws.

    Plotly's 5 MB of script and the figures' HTML are for the page alone.
    """

    def kept(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
        data = output.get("data", {})
        if PLOTLY_LIBRARY in data.get("text/html", "")[:LIBRARY_HEAD]:
            return None
        if FIGURE not in data:
            return output
        data = {kind: value for kind, value in data.items() if kind != "text/html"}
        return nbformat.NotebookNode({**output, "data": data})

    cells = []
    for cell in nb.cells:
        if cell.cell_type == "code":
            outputs = [one for one in map(kept, cell.outputs) if one is not None]
            cell = nbformat.NotebookNode({**cell, "outputs": outputs})
        cells.append(cell)
    return nbformat.NotebookNode({**nb, "cells": cells})


def _log(copy: Path):
    return copy.with_suffix(".log").open("w", encoding="utf-8", errors="backslashreplace")


def _html(nb, path: Path) -> str:
    """Write the page; return its name or its error, since a failed page makes no run fail."""
    from nbconvert import HTMLExporter

    try:
        page, _ = HTMLExporter(raw_template=OFFLINE).from_notebook_node(
            nb, {"metadata": {"name": path.stem}}
        )
        # plotly loads MathJax
        write_text(path, re.sub(r'<script[^>]+src="https?:[^>]*></script>', "", page))
    except Exception as error:
        logger.warning(f"no {path.name}: {type(error).__name__}: {error}")
        return f"{type(error).__name__}: {error}"
    return path.name
