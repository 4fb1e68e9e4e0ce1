# Each target sets .venv up first, if it is not there: a fresh checkout needs Python >= 3.11, make and nothing else.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin

.PHONY: venv demo test figures lint wheel bench gpu-report clean

venv: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "augment_gpu needs Python 3.11 or newer; found none (set PYTHON=...)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Trains from scratch on pictures that the program draws, then shows what the recipe does to them: demo/ holds both.
demo: venv
	rm -rf demo
	$(BIN)/augment-gpu train --model resnet10t --scratch --size 64 --epochs 15 --batch-size 32 --lr 0.002 \
		--recipe docs/demo-recipe.json --output demo/run
	$(BIN)/augment-gpu preview --recipe docs/demo-recipe.json --output demo/preview.png

# A file of tests stays in one process, which shares its fixtures; the files begin in the order of tests/conftest.py.
test: venv
	$(BIN)/python -m pytest -q --numprocesses auto --dist loadfile --no-loadscope-reorder

# The figures of every kernel, each compiled anew for every GPU; of them `make test` compiles those that changed.
figures: venv
	$(BIN)/python benchmarks/static_figures.py

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Builds the wheel, installs it without its dependencies into an empty folder, and imports a kernel from there.
wheel: venv
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --quiet --wheel --outdir build/wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/wheel/site build/wheel/*.whl
	cd build/wheel && PYTHONPATH=site ../../$(BIN)/python -c \
		"import augment_gpu.kernels.crop as m; assert 'build/wheel/site' in m.__file__, m.__file__; print('wheel: ok')"

# Renews README's CPU figures too. DATA: a folder of images, root/<class>/<image>; none: the built-in sample. Other
# libraries take part where they are installed: pip install '.[rivals]'.
bench: venv
	$(BIN)/python benchmarks/bench_cpu.py $(DATA)
	$(BIN)/python benchmarks/bench_sampling.py
	$(BIN)/python benchmarks/readme_table.py

# Needs an NVIDIA GPU and eight minutes: checks and measures the kernels, and renews README's figures. Other libraries
# take part where they are installed: pip install '.[rivals]'.
gpu-report: venv
	$(BIN)/python benchmarks/gpu_report.py
	$(BIN)/python benchmarks/readme_table.py

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
