# make demo       install what the demo needs into .venv and explain five photos
# make test       install everything into .venv and run the test suite
# make lint       ruff, mypy and import-linter
# make docs       build the docs site into site/, with no warning allowed
# make check-all  the suite from the source archive, with other numbers of threads and another
#                 instruction set, and the benchmarks at small size; writes docs/check_all.md
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: demo test lint docs check-all clean

demo: $(VENV)/.installed-demo
	$(BIN)/python examples/demo.py --out demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check-all: $(VENV)/.installed-dev
	$(BIN)/python .ci/check_all.py

clean:
	rm -rf $(VENV) demo dist site

# One stamp for each extra: nothing is installed again until pyproject.toml changes.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
