// Package spec is the language of tfc: the types of a spec with their defaults, the rules a spec must keep, and the
// places in the text that errors point to. A Spec is what the parser leaves: expressions are evaluated, presets and
// defaults are filled in, every number is final.
//
// Struct tags drive the parser, the JSON Schema and the documentation alike:
//
//	yaml:"name"        the key
//	default:"text"     what is used when neither the spec nor its preset gives the key, written as in a spec
//	call:"a|b(x)"      the constructors of a small call language, rmsnorm(eps: 1e-5)
//	arg:"eps"          the argument that fills a field of such a constructor
//	of:"a|b"           the constructors that take the argument (all, when absent)
//	bare:"a"           the constructor meant by a bare number; on a field of a mapping: a single value instead of the
//	                   mapping is the value of the fields with this tag
//	enum:"a|b"         the words allowed
//	min:"1" max:"9"    the range of a number
package spec

// Spec is one model with everything needed to train and run it.
type Spec struct {
	Name      string    `yaml:"name"` // of the Go package and the command; the file's name when left out
	Model     Model     `yaml:"model"`
	Tokenizer Tokenizer `yaml:"tokenizer"`
	Data      Data      `yaml:"data"`
	Train     Train     `yaml:"train"`
	Generate  Generate  `yaml:"generate"`
	Target    Target    `yaml:"target"`

	Source *Source      `yaml:"-"` // the text it came from
	HF     *HuggingFace `yaml:"-"` // how its weights and settings are named in Hugging Face files, from the preset
}

// Model is the architecture.
type Model struct {
	Preset string `yaml:"preset" default:"llama"` // fills in whatever the spec leaves out; `tfc presets` lists them

	VocabSize             int                 `yaml:"vocab_size" min:"1" max:"2147483647"`                                                                      // tokens in the vocabulary
	HiddenSize            int                 `yaml:"hidden_size" min:"1" max:"2147483647"`                                                                     // width of the residual stream
	NumLayers             int                 `yaml:"num_layers" min:"1" max:"10000"`                                                                           // transformer blocks
	NumHeads              PerLayer[int]       `yaml:"num_heads" min:"1" max:"2147483647"`                                                                       // query heads
	NumKVHeads            PerLayer[int]       `yaml:"num_kv_heads" default:"num_heads" min:"1" max:"2147483647"`                                                // key and value heads: num_heads for multi-head, fewer for grouped-query, 1 for multi-query attention
	HeadDim               int                 `yaml:"head_dim" default:"hidden_size / num_heads" min:"1" max:"2147483647"`                                      // width of one head
	IntermediateSize      PerLayer[int]       `yaml:"intermediate_size" default:"4 * hidden_size" min:"1" max:"2147483647"`                                     // width inside the MLP
	MaxPositionEmbeddings int                 `yaml:"max_position_embeddings" default:"1024" min:"1" max:"2147483647"`                                          // longest sequence, in tokens
	Norm                  Norm                `yaml:"norm" default:"rmsnorm"`                                                                                   // normalisation of the residual stream
	NormPlacement         string              `yaml:"norm_placement" default:"pre" enum:"pre|post|both"`                                                        // before a sublayer, after its residual add, or before it and on its output
	QKNorm                QKNorm              `yaml:"qk_norm" default:"none"`                                                                                   // normalisation of queries and keys before positions are applied
	Positions             PerLayer[Positions] `yaml:"positions" default:"rope"`                                                                                 // how positions enter the model
	Attention             PerLayer[Pattern]   `yaml:"attention" default:"causal"`                                                                               // which keys a query sees
	AttentionMultiplier   float64             `yaml:"attention_multiplier" default:"1 / sqrt(head_dim)"`                                                        // scale of q·k
	AttentionSoftcap      float64             `yaml:"attention_softcap" default:"0" min:"0"`                                                                    // scores become cap·tanh(score/cap); 0 for none
	Activation            string              `yaml:"activation" default:"swiglu" enum:"gelu|gelu_tanh|relu|relu2|silu|swiglu|geglu|geglu_tanh|reglu|relu2glu"` // of the MLP; the glu forms gate
	Residual              string              `yaml:"residual" default:"serial" enum:"serial|parallel|parallel_shared"`                                         // attention, then MLP; or both from the block's input, with a norm each or one for both
	Bias                  Bias                `yaml:"bias" default:"false"`                                                                                     // biases of the linear maps
	Dropout               Dropout             `yaml:"dropout" default:"0"`                                                                                      // while training
	EmbeddingMultiplier   float64             `yaml:"embedding_multiplier" default:"1"`                                                                         // token embeddings are scaled by it
	LogitMultiplier       float64             `yaml:"logit_multiplier" default:"1"`                                                                             // logits are scaled by it
	ResidualMultiplier    float64             `yaml:"residual_multiplier" default:"1"`                                                                          // a sublayer's output is scaled by it before the add
	LogitSoftcap          float64             `yaml:"logit_softcap" default:"0" min:"0"`                                                                        // logits become cap·tanh(logit/cap); 0 for none
	TieWordEmbeddings     bool                `yaml:"tie_word_embeddings" default:"false"`                                                                      // the output head is the embedding table
	Init                  Init                `yaml:"init"`                                                                                                     // how weights start
}

// PerLayer is a value for every layer, or one for each.
type PerLayer[T any] []T

// At returns the value for layer l.
func (p PerLayer[T]) At(l int) T {
	if len(p) == 1 {
		return p[0]
	}
	return p[l]
}

// Norm is LayerNorm (Ba, Kiros, Hinton, arXiv 1607.06450) or RMSNorm (Zhang, Sennrich, arXiv 1910.07467).
type Norm struct {
	Kind   string  `call:"layernorm|rmsnorm"`
	Eps    float64 `arg:"eps" default:"1e-5" min:"0"`         // added to the variance
	Bias   bool    `arg:"bias" default:"true" of:"layernorm"` // a learned shift beside the gain
	Offset float64 `arg:"offset" default:"0" of:"rmsnorm"`    // the gain is offset + weight; Gemma uses 1
}

// QKNorm normalises queries and keys.
type QKNorm struct {
	Kind   string  `call:"none|layernorm|rmsnorm"`
	Eps    float64 `arg:"eps" default:"1e-6" min:"0" of:"layernorm|rmsnorm"`
	Offset float64 `arg:"offset" default:"0" of:"rmsnorm"`
	Over   string  `arg:"over" default:"head" enum:"head|all" of:"layernorm|rmsnorm"` // each head by itself, or all heads together
}

// Positions says how a layer knows where a token stands.
type Positions struct {
	Kind        string  `call:"none|learned|rope|alibi"`
	Theta       float64 `arg:"theta" default:"10000" min:"1" of:"rope"`        // base of the rotary frequencies (Su et al., arXiv 2104.09864)
	Fraction    float64 `arg:"fraction" default:"1" min:"0" max:"1" of:"rope"` // share of each head that is rotated
	Interleaved bool    `arg:"interleaved" default:"false" of:"rope"`          // pairs (2i, 2i+1) as in GPT-J, instead of (i, i+half)
	Scaling     Scaling `arg:"scaling" default:"none" of:"rope"`               // stretches the frequencies to longer sequences
}

// Scaling is a rule that stretches rotary frequencies.
type Scaling struct {
	Kind            string  `call:"none|linear|ntk|yarn|llama3"`
	Factor          float64 `arg:"factor" default:"1" min:"1" of:"linear|ntk|yarn|llama3"`                // how many times longer
	OriginalMax     int     `arg:"original_max_position_embeddings" default:"0" min:"0" of:"yarn|llama3"` // the length trained for; max_position_embeddings / factor when 0
	LowFreqFactor   float64 `arg:"low_freq_factor" default:"1" of:"llama3"`
	HighFreqFactor  float64 `arg:"high_freq_factor" default:"4" of:"llama3"`
	BetaFast        float64 `arg:"beta_fast" default:"32" of:"yarn"`
	BetaSlow        float64 `arg:"beta_slow" default:"1" of:"yarn"`
	AttentionFactor float64 `arg:"attention_factor" default:"0" of:"yarn"` // scale of the rotated vectors; 0.1·ln(factor)+1 when 0
}

// Bias says which linear maps have a bias. A bare boolean means all but the head.
type Bias struct {
	QKV    bool `yaml:"qkv" bare:""`
	Output bool `yaml:"output" bare:""` // of the attention
	MLP    bool `yaml:"mlp" bare:""`
	Head   bool `yaml:"head"`
}

// Dropout probabilities. A bare number means all three.
type Dropout struct {
	Embedding float64 `yaml:"embedding" bare:"" min:"0" max:"0.999"`
	Attention float64 `yaml:"attention" bare:"" min:"0" max:"0.999"` // on attention probabilities
	Residual  float64 `yaml:"residual" bare:"" min:"0" max:"0.999"`  // on the output of each sublayer
}

// Init says how weights start. Norm gains start at one (less their offset) and biases at zero.
type Init struct {
	Weights    InitRule `yaml:"weights" default:"normal(std: 0.02)"`                         // matrices
	Embeddings InitRule `yaml:"embeddings" default:"normal(std: 0.02)"`                      // token and position tables
	Residual   InitRule `yaml:"residual" default:"normal(std: 0.02 / sqrt(2 * num_layers))"` // the matrices that write to the residual stream
}

// InitRule draws a weight's first values.
type InitRule struct {
	Kind  string  `call:"normal|uniform|xavier_normal|xavier_uniform|zeros"`
	Std   float64 `arg:"std" default:"0.02" min:"0" of:"normal"`
	Limit float64 `arg:"limit" default:"0.02" min:"0" of:"uniform"` // values lie in [-limit, limit)
}

// Tokenizer turns text into tokens: either trained on the data, or read from a Hugging Face tokenizer.json.
type Tokenizer struct {
	Train string `yaml:"train" default:"byte_bpe" enum:"byte_bpe"` // learned from the training text, vocab_size tokens
	File  string `yaml:"file" bare:""`                             // a tokenizer.json beside the spec, instead of training one
}

// Data is the text.
type Data struct {
	Train Corpus    `yaml:"train" default:"stories"` // files to learn from
	Eval  EvalSplit `yaml:"eval" default:"1%"`       // held out: a share of the training text, or files
}

// Corpus is text files, or the built-in grammar of short stories.
type Corpus struct {
	Kind  string   `call:"stories" text:"files"`                         // any text that is not stories(...) is a pattern of files, such as texts/*.txt
	Count int      `arg:"count" default:"20000" min:"2" max:"100000000"` // stories to tell
	Seed  uint64   `arg:"seed" default:"1"`
	Files []string // patterns, relative to the spec's folder
}

// EvalSplit is the text held out for evaluation.
type EvalSplit struct {
	Share float64  // of the training documents, as 1%
	Files []string // or files of its own
}

// Train says how to learn.
type Train struct {
	Steps         int           `yaml:"steps" default:"1000" min:"0" max:"1000000000"`                      // optimizer steps; 0 where epochs are given
	Epochs        float64       `yaml:"epochs" default:"0" min:"0"`                                         // passes over the text, instead of steps
	Batch         Batch         `yaml:"batch" default:"16"`                                                 // sequences a step
	MicroBatch    int           `yaml:"micro_batch" default:"0" min:"0" max:"2147483647"`                   // sequences at once; their gradients add up to the batch. 0: the whole batch
	Context       int           `yaml:"context" default:"max_position_embeddings" min:"1" max:"2147483647"` // tokens in a training sequence
	Precision     string        `yaml:"precision" default:"f32" enum:"f32|tf32|bf16|fp16|fp8"`              // of activations and products, on the CPU bf16 of what products of training multiply; tf32 is f32 whose products round their operands to 10 bits on a GPU; fp8 is bf16 whose layers multiply operands in 8 bits, on GPUs that can, and on the CPU is bf16; f32 master weights always
	Optimizer     Optimizer     `yaml:"optimizer" default:"adamw"`
	Schedule      Schedule      `yaml:"schedule" default:"warmup(5%) -> cosine(to: 0.1)"` // of the learning rate
	Clip          float64       `yaml:"clip" default:"1" min:"0"`                         // largest norm of the whole gradient; 0 for none
	Checkpointing Checkpointing `yaml:"checkpointing" default:"none"`                     // which activations are computed again in the backward pass
	Save          Save          `yaml:"save"`
	Eval          Every         `yaml:"eval"`
	LogEvery      int           `yaml:"log_every" default:"10" min:"1"` // steps between log lines
	Seed          uint64        `yaml:"seed" default:"1"`               // of weights, data order and dropout
}

// Batch is the sequences of one optimizer step, counted as such or in tokens.
type Batch struct {
	Kind string `call:"sequences|tokens" bare:"sequences"`
	N    int    `arg:"n" min:"1" max:"2147483647"`
}

// Sequences returns the sequences of one step for sequences of context tokens.
func (b Batch) Sequences(context int) int {
	if b.Kind == "tokens" {
		return b.N / context
	}
	return b.N
}

// Optimizer is AdamW (Loshchilov, Hutter, arXiv 1711.05101).
type Optimizer struct {
	Kind        string    `call:"adamw"`
	LR          float64   `arg:"lr" default:"1e-3" min:"0"`
	Betas       []float64 `arg:"betas" default:"[0.9, 0.95]" min:"0" max:"0.999999"`
	Eps         float64   `arg:"eps" default:"1e-8" min:"0"`
	WeightDecay float64   `arg:"weight_decay" default:"0.1" min:"0"`
	DecayOn     string    `arg:"decay_on" default:"matrices" enum:"matrices|all"` // matrices: parameters with two or more axes
}

// Schedule is the learning rate over the steps, as phases that follow one another.
type Schedule []Phase

// Phase is a stretch of a schedule. The last phase takes the steps that are left, unless it says how many.
type Phase struct {
	Kind  string  `call:"warmup|constant|linear|cosine|inverse_sqrt"`
	Steps Count   `arg:"steps" default:"0"`                                 // how long
	To    float64 `arg:"to" default:"0" min:"0" max:"1" of:"linear|cosine"` // share of the peak rate at its end
}

// Count is a number of steps, or a share of all of them.
type Count struct {
	N     int
	Share float64 // 0.05 for 5%
}

// Of returns the count out of total.
func (c Count) Of(total int) int {
	if c.Share > 0 {
		return int(c.Share*float64(total) + 0.5)
	}
	return c.N
}

// Checkpointing says which activations the backward pass computes again instead of keeping them
// (Chen et al., arXiv 1604.06174).
type Checkpointing struct {
	Kind   string `call:"none|full|every|auto"`
	N      int    `arg:"n" default:"1" min:"1" of:"every"` // keep the stream at every n-th layer and compute the n layers between again
	Budget Bytes  `arg:"budget" of:"auto"`                 // of memory for all that the run allocates, on its device; what costs least time is computed again
}

// Bytes is an amount of memory, written 512MiB or 80GiB.
type Bytes int64

// Save says when a run is saved.
type Save struct {
	Every int    `yaml:"every" default:"500" min:"1"`                    // steps
	Keep  int    `yaml:"keep" default:"3" min:"1"`                       // newest saves to keep
	Best  string `yaml:"best" default:"eval_loss" enum:"eval_loss|none"` // also keep the best by this
}

// Every says when a run is evaluated.
type Every struct {
	Every   int `yaml:"every" default:"100" min:"1"`  // steps
	Batches int `yaml:"batches" default:"20" min:"1"` // micro-batches of held-out text, at most
}

// Generate holds the defaults of generation.
type Generate struct {
	MaxNewTokens int      `yaml:"max_new_tokens" default:"200" min:"1"`
	Temperature  float64  `yaml:"temperature" default:"0.8" min:"0"` // 0: always the likeliest token
	TopK         int      `yaml:"top_k" default:"0" min:"0"`         // 0: no limit
	TopP         float64  `yaml:"top_p" default:"1" min:"0" max:"1"`
	Seed         uint64   `yaml:"seed" default:"1"`
	Batch        int      `yaml:"batch" default:"1" min:"1" max:"65536"`                 // sequences written at once
	Weights      string   `yaml:"weights" default:"auto" enum:"auto|f32|bf16|int8|int4"` // that are read, on a CPU: int8 and int4 with a scale for each 32 along the sum; auto is bf16 where train.precision is bf16 or fp8, otherwise f32. A GPU reads those of train.precision
	Prompts      []string `yaml:"prompts"`                                               // what `run` continues when training ends
}

// Target says what to build for.
type Target struct {
	Devices []string `yaml:"devices" default:"[cpu, cuda]" enum:"cpu|cuda"`
	Arch    []string `yaml:"arch" default:"[sm_80, sm_90a]" enum:"sm_80|sm_86|sm_89|sm_90a"`
}
