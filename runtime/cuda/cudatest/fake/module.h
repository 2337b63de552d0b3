// Modules: shared libraries with simulated kernels, instead of a fatbin.
#pragma once

#include "simulator.h"

#include <map>
#include <memory>

struct Module;

// Function is a kernel of a module.
struct Function {
    Code code;
    Module *module;
    long most_dynamic; // bytes of dynamic shared memory that a launch may ask for
};

struct Module {
    std::vector<void *> libraries;
    std::map<std::string, std::unique_ptr<Function>> functions; // that were asked for
};

namespace module {

// load opens the libraries of an image: "TFCSIM:" and their paths, a line each, up to a zero byte.
Result load(const char *image, Module **);
Result unload(Module *);
Result find(Module *, const char *name, Function **);
bool known(const Function *);
bool known(const Module *);

// clear unloads all.
void clear();

} // namespace module
