"""Trained models in the package: exported runs, by name.

Their cards report quality and training. shakespeare-mini-kan was written by

    nanogpkant train shakespeare_mini_kan
    nanogpkant export runs/shakespeare_mini_kan --bfloat16 --license mit \\
        --out nanogpkant/pretrained/shakespeare-mini-kan

and shakespeare-gpkant by experiments/record.yaml, rope+curve, seed 102, exported likewise.
"""

from pathlib import Path

from nanogpkant.base.errors import UsageError, nearest

PREFIX = "pretrained:"
FOLDER = Path(__file__).parent


def pretrained_names() -> list[str]:
    return sorted(path.parent.name for path in FOLDER.glob("*/config.yaml"))


def pretrained_folder(name: str) -> Path:
    """The folder of a model; ``name`` is without the prefix.

    Raises:
        UsageError: there is no such model.
    """
    names = pretrained_names()
    if name not in names:
        hint = nearest(name, names, f"there is {', '.join(names)}")
        raise UsageError(f"{PREFIX}{name}: no such model; {hint}")
    return FOLDER / name
