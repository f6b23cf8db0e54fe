"""papermill: notebooks executed headless, parameters checked first, one engine for `vidbench run` and for papermill."""

import ast
import errno
import json
import os
import re
import socket
import sys
from pathlib import Path

from click import ClickException

PLAIN = {"str", "int", "float", "bool", "list", "dict", "tuple", "NoneType"}
PAPERMILLS = ("PAPERMILL_INPUT_PATH", "PAPERMILL_OUTPUT_PATH")  # its options inject them unasked
AGAIN = "run the same again: it begins with the first cell, and the runs in it go on"


class ParameterError(ClickException, ValueError):
    """A parameter the notebook does not have, or of another type; the message lists the known ones."""

    exit_code = 2  # of papermill's command


class EndedError(ClickException, RuntimeError):
    """A cell's time was up, or the kernel died, and the executed copy is kept; or another process executes into it."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class Interrupted(SystemExit):
    """Ctrl-C or SIGTERM; the executed copy is kept. papermill's command would make 1 of KeyboardInterrupt."""


# ------------------------------------------------------------------------------------------------------- parameters


def known_parameters(notebook) -> dict:
    """Name to default of the cell tagged `parameters` of a notebook or the one at that path, plain literals all."""
    return {name: default for name, (default, _) in _declared(notebook).items()}


def check(notebook, values: dict) -> dict:
    """The values as the notebook (or the one at that path) wants them.

    Raises ParameterError at an unknown name, another type, or what papermill cannot write into a notebook. int goes for
    float, and a tuple as a list.
    """
    known = _declared(notebook) if values else {}
    return {name: _checked(_named(notebook), name, value, known) for name, value in values.items()}


def spoken(notebook, texts: dict[str, str]) -> dict:
    """Values of a command line or a csv: Python literals where the notebook wants them, else the text as it is."""
    values = {}
    known = known_parameters(notebook) if texts else {}
    for name, text in texts.items():
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        values[name] = text if isinstance(known.get(name), str) and not isinstance(value, str) else value
    return values


def digest_of(book, values: dict) -> str:
    """Names what a notebook would do with these values: status.digest, values that are the defaults being the
    same as none."""
    from vidbench.headless.status import digest

    try:
        defaults = known_parameters(book)
    except ParameterError:  # it takes none
        defaults = {}
    return digest(book.cells, defaults | values)


def settings(path: str | Path) -> dict:
    """The parameters in a YAML file: one map. Raises ParameterError where it is something else."""
    found = load_yaml(path)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ParameterError(f"{path}: wanted a map of parameter names to values; got {type(found).__name__}.")
    return found


def load_yaml(path: str | Path):
    """A YAML file's plain values; 1e-3 is a number and a date is text, which YAML 1.1 reads the other way round.

    Raises ParameterError where it is no YAML.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    kept = {first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
            for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()}  # fmt: skip
    Loader.yaml_implicit_resolvers = kept
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
                                 list("-+0123456789"))  # fmt: skip
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except yaml.YAMLError as error:
        raise ParameterError(f"{path} is no YAML: {error}") from None


def _declared(notebook) -> dict[str, tuple]:
    """Name -> default and the names of the types it may have, empty where anything goes."""
    import nbformat

    book, where = notebook, _named(notebook)
    if not isinstance(notebook, dict):
        book = nbformat.read(notebook, as_version=4)
    for cell in book.cells:
        if "parameters" in cell.metadata.get("tags", []):
            try:
                return dict(_assigned(node, where) for node in ast.parse(cell.source).body)
            except SyntaxError as error:
                raise ParameterError(f"{where}: its parameters cell is no Python: {error}") from None
    raise ParameterError(f"{where} has no cell tagged `parameters`, so it takes none.")


def _named(notebook) -> str:
    return "the notebook" if isinstance(notebook, dict) else Path(notebook).name


def _assigned(node, where: str) -> tuple[str, tuple]:
    """(name, (default, types)) of a line `name: type = literal` or `name = literal`."""
    try:
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        name, default = target.id, ast.literal_eval(node.value)
    except (AttributeError, ValueError, TypeError):
        raise ParameterError(f"{where}: its parameters cell wants lines `name: type = literal`; got"
                             f" {ast.unparse(node)!r}.") from None
    words = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else type(default).__name__
    types = {word.split("[")[0].strip().replace("None", "NoneType") for word in words.split("|")}
    if not types <= PLAIN:
        types = {type(default).__name__}
    return name, (default, types if types != {"NoneType"} else set())


def _checked(where: str, name: str, value, known: dict):
    if name not in known:
        listed = ", ".join(f"{n} = {default!r}" for n, (default, _) in known.items())
        raise ParameterError(f"{where} has no parameter {name!r}; the known ones are {listed}.")
    default, types = known[name]
    kind = type(value).__name__
    try:
        value = _plain(value)
    except TypeError as error:
        raise ParameterError(f"{where}: {name} wants what YAML can hold; got {value!r}: {error}.") from None
    if kind == "int" and "float" in types and "int" not in types:
        return float(value)
    if not types or kind in types or {kind, *types} == {"list", "tuple"}:
        return value
    wanted = " or ".join(sorted(types)).replace("NoneType", "None")
    raise ParameterError(f"{where}: {name} wants {wanted} such as {default!r}; got {value!r}, which is {kind}.")


def _plain(value):
    """As papermill can write it into a notebook: tuples, of which it would make text, as lists."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a map's keys are text")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{type(value).__name__} is none of its types")


# ---------------------------------------------------------------------------------------------------------- executing


def plan(notebooks: list, out: str | Path, files=(), texts=()) -> list[tuple[Path, dict]]:
    """(notebook, its parameters) of each, all checked before the first starts.

    files: YAML files of parameters, of which the last wins; texts: (name, value) pairs of a command line, which win
    over files. Each notebook must know all of them, or a slip would pass. Raises ParameterError.
    """
    import nbformat

    filed, planned = {}, []
    for file in files:
        filed |= settings(file)
    for notebook in map(Path, notebooks):
        nbformat.read(notebook, as_version=4)  # it is there, and a notebook
        planned.append((notebook, check(notebook, filed | spoken(notebook, dict(texts)))))
        if notebook.resolve().parent == Path(out).resolve():
            raise ParameterError(f"the executed copy would replace {notebook}; name another --out.")
        if [other.name for other, _ in planned].count(notebook.name) > 1:
            raise ParameterError(f"two notebooks are called {notebook.name}; their copies want two calls, two --out.")
    return planned


def execute_all(planned: list[tuple[Path, dict]], out: str | Path, timeout: int | None = None) -> int:
    """Execute what `plan` checked, in order, up to the first that does not complete; returns the exit code.

    Raises Interrupted, a SystemExit.
    """
    from papermill.exceptions import PapermillExecutionError

    for notebook, values in planned:
        try:
            print(f"{notebook} -> {execute(notebook, out, values, timeout)}", flush=True)
        except PapermillExecutionError as error:
            said, code = f"failed in cell {error.cell_index + 1}: {error.ename}: {error.evalue}", 1
        except EndedError as error:
            said, code = str(error), error.exit_code
        else:
            continue
        print(f"vidbench: {notebook}: {said}", file=sys.stderr)
        return code
    return 0


def execute(notebook: str | Path, out: str | Path, values: dict | None = None, timeout: int | None = None) -> Path:
    """Run a notebook with papermill and the engine below; returns the executed copy, in `out` however it ends.

    The kernel's working directory is the notebook's folder, as in JupyterLab; its streams are also printed, as lines.
    Where several nodes execute it (VIDBENCH_NNODES), the copy of each bears its name (VIDBENCH_NODE, or the host's).
    timeout: seconds for one cell. Raises ParameterError before anything starts, papermill's PapermillExecutionError at
    the first cell that fails, EndedError, Interrupted (a SystemExit).
    """
    import papermill
    from papermill.engines import papermill_engines

    values = check(notebook, values or {})
    notebook, copy = Path(notebook), Path(out) / _copy_name(Path(notebook))
    copy.parent.mkdir(parents=True, exist_ok=True)
    papermill_engines.register("vidbench", Engine)  # where the package is not installed anew since it has an engine
    paths = (str(path).replace("{", "{{").replace("}", "}}")  # papermill fills {parameters} into paths
             for path in (notebook.resolve(), copy.resolve()))  # fmt: skip
    papermill.execute_notebook(*paths, values, engine_name="vidbench", cwd=notebook.resolve().parent,
                               progress_bar=False, execution_timeout=timeout, echo=sys.stdout)
    return copy


def _copy_name(notebook: Path) -> str:
    if os.environ.get("VIDBENCH_NNODES", "1") in ("", "1"):
        return notebook.name
    return f"{notebook.stem}-{os.environ.get('VIDBENCH_NODE') or socket.gethostname()}{notebook.suffix}"


class Engine:
    """papermill's engine `vidbench`, by entry point: `papermill --engine vidbench IN OUT` does as `vidbench run` does.

    Not papermill's subclass, since papermill loads this module in the midst of its own import. Unknown and mistyped
    parameters are refused before the kernel starts. The kernel runs in the notebook's folder unless --cwd says
    otherwise.
    """

    @classmethod
    def nb_kernel_name(cls, nb, name=None) -> str:
        from papermill.utils import nb_kernel_name

        return nb_kernel_name(nb, name)

    @classmethod
    def nb_language(cls, nb, language=None) -> str:
        from papermill.utils import nb_language

        return nb_language(nb, language)

    @classmethod
    def execute_notebook(cls, nb, kernel_name, input_path=None, output_path=None, progress_bar=True, log_output=False,
                         autosave_cell_every=30, stdout_file=None, stderr_file=None, start_timeout=60,
                         execution_timeout=None, echo=None, **traits):  # fmt: skip
        """The executed notebook. Raises ParameterError, EndedError, Interrupted."""
        from vidbench.headless.kernel import run
        from vidbench.headless.status import EXIT, BusyError

        values = check(nb, _injected(nb))
        begun = _begun_in()
        _write_whole()
        copy = _copy(nb.metadata.papermill.get("output_path"), begun)
        source = begun / input_path if isinstance(input_path, str) and (begun / input_path).is_file() else None
        beside = source and Path.cwd() == begun
        facts = {"notebook": str(source), "digest": digest_of(nb, values), "parameters": values}
        watched = bool(progress_bar) and sys.stderr.isatty()
        manager = {"output_path": output_path and str(copy), "progress_bar": watched, "log_output": log_output,
                   "autosave_cell_every": autosave_cell_every}  # fmt: skip
        seconds = execution_timeout or traits.pop("timeout", None)
        client = {**traits, "kernel_name": kernel_name, "log_output": log_output, "stdout_file": stdout_file,
                  "stderr_file": stderr_file, "startup_timeout": start_timeout}  # fmt: skip
        kernel = {"cwd": str(source.parent if beside else Path.cwd())}
        try:
            state, cell, error = run(nb, copy, facts, kernel, manager, client, seconds, echo)
        except BusyError as busy:
            raise EndedError(str(busy), 2) from None
        except OSError as full:
            if full.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise EndedError(f"the disk of {copy.parent} is full: make room and {AGAIN}", EXIT["failed"]) from full
        if state == "interrupted":
            print(f"interrupted in cell {cell}; executed copy: {copy}; {AGAIN}", file=sys.stderr)
            raise Interrupted(EXIT[state])
        if state in ("timed out", "kernel died"):
            raise EndedError(f"{state} in cell {cell}: {error}; executed copy: {copy}; {AGAIN}", EXIT[state])
        return nb  # papermill raises where a cell failed


def _injected(nb) -> dict:
    """The parameters that papermill put in, or that an executed copy which is executed again brought along."""
    from vidbench.headless.status import INJECTED

    given = json.loads(json.dumps(nb.metadata.papermill.get("parameters") or {}))  # plain dicts again
    cell = next((cell for cell in nb.cells if INJECTED in cell.metadata.get("tags", [])), None)
    if cell is not None and not given:
        given = {name: default for name, (default, _) in
                 (_assigned(node, "the cell of injected parameters") for node in ast.parse(cell.source).body)}
    return {name: value for name, value in given.items() if name not in PAPERMILLS}


def _begun_in() -> Path:
    """The folder that papermill was called in: by now it is in that of --cwd."""
    from papermill.iorw import papermill_io

    return Path(papermill_io.get_handler("local")._cwd or os.getcwd())


def _write_whole() -> None:
    """Have papermill write whole or not at all, too: once the engine is done it writes the copy anew, in place."""
    from papermill.iorw import papermill_io

    from vidbench.headless.status import write_text

    local = papermill_io.get_handler("local")
    local.write = lambda text, path: write_text(Path(local._cwd or "") / path, text)


def _copy(path: str | None, begun: Path) -> Path:
    if not path or path == "-" or "://" in path:
        raise ParameterError(f"the engine vidbench writes its status beside the executed copy; wanted a path for that,"
                             f" got {path!r}.")  # fmt: skip
    copy = begun / path
    if not copy.parent.is_dir():
        raise ParameterError(f"the folder of the executed copy is not there: {copy.parent}; make it first.")
    return copy
