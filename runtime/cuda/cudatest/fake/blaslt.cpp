// The fake libcublasLt: the part of the API that makes matrix products. It computes in double (product.h), in the order
// of the fake libcuda's streams.
#include "product.h"
#include "shared.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <string>
#include <vector>

enum Status : int {
    ok = 0,
    not_initialized = 1,
    alloc_failed = 3,
    invalid_value = 7,
    arch_mismatch = 8,
    mapping_error = 11,
    execution_failed = 13,
    internal_error = 14,
    not_supported = 15,
    license_error = 16,
};

#define API extern "C" __attribute__((visibility("default"))) Status

// CALL records a call, and returns what a test wants it to.
#define CALL(arguments) \
    if (const int forced = tfc_fake_called(__func__, std::string(arguments).c_str())) return Status(forced)

namespace {

struct Handle {};

struct Preference {
    uint64_t workspace = 0;
    uint32_t alignment[4] = {256, 256, 256, 256}; // of A, B, C, D
};

// Operation is a cublasLtMatmulDesc_t.
struct Operation {
    int32_t compute, scale;
    int32_t transpose_a = 0, transpose_b = 0;
    int32_t pointer_mode = 0;
    uint32_t epilogue = 1;
    void *bias = nullptr, *aux = nullptr;
    int64_t aux_ld = 0;
    Type bias_type = Type::none, aux_type = Type::none;
    const float *scale_a = nullptr, *scale_b = nullptr;
};

// Algorithm is a cublasLtMatmulAlgo_t: 64 bytes that are the caller's to keep.
struct Algorithm {
    uint64_t magic, index;
    uint32_t alignment[4]; // in bytes, that it needs of A, B, C, D
    uint64_t unused[4];
};
static_assert(sizeof(Algorithm) == 64);
constexpr uint64_t magic = 0x6f676c6163666174;

struct Heuristic { // cublasLtMatmulHeuristicResult_t
    Algorithm algorithm;
    size_t workspace;
    Status state;
    float waves;
    int reserved[4];
};

// workspace is what an algorithm needs: the first one something, the others nothing.
size_t workspace(const Algorithm &a) { return a.index == 0 ? size_t(tfc_fake_setting("workspace")) : 0; }

// pace is the milliseconds that a product by an algorithm takes, beside those for its work.
double pace(const Algorithm &a) { return 1e-3 * double(tfc_fake_setting(("pace" + std::to_string(a.index % 8)).c_str())); }

// work is the milliseconds that so many multiply-adds, of two FLOPs each, take.
double work(double multiply_adds) { return 1e-3 * 2 * multiply_adds / double(tfc_fake_setting("flops")); }

bool valid(const Algorithm &a) { return a.magic == magic && a.index < uint64_t(tfc_fake_setting("algorithms")); }

constexpr uint32_t known_epilogues[] = {1, 2, 4, 6, 32, 36, 160, 164, 192, 208, 256, 512};

// eight_bits_fit checks what NVIDIA's documentation asks of operands in 8 bits on Ada and Hopper: A transposed, B not, m, n and k of whole 16
// bytes, as columns are; one of the two e4m3; C and D alike, bf16 or float; a bias of bf16 and no other epilogue.
Status eight_bits_fit(const Operation *o, const Matrix *a, const Matrix *b, const Matrix *c, const Matrix *d, const Product &p) {
    const int64_t capability = 10 * tfc_fake_setting("major") + tfc_fake_setting("minor");
    if (capability < 89) return not_supported;
    if (!eight_bits(a->type) || !eight_bits(b->type) || (a->type == Type::e5m2 && b->type == Type::e5m2)) return not_supported;
    if (!p.transpose_a || p.transpose_b || o->compute != 68) return not_supported;
    if (c->type != d->type || (d->type != Type::bf16 && d->type != Type::f32)) return not_supported;
    if (p.m() % 16 != 0 || p.n() % 16 != 0 || p.k() % 16 != 0) return not_supported;
    for (const Matrix *x : {a, b, c, d})
        if (x->ld * size_of(x->type) % 16 != 0) return not_supported;
    if (o->epilogue != 1 && (o->epilogue != add_bias || p.bias_type != Type::bf16)) return not_supported;
    return ok;
}

// describe makes a product of what a call of the API says, and checks it.
Status describe(const Operation *o, const Matrix *a, const Matrix *b, const Matrix *c, const Matrix *d, Product &p) {
    if (!o || !a || !b || !c || !d) return invalid_value;
    p = Product{};
    p.a = *a, p.b = *b, p.c = *c, p.d = *d;
    p.transpose_a = o->transpose_a != 0, p.transpose_b = o->transpose_b != 0;
    p.epilogue = o->epilogue;
    p.bias = o->bias, p.aux = o->aux, p.aux_ld = o->aux_ld;
    p.bias_type = o->bias_type == Type::none ? d->type : o->bias_type;
    p.aux_type = o->aux_type == Type::none ? d->type : o->aux_type;
    p.tf32 = o->compute == 77;
    const int64_t rows_a = p.transpose_a ? a->cols : a->rows, cols_b = p.transpose_b ? b->rows : b->cols;
    const int64_t k = p.transpose_b ? b->cols : b->rows;
    if (rows_a != d->rows || cols_b != d->cols || k != p.k() || c->rows != d->rows || c->cols != d->cols) return invalid_value;
    if (d->rows == 0 || d->cols == 0 || k == 0) return invalid_value;
    if (o->pointer_mode != 0 || o->scale != 0) return not_supported;
    if (o->compute != 68 && o->compute != 69 && o->compute != 77) return not_supported;
    if (p.tf32 && a->type != Type::f32) return not_supported;
    p.scale_a = o->scale_a, p.scale_b = o->scale_b;
    if ((reinterpret_cast<uintptr_t>(p.scale_a) | reinterpret_cast<uintptr_t>(p.scale_b)) % 16 != 0) return not_supported; // as was seen on an H200
    if (eight_bits(a->type) || eight_bits(b->type)) return eight_bits_fit(o, a, b, c, d, p);
    if (o->scale_a || o->scale_b) return not_supported;
    // A and B alike; C and D alike, of the same type or float.
    if (a->type != b->type || c->type != d->type || (d->type != a->type && d->type != Type::f32)) return not_supported;
    if (std::find(std::begin(known_epilogues), std::end(known_epilogues), o->epilogue) == std::end(known_epilogues)) return not_supported;
    if (o->epilogue & with_aux && (p.aux_ld % 8 != 0 || p.aux_ld < d->rows || p.aux_type != d->type)) return not_supported;
    if (p.bias_type != d->type && !(d->type == Type::f32 && p.bias_type == a->type)) return not_supported;
    return ok;
}

bool needs_bias(uint32_t epilogue) { return epilogue & (add_bias | bias_gradient | sum_a | sum_b); }

// outside says which operand of a product is not in the device's memory.
const char *outside(const Product &p) {
    const int64_t bias = (p.epilogue & sum_b ? p.n() : p.m()) * size_of(p.bias_type);
    const Matrix aux{p.aux_type, p.m(), p.n(), p.aux_ld};
    if (!tfc_fake_inside(p.A, size_t(p.a.bytes()))) return "A";
    if (!tfc_fake_inside(p.B, size_t(p.b.bytes()))) return "B";
    if (p.beta != 0 && !tfc_fake_inside(p.C, size_t(p.c.bytes()))) return "C";
    if (!tfc_fake_inside(p.D, size_t(p.d.bytes()))) return "D";
    if (needs_bias(p.epilogue) && !tfc_fake_inside(p.bias, size_t(bias))) return "the bias";
    if (p.epilogue & with_aux && !tfc_fake_inside(p.aux, size_t(aux.bytes()))) return "aux";
    if (p.scale_a && !tfc_fake_inside(p.scale_a, sizeof(float))) return "the factor of A";
    if (p.scale_b && !tfc_fake_inside(p.scale_b, sizeof(float))) return "the factor of B";
    if (p.workspace_bytes && !tfc_fake_inside(p.workspace, size_t(p.workspace_bytes))) return "the workspace";
    return nullptr;
}

const char *run(const void *data) {
    const Product &p = *static_cast<const Product *>(data);
    if (const char *what = outside(p)) {
        static char text[64];
        snprintf(text, sizeof text, "%s is not in device memory", what);
        return text;
    }
    multiply(p);
    tfc_fake_spend(p.ms);
    return nullptr;
}

std::string text(const Product &p) {
    char s[256];
    snprintf(s, sizeof s, "m=%ld n=%ld k=%ld trans=%c%c types=%d,%d epilogue=%u", long(p.m()), long(p.n()), long(p.k()), p.transpose_a ? 't' : 'n',
             p.transpose_b ? 't' : 'n', int(p.a.type), int(p.d.type), p.epilogue);
    return s;
}

// set copies an attribute, whose size must be right.
template <class T> Status set(T &to, const void *from, size_t bytes) {
    if (from == nullptr || bytes != sizeof to) return invalid_value;
    memcpy(&to, from, sizeof to);
    return ok;
}

} // namespace

API cublasLtCreate(Handle **h) {
    CALL("");
    if (h == nullptr) return invalid_value;
    *h = new Handle;
    tfc_fake_object("cuBLASLt handles", 1);
    return ok;
}

API cublasLtDestroy(Handle *h) {
    CALL("");
    if (h == nullptr) return not_initialized;
    delete h;
    tfc_fake_object("cuBLASLt handles", -1);
    return ok;
}

extern "C" __attribute__((visibility("default"))) size_t cublasLtGetVersion() { return size_t(tfc_fake_setting("blaslt")); }

namespace {
struct Name {
    Status status;
    const char *name, *text;
};
constexpr Name names[] = {
    {ok, "CUBLAS_STATUS_SUCCESS", "success"},
    {not_initialized, "CUBLAS_STATUS_NOT_INITIALIZED", "the library was not initialized"},
    {alloc_failed, "CUBLAS_STATUS_ALLOC_FAILED", "the resource allocation failed"},
    {invalid_value, "CUBLAS_STATUS_INVALID_VALUE", "an invalid value was used as an argument"},
    {arch_mismatch, "CUBLAS_STATUS_ARCH_MISMATCH", "an absent device architectural feature is required"},
    {mapping_error, "CUBLAS_STATUS_MAPPING_ERROR", "an access to GPU memory space failed"},
    {execution_failed, "CUBLAS_STATUS_EXECUTION_FAILED", "the function failed to launch on the GPU"},
    {internal_error, "CUBLAS_STATUS_INTERNAL_ERROR", "an internal operation failed"},
    {not_supported, "CUBLAS_STATUS_NOT_SUPPORTED", "the functionality is not supported"},
    {license_error, "CUBLAS_STATUS_LICENSE_ERROR", "the license is not valid"},
};
} // namespace

extern "C" __attribute__((visibility("default"))) const char *cublasLtGetStatusName(int status) {
    for (const Name &n : names)
        if (n.status == status) return n.name;
    return "CUBLAS_STATUS_UNKNOWN";
}

extern "C" __attribute__((visibility("default"))) const char *cublasLtGetStatusString(int status) {
    for (const Name &n : names)
        if (n.status == status) return n.text;
    return "unknown status";
}

API cublasLtMatmulDescCreate(Operation **o, int compute, int scale) {
    CALL("");
    if (o == nullptr) return invalid_value;
    *o = new Operation{compute, scale};
    tfc_fake_object("cuBLASLt operations", 1);
    return ok;
}

API cublasLtMatmulDescDestroy(Operation *o) {
    CALL("");
    delete o;
    tfc_fake_object("cuBLASLt operations", -1);
    return ok;
}

API cublasLtMatmulDescSetAttribute(Operation *o, int attribute, const void *from, size_t bytes) {
    CALL("attribute=" + std::to_string(attribute));
    if (o == nullptr) return invalid_value;
    switch (attribute) {
    case 0: return set(o->compute, from, bytes);
    case 1: return set(o->scale, from, bytes);
    case 2: return set(o->pointer_mode, from, bytes);
    case 3: return set(o->transpose_a, from, bytes);
    case 4: return set(o->transpose_b, from, bytes);
    case 7: return set(o->epilogue, from, bytes);
    case 8: return set(o->bias, from, bytes);
    case 11: return set(o->aux, from, bytes);
    case 12: return set(o->aux_ld, from, bytes);
    case 17: return set(o->scale_a, from, bytes);
    case 18: return set(o->scale_b, from, bytes);
    case 22: return set(o->aux_type, from, bytes);
    case 26: return set(o->bias_type, from, bytes);
    }
    return not_supported;
}

API cublasLtMatrixLayoutCreate(Matrix **x, int type, uint64_t rows, uint64_t cols, int64_t ld) {
    CALL("type=" + std::to_string(type) + " rows=" + std::to_string(rows) + " cols=" + std::to_string(cols) + " ld=" + std::to_string(ld));
    if (x == nullptr || ld < int64_t(rows)) return invalid_value;
    if (!known(Type(type))) return not_supported;
    *x = new Matrix{Type(type), int64_t(rows), int64_t(cols), ld};
    tfc_fake_object("cuBLASLt layouts", 1);
    return ok;
}

API cublasLtMatrixLayoutDestroy(Matrix *x) {
    CALL("");
    delete x;
    tfc_fake_object("cuBLASLt layouts", -1);
    return ok;
}

API cublasLtMatrixLayoutSetAttribute(Matrix *x, int attribute, const void *from, size_t bytes) {
    CALL("attribute=" + std::to_string(attribute));
    if (x == nullptr) return invalid_value;
    int32_t order = 0;
    switch (attribute) {
    case 0: return set(x->type, from, bytes);
    case 1:
        if (const Status s = set(order, from, bytes)) return s;
        return order == 0 ? ok : not_supported; // columns only
    case 2: return set(x->rows, from, bytes);
    case 3: return set(x->cols, from, bytes);
    case 4: return set(x->ld, from, bytes);
    }
    return not_supported;
}

API cublasLtMatmulPreferenceCreate(Preference **p) {
    CALL("");
    if (p == nullptr) return invalid_value;
    *p = new Preference;
    tfc_fake_object("cuBLASLt preferences", 1);
    return ok;
}

API cublasLtMatmulPreferenceDestroy(Preference *p) {
    CALL("");
    delete p;
    tfc_fake_object("cuBLASLt preferences", -1);
    return ok;
}

API cublasLtMatmulPreferenceSetAttribute(Preference *p, int attribute, const void *from, size_t bytes) {
    CALL("attribute=" + std::to_string(attribute));
    if (p == nullptr) return invalid_value;
    uint32_t ignored;
    float waves;
    switch (attribute) {
    case 0:
    case 3: return set(ignored, from, bytes); // search mode, reduction schemes
    case 1: return set(p->workspace, from, bytes);
    case 5:
    case 6:
    case 7:
    case 8: return set(p->alignment[attribute - 5], from, bytes);
    case 9: return set(waves, from, bytes);
    }
    return not_supported;
}

API cublasLtMatmulAlgoGetHeuristic(Handle *h, const Operation *o, const Matrix *a, const Matrix *b, const Matrix *c, const Matrix *d,
                                   const Preference *preference, int most, Heuristic *results, int *count) {
    Product p{};
    const Status s = describe(o, a, b, c, d, p);
    CALL(text(p) + " most=" + std::to_string(most));
    if (h == nullptr || preference == nullptr || results == nullptr || count == nullptr || most < 1) return invalid_value;
    *count = 0;
    if (s != ok) return s;
    for (uint64_t i = 0; i < uint64_t(tfc_fake_setting("algorithms")) && *count < most; i++) {
        Algorithm algorithm{magic, i, {}, {}};
        for (int x = 0; x < 4; x++) algorithm.alignment[x] = std::min(preference->alignment[x], 16u);
        if (workspace(algorithm) > preference->workspace) continue;
        results[(*count)++] = Heuristic{algorithm, workspace(algorithm), ok, 1, {}};
    }
    return *count ? ok : not_supported;
}

API cublasLtMatmulAlgoCheck(Handle *h, const Operation *o, const Matrix *a, const Matrix *b, const Matrix *c, const Matrix *d,
                            const Algorithm *algorithm, Heuristic *result) {
    Product p{};
    const Status s = describe(o, a, b, c, d, p);
    CALL(text(p));
    if (h == nullptr || algorithm == nullptr || result == nullptr) return invalid_value;
    if (s != ok) return s;
    if (!valid(*algorithm)) return not_supported;
    *result = Heuristic{*algorithm, workspace(*algorithm), ok, 1, {}};
    return ok;
}

API cublasLtMatmul(Handle *h, const Operation *o, const float *alpha, const void *A, const Matrix *a, const void *B, const Matrix *b, const float *beta,
                   const void *C, const Matrix *c, void *D, const Matrix *d, const Algorithm *algorithm, void *space, size_t space_bytes, void *stream) {
    Product p{};
    const Status s = describe(o, a, b, c, d, p);
    CALL(text(p) + (algorithm ? " algorithm=" + std::to_string(algorithm->index) : ""));
    if (h == nullptr) return not_initialized;
    if (s != ok) return s;
    if (alpha == nullptr || beta == nullptr || (C == D && *beta != 0 && c->ld != d->ld)) return invalid_value;
    p.ms = pace(algorithm ? *algorithm : Algorithm{}) + work(double(p.m()) * double(p.n()) * double(p.k()));
    p.alpha = *alpha, p.beta = *beta;
    p.A = A, p.B = B, p.C = C, p.D = D;
    if (p.A == nullptr || p.B == nullptr || p.D == nullptr || (p.beta != 0 && p.C == nullptr)) return invalid_value;
    if (needs_bias(p.epilogue) && p.bias == nullptr) return invalid_value;
    if (eight_bits(a->type))
        for (const void *x : {A, B, p.beta != 0 ? C : nullptr, const_cast<const void *>(D)})
            if (reinterpret_cast<uintptr_t>(x) % 16 != 0) return invalid_value;
    if (p.epilogue & with_aux && p.aux == nullptr) return invalid_value;
    if (algorithm) {
        if (!valid(*algorithm)) return invalid_value;
        const void *at[] = {A, B, p.beta != 0 ? C : nullptr, D};
        for (int x = 0; x < 4; x++)
            if (reinterpret_cast<uintptr_t>(at[x]) % std::max(algorithm->alignment[x], 1u) != 0) return invalid_value;
        p.workspace = space;
        p.workspace_bytes = int64_t(workspace(*algorithm));
        if (space_bytes < size_t(p.workspace_bytes)) return invalid_value;
    }
    return tfc_fake_enqueue(stream, "cublasLtMatmul", run, &p, sizeof p) == 0 ? ok : execution_failed;
}
