# The commands of quiesce. `make` alone lists them.

GOARCH  ?= arm64
# Recipes say for whom they build. What they run themselves is for this machine, also after make GOARCH=arm64.
unexport GOARCH
EVENT   ?= events/plan.json
# One configuration file per cluster. CONFIG="a.yaml b.yaml" makes dist/a.zip and dist/b.zip, and one stack from each.
CONFIG  ?= infra/quiesce.yaml
zip      = dist/$(if $(word 2,$(CONFIG)),$(basename $(notdir $(1))),function).zip
ZIPS     = $(foreach file,$(CONFIG),$(call zip,$(file)))
# The CDK command. Older versions cannot read the synthesized stacks, and the tag "latest" at npm is an older version.
CDK     := npx --yes aws-cdk@2.1148.1
# What the function reports of itself. The commit has 12 digits, because git chooses the number by what else a clone has. Without
# git, both are unknown. With changes that are not committed, untracked files included, both say dirty.
git      = $(or $(shell git $(1) 2>/dev/null | tr -cd 'A-Za-z0-9._-'),unknown)
DIRTY   := $(if $(shell git status --porcelain 2>/dev/null),-dirty)
VERSION := $(call git,describe --tags --always --abbrev=12)$(DIRTY)
COMMIT  := $(call git,rev-parse --short=12 HEAD)$(DIRTY)
# Flags for reproducible builds: no paths, no time, no build ID. lambda.norpc leaves out the server of the old Lambda runtime.
BUILD   := CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags lambda.norpc \
	-ldflags '-s -w -buildid= -X main.version=$(VERSION) -X main.commit=$(COMMIT)'
# What the lab needs is built and run with the same flags, so that the build cache has each package once.
RUN     := CGO_ENABLED=0 go run -trimpath -buildvcs=false
# Tests mostly wait, so more of them than cores run in parallel. They always run (-count 1): go test does not know that they depend on the
# function that they build and start, so its cached results could be stale.
# The end-to-end packages run last, one after the other: each has a lab of its own, and two labs on two cores are so slow that timeouts of
# the product expire.
TESTTIMEOUT ?= 40m
TEST    := CGO_ENABLED=1 go test -race -count 1 -parallel 8 -timeout $(TESTTIMEOUT)
# Simulated scenarios of `make soak`. A million take about 15 minutes on two idle cores.
SEEDS   ?= 1000000
# Fault injection of `make soak`: the number of drains killed at random moments, and the seconds for which the API server is down (longer
# than the 30 of a Lease) and Auto Scaling throttles (longer than the 60 for which a completion is retried).
KILLS     ?= 100
OUTAGE    ?= 40
THROTTLED ?= 75
FAULTS    := TestKill_|TestOutage_|TestFailure_
# The oldest Kubernetes that Amazon EKS supports: `make soak` runs the end-to-end tests with simulated kubelets on it too.
OLDEST    ?= v1.33.x
# How often `make soak` repeats the tests of PostgreSQL primaries, in their long form. Once takes about 20 minutes.
REPEAT    ?= 10
# How often `make repeat` and `make soak` run the packages whose tests need no lab: nothing that they import starts one.
# Three packages at once, as most of them wait; with eight, pgbouncers of tests time out on two cores.
RUNS      ?= 50
NOLAB      = $$(go list -test -f '{{.ImportPath}} {{join .Deps " "}} ' ./... | \
	awk '/^[^ ]*\.test / && !/ quiesce\/test\/parts\/lab[ []/ {sub(/\.test$$/, "", $$1); print $$1}')
LINT    := go tool -modfile=test/parts/tools/lint/go.mod
# The smoke test in AWS: a scratch group and its cluster. test/README.md has all variables. DEPLOY and DESTROY get the path of the
# configuration in CONFIG. KEEP_RBAC says whether infra/rbac.yaml was in the cluster before.
GROUP   ?=
CLUSTER ?=
DEPLOY  ?= kubectl apply -f infra/rbac.yaml && CDK_REQUIRE_APPROVAL=never $(MAKE) --no-print-directory deploy CONFIG="$$CONFIG"
DESTROY ?= (cd infra && $(CDK) destroy --all --force); status=$$?; \
	test "$$KEEP_RBAC" = true || kubectl delete --ignore-not-found -f infra/rbac.yaml || status=$$?; exit $$status

.DEFAULT_GOAL := help
.PHONY: help build quiescectl programs image always release synth deploy smoke test soak lint bench bench-pgbouncer bench-postgres demo story lab invoke tools operators images clean demo-programs go repeat mutants setup node schemas

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: demo-programs ## drain a node of a real control plane on this machine; the first run builds it (7 min on 2 idle cores)
	@dist/demo/demo

story: setup tools images ## terminate nodes of a pgbouncer and of a primary without and with quiesce; prints results, draws dist/story*.svg (15 min)
	@mkdir -p dist
	@go run ./test/story

lab: demo-programs ## run a control plane, simulated AWS APIs and the function until Ctrl-C; prints its KUBECONFIG
	@dist/demo/demo lab

# The programs of the lab come first, because the rest shares their packages.
demo-programs: go
	@$(RUN) ./test/parts/tools/build demo
	@$(RUN) ./test/parts/tools/build -- env $(BUILD) -v -o dist/demo/ ./lambda ./test/demo

invoke: ## invoke the function of the running lab: make invoke EVENT=events/plan.json
	@$(RUN) ./test/demo invoke $(EVENT)

test: setup tools ## run all tests, and print what each suite took; the first run builds the lab (15 min on 2 cores)
	@$(MAKE) --no-print-directory images || { test "$$CI" != true && echo 'test: no container images: tests that need real nodes are skipped'; }
	@$(MAKE) --no-print-directory schemas || { test "$$CI" != true && echo 'test: no AWS schemas: tests that need them are skipped'; }
	@echo 'test: compiling takes minutes if the build cache is empty'
	@go build -o dist/suites ./test/parts/suites
	@dist/suites '$(TEST) $$(go list ./... | grep -v /test/e2e)' '$(TEST) -p 1 ./test/e2e/...'

soak: setup tools ## run the long tests: a million simulated scenarios, faults, 100 nodes at once, the oldest Kubernetes, primaries that move (8 h)
	@for test in $(subst |, ,$(FAULTS)); do \
		grep -qs "^func $$test" test/e2e/*_test.go || { echo "soak: FAULTS names $$test, and test/e2e has no such test"; exit 1; }; done
	@$(MAKE) --no-print-directory repeat
	SEEDS=$(SEEDS) go test -run TestSimulation_EverySeed_KeepsPromises -v -timeout 0 ./internal/termination ./internal/postgres
	KILLS=$(KILLS) OUTAGE=$(OUTAGE) THROTTLED=$(THROTTLED) go test -race -run '$(FAULTS)' -parallel 16 -v -timeout 0 ./test/e2e
	LOAD=long go test -run 'TestLoad|TestMemory' -parallel 1 -v -timeout 0 ./test/e2e
	@KUBERNETES=$(OLDEST) $(MAKE) --no-print-directory tools
	KUBERNETES=$(OLDEST) $(TEST) ./test/e2e
	@$(MAKE) --no-print-directory images || echo 'soak: no container images: tests that need real nodes are skipped'
	CASES=all go test -race -count $(REPEAT) -v -timeout 0 ./test/e2e/postgres
	CASES=all go test -race -count $(REPEAT) -v -timeout 0 -run 'TestPreStop_|TestRotate_' ./test/e2e/pooler

repeat: setup ## run the packages that need no lab 50 times, with and without the race detector (4 h): make repeat RUNS=50
	@failed=0; for race in -race ''; do SEEDS=100 go test $$race -p 3 -parallel 8 -count $(RUNS) -timeout 4h $(NOLAB) || failed=1; done; exit $$failed

mutants: setup ## change the code, condition by condition, and say how many of these changes the tests notice
	@nice go run ./test/mutants $(PACKAGES)

lint: setup schemas ## gofmt, go mod tidy, go vet, staticcheck, govulncheck; the templates against AWS's schemas
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -d $$(git ls-files '*.go'); exit 1; }
	go mod tidy -diff
	go vet ./...
	$(LINT) staticcheck ./...
	@echo 'govulncheck ./...'; $(LINT) govulncheck ./... || test $$? -ne 3
	CI=true go test -count 1 -run '^TestTemplate_' ./infra

bench: setup tools ## compare drains with kubectl drain and with an ideal client, in one run
	go test -run '^$$' -bench 'Drain|ColdStart' -benchtime 3x -v -timeout 60m ./test/bench
	go test -run '^$$' -bench Chain -benchtime 9x -v -timeout 60m ./test/bench
	go test -run '^$$' -bench ManyNodes -benchtime 1x -v -timeout 90m ./test/bench
	go test -run '^$$' -bench Growth -benchtime 1x -v -timeout 60m ./test/bench

bench-pgbouncer: setup tools images ## benchmark pgbouncer drains under 20 busy workers: 10 runs per case (1 h)
	go test -run '^$$' -bench Poolers -benchtime 10x -timeout 90m ./test/bench

bench-postgres: setup tools images ## benchmark drains of a primary's node under load, and the move of a volume: 10 runs per case (2 h)
	go test -run '^$$' -bench 'Volume/^drained' -benchtime 10x -timeout 60m ./test/bench
	go test -run '^$$' -bench Volume/not-drained -benchtime 1x -timeout 60m ./test/bench
	go test -run '^$$' -bench Postgres -benchtime 10x -timeout 4h ./test/bench

build: ## build dist/bootstrap (linux, GOARCH=arm64) and dist/function.zip, reproducibly
	@mkdir -p dist
	GOOS=linux GOARCH=$(GOARCH) $(BUILD) -o dist/bootstrap ./lambda
	$(foreach file,$(CONFIG),go run ./infra/bundle dist/bootstrap $(file) $(call zip,$(file)) &&) sha256sum dist/bootstrap $(ZIPS)

quiescectl: ## build dist/quiescectl, the tool for people, for this machine
	@mkdir -p dist
	$(BUILD) -o dist/quiescectl ./infra/quiescectl

# Small programs for containers, each a folder of infra: static, and without what the function needs.
PROGRAMS := patronicallback prestop roles

programs: $(addprefix dist/,$(PROGRAMS)) ## build the programs that run in containers, such as dist/patronicallback (linux, GOARCH=arm64)

$(addprefix dist/,$(PROGRAMS)): dist/%: always
	@mkdir -p dist
	GOOS=linux GOARCH=$(GOARCH) $(BUILD) -o $@ ./infra/$*

# Images of them, without Docker: an OCI layout, which skopeo, crane and ctr read, and docker load too. No shell, no root, same bytes.
REGISTRY ?= localhost
TAG      ?= $(VERSION)

image: programs ## write dist/NAME-GOARCH.tar, a container image of each program, or of PROGRAMS=roles; REGISTRY=... TAG=...
	@for name in $(PROGRAMS); do \
		go run ./test/parts/images/oci dist/$$name $(REGISTRY)/$$name:$(TAG) dist/$$name-$(GOARCH).tar || exit 1; done
	@cd dist && sha256sum $(PROGRAMS:%=%-$(GOARCH).tar)

always:

# A release is for all clusters: the configuration of its stacks comes from parameters. Its names and bytes depend on the commit alone.
RELEASE := dist/release

release: override GOARCH := arm64
release: node ## write dist/release: zip, template, manifests, Terraform module, quiescectl, programs, checksums; using it needs neither Go nor Node
	@rm -rf $(RELEASE) && mkdir -p $(RELEASE)
	GOOS=linux GOARCH=$(GOARCH) $(BUILD) -o dist/release-bootstrap ./lambda
	go run ./infra/bundle dist/release-bootstrap $(RELEASE)/quiesce-$(VERSION).zip && rm dist/release-bootstrap
	go run ./infra release $(VERSION) $(RELEASE)
	cp infra/rbac.yaml infra/rbac-console.yaml infra/rbac-postgres-*.yaml infra/roles-job.yaml $(RELEASE)
	cp -R infra/terraform $(RELEASE)/terraform
	for system in linux-arm64 linux-amd64 darwin-arm64; do \
		GOOS=$${system%-*} GOARCH=$${system#*-} $(BUILD) -o $(RELEASE)/quiescectl-$$system ./infra/quiescectl || exit 1; done
	@mkdir $(RELEASE)/programs $(RELEASE)/images
	for arch in arm64 amd64; do for name in $(PROGRAMS); do \
		program=$(RELEASE)/programs/$$name-linux-$$arch; \
		GOOS=linux GOARCH=$$arch $(BUILD) -o $$program ./infra/$$name && \
		go run ./test/parts/images/oci $$program localhost/$$name:$(VERSION) $(RELEASE)/images/$$name-$$arch.tar || exit 1; done; done
	cd $(RELEASE) && find . -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs sha256sum >SHA256SUMS && cat SHA256SUMS

synth: override GOARCH := arm64
synth: node build ## write the CloudFormation template of each CONFIG to infra/cdk.out; needs node, no network
	@rm -f infra/cdk.out/*.template.json
	cd infra && QUIESCE_VERSION=$(VERSION) CDK_OUTDIR=cdk.out go run . $(addprefix ../,$(ZIPS))

deploy: node ## deploy each CONFIG to AWS; asks before it widens permissions, and ends with a check of each function
	@mkdir -p dist && rm -f dist/outputs.json
	cd infra && $(CDK) deploy --all --outputs-file ../dist/outputs.json
	@go run ./infra/afterdeploy dist/outputs.json

smoke: export GROUP := $(GROUP)
smoke: export CLUSTER := $(CLUSTER)
smoke: export DEPLOY := $(DEPLOY)
smoke: export DESTROY := $(DESTROY)
smoke: export VERSION := $(VERSION)
smoke: node ## deploy to a scratch group in AWS, terminate one instance, compare, clean up: make smoke GROUP=... CLUSTER=... (20 min)
	@go run ./test/smoke

images: setup operators ## make the container images of the lab's nodes, once per version (root, Debian)
	@go run ./test/parts/images/build

tools: ## build the lab's programs into the user's cache directory, once per version
	@$(RUN) ./test/parts/tools/build

operators: ## build the lab's programs and the operators that its real nodes run, once per version
	@$(RUN) ./test/parts/tools/build all

# Debian packages of the lab's real nodes. Without them, tests that need real nodes are skipped and say so.
NODES := containerd runc containernetworking-plugins debootstrap iproute2 nftables util-linux procps

# go, setup, node and schemas install or check what other targets need. They are not commands, so `make` does not list them.
go:
	@command -v go >/dev/null || { echo 'install Go 1.26: https://go.dev/doc/install'; exit 1; }

setup: go node
	@command -v gcc >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq gcc libc6-dev; } \
		|| { echo 'the race detector needs gcc: install it'; exit 1; }
	@test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || dpkg -s $(NODES) >/dev/null 2>&1 || { \
		echo 'setup: installing $(NODES)'; apt-get update -qq && apt-get install -y -qq --no-install-recommends $(NODES) >/dev/null; }

node:
	@command -v node >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null; } \
		|| echo 'node is not installed: no stack can be synthesized, and tests of it are skipped: https://nodejs.org'

schemas: node
	@go run ./test/parts/awsdata/install

clean: ## remove dist and infra/cdk.out
	rm -rf dist infra/cdk.out
