# Targets for people who work on Mask2KAN; the README's two commands need no make.
PYTHON ?= .venv/bin/python

.PHONY: venv app check lint types contracts scripts test slow floors matrix reliability reliability-mutations

.venv/bin/python:
	python3 -m venv .venv

venv: .venv/bin/python
	$(PYTHON) -m pip install -r tests/requirements.txt

app:
	$(PYTHON) app.py

check: lint types contracts scripts test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy app.py

contracts:
	.venv/bin/lint-imports

# The page's JavaScript, whose types stand in its comments; needs Node.js.
scripts:
	npx --yes --package typescript@5.9 tsc -p app/web/jsconfig.json

test:
	$(PYTHON) -m pytest -n 2 --dist loadfile

slow:
	$(PYTHON) -m pytest -m "slow and not gpu"

floors:
	$(PYTHON) tests/matrix.py oldest

matrix:
	$(PYTHON) tests/matrix.py

# The fault table, a line per row, and every guard turned off, one at a time.
reliability:
	$(PYTHON) -m pytest tests/reliability --whole -m "not gpu" -p no:cacheprovider

reliability-mutations:
	$(PYTHON) -m tests.reliability.mutations
