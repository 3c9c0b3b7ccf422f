"""A run as one HTML file: the data, and the modules of ``web/`` put in line."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

WEB = Path(__file__).parent / "web"
ENGINE = (
    "bases",
    "kernel",
    "unpack",
    "model",
    "writing",
    "gradient",
    "edits",
    "session",
    "tokenizer",
)
"""modules that run the model, in a worker too; each imports earlier ones only"""


def script(modules: tuple[str, ...]) -> str:
    """Modules as one script: all names share one scope, so that imports and exports go."""
    parts = []
    for name in modules:
        text = (WEB / f"{name}.js").read_text(encoding="utf-8")
        text = re.sub(r"^import [^;]*;\n", "", text, flags=re.MULTILINE)
        parts.append(re.sub(r"^export ", "", text, flags=re.MULTILINE))
    return '"use strict";\n' + "\n".join(parts)


def as_json(value: Any) -> str:
    """JSON that no HTML parser takes for the end of a script, or for a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def source_hash(content: str) -> str:
    """A content security policy's name for an inline script or style."""
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
