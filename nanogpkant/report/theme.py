"""Colours: of models, the same in the terminal, in pictures and on pages; and of the pages."""

from pathlib import Path

# Distinct on white, on black, and with most colour blindness.
COLOURS = ("#c8553d", "#2f7fb0", "#6a9a2d", "#9460b8", "#c08a1e", "#3a9d8f", "#b84f86", "#7b8794")
REFERENCE_COLOUR = "#8a8f98"

STYLE = (Path(__file__).parent / "templates" / "theme.css").read_text(encoding="utf-8")
"""of every page: colours in light and dark, type, buttons and fields"""


def colour_of(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
