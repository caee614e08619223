"""Labels in the names of UTKFace's files, ``age_gender_ethnicity_timestamp.jpg``."""

import re
from typing import NamedTuple

GENDERS = ("male", "female")
ETHNICITIES = ("White", "Black", "Asian", "Indian", "Others")
ATTRIBUTES = {"gender": GENDERS, "ethnicity": ETHNICITIES}
VERDICTS = ("ok", "repaired", "partial", "rejected")
OLDEST = 120  # years; UTKFace ends at 116, and nobody known lived beyond 122

_NAME = re.compile(
    r"(?P<age>-?\d{1,9})_(?P<gender>\d{1,9})(?:_(?P<ethnicity>\d{1,9}))?_(?P<stamp>\d{16,18})"
    r"(?P<space> *)(?P<dot>\.?)(?:jpe?g|png)(?:\.chip\.(?:jpe?g|png))?", re.ASCII | re.IGNORECASE)


class Label(NamedTuple):
    """What a file's name says. `verdict` is one of `VERDICTS`; `reason` is empty when it is "ok"."""

    verdict: str
    reason: str
    age: int | None = None  # years
    gender: str | None = None
    ethnicity: str | None = None
    timestamp: str | None = None


def parse_name(name: str) -> Label:
    """Label of a face from its file's own name, ``age_gender_ethnicity_timestamp.jpg`` (``.jpg.chip.jpg``, ``.png``).

    Faults known from the published UTKFace are repaired where the label stays certain: a space before ``.jpg``,
    no dot before ``jpg``, a time stamp of 16 or 18 digits for 17. Without an ethnicity the verdict is "partial".
    Gender 0 is male, 1 female; ethnicity 0 to 4 is White, Black, Asian, Indian, Others. No text raises an error.

    Examples
    --------
    >>> parse_name("25_0_1_20170101000000000.jpg").ethnicity
    'Black'
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return Label("rejected", "not named age_gender_ethnicity_timestamp.jpg")
    age, gender, ethnicity = (int(match[key] or 0) for key in ("age", "gender", "ethnicity"))
    if not 0 <= age <= OLDEST:
        return Label("rejected", f"impossible age {age} (0 to {OLDEST} years)")
    if gender >= len(GENDERS):
        return Label("rejected", f"impossible gender {gender} (0 male, 1 female)")
    if ethnicity >= len(ETHNICITIES):
        return Label("rejected", f"impossible ethnicity {ethnicity} (0 to {len(ETHNICITIES) - 1})")
    partial, digits = match["ethnicity"] is None, len(match["stamp"])
    faults = {"no ethnicity in the name": partial, "space before the file type": match["space"] != "",
              "no dot before the file type": match["dot"] == "", f"time stamp of {digits} digits, not 17": digits != 17}
    reason = ", ".join(fault for fault, present in faults.items() if present)
    verdict = "partial" if partial else "repaired" if reason else "ok"
    return Label(verdict, reason, age, GENDERS[gender], None if partial else ETHNICITIES[ethnicity], match["stamp"])
