"""What a csv may say: names, paths and cells that are refused or made equal at the door."""

import warnings

import pytest

from vidbench.data.manifest import Manifest

HEAD = "path,label,split\n"


def load(folder, text: str | bytes, classes: str = "") -> Manifest:
    data = text.encode() if isinstance(text, str) else text
    (folder / "manifest.csv").write_bytes(data)
    if classes:
        (folder / "classes.txt").write_text(classes)
    return Manifest.load(folder)


def test_a_label_with_a_trailing_blank_is_no_second_class(tmp_path):
    with pytest.warns(UserWarning, match=r"'run' \(.*line 3\) and 'run ' \(.*line 2\) are one"):
        manifest = load(tmp_path, HEAD + "a.mp4,run ,train\nb.mp4,run,test\n")
    assert manifest.classes == ("run",)
    manifest.save(tmp_path / "saved")
    assert Manifest.load(tmp_path / "saved").label.tolist() == [0, 0]


@pytest.mark.parametrize("odd", ["\u200b", "\ufeff", "\u200f", "\u2060", "\u00a0\u200b "])
def test_a_label_with_an_invisible_end_is_no_second_class(tmp_path, odd):
    with pytest.warns(UserWarning, match="are one class, 'run'"):
        manifest = load(tmp_path, HEAD + f"a.mp4,run{odd},train\nb.mp4,run,test\nc.mp4,{odd}run,\n")
    assert manifest.classes == ("run",)


def test_labels_with_accents_written_in_two_ways_are_one_class(tmp_path):
    with pytest.warns(UserWarning, match="are one class"):
        manifest = load(tmp_path, HEAD + "a.mp4,caf\u00e9,train\nb.mp4,cafe\u0301,test\n")
    assert manifest.classes == ("caf\u00e9",)


def test_one_spelling_with_blanks_needs_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manifest = load(tmp_path, "path, label, split\na.mp4, run, train\nb.mp4, run, test\n")
    assert manifest.classes == ("run",) and manifest.split.tolist() == [0, 2]


@pytest.mark.parametrize(
    "odd", ["\n", "\r", "\u2028", "\u2029", "\u0085", "\v", "\f", "\0", "\x1b"]
)
def test_a_name_of_more_than_one_line_is_refused_with_its_row(odd):
    first = ("x.mp4", "run", "train", None)
    with pytest.raises(ValueError, match="row 1: label 'be.*contains the character"):
        Manifest.from_rows("/v", [first, ("a.mp4", f"be{odd}fore", "train", None)])
    if odd < " ":
        with pytest.raises(ValueError, match="row 1: path 'be.*contains the character"):
            Manifest.from_rows("/v", [first, (f"be{odd}fore", "run", "train", None)])
    with pytest.raises(ValueError, match="the class list: class"):
        Manifest.from_rows("/v", [], [f"be{odd}fore"])


@pytest.mark.parametrize("word", ["nan", "None", "NULL", "<NA>", "N/A", "#N/A", "NaT"])
def test_words_for_a_missing_label_are_no_class(tmp_path, word):
    with pytest.raises(ValueError, match=f"manifest.csv, line 3: label '{word}' is how other"):
        load(tmp_path, HEAD + f"a.mp4,run,train\nb.mp4,{word},train\nc.mp4,,train\n")
    with pytest.raises(ValueError, match=f"line 2: source_video '{word}'"):
        load(tmp_path, f"path,source_video\na.mp4,{word}\nb.mp4,{word}\n")
    manifest = load(tmp_path, HEAD + f"a.mp4,{word},train\n", classes=f"{word}\nrun\n")
    assert manifest.names(0)["label"] == word  # the class list says that it is one


@pytest.mark.parametrize(
    "lines, number",
    [
        ('a.mp4,train,run\nb.mp4,train,"walk\nc.mp4,test,run\nd.mp4,test,run\n', 3),
        ('a.mp4,train,"run\nb.mp4,train,walk"\nc.mp4,test,run\n', 2),
        ('a.mp4,train,run\nb.mp4,train,"walk', 3),
        ("a.mp4,train,ru\0n\n", 2),
    ],
)
def test_an_open_quote_swallows_no_rows(tmp_path, lines, number):
    with pytest.raises(ValueError, match=f"manifest.csv, line {number}: "):
        load(tmp_path, "path,split,label\n" + lines)


def test_a_csv_may_begin_with_a_bom_and_must_be_utf8(tmp_path):
    assert len(load(tmp_path, b"\xef\xbb\xbfpath,label\r\na.mp4,run\r\n")) == 1
    with pytest.raises(ValueError, match="manifest.csv, line 2: must be UTF-8 text"):
        load(tmp_path, "path,label\na.mp4,caf\u00e9\n".encode("latin-1"))
    with pytest.raises(ValueError, match="classes.txt, line 1: must be UTF-8 text"):
        (tmp_path / "classes.txt").write_bytes("caf\u00e9\n".encode("latin-1"))
        load(tmp_path, "path,label\na.mp4,run\n")


def test_a_column_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="line 1: wanted a header .* each once"):
        load(tmp_path, "path,label,label\na.mp4,run,walk\n")


@pytest.mark.parametrize("cell", ["nan", "inf", "-1", "1e12", "many"])
def test_numbers_of_a_scan_are_numbers(tmp_path, cell):
    with pytest.raises(ValueError, match="line 2: frames must be a whole number"):
        load(tmp_path, f"path,frames\na.mp4,{cell}\n")


@pytest.mark.parametrize(
    "one, other",
    [
        ("./a.mp4", "a.mp4"),
        ("b//a.mp4", "b/a.mp4"),
        ("b/./a.mp4", "b/a.mp4"),
        ("b\\a.mp4", "b/a.mp4"),
        ("caf\u00e9.mp4", "cafe\u0301.mp4"),
    ],
)
def test_two_spellings_of_a_path_are_one_file(tmp_path, one, other):
    with pytest.raises(ValueError, match=r"line 3: .* is listed twice, first in .*line 2 as "):
        load(tmp_path, HEAD + f"{one},run,train\n{other},walk,test\n")


def test_paths_from_windows(tmp_path):
    manifest = load(tmp_path, HEAD + "run\\a.mp4,run,train\nwalk\\b.mp4,walk,test\n")
    assert manifest.path.tolist() == ["run/a.mp4", "walk/b.mp4"]


@pytest.mark.parametrize("text", ["", "\n \n", "/videos\n/others\n"])
def test_a_damaged_root_is_named(tmp_path, text):
    (tmp_path / "root.txt").write_text(text)
    with pytest.raises(ValueError, match="root.txt must have one line, the folder of the videos"):
        load(tmp_path, HEAD + "a.mp4,run,train\n")
