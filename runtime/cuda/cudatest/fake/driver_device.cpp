// The driver API: initialisation, devices, contexts, errors.
#include "api.h"

#include "memory.h"
#include "simulator.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include <vector>

namespace {

constexpr long most_devices = 64;

// Context is a device's primary one; its address is the handle.
struct Context {
    int retained = 0;
};

bool initialized;
Context contexts[most_devices];
int resets;

// current is the thread's context, as long as nothing has been reset.
thread_local Context *current_context;
thread_local int current_since;

Context *current() { return current_since == resets ? current_context : nullptr; }

bool valid(int device) { return device >= 0 && device < settings.devices; }

struct Text {
    Result result;
    const char *name, *text;
};

constexpr Text texts[] = {
    {success, "CUDA_SUCCESS", "no error"},
    {invalid_value, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {out_of_memory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {not_initialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {no_device, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {invalid_device, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {invalid_image, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {invalid_context, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {no_binary_for_gpu, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {Result(222), "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
    {file_not_found, "CUDA_ERROR_FILE_NOT_FOUND", "file not found"},
    {shared_object_init_failed, "CUDA_ERROR_SHARED_OBJECT_INIT_FAILED", "shared object initialization failed"},
    {invalid_handle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {illegal_state, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {not_found, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {not_ready, "CUDA_ERROR_NOT_READY", "device not ready"},
    {illegal_address, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {launch_out_of_resources, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {Result(702), "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {misaligned_address, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {launch_failed, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {not_supported, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {Result(802), "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
    {Result(803), "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {capture_unsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {capture_invalidated, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {capture_merge, "CUDA_ERROR_STREAM_CAPTURE_MERGE", "operation would result in a merge of separate capture sequences"},
    {capture_unmatched, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not ended in the same stream as it began"},
    {capture_unjoined, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {capture_isolation, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
    {capture_implicit, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "operation would make the legacy stream depend on a capturing blocking stream"},
    {captured_event, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {capture_wrong_thread, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a thread-local capture sequence from another thread"},
    {Result(999), "CUDA_ERROR_UNKNOWN", "unknown error"},
};

const Text *find(int result) {
    for (const Text &t : texts)
        if (t.result == result) return &t;
    return nullptr;
}

// attribute is CU_DEVICE_ATTRIBUTE_…: what a device of the set compute capability has.
long attribute(int a) {
    switch (a) {
    case 1: return tfc_sim::max_threads;
    case 2:
    case 3: return 1024;
    case 4: return 64;
    case 5: return 0x7fffffff;
    case 6:
    case 7: return 65535;
    case 8: return 48 << 10; // shared memory of a block
    case 9: return 64 << 10;
    case 10: return 32; // lanes of a warp
    case 12: return 65536; // registers of a block
    case 13: return 1000000; // kHz
    case 16: return settings.sms;
    case 19: return 1; // maps host memory
    case 20: return 0; // compute mode: default
    case 31: return 1; // concurrent kernels
    case 32: return 0; // ECC
    case 33: return 1; // PCI bus
    case 36: return 1000000; // memory's kHz
    case 37: return 256; // its bits
    case 38: return 4 << 20; // L2
    case 39: return 2048; // threads of an SM
    case 40: return 2; // copy engines
    case 41: return 1; // one address space
    case 75: return settings.major;
    case 76: return settings.minor;
    case 78: return 1; // stream priorities
    case 81: return device::shared_optin() + (1 << 10); // shared memory of an SM
    case 82: return 65536;
    case 97: return device::shared_optin();
    case 106: return 32; // blocks of an SM
    case 115: return 0; // memory pools
    }
    return 0;
}

} // namespace

namespace device {

Result ready() {
    if (!initialized) return not_initialized;
    if (current() == nullptr || current()->retained == 0) return invalid_context;
    return stream::fault.result;
}

long shared_optin() {
    switch (10 * settings.major + settings.minor) {
    case 80:
    case 87: return 163 << 10;
    case 90:
    case 100:
    case 103: return 227 << 10;
    case 75: return 64 << 10;
    }
    return 99 << 10;
}

// clear leaves cuInit as it is, which a process calls once.
void clear() {
    for (Context &c : contexts) c = Context{};
    resets++;
}

} // namespace device

API cuInit(unsigned flags) {
    Call call(__func__, "");
    if (call.forced) return call.forced;
    if (flags != 0) return call(invalid_value);
    if (settings.devices == 0) return call(no_device);
    initialized = true;
    return call(success);
}

API cuDriverGetVersion(int *version) {
    Call call(__func__, "");
    if (call.forced) return call.forced;
    if (version == nullptr) return call(invalid_value);
    *version = int(settings.driver);
    return call(success);
}

// START is for calls that need cuInit, but no context.
#define START(...)                            \
    Call call(__func__, format(__VA_ARGS__)); \
    if (call.forced) return call.forced;      \
    if (!initialized) return call(not_initialized)

API cuDeviceGetCount(int *count) {
    START("%s", "");
    if (count == nullptr) return call(invalid_value);
    *count = int(settings.devices);
    return call(success);
}

API cuDeviceGet(int *device, int ordinal) {
    START("ordinal=%d", ordinal);
    if (device == nullptr) return call(invalid_value);
    if (!valid(ordinal)) return call(invalid_device);
    *device = ordinal;
    return call(success);
}

API cuDeviceGetName(char *name, int length, int device) {
    START("device=%d", device);
    if (name == nullptr || length < 1) return call(invalid_value);
    if (!valid(device)) return call(invalid_device);
    snprintf(name, size_t(length), "Simulated GPU %ld.%ld", settings.major, settings.minor);
    return call(success);
}

API cuDeviceGetPCIBusId(char *id, int length, int device) {
    START("device=%d", device);
    if (id == nullptr || length < 13) return call(invalid_value);
    if (!valid(device)) return call(invalid_device);
    snprintf(id, size_t(length), "0000:%02x:00.0", device + 1);
    return call(success);
}

API cuDeviceGetUuid_v2(void *uuid, int device) {
    START("device=%d", device);
    if (uuid == nullptr) return call(invalid_value);
    if (!valid(device)) return call(invalid_device);
    memset(uuid, device + 1, 16);
    return call(success);
}

API cuDeviceGetAttribute(int *value, int which, int device) {
    START("attribute=%d device=%d", which, device);
    if (value == nullptr || which < 1) return call(invalid_value);
    if (!valid(device)) return call(invalid_device);
    *value = int(attribute(which));
    return call(success);
}

API cuDeviceTotalMem_v2(size_t *bytes, int device) {
    START("device=%d", device);
    if (bytes == nullptr) return call(invalid_value);
    if (!valid(device)) return call(invalid_device);
    *bytes = memory::total();
    return call(success);
}

API cuDevicePrimaryCtxRetain(void **context, int device) {
    START("device=%d", device);
    if (context == nullptr) return call(invalid_value);
    if (!valid(device)) return call(invalid_device);
    contexts[device].retained++;
    control::object("contexts", 1);
    *context = &contexts[device];
    return call(success);
}

API cuDevicePrimaryCtxRelease_v2(int device) {
    START("device=%d", device);
    if (!valid(device)) return call(invalid_device);
    if (contexts[device].retained == 0) return call(invalid_context);
    contexts[device].retained--;
    control::object("contexts", -1);
    return call(success);
}

API cuCtxSetCurrent(void *context) {
    START("%s", "");
    Context *c = static_cast<Context *>(context);
    if (c && (c < contexts || c >= contexts + most_devices || c->retained == 0)) return call(invalid_context);
    current_context = c;
    current_since = resets;
    return call(success);
}

API cuCtxGetCurrent(void **context) {
    START("%s", "");
    if (context == nullptr) return call(invalid_value);
    *context = current();
    return call(success);
}

API cuCtxGetDevice(int *device) {
    READY("%s", "");
    if (device == nullptr) return call(invalid_value);
    *device = int(current() - contexts);
    return call(success);
}

API cuCtxSynchronize() {
    READY("%s", "");
    if (const Result r = stream::unsafe()) return call(r);
    return call(stream::wait_for_all());
}

API cuGetErrorName(int result, const char **name) {
    const Text *t = find(result);
    *name = t ? t->name : nullptr;
    return t ? success : invalid_value;
}

API cuGetErrorString(int result, const char **text) {
    const Text *t = find(result);
    *text = t ? t->text : nullptr;
    return t ? success : invalid_value;
}

// cuGetProcAddress_v2 prefers a function's newest version, as the driver does.
API cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    Call call(__func__, format("name=%s version=%d flags=%d", name, version, int(flags)));
    if (call.forced) return call.forced;
    *function = nullptr;
    Dl_info self;
    dladdr(reinterpret_cast<void *>(&cuGetErrorName), &self);
    void *library = dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    for (const char *suffix : {"_v3", "_v2", ""}) {
        *function = dlsym(library, (std::string(name) + suffix).c_str());
        if (*function) break;
    }
    dlclose(library);
    if (status) *status = *function ? 0 : 1;
    return call(*function ? success : not_found);
}
