#include "train/memory_estimate.h"

#include <algorithm>

#include "ops/feed_forward.h"
#include "vision/dinov2.h"

namespace tessera::train {

namespace {

constexpr double kFloat = 4, kBfloat16 = 2, kInteger = 8;

/// What a transformer block keeps for its backward pass, in numbers a token: inputs of the two norms, of the
/// four attention products and of the feed-forward's products.
/// @param inner  of the feed-forward network; twice as many where it is gated
double kept_by_block(double hidden, double inner) { return 8 * hidden + 2 * inner; }

/// The same where the feed-forward half is one kernel (ops/feed_forward.h).
double kept_by_block_with_kernel(double hidden, double inner) { return 7 * hidden + inner; }

/// Sizes of one pair's way through the model, and what is kept of it, in numbers.
class PairPasses {
 public:
  PairPasses(const Config& config, const model::Stage1Model& model, const Compute& compute) : model_(model) {
    const bool full_precision_on_cpu = compute.device.is_cpu() && compute.dtype == c10::kFloat;
    const auto kept = [&](double hidden, double inner, double projections) {
      const bool kernel =
          full_precision_on_cpu && ops::feed_forward_kernel_serves(static_cast<std::int64_t>(hidden),
                                                                   static_cast<std::int64_t>(inner));
      return (kernel ? kept_by_block_with_kernel : kept_by_block)(hidden, projections * inner);
    };
    const language::LanguageModelConfig& language = model.language()->config();
    layers_ = static_cast<double>(language.num_hidden_layers);
    levels_ = static_cast<double>(model.fusion()->levels());
    text_width_ = static_cast<double>(language.hidden_size);
    vocabulary_ = static_cast<double>(language.vocab_size);
    // Gate, its SiLU, the other half and their product.
    text_block_ = kept(text_width_, static_cast<double>(language.intermediate_size), 2);
    text_tokens_ = static_cast<double>(config.language.max_tokens);
    const auto side = static_cast<double>(config.data.image_size / model.vision().patch_size());
    image_tokens_ = 1 + side * side;
    compressor_width_ = static_cast<double>(config.compressor.hidden_size);
    image_width_ = static_cast<double>(config.compressor.output_size);
    image_block_ = kept(image_width_, static_cast<double>(config.fusion.image_mlp_ratio) * image_width_, 1);
    token_size_ = static_cast<double>(config.fusion.token_size);
  }

  double image_tokens() const { return image_tokens_; }

  double encoder() const {
    const auto* dinov2 = dynamic_cast<const vision::Dinov2Model*>(&model_.vision());
    TORCH_CHECK(dinov2 != nullptr, "memory estimate: the backbone is no Dinov2Model");
    const vision::Dinov2Config& shape = dinov2->config();
    const double tokens = image_tokens_ + static_cast<double>(shape.num_register_tokens);
    return tokens * static_cast<double>(shape.num_hidden_layers) *
           kept_by_block(static_cast<double>(shape.hidden_size),
                         static_cast<double>(shape.intermediate_size()));
  }
  double compressor() const { return image_tokens_ * (compressor_width_ + 2 * image_width_); }
  double image_blocks() const { return levels_ * image_tokens_ * image_block_; }
  double text(double layers) const { return layers * text_tokens_ * text_block_; }
  double text() const { return text(layers_); }
  double lower_text() const { return text(layers_ - levels_); }

  /// Token embeddings before and after they get length 1.
  double maxsim() const { return 2 * (image_tokens_ + text_tokens_) * token_size_; }
  /// Both sides, each reading the other, from the compressed tokens and the lower text on.
  double fused() const {
    return image_blocks() + text(levels_) +
           levels_ * (cross_attention(image_tokens_, image_width_, text_tokens_, text_width_) +
                      cross_attention(text_tokens_, text_width_, image_tokens_, image_width_));
  }
  /// Causal text that reads some tokens at each level, from the lower text on, and the logits with their
  /// logarithms.
  double decoder(double context_tokens) const {
    return text(levels_) +
           levels_ * cross_attention(text_tokens_, text_width_, context_tokens, image_width_) +
           2 * text_tokens_ * vocabulary_;
  }

 private:
  /// Inputs of norm and product, query, what was read, its projection; of the context norm, key and value.
  static double cross_attention(double tokens, double width, double context_tokens, double context_width) {
    return tokens * 5 * width + context_tokens * (context_width + 2 * width);
  }

  const model::Stage1Model& model_;
  double layers_, levels_, text_width_, vocabulary_, text_block_, text_tokens_;
  double image_tokens_, compressor_width_, image_width_, image_block_, token_size_;
};

bool encoder_trains(const model::Stage1Model& model) {
  const std::vector<model::NamedParameter> parameters = model.named_parts();
  return std::any_of(parameters.begin(), parameters.end(), [](const model::NamedParameter& parameter) {
    const bool of_encoder = parameter.part == model::Part::kBackbone || parameter.part == model::Part::kLora;
    return of_encoder && parameter.tensor.requires_grad();
  });
}

bool has_queue(const LossesConfig& losses) {
  return losses.itc.queue.size > 0 && (losses.itc.weight > 0 || losses.itm.weight > 0);
}

/// Numbers that a pair's passes keep, as TrainingStep::compute makes them.
double kept_by_pair(const Config& config, const model::Stage1Model& model, const PairPasses& passes) {
  const LossesConfig& losses = config.losses;
  double kept = passes.compressor() + passes.image_blocks();
  if (encoder_trains(model)) kept += passes.encoder();
  if (losses.itc.weight > 0 || losses.maxsim.weight > 0 || losses.itm.weight > 0 || losses.memory.weight > 0)
    kept += passes.text();
  if (losses.maxsim.weight > 0) kept += passes.maxsim();
  if (losses.itm.weight > 0) {
    kept += 3 * passes.fused();
    if (has_queue(losses)) kept += passes.lower_text();  // negative texts are encoded anew
  }
  if (losses.caption.weight > 0 || losses.memory.weight > 0) kept += passes.lower_text();  // causal
  if (losses.caption.weight > 0) kept += passes.decoder(passes.image_tokens());
  if (losses.memory.weight > 0) kept += passes.decoder(1);
  return kept;
}

double queue_bytes(const Config& config, const PairPasses& passes) {
  if (!has_queue(config.losses)) return 0;
  double entry = 2 * kFloat * static_cast<double>(config.fusion.embedding_size) + 2 * kInteger;
  if (config.losses.itm.weight > 0) {
    entry += kBfloat16 * passes.image_tokens() * static_cast<double>(config.compressor.output_size) +
             kInteger * static_cast<double>(config.language.max_tokens);
  }
  return entry * static_cast<double>(config.losses.itc.queue.size);
}

}  // namespace

MemoryEstimate estimate_memory(const Config& config, const model::Stage1Model& model,
                               const Compute& compute) {
  double all = 0;
  for (const model::NamedParameter& parameter : model.named_parts())
    all += static_cast<double>(parameter.tensor.numel());
  const auto trained = static_cast<double>(model.trainable_parameters());
  const PairPasses passes(config, model, compute);
  return {.weights = kFloat * all,
          .gradients = kFloat * trained,
          .moments = 2 * kFloat * trained,
          .activations =
              kFloat * static_cast<double>(config.data.batch_size) * kept_by_pair(config, model, passes),
          .queue = queue_bytes(config, passes)};
}

}  // namespace tessera::train
