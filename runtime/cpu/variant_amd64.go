package cpu

//go:generate go -C asm run . -out ../vector_amd64.s -stubs ../vector_amd64.go -pkg cpu

import "golang.org/x/sys/cpu"

// variants lists what this machine can run, fastest first.
func variants() []*variant {
	all := []*variant{plain}
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA {
		all = append([]*variant{avx2}, all...)
	}
	if cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL && cpu.X86.HasAVX2 && cpu.X86.HasFMA {
		all = append([]*variant{avx512}, all...)
	}
	return all
}

var avx512 = &variant{
	name: "avx512", mr: 14, nr: 32,
	tileRows: []int{14, 8, 4, 2, 1},
	tiles:    []tileKernel{tile14x32AVX512, tile8x32AVX512, tile4x32AVX512, tile2x32AVX512, tile1x32AVX512},
	packA:    packer{14, transposeAAVX512, 14, 16, copyAAVX512},
	packB:    packer{32, transposeBAVX512, 16, 16, copyBAVX512},
	dotLanes: 16, dotRows: []int{4, 2, 1}, dots: []dotKernel{dot4AVX512, dot2AVX512, dot1AVX512},
	rows: rowsAVX512, attend: avx512Attend,
	stream: []streamKernel{stream4AVX512, stream2AVX512, stream1AVX512}, read: readAVX512,
}

var avx2 = &variant{
	name: "avx2", mr: 6, nr: 16,
	tileRows: []int{6, 4, 2, 1},
	tiles:    []tileKernel{tile6x16AVX2, tile4x16AVX2, tile2x16AVX2, tile1x16AVX2},
	packA:    packer{6, transposeAAVX2, 6, 8, copyAAVX2},
	packB:    packer{16, transposeBAVX2, 8, 8, copyBAVX2},
	dotLanes: 8, dotRows: []int{2, 1}, dots: []dotKernel{dot2AVX2, dot1AVX2},
	rows: rowsAVX2, attend: avx2Attend,
	stream: []streamKernel{stream4AVX2, stream2AVX2, stream1AVX2}, read: readAVX2,
}
