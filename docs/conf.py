"""Sphinx settings of the site: the notebooks as they are stored, the pages of docs/, nothing is run or fetched.

    make site
"""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REPOSITORY = PROJECT["tool"]["site"]["repository"]  # its address, for links to Colab, Binder and the sources; "" = none

project, author, copyright = "How old is this face?", "the contributors", "MIT licence (code)"
extensions = ["myst_nb"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "notebooks/*.ipynb", "data/README.md", "benchmarks/README.md",
                    "agehelpers/weights/README.md"]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
html_theme = "sphinx_book_theme"
html_title = project
html_static_path, html_css_files = ["static"], ["site.css"]
html_extra_path = ["static/index.html"]  # of the site's root: leads to docs/index.html
html_theme_options = {
    "repository_branch": "main",
    "use_download_button": True,
    "navbar_persistent": [],
    "path_to_docs": "",
    "repository_url": REPOSITORY,
    "use_repository_button": bool(REPOSITORY),
    "use_source_button": bool(REPOSITORY),
    "launch_buttons": {"colab_url": "https://colab.research.google.com", "binderhub_url": "https://mybinder.org",
                       "notebook_interface": "jupyterlab"} if REPOSITORY else {},
}
