"""llama.cpp on the CPU, as its llama-bench measures it: a file of random weights, and every token timed around llama_decode,
without choosing the next one."""
import json
import math
import random
import time

import gguf
import llama_cpp
import numpy as np

from shape import Missing, frequencies, shape_of

TYPES = {"f32": gguf.GGMLQuantizationType.F32, "bf16": gguf.GGMLQuantizationType.BF16,
         "int8": gguf.GGMLQuantizationType.Q8_0, "int4": gguf.GGMLQuantizationType.Q4_0}


def measure(r):
    shape = shape_of(json.loads(r.config), r.prompt + r.steps + 1)
    if shape.activation != ("gelu_pytorch_tanh" if shape.gpt2 else "silu"):
        raise Missing(f"its {shape.type} has no activation {shape.activation}")
    if shape.type.startswith("qwen") and shape.rope["rope_type"] != "default":
        raise Missing(f"its {shape.type} cannot rotate positions by {shape.rope}")
    if r.type not in TYPES:
        raise Missing(f"its CPU code has no weights of {r.type}")
    began = time.time()
    has = write(shape, r.type, "model.gguf")
    if has != r.parameters:
        raise Missing(f"it would be another model: it has {has} parameters, ours {r.parameters}")
    r.began += time.time() - began  # nobody has to write that file
    context = load("model.gguf", r)
    times, start = (prefill if r.job == "prefill" else decode)(r, context)
    return {"times_ms": times, "start_s": start, "version": f"llama-cpp-python {llama_cpp.__version__}"}


def write(s, kind, path):
    """A GGUF file of random weights. Returns how many there are."""
    quantized, rng, count = TYPES[kind], np.random.default_rng(0), 0
    w = gguf.GGUFWriter(path, s.type if s.type in ("gpt2", "qwen2", "qwen3") else "llama")

    def tensor(name, x, kind=gguf.GGMLQuantizationType.F32):
        nonlocal count
        count += x.size
        w.add_tensor(name, gguf.quants.quantize(x, kind), raw_dtype=kind)

    def matrix(name, rows, columns, bias=False):
        block = gguf.GGML_QUANT_SIZES[quantized][0]
        if columns % block:
            raise Missing(f"its {quantized.name} has blocks of {block} columns; {name} has {columns}")
        tensor(name + ".weight", rng.standard_normal((rows, columns), np.float32) * np.float32(0.02), quantized)
        if bias:
            tensor(name + ".bias", np.zeros(rows, np.float32))

    def norm(name, width):
        tensor(name + ".weight", np.ones(width, np.float32))
        if s.gpt2:
            tensor(name + ".bias", np.zeros(width, np.float32))

    w.add_context_length(s.positions)
    w.add_embedding_length(s.width)
    w.add_block_count(s.layers)
    w.add_feed_forward_length(s.hidden)
    w.add_head_count(s.heads)
    w.add_head_count_kv(s.kv_heads)
    w.add_vocab_size(s.vocab)
    w.add_tokenizer_model("no_vocab")
    if s.gpt2:
        w.add_layer_norm_eps(s.eps)
        tensor("position_embd.weight", np.zeros((s.positions, s.width), np.float32))
    else:
        w.add_layer_norm_rms_eps(s.eps)
        w.add_key_length(s.head_dim)
        w.add_value_length(s.head_dim)
        w.add_rope_dimension_count(s.head_dim)
        w.add_rope_freq_base(s.rope["rope_theta"])
        if s.rope["rope_type"] != "default":  # what divides the frequencies is no parameter
            plain = [s.rope["rope_theta"] ** (-i / s.head_dim) for i in range(0, s.head_dim, 2)]
            w.add_tensor("rope_freqs.weight", np.array([p / f for p, f in zip(plain, frequencies(s))], np.float32))
    matrix("token_embd", s.vocab, s.width)
    if not s.tied:
        matrix("output", s.vocab, s.width)
    norm("output_norm", s.width)
    q = s.heads * s.head_dim
    for i in range(s.layers):
        b = f"blk.{i}."
        norm(b + "attn_norm", s.width)
        norm(b + "ffn_norm", s.width)
        if s.gpt2:
            matrix(b + "attn_qkv", q + 2 * s.kv_width, s.width, True)
        else:
            for name, rows in ("attn_q", q), ("attn_k", s.kv_width), ("attn_v", s.kv_width):
                matrix(b + name, rows, s.width, s.qkv_bias)
            matrix(b + "ffn_gate", s.hidden, s.width)
        if s.qk_norm:
            norm(b + "attn_q_norm", s.head_dim)
            norm(b + "attn_k_norm", s.head_dim)
        matrix(b + "attn_output", s.width, q, s.gpt2)
        matrix(b + "ffn_up", s.hidden, s.width, s.gpt2)
        matrix(b + "ffn_down", s.width, s.hidden, s.gpt2)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return count


def load(path, r):
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(path.encode(), params)
    sequences = r.batch if r.job == "decode" else 1
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = sequences * 256 * math.ceil((r.prompt + r.steps + 1) / 256)
    params.n_seq_max = sequences
    params.n_batch = max(params.n_batch, r.prompt, sequences)
    params.n_threads = params.n_threads_batch = r.threads
    context = model and llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError("llama.cpp does not load the file of random weights; it says why above")
    return context


def run(context, batch, tokens):
    """Runs (token, position, sequence) of which the last of each sequence is to have logits."""
    last = {sequence: i for i, (_, _, sequence) in enumerate(tokens)}
    batch.n_tokens = len(tokens)
    for i, (token, position, sequence) in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, position, 1, sequence
        batch.logits[i] = last[sequence] == i
    begin = time.perf_counter()
    if code := llama_cpp.llama_decode(context, batch):
        raise RuntimeError(f"llama_decode returned {code}")
    llama_cpp.llama_synchronize(context)
    return 1e3 * (time.perf_counter() - begin)


def timed(r, step):
    step(0)
    start = time.time() - r.began
    return [step(i + 1) for i in range(r.steps)], start


def prompt(r, sequence):
    return [(random.randrange(r.vocab), i, sequence) for i in range(r.prompt)]


def prefill(r, context):
    batch = llama_cpp.llama_batch_init(r.prompt, 0, 1)
    memory = llama_cpp.llama_get_memory(context)

    def step(_):
        llama_cpp.llama_memory_clear(memory, False)
        return run(context, batch, prompt(r, 0))

    return timed(r, step)


def decode(r, context):
    batch = llama_cpp.llama_batch_init(max(r.prompt, r.batch), 0, 1)
    for sequence in range(r.batch):
        run(context, batch, prompt(r, sequence))
    return timed(r, lambda i: run(context, batch, [(random.randrange(r.vocab), r.prompt + i, s) for s in range(r.batch)]))
