// LoRA on the language model and on the fusion: training, files, merging.

#include <gmock/gmock.h>
#include <torch/torch.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/json_file.h"
#include "language/language_model.h"
#include "lora/lora.h"
#include "model/bundle.h"
#include "model/stage1_model.h"
#include "model/weights.h"
#include "tests/core/error_of.h"
#include "tests/train/runs.h"
#include "tests/train/small_run.h"
#include "train/dry_run.h"

namespace tessera::train {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kLanguageWeights = "language_model/model.safetensors";
constexpr const char* kLanguageAdapter = "language_adapter/adapter_model.safetensors";
constexpr const char* kFusionAdapter = "fusion_adapter/adapter_model.safetensors";

/// Runs that go on from one that trained everything.
class PartAdapters : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    small_ = new SmallRun("tessera-part-adapters");
    Config config = small_->config("source");
    config.schedule.lora_warmup_epochs = 0;
    config.schedule.epochs = 1;
    config.schedule.multipliers.gates = 500;  // so that a step lets something through
    train(config);
  }
  static void TearDownTestSuite() {
    delete small_;
    small_ = nullptr;
  }

  static fs::path checkpoint(const std::string& run) {
    return small_->run_folder(run) / "checkpoints" / "latest";
  }

  static Config config(const std::string& name) {
    Config config = small_->config(name);
    config.init_from = checkpoint("source").string();
    config.schedule.epochs = 2;
    config.schedule.lora_warmup_epochs = 1;
    config.schedule.learning_rate = 2e-2;
    return config;
  }
  static Config adapted(const std::string& name) {
    Config config = PartAdapters::config(name);
    config.language.trainable = lora::TrainableChoice::kLora;
    config.language.lora.r = 3;
    config.language.lora.target_modules = {"q_proj", "v_proj", "up_proj"};
    config.fusion.trainable = lora::TrainableChoice::kLora;
    config.fusion.lora.r = 2;
    config.fusion.lora.target_modules = {"all-linear"};
    config.fusion.lora.use_dora = true;
    return config;
  }
  static TensorMap tensors(const std::string& run, const char* file) {
    return SafetensorsFile(checkpoint(run) / file).tensors();
  }
  /// Those of model.safetensors that are the fusion's.
  static TensorMap fusion(const std::string& run) {
    TensorMap all = tensors(run, "model.safetensors");
    std::erase_if(all, [](const auto& item) { return !item.first.starts_with("fusion."); });
    return all;
  }
  static void expect_same(const TensorMap& expected, const TensorMap& found) {
    ASSERT_EQ(expected.size(), found.size());
    for (const auto& [name, tensor] : expected) {
      ASSERT_EQ(found.count(name), 1u) << name;
      EXPECT_TRUE(torch::equal(tensor, found.at(name))) << name;
    }
  }
  /// The largest of the entries that training began at zero.
  static double largest_b(const TensorMap& adapter) {
    double largest = 0;
    for (const auto& [name, tensor] : adapter) {
      if (name.ends_with("lora_B.weight")) largest = std::max(largest, tensor.abs().max().item<double>());
    }
    return largest;
  }
  /// What a model makes of a fixed image and text, in every pass that reads adapters.
  static std::vector<at::Tensor> outputs(const fs::path& folder) {
    const model::LoadedModel loaded = model::load_model(folder);
    const torch::NoGradGuard no_grad;
    loaded.model->set_training(false);
    const at::Tensor pixels = torch::arange(3 * 42 * 42).remainder(251).to(torch::kByte).view({1, 3, 42, 42});
    const language::TokenBatch tokens = loaded.tokenizer.encode_batch({"a small red circle"});
    const model::ImageFeatures image = loaded.model->encode_image(pixels);
    const model::TextFeatures text = loaded.model->encode_text(tokens);
    return {image.embedding, text.embedding,
            loaded.model->match_logits(image.tokens, text.lower, text.attention_mask),
            loaded.model->caption_logits(tokens, {.image_states = image.states})};
  }

  static SmallRun* small_;
};

SmallRun* PartAdapters::small_ = nullptr;

TEST_F(PartAdapters, TrainWhileTheirBaseWeightsStay) {
  train(adapted("adapted"));
  expect_same(tensors("source", kLanguageWeights), tensors("adapted", kLanguageWeights));
  expect_same(fusion("source"), fusion("adapted"));
  // query, value and up of two layers; the query_key_value, output, up and down of a block, and of two
  // cross-attentions query, key_value and output, and the memory's projection, with magnitudes.
  EXPECT_EQ(tensors("adapted", kLanguageAdapter).size(), 2u * 3 * 2);
  EXPECT_EQ(tensors("adapted", kFusionAdapter).size(), 3u * (4 + 2 * 3 + 1));
  EXPECT_GT(largest_b(tensors("adapted", kLanguageAdapter)), 1e-4);
  EXPECT_GT(largest_b(tensors("adapted", kFusionAdapter)), 1e-4);

  const nlohmann::json peft =
      read_json_file(checkpoint("adapted") / "language_adapter" / "adapter_config.json");
  EXPECT_EQ(peft.at("task_type"), "CAUSAL_LM");
  EXPECT_EQ(peft.at("r"), 3);
  EXPECT_EQ(peft.at("target_modules"), nlohmann::json({"q_proj", "up_proj", "v_proj"}));
  EXPECT_EQ(
      tensors("adapted", kLanguageAdapter).count("base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"),
      1u);
}

TEST_F(PartAdapters, ResumeBitForBit) {
  EXPECT_EQ(train(adapted("whole")).steps, 12);
  train(adapted("resumed"), "", 8);
  Config without_source = adapted("resumed");
  without_source.init_from.clear();  // a run that goes on needs it no more
  EXPECT_EQ(train(without_source, "latest").steps, 12);
  expect_same_checkpoint(checkpoint("whole"), checkpoint("resumed"));
}

TEST_F(PartAdapters, ComeOutMergedAndUnmerged) {
  train(adapted("bundled"));
  const std::vector<at::Tensor> expected = outputs(checkpoint("bundled"));
  const std::vector<at::Tensor> without = outputs(checkpoint("source"));
  const fs::path kept = small_->root() / "kept", merged = small_->root() / "merged";
  model::write_bundle(checkpoint("bundled"), kept, {});
  model::write_bundle(checkpoint("bundled"), merged, {.merge_lora = true});
  for (const char* folder : {"adapter", "language_adapter", "fusion_adapter"}) {
    EXPECT_TRUE(fs::exists(kept / folder)) << folder;
    EXPECT_FALSE(fs::exists(merged / folder)) << folder;
  }
  const std::vector<at::Tensor> of_kept = outputs(kept), of_merged = outputs(merged);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(torch::equal(of_kept[i], expected[i])) << i;
    EXPECT_TRUE(torch::allclose(of_merged[i], expected[i], 1e-4, 1e-5)) << i;
    EXPECT_FALSE(torch::allclose(without[i], expected[i], 1e-3, 1e-4)) << i;
  }
  // The kept bundle is a model to start from, the merged one too, for a run that trains everything.
  Config next = config("after-merged");
  next.init_from = merged.string();
  next.vision.weights = (merged / "backbone").string();
  EXPECT_EQ(train(next, "", 2).steps, 2);
}

TEST_F(PartAdapters, StartFromAPeftFolderWithItsOptions) {
  train(adapted("first"));
  Config next = adapted("second");
  next.language.lora = lora::LoraConfig{.r = 9, .target_modules = {"q_proj", "v_proj"}};
  next.language.lora.adapter = (checkpoint("first") / "language_adapter").string();
  const std::string report = dry_run_report(next);
  EXPECT_THAT(report,
              HasSubstr("language.lora.r: 9 does not count: the adapter " + next.language.lora.adapter));
  EXPECT_THAT(report, HasSubstr("in place of defaults: "));
  train(next, "", 1);
  const TensorMap before = tensors("first", kLanguageAdapter), after = tensors("second", kLanguageAdapter);
  ASSERT_EQ(before.size(), after.size());
  for (const auto& [name, tensor] : before)
    EXPECT_TRUE(torch::allclose(tensor, after.at(name), 1, 0.05)) << name;
}

TEST_F(PartAdapters, AFrozenLanguageModelStays) {
  Config frozen = config("frozen");
  frozen.language.trainable = lora::TrainableChoice::kNone;
  train(frozen);
  expect_same(tensors("source", kLanguageWeights), tensors("frozen", kLanguageWeights));
  EXPECT_FALSE(fs::exists(checkpoint("frozen") / "language_adapter"));
  EXPECT_THAT(read_file(small_->run_folder("frozen") / "training.log"),
              testing::ContainsRegex("language +[0-9,]+ +0\n"));
}

TEST_F(PartAdapters, WhatWouldBeLostOrUselessIsRefused) {
  const auto refusal = [](const Config& config) { return error_of([&] { dry_run_report(config); }); };
  Config random = adapted("refused");
  random.init_from.clear();
  EXPECT_THAT(refusal(random),
              HasSubstr("language.trainable: none and lora leave the language model's weights"));
  random.language.trainable = lora::TrainableChoice::kFull;
  EXPECT_THAT(refusal(random), HasSubstr("fusion.trainable: none and lora leave the fusion's weights"));

  Config unknown = adapted("refused");
  unknown.language.lora.target_modules = {"query"};
  EXPECT_THAT(refusal(unknown),
              AllOf(HasSubstr("language.lora.target_modules: \"query\""), HasSubstr("q_proj")));

  Config misplaced = adapted("refused");
  misplaced.language.lora.adapter = (checkpoint("source") / "adapter").string();
  EXPECT_THAT(refusal(misplaced),
              AllOf(HasSubstr("language.lora.adapter: "), HasSubstr("is no adapter of Llama")));

  Config idle = config("refused");
  idle.language.lora.r = 5;
  EXPECT_THAT(dry_run_report(idle),
              HasSubstr("language.lora.r: 5 does not count: language.trainable is not lora"));
  EXPECT_THAT(dry_run_report(adapted("refused")),
              HasSubstr("LoRA adapters of the language model and the fusion train throughout"));

  Config useless = config("refused");
  useless.fusion.lora.adapter = "somewhere";
  EXPECT_THAT(refusal(useless), HasSubstr("fusion.lora.adapter: counts with fusion.trainable: lora"));

  train(adapted("has-adapters"), "", 1);
  Config loses = config("refused");
  loses.init_from = checkpoint("has-adapters").string();
  EXPECT_THAT(error_of([&] { train(loses); }), HasSubstr("its language model has adapters"));
}

}  // namespace
}  // namespace tessera::train
