"""The pages of the site, taken from where they are in the repository, so that relative links hold.

mkdocs calls these functions. They add README.md, the pages of assets/docs, the other README files,
the notebooks, one page of docstrings for each room of vidbench, and every file that a page links to.
A notebook is shown with its code and text. If the environment's EXECUTED names a folder of executed
copies, as `vidbench run --out` leaves it, the page links to the copy with its outputs."""

import os
import re
import subprocess
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url
from nbconvert import HTMLExporter, MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
ROOMS = sorted(p.name for p in (ROOT / "vidbench").iterdir() if (p / "__init__.py").is_file())


SEARCH = "mkdocs_search.js"
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the entries of notebooks and code."""
    code = [{"Front door": "api/vidbench.md"}, *({room: f"api/{room}.md"} for room in ROOMS)]
    for entry in config.nav:
        if "Notebooks" in entry:
            pages = [{name: f"notebooks/{name}.md"} for name in NOTEBOOKS]
            entry["Notebooks"] = ["notebooks/README.md", *pages]
        if "Code" in entry:
            entry["Code"] = ["vidbench/README.md", *code]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of docs_dir by all pages and by the files they link to; the theme's stay."""
    found = Files([file for file in files if file.src_dir != config.docs_dir])

    def add(name: str, **source: str) -> None:
        found.append(File.generated(config, name, **source))

    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    pages = {name for name in tracked if name.endswith(".md")}
    linked = {target for name in pages for target in _links(name)} & set(tracked)
    for name in sorted(pages | linked):
        add(name, abs_src_path=str(ROOT / name))
    for name in NOTEBOOKS:
        text, copy = _notebook(name), Path(os.environ.get("EXECUTED", ""), f"{name}.ipynb")
        if "EXECUTED" in os.environ and copy.is_file():
            add(
                f"notebooks/{name}.executed.html",
                content=HTMLExporter().from_filename(str(copy))[0],
            )
            text = text.replace("\n", f"\n\n[With outputs]({name}.executed.html)\n", 1)
        add(f"notebooks/{name}.md", content=text)
    for room in ROOMS:
        modules = [name for name in tracked if name.startswith(f"vidbench/{room}/")]
        add(f"api/{room}.md", content=_docstrings(room, modules))
    add(SEARCH, abs_src_path=str(ROOT / "assets" / SEARCH))
    add("api/vidbench.md", content=_docstrings("vidbench", ["vidbench/__init__.py"]))
    return found


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Link to the pages of notebooks, not to their files."""
    return re.sub(r"\]\(([^)\s]*\d\d_\w+)\.ipynb\)", r"](\1.md)", markdown)


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Take the script of the search from the site, not from the network."""
    return output.replace(
        "https://unpkg.com/iframe-worker/shim", get_relative_url(SEARCH, page.url)
    )


def _notebook(name: str) -> str:
    return MarkdownExporter().from_filename(str(ROOT / "notebooks" / f"{name}.ipynb"))[0].lstrip()


def _links(page: str) -> set[str]:
    """Files that a page links to, from the repository's root."""
    targets = re.findall(r"\]\(([^)\s#]+)", (ROOT / page).read_text())
    return {os.path.normpath(Path(page).parent / target) for target in targets}


def _docstrings(title: str, files: list[str]) -> str:
    """A page that shows the docstrings of Python files."""
    modules = [
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in files
        if name.endswith(".py")
    ]
    return "\n\n".join([f"# {title}", *(f"::: {module}" for module in modules)])
