// Which kernels this processor can run, and which are in use.

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "kernels/table.hpp"

#if defined(MINICPM_NEON) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace minicpm {

namespace portable {
extern const Kernels table;
}
#if defined(MINICPM_X86)
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
#endif
#if defined(MINICPM_NEON)
namespace neon {
extern const Kernels table;
}

namespace {

// Products of bytes came with ARMv8.2. Where the system cannot be asked, all its processors have them.
bool has_dot_products() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#else
  return true;
#endif
}

}  // namespace
#endif

int available(const Kernels** found, int room) {
  int count = 0;
  const auto add = [&](const Kernels& table) {
    if (count < room) found[count++] = &table;
  };
#if defined(MINICPM_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni"))
    add(avx512::table);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) add(avx2::table);
#endif
#if defined(MINICPM_NEON)
  if (has_dot_products()) add(neon::table);
#endif
  add(portable::table);
  return count;
}

namespace {

std::atomic<const Kernels*> chosen{nullptr};

const Kernels* best() {
  const Kernels* found[8];
  available(found, 8);
  return found[0];
}

}  // namespace

const Kernels& kernels() {
  const Kernels* table = chosen.load(std::memory_order_relaxed);
  if (!table) {
    table = best();
    chosen.store(table);
  }
  return *table;
}

bool choose_kernels(const char* name) {
  const Kernels* found[8];
  const int count = available(found, 8);
  for (int i = 0; i < count; i++)
    if (std::strcmp(found[i]->name, name) == 0) {
      chosen.store(found[i]);
      return true;
    }
  return false;
}

int64_t matmul_scratch(const Matrix& w) { return static_cast<int64_t>(w.inputs) * kPanel; }

}  // namespace minicpm
