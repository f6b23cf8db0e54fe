"""`vidbench notebooks ls, copy` and `vidbench lab`."""

import json

import pytest

from tests import ROOT
from vidbench.__main__ import main
from vidbench.api.notebooks import lab_command


def test_ls_names_every_notebook_with_its_title(capsys):
    assert main(["notebooks", "ls", "--json"]) == 0
    titles = json.loads(capsys.readouterr().out)
    assert list(titles) == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert all(title.startswith(f"{name[:2]} · ") for name, title in titles.items())


def test_copy_keeps_what_was_changed(tmp_path, capsys):
    work = tmp_path / "work"
    assert main(["notebooks", "copy", str(work)]) == 0
    tour = work / "notebooks" / "00_tour.ipynb"
    assert tour.read_bytes() == (ROOT / "notebooks" / "00_tour.ipynb").read_bytes()
    assert (work / "assets" / "published.csv").is_file()
    tour.write_text("mine")
    (work / "notebooks" / "01_manifests.ipynb").unlink()
    capsys.readouterr()
    assert main(["notebooks", "copy", str(work), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"copied": [str(work / "notebooks" / "01_manifests.ipynb")], "kept": [str(tour)]}
    assert tour.read_text() == "mine"


def test_a_file_or_a_folder_without_notebooks_is_refused(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    for words, says in (
        (["notebooks", "copy", str(file)], "is a file. Name a folder."),
        (["lab", str(tmp_path)], f"Run `vidbench notebooks copy {tmp_path}` first."),
    ):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2 and says in capsys.readouterr().err


def test_lab_listens_on_this_machine_only():
    command = lab_command(ROOT, browser=False)
    assert "--ServerApp.ip=127.0.0.1" in command and "--no-browser" in command
