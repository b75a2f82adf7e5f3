#pragma once

#include <vector>

#include "fusion/fusion_tower.h"
#include "language/decode_step.h"
#include "language/language_model.h"

namespace tessera::fusion {

/// The language model under a caption's condition, token by token. What the text layers read of image and
/// memory is projected once; what the text has read so far is cached.
class FusedDecodeStep : public language::DecodeStep {
 public:
  /// @param condition of the N texts that will be decoded
  FusedDecodeStep(language::LanguageModel language, FusionTower tower, const CaptionCondition& condition);

  /// @throws c10::Error where the first call has not one row a condition
  at::Tensor next_logits(const at::Tensor& input_ids) override;
  void reorder(const at::Tensor& rows) override;
  std::int64_t max_length() const override;

 private:
  language::LanguageModel language_;
  FusionTower tower_;
  std::vector<ContextKeys> keys_;                ///< one a level
  std::vector<language::KeyValueCache> caches_;  ///< one a layer
};

}  // namespace tessera::fusion
