package spec

// HuggingFace says how a family names its weights and settings in Hugging Face files. It comes from a preset's YAML.
type HuggingFace struct {
	ModelType    string              `yaml:"model_type"`   // config.json's model_type
	Architecture string              `yaml:"architecture"` // config.json's architectures[0]
	Config       map[string]string   `yaml:"config"`       // config.json key to the spec path or literal that gives it
	Weights      map[string]string   `yaml:"weights"`      // tfc's weight name to the file's; {layer} stands for the layer's number
	Transposed   []string            `yaml:"transposed"`   // tfc's names of weights stored [in, out] instead of [out, in]
	Fused        map[string][]string `yaml:"fused"`        // a file's weight to the tfc weights it holds, as rows one after another
}
