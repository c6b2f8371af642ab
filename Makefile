# The commands of quiesce. `make` alone lists them.

GOARCH  ?= arm64
EVENT   ?= events/plan.json
# One configuration file per cluster. CONFIG="a.yaml b.yaml" makes dist/a.zip and dist/b.zip, and one stack from each.
CONFIG  ?= infra/quiesce.yaml
zip      = dist/$(if $(word 2,$(CONFIG)),$(basename $(notdir $(1))),function).zip
ZIPS     = $(foreach file,$(CONFIG),$(call zip,$(file)))
# The CDK command. Older versions cannot read the synthesized stacks, and the tag "latest" at npm is an older version.
CDK     := npx --yes aws-cdk@2.1148.1
# Flags for reproducible builds: no paths, no time, no build ID. lambda.norpc leaves out the server of the old Lambda runtime.
BUILD   := CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags lambda.norpc -ldflags '-s -w -buildid='
# Tests mostly wait, so more of them than cores run in parallel. They always run (-count 1): go test does not know that they depend on the
# function that they build and start, so its cached results could be stale.
TESTTIMEOUT ?= 40m
# Simulated scenarios of `make soak`. A million take about 15 minutes on two idle cores; the rest of `make soak` takes about 30 minutes.
SEEDS   ?= 1000000
# Fault injection of `make soak`: the number of drains killed at random moments, and the seconds for which the API server is down (longer
# than the 30 of a Lease) and Auto Scaling throttles (longer than the 60 for which a completion is retried).
KILLS     ?= 100
OUTAGE    ?= 40
THROTTLED ?= 75
FAULTS    := TestKill_|TestOutage_|TestFailure_
LINT    := go tool -modfile=test/parts/tools/lint/go.mod

.DEFAULT_GOAL := help
.PHONY: help build synth deploy test soak lint bench bench-pgbouncer demo story lab invoke tools images clean setup node

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup tools ## drain a node of a real control plane on this machine
	@mkdir -p dist
	@$(BUILD) -o dist/demo/bootstrap ./lambda
	@go run ./test/demo

story: setup tools images ## terminate the node of a pgbouncer without and with quiesce; prints both results, draws dist/story.svg (8 min)
	@mkdir -p dist
	@go run ./test/story

lab: setup tools ## run a control plane, simulated AWS APIs and the function until Ctrl-C; prints its KUBECONFIG
	@mkdir -p dist
	@$(BUILD) -o dist/demo/bootstrap ./lambda
	@go run ./test/demo lab

invoke: ## invoke the function of the running lab: make invoke EVENT=events/plan.json
	@go run ./test/demo invoke $(EVENT)

test: setup tools ## run all tests; the first run builds the lab (15 min on 2 cores)
	@$(MAKE) --no-print-directory images || { test "$$CI" != true && echo 'test: no container images: tests that need real nodes are skipped'; }
	@echo 'test: compiling takes minutes if the build cache is empty'
	go test -race -count 1 -parallel 8 -timeout $(TESTTIMEOUT) ./...

soak: setup tools ## run the long tests: a million simulated scenarios, fault injection, 100 nodes at once (45 min)
	@for test in $(subst |, ,$(FAULTS)); do \
		grep -qs "^func $$test" test/e2e/*_test.go || { echo "soak: FAULTS names $$test, and test/e2e has no such test"; exit 1; }; done
	SEEDS=$(SEEDS) go test -run TestSimulation_EverySeed_KeepsPromises -v -timeout 0 ./internal/termination
	KILLS=$(KILLS) OUTAGE=$(OUTAGE) THROTTLED=$(THROTTLED) go test -race -run '$(FAULTS)' -parallel 16 -v -timeout 0 ./test/e2e
	LOAD=long go test -run TestLoad -parallel 1 -v -timeout 0 ./test/e2e

lint: setup ## gofmt, go mod tidy, go vet, staticcheck, govulncheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -d $$(git ls-files '*.go'); exit 1; }
	go mod tidy -diff
	go vet ./...
	$(LINT) staticcheck ./...
	@echo 'govulncheck ./...'; $(LINT) govulncheck ./... || test $$? -ne 3

bench: setup tools ## compare drains with kubectl drain and with an ideal client, in one run
	go test -run '^$$' -bench 'Drain|ColdStart' -benchtime 3x -timeout 60m ./test/bench
	go test -run '^$$' -bench ManyNodes -benchtime 1x -timeout 60m ./test/bench

bench-pgbouncer: setup tools images ## benchmark pgbouncer drains under 20 busy workers: 10 runs per case (1 h)
	go test -run '^$$' -bench Poolers -benchtime 10x -timeout 90m ./test/bench

build: ## build dist/bootstrap (linux, GOARCH=arm64) and dist/function.zip, reproducibly
	@mkdir -p dist
	GOOS=linux GOARCH=$(GOARCH) $(BUILD) -o dist/bootstrap ./lambda
	$(foreach file,$(CONFIG),go run ./infra/bundle dist/bootstrap $(file) $(call zip,$(file)) &&) sha256sum dist/bootstrap $(ZIPS)

synth: override GOARCH := arm64
synth: node build ## write the CloudFormation template of each CONFIG to infra/cdk.out; needs node, no network
	@rm -f infra/cdk.out/*.template.json
	cd infra && CDK_OUTDIR=cdk.out go run . $(addprefix ../,$(ZIPS))

deploy: node ## deploy each CONFIG to AWS; asks before it widens permissions
	cd infra && $(CDK) deploy --all

images: setup ## make the container images of the lab's nodes, once per version (root, Debian)
	@go run ./test/parts/images/build

tools: ## build the lab's programs into the user's cache directory, once per version
	@go run ./test/parts/tools/build

# Debian packages of the lab's real nodes. Without them, tests that need real nodes are skipped and say so.
NODES := containerd runc containernetworking-plugins debootstrap iproute2 nftables util-linux procps

# setup and node install what other targets need. They are not commands, so `make` does not list them.
setup: node
	@command -v go >/dev/null || { echo 'install Go 1.26: https://go.dev/doc/install'; exit 1; }
	@command -v gcc >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq gcc libc6-dev; } \
		|| { echo 'the race detector needs gcc: install it'; exit 1; }
	@test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || dpkg -s $(NODES) >/dev/null 2>&1 || { \
		echo 'setup: installing $(NODES)'; apt-get update -qq && apt-get install -y -qq --no-install-recommends $(NODES) >/dev/null; }

node:
	@command -v node >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null; } \
		|| echo 'node is not installed: no stack can be synthesized, and tests of it are skipped: https://nodejs.org'

clean: ## remove dist and infra/cdk.out
	rm -rf dist infra/cdk.out
