#pragma once

#include <ATen/core/Tensor.h>

#include <boost/program_options.hpp>

#include "inference/generate_captions.h"
#include "model/features.h"
#include "model_tool.h"

namespace tessera::apps {

// How a caption is chosen, for the commands that make captions.

/// --beams, --sample with --temperature, --top-p, --top-k and --seed, --prompt, --max-tokens.
void add_caption_options(boost::program_options::options_description& description);

/// @throws ConfigError where they contradict each other or are out of range
inference::CaptionOptions caption_options(const boost::program_options::variables_map& values);

/// @throws Error where the model was trained without captions
void check_captions(const ModelTool& tool);

/// The caption of one image. @param image the features of a batch of one
inference::GeneratedCaption caption_of(const inference::TrainedModel& trained,
                                       const model::ImageFeatures& image,
                                       const inference::CaptionOptions& options);

}  // namespace tessera::apps
