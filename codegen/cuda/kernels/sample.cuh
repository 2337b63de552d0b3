// Sampling of tokens on the device: the rule, and the random numbers, of package runtime/lm (sample.go). A token of higher
// logit, or of lower id among equals, ranks first. In order: the logits are divided by the temperature; the top_k first
// tokens stay; of these, the fewest first ones that hold top_p of the probability (Holtzman et al., arXiv 1904.09751); one
// is drawn, by a number that depends on seed, sequence and position alone. Temperature 0 takes the first token.
//
// Probabilities are kept as whole numbers, of which the likeliest token has 2^44: their sums are exact in any order, so the
// result does not depend on how many threads take part. What is less than 2^-44 times as likely as the first token is
// never drawn. Options are read on the device: a captured graph serves all of them.
//
// Nothing is sorted but a few thousand candidates at most: those that can be among the top_k, or in the top_p, are known
// from a threshold. Where they are more, histograms over the ranks find the few around the token in question.
//
//   Config  T            type of the logits
//           vocab        columns of a row of logits, less than 2^20
//           stride       elements from row to row of the logits
//           vec          elements of an access to them: divides vocab and stride
//           parts, part  a row is cut into `parts` of `part` tokens, where sample_best runs before; part is a multiple of vec
#pragma once
#include "device.cuh"
#include "rng.cuh"

// SampleOptions are those of a row, as lm.PickOptions says. The offsets are a contract with the Go code that writes them.
struct SampleOptions {
    double temperature;      //  0  0: the first token
    double top_p;            //  8  0 or 1: no limit
    unsigned long long seed; // 16
    int top_k;               // 24  0: no limit
    int sequence;            // 28  the number of the sequence, from 0
    int tokens;              // 32  ids there are, 1 to vocab: those behind are padding, which is not looked at
    int unused;
};
static_assert(sizeof(SampleOptions) == 40, "the offsets of SampleOptions are known to the Go code");

// Whole is a probability, or a rank.
using Whole = unsigned long long;

constexpr int id_bits = 28;
constexpr uint32_t sample_stream = 0x5A3B1E00; // keeps the numbers drawn here apart from those of dropout

// rank_of orders tokens: less is earlier. NaN comes first, then +infinity.
__device__ inline Whole rank_of(float v, int id) {
    if (v != v) return 0;
    const uint32_t bits = __float_as_uint(v == 0 ? 0.0f : v); // 0 and -0 are equal
    const uint32_t falling = bits >> 31 ? bits : ~(bits | 0x80000000u);
    return static_cast<Whole>(falling) << id_bits | static_cast<uint32_t>(id);
}

__device__ inline int id_of(Whole rank) { return static_cast<int>(rank & ((1u << id_bits) - 1)); }

__device__ inline float logit_of(Whole rank) {
    const uint32_t falling = static_cast<uint32_t>(rank >> id_bits);
    return __uint_as_float(falling >> 31 ? falling : ~falling & 0x7fffffffu);
}

// first_is_finite says whether the first token's logit is finite: it is not where any logit is NaN or +infinity, or all are
// -infinity.
__device__ inline bool first_is_finite(Whole first) {
    const float v = logit_of(first);
    return v >= -3.402823466e38f && v <= 3.402823466e38f;
}

__device__ inline Whole least(Whole a, Whole b) { return a < b ? a : b; }

// best_of is the first in rank of tokens from `from` to `to`, exclusive, for a block of Threads threads.
template <class C, int Threads> __device__ inline Whole best_of(const typename C::T *logits, int from, int to) {
    __shared__ Whole shared[Threads / warp_size];
    Whole best = ~0ull;
    for (int i = from + static_cast<int>(threadIdx.x) * C::vec; i < to; i += Threads * C::vec) {
        float v[C::vec];
        load(v, logits + i);
#pragma unroll
        for (int e = 0; e < C::vec; e++)
            if (i + e < to) best = least(best, rank_of(v[e], i + e));
    }
#pragma unroll
    for (int m = 1; m < warp_size; m *= 2) best = least(best, shuffle_xor(best, m));
    if (lane_index() == 0) shared[warp_index()] = best;
    __syncthreads();
    for (int w = 0; w < Threads / warp_size; w++) best = least(best, shared[w]);
    return best;
}

// sample_best finds the first token of each part of each row: best [rows, parts].
//
//   Config    threads   of a block
//   grid      x: parts   y: rows     threads: threads     shared: static, 8*threads/32 bytes
//   bytes     the logits
template <class C> __device__ void sample_best(int rows, Whole *best, const typename C::T *logits, const SampleOptions *options) {
    const int row = blockIdx.y, from = blockIdx.x * C::part;
    if (row >= rows) return; // the whole block
    const Whole mine = best_of<C, C::threads>(logits + static_cast<size_t>(row) * C::stride, from, min(from + C::part, options[row].tokens));
    if (threadIdx.x == 0) best[static_cast<size_t>(row) * C::parts + blockIdx.x] = mine;
}

// Sampler is a block that samples one row.
template <class C> struct Sampler {
    using T = typename C::T;
    static constexpr int threads = C::threads, warps = threads / warp_size, items = 2 * threads;
    static constexpr int segment = round_up(ceil_div(C::vocab, items), 8 * warp_size); // tokens whose mass a warp sums up
    static_assert(C::vocab < 1 << 20 && segment <= items, "the vocabulary is too large: sums of masses must fit 64 bits, and a segment the items");

    // Found is the item of a sequence at which the sum over the sequence reaches a mark.
    struct Found {
        int index, before_count, count;
        Whole before, mass; // of the items before it, and its own
    };
    struct Shared {
        Whole mass[items]; // of the items of a sequence: segments, tokens, or bins of a histogram
        int count[items];  // of tokens in each
        Whole list[items]; // ranks of candidates
        Whole warp_mass[warps];
        int warp_count[warps];
        Found found;
        int listed;
    };

    Shared &shared;
    const T *logits;
    int tokens;
    float highest, steepness; // a token's weight is 2^((logit - highest) * steepness)

    // depth is the binary logarithm of the weight of a logit, at most 0.
    __device__ float depth(float v) const { return (v - highest) * steepness; }

    // weight is 2^44 * 2^depth, rounded down.
    static __device__ Whole weight(float depth) {
        const uint32_t bits = __float_as_uint(exp2_fast(depth)), down = 127 - (bits >> 23);
        return (static_cast<Whole>((bits & 0x7fffffu) | 0x800000u) << 21) >> (down < 63 ? down : 63);
    }

    // bin is where a weight counts in a coarse histogram: from 0 for the likeliest on; the last one's have no weight.
    static constexpr int last_bin = items - 1;
    static __device__ int bin(float depth) { return static_cast<int>(fminf(depth * (-last_bin / 45.0f), last_bin)); }

    // each_token calls f(id, logit, valid) for the tokens from `first` on that Vec-wide accesses of a warp hold.
    template <int Vec, class F> __device__ void each_token(int first, F f) const {
        const int i = first + lane_index() * Vec;
        float v[Vec] = {};
        if (i < tokens) load(v, logits + i);
#pragma unroll
        for (int e = 0; e < Vec; e++) f(i + e, v[e], i + e < tokens);
    }

    // sum_segments makes segments the items, and gives the likeliest bin that this thread saw.
    __device__ int sum_segments() {
        int likeliest = last_bin;
        for (int n = threadIdx.x; n < items; n += threads) shared.mass[n] = 0, shared.count[n] = 0;
        __syncthreads();
        for (int n = warp_index(); n * segment < tokens; n += warps) {
            Whole sum = 0;
#pragma unroll
            for (int at = 0; at < segment; at += warp_size * C::vec) {
                each_token<C::vec>(n * segment + at, [&](int, float v, bool valid) {
                    const float d = valid ? depth(v) : -infinity;
                    sum += weight(d);
                    likeliest = min(likeliest, bin(d));
                });
            }
#pragma unroll
            for (int m = 1; m < warp_size; m *= 2) sum += shuffle_xor(sum, m);
            if (lane_index() == 0) shared.mass[n] = sum;
        }
        __syncthreads();
        return likeliest;
    }

    // locate finds the first item at which the sum of counts, or of masses, reaches the mark, or all there is where that is less.
    // total gets the mass of all.
    __device__ Found locate(bool by_count, Whole mark, Whole &total) {
        const int i = 2 * threadIdx.x;
        const int count[2] = {shared.count[i], shared.count[i + 1]};
        const Whole mass[2] = {shared.mass[i], shared.mass[i + 1]};
        int counts = count[0] + count[1];
        Whole masses = mass[0] + mass[1];
#pragma unroll
        for (int by = 1; by < warp_size; by *= 2) {
            const int c = shuffle_up(counts, by);
            const Whole m = shuffle_up(masses, by);
            if (lane_index() >= by) counts += c, masses += m;
        }
        if (lane_index() == warp_size - 1) shared.warp_count[warp_index()] = counts, shared.warp_mass[warp_index()] = masses;
        __syncthreads();
        counts -= count[0] + count[1], masses -= mass[0] + mass[1]; // of the items before
        int all_counts = 0;
        Whole all = 0;
#pragma unroll 1
        for (int w = 0; w < warps; w++) {
            if (w < warp_index()) counts += shared.warp_count[w], masses += shared.warp_mass[w];
            all_counts += shared.warp_count[w], all += shared.warp_mass[w];
        }
        mark = least(mark, by_count ? all_counts : all);
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const Whole low = by_count ? counts : masses, high = low + (by_count ? count[e] : mass[e]);
            if (low < mark && mark <= high) shared.found = {i + e, counts, count[e], masses, mass[e]};
            counts += count[e], masses += mass[e];
        }
        __syncthreads();
        const Found found = shared.found;
        __syncthreads();
        total = all;
        return found;
    }

    // Filter picks tokens: those of some bins and of ranks that have a prefix, with enough weight.
    struct Filter {
        int from_bin, to_bin; // inclusive
        Whole enough;
        int shift;
        Whole prefix; // of the rank's bits from shift on

        __device__ bool picks(float depth, Whole rank) const {
            const int b = bin(depth);
            return from_bin <= b && b <= to_bin && rank >> shift == prefix && weight(depth) >= enough;
        }
    };
    static constexpr int all_bits = 32 + id_bits; // of a rank

    // gather lists the ranks of the tokens that a filter picks, and gives their number. Only so many of them as the list holds
    // are kept, in no order.
    __device__ int gather(Filter filter) {
        if (threadIdx.x == 0) shared.listed = 0;
        __syncthreads();
#pragma unroll 1
        for (int first = warp_index() * warp_size * C::vec; first < tokens; first += threads * C::vec) {
            each_token<C::vec>(first, [&](int id, float v, bool valid) {
                const Whole rank = rank_of(v, id);
                const bool picked = valid && filter.picks(depth(v), rank);
                const uint32_t all = votes(picked);
                if (all == 0) return;
                int at = 0;
                if (lane_index() == 0) at = atomicAdd(&shared.listed, __popc(all));
                at = shuffle(at, 0) + __popc(all & ((1u << lane_index()) - 1));
                if (picked && at < items) shared.list[at] = rank;
            });
        }
        __syncthreads();
        const int n = shared.listed;
        __syncthreads();
        return n;
    }

    // sort puts the first n ranks of the list in order (Batcher's bitonic network), and makes them the items.
    __device__ void sort(int n) {
        int size = 2;
        while (size < n) size *= 2;
        for (int i = threadIdx.x; i < items; i += threads)
            if (i >= n) shared.list[i] = ~0ull;
        __syncthreads();
#pragma unroll 1
        for (int width = 2; width <= size; width *= 2) {
#pragma unroll 1
            for (int by = width / 2; by > 0; by /= 2) {
                const int t = threadIdx.x, i = 2 * t - t % by; // pairs of a and b, which are by apart
                if (t < size / 2) {
                    const Whole a = shared.list[i], b = shared.list[i + by];
                    if ((a > b) == ((i & width) == 0)) shared.list[i] = b, shared.list[i + by] = a;
                }
                __syncthreads();
            }
        }
        for (int i = threadIdx.x; i < items; i += threads)
            shared.count[i] = i < n ? 1 : 0, shared.mass[i] = i < n ? weight(depth(logit_of(shared.list[i]))) : 0;
        __syncthreads();
    }

    static constexpr int digit = 10; // bits that a turn of narrow adds to the prefix
    static_assert(all_bits % digit == 0 && items >= 1 << digit, "an item for each digit");

    // tally makes the bins of the tokens that a filter picks the items, or the next digits of their ranks.
    __device__ void tally(Filter filter, bool by_bin) {
        for (int n = threadIdx.x; n < items; n += threads) shared.mass[n] = 0, shared.count[n] = 0;
        __syncthreads();
#pragma unroll 1
        for (int first = warp_index() * warp_size; first < tokens; first += threads) {
            each_token<1>(first, [&](int id, float v, bool valid) {
                const float d = depth(v);
                const Whole rank = rank_of(v, id);
                const bool picked = valid && filter.picks(d, rank);
                const uint32_t all = votes(picked);
                if (all == 0) return;
                const int to = by_bin ? bin(d) : static_cast<int>(rank >> (filter.shift - digit) & ((1 << digit) - 1));
                const int one = shuffle(to, __ffs(all) - 1);
                Whole w = picked ? weight(d) : 0;
                if (votes(picked && to != one)) {
                    if (picked) atomicAdd(&shared.count[to], 1), atomicAdd(&shared.mass[to], w);
                } else { // as where logits are equal: one sum for all lanes
#pragma unroll
                    for (int m = 1; m < warp_size; m *= 2) w += shuffle_xor(w, m);
                    if (lane_index() == 0) atomicAdd(&shared.count[one], __popc(all)), atomicAdd(&shared.mass[one], w);
                }
            });
        }
        __syncthreads();
    }

    // narrow lists few tokens, among them the one at which the sum over all tokens that the filter picks reaches the mark, and
    // takes off the mark what comes before them; passed is their mass. It counts over coarse bins, and then over ever finer ranges of ranks,
    // until a range is small enough to be sorted.
    __device__ void narrow(Filter filter, bool by_count, Whole &mark, Whole &passed) {
        Whole total;
        int left = items + 1;
        for (bool by_bin = true; left > items; by_bin = false) {
            tally(filter, by_bin);
            const Found f = locate(by_count, mark, total);
            if (by_bin) {
                filter.from_bin = filter.to_bin = f.index;
            } else {
                filter.prefix = filter.prefix << digit | f.index;
                filter.shift -= digit;
            }
            mark -= by_count ? f.before_count : f.before;
            passed += f.before;
            left = f.count;
        }
        sort(gather(filter));
    }

    // share is ceil(p * whole), at least 1, for p below 1.
    static __device__ Whole share(double p, Whole whole) {
        const Whole scaled = static_cast<Whole>(p * 0x1p53) << 11; // p * 2^64, of which the double has 53 bits
        const Whole high = __umul64hi(scaled, whole) + (scaled * whole != 0 ? 1 : 0);
        return high > 0 ? high : 1;
    }

    // draw is the token of the row under its options. u is the number drawn, of 2^64.
    __device__ int draw(const SampleOptions &o, Whole u) {
        const bool by_k = o.top_k > 0 && o.top_k < tokens, by_p = o.top_p > 0 && o.top_p < 1;
        const int likeliest = sum_segments();
        Whole mass, unused;
        if (!by_k && !by_p) {
            locate(false, 1, mass);
            Whole mark = __umul64hi(u, mass) + 1; // the sum is to be more than u*mass
            const Found s = locate(false, mark, mass);
            mark -= s.before;
            for (int i = threadIdx.x; i < items; i += threads) {
                const int id = s.index * segment + i;
                shared.mass[i] = i < segment && id < tokens ? weight(depth(to_float(logits[id]))) : 0;
            }
            __syncthreads();
            return s.index * segment + locate(false, mark, unused).index;
        }

        // Candidates: tokens that hold less than (1-p)/n each hold less than 1-p together, so none of them is needed to reach p;
        // and where k threads saw a token of some bin, or of one before it, there are k such tokens.
        Filter candidates = {0, last_bin, 1, all_bits, 0};
        if (by_k && likeliest < last_bin) atomicAdd(&shared.count[likeliest], 1);
        __syncthreads();
        const Found seen = locate(by_k, by_k ? o.top_k : 1, mass);
        if (by_k && seen.before_count + seen.count >= o.top_k) candidates.to_bin = seen.index;
        if (!by_k) candidates.enough = max(1ull, static_cast<Whole>((1 - o.top_p) / tokens * static_cast<double>(mass) * 0.999));
        const int n = gather(candidates);
        if (n <= items) sort(n);

        // The marks in turn: top_k, top_p, the draw.
        int id = 0;
#pragma unroll 1
        for (int turn = by_k ? 0 : 1; turn < 3; turn++) {
            if (turn == 1 && !by_p) continue;
            Whole mark = turn == 0 ? o.top_k : turn == 1 ? share(o.top_p, mass) : __umul64hi(u, mass) + 1, passed = 0;
            if (n > items) narrow(candidates, turn == 0, mark, passed);
            const Found f = locate(turn == 0, mark, unused);
            mass = passed + f.before + f.mass;
            id = id_of(shared.list[f.index]);
        }
        return id;
    }
};

// sample draws the next token of each row.
//
//   token      gets the token, which the next decode step reads; -1 where a logit is NaN or +infinity, or all are -infinity
//   positions  of the tokens whose logits these are; gets where the new ones stand, which is one further
//   best            what sample_best found; not read where parts is 1
//
//   Config    threads   of a block: 512 or 1024
//   grid      x: rows     threads: threads     shared: static, 40*threads bytes and some
//   bytes     the logits once; with a temperature two or three times, from the cache
template <class C>
__device__ void sample(int rows, int *token, int *positions, const typename C::T *logits, const SampleOptions *options, const Whole *best) {
    using S = Sampler<C>;
    const int row = blockIdx.x;
    if (row >= rows) return; // the whole block
    logits += static_cast<size_t>(row) * C::stride;
    const SampleOptions o = options[row];
    const int position = positions[row] + 1;
    Whole first = ~0ull;
    if constexpr (C::parts == 1) {
        first = best_of<C, C::threads>(logits, 0, o.tokens);
    } else {
        for (int p = lane_index(); p < C::parts; p += warp_size) first = least(first, best[static_cast<size_t>(row) * C::parts + p]);
#pragma unroll
        for (int m = 1; m < warp_size; m *= 2) first = least(first, shuffle_xor(first, m));
    }
    const bool finite = first_is_finite(first);
    int id = id_of(first);
    if (finite && o.temperature != 0) {
        __shared__ typename S::Shared shared;
        static_assert(sizeof(shared) <= 47 * 1024, "shared memory");
        State key_of{}; // the draws of a sequence are those of a run at a step
        key_of.seed = o.seed, key_of.step = o.sequence;
        const Words w = Key(&key_of, sample_stream, 0, 0).block(position);
        const Whole u = (static_cast<Whole>(w.w[0]) << 21 | w.w[1] >> 11) << 11; // 53 bits
        double steepness = 1.4426950408889634 / o.temperature; // kept where 0 and infinity stay what they are, times it
        steepness = steepness < 1e-30 ? 1e-30 : steepness > 1e30 ? 1e30 : steepness;
        id = S{shared, logits, o.tokens, logit_of(first), static_cast<float>(steepness)}.draw(o, u);
    }
    if (threadIdx.x == 0) {
        token[row] = finite ? id : -1;
        positions[row] = position;
    }
}
