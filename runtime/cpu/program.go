package cpu

// At views rows × cols of an arena from element offset on, its rows stride apart: a value in its planned place.
func At(arena []float32, offset, rows, cols, stride int) Mat {
	if rows == 0 {
		return Mat{Cols: cols, Stride: stride}
	}
	return Mat{Data: arena[offset : offset+(rows-1)*stride+cols], Rows: rows, Cols: cols, Stride: stride}
}

// Count returns the number of targets that are learned: those that are not negative.
func Count(targets []int32) float32 {
	n := 0
	for _, t := range targets {
		if t >= 0 {
			n++
		}
	}
	return float32(n)
}

// Finite says whether every number is neither infinite nor NaN.
func Finite(xs ...float32) bool {
	for _, x := range xs {
		if x-x != 0 {
			return false
		}
	}
	return true
}

// ClipFactor is what gradients of the given norm are scaled by so that their norm is at most clip, as
// torch.nn.utils.clip_grad_norm_ works it out.
func ClipFactor(norm, clip float32) float32 {
	return min(1, clip/(norm+1e-6))
}
