"""Reads the page of a report."""

from __future__ import annotations

from html.parser import HTMLParser


# Elements that have no end.
VOID = {"meta", "img", "input", "br"}


class Page(HTMLParser):
    """Elements of a page, and the cells of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str | None, list[list[tuple[str, str | None]]]] = {}
        self.text = ""
        self._table: str | None = None
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.seen.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = attributes.get("id")
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append(("", attributes.get("data-value")))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data
        if {"td", "th"} & set(self.open):
            text, value = self.tables[self._table][-1][-1]
            self.tables[self._table][-1][-1] = (text + data, value)

    def numbers(self, table: str, row: str) -> list[float]:
        """Exact numbers of the row that begins with this text."""
        (cells,) = [r for r in self.tables[table] if r and r[0][0] == row]
        return [float(value) for _, value in cells if value]
