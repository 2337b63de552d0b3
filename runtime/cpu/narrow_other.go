//go:build !amd64

package cpu

// narrowVariants lists what this machine can run of the narrow kernels.
func narrowVariants() []*narrowVariant { return []*narrowVariant{plainNarrow} }
