#include <cstdlib>
#include <filesystem>

#include "core/safetensors.h"
#include "lora/peft_files.h"
#include "tests/vision/vision_test_support.h"
#include "vision/encoder_files.h"

namespace tessera::lora {
namespace {

using vision::Dinov2Config;
using vision::random_model;
using vision::save_encoder;
using vision::small_config;

namespace fs = std::filesystem;

void write_exchange(const fs::path& folder, const Dinov2Config& config, const LoraOptions& options) {
  auto model = random_model(config);
  model->eval();
  at::manual_seed(5);
  const at::NoGradGuard no_grad;
  const at::Tensor pixels = at::randn({2, 3, 42, 56});
  fs::create_directories(folder);
  save_encoder(folder / "model", *model);
  TensorMap tensors = {{"pixel_values", pixels}, {"backbone", model->forward(pixels)}};
  inject_lora(*model, options, 3);
  for (auto& [name, parameter] : adapter_parameters(*model, options)) {
    parameter.add_(at::randn_like(parameter), 0.1);
  }
  for (const auto& [name, naming] : {std::pair("adapter", ModuleNaming::kCurrent),
                                     std::pair("adapter_old_names", ModuleNaming::kLegacy)}) {
    if (config.use_swiglu_ffn && naming == ModuleNaming::kLegacy) continue;  // one matrix of two there
    save_adapter(folder / name, *model, options,
                 {.naming = naming,
                  .base_model_class = config.hugging_face_class(),
                  .parent_library = config.hugging_face_module()});
  }
  tensors["adapted"] = model->forward(pixels);
  write_safetensors(folder / "features.safetensors", tensors);
}

/// Writes what scripts/golden/check_against_python.py then loads with transformers and peft.
TEST(PythonExchange, WritesFolders) {
  const char* place = std::getenv("TESSERA_EXCHANGE_DIR");
  if (place == nullptr) {
    GTEST_SKIP() << "TESSERA_EXCHANGE_DIR is not set (scripts/golden/check_against_python.py sets it)";
  }
  Dinov2Config config = small_config();
  config.hidden_size = 64;
  config.image_size = 70;
  config.patch_size = 14;
  write_exchange(fs::path(place) / "query_value", config,
                 {.r = 16, .lora_alpha = 32, .lora_dropout = 0.1, .target_modules = {"query", "value"}});
  LoraOptions every_field{.r = 4,
                          .lora_alpha = 6,
                          .target_modules = ModuleSelection::from_text(".*\\.(query|value|fc1|fc2)"),
                          .exclude_modules = {"0.mlp.fc1"},
                          .rank_pattern = {{"fc2", 2}},
                          .alpha_pattern = {{"layer.1.attention.attention.query", 3}},
                          .use_dora = true,
                          .bias = LoraBias::kLoraOnly,
                          .modules_to_save = {"layernorm"}};
  write_exchange(fs::path(place) / "every_field", config, every_field);
  write_exchange(fs::path(place) / "layers_and_biases", config,
                 {.r = 3,
                  .target_modules = {"dense", "fc2"},
                  .layers_to_transform = {1},
                  .layers_pattern = {"layer"},
                  .bias = LoraBias::kAll,
                  .init = LoraInit::kGaussian});
  for (const LoraInit init : {LoraInit::kPissa, LoraInit::kOlora}) {
    write_exchange(fs::path(place) / init_word(init), config,
                   {.r = 4, .target_modules = {"query", "fc1"}, .init = init});
  }
  Dinov2Config gated = config;
  gated.use_swiglu_ffn = true;
  write_exchange(fs::path(place) / "swiglu", gated,
                 {.r = 4, .lora_alpha = 6, .target_modules = {"all-linear"}, .use_dora = true});
  config.with_registers = true;
  config.num_register_tokens = 4;
  write_exchange(fs::path(place) / "registers_all_linear", config,
                 {.r = 4, .lora_alpha = 2.5, .target_modules = {"all-linear"}, .use_rslora = true});
}

}  // namespace
}  // namespace tessera::lora
