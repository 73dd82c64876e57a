# On a machine with Python, gcc and make:  `make run` sets up and runs the echo server, `make test` the tests.
# Two environments: .venv holds the library as a user installs it, .venv-dev builds it in place, with the tests' tools.

PYTHON ?= python3
ADDR ?= :8000
JOBS ?= $(shell nproc)
# For pytest and the benchmarks: make test ARGS="-k frame"
ARGS ?=
# How many: random streams that `make differential` compares, runs of each end of a process that `make exits` makes, cases
# of `make faults`.
N ?=
# make fuzz: seconds for each target, and which.
TIME ?=
TARGET ?=
# make soak: how long.
MINUTES ?= 60
# make simulate: how many seeds, or which one, with what happens in it.
SEEDS ?= 100000
SEED ?=

VENV := .venv
DEV := .venv-dev
PY := $(DEV)/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PACKAGING := pyproject.toml setup.py $(wildcard README.md LICENSE)
ENGINE := $(wildcard src/_uws/*.pyx src/_uws/*.pxd src/_uws/c/*.h)
LIBRARY := $(shell find src -name '*.py' -o -name '*.pyi' -o -path '*/static/*')
# The engine's modules that Python may import; of the others it sees nothing.
STUBBED := $(patsubst src/_uws/%.pyi,_uws.%,$(wildcard src/_uws/*.pyi))
SHIMS := $(wildcard tests/uws_shims/*.pyx tests/uws_shims/*.pxd)

.PHONY: help run test clean lint docs versions wheels
.PHONY: autobahn autobahn-all differential fuzz exits faults simulate peers pool isolation asan tsan free-threaded
.PHONY: bench bench-quick bench-smoke bench-compare growth kernels liveness beside scaling senders instructions
.PHONY: abuse floods cycles soak churn idle million handshake orphans loadgen compression
.DELETE_ON_ERROR:

help:
	@echo "make run          the echo server on $(ADDR), and its page on http://localhost$(ADDR)/"
	@echo "make test         all tests"
	@echo "make autobahn     the Autobahn cases; report in autobahn-report/"
	@echo "make autobahn-all all 517 of them, with and without compression"
	@echo "make exits N=200  every way in which a process ends, so many times"
	@echo "make faults       every call of the engine fails in its turn; N=20000: in so many cases"
	@echo "make differential N=100000 random streams, read by us, websockets and wsproto"
	@echo "make fuzz TIME=60 inputs that clang's libFuzzer makes, put to parsers and oracles; TARGET=\"proto utf8\": these only"
	@echo "make bench        ours beside the peers and a floor in C: speed, memory, round trips; writes bench/RESULTS.md"
	@echo "make bench-quick  the same in a few minutes, without those peers that are not near; writes nothing"
	@echo "make bench-smoke  a moment of all that, and of the four below: do they run at all"
	@echo "make bench-compare BASE=rev  this tree beside a revision of it"
	@echo "make growth       CPU of a message by connections, of a tick by idle ones; part of bench/RESULTS.md"
	@echo "make kernels      kernels and parsers alone, by pyperf"
	@echo "make pool         throughput with the pool of DefaultServer beside the same server without one"
	@echo "make isolation    round trips of most while some callbacks sleep or compute"
	@echo "make liveness     pings and newcomers of 10,000 connections while the GIL is held for a minute"
	@echo "make beside       throughput beside a Python thread that computes"
	@echo "make scaling      callbacks that compute, on one loop, on several, with a pool"
	@echo "make senders      8 threads send 10 million messages, every one checked"
	@echo "make floods       ten million fragments, pings, close frames; bombs; peers that vanish; beside honest ones"
	@echo "make cycles       a million connections that come and go: what they leave behind"
	@echo "make abuse        10,000 slow handshakes, readers that stop, no descriptors, storms: what honest clients notice"
	@echo "make soak MINUTES=60  10,000 connections of every kind come, talk and go: nothing lost, nothing left, flat memory"
	@echo "make churn        the same a hundred times as fast: what stays of a connection, to the block"
	@echo "make instructions instructions of an echo, a handshake and a tick, counted, against the baseline"
	@echo "make idle         memory of 18,000 idle connections: a row of make bench"
	@echo "make million      a million connections in one process, if memory allows: what each takes, here and in the kernel"
	@echo "make handshake    CPU of a handshake that comes byte by byte"
	@echo "make orphans      CPU of looking after 100,000 idle connections"
	@echo "make loadgen      unlimitedws bench beside the clients in C"
	@echo "make compression  compression beside websockets and uWebSockets"
	@echo "make lint         ruff, cython-lint, mypy, stubtest"
	@echo "make docs         the site of docs/, with every link followed, in build/site"
	@echo "make versions     pip install . and a smoke test on every Python from 3.10 on that is here"
	@echo "make wheels       the sdist and a wheel for each of them in dist/, for glibc 2.17, checked and tried"
	@echo "make simulate SEEDS=100000  the engine under as many seeded networks, kernels and clocks; SEED=12345: one, told"
	@echo "make asan         all tests under AddressSanitizer and UndefinedBehaviorSanitizer, with the engine's assertions"
	@echo "make tsan         the tests that have threads, under ThreadSanitizer"
	@echo "make free-threaded all tests on a free-threaded Python, without the GIL"
	@echo "make clean        remove what the others made"

run: $(VENV)/installed
	$(VENV)/bin/unlimitedws echo --addr $(ADDR)

test: $(DEV)/built
	$(PY) -m pytest $(ARGS)

autobahn: $(DEV)/built
	$(PY) tests/conformance/autobahn.py --outdir autobahn-report $(ARGS)

autobahn-all: $(DEV)/built
	$(PY) tests/conformance/autobahn.py --all --outdir autobahn-report $(ARGS)

differential: $(DEV)/built
	cd tests && PYTHONPATH=../src ../$(PY) -m differential.comparing --count $(or $(N),100000) $(ARGS)

fuzz: $(DEV)/built
	$(PY) tools/fuzz.py --time $(or $(TIME),60) --jobs $(JOBS) $(TARGET) $(ARGS)

exits: $(DEV)/built
	$(PY) tests/faults/exits.py --runs $(or $(N),200) $(ARGS)

faults: $(DEV)/built
	$(PY) tests/faults/failing_calls.py $(if $(N),--cases $(N),--every) $(ARGS)

# What cannot be had is left out of the benchmark, which says so.
bench: $(DEV)/built peers
	$(PY) bench/run.py $(ARGS)

bench-quick: $(DEV)/built peers
	$(PY) bench/run.py --quick $(ARGS)

bench-compare: $(DEV)/built
	$(PY) bench/compare.py $(or $(BASE),$(error BASE=rev is missing)) $(ARGS)

growth: $(DEV)/built peers
	$(PY) bench/growth.py $(ARGS)

kernels: $(DEV)/built
	$(PY) bench/kernels.py $(ARGS)

peers: $(DEV)/required
	-$(PY) -m pip install --quiet socketify
	-test ! -x "$$(command -v npm)" || test -d tests/peers/node/node_modules/ws || \
		npm ci --prefix tests/peers/node --no-audit --no-fund --ignore-scripts

bench-smoke: $(DEV)/built
	$(PY) bench/run.py --smoke $(ARGS)
	$(PY) bench/growth.py --smoke
	$(PY) bench/kernels.py --debug-single-value --quiet
	$(PY) bench/isolation.py --smoke
	$(PY) bench/liveness.py --smoke
	$(PY) bench/beside.py --smoke
	$(PY) bench/scaling.py --smoke
	$(PY) bench/senders.py --smoke

pool: $(DEV)/built
	$(PY) bench/run.py --rows echo-100 echo-100x16 --only on_message --rounds 11 --against "ours, inline on_message" $(ARGS)

isolation: $(DEV)/built
	$(PY) bench/isolation.py $(ARGS)

liveness: $(DEV)/built
	$(PY) bench/liveness.py $(ARGS)

beside: $(DEV)/built
	$(PY) bench/beside.py $(ARGS)

scaling: $(DEV)/built
	$(PY) bench/scaling.py $(ARGS)

senders: $(DEV)/built
	$(PY) bench/senders.py $(ARGS)

floods: $(DEV)/built
	$(PY) bench/floods.py $(ARGS)

cycles: $(DEV)/built
	$(PY) bench/floods.py --only cycles $(ARGS)

abuse: $(DEV)/built
	$(PY) bench/abuse.py $(ARGS)

soak: $(DEV)/built
	$(PY) bench/soak.py --minutes $(MINUTES) $(ARGS)

churn: $(DEV)/built
	$(PY) bench/churn.py $(ARGS)

instructions: $(DEV)/built
	$(PY) bench/instructions.py $(ARGS)

idle: $(DEV)/built
	$(PY) bench/run.py --rows idle $(ARGS)

million: $(DEV)/built
	$(PY) bench/million.py $(ARGS)

handshake: $(DEV)/built
	$(PY) bench/handshake.py $(ARGS)

orphans: $(DEV)/built
	$(PY) bench/orphans.py $(ARGS)

loadgen: $(DEV)/built
	$(PY) bench/loadgen.py $(ARGS)

compression: $(DEV)/built peers
	$(PY) bench/compressing.py $(ARGS)

# PATH: cython-lint calls pycodestyle by name.
lint: $(DEV)/built
	$(DEV)/bin/ruff check .
	PATH="$(CURDIR)/$(DEV)/bin:$$PATH" cython-lint src tests
	$(DEV)/bin/mypy
	PYTHONPATH=src $(PY) -m mypy.stubtest --concise --mypy-config-file pyproject.toml \
		--allowlist tools/stubtest.txt $(STUBBED) unlimitedws

docs: $(DEV)/documenting
	$(PY) tools/pages.py

versions:
	$(PYTHON) tools/versions.py $(ARGS)

# PYTHON_FT: a free-threaded one, too.
wheels:
	$(PYTHON) tools/wheels.py $(ARGS)

# make simulate SEED=12345 ARGS=--shrink: with as few mishaps as it takes.
simulate: $(DEV)/built
	$(PY) tests/simulation/simulate.py --jobs $(JOBS) $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) $(ARGS)

# The next three build the engine in a copy of the sources under build/.
asan: $(DEV)/required
	$(PY) tools/asan.py --jobs $(JOBS) $(ARGS)

tsan: $(DEV)/required
	$(PY) tools/tsan.py --jobs $(JOBS) $(ARGS)

# PYTHON_FT: one that is here; otherwise Debian's source is built.
free-threaded:
	$(PYTHON) tools/freethreaded.py --jobs $(JOBS) $(ARGS)

clean:
	rm -rf $(VENV) $(DEV) build dist bench/bin autobahn-report src/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache tests/peers/node/node_modules
	find src tests -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps lie within what they vouch for: who removes an environment removes its stamps.

# build/lib.*: what a deleted file left in there would be installed.
$(VENV)/installed: $(PACKAGING) $(ENGINE) $(LIBRARY)
	$(PYTHON) -m venv $(VENV)
	rm -rf build/lib.*
	$(VENV)/bin/python -m pip install --quiet .
	@touch $@

$(DEV)/required: pyproject.toml tools/requirements.py
	$(PYTHON) -m venv $(DEV)
	$(PY) tools/requirements.py test dev bench > $(DEV)/requirements.txt
	$(PY) -m pip install --quiet -r $(DEV)/requirements.txt
	@touch $@

# The reference is made of the sources, and of what the library imports: nothing has to be built.
$(DEV)/documenting: $(DEV)/required
	$(PY) tools/requirements.py docs > $(DEV)/requirements-docs.txt
	$(PY) -m pip install --quiet -r $(DEV)/requirements-docs.txt
	@touch $@

# What a build that was interrupted leaves is newer than its sources, and may be half a file.
$(DEV)/built: $(DEV)/required setup.py $(ENGINE) $(SHIMS)
	if [ -e $(DEV)/building ]; then rm -rf build/lib.* build/temp.* build/cython build/packaged; find src tests -name '*.so' -delete; fi
	@touch $(DEV)/building
	UWS_SHIMS=1 UWS_JOBS=$(JOBS) $(PY) setup.py --quiet build_ext --inplace --parallel $(JOBS)
	@rm $(DEV)/building
	@touch $@
