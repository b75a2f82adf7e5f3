#pragma once

#include <boost/program_options.hpp>
#include <chrono>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/device.h"
#include "inference/trained_model.h"
#include "model/weights.h"

namespace tessera::apps {

// What the programs share that use a trained model.

/// --model, its other name --checkpoint, --device and --threads.
void add_model_tool_options(boost::program_options::options_description& description);

/// The folder that --model names, or --checkpoint.
/// @throws ConfigError where neither or both are given
std::string model_folder(const boost::program_options::variables_map& values);

/// A trained model in evaluation mode on the device that the command line or else its configuration asks for.
struct ModelTool {
  /// @throws ConfigError for a mistake on the command line, Error where the model can't be loaded
  explicit ModelTool(const boost::program_options::variables_map& values,
                     model::CheckpointAdapter adapter = model::CheckpointAdapter::kLoad);
  inference::TrainedModel trained() const {
    return {*loaded.model, loaded.tokenizer, loaded.config, compute};
  }

  std::string folder;
  double load_seconds = 0;
  model::LoadedModel loaded;
  Compute compute;
};

/// Values of an option that may be given many times, or of positional words; none: empty.
std::vector<std::string> words_of(const boost::program_options::variables_map& values, const char* name);

/// The value of an option that counts something.
/// @throws ConfigError where it is less than `least`
std::int64_t count_of(const boost::program_options::variables_map& values, const char* name,
                      std::int64_t least);

/// --max-broken-fraction, for what reads samples.
void add_broken_fraction_option(boost::program_options::options_description& description);
/// Puts its value, where it is given, in the model's configuration.
void apply_broken_fraction(const boost::program_options::variables_map& values, Config& config);

double seconds_since(std::chrono::steady_clock::time_point start);

/// Image files that could not be read.
class FailedImages {
 public:
  explicit FailedImages(std::string program) : program_(std::move(program)) {}

  /// Reads and uses one image; where it can't be read, that is said on standard error, and `use` not called.
  /// @param use  gets the pixels, [3, size, size] uint8
  void read(const std::string& file, std::int64_t size, const std::function<void(const at::Tensor&)>& use);
  /// What a program ends with: 1 where an image could not be read.
  int exit_code() const;
  /// [{"image": …, "error": …}, …]
  const nlohmann::json& json() const { return failures_; }

 private:
  std::string program_;
  nlohmann::json failures_ = nlohmann::json::array();
};

/// Says on standard error which texts are longer than the model reads, and at how many tokens they are cut.
void warn_of_cut_texts(const char* program, const inference::TrainedModel& trained,
                       const std::vector<std::string>& texts);

/// JSON with every text in it as UTF-8: names of files need not be (core/utf8.h).
nlohmann::json utf8_json(nlohmann::json json);

/// JSON for a terminal or file, as utf8_json has it.
std::string dumped(const nlohmann::json& json);

}  // namespace tessera::apps
