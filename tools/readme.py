"""What is generated from the committed records: blocks of README and docs/, the model card, pages and figures.

    python -m tools.readme
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from agehelpers import paths, plots
from agehelpers.config import load_config
from agehelpers.data.faces import faces_folder
from agehelpers.data.labels import label_error, utkface_labels
from agehelpers.data.splits import make_split, split_hash
from agehelpers.evaluation import comparison, label_quality
from agehelpers.evaluation.errors import balanced_mae, bias, cs, running_median
from agehelpers.evaluation.intervals import coverage
from agehelpers.evaluation.methods import summary
from agehelpers.evaluation.subgroups import by_subgroup, citable
from agehelpers.photos.estimator import PACKAGED
from agehelpers.training.records import Record, load_record
from agehelpers.training.runs import latest_run
from tools import ablation, methods
from tools.plan import PLAN

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).resolve().parent / "templates"), undefined=jinja2.StrictUndefined,
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False)
PAGES = {"README.md": ("headline",), "docs/results.md": ("results", "start", "intervals"),
         "docs/recipe.md": ("ablation",),
         "docs/related_works.md": ("methods",)}  # blocks of each page; a block is a template and a function below
RECIPES: tuple[dict[str, str], ...] = (  # families of records on `holdout`, ours on the same network first
    {"laptop_lite0": "ours", "laptop_holdout": "ours on a larger network, the profile `laptop`",
     "start_printed": "the starting point's, as printed",
     "start_tuned": "the same at the best cell of its own grid", "scratch_holdout": "ours from random weights"},
    {"gpu_scratch": "ours, growing from 128 to 224 pixels", "reference_scratch": "the starting point's, as printed"})
FIGURE = "laptop_holdout_0"  # record that the figure and the page of subgroups show


def render(template: str, **values: Any) -> str:
    """The template of that name, filled in; an unknown name in it is an error."""
    return TEMPLATES.get_template(f"{template}.md").render(**values)


def marker(name: str, end: bool = False) -> str:
    """The comment in a page where the block `name` begins or ends."""
    return f"<!-- {name}: end -->" if end else f"<!-- {name}: begin (python -m tools.readme) -->"


def with_block(text: str, block: str, begin: str, end: str) -> str:
    """`text` with `block` between its two markers; ValueError where they are missing."""
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page lacks the markers {begin} and {end}")
    return f"{before}{begin}\n\n{block.strip()}\n\n{end}{after}"


def planned_records() -> list[Record]:
    """Records of the plan that have predictions; others in the folder are their maker's own."""
    return comparison.training_records({one.name for one in PLAN})


def headline_block() -> str:
    """Markdown: our error on `holdout` in a sentence, and what to hold it against."""
    labels = utkface_labels()
    rows = comparison.summary(planned_records(), labels).set_index("family")
    both = {"start_printed", "laptop_lite0"} <= set(rows.index)  # the same network
    return render("headline", ours=rows.loc["laptop_holdout"], label_error=label_error(labels),
                  start=rows.loc["start_printed"] if both else None, small=rows.loc["laptop_lite0"] if both else None)


def results_block() -> str:
    """Markdown: the error of each family of records, what is planned and not measured, and published figures."""
    labels = utkface_labels()
    measured = comparison.summary(planned_records(), labels)
    families = {one.family: one for one in PLAN if one.kind == "train" and one.family not in set(measured["family"])}
    return render("results", measured=measured.to_dict("records"), label_error=label_error(labels),
                  published=comparison.published().to_dict("records"),
                  missing={name: load_config(one.profile, one.settings) for name, one in families.items()})


def start_block() -> str:
    """Markdown: the starting point's recipe and ours, on the same test pictures, network by network."""
    labels, published = utkface_labels(), comparison.published()
    split = split_hash(make_split(labels, "holdout"))
    family, made, tables = {one.name: one.family for one in PLAN}, planned_records(), []
    for recipes in RECIPES:
        found = {name: [one for one in made if family[one.name] == name and one.facts["split"] == split]
                 for name in recipes}
        measured = {name: records for name, records in found.items() if records}
        table = comparison.against(measured, labels) if measured else pd.DataFrame(columns=["recipe"])
        tables.append(render(
            "start", rows=table.to_dict("records"), recipes=recipes,
            configs={name: records[0].settings for name, records in measured.items()},
            missing=[name for name in recipes if name not in set(table["recipe"])],
            reported=published.loc[published["method"].str.contains("starting point"), "mae"].item()))
    return "\n".join(tables)


def ablation_block() -> str:
    """Markdown: what each part of the recipe is worth, from the records of `ablation.TABLES` that are there."""
    names = [name for name in ablation.TABLES if (paths.records_folder() / name).is_dir()]
    return render("ablation", tables={name: load_record(name).tables["effects"].to_dict("records") for name in names})


def methods_block() -> str:
    """Markdown: the comparisons of methods that are there, by rising error on the same test pictures."""
    names = [name for name in methods.TABLES if (paths.records_folder() / name / "tests.csv.gz").is_file()]
    return render("methods", tables={name: summary(load_record(name).tables["tests"], utkface_labels()).to_dict(
        "records") for name in names})


def intervals_block() -> str:
    """Markdown: coverage and width of the prediction intervals of each record."""
    table = comparison.coverage_table(planned_records(), utkface_labels())
    return render("intervals", records={name: rows.to_dict("records") for name, rows in table.groupby(
        "record", sort=False)})


def model_card() -> str:
    """Markdown card of the packaged weights, from the record `laptop_packaged`."""
    labels, record = utkface_labels(), load_record("laptop_packaged")
    test = comparison.test_part(record, labels)
    old = test[test["age"] >= 70]
    rows = [{"name": getattr(row, key), "row": row} for key in ("age_band", "gender", "ethnicity")
            for row in by_subgroup(test, key).itertuples()]
    return render(
        "model_card", file=PACKAGED.name, facts=record.facts, settings=record.settings, weights=record.facts["weights"],
        mae=comparison.interval_of(test, "MAE"), balanced=balanced_mae(test),
        plain_mae=(test.get("plain", test["prediction"]) - test["age"]).abs().mean(),
        tau=record.facts.get("decoding", {}).get("tau"), cs5=comparison.interval_of(test, "CS@5"), subgroups=rows,
        label_error=label_error(labels), baseline=comparison.baseline_of(record),
        coverage=coverage(test).to_dict("records"), old_coverage=coverage(old, levels=[0.9])["coverage"].item(),
        beyond=1 - cs(test, 10), old_bias=bias(old))


def subgroup_page(name: str = FIGURE) -> str:
    """Markdown page: error of one record by subgroup, with intervals and corrected tests, to be cited."""
    record = load_record(name)
    test = comparison.test_part(record, utkface_labels())
    table = citable(test)
    bands = {key: ", ".join(table.attrs["strata"].get(key, ["none"])) for key in ("gender", "ethnicity")}
    return render("error_by_subgroup", name=name, facts=record.facts, settings=record.settings, n=len(test),
                  clusters=test["cluster"].nunique(), bands=bands, columns=list(table),
                  rows=table.itertuples(index=False))


def suspected_labels() -> pd.DataFrame:
    """`label_quality.suspects` from the out-of-fold predictions of the benchmark's splits that have a record."""
    benchmark = [record.predictions for record in planned_records() if record.name.startswith("laptop_benchmark")]
    found = label_quality.suspects(label_quality.out_of_fold(benchmark), utkface_labels())
    return found.round({"prediction": 1, "spread": 1})


def updated(text: str, names: Sequence[str]) -> str:
    """The page `text` with its generated blocks `names` as the records say."""
    blocks = {"headline": headline_block, "results": results_block, "start": start_block, "ablation": ablation_block,
              "methods": methods_block, "intervals": intervals_block}
    for name in names:
        text = with_block(text, blocks[name](), marker(name), marker(name, end=True))
    return text


def strip(shown: int = 8) -> Figure:
    """Drawn faces of many ages, with the prediction of a network that learned from others, and its 90 % interval."""
    config = load_config("ci")
    test = latest_run(config).part("test").sort_values("age")
    test = test.iloc[[round((number + 0.5) / shown * len(test)) for number in range(shown)]]
    titles = [f"drawn as {row.age}:\n{row.prediction:.0f} ({row.lower_90:.0f} to {row.upper_90:.0f})"
              for row in test.itertuples()]
    return plots.face_grid([faces_folder(config) / name for name in test["name"]], titles, columns=shown)


def figures(name: str = FIGURE) -> dict[str, Figure]:
    """The figures of README and docs/ by the names of their files."""
    labels, record = utkface_labels(), load_record(name)
    test = comparison.test_part(record, labels)
    baseline, label = comparison.baseline_of(record), label_error(labels)
    references = [(baseline, f"median baseline: {baseline:.2f} years"),
                  (label, f"label error, an estimate: {label:.1f} years")]
    shown, (left, right) = plt.subplots(1, 2, figsize=(12.5, 4.8), layout="constrained", width_ratios=(1.15, 1))
    plots.predicted_against_true(test, running_median(test), ax=left)
    plots.error_by_subgroup(by_subgroup(test, "age_band"), "mae", references, ax=right)
    start = record.settings["weights"] or "trained from scratch"
    shown.suptitle(f"Record {name}: test pictures of UTKFace; {record.settings['backbone']}, {start}")
    ours = comparison.summary(planned_records(), labels)
    ours = ours[ours["family"] != "laptop_packaged"]
    return {"faces": strip(), "results": shown,
            "published": plots.published_comparison(ours, comparison.published(), label)}


def update(root: Path) -> None:
    """Write the blocks of README and docs/, figures and page of subgroups, the model card, the suspected labels."""
    texts = {root / page: updated((root / page).read_text(), names) for page, names in PAGES.items()}
    texts |= {PACKAGED.with_name("README.md"): model_card(), root / "docs" / "error_by_subgroup.md": subgroup_page(),
              root / "data" / "suspected_labels.csv": suspected_labels().to_csv(index=False)}
    for name, figure in figures().items():
        with paths.replacing(root / "docs" / f"{name}.png") as part:
            figure.savefig(part, format="png", dpi=110, bbox_inches="tight")
    for file, text in texts.items():
        paths.write_atomically(file, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write all that is generated; 1 where something is missing."""
    argparse.ArgumentParser("tools.readme", description=__doc__).parse_args(arguments)
    plt.switch_backend("Agg")
    update(Path(__file__).resolve().parent.parent)
    print("README.md, docs/, data/suspected_labels.csv and the model card written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
