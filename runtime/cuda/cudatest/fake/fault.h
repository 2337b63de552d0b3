// Results of the driver API that the fake gives, and faults: errors of work that ran on the device.
#pragma once

#include <string>

enum Result : int {
    success = 0,
    invalid_value = 1,
    out_of_memory = 2,
    not_initialized = 3,
    no_device = 100,
    invalid_device = 101,
    invalid_image = 200,
    invalid_context = 201,
    no_binary_for_gpu = 209,
    file_not_found = 301,
    shared_object_init_failed = 303,
    invalid_handle = 400,
    illegal_state = 401,
    not_found = 500,
    not_ready = 600,
    illegal_address = 700,
    launch_out_of_resources = 701,
    misaligned_address = 716,
    launch_failed = 719,
    not_supported = 801,
    capture_unsupported = 900,
    capture_invalidated = 901,
    capture_merge = 902,
    capture_unmatched = 903,
    capture_unjoined = 904,
    capture_isolation = 905,
    capture_implicit = 906,
    captured_event = 907,
    capture_wrong_thread = 908,
};

// Fault is what went wrong on the device; result is success where nothing did.
struct Fault {
    Result result = success;
    std::string text;
};

std::string format(const char *text, ...) __attribute__((format(printf, 1, 2)));
