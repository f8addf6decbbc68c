# Two commands on a fresh machine: `make demo` and `make test`. Both make .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROSE := README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md docs/*.md docs/*/*.md
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test lint docs bundles bench monailabel-env constraints clean

help:
	@echo "make demo         install, then train, index, segment, evaluate and report on made patients"
	@echo "make test         install with the test extras, then linters and the whole test suite"
	@echo "make docs         the manual in build/site; fails on a broken link or an orphan page"
	@echo "make bundles      write the public bundles and docs/reference/options.md anew from bundles/ragsam and the options"
	@echo "make bench        the benchmarks that need no data of yours"
	@echo "make monailabel-env  install MONAI Label into .venv-monailabel, for ragsam serve"
	@echo "make constraints  renew constraints.txt from the newest versions that setup.cfg allows"
	@echo "make clean        remove .venv and runs/"

demo: $(VENV)/.installed
	$(BIN)/ragsam demo --output runs/demo

# Files are given to workers in the order of tests/conftest.py, not by their number of tests.
test: $(VENV)/.installed-test lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m proselint check --config docs/proselint.json $(PROSE)
	$(BIN)/python docs/check_words.py

bundles: $(VENV)/.installed
	$(BIN)/python -m ragsam.runs.write_bundles

# --strict: a warning is an error. The variable silences an advertisement.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Where a target is missed the script ends with 1: the others run all the same (-), each adds to benchmarks/results/.
bench: $(VENV)/.installed-test
	$(BIN)/python benchmarks/phantom_mean_label.py
	$(BIN)/python benchmarks/loader_npz.py --volumes 8 --slices 1600
	$(BIN)/python benchmarks/loader_npz.py --volumes 3 --slices 320 --enlarge 4
	$(BIN)/python benchmarks/loader_memory.py
	$(BIN)/python benchmarks/label_resampling.py
	-OMP_NUM_THREADS=1 $(BIN)/python benchmarks/metrics_speed.py
	$(BIN)/python benchmarks/report_size.py
	-$(BIN)/python benchmarks/startup.py
	-OMP_NUM_THREADS=1 $(BIN)/python benchmarks/whole_volume.py
	-OMP_NUM_THREADS=1 $(BIN)/python benchmarks/training_step.py
	-OMP_NUM_THREADS=1 $(BIN)/python benchmarks/growth.py --points 3

$(BIN)/python:
	@echo "== making $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "make: $(PYTHON) is older than 3.10; run make PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "make: no venv module; on Debian: apt-get install python3-venv"; exit 2; }

$(VENV)/.installed: setup.cfg constraints.txt | $(BIN)/python
	@echo "== installing ragsam and its pinned packages: PyTorch is some gigabytes, so this takes minutes, once"
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: setup.cfg constraints.txt | $(VENV)/.installed
	@echo "== installing the test extras"
	$(INSTALL) --editable ".[test]"
	SAM2_BUILD_CUDA=0 $(INSTALL) --no-build-isolation sam2 || echo "sam2 could not be built: the tests that compare with it skip"
	@touch $@

$(VENV)/.installed-docs: setup.cfg constraints.txt | $(VENV)/.installed
	@echo "== installing the packages of the manual"
	$(INSTALL) --editable ".[docs]"
	@touch $@

# MONAI Label names packages that are not needed, and pydicom 2: so it gets an environment of its own, pinned. What it
# does not have itself, PyTorch above all, it takes from .venv, whose folder comes last on its path.
monailabel-env: .venv-monailabel/.installed

.venv-monailabel/.installed: requirements-monailabel.txt | $(VENV)/.installed
	@echo "== installing MONAI Label into .venv-monailabel"
	$(BIN)/python -m venv --clear .venv-monailabel
	.venv-monailabel/bin/python -m pip install --disable-pip-version-check --no-deps \
		--requirement requirements-monailabel.txt
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> "$$(.venv-monailabel/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ragsam-venv.pth"
	.venv-monailabel/bin/python -c 'import monailabel.main, ragsam, torch, pydicom; assert pydicom.__version__ < "3"'
	@touch $@

constraints:
	rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	build/constraints/bin/python -m pip install --upgrade ".[test,docs]"
	{ echo "# Pinned versions of every package that an installation takes. Renewed by: make constraints"; \
	  build/constraints/bin/python -m pip freeze --exclude ragsam; } > constraints.txt
	rm -rf build/constraints

clean:
	rm -rf $(VENV) .venv-monailabel build runs
