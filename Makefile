# One verb per task; `make` alone lists them. Everything is installed inside this folder: see tools/bootstrap.py.

# Which Python may make .venv: the first of these that is 3.11 or 3.12.
PYTHON ?= python3.11 python3.12 python3
# Which compiler: auto (a native solc 0.8.30 from ~/.solcx, else npm's), native (download it), npm.
SOLC ?= auto
DEMO_ARGS ?=
# 1: a local graph-node indexes the demo.
GRAPH ?=
TEST_ARGS ?=
# What is given to the tool of that verb, such as MUTATE_ARGS="--minutes 60" or FUZZ_ARGS="--seed 7".
FUZZ_ARGS ?=
MUTATE_ARGS ?= --sample 150 --seed 1
ECONOMY_ARGS ?=
ORACLE_ARGS ?=
CHAOS_ARGS ?=
SOAK_ARGS ?=
FLEET_ARGS ?=
RL_ARGS ?=
CAMPAIGN_ARGS ?=
PEOPLE_ARGS ?=
REPORT_ARGS ?=
MUTATE_ARGS_SOLANA ?=
RUN := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/node_modules/.bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install graph subgraph test check demo artifacts gas brownie forge lock clean report-rl \
	solana-build solana-mutate solana-newer bench-solana test-solana demo-solana page page-tools e2e bench-people deploy-campaign attacks fuzz-fast fuzz prove mutate coverage slither economy chaos soak bench-fleet bench-oracle bench-rl \
	bench-intervals

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## set up .venv, node_modules and the compiler (SOLC=auto|native|npm)
	@for python in $(PYTHON); do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && \
	exec $$python tools/bootstrap.py --solc $(SOLC); done; \
	echo "make install: MarketFlow needs Python 3.11 or 3.12 with its venv module; on Debian or Ubuntu:" \
	"apt-get install python3.11 python3.11-venv, elsewhere: make install PYTHON=/path/to/python3.11" >&2; exit 1

graph: install ## set up a graph-node and PostgreSQL (Linux on x86-64); what needs them calls it
	@$(RUN) tools/bootstrap.py --graph

page-tools: install
	@$(RUN) tools/bootstrap.py --page

page: page-tools ## build the voting page anew into agents/voting_page/
	@$(RUN) tools/build_page.py

test: install graph page-tools ## run every test group (TEST_ARGS="contracts agents" for some)
	@$(RUN) tools/run_tests.py $(TEST_ARGS)

check: install ## lint, artefacts up to date, dependencies consistent
	@.venv/bin/ruff check --output-format concise .
	@$(RUN) tools/build_artifacts.py --check
	@$(RUN) tools/build_page.py --check
	@$(RUN) tools/build_solana.py --check
	@$(RUN) -m pip check

demo: install $(if $(filter 1,$(GRAPH)),graph) ## run the whole circle on a local chain (DEMO_ARGS="...", GRAPH=1)
	@.venv/bin/ape run demo $(if $(filter 1,$(GRAPH)),--graph) $(DEMO_ARGS)

solana-build: install ## compile the Solana programs into agents/solana_programs/, in .venv-solana
	@$(RUN) tools/bootstrap.py --solana
	@$(RUN) tools/build_solana.py

test-solana: install ## the Solana programs in a real runtime, beside their model
	@$(RUN) tools/run_tests.py solana

demo-solana: install ## the whole circle on a local Solana (DEMO_ARGS="...")
	@.venv/bin/marketflow solana demo $(DEMO_ARGS)

solana-mutate: install ## take one check after the other out of the Solana program: the tests must notice
	@$(RUN) tools/bootstrap.py --solana
	@$(RUN) tools/solana_mutate.py $(MUTATE_ARGS_SOLANA)

bench-solana: install ## transactions a second on a local Solana, beside bare transfers
	@$(RUN) -m benchmarks.solana

solana-newer: install ## deploy the Solana programs to newer runtimes through their loader; one story on each
	@$(RUN) tools/solana_newer.py

e2e: install page-tools ## vote in a real browser on a local chain, and run every command of the docs; pictures in out/people/
	@$(RUN) tools/run_tests.py page people

report-rl: install ## whether a strategy is any good, out of sample, with pictures (REPORT_ARGS="--data prices.csv")
	@$(RUN) -m offchain_rl.report $(REPORT_ARGS)

attacks: install ## act out every attack on the contracts: what it gains, what it costs, what stops it
	@$(RUN) -m pytest tests/contracts/attacks -q

fuzz-fast: install ## random actors against the protocol's invariants, for seconds
	@$(RUN) tools/fuzz.py fast

fuzz: install ## the same as a campaign: 1,024 runs, 100,000 for each property; resumes (FUZZ_ARGS="--seed 7")
	@$(RUN) tools/fuzz.py campaign $(FUZZ_ARGS)

prove: install ## prove arithmetic, pool and ledger with halmos and z3
	@$(RUN) tools/prove.py

coverage: install ## lines and branches of contracts/ that the Solidity tests reach
	@$(RUN) tools/coverage.py

slither: install ## static analysis; a finding is fixed or answered beside the code
	@$(RUN) tools/slither.py

mutate: install ## change the contracts, see whether a test notices; resumes (MUTATE_ARGS="--minutes 60")
	@$(RUN) tools/mutate.py $(MUTATE_ARGS)

economy: install ## a thousand agents, honest and not: what cheating earns (ECONOMY_ARGS="--quick")
	@$(RUN) -m benchmarks.economy $(ECONOMY_ARGS)

chaos: install ## 10,000 runs with faults, 300 killed daemons: nothing lost, nothing doubled; resumes (CHAOS_ARGS="--seed 7")
	@$(RUN) tools/chaos.py $(CHAOS_ARGS)

soak: install ## a day of bars at accelerated time, with faults: availability, memory, files (SOAK_ARGS="--bars 300")
	@$(RUN) tools/soak.py $(SOAK_ARGS)

deploy-campaign: install ## interrupt a deployment at every transaction in turn, and go on; resumes (CAMPAIGN_ARGS="--every 7")
	@$(RUN) tools/deploy_campaign.py $(CAMPAIGN_ARGS)

bench-fleet: install ## a thousand agents in one process: from a new price to signed orders (FLEET_ARGS="--agents 100")
	@$(RUN) -m benchmarks.fleet $(FLEET_ARGS)

bench-oracle: install ## feeds, histories and Graph answers per second, beside plain web3 and requests
	@$(RUN) -m benchmarks.oracle $(ORACLE_ARGS)

bench-rl: install ## environment, training and backtest beside their peers, each in steps per second of CPU (RL_ARGS="--quick")
	@$(RUN) -m benchmarks.rl $(RL_ARGS)

bench-people: install page-tools ## the page's first paint and weight, a relayer's votes beside the node's, the console's start
	@$(RUN) -m benchmarks.people $(PEOPLE_ARGS)
	@$(RUN) -m benchmarks.console

bench-intervals: install ## our intervals of the next return beside rolling quantiles and GARCH, on the same rows
	@$(RUN) -m benchmarks.calibration

artifacts: install ## compile contracts/ into agents/abi/
	@$(RUN) tools/build_artifacts.py

subgraph: graph ## build the subgraph; a manifest for each network in deployments/
	@.venv/bin/ape run manifests

gas: install ## measure gas again and update the table the tests compare with
	@$(RUN) -m tests.contracts.gas_table --update

brownie: install ## build the contracts with brownie too, compare the byte code, run brownie/tests
	@$(RUN) tools/bootstrap.py --brownie
	@$(RUN) tools/other_builders.py brownie

forge: install ## build the contracts with forge too, compare the byte code
	@$(RUN) tools/other_builders.py forge

lock: install graph ## after a pin changed: write constraints.txt and package-lock.json anew
	@$(RUN) tools/bootstrap.py --lock
	@npm install --package-lock-only --no-fund --no-audit
	@cd subgraph && npm install --package-lock-only --no-fund --no-audit

clean: ## remove what builds and tests made; the installed tools stay
	@rm -rf .build build contracts/.cache brownie/build brownie/reports .pytest_cache .ruff_cache .hypothesis
	@for at in subgraph subgraph/pools; do rm -rf $$at/abis $$at/build $$at/generated $$at/subgraph.yaml; done
	@find . -name __pycache__ -not -path './.venv*' -not -path './node_modules/*' -prune -exec rm -rf {} +
