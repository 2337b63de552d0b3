//go:build !amd64

package cpu

// No vector kernels: the plain Go of each caller does all of the row.

func expVector(_, _ []float32, _ float32, _ *[sumLanes]float32) bool                        { return false }
func tanhVector(_, _ []float32, _, _ float32) bool                                          { return false }
func applyVector(_ Activation, _, _ []float32) bool                                         { return false }
func gradVector(_ Activation, _, _, _ []float32) bool                                       { return false }
func addVector(_, _, _ []float32) int                                                       { return 0 }
func mulVector(_, _, _ []float32) int                                                       { return 0 }
func mulLessVector(_, _, _ []float32, _ float32) int                                        { return 0 }
func scaleVector(_, _ []float32, _ float32) int                                             { return 0 }
func ropeVector(_, _, _, _, _, _ []float32, _ bool) int                                     { return 0 }
func normaliseVector(_, _, _ []float32, _, _, _ float32) int                                { return 0 }
func normGradSumsVector(_, _, _, _ []float32, _, _, _ float32, _, _ *[sumLanes]float64) int { return 0 }
func normGradVector(_, _, _, _ []float32, _, _, _, _, _ float32) int                        { return 0 }
func squaresVector([]float32, float64, *[sumLanes]float64) int                              { return 0 }
func dot64Vector(_, _ []float32, _ *[sumLanes]float64) int                                  { return 0 }
func adamwVector(_, _, _, _ []float32, _ *[9]float32) int                                   { return 0 }
func maxVector([]float32) (float32, int)                                                    { return -inf, 0 }
func columnSumsVector([]float32, Mat) int                                                   { return 0 }
func roundBF16Vector([]float32) int                                                         { return 0 }

const readFloats = 64

func readVector(x, sum []float32) { readPlain(x, sum) }

func multiplyAdds() []multiplyAdd { return []multiplyAdd{plainMultiplyAdd} }

func fetch(Mat) {}
