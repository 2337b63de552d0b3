// How a test watches and steers the fakes: every call of their API is counted, and recorded where that is asked for; the
// n-th call of a function can be made to fail. Both libraries share this, and tests talk to it by tfc_fake (shared.h).
#pragma once

#include "fault.h"

#include <map>
#include <mutex>

// Settings are what the fake device is, and how the libraries behave.
struct Settings {
    long devices = 1;
    long major = 9, minor = 0; // compute capability
    long sms = 8;
    long driver = 13000;       // cuDriverGetVersion
    long blaslt = 130000;      // cublasLtGetVersion
    long algorithms = 3;       // that the heuristic of cuBLASLt knows
    long workspace = 4096;     // bytes that the first of them needs
    long pace[8] = {100, 100, 100, 100, 100, 100, 100, 100}; // microseconds that a product takes, by algorithm, beside
    long flops = 2000;         // floating-point operations a microsecond of products
    long bandwidth = 1000;     // bytes a microsecond of copies
};

extern Settings settings;

// Call is a call of the API in progress, which holds the lock of the fakes. Its function starts with
//
//     Call call(__func__, format("bytes=%zu", n));
//     if (call.forced) return call.forced;
//
// and returns by call(result), which records it.
class Call {
public:
    Call(const char *name, const std::string &arguments);
    Result operator()(Result);

    Result forced; // what a test wants it to return: success where nothing

private:
    std::lock_guard<std::recursive_mutex> lock;
    std::string line;
};

namespace control {

extern std::recursive_mutex mutex;

// called counts and records a call of a function, and returns what it is forced to return.
int called(const char *name, const std::string &arguments);

// recorded adds a line about something that happened.
void record(const std::string &line);

// recording is whether lines are kept.
bool recording();

// report keeps the text of a fault, and prints it to stderr unless told not to.
void report(const std::string &text);

// objects counts what has been created and not destroyed, by kind.
void object(const char *kind, int by);

// run obeys a command of tfc_fake and gives its answer.
std::string run(const std::string &command);

} // namespace control
