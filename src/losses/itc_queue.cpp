#include "losses/itc_queue.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "core/archive.h"
#include "losses/archive_fields.h"

namespace tessera::losses {

namespace {

constexpr const char* kArchiveName = "itc_queue";

}  // namespace

ItcQueue::ItcQueue(std::int64_t size, std::int64_t width, c10::Device device,
                   const QueuePayloadShape& payload) {
  TORCH_CHECK(size >= 1 && width >= 1, "ItcQueue: size and width must be at least 1, got ", size, " and ",
              width);
  const auto numbers = at::TensorOptions(device).dtype(at::kFloat);
  const auto integers = at::TensorOptions(device).dtype(at::kLong);
  image_ = at::zeros({size, width}, numbers);
  text_ = at::zeros({size, width}, numbers);
  image_ids_ = at::full({size}, -1, integers);
  step_ = at::full({size}, -1, integers);
  if (payload.empty()) return;
  TORCH_CHECK(payload.image_tokens >= 1 && payload.image_width >= 1 && payload.text_tokens >= 1,
              "ItcQueue: a payload's sizes must be at least 1, got ", payload.image_tokens, ", ",
              payload.image_width, " and ", payload.text_tokens);
  image_tokens_ = at::zeros({size, payload.image_tokens, payload.image_width}, numbers.dtype(at::kBFloat16));
  token_ids_ = at::zeros({size, payload.text_tokens}, integers);
}

std::vector<std::pair<std::string, at::Tensor>> ItcQueue::columns() const {
  std::vector<std::pair<std::string, at::Tensor>> all = {
      {"image", image_}, {"text", text_}, {"image_ids", image_ids_}, {"step", step_}};
  if (has_payload()) {
    all.emplace_back("image_tokens", image_tokens_);
    all.emplace_back("token_ids", token_ids_);
  }
  return all;
}

void ItcQueue::check(const QueueEntries& entries) const {
  const at::Tensor& image = entries.image;
  TORCH_CHECK(image.dim() == 2 && image.size(1) == image_.size(1), "ItcQueue: image must be [N, ",
              image_.size(1), "], got ", image.sizes());
  TORCH_CHECK(entries.text.sizes() == image.sizes(), "ItcQueue: text must be like image ", image.sizes(),
              ", got ", entries.text.sizes());
  const std::int64_t count = image.size(0);
  const at::Tensor& ids = entries.image_ids;
  TORCH_CHECK(ids.dim() == 1 && ids.size(0) == count && ids.scalar_type() == at::kLong,
              "ItcQueue: image_ids must be [", count, "] int64, got ", ids.sizes(), " ", ids.scalar_type());
  TORCH_CHECK(entries.image_tokens.defined() == has_payload() && entries.token_ids.defined() == has_payload(),
              "ItcQueue: image_tokens and token_ids must ", has_payload() ? "" : "not ", "be given");
  if (!has_payload()) return;
  const at::Tensor& tokens = entries.image_tokens;
  TORCH_CHECK(tokens.dim() == 3 && tokens.size(0) == count && tokens.size(1) == image_tokens_.size(1) &&
                  tokens.size(2) == image_tokens_.size(2) && tokens.is_floating_point(),
              "ItcQueue: image_tokens must be ", count, " of the queue's ", image_tokens_.sizes(), ", got ",
              tokens.sizes(), " ", tokens.scalar_type());
  const at::Tensor& text = entries.token_ids;
  TORCH_CHECK(text.dim() == 2 && text.size(0) == count && text.size(1) <= token_ids_.size(1) &&
                  text.scalar_type() == at::kLong,
              "ItcQueue: token_ids must be [", count, ", at most ", token_ids_.size(1), "] int64, got ",
              text.sizes(), " ", text.scalar_type());
}

QueueEntries ItcQueue::prepared(const QueueEntries& entries) const {
  check(entries);
  QueueEntries ready{entries.image.detach().to(at::kFloat), entries.text.detach().to(at::kFloat),
                     entries.image_ids};
  if (has_payload()) {
    // Rounded and padded here, before anything is gathered: a rank's longest text is its own matter.
    ready.image_tokens = entries.image_tokens.detach().to(at::kBFloat16);
    const std::int64_t missing = token_ids_.size(1) - entries.token_ids.size(1);
    ready.token_ids = missing == 0 ? entries.token_ids : at::constant_pad_nd(entries.token_ids, {0, missing});
  }
  return ready;
}

void ItcQueue::enqueue(const QueueEntries& entries, std::int64_t step) {
  TORCH_CHECK(step >= 0, "ItcQueue: step must not be negative, got ", step);
  const QueueEntries ready = prepared(entries);
  std::vector<at::Tensor> values = {ready.image, ready.text, ready.image_ids,
                                    at::full({ready.image.size(0)}, step, step_.options())};
  if (has_payload()) {
    values.push_back(ready.image_tokens);
    values.push_back(ready.token_ids);
  }
  write(values);
}

void ItcQueue::enqueue(const QueueEntries& entries, std::int64_t step, Collectives& collectives) {
  QueueEntries all = prepared(entries);
  for (at::Tensor* part : {&all.image, &all.text, &all.image_ids, &all.image_tokens, &all.token_ids}) {
    if (part->defined()) *part = collectives.all_gather(*part);
  }
  enqueue(all, step);
}

void ItcQueue::enqueue(const at::Tensor& image, const at::Tensor& text, const at::Tensor& image_ids,
                       std::int64_t step) {
  enqueue(QueueEntries{image, text, image_ids}, step);
}

void ItcQueue::enqueue(const at::Tensor& image, const at::Tensor& text, const at::Tensor& image_ids,
                       std::int64_t step, Collectives& collectives) {
  enqueue(QueueEntries{image, text, image_ids}, step, collectives);
}

void ItcQueue::write(const std::vector<at::Tensor>& entries) {
  const c10::NoGradGuard no_grad;
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
  return {image_, text_, image_ids_, filled.logical_and(fresh), filled, image_tokens_, token_ids_};
}

void ItcQueue::save(Archive& archive) const {
  for (const auto& [name, tensor] : columns()) {
    // A copy: the queue may move on before the archive is written.
    archive.put(field_name(kArchiveName, name), tensor.detach().clone());
  }
  archive.json()[kArchiveName] = {{"next", next_}, {"filled", filled_}};
}

void ItcQueue::load(const Archive& archive) {
  const c10::NoGradGuard no_grad;
  const std::int64_t next = integer_field(archive, kArchiveName, "next", 0, size() - 1);
  const std::int64_t filled = integer_field(archive, kArchiveName, "filled", 0, size());
  // Everything is checked before anything is overwritten.
  std::vector<at::Tensor> loaded;
  for (const auto& [name, tensor] : columns()) {
    loaded.push_back(
        tensor_field(archive, field_name(kArchiveName, name), tensor.sizes(), tensor.scalar_type()));
  }
  const auto rings = columns();
  for (std::size_t i = 0; i < rings.size(); ++i) {
    rings[i].second.copy_(loaded[i]);
  }
  next_ = next;
  filled_ = filled;
}

}  // namespace tessera::losses
