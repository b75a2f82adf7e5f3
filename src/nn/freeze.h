#pragma once

#include <torch/nn/module.h>

namespace tessera::nn {

/// Leaves every parameter of the tree without gradient.
void freeze(torch::nn::Module& module);

}  // namespace tessera::nn
