# Two commands matter: `make demo` and `make test`. Each sets up .venv from PyPI by itself.
PYTHON ?= python3
PY := .venv/bin/python
export UV_HTTP_TIMEOUT ?= 300

# processes share the bytecode of edgefit and of its tests
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check benchmark constraints clean

demo: .venv/installed
	.venv/bin/bench run --profile jetson-xavier

test: .venv/installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder

benchmark: .venv/installed
	$(PY) -m pytest -m benchmark tests/benchmarks

# uv from the PATH, else from PyPI into the environment itself
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v < (3, 14) else "edgefit needs Python 3.10 to 3.13, not %d.%d: give another with make PYTHON=python3.11" % v)'
	@test -x $(PY) || if command -v uv >/dev/null; then uv venv --quiet --python "$$(command -v $(PYTHON))" .venv; else $(PYTHON) -m venv .venv; fi
	@command -v uv >/dev/null || test -x .venv/bin/uv || { $(PY) -m ensurepip >/dev/null; $(PY) -m pip install --quiet uv; }
	@echo "installing the pinned packages into .venv (about 7 GB) ..."
	@PATH="$$PATH:$$PWD/.venv/bin" uv pip install --quiet --python $(PY) --compile-bytecode -c constraints.txt -e '.[all,dev]'
	@touch $@

# exact pins for every Python we support; no index address is written
constraints:
	uv pip compile --universal --python-version 3.10 --all-extras --no-emit-index-url --no-header --no-annotate \
	    --upgrade pyproject.toml -o constraints.txt

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
