#include "ops/cpu/vectors.h"

#include <ATen/Version.h>

#include <string>

namespace tessera::ops::cpu {
namespace {

InstructionSet best_instruction_set() {
#if defined(__x86_64__) && defined(__GNUC__)
  const std::string capability = at::get_cpu_capability();
  const bool has_avx512 = capability == "AVX512" && __builtin_cpu_supports("avx512f") != 0;
  if (has_avx512) return InstructionSet::kAvx512;
  const bool has_avx2 = (capability == "AVX512" || capability == "AVX2") &&
                        __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  if (has_avx2) return InstructionSet::kAvx2;
#endif
  return InstructionSet::kAny;
}

}  // namespace

bool multiplies_bfloat16() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool does =
      instruction_set() == InstructionSet::kAvx512 && __builtin_cpu_supports("avx512bf16") != 0;
  return does;
#else
  return false;
#endif
}

InstructionSet instruction_set() {
  static const InstructionSet best = best_instruction_set();
  return best;
}

}  // namespace tessera::ops::cpu
