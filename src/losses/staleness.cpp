#include "losses/staleness.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/archive.h"
#include "core/autocast.h"
#include "core/error.h"
#include "losses/archive_fields.h"

namespace tessera::losses {

namespace {

constexpr const char* kProbeArchiveName = "itc_staleness";
constexpr std::int64_t kEveryAge = std::numeric_limits<std::int64_t>::max();
/// Probed ages within an entry's life, at least: with fewer, "the lower probed age counts" shuts a short
/// queue.
constexpr std::int64_t kProbedAges = 4;

/// Mean and root mean square over i ≠ j of query_i · (then_j - now_j) / τ: [2, A] float64.
at::Tensor shift_moments(const at::Tensor& query, const at::Tensor& now, const at::Tensor& then,
                         const at::Tensor& temperature) {
  const std::int64_t pairs = query.size(0);
  const at::Tensor moved = then.to(at::kDouble) - now.to(at::kDouble);
  const at::Tensor shift =
      at::matmul(query.to(at::kDouble), moved.transpose(1, 2)) / temperature.to(at::kDouble);
  const at::Tensor own = at::eye(pairs, shift.options().dtype(at::kBool));
  const at::Tensor of_others = shift.masked_fill(own, 0);
  const auto count = static_cast<double>(pairs * (pairs - 1));
  return at::stack({of_others.sum({1, 2}) / count, (of_others.square().sum({1, 2}) / count).sqrt()});
}

}  // namespace

bool AgeShift::within(double limit) const {
  const auto inside = [limit](double value) { return std::abs(value) <= limit; };
  return inside(mean_i2t) && inside(rms_i2t) && inside(mean_t2i) && inside(rms_t2i);
}

std::vector<AgeShift> shift_by_age(const at::Tensor& image_now, const at::Tensor& text_now,
                                   const at::Tensor& image_then, const at::Tensor& text_then,
                                   const std::vector<std::int64_t>& ages, const at::Tensor& temperature) {
  const auto count = static_cast<std::int64_t>(ages.size());
  TORCH_CHECK(image_now.dim() == 2 && image_now.size(0) >= 2 && text_now.sizes() == image_now.sizes(),
              "shift_by_age: expected image and text [N >= 2, D], got ", image_now.sizes(), " and ",
              text_now.sizes());
  TORCH_CHECK(image_then.dim() == 3 && image_then.size(0) == count &&
                  image_then.sizes().slice(1) == image_now.sizes() && text_then.sizes() == image_then.sizes(),
              "shift_by_age: expected ", count, " earlier embeddings of ", image_now.sizes(), ", got ",
              image_then.sizes(), " and ", text_then.sizes());
  const c10::NoGradGuard no_grad;
  const NoAutocast no_autocast;
  const at::Tensor moments = at::cat({shift_moments(image_now, text_now, text_then, temperature),
                                      shift_moments(text_now, image_now, image_then, temperature)})
                                 .cpu();
  const auto values = moments.accessor<double, 2>();
  std::vector<AgeShift> shifts;
  for (std::int64_t i = 0; i < count; ++i) {
    shifts.push_back(
        {ages[static_cast<std::size_t>(i)], values[0][i], values[1][i], values[2][i], values[3][i]});
  }
  return shifts;
}

StalenessProbe::StalenessProbe(const StalenessOptions& options, Encode encode)
    : options_(options), encode_(std::move(encode)) {
  TORCH_CHECK(options.queue.max_shift >= 0 && options.queue.probe_every >= 1 && options.queue.size >= 1 &&
                  options.global_batch >= 1,
              "StalenessProbe: expected max_shift >= 0 and probe_every, queue_size, global_batch >= 1");
  allowed_on_device_ = at::zeros({}, at::TensorOptions(options.device).dtype(at::kLong));
  set_allowed(options.queue.max_shift == 0 ? kEveryAge : 0);
}

std::int64_t StalenessProbe::queue_lifetime() const {
  return (options_.queue.size + options_.global_batch - 1) / options_.global_batch;
}

std::int64_t StalenessProbe::interval() const {
  return std::min(options_.queue.probe_every, std::max<std::int64_t>(1, queue_lifetime() / kProbedAges));
}

bool StalenessProbe::due(std::int64_t step) const {
  return history_.empty() || step >= history_.back().step + interval();
}

bool StalenessProbe::update(std::int64_t step, const at::Tensor& temperature) {
  if (!due(step)) {
    return false;
  }
  measure(step, temperature);
  return true;
}

void StalenessProbe::measure(std::int64_t step, const at::Tensor& temperature) {
  TORCH_CHECK(history_.empty() || step > history_.back().step, "StalenessProbe: step ", step,
              " is not after the last probe, at step ", history_.empty() ? -1 : history_.back().step);
  const c10::NoGradGuard no_grad;
  const auto [image, text] = encode_();
  if (image.dim() != 2 || image.size(0) < 2 || text.sizes() != image.sizes()) {
    fail(
        "staleness probe: expected at least 2 pairs (losses.itc.queue.probe_pairs), found image embeddings "
        "{} and text embeddings {}",
        c10::str(image.sizes()), c10::str(text.sizes()));
  }
  if (!history_.empty() && history_.back().image.sizes() != image.sizes()) {
    fail(
        "staleness probe: expected pairs like those of the run so far, {}, found {} "
        "(losses.itc.queue.probe_pairs, fusion.embedding_size)",
        c10::str(history_.back().image.sizes()), c10::str(image.sizes()));
  }
  // Copies, in case the encoder hands out the same memory each time.
  Snapshot now{step, image.detach().clone(), text.detach().clone()};
  shifts_ = measure_against_history(now, temperature);
  remember(std::move(now));
  if (options_.queue.max_shift > 0) {
    set_allowed(std::clamp(allowed_, greatest_age_within(kOpeningFraction * options_.queue.max_shift),
                           greatest_age_within(options_.queue.max_shift)));
  }
}

std::vector<AgeShift> StalenessProbe::measure_against_history(const Snapshot& now,
                                                              const at::Tensor& temperature) const {
  if (history_.empty()) {
    return {};
  }
  std::vector<at::Tensor> images, texts;
  std::vector<std::int64_t> ages;
  for (auto snapshot = history_.rbegin(); snapshot != history_.rend(); ++snapshot) {
    images.push_back(snapshot->image);
    texts.push_back(snapshot->text);
    ages.push_back(now.step - snapshot->step);
  }
  return shift_by_age(now.image, now.text, at::stack(images), at::stack(texts), ages, temperature);
}

void StalenessProbe::remember(Snapshot now) {
  history_.push_back(std::move(now));
  // The oldest goes as soon as the one after it will, at the next probe, be as old as any entry can be.
  while (history_.size() > 1 && history_.back().step + interval() - history_[1].step >= queue_lifetime()) {
    history_.pop_front();
  }
}

std::int64_t StalenessProbe::greatest_age_within(double limit) const {
  std::int64_t greatest = 0;
  for (const AgeShift& shift : shifts_) {
    if (!shift.within(limit)) {
      break;
    }
    greatest = shift.age;
  }
  return greatest;
}

void StalenessProbe::set_allowed(std::int64_t age) {
  allowed_ = age;
  // A tensor of its own each time: a view of the queue that is still in use keeps the age it was taken with.
  allowed_on_device_ = at::full_like(allowed_on_device_, age);
}

nlohmann::json StalenessProbe::metrics() const {
  nlohmann::json shifts = nlohmann::json::array();
  for (const AgeShift& shift : shifts_) {
    shifts.push_back({{"age", shift.age},
                      {"mean_i2t", shift.mean_i2t},
                      {"rms_i2t", shift.rms_i2t},
                      {"mean_t2i", shift.mean_t2i},
                      {"rms_t2i", shift.rms_t2i}});
  }
  return {{"queue_age_allowed", std::min(allowed_, queue_lifetime())},
          {"queue_shift_by_age", std::move(shifts)}};
}

void StalenessProbe::save(Archive& archive) const {
  archive.json()[kProbeArchiveName] = {
      {"probes", history_.size()}, {"shifts", shifts_.size()}, {"allowed_age", allowed_}};
  if (!history_.empty()) {
    std::vector<at::Tensor> images, texts;
    std::vector<std::int64_t> steps;
    for (const Snapshot& snapshot : history_) {
      images.push_back(snapshot.image);
      texts.push_back(snapshot.text);
      steps.push_back(snapshot.step);
    }
    archive.put(field_name(kProbeArchiveName, "image"), at::stack(images));
    archive.put(field_name(kProbeArchiveName, "text"), at::stack(texts));
    archive.put(field_name(kProbeArchiveName, "step"), at::tensor(steps, at::kLong));
  }
  if (!shifts_.empty()) {
    std::vector<double> values;
    std::vector<std::int64_t> ages;
    for (const AgeShift& shift : shifts_) {
      ages.push_back(shift.age);
      values.insert(values.end(), {shift.mean_i2t, shift.rms_i2t, shift.mean_t2i, shift.rms_t2i});
    }
    archive.put(field_name(kProbeArchiveName, "shift_age"), at::tensor(ages, at::kLong));
    archive.put(field_name(kProbeArchiveName, "shift"), at::tensor(values, at::kDouble).reshape({-1, 4}));
  }
}

void StalenessProbe::load(const Archive& archive) {
  constexpr std::int64_t most = std::int64_t{1} << 32;
  const std::int64_t probes = integer_field(archive, kProbeArchiveName, "probes", 0, most);
  const std::int64_t measured = integer_field(archive, kProbeArchiveName, "shifts", 0, most);
  const std::int64_t allowed = integer_field(archive, kProbeArchiveName, "allowed_age", 0, kEveryAge);

  std::deque<Snapshot> history;
  if (probes > 0) {
    const at::Tensor steps =
        tensor_field(archive, field_name(kProbeArchiveName, "step"), {probes}, at::kLong);
    const at::Tensor images =
        tensor_field(archive, field_name(kProbeArchiveName, "image"), {probes, -1, -1}, at::kFloat);
    const at::Tensor texts =
        tensor_field(archive, field_name(kProbeArchiveName, "text"), images.sizes(), at::kFloat);
    for (std::int64_t i = 0; i < probes; ++i) {
      const std::int64_t step = steps.data_ptr<std::int64_t>()[i];
      if (!history.empty() && step <= history.back().step) {
        fail("{}: tensor '{}': expected rising steps, found {} after {}", archive.source(),
             field_name(kProbeArchiveName, "step"), step, history.back().step);
      }
      history.push_back({step, images[i].to(options_.device).clone(), texts[i].to(options_.device).clone()});
    }
  }
  std::vector<AgeShift> shifts;
  if (measured > 0) {
    const at::Tensor ages =
        tensor_field(archive, field_name(kProbeArchiveName, "shift_age"), {measured}, at::kLong);
    const at::Tensor values =
        tensor_field(archive, field_name(kProbeArchiveName, "shift"), {measured, 4}, at::kDouble);
    const auto value = values.accessor<double, 2>();
    for (std::int64_t i = 0; i < measured; ++i) {
      shifts.push_back(
          {ages.data_ptr<std::int64_t>()[i], value[i][0], value[i][1], value[i][2], value[i][3]});
    }
  }
  history_ = std::move(history);
  shifts_ = std::move(shifts);
  // With the rule switched off, or on again, since the state was written, what it allowed says nothing.
  if (options_.queue.max_shift == 0) {
    set_allowed(kEveryAge);
  } else {
    set_allowed(allowed == kEveryAge ? 0 : allowed);
  }
}

}  // namespace tessera::losses
