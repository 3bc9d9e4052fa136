// Runs kernels of two instruction sets on the same random numbers and compares what they give.

#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "check/random.hpp"
#include "kernels/table.hpp"

namespace minicpm::check {

// A difference that is allowed: a share of the largest number that is compared and a share of the number itself.
struct Tolerance {
  double of_largest, of_each;
};

constexpr Tolerance kExact = {0, 0};
// Up to a thousand products of float32 summed in another order, or without a fused multiply-add: sqrt(1000) * 2^-24,
// doubled for chance, and what exponentials differ by.
constexpr Tolerance kSums = {5e-6, 5e-6};
// Such sums rounded to bfloat16 once or twice may land on the next number.
constexpr Tolerance kRounded = {5e-6, 1.0 / 64};

class Comparison {
 public:
  Comparison(const Kernels& tested, const Kernels& trusted) : tested_(tested), trusted_(trusted) {}

  const Kernels& trusted() const { return trusted_; }

  // `run(kernels)` gives the numbers to compare.
  template <class Run>
  void same(const char* what, std::initializer_list<int64_t> sizes, const Tolerance& tolerance, Run&& run) {
    compare(named(what, sizes), tolerance, run(tested_), run(trusted_));
  }

  // `condition(kernels)` is what each instruction set has to keep in its own way.
  template <class Condition>
  void holds(const char* what, std::initializer_list<int64_t> sizes, Condition&& condition) {
    count(named(what, sizes), condition(tested_) ? "" : "does not hold");
  }

  int comparisons() const { return comparisons_; }
  int failures() const { return failures_; }

 private:
  static std::string named(const char* what, std::initializer_list<int64_t> sizes);
  void compare(const std::string& name, const Tolerance& tolerance, const Numbers& found, const Numbers& wanted);
  void count(const std::string& name, const std::string& problem);  // no problem: it passed

  const Kernels &tested_, &trusted_;
  int comparisons_ = 0, failures_ = 0;
};

}  // namespace minicpm::check
