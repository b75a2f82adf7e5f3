#pragma once

#include <vector>

#include "language/decode_step.h"
#include "language/language_model.h"

namespace tessera::language {

/// The language model alone, with a key/value cache: text without an image.
class LanguageDecodeStep : public DecodeStep {
 public:
  explicit LanguageDecodeStep(LanguageModel model);

  at::Tensor next_logits(const at::Tensor& input_ids) override;
  void reorder(const at::Tensor& rows) override;
  std::int64_t max_length() const override;

 private:
  LanguageModel model_;
  std::vector<KeyValueCache> caches_;  ///< one a layer
};

}  // namespace tessera::language
