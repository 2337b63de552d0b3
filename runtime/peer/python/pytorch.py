"""The peers in PyTorch: the model's class in Transformers, as it is and under torch.compile, and the lean one under torch.compile."""
import json
import sys
import time
from itertools import pairwise

import torch

from lean import Lean
from shape import Missing, shape_of

TYPES = {"f32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def measure(r):
    torch.manual_seed(0)
    torch.set_num_threads(r.threads)
    torch.set_float32_matmul_precision("high" if r.type == "tf32" else "highest")
    if r.type not in TYPES:
        raise Missing(f"PyTorch has no weights of {r.type}; with generate.weights f32 or bf16 it is measured")
    if r.device != "cpu":
        if not torch.cuda.is_available():
            raise Missing(f"this PyTorch ({torch.__version__}, {sys.executable}) finds no GPU")
        torch.cuda.set_device(torch.device(r.device))
    lean = r.peer.startswith("lean")
    try:
        model = build_lean(r) if lean else build_transformers(r)
        check(model, r.parameters)
        times, start = {"train": train, "prefill": prefill, "decode": decode}[r.job](r, model, lean)
    except torch.OutOfMemoryError:
        raise Missing(f"out of memory on {r.device}") from None
    version = f"PyTorch {torch.__version__}"
    if not lean:
        version += f", Transformers {sys.modules['transformers'].__version__}"
    return {"times_ms": times, "start_s": start, "version": version, "peak_bytes": torch.cuda.max_memory_allocated() if r.device != "cpu" else 0}


def build_transformers(r):
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM
    config = json.loads(r.config)
    kind = config["model_type"]
    if kind not in CONFIG_MAPPING:
        raise Missing(f"this Transformers has no class for the model_type {kind}")
    if r.job == "train":
        check_dropout(config, r.dropout)
    config = CONFIG_MAPPING[kind].from_dict(config)
    # A cap on scores is left out by the other kinds of attention.
    how = {"attn_implementation": "eager"} if getattr(config, "attn_logit_softcapping", None) else {}
    with torch.device(r.device):
        return AutoModelForCausalLM.from_config(config, **how)


def check_dropout(config, dropout):
    names = {"embedding": ("embd_pdrop", "embed_dropout", "hidden_dropout"), "residual": ("resid_pdrop", "resid_dropout", "hidden_dropout"),
             "attention": ("attn_pdrop", "attention_dropout")}
    for place, rate in dropout.items():
        if rate and all(config.get(name) != rate for name in names[place]):
            raise Missing(f"its class has no dropout of {rate} at the {place}")


def build_lean(r):
    shape = shape_of(json.loads(r.config), {"train": r.context, "prefill": r.prompt, "decode": r.prompt + r.steps + 1}[r.job])
    with torch.device(r.device):
        return Lean(shape, r.dropout)


def check(model, want):
    has = sum(p.numel() for p in model.parameters())
    if has != want:
        raise Missing(f"it would be another model: it has {has} parameters, ours {want}")


def wait(r):
    if r.device != "cpu":
        torch.cuda.synchronize()


def timed(r, step, rewind=lambda: None, warm=4):
    """The milliseconds of each of r.steps calls, and the seconds from the start of the process to the end of the first. On a GPU
    nothing waits for a step before the next is queued; the time of one is from the end of the last to its own; and so many steps go before
    those that are timed, or r.steps if that is less."""
    step()
    wait(r)
    start = time.time() - r.began
    for _ in range(min(r.steps, 1 if r.device == "cpu" else warm)):
        step()
    rewind()
    wait(r)
    if r.device == "cpu":
        times = [time.perf_counter()]
        for _ in range(r.steps):
            step()
            times.append(time.perf_counter())
        return [1e3 * (b - a) for a, b in pairwise(times)], start
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(r.steps + 1)]
    marks[0].record()
    for mark in marks[1:]:
        step()
        mark.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in pairwise(marks)], start


def train(r, model, lean):
    model.train()
    # Which parameters decay, and how fast they learn, takes no time.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    scaler = torch.amp.GradScaler(enabled=r.type == "fp16")
    turns = model.turns(r.context, r.device) if lean else None
    loss_of = torch.compile(model) if r.peer.endswith("torch.compile") else model
    ids, targets = torch.randint(0, r.vocab, (2, r.batch // r.micro_batch, r.micro_batch, r.context), device=r.device)

    def loss(ids, targets):
        if lean:
            return loss_of(ids, targets, turns)
        return loss_of(input_ids=ids, labels=targets, use_cache=False).loss

    def step():
        for x, y in zip(ids, targets):
            with torch.autocast(torch.device(r.device).type, TYPES[r.type], enabled=r.type in ("bf16", "fp16")):
                part = loss(x, y) / len(ids)
            scaler.scale(part).backward()
        if r.clip:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), r.clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return timed(r, step)


@torch.no_grad()
def prefill(r, model, lean):
    model = model.to(TYPES[r.type]).eval()
    ids = torch.randint(0, r.vocab, (1, r.prompt), device=r.device)
    if lean:
        turns, caches, at = model.turns(r.prompt, r.device), empty_caches(r, model, 1, r.prompt), torch.arange(r.prompt, device=r.device)
        next = torch.compile(model.next)
        return timed(r, lambda: next(ids, turns, caches, at))
    return timed(r, lambda: model(input_ids=ids, use_cache=True, logits_to_keep=1).logits.argmax(-1))


@torch.no_grad()
def decode(r, model, lean):
    model = model.to(TYPES[r.type]).eval()
    ids = torch.randint(0, r.vocab, (r.batch, r.prompt), device=r.device)
    return decode_lean(r, model, ids) if lean else decode_transformers(r, model, ids)


def decode_transformers(r, model, ids):
    """The loop of generate, with its growing cache."""
    found = None

    def call(ids, **cache):
        nonlocal found
        found = model(input_ids=ids, use_cache=True, logits_to_keep=1, **cache)

    def step():
        name = "cache" if "cache" in found else "past_key_values"  # its newer name, and the older one
        call(found.logits.argmax(-1), **{name: found[name]})

    def rewind():
        call(ids)
        step()

    call(ids)
    return timed(r, step, rewind, warm=r.steps)  # of attention, cuDNN makes a plan for each length


def decode_lean(r, model, ids):
    """A cache that has its size from the start, and on a GPU a captured graph a token."""
    length = r.prompt + r.steps + 1
    turns, caches = model.turns(length, r.device), empty_caches(r, model, r.batch, length)
    token = model.next(ids, turns, caches, torch.arange(r.prompt, device=r.device))
    at = torch.tensor([r.prompt], device=r.device)
    next = torch.compile(model.next, fullgraph=True)

    def step():
        token.copy_(next(token, turns, caches, at, length))
        at.add_(1)

    def rewind():
        at.fill_(r.prompt + 1)

    if r.device == "cpu":
        return timed(r, step, rewind)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is captured must have run before
        step()
        at.fill_(r.prompt)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return timed(r, graph.replay, rewind)


def empty_caches(r, model, batch, length):
    s = model.s
    return [torch.zeros(2, batch, s.kv_heads, length, s.head_dim, dtype=TYPES[r.type], device=r.device).unbind() for _ in range(s.layers)]
