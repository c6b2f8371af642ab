# quiesce: every command that README names. `make` alone lists them.

GOARCH  ?= arm64
EVENT   ?= events/plan.json
# One file for each cluster: CONFIG="a.yaml b.yaml" makes dist/a.zip and dist/b.zip, and a stack of each.
CONFIG  ?= infra/quiesce.yaml
zip      = dist/$(if $(word 2,$(CONFIG)),$(basename $(notdir $(1))),function).zip
ZIPS     = $(foreach file,$(CONFIG),$(call zip,$(file)))
# What reads the synthesized stacks: older versions do not understand them. The tag "latest" at npm is a far older one.
CDK     := npx --yes aws-cdk@2.1148.1
# What makes the same commit give the same bytes: no paths, no time, no build ID. lambda.norpc leaves out the old runtime's server.
BUILD   := CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags lambda.norpc -ldflags '-s -w -buildid='
# Most of a test's time is waiting, so that more of them than cores run side by side. Each is really run: the function that tests build
# and start is none of the dependencies by which go test tells what may have changed.
TESTTIMEOUT ?= 40m
# Of `make soak`: a million take about a quarter of an hour on 2 cores that do nothing else. The rest of it takes another half.
SEEDS   ?= 1000000
# Of `make soak`, too: how many drains are killed at random moments, and for how many seconds the API server is away (beyond the 30 of a
# Lease) and Auto Scaling throttles (beyond the minute of a completion).
KILLS     ?= 100
OUTAGE    ?= 40
THROTTLED ?= 75
FAULTS    := TestKill_|TestOutage_|TestFailure_
LINT    := go tool -modfile=test/parts/tools/lint/go.mod

.DEFAULT_GOAL := help
.PHONY: help build synth deploy test soak lint bench bench-pgbouncer demo story lab invoke tools images clean setup node

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup tools ## drain a node of a real control plane on this machine with the built function
	@mkdir -p dist
	@$(BUILD) -o dist/demo/bootstrap ./lambda
	@go run ./test/demo

story: setup tools images ## kill a node with a pgbouncer on it, without and with quiesce; prints both and draws dist/story.svg
	@mkdir -p dist
	@go run ./test/story

lab: setup tools ## keep a lab up: a real control plane, Auto Scaling and the built function; prints its KUBECONFIG
	@mkdir -p dist
	@$(BUILD) -o dist/demo/bootstrap ./lambda
	@go run ./test/demo lab

invoke: ## invoke the function of the lab that is up: make invoke EVENT=events/plan.json
	@go run ./test/demo invoke $(EVENT)

test: setup tools ## run every test; the first time builds the real components (15 min on 2 cores)
	@$(MAKE) --no-print-directory images || { test "$$CI" != true && echo 'test: without images the tests of real nodes are skipped'; }
	@echo 'test: compiling the function and the tests takes minutes where the build cache is empty'
	go test -race -count 1 -parallel 8 -timeout $(TESTTIMEOUT) ./...

soak: setup tools ## the long forms: the simulation over many more seeds (SEEDS=1000000), real faults for longer, load of 100 nodes
	SEEDS=$(SEEDS) go test -run TestTheUseCaseKeepsItsPromises -v -timeout 0 ./internal/termination
	KILLS=$(KILLS) OUTAGE=$(OUTAGE) THROTTLED=$(THROTTLED) go test -race -run '$(FAULTS)' -parallel 16 -v -timeout 0 ./test/e2e
	LOAD=long go test -run TestLoad -parallel 1 -v -timeout 0 ./test/e2e

lint: setup ## gofmt, go mod tidy, go vet, staticcheck, govulncheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -d $$(git ls-files '*.go'); exit 1; }
	go mod tidy -diff
	go vet ./...
	$(LINT) staticcheck ./...
	@echo 'govulncheck ./...'; $(LINT) govulncheck ./... || test $$? -ne 3

bench: setup tools ## drains side by side with kubectl drain and an ideal client, as ratios in one run
	go test -run '^$$' -bench 'Drain|ColdStart' -benchtime 3x -timeout 60m ./test/bench
	go test -run '^$$' -bench ManyNodes -benchtime 1x -timeout 60m ./test/bench

bench-pgbouncer: setup tools images ## what becomes of 20 busy workers when a pooler's node goes, ten times each way
	go test -run '^$$' -bench Poolers -benchtime 10x -timeout 90m ./test/bench

build: ## dist/bootstrap (linux, GOARCH, default arm64) and dist/function.zip, the same bytes for the same commit
	@mkdir -p dist
	GOOS=linux GOARCH=$(GOARCH) $(BUILD) -o dist/bootstrap ./lambda
	$(foreach file,$(CONFIG),go run ./infra/bundle dist/bootstrap $(file) $(call zip,$(file)) &&) sha256sum dist/bootstrap $(ZIPS)

synth: override GOARCH := arm64
synth: node build ## the CloudFormation template of each CONFIG into infra/cdk.out; needs node, and no network
	@rm -f infra/cdk.out/*.template.json
	cd infra && CDK_OUTDIR=cdk.out go run . $(addprefix ../,$(ZIPS))

deploy: node ## deploy each CONFIG to AWS; asks before it changes who may do what
	cd infra && $(CDK) deploy --all

images: setup ## make the container images of the lab's real nodes from Debian packages, once a version
	@go run ./test/parts/images/build

tools: ## build the lab's real components into the user's cache directory, once a version
	@go run ./test/parts/tools/build

# What real nodes are made of. Where it cannot be installed, the tests that need it say so.
NODES := containerd runc containernetworking-plugins debootstrap iproute2 nftables util-linux procps

setup: node
	@command -v go >/dev/null || { echo 'Go 1.26 is needed: https://go.dev/doc/install'; exit 1; }
	@command -v gcc >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq gcc libc6-dev; } \
		|| { echo 'gcc is needed by the race detector: install it'; exit 1; }
	@test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || dpkg -s $(NODES) >/dev/null 2>&1 || { \
		echo 'setup: installing $(NODES)'; apt-get update -qq && apt-get install -y -qq --no-install-recommends $(NODES) >/dev/null; }

node:
	@command -v node >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null; } \
		|| echo 'node is needed to synthesize the stack, whose tests are skipped without: https://nodejs.org'

clean: ## remove dist and infra/cdk.out
	rm -rf dist infra/cdk.out
