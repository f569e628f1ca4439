# SPDX-License-Identifier: Apache-2.0

GO ?= go
GOLANGCI_LINT = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOBUILD = CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w"
export GOTOOLCHAIN ?= auto

.DEFAULT_GOAL := help
.PHONY: build generate verify-generate test cluster e2e bench demo lint fmt image clean help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build the two binaries and the names they go by, into bin/
	@mkdir -p bin
	$(GOBUILD) -o bin/ ./cmd/patchbay ./cmd/patchbayd
	@for name in patchbay-vswitch patchbay-ipam; do ln -sf patchbay bin/$$name; done
	@for name in patchbay-controller patchbayctl kubectl-patchbay; do ln -sf patchbayd bin/$$name; done

generate: ## compile the BPF programs and write their Go code and the CRDs
	$(GO) generate ./...

verify-generate: ## check that what is committed is what generate makes
	$(GO) run ./pkg/datapath/objects/gen -verify

demo: build ## two nodes, a web application and its database, a client outside
	@test/deps.sh
	@$(GOBUILD) -o bin/ ./test/demo ./test/site/runtime ./test/app/web
	@bin/demo

test: build ## everything: unit, namespaces, rules, demo and its broken twin, a real cluster
	@test/run.sh

cluster: build ## the real cluster alone: the application, and upstream's conformance tests
	@test/deps.sh
	@test/cluster/run.sh

e2e: build ## all of upstream's network tests, on a real cluster of six nodes that come and go
	@test/deps.sh
	@test/cluster/run.sh -all test

bench: build ## measurements beside their peers; BENCH=failover RUNS=30 for some, as often
	@test/deps.sh
	@$(GOBUILD) -o bin/ ./test/bench ./test/site/runtime
	@cd test/bench/peers && $(GOBUILD) -o ../../../bin/peers/ ./client $$($(GO) list tool)
	@bin/bench $(BENCH)

lint: ## linters beyond gofmt and vet, which test runs
	$(GO) run $(GOLANGCI_LINT) run --allow-parallel-runners

fmt: ## format Go and C
	gofmt -w $$(git ls-files '*.go')
	git ls-files 'bpf/*.c' 'bpf/*.h' | xargs -r clang-format-19 -i

image: build ## the container image, an OCI archive in bin/
	@test/cluster/image.sh bin/patchbay-image.tar

clean: ## remove bin/ and what a killed test or demo left behind
	@test/cluster/run.sh down
	@$(GO) run ./test/netlab/sweep
	@rm -rf bin
