VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: demo test test-long lint install

install: $(INSTALLED)

# torch comes first and by itself, so that the build that fits this machine is the one the rest builds on. Last comes
# what DeepSpeed else compiles when CPU workers start for the first time.
$(INSTALLED): pyproject.toml
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet "torch>=2.11,<2.14"
	$(PYTHON) -m pip install --quiet -e ".[demo,dev]"
	DS_ACCELERATOR=cpu $(PYTHON) -c "from deepspeed.comm.torch import build_shm_op; build_shm_op()" \
		|| echo "DeepSpeed's op for CPUs could not be built; training on CPUs needs a C++ compiler"
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
