"""The parser of file names: every label is read back, and no text raises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agehelpers.data.names import ETHNICITIES, GENDERS, OLDEST, VERDICTS, Label, parse_name

STAMP = "20170109142408075"
stamps = st.text("0123456789", min_size=17, max_size=17)


@given(st.integers(0, OLDEST), st.integers(0, 1), st.integers(0, 4), stamps,
       st.sampled_from([".jpg.chip.jpg", ".jpg", ".jpeg", ".png", ".JPG"]))
def test_every_valid_label_is_read_back(age, gender, ethnicity, stamp, ending):
    label = parse_name(f"{age}_{gender}_{ethnicity}_{stamp}{ending}")
    assert (label.age, label.gender, label.ethnicity) == (age, GENDERS[gender], ETHNICITIES[ethnicity])
    assert (label.timestamp, label.verdict, label.reason) == (stamp, "ok", "")


@given(st.one_of(st.text(), st.from_regex(r"\d+_\d*_\d*_\d*.*\.jpg", fullmatch=True)))
def test_no_text_raises_and_each_has_a_verdict(text):
    label = parse_name(text)
    assert label.verdict in VERDICTS
    assert (label.reason == "") == (label.verdict == "ok")
    assert (label.age is None) == (label.gender is None) == (label.verdict == "rejected")


@pytest.mark.parametrize(("text", "label"), [
    ("24_0_1_20170116220224657 .jpg.chip.jpg", (24, "male", "Black", "repaired", "space before the file type")),
    ("55_0_0_20170116232725357jpg.chip.jpg", (55, "male", "White", "repaired", "no dot before the file type")),
    ("14_0_0_2017011022340900.jpg.chip.jpg", (14, "male", "White", "repaired", "time stamp of 16 digits, not 17")),
    ("28_1_2_201701161846515488.jpg.chip.jpg",
     (28, "female", "Asian", "repaired", "time stamp of 18 digits, not 17")),
    ("39_1_20170116174525125.jpg.chip.jpg", (39, "female", None, "partial", "no ethnicity in the name")),
    ("61_1_20170109150557335jpg.chip.jpg",
     (61, "female", None, "partial", "no ethnicity in the name, no dot before the file type")),
])
def test_published_oddities_are_repaired_or_kept_in_part(text, label):
    found = parse_name(text)
    assert (found.age, found.gender, found.ethnicity, found.verdict, found.reason) == label


@pytest.mark.parametrize(("text", "reason"), [
    (f"-4_0_0_{STAMP}.jpg", "impossible age -4 (0 to 120 years)"),
    (f"121_0_0_{STAMP}.jpg", "impossible age 121 (0 to 120 years)"),
    (f"30_2_0_{STAMP}.jpg", "impossible gender 2 (0 male, 1 female)"),
    (f"30_1_5_{STAMP}.jpg", "impossible ethnicity 5 (0 to 4)"),
    ("portrait.jpg", "not named age_gender_ethnicity_timestamp.jpg"),
    ("25_0_1.jpg", "not named age_gender_ethnicity_timestamp.jpg"),
    (f"25_0_1_{STAMP[:15]}.jpg", "not named age_gender_ethnicity_timestamp.jpg"),
    (f"25_0_1_{STAMP}.txt", "not named age_gender_ethnicity_timestamp.jpg"),
    (f"25_0_1_{STAMP}.jpg.chip.jpg.part", "not named age_gender_ethnicity_timestamp.jpg"),
    (f"faces/25_0_1_{STAMP}.jpg", "not named age_gender_ethnicity_timestamp.jpg"),
    (f"٢٥_0_1_{STAMP}.jpg", "not named age_gender_ethnicity_timestamp.jpg"),
])
def test_impossible_labels_and_other_names_are_rejected_with_their_value(text, reason):
    assert parse_name(text) == Label("rejected", reason)
