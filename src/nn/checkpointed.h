#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <functional>

namespace tessera::nn {

/// block(x), of which the backward pass keeps x alone and computes the rest again (Chen et al. 2016,
/// "Training deep nets with sublinear memory cost"). Also where x has no gradient and only some of the
/// block's parameters have one, as with adapters in a frozen encoder. Dropout draws the same again; gradients
/// are the same bit for bit. Autocast is as it was. Where nothing has a gradient the block simply runs.
///
/// @param block   computes the same from the same x and the parameters of `module`
/// @param module  holds every parameter that block reads
at::Tensor checkpointed(const at::Tensor& x, torch::nn::Module& module,
                        const std::function<at::Tensor(const at::Tensor&)>& block);

}  // namespace tessera::nn
