#pragma once

#include "core/device.h"

namespace tessera {
struct Config;
}
namespace tessera::language {
class Tokenizer;
}
namespace tessera::model {
class Stage1Model;
}

namespace tessera::inference {

/// A model, in evaluation mode on its device, as its checkpoint has it.
struct TrainedModel {
  model::Stage1Model& model;
  const language::Tokenizer& tokenizer;
  const Config& config;
  Compute compute;
};

}  // namespace tessera::inference
