#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "golden_case.h"

namespace tessera::golden {

/// The cases of a folder (*.safetensors, not of its sub-folders), by name. A folder that is not there has
/// none.
std::vector<std::filesystem::path> find_cases(const std::filesystem::path& folder);

/// Runs a case through its op and compares. Outputs agree where |actual - expected| <= atol + rtol *
/// |expected| in every element; gradients where it is <= atol + rtol * (largest |expected| of that tensor),
/// since an element of a gradient may be the small difference of large terms. Comparison is in float64; a NaN
/// never agrees.
///
/// @return one complaint a tensor that disagrees, with the largest excess and where it is; empty where all
/// agree.
///         An op that throws and an unknown op are complaints too.
std::vector<std::string> check_case(const GoldenCase& golden, const GoldenOps& ops);

}  // namespace tessera::golden
