# `make demo` and `make test` set up everything they need in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow chaos s3 check fix audit sbom clean

demo: .venv/ready  ## train FCN-8s on the built-in street scenes and draw the results
	$(BIN)/python jobs/train_fcn8s.py streets --workers 2

test: .venv/ready  ## every test but the slow ones
	@command -v chromium >/dev/null || { echo "error: the tests open pages in Chromium: apt-get install chromium" >&2; exit 2; }
	$(BIN)/python -m pytest -m "not slow" --cov=fcn_core --cov=services --cov-fail-under=95

test-slow: .venv/ready  ## whole runs and sweeps, faults
	$(BIN)/python -m pytest -m slow

s3: .venv/ready  ## a shell with a real S3 server (OpenStack Swift) on loopback, bucket s3://lab; or S3="command" with it
	$(BIN)/python -m tests.swift_server $(or $(S3),$${SHELL:-sh})

MINUTES ?= 5
chaos: .venv/ready  ## kills at random for MINUTES (5), then proves that not a bit is lost; SEED=N repeats it
	$(BIN)/python -m tests.faults.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

check: .venv/ready  ## style, types, import directions and what bandit knows of security
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive fcn_core jobs services infra/image

fix: .venv/ready  ## what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Apart from `check`, since it asks a database on the internet; --strict: what was not found there is no pass.
audit: .venv/ready  ## known vulnerabilities of all that constraints.txt pins
	$(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement constraints.txt

# In an environment of its own: what it brings along would take a second and a half of each process of Ray.
sbom: .venv/ready  ## what is installed, as CycloneDX, into build/sbom.json
	$(PYTHON) -m venv build/sbom
	build/sbom/bin/python -m pip install --quiet --constraint constraints.txt cyclonedx-bom
	build/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-file build/sbom.json .venv

clean:  ## remove the environment and all results
	rm -rf .venv results

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import ensurepip' || { echo "error: $(PYTHON) cannot make environments: apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
