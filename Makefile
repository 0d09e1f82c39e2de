# `make install` makes .venv; `make demo` and `make test` call it. PYTHON: 3.11 or 3.12.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo serve test test-browser faults lint clean

help: ## Shows this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

install: $(STAMP) ## Makes .venv from the pinned constraints; a torch that PYTHON has already is left alone

$(STAMP): pyproject.toml constraints.txt scripts/install.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh scripts/install.sh
	@touch $(STAMP)

demo: install ## Does the main job once on real Gemma 3 270M weights (about 6 minutes on 2 cores)
	@$(BIN)/dianda demo

serve: install ## Starts the product and leaves it running; Ctrl-C stops it
	@$(BIN)/dianda up

test: install ## Checks style, types, import contracts, and runs every test
	@BIN="$(BIN)" sh scripts/test.sh

test-browser: install ## Checks the web pages in a real browser (Debian: installs Chromium if it is not there); pictures in screenshots/
	@BIN="$(BIN)" sh scripts/test_browser.sh

faults: install ## Breaks the running product KILLS times (30) at random moments (SEED=n) and checks what must hold; one JSON line
	@$(BIN)/python -m tests.faults

lint: install ## Style, types and import contracts only
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

clean: ## Removes the environment and the product's data
	rm -rf $(VENV) .dianda
