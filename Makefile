# make demo, make test: each does the whole set-up on a fresh machine first. ARGS="..." is passed on.
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

# Without a display the simulated arm renders off screen.
ifeq ($(MUJOCO_GL)$(DISPLAY),)
ifeq ($(shell uname -s),Linux)
export MUJOCO_GL := egl
endif
endif

.PHONY: demo test lint setup clean

demo: $(STAMP)
	$(PY) scripts/demo.py $(ARGS)

test: $(STAMP)
	$(PY) -m pytest $(ARGS)

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m mypy

setup: $(STAMP)

# The stamp is written last: an interrupted set-up is done again.
$(STAMP): requirements.txt pyproject.toml
	@$(PY) -c 'import sys, pip; assert sys.version_info >= (3, 12)' 2>/dev/null || { \
	    python=$$(PYTHON='$(PYTHON)' sh scripts/find_python.sh) && \
	    echo "making $(VENV) with $$python" && "$$python" -m venv --clear $(VENV); }
	$(PY) -m pip install --quiet uv
	$(PY) -m uv pip install --python $(PY) -r requirements.txt
	$(PY) -m uv pip install --python $(PY) --no-deps --no-build-isolation -e .
	@touch $@

# Runs (outputs/) and calibrations stay.
clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis MUJOCO_LOG.TXT
