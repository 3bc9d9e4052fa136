// What is compared, by the files of `kernels`.

#pragma once

#include "check/comparison.hpp"

namespace minicpm::check {

void check_rows(Comparison& comparison);
void check_products(Comparison& comparison);
void check_attention(Comparison& comparison);
void check_sparse(Comparison& comparison);
void check_lightning(Comparison& comparison);
void check_latent(Comparison& comparison);
void check_neurons(Comparison& comparison);
void check_probes(Comparison& comparison);

}  // namespace minicpm::check
