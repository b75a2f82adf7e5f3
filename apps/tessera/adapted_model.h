#pragma once

#include <boost/program_options.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/features.h"
#include "model_tool.h"

namespace tessera::lora {
class AdapterSet;
}

namespace tessera::apps {

// Several adapters of one model's image encoder, for the commands that answer with each of them.

/// --adapter, which may be given many times.
void add_adapter_option(boost::program_options::options_description& description);

/// What one --adapter asks for.
struct NamedAdapter {
  std::string name;    ///< that its answers are labelled by; empty: the model as it is, without --adapter
  std::string source;  ///< a PEFT folder, kOwnAdapter or kNoAdapter
};

/// Words in the place of a folder: the checkpoint's own adapter, and the encoder without any.
inline constexpr const char* kOwnAdapter = "checkpoint";
inline constexpr const char* kNoAdapter = "none";

/// The adapters that words mean (FOLDER, NAME=FOLDER, or one of the two words in the folder's place), in
/// their order. A folder without a name is called by its own, behind as many of those above it as tell it
/// from the others ("adapter", or "birds/adapter" beside "ships/adapter").
/// @throws ConfigError where a word is no such thing, or two adapters would be called the same
std::vector<NamedAdapter> named_adapters(const std::vector<std::string>& words);

/// A trained model whose encoder has one adapter after the other, without being loaded again.
class AdaptedModel {
 public:
  /// The adapters that --adapter asks for are loaded onto the encoder as it is without any. Where that holds
  /// a merged adapter, a line on standard error says so.
  /// @throws ConfigError for a mistake on the command line, Error where the model or an adapter can't be
  ///         loaded, or doesn't fit
  AdaptedModel(const char* program, const boost::program_options::variables_map& values);
  ~AdaptedModel();

  const ModelTool& tool() const { return tool_; }
  /// Whether --adapter was given.
  bool is_switched() const { return set_ != nullptr; }
  /// In the order of the command line; without --adapter one, which has no name.
  const std::vector<NamedAdapter>& adapters() const { return adapters_; }
  /// The model with one of them in its encoder, until the next is asked for.
  inference::TrainedModel with(const NamedAdapter& adapter) const;
  /// The unfused image pass with each of them, without gradient.
  /// @param pixels [B, 3, H, W] uint8 RGB, as inference::encode_images takes them
  std::vector<model::ImageFeatures> encode_images(const at::Tensor& pixels,
                                                  const std::vector<std::string>& names) const;
  /// [{"name": …, "folder": …}, …], the folder null where there is no adapter.
  nlohmann::json json() const;

 private:
  std::filesystem::path own_adapter() const;

  std::vector<NamedAdapter> adapters_;
  ModelTool tool_;
  std::unique_ptr<lora::AdapterSet> set_;  ///< of the tool's model; null without --adapter
};

}  // namespace tessera::apps
