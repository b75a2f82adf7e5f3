// LoRA on the language model, by lora's functions alone.

#include <gmock/gmock.h>

#include "core/files.h"
#include "core/safetensors.h"
#include "language/huggingface_export.h"
#include "lora/lora.h"
#include "lora/peft_files.h"
#include "tests/language/fixtures.h"

namespace tessera::language {
namespace {

namespace fs = std::filesystem;

LanguageModelConfig config_of(bool tied) {
  LanguageModelConfig config = small_config();
  config.vocab_size = small_tokenizer().vocab_size();
  config.tie_word_embeddings = tied;
  return config;
}

/// Adapters that act.
void disturb(LanguageModel& model) {
  at::manual_seed(3);
  const at::NoGradGuard no_grad;
  for (auto& [name, parameter] : lora::lora_parameters(*model)) parameter.normal_(0, 0.3);
}

at::Tensor adapted_logits(LanguageModel& model) {
  const at::NoGradGuard no_grad;
  const at::Tensor ids = at::arange(5, 17).view({2, 6});
  return model->logits(model->hidden_states(ids, {}, AttentionMode::kCausal));
}

TEST(LanguageAdapters, AllLinearLeavesTheHeadOutAndItsNameDoesNot) {
  const auto matched = [](const std::vector<std::string>& targets) {
    LanguageModel model(config_of(/*tied=*/false), 1);
    std::vector<std::string> names;
    for (const lora::NamedLinear& item : lora::match_targets(*model, {.target_modules = targets}))
      names.push_back(item.name);
    return names;
  };
  const std::size_t layers = static_cast<std::size_t>(config_of(false).num_hidden_layers);
  EXPECT_EQ(matched({"all-linear"}).size(), 7 * layers);
  EXPECT_THAT(matched({"all-linear"}), testing::Not(testing::Contains("lm_head")));
  EXPECT_THAT(matched({"lm_head"}), testing::ElementsAre("lm_head"));
  EXPECT_EQ(matched({"q_proj", "v_proj"}).size(), 2 * layers);
}

TEST(LanguageAdapters, APeftFolderBringsThemBack) {
  const TemporaryFolder folder;
  LanguageModel model(config_of(/*tied=*/true), 1), other(config_of(/*tied=*/true), 1);
  const lora::LoraOptions options{.r = 3, .lora_alpha = 5, .target_modules = {"q_proj", "down_proj"}};
  lora::inject_lora(*model, options, 0);
  disturb(model);
  lora::save_adapter(folder.path / "adapter", *model, options, {.task_type = "CAUSAL_LM"});
  const at::Tensor before = adapted_logits(other);
  lora::load_adapter(folder.path / "adapter", *other);
  EXPECT_TRUE(at::equal(adapted_logits(other), adapted_logits(model)));
  EXPECT_FALSE(at::allclose(adapted_logits(other), before, 1e-2, 1e-2));
}

TEST(LanguageAdapters, WeightsAreTheBaseModels) {
  LanguageModel model(config_of(/*tied=*/true), 1), plain(config_of(/*tied=*/true), 1);
  lora::inject_lora(*model, {.r = 2, .target_modules = {"all-linear"}}, 0);
  disturb(model);
  const TensorMap weights = language_model_weights(model), expected = language_model_weights(plain);
  ASSERT_EQ(weights.size(), expected.size());
  for (const auto& [name, tensor] : expected) EXPECT_TRUE(at::equal(weights.at(name), tensor)) << name;
}

TEST(LanguageAdapters, MergedTheyAreWrittenInTheTypeOfTheFolderAndWithItsFiles) {
  const TemporaryFolder folder;
  const fs::path source = folder.path / "source", merged = folder.path / "merged";
  LanguageModel model(config_of(/*tied=*/true), 1);
  save_hugging_face(model, small_tokenizer(), source);
  TensorMap narrow = language_model_weights(model);
  for (auto& [name, tensor] : narrow) tensor = tensor.to(at::kBFloat16);
  write_safetensors(source / "model.safetensors", narrow);
  write_file_atomically(source / "special_tokens_map.json", "{}");

  LanguageModel loaded = load_hugging_face(source);
  lora::inject_lora(*loaded, {.r = 2, .target_modules = {"all-linear"}}, 0);
  disturb(loaded);
  const at::Tensor expected = adapted_logits(loaded);
  lora::merge_lora(*loaded);
  EXPECT_TRUE(at::allclose(adapted_logits(loaded), expected, 1e-4, 1e-5));
  save_changed_weights(loaded, source, merged);

  for (const char* file :
       {"config.json", "generation_config.json", "tokenizer.model", "special_tokens_map.json"})
    EXPECT_EQ(read_file(merged / file), read_file(source / file)) << file;
  const SafetensorsFile written(merged / "model.safetensors");
  for (const auto& [name, tensor] : language_model_weights(loaded))
    EXPECT_TRUE(at::equal(written.tensor(name), tensor.to(at::kBFloat16))) << name;
  EXPECT_THAT(error_of([&] { save_changed_weights(loaded, source, merged); }),
              testing::HasSubstr(merged.string()));
}

}  // namespace
}  // namespace tessera::language
