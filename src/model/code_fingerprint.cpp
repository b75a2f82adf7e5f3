#include "model/code_fingerprint.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/nn/module.h>

#include <string_view>

#include "config/config.h"
#include "core/sha1.h"
#include "language/tokenizer.h"
#include "lora/lora_options.h"
#include "model/stage1_model.h"

namespace tessera::model {

namespace {

void add_text(Sha1& hash, std::string_view text) { hash.update(text.data(), text.size()); }

/// Name, shape and values: the same bytes under another name are another model.
void add_tensor(Sha1& hash, const std::string& name, const at::Tensor& tensor) {
  const at::Tensor values = tensor.detach().cpu().contiguous();
  add_text(hash, fmt::format("{} {} [{}]\n", name, c10::toString(values.scalar_type()),
                             fmt::join(values.sizes().vec(), ",")));
  hash.update(values.const_data_ptr(), values.nbytes());
}

void add_alphas(Sha1& hash, const lora::LoraOptions& options) {
  for (const auto& [module, alpha] : options.alpha_pattern)
    add_text(hash, fmt::format("{} {}", module, alpha));
}

/// Of the tower, the unfused image pass alone; of the memory, the addresses' reference.
bool codes_depend_on(const NamedParameter& parameter) {
  const std::string& name = parameter.name;
  switch (parameter.part) {
    case Part::kBackbone:
    case Part::kLora:
    case Part::kCompressor:
    case Part::kLanguage:
      return true;
    case Part::kFusion:
      return name.rfind("fusion.image_blocks.", 0) == 0 &&
             name.find(".cross_attention.") == std::string::npos;
    case Part::kMemory:
      return (name.rfind("pair_code.", 0) == 0 && !name.ends_with("_moments.batches")) ||
             name == "memory.prior_mean";
    case Part::kGates:
    case Part::kHeads:
    case Part::kTemperature:
      return false;
  }
  TORCH_CHECK(false, "code_fingerprint: unknown part");
}

}  // namespace

std::string code_fingerprint(const Stage1Model& model, const Config& config,
                             const language::Tokenizer& tokenizer) {
  Sha1 hash;
  for (const NamedParameter& parameter : model.named_parts()) {
    if (codes_depend_on(parameter)) add_tensor(hash, parameter.name, parameter.tensor);
  }
  for (const auto& buffer : model.module().named_buffers()) {
    const bool of_codes = buffer.key().rfind("pair_code.", 0) == 0 || buffer.key().rfind("pixel_", 0) == 0;
    if (of_codes) add_tensor(hash, buffer.key(), buffer.value());
  }
  add_text(hash, tokenizer.model_bytes());
  add_text(hash, fmt::format("image_size {} max_tokens {} lora {}", config.data.image_size,
                             config.language.max_tokens, model.lora() ? model.lora()->scaling() : 0));
  if (model.lora()) add_alphas(hash, *model.lora());
  for (const auto* options : {&model.language_lora(), &model.fusion_lora()}) {
    if (!*options) continue;
    add_text(hash, fmt::format("lora {}", (*options)->scaling()));
    add_alphas(hash, **options);
  }
  return hash.hex_digest();
}

}  // namespace tessera::model
