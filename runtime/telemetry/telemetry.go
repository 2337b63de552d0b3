// Package telemetry shows how a run goes: a progress line on the terminal, a log of JSON lines, and the loss curve as
// an SVG picture.
package telemetry

import (
	"math"
	"strconv"
	"time"
)

// appendLoss writes a loss with four decimals, or in short form where that would be wide.
func appendLoss(b []byte, v float64) []byte {
	if math.Abs(v) >= 1000 {
		return strconv.AppendFloat(b, v, 'g', 4, 64)
	}
	return strconv.AppendFloat(b, v, 'f', 4, 64)
}

// appendCount writes a number in at most five characters: 950, 12.3k, 4.56M, 7.89G.
func appendCount(b []byte, v float64) []byte {
	switch {
	case v >= 1e15:
		return strconv.AppendFloat(b, v, 'e', 0, 64)
	case v >= 999.5e9:
		return append(appendDigits(b, v/1e12), 'T')
	case v >= 999.5e6:
		return append(appendDigits(b, v/1e9), 'G')
	case v >= 999.5e3:
		return append(appendDigits(b, v/1e6), 'M')
	case v >= 999.5:
		return append(appendDigits(b, v/1e3), 'k')
	}
	return strconv.AppendFloat(b, v, 'f', 0, 64)
}

// appendDigits writes three significant digits of a number of at least 1.
func appendDigits(b []byte, v float64) []byte {
	switch {
	case v >= 99.95:
		return strconv.AppendFloat(b, v, 'f', 0, 64)
	case v >= 9.995:
		return strconv.AppendFloat(b, v, 'f', 1, 64)
	}
	return strconv.AppendFloat(b, v, 'f', 2, 64)
}

// appendDuration writes the two largest units of a duration: 42s, 3m07s, 5h02m, 12d03h.
func appendDuration(b []byte, d time.Duration) []byte {
	s := int64(d.Round(time.Second) / time.Second)
	pair := func(b []byte, big int64, bigUnit byte, small int64, smallUnit byte) []byte {
		b = append(strconv.AppendInt(b, big, 10), bigUnit)
		if small < 10 {
			b = append(b, '0')
		}
		return append(strconv.AppendInt(b, small, 10), smallUnit)
	}
	switch {
	case s < 60:
		return append(strconv.AppendInt(b, max(s, 0), 10), 's')
	case s < 3600:
		return pair(b, s/60, 'm', s%60, 's')
	case s < 86400:
		return pair(b, s/3600, 'h', s/60%60, 'm')
	}
	return pair(b, s/86400, 'd', s/3600%24, 'h')
}
