#include "eval/encode.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <utility>

#include "core/autocast.h"
#include "core/device.h"
#include "core/error.h"
#include "core/finite.h"
#include "eval/distinct_images.h"
#include "inference/encode_inputs.h"
#include "language/tokenizer.h"
#include "model/stage1_model.h"

namespace tessera::eval {

namespace {

/// Adds the rows of [B, T, C] to a list, each without its padding.
void add_rows(std::vector<at::Tensor>& rows, const at::Tensor& padded, const at::Tensor& lengths) {
  const at::Tensor values = padded.cpu();
  for (std::int64_t row = 0; row < values.size(0); ++row) {
    // A copy: a view would keep the whole padded batch.
    rows.push_back(values[row].slice(0, 0, lengths[row].item<std::int64_t>()).clone());
  }
}

/// The same rows in another order.
std::vector<at::Tensor> in_order(const std::vector<at::Tensor>& rows, const at::Tensor& order) {
  std::vector<at::Tensor> ordered;
  for (std::int64_t place = 0; place < static_cast<std::int64_t>(rows.size()); ++place)
    ordered.push_back(rows[static_cast<std::size_t>(order[place].item<std::int64_t>())]);
  return ordered;
}

/// Encodes a set batch by batch.
class Encoder {
 public:
  Encoder(model::Stage1Model& model, const language::Tokenizer& tokenizer, const Compute& compute,
          std::int64_t max_tokens, EncodeDetail detail)
      : model_(model), tokenizer_(tokenizer), compute_(compute), max_tokens_(max_tokens), detail_(detail) {}

  void add(const data::EvalBatch& batch) {
    const BatchImages images = distinct_.place(batch.image_ids);
    add_images(batch, images.first);
    std::vector<std::string> captions;
    for (std::size_t sample = 0; sample < batch.captions.size(); ++sample) {
      const std::vector<std::string>& of_sample = batch.captions[sample];
      const std::int64_t image = images.row[sample];
      captions.insert(captions.end(), of_sample.begin(), of_sample.end());
      caption_image_.insert(caption_image_.end(), of_sample.size(), image);
      std::vector<std::string>& of_image = set_.captions[static_cast<std::size_t>(image)];
      of_image.insert(of_image.end(), of_sample.begin(), of_sample.end());
    }
    add_texts(captions);
  }

  EncodedSet result() {
    if (images_.empty()) fail("evaluation: the data holds no readable sample");
    set_.image = at::cat(images_);
    // Captions of an image may have come with samples that lie far apart.
    const at::Tensor unordered = at::tensor(caption_image_, at::kLong);
    const at::Tensor order = unordered.argsort(/*stable=*/true, /*dim=*/0, /*descending=*/false);
    set_.caption_image = unordered.index_select(0, order);
    set_.text = at::cat(texts_).index_select(0, order);
    if (detail_ == EncodeDetail::kTokens) {
      set_.tokens.image_tokens = at::cat(image_tokens_);
      set_.tokens.patches = at::cat(patches_);
      set_.tokens.lower_text = in_order(set_.tokens.lower_text, order);
      set_.tokens.text_tokens = in_order(set_.tokens.text_tokens, order);
    }
    return std::move(set_);
  }

 private:
  /// Those of a batch's samples that show an image for the first time.
  void add_images(const data::EvalBatch& batch, const std::vector<std::int64_t>& samples) {
    if (samples.empty()) return;
    for (const std::int64_t sample : samples) {
      const auto place = static_cast<std::size_t>(sample);
      set_.captions.emplace_back();
      set_.keys.push_back(batch.keys[place]);
      set_.indices.push_back(batch.indices[place]);
    }
    encode_images(batch.pixels.index_select(0, at::tensor(samples, at::kLong)),
                  set_.keys.size() - samples.size());
  }

  void encode_images(const at::Tensor& pixels, std::size_t first) {
    const model::ImageFeatures features = model_.encode_image(pixels.to(compute_.device));
    check_computed(features.embedding, "the image's embedding",
                   {set_.keys.begin() + static_cast<std::ptrdiff_t>(first), set_.keys.end()});
    images_.push_back(features.embedding.cpu());
    if (detail_ != EncodeDetail::kTokens) return;
    image_tokens_.push_back(features.tokens.cpu());
    patches_.push_back(model_.patch_embeddings(features).cpu());
  }

  void add_texts(const std::vector<std::string>& captions) {
    const language::TokenBatch tokens = tokenizer_.encode_batch(captions, max_tokens_);
    const model::TextFeatures features = model_.encode_text(tokens.to(compute_.device));
    check_computed(features.embedding, "the caption's embedding", inference::quoted_texts(captions));
    texts_.push_back(features.embedding.cpu());
    if (detail_ != EncodeDetail::kTokens) return;
    const at::Tensor lengths = tokens.attention_mask.sum(1);
    add_rows(set_.tokens.lower_text, features.lower, lengths);
    add_rows(set_.tokens.text_tokens, model_.token_embeddings(features), lengths);
  }

  model::Stage1Model& model_;
  const language::Tokenizer& tokenizer_;
  const Compute& compute_;
  std::int64_t max_tokens_;
  EncodeDetail detail_;
  DistinctImages distinct_;
  EncodedSet set_;
  std::vector<at::Tensor> images_, texts_, image_tokens_, patches_;
  std::vector<std::int64_t> caption_image_;
};

}  // namespace

EncodedSet encode_set(model::Stage1Model& model, const language::Tokenizer& tokenizer,
                      data::EvalLoader& loader, const Compute& compute, std::int64_t max_tokens,
                      EncodeDetail detail, const std::function<void()>& between) {
  TORCH_CHECK(!model.is_training(), "encode_set: the model must be in evaluation mode");
  const at::NoGradGuard no_grad;
  const AutocastScope autocast(compute);
  Encoder encoder(model, tokenizer, compute, max_tokens, detail);
  while (const std::optional<data::EvalBatch> batch = loader.next()) {
    if (between) between();
    encoder.add(*batch);
  }
  EncodedSet set = encoder.result();
  set.broken = loader.broken();
  return set;
}

}  // namespace tessera::eval
