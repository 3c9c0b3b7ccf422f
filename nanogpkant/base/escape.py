"""Text that came with a run or a file, made harmless for the formats that we write."""

import base64
import hashlib
import os
import re
from typing import Any


def readable(name: str) -> str:
    """A file's name as text in any locale; bytes that are no text become escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def markdown(text: str) -> str:
    """Text as one line of Markdown: no HTML, links, pictures, emphasis or borders of tables."""
    line = " ".join(text.split()).replace("<", "&lt;")
    return re.sub(r"([\\|\[\]*`]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", line)


def fenced(text: str, language: str) -> str:
    """Text as a block of code, which it cannot close."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def csv_cell(value: Any) -> Any:
    """A value of a table; text that a spreadsheet would take for a formula begins with '."""
    return f"'{value}" if isinstance(value, str) and value.startswith(tuple("=+-@\t\r")) else value


def mathtext(text: str) -> str:
    """Text in a chart of matplotlib, which takes what stands between dollars for a formula."""
    return text.replace("$", r"\$")


def source_hash(content: str) -> str:
    """A content security policy's name for an inline script or style."""
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
