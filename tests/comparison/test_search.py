"""Searches: the same trials for every family, found again where they lie, and refused files."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import yaml

from nanogpkant.base.errors import UsageError
from nanogpkant.cli import main
from nanogpkant.comparison.search import (
    ModelFamily,
    SearchTrial,
    _best,
    _propose,
    _storage,
    _study,
    load_search,
)
from nanogpkant.config import load_config

pytestmark = pytest.mark.usefixtures("trained_here")
ROOT = Path(__file__).resolve().parents[2]
TWINS = {"optim.weight_decay": [0.1, 0.2, 1e-1], "train.batch_size": [2, 4]}


@pytest.fixture(scope="session")
def content(tiny_experiment: Path) -> dict:
    """A search of seconds: one learning rate is hopeless, and one start cannot be."""
    preset = str(tiny_experiment)
    rates = {"optim.learning_rate": [1e-2, 3e-3, 1e-3], "optim.weight_decay": [0.0, 0.1]}
    return {
        "about": "a test",
        "seed": 3,
        "evaluations": 2,
        "rungs": [{"iterations": 4, "trials": 3}, {"iterations": 8, "trials": 2}],
        "families": [
            {"name": "kan", "preset": preset, "space": rates},
            {
                "name": "gpt",
                "preset": preset,
                "overrides": {"model.kan.sites": []},
                "space": rates | {"model.activation": ["gelu", "swiglu"]},
            },
        ],
    }


def write(folder: Path, content: dict, **changes: object) -> Path:
    file = folder / "hunt.yaml"
    plain = json.loads(json.dumps(content | changes))  # without aliases of equal parts
    file.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def found(content: dict, trained_here, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    assert main(["search", str(write(folder, content)), "--out", str(folder), "--jobs", "2"]) == 0
    return folder / "hunt"


def rows_of(folder: Path) -> list[dict]:
    with open(folder / "trials.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_family_gets_as_many_trials(found: Path) -> None:
    rows = rows_of(found)
    counted = {}
    for row in rows:
        key = row["family"], int(row["iterations"])
        counted[key] = counted.get(key, 0) + 1
    assert counted == {("kan", 4): 3, ("gpt", 4): 3, ("kan", 8): 2, ("gpt", 8): 2}
    first = [row for row in rows if row["iterations"] == "4"]
    keys = ("family", "optim.learning_rate", "optim.weight_decay", "model.activation")
    settings = {tuple(row[key] for key in keys) for row in first}
    assert len(settings) == len(first)
    assert all(1 < float(row["loss"]) < 6 and int(row["parameters"]) > 0 for row in rows)


def test_the_best_go_on_and_the_best_of_those_wins(found: Path) -> None:
    rows = rows_of(found)
    for family in ("kan", "gpt"):
        first, last = (
            {r["trial"]: r for r in rows if (r["family"], r["iterations"]) == (family, rung)}
            for rung in ("4", "8")
        )
        order = sorted(first, key=lambda trial: float(first[trial]["loss"]))
        assert set(last) == set(order[:2])
        winner = min(last.values(), key=lambda row: float(row["loss"]))
        config = load_config(found / f"{family}.yaml")
        assert config.optim.learning_rate == float(winner["optim.learning_rate"])
        assert bool(config.model.kan.sites) == (family == "kan")


def test_a_second_time_nothing_is_trained(found: Path, content: dict, capsys) -> None:
    before = {p: p.stat().st_mtime_ns for p in found.rglob("metrics.jsonl")}
    table = (found / "trials.csv").read_bytes()
    folder = found.parent
    assert main(["search", str(write(folder, content)), "--out", str(folder)]) == 0
    assert {p: p.stat().st_mtime_ns for p in found.rglob("metrics.jsonl")} == before
    assert (found / "trials.csv").read_bytes() == table
    assert "kan.yaml" in capsys.readouterr().out


def test_a_trial_that_fails_is_a_row_and_does_not_win(content, tmp_path) -> None:
    family = content["families"][0] | {
        "space": {"model.n_embd": [8, 6], "optim.learning_rate": [1e-2]},
        "overrides": {"model.n_head": 2, "model.kan.share": "group:4", "model.kan.base": "gpt"},
    }
    family["overrides"] |= {"model.kan.init": "variance_preserving"}
    family["overrides"] |= {"model.kan.spline_scale": False}
    rungs = [{"iterations": 4, "trials": 2}]
    file = write(tmp_path, content, families=[family], rungs=rungs)
    assert main(["search", str(file), "--out", str(tmp_path)]) == 0
    rows = {row["model.n_embd"]: row for row in rows_of(tmp_path / "hunt")}
    assert rows["6"]["loss"] == ""
    assert "do not split into 4 groups" in rows["6"]["failed"]
    assert rows["8"]["failed"] == ""
    assert load_config(tmp_path / "hunt" / "kan.yaml").model.n_embd == 8


def test_trials_that_failed_come_last(content, tmp_path) -> None:
    def trial(*losses):
        family = ModelFamily("kan", "quickstart_kan", {}, {})
        return SearchTrial(family, 1, {}, None, losses=list(losses))

    bad, good, better = trial(float("inf")), trial(2.0), trial(3.0, 1.0)
    assert _best([bad, good, better]) == [better, good, bad]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rungs": []}, "rungs"),
        ({"rungs": [{"iterations": 4}]}, "rungs.trials None: must be a whole number above 0"),
        ({"rungs": [{"iterations": 4, "trials": 2}, {"iterations": 4, "trials": 1}]}, "rungs"),
        ({"rungs": [{"iterations": 4, "trials": 99}]}, "fewer than 99 different"),
        ({"seed": "x"}, "--seed x: must be a whole number"),
        ({"evaluations": 0}, "evaluations 0"),
        ({"families": [{"name": "a", "preset": "quickstart_kan"}]}, "space None"),
        ({"families": [{"name": "../a", "preset": "quickstart_kan"}]}, "name '../a'"),
        (
            {"families": [{"name": "a", "preset": "quickstart_kan", "space": TWINS}]},
            "families, a, optim.weight_decay: choices 1 and 3 are the same",
        ),
        ({"trails": 3}, "trails"),
        ({"overrides": {"train.seed": 3}}, "train.seed"),
    ],
)
def test_refused_files(content, tmp_path, capsys, changes, words) -> None:
    assert main(["search", str(write(tmp_path, content, **changes))]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and "hunt.yaml" in line and words in line


@pytest.mark.parametrize(
    "file", sorted((ROOT / "experiments" / "search").glob("*_search.yaml")), ids=lambda f: f.stem
)
def test_the_projects_own_searches_can_be_planned(file: Path) -> None:
    assert len(load_search(file).families) > 1


def test_a_misspelt_choice_shows_before_anything_is_trained(content, tmp_path, capsys) -> None:
    family = content["families"][0] | {"space": {"optim.learning_rat": [1e-2, 1e-3, 1e-4]}}
    assert main(["search", str(write(tmp_path, content, families=[family]))]) == 2
    assert "learning_rate" in capsys.readouterr().err
    with pytest.raises(Exception, match="kan"):
        load_search(write(tmp_path, content, families=[family]))


def test_trials_are_in_optuna_s_storage_and_the_same_as_without(tmp_path) -> None:
    import optuna

    family = ModelFamily("kan", "quickstart_kan", {}, {"a": [*range(9)], "b": [*range(9)]})
    hunt = SimpleNamespace(name="hunt", seed=5)

    def proposed(study: optuna.Study) -> list[dict]:
        tried = []
        for _ in range(10):
            trial = _propose(study, family, tried)
            tried.append(trial)
            study.tell(trial.asked, float(sum(trial.choices.values())))
        return [trial.choices for trial in tried]

    alone = proposed(_study(hunt, family, optuna.storages.InMemoryStorage()))
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    for where in (None, url):
        for _ in range(2):  # every start writes it anew
            kept = proposed(_study(hunt, family, _storage(tmp_path, where)))
            assert kept == alone
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "optuna.log"))
    for storage in (optuna.storages.JournalStorage(backend), url):
        trials = optuna.load_study(study_name="hunt/kan", storage=storage).trials
        assert len([trial for trial in trials if trial.value is not None]) == 10
    with pytest.raises(UsageError, match="--storage nowhere:"):
        _storage(tmp_path, "nowhere:")


def test_an_estimator_that_repeats_itself_does_not_end_a_small_search() -> None:
    """It may come to propose its best again and again."""
    family = ModelFamily("small", "quickstart_kan", {}, {"a": [1, 2], "b": [1, 2, 3]})
    sampler = optuna.samplers.PartialFixedSampler(
        {"a": 1, "b": 2}, optuna.samplers.RandomSampler(0)
    )
    study, tried = optuna.create_study(sampler=sampler), []
    for _ in range(6):
        tried.append(_propose(study, family, tried))
        study.tell(tried[-1].asked, 1.0)
    assert tried[0].choices == {"a": 1, "b": 2}
    assert len({tuple(trial.choices.values()) for trial in tried}) == 6
