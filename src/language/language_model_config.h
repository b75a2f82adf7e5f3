#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "language/language_config.h"

namespace tessera::language {

/// Shape of a Llama-like language model, from a configuration or a file. Names are those of Hugging Face's
/// LlamaConfig.
struct LanguageModelConfig {
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;  ///< fewer than num_attention_heads: grouped-query attention
  std::int64_t intermediate_size = 0;
  std::int64_t max_position_embeddings = 0;
  double rope_theta = 0;
  double rms_norm_eps = 0;
  double initializer_range = 0.02;  ///< standard deviation of fresh weights
  bool tie_word_embeddings = true;
  std::int64_t pad_token_id = 0;  ///< -1: none
  std::int64_t bos_token_id = 2;  ///< -1: none
  std::int64_t eos_token_id = 3;  ///< -1: none

  std::int64_t head_dim() const { return hidden_size / num_attention_heads; }

  /// The model that a configuration file describes (its `language` section).
  static LanguageModelConfig from_config(const LanguageConfig& config);

  /// Reads a Hugging Face config.json object. Absent keys get Hugging Face's defaults, but the sizes must be
  /// there.
  /// @param source  what to call the object in messages, e.g. the file's path
  /// @throws Error naming the field where a value is unsound or asks for what this model does not compute
  ///         (biases, another activation, scaled rotary positions, attention dropout, …)
  static LanguageModelConfig from_hugging_face(const nlohmann::json& object, const std::string& source);

  /// The config.json object of a LlamaForCausalLM with this shape, float32.
  nlohmann::json to_hugging_face() const;

  /// @throws Error naming the field where sizes don't fit together
  void check(const std::string& source) const;
};

}  // namespace tessera::language
