// What the attention bodies share. For query i and key j of a head, with s = q_i·k_j:
//
//   score  x = scale*s, then softcap*tanh(x/softcap) where there is a cap, then less slope*|i-j| with ALiBi
//   p_ij   the softmax of row i over the keys that Mask allows, 0 for the others
//   o_i    sum over j of p_ij * drop_ij * v_j
//   lse_i  the natural logarithm of row i's sum of exponentiated scores
//
// A row without any allowed key gives o = 0 and lse = -infinity. Query head h reads key-value head h / (heads/kv_heads)
// (grouped-query attention, Ainslie et al. 2023). drop_ij is keep_factor(dropout) where the stream keeps element
// ((b*heads + h)*T + i)*T + j, 0 elsewhere. ALiBi: Press, Smith, Lewis 2021. Scores are kept times log2(e), so that
// exponentials are powers of two.
//
// Operands have a row for each token, sequence after sequence, and point at their first column: q, o, dq [rows, heads*head_dim],
// k, v, dk, dv [rows, kv_heads*head_dim], each with its distance from row to row; lse [rows, heads].
//
//   Config  T                 element type
//           Mask              of mask.cuh
//           batch, context    sequences, and their length, or the most where rows are known only at the call: it is rows/batch
//           heads, kv_heads, head_dim
//           q_stride, k_stride, v_stride, o_stride; for gradients do_stride, dq_stride, dk_stride, dv_stride
//           scale, softcap    0: no cap
//           alibi, slopes[heads]   only where alibi is set
//           dropout, stream   0: none, and entries have no parameters behind v (or stats); else (const State *, int micro, int layer),
//                             and sequences are as long as context
#pragma once
#include "device.cuh"
#include "mask.cuh"
#include "rng.cuh"

constexpr float ln_2 = 0.6931471805599453f;

// slope_of is C::slopes[head], without an array in memory: a tree of selects over constants.
template <class C, int From = 0, int To = C::heads> __device__ inline float slope_of(int head) {
    if constexpr (To - From == 1) {
        constexpr float slope = C::slopes[From];
        return slope;
    } else {
        constexpr int middle = (From + To) / 2;
        return head < middle ? slope_of<C, From, middle>(head) : slope_of<C, middle, To>(head);
    }
}

// Scores turns products into scores times log2(e).
template <class C> struct Scores {
    static constexpr float factor = C::scale * log2_e;
    static constexpr bool linear = C::softcap == 0 && !C::alibi && C::scale > 0; // score = factor*s, and grows with s

    float slope;

    __device__ explicit Scores(int head) {
        if constexpr (C::alibi) slope = slope_of<C>(head) * log2_e;
    }

    // capped is tanh(scale*s/softcap). In 16 bits it is 1 - 2/(e^2x + 1), whose absolute error is that of a float near 1.
    static __device__ float capped(float s) {
        constexpr float by = C::softcap == 0 ? 0 : C::scale / C::softcap;
        if constexpr (sizeof(typename C::T) == 4) return tanhf(s * by);
        return 1 - __fdividef(2.0f, exp2_fast(s * (2 * log2_e * by)) + 1);
    }

    // of gives the score, and in derivative that of the cap.
    __device__ float of(float s, int i, int j, float &derivative) const {
        float x = s * factor;
        derivative = 1;
        if constexpr (C::softcap != 0) {
            const float t = capped(s);
            x = C::softcap * log2_e * t;
            derivative = 1 - t * t;
        }
        if constexpr (C::alibi) x -= slope * static_cast<float>(i < j ? j - i : i - j);
        return x;
    }
    __device__ float of(float s, int i, int j) const {
        float derivative;
        return of(s, i, j, derivative);
    }
};

// Drops says which probabilities of a head dropout keeps.
template <class C, bool = (C::dropout > 0)> struct Drops {
    __device__ void enter(int, int) {}
};

template <class C> struct Drops<C, true> {
    static constexpr uint32_t threshold = drop_threshold(C::dropout);
    static constexpr bool aligned = C::context % 4 == 0; // rows of probabilities start at whole blocks of numbers
    // Whether block numbers have 32 bits.
    static constexpr bool small = static_cast<double>(C::batch) * C::heads * C::context * C::context < 17179869184.0;

    Key key;
    int positions;
    unsigned long long start; // of the head

    __device__ Drops(const State *state, int micro, int layer) : key(state, C::stream, micro, layer) {}

    // enter goes to a head: the number of it in all sequences.
    __device__ void enter(int head, int length) {
        positions = length;
        start = static_cast<unsigned long long>(head) * length * length;
    }

    __device__ bool keep(int i, int j) const { return key.keep(start + static_cast<unsigned long long>(i) * positions + j, threshold); }

    // nibble gives, as bits 0 to 3, whether keys j to j+3 of query i are kept; j is a multiple of 4, and the rows are aligned.
    __device__ uint32_t nibble(int i, int j) const {
        const uint32_t in_head = static_cast<uint32_t>(i) * (positions / 4) + j / 4;
        const Words b = key.block(small ? static_cast<uint32_t>(start / 4) + in_head : start / 4 + in_head);
        return (b.w[0] >= threshold ? 1u : 0u) | (b.w[1] >= threshold ? 2u : 0u) | (b.w[2] >= threshold ? 4u : 0u) | (b.w[3] >= threshold ? 8u : 0u);
    }
};

// lanes_for is the lanes that n accesses of a row keep busy: a power of two, at most a warp.
constexpr __host__ __device__ int lanes_for(int n) { return n > 16 ? 32 : n > 8 ? 16 : n > 4 ? 8 : n > 2 ? 4 : n > 1 ? 2 : 1; }

// A block's work: a unit (a head of a sequence) and one of its tasks.
struct Work {
    int unit, task;
};

// work_of gives block `index` its work. Units are taken in sections, small enough that their operands stay in the L2 cache;
// within a section the first task of every unit comes first, then the second: tasks are ordered from the longest on.
__device__ inline Work work_of(int index, int units, int tasks, int section) {
    const int s = index / (section * tasks), first = s * section;
    const int n = units - first < section ? units - first : section, r = index - first * tasks;
    return {first + r % n, r / n};
}

// section_of is a section's units, at most all of them, where one has so many bytes of operands.
constexpr __host__ __device__ int section_of(int units, long long bytes) {
    constexpr long long cache = 16 << 20;
    return units * bytes <= cache ? units : bytes > cache ? 1 : static_cast<int>(cache / bytes);
}

// attention_stats: what the gradient needs of each query: {lse * log2(e), do_i·o_i}, at [(b*heads + h)*padded + i], where padded is
// T rounded up to a multiple of padding. Rows that attend to nothing, and those that pad, get {infinity, 0}: their probabilities
// then come out as 0.
//
//   Config  T, batch, context, heads, head_dim, do_stride, o_stride, vec (elements of an access to do and o), padding
//   grid    x: ceil(batch*padded*heads * lanes_for(head_dim/vec) / threads)      threads: a multiple of 32
//   bytes   do, o and lse once
template <class C>
__device__ void attention_stats(int rows, float2 *stats, const typename C::T *d_o, const typename C::T *o, const float *lse) {
    constexpr int width = lanes_for(C::head_dim / C::vec); // lanes of a row
    const int positions = rows / C::batch, padded = round_up(positions, C::padding);
    const int item = (blockIdx.x * blockDim.x + threadIdx.x) / width, lane = threadIdx.x % width;
    const int h = item % C::heads, i = item / C::heads % padded, b = item / C::heads / padded;
    const bool valid = b < C::batch && i < positions;
    const size_t row = static_cast<size_t>(b) * positions + i;
    float sum = 0;
    if (valid) {
        for (int col = lane * C::vec; col < C::head_dim; col += width * C::vec) {
            float x[C::vec], y[C::vec];
            load(x, d_o + (row * C::do_stride + h * C::head_dim + col));
            load(y, o + (row * C::o_stride + h * C::head_dim + col));
#pragma unroll
            for (int e = 0; e < C::vec; e++) sum += x[e] * y[e];
        }
    }
    sum = warp_sum<width>(sum);
    if (lane != 0 || b >= C::batch) return;
    const float l = valid ? lse[row * C::heads + h] : -infinity;
    stats[(static_cast<size_t>(b) * C::heads + h) * padded + i] = l == -infinity ? make_float2(infinity, 0) : make_float2(l * log2_e, sum);
}
