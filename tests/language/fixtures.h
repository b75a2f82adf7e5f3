#pragma once

#include <ATen/ATen.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "language/language_model.h"
#include "language/tokenizer_training.h"

namespace tessera::language {

/// A folder of its own under the system's temporary one, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "tessera-language-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::filesystem::path path;
};

/// Captions with enough different words for a few hundred merges.
inline std::vector<std::string> caption_corpus() {
  const std::vector<std::string> subjects = {"a brown dog",   "two children",        "the old fisherman",
                                             "a yellow tram", "somebody's umbrella", "three elephants",
                                             "a violinist",   "the goalkeeper"};
  const std::vector<std::string> verbs = {"jumps over",  "is waiting beside", "runs towards", "sleeps under",
                                          "photographs", "disappears behind", "balances on"};
  const std::vector<std::string> objects = {"a wooden fence",         "the crowded market square",
                                            "an empty swimming pool", "a snow-covered mountain",
                                            "the kitchen table",      "a parked lorry"};
  std::vector<std::string> captions;
  for (const auto& subject : subjects) {
    for (const auto& verb : verbs) {
      for (const auto& object : objects) captions.push_back(subject + " " + verb + " " + object + ".");
    }
  }
  return captions;
}

/// A tokenizer of 400 pieces, trained once.
inline const Tokenizer& small_tokenizer() {
  static const Tokenizer tokenizer = [] {
    const TemporaryFolder folder;
    return train_tokenizer(caption_corpus(), folder.path / "small.model", {.vocab_size = 400});
  }();
  return tokenizer;
}

inline LanguageModelConfig small_config() {
  LanguageModelConfig config = LanguageModelConfig::from_config({});
  config.vocab_size = 40;
  config.hidden_size = 32;
  config.num_hidden_layers = 3;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 4;
  config.intermediate_size = 48;
  config.max_position_embeddings = 32;
  // Large enough that attention is far from uniform, so that reading the wrong token shows.
  config.initializer_range = 0.3;
  return config;
}

inline at::Tensor random_ids(std::int64_t batch, std::int64_t tokens, std::uint64_t seed) {
  at::manual_seed(seed);
  return at::randint(5, 40, {batch, tokens}, at::kLong);
}

/// The message of the Error that a call throws, or "" where it throws none.
template <typename Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace tessera::language
