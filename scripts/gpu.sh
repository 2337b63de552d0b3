#!/usr/bin/env bash
# Everything that needs a GPU: `gpu.sh build` makes programs and kernels in build/gpu, which needs Go and nvcc; `gpu.sh run`
# runs them, which needs a GPU, and Python with PyTorch for the comparison with peers; without an argument, both.
set -euo pipefail
cd "$(dirname "$0")/.."
out=build/gpu

build() {
	mkdir -p $out
	if [ -z "${CUDA_HOME:-}" ] && [ -x .tools/cuda/nvidia/cu13/bin/nvcc ]; then # by install-nvcc.sh
		export CUDA_HOME=$PWD/.tools/cuda/nvidia/cu13
	fi
	export CGO_ENABLED=0
	go build -ldflags '-s -w' -o $out/tfc ./cmd/tfc
	for spec in bench/specs/*.yaml; do
		name=$(basename "$spec" .yaml)
		$out/tfc build "$spec" -o "$out/src/$name" --force
		go build -ldflags '-s -w' -o "$out/$name" "./$out/src/$name/cmd/$name"
	done
	go test -c -ldflags '-s -w' -o $out/driver.test ./runtime/cuda
	go test -c -ldflags '-s -w' -o $out/ops.test ./codegen/cuda
	TFC_GPU_BUILD=$PWD/$out go test -count=1 -run 'TestOps|TestOptimizer|TestGeneration|TestSample' ./codegen/cuda
}

run() {
	nvidia-smi --query-gpu=name,driver_version,clocks.sm,memory.total --format=csv,noheader
	step() { printf '\n== %s\n' "$*"; }
	status=0
	here=$PWD
	step driver and cuBLASLt
	(cd runtime/cuda && "$here/$out/driver.test" -test.run TestGPU -test.v 2>&1 | grep -v '^=== ' | cut -c1-300 | tail -n 40) || status=1
	step every op, the optimizer, decoding and sampling against Eval
	(cd codegen/cuda && TFC_GPU="$here/$out" "$here/$out/ops.test" -test.run 'TestOps|TestOptimizer|TestGeneration|TestSample' -test.v 2>&1 | grep -E '^ *--- (FAIL|SKIP)|^(ok|FAIL|PASS|panic)|_test.go' | cut -c1-300 | head -n 60) || status=1
	step speed
	for name in stories gpt2_124m llama_1b; do
		"$out/$name" bench --device cuda || status=1
	done
	return $status
}

case ${1:-all} in
build) build ;;
run) run ;;
all) build && run ;;
*)
	echo "usage: gpu.sh [build|run]" >&2
	exit 2
	;;
esac
