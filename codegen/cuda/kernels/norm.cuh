// LayerNorm (Ba, Kiros, Hinton, arXiv 1607.06450) and RMSNorm (Zhang, Sennrich, arXiv 1910.07467), with the sum before
// them, and their gradients.
//
// A group is `group` columns of a row that are normalised together: the whole row, or a head of a query or key. A team of
// `team` threads holds a group in registers, so that it is read once: `per` accesses a thread, spread over the columns so
// that each is a stretch of memory for the team. Up to 32 threads a team is part of a warp and a block has several; a
// larger team is a whole block.
//   Config  T (activations), rows, cols, group (cols where a row is one group), vec (divides group, strides and what
//           columns start at), team (a power of two), threads (a multiple of team; team where that is over 32), offset
//           (float, 0 for layernorm), o_stride of each operand
// group is any number; what a team cannot fill evenly costs idle lanes.
#pragma once
#include "device.cuh"

// Team says how a Config's threads share its groups.
template <class C> struct Team {
    static constexpr int size = C::team, count = C::threads / C::team; // threads a team, teams a block
    static constexpr int groups = C::cols / C::group;                  // a row
    static constexpr int per = ceil_div(C::group, C::team * C::vec);
    static constexpr bool even = C::group % (C::team * C::vec) == 0;
    static constexpr int warps = C::team > warp_size ? C::team / warp_size : 1;
    static_assert(C::cols % C::group == 0 && C::group % C::vec == 0, "accesses fill groups, groups fill rows");
    static_assert(C::threads % C::team == 0 && (C::team <= warp_size || C::threads == C::team), "a large team is a block");

    // column is where this thread's access i starts in the group; it has one if that is below group.
    static __device__ int column(int i) { return (i * C::team + threadIdx.x % C::team) * C::vec; }
    static __device__ bool has(int i) { return even || column(i) < C::group; }

    // sum gives all threads of a team the sums of N values, in a fixed order. shared has N*warps floats.
    template <int N> static __device__ void sum(float (&v)[N], float *shared) {
        constexpr int width = C::team < warp_size ? C::team : warp_size;
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = warp_sum<width>(v[k]);
        if constexpr (warps > 1) {
            if (lane_index() == 0) {
#pragma unroll
                for (int k = 0; k < N; k++) shared[k * warps + warp_index()] = v[k];
            }
            __syncthreads();
#pragma unroll
            for (int k = 0; k < N; k++) {
                v[k] = 0;
#pragma unroll 8
                for (int i = 0; i < warps; i++) v[k] += shared[k * warps + i];
            }
            __syncthreads();
        }
    }
};

// normalise does the work of the four forward kernels: Centred is LayerNorm, Add sums a and b first.
template <class C, bool Centred, bool Add, class T>
__device__ inline void normalise(int rows, T *sum, T *y, float *stats, const T *a, const T *b, const float *w, const float *bias) {
    using Team = ::Team<C>;
    constexpr int vec = C::vec, per = Team::per;
    __shared__ float shared[Team::warps];
    const int item = blockIdx.x * Team::count + threadIdx.x / C::team;
    const bool live = item < rows * Team::groups; // the others only take part in sums
    const int row = live ? item / Team::groups : 0, group = live ? item % Team::groups * C::group : 0;

    float x[per][vec], total[1] = {0};
#pragma unroll
    for (int i = 0; i < per; i++) {
        const int col = group + Team::column(i);
        if (live && Team::has(i)) {
            if constexpr (Add) {
                float u[vec];
                load(x[i], a + static_cast<size_t>(row) * C::a_stride + col);
                load(u, b + static_cast<size_t>(row) * C::b_stride + col);
#pragma unroll
                for (int j = 0; j < vec; j++) x[i][j] = to_float(from_float<T>(x[i][j] + u[j])); // what the gradient will read
                store(sum + static_cast<size_t>(row) * C::sum_stride + col, x[i]);
            } else {
                load(x[i], a + static_cast<size_t>(row) * C::x_stride + col);
            }
        } else {
#pragma unroll
            for (int j = 0; j < vec; j++) x[i][j] = 0;
        }
#pragma unroll
        for (int j = 0; j < vec; j++) total[0] += x[i][j];
    }
    float mean = 0;
    if constexpr (Centred) {
        Team::sum(total, shared);
        mean = total[0] * (1.0f / C::group);
    }
    float squares[1] = {0};
#pragma unroll
    for (int i = 0; i < per; i++) {
        if (Team::has(i)) {
#pragma unroll
            for (int j = 0; j < vec; j++) squares[0] += (x[i][j] - mean) * (x[i][j] - mean);
        }
    }
    Team::sum(squares, shared);
    const float rstd = 1.0f / sqrtf(squares[0] * (1.0f / C::group) + C::eps);
    if (!live) return;
    if (C::stats && threadIdx.x % C::team == 0) {
        if constexpr (Centred) {
            stats[2 * item] = mean;
            stats[2 * item + 1] = rstd;
        } else {
            stats[item] = rstd;
        }
    }
#pragma unroll
    for (int i = 0; i < per; i++) {
        if (Team::has(i)) {
            const int col = Team::column(i);
            float g[vec];
            load(g, w + col);
#pragma unroll
            for (int j = 0; j < vec; j++) x[i][j] = (x[i][j] - mean) * rstd * (C::offset + g[j]);
            if constexpr (Centred && C::bias) {
                load(g, bias + col);
#pragma unroll
                for (int j = 0; j < vec; j++) x[i][j] += g[j];
            }
            store(y + static_cast<size_t>(row) * C::y_stride + group + col, x[i]);
        }
    }
}

// layernorm: y = (x - mean) * rstd * w + b, rstd = 1/sqrt(variance + eps), for every group; stats [rows, groups, 2] gets
// mean and rstd. w and b are [group] float. y may be x.
//   Config  eps (float), bias (whether there is b), stats (whether to write them), y_stride, x_stride
//   grid    x: at least ceil(rows*groups / (threads/team))
//   bytes   x and y once; w and b come from the cache
template <class C>
__device__ void layernorm(int rows, typename C::T *y, float *stats, const typename C::T *x, const float *w, const float *b) {
    normalise<C, true, false, typename C::T>(rows, nullptr, y, stats, x, nullptr, w, b);
}

// rmsnorm: y = x * rstd * (offset + w), rstd = 1/sqrt(mean of x² + eps), for every group; stats [rows, groups] gets rstd.
// The rest is as for layernorm.
template <class C> __device__ void rmsnorm(int rows, typename C::T *y, float *stats, const typename C::T *x, const float *w) {
    normalise<C, false, false, typename C::T>(rows, nullptr, y, stats, x, nullptr, w, nullptr);
}

// add_layernorm: sum = a + b, rounded to T, and y = layernorm of it. sum may be a or b.
//   Config  as layernorm, with sum_stride, a_stride, b_stride instead of x_stride
//   bytes   a, b, sum and y once
template <class C>
__device__ void add_layernorm(int rows, typename C::T *sum, typename C::T *y, float *stats, const typename C::T *a, const typename C::T *b, const float *w,
                              const float *bias) {
    normalise<C, true, true, typename C::T>(rows, sum, y, stats, a, b, w, bias);
}

// add_rmsnorm: sum = a + b, rounded to T, and y = rmsnorm of it; as add_layernorm.
template <class C>
__device__ void add_rmsnorm(int rows, typename C::T *sum, typename C::T *y, float *stats, const typename C::T *a, const typename C::T *b, const float *w) {
    normalise<C, false, true, typename C::T>(rows, sum, y, stats, a, b, w, nullptr);
}

// widen converts an access as it lies in memory.
template <class T, int N> __device__ inline void widen(float (&out)[N], const Pack<T, N> &in) {
#pragma unroll
    for (int i = 0; i < N; i++) out[i] = to_float(in.v[i]);
}

// NormOperands is what a thread reads of its groups for their gradients: dy, x and the residual, of which stages-1 groups' accesses are on
// their way into shared memory while it works on one. They are this thread's alone, so only it waits for them. Without stages it
// reads a group as it comes to it, and has it in registers between the sums and dx; a large one it reads again, from the cache.
template <class C, class T> struct NormOperands {
    using Team = ::Team<C>;
    static constexpr int vec = C::vec, per = Team::per, count = C::residual ? 3 : 2; // count: operands
    static constexpr bool kept = C::stages == 0 && per * vec <= 16;
    static_assert(C::stages == 0 || (C::stages > 1 && sizeof(T) * vec == 16), "copies are of 16 bytes");

    const T *const dy, *const x, *const residual;
    T *const ring; // [stages, count, per, threads] accesses
    int slot, row, column; // of the group at hand
    Pack<T, vec> held[kept ? count : 1][kept ? per : 1];

    __device__ const T *dy_at(int i) const { return dy + static_cast<size_t>(row) * C::dy_stride + column + Team::column(i); }
    __device__ const T *x_at(int i) const { return x + static_cast<size_t>(row) * C::x_stride + column + Team::column(i); }
    __device__ const T *residual_at(int i) const { return residual + static_cast<size_t>(row) * C::residual_stride + column + Team::column(i); }
    __device__ T *place(int operand, int i) const { return ring + (((slot * count + operand) * per + i) * C::threads + threadIdx.x) * vec; }

    __device__ void move(int to_slot, int item) {
        slot = to_slot;
        row = item / Team::groups;
        column = item % Team::groups * C::group;
    }
    // send starts the copies of a group.
    __device__ void send() const {
#pragma unroll
        for (int i = 0; i < per; i++) {
            if (Team::has(i)) {
                copy_async(place(0, i), dy_at(i), true);
                copy_async(place(1, i), x_at(i), true);
                if constexpr (C::residual) copy_async(place(2, i), residual_at(i), true);
            }
        }
    }
    // hold reads all of the group at hand that stays in registers, together.
    __device__ void hold() {
        if constexpr (kept) {
#pragma unroll
            for (int i = 0; i < per; i++) {
                if (Team::has(i)) {
                    held[0][i] = *reinterpret_cast<const Pack<T, vec> *>(dy_at(i));
                    held[1][i] = *reinterpret_cast<const Pack<T, vec> *>(x_at(i));
                    if constexpr (C::residual) held[2][i] = *reinterpret_cast<const Pack<T, vec> *>(residual_at(i));
                }
            }
        }
    }
    // get is access i of an operand of the group at hand.
    template <int Operand> __device__ void get(float (&out)[vec], int i) const {
        if constexpr (C::stages > 0)
            load(out, place(Operand, i));
        else if constexpr (kept)
            widen(out, held[Operand][i]);
        else
            load(out, Operand == 0 ? dy_at(i) : Operand == 1 ? x_at(i) : residual_at(i));
    }
};

// normalise_grad does the work of both gradients. With h = (x-mean)*rstd and e = dy*(offset+w),
// dx = residual + rstd*(e - mean(e) - h*mean(e*h)), RMSNorm without mean(e); dw = sum of dy*h, db = sum of dy.
//
// Block p of parts takes every parts-th stretch of groups, so a thread meets the same columns in all of its groups: it sums
// their dw and db in registers, and has their w there where they are few; the block then adds up its teams in order and writes partial
// [parts, 1 or 2, group].
template <class C, bool Centred, class T>
__device__ inline void normalise_grad(int rows, T *dx, float *partial, const T *dy, const T *x, const float *w, const float *stats, const T *residual) {
    using Team = ::Team<C>;
    constexpr int vec = C::vec, per = Team::per, numbers = Centred ? 2 : 1; // of stats, a group
    constexpr bool bias = Centred && C::bias;
    SHARED_DYNAMIC(ring);
    __shared__ float shared[2 * Team::warps];
    const int items = rows * Team::groups, step = C::parts * Team::count;

    constexpr bool few = per * vec <= 24;
    float dw[per][vec], db[bias ? per : 1][vec], scales[few ? per : 1][vec]; // scales: offset+w
    const auto read_scale = [&](float(&g)[vec], int i) {
        load(g, w + Team::column(i));
#pragma unroll
        for (int j = 0; j < vec; j++) g[j] += C::offset;
    };
#pragma unroll
    for (int i = 0; i < per; i++) {
#pragma unroll
        for (int j = 0; j < vec; j++) dw[i][j] = db[bias ? i : 0][j] = 0;
        if (few && Team::has(i)) read_scale(scales[few ? i : 0], i);
    }
    const auto scale = [&](float(&g)[vec], int i) {
        if constexpr (few) {
#pragma unroll
            for (int j = 0; j < vec; j++) g[j] = scales[i][j];
        } else {
            read_scale(g, i);
        }
    };
    NormOperands<C, T> at{dy, x, residual, reinterpret_cast<T *>(ring)};
    int item = blockIdx.x * Team::count + threadIdx.x / C::team, slot = 0;
    if constexpr (C::stages > 0) {
#pragma unroll 1
        for (int s = 0; s < C::stages - 1; s++) {
            at.move(s, item + s * step);
            if (item + s * step < items) at.send();
            copy_async_commit();
        }
    }
    float next[numbers] = {}; // of stats
    if (item < items) load(next, stats + numbers * item);
#pragma unroll 1
    for (int first = blockIdx.x * Team::count; first < items; first += step, item += step) {
        const bool live = item < items; // the others only take part in sums
        if constexpr (C::stages > 0) {
            copy_async_wait<C::stages - 2>();
            const int later = item + (C::stages - 1) * step;
            at.move(slot == 0 ? C::stages - 1 : slot - 1, later);
            if (later < items) at.send();
            copy_async_commit();
        }
        at.move(slot, live ? item : 0);
        if (live) at.hold();
        slot = slot == C::stages - 1 ? 0 : slot + 1;
        const float mean = Centred ? next[0] : 0, rstd = next[numbers - 1];
        if (item + step < items) load(next, stats + numbers * (item + step));
        const auto normalised = [&](float(&h)[vec], int i) {
            at.template get<1>(h, i);
#pragma unroll
            for (int j = 0; j < vec; j++) h[j] = (h[j] - mean) * rstd;
        };
        float sums[Centred ? 2 : 1] = {}; // of e*h, and of e
#pragma unroll
        for (int i = 0; i < per; i++) {
            if (live && Team::has(i)) {
                float d[vec], h[vec], g[vec];
                at.template get<0>(d, i);
                normalised(h, i);
                scale(g, i);
#pragma unroll
                for (int j = 0; j < vec; j++) {
                    const float e = d[j] * g[j];
                    sums[0] += e * h[j];
                    if constexpr (Centred) sums[1] += e;
                    dw[i][j] += d[j] * h[j];
                    if constexpr (bias) db[i][j] += d[j];
                }
            }
        }
        Team::sum(sums, shared);
        const float mean_eh = sums[0] * (1.0f / C::group);
        float mean_e = 0;
        if constexpr (Centred) mean_e = sums[1] * (1.0f / C::group);
        if (!live) continue;
#pragma unroll
        for (int i = 0; i < per; i++) {
            if (Team::has(i)) {
                float d[vec], h[vec], g[vec];
                at.template get<0>(d, i);
                normalised(h, i);
                scale(g, i);
#pragma unroll
                for (int j = 0; j < vec; j++) d[j] = rstd * (d[j] * g[j] - mean_e - h[j] * mean_eh);
                if constexpr (C::residual) {
                    at.template get<2>(g, i);
#pragma unroll
                    for (int j = 0; j < vec; j++) d[j] += g[j];
                }
                store(dx + static_cast<size_t>(at.row) * C::dx_stride + at.column + Team::column(i), d);
            }
        }
    }

    float *out = partial + static_cast<size_t>(blockIdx.x) * (bias ? 2 : 1) * C::group;
    if constexpr (Team::count == 1) {
#pragma unroll
        for (int i = 0; i < per; i++) {
            if (Team::has(i)) {
                store(out + Team::column(i), dw[i]);
                if constexpr (bias) store(out + C::group + Team::column(i), db[i]);
            }
        }
    } else {
        // Teams of a warp by shuffles, then one warp after another in shared memory: of element j of access i a stretch for the team's
        // threads, so that these meet different banks.
        constexpr int stretch = C::team + 1, all = per * vec * stretch;
        __shared__ float totals[(bias ? 2 : 1) * all];
        constexpr int warps = C::threads / warp_size;
#pragma unroll
        for (int i = 0; i < per; i++) {
#pragma unroll
            for (int j = 0; j < vec; j++) {
#pragma unroll
                for (int m = C::team; m < warp_size; m *= 2) {
                    dw[i][j] += shuffle_xor(dw[i][j], m);
                    if constexpr (bias) db[i][j] += shuffle_xor(db[i][j], m);
                }
            }
        }
        for (int turn = 0; turn < warps; turn++) {
            if (warp_index() == turn && lane_index() < C::team) {
#pragma unroll
                for (int i = 0; i < per; i++) {
                    if (Team::has(i)) {
#pragma unroll
                        for (int j = 0; j < vec; j++) {
                            float *s = &totals[(i * vec + j) * stretch + lane_index()];
                            s[0] = turn == 0 ? dw[i][j] : s[0] + dw[i][j];
                            if constexpr (bias) s[all] = turn == 0 ? db[i][j] : s[all] + db[i][j];
                        }
                    }
                }
            }
            __syncthreads();
        }
        for (int c = threadIdx.x; c < C::group; c += C::threads) {
            const float *s = &totals[(c / (C::team * vec) * vec + c % vec) * stretch + c / vec % C::team];
            out[c] = s[0];
            if constexpr (bias) out[C::group + c] = s[all];
        }
    }
}

// layernorm_grad: dx = residual + the gradient of layernorm, from dy, x and the stats that layernorm wrote; the parts' sums
// of the gradients of w and b go to partial [parts, 1 or 2 (with bias), group] float, for add_partials (reduce.cuh). dx may
// be residual, dy or x.
//   Config  bias (whether there is b), residual (whether there is one), parts, stages (groups of a team in shared memory; 0: none),
//           dx_stride, dy_stride, x_stride, residual_stride
//   grid    x: parts, which fixes the order of the sums
//   shared  stages accesses of each operand and thread; some 2*group floats at most, for teams of up to 32 threads
//   bytes   dy, x, residual and dx once, partial
template <class C>
__device__ void layernorm_grad(int rows, typename C::T *dx, float *partial, const typename C::T *dy, const typename C::T *x, const float *w, const float *stats,
                               const typename C::T *residual) {
    normalise_grad<C, true, typename C::T>(rows, dx, partial, dy, x, w, stats, residual);
}

// rmsnorm_grad: as layernorm_grad, for rmsnorm; partial is [parts, 1, group].
template <class C>
__device__ void rmsnorm_grad(int rows, typename C::T *dx, float *partial, const typename C::T *dy, const typename C::T *x, const float *w, const float *stats,
                             const typename C::T *residual) {
    normalise_grad<C, false, typename C::T>(rows, dx, partial, dy, x, w, stats, residual);
}
