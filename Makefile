# make demo   the whole loop, from simulated camera to published pose, in under 12 minutes
# make test   the tests
# make lint   ruff and mypy
# make faults what becomes of recordings and estimates when things go wrong, as docs/faults.md
# make docs   the documentation as a site, in site/
# make figures the computed pictures of the documentation, in docs/figures/
# make venv   what the others need, in $(VENV)
# make clean  remove what the above made, but for $(VENV)
#
# ROS=jazzy after any of these: on ROS 2 Jazzy in place of Kilted, in a $(VENV) of its own.
# All of it needs python3 (3.10 or newer) with its venv module, and make; the rest is installed into $(VENV).

# SPDX-License-Identifier: Apache-2.0

ROS ?= kilted
VENV ?= $(if $(filter kilted,$(ROS)),.venv,.venv-$(ROS))
PYTHON ?= python3

BIN := $(VENV)/bin
# The same names in every distribution: constraints-$(ROS).txt tells which versions make it up.
ROS_WHEELS := "ros-rclpy[fastrtps]" ros-diagnostic-msgs ros-geometry-msgs ros-lifecycle-msgs ros-nav-msgs ros-sensor-msgs \
	ros-std-msgs ros-std-srvs ros-visualization-msgs

# $(VENV) holds a ROS 2 of its own, from wheels. A ROS 2 distribution that happens to be sourced would mix its
# libraries with these, so it is kept out; to run on it, build with colcon instead (see README.md).
unexport PYTHONPATH AMENT_PREFIX_PATH RMW_IMPLEMENTATION
ifdef ROS_DISTRO
unexport LD_LIBRARY_PATH
endif

.PHONY: help demo test faults docs figures lint venv rendering browser clean

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

demo: venv rendering
	$(BIN)/ledpose demo

# Two at a time, each on one core, but for those of a ROS graph: messages come in time if nothing else is done.
test: venv rendering browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not graph" --numprocesses 2 --dist loadfile
	$(BIN)/python -m pytest -m graph

faults: venv
	$(BIN)/python -m pytest test/test_faults.py test/test_estimator_faults.py --fault-table docs/faults.md \
		--label-samples 20000

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

figures: venv rendering
	$(BIN)/python scripts/figures.py

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

venv: $(VENV)/.installed

$(VENV)/.installed: setup.py constraints.txt constraints-$(ROS).txt ledpose_ros/cli.py Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--constraint constraints-$(ROS).txt $(ROS_WHEELS) --editable '.[train,sim,test]'
	touch $@

$(VENV)/.docs: setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@

rendering: $(VENV)/.rendering

$(VENV)/.rendering: scripts/rendering_libraries.sh $(VENV)/.installed
	scripts/rendering_libraries.sh $(BIN)/python
	touch $@

browser:
	@scripts/test_browser.sh

clean:
	rm -rf build install log demo_output site *.egg-info .pytest_cache .ruff_cache .mypy_cache
