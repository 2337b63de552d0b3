#include "module.h"

#include "control.h"

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>

#include <set>
#include <sstream>

namespace module {
namespace {

std::set<Module *> modules;
std::set<const Function *> functions;

// tls finds how much thread-local memory a library has, which is its static shared memory.
void tls(void *library, Code &c) {
    if (dlinfo(library, RTLD_DI_TLS_MODID, &c.tls_module) != 0 || c.tls_module == 0) return;
    dl_iterate_phdr(
        [](dl_phdr_info *info, size_t, void *p) {
            Code &c = *static_cast<Code *>(p);
            if (info->dlpi_tls_modid != c.tls_module) return 0;
            for (int i = 0; i < info->dlpi_phnum; i++)
                if (info->dlpi_phdr[i].p_type == PT_TLS) c.tls_bytes = info->dlpi_phdr[i].p_memsz;
            return 1;
        },
        &c);
}

void close(Module *m) {
    for (const auto &[name, f] : m->functions) functions.erase(f.get());
    for (void *l : m->libraries) dlclose(l);
    modules.erase(m);
    delete m;
}

} // namespace

Result load(const char *image, Module **out) {
    const std::string magic = "TFCSIM:";
    if (image == nullptr) return invalid_value;
    for (size_t i = 0; i < magic.size(); i++) // a fatbin, or something shorter
        if (image[i] != magic[i]) return i == 0 && static_cast<unsigned char>(image[0]) == 0x50 ? no_binary_for_gpu : invalid_image;
    auto m = std::make_unique<Module>();
    std::istringstream paths(image + magic.size());
    for (std::string path; std::getline(paths, path);) {
        if (path.empty()) continue;
        void *l = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (l == nullptr) {
            control::report(dlerror());
            for (void *x : m->libraries) dlclose(x);
            return shared_object_init_failed;
        }
        m->libraries.push_back(l);
    }
    *out = m.release();
    modules.insert(*out);
    control::object("modules", 1);
    return success;
}

Result unload(Module *m) {
    if (!known(m)) return invalid_handle;
    close(m);
    control::object("modules", -1);
    return success;
}

Result find(Module *m, const char *name, Function **out) {
    if (!known(m)) return invalid_handle;
    if (const auto i = m->functions.find(name); i != m->functions.end()) {
        *out = i->second.get();
        return success;
    }
    for (void *l : m->libraries) {
        const void *entry = dlsym(l, (std::string(name) + "__entry").c_str());
        if (entry == nullptr) continue;
        auto f = std::make_unique<Function>(Function{{name, static_cast<const tfc_sim::Entry *>(entry), 0, 0, 0}, m, 0});
        tls(l, f->code);
        const int *entries = static_cast<const int *>(dlsym(l, "tfc_sim_entries"));
        if (entries && *entries == 1) f->code.static_shared = long(f->code.tls_bytes);
        f->most_dynamic = (48 << 10) - f->code.static_shared;
        functions.insert(f.get());
        *out = f.get();
        m->functions[name] = std::move(f);
        return success;
    }
    return not_found;
}

bool known(const Function *f) { return functions.contains(f); }
bool known(const Module *m) { return modules.contains(const_cast<Module *>(m)); }

void clear() {
    while (!modules.empty()) close(*modules.begin());
}

} // namespace module
