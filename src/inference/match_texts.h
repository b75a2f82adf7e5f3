#pragma once

#include <optional>
#include <string>
#include <vector>

#include "inference/trained_model.h"
#include "model/features.h"

namespace tessera::inference {

/// How well a text fits an image, by every score that the model was trained for.
struct TextMatch {
  std::string text;
  std::optional<double> itc;                   ///< inner product of the embeddings, −1 to 1
  std::optional<double> maxsim_image_to_text;  ///< mean over the patches of the best token, −1 to 1
  std::optional<double> maxsim_text_to_image;  ///< mean over the tokens of the best patch, −1 to 1
  std::optional<double> itm;                   ///< the matching head's probability of "match"
};

/// Scores texts against one image, without gradient. An empty text is bos eos.
/// @param image  of one image (B = 1)
/// @param texts  at least one
/// @return one a text, the best first: by ITM, where the model has none by ITC, then by MaxSim text→image;
///         equal ones in the order given
std::vector<TextMatch> match_texts(const TrainedModel& trained, const model::ImageFeatures& image,
                                   const std::vector<std::string>& texts);
/// The same for several images (or one image as several adapters see it), for which each text is read once.
/// @param images  of one image each @return in their order
std::vector<std::vector<TextMatch>> match_texts(const TrainedModel& trained,
                                                const std::vector<model::ImageFeatures>& images,
                                                const std::vector<std::string>& texts);

}  // namespace tessera::inference
