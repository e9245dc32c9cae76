#!/usr/bin/env bash
# Adapters between Ciphertune and PEFT, both ways, on every model folder given; writes the record peft_adapter.txt.
#
#   MODELS=DIR PYTHON=python crates/tune/python/peft_adapter.sh [MODEL …]
#
# DIR/MODEL is a Hugging Face model folder; one with a peft_adapter/ in it has that one read too. Needs
# `pip install torch transformers peft safetensors`. BERT folders get adapters for sequence classification (3 labels).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."
python=${PYTHON:-python}
models=("$@")
[ ${#models[@]} -gt 0 ] || models=(llama qwen2 gpt2 gpt_neox bert)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch" "$scratch.txt"' EXIT
cargo build --quiet --workspace --locked --example logits
logits=${CARGO_TARGET_DIR:-target}/debug/examples/logits

record() {
  echo "Recorded by: MODELS=… crates/tune/python/peft_adapter.sh ${models[*]}"
  "$python" -W ignore - <<'VERSIONS'
import platform
from importlib.metadata import version
print("Python", platform.python_version(), *(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "safetensors")))
VERSIONS
  for model in "${models[@]}"; do
    dir=$MODELS/$model
    echo
    options=()
    if grep -q '"model_type": "bert"' "$dir/config.json"; then options=(labels=3); fi
    for method in mlp lstm prompt_tuning; do
      made=("new=$method" "${options[@]}")
      echo "$model, written here (${made[*]}), loaded and saved again by PEFT, read here:"
      rm -rf "$scratch"/*
      if ! "$logits" "$dir" "$scratch/ours" "$scratch/ours.safetensors" "${made[@]}" >"$scratch/log" 2>&1; then
        sed 's/^/  /' "$scratch/log"
        break
      fi
      "$python" -W ignore "$here/peft_adapter.py" "$dir" "$scratch/ours" "$scratch/ours.safetensors" \
        --save "$scratch/theirs" | sed 's/^/  /'
      "$logits" "$dir" "$scratch/theirs" "$scratch/theirs.safetensors" >/dev/null
      cmp "$scratch/ours.safetensors" "$scratch/theirs.safetensors"
      echo "  the same tensors, configuration and, here, logits, to the bit"
    done
    if [ -d "$dir/peft_adapter" ] && [ -s "$scratch/ours.safetensors" ]; then
      echo "$model, saved by PEFT, read here:"
      "$logits" "$dir" "$dir/peft_adapter" "$scratch/ours.safetensors" >/dev/null
      "$python" -W ignore "$here/peft_adapter.py" "$dir" "$dir/peft_adapter" "$scratch/ours.safetensors" | sed 's/^/  /'
    fi
  done
}

record >"$scratch.txt"
mv "$scratch.txt" "$here/peft_adapter.txt"
