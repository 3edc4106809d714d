# The Python that the environment is made with: 3.11, 3.12 or 3.13.
BASE_PYTHON ?= python3
VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
LOCK := cluster/requirements.lock
VERSIONS := $(VENV)/versions.txt

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: supported demo test test-quick test-long test-ray soak lint licences audit install lock

install: $(INSTALLED)

# What is missing is said before anything is installed. The compiler is the one that torch takes.
supported:
	@[ "$$(uname -sm)" = "Linux x86_64" ] || { echo "This project runs on Linux x86_64, not on $$(uname -sm);" \
		"use such a machine, or a container or virtual machine of that kind." >&2; exit 2; }
	@$(BASE_PYTHON) -c "import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" 2>/dev/null || \
		{ echo "Python 3.11 to 3.13 with its venv module is needed, and $(BASE_PYTHON) is" \
		"$$($(BASE_PYTHON) --version 2>&1 | head -1); name another one: make BASE_PYTHON=python3.12 ..." >&2; exit 2; }
	@command -v "$${CXX:-c++}" >/dev/null || { echo "A C++ compiler is needed for CPU workers, and $${CXX:-c++} is not" \
		"there; install one (Debian, Ubuntu: apt install g++), or name it in CXX." >&2; exit 2; }

# The lock's versions without its hashes: this machine may need another build of a version (torch for CPUs), and pip takes
# no editable project beside hashes. The image checks them.
# torch comes first and by itself, so that the build that fits this machine is the one the rest builds on. Last comes
# what DeepSpeed else compiles when CPU workers start for the first time.
$(INSTALLED): pyproject.toml $(LOCK) | supported
	$(BASE_PYTHON) -m venv $(VENV)
	sed -n 's/^\([^ ]*==[^ ]*\).*/\1/p' $(LOCK) > $(VERSIONS)
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet --constraint $(VERSIONS) torch
	$(PYTHON) -m pip install --quiet --constraint $(VERSIONS) -e ".[demo,dev,serve]"
	DS_ACCELERATOR=cpu $(PYTHON) -c "from pipeline.runtime.compiled_ops import set_up_compilation; set_up_compilation(); \
		from deepspeed.comm.torch import build_shm_op; build_shm_op()" \
		|| echo "DeepSpeed's op for CPUs could not be built; training on CPUs needs a C++ compiler"
	touch $@

demo: $(INSTALLED)
	$(PYTHON) -P jobs/demo.py

# On two processes, of which one works while the other waits. A file's tests stay in one process, and the files that take
# longest begin first.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

test: $(INSTALLED)
	$(PYTHON) -m pytest $(PARALLEL)

# Before a commit: all packages, without the tests that start Ray, ranks or programs, or train something.
test-quick: $(INSTALLED)
	$(PYTHON) -m pytest $(PARALLEL) -m "not long and not slow"

test-long: $(INSTALLED)
	$(PYTHON) -m pytest -m long

# The tests that start Ray or name what is in it, with another version of Ray and otherwise this environment's packages
# and DeepSpeed's op: make test-ray RAY=2.59.0
RAY_ENVIRONMENT = .venv-ray-$(RAY)
RAY_TESTS := tests/pipeline/runtime tests/pipeline/launch tests/pipeline/ledger tests/pipeline/preflight \
	tests/tokenization/job tests/tokenization/config tests/cluster tests/end_to_end/test_ray.py \
	tests/end_to_end/test_cluster_scaling.py tests/end_to_end/test_several_jobs.py tests/end_to_end/test_serve.py

test-ray: $(INSTALLED)
	@[ -n "$(RAY)" ] || { echo "Name a version of Ray, as in: make test-ray RAY=2.59.0" >&2; exit 2; }
	$(PYTHON) -m venv $(RAY_ENVIRONMENT)
	$(PYTHON) -c "import sysconfig; print(f'import site; site.addsitedir({sysconfig.get_path(\"purelib\")!r})')" \
		> $$($(RAY_ENVIRONMENT)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/others.pth
	$(RAY_ENVIRONMENT)/bin/python -m pip install --quiet "ray[data,default,serve,train]==$(RAY)"
	PATH=$(CURDIR)/$(RAY_ENVIRONMENT)/bin:$$PATH PYTHONPATH=$(CURDIR) \
		TORCH_EXTENSIONS_DIR=$(abspath $(VENV))/torch_extensions $(RAY_ENVIRONMENT)/bin/python -m pytest $(RAY_TESTS)

# An hour of tokenization and training while everything that can fail does; see docs/reliability.md.
soak: $(INSTALLED)
	$(PYTHON) -m tests.support.soak --minutes 60 --seed 0

lint: $(INSTALLED)
	ruff check .
	ruff format --check .
	mypy
	hadolint cluster/Dockerfile

# Fails on a licence that is not in pyproject.toml's list; see docs/dependencies.md.
licences: $(INSTALLED)
	pip-licenses > /dev/null

# Asks for known vulnerabilities of the lock's versions; needs a network that reaches PyPI.
audit: $(INSTALLED)
	uv tool run pip-audit==2.10.1 --strict --disable-pip --require-hashes --requirement $(LOCK)

# Writes the versions and hashes of all packages anew, for Linux with CUDA. Versions that still suit stay as they are. To
# take newer ones: make lock UPGRADE=--upgrade
lock:
	$(VENV)/bin/uv pip compile --quiet $(UPGRADE) pyproject.toml --all-extras --python-version 3.11 \
		--python-platform x86_64-manylinux_2_28 --no-emit-index-url --no-annotate --no-header \
		--generate-hashes --output-file $(LOCK)
