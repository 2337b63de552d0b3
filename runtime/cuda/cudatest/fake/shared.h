// What the fake libcuda exports beyond the driver API: for tests, and for the fake cuBLASLt, which has a place in its
// streams.
#pragma once

#include <stddef.h>

#pragma GCC visibility push(default)

extern "C" {

// tfc_fake obeys a command and returns the answer, valid until the next: empty, or lines. An answer that starts with
// "error" says what is wrong with the command.
//
//     reset                      drops all work, memory, settings, counts, and obeys $TFC_FAKE again
//     set NAME NUMBER            memory (bytes), devices, major, minor, sms, driver, blaslt, algorithms, workspace,
//                                pace0 … pace7
//     fail FUNCTION NTH RESULT   the NTH call from now (1 is the next) returns RESULT
//     fault RESULT               the device is at fault: every call that needs it returns RESULT from now on
//     record on|off              keep a line for each call and each piece of work that runs
//     quiet on|off               do not print faults to stderr
//     calls, faults, leaks       the lines; leaks are what has been created and not destroyed
//     count FUNCTION             calls since the reset
const char *tfc_fake(const char *command);

// tfc_fake_called counts and records a call; what it returns other than 0, the call has to return.
int tfc_fake_called(const char *name, const char *arguments);

// tfc_fake_object counts objects for leaks.
void tfc_fake_object(const char *kind, int by);

long tfc_fake_setting(const char *name);

// tfc_fake_enqueue puts run(data) on a stream, or into the graph that it captures; data is copied. It returns a result
// of the driver. run may call tfc_fake_everywhere; it returns nullptr, or what is wrong: an invalid access.
int tfc_fake_enqueue(void *stream, const char *what, const char *(*run)(const void *data), const void *data, size_t bytes);

// tfc_fake_spend puts the device's clock forward. It is for run.
void tfc_fake_spend(double ms);

// tfc_fake_everywhere calls run(context, worker) on all of the device's threads at once.
void tfc_fake_everywhere(void (*run)(void *context, int worker), void *context);

// tfc_fake_inside tells whether device memory holds [p, p+bytes).
int tfc_fake_inside(const void *p, size_t bytes);
}

#pragma GCC visibility pop
