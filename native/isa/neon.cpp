#define MC_ISA neon
#include "isa/kernels.inc"
