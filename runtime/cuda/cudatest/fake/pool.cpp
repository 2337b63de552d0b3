#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace pool {
namespace {

// A seat holds a thread's next work.
struct Seat {
    pthread_t thread;
    std::atomic<bool> started = false;
    std::mutex mutex;
    std::condition_variable changed;
    const std::function<void()> *work = nullptr;

    void give(const std::function<void()> &f) {
        std::lock_guard lock(mutex);
        work = &f;
        changed.notify_all();
    }
    void wait() {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return work == nullptr; });
    }
    void serve() {
        std::unique_lock lock(mutex);
        for (;;) {
            changed.wait(lock, [&] { return work != nullptr; });
            lock.unlock();
            (*work)();
            lock.lock();
            work = nullptr;
            changed.notify_all();
        }
    }
};

Seat *const seats = new Seat[most]; // for good: the threads outlive whatever ends the process

int count() {
    int n = int(std::thread::hardware_concurrency());
    if (const char *s = getenv("TFC_FAKE_WORKERS")) n = atoi(s);
    return std::clamp(n, 1, most);
}

// start makes the threads. Signals that the process gets are for its own threads; those that a thread raises by a fault
// come here, on a stack of their own, because the one of a fiber may be full.
void start() {
    static std::once_flag once;
    std::call_once(once, [] {
        sigset_t all, before;
        sigfillset(&all);
        for (int s : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP}) sigdelset(&all, s);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        for (int i = 0; i < size(); i++) {
            std::thread([i] {
                stack_t stack{};
                stack.ss_size = 1 << 16;
                stack.ss_sp = malloc(stack.ss_size);
                sigaltstack(&stack, nullptr);
                seats[i].thread = pthread_self();
                seats[i].started = true;
                seats[i].serve();
            }).detach();
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    });
}

} // namespace

int size() {
    static const int n = count();
    return n;
}

void execute(const std::function<void()> &f) {
    start();
    seats[0].give(f);
    seats[0].wait();
}

void everywhere(const std::function<void(int)> &f) {
    std::function<void()> each[most];
    for (int i = 1; i < size(); i++) {
        each[i] = [&f, i] { f(i); };
        seats[i].give(each[i]);
    }
    f(0);
    for (int i = 1; i < size(); i++) seats[i].wait();
}

int index() {
    for (int i = 0; i < most; i++)
        if (seats[i].started && pthread_equal(seats[i].thread, pthread_self())) return i;
    return -1;
}

} // namespace pool
