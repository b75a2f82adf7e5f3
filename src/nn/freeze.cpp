#include "nn/freeze.h"

namespace tessera::nn {

void freeze(torch::nn::Module& module) {
  for (at::Tensor& parameter : module.parameters()) parameter.set_requires_grad(false);
}

}  // namespace tessera::nn
