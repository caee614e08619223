"""Rules that keep the notebooks readable, executed and checkable (nbval compares their outputs)."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IGNORED = "nbval-ignore-output"


class Notebook:
    def __init__(self, file: Path) -> None:
        self.file = file
        self.json = json.loads(file.read_text())
        self.cells = self.json["cells"]
        self.code = [cell for cell in self.cells if cell["cell_type"] == "code"]

    @staticmethod
    def source(cell) -> str:
        return "".join(cell["source"])

    @staticmethod
    def tags(cell) -> list[str]:
        return cell["metadata"].get("tags", [])

    @staticmethod
    def text(cell) -> str:
        """What a cell printed and the plain text of what it showed."""
        parts = []
        for output in cell["outputs"]:
            shown = output.get("text") or output.get("data", {}).get("text/plain", "")
            parts.append("".join(shown))
        return "\n".join(parts)


@pytest.fixture(params=NOTEBOOKS, ids=lambda file: file.stem)
def notebook(request) -> Notebook:
    return Notebook(request.param)


def test_the_series_is_there():
    assert [file.stem for file in NOTEBOOKS] == [
        "01_explore_faces", "02_check_the_machinery", "03_hyperparameter_grid", "04_train", "05_error_analysis",
        "06_why_it_errs", "07_how_sure", "08_methods_compared", "09_your_photos"]


def test_begins_with_aim_and_times_then_parameters_then_the_profile(notebook):
    first = notebook.source(notebook.cells[0])
    assert first.startswith("# ") and "**Aim.**" in first
    assert all(word in first for word in ("run time", "`ci`", "`laptop`", "`gpu`"))
    assert notebook.tags(notebook.code[0]) == ["parameters"]
    assert re.search(r"^profile = None", notebook.source(notebook.code[0]), re.M)
    assert "choose_profile(" in notebook.source(notebook.code[1])
    assert notebook.text(notebook.code[1]).startswith("Profile 'ci'")  # what is committed ran on drawn faces


def test_ends_with_what_was_learned_and_versions(notebook):
    prose = [notebook.source(cell) for cell in notebook.cells if cell["cell_type"] == "markdown"]
    assert "What was learned" in prose[-1]
    assert "versions()" in notebook.source(notebook.code[-1]) and IGNORED in notebook.tags(notebook.code[-1])


def test_executed_from_the_top_without_errors_or_warnings(notebook):
    assert [cell["execution_count"] for cell in notebook.code] == list(range(1, len(notebook.code) + 1))
    for cell in notebook.code:
        for output in cell["outputs"]:
            assert output["output_type"] != "error" and output.get("name") != "stderr", notebook.source(cell)
        assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users)/|[A-Z]:\\\\", notebook.text(cell)), "a path"
    assert notebook.file.stat().st_size < 1_000_000


def test_cells_are_short(notebook):
    for cell in notebook.code:
        source = notebook.source(cell)
        lines = [line for line in source.splitlines() if line.strip()]
        assert 0 < len(lines) <= 20, source
        assert not re.search(r"^\s*[!%]", source, re.M), f"shell call or magic: {source}"


def test_one_figure_a_cell_of_explicit_size_and_shown(notebook):
    figures = 0
    for cell in notebook.code:
        source = notebook.source(cell)
        pictures = sum("image/png" in output.get("data", {}) for output in cell["outputs"])
        assert pictures == source.count("plt.show()") <= 1, source
        if pictures:
            figures += 1
            assert source.rstrip().endswith("plt.show()")
            assert "figsize" in source or "plots." in source, source  # functions of plots set their size
    assert figures >= 2


def test_at_least_eight_numeric_outputs_are_compared(notebook):
    def numeric(cell) -> bool:  # nbval does not compare the text beside a figure
        return bool(re.search(r"\d", re.sub(r"<Figure[^>]*>", "", notebook.text(cell))))

    compared = [cell for cell in notebook.code if IGNORED not in notebook.tags(cell)
                and "NBVAL" not in notebook.source(cell) and numeric(cell)]
    assert len(compared) >= 8


def test_exercises_have_folded_solutions(notebook):
    asked = next(notebook.source(cell) for cell in notebook.cells if "## Exercises" in notebook.source(cell))
    solutions = [cell for cell in notebook.code if "hide-cell" in notebook.tags(cell)]
    assert len(re.findall(r"^\d\. ", asked, re.M)) == len(solutions) in (2, 3)
    for number, cell in enumerate(solutions, 1):  # each is folded, runs, and shows something
        assert notebook.source(cell).startswith(f"# {number}. ") and notebook.text(cell)
        assert cell["metadata"]["jupyter"]["source_hidden"]


def test_findings_are_said_in_bold_and_made_from_tables(notebook):
    said = ["".join(output["data"].get("text/markdown", "")) for cell in notebook.code for output in cell["outputs"]
            if "data" in output]
    said = [text for text in said if text]
    assert len(said) >= 4 and all(re.fullmatch(r"\*\*.*\d.*\*\*", text) for text in said)


def test_only_known_tags_and_the_standard_kernel(notebook):
    assert {tag for cell in notebook.cells for tag in notebook.tags(cell)} <= {"parameters", IGNORED, "hide-cell"}
    assert notebook.json["metadata"]["kernelspec"]["name"] == "python3"
