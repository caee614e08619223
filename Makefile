# make notebooks: the whole series, executed    make test: everything that CI checks    make lab: JupyterLab
PYTHON ?= python3
BIN := .venv/bin
NEWEST ?= 3.13
export TQDM_DISABLE ?= $(if $(CI),1,)

.PHONY: notebooks test test-faults test-methods test-workers test-matrix test-browser audit lab site outputs records benchmark lock clean

notebooks: .env-stamp
	mkdir -p build
	$(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute --output-dir build notebooks/*.ipynb
	$(BIN)/jupyter nbconvert --log-level ERROR --to html build/*.ipynb
	$(BIN)/jupyter nbconvert --log-level ERROR --to markdown --output-dir build/figures build/*.ipynb
	@echo "Done. Open build/01_explore_faces.html (or any other .html there) in a browser; figures are in build/figures/."

test: .env-stamp
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 AGEHELPERS_PROFILE=ci TQDM_DISABLE=1 $(BIN)/coverage run -m pytest --quiet -n 2 --dist worksteal
	$(BIN)/coverage combine --quiet && $(BIN)/coverage report --skip-covered --sort=cover
	OMP_NUM_THREADS=1 AGEHELPERS_RUNS=$$(mktemp -d) AGEHELPERS_PROFILE=ci TQDM_DISABLE=1 \
		$(BIN)/pytest --quiet -W default -o addopts= -n 2 --dist loadfile \
		--nbval --nbval-current-env --nbval-sanitize-with tests/nbval.cfg notebooks

# Faults at length, 200 kills and 20,000 changed files among them (about five minutes); writes docs/faults.md.
test-faults: .env-stamp
	AGEHELPERS_TEST_KILLS=200 AGEHELPERS_TEST_CASES=20000 AGEHELPERS_PROFILE=ci OMP_NUM_THREADS=1 TQDM_DISABLE=1 \
		$(BIN)/pytest --quiet -n 2 -m fault --faults docs/faults.md tests

# Four workers, some of them killed, on a grid in PostgreSQL, which is started and stopped (apt-get install postgresql).
test-workers: .env-stamp
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[workers]'
	AGEHELPERS_TEST_WORKERS=1 AGEHELPERS_TEST_KILLS=40 AGEHELPERS_PROFILE=ci OMP_NUM_THREADS=1 TQDM_DISABLE=1 \
		$(BIN)/pytest --quiet tests/test_workers.py

# Known security faults of what is in the lock (asks PyPI; needs its network).
audit: .env-stamp
	$(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet pip-audit
	build/audit/bin/pip-audit --no-deps --disable-pip --requirement requirements.lock

# The oldest Python with the lowest versions of what it needs, and the newest with the newest (half an hour).
test-matrix:
	$(PYTHON) -m venv build/uv && build/uv/bin/pip install --quiet uv
	build/uv/bin/uv venv --quiet --seed --python 3.11 build/oldest
	build/uv/bin/uv pip install --quiet --python build/oldest --resolution lowest-direct --editable '.[notebooks,photos,export,pretrained,test,site]'
	build/uv/bin/uv venv --quiet --seed --python $(NEWEST) build/newest
	build/uv/bin/uv pip install --quiet --python build/newest --upgrade --editable '.[notebooks,photos,export,pretrained,test,site]'
	for corner in oldest newest; do AGEHELPERS_PROFILE=ci OMP_NUM_THREADS=1 TQDM_DISABLE=1 \
		build/$$corner/bin/python -m pytest --quiet -n 2 tests || exit 1; done

# Every network, and every method at its full width: memorises faces, round trip, ONNX (a quarter of an hour; 7 GB).
test-methods: .env-stamp
	AGEHELPERS_TEST_METHODS=1 AGEHELPERS_PROFILE=ci $(BIN)/pytest --quiet tests/methods/test_table.py tests/methods/test_backbones.py

# Notebook 09 clicked through in JupyterLab, an upload included (needs Chromium; screenshots in build/browser).
test-browser: .env-stamp
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[browser]'
	AGEHELPERS_TEST_BROWSER=1 AGEHELPERS_PROFILE=ci $(BIN)/pytest --quiet -W default tests/test_browser.py

# Every committed record that is missing and can be made here (hours on a CPU; resumable), then README and figures.
records: .env-stamp
	$(BIN)/python -m tools.plan; made=$$?; $(BIN)/python -m tools.readme && exit $$made

# The usual way to feed a network and ours, side by side (about a quarter of an hour; leave the machine alone meanwhile).
benchmark: .env-stamp
	$(BIN)/python benchmarks/benchmark.py

# The pages of docs/ and the notebooks, as they are stored, as a site: build/site/index.html. Warnings are errors.
site: .env-stamp
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env -c docs . build/site
	@echo "Done. Open build/site/index.html in a browser."

lab: .env-stamp
	$(BIN)/jupyter lab notebooks

# Execute the committed notebooks in place, on drawn faces, so that their outputs match the code.
outputs: .env-stamp
	AGEHELPERS_RUNS=$$(mktemp -d) AGEHELPERS_PROFILE=ci TQDM_DISABLE=1 \
		$(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute --inplace \
		notebooks/*.ipynb

lock: .env-stamp
	$(BIN)/pip freeze --all --exclude pip --exclude-editable > requirements.lock

.env-stamp: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else \
		f"Python 3.11 or later is needed, {v.major}.{v.minor} was found: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[notebooks,download,pretrained,photos,export,test,site]'
	touch $@

clean:
	rm -rf build runs data/cache data/sample_faces .env-stamp .venv
