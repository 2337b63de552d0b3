#!/usr/bin/env bash
# Proves the CUDA half on a GPU. `gpu.sh build` makes build/gpu/checks.tar.gz, programs and kernels for sm_90a; that needs Go and
# nvcc, and no GPU. `gpu.sh run [part...]` runs it on a machine with an H100 or H200 and without Go: all parts, or some of
# driver, ops, programs, fixtures, curves, seeds, memcheck, initcheck, racecheck, synccheck (which need compute-sanitizer) and speed
# (which has Python with PyTorch run the peers). Its table is build/gpu/results.md, beside the logs of all processes; it fails where
# anything failed. Without an argument: both.
set -euo pipefail
cd "$(dirname "$0")/.."
out=build/gpu         # what travels, and what comes out
checks=build/gpu-run  # what runs
made=build/gpu-source # generated packages

build() {
	rm -rf "$out" "$checks" "$made"
	mkdir -p "$out" "$checks" "$made/models"
	if [ -z "${CUDA_HOME:-}" ] && [ -x .tools/cuda/nvidia/cu13/bin/nvcc ]; then # by install-nvcc.sh
		export CUDA_HOME=$PWD/.tools/cuda/nvidia/cu13
	fi
	export CGO_ENABLED=0
	printf '%s%s\n' "$(git rev-parse --short HEAD)" "$(git diff --quiet HEAD || echo ', changed')" >"$checks/commit"

	# One command for all models: MODEL COMMAND [flag...]. Precisions of one spec are models of their own.
	cp bench/specs/*.yaml scripts/gpucheck/small.yaml "$made"
	for precision in bf16 fp16 fp8; do
		sed "s/^  precision: .*/  precision: $precision/" examples/specs/stories.yaml >"$made/curve_$precision.yaml"
		grep -q "^  precision: $precision\$" "$made/curve_$precision.yaml"
	done
	for precision in f32 bf16 fp8; do
		sed "s/precision: bf16/precision: $precision/" scripts/gpucheck/text.yaml >"$made/text_$precision.yaml"
		grep -q "precision: $precision" "$made/text_$precision.yaml"
	done
	echo 'target: {arch: [sm_90a]}' | tee -a "$made/curve_fp8.yaml" >>"$made/text_fp8.yaml"
	go build -o "$made/tfc" ./cmd/tfc
	imports='' cases=''
	for spec in "$made"/*.yaml; do
		name=$(basename "$spec" .yaml)
		"$made/tfc" build "$spec" -o "$made/$name"
		imports+="	\"github.com/tfc-dev/tfc/$made/$name\"
"
		cases+="	case \"$name\":
		$name.Main()
"
	done
	cat >"$made/models/main.go" <<-END
		package main

		import (
			"os"

		$imports)

		func main() {
			if len(os.Args) < 2 {
				os.Exit(2)
			}
			name := os.Args[1]
			os.Args = os.Args[1:]
			switch name {
		$cases	default:
				os.Exit(2)
			}
		}
	END
	go build -ldflags '-s -w' -o "$checks/models" "./$made/models"
	go build -ldflags '-s -w' -o "$checks/gpucheck" ./scripts/gpucheck

	for test in driver:runtime/cuda ops:codegen/cuda programs:codegen/go fixtures:golden/numeric; do
		go test -c -ldflags '-s -w' -o "$checks/${test%%:*}.test" "./${test#*:}"
	done
	export TFC_GPU_BUILD=$PWD/$checks
	go test -count=1 -timeout 60m -run 'Test(Ops|Hopper|FP8|Quantize|Optimizer|Generation|Sample)' ./codegen/cuda
	go test -count=1 -timeout 60m -run 'Test(Ops|Hopper|FP8|Quantize|Optimizer|Generation|Sample)' -short ./codegen/cuda
	go test -count=1 -timeout 60m -run 'TestCUDAPrograms' ./codegen/go ./golden/numeric

	# The PyTorch programs to compare with are no part of this repository; where they lie beside it they go along.
	if [ -d ../shared/peers ]; then
		mkdir "$checks/peers"
		cp ../shared/peers/{models.py,torch_models.py,train.py} "$checks/peers"
	fi
	if [ -f ../shared/data/tinyshakespeare.txt ]; then # nor is the text
		cp ../shared/data/tinyshakespeare.txt "$checks/text.txt"
	fi
	tar -czf "$out/checks.tar.gz" -C "$checks" .
	ls -l "$out/checks.tar.gz"
}

run() {
	if [ -f "$out/checks.tar.gz" ]; then
		rm -rf "$checks"
		mkdir -p "$checks"
		tar -xzf "$out/checks.tar.gz" -C "$checks"
	elif [ ! -x "$checks/gpucheck" ]; then
		echo "gpu.sh: there is no $out/checks.tar.gz: run scripts/gpu.sh build first, where Go and nvcc are" >&2
		exit 2
	fi
	"$checks/gpucheck" "$checks" "$out" "$@"
}

case ${1:-all} in
build)
	build
	;;
run)
	shift
	run "$@"
	;;
all)
	build
	run
	;;
*)
	echo "usage: gpu.sh [build | run [part...]]" >&2
	exit 2
	;;
esac
