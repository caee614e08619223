"""The comparison of methods: the same budget for all, each at the rate that selection chose, judged on a test."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from agehelpers import paths
from agehelpers.config import load_config
from agehelpers.methods.table import METHODS
from agehelpers.training.records import read_record
from tools import ablation, methods
from tools.ablation import Table
from tools.plan import PLAN, Planned, state, table_of


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    """A record of rates in which 0.003 was best for l1, and a row's own rate for all others."""
    rows = methods.rates().rows
    folder = paths.records_folder() / "methods_rates"
    paths.write_json(folder / "config.json", {"rows": rows})
    val = [4.0 if name.startswith("l1") and settings["lr"] == 0.003 else 6 + abs(settings["lr"] - 0.001)
           for name, settings in rows.items()]
    pd.DataFrame({"row": list(rows), "val_mae": val}).to_csv(folder / "runs.csv", index=False)


def test_each_method_is_tried_at_three_rates_or_more_once():
    table = methods.rates()
    base = table.budgeted(load_config("laptop"))
    configs = [dataclasses.replace(base, **row) for row in table.rows.values()]
    more = sum(map(len, methods.FURTHER.values()))
    assert len(configs) == 3 * (1 + len(methods.COMPARED)) + more and base.protocol == "selection"
    assert all(one != other for place, one in enumerate(configs) for other in configs[:place])
    assert {one.lr for one in configs if one.head == "coral"} == {0.00033, 0.001, 0.003}
    assert {(one.image_size, one.epochs, one.rotation, one.auxiliary) for one in configs} == {(72, 3, 15, 0)}


def test_the_rates_that_selection_chose_are_compared_on_the_test(chosen):
    table = methods.heads()
    assert {name: row["lr"] for name, row in table.rows.items() if row["lr"] != 0.001} == {"l1": 0.003}
    base = table.budgeted(load_config("laptop"))
    assert (base.protocol, base.epochs, table.part, table.seeds) == ("holdout", 5, "test", (0, 1, 2))
    heads = [(row.get("head"), row.get("front")) for row in table.rows.values()]
    assert {head for head, _ in heads} == {row.head for row in METHODS.values()}
    assert dataclasses.replace(base, **table.rows["ssrnet"]).weights is None


def test_networks_start_from_random_weights():
    table = methods.networks()
    base = table.budgeted(load_config("laptop"))
    starts = {name: dataclasses.replace(base, **row).weights for name, row in table.rows.items()}
    assert {name for name, weights in starts.items() if weights} == {"base", "Lite1, from ImageNet",
                                                                      "Lite2, from ImageNet"}
    assert {"resnet50", "dex", "vit", "seresnet"} < set(starts)


def test_every_related_work_was_trained_on_real_pictures():
    cited = {name for name, row in METHODS.items() if row.cited}
    assert len(cited) == 11 and cited <= {*methods.COMPARED, *methods.FROM_SCRATCH}
    committed = Path(__file__).parents[2] / "data" / "records"
    records = [read_record(committed / name) for name in ("methods_heads", "methods_networks")]
    assert cited <= {row for record in records for row in record.tables["runs"]["row"]}


def test_without_the_rates_the_comparison_is_still_to_come():
    with pytest.raises(FileNotFoundError):
        table_of("methods_heads")
    assert table_of("laptop_balance") is ablation.TABLES["laptop_balance"]
    planned, = (one for one in PLAN if one.name == "methods_heads")
    assert isinstance(planned, Planned) and state(planned) != "made"


def test_a_comparison_keeps_the_predictions_on_the_test(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "BASE", {"epochs": 1, "image_size": 16, "batch_size": 16})
    config = load_config("ci", {"faces": str(faces)})
    table = Table({"base": {}, "linear": {"head": "regression"}}, {"batch_size": 24}, (0,), "test")
    ablation.ablate(config, tmp_path / "record", table, workers=1)
    tests, runs = (pd.read_csv(tmp_path / "record" / f"{name}.csv") for name in ("tests", "runs"))
    assert list(tests) == ["name", "age", "base, 0", "linear, 0"] and tests["name"].is_unique
    mae = (tests["base, 0"] - tests["age"]).abs().mean()
    assert runs.set_index("row").loc["base", "val_mae"] == pytest.approx(mae, abs=0.01)
    split = ablation.prepare_faces(config).table.set_index("name")["part"]
    assert set(split[tests["name"]]) == {"test"}
