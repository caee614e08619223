"""Several records side by side: error, coverage, published figures, and yardsticks for all of them."""

import re
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from agehelpers import paths
from agehelpers.data.bands import age_band, balanced_mean
from agehelpers.data.labels import committed, label_error
from agehelpers.data.splits import PROTOCOLS, make_split
from agehelpers.evaluation.bootstrap import ConfidenceInterval, confidence_interval
from agehelpers.evaluation.errors import mae, median_baseline
from agehelpers.evaluation.intervals import coverage, expected_coverage
from agehelpers.evaluation.tables import add_clusters, errors
from agehelpers.training.records import Record, read_record


def published() -> pd.DataFrame:
    """Published figures: columns protocol, method, start, mae, sd (years), source, how_known."""
    return pd.read_csv(committed("published.csv"))


def training_records(names: Container[str] | None = None, labels: pd.DataFrame | None = None) -> list[Record]:
    """Kept records that have predictions (all, or of these `names`, or of faces in `labels`), by protocol and name."""
    folders = [file.parent for file in sorted(paths.records_folder().glob("*/predictions.csv*"))]
    found = [read_record(one) for one in folders if names is None or one.name in names]
    return sorted((one for one in found if labels is None or one.predictions["name"].isin(labels["name"]).all()),
                  key=_place)


def _place(record: Record) -> int:
    return list(PROTOCOLS).index(record.settings["protocol"])


def _hardware(facts: dict[str, Any]) -> str:
    machine = facts["hardware"]
    return machine["card"] or f"{machine['threads']} of {machine['cores']} CPU cores, {facts['precision']}"


def test_part(record: Record, labels: pd.DataFrame) -> pd.DataFrame:
    """Test predictions of a record, with the clusters of the label table."""
    return add_clusters(record.part("test"), labels)


def baseline_of(record: Record) -> float:
    """Test MAE in years of always predicting the training median."""
    return mae(median_baseline(record.predictions, record.facts["train_median"]))


def yardstick_note(protocol: str, labels: pd.DataFrame) -> str:
    """Median baseline on all validation pictures of a protocol's first split, and label error, for a figure's title."""
    rows = labels.merge(make_split(labels, protocol), on="name")
    training, validation = (rows.loc[rows["part"] == part, "age"] for part in ("train", "validation"))
    baseline = (validation - training.median()).abs().mean()
    return f"median baseline {baseline:.2f} years, label error (an estimate) {label_error(labels):.2f} years"


def interval_of(test: pd.DataFrame, metric: str) -> ConfidenceInterval:
    """MAE in years or CS@5 as a share, with its 95 % interval over clusters of pictures."""
    error = np.abs(errors(test))
    return confidence_interval(error if metric == "MAE" else error <= 5, clusters=test["cluster"])


def summary(records: Sequence[Record], labels: pd.DataFrame) -> pd.DataFrame:
    """One row a family of records (one recipe on several splits or seeds): the mean, never the best.

    Records are a family where their names are alike but for a number at the end. Columns family, protocol, runs,
    network, splits, of ("splits" or "seeds": what differs), pictures (test), baseline (median baseline's MAE), training
    (mean minutes on each kind of hardware), and for mae (years) and cs5 (a share) the mean, _low, _high and _sd. For
    one run low and high are the 95 % bootstrap interval over test pictures and sd is NaN; for several they are the
    lowest and highest run, and sd is the standard deviation.
    Means too, in years: balanced, the balanced MAE, and by the decoding without adjustment for rare ages plain_mae and
    plain_balanced.
    """
    families: dict[str, list[Record]] = {}
    for record in sorted(records, key=_place):
        families.setdefault(re.sub(r"_\d+$", "", record.name), []).append(record)
    return pd.DataFrame([_family_row(family, members, labels) for family, members in families.items()])


def _family_row(family: str, members: list[Record], labels: pd.DataFrame) -> dict[str, object]:
    facts = members[0].facts
    config = facts["config"]
    times = pd.Series([one.facts["training_seconds"] / 60 for one in members]).groupby(
        [_hardware(one.facts) for one in members], sort=False).mean()
    tests = [test_part(record, labels) for record in members]
    splits = list(dict.fromkeys(record.facts["split"] for record in members))
    row = {"family": family, "protocol": config["protocol"], "runs": len(members),
           "network": f"{config['backbone']}, {config['image_size']} px, {config['weights'] or 'from scratch'}",
           "splits": ", ".join(splits), "of": "splits" if len(splits) > 1 else "seeds",
           "pictures": round(np.mean([len(test) for test in tests])),
           "baseline": np.mean([baseline_of(record) for record in members]),
           "training": ", ".join(f"{minutes:.0f} min on {place}" for place, minutes in times.items())}
    for key, column in (("", "prediction"), ("plain_", "plain")):
        found = [(test.get(column, test["prediction"]) - test["age"]).abs() for test in tests]
        row |= {f"{key}mae": np.mean([error.mean() for error in found]), f"{key}balanced": np.mean(
            [balanced_mean(error, age_band(test["age"]).codes) for error, test in zip(found, tests, strict=True)])}
    for key, metric in (("mae", "MAE"), ("cs5", "CS@5")):
        intervals = [interval_of(test, metric) for test in tests]
        values = [interval.value for interval in intervals]
        low, high = intervals[0][1:] if len(values) == 1 else (min(values), max(values))
        row |= {key: np.mean(values), f"{key}_low": low, f"{key}_high": high,
                f"{key}_sd": np.std(values, ddof=1) if len(values) > 1 else np.nan}
    return row


def against(recipes: Mapping[str, Sequence[Record]], labels: pd.DataFrame) -> pd.DataFrame:
    """The first of some recipes and others on the same test pictures, each the mean of its runs (seeds).

    Columns recipe, runs, validation (MAE), mae (of the test), lowest, highest (of its runs), difference (years;
    positive: worse than the first) and the ends low and high of its 95 % interval: a paired bootstrap over clusters of
    the pictures' mean errors. It covers the choice of test pictures; how far seeds lie apart stands beside it.
    ValueError where the test pictures are not the same.
    """
    def absolute(records: Sequence[Record]) -> pd.DataFrame:
        tests = (test_part(record, labels).set_index("name") for record in records)
        return pd.concat([(test["prediction"] - test["age"]).abs() for test in tests], axis=1)

    tables = {recipe: absolute(records) for recipe, records in recipes.items()}
    (first, base), *_ = tables.items()
    clusters, rows = labels.set_index("name")["cluster"].reindex(base.index), []
    for recipe, error in tables.items():
        if set(error.index) != set(base.index) or error.isna().any(axis=None):
            raise ValueError(f"{recipe}: its test pictures are not those of {first}; compare records of one split")
        paired = confidence_interval((error.mean(axis=1) - base.mean(axis=1))[base.index], clusters=clusters)
        validation = [record.facts["mae"]["validation"] for record in recipes[recipe]]
        rows.append({"recipe": recipe, "runs": error.shape[1], "validation": np.mean(validation),
                     "mae": error.mean().mean(), "lowest": error.mean().min(), "highest": error.mean().max(),
                     **dict(zip(("difference", "low", "high"), paired, strict=True))})
    return pd.DataFrame(rows)


def coverage_table(records: Sequence[Record], labels: pd.DataFrame) -> pd.DataFrame:
    """Nominal and actual coverage of the intervals in the test part of each record, and their mean width.

    Columns record, calibration (pictures), then those of `intervals.coverage`, expected_low and expected_high
    (`intervals.expected_coverage`). "coral_published" leaks between its parts: left out.
    """
    tables = []
    for record in (one for one in records if one.facts["config"]["protocol"] != "coral_published"):
        table, n = coverage(test_part(record, labels)), record.facts["intervals"]["calibration"]
        table[["expected_low", "expected_high"]] = [
            expected_coverage(row["level"], n, row["n"]) for row in table.to_dict("records")]
        tables.append(table.assign(record=record.name, calibration=n))
    return pd.concat(tables, ignore_index=True)
