PYTHON ?= python3
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help demo test test-vllm lint lock pocket paper bench results comet guidellm quantise vllm clean venv venv-demo venv-vllm debian
.NOTPARALLEL:

for_every_engine = tests/serve/test_contract.py tests/serve/test_routes.py tests/serve/test_long_audio.py \
	tests/serve/live/test_route.py

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: venv-demo ## install what the demo needs (first time), then serve the pocket model and its page
	@exec .venv-demo/bin/python -m serve

# what may need a person's password comes before what takes minutes; two processes for what computes, a thread and whole
# files each, while servers and browsers, some of which are timed, have the machine to themselves
test: debian venv lint ## install what the tests need (first time), then run every check
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/compress tests/benchmarks
	.venv/bin/python -m pytest --ignore tests/compress --ignore tests/benchmarks
	KOMPAKT_TEST_ENGINE=remote .venv/bin/python -m pytest $(for_every_engine)
	@if [ "$$(uname -sm)" = "Linux x86_64" ]; then $(MAKE) --no-print-directory test-vllm; \
		else echo "vLLM's CPU build is for Linux on x86-64: what concerns it is left out"; fi

test-vllm: venv-vllm ## run what concerns vLLM in an environment that has it: the model, the engine, and every route on it
	.venv-vllm/bin/python -m pytest tests/serve/engines/test_vllm_model.py tests/serve/engines/test_vllm_engine.py \
		tests/benchmarks/test_cross_check.py tests/benchmarks/test_latency.py \
		tests/benchmarks/traffic/test_tools.py
	KOMPAKT_TEST_ENGINE=vllm .venv-vllm/bin/python -m pytest $(for_every_engine)

lint: venv ## ruff and mypy
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

lock: ## remake requirements/*.txt with the newest versions that pyproject.toml allows
	$(PYTHON) requirements/lock.py

pocket: venv ## rebuild the pocket model
	.venv/bin/python -m compress pocket

paper: venv ## repeat the paper's tables with the pocket model, about three hours on two cores; goes on where it was stopped
	.venv/bin/python -m benchmarks paper

bench: venv ## measure what a buyer would ask for, in less than 15 minutes on two cores that do nothing else
	for name in footprint speed-of-light quality latency load peers; do \
		.venv/bin/python -m benchmarks $$name || exit; \
	done

results: venv ## write benchmarks/RESULTS.md and its figures from all results
	.venv/bin/python -m benchmarks results

comet: ## install COMET beside the rest, in .venv-comet (Python 3.11 or 3.12)
	@requirements/venv.sh .venv-comet requirements/comet.txt

guidellm: ## install GuideLLM beside the rest, in .venv-guidellm: `python -m benchmarks cross-check` then asks it, too
	@requirements/venv.sh .venv-guidellm requirements/guidellm.txt

quantise: ## install llm-compressor beside the rest, in .venv-quantise: it writes the layouts w4a16, int8 and fp8
	@requirements/venv.sh .venv-quantise requirements/quantise.txt

vllm: venv-vllm ## install vLLM's CPU build with the server beside the rest, in .venv-vllm (Linux on x86-64)

clean: ## remove environments, caches and build output (not .cache, the pocket work directory)
	rm -rf .venv .venv-comet .venv-demo .venv-guidellm .venv-quantise .venv-vllm .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# these cost milliseconds when nothing is missing
venv:
	@requirements/venv.sh .venv requirements/test.txt

debian:
	@requirements/debian.sh requirements/debian-test.txt

venv-demo:
	@requirements/venv.sh .venv-demo requirements/demo.txt

# the lock leaves out what two packages ask for, see requirements/lock.py; and vLLM finds its plugins among what is
# installed, so that this package has to be
venv-vllm:
	@requirements/venv.sh .venv-vllm requirements/vllm.txt --no-deps
	@.venv-vllm/bin/python -c 'import importlib.metadata as m; m.version("kompakt-st")' 2>/dev/null || \
		.venv-vllm/bin/python -m pip install -qq --no-deps --no-build-isolation -e .
