"""Progress bars that a notebook draws as widgets, followed as text.

tqdm.auto and tqdm.notebook show a box of widgets, and a notebook's file keeps the text of the
box from when it was shown: 0 %. The kernel sends the later states as messages of the widgets; from them
`Bars` makes the text that a terminal shows."""

import html
import re
from typing import Any

VIEW = "application/vnd.jupyter.widget-view+json"
BOXES = ("HBoxModel", "VBoxModel", "BoxModel")
TEXTS = ("HTMLModel", "LabelModel", "HTMLMathModel")
BARS = ("FloatProgressModel", "IntProgressModel")
LINK = "IPY_MODEL_"  # how a box names the widgets in it
LETTERS = 10  # of a bar
BLANKS = str.maketrans("\u2007\xa0", "  ")


class Bars:
    """The widgets of progress bars, by their ids, and the outputs in which they are shown."""

    def __init__(self) -> None:
        self.states: dict[str, dict[str, Any]] = {}
        self.boxes: dict[str, str] = {}  # of a widget, the one that contains it
        self.shown: dict[str, list[Any]] = {}

    def show(self, output: Any) -> None:
        """Follow the widget of an output, if it is a progress bar."""
        view = output.get("data", {}).get(VIEW)
        if view and self._bars_in(view.get("model_id", "")):
            self.shown.setdefault(view["model_id"], []).append(output)
            self._redraw(view["model_id"])

    def take(self, message: dict[str, Any]) -> tuple[str, str] | None:
        """Read a message of a widget.

        Returns:
            The id and the text of the bar that changed (the text of a removed bar is empty), or None.
        """
        content = message["content"]
        data, one = content.get("data", {}), content["comm_id"]
        state = data.get("state") if isinstance(data, dict) else None
        if message["msg_type"] == "comm_close":
            # its owner removed it, such as by leave=False
            return (one, self._redraw(one, closed=True)) if one in self.shown else None
        if not isinstance(state, dict):
            return None
        if message["msg_type"] == "comm_open":
            if state.get("_model_name") not in (*BOXES, *TEXTS, *BARS):
                return None
            self.states[one] = {}
        elif one not in self.states:
            return None
        self.states[one].update(state)
        for child in self._children(one):
            self.boxes[child] = one
        top = self._top(one)
        if top not in self.shown or "value" not in state:
            return None
        text = self._redraw(top)
        siblings = self._children(self.boxes.get(one, ""))
        return (top, text) if siblings[-1:] in ([], [one]) else None  # the last to change says it

    def _top(self, one: str) -> str:
        while one in self.boxes:
            one = self.boxes[one]
        return one

    def _children(self, one: str) -> list[str]:
        links = self.states.get(one, {}).get("children") or ()
        return [link.removeprefix(LINK) for link in links if isinstance(link, str)]

    def _bars_in(self, one: str) -> bool:
        """Whether a widget is a bar, or a box with one and with nothing that is unknown."""
        children = self._children(one)
        if any(child not in self.states for child in (one, *children)):
            return False
        kind = self.states[one]["_model_name"]
        return kind in BARS or any(map(self._bars_in, children))

    def _redraw(self, one: str, closed: bool = False) -> str:
        text = "" if closed else self._text(one)
        for output in self.shown[one]:
            output["data"]["text/plain"] = text
        return text

    def _text(self, one: str) -> str:
        state = self.states.get(one, {})
        kind, value = state.get("_model_name"), state.get("value")
        if kind in TEXTS:
            return html.unescape(re.sub(r"<[^>]*>", "", str(value or ""))).translate(BLANKS)
        if kind in BARS:
            return _bar(state)
        return "".join(map(self._text, self._children(one)))


def _bar(state: dict[str, Any]) -> str:
    """A bar as tqdm draws it in a terminal; nothing where the end is unknown."""
    low, high, value = (state.get(name) or 0 for name in ("min", "max", "value"))
    if state.get("bar_style") == "info" or not high > low:
        return ""
    full = round(LETTERS * min(1.0, max(0.0, (value - low) / (high - low))))
    said = f"{state['description']} " if state.get("description") else ""
    return f"{said}|{'█' * full}{' ' * (LETTERS - full)}|"
