package compile

import (
	"fmt"
	"math"
)

// FormatBytes writes an amount of memory in binary units: 512 B, 1.5 MiB.
func FormatBytes[N int | int64 | float64](n N) string {
	return scaled(float64(n), 1024, "B", "KiB", "MiB", "GiB", "TiB", "PiB")
}

// FormatRate writes bytes or operations a second in decimal units: 40 GB/s.
func FormatRate(n float64, unit string) string {
	return scaled(n, 1000, unit+"/s", "k"+unit+"/s", "M"+unit+"/s", "G"+unit+"/s", "T"+unit+"/s")
}

// FormatFLOPs writes a number of operations in decimal units: 6.8 GFLOP.
func FormatFLOPs(n float64) string {
	return scaled(n, 1000, "FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP")
}

// FormatSeconds writes a time as 49.1 ms.
func FormatSeconds(s float64) string {
	if math.Abs(s) >= 1 || s == 0 {
		return fmt.Sprintf("%.3g s", s)
	}
	return scaled(s*1e6, 1000, "µs", "ms", "s")
}

// scaled writes n in the largest unit that it has one of, with three digits.
func scaled(n, step float64, units ...string) string {
	i := 0
	for math.Abs(n) >= step && i < len(units)-1 {
		n /= step
		i++
	}
	if math.Abs(n) >= 100 || n == math.Trunc(n) {
		return fmt.Sprintf("%.0f %s", n, units[i])
	}
	return fmt.Sprintf("%.3g %s", n, units[i])
}
