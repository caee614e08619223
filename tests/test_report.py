"""The report: one page that needs nothing else, whose numbers are the record's, and in which a name is only a name."""

from html.parser import HTMLParser

from agehelpers.__main__ import main
from agehelpers.html_report import report
from agehelpers.training.records import Record, read_record


class Page(HTMLParser):
    """Tags, addresses and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_a_page_has_the_records_numbers_and_needs_nothing_else(trained, tmp_path, capsys):
    out = tmp_path / "new" / "page.html"
    assert main(["report", str(trained), "--out", str(out)]) == 0 and str(out) in capsys.readouterr().out
    page, record = Page(out.read_text()), read_record(trained)
    assert {"script", "link", "iframe"} & set(page.tags) == set() and len(page.addresses) >= 5
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    test = record.part("test")
    error = (test["prediction"] - test["age"]).abs().mean()
    assert f"{len(test)} test pictures are off by {error:.2f} (" in page.text
    assert "For whom" in page.text and "How it was trained" in page.text and record.facts["split"] in page.text


def test_names_are_escaped_and_subgroups_are_free(trained):
    record = read_record(trained)
    bad = "<script>alert(1)</script>&$x^{"
    table = record.predictions.drop(columns=["ethnicity"])
    table = table.assign(gender=["plain" if number % 2 else bad for number in range(len(table))])
    facts = record.facts | {"config": record.facts["config"] | {"backbone": bad}}
    page = Page(report(Record(bad, facts, {**record.tables, "predictions": table})))
    assert "script" not in page.tags and page.text.count(bad) >= 3
    alone = table.drop(columns="gender")
    assert "For whom" not in report(Record("alone", record.facts, {**record.tables, "predictions": alone}))


def test_a_head_without_spread_has_intervals_too(trained):
    record = read_record(trained)
    table = record.predictions.drop(columns="spread")
    assert "How sure" in report(Record("plain", record.facts, {**record.tables, "predictions": table}))


def test_a_page_needs_no_committed_label_table(trained, monkeypatch, tmp_path):
    monkeypatch.setenv("AGEHELPERS_HOME", str(tmp_path))
    assert "At which ages" in report(read_record(trained))


def test_what_is_no_run_is_said(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1 and "is the run finished?" in capsys.readouterr().err
    assert main(["report", "nothing"]) == 1 and "no record 'nothing'" in capsys.readouterr().err
