# Each target makes .venv first if it is missing. `make help` lists them.
PYTHON ?= python3.11
PY := .venv/bin/python
RUNS ?= runs
LOCKED := lab table umap onnx torchcodec docs test browser
# One worker for each core (tests/conftest.py caps them). Tests of one file or one group share a worker.
SPREAD ?= -n auto --no-loadscope-reorder
# Spawned ranks and loader workers import torch again: without bytecode caches each of them takes seconds longer.
unexport PYTHONDONTWRITEBYTECODE
# glibc hands freed tensors back to the kernel and faults them in again, over a tenth of a training step on a CPU.
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 4294967296

.PHONY: help demo replicate-coclr replicate-rms replicate-rms-video replicate-multitrain real-clips test test-slow test-long test-browser test-gpu platforms lab notebooks bench docs lock clean-notebooks
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# What the library and the notebooks need, in the tested versions
.venv/lab: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet uv
	.venv/bin/uv pip install --python $(PY) --constraint requirements.lock --editable '.[lab,table]'
	@touch $@

# All extras, for tests and benchmarks
.venv/ready: .venv/lab
	.venv/bin/uv pip install --python $(PY) --requirement requirements.lock
	@touch $@

demo: .venv/lab  ## toy videos to an HTML report with curves, R@k, probes and a retrieval gallery (minutes)
	$(PY) -m vidbench demo --out $(RUNS)/demo

replicate-coclr: .venv/lab  ## InfoNCE, CoCLR, UberNCE at equal clip budgets on toy-mixed, five seeds (under two hours on two cores)
	$(PY) -m vidbench replicate-coclr --data toy-mixed --seeds 1 2 3 4 5 --out $(RUNS)/replicate-coclr

replicate-rms: .venv/lab  ## RMS and its rivals on ten classes of CIFAR-100 in CIFAR="folder", three lengths (under two hours on two cores)
	$(if $(CIFAR),,$(error give the folder with train/ and test/ of the pictures: make replicate-rms CIFAR=folder))
	OMP_NUM_THREADS=1 $(PY) -m vidbench replicate-rms --plan cifar --data $(CIFAR) --out $(RUNS)/replicate-rms

replicate-rms-video: .venv/lab  ## RMS on toy-10 at three times the epochs, eight seeds, borders, alpha (under two hours on two cores)
	$(PY) -m vidbench replicate-rms --plan video --out $(RUNS)/replicate-rms-video

replicate-multitrain: .venv/lab  ## MultiTrain on toy worlds in two regimes, five seeds, each loss alone (under two hours on two cores; resumes)
	$(PY) -m vidbench replicate-multitrain --out $(RUNS)/replicate-multitrain

real-clips: .venv/lab  ## ARID's and Weizmann's excerpts in DATA=folder: scan, flow, supervised arms (three seeds), CoCLR (one); hours
	DATA="$(DATA)" RUNS="$(RUNS)/real" bash assets/real_clips.sh

test: .venv/ready  ## format, types, units, one notebook, one fault of each kind (at most 8 minutes on two cores)
	$(PY) -m ruff check vidbench tests benchmarks
	$(PY) -m ruff format --check vidbench tests benchmarks
	$(PY) -m mypy
	$(PY) -m pytest $(SPREAD) -m "not slow and not long and not browser and not gpu"

test-slow: .venv/ready  ## all notebooks, small replications, faults: what .ci/run runs after `make test`
	$(PY) -m pytest $(SPREAD) -m "slow and not long and not browser and not gpu"

test-long: .venv/ready  ## before a release: 32 trials of killed jobs; in Chromium pictures of every notebook and of the README, 20 slow openings
	$(PY) -m pytest $(SPREAD) -m long

test-browser: .venv/ready  ## notebooks in JupyterLab and headless Chromium, clicked on; pictures in runs/browser
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { \
	  test "$$(id -u)" = 0 && command -v apt-get && apt-get update --quiet && \
	  DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet chromium; } || { \
	  echo "no Chromium on PATH, and no root with apt-get to install it; install the system's package chromium" >&2; \
	  exit 1; }
	$(PY) -m pytest -m browser tests/browser

test-gpu: .venv/ready  ## what only a CUDA device can show
	$(PY) -m pytest -m gpu tests/test_gpu.py

platforms: .venv/ready  ## check that the lock has wheels for Linux x86-64 and ARM, macOS ARM, Windows
	@for platform in x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin x86_64-pc-windows-msvc; do \
	  echo $$platform; \
	  MACOSX_DEPLOYMENT_TARGET=14.0 .venv/bin/uv pip install --quiet --dry-run --no-deps --only-binary :all: \
	    --python-platform $$platform --python-version 3.11 --target build/none --requirement requirements.lock || exit 1; \
	done

lab: .venv/lab  ## JupyterLab at the repository root, with notebooks/00_tour.ipynb open
	.venv/bin/jupyter lab --notebook-dir . notebooks/00_tour.ipynb $(if $(filter 0,$(shell id -u)),--allow-root)

notebooks: .venv/lab  ## execute every notebook headless; executed copies in runs/notebooks
	$(PY) -m vidbench run notebooks/*.ipynb --out $(RUNS)/notebooks

bench: .venv/ready  ## speed compared with peers, as ratios measured in one run
	$(PY) -m benchmarks

docs: .venv/ready  ## the site of all pages and docstrings in build/site; EXECUTED=folder of executed notebooks adds their outputs
	NO_MKDOCS_2_WARNING=1 $(if $(EXECUTED),EXECUTED="$(abspath $(EXECUTED))") $(PY) -m mkdocs build --quiet --strict --config-file assets/mkdocs.yml

clean-notebooks: .venv/ready  ## strip outputs before a commit
	.venv/bin/jupyter nbconvert --clear-output --inplace notebooks/*.ipynb

lock: .venv/ready  ## update requirements.lock from pyproject.toml, for all platforms
	.venv/bin/uv pip compile pyproject.toml $(LOCKED:%=--extra %) --python-version 3.11 --universal --upgrade --no-header \
	  --no-annotate --output-file requirements.lock
