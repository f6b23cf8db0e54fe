"""papermill: notebooks executed headless, one engine for `vidbench run` and for papermill."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click import ClickException

from vidbench.headless.kernels import THIS, Kernel
from vidbench.headless.parameters import (
    PAPERMILLS,
    check,
    digest_of,
    injected,
    look_at_data,
)
from vidbench.headless.paths import absolute
from vidbench.headless.status import EXIT, INJECTED, copy_name
from vidbench.headless.values import ParameterError
from vidbench.system.files import BusyError, DiskError, explain_full_disk, write_text
from vidbench.system.progress import style

if TYPE_CHECKING:
    from nbformat import NotebookNode

FROM = "it begins with the first cell, and each run in it resumes"
AGAIN = f"run the same again: {FROM}"


class EndedError(ClickException, RuntimeError):
    """A notebook that did not end by itself.

    A cell's time was up or the kernel died, and the executed copy is kept; or the disk is full; or
    another process executes into the copy."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        vars(self)["exit_code"] = exit_code  # click declares it for the class


def execute_all(
    planned: list[tuple[Path, dict]],
    out: str | Path,
    timeout: int | None = None,
    kernel: Kernel = THIS,
) -> int:
    """Execute what `parameters.plan` checked, in order; stop at the first failure.

    Args:
        planned: Notebooks with their parameters.
        out: The folder of the executed copies.
        timeout: Seconds for one cell; None or 0: no limit.
        kernel: An installed one (kernels.named); default: the interpreter that runs this.

    Returns:
        The exit code: 0 if all are complete, else that of the failure.

    Raises:
        SystemExit: Ctrl-C or SIGTERM stopped a notebook.
    """
    from papermill.exceptions import PapermillExecutionError

    for notebook, values in planned:
        try:
            print(f"{notebook} -> {execute(notebook, out, values, timeout, kernel)}", flush=True)
        except PapermillExecutionError as error:
            said, code = f"failed in cell {error.cell_index + 1}: {error.ename}: {error.evalue}", 1
        except EndedError as error:
            said, code = str(error), error.exit_code
        except OSError as error:  # such as a folder that cannot be written
            said, code = f"{type(error).__name__}: {error}", EXIT["failed"]
        else:
            continue
        print(f"vidbench: {notebook}: {said}", file=sys.stderr)
        return code
    return 0


def execute(
    notebook: str | Path,
    out: str | Path,
    values: dict | None = None,
    timeout: int | None = None,
    kernel: Kernel = THIS,
) -> Path:
    """Run a notebook with papermill and the engine below; return the executed copy.

    The copy is in `out` however it ends. The kernel's working directory is the notebook's folder,
    as in JupyterLab; its streams are also printed, as lines. If several nodes execute it
    (VIDBENCH_NNODES), the name of each copy ends in the node's name (VIDBENCH_NODE, or the host's).

    Args:
        out: The folder of the executed copies.
        values: Parameters.
        timeout: Seconds for one cell; None or 0: no limit.
        kernel: An installed one (kernels.named); default: the interpreter that runs this.

    Raises:
        ParameterError: a parameter does not fit; no cell has run.
        PapermillExecutionError: papermill's, a cell failed; no later one has run.
        EndedError: the kernel died, a cell reached its time limit, the disk is full, or another
            process executes into the copy.
        SystemExit: Ctrl-C or SIGTERM stopped it.
    """
    import papermill
    from papermill.engines import papermill_engines

    values = check(notebook, values or {})
    notebook, copy = Path(notebook), Path(out) / copy_name(Path(notebook))
    copy.parent.mkdir(parents=True, exist_ok=True)
    # where the package is not installed again since it has an engine
    papermill_engines.register("vidbench", Engine)
    paths = (
        str(path).replace("{", "{{").replace("}", "}}")  # papermill fills {parameters} into paths
        for path in (notebook.resolve(), copy.resolve())
    )
    papermill.execute_notebook(
        *paths,
        values,
        engine_name="vidbench",
        cwd=notebook.resolve().parent,
        progress_bar=False,
        execution_timeout=timeout,
        echo=sys.stdout,
        data_checked=True,
        kernel_name=kernel.name,
        language=kernel.language,
        own_interpreter=kernel.own,
    )
    return copy


class Engine:
    """papermill's engine `vidbench`: `papermill --engine vidbench IN OUT` does as `vidbench run`.

    papermill finds it by an entry point. It is no subclass of papermill's, since papermill loads this
    module during its own import. Unknown and mistyped parameters are refused before the kernel
    starts, and `data` that is no data set. Paths are relative to the folder that papermill was
    called in. The kernel runs in the notebook's folder unless --cwd says otherwise."""

    @classmethod
    def nb_kernel_name(cls, nb: "NotebookNode", name: str | None = None) -> str:
        """Return the kernel's name, as papermill does.

        Args:
            nb: The notebook.
            name: Overrides the notebook's.
        """
        from papermill.utils import nb_kernel_name

        return nb_kernel_name(nb, name)

    @classmethod
    def nb_language(cls, nb: "NotebookNode", language: str | None = None) -> str:
        """Return the notebook's language, as papermill does.

        Args:
            nb: The notebook.
            language: Overrides the notebook's.
        """
        from papermill.utils import nb_language

        return nb_language(nb, language)

    @classmethod
    def execute_notebook(
        cls,
        nb: "NotebookNode",
        kernel_name: str,
        input_path: object = None,
        output_path: str | None = None,
        **options: Any,
    ) -> "NotebookNode":
        """Execute a notebook that papermill prepared.

        Args:
            nb: The notebook with papermill's cell of parameters.
            kernel_name: The kernel in which it runs.
            input_path: The notebook's file; its folder is the kernel's unless --cwd names another.
            output_path: The executed copy's file.
            **options: Papermill's, such as progress_bar.

        Returns:
            The executed notebook, which papermill writes.

        Raises:
            ParameterError: a parameter does not fit, or there is no path for the copy.
            EndedError: the kernel died, a cell reached its time limit, the disk is full, or another
                process executes into the copy.
            SystemExit: Ctrl-C or SIGTERM stopped it.
        """
        from vidbench.headless.kernel import OwnInterpreter, run, slim

        begun = _begun_in()
        values = check(nb, absolute(injected(nb), begun))
        _inject(nb, values, kernel_name)
        _write_whole()
        copy = _copy(nb.metadata.papermill.get("output_path"), begun)
        source = None
        if isinstance(input_path, str) and (begun / input_path).is_file():
            source = begun / input_path
        if not options.pop("data_checked", False):
            look_at_data(nb, values, source or Path("notebook.ipynb"))
        facts = {"notebook": str(source), "digest": digest_of(nb, values), "parameters": values}
        cwd = source.parent if source and Path.cwd() == begun else Path.cwd()
        manager = _manager(options, output_path and str(copy))
        echo, seconds = options.pop("echo", None), options.pop("execution_timeout", None)
        seconds = seconds or options.pop("timeout", None)
        options["startup_timeout"] = options.pop("start_timeout", 60)
        if options.pop("own_interpreter", False):
            options["kernel_manager_class"] = OwnInterpreter
        client = {**options, "kernel_name": kernel_name}
        try:
            with explain_full_disk(copy.parent):
                state, cell, error = run(
                    nb, copy, facts, {"cwd": str(cwd)}, manager, client, seconds, echo
                )
        except BusyError as busy:
            raise EndedError(str(busy), 2) from None
        except DiskError as full:
            raise EndedError(f"{full.strerror}: {FROM}", EXIT["failed"]) from full
        _raise_unless_ended_well(state, f"in cell {cell}", error, copy)
        return slim(nb)  # papermill writes it, and raises if a cell failed


def _inject(nb: "NotebookNode", values: dict[str, Any], kernel_name: str) -> None:
    """Write values whose paths are absolute where papermill put them as they were given."""
    from papermill.parameterize import translate_parameters

    if values == injected(nb):
        return
    given = nb.metadata.papermill.get("parameters") or {}
    values = {name: given[name] for name in PAPERMILLS if name in given} | values
    cell = next(cell for cell in nb.cells if INJECTED in cell.metadata.get("tags", []))
    language = nb.metadata.get("kernelspec", {}).get("language", "python")
    cell.source = translate_parameters(kernel_name, language, values, "Parameters")
    nb.metadata.papermill["parameters"] = values


def _manager(options: dict[str, Any], output_path: str | None) -> dict[str, Any]:
    """Take the options of papermill's manager out of those of its engine."""
    watched = bool(options.pop("progress_bar", True)) and style() == "bar"
    return {
        "output_path": output_path,
        "progress_bar": watched,
        "log_output": options.get("log_output", False),
        "autosave_cell_every": options.pop("autosave_cell_every", 30),
    }


def _raise_unless_ended_well(state: str, where: str, error: str | None, copy: Path) -> None:
    if state == "interrupted":
        print(f"interrupted {where}; executed copy: {copy}; {AGAIN}", file=sys.stderr)
        raise SystemExit(EXIT[state])  # papermill's command makes exit code 1 of an Interrupted
    if state in ("timed out", "kernel died"):
        raise EndedError(f"{state} {where}: {error}; executed copy: {copy}; {AGAIN}", EXIT[state])


def _begun_in() -> Path:
    """The folder that papermill was called in: by now it is in that of --cwd."""
    from papermill.iorw import papermill_io

    return Path(papermill_io.get_handler("local")._cwd or os.getcwd())


def _write_whole() -> None:
    """Let papermill, too, write whole or not at all: after the engine it writes the copy again."""
    from papermill.iorw import papermill_io

    local = papermill_io.get_handler("local")
    local.write = lambda text, path: write_text(Path(local._cwd or "") / path, text)


def _copy(path: str | None, begun: Path) -> Path:
    if not path or path == "-" or "://" in path:
        raise ParameterError(
            "the engine vidbench writes its status next to the executed copy; wanted a path for "
            f"that, got {path!r}."
        )
    copy = begun / path
    if not copy.parent.is_dir():
        raise ParameterError(
            f"the folder of the executed copy is not there: {copy.parent}; make it first."
        )
    return copy
