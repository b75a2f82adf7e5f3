#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/random.h"

namespace tessera {
struct Config;
}
namespace tessera::data {
class Source;
}
namespace tessera::model {
class Stage1Model;
}

namespace tessera::train {

/// Images of the training data, through the transform of evaluation, each with its first caption.
struct TrainingImages {
  at::Tensor pixels;  ///< [N, 3, S, S] uint8
  std::vector<std::string> captions;
};

/// Up to `count` samples of different image ids, a choice of seed and purpose alone. Broken samples are
/// passed over: the loader counts and names them when their turn comes.
/// @throws Error where fewer than two are sound
TrainingImages read_training_images(const data::Source& data, const Config& config, RandomPurpose purpose,
                                    std::int64_t count);

/// Gives a random encoder's output mean 0 and deviation 1 by channel over images of the training data (a
/// data-dependent initialisation, after Krähenbühl et al. 2016). What varies from image to image is otherwise
/// a small part of a frozen random encoder's output, and what is learned from it is learned half as fast
/// (docs/results.md).
void standardise_encoder(model::Stage1Model& model, const data::Source& data, const Config& config,
                         c10::Device device);

}  // namespace tessera::train
