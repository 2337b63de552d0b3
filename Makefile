# Shortcuts; each is one or two commands of the go tool.
.PHONY: check test golden fuzz bench gpu tiny

check: # all that CI checks
	.ci/run

test:
	go test ./...

golden: # write the golden files anew; look at the difference before keeping it
	go test ./compile ./passes ./examples/embed -update

FUZZTIME ?= 30s
fuzz: # every fuzz target for FUZZTIME
	scripts/fuzz.sh $(FUZZTIME)

bench: # training and generation of the example models, and the kernels
	go test -run '^$$' -bench . ./...

tiny: # the first minutes with tfc
	go run ./cmd/tfc run examples/specs/tiny.yaml

gpu: # what needs nvcc and a GPU: the CUDA half is proved, and its speed measured
	scripts/gpu.sh
