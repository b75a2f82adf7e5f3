#pragma once

#include <ATen/core/Tensor.h>

#include "core/config.h"
#include "core/device.h"
#include "data/loader.h"
#include "language/tokenizer.h"
#include "model/stage1_model.h"

namespace tessera::eval {

/// The ITC embeddings of a whole set, on the CPU.
struct EncodedSet {
  at::Tensor image;          ///< [N, E] float32
  at::Tensor text;           ///< [M, E] float32, every caption of every image
  at::Tensor caption_image;  ///< [M] int64, row of the image that a caption belongs to
  std::int64_t broken = 0;   ///< samples that could not be read and are missing
};

/// Encodes every image and every caption that the loader gives, without gradients. The model must be in
/// evaluation mode (Stage1Model::set_training(false)).
/// @throws Error where the set holds no sound sample
EncodedSet encode_set(model::Stage1Model& model, const language::Tokenizer& tokenizer,
                      data::EvalLoader& loader, const Compute& compute, std::int64_t max_tokens);

/// How a configuration reads an evaluation set.
data::EvalLoaderOptions eval_loader_options(const Config& config);

}  // namespace tessera::eval
