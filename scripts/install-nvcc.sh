#!/usr/bin/env bash
# Puts NVIDIA's CUDA compiler into .tools/cuda, from PyPI, without root and without a driver. It needs pip and the network.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 -m pip install --quiet --upgrade --target .tools/cuda "cuda-toolkit[nvcc,cudart,cccl]==13.0.*"
home=$(cd "$(dirname "$(find .tools/cuda -name nvcc -path '*/bin/*' | head -n 1)")/.." && pwd)
chmod +x "$home"/bin/*
"$home/bin/nvcc" --version | tail -n 2
echo "export CUDA_HOME=$home"
