#include "losses/maxsim_loss.h"

#include <ATen/ATen.h>

#include "core/autocast.h"
#include "losses/contrastive.h"
#include "losses/maxsim.h"

namespace tessera::losses {

namespace {

void check_ids(const char* name, const at::Tensor& ids, std::int64_t count) {
  TORCH_CHECK(ids.dim() == 1 && ids.size(0) == count && ids.scalar_type() == at::kLong, "maxsim_loss: ", name,
              " must be [", count, "] int64, got ", ids.sizes(), " ", ids.scalar_type());
}

}  // namespace

LossValue maxsim_loss(const at::Tensor& patches, const at::Tensor& tokens, const at::Tensor& mask,
                      const at::Tensor& image_ids, const at::Tensor& text_ids, const at::Tensor& temperature,
                      Collectives& collectives) {
  TORCH_CHECK(patches.dim() == 3 && tokens.dim() == 3,
              "maxsim_loss: patches and tokens must be [B, N, D], got ", patches.sizes(), " and ",
              tokens.sizes());
  const std::int64_t images = patches.size(0), texts = tokens.size(0);
  check_ids("image_ids", image_ids, images);
  check_ids("text_ids", text_ids, texts);
  TORCH_CHECK(temperature.dim() == 0, "maxsim_loss: temperature must be 0-dim, got ", temperature.sizes());
  const NoAutocast no_autocast;

  at::Tensor image_to_text, text_to_image;
  if (collectives.size() == 1) {
    const MaxSimScores scores = maxsim(patches, tokens, mask);
    image_to_text = scores.image_to_text;
    text_to_image = scores.text_to_image;
  } else {
    image_to_text =
        maxsim(patches, collectives.all_gather(tokens), collectives.all_gather(mask)).image_to_text;
    text_to_image = maxsim(collectives.all_gather(patches), tokens, mask).text_to_image;
  }
  const at::Tensor inverse_temperature = temperature.to(image_to_text.scalar_type()).reciprocal();
  const at::Tensor of_images = cross_entropy_sum(image_to_text * inverse_temperature,
                                                 image_ids.unsqueeze(1) == collectives.all_gather(text_ids));
  const at::Tensor of_texts = cross_entropy_sum(text_to_image.t() * inverse_temperature,
                                                text_ids.unsqueeze(1) == collectives.all_gather(image_ids));
  LossValue value;
  value.sum = 0.5 * (of_images + of_texts * (static_cast<double>(images) / static_cast<double>(texts)));
  value.count = at::full({}, images, value.sum.options().requires_grad(false));
  return value;
}

}  // namespace tessera::losses
