#include "check/comparison.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace minicpm::check {

std::string Comparison::named(const char* what, std::initializer_list<int64_t> sizes) {
  std::string name = what;
  for (const int64_t size : sizes) name += ' ' + std::to_string(size);
  return name;
}

void Comparison::compare(const std::string& name, const Tolerance& tolerance, const Numbers& found,
                         const Numbers& wanted) {
  if (found.size() != wanted.size()) return count(name, "gives another count of numbers");
  double largest = 0, worst = 0;
  size_t where = 0;
  for (const float x : wanted)
    if (std::isfinite(x)) largest = std::max(largest, std::fabs(static_cast<double>(x)));
  for (size_t i = 0; i < wanted.size(); i++) {
    if (found[i] == wanted[i] || (std::isnan(found[i]) && std::isnan(wanted[i]))) continue;
    const double allowed = tolerance.of_largest * largest + tolerance.of_each * std::fabs(wanted[i]);
    const double beyond = std::fabs(static_cast<double>(found[i]) - wanted[i]) - allowed;
    if (beyond <= worst) continue;
    worst = std::isnan(beyond) ? INFINITY : beyond;
    where = i;
  }
  if (worst == 0) return count(name, "");
  count(name, "gives " + std::to_string(found[where]) + " for " + std::to_string(wanted[where]) + " at " +
                  std::to_string(where) + " of " + std::to_string(wanted.size()));
}

void Comparison::count(const std::string& name, const std::string& problem) {
  comparisons_++;
  if (problem.empty()) return;
  failures_++;
  std::printf("%s: %s: %s\n", tested_.name, name.c_str(), problem.c_str());
}

}  // namespace minicpm::check
