#pragma once

#include <string>

namespace tessera {

// The programs under test.
inline const std::string kTrain = TESSERA_STAGE1_TRAIN;
inline const std::string kEval = TESSERA_STAGE1_EVAL;
inline const std::string kTessera = TESSERA_TOOL;

}  // namespace tessera
