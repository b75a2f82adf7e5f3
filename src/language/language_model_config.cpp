#include "language/language_model_config.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json_file.h"

namespace tessera::language {
namespace {

using nlohmann::json;

/// Typed access to the fields of a config.json object; null counts as absent, as it does in Hugging Face.
class FieldReader {
 public:
  FieldReader(const json& object, const std::string& source) : object_(object), source_(source) {
    if (!object.is_object()) fail("{}: a JSON object is expected, found {}", source, object.type_name());
  }

  const json* find(const std::string& field) const {
    const auto it = object_.find(field);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  std::int64_t integer(const std::string& field) const {
    const json* value = find(field);
    if (value == nullptr) fail("{}: the field '{}' is missing", source_, field);
    return as_integer(field, *value);
  }
  std::int64_t integer(const std::string& field, std::int64_t fallback) const {
    const json* value = find(field);
    return value == nullptr ? fallback : as_integer(field, *value);
  }
  double number(const std::string& field, double fallback) const {
    const json* value = find(field);
    if (value == nullptr) return fallback;
    return as_number(field, *value);
  }
  bool boolean(const std::string& field, bool fallback) const {
    const json* value = find(field);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) refuse(field, *value, "true or false");
    return value->get<bool>();
  }
  /// Refuses every value but `accepted`, which is also what an absent field means.
  void only(const std::string& field, const json& accepted) const {
    const json* value = find(field);
    if (value != nullptr && *value != accepted) refuse(field, *value, accepted.dump());
  }
  [[noreturn]] void refuse(const std::string& field, const json& found, const std::string& accepted) const {
    fail("{}: '{}' is {}, accepted is {}", source_, field, json_text(found), accepted);
  }

  double as_number(const std::string& field, const json& value) const {
    const double number = value.is_number() ? value.get<double>() : std::nan("");
    if (!std::isfinite(number)) refuse(field, value, "a number");
    return number;
  }

 private:
  std::int64_t as_integer(const std::string& field, const json& value) const {
    if (!value.is_number_integer()) refuse(field, value, "an integer");
    return value.get<std::int64_t>();
  }

  const json& object_;
  const std::string& source_;
};

/// transformers 5 writes the base of the rotary positions into `rope_parameters`, version 4 beside
/// `rope_scaling`.
double read_rope_theta(const FieldReader& fields) {
  double theta = fields.number("rope_theta", 10000.0);
  for (const char* field : {"rope_parameters", "rope_scaling"}) {
    const json* rope = fields.find(field);
    if (rope == nullptr) continue;
    if (!rope->is_object()) fields.refuse(field, *rope, "an object or null");
    for (const char* type : {"rope_type", "type"}) {
      const auto found = rope->find(type);
      if (found != rope->end() && *found != "default") {
        fields.refuse(std::string(field) + "." + type, *found, "\"default\"");
      }
    }
    const auto found = rope->find("rope_theta");
    if (found == rope->end()) continue;
    theta = fields.as_number(std::string(field) + ".rope_theta", *found);
  }
  return theta;
}

}  // namespace

LanguageModelConfig LanguageModelConfig::from_config(const LanguageConfig& config) {
  LanguageModelConfig result;
  result.vocab_size = config.vocab_size;
  result.hidden_size = config.hidden_size;
  result.num_hidden_layers = config.num_hidden_layers;
  result.num_attention_heads = config.num_attention_heads;
  result.num_key_value_heads = config.num_attention_heads;
  result.intermediate_size = config.intermediate_size;
  result.max_position_embeddings = config.max_position_embeddings;
  result.rope_theta = config.rope_theta;
  result.rms_norm_eps = config.rms_norm_eps;
  result.check("language");
  return result;
}

LanguageModelConfig LanguageModelConfig::from_hugging_face(const json& object, const std::string& source) {
  const FieldReader fields(object, source);
  fields.only("model_type", "llama");
  fields.only("architectures", json::array({"LlamaForCausalLM"}));
  fields.only("hidden_act", "silu");
  fields.only("attention_bias", false);
  fields.only("mlp_bias", false);
  fields.only("pretraining_tp", 1);
  if (fields.number("attention_dropout", 0.0) != 0.0) {
    fields.refuse("attention_dropout", *fields.find("attention_dropout"), "0");
  }

  LanguageModelConfig result;
  result.vocab_size = fields.integer("vocab_size");
  result.hidden_size = fields.integer("hidden_size");
  result.num_hidden_layers = fields.integer("num_hidden_layers");
  result.num_attention_heads = fields.integer("num_attention_heads");
  result.num_key_value_heads = fields.integer("num_key_value_heads", result.num_attention_heads);
  result.intermediate_size = fields.integer("intermediate_size");
  result.max_position_embeddings = fields.integer("max_position_embeddings", 2048);
  result.rope_theta = read_rope_theta(fields);
  result.rms_norm_eps = fields.number("rms_norm_eps", 1e-6);
  result.initializer_range = fields.number("initializer_range", 0.02);
  result.tie_word_embeddings = fields.boolean("tie_word_embeddings", false);
  result.pad_token_id = fields.integer("pad_token_id", -1);
  result.bos_token_id = fields.integer("bos_token_id", 1);
  result.eos_token_id = fields.integer("eos_token_id", 2);
  result.check(source);
  if (const json* head_dim = fields.find("head_dim"); head_dim != nullptr && *head_dim != result.head_dim()) {
    fields.refuse("head_dim", *head_dim,
                  fmt::format("hidden_size / num_attention_heads = {}", result.head_dim()));
  }
  return result;
}

json LanguageModelConfig::to_hugging_face() const {
  const auto optional_id = [](std::int64_t id) { return id < 0 ? json(nullptr) : json(id); };
  // The base of the rotary positions stands twice: rope_parameters is what transformers 5 reads, rope_theta
  // is what version 4 reads; likewise dtype and torch_dtype.
  return {
      {"architectures", {"LlamaForCausalLM"}},
      {"model_type", "llama"},
      {"vocab_size", vocab_size},
      {"hidden_size", hidden_size},
      {"num_hidden_layers", num_hidden_layers},
      {"num_attention_heads", num_attention_heads},
      {"num_key_value_heads", num_key_value_heads},
      {"head_dim", head_dim()},
      {"intermediate_size", intermediate_size},
      {"hidden_act", "silu"},
      {"max_position_embeddings", max_position_embeddings},
      {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", rope_theta}}},
      {"rope_theta", rope_theta},
      {"rms_norm_eps", rms_norm_eps},
      {"initializer_range", initializer_range},
      {"attention_bias", false},
      {"attention_dropout", 0.0},
      {"mlp_bias", false},
      {"tie_word_embeddings", tie_word_embeddings},
      {"pad_token_id", optional_id(pad_token_id)},
      {"bos_token_id", optional_id(bos_token_id)},
      {"eos_token_id", optional_id(eos_token_id)},
      {"use_cache", true},
      {"dtype", "float32"},
      {"torch_dtype", "float32"},
  };
}

void LanguageModelConfig::check(const std::string& source) const {
  const auto positive = [&](const char* field, std::int64_t value) {
    if (value < 1) fail("{}: '{}' is {}, it must be at least 1", source, field, value);
  };
  positive("vocab_size", vocab_size);
  positive("hidden_size", hidden_size);
  positive("num_hidden_layers", num_hidden_layers);
  positive("num_attention_heads", num_attention_heads);
  positive("num_key_value_heads", num_key_value_heads);
  positive("intermediate_size", intermediate_size);
  positive("max_position_embeddings", max_position_embeddings);
  if (hidden_size % num_attention_heads != 0) {
    fail("{}: 'hidden_size' is {}, it must be a multiple of 'num_attention_heads', {}", source, hidden_size,
         num_attention_heads);
  }
  if (head_dim() % 2 != 0) {
    fail("{}: 'hidden_size' / 'num_attention_heads' is {}, rotary positions need an even number", source,
         head_dim());
  }
  if (num_attention_heads % num_key_value_heads != 0) {
    fail("{}: 'num_attention_heads' is {}, it must be a multiple of 'num_key_value_heads', {}", source,
         num_attention_heads, num_key_value_heads);
  }
  if (!(rope_theta > 0.0)) fail("{}: 'rope_theta' is {}, it must be positive", source, rope_theta);
  if (!(rms_norm_eps > 0.0)) fail("{}: 'rms_norm_eps' is {}, it must be positive", source, rms_norm_eps);
  if (!(initializer_range >= 0.0)) {
    fail("{}: 'initializer_range' is {}, it must not be negative", source, initializer_range);
  }
  const auto token = [&](const char* field, std::int64_t id) {
    if (id < -1 || id >= vocab_size) {
      fail("{}: '{}' is {}, it must be null or an id below 'vocab_size', {}", source, field, id, vocab_size);
    }
  };
  token("pad_token_id", pad_token_id);
  token("bos_token_id", bos_token_id);
  token("eos_token_id", eos_token_id);
}

}  // namespace tessera::language
