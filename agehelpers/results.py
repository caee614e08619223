"""The README's results and the model card, made from the committed records: no number there is typed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from agehelpers import analysis, causes, conformal, groups, paths
from agehelpers.ablation import load_ablation
from agehelpers.config import load_config
from agehelpers.index import label_error, read_index
from agehelpers.records import PACKAGED, PLAN
from agehelpers.runs import Record, read_record
from agehelpers.split import make_split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEGIN = "<!-- results: begin (python -m agehelpers results) -->"
END = "<!-- results: end -->"


def labels() -> pd.DataFrame:
    """The committed label table of UTKFace."""
    return read_index(paths.data_folder() / "utkface_labels.csv")


def published() -> pd.DataFrame:
    """Published figures: columns protocol, method, start, mae, sd (years), source, how_known."""
    return pd.read_csv(paths.data_folder() / "published.csv")


def training_records(folder: Path | None = None) -> list[Record]:
    """Records of the plan that have predictions, in its order; others in `folder` are their maker's own."""
    folder = Path(folder or paths.records_folder())
    names = [planned.name for planned in PLAN if (folder / planned.name / "predictions.csv").is_file()]
    return [read_record(folder / name) for name in names]


def test_part(record: Record, index: pd.DataFrame) -> pd.DataFrame:
    """Test predictions of a record, with the groups of identical pictures."""
    return analysis.add_groups(record.predictions[record.predictions["part"] == "test"], index)


def baseline_of(record: Record) -> float:
    """Test MAE in years of always answering the training median."""
    return analysis.mae(analysis.median_baseline(record.predictions, record.config["train_median"]))


def yardstick_note(protocol: str, index: pd.DataFrame) -> str:
    """Median baseline on all validation pictures of a protocol's first split, and label error, for a figure's title."""
    rows = index.merge(make_split(index, protocol), on="name")
    training, validation = (rows.loc[rows["part"] == part, "age"] for part in ("train", "validation"))
    baseline = (validation - training.median()).abs().mean()
    return f"median baseline {baseline:.2f} years, label error (an estimate) {label_error(index):.2f} years"


def interval_of(test: pd.DataFrame, metric: str) -> analysis.Interval:
    """MAE in years or CS@5 as a share, with its 95 % interval over groups of pictures."""
    error = np.abs(analysis.errors(test))
    return analysis.interval(error if metric == "MAE" else error <= 5, groups=test["group"])


def summary(records: list[Record], index: pd.DataFrame) -> pd.DataFrame:
    """One row a family of records (one recipe on several splits or seeds): the mean, never the best.

    Columns family, network, protocol, runs, splits, pictures (test), baseline (median baseline's MAE), minutes (of
    training, mean), place, and for mae (years) and cs5 (a share) the mean, _low, _high and _sd. For one run low and
    high are the 95 % bootstrap interval over test pictures and sd is NaN; for several they are the lowest and highest
    run, and sd is the standard deviation.
    """
    family_of = {planned.name: planned.family for planned in PLAN}
    families: dict[str, list[Record]] = {}
    for record in records:
        families.setdefault(family_of.get(record.name, record.name), []).append(record)
    rows = []
    for family, members in families.items():
        facts, config = members[0].config, members[0].config["config"]
        tests = [test_part(record, index) for record in members]
        row = {"family": family, "protocol": config["protocol"], "runs": len(members),
               "network": f"{config['backbone']}, {config['image_size']} px, {config['weights'] or 'from scratch'}",
               "splits": ", ".join(record.config["split"] for record in members),
               "pictures": round(np.mean([len(test) for test in tests])),
               "baseline": np.mean([baseline_of(record) for record in members]),
               "minutes": np.mean([record.config["training_seconds"] for record in members]) / 60,
               "place": facts["hardware"]["card"] or f"{facts['hardware']['threads']} of "
                                                     f"{facts['hardware']['cores']} CPU cores, {facts['precision']}"}
        for key, metric in (("mae", "MAE"), ("cs5", "CS@5")):
            found = [interval_of(test, metric) for test in tests]
            values = [one.value for one in found]
            low, high = found[0][1:] if len(found) == 1 else (min(values), max(values))
            row |= {key: np.mean(values), f"{key}_low": low, f"{key}_high": high,
                    f"{key}_sd": np.std(values, ddof=1) if len(values) > 1 else np.nan}
        rows.append(row)
    return pd.DataFrame(rows)


def coverage_table(records: list[Record], index: pd.DataFrame) -> pd.DataFrame:
    """Nominal and actual coverage of the intervals in the test part of each record, and their mean width.

    Columns record, calibration (pictures), then those of `conformal.coverage`, expected_low and expected_high (what
    95 % of draws would give, `conformal.expected_coverage`). "coral_published" leaks between its parts: left out.
    """
    tables = []
    for record in (one for one in records if one.config["config"]["protocol"] != "coral_published"):
        table, n = conformal.coverage(test_part(record, index)), record.config["intervals"]["calibration"]
        table[["expected_low", "expected_high"]] = [
            conformal.expected_coverage(row["level"], n, row["n"]) for row in table.to_dict("records")]
        tables.append(table.assign(record=record.name, calibration=n))
    return pd.concat(tables, ignore_index=True)


def coverage_block(folder: Path | None = None) -> str:
    """Markdown: coverage and width of the prediction intervals of each record."""
    table = coverage_table(training_records(folder), labels())
    lines = ["| record | calibration / test pictures | 80 % interval holds | 90 % | 95 % | "
             "mean width of 90 % (years) |",
             "|---|---|---|---|---|---|"]
    for name, rows in table.groupby("record", sort=False):
        held = " | ".join(f"{row.coverage:.1%} (chance: {row.expected_low:.1%} to {row.expected_high:.1%})"
                          for row in rows.itertuples())
        one = rows[rows["level"] == 0.9].iloc[0]
        lines.append(f"| `{name}` | {one['calibration']:,} / {one['n']:,} | {held} | {one['width']:.1f} |")
    return "\n".join(lines)


def group_page(name: str = "laptop_holdout", folder: Path | None = None) -> str:
    """Markdown page: error of one record by group, with intervals and corrected tests, to be cited."""
    record, index = read_record(Path(folder or paths.records_folder()) / name), labels()
    test, config = test_part(record, index), record.config["config"]
    table = groups.citable(test)
    ages = {key: ", ".join(table.attrs["strata"].get(key, ["none"])) for key in ("gender", "ethnicity")}
    rows = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    rows += ["| " + " | ".join(row) + " |" for row in table.itertuples(index=False)]
    return PAGE.format(record=name, split=record.config["split"], n=len(test), network=config["backbone"],
                       size=config["image_size"], protocol=config["protocol"], gender=ages["gender"],
                       ethnicity=ages["ethnicity"], start=config["weights"] or "trained from scratch",
                       sets=test["group"].nunique(), rows="\n".join(rows))


PAGE = """# Error by group

<!-- generated by python -m agehelpers results; do not edit -->

Record `{record}` ({network}, {size} px, {start}), protocol `{protocol}`, split `{split}`: the {n:,} test
pictures of UTKFace, in {sets:,} sets of identical or near-identical ones. Errors in years, prediction minus label; in
brackets 95 % percentile intervals of 1,000 bootstrap resamples of those sets. They cover the choice of test pictures,
not another seed, split or data set.

- *Gap*: MAE of the group minus that of all other test pictures. *q*: p of Welch's t-test on the gap (copies counted
  once), corrected (Benjamini and Yekutieli) for all age groups, or for all other rows, gaps of MAE and bias together.
- *At equal ages*: the group's MAE if its ages were those of all pictures, minus the MAE of all (direct
  standardisation); the intervals of one grouping hold together in 95 % of cases. *Gap to all* is the same difference
  with the ages as they are. Both are over the age groups that have at least ten pictures of every group compared, for
  genders {gender}, for ethnicities {ethnicity}; *used* is the share of a group's pictures that lie there.

Gender and ethnicity are what an annotator saw in a picture, in two and five classes, and the ages are estimates too. A
gap may come from the model, from the labels, from the pictures or from the choice of persons: this table cannot tell
which. It says nothing of a population, and nothing of a single person.

{rows}
"""


def suspected_labels(folder: Path | None = None) -> pd.DataFrame:
    """`causes.suspects` from the out-of-fold predictions of the benchmark's splits that have a record."""
    benchmark = [record for record in training_records(folder) if record.name.startswith("laptop_benchmark")]
    found = causes.out_of_fold([record.predictions for record in benchmark])
    return causes.suspects(found, labels()).round({"prediction": 1, "spread": 1})


def results_block(folder: Path | None = None) -> str:
    """Markdown: the error of each family of records, what is planned and not measured, and published figures."""
    index, folder = labels(), Path(folder or paths.records_folder())
    table = summary(training_records(folder), index)
    lines = ["| record | network | protocol | test pictures | MAE (years) | CS@5 | median baseline | training |",
             "|---|---|---|---|---|---|---|---|"]
    for row in table.itertuples():
        if row.runs == 1:
            mae, cs5 = f"{row.mae_low:.2f} to {row.mae_high:.2f}", f"{row.cs5_low:.1%} to {row.cs5_high:.1%}"
        else:
            mae, cs5 = (f"{row.runs} splits, sd {sd}" for sd in (f"{row.mae_sd:.2f}", f"{row.cs5_sd:.1%}"))
        lines.append(
            f"| `{row.family}` | {row.network} | {row.protocol} (split `{row.splits}`) | {row.pictures:,} | "
            f"**{row.mae:.2f}** ({mae}) | {row.cs5:.1%} ({cs5}) | {row.baseline:.2f} | "
            f"{row.minutes:.0f} min on {row.place} |")
    missing = {planned.family: planned for planned in PLAN if planned.kind == "train"
               and planned.family not in set(table["family"])}
    for family, planned in missing.items():
        config = load_config(planned.profile, planned.settings)
        lines.append(f"| `{family}` | {config.backbone}, {config.image_size} px, {config.weights or 'from scratch'} | "
                     f"{config.protocol} | | not measured | | | |")
    lines += ["", f"The label-error estimate (the mean difference of two labels of one picture, divided by the root of "
              f"two) is {label_error(index):.1f} years. Published figures on the same protocols:", "",
              "| protocol | method | starts from | MAE (years) | source | how known |", "|---|---|---|---|---|---|"]
    for other in published().to_dict("records"):
        spread = f" (sd {other['sd']:g})" if other["sd"] == other["sd"] else ""
        lines.append(f"| {other['protocol']} | {other['method']} | {other['start']} | {other['mae']:g}{spread} | "
                     f"{other['source']} | {other['how_known']} |")
    return "\n".join(lines)


def ablation_block(folder: Path | None = None) -> str:
    """Markdown: what each part of the recipe is worth, from the record `laptop_ablation`."""
    table = load_ablation("laptop_ablation", folder)[0]
    lines = ["| changed | validation MAE (years) | against the base (95 % interval) |", "|---|---|---|"]
    for row in table.itertuples():
        against = "" if row.row == "base" else f"{row.difference:+.2f} ({row.low:+.2f} to {row.high:+.2f})"
        lines.append(f"| {row.row} | {row.val_mae:.2f} | {against} |")
    return "\n".join(lines)


def model_card(folder: Path | None = None) -> str:
    """Markdown card of the packaged weights, from the record `laptop_packaged`."""
    index = labels()
    record = read_record(Path(folder or paths.records_folder()) / "laptop_packaged")
    config, weights, counts = record.config["config"], record.config["weights"], record.config["counts"]
    test = test_part(record, index)
    held = conformal.coverage(test)
    rows = ["| group | pictures | MAE (years, 95 % interval) | bias (years) | CS@5 |", "|---|---|---|---|---|"]
    for key in ("age_group", "gender", "ethnicity"):
        for row in analysis.by_group(test, key).itertuples():
            error = f"{row.mae:.2f} ({row.mae_low:.2f} to {row.mae_high:.2f})"
            rows.append(f"| {getattr(row, key)} | {row.n:,} | {error} | {row.bias:+.2f} | {row.cs5:.0%} |")
    return CARD.format(
        backbone=config["backbone"], size=config["image_size"], parameters=record.config["parameters"],
        megabytes=weights["bytes"] / 1e6, file=PACKAGED.name, split=record.config["split"], train=counts["train"],
        validation=counts["validation"], test=counts["test"],
        mae=interval_of(test, "MAE"), cs5=interval_of(test, "CS@5"), label=label_error(index),
        baseline=baseline_of(record), sha=weights["sha256"],
        calibration=counts["calibration"], covered=", ".join(f"{share:.1%}" for share in held["coverage"]),
        width=held.loc[held["level"] == 0.9, "width"].item(),
        old_covered=conformal.coverage(test[test["age"] >= 70], levels=[0.9])["coverage"].item(),
        beyond=1 - analysis.cs(test, 10), old=analysis.bias(test[test["age"] >= 70]),
        groups="\n".join(rows))


CARD = """# Model card: {file}

<!-- generated by python -m agehelpers results; do not edit -->

A small network that estimates an age from a face cropped as UTKFace crops it. `python -m agehelpers predict CROP.jpg`
uses it where no other checkpoint is named.

- **Network**: {backbone} at {size} x {size} pixels, a distribution over the ages 0 to 100, its median as the answer;
  {parameters:,} weights in half precision, {megabytes:.1f} MB (safetensors; reading it executes no code). SHA-256:
  `{sha}`.
- **Trained** from scratch on {train:,} pictures of UTKFace; {validation:,} others chose the epoch, {calibration:,} made
  the intervals, and {test:,} were read for the figures below only (protocol `holdout`, split `{split}`; identical
  pictures are kept together).
  Settings, history and every prediction: record `laptop_packaged`, made by these half-precision weights themselves.
- **Error on the test pictures**: MAE {mae:.2f} years, CS@5 {cs5:.1%}. Always answering the training median:
  {baseline:.2f} years. Labels alone are off by about {label:.1f} years, as far as identical pictures tell. In brackets
  95 % bootstrap intervals; they cover the choice of test pictures, not another seed or split.
- **Intervals**: `predict` gives conformal 80, 90 and 95 % intervals. Of the test pictures they held {covered}; the 90 %
  interval is {width:.1f} years wide on average. They promise nothing for pictures unlike UTKFace's, and less for some
  groups than for others: of the labels from 70 years on the 90 % interval held {old_covered:.0%}.
- **Intended use**: learning, and research on age estimation. **Not** for decisions about persons: no age limit, no
  identification, no law enforcement, no medicine. Of the test pictures' answers {beyond:.0%} are off by more than ten
  years.
- **Limits**: labels were estimated by an algorithm and checked by a person; other cameras, crops and populations give
  other errors; old people are few in the data (bias from 70 years on: {old:+.1f} years).
- **Licence**: the code is MIT. UTKFace, on which these weights were trained, is for **non-commercial research only**;
  use the weights under the same condition.

## Error by group

Gender and ethnicity are what an annotator saw in a picture, in two and five classes.

{groups}
"""


def with_block(text: str, block: str, begin: str = BEGIN, end: str = END) -> str:
    """`text` with `block` between its two markers; ValueError where they are missing."""
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"README.md lacks the markers {begin} and {end}")
    return f"{before}{begin}\n\n{block}\n\n{end}{after}"


def updated(text: str, folder: Path | None = None) -> str:
    """The README `text` with its generated blocks as the records in `folder` say."""
    text = with_block(text, results_block(folder))
    for name, block in (("ablation:", ablation_block(folder)), ("intervals:", coverage_block(folder))):
        text = with_block(text, block, BEGIN.replace("results:", name), END.replace("results:", name))
    return text


def update(readme: Path, name: str) -> None:
    """Write the README's blocks, figures and error by group in docs/, the model card, and the suspected labels."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from agehelpers import plots

    texts = {readme: updated(readme.read_text()), PACKAGED.with_name("README.md"): model_card(),
             readme.parent / "docs" / "error_by_group.md": group_page(name),
             paths.data_folder() / "suspected_labels.csv": suspected_labels().to_csv(index=False)}
    index = labels()
    record = read_record(paths.records_folder() / name)
    test = test_part(record, index)
    baseline = baseline_of(record)
    references = [(baseline, f"median baseline: {baseline:.2f} years"),
                  (label_error(index), f"label error, an estimate: {label_error(index):.1f} years")]
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 4.8), layout="constrained", width_ratios=(1.15, 1))
    plots.predicted_against_true(test, analysis.running_median(test), ax=left)
    plots.error_by_group(analysis.by_group(test, "age_group"), "mae", references, ax=right)
    start = record.config["config"]["weights"] or "trained from scratch"
    figure.suptitle(f"Record {name}: test pictures of UTKFace; {record.config['config']['backbone']}, {start}")
    _save(figure, readme.parent / "docs" / "results.png")
    ours = summary(training_records(), index)
    compared = plots.published_comparison(ours[ours["family"] != "laptop_packaged"], published(), label_error(index))
    _save(compared, readme.parent / "docs" / "published.png")
    for file, text in texts.items():
        paths.write_atomically(file, text)


def _save(figure: Figure, target: Path) -> None:
    """A figure as PNG, in full or not at all."""
    part = paths.temporary_beside(target)
    figure.savefig(part, format="png", dpi=110)
    part.replace(target)
