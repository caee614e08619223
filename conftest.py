"""For nbval: notebooks that are checked at the same time must not train the same run in the same folder."""

import os

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    if runs := os.environ.get("AGEHELPERS_RUNS"):
        os.environ["AGEHELPERS_RUNS"] = os.path.join(runs, worker)
