#!/bin/sh
# Proves and measures Longhand on this machine: ./run.sh --minutes 9 --out DIR [--only attention] [--device cpu]
# --only is for one operation and takes a minute.
# Needs no root and no network. NVRTC and cuBLASLt are found in a CUDA toolkit or in a PyTorch installation; set
# LONGHAND_NVRTC or LONGHAND_CUBLASLT where they are elsewhere.
pack=$(cd "$(dirname "$0")" && pwd)
exec "$pack/bin/xtask" run --pack "$pack" "$@"
