import pytest

from benchmarks.speed.goals import Goal, layer_goals, step_goals
from benchmarks.speed.names import BARE_PRODUCTS, BOOSTED, KAN, ORIGINAL_MODEL, OURS


def layer_row(layer, ms, dtype="fp32", shape="192 -> 768"):
    return {"layer": layer, "ms": ms, "dtype": dtype, "shape": shape}


@pytest.mark.parametrize(
    ("goal", "met", "against"),
    [
        (Goal("a", 1.15, 1.15), True, "+0%"),
        (Goal("a", 1.15, 1.38), False, "+20%"),
        (Goal("a", 2.0, 1.5, at_most=False), False, "-25%"),
        (Goal("a", 2.0, 3.0, at_most=False), True, "+50%"),
        (Goal("a", 2.0, None), None, "not measured"),
    ],
)
def test_a_goal_says_whether_and_by_how_much(goal, met, against):
    assert goal.met is met
    assert goal.as_dict()["against the target"] == against


def test_the_layers_goals():
    rows = [
        layer_row(OURS, 110.0),
        layer_row(f"{OURS}, reference", 50.0),  # ours, but not what people get
        layer_row(BARE_PRODUCTS, 100.0),
        layer_row("inkan", 220.0),
        layer_row("flashkan", None),
        layer_row("Cox-de Boor, eager", 2200.0),
    ]
    products, rival = layer_goals(rows, on_gpu=False)
    assert (products.measured, products.target) == (pytest.approx(1.1), 1.15)
    assert (rival.measured, rival.target) == (pytest.approx(2.0), 1.3)
    assert "inkan" in rival.what
    *_, original = layer_goals([*rows, layer_row(OURS, 55.0, "bf16")], on_gpu=True)
    assert original.measured == pytest.approx(40)


def test_the_steps_goals():
    def row(model, ms, megabytes, dropout=0.2):
        return {"model": model, "ms": ms, "peak MB": megabytes, "dropout": dropout}

    rows = [
        row(KAN, 90.0, 50.0),
        row(KAN, 1.0, 1.0, 0.0),
        row(BOOSTED, 100.0, 100.0),
        row(ORIGINAL_MODEL, 900.0, None),
    ]
    step, original, memory = step_goals(rows, on_gpu=False)
    assert [goal.measured for goal in (step, original, memory)] == [0.9, 10.0, 0.5]
    assert (step.met, original.met, memory.met) == (True, False, True)
    assert all(goal.measured is None for goal in step_goals([], on_gpu=True))
