"""The site builds without a warning from what is committed, and every page can be downloaded."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_site_is_built_without_a_warning(tmp_path):
    line = re.search(r"^site: .*\n\t\$\(BIN\)/sphinx-build (.*) build/site$", (ROOT / "Makefile").read_text(), re.M)[1]
    done = subprocess.run([sys.executable, "-m", "sphinx", *shlex.split(line), tmp_path / "site"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "docs/index.html" in (tmp_path / "site" / "index.html").read_text()
    first = (tmp_path / "site" / "docs" / "index.html").read_text()
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]:
        name = page.relative_to(ROOT)
        built = (tmp_path / "site" / name.with_suffix(".html")).read_text()
        assert f"_sources/{name}" in built and len(built) > 5000  # its download link
        assert page.stem == "index" or f"{page.stem}.html" in first, f"{name} is in no list of docs/index.md"
    stored = (tmp_path / "site" / "notebooks" / "05_error_analysis.html").read_text()
    assert "years" in stored and 'src="../_images/' in stored  # outputs and figures as they are stored
    assert "colab.research.google.com" not in first  # no address of the repository is known
