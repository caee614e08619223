"""The label table: faults of a folder, the cache, and the facts of the real set."""

import io
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFile, ImageFilter
from scenes import STAMP, jpeg, name, picture, repeated

from agehelpers import paths
from agehelpers.data import labels
from agehelpers.data.labels import (
    build_labels,
    cached_labels,
    committed,
    index_folder,
    read_labels,
    utkface_labels,
    write_labels,
)
from agehelpers.data.names import ETHNICITIES
from agehelpers.data.splits import coral_list


def row(folder: Path, entry: str) -> pd.Series:
    table = build_labels(folder).set_index("name")
    return table.loc[entry]


# Faults in a folder: each is a row


def faulty_files() -> dict[str, tuple[bytes, str]]:
    whole = jpeg(picture(1, side=64))
    return {
        name(1): (b"", "empty file"),
        name(2): (whole[:-len(whole) // 3], "truncated: its data ends too early"),
        name(3): (b"these are words, not a picture", "not a picture"),
        name(4): (b"P5 1 1 255 \0", "not a picture"),  # PGM: not among the formats that are tried
        "notes.txt": (whole, "not named age_gender_ethnicity_timestamp.jpg"),
        name(130): (whole, "impossible age 130 (0 to 120 years)"),
    }


@pytest.mark.parametrize("entry", faulty_files())
def test_a_faulty_file_is_a_row_with_its_reason_and_stops_nothing(tmp_path, entry):
    content, reason = faulty_files()[entry]
    (tmp_path / entry).write_bytes(content)
    (tmp_path / name(40)).write_bytes(jpeg(picture(2)))
    table = build_labels(tmp_path).set_index("name")
    assert (table.loc[entry, "verdict"], table.loc[entry, "reason"]) == ("rejected", reason)
    assert table.loc[entry, ["age", "gender", "ethnicity", "timestamp", "cluster", "copies"]].isna().all()
    assert (table.loc[name(40), "verdict"], table.loc[name(40), "age"]) == ("ok", 40)


def test_a_damaged_picture_is_a_row(tmp_path):
    stream = io.BytesIO()
    picture(1, side=64).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[60:90] = bytes(30)
    (tmp_path / f"9_0_0_{STAMP}.png").write_bytes(data)
    assert row(tmp_path, f"9_0_0_{STAMP}.png")["reason"] == "damaged: cannot be decoded"


@pytest.mark.parametrize("error", [IndexError("index out of range"), struct.error("unpack"), MemoryError()])
def test_whatever_a_broken_picture_raises_is_a_row(tmp_path, monkeypatch, error):
    def broken(self):
        raise error

    (tmp_path / name(1)).write_bytes(jpeg(picture(1)))
    monkeypatch.setattr(ImageFile.ImageFile, "load", broken)
    assert row(tmp_path, name(1))["reason"] == "damaged: cannot be decoded"


def test_folders_links_and_pipes_named_like_pictures_are_rows(tmp_path):
    (tmp_path / name(1)).mkdir()
    (tmp_path / name(2)).symlink_to(tmp_path / "nowhere")
    (tmp_path / name(3)).symlink_to(tmp_path / name(3))
    os.mkfifo(tmp_path / name(4))
    (tmp_path / name(5)).write_bytes(jpeg(picture(1)))
    (tmp_path / name(6)).symlink_to(tmp_path / name(5))
    table = build_labels(tmp_path).set_index("name")
    assert table.loc[name(1), "reason"] == "a folder, not a picture"
    assert table.loc[name(2), "reason"] == "a link to nothing"
    assert table.loc[name(3), "reason"].startswith("not readable: ")
    assert table.loc[name(4), "reason"] == "not a regular file"
    assert table.loc[[name(1), name(2), name(3), name(4)], "sha256"].isna().all()
    assert table.loc[name(6), "verdict"] == "ok" and table.loc[name(6), "copies"] == 2


def test_a_file_without_permission_is_a_row(tmp_path, monkeypatch):
    (tmp_path / name(1)).write_bytes(jpeg(picture(1)))

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # the tests may run as root, whom nothing is denied
    assert row(tmp_path, name(1))["reason"] == "not readable: Permission denied"


@pytest.mark.parametrize("side", [9_000, 9_800, 13_500])  # silent, a warning, an error of PIL's own
def test_a_decompression_bomb_is_not_decoded(tmp_path, side, monkeypatch):
    stream = io.BytesIO()
    Image.new("1", (side, side)).save(stream, "PNG")
    (tmp_path / f"9_0_0_{STAMP}.png").write_bytes(stream.getvalue())

    def decoded(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "convert", decoded)
    assert row(tmp_path, f"9_0_0_{STAMP}.png")["reason"] == "oversized: more than 64 million pixels"


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / name(1)).open("wb") as stream:
        stream.truncate(200_000_000)  # sparse: takes no room on the disk
    assert row(tmp_path, name(1))["reason"] == "oversized: a file of more than 100 MB"


@pytest.mark.parametrize(("mode", "kind"), [
    ("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("I;16", "PNG")])
def test_other_colour_modes_are_fine(tmp_path, mode, kind):
    image = picture(3).convert("L").convert("I").convert("I;16") if mode == "I;16" else picture(3, mode=mode)
    image.save(tmp_path / name(20), kind, **({"transparency": b"\0\1"} if mode == "P" else {}))
    found = row(tmp_path, name(20))
    assert (found["verdict"], found["reason"], found["cluster"]) == ("ok", "", 0)


def test_names_that_cannot_be_printed_survive_the_table(tmp_path):
    odd = ["caf\udce9.jpg", "two\nlines.jpg", 'quo"te,.jpg', "NA", "back\rward.jpg"]
    folder = tmp_path / "faces"
    folder.mkdir()
    for entry in odd if sys.platform == "linux" else odd[2:4]:
        (folder / entry).write_bytes(b"words")
    table = build_labels(folder)
    assert table["name"].is_unique and (table["verdict"] == "rejected").all()
    pd.testing.assert_frame_equal(read_labels(write_labels(table, tmp_path / "labels.csv")), table)


def test_rows_are_sorted_and_hidden_entries_left_out(tmp_path):
    for entry in (name(9), name(10), name(100), ".DS_Store"):
        (tmp_path / entry).write_bytes(b"")
    assert build_labels(tmp_path)["name"].tolist() == [name(100), name(10), name(9)]


def test_only_a_folder_that_is_missing_or_empty_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder; .*agehelpers download"):
        build_labels(tmp_path / "nowhere")
    (tmp_path / ".hidden").write_text("")
    with pytest.raises(ValueError, match=r"is empty; name the folder that holds the faces themselves"):
        build_labels(tmp_path)
    with pytest.raises(NotADirectoryError, match=r"is a file; name the folder"):
        build_labels(tmp_path / ".hidden")


# Quality of the pictures


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


DOT = [[0] * 5, [0] * 5, [0, 0, 100, 0, 0], [0] * 5, [0] * 5]


@pytest.mark.parametrize(("levels", "brightness", "sharpness"), [
    ([[100] * 8] * 8, 100.0, 0.0),
    # Laplacian: -400 at the dot, 100 at its four neighbours, so a mean of 0: (400^2 + 4 * 100^2) / 25.
    (DOT, 4.0, 8000.0),
    # Beyond the edge lies what is before it: -360 at the dot, 180 at its neighbours; 259200 / 9 - (360 / 9)^2.
    ([[0, 0, 0], [0, 90, 0], [0, 0, 0]], 10.0, 27200.0),
    ([[0, 200] * 2, [200, 0] * 2] * 2, 100.0, 640000.0),  # 800 and -800: every neighbour is of the other colour
    ([[0, 0, 1]], 0.3, 1.6),  # 0, 1, -2: 5/3 - (1/3)^2 = 14/9
    ([[7]], 7.0, 0.0),
])
def test_brightness_and_sharpness_against_hand_derived_values(tmp_path, levels, brightness, sharpness):
    (tmp_path / name(20)).write_bytes(png(Image.fromarray(np.array(levels, np.uint8))))
    found = row(tmp_path, name(20))
    assert (found["brightness"], found["sharpness"]) == (brightness, sharpness)


@pytest.mark.parametrize(("colour", "brightness"), [((255, 0, 0), 76.0), ((0, 255, 0), 150.0), ((0, 0, 255), 29.0)])
def test_brightness_is_luma(tmp_path, colour, brightness):  # 0.299 R + 0.587 G + 0.114 B, whole levels
    (tmp_path / name(20)).write_bytes(png(Image.new("RGB", (4, 4), colour)))
    assert row(tmp_path, name(20))["brightness"] == brightness


def test_a_blurred_copy_is_as_bright_but_less_sharp(tmp_path):
    image = picture(1, side=64)
    for number, copy in enumerate([image, *(image.filter(ImageFilter.GaussianBlur(radius)) for radius in (1, 3))]):
        (tmp_path / name(20, number=number)).write_bytes(png(copy))
    table = build_labels(tmp_path)
    assert table["brightness"].max() - table["brightness"].min() < 2
    assert table["sharpness"].is_monotonic_decreasing and table["sharpness"].is_unique


def test_what_was_not_read_or_not_decoded_is_unknown(tmp_path):
    for entry, (data, _) in faulty_files().items():
        (tmp_path / entry).write_bytes(data)
    (tmp_path / name(5)).mkdir()
    with (tmp_path / name(6)).open("wb") as stream:
        stream.truncate(200_000_000)
    table = build_labels(tmp_path).set_index("name")
    read = [name(number) for number in (1, 2, 3, 4, 130)] + ["notes.txt"]
    assert table.loc[read, "bytes"].tolist() == [(tmp_path / entry).stat().st_size for entry in read]
    assert table.loc[[name(5), name(6)], "bytes"].isna().all()
    measured = table["brightness"].notna()
    assert set(table.index[measured]) == {name(130), "notes.txt"}  # decoded; rejected for their names
    assert table["sharpness"].notna().equals(measured)


def test_a_label_table_read_back_is_the_same_table(tmp_path):
    table = repeated(tmp_path)
    for entry, data in {f"39_1_{STAMP}.jpg": jpeg(picture(7)), name(99): b"", "NA": b"words"}.items():
        (tmp_path / entry).write_bytes(data)
    table = build_labels(tmp_path)
    again = read_labels(write_labels(table, tmp_path.parent / "labels.csv"))
    pd.testing.assert_frame_equal(again, table)
    assert table.dtypes.astype(str).to_dict() == labels._TYPES
    assert len(labels.usable(again)) == len(table) - 2


def test_report_counts_by_verdict_from_good_to_bad(tmp_path):
    for entry, data in {name(1): jpeg(picture(1)), name(2): jpeg(picture(2)), f"39_1_{STAMP}.jpg": jpeg(picture(3)),
                        f"5_1_1_{STAMP}jpg": jpeg(picture(4)), name(3): b"", name(4): b""}.items():
        (tmp_path / entry).write_bytes(data)
    assert labels.report(build_labels(tmp_path)).to_numpy().tolist() == [
        ["ok", "", 2], ["repaired", "no dot before the file type", 1],
        ["partial", "no ethnicity in the name", 1], ["rejected", "empty file", 2]]


def test_a_table_that_is_no_label_table_is_named(tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"other\.csv: cannot be used .*agehelpers index"):
        read_labels(tmp_path / "other.csv")
    (tmp_path / name(20)).write_bytes(jpeg(picture(1)))
    old = build_labels(tmp_path).drop(columns=["bytes", "brightness", "sharpness"])
    with pytest.raises(ValueError, match=r"old\.csv: cannot be used .*'brightness'.*make a label table with .*index"):
        read_labels(write_labels(old, tmp_path / "old.csv"))


# The cache and the committed table


def test_a_label_table_is_cached_until_the_folder_changes(faces, tmp_path, monkeypatch):
    folder = tmp_path / "faces"
    folder.mkdir()
    for file in sorted(faces.glob("*.jpg.chip.jpg"))[:10]:
        (folder / file.name).write_bytes(file.read_bytes())
    first = cached_labels(folder)
    assert [file.name[:7] for file in paths.cache_folder().iterdir()] == ["labels_"]
    with monkeypatch.context() as patch:
        patch.setattr(labels, "build_labels", None)  # calling it would fail
        pd.testing.assert_frame_equal(cached_labels(folder), first)
    for version in ("agehelpers.data.labels.VERSION", "agehelpers.data.decoder.VERSION"):
        with monkeypatch.context() as patch:
            patch.setattr(version, 99)
            cached_labels(folder)
    assert len(list(paths.cache_folder().iterdir())) == 3
    next(folder.iterdir()).unlink()
    assert len(cached_labels(folder)) == 9
    with pytest.raises(FileNotFoundError, match="no such folder"):
        cached_labels(tmp_path / "nowhere")


def test_without_the_repository_the_committed_table_says_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("AGEHELPERS_DATA", str(tmp_path))
    assert len(utkface_labels()) == 23_707  # pictures may lie elsewhere, what is committed lies in the checkout
    monkeypatch.setattr(paths, "checkout", lambda: None)
    with pytest.raises(FileNotFoundError, match=r"\.csv is not there: .*part of the repository.*AGEHELPERS_HOME"):
        utkface_labels()
    assert len(coral_list()) == 16_433  # comes with the package


def test_the_old_name_of_the_cluster_is_not_taken(tmp_path):
    (tmp_path / name(20)).write_bytes(jpeg(picture(1)))
    file = write_labels(build_labels(tmp_path).rename(columns={"cluster": "group"}), tmp_path / "old.csv")
    with pytest.raises(ValueError, match=r"old\.csv: cannot be used .*'cluster'.*make a label table with .*index"):
        read_labels(file)


# The real set


def check_facts(table: pd.DataFrame) -> None:
    """What is known of UTKFace, to the digit."""
    assert len(table) == 23_707
    assert table["verdict"].value_counts().to_dict() == {"ok": 23_699, "repaired": 5, "partial": 3}
    assert set(table.loc[table["verdict"] == "partial", "name"]) == {
        f"{stem}.jpg.chip.jpg" for stem in ("39_1_20170116174525125", "61_1_20170109142408075",
                                            "61_1_20170109150557335")}
    ages = table["age"]
    assert (ages.min(), ages.max(), ages.median(), round(ages.mean(), 1), round(ages.std(), 1)) == (
        1, 116, 29, 33.3, 19.9)
    assert ages.value_counts().head(5).to_dict() == {26: 2197, 1: 1123, 28: 918, 35: 880, 24: 859}
    assert round((ages % 5 == 0).mean() * 100, 1) == 25.4
    crossed = pd.crosstab(table["gender"], table["ethnicity"])
    assert crossed.loc["male", list(ETHNICITIES)].tolist() == [5477, 2317, 1575, 2261, 760]
    assert crossed.loc["female", list(ETHNICITIES)].tolist() == [4601, 2208, 1859, 1714, 932]
    copied = table[table["copies"] > 1]
    assert copied["sha256"].nunique() == 375 and len(copied) - 375 == 390
    differ = labels.conflicts(table)
    spread = differ["age_range"]
    assert [(spread > limit).sum() for limit in (0, 5, 10)] == [205, 94, 47] and spread.max() == 48
    assert (differ["gender_differs"].sum(), differ["ethnicity_differs"].sum()) == (40, 70)
    apart = labels.identical_pairs(table)["difference"]
    assert (len(apart), round(apart.mean(), 2), apart.median(), round((apart > 0).mean() * 100)) == (406, 4.12, 1, 54)
    assert (copied.groupby("sha256")["cluster"].nunique() == 1).all()
    assert 22_580 < table["cluster"].nunique() < 22_620  # near-identical pictures and other copies join some 715 more


def test_the_committed_label_table_holds_the_facts():
    check_facts(utkface_labels())


REAL = Path(os.environ.get("AGEHELPERS_FACES") or paths.data_folder() / "UTKFace")


@pytest.mark.skipif(not REAL.is_dir() or len(os.listdir(REAL)) < 23_000, reason="UTKFace is not unpacked here")
def test_the_real_set_gives_the_facts_and_the_committed_table():
    known = utkface_labels()
    table, copies = index_folder(REAL)
    # Kaggle's copy has one picture more than the 23,707 that the table was made from.
    table = table[table["name"].isin(known["name"])].reset_index(drop=True)
    check_facts(table)
    decoded = ["cluster", "brightness", "sharpness"]  # depend on the JPEG library: a pair or two, a last digit
    pd.testing.assert_frame_equal(table.drop(columns=decoded), known.drop(columns=decoded))
    pd.testing.assert_frame_equal(table[decoded[1:]], known[decoded[1:]], atol=0.2, rtol=0.02)
    listed = pd.read_csv(committed("copies.csv"))
    assert len(copies.merge(listed, on=["name_a", "name_b", "kind"])) > 0.99 * len(listed)
