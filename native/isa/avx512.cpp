#define MC_ISA avx512
#include "isa/kernels.inc"
