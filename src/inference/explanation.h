#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "inference/trained_model.h"
#include "model/features.h"

namespace tessera::inference {

/// Where in an image a word is, by the similarities that MaxSim takes its maxima of.
struct HeatMap {
  std::string word;
  bool in_text = true;    ///< read within the text; otherwise as a text of its own
  at::Tensor similarity;  ///< [rows, columns] float32 on the CPU, −1 to 1, a value a patch
};

/// Similarity of each patch to a word of several tokens: the mean over its tokens of the inner product.
/// @param patches   [P, S] rows of length 1
/// @param tokens    [T, S] rows of length 1
/// @param positions of the word's tokens, at least one
/// @return [P]
at::Tensor word_similarity(const at::Tensor& patches, const at::Tensor& tokens,
                           const std::vector<std::int64_t>& positions);

/// Heat maps of an image, one a word, over its patches.
/// @param image  of one image (B = 1) of data.image_size
/// @param text   what is said of it; words that stand in it are read in its context, as MaxSim was trained
///               to. Other words are read by themselves
/// @param words  empty: the content words of the text (word_spans.h), each where it stands
/// @return in the order of the words; without those that language.max_tokens cut off the text
/// @throws Error where the model was trained without MaxSim, or a word has no token
std::vector<HeatMap> heat_maps(const TrainedModel& trained, const model::ImageFeatures& image,
                               const std::string& text, const std::vector<std::string>& words);
/// The same for several images (or one image as several adapters see it), for which the text is read once.
/// @param images  of one image each @return in their order
std::vector<std::vector<HeatMap>> heat_maps(const TrainedModel& trained,
                                            const std::vector<model::ImageFeatures>& images,
                                            const std::string& text, const std::vector<std::string>& words);

}  // namespace tessera::inference
