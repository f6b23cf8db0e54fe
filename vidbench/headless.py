"""papermill: notebooks executed headless, with parameters that are checked before anything starts."""

import ast
import os
from pathlib import Path


class ParameterError(ValueError):
    """A parameter the notebook does not have, or of another type; the message lists the known ones."""


def known_parameters(notebook: str | Path) -> dict:
    """Name to default of the cell tagged `parameters`, whose right sides are plain literals."""
    import nbformat

    for cell in nbformat.read(notebook, as_version=4).cells:
        if "parameters" in cell.metadata.get("tags", []):
            nodes = [node for node in ast.parse(cell.source).body if isinstance(node, ast.AnnAssign)]
            return {node.target.id: ast.literal_eval(node.value) for node in nodes}
    raise ParameterError(f"{notebook} has no cell tagged `parameters`.")


def check(notebook: str | Path, values: dict) -> dict:
    """The values as the notebook wants them. Raises ParameterError at an unknown name or another type."""
    known = known_parameters(notebook)
    checked = {}
    for name, value in values.items():
        if name not in known:
            listed = ", ".join(f"{n} = {v!r}" for n, v in known.items())
            raise ParameterError(f"{Path(notebook).name} has no parameter {name!r}; the known ones are {listed}.")
        wanted = type(known[name])
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise ParameterError(f"{Path(notebook).name}: {name} wants {wanted.__name__} such as {known[name]!r}; "
                                 f"got {value!r}.")
        checked[name] = value
    return checked


def execute(notebook: str | Path, out: str | Path, values: dict | None = None) -> Path:
    """Run a notebook with papermill and keep the executed copy below `out`, also where a cell fails.

    The kernel's working directory is the notebook's folder, as in JupyterLab. Raises ParameterError before anything
    starts, papermill's PapermillExecutionError at the first cell that fails.
    """
    import papermill

    values = check(notebook, values or {})
    notebook, out = Path(notebook), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    # Rank lines instead of bars, and figures that survive the conversion to HTML.
    os.environ.setdefault("VIDBENCH_PROGRESS", "lines")
    os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype+notebook")
    papermill.execute_notebook(notebook, out / notebook.name, values, cwd=notebook.parent, progress_bar=False,
                               log_output=True, store_widget_state=False)
    return out / notebook.name
