#!/usr/bin/env bash
# What `--features cuda` needs to be built, without an installed CUDA toolkit and without root: NVIDIA's own wheels from
# PyPI, gathered into one folder. Needs python3 with venv, and a C compiler.
#
#     crates/tune/cuda/toolkit.sh DIR
#     source DIR/env.sh
#     cargo build --release --features cuda
#
# A GPU is not needed to build, and only a driver's libcuda.so.1 and the folder's lib64 to run.
set -euo pipefail

dir=$(mkdir -p "${1:?the folder to make}" && cd "$1" && pwd)
python3 -m venv "$dir/venv"
# crt and nvvm are pinned with nvcc: pip would take newer ones that do not fit it.
"$dir/venv/bin/pip" install --quiet \
  nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-cccl==13.0.85 \
  nvidia-cuda-runtime==13.0.96 nvidia-curand==10.4.0.35 nvidia-cublas==13.1.0.3 nvidia-cuda-nvrtc==13.0.88
wheels=$(echo "$dir"/venv/lib/python3*/site-packages/nvidia/cu13)

mkdir -p "$dir/lib64/stubs"
for part in bin include nvvm; do
  ln -sfn "$wheels/$part" "$dir/$part"
done
# Linkers look for names without a version, which wheels leave out.
for library in "$wheels"/lib/*; do
  name=$(basename "$library")
  ln -sf "$library" "$dir/lib64/$name"
  [[ $name == *.so.* ]] && ln -sf "$library" "$dir/lib64/${name%%.so.*}.so"
done
# The driver's library comes with the driver; to link, its names are enough. (100: there is no GPU.)
grep -oE '\bcu[A-Z][A-Za-z0-9_]*' "$wheels/include/cuda.h" | sort -u |
  sed 's/.*/int &(void) { return 100; }/' |
  cc -x c -w -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$dir/lib64/stubs/libcuda.so" -

cat > "$dir/env.sh" <<ENV
export CUDA_HOME="$dir" CUDA_PATH="$dir" CUDA_COMPUTE_CAP="\${CUDA_COMPUTE_CAP:-90}" PATH="$dir/bin:\$PATH"
export LD_LIBRARY_PATH="$dir/lib64\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" LIBRARY_PATH="$dir/lib64:$dir/lib64/stubs\${LIBRARY_PATH:+:\$LIBRARY_PATH}"
ENV
echo "made: source $dir/env.sh"
