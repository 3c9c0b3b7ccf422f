"""A run as one HTML file: the data, and the modules of ``web/`` put in line."""

import html
import json
import re
from pathlib import Path
from typing import Any

from nanogpkant.base.escape import source_hash
from nanogpkant.report.theme import STYLE

WEB = Path(__file__).parent / "web"
ENGINE = (
    *("bases", "kernel", "unpack", "rows", "attention", "model", "writing", "gradient"),
    *("edits", "session", "tokenizer"),
)
"""modules that run the model, in a worker too; each imports earlier ones only"""
PROGRAM = (
    *("dom", "client", "fit", "shapes", "state", "chart", "editor", "find", "writer", "why"),
    *("learn", "tour", "main"),
)
"""modules of the page itself, after those of the engine"""


def script(modules: tuple[str, ...]) -> str:
    """Modules as one script: each is a function that returns what it exports."""
    parts = ['"use strict";']
    for name in modules:
        text = (WEB / f"{name}.js").read_text(encoding="utf-8")
        names = re.findall(r"^export (?:async )?(?:function|class|const) (\w+)", text, re.MULTILINE)
        text = re.sub(r"^import [^;]*;\n", "", text, flags=re.MULTILINE)
        text = re.sub(r"^export ", "", text, flags=re.MULTILINE)
        exported = f"{{ {', '.join(names)} }}"
        parts.append(f"const {exported} = (() => {{\n{text}return {exported};\n}})();")
    return "\n".join(parts) + "\n"


def as_json(value: Any) -> str:
    """JSON that no HTML parser takes for the end of a script, or for a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def page(values: dict[str, Any], weights: str) -> str:
    """The page of a run.

    Args:
        values: all that the program reads, in types of JSON; the model's name is "name".
        weights: a pack's bytes in base64.
    """
    engine, program = script(ENGINE), script(PROGRAM)
    style = STYLE + (WEB / "style.css").read_text(encoding="utf-8")
    scripts = " ".join(map(source_hash, (engine, program)))
    policy = (
        f"default-src 'none'; script-src {scripts} 'wasm-unsafe-eval'; "
        f"style-src {source_hash(style)}; worker-src blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "title": html.escape(values["name"]),
        "style": style,
        "run": as_json(values),
        "weights": weights,
        "engine": engine,
        "program": program,
    }
    template = (WEB / "page.html").read_text(encoding="utf-8")
    pieces = re.split(r"\{\{(\w+)\}\}", template)
    pieces[1::2] = [parts[name] for name in pieces[1::2]]
    return "".join(pieces)
