"""Splits: whole clusters, right shares, the same spread of ages, the same for any order of rows; committed lists."""

import gzip
import json
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agehelpers.data import splits
from agehelpers.data.labels import utkface_labels
from agehelpers.data.splits import PROTOCOLS, _strata, coral_list, leaks, make_split, naive_split, split_hash

PARTS = ["train", "validation", "calibration", "test"]
UTKFACE = utkface_labels()


def table(ages: list[int], clusters: list[int], verdicts: list[str] | None = None) -> pd.DataFrame:
    """A label table with what a split needs of it."""
    return pd.DataFrame({"name": [f"{age}_0_0_{row:017d}.jpg" for row, age in enumerate(ages)],
                         "age": pd.array(ages, "Int64"), "cluster": pd.array(clusters, "Int64"),
                         "verdict": verdicts or ["ok"] * len(ages)})


@st.composite
def label_tables(draw):
    """Any ages in any clusters, at least three."""
    rows = draw(st.lists(st.tuples(st.integers(0, 116), st.integers(0, 60)), min_size=3, max_size=150))
    clusters = [cluster for _, cluster in rows]
    clusters[:3] = [61, 62, 63]
    return table([age for age, _ in rows], clusters)


@settings(deadline=None, max_examples=60)
@given(label_tables(), st.integers(0, 5), st.randoms())
def test_any_clusters_stay_whole_and_the_order_of_rows_does_not_matter(labels, seed, random):
    split = make_split(labels, seed=seed)
    parts = labels.merge(split, on="name")
    assert len(parts) == len(labels) == len(split)
    assert (parts.groupby("cluster")["part"].nunique() == 1).all()
    assert {"train", "validation", "test"} <= set(parts["part"]) <= {"train", "validation", "calibration", "test"}
    assert leaks(labels, split) == 0
    order = random.sample(range(len(labels)), len(labels))
    renumbered = labels.assign(cluster=1000 - labels["cluster"]).iloc[order]
    pd.testing.assert_frame_equal(make_split(renumbered, seed=seed), split)


def test_shares_and_ages_of_utkface():
    parts = UTKFACE.merge(make_split(UTKFACE), on="name")
    shares = parts["part"].value_counts(normalize=True)
    assert [round(shares[part], 2) for part in PARTS] == [0.72, 0.04, 0.04, 0.20]
    decades = pd.crosstab(parts["age"] // 10, parts["part"], normalize="columns")
    assert (decades.sub(decades["train"], axis=0).abs() < 0.01).all(axis=None)  # the same spread of ages
    assert decades.shape == (12, 4)
    assert parts.loc[parts["verdict"] == "partial", "part"].notna().all()
    assert leaks(UTKFACE, make_split(UTKFACE)) == 0


def test_another_seed_is_another_split():
    first, again, other = (make_split(UTKFACE, seed=seed) for seed in (0, 0, 1))
    assert split_hash(first) == split_hash(again) != split_hash(other)
    assert leaks(UTKFACE, other) == 0 and len(other) == len(UTKFACE)
    first, other = (make_split(UTKFACE, "selection", seed) for seed in (0, 1))  # another keeps away from the tests too
    assert set(first["name"]) == set(other["name"]) and split_hash(first) != split_hash(other)
    assert leaks(UTKFACE, other) == 0
    assert (other["part"] == "validation").mean() == pytest.approx(0.2, abs=0.005)


@pytest.mark.parametrize("rows", [3, 4, 10, 24, 25, 26, 49, 50, 120, 300, 1000])
def test_tiny_sets_are_split_too(rows):
    split = make_split(table([row % 90 for row in range(rows)], list(range(rows))))
    counts = split["part"].value_counts().reindex(PARTS, fill_value=0)
    held = int(np.ceil(min(1 / 3, max(0.1, 50 / rows)) * (rows - counts["test"]) - 1e-9))  # twenty each, as far as so
    assert {120: 32, 300: 40, 1000: 80}.get(rows, held) == held
    assert counts["test"] == np.ceil(0.2 * rows)
    assert counts["calibration"] == (held + 1) // 2 if held > 1 else counts["calibration"] == 0  # one picture validates
    assert counts["validation"] == held - counts["calibration"] > 0


def test_strata_are_wide_enough_and_in_order_of_age():
    ages = pd.Series([1] * 30 + [12] * 10 + [31] * 20 + [90] * 3)
    assert _strata(ages).tolist() == [0] * 30 + [1] * 33
    assert set(_strata(ages[:30] // 30)) == {0} and set(_strata(ages[40:50])) == {0}


def test_rejected_rows_have_no_part():
    labels = table(list(range(20, 30)), list(range(10)), ["ok"] * 9 + ["rejected"])
    assert sorted(make_split(labels)["name"]) == sorted(labels["name"][:9])


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"unknown protocol 'hold-out'; known: holdout"):
        make_split(UTKFACE, "hold-out")
    with pytest.raises(ValueError, match=r"2 different pictures cannot be split in three parts"):
        make_split(table([1, 2, 3], [0, 0, 1]))
    assert list(PROTOCOLS) == ["holdout", "benchmark", "coral", "coral_published", "selection"]


def test_the_hash_names_the_split_not_its_order():
    split = pd.DataFrame({"name": ["b", "a"], "part": ["test", "train"]})
    # printf 'a\ttrain\nb\ttest' | sha256sum
    assert split_hash(split) == split_hash(split[::-1]) == "b58c6f546f22"
    assert split_hash(split.assign(part=["train", "train"])) != split_hash(split)


def test_leaks_against_hand_derived_values():
    labels = table([1, 2, 3, 4, 5], [0, 0, 1, 1, 2])
    split = pd.DataFrame({"name": labels["name"], "part": ["train", "test", "validation", "test", "test"]})
    assert leaks(labels, split) == 1  # the second picture; the third and fourth share a cluster outside training
    assert leaks(labels, split.assign(part=["train", "test", "train", "validation", "test"])) == 2


def test_a_naive_split_leaks():
    naive = naive_split(UTKFACE)
    assert [round(share, 3) for share in naive["part"].value_counts(normalize=True)] == [0.72, 0.2, 0.08]
    assert leaks(UTKFACE, naive) > 300
    pd.testing.assert_frame_equal(naive_split(UTKFACE[::-1]), naive)
    assert split_hash(naive_split(UTKFACE, seed=1)) != split_hash(naive)


def test_the_benchmark_has_five_splits_of_60_20_20():
    splits = [make_split(UTKFACE, "benchmark", seed) for seed in range(5)]
    for split in splits:
        shares = split["part"].value_counts(normalize=True)
        assert [round(shares[part], 2) for part in PARTS] == [0.60, 0.10, 0.10, 0.20]
        assert 23_000 < len(split) < len(UTKFACE) and leaks(UTKFACE, split) == 0
    assert len({split_hash(split) for split in splits}) == 5
    with pytest.raises(ValueError, match="five splits 0 to 4"):
        make_split(UTKFACE, "benchmark", 5)


def test_coral_keeps_the_published_test_and_takes_its_copies_out_of_training():
    published = coral_list().set_index("name")["part"]
    assert published.value_counts().to_dict() == {"train": 13_146, "test": 3_287}
    clean, leaking = (make_split(UTKFACE, name).set_index("name")["part"] for name in ("coral", "coral_published"))
    for split in (clean, leaking):
        assert set(split[split == "test"].index) == set(published[published == "test"].index)
        assert set(split[split != "test"].index) <= set(published[published == "train"].index)
        assert UTKFACE.set_index("name").loc[split.index, "age"].between(21, 60).all()
        for part in ("validation", "calibration"):
            assert (split == part).sum() / (split != "test").sum() == pytest.approx(0.05, abs=0.005)
    assert set(leaking.index) == set(published.index)  # as published, nothing left out
    assert leaks(UTKFACE, clean.reset_index()) == 0 and 190 < len(leaking) - len(clean) < 300
    other = make_split(UTKFACE, "coral", 1)  # by code: another validation, the same test
    assert leaks(UTKFACE, other) == 0 and set(other.loc[other["part"] == "test", "name"]) == set(
        published[published == "test"].index)


def test_the_leak_of_the_published_list_is_counted():
    split = make_split(UTKFACE, "coral_published")
    rows = split.merge(UTKFACE[["name", "sha256"]], on="name")
    test = rows["part"] == "test"
    assert rows.loc[test, "sha256"].isin(rows.loc[~test, "sha256"]).sum() == 84  # byte-identical, as in the facts
    assert leaks(UTKFACE, split) > 84  # and near-identical ones


def test_the_published_list_needs_the_whole_utkface():
    missing = 16_433 - coral_list()["name"].isin(UTKFACE["name"][:20_000]).sum()
    with pytest.raises(ValueError, match=f"{missing:,} of the 16,433 pictures .* needs the whole UTKFace"):
        make_split(UTKFACE[:20_000], "coral")


def test_selection_meets_no_test_of_the_first_splits():
    chosen = UTKFACE.merge(make_split(UTKFACE, "selection"), on="name")
    assert set(chosen["part"]) == {"train", "validation"} and len(chosen) > 12_000
    for protocol in ("holdout", "benchmark", "coral", "coral_published"):
        other = UTKFACE.merge(make_split(UTKFACE, protocol), on="name")
        assert not chosen["cluster"].isin(other.loc[other["part"] == "test", "cluster"]).any(), protocol
    assert leaks(UTKFACE, chosen[["name", "part"]]) == 0


@pytest.fixture
def no_code(monkeypatch):
    """Splitting by code fails."""
    monkeypatch.setattr(splits, "train_test_split", None)


@pytest.fixture
def lists(tmp_path, monkeypatch):
    """The committed lists, copied to be damaged; read anew."""
    for file in splits.UTKFACE_LISTS.parent.glob("utkface_splits.*"):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(splits, "UTKFACE_LISTS", tmp_path / splits.UTKFACE_LISTS.name)
    caches = splits._utkface_lists, splits._utkface_list
    [cached.cache_clear() for cached in caches]
    yield splits.UTKFACE_LISTS
    [cached.cache_clear() for cached in caches]


def test_splits_of_utkface_are_lists_that_no_library_makes(no_code):
    hashes = json.loads(splits.UTKFACE_LISTS.with_suffix(".json").read_text())
    assert len(hashes) == 9
    scrambled = UTKFACE.assign(cluster=0, age=7)[::-1]  # nothing but names counts
    for name, expected in hashes.items():
        protocol, _, seed = name.rpartition("_")
        assert split_hash(make_split(scrambled, protocol, int(seed))) == expected, name
    with pytest.raises(TypeError, match="not callable"):
        make_split(UTKFACE, seed=1)


def test_a_copy_of_utkface_with_a_few_pictures_more_or_less_has_the_lists(no_code):
    more = pd.concat([UTKFACE.drop(UTKFACE.index[::50]), table([30] * 400, [0] * 400)])
    for protocol in PROTOCOLS:
        whole = make_split(UTKFACE, protocol)
        expected = whole[whole["name"].isin(more["name"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(make_split(more, protocol), expected)
        assert len(expected) < len(whole)


OTHERS = table([30] * 2000, list(range(10**6, 10**6 + 2000)))


@pytest.mark.parametrize("rows", [UTKFACE[::2], pd.concat([UTKFACE, OTHERS])], ids=["half of it", "and 2,000 others"])
def test_other_sets_are_split_by_code_and_leave_nothing_out(rows):
    with pytest.warns(UserWarning, match="are UTKFace's, but the split is made by code"):
        split = make_split(rows)
    assert set(split["name"]) == set(rows["name"]) and leaks(rows, split) == 0
    assert (split["part"] == "test").mean() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("suffix", [".gz", ".json"])
@pytest.mark.parametrize("old, new", [
    (".chip.jpg,test", ".chip.jpg,train"), ("holdout_0", "holdout_9"), ("\n", "\r\n"), ("_0_0_", "_0_1_")])
def test_a_damaged_list_is_refused(lists, suffix, old, new):
    file = lists.with_suffix(suffix)
    packed, content = suffix == ".gz", file.read_bytes()
    whole = (gzip.decompress(content) if packed else content).decode()
    changed = whole.replace(old, new, 1).encode()
    file.write_bytes(gzip.compress(changed) if packed else changed)
    if old == "\n" or old not in whole:  # other ends of lines are no damage
        assert len(make_split(UTKFACE)) > 23_000
        return
    with pytest.raises(ValueError, match=r"utkface_splits.csv.gz or its .json is damaged .* list holdout_0 .* restore"):
        make_split(UTKFACE)


def test_lists_are_read_fast(lists):
    seconds = []
    for _ in range(3):
        [cached.cache_clear() for cached in (splits._utkface_lists, splits._utkface_list)]
        start = time.process_time()
        make_split(UTKFACE)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.2
