"""Fixtures for all tests: a fixed random stream, tiny models, and poisoned memory."""

import atexit
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import chromium
import pytest
import torch

from nanogpkant.cli import main
from nanogpkant.comparison import launch, training
from nanogpkant.config import KANConfig, ModelConfig, with_changes
from nanogpkant.model.gpt import GPT

# Before huggingface_hub is imported: what tests load leaves nothing in the user's cache.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="nanogpkant-hf-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _fixed_random_stream() -> None:
    torch.manual_seed(0)


@pytest.fixture
def nan_buffers() -> Iterator[None]:
    """Uninitialised memory holds NaN, by torch's own switch, so that reading it shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., ModelConfig]:
    """Make a small ModelConfig: KAN sites first, then dotted changes, ``**{"kan.base": ...}``."""

    def make(sites: Iterable[str] = (), **changes: object) -> ModelConfig:
        kan = KANConfig(sites=list(sites), grid_size=3)
        config = ModelConfig(n_layer=2, n_head=2, n_embd=8, block_size=8, dropout=0.0, kan=kan)
        return with_changes(config, **changes)

    return make


@pytest.fixture(scope="session")
def tiny_gpt(tiny_config: Callable[..., ModelConfig]) -> Callable[..., GPT]:
    """Make a small GPT of 11 tokens, in float64 so that only real differences show."""

    def make(sites: Iterable[str] = (), **changes: object) -> GPT:
        return GPT(tiny_config(sites, **changes), vocab_size=11).double()

    return make


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small custom text: 6,000 characters, 20 of them different."""
    file = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    file.write_text("Speak, friend, and enter.\nI hear you.\n" * 158, encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def tiny_experiment(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YAML file of an experiment that trains in about a second: a KAN, with dropout."""
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "tiny.yaml").write_text(
        f"""\
about: a test
model:
  n_layer: 2
  n_head: 2
  n_embd: 16
  block_size: 16
  dropout: 0.2
  kan: {{sites: [mlp_in, mlp_out], grid_size: 2, spline_scale: true}}
data: {{dataset: corpus, file: '{corpus}', dir: '{folder / "data"}'}}
optim: {{learning_rate: 1e-2, min_lr: 1e-3, warmup_iters: 2}}
train:
  max_iters: 12
  batch_size: 4
  eval_interval: 4
  log_interval: 1
  sample_tokens: 20
  device: cpu
  dtype: float32
""",
        encoding="utf-8",
    )
    return folder / "tiny.yaml"


@pytest.fixture(scope="session")
def tiny_run(tiny_experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run of that experiment. Not to be changed: copy it first."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", str(tiny_experiment), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def run_with_curves(tiny_experiment, tmp_path_factory) -> Path:
    """A run with a KAN MLP and curves of distance. Not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "curves"
    flags = ["--model.position", "curve", "--model.curve.knots", "4"]
    assert main(["train", str(tiny_experiment), "--out", str(out), *flags]) == 0
    return out


@pytest.fixture(scope="session")
def training_here() -> Callable[[], AbstractContextManager[None]]:
    """A context in which runs of experiments are trained in this process: no seconds of imports.

    That they are processes of their own otherwise, test_launch.py shows.
    """

    def train(command: list[str], log: Any, threads: int | None, **options: Any) -> Any:
        text = io.TextIOWrapper(log, encoding="utf-8", write_through=True)
        with redirect_stdout(text), redirect_stderr(text):
            status = main(command)
        return Mock(poll=lambda: status, wait=lambda: status)

    @contextmanager
    def here() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(launch, "_process", train)
            patch.setattr(training, "POLL_SECONDS", 0)
            yield

    return here


@pytest.fixture(scope="module")
def trained_here(training_here: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """All tests of a module in that context."""
    with training_here():
        yield


@pytest.fixture(scope="module")
def few_ablations() -> Iterator[None]:
    """Five single edges are removed, not 200, where that is not the point."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanogpkant.interpretation.judge.removal.ABLATED", 5)
        yield


@pytest.fixture(scope="module")
def no_pictures(few_ablations: None) -> Iterator[None]:
    """interpret draws nothing, which takes most of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanogpkant.interpretation.show.report.save_figure", lambda *_, **more: None)
        patch.setattr("nanogpkant.report.html.to_svg", lambda title, draw: "")
        yield


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    if chromium.PROGRAM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=chromium.PROGRAM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page; whatever it logs or asks the network for fails the test."""
    contexts, complaints = [], []

    def is_far(asked: Any) -> bool:
        return not asked.url.startswith(("file:", "blob:", "data:"))

    def open_page(
        file: Path,
        hash: str = "",
        width: int = 1280,
        scheme: str = "light",
        ready: str = "html[data-ready]",
    ) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: complaints.append(asked.url) if is_far(asked) else None)
        page.goto(f"{file.as_uri()}{hash}")
        page.wait_for_selector(ready, timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def grave() -> Callable[[Any], list[list[str]]]:
    """What axe-core finds serious or worse on a page: rule and element."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def find(page: Any) -> list[list[str]]:
        found = axe.run(page).response["violations"]
        return [
            [each["id"], each["nodes"][0]["html"]]
            for each in found
            if each["impact"] in ("serious", "critical")
        ]

    return find
