# make quickstart | make test | make docs | make soak | make bench | make bench-gpu | make lint | make clean
#
# Every target does its own set-up in .venv, and does it again only when pyproject.toml or
# constraints.txt changed. PYTHON names the interpreter to start from (3.11 to 3.13).

PYTHON ?= python3
VENV := .venv
BIN := $(if $(filter Windows_NT,$(OS)),$(VENV)/Scripts,$(VENV)/bin)
# Python compiles a module when it is first imported; pip would compile all of torch, for a minute.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
unexport PYTHONDONTWRITEBYTECODE # it would have every process compile them again
RUN := $(BIN)/nanogpkant

.PHONY: quickstart test docs soak bench bench-gpu lint clean

quickstart: $(VENV)/.ready
	$(RUN) prepare shakespeare_char
	$(RUN) train quickstart_kan --overwrite
	$(RUN) train quickstart_gpt --overwrite
	@echo
	@echo "What the KAN writes:"
	$(RUN) sample quickstart_kan --tokens 400
	@echo
	@echo "What its attention heads learned about distance (pictures: runs/quickstart_kan/interpret/index.html):"
	$(RUN) interpret quickstart_kan --layers blocks.0.attention blocks.1.attention blocks.2.attention
	@echo
	$(RUN) play quickstart_kan --out runs/quickstart_kan.html
	@echo
	$(RUN) compare quickstart_kan quickstart_gpt --plot runs/quickstart.png

test: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

# The site, in runs/site; links are checked.
docs: $(VENV)/.ready-docs
	COLUMNS=100 $(BIN)/python docs/site.py
	$(BIN)/zensical build --strict -f mkdocs.yml

# Kills, overlaps and long runs, in at most 20 minutes.
soak: $(VENV)/.ready-dev
	$(BIN)/python tests/soak/soak.py --minutes 20

# Tables go to the terminal, and with charts to OUT; BENCH holds more flags (python -m benchmarks.speed --help).
OUT ?= runs/bench

bench: $(VENV)/.ready-bench
	$(BIN)/python -m benchmarks.speed layer --out $(OUT) $(BENCH)
	$(BIN)/python -m benchmarks.speed step --out $(OUT)
	$(BIN)/python -m benchmarks.speed sample --out $(OUT)

bench-gpu: $(VENV)/.ready-bench
	$(BIN)/python -m benchmarks.speed gpu --out $(OUT) $(BENCH)

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis

$(VENV)/.ready: EXTRAS := shakespeare,interpret
$(VENV)/.ready-dev: EXTRAS := shakespeare,dev
$(VENV)/.ready-bench: EXTRAS := shakespeare,dev,bench
$(VENV)/.ready-docs: EXTRAS := shakespeare,interpret,docs

$(VENV)/.ready $(VENV)/.ready-dev $(VENV)/.ready-bench $(VENV)/.ready-docs: pyproject.toml constraints.txt
	@echo "setting up $(VENV) (once, about two minutes)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[$(EXTRAS)]'
	@touch $@
