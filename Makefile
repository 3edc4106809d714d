VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: demo test test-long lint install

install: $(INSTALLED)

# torch comes first and by itself, so that the build that fits this machine is the one the rest builds on.
$(INSTALLED): pyproject.toml
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet "torch>=2.11,<2.14"
	$(PYTHON) -m pip install --quiet -e ".[demo,dev]"
	touch $@

demo: $(INSTALLED)
	$(PYTHON) -P jobs/demo.py

test: $(INSTALLED)
	$(PYTHON) -m pytest

test-long: $(INSTALLED)
	$(PYTHON) -m pytest -m long

lint: $(INSTALLED)
	ruff check .
	ruff format --check .
	mypy
