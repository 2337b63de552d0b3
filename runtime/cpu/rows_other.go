//go:build !amd64

package cpu

// No vector kernels: the plain Go of each caller does all of the row.

func expVector(_, _ []float32, _ float32, _ *[sumLanes]float32) bool { return false }
func tanhVector(_, _ []float32, _, _ float32) bool                   { return false }
func applyVector(Activation, []float32) bool                         { return false }
func gradVector(_ Activation, _, _, _ []float32) bool                { return false }
func addVector(_, _ []float32) int                                   { return 0 }
func squaresVector([]float32, *[sumLanes]float64) int                { return 0 }
func adamwVector(_, _, _, _ []float32, _ *[9]float32) int            { return 0 }
func maxVector([]float32, *[sumLanes]float32) int                    { return 0 }
