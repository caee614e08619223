"""The code in docs/adding_a_method.md runs as it is written there, and its examples hold."""

import doctest
import re
from pathlib import Path

import torch

from agehelpers.methods import heads, table
from agehelpers.methods.model import AgeEstimationModel
from agehelpers.training.records import read_record
from agehelpers.training.runs import run_folder

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "adding_a_method.md"


def test_the_page_on_adding_a_method_runs_as_it_is_written(monkeypatch):
    monkeypatch.setattr(heads, "HEADS", dict(heads.HEADS))
    monkeypatch.setattr(table, "METHODS", dict(table.METHODS))
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(blocks) == 3
    scope = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), scope)
    head = scope["LogAgeHead"]
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder().find(head, globs={"LogAgeHead": head, "torch": torch}):
        runner.run(example)
    assert (runner.tries, runner.failures) == (1, 0)
    values = head(4).loss(torch.tensor([[0.0], [3.0]]), torch.tensor([torch.e - 1, 0.0]))
    assert torch.allclose(values, torch.tensor([1.0, 3.0]))
    folder = run_folder(scope["config"])
    assert read_record(folder).settings["head"] == "log_age"
    assert isinstance(AgeEstimationModel(scope["config"]).head, head)


def test_every_fault_that_is_tried_stands_in_the_table():
    rows = re.findall(r"^\| (.*?) \| .*? \| [\w, .\-]+ \|$", (ROOT / "docs" / "faults.md").read_text(), re.M)
    tried = {"".join(re.findall(r'"(.*?)"', arguments)) for file in sorted((ROOT / "tests").rglob("test_*.py"))
             for arguments in re.findall(r'mark\.fault\((".*?"),\s*"', file.read_text(), re.S)}
    assert len(tried) >= 12 and tried <= set(rows), tried - set(rows)
