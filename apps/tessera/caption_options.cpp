#include "tessera/caption_options.h"

#include <ATen/ATen.h>

#include "core/error.h"
#include "losses/loss_abilities.h"

namespace tessera::apps {

namespace options = boost::program_options;

namespace {

language::SearchOptions search_options(const options::variables_map& values) {
  using Method = language::SearchOptions::Method;
  language::SearchOptions search;
  const bool samples = values.count("sample") != 0;
  const std::int64_t beams = count_of(values, "beams", 1);
  if (samples && beams > 1) throw ConfigError("--beams and --sample: choose one of them");
  for (const char* name : {"temperature", "top-p", "top-k", "seed"}) {
    if (!samples && !values[name].defaulted()) throw ConfigError(fmt::format("--{} needs --sample", name));
  }
  search.method = samples ? Method::kSample : beams > 1 ? Method::kBeam : Method::kGreedy;
  search.beam_size = beams;
  search.temperature = values["temperature"].as<double>();
  search.top_p = values["top-p"].as<double>();
  search.top_k = count_of(values, "top-k", 0);
  search.seed = static_cast<std::uint64_t>(count_of(values, "seed", 0));
  try {
    search.check("--sample");
  } catch (const Error& error) {
    throw ConfigError(error.what());
  }
  return search;
}

}  // namespace

void add_caption_options(options::options_description& description) {
  // clang-format off
  description.add_options()
      ("beams", options::value<std::int64_t>()->default_value(1), "width of the beam search; 1: greedy")
      ("sample", "draw the words instead")
      ("temperature", options::value<double>()->default_value(1.0, "1"), "of the draw: below 1 the likely becomes likelier")
      ("top-p", options::value<double>()->default_value(0.9, "0.9"), "draw among the fewest tokens that hold this share of the probability")
      ("top-k", options::value<std::int64_t>()->default_value(0), "draw among this many tokens at most; 0: all")
      ("seed", options::value<std::int64_t>()->default_value(0), "of the draw; the same seed gives the same caption")
      ("prompt", options::value<std::string>()->default_value(""), "what every caption begins with, e.g. \"a small\"")
      ("max-tokens", options::value<std::int64_t>(), "the most tokens to add; default: as long as the captions in training");
  // clang-format on
}

inference::CaptionOptions caption_options(const options::variables_map& values) {
  inference::CaptionOptions caption;
  caption.search = search_options(values);
  caption.prompt = values["prompt"].as<std::string>();
  // A space at the end would be a token of its own, which no caption has there.
  while (!caption.prompt.empty() && caption.prompt.back() == ' ') caption.prompt.pop_back();
  if (values.count("max-tokens") != 0) caption.max_tokens = count_of(values, "max-tokens", 1);
  return caption;
}

void check_captions(const ModelTool& tool) {
  require_trained(tool.loaded.config.losses, losses::Ability::kCaptions, tool.folder);
}

inference::GeneratedCaption caption_of(const inference::TrainedModel& trained,
                                       const model::ImageFeatures& image,
                                       const inference::CaptionOptions& options) {
  fusion::CaptionCondition condition;
  condition.image_states = image.states;
  return inference::decode_captions(trained, condition, options).front();
}

}  // namespace tessera::apps
