#include "losses/siglip.h"

#include <ATen/ATen.h>

#include "core/autocast.h"
#include "losses/contrastive.h"

namespace tessera::losses {

SigmoidScale::SigmoidScale(double temperature, double minimum, double bias) {
  temperature_ = register_module("temperature", std::make_shared<Temperature>(temperature, minimum));
  bias_ = register_parameter("bias", at::full({}, bias, at::kFloat));
}

LossValue siglip_loss(const at::Tensor& image, const at::Tensor& text, const at::Tensor& image_ids,
                      const at::Tensor& temperature, const at::Tensor& bias, Collectives& collectives) {
  check_batch("siglip_loss", image, text, image_ids, temperature);
  TORCH_CHECK(bias.dim() == 0, "siglip_loss: bias must be 0-dim, got ", bias.sizes());
  const NoAutocast no_autocast;
  const at::Tensor images = in_full_precision(image);
  const at::Tensor texts = collectives.all_gather(in_full_precision(text));
  const at::Tensor same = image_ids.unsqueeze(1) == collectives.all_gather(image_ids);
  const at::Tensor logits =
      at::matmul(images, texts.t()) * temperature.to(images.scalar_type()).reciprocal() +
      bias.to(images.scalar_type());
  LossValue value;
  value.sum = -at::log_sigmoid(at::where(same, logits, -logits)).sum();
  value.count = at::full({}, image.size(0), value.sum.options().requires_grad(false));
  return value;
}

}  // namespace tessera::losses
