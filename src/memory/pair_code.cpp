#include "memory/pair_code.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

#include "core/autocast.h"
#include "core/random.h"

namespace tessera::memory {

namespace {

constexpr double kEpsilon = 1e-5;

/// One side of a pair: standardised, with the null embedding where it is absent.
at::Tensor side(const at::Tensor& values, const at::Tensor& present, RunningMoments& moments,
                const at::Tensor& null_embedding, std::int64_t rows, const char* name) {
  const std::int64_t width = null_embedding.size(0);
  const at::Tensor absent = null_embedding.expand({rows, width});
  if (!values.defined()) {
    TORCH_CHECK(!present.defined(), "pair code: has_", name, " is given, but no ", name);
    return absent;
  }
  TORCH_CHECK(values.dim() == 2 && values.size(0) == rows && values.size(1) == width, "pair code: ", name,
              " [", rows, ", ", width, "] expected, got ", values.sizes());
  if (!present.defined()) return moments->standardise(values.detach());
  TORCH_CHECK(present.dim() == 1 && present.size(0) == rows && present.scalar_type() == at::kBool,
              "pair code: has_", name, " [", rows, "] bool expected, got ", present.sizes(), " ",
              present.scalar_type());
  // at::where selects: even a NaN in an absent row reaches neither the code nor a gradient.
  return at::where(present.unsqueeze(1), moments->standardise(values.detach()), absent);
}

}  // namespace

PairCodeImpl::PairCodeImpl(const PairCodeOptions& options) : options_(options) {
  TORCH_CHECK(options.code_size >= 2 && options.hidden_size >= 2,
              "pair code: code_size and hidden_size of at least 2 "
              "expected, got ",
              options.code_size, " and ", options.hidden_size);
  image_moments_ = register_module("image_moments", RunningMoments(options.image_size));
  text_moments_ = register_module("text_moments", RunningMoments(options.text_size));
  embedding_ = register_module(
      "embedding", torch::nn::Linear(options.image_size + options.text_size, options.hidden_size));
  null_image_ = register_parameter("null_image", at::zeros({options.image_size}));
  null_text_ = register_parameter("null_text", at::zeros({options.text_size}));

  // A seed of the architecture, not of the run: codes of two runs differ by their weights alone.
  CounterRandom random(/*seed=*/0, RandomPurpose::kInitialisation, /*step=*/0, /*index=*/1);
  frequencies_ = at::empty({options.hidden_size, options.code_size}, at::kFloat);
  // ‖u‖² = d
  const double scale = options.frequency / std::sqrt(static_cast<double>(options.hidden_size));
  for (std::int64_t i = 0; i < frequencies_.numel(); ++i) {
    frequencies_.mutable_data_ptr<float>()[i] = static_cast<float>(scale * random.normal());
  }
  phases_ = at::empty({options.code_size}, at::kFloat);
  for (std::int64_t i = 0; i < phases_.numel(); ++i) {
    phases_.mutable_data_ptr<float>()[i] = static_cast<float>(random.uniform(0, 2 * std::numbers::pi));
  }
  register_buffer("frequencies", frequencies_);
  register_buffer("phases", phases_);
}

at::Tensor PairCodeImpl::forward(const at::Tensor& image, const at::Tensor& text, const at::Tensor& has_image,
                                 const at::Tensor& has_text) {
  TORCH_CHECK(image.defined() || text.defined(), "pair code: neither image nor text is given");
  // In bfloat16 a phase of several radians would be off by hundredths.
  const NoAutocast no_autocast;
  const std::int64_t rows = image.defined() ? image.size(0) : text.size(0);
  const at::Tensor pair = at::cat({side(image, has_image, image_moments_, null_image_, rows, "image"),
                                   side(text, has_text, text_moments_, null_text_, rows, "text")},
                                  1);
  const at::Tensor embedding =
      at::layer_norm(embedding_->forward(pair), {options_.hidden_size}, {}, {}, kEpsilon);
  const at::Tensor waves = at::addmm(phases_, embedding, frequencies_).cos();
  return at::layer_norm(waves, {options_.code_size}, {}, {}, kEpsilon);
}

void PairCodeImpl::observe(const at::Tensor& image, const at::Tensor& text) {
  image_moments_->observe(image);
  text_moments_->observe(text);
}

}  // namespace tessera::memory
