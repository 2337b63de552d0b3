package parser

import (
	"reflect"
	"strings"

	"github.com/tfc-dev/tfc/spec"
)

// otherNames are the names of other libraries and papers for what a spec calls otherwise.
var otherNames = map[string]string{
	"n_layer": "num_layers", "n_layers": "num_layers", "num_hidden_layers": "num_layers", "layers": "num_layers", "depth": "num_layers", "num_blocks": "num_layers", "n_blocks": "num_layers",
	"n_embd": "hidden_size", "d_model": "hidden_size", "dim": "hidden_size", "embed_dim": "hidden_size", "n_embed": "hidden_size", "model_dim": "hidden_size", "hidden_dim": "hidden_size", "width": "hidden_size",
	"n_head": "num_heads", "n_heads": "num_heads", "heads": "num_heads", "num_attention_heads": "num_heads", "attention_heads": "num_heads",
	"num_key_value_heads": "num_kv_heads", "n_kv_heads": "num_kv_heads", "n_kv_head": "num_kv_heads", "kv_heads": "num_kv_heads", "num_query_groups": "num_kv_heads",
	"d_head": "head_dim", "head_size": "head_dim", "kv_channels": "head_dim", "attention_head_dim": "head_dim",
	"ffn_dim": "intermediate_size", "n_inner": "intermediate_size", "d_ff": "intermediate_size", "ffn_hidden_size": "intermediate_size", "mlp_dim": "intermediate_size", "ff_dim": "intermediate_size", "mlp_hidden_size": "intermediate_size",
	"n_ctx": "max_position_embeddings", "block_size": "max_position_embeddings", "n_positions": "max_position_embeddings", "max_seq_len": "max_position_embeddings", "context_length": "max_position_embeddings", "max_sequence_length": "max_position_embeddings", "max_seq_length": "max_position_embeddings",
	"n_vocab": "vocab_size", "vocabulary_size": "vocab_size", "num_tokens": "vocab_size", "padded_vocab_size": "vocab_size",
	"hidden_act": "activation", "activation_function": "activation", "act": "activation", "hidden_activation": "activation", "act_fn": "activation",
	"rms_norm_eps": "norm", "layer_norm_eps": "norm", "layer_norm_epsilon": "norm", "norm_eps": "norm", "normalization": "norm", "norm_type": "norm",
	"rope_theta": "positions", "rope_scaling": "positions", "rope_parameters": "positions", "rope": "positions", "position_embedding": "positions", "position_embedding_type": "positions", "pos_emb": "positions", "rotary_pct": "positions", "partial_rotary_factor": "positions",
	"sliding_window": "attention", "window_size": "attention", "attention_types": "attention", "layer_types": "attention", "attn": "attention", "mask": "attention",
	"attn_logit_softcapping": "attention_softcap", "final_logit_softcapping": "logit_softcap", "softcap": "attention_softcap",
	"query_pre_attn_scalar": "attention_multiplier", "scale_attn_weights": "attention_multiplier", "attn_scale": "attention_multiplier", "embedding_scale": "embedding_multiplier", "logit_scale": "logit_multiplier", "logits_scaling": "logit_multiplier", "residual_scale": "residual_multiplier",
	"tie_embeddings": "tie_word_embeddings", "tied_embeddings": "tie_word_embeddings", "weight_tying": "tie_word_embeddings", "share_embeddings": "tie_word_embeddings", "tie_weights": "tie_word_embeddings",
	"attention_bias": "bias", "mlp_bias": "bias", "use_bias": "bias", "qkv_bias": "bias", "attention_dropout": "dropout", "hidden_dropout": "dropout", "attn_pdrop": "dropout", "resid_pdrop": "dropout", "embd_pdrop": "dropout", "resid_dropout": "dropout", "embed_dropout": "dropout",
	"use_parallel_residual": "residual", "parallel_residual": "residual", "initializer_range": "init", "init_std": "init", "pre_norm": "norm_placement", "qk_layernorm": "qk_norm", "use_qk_norm": "qk_norm",
	"model_type": "preset", "architecture": "preset", "arch": "preset", "family": "preset",

	"max_steps": "steps", "max_iters": "steps", "num_steps": "steps", "train_steps": "steps", "num_iterations": "steps", "train_iters": "steps", "num_train_epochs": "epochs", "num_epochs": "epochs", "max_epochs": "epochs",
	"batch_size": "batch", "train_batch_size": "batch", "global_batch_size": "batch", "per_device_train_batch_size": "micro_batch", "micro_batch_size": "micro_batch", "device_batch_size": "micro_batch", "gradient_accumulation_steps": "micro_batch", "grad_accum": "micro_batch",
	"seq_len": "context", "sequence_length": "context", "seq_length": "context", "dtype": "precision", "torch_dtype": "precision", "mixed_precision": "precision", "bf16": "precision", "fp16": "precision", "tf32": "precision", "fp8": "precision",
	"learning_rate": "optimizer: adamw(lr: …)", "lr": "optimizer: adamw(lr: …)", "max_lr": "optimizer: adamw(lr: …)", "weight_decay": "optimizer: adamw(weight_decay: …)", "betas": "optimizer: adamw(betas: …)", "adam_beta1": "optimizer: adamw(betas: …)", "adam_beta2": "optimizer: adamw(betas: …)", "beta1": "optimizer: adamw(betas: …)", "beta2": "optimizer: adamw(betas: …)", "adam_epsilon": "optimizer: adamw(eps: …)", "optim": "optimizer",
	"lr_scheduler": "schedule", "lr_scheduler_type": "schedule", "scheduler": "schedule", "lr_schedule": "schedule", "warmup_steps": "schedule: warmup(…) -> …", "warmup_iters": "schedule: warmup(…) -> …", "warmup_ratio": "schedule: warmup(…) -> …", "lr_decay_iters": "schedule", "min_lr": "schedule: … cosine(to: …)",
	"grad_clip": "clip", "max_grad_norm": "clip", "gradient_clipping": "clip", "clip_grad_norm": "clip", "clip_norm": "clip", "gradient_checkpointing": "checkpointing", "activation_checkpointing": "checkpointing", "recompute": "checkpointing",
	"save_steps": "save: {every: …}", "save_every": "save: {every: …}", "save_interval": "save: {every: …}", "save_total_limit": "save: {keep: …}", "eval_steps": "eval: {every: …}", "eval_interval": "eval: {every: …}", "eval_every": "eval: {every: …}", "eval_iters": "eval: {batches: …}",
	"logging_steps": "log_every", "log_interval": "log_every", "log_steps": "log_every", "random_seed": "seed",
	"limit": "keep", "interval": "every", "steps_between": "every", "max_batches": "batches",
	"max_tokens": "max_new_tokens", "max_length": "max_new_tokens", "num_predict": "max_new_tokens", "n_predict": "max_new_tokens", "temp": "temperature", "num_return_sequences": "batch", "prompt": "prompts",
	"valid": "eval", "val": "eval", "validation": "eval", "test": "eval", "dataset": "train", "files": "train", "path": "train", "training": "train", "sampling": "generate", "generation": "generate", "targets": "target", "device": "devices", "archs": "arch", "sm": "arch", "tokeniser": "tokenizer", "dataset_path": "train",
	"tokenizer_file": "file", "type": "train", "title": "name", "package": "name", "model_name": "name",

	"epsilon": "eps", "variance_epsilon": "eps", "base": "theta", "rope_base": "theta", "rotary_dim": "fraction", "pct": "fraction", "partial": "fraction", "original_max": "original_max_position_embeddings", "wd": "weight_decay", "decay": "weight_decay", "learning": "lr", "sigma": "std", "bound": "limit", "n": "count", "min": "to", "end": "to", "min_ratio": "to", "final": "to", "num_stories": "count",

	"layer_norm": "layernorm", "LayerNorm": "layernorm", "rms_norm": "rmsnorm", "RMSNorm": "rmsnorm", "rotary": "rope", "absolute": "learned", "sinusoidal": "learned", "nope": "none", "sliding": "window", "local": "window", "dilated": "stride", "strided": "stride", "prefix_lm": "prefix", "full": "causal", "autoregressive": "causal",
	"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "swish": "silu", "geglu_new": "geglu_tanh", "squared_relu": "relu2", "relu_squared": "relu2",
	"float32": "f32", "fp32": "f32", "float": "f32", "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "f16": "fp16", "float8": "fp8", "f8": "fp8",
	"adam": "adamw", "AdamW": "adamw", "Adam": "adamw", "dynamic": "ntk", "linear_warmup": "warmup", "wsd": "constant", "cos": "cosine", "decay_to": "to", "xavier": "xavier_normal", "glorot": "xavier_uniform", "truncated_normal": "normal", "gaussian": "normal", "zero": "zeros",
	"gpu": "cuda", "nvidia": "cuda", "sm_90": "sm_90a", "loss": "eval_loss", "bpe": "byte_bpe", "parallel_attn": "parallel", "sequential": "serial",
}

// suggestKey finds the key that a user may have meant by an unknown one.
func suggestKey(word string, keys []string, path string) string {
	if want, ok := otherNames[word]; ok {
		key, _, _ := strings.Cut(want, ":")
		for _, k := range keys {
			if k == key {
				return want
			}
		}
	}
	if s := closest(word, keys); s != "" {
		return s
	}
	return elsewhere(word, path)
}

// suggestWord finds the word that a user may have meant among those allowed.
func suggestWord(word string, words []string) string {
	if want, ok := otherNames[word]; ok {
		for _, w := range words {
			if w == want {
				return want
			}
		}
	}
	return closest(word, words)
}

// closest returns the word nearest to the given one, "" where none is near.
func closest(word string, words []string) string {
	if len(word) > 64 {
		return ""
	}
	best, least := "", 1+max(1, len([]rune(word))/3)
	for _, w := range words {
		if n := distance(strings.ToLower(word), w); n < least {
			best, least = w, n
		}
	}
	if best == "" && len(word) >= 3 {
		for _, w := range words {
			if strings.HasPrefix(w, word+"_") {
				return w
			}
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of neighbours that turn a into b
// (optimal string alignment).
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	rows := make([][]int, len(x)+1)
	for i := range rows {
		rows[i] = make([]int, len(y)+1)
		rows[i][0] = i
	}
	for j := range y {
		rows[0][j+1] = j + 1
	}
	for i := 1; i <= len(x); i++ {
		for j := 1; j <= len(y); j++ {
			change := 1
			if x[i-1] == y[j-1] {
				change = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(x)][len(y)]
}

// elsewhere finds a key, under its own or another library's name, in the other sections.
func elsewhere(word, path string) string {
	if want, ok := otherNames[word]; ok {
		word, _, _ = strings.Cut(want, ":")
	}
	for _, place := range keyPlaces() {
		if strings.HasSuffix(place, "."+word) && strings.TrimSuffix(place, "."+word) != path {
			return place
		}
	}
	return ""
}

// keyPlaces lists the keys of the sections, with their section.
func keyPlaces() (places []string) {
	t := reflect.TypeFor[spec.Spec]()
	for i := range t.NumField() {
		if f := t.Field(i); isMapping(f.Type) {
			for j := range f.Type.NumField() {
				places = append(places, f.Tag.Get("yaml")+"."+f.Type.Field(j).Tag.Get("yaml"))
			}
		}
	}
	return places
}
