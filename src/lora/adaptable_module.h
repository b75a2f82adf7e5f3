#pragma once

#include <torch/nn/module.h>

#include "lora/module_names.h"

namespace tessera::lora {

/// A model whose Linear modules adapters can be added to by name.
class AdaptableModule : public torch::nn::Module {
 public:
  /// What its modules are called in files: by their paths, unless the architecture says otherwise. Lives as
  /// long as the program.
  virtual const ModuleNames& module_names() const;
};

}  // namespace tessera::lora
