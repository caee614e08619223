"""Notebook 09 clicked through in JupyterLab in Chromium: `make test-browser`; screenshots in build/browser."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "build" / "browser"
SETTINGS = {  # every cell is on the page, seen or not; no question about news
    "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false"}}
pytestmark = pytest.mark.skipif("AGEHELPERS_TEST_BROWSER" not in os.environ, reason="make test-browser runs it")


@pytest.fixture
def lab(tmp_path):
    """Address of a JupyterLab in an empty folder with a copy of the notebook."""
    shutil.copy(ROOT / "notebooks" / "09_your_photos.ipynb", tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
               "--IdentityProvider.token=", "--ServerApp.root_dir=."]
    for name, setting in SETTINGS.items():
        (tmp_path / "settings" / name).parent.mkdir(parents=True)
        (tmp_path / "settings" / name).write_text(json.dumps(setting))
    environment = os.environ | {"JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings")}
    with ((tmp_path / "lab.log").open("w") as log,
          subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log) as server):
        try:
            for _ in range(120):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5).close()
                    break
                except OSError:
                    time.sleep(1)
            else:
                raise RuntimeError((tmp_path / "lab.log").read_text())
            yield f"http://127.0.0.1:{port}/lab/tree/09_your_photos.ipynb"
        finally:
            server.terminate()


@pytest.fixture
def photo(tmp_path):
    """A free photograph, turned a little."""
    from skimage import data

    file = tmp_path / "astronaut_turned.png"
    Image.fromarray(data.astronaut()).rotate(10, Image.Resampling.BICUBIC).save(file)
    return file


def test_the_series_last_notebook_runs_and_takes_an_upload(lab, photo):
    from playwright.sync_api import expect, sync_playwright

    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=shutil.which("chromium") or shutil.which("google-chrome"))
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.goto(lab)
        expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=120_000)
        page.get_by_role("menuitem", name="Run", exact=True).click(timeout=120_000)
        page.get_by_text("Run All Cells", exact=True).click()
        button = page.get_by_role("button", name=re.compile("Photos"))
        expect(button).to_be_visible(timeout=300_000)  # the widget is there: all before it has run
        button.scroll_into_view_if_needed()
        page.screenshot(path=PICTURES / "before.png")
        with page.expect_file_chooser() as chosen:
            button.click()
        chosen.value.set_files(photo)
        answer = page.locator(".jp-OutputArea-output", has_text=photo.name).last
        expect(answer).to_be_visible(timeout=120_000)
        table = page.locator("table", has_text="prediction").last
        expect(table).to_be_visible(timeout=60_000)
        predicted = float(table.locator("tbody tr").first.locator("td").nth(1).inner_text())
        table.scroll_into_view_if_needed()
        page.wait_for_timeout(1000)
        page.screenshot(path=PICTURES / "after.png")
        assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        browser.close()
    assert 0 < predicted < 100
