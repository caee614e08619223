"""One HTML page of a record, its figures inside: how large the error is, for whom, and how sure predictions are."""

import base64
import io
from collections.abc import Callable
from contextlib import suppress
from html import escape

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from agehelpers import plots
from agehelpers.data.labels import subgroup_columns, utkface_labels
from agehelpers.evaluation import bootstrap, comparison, errors, findings, intervals, subgroups, tables
from agehelpers.training.records import Record

STYLE = ("body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}img{max-width:100%}"
         "table{border-collapse:collapse;font-size:90%}td,th{padding:.2em .6em;border-bottom:1px solid #ddd;"
         "text-align:right}th{font-weight:600}")
FACTS = ("profile", "protocol", "backbone", "weights", "head", "image_size", "epochs", "optimizer", "lr", "seed")


def _figure(draw: Callable[[Axes], object], width: float = 8, height: float = 4.4) -> str:
    """What `draw` draws, as an img element."""
    figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
    draw(ax)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100, metadata={"Software": None})
    plt.close(figure)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}">'


def _table(table: pd.DataFrame) -> str:
    return table.to_html(index=False, border=0, escape=True, na_rep="", float_format="{:.2f}".format)


def _test_part(record: Record) -> pd.DataFrame:
    """Test predictions; where these are UTKFace's, copies of one photo have one cluster.

    Names of subgroups are for figures: a dollar sign is one there, no formula.
    """
    predictions = record.predictions
    with suppress(FileNotFoundError, ValueError):  # the package is installed without the label table; other faces
        predictions = tables.add_clusters(predictions, utkface_labels())
    test = predictions[predictions["part"] == "test"]
    return test.assign(**{key: test[key].str.replace("$", r"\$") for key in subgroup_columns(test)})


def report(record: Record) -> str:
    """The page, HTML that needs no other file: settings, errors, subgroups, intervals, training; texts are escaped."""
    test, facts = _test_part(record), record.facts
    overall, by_age = errors.overall(test).set_index("metric"), subgroups.by_subgroup(test, "age_band")
    mae = bootstrap.ConfidenceInterval(*overall.loc["MAE", ["value", "low", "high"]])
    curves = {"this record": errors.cs_curve(test),
              "median baseline": errors.cs_curve(errors.median_baseline(record.predictions, facts["train_median"]))}
    found = intervals.coverage(test)
    held = pd.concat([intervals.coverage(test, key, levels=[0.9]).rename(columns={key: "subgroup"}).assign(
        subgroup=lambda rows: rows["subgroup"].astype("str")) for key in ("age_band", *subgroup_columns(test))])
    groups = [(key,) for key in subgroup_columns(test)]
    gaps = subgroups.gaps(test, groups) if groups else pd.DataFrame()
    parts = [
        ("How large the error is", f"{len(test):,} test pictures are off by {mae:.2f} years on average; always "
         f"predicting {facts['train_median']:.0f} years is off by {comparison.baseline_of(record):.2f}.",
         _table(overall.drop(index="n").reset_index()) + _figure(lambda ax: plots.cs_curves(curves, ax=ax)) + _figure(
             lambda ax: plots.predicted_against_true(test, errors.running_median(test), ax), 7, 5)),
        ("At which ages", f"{findings.ends(by_age)}. {findings.largest_error(by_age)}.", _table(by_age) + _figure(
            lambda ax: plots.error_by_subgroup(by_age, "mae", [(mae.value, "all ages")], ax))),
        *([("For whom", f"Of {len(gaps)} gaps between a subgroup and all others {(gaps['q'] < 0.05).sum()} are more "
            "than chance (false discovery rate 5 %); years, mae: larger error, bias: guessed older.", _figure(
                lambda ax: plots.forest(gaps, "subgroup", "gap", "low", "high", "measure", ax=ax),
                height=2 + 0.5 * gaps["subgroup"].nunique()))] if groups else []),
        ("How sure", "How often the intervals hold the label, and for whom those of 90 % do.", _table(found) + _figure(
            lambda ax: plots.forest(held, "subgroup", "coverage", "low", "high", references=[(0.9, "nominal")], ax=ax),
            height=1.5 + 0.35 * len(held))),
        ("How it was trained", "Error after each epoch.", _figure(
            lambda ax: plots.history_curve(record.history, ax=ax)))]
    settings = "".join(f"<li>{escape(key)}: {escape(str(facts['config'][key]))}</li>" for key in FACTS)
    body = "".join(f"<h2>{title}</h2><p>{escape(text)}</p>{shown}" for title, text, shown in parts)
    name = escape(record.name)
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{STYLE}</style>'
            f"<h1>{name}</h1><ul>{settings}<li>split: {escape(facts['split'])}</li></ul>{body}</html>\n")
