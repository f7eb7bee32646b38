# make demo      daemon, drill, disaster and report in a folder of its own; nothing but Python 3.11 is needed
# make test      lint, types, floors and tests; as root it installs PostgreSQL 15 from Debian where missing
# make torture   long fault runs           make bench   measurements
# make lint      without the tests         make clean   remove what was built
#
# BUILD names another folder for the virtual environment, PYTEST_ARGS adds to pytest's arguments.

export BUILD
PYTEST_ARGS ?=
.PHONY: demo test torture bench lint format clean

demo:
	@venv=$$(.ci/venv demo) && "$$venv/bin/drkit" demo

test:
	@.ci/bootstrap
	@.ci/venv demo,test >/dev/null
	@.ci/test $(PYTEST_ARGS)

torture bench:
	@.ci/bootstrap $@
	@venv=$$(.ci/venv demo,test) && "$$venv/bin/python" -m pytest -m $@ $(PYTEST_ARGS)

lint:
	@venv=$$(.ci/venv demo,test) && "$$venv/bin/ruff" check . && "$$venv/bin/mypy" && "$$venv/bin/lint-imports" --no-logo

format:
	@venv=$$(.ci/venv demo,test) && "$$venv/bin/ruff" format .

clean:
	@venv=$$(.ci/venv --path) && rm -rf "$$venv" .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
