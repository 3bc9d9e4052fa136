// The compiled part of minicpm.ops: says what it was built from and for.
//
// Written against CPython's stable ABI, so one build serves every Python from 3.11 on and the
// build needs nothing but a C++ compiler, CMake and the Python headers.

#include <Python.h>

#include <string>

namespace {

// Instruction sets the compiler was allowed to use, as a space-separated list.
const char* const kInstructionSets =
#if defined(__x86_64__) || defined(_M_X64)
    "x86-64"
#if defined(__SSE4_2__)
    " sse4.2"
#endif
#if defined(__AVX__)
    " avx"
#endif
#if defined(__AVX2__)
    " avx2"
#endif
#if defined(__FMA__)
    " fma"
#endif
#if defined(__AVX512F__)
    " avx512f"
#endif
#elif defined(__aarch64__) || defined(_M_ARM64)
    "aarch64"
#if defined(__ARM_NEON)
    " neon"
#endif
#if defined(__ARM_FEATURE_DOTPROD)
    " dotprod"
#endif
#if defined(__ARM_FEATURE_SVE)
    " sve"
#endif
#else
    "generic"
#endif
    ;

// build() -> str: version, compiler, build type and instruction sets in one line.
PyObject* build(PyObject*, PyObject*) {
  const std::string text = std::string(MINICPM_VERSION) + ", " + MINICPM_COMPILER + ", " +
                           MINICPM_BUILD_TYPE + ", " + kInstructionSets;
  return PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size()));
}

PyMethodDef methods[] = {
    {"build", build, METH_NOARGS, "Version, compiler, build type and instruction sets in one line."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_native", "The compiled part of minicpm.ops.", 0, methods,
    nullptr,               nullptr,   nullptr,                             nullptr,
};

}  // namespace

PyMODINIT_FUNC PyInit__native() { return PyModuleDef_Init(&module); }
