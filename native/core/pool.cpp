#include "core/pool.hpp"

#include <algorithm>
#include <cstdio>
#include <new>
#include <set>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace minicpm {

namespace {

// Looks before a waiting thread gives its processor away; about 100 microseconds where nothing else wants it.
constexpr int kPatience = 4000;
// Looks before a waiting thread lets another run in between. The other half may lie on the same processor.
constexpr int kBriefly = 256;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void pause_or_yield(int looks) {
  if (looks % kBriefly == kBriefly - 1)
    std::this_thread::yield();
  else
    pause();
}

int64_t process() {
#if defined(__unix__) || defined(__APPLE__)
  return getpid();
#else
  return 1;
#endif
}

void block_signals() {
#if defined(__unix__) || defined(__APPLE__)
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
#endif
}

void bind_to(int processor) {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);  // a refusal costs speed only
#else
  (void)processor;
#endif
}

#if defined(__linux__)
// The number in a file of the kernel's, or `otherwise`.
int number_in(const char* path, int otherwise) {
  FILE* file = fopen(path, "r");
  if (!file) return otherwise;
  int number = otherwise;
  if (fscanf(file, "%d", &number) != 1) number = otherwise;
  fclose(file);
  return number;
}

std::pair<int, int> core_of(int processor) {
  char path[128];
  const char* pattern = "/sys/devices/system/cpu/cpu%d/topology/%s";
  snprintf(path, sizeof path, pattern, processor, "physical_package_id");
  const int package = number_in(path, 0);
  snprintf(path, sizeof path, pattern, processor, "core_id");
  return {package, number_in(path, processor)};
}
#endif

}  // namespace

std::vector<int> physical_cores() {
  std::vector<int> found;
#if defined(__linux__)
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
    std::set<std::pair<int, int>> seen;
    for (int processor = 0; processor < CPU_SETSIZE; processor++)
      if (CPU_ISSET(processor, &allowed) && seen.insert(core_of(processor)).second) found.push_back(processor);
  }
#endif
  if (found.empty())
    for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); i++)
      found.push_back(static_cast<int>(i));
  return found;
}

void Team::barrier() {
  if (count > 1) pool_.arrive();
}

Pool::Pool(int threads, bool pin) : threads_(std::max(1, threads)), pin_(pin) {}

Pool::~Pool() {
  if (owner_ != process()) {  // the threads are another process's, and there is nothing to join
    for (auto& worker : workers_) worker.detach();
    return;
  }
  stopping_.store(true);
  {
    std::lock_guard<std::mutex> lock(sleeping_);
    wake_.notify_all();
  }
  for (auto& worker : workers_) worker.join();
}

void Pool::start() {
  if (owner_ == process()) return;
  // Handles of threads that did not survive a fork are dropped without being touched, and what they may have held
  // is made anew.
  if (owner_) {
    new (&workers_) std::vector<std::thread>();
    new (&sleeping_) std::mutex();
    new (&wake_) std::condition_variable();
    asleep_ = 0;
    arrived_.store(0);
  }
  owner_ = process();
  const uint32_t seen = number_.load();
  for (int index = 1; index < threads_; index++)
    workers_.emplace_back([this, index, seen] { work(index, seen); });
}

void Pool::run(Job job, void* argument) {
  std::lock_guard<std::mutex> one_caller(callers_);
  if (threads_ > 1) start();
  job_ = job;
  argument_ = argument;
  if (threads_ > 1) {
    number_.fetch_add(1, std::memory_order_seq_cst);
    std::lock_guard<std::mutex> lock(sleeping_);
    if (asleep_) wake_.notify_all();
  }
  Team team(*this, 0, threads_);
  job(team, argument);
  team.barrier();
}

void Pool::work(int index, uint32_t seen) {
  block_signals();
  if (pin_) {
    const auto cores = physical_cores();
    if (static_cast<int>(cores.size()) >= threads_) bind_to(cores[static_cast<size_t>(index)]);
  }
  for (;;) {
    int looks = 0;
    while (number_.load(std::memory_order_acquire) == seen && looks < kPatience && !stopping_.load())
      pause_or_yield(looks++);
    if (number_.load(std::memory_order_seq_cst) == seen) {
      std::unique_lock<std::mutex> lock(sleeping_);
      asleep_++;
      wake_.wait(lock, [&] { return number_.load() != seen || stopping_.load(); });
      asleep_--;
    }
    if (stopping_.load()) return;
    seen++;
    Team team(*this, index, threads_);
    job_(team, argument_);
    team.barrier();
  }
}

void Pool::arrive() {
  const uint32_t phase = phase_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    return;
  }
  for (int looks = 0; phase_.load(std::memory_order_acquire) == phase; looks++) pause_or_yield(looks);
}

}  // namespace minicpm
