# make demo, make test: each sets up what it needs, on a fresh Debian or Ubuntu machine too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export MPLBACKEND := Agg
export DEBIAN_FRONTEND := noninteractive
# Tests start many processes: without kept bytecode each would compile torch anew, for two seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check release clean

demo: $(VENV)/.ready
	$(BIN)/masksam demo -o masksam-demo --overwrite
	$(BIN)/python -m Testing.panel.demo masksam-demo

# The checks run beside the tests: both leave a processor idle at times.
test: $(VENV)/.ready
	@$(MAKE) --no-print-directory -j2 check pytest

.PHONY: pytest
pytest: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q

check: $(VENV)/.ready
	$(BIN)/ruff check MaskSAMCore MaskSAMSlicer Testing Utilities
	$(BIN)/ruff format --check MaskSAMCore MaskSAMSlicer Testing Utilities
	$(BIN)/mypy
	PYTHONPATH=$(CURDIR):$(CURDIR)/MaskSAMSlicer $(BIN)/lint-imports --no-logo

# Prepare the public repository in a new folder, for example: make release FOLDER=../SlicerMaskSAM
release:
	@test -n "$(FOLDER)" || { echo "name a new folder: make release FOLDER=../SlicerMaskSAM"; exit 2; }
	$(PYTHON) Utilities/release.py "$(FOLDER)"

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || $(MAKE) --no-print-directory debian
	@! command -v apt-get >/dev/null || test "$$(id -u)" != 0 || ldconfig -p | grep -q libEGL.so.1 || \
		$(MAKE) --no-print-directory debian
	@$(PYTHON) -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))" || \
		{ echo "Python 3.10 to 3.13 is needed, for example: make PYTHON=python3.12 test"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	@# Python compiles a module when it is first imported; of most packages few are.
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e '.[test]'
	@touch $@

.PHONY: debian
debian:
	@test "$$(id -u)" = 0 || { echo "install the Debian packages python3-venv and python3-pip first"; exit 2; }
	apt-get update -qq
	apt-get install -y -qq python3 python3-venv python3-pip
	@# What Qt and VTK draw with where there is no display, for the tests of the Slicer module.
	apt-get install -y -qq libegl1 libgl1 libgl1-mesa-dri libxkbcommon0 libfontconfig1 \
		libdbus-1-3 libglib2.0-0

clean:
	rm -rf $(VENV) build dist *.egg-info masksam-demo .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache
	find MaskSAMCore Testing -name __pycache__ -prune -exec rm -rf {} +
