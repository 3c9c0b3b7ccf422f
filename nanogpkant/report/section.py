"""A section of a report: its content, independent of the format that it is written in."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanogpkant.report.charts import Dashes, Draw


@dataclass(frozen=True)
class Cell:
    """A value of a table: its text, and its sort key."""

    text: str
    value: float | str = math.inf


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, and any of: charts, a table, verbatim texts."""

    title: str
    words: list[str] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)
    charts: "dict[str, Draw]" = field(default_factory=dict)
    """by name; captioned with it unless there is a legend (``lines``)"""
    picture: str = ""  # file name of the charts as PNG
    lines: dict[str, int] = field(default_factory=dict)
    """legend: colour numbers of the lines in the charts, by name"""
    dashed: "dict[str, Dashes]" = field(default_factory=dict)
    """legend: dashes of the reference lines in the charts, by name"""
    texts: dict[str, str] = field(default_factory=dict)  # verbatim texts, side by side, by title
    is_folded: bool = False
    is_table_folded: bool = False
