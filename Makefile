# make repro: everything from nothing to the demo's metrics. make test: the tests, in two processes.
# make show: experiments, what they changed and the most informative numbers, in 120 columns.
# make faults: kills, damaged, mixed and hostile files, full disks; with LONG=1 every one of them,
# going on from .resume/faults.jsonl where it was interrupted.
# make portable: every stage on this CPU and on three that QEMU emulates, and whether all made the
# same bytes; with ARITHMETIC=native they do not. QUICK=1 takes one of them, up to a training.
# make mutants: faults put into the code one at a time, and those that no test sees (docs/mutation.md).
# make lint: style and types. make docs: docs/ as pages, into site/.
# make bench: speed against straightforward references, into benchmarks/README.md.

PYTHON ?= python3
VENV ?= .venv
BIN = $(abspath $(VENV))/bin
PIP = $(BIN)/pip install --disable-pip-version-check --quiet --constraint constraints.txt
export PATH := $(BIN):$(PATH)
export DVC_NO_ANALYTICS = 1

.PHONY: repro show test mutants faults portable lint docs bench venv

repro: venv
	python -m pipeline doctor --locks
	dvc repro
	@echo "Reports with films and attention: evaluation/reports.html"
	@echo "Training curves: analysis/curves.html; figures: analysis/figures"
	@python -m pipeline doctor --results

# Where several long parameters were changed, fewer scores are shown, so that the table still fits.
show: venv
	@for scores in '' '|BLEU|distinct' '|BLEU|distinct|val[23]|shuf_C'; do \
	  table=$$(dvc exp show --only-changed --hide-workspace --drop \
	    '.*/|Created|State|Executor|val1|BLEU-[123]|METEOR|ROUGE|const|shuf_B4|F1_|near|no_f|unch|align|R@5|point|chance|gain|nats'"$$scores") || exit; \
	  header=$$(printf '%s\n' "$$table" | grep Experiment); \
	  [ $${#header} -le 120 ] && break; \
	done; \
	printf '%s\n' "$$table" | grep . || echo 'This commit has no experiments yet. To run one: dvc exp run -S section.key=value'

test: $(VENV)/test.done
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder

faults: $(VENV)/test.done
	python -m tests.faults $(if $(LONG),--long --log .resume/faults.jsonl)

portable: $(VENV)/base.done
	python -m tests.portable $(if $(QUICK),--quick) $(if $(ARITHMETIC),--arithmetic $(ARITHMETIC))

mutants: $(VENV)/mutants.done
	python -m tests.mutants

lint: $(VENV)/test.done
	ruff check .
	ruff format --check .
	mypy

docs: $(VENV)/docs.done
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

bench: $(VENV)/base.done
	python -m benchmarks

venv: $(VENV)/base.done

$(VENV)/base.done: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; choose it with: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing pinned packages into $(VENV) (takes minutes the first time)"
	$(PIP) --editable '.[pipeline]'
	$(PIP) --no-deps dall-e
	touch $@

$(VENV)/test.done: $(VENV)/base.done
	$(PIP) --editable '.[test]'
	touch $@

$(VENV)/mutants.done: $(VENV)/test.done
	$(PIP) --editable '.[mutants]'
	touch $@

$(VENV)/docs.done: $(VENV)/base.done
	$(PIP) --editable '.[docs]'
	touch $@
