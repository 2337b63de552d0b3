package spec

import "embed"

// PresetFiles holds the presets: for each family of models a file with a model section to start from and the family's
// names in Hugging Face files. Package parser reads them.
//
//go:embed presets/*.yaml
var PresetFiles embed.FS

// LanguageFiles holds the Go files of the language's types, whose comments document the keys in the JSON Schema.
//
//go:embed spec.go pattern.go
var LanguageFiles embed.FS
