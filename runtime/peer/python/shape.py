"""What a config.json says of a model that is GPT-2 or like Llama, for the peers that are built from it."""
import math
from dataclasses import dataclass


class Missing(Exception):
    """Why a peer is not there, as a sentence."""


@dataclass(frozen=True)
class Shape:
    type: str
    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int  # of the MLP
    positions: int
    eps: float
    activation: str
    tied: bool
    qk_norm: bool = False
    qkv_bias: bool = False
    rope: dict | None = None  # None: GPT-2, with learned positions, LayerNorm and biases

    @property
    def gpt2(self):
        return self.rope is None

    @property
    def kv_width(self):
        return self.kv_heads * self.head_dim


def shape_of(config, length):
    """The shape of a model whose sequences have so many tokens. What it cannot say is Missing, never left out."""
    c, kind = config, config["model_type"]
    if kind == "gpt2":
        return Shape(kind, c["vocab_size"], c["n_embd"], c["n_layer"], c["n_head"], c["n_head"], c["n_embd"] // c["n_head"], c["n_inner"],
                     c["n_positions"], c["layer_norm_epsilon"], c["activation_function"], c["tie_word_embeddings"])
    if kind not in ("llama", "mistral", "phi3", "qwen2", "qwen3"):
        raise Missing(f"it is for models like GPT-2 and Llama; this one's model_type is {kind}")
    if c.get("attention_bias") or c.get("mlp_bias"):
        raise Missing("it has no attention_bias and no mlp_bias")
    window = c.get("sliding_window") if c.get("use_sliding_window", True) else None
    if window and window < length:
        raise Missing(f"it has no sliding window; the model's is {window}, less than the {length} tokens of this job")
    rope = c["rope_parameters"]
    if rope["rope_type"] not in ("default", "linear", "llama3") or rope.get("partial_rotary_factor", 1) != 1:
        raise Missing(f"it cannot rotate positions by {rope}")
    heads = c["num_attention_heads"]
    return Shape(kind, c["vocab_size"], c["hidden_size"], c["num_hidden_layers"], heads, c["num_key_value_heads"], c.get("head_dim") or c["hidden_size"] // heads,
                 c["intermediate_size"], c["max_position_embeddings"], c["rms_norm_eps"], c["hidden_act"], c["tie_word_embeddings"],
                 kind == "qwen3", kind == "qwen2", rope)


def frequencies(shape):
    """The angle by which each pair of a head's columns turns from one position to the next."""
    r = shape.rope
    return [stretched(r["rope_theta"] ** (-i / shape.head_dim), r) for i in range(0, shape.head_dim, 2)]


def stretched(f, r):
    if r["rope_type"] == "default":
        return f
    if r["rope_type"] == "linear":
        return f / r["factor"]
    low, high = r["low_freq_factor"], r["high_freq_factor"]
    turns = r["original_max_position_embeddings"] * f / (2 * math.pi)
    keep = min(1, max(0, (turns - low) / (high - low)))
    return keep * f + (1 - keep) * f / r["factor"]
