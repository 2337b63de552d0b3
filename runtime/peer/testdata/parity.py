"""Holds the lean model to Transformers: the same weights give the same logits, and its cache the same next token."""
import sys

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

sys.path.insert(0, "python")
from lean import Lean  # noqa: E402
from shape import shape_of  # noqa: E402

LENGTH, NONE = 12, {"embedding": 0, "attention": 0, "residual": 0}
GPT2 = {"model_type": "gpt2", "vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 96, "n_positions": 16, "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_pytorch_tanh", "tie_word_embeddings": True}
LLAMA = {"model_type": "llama", "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "head_dim": 16, "intermediate_size": 96, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": True,
         "rope_parameters": {"rope_type": "default", "rope_theta": 10000}}
NARROW = LLAMA | {"head_dim": 8}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500, "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 16}
CASES = [GPT2, GPT2 | {"activation_function": "relu"}, LLAMA, LLAMA | {"tie_word_embeddings": False, "num_key_value_heads": 4}, LLAMA | {"rope_parameters": LLAMA3},
         LLAMA | {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000, "factor": 4}}, LLAMA | {"model_type": "mistral", "sliding_window": None},
         NARROW | {"model_type": "qwen2"}, LLAMA | {"model_type": "qwen3"}, NARROW | {"model_type": "phi3", "pad_token_id": 0}]


def lean_weights(hf, s):
    """The weights of a model of Transformers under the lean one's names."""
    if s.gpt2:
        names = {"transformer.wte": "tokens", "transformer.wpe": "places", "transformer.h.": "blocks.", "transformer.ln_f": "norm", "lm_head": "head",
                 ".ln_1": ".norm1", ".ln_2": ".norm2", ".attn.c_attn": ".qkv", ".attn.c_proj": ".out", ".mlp.c_fc": ".up", ".mlp.c_proj": ".down"}
    else:
        names = {"model.embed_tokens": "tokens", "model.layers.": "blocks.", "model.norm": "norm", "lm_head": "head", ".input_layernorm": ".norm1",
                 ".post_attention_layernorm": ".norm2", ".self_attn.qkv_proj": ".qkv", ".self_attn.o_proj": ".out", ".self_attn.q_norm": ".q_norm",
                 ".self_attn.k_norm": ".k_norm", ".mlp.gate_up_proj": ".up", ".mlp.down_proj": ".down"}
    given, out = dict(hf), {}
    if not s.gpt2 and s.type != "phi3":  # there they lie in one matrix
        for i in range(s.layers):
            layer = f"model.layers.{i}."
            for one, parts in (("self_attn.qkv_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")), ("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj"))):
                for end in ".weight", ".bias":
                    if layer + parts[0] + end in given:
                        given[layer + one + end] = torch.cat([given.pop(layer + p + end) for p in parts])
    for name, w in given.items():
        if s.gpt2 and ".c_" in name and w.dim() == 2:
            w = w.t()
        for old, new in names.items():
            name = name.replace(old, new)
        out[name] = w
    return out


torch.manual_seed(1)
for config in CASES:
    shape = shape_of(config, LENGTH)
    theirs = AutoModelForCausalLM.from_config(CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))).eval()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.2)
    ours = Lean(shape, NONE).eval()
    ours.load_state_dict(lean_weights(theirs.state_dict(), shape))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()), config
    ids = torch.randint(0, 60, (2, LENGTH))
    with torch.no_grad():
        turns = ours.turns(LENGTH, "cpu")
        want = theirs(input_ids=ids).logits
        torch.testing.assert_close(ours.head(ours.hidden(ids, turns)), want, rtol=1e-4, atol=1e-4)
        caches = [torch.zeros(2, 2, shape.kv_heads, LENGTH, shape.head_dim).unbind() for _ in range(shape.layers)]
        ours.next(ids[:, :6], turns, caches, torch.arange(6))
        for i in range(6, LENGTH):
            token = ours.next(ids[:, i:i + 1], turns, caches, torch.tensor([i]), LENGTH)
            assert (token[:, 0] == want[:, i].argmax(-1)).all(), (config, i)
        torch.testing.assert_close(ours(ids[:, :-1], ids[:, 1:], turns), theirs(input_ids=ids, labels=ids).loss, rtol=1e-4, atol=1e-4)
print(len(CASES), "models alike")
