# make demo    the main job on the shipped portrait and voice, into demo/
# make test    every test          make lint    style          make env    the environment alone
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
COMFYUI_DIR ?= $(HOME)/comfy/ComfyUI
COMFYUI_PYTHON ?= $(HOME)/comfy/venv/bin/python
export COMFYUI_DIR COMFYUI_PYTHON

.PHONY: env demo test lint clean
env: $(VENV)/.ready-dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "FD2Talk needs Python 3.10 or newer. Run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# Two stamps over one environment: the demo needs only the run-time packages.
$(VENV)/.ready-demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what the demo needs (a few minutes the first time)"
	@$(PIP) -e '.[cli]'
	@touch $@

$(VENV)/.ready-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the development environment (a few minutes the first time)"
	@$(PIP) -e '.[cli,prepare,train,dev]'
	@touch $@ $(VENV)/.ready-demo

demo: $(VENV)/.ready-demo
	@mkdir -p demo
	@$(BIN)/fd2talk talk --portrait assets/portrait.png --audio assets/voice.wav --out demo/talking.mp4 \
	  --contact-sheet demo/frames.jpg

test: $(VENV)/.ready-dev
	@$(BIN)/python -m pytest

lint: $(VENV)/.ready-dev
	@$(BIN)/ruff check .

clean:
	rm -rf demo build dist *.egg-info .pytest_cache .ruff_cache
