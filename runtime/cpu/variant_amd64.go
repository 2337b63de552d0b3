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
		if cpu.X86.HasAVX512BF16 && cpu.X86.HasAVX512BW {
			all = append([]*variant{avx512bf16}, all...)
			if cpu.X86.HasAMXTile && cpu.X86.HasAMXBF16 && allowAMX() {
				all = append([]*variant{amx}, all...)
			}
		}
	}
	return all
}

var amx = func() *variant {
	v := *avx512
	v.name, v.bf16 = "amx", tilingAMX
	return &v
}()

var avx512bf16 = func() *variant {
	v := *avx512
	v.name, v.bf16 = "avx512bf16", tilingBF16
	return &v
}()

var avx512 = &variant{
	name: "avx512", f32: tilingAVX512, bf16: tilingAVX512.rounded(),
	dotLanes: 16, dotRows: []int{4, 2, 1}, dots: []dotKernel{dot4AVX512, dot2AVX512, dot1AVX512},
	rows: rowsAVX512, attend: avx512Attend,
	stream: []streamKernel{stream4AVX512, stream2AVX512, stream1AVX512},
}

var avx2 = &variant{
	name: "avx2", f32: tilingAVX2, bf16: tilingAVX2.rounded(),
	dotLanes: 8, dotRows: []int{2, 1}, dots: []dotKernel{dot2AVX2, dot1AVX2},
	rows: rowsAVX2, attend: avx2Attend,
	stream: []streamKernel{stream4AVX2, stream2AVX2, stream1AVX2},
}

var tilingAVX512 = &tiling{
	mr: 14, nr: 32, grouping: oneByOne,
	tileRows: []int{14, 8, 4, 2, 1},
	tiles:    []tileKernel{tile14x32AVX512, tile8x32AVX512, tile4x32AVX512, tile2x32AVX512, tile1x32AVX512},
	blockK:   512,
	partRows: 56,
	packA:    packer{width: 14, grouping: oneByOne, transpose: transposeAAVX512, lanes: 14, block: 16, copy: copyAAVX512},
	packB:    packer{width: 32, grouping: oneByOne, transpose: transposeBAVX512, lanes: 16, block: 16, copy: copyBAVX512},
	widen:    widenAVX512,
}

// tilingBF16 is for the instructions of AVX512-BF16.
var tilingBF16 = &tiling{
	mr: 14, nr: 32, grouping: inPairs,
	tileRows: []int{14, 8, 4, 2, 1},
	tiles:    []tileKernel{tileBF1614x32, tileBF168x32, tileBF164x32, tileBF162x32, tileBF161x32},
	blockK:   512,
	partRows: 56,
	packA:    packer{width: 14, grouping: inPairs, transpose: transposeABF16, lanes: 14, block: 16, copy: copyABF16},
	packB:    packer{width: 32, grouping: inPairs, transpose: transposeBBF16, lanes: 16, block: 16, copy: copyBBF16},
}

// tilingAMX is for tile registers, of AMX-BF16: four sums, two of A and two of B.
var tilingAMX = &tiling{
	mr: 32, nr: 32, grouping: inTiles,
	tileRows: []int{32, 16},
	tiles:    []tileKernel{tileAMX, halfTileAMX},
	column:   columnAMX, blockK: 256, partRows: 256,
	packA: packer{width: 32, grouping: inTiles, rows: &rowPacker{convertRowsAMX, transposeRowsAMX}},
	packB: packer{width: 32, grouping: inTiles, transpose: transposeBBF16, lanes: 16, block: 16, copy: copyBBF16},
}

// tileAMX is columnAMX for one tile.
func tileAMX(k int, a, b *float32, ldb int, c *float32, ldc int, add bool) {
	columnAMX(1, k, a, b, ldb, c, ldc, add)
}

var tilingAVX2 = &tiling{
	mr: 6, nr: 16, grouping: oneByOne,
	tileRows: []int{6, 4, 2, 1},
	tiles:    []tileKernel{tile6x16AVX2, tile4x16AVX2, tile2x16AVX2, tile1x16AVX2},
	blockK:   512,
	partRows: 48,
	packA:    packer{width: 6, grouping: oneByOne, transpose: transposeAAVX2, lanes: 6, block: 8, copy: copyAAVX2, copyMany: copyPanelsAAVX2},
	packB:    packer{width: 16, grouping: oneByOne, transpose: transposeBAVX2, lanes: 8, block: 8, copy: copyBAVX2, copyMany: copyPanelsBAVX2},
	widen:    widenAVX2,
}
