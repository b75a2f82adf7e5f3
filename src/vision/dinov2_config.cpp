#include "vision/dinov2_config.h"

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/json_file.h"

namespace tessera::vision {

namespace {

using nlohmann::json;

constexpr const char* kInterpolationField = "tessera_position_interpolation";

constexpr std::array<std::pair<PositionInterpolation, std::string_view>, 3> kInterpolations = {{
    {PositionInterpolation::kScaleFactor, "scale_factor"},
    {PositionInterpolation::kSize, "size"},
    {PositionInterpolation::kSizeAntialias, "size_antialias"},
}};

/// Reads one field after another, with messages that name source and field.
class FieldReader {
 public:
  FieldReader(const json& object, const std::string& source) : object_(object), source_(source) {
    if (!object.is_object()) {
      fail("{}: expected a JSON object with the model's configuration, found {}", source, object.type_name());
    }
  }

  std::int64_t integer(const char* field, std::int64_t fallback) const {
    const json* value = find(field);
    return value == nullptr ? fallback : as_integer(*value, field);
  }

  /// A side's length: an integer, or a list of two equal ones.
  std::int64_t side(const char* field, std::int64_t fallback) const {
    const json* value = find(field);
    if (value == nullptr) {
      return fallback;
    }
    if (!value->is_array()) {
      return as_integer(*value, field);
    }
    if (value->size() != 2 || (*value)[0] != (*value)[1]) {
      fail("{}: {}: expected one number or two equal ones, found {}", source_, field, json_text(*value));
    }
    return as_integer((*value)[0], field);
  }

  double number(const char* field, double fallback) const {
    const json* value = find(field);
    if (value == nullptr) {
      return fallback;
    }
    const double number = value->is_number() ? value->get<double>() : std::nan("");
    if (!std::isfinite(number)) {
      fail("{}: {}: expected a number, found {}", source_, field, json_text(*value));
    }
    return number;
  }

  bool boolean(const char* field, bool fallback) const {
    const json* value = find(field);
    if (value == nullptr) {
      return fallback;
    }
    if (!value->is_boolean()) {
      fail("{}: {}: expected true or false, found {}", source_, field, json_text(*value));
    }
    return value->get<bool>();
  }

  /// The field may be absent; where it is there, it must have the one value that is supported.
  void only(const char* field, const json& supported) const {
    const json* value = find(field);
    if (value != nullptr && *value != supported) {
      fail("{}: {}: only {} is supported, found {}", source_, field, supported.dump(), json_text(*value));
    }
  }

  const json* find(const char* field) const {
    const auto found = object_.find(field);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

 private:
  std::int64_t as_integer(const json& value, const char* field) const {
    if (!value.is_number_integer()) {
      fail("{}: {}: expected an integer, found {}", source_, field, json_text(value));
    }
    return value.get<std::int64_t>();
  }

  const json& object_;
  const std::string& source_;
};

bool reads_registers(const FieldReader& fields, const std::string& source) {
  const json* model_type = fields.find("model_type");
  if (model_type == nullptr) {
    return fields.find("num_register_tokens") != nullptr;
  }
  if (*model_type == "dinov2_with_registers") {
    return true;
  }
  if (*model_type != "dinov2") {
    fail("{}: model_type: expected \"dinov2\" or \"dinov2_with_registers\", found {}", source,
         json_text(*model_type));
  }
  return false;
}

PositionInterpolation read_interpolation(const FieldReader& fields, const std::string& source) {
  const json* found = fields.find(kInterpolationField);
  if (found == nullptr) {
    return PositionInterpolation::kAuto;
  }
  for (const auto& [value, name] : kInterpolations) {
    if (found->is_string() && found->get<std::string>() == name) {
      return value;
    }
  }
  fail("{}: {}: expected scale_factor, size or size_antialias, found {}", source, kInterpolationField,
       json_text(*found));
}

void check_range(const std::string& source, const char* field, std::int64_t value, std::int64_t low,
                 std::int64_t high) {
  if (value < low || value > high) {
    fail("{}: {}: expected {} to {}, found {}", source, field, low, high, value);
  }
}

}  // namespace

Dinov2Config Dinov2Config::from_json(const json& object, const std::string& source) {
  const FieldReader fields(object, source);
  Dinov2Config config;
  config.with_registers = reads_registers(fields, source);
  config.hidden_size = fields.integer("hidden_size", 768);
  config.num_hidden_layers = fields.integer("num_hidden_layers", 12);
  config.num_attention_heads = fields.integer("num_attention_heads", 12);
  config.mlp_ratio = fields.number("mlp_ratio", 4);
  config.image_size = fields.side("image_size", 224);
  config.patch_size = fields.side("patch_size", config.with_registers ? 16 : 14);
  config.num_register_tokens = config.with_registers ? fields.integer("num_register_tokens", 4) : 0;
  config.qkv_bias = fields.boolean("qkv_bias", true);
  config.use_swiglu_ffn = fields.boolean("use_swiglu_ffn", false);
  config.use_mask_token = config.with_registers || fields.boolean("use_mask_token", true);
  config.layerscale_value = fields.number("layerscale_value", 1.0);
  config.layer_norm_eps = fields.number("layer_norm_eps", 1e-6);
  config.position_interpolation = read_interpolation(fields, source);
  fields.only("num_channels", 3);
  if (!config.use_swiglu_ffn) {
    fields.only("hidden_act", "gelu");
  }
  fields.only("hidden_dropout_prob", 0);
  fields.only("attention_probs_dropout_prob", 0);
  fields.only("drop_path_rate", 0);
  config.check(source);
  return config;
}

Dinov2Config Dinov2Config::from_architecture(const ArchitectureConfig& architecture) {
  Dinov2Config config;
  config.hidden_size = architecture.hidden_size;
  config.num_hidden_layers = architecture.num_hidden_layers;
  config.num_attention_heads = architecture.num_attention_heads;
  config.mlp_ratio = static_cast<double>(architecture.mlp_ratio);
  config.image_size = architecture.image_size;
  config.patch_size = architecture.patch_size;
  config.num_register_tokens = architecture.num_register_tokens;
  config.with_registers = architecture.num_register_tokens > 0;
  config.layerscale_value = architecture.layerscale_value;
  config.layer_norm_eps = architecture.layer_norm_eps;
  config.check("vision.architecture");
  return config;
}

void Dinov2Config::check(const std::string& source) const {
  check_range(source, "hidden_size", hidden_size, 1, 65536);
  check_range(source, "num_hidden_layers", num_hidden_layers, 1, 1024);
  check_range(source, "num_attention_heads", num_attention_heads, 1, hidden_size);
  check_range(source, "image_size", image_size, 1, 16384);
  check_range(source, "patch_size", patch_size, 1, image_size);
  check_range(source, "num_register_tokens", num_register_tokens, 0, 1024);
  if (hidden_size % num_attention_heads != 0) {
    fail("{}: hidden_size: expected a multiple of num_attention_heads ({}), found {}", source,
         num_attention_heads, hidden_size);
  }
  if (!(mlp_ratio > 0) || mlp_ratio > 64) {
    fail("{}: mlp_ratio: expected more than 0 and at most 64, found {}", source, mlp_ratio);
  }
  if (intermediate_size() < 1) {
    fail("{}: mlp_ratio: a feed-forward part of no width ({} times hidden_size {})", source, mlp_ratio,
         hidden_size);
  }
  if (!(layer_norm_eps > 0)) {
    fail("{}: layer_norm_eps: expected more than 0, found {}", source, layer_norm_eps);
  }
}

std::int64_t Dinov2Config::intermediate_size() const {
  const auto width = static_cast<std::int64_t>(static_cast<double>(hidden_size) * mlp_ratio);
  if (!use_swiglu_ffn) {
    return width;
  }
  // Two thirds, so that the gate's extra matrix costs nothing; rounded up to a multiple of 8.
  const auto gated = static_cast<std::int64_t>(static_cast<double>(width) * 2.0 / 3.0);
  return (gated + 7) / 8 * 8;
}

json Dinov2Config::to_json() const {
  const bool whole = mlp_ratio == static_cast<double>(static_cast<std::int64_t>(mlp_ratio));
  json object = {
      {"architectures", {hugging_face_class()}},
      {"model_type", with_registers ? "dinov2_with_registers" : "dinov2"},
      {"dtype", "float32"},
      {"hidden_size", hidden_size},
      {"num_hidden_layers", num_hidden_layers},
      {"num_attention_heads", num_attention_heads},
      {"mlp_ratio", whole ? json(static_cast<std::int64_t>(mlp_ratio)) : json(mlp_ratio)},
      {"image_size", image_size},
      {"patch_size", patch_size},
      {"num_channels", 3},
      {"qkv_bias", qkv_bias},
      {"use_swiglu_ffn", use_swiglu_ffn},
      {"hidden_act", "gelu"},
      {"hidden_dropout_prob", 0.0},
      {"attention_probs_dropout_prob", 0.0},
      {"drop_path_rate", 0.0},
      {"initializer_range", 0.02},
      {"layerscale_value", layerscale_value},
      {"layer_norm_eps", layer_norm_eps},
  };
  if (with_registers) {
    object["num_register_tokens"] = num_register_tokens;
  } else {
    object["use_mask_token"] = use_mask_token;
  }
  for (const auto& [value, name] : kInterpolations) {
    if (position_interpolation == value && value != hugging_face_interpolation()) {
      object[kInterpolationField] = name;
    }
  }
  return object;
}

PositionInterpolation Dinov2Config::hugging_face_interpolation() const {
  return with_registers ? PositionInterpolation::kSizeAntialias : PositionInterpolation::kSize;
}

const char* Dinov2Config::hugging_face_module() const {
  return with_registers ? "transformers.models.dinov2_with_registers.modeling_dinov2_with_registers"
                        : "transformers.models.dinov2.modeling_dinov2";
}

}  // namespace tessera::vision
