#pragma once

#include <cstdint>
#include <string>

namespace tessera::model {
class Stage1Model;
}

namespace tessera::model {

/// "30,123,456".
std::string with_thousands(std::int64_t number);

/// A table by part (all and trainable parameters) with PEFT's summary line under it:
/// "trainable params: 30,123,456 || all params: 116,704,001 || trainable%: 25.8118".
std::string parameter_table(const Stage1Model& model);

}  // namespace tessera::model
