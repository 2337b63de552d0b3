#include "control.h"

#include "device.h"
#include "memory.h"
#include "module.h"
#include "shared.h"
#include "stream.h"

#include <stdio.h>
#include <stdlib.h>

#include <sstream>
#include <vector>

Settings settings;

namespace control {

std::recursive_mutex mutex;

namespace {

struct Failure {
    long call; // of the function, counted from its first
    int result;
};

struct Function {
    long calls = 0;
    std::vector<Failure> failures;
};

std::map<std::string, Function> functions;
std::map<std::string, long> objects;
std::vector<std::string> lines, faults;
bool keeps_lines, quiet;

std::string join(const std::vector<std::string> &lines) {
    std::string s;
    for (const std::string &l : lines) s += l + "\n";
    return s;
}

long *setting(const std::string &name) {
    static const std::map<std::string, long *> all = {
        {"devices", &settings.devices}, {"major", &settings.major},           {"minor", &settings.minor},
        {"sms", &settings.sms},         {"driver", &settings.driver},         {"blaslt", &settings.blaslt},
        {"algorithms", &settings.algorithms}, {"workspace", &settings.workspace},
        {"bandwidth", &settings.bandwidth}, {"flops", &settings.flops},
        {"pace0", &settings.pace[0]},   {"pace1", &settings.pace[1]},         {"pace2", &settings.pace[2]},
        {"pace3", &settings.pace[3]},   {"pace4", &settings.pace[4]},         {"pace5", &settings.pace[5]},
        {"pace6", &settings.pace[6]},   {"pace7", &settings.pace[7]},
    };
    const auto i = all.find(name);
    return i == all.end() ? nullptr : i->second;
}

std::string leaks() {
    std::string s = memory::leaks();
    for (const auto &[kind, n] : objects)
        if (n != 0) s += format("%ld %s\n", n, kind.c_str());
    return s;
}

// obey_environment runs the commands in $TFC_FAKE, which have semicolons between them.
void obey_environment() {
    const char *s = getenv("TFC_FAKE");
    std::istringstream commands(s ? s : "");
    for (std::string c; std::getline(commands, c, ';');) {
        if (c.starts_with("reset")) continue;
        if (const std::string answer = run(c); answer.starts_with("error")) fprintf(stderr, "TFC_FAKE: %s\n", answer.c_str());
    }
}

void reset() {
    stream::clear();
    module::clear();
    memory::clear();
    device::clear();
    memory::set_total(size_t(4) << 30);
    settings = Settings{};
    functions.clear();
    objects.clear();
    lines.clear();
    faults.clear();
    keeps_lines = quiet = false;
    obey_environment();
}

} // namespace

int called(const char *name, const std::string &arguments) {
    Function &f = functions[name];
    f.calls++;
    int result = 0;
    for (const Failure &x : f.failures)
        if (x.call == f.calls) result = x.result;
    if (keeps_lines && result != 0) record(std::string(name) + " " + arguments + format(" = %d, as told", result));
    return result;
}

void record(const std::string &line) {
    if (keeps_lines) lines.push_back(line);
}

bool recording() { return keeps_lines; }

void report(const std::string &text) {
    faults.push_back(text);
    if (!quiet) fprintf(stderr, "tfc's simulator: %s\n", text.c_str());
}

void object(const char *kind, int by) { objects[kind] += by; }

std::string run(const std::string &command) {
    std::istringstream words(command);
    std::string verb, name;
    words >> verb;
    if (verb == "reset") {
        reset();
    } else if (verb == "calls") {
        return join(lines);
    } else if (verb == "faults") {
        return join(faults);
    } else if (verb == "leaks") {
        return leaks();
    } else if (verb == "record" || verb == "quiet") {
        words >> name;
        (verb == "record" ? keeps_lines : quiet) = name == "on";
        if (verb == "record") lines.clear();
    } else if (verb == "count") {
        words >> name;
        return format("%ld", functions[name].calls);
    } else if (verb == "set") {
        long value = 0;
        if (!(words >> name >> value)) return "error: set NAME NUMBER";
        if (name == "memory")
            memory::set_total(size_t(value));
        else if (long *s = setting(name))
            *s = value;
        else
            return "error: there is no setting " + name;
    } else if (verb == "fail") {
        long nth = 0;
        int result = 0;
        if (!(words >> name >> nth >> result) || nth < 1) return "error: fail FUNCTION NTH RESULT";
        Function &f = functions[name];
        f.failures.push_back({f.calls + nth, result});
    } else if (verb == "fault") {
        int result = 0;
        if (!(words >> result) || result < 1) return "error: fault RESULT";
        stream::fault = {Result(result), "as told"};
    } else {
        return "error: there is no command " + verb;
    }
    return "";
}

[[maybe_unused]] static const bool told = (obey_environment(), true);

} // namespace control

Call::Call(const char *name, const std::string &arguments) : lock(control::mutex) {
    if (control::recording()) line = arguments.empty() ? name : name + (" " + arguments);
    forced = Result(control::called(name, arguments));
}

Result Call::operator()(Result r) {
    if (control::recording()) control::record(r == success || r == not_ready ? line : line + format(" = %d", r));
    return r;
}

extern "C" const char *tfc_fake(const char *command) {
    static std::string answer;
    std::lock_guard lock(control::mutex);
    answer = control::run(command);
    return answer.c_str();
}

extern "C" int tfc_fake_called(const char *name, const char *arguments) {
    std::lock_guard lock(control::mutex);
    const int r = control::called(name, arguments);
    if (r == 0 && control::recording()) control::record(arguments[0] ? std::string(name) + " " + arguments : name);
    return r;
}

extern "C" void tfc_fake_object(const char *kind, int by) {
    std::lock_guard lock(control::mutex);
    control::object(kind, by);
}

extern "C" long tfc_fake_setting(const char *name) {
    std::lock_guard lock(control::mutex);
    const long *s = control::setting(name);
    return s ? *s : 0;
}
