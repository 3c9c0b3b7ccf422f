"""Texts that the project does not commit, where they are to be had, and a stand-in for the Hub."""

import io
import os
import urllib.request
from pathlib import Path

import pytest

from nanogpkant.data import DATASETS


def shared(name: str) -> Path:
    beside_the_repository = Path(__file__).resolve().parents[2].parent / "shared"
    file = Path(os.environ.get("NANOGPKANT_SHARED", beside_the_repository)) / "data" / name
    if not file.is_file():
        pytest.skip(f"{name} is not at {file}; set NANOGPKANT_SHARED")
    return file


@pytest.fixture(scope="session")
def canonical_file() -> Path:
    return shared("tinyshakespeare.txt")


@pytest.fixture(scope="session")
def canonical(canonical_file: Path) -> str:
    return canonical_file.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def enwik8_file() -> Path:
    return shared("enwik8.gz")


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """``load_dataset`` streams 600 stories from three local files, whatever is asked for."""
    datasets = pytest.importorskip("datasets")
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = [f"Once upon a time there was story {number}." for number in range(600)]
    (tmp_path / "hub").mkdir()
    for part in range(3):
        table = pa.table({"text": [*texts[part::3], "", None]})
        pq.write_table(table, tmp_path / f"hub/{part}.parquet")
    load = datasets.load_dataset

    def load_local(path, name=None, *, split, streaming):
        assert streaming
        assert path in [dataset.hub[0] for dataset in DATASETS.values() if dataset.hub]
        files = sorted(map(str, (tmp_path / "hub").glob("*.parquet")))
        cache = str(tmp_path / "cache")
        return load(
            "parquet", data_files={split: files}, split=split, streaming=True, cache_dir=cache
        )

    monkeypatch.setattr(datasets, "load_dataset", load_local)
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO())
    return tmp_path / "hub"
