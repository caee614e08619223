"""docs/peers.md and its figure, made from the record of peers.py: no measured number is typed.

    python benchmarks/peers_report.py
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from peers import PEERS

from agehelpers import paths
from agehelpers.data.labels import utkface_labels
from agehelpers.evaluation.bootstrap import confidence_interval
from agehelpers.evaluation.errors import cs
from agehelpers.evaluation.subgroups import by_subgroup
from agehelpers.evaluation.tables import add_clusters
from agehelpers.photos.estimator import PACKAGED
from agehelpers.plots import style
from agehelpers.training.records import load_record, with_labels

HERE = Path(__file__).resolve().parent
RECORD = HERE / "records" / "peers"
TRAINED_FOR = {"coral": "laptop_coral_0"}  # records of ours that were trained for a protocol, with test predictions
BASELINE = "median of the training ages"
GROUPINGS = ("age_band", "gender", "ethnicity")
NEUTRAL = "Ages by packages that bring their weights, on the same test pictures"
TEMPLATE = jinja2.Template((HERE / "peers.md").read_text(), trim_blocks=True, lstrip_blocks=True, autoescape=False,
                           undefined=jinja2.StrictUndefined)


def read(folder: Path = RECORD) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Predictions (a row a picture and protocol: labels, cluster, a column a peer, in years), peers, facts of a record.

    Two columns are added: the median of the training ages, and predictions of ours trained for the protocol.
    """
    labels = utkface_labels()
    facts = json.loads((folder / "facts.json").read_text())
    table = with_labels(pd.read_csv(folder / "predictions.csv").assign(part="test"), labels)
    table = add_clusters(table, labels).assign(median=lambda rows: rows["protocol"].map(facts["train_median"]))
    for protocol, name in TRAINED_FOR.items():
        own = load_record(name, labels).part("test").set_index("name")["prediction"]
        table[name] = table["name"].map(own).where(table["protocol"] == protocol)
    peers = pd.read_csv(folder / "peers.csv", dtype={"missed": "str", "seen": "str"})
    return table, peers.fillna({"missed": "", "seen": ""}), facts


def compared(peers: pd.DataFrame) -> list[dict[str, Any]]:
    """The peers, ours trained for a protocol, and the median: model (its column of predictions), title, given, seen."""
    more = [{"model": name, "title": f"agehelpers (trained for {protocol})", "given": "crop", "seen": "no"}
            for protocol, name in TRAINED_FOR.items()]
    known: list[dict[str, Any]] = peers.to_dict("records")  # type: ignore[assignment]
    return [*known, *more, {"model": "median", "title": BASELINE, "given": "", "seen": ""}]


def measured(table: pd.DataFrame, peers: pd.DataFrame, facts: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two tables in years, peers by rising error. A row a protocol and peer: protocol, model, title, given, n, missed,
    mae, low, high, cs5 (a share), balanced (mean of the age bands' MAE), seen; and a row for each of its subgroups:
    protocol, title, grouping, subgroup, n, mae.
    """
    rows, groups = [], []
    for protocol, pictures in table.groupby("protocol", sort=False):
        for peer in compared(peers):
            test = pictures.assign(prediction=pictures[peer["model"]]).dropna(subset="prediction")
            if test.empty:
                continue  # not meant for this protocol
            same = {"protocol": protocol, "title": peer["title"]}
            parts = [by_subgroup(test, key, resamples=2).rename(columns={key: "subgroup"}).assign(grouping=key, **same)
                     .query("n > 0 and subgroup != 'unknown'").astype({"subgroup": str}) for key in GROUPINGS]
            error, saw = (test["prediction"] - test["age"]).abs(), facts["ours_trained_on"][protocol]
            mean, low, high = confidence_interval(error, clusters=test["cluster"])
            seen = peer["seen"] if peer["model"] != "ours" else f"yes, {saw:,} of them" if saw else "no"
            rows.append(same | {"model": peer["model"], "given": peer["given"], "n": len(test), "cs5": cs(test),
                                "missed": len(pictures) - len(test), "mae": mean, "low": low, "high": high,
                                "balanced": parts[0]["mae"].mean(), "seen": seen})
            groups += [part.assign(mean=mean) for part in parts]
    found, by_group = (pd.concat([part[part["protocol"] == protocol].sort_values(key, kind="stable")
                                  for protocol in table["protocol"].unique()], ignore_index=True)
                       for part, key in ((pd.DataFrame(rows), "mae"), (pd.concat(groups), "mean")))
    return found, by_group[["protocol", "title", "grouping", "subgroup", "n", "mae"]]


def message(table: pd.DataFrame, found: pd.DataFrame) -> str:
    """What the figure says: who errs least on holdout, or which two alike (their difference, tested in pairs)."""
    rows = found[(found["protocol"] == "holdout") & (found["model"] != "median")]
    if len(rows) < 2:
        return NEUTRAL
    (first, second), names = rows["model"].head(2), [title.split(" (")[0] for title in rows["title"].head(2)]
    both = table[table["protocol"] == "holdout"].dropna(subset=[first, second])
    error = both[[first, second]].sub(both["age"], axis=0).abs()
    years = " and ".join(f"{mae:.1f}" for mae in rows["mae"].head(2)) + " years"
    if confidence_interval(error[first] - error[second], clusters=both["cluster"]).high >= 0:
        return f"{' and '.join(names)} err least on holdout, and alike: {years}"
    return f"{names[0]} errs least on holdout, {names[1]} next: {years}"


def show_errors(ax: Axes, found: pd.DataFrame, titles: list[str]) -> None:
    """MAE and its interval by peer (a row each) and protocol; hollow where the weights were trained on UTKFace."""
    looks = {"holdout": (style.MAIN, "o", -0.14), "coral": (style.SECOND, "s", 0.14)}
    for protocol, rows in found.groupby("protocol", sort=False):
        colour, marker, shift = looks[str(protocol)]
        for row in rows.to_dict("records"):
            y, filled = titles.index(row["title"]) + shift, not row["seen"].startswith("yes")
            ax.hlines(y, row["low"], row["high"], color=colour, linewidth=2)
            ax.plot(row["mae"], y, marker, color=colour, markerfacecolor=colour if filled else "white")
        ax.plot([], [], marker, color=colour, label=protocol)
    ax.plot([], [], "o", color=style.QUIET, markerfacecolor="white",
            label="trained on UTKFace, perhaps on these pictures")
    ax.set_yticks(range(len(titles)), titles)
    ax.set(ylim=(len(titles) - 0.5, -0.5), xlim=(0, None), xlabel="mean absolute error (years), 95 % interval")
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=9)


def figure(table: pd.DataFrame, found: pd.DataFrame, groups: pd.DataFrame) -> Figure:
    """Errors of all peers on both tests, and by age band on holdout; ours on coral by weights trained for it."""
    shown = found[~found["model"].eq("ours") | ~found["seen"].str.startswith("yes")].replace(
        {"title": {f"agehelpers (trained for {protocol})": PEERS["ours"].title for protocol in TRAINED_FOR}})
    titles = [*shown.loc[shown["model"] != "median", "title"].drop_duplicates(), BASELINE]
    bands = groups[(groups["protocol"] == "holdout") & (groups["grouping"] == "age_band")]
    names = sorted(bands["subgroup"].unique(), key=lambda name: int(name.split("-")[0].strip("+")))
    cells = bands.pivot(index="title", columns="subgroup", values="mae").loc[titles, names]
    drawn, (left, right) = plt.subplots(1, 2, figsize=(15, 1.6 + 0.42 * len(titles)), layout="constrained",
                                        width_ratios=(1, 1.15))
    show_errors(style.styled(left), shown, titles)
    style.heat_map(cells, "MAE (years)", right, (8, 5), annot=True, fmt=".1f", cmap="Blues", vmin=0, vmax=25)
    right.set(yticks=[], ylabel="", xlabel="age band (years), holdout")
    drawn.suptitle(message(table, found), fontsize=13)
    return drawn


def page(folder: Path = RECORD) -> tuple[str, Figure]:
    """docs/peers.md and its figure."""
    table, peers, facts = read(folder)
    found, groups = measured(table, peers, facts)
    missing = [peer.title for peer in PEERS.values() if peer.model not in set(peers["model"])]
    packaged = hashlib.sha256(PACKAGED.read_bytes()).hexdigest()
    text = TEMPLATE.render(measured=found, groups=groups, peers=peers, facts=facts, missing=missing, packaged=packaged)
    return text, figure(table, found, groups)


def main() -> None:
    """Write docs/peers.md and docs/peers.png."""
    matplotlib.use("Agg")
    text, drawn = page()
    paths.write_atomically(HERE.parent / "docs" / "peers.md", text)
    drawn.savefig(HERE.parent / "docs" / "peers.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
