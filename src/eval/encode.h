#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

#include "data/loader.h"

namespace tessera {
struct Compute;
}
namespace tessera::language {
class Tokenizer;
}
namespace tessera::model {
class Stage1Model;
}

namespace tessera::eval {

/// How much of a set is kept.
enum class EncodeDetail {
  kEmbeddings,  ///< what ITC compares
  kTokens,      ///< also what the fused pass, MaxSim and captions start from (EncodedTokens)
};

/// A set's token states, on the CPU. Texts are each as long as their caption: a set padded to its longest one
/// would take several times the memory.
struct EncodedTokens {
  at::Tensor image_tokens;              ///< [N, 1+P, D] compressed
  at::Tensor patches;                   ///< [N, P, S] float32, what MaxSim compares
  std::vector<at::Tensor> lower_text;   ///< M of [T, C], the text below the first fused layer
  std::vector<at::Tensor> text_tokens;  ///< M of [T, S] float32, what MaxSim compares
};

/// A set as the model sees it, on the CPU. Samples that share an image id are one image, that of the first of
/// them, with the captions of all.
struct EncodedSet {
  at::Tensor image;                                ///< [N, E] float32, ITC embeddings
  at::Tensor text;                                 ///< [M, E] float32, of every caption, image by image
  at::Tensor caption_image;                        ///< [M] int64, row of the image that a caption belongs to
  std::int64_t broken = 0;                         ///< samples that could not be read and are missing
  std::vector<std::vector<std::string>> captions;  ///< N, those of each image, in the order of `text`
  std::vector<std::string> keys;                   ///< N, of the images' (first) samples
  std::vector<std::int64_t> indices;               ///< N, of these samples in the dataset
  EncodedTokens tokens;                            ///< with EncodeDetail::kTokens

  std::int64_t images() const { return image.size(0); }
};

/// Encodes every image and every caption that the loader gives, without gradients. The model must be in
/// evaluation mode (Stage1Model::set_training(false)).
/// @param between  called before each batch; what it throws passes on
/// @throws Error where the set holds no sound sample
EncodedSet encode_set(model::Stage1Model& model, const language::Tokenizer& tokenizer,
                      data::EvalLoader& loader, const Compute& compute, std::int64_t max_tokens,
                      EncodeDetail detail = EncodeDetail::kEmbeddings,
                      const std::function<void()>& between = {});

}  // namespace tessera::eval
