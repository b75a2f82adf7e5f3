#include "tessera/adapted_model.h"

#include <cstdio>

#include "config/config.h"
#include "core/error.h"
#include "inference/encode_inputs.h"
#include "lora/adapter_set.h"
#include "model/adaptable_parts.h"
#include "model/stage1_model.h"
#include "vision/encoder.h"

namespace tessera::apps {

namespace options = boost::program_options;
namespace fs = std::filesystem;

namespace {

bool is_folder(const NamedAdapter& adapter) {
  return adapter.source != kOwnAdapter && adapter.source != kNoAdapter;
}

/// NAME=FOLDER, or FOLDER, which may have "=" in it.
NamedAdapter parsed_adapter(const std::string& word) {
  const std::size_t equals = word.find('=');
  if (equals == std::string::npos || equals > word.find('/') || fs::is_directory(word)) {
    NamedAdapter adapter{"", word};
    if (word.empty()) throw ConfigError("--adapter: expected a folder, found nothing");
    if (!is_folder(adapter)) adapter.name = word;
    return adapter;
  }
  NamedAdapter adapter{word.substr(0, equals), word.substr(equals + 1)};
  if (adapter.name.empty() || adapter.source.empty()) {
    throw ConfigError(fmt::format("--adapter: expected FOLDER or NAME=FOLDER, found {}", quoted(word)));
  }
  return adapter;
}

/// The names in a folder's path from the root on.
std::vector<std::string> path_segments(const std::string& folder) {
  std::vector<std::string> segments;
  for (const fs::path& segment : fs::absolute(folder).lexically_normal().relative_path()) {
    if (!segment.empty()) segments.push_back(segment.string());
  }
  return segments;
}

/// "ships/adapter" of […, "ships", "adapter"] and 2.
std::string last_segments(const std::vector<std::string>& segments, std::size_t count) {
  std::string joined;
  for (std::size_t i = segments.size() - count; i < segments.size(); ++i)
    joined += (joined.empty() ? "" : "/") + segments[i];
  return joined;
}

/// Of which adapter another one has the name, none: npos.
std::size_t same_name(const std::vector<NamedAdapter>& adapters, std::size_t i) {
  for (std::size_t other = 0; other < adapters.size(); ++other) {
    if (other != i && adapters[other].name == adapters[i].name) return other;
  }
  return std::string::npos;
}

}  // namespace

void add_adapter_option(options::options_description& description) {
  description.add_options()("adapter", options::value<std::vector<std::string>>()->composing(),
                            "answer with this adapter in the image encoder: a PEFT folder, or NAME=FOLDER; "
                            "may be given many times, and the model is loaded once. In the folder's place, "
                            "checkpoint means the model's own adapter, none the encoder without one. "
                            "Default: the model as it is");
}

std::vector<NamedAdapter> named_adapters(const std::vector<std::string>& words) {
  std::vector<NamedAdapter> adapters;
  std::vector<std::vector<std::string>> segments;  // of a folder that was given no name
  for (const std::string& word : words) {
    adapters.push_back(parsed_adapter(word));
    segments.push_back(adapters.back().name.empty() ? path_segments(word) : std::vector<std::string>{});
  }
  std::vector<std::size_t> shown(adapters.size(), 0);
  std::vector<std::size_t> ambiguous;
  const auto lengthen = [&](std::size_t i) {
    if (shown[i] == segments[i].size()) return false;
    adapters[i].name = last_segments(segments[i], ++shown[i]);
    return true;
  };
  for (std::size_t i = 0; i < adapters.size(); ++i) lengthen(i);
  for (bool changed = true; changed;) {
    ambiguous.clear();
    for (std::size_t i = 0; i < adapters.size(); ++i) {
      if (same_name(adapters, i) != std::string::npos) ambiguous.push_back(i);
    }
    changed = false;
    for (const std::size_t i : ambiguous) changed |= lengthen(i);
  }
  if (ambiguous.empty()) return adapters;
  const std::size_t first = ambiguous.front(), second = same_name(adapters, first);
  if (words[first] == words[second])
    throw ConfigError(
        fmt::format("--adapter: {} is given twice; --adapter NAME=FOLDER tells them apart", words[first]));
  throw ConfigError(
      fmt::format("--adapter: {} and {} are both called {}; give them names with --adapter NAME=FOLDER",
                  words[first], words[second], tessera::quoted(adapters[first].name)));
}

AdaptedModel::AdaptedModel(const char* program, const options::variables_map& values)
    : adapters_(named_adapters(words_of(values, "adapter"))),
      tool_(values,
            adapters_.empty() ? model::CheckpointAdapter::kLoad : model::CheckpointAdapter::kLeaveOut) {
  if (adapters_.empty()) {
    adapters_.emplace_back();
    return;
  }
  const auto start = std::chrono::steady_clock::now();
  bool adds_a_folder = false;
  set_ = std::make_unique<lora::AdapterSet>(tool_.loaded.model->vision());
  for (const NamedAdapter& adapter : adapters_) {
    if (adapter.source == kNoAdapter) continue;
    adds_a_folder |= is_folder(adapter);
    set_->load(adapter.name, is_folder(adapter) ? fs::path(adapter.source) : own_adapter());
  }
  tool_.load_seconds += seconds_since(start);
  if (adds_a_folder && model::backbone_of_checkpoint(tool_.folder).has_merged_adapter) {
    std::fprintf(stderr,
                 "%s: warning: %s has an adapter merged into its encoder (tessera bundle --merge-lora), and "
                 "others are added to that: right for adapters that were trained on it, not for those that "
                 "were trained on the encoder before\n",
                 program, tool_.folder.c_str());
  }
}

AdaptedModel::~AdaptedModel() = default;

fs::path AdaptedModel::own_adapter() const {
  const model::AdaptablePart& encoder = model::adaptable_parts().front();
  if (!encoder.is_adapted(tool_.loaded.config)) {
    throw ConfigError(
        fmt::format("--adapter {0}: {1} has no adapter of its own (its vision.trainable is not "
                    "lora); for a folder of this name write ./{0}",
                    kOwnAdapter, tool_.folder));
  }
  return fs::path(tool_.folder) / encoder.folder;
}

inference::TrainedModel AdaptedModel::with(const NamedAdapter& adapter) const {
  if (is_switched()) set_->use(adapter.source == kNoAdapter ? "" : adapter.name);
  return tool_.trained();
}

std::vector<model::ImageFeatures> AdaptedModel::encode_images(const at::Tensor& pixels,
                                                              const std::vector<std::string>& names) const {
  std::vector<model::ImageFeatures> features;
  for (const NamedAdapter& adapter : adapters_)
    features.push_back(inference::encode_images(with(adapter), pixels, names));
  return features;
}

nlohmann::json AdaptedModel::json() const {
  nlohmann::json list = nlohmann::json::array();
  for (const NamedAdapter& adapter : adapters_) {
    nlohmann::json folder;
    if (adapter.source != kNoAdapter) folder = is_folder(adapter) ? adapter.source : own_adapter().string();
    list.push_back({{"name", adapter.name}, {"folder", std::move(folder)}});
  }
  return list;
}

}  // namespace tessera::apps
