#include "eval/encode.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/grad_mode.h>

#include "core/error.h"

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

/// Encodes a set batch by batch.
class Encoder {
 public:
  Encoder(model::Stage1Model& model, const language::Tokenizer& tokenizer, const Compute& compute,
          std::int64_t max_tokens, EncodeDetail detail)
      : model_(model), tokenizer_(tokenizer), compute_(compute), max_tokens_(max_tokens), detail_(detail) {}

  void add(const data::EvalBatch& batch) {
    add_images(batch.pixels);
    std::vector<std::string> captions;
    for (const std::vector<std::string>& of_image : batch.captions) {
      captions.insert(captions.end(), of_image.begin(), of_image.end());
      caption_image_.insert(caption_image_.end(), of_image.size(),
                            static_cast<std::int64_t>(set_.captions.size()));
      set_.captions.push_back(of_image);
    }
    add_texts(captions);
    set_.keys.insert(set_.keys.end(), batch.keys.begin(), batch.keys.end());
    set_.indices.insert(set_.indices.end(), batch.indices.begin(), batch.indices.end());
  }

  EncodedSet result() {
    if (images_.empty()) fail("evaluation: the data holds no readable sample");
    set_.image = at::cat(images_);
    set_.text = at::cat(texts_);
    set_.caption_image = at::tensor(caption_image_, at::kLong);
    if (detail_ == EncodeDetail::kTokens) {
      set_.tokens.image_tokens = at::cat(image_tokens_);
      set_.tokens.patches = at::cat(patches_);
    }
    return std::move(set_);
  }

 private:
  void add_images(const at::Tensor& pixels) {
    const model::ImageFeatures features = model_.encode_image(pixels.to(compute_.device));
    images_.push_back(features.embedding.cpu());
    if (detail_ != EncodeDetail::kTokens) return;
    image_tokens_.push_back(features.tokens.cpu());
    patches_.push_back(model_.patch_embeddings(features).cpu());
  }

  void add_texts(const std::vector<std::string>& captions) {
    const language::TokenBatch tokens = tokenizer_.encode_batch(captions, max_tokens_);
    const model::TextFeatures features =
        model_.encode_text({tokens.input_ids.to(compute_.device), tokens.attention_mask.to(compute_.device)});
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
  EncodedSet set_;
  std::vector<at::Tensor> images_, texts_, image_tokens_, patches_;
  std::vector<std::int64_t> caption_image_;
};

}  // namespace

EncodedSet encode_set(model::Stage1Model& model, const language::Tokenizer& tokenizer,
                      data::EvalLoader& loader, const Compute& compute, std::int64_t max_tokens,
                      EncodeDetail detail) {
  TORCH_CHECK(!model.is_training(), "encode_set: the model must be in evaluation mode");
  const torch::NoGradGuard no_grad;
  const AutocastScope autocast(compute);
  Encoder encoder(model, tokenizer, compute, max_tokens, detail);
  while (const std::optional<data::EvalBatch> batch = loader.next()) encoder.add(*batch);
  EncodedSet set = encoder.result();
  set.broken = loader.broken();
  return set;
}

data::EvalLoaderOptions eval_loader_options(const Config& config) {
  return {.image_size = config.data.image_size,
          .batch_size = config.eval.batch_size,
          .workers = config.data.workers,
          .prefetch_batches = config.data.prefetch_batches,
          .max_broken_fraction = config.data.max_broken_fraction};
}

}  // namespace tessera::eval
