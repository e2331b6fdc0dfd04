# Chores by name. Each does its own set-up in .venv; see CONTRIBUTING.md.
PYTHON := .venv/bin/python
PYTHON3 ?= python3
SOURCES := pyproject.toml setup.py tools/setup.sh $(wildcard csrc/*.[ch] zoofast/*.pyx zoofast/*.pxd)
IMAGES ?=
MODEL ?=
LABELS ?=
SECONDS ?=

.PHONY: help demo test test-slow test-zoo lint bench fuzz asan wheels release-check install-c clean

help:
	@echo "make demo   run the main job on IMAGES=dir, or on images that it makes; evaluate"
	@echo "            MODEL=file.onnx with LABELS=file on them"
	@echo "make test   run all tests but the slow ones"
	@echo "make test-slow  run the slow ones"
	@echo "make test-zoo  compare every recipe of the zoo with its golden hashes, on all pictures"
	@echo "make lint   formatting, lint and types"
	@echo "make bench  run most of benchmarks/; writes the tables in README.md and RESULTS.md"
	@echo "make fuzz   fuzz the JPEG decoder against libjpeg-turbo for SECONDS=600"
	@echo "make asan   run the tests of what runs in C, with address and undefined-behaviour sanitizers"
	@echo "make wheels  build the sdist and the wheels for x86-64 and aarch64 in dist/, and examine them"
	@echo "make release-check  make wheels, try all that it built, write the release notes"
	@echo "make install-c PREFIX=dir  the C library: header, .so, .a and pkg-config file"
	@echo "make clean  remove what was built"

.venv/ready: $(SOURCES)
	sh tools/setup.sh
	@touch $@

.venv/ready-test: $(SOURCES)
	sh tools/setup.sh dev
	@touch $@ .venv/ready

.venv/ready-infer: $(SOURCES)
	sh tools/setup.sh infer
	@touch $@ .venv/ready

demo: .venv/ready$(if $(MODEL),-infer)
	$(PYTHON) tools/demo.py $(IMAGES) $(if $(MODEL),--model $(MODEL)) $(if $(LABELS),--labels $(LABELS))

# One process more than CPUs, since tests of hung devices and killed runs wait.
PYTEST = $(PYTHON) -m pytest -q -n $$(n=$$(nproc); echo $$((n < 8 ? n + 1 : 8))) --dist worksteal

test: .venv/ready-test
	$(PYTEST) -m "not slow"

.venv/ready-slow: .venv/ready-test
	sh tools/setup.sh --add timm hf test-remote ray
	@touch $@

test-slow: .venv/ready-slow
	$(PYTEST) -m slow

test-zoo: .venv/ready-test
	ZOOFAST_TEST_ZOO=all $(PYTHON) -m pytest -q tests/preprocess/test_zoo.py

lint: .venv/ready-test
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	if command -v shellcheck >/dev/null; then shellcheck tools/*.sh .ci/run; fi

.venv/ready-bench: $(SOURCES)
	sh tools/setup.sh dev bench test-remote
	@touch $@ .venv/ready .venv/ready-test

# Each process that a benchmark starts would compile every module anew.
bench: export PYTHONDONTWRITEBYTECODE :=
bench: .venv/ready-bench
	$(PYTHON) benchmarks/prep.py $(if $(IMAGES),--images $(IMAGES)) --write
	$(PYTHON) benchmarks/jpeg.py $(if $(IMAGES),--images $(IMAGES)) --write
	$(PYTHON) benchmarks/cases.py $(if $(IMAGES),--images $(IMAGES)) --write
	$(PYTHON) benchmarks/levels.py $(if $(IMAGES),--images $(IMAGES)) --write
	$(PYTHON) benchmarks/zoo.py $(if $(IMAGES),--images $(IMAGES)) --write
	$(PYTHON) benchmarks/scaling.py $(if $(IMAGES),--images $(IMAGES)) --write
	$(PYTHON) benchmarks/disk.py $(if $(IMAGES),--images $(IMAGES)) --write
	$(PYTHON) benchmarks/sources.py $(if $(IMAGES),--images $(IMAGES)) --write
	$(PYTHON) benchmarks/remote.py $(if $(IMAGES),--images $(IMAGES)) --write
	$(PYTHON) benchmarks/score.py --write
	$(PYTHON) benchmarks/profile_cost.py $(if $(IMAGES),--images $(IMAGES)) --write
	mkdir -p .cache
	.venv/bin/zoofast export squeezenet1_1 --weights random -o .cache/squeezenet1_1.onnx
	$(PYTHON) benchmarks/stream.py $(if $(IMAGES),--images $(IMAGES)) \
		--model .cache/squeezenet1_1.onnx --write

fuzz:
	sh tools/fuzz.sh $(or $(SECONDS),600)

asan:
	sh tools/check.sh asan

build/wheels/venv/ready: tools/wheels.txt
	sh tools/setup.sh --system
	rm -rf build/wheels/venv
	$(PYTHON3) -m venv build/wheels/venv
	build/wheels/venv/bin/python -m pip install -q --disable-pip-version-check -r tools/wheels.txt
	@touch $@

wheels: build/wheels/venv/ready
	build/wheels/venv/bin/python tools/wheels.py dist

release-check: wheels
	sh tools/try_wheel.sh x86_64
	sh tools/try_wheel.sh pillow
	sh tools/try_wheel.sh sdist
	sh tools/try_wheel.sh aarch64
	awk '/^## / { part++ } part == 1' CHANGELOG.md >dist/RELEASE-NOTES.md
	cd dist && sha256sum -c SHA256SUMS

install-c:
	sh tools/install_c.sh $(PREFIX)

clean:
	rm -rf .venv build demo dist *.egg-info zoofast/*.so zoofast/*.c
