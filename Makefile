# Two commands do everything on a fresh machine with Python 3.11 to 3.13, a C compiler, make and git:
#   make demo    make test
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
ENTER := source $(VENV)/bin/activate
SOURCES := $(shell find rdt_ros launch config resource -type f -not -name '*.pyc') setup.py setup.cfg package.xml
MESSAGES := $(shell find msg -type f)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-nodes test-others test-all lint clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

setup: install/.built ## virtual environment, pinned wheels, messages (the others do this by themselves)

demo: install/.built ## the simulated robot hands a cube over, through all nodes, recorded
	@$(ENTER) && rdt demo $(ARGS)

test: install/.built ## lint, types and the tests, under six minutes
	@$(ENTER) && $(MAKE) --no-print-directory lint && $(MAKE) --no-print-directory -j2 -O test-nodes test-others

# Side by side, because the tests that start nodes mostly wait; each half reports when it is done. Where ARGS choose,
# there may be nothing to run in one of them, which pytest calls 5.
test-nodes test-others: install/.built
	@$(ENTER) && { python -m pytest -q -m "not slow and $(if $(filter test-nodes,$@),ros,not ros)" $(ARGS)$(if $(ARGS), || [ $$? = 5 ]); }

test-all: install/.built ## the same and the slow tests: kills, faults, over-fitting, corruption, benches
	@$(ENTER) && $(MAKE) --no-print-directory lint && python -m pytest -q $(ARGS)

lint: install/.built ## ruff and mypy
	@$(ENTER) && ruff check . && ruff format --check . && mypy

clean: ## removes what the others made
	rm -rf $(VENV) build install log out

install/.built: $(VENV)/.ready $(SOURCES) $(MESSAGES) colcon_defaults.yaml
	@echo "building the packages"
	@$(ENTER) && colcon build > build.log 2>&1 || { cat build.log; exit 1; }
	@rm -f build.log && touch $@

# The ROS wheels carry the include path of the Python that they were built with, which CMake refuses: cut it out.
$(VENV)/.ready: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v <= (3, 13))' || \
	  { echo "expected Python 3.11 to 3.13, found $$($(PYTHON) --version): make PYTHON=python3.12" >&2; exit 2; }
	@echo "installing wheels into $(VENV) (once)"
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install -q --disable-pip-version-check -r requirements.txt -c constraints.txt
	@# torch for CUDA brings its own Triton, torch for the CPU none: the tests run our kernels through its interpreter
	@$(VENV)/bin/python -c "import triton" 2> /dev/null || \
	  $(VENV)/bin/pip install -q --disable-pip-version-check --no-deps triton==3.8.0 || \
	  echo "no Triton for this machine: the tests of its kernels are skipped"
	@# without their dependencies: of gym-aloha only the model is used; the reference RDT is what the tests compare with
	@$(VENV)/bin/pip install -q --disable-pip-version-check --no-deps gym-aloha==0.1.5 dora-rdt-1b==0.3.13 timm==1.0.3
	@sed -i -E '/INTERFACE_INCLUDE_DIRECTORIES/s#/opt/python/[^";]*;?##g' $(VENV)/share/*/cmake/*__rosidl_generator_pyExport.cmake
	@printf '%s\n' 'export AMENT_PREFIX_PATH="$$VIRTUAL_ENV"' \
	  'if [ -n "$$BASH_VERSION" ] && [ -f "$(CURDIR)/install/local_setup.bash" ]; then' \
	  '  . "$(CURDIR)/install/local_setup.bash"' 'fi' >> $(VENV)/bin/activate
	@$(ENTER) && python -c "from rdt_ros.sim.rendering import check_rendering as c; c()" 2> /dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && apt-get update -qq && apt-get install -y -qq libegl1 libgl1-mesa-dri; } || \
	  { echo "the simulator draws off screen: sudo apt-get install -y libegl1 libgl1-mesa-dri" >&2; exit 2; }
	@touch $@
