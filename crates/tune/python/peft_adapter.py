"""Loads an adapter that Ciphertune wrote with PEFT, and compares what PEFT computes with what Ciphertune computed.

    pip install torch transformers peft safetensors

    cargo run --example logits -- MODEL_DIR ADAPTER_DIR LOGITS.safetensors new=mlp
    python peft_adapter.py MODEL_DIR ADAPTER_DIR LOGITS.safetensors [--save SAVED_DIR]

MODEL_DIR is a Hugging Face model folder, LOGITS.safetensors holds input_ids and attention_mask (B, T) and logits: for
CAUSAL_LM those of the positions that are not padding, virtual tokens included, examples in turn; for SEQ_CLS (B, L).
Prints max|a - b| / max|b| and fails above 1e-4. With --save, PEFT saves the adapter again: the tensors must have the
same names and bits, the configuration the same keys and values, and SAVED_DIR is an adapter for Ciphertune to read.
"""

import argparse
import json
import pathlib
import sys
import warnings

import peft
import torch
import transformers
from safetensors.torch import load_file

TOLERANCE = 1e-4
TASKS = {
    "CAUSAL_LM": transformers.AutoModelForCausalLM,
    "SEQ_CLS": transformers.AutoModelForSequenceClassification,
}


def load(model_dir, adapter_dir):
    """The model in f32 with the adapter before it, the adapter's task, and what PEFT warned of."""
    task = json.loads((adapter_dir / "adapter_config.json").read_text())["task_type"]
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    if task == "SEQ_CLS":
        tensors = load_file(adapter_dir / "adapter_model.safetensors")
        weight = next(tensor for name, tensor in tensors.items() if name.endswith(".weight"))
        options["num_labels"] = weight.shape[0]
    model = TASKS[task].from_pretrained(model_dir, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(model, adapter_dir).eval()
    # Unknown configuration keys and missing tensors are warnings to PEFT.
    return model, task, [str(it.message) for it in caught if "peft" in pathlib.Path(it.filename).parts]


def compute(model, task, ids, mask):
    """Logits as Ciphertune orders them."""
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
    if task == "SEQ_CLS":
        return logits
    virtual = logits.shape[1] - ids.shape[1]
    whole = torch.cat([torch.ones(ids.shape[0], virtual, dtype=mask.dtype), mask], dim=1)
    return logits[whole.bool()]


def differences(adapter_dir, saved_dir):
    """What PEFT saved otherwise than Ciphertune did."""
    ours = load_file(adapter_dir / "adapter_model.safetensors")
    theirs = load_file(saved_dir / "adapter_model.safetensors")
    if ours.keys() != theirs.keys():
        yield f"tensors {sorted(ours)} and {sorted(theirs)}"
    for name in ours.keys() & theirs.keys():
        a, b = ours[name], theirs[name]
        if a.dtype != b.dtype or a.shape != b.shape or not torch.equal(a.view(torch.int32), b.view(torch.int32)):
            yield f"the bits of {name}"
    ours = json.loads((adapter_dir / "adapter_config.json").read_text())
    theirs = json.loads((saved_dir / "adapter_config.json").read_text())
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key, "absent"), theirs.get(key, "absent")
        if key == "modules_to_save" and a and b:
            a, b = set(a), set(b)  # PEFT adds its names at every load
        # PEFT fills these in with the model's path and with its own version.
        if a != b and key not in ("base_model_name_or_path", "peft_version"):
            yield f"{key}: {a} and {b}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", type=pathlib.Path)
    parser.add_argument("adapter_dir", type=pathlib.Path)
    parser.add_argument("logits", type=pathlib.Path)
    parser.add_argument("--save", type=pathlib.Path, metavar="SAVED_DIR")
    arguments = parser.parse_args()

    ours = load_file(arguments.logits)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    model, task, wrong = load(arguments.model_dir, arguments.adapter_dir)
    logits = compute(model, task, ours["input_ids"], ours["attention_mask"])
    if logits.shape != ours["logits"].shape:
        wrong.append(f"logits of shape {list(ours['logits'].shape)} and {list(logits.shape)}")
    else:
        distance = ((ours["logits"] - logits).abs().max() / logits.abs().max()).item()
        kind = model.active_peft_config.peft_type.value
        print(f"{model.config.model_type} {task} {kind} {list(logits.shape)}: max|a-b|/max|b| = {distance:.2e}")
        if not distance <= TOLERANCE:
            wrong.append(f"{distance:.2e} is more than {TOLERANCE:.0e}")
    if arguments.save:
        model.save_pretrained(arguments.save)
        wrong.extend(differences(arguments.adapter_dir, arguments.save))
    for what in wrong:
        print(f"DIFFERENT: {what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
