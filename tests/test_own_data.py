"""The notebooks on a data set of quite another shape: ages 16 to 40, PNG in sub-folders, other subgroups, or none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agehelpers.__main__ import main
from agehelpers.data.drawn import draw_face

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
COLUMNS = {"people": ["path", "age", "region", "glasses", "person"], "bare": ["path", "age"]}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with both tables, their label tables, and a record of a short training on each."""
    folder, rows = tmp_path_factory.mktemp("own"), []
    for number in range(600):
        rng = np.random.default_rng(number)
        age, place = int(rng.integers(16, 41)), ("north", "south", "")[rng.integers(3)]
        path = f"{place or 'elsewhere'}/face {number}.png"
        (folder / path).parent.mkdir(exist_ok=True)
        draw_face(age, number % 2, rng).resize((64, 64)).save(folder / path)
        rows.append((path, age, place, "yes" if number % 3 else "no", f"p{number // 2}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGEHELPERS_RECORDS", str(folder / "records"))
        patch.setenv("AGEHELPERS_RUNS", str(folder / "runs"))
        patch.setenv("AGEHELPERS_CACHE", str(folder / "cache"))
        for name, columns in COLUMNS.items():
            table = pd.DataFrame(rows, columns=COLUMNS["people"])[columns]
            table.to_csv(folder / f"{name}.csv", index=False)
            assert main(["index", str(folder / f"{name}.csv"), "--out", str(folder / f"{name}_labels.csv")]) == 0
            assert main(["train", "--profile", "ci", "--faces", str(folder / f"{name}.csv"), "--record", name]) == 0
        yield folder


def code_of(notebook: str, folder: Path, name: str) -> str:
    """Its code cells as a script, with the parameters that its user would write."""
    cells = json.loads(next(NOTEBOOKS.glob(f"{notebook}_*.ipynb")).read_text())["cells"]
    parameters = (f"profile, overrides = 'ci', {{'faces': {str(folder / name)!r} + '.csv'}}\n"
                  f"record = {name!r}\nlabel_table = {str(folder / name)!r} + '_labels.csv'\n")
    parts = [f"print('notebook {notebook}')"]
    for cell in cells:
        if cell["cell_type"] == "code":
            parts.append("".join(cell["source"]))
            parts.append(parameters if "parameters" in cell["metadata"].get("tags", []) else "pyplot.close('all')")
    return "\n".join(parts)


@pytest.mark.parametrize("name", COLUMNS)
def test_the_notebooks_run_on_it_and_leave_out_what_it_lacks(own, tmp_path, name):
    scripts = [code_of(notebook, own, name) for notebook in ("01", "05", "06", "07")]
    (tmp_path / "cells.py").write_text(
        "import matplotlib\nmatplotlib.use('Agg')\nfrom matplotlib import pyplot\n"
        f"for script in {scripts!r}:\n    exec(script, {{'pyplot': pyplot}})\nprint('the end')\n")
    places = {f"AGEHELPERS_{kind.upper()}": str(own / kind) for kind in ("records", "runs", "cache")}
    done = subprocess.run([sys.executable, tmp_path / "cells.py"], cwd=NOTEBOOKS, capture_output=True, text=True,
                          check=False, env=os.environ | places | {"PYTHONPATH": str(NOTEBOOKS.parent)})
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.rstrip().endswith("the end")
    by = next(line for line in done.stdout.splitlines() if line.startswith("MAE with everybody's ages"))
    assert ("north" in by and "south" in by) if name == "people" else "all faces" in by
