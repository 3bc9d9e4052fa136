#define MC_ISA portable
#include "isa/kernels.inc"
