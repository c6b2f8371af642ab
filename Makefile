# quiesce: every command that README names. `make` alone lists them.

GOARCH  ?= arm64
EVENT   ?= events/plan.json
CONFIG  ?= infra/quiesce.yaml
# What makes the same commit give the same bytes: no paths, no time, no build ID. lambda.norpc leaves out the old runtime's server.
BUILD   := CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags lambda.norpc -ldflags '-s -w -buildid='
# Most of a test's time is waiting, so that more of them than cores run side by side.
TESTTIMEOUT ?= 20m
# Of `make soak`: a million take about an hour on 2 cores.
SEEDS   ?= 1000000
LINT    := go tool -modfile=test/tools/lint/go.mod

.DEFAULT_GOAL := help
.PHONY: help build test soak lint bench bench-pgbouncer demo story lab invoke tools images clean setup

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
	go test -race -parallel 8 -timeout $(TESTTIMEOUT) ./...

soak: setup ## run the simulation over many more seeds: make soak SEEDS=1000000
	SEEDS=$(SEEDS) go test -run TestTheUseCaseKeepsItsPromises -v -timeout 0 ./internal/termination

lint: setup ## gofmt, go mod tidy, go vet, staticcheck, govulncheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -d $$(git ls-files '*.go'); exit 1; }
	go mod tidy -diff
	go vet ./...
	$(LINT) staticcheck ./...
	@echo 'govulncheck ./...'; $(LINT) govulncheck ./... || test $$? -ne 3

bench: setup tools ## drains side by side with kubectl drain and an ideal client, as ratios in one run
	go test -run '^$$' -bench 'Drain|ColdStart' -benchtime 3x -timeout 60m ./test/bench

bench-pgbouncer: setup tools images ## what becomes of 20 busy workers when a pooler's node goes, ten times each way
	go test -run '^$$' -bench Poolers -benchtime 10x -timeout 90m ./test/bench

build: ## dist/bootstrap (linux, GOARCH, default arm64) and dist/function.zip, the same bytes for the same commit
	@mkdir -p dist
	GOOS=linux GOARCH=$(GOARCH) $(BUILD) -o dist/bootstrap ./lambda
	go run ./infra/bundle dist/bootstrap $(CONFIG) dist/function.zip
	@cd dist && sha256sum bootstrap function.zip

images: setup ## make the container images of the lab's real nodes from Debian packages, once a version
	@go run ./test/images/build

tools: ## build the lab's real components into the user's cache directory, once a version
	@go run ./test/tools/build

# What real nodes are made of. Where it cannot be installed, the tests that need it say so.
NODES := containerd runc containernetworking-plugins debootstrap iproute2 nftables util-linux procps

setup:
	@command -v go >/dev/null || { echo 'Go 1.26 is needed: https://go.dev/doc/install'; exit 1; }
	@command -v gcc >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq gcc libc6-dev; } \
		|| { echo 'gcc is needed by the race detector: install it'; exit 1; }
	@test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || dpkg -s $(NODES) >/dev/null 2>&1 || { \
		echo 'setup: installing $(NODES)'; apt-get update -qq && apt-get install -y -qq --no-install-recommends $(NODES) >/dev/null; }

clean: ## remove dist
	rm -rf dist
