"""What a cell prints: whole lines for the log, and one text a stream for the notebook."""

import os
from typing import Any, TextIO

from vidbench.system.progress import Every


def redrawn(text: str, more: str) -> str:
    """Append to a stream; keep the last state of a line that a carriage return redraws.

    Args:
        text: The stream so far.
        more: What it wrote since.
    """
    settled = text.rfind("\n") + 1
    lines = (text[settled:] + more).split("\n")
    # the last carriage return that something follows; of a long line without any a pattern would
    # take time squared
    return text[:settled] + "\n".join(
        line[line.rfind("\r", 0, max(0, len(line) - 1)) + 1 :] for line in lines
    )


class Lines:
    """Streams in, whole lines out to files.

    A line that redraws itself is written when it ends, and every SECONDS seconds
    (system/progress.py)."""

    def __init__(self, files: list[TextIO]) -> None:
        self.files = files
        self.open: dict[str, str] = {}
        self.due: dict[str, Every] = {}

    def write(self, name: str, text: str) -> None:
        """Add text of a stream.

        Args:
            name: stdout or stderr.
            text: May have several lines, or a part of one.
        """
        *whole, rest = redrawn(self.open.get(name, ""), text).split("\n")
        for line in whole:
            self.say(line.rstrip("\r"))
        due = self.due.setdefault(name, Every(first=True))
        if "\r" in text and rest.strip() and due():
            self.say(rest.rstrip("\r"))
        self.open[name] = rest

    def redraw(self, name: str, line: str) -> None:
        """Add the state of a bar; an empty line means that the bar was removed.

        Args:
            name: Which bar.
            line: Its state, as text.
        """
        self.due.setdefault(name, Every())  # a short bar is said once, as it ends
        self.open.pop(name, None)
        if line:
            self.write(name, f"\r{line}")

    def flush(self) -> None:
        """Say what has no end of line yet."""
        for rest in self.open.values():
            if rest.strip():
                self.say(rest.rstrip("\r"))
        self.open = {}

    def say(self, line: str) -> None:
        """Write a line to all files."""
        for file in self.files:
            # `| head` has read enough, and the run continues: all later prints end here, too
            try:
                file.write(line + "\n")
                file.flush()
            except BrokenPipeError:
                with open(os.devnull, "w") as nowhere:
                    os.dup2(nowhere.fileno(), file.fileno())


class Streams:
    """The stream outputs of a cell while they grow.

    Their text is put together when it is needed: a copy for each message would take time squared."""

    def __init__(self) -> None:
        self.growing: dict[int, tuple[Any, list[str]]] = {}

    def add(self, output: Any, text: str) -> None:
        """Add text to the stream of an output.

        Args:
            output: An output of the notebook, of type stream.
            text: What its stream wrote.
        """
        _, parts = self.growing.setdefault(id(output), (output, [output.text]))
        last = redrawn(parts.pop(), text)
        settled = last.rfind("\n") + 1
        parts += [last[:settled], last[settled:]]

    def settle(self) -> None:
        """Give all outputs their text."""
        for output, parts in self.growing.values():
            whole = "".join(parts)
            settled = whole.rfind("\n") + 1
            parts[:] = [whole[:settled], whole[settled:]]
            output.text = whole

    def close(self) -> None:
        """Give all outputs their text at the end of a cell."""
        self.settle()
        self.growing.clear()
