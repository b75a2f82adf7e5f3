#include "nn/feed_forward.h"

#include <ATen/ATen.h>

#include "ops/activations.h"
#include "ops/feed_forward.h"
#include "ops/norm.h"

namespace tessera::nn {

at::Tensor feed_forward(const at::Tensor& x, const FeedForwardModules& modules) {
  LinearImpl &up = *modules.up, &down = *modules.down;
  LinearImpl* gate = modules.gate;
  const bool adapted =
      up.has_active_adapter() || down.has_active_adapter() || (gate != nullptr && gate->has_active_adapter());
  if (!adapted) {
    return ops::feed_forward(x, {.norm_weight = modules.norm_weight,
                                 .norm_bias = modules.norm_bias,
                                 .eps = modules.eps,
                                 .gate = gate == nullptr ? at::Tensor() : gate->weight,
                                 .up = up.weight,
                                 .up_bias = up.bias,
                                 .down = down.weight,
                                 .down_bias = down.bias});
  }
  const at::Tensor normed = modules.norm_bias.defined()
                                ? at::layer_norm(x, modules.norm_weight.sizes(), modules.norm_weight,
                                                 modules.norm_bias, modules.eps)
                                : ops::rms_norm(x, modules.norm_weight, modules.eps);
  // One after the other: what dropout draws must not depend on the order in which a call's arguments are
  // computed.
  const at::Tensor gated = gate == nullptr ? at::Tensor() : gate->forward(normed);
  const at::Tensor raised = up.forward(normed);
  return x + down.forward(gate == nullptr ? at::gelu(raised) : ops::swiglu(gated, raised));
}

}  // namespace tessera::nn
