"""GPT-2 and Llama as short as PyTorch allows: one product for queries, keys and values, one for gate and up."""
import torch
import torch.nn as nn
import torch.nn.functional as F

from shape import Missing, frequencies

ACTIVATIONS = {"gelu": F.gelu, "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"), "relu": F.relu, "silu": F.silu}


def norm(s, width):
    return nn.LayerNorm(width, s.eps) if s.gpt2 else nn.RMSNorm(width, s.eps)


def rotate(x, cos, sin):
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).type_as(x)


class Block(nn.Module):
    def __init__(self, s, dropout):
        super().__init__()
        self.s, self.dropout = s, dropout
        self.act = ACTIVATIONS[s.activation]
        self.norm1, self.norm2 = norm(s, s.width), norm(s, s.width)
        self.qkv = nn.Linear(s.width, s.heads * s.head_dim + 2 * s.kv_width, bias=s.gpt2 or s.qkv_bias)
        self.out = nn.Linear(s.heads * s.head_dim, s.width, bias=s.gpt2)
        self.up = nn.Linear(s.width, s.hidden if s.gpt2 else 2 * s.hidden, bias=s.gpt2)
        self.down = nn.Linear(s.hidden, s.width, bias=s.gpt2)
        if s.qk_norm:
            self.q_norm, self.k_norm = norm(s, s.head_dim), norm(s, s.head_dim)

    def forward(self, x, turn, cache=None, at=None, mask=None):
        x = x + self.drop(self.out(self.attend(self.norm1(x), turn, cache, at, mask)))
        h = self.up(self.norm2(x))
        if self.s.gpt2:
            h = self.act(h)
        else:
            gate, up = h.chunk(2, -1)
            h = self.act(gate) * up
        return x + self.drop(self.down(h))

    def drop(self, x):
        return F.dropout(x, self.dropout["residual"], self.training)

    def attend(self, x, turn, cache, at, mask):
        s, (B, T, _) = self.s, x.shape
        q, k, v = self.qkv(x).split([s.heads * s.head_dim, s.kv_width, s.kv_width], -1)
        q, k, v = (t.view(B, T, -1, s.head_dim).transpose(1, 2) for t in (q, k, v))
        if s.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if turn is not None:
            q, k = rotate(q, *turn), rotate(k, *turn)
        if cache is not None:
            keys, values = cache
            keys.index_copy_(2, at, k)
            values.index_copy_(2, at, v)
        if mask is not None:  # one token; the heads that share keys are the rows of one product
            a = F.scaled_dot_product_attention(q.reshape(B, s.kv_heads, -1, s.head_dim), keys, values, attn_mask=mask)
            a = a.reshape(B, s.heads, T, s.head_dim)
        else:
            p = self.dropout["attention"] if self.training else 0
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p, enable_gqa=s.heads != s.kv_heads)
        return a.transpose(1, 2).reshape(B, T, -1)


class Lean(nn.Module):
    def __init__(self, s, dropout):
        super().__init__()
        if s.activation not in ACTIVATIONS:
            raise Missing(f"it has no activation {s.activation}")
        self.s, self.dropout = s, dropout
        self.tokens = nn.Embedding(s.vocab, s.width)
        self.places = nn.Embedding(s.positions, s.width) if s.gpt2 else None
        self.blocks = nn.ModuleList(Block(s, dropout) for _ in range(s.layers))
        self.norm = norm(s, s.width)
        self.head = nn.Linear(s.width, s.vocab, bias=False)
        if s.tied:
            self.head.weight = self.tokens.weight
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def turns(self, length, device):
        """cos and sin of every position's angles; None where positions are learned."""
        if self.s.gpt2:
            return None
        angles = torch.outer(torch.arange(length, dtype=torch.float32), torch.tensor(frequencies(self.s)))
        return angles.cos().to(device), angles.sin().to(device)

    def hidden(self, ids, turns, caches=None, at=None, length=None):
        """The last norm's result. Caches, where there are some, get the keys and values at the positions at; one token attends to
        all of length positions up to its own."""
        if at is None:
            at = torch.arange(ids.shape[1], device=ids.device)
        x = self.tokens(ids)
        if self.places is not None:
            x = x + self.places(at)
        x = F.dropout(x, self.dropout["embedding"], self.training)
        turn = None if turns is None else (turns[0][at], turns[1][at])
        mask = None if length is None else (torch.arange(length, device=ids.device) <= at)[None, None, None]
        for i, b in enumerate(self.blocks):
            x = b(x, turn, None if caches is None else caches[i], at, mask)
        return self.norm(x)

    def forward(self, ids, targets, turns):
        """The loss."""
        return F.cross_entropy(self.head(self.hidden(ids, turns)).flatten(0, 1).float(), targets.flatten())

    def next(self, ids, turns, caches, at, length=None):
        """The likeliest token after the last of each sequence."""
        return self.head(self.hidden(ids, turns, caches, at, length)[:, -1:]).argmax(-1)
