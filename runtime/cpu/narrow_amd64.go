package cpu

import "golang.org/x/sys/cpu"

// narrowVariants lists what this machine can run of the narrow kernels, the widest first.
func narrowVariants() []*narrowVariant {
	list := []*narrowVariant{plainNarrow}
	x := &cpu.X86
	if x.HasAVX2 && x.HasFMA {
		list = append([]*narrowVariant{avx2Narrow}, list...)
		if x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL && x.HasAVX512VNNI {
			v := *avx512Narrow
			if !x.HasAVX512BF16 {
				v.rows[BF16], v.kernels[BF16] = avx2Narrow.rows[BF16], avx2Narrow.kernels[BF16]
			}
			list = append([]*narrowVariant{&v}, list...)
		}
	}
	return list
}

var avx2Narrow = &narrowVariant{
	name: "avx2",
	rows: [weightTypes][]int{{4, 2, 1}, {2, 1}, {2, 1}},
	kernels: [weightTypes][]narrowKernel{
		{narrowBF16x4AVX2, narrowBF16x2AVX2, narrowBF16x1AVX2},
		{narrowInt8x2AVX2, narrowInt8x1AVX2},
		{narrowInt4x2AVX2, narrowInt4x1AVX2},
	},
	quantise: quantiseAVX2, toBF16: toBF16AVX2, encode: encodeAVX2,
}

var avx512Narrow = &narrowVariant{
	name: "avx512",
	rows: [weightTypes][]int{{8, 4, 2, 1}, {8, 4, 2, 1}, {8, 4, 2, 1}},
	kernels: [weightTypes][]narrowKernel{
		{narrowBF16x8AVX512, narrowBF16x4AVX512, narrowBF16x2AVX512, narrowBF16x1AVX512},
		{narrowInt8x8AVX512, narrowInt8x4AVX512, narrowInt8x2AVX512, narrowInt8x1AVX512},
		{narrowInt4x8AVX512, narrowInt4x4AVX512, narrowInt4x2AVX512, narrowInt4x1AVX512},
	},
	quantise: quantiseAVX512, toBF16: toBF16AVX512, encode: encodeAVX512,
}

var avx512Attend = &attendSet{
	attendKernels{[]int{8, 4, 2, 1}, []attendKernel{attendF32x8AVX512, attendF32x4AVX512, attendF32x2AVX512, attendF32x1AVX512}},
	attendKernels{[]int{8, 4, 2, 1}, []attendKernel{attendBF16x8AVX512, attendBF16x4AVX512, attendBF16x2AVX512, attendBF16x1AVX512}},
}

var avx2Attend = &attendSet{
	attendKernels{[]int{4, 2, 1}, []attendKernel{attendF32x4AVX2, attendF32x2AVX2, attendF32x1AVX2}},
	attendKernels{[]int{2, 1}, []attendKernel{attendBF16x2AVX2, attendBF16x1AVX2}},
}
