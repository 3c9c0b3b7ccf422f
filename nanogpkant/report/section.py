"""A section of a report: its content, independent of the format that it is written in."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from nanogpkant.report.charts import Dashes, Draw

Tree = list["str | Tree"]
"""MathML: [tag, child, ...]"""
DECADES = 100.0  # largest by smallest value beyond which a colour scale is logarithmic


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, what it says in a sentence, and its colour scale."""

    name: str
    about: str = ""
    deepest: Literal["", "lowest", "highest"] = ""
    """value with the deepest shade; none has one unless given"""


@dataclass(frozen=True)
class Cell:
    """A value of a table: its text, its sort key, and where a page links it to."""

    text: str
    value: float | str = math.inf
    link: str = ""


@dataclass(frozen=True)
class Card:
    """A small picture of a curve: outlines are "x y" pairs in a box of 100 by 60, y downwards."""

    title: str
    lines: list[str]
    about: str  # in place of the picture
    link: str  # where the page links it to; may be empty
    formula: list[list[Tree]]  # pieces of the terms of a sum
    kinds: dict[str, str]  # what it is, by filter
    density: str
    curve: str
    fitted: str
    x: list[str]
    y: list[str]
    bounds: tuple[float, float]  # of y


@dataclass(frozen=True)
class Map:
    """A table of numbers as a picture."""

    picture: str  # PNG in base64
    scale: str  # its colours from left to right, PNG in base64
    ends: tuple[str, str]  # lowest and highest value of the scale
    rows: int  # of the table itself, whose cells may be averages
    columns: int
    values: list[list[float]]


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, and any of: charts, a map, cards, a table, verbatim texts."""

    title: str
    words: list[str] = field(default_factory=list)
    head: list[Column] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)
    charts: "dict[str, Draw]" = field(default_factory=dict)
    """by name; captioned with it unless there is a legend (``lines``)"""
    picture: str = ""  # file name of the charts as PNG
    lines: dict[str, int] = field(default_factory=dict)
    """legend: colour numbers of the lines in the charts, by name"""
    dashed: "dict[str, Dashes]" = field(default_factory=dict)
    """legend: dashes of the reference lines in the charts, by name"""
    map: Map | None = None
    cards: list[Card] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)  # verbatim texts, side by side, by title
    is_searched: bool = False  # rows and cards are what people look for by name
    is_folded: bool = False
    is_table_folded: bool = False

    def shades(self) -> list[list[float | None]]:
        """For every cell its place on its column's colour scale, from 0 to 1."""
        columns = [self._shades(number) for number in range(len(self.head))]
        return [list(row) for row in zip(*columns, strict=True)]

    def _shades(self, number: int) -> list[float | None]:
        values = [row[number].value for row in self.rows]
        numbers = [v for v in values if not isinstance(v, str) and math.isfinite(v)]
        if not self.head[number].deepest or len({*numbers}) < 2:
            return [None] * len(values)
        low, high = min(numbers), max(numbers)
        scale = math.log if low > 0 and high > DECADES * low else float

        def place(value: float) -> float:
            return (scale(value) - scale(low)) / (scale(high) - scale(low))

        is_reversed = self.head[number].deepest == "lowest"
        return [
            None
            if isinstance(v, str) or not math.isfinite(v)
            else round(1 - place(v) if is_reversed else place(v), 3)
            for v in values
        ]
