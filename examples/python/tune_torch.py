#!/usr/bin/env python3
"""Times one p-tuning step of PyTorch + PEFT: what `bench tune --torch` holds ours to.

    tune_torch.py CASE.json THREADS

CASE.json is what `bench tune` writes: the model's folder, the tokens, the answers, the encoder. A line is written
when the model is loaded, {"loaded_bytes": ...}; then for every line that is read one step is taken and {"seconds": ...,
"loss": ...} is written; at the end of the input {"peak_bytes": ...}. So two programs can take their steps in turn:

    yes step | head -5 | python tune_torch.py CASE.json 1

Needs torch, transformers and peft.
"""

import json
import os
import sys
import time

case = json.load(open(sys.argv[1]))
threads = int(sys.argv[2])
os.environ["OMP_NUM_THREADS"] = str(threads)
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
import transformers  # noqa: E402
from peft import PromptEncoderConfig, TaskType, get_peft_model  # noqa: E402

torch.set_num_threads(threads)
transformers.logging.set_verbosity_error()


def resident(key):
    """VmRSS or VmHWM of this process, or what its tensors take and took at most on a GPU, bytes."""
    if case["device"] != "cpu":
        return {"VmRSS": torch.cuda.memory_allocated, "VmHWM": torch.cuda.max_memory_allocated}[key]()
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(key + ":"))
    return 1024 * int(line.split()[1])


def load():
    """The frozen model with its prompt encoder. Dropout is off: ours has none to pay for."""
    causal = case["classes"] is None
    off = {"attention_dropout": 0.0} if causal else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if causal:
        model = transformers.AutoModelForCausalLM.from_pretrained(case["model"], dtype=torch.float32, **off)
        model.config.use_cache = False
    else:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            case["model"], dtype=torch.float32, num_labels=case["classes"], **off
        )
    encoder = PromptEncoderConfig(
        task_type=TaskType.CAUSAL_LM if causal else TaskType.SEQ_CLS,
        num_virtual_tokens=case["virtual_tokens"],
        encoder_reparameterization_type=case["encoder"].upper(),
        encoder_hidden_size=case["encoder_hidden"],
        encoder_dropout=0.0,
    )
    return get_peft_model(model, encoder).train().to(case["device"])


def batch():
    """Loss on the answer's tokens alone, or on the class."""
    ids = torch.tensor(case["inputs"], device=case["device"])
    if case["classes"] is not None:
        labels = torch.tensor(case["labels"], device=case["device"])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    answers = torch.tensor([case["answers"][label] for label in case["labels"]], device=case["device"])
    ids = torch.cat([ids, answers], dim=1)
    labels = ids.clone()
    labels[:, : -answers.shape[1]] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def say(**what):
    print(json.dumps(what), flush=True)


model = load()
optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=case["learning_rate"])
batch = batch()
# One example first, and every weight once: what is loaded at its first use is not what a step takes.
model(**{name: rows[:1] for name, rows in batch.items()}).loss.backward()
optimiser.zero_grad()
for parameter in model.parameters():
    parameter.sum().item()
say(loaded_bytes=resident("VmRSS"), versions=[torch.__version__, transformers.__version__])
with open("/proc/self/clear_refs", "w") as clear:
    clear.write("5")
for _ in sys.stdin:
    start = time.perf_counter()
    optimiser.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    optimiser.step()
    value = loss.item()
    say(seconds=time.perf_counter() - start, loss=value)
say(peak_bytes=resident("VmHWM"))
