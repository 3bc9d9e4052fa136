#include "ops/probe.hpp"

#include <atomic>
#include <chrono>
#include <cstring>

#include "core/arena.hpp"
#include "kernels/table.hpp"

namespace minicpm {

namespace {

constexpr int64_t kUnit = 256;       // bytes that probe_read takes at once
constexpr int64_t kSteps = 1 << 20;  // of one pass, a few milliseconds
std::atomic<int64_t> kept{0};            // where results go, so that they are computed

// Units per second of each pass of `work(team)`, which says how many units this thread did.
template <class Work>
std::vector<double> rates(Pool& pool, int passes, Work&& work) {
  std::vector<double> found;
  for (int pass = 0; pass < passes; pass++) {
    std::atomic<int64_t> units{0};
    std::chrono::steady_clock::time_point began, ended;
    pool.run([&](Team& team) {
      team.barrier();  // workers may have been asleep
      if (team.index == 0) began = std::chrono::steady_clock::now();
      units += work(team);
      team.barrier();
      if (team.index == 0) ended = std::chrono::steady_clock::now();
    });
    found.push_back(static_cast<double>(units) / std::chrono::duration<double>(ended - began).count());
  }
  return found;
}

}  // namespace

std::vector<double> read_bandwidth(Pool& pool, int64_t bytes, int passes) {
  const int64_t units = (bytes + kUnit - 1) / kUnit;
  Arena arena;
  uint8_t* data = arena.take(static_cast<size_t>(units * kUnit));
  pool.run([&](Team& team) {  // memory that nobody has written to is read from one page of zeros
    const auto range = team.share(units);
    std::memset(data + range.first * kUnit, 1, static_cast<size_t>((range.last - range.first) * kUnit));
  });
  return rates(pool, passes, [&](Team& team) {
    const auto range = team.share(units);
    const int64_t size = (range.last - range.first) * kUnit;
    kept += kernels().probe_read(data + range.first * kUnit, size);
    return size;
  });
}

std::vector<double> peak_float(Pool& pool, int passes) {
  const float numbers[2] = {0.9990234375f, 0.0009765625f};  // the sums tend to 1
  return rates(pool, passes, [&](Team&) {
    float out = 0;
    const int64_t done = kernels().probe_float(numbers, kSteps, &out);
    kept += static_cast<int64_t>(out);
    return done;
  });
}

std::vector<double> peak_int8(Pool& pool, int passes) {
  uint8_t codes[1024];
  int8_t numbers[1024];
  for (int i = 0; i < 1024; i++) codes[i] = static_cast<uint8_t>(i * 37 % 128);
  for (int i = 0; i < 1024; i++) numbers[i] = static_cast<int8_t>(i * 29 % 255 - 127);
  return rates(pool, passes, [&](Team&) {
    int32_t out = 0;
    const int64_t done = kernels().probe_int8(codes, numbers, kSteps, &out);
    kept += out;
    return done;
  });
}

}  // namespace minicpm
