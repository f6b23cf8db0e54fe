"""galleries: clips that play, and no text from outside that can break the HTML around it."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vidbench.view import galleries, looks
from vidbench.view.galleries import Row, Tile

HOSTILE = '<b>"x"</b> & \'y\' <script>alert(1)</script>" onload="z'
# what JupyterLab 4.6's sanitiser keeps of our styles in an untrusted notebook (read in its bundle);
# the rest it drops
KEPT = set(
    "align-items background-color border border-bottom border-collapse border-right border-top "
    "box-sizing color display"
    " flex flex-wrap font-family font-size font-weight gap height justify-content left "
    "line-height margin margin-top"
    " max-width min-width overflow overflow-x padding padding-right position text-align "
    "text-overflow top visibility"
    " white-space width".split()
)


def clip(frames=8, height=24, width=32, seed=0):
    """Frames uint8 [T,H,W,3] of one flat gray each, a different one per frame."""
    shades = np.linspace(20, 220, frames).astype(np.uint8) + np.uint8(seed)
    return np.broadcast_to(shades[:, None, None, None], (frames, height, width, 3)).copy()


class Skeleton(HTMLParser):
    """Tags with their attribute names in order; the values of what interests the tests besides."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        self.tags.append((tag, "end"))

    def handle_data(self, data):
        self.words.append(data)


def styles(text):
    return {
        part.split(":", 1)[0].strip()
        for _, name, value in Skeleton(text).attributes
        if name == "style"
        for part in value.split(";")
        if part.strip()
    }


def test_encode_keeps_frames_length_and_loops():
    frames = clip(frames=7)
    picture = Image.open(io.BytesIO(galleries.encode(frames, fps=30, quality=95)))
    assert (picture.format, picture.n_frames, picture.size, picture.info["loop"]) == (
        "WEBP",
        7,
        (32, 24),
        0,
    )
    milliseconds = []
    for i in range(7):
        picture.seek(i)
        picture.load()
        milliseconds.append(picture.info["duration"])
        assert abs(int(np.asarray(picture.convert("RGB")).mean()) - int(frames[i].mean())) <= 3
    assert sum(milliseconds) == round(7 * 1000 / 30) and set(milliseconds) <= {33, 34}


def test_encode_resizes_the_longer_side_and_takes_a_single_frame():
    assert Image.open(io.BytesIO(galleries.encode(clip(), 12, side=64))).size == (64, 48)
    assert Image.open(io.BytesIO(galleries.encode(clip()[:1], 12))).n_frames == 1


@pytest.mark.parametrize(
    ("frames", "fps", "error", "says"),
    [
        (clip().astype(np.float32), 12, TypeError, "float32"),
        ([[1, 2], [3, 4]], 12, TypeError, "list"),
        (clip()[0], 12, ValueError, r"\[24, 32, 3\]"),
        (clip()[..., :2], 12, ValueError, r"\[8, 24, 32, 2\]"),
        (clip()[:0], 12, ValueError, r"\[0, 24"),
        (clip(), 0, ValueError, "fps > 0"),
        (clip(), float("nan"), ValueError, "fps > 0"),
    ],
)
def test_encode_refuses_what_is_no_clip(frames, fps, error, says):
    with pytest.raises(error, match=says):
        galleries.encode(frames, fps)


def test_data_uri_holds_the_bytes():
    assert (
        galleries.data_uri(b"abc", "image/webp")
        == "data:image/webp;base64," + base64.b64encode(b"abc").decode()
    )
    for data, mime in (
        (b"", "image/webp"),
        (b"abc", "text/html"),
        (b"abc", 'image/webp" x="'),
        (b"abc", "video/mp4"),
    ):
        with pytest.raises(ValueError):
            galleries.data_uri(data, mime)


def test_a_clip_is_bytes_or_a_data_uri_and_nothing_else():
    webp = galleries.encode(clip(), 12)
    uri = galleries.data_uri(webp, "image/webp")
    assert galleries.clip_html(webp, "a") == galleries.clip_html(uri, "a")
    hostile, plain = (Skeleton(galleries.clip_html(webp, words, 9, 9)) for words in (HOSTILE, "a"))
    assert hostile.tags == plain.tags
    for bad in (
        "https://example.org/x.webp",
        "clip.webp",
        uri + '" onerror="alert(1)',
        uri + "\n",
        b"\x00\x01\x02",
        b"\x00\x00\x00\x20ftypisom",  # a video does not loop in an untrusted notebook
    ):
        with pytest.raises(ValueError):
            galleries.clip_html(bad, "a")


def test_filmstrip_has_one_row_per_clip_and_is_never_wider_than_a_figure():
    strip = galleries.filmstrip([clip(20), clip(3, 24, 90)], ["first", HOSTILE])
    page = Skeleton(strip)
    widths = [int(value) for tag, name, value in page.attributes if (tag, name) == ("img", "width")]
    assert len(widths) == 2 and max(widths) <= looks.WIDTH
    assert widths == [8 * 95 - 2, 3 * (760 // 3) - 2]  # 112 pixels a frame would have been too wide
    assert "8 of 20 frames" in strip and "(3 frames)" in strip
    assert "(3 pictures)" in galleries.filmstrip([clip(3)], noun="pictures")
    assert (
        page.tags
        == Skeleton(galleries.filmstrip([clip(20), clip(3, 24, 90)], ["first", "second"])).tags
    )
    assert "frame" not in galleries.filmstrip(
        [clip(1)], ["a wheel"]
    )  # one picture is no clip to count
    picture = Image.open(
        io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", strip).group(1)))
    ).convert("RGB")
    assert (
        picture.getpixel((5, 5))[0] < 40 and picture.getpixel((picture.width - 5, 5))[0] > 200
    )  # first, last frame
    for clips, titles, says in (
        ([], None, "at least one"),
        ([clip()], ["a", "b"], "one title per clip"),
    ):
        with pytest.raises(ValueError, match=says):
            galleries.filmstrip(clips, titles)
    with pytest.raises(TypeError, match="clip 1"):
        galleries.filmstrip([clip(), clip().astype(float)])


def rows(label="jump", caption="a.mp4", right=(True, False, None)):
    webp = [galleries.encode(clip(seed=i), 12) for i in range(4)]
    results = [
        Tile(webp[i + 1], label, caption, 0.9 - 0.1 * i, verdict) for i, verdict in enumerate(right)
    ]
    return [Row(Tile(webp[0], label, caption), results)]


def test_gallery_tells_right_from_wrong_by_color_and_sign():
    text = galleries.gallery(rows())
    page = Skeleton(text)
    assert page.words.count("✓") == 1 and page.words.count("✗") == 1
    frames = [v for _, name, v in page.attributes if name == "style" and "border:3px" in v]
    colors = [re.search(r"solid ?(#\w+|)", v).group(1) for v in frames]
    assert colors == ["", looks.RIGHT, looks.WRONG, looks.AXIS_LINE]  # the query's is the text's
    alts = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert alts == [
        "query, jump",
        "rank 1, jump, score 0.90, right",
        "rank 2, jump, score 0.80, wrong",
        "rank 3, jump, score 0.70",
    ]
    assert [w for w in page.words if re.fullmatch(r"0\.\d\d", w)] == ["0.90", "0.80", "0.70"]


def test_gallery_stacks_methods_under_one_query():
    text = galleries.gallery(
        {"InfoNCE": rows(right=(False, False, False)), "CoCLR": rows(right=(True, True, False))}
    )
    assert text.count('alt="query, jump"') == 1 and text.index("InfoNCE") < text.index("CoCLR")
    assert "0 of 3 right" in text and "2 of 3 right" in text
    with pytest.raises(ValueError, match="same queries"):
        galleries.gallery({"InfoNCE": rows(), "CoCLR": rows(label="sit")})
    with pytest.raises(ValueError, match="same queries"):
        galleries.gallery({"InfoNCE": rows(), "CoCLR": rows() + rows()})
    for nothing in ([], {}, {"CoCLR": []}):
        with pytest.raises(ValueError, match="at least one query"):
            galleries.gallery(nothing)


def test_gallery_marks_and_counts_what_the_row_says():
    first, second = rows()[0].results[:2]
    marked = [Row(rows()[0].query, [first, replace(second, mark=True)], f"also in {HOSTILE}")]
    text = galleries.gallery({"RGB": marked, "flow": rows()})
    page = Skeleton(text)
    assert (
        f" · 1 of 2 right · 1 also in {HOSTILE}" in page.words and " · 1 of 2 right" in page.words
    )
    assert page.words.count("in both") == 1 and "script" not in {tag for tag, _ in page.tags}
    alts = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert [alt.endswith(HOSTILE) for alt in alts] == [False, False, True, False, False, False]
    unmarked = galleries.gallery({"RGB": [Row(rows()[0].query, [first, second], "also in flow")]})
    assert " · 1 of 2 right · 0 also in flow" in Skeleton(unmarked).words
    unsaid = galleries.gallery({"RGB": [Row(rows()[0].query, [replace(first, mark=True)])]})
    assert "also" not in unsaid and "both" not in unsaid
    assert styles(text) <= KEPT


def test_gallery_takes_a_query_without_neighbors():
    text = galleries.gallery([Row(Tile(galleries.encode(clip(), 12), "a"), [])])
    assert "no neighbors" in text and text.count("<img ") == 1


def test_words_from_outside_stay_words():
    plain = {"A": rows("jump", "a.mp4"), "B": rows("jump", "a.mp4")}
    hostile = {HOSTILE: rows(HOSTILE, HOSTILE), HOSTILE + "2": rows(HOSTILE, HOSTILE)}
    assert (
        Skeleton(galleries.gallery(hostile, HOSTILE)).tags
        == Skeleton(galleries.gallery(plain, "title")).tags
    )


def test_pieces_survive_an_untrusted_notebook():
    for piece in (
        galleries.gallery({"A": rows(), "B": rows()}, "title"),
        galleries.filmstrip([clip()]),
    ):
        page = Skeleton(piece)
        assert styles(piece) <= KEPT, f"JupyterLab would drop {sorted(styles(piece) - KEPT)}"
        assert not {tag for tag, _ in page.tags} & {
            "style",
            "script",
            "link",
            "iframe",
            "svg",
            "object",
        }
        assert all(
            value.startswith("data:")
            for _, name, value in page.attributes
            if name in ("src", "href", "poster")
        )
        shown = piece._repr_html_()
        assert shown.startswith(piece) and type(shown) is str and len(repr(piece)) < 40


def test_long_names_are_cut_in_the_middle_and_a_tile_may_say_its_own_rank():
    names = [f"jumping_jack_s{number:02}_c{number}" for number in (3, 4)]
    webp = galleries.encode(clip(), 12)
    found = [Tile(webp, "a", name, rank=7) for name in names]
    page = galleries.gallery([Row(Tile(webp, "b"), found)], side=96)
    assert ">jump…k_s03_c3<" in page and ">jump…k_s04_c4<" in page
    assert all(f'title="{name}"' in page for name in names)
    assert page.count('title="rank 7, ') == 2 and "rank 1" not in page
