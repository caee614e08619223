"""The README's results block and figure, made from the committed records: no number there is typed."""

from __future__ import annotations

from pathlib import Path

from agehelpers import analysis, paths
from agehelpers.index import read_index
from agehelpers.runs import Record, read_record

BEGIN = "<!-- results: begin (python -m agehelpers results) -->"
END = "<!-- results: end -->"


def training_records(folder: Path) -> list[Record]:
    """Records with predictions in `folder`, by name."""
    return [read_record(file.parent) for file in sorted(Path(folder).glob("*/predictions.csv"))]


def results_block(folder: Path | None = None) -> str:
    """Markdown table of the test error of each record, with 95 % bootstrap intervals.

    Identical and near-identical pictures are resampled together, by the groups of the committed label table.
    """
    index = read_index(paths.data_folder() / "utkface_labels.csv")
    lines = ["| record | network | protocol | test pictures | MAE (years) | CS@5 | median baseline | training |",
             "|---|---|---|---|---|---|---|---|"]
    for record in training_records(folder or paths.records_folder()):
        config, facts = record.config["config"], record.config
        test = analysis.add_groups(record.predictions[record.predictions["part"] == "test"], index)
        table = analysis.overall(test).set_index("metric")
        mae, cs5 = table.loc["MAE"], table.loc["CS@5"]
        baseline = analysis.mae(analysis.median_baseline(record.predictions))
        start = config["weights"] or "from scratch"
        place = facts["hardware"]["card"] or f"{facts['hardware']['cores']} CPU cores"
        lines.append(
            f"| `{record.name}` | {config['backbone']}, {config['image_size']} px, {start} | {config['protocol']} "
            f"(split `{facts['split']}`) | {len(test):,} | **{mae['value']:.2f}** ({mae['low']:.2f} to "
            f"{mae['high']:.2f}) | {cs5['value']:.1%} ({cs5['low']:.1%} to {cs5['high']:.1%}) | {baseline:.2f} | "
            f"{facts['training_seconds'] / 60:.0f} min on {place} |")
    return "\n".join(lines)


def with_block(text: str, block: str) -> str:
    """`text` with `block` between its two markers; ValueError where they are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md lacks the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"


def update(readme: Path, name: str) -> None:
    """Write the block into `readme`, and the figure of the record `name` to docs/results.png beside it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from agehelpers import plots

    record = read_record(paths.records_folder() / name)
    index = read_index(paths.data_folder() / "utkface_labels.csv")
    test = analysis.add_groups(record.predictions[record.predictions["part"] == "test"], index)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 4.8), layout="constrained", width_ratios=(1.15, 1))
    plots.predicted_against_true(test, analysis.running_median(test), ax=left)
    baseline = analysis.mae(analysis.median_baseline(record.predictions))
    plots.error_by_group(analysis.by_group(test, "age_group"), "mae",
                         reference=(baseline, f"median baseline: {baseline:.2f} years"), ax=right)
    start = record.config["config"]["weights"] or "trained from scratch"
    figure.suptitle(f"Record {name}: test pictures of UTKFace; {record.config['config']['backbone']}, {start}")
    target = readme.parent / "docs" / "results.png"
    part = paths.temporary_beside(target)
    figure.savefig(part, format="png", dpi=110)
    part.replace(target)
    paths.write_atomically(readme, with_block(readme.read_text(), results_block()))
