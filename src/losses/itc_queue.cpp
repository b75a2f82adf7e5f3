#include "losses/itc_queue.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/grad_mode.h>

#include <algorithm>

#include "losses/archive_fields.h"

namespace tessera::losses {

namespace {

constexpr const char* kName = "itc_queue";

}  // namespace

ItcQueue::ItcQueue(std::int64_t size, std::int64_t width, c10::Device device) {
  TORCH_CHECK(size >= 1 && width >= 1, "ItcQueue: size and width must be at least 1, got ", size, " and ",
              width);
  const auto numbers = at::TensorOptions(device).dtype(at::kFloat);
  const auto integers = at::TensorOptions(device).dtype(at::kLong);
  image_ = at::zeros({size, width}, numbers);
  text_ = at::zeros({size, width}, numbers);
  image_ids_ = at::full({size}, -1, integers);
  step_ = at::full({size}, -1, integers);
}

std::vector<std::pair<std::string, at::Tensor>> ItcQueue::columns() const {
  return {{"image", image_}, {"text", text_}, {"image_ids", image_ids_}, {"step", step_}};
}

void ItcQueue::enqueue(const at::Tensor& image, const at::Tensor& text, const at::Tensor& image_ids,
                       std::int64_t step) {
  TORCH_CHECK(image.dim() == 2 && image.size(1) == image_.size(1), "ItcQueue: image must be [N, ",
              image_.size(1), "], got ", image.sizes());
  TORCH_CHECK(text.sizes() == image.sizes(), "ItcQueue: text must be like image ", image.sizes(), ", got ",
              text.sizes());
  TORCH_CHECK(
      image_ids.dim() == 1 && image_ids.size(0) == image.size(0) && image_ids.scalar_type() == at::kLong,
      "ItcQueue: image_ids must be [", image.size(0), "] int64, got ", image_ids.sizes(), " ",
      image_ids.scalar_type());
  TORCH_CHECK(step >= 0, "ItcQueue: step must not be negative, got ", step);
  write({image, text, image_ids, at::full({image.size(0)}, step, step_.options())});
}

void ItcQueue::enqueue(const at::Tensor& image, const at::Tensor& text, const at::Tensor& image_ids,
                       std::int64_t step, Collectives& collectives) {
  enqueue(collectives.all_gather(image.detach()), collectives.all_gather(text.detach()),
          collectives.all_gather(image_ids), step);
}

void ItcQueue::write(const std::vector<at::Tensor>& entries) {
  const torch::NoGradGuard no_grad;
  const std::int64_t total = entries.front().size(0);
  const std::int64_t count = std::min(total, size());
  const std::int64_t until_end = std::min(count, size() - next_);
  const auto rings = columns();
  for (std::size_t i = 0; i < rings.size(); ++i) {
    const at::Tensor& ring = rings[i].second;
    const at::Tensor newest = entries[i].detach().narrow(0, total - count, count);
    ring.narrow(0, next_, until_end).copy_(newest.narrow(0, 0, until_end));
    ring.narrow(0, 0, count - until_end).copy_(newest.narrow(0, until_end, count - until_end));
  }
  next_ = (next_ + count) % size();
  filled_ = std::min(filled_ + count, size());
}

QueueView ItcQueue::view(std::int64_t current_step, const at::Tensor& age_allowed) const {
  TORCH_CHECK(age_allowed.dim() == 0 && age_allowed.scalar_type() == at::kLong,
              "ItcQueue: age_allowed must be 0-dim int64, got ", age_allowed.sizes(), " ",
              age_allowed.scalar_type());
  const at::Tensor filled = step_ >= 0;
  const at::Tensor fresh = (current_step - step_) <= age_allowed;
  return {image_, text_, image_ids_, filled.logical_and(fresh)};
}

void ItcQueue::save(Archive& archive) const {
  for (const auto& [name, tensor] : columns()) {
    // A copy: the queue may move on before the archive is written.
    archive.put(field_name(kName, name), tensor.detach().clone());
  }
  archive.json()[kName] = {{"next", next_}, {"filled", filled_}};
}

void ItcQueue::load(const Archive& archive) {
  const torch::NoGradGuard no_grad;
  const std::int64_t next = integer_field(archive, kName, "next", 0, size() - 1);
  const std::int64_t filled = integer_field(archive, kName, "filled", 0, size());
  // Everything is checked before anything is overwritten.
  std::vector<at::Tensor> loaded;
  for (const auto& [name, tensor] : columns()) {
    loaded.push_back(tensor_field(archive, field_name(kName, name), tensor.sizes(), tensor.scalar_type()));
  }
  const auto rings = columns();
  for (std::size_t i = 0; i < rings.size(); ++i) {
    rings[i].second.copy_(loaded[i]);
  }
  next_ = next;
  filled_ = filled;
}

}  // namespace tessera::losses
