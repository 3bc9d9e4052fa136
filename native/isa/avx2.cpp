#define MC_ISA avx2
#include "isa/kernels.inc"
