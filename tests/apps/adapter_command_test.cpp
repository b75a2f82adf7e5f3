// `tessera adapter` as a user runs it: every action over PEFT folders and a DINOv2 folder.

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "core/files.h"
#include "language/huggingface_export.h"
#include "language/language_config.h"
#include "language/tokenizer_training.h"
#include "lora/adapter_files.h"
#include "lora/adapter_set.h"
#include "lora/lora.h"
#include "tests/apps/run_to_end.h"
#include "tests/core/temporary_folder.h"
#include "vision/dinov2.h"
#include "vision/dinov2_names.h"
#include "vision/encoder_families.h"
#include "vision/encoder_files.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using Json = nlohmann::json;
using lora::LoraOptions;
using lora::ModuleNaming;

class AdapterCommand : public testing::Test {
 protected:
  AdapterCommand() {
    vision::initialise_random(*model_, 1);
    model_->eval();
    vision::save_encoder(path("model"), *model_, {.crop_size = 42, .shortest_edge = 48});
  }

  static vision::Dinov2Config config() {
    vision::Dinov2Config config = vision::Dinov2Config::from_architecture({});
    config.hidden_size = 32;
    config.num_hidden_layers = 11;  // so that layer 10 has to come behind layer 9
    config.num_attention_heads = 2;
    config.image_size = 28;
    return config;
  }

  fs::path path(const std::string& name) const { return temporary_.path() / name; }

  /// Writes an adapter that does something.
  void write(const std::string& name, const LoraOptions& options, std::uint64_t seed,
             ModuleNaming naming = ModuleNaming::kCurrent) {
    lora::AdapterSet adapters(*model_);
    adapters.add(name, options, seed);
    at::manual_seed(seed);
    for (const auto& [parameter, tensor] : adapters.parameters(name)) {
      const at::NoGradGuard no_grad;
      at::Tensor writable = tensor;
      writable.add_(at::randn_like(tensor), 0.1);
    }
    adapters.save(name, path(name), {.naming = naming, .base_model_name_or_path = "some/model"});
  }

  Finished adapter(const std::string& words) const {
    return run_to_end(fmt::format("cd {} && {} adapter {}", temporary_.path().string(), TESSERA_TOOL, words));
  }

  /// Features of a model folder under an adapter folder, or without.
  at::Tensor features(const std::string& model, const std::string& adapter = "") const {
    const at::NoGradGuard no_grad;
    const auto loaded = vision::load_encoder(path(model));
    if (!adapter.empty()) lora::load_adapter(path(adapter), *loaded);
    loaded->eval();
    at::manual_seed(3);
    return loaded->forward(at::randn({2, 3, 28, 42}));
  }
  static double difference(const at::Tensor& a, const at::Tensor& b) {
    return (a - b).abs().max().item<double>();
  }

  const TemporaryFolder temporary_;
  std::shared_ptr<vision::Dinov2Model> model_ = std::make_shared<vision::Dinov2Model>(config());
};

TEST_F(AdapterCommand, InspectSaysWhatItIsMadeOf) {
  write("a", {.r = 3, .lora_alpha = 6, .target_modules = {"query", "fc1"}, .rank_pattern = {{"fc1", 2}}}, 1);
  const Finished lines = adapter("inspect a");
  EXPECT_EQ(lines.exit_code, 0) << lines.output;
  EXPECT_THAT(lines.output, HasSubstr("encoder.layer.10.attention.q_proj"));
  EXPECT_LT(lines.output.find("layer.9.mlp.fc1"), lines.output.find("layer.10.mlp.fc1"));
  const Finished json = adapter("inspect a --json");
  ASSERT_EQ(json.exit_code, 0) << json.output;
  const Json said = Json::parse(json.output);
  EXPECT_EQ(said["naming"], "current");
  EXPECT_EQ(said["parameters"], 11 * (3 * (32 + 32) + 2 * (32 + 128)));
  EXPECT_EQ(said["modules"].size(), 22);
  EXPECT_EQ(said["modules"][1]["name"], "encoder.layer.0.mlp.fc1");
  EXPECT_EQ(said["modules"][1]["r"], 2);
  EXPECT_EQ(said["modules"][1]["scaling"], 3.0);
}

TEST_F(AdapterCommand, MergeWritesAPlainModelOfTheSameFeatures) {
  write("a", {.r = 4, .lora_alpha = 8, .target_modules = {"all-linear"}, .use_dora = true}, 1);
  const Finished merged = adapter("merge a --model model --output merged");
  ASSERT_EQ(merged.exit_code, 0) << merged.output;
  EXPECT_GT(difference(features("model"), features("model", "a")), 0.05);
  EXPECT_LT(difference(features("merged"), features("model", "a")), 1e-4);
  EXPECT_EQ(read_file(path("merged/preprocessor_config.json")),
            read_file(path("model/preprocessor_config.json")));
  EXPECT_THAT(adapter("merge a --model model --output merged").output, HasSubstr("exists already"));
}

TEST_F(AdapterCommand, MergeKeepsTheTypeOfTheWeights) {
  write("a", {.r = 2, .target_modules = {"query"}}, 1);
  vision::save_encoder(path("narrow"), *model_, {.crop_size = 42}, at::kBFloat16);
  ASSERT_EQ(adapter("merge a --model narrow --output merged").exit_code, 0);
  const SafetensorsFile file(path("merged/model.safetensors"));
  for (const std::string& name : file.names())
    EXPECT_EQ(file.tensor(name).scalar_type(), at::kBFloat16) << name;
  EXPECT_EQ(Json::parse(read_file(path("merged/config.json")))["dtype"], "bfloat16");
}

TEST_F(AdapterCommand, ALanguageModelsAdapterIsInspectedAndMerged) {
  const auto tokenizer =
      language::train_tokenizer({"a small red circle is left of a large blue square"},
                                path("tokenizer.model"), {.vocab_size = 280, .hard_vocab_limit = false});
  language::LanguageConfig config;
  config.vocab_size = tokenizer.vocab_size();
  config.hidden_size = 8;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 2;
  config.intermediate_size = 12;
  language::LanguageModel model(language::LanguageModelConfig::from_config(config), 1);
  language::save_hugging_face(model, tokenizer, path("llama"));
  const lora::LoraOptions options{
      .r = 2, .target_modules = {"v_proj", "up_proj"}, .init = lora::LoraInit::kNone};
  lora::inject_lora(*model, options, 3);
  lora::save_adapter(path("a"), *model, options, {.task_type = "CAUSAL_LM"});

  const Finished inspected = adapter("inspect a --json");
  ASSERT_EQ(inspected.exit_code, 0) << inspected.output;
  const Json json = Json::parse(inspected.output);
  EXPECT_EQ(json["modules"].size(), 4u);
  EXPECT_EQ(json["modules"][0]["name"], "model.layers.0.mlp.up_proj");
  const Finished merged = adapter("merge a --model llama --output merged");
  ASSERT_EQ(merged.exit_code, 0) << merged.output;
  lora::merge_lora(*model);
  language::LanguageModel loaded = language::load_hugging_face(path("merged"));
  const TensorMap weights = language::language_model_weights(loaded);
  for (const auto& [name, tensor] : language::language_model_weights(model))
    EXPECT_TRUE(at::equal(weights.at(name), tensor)) << name;
  EXPECT_EQ(read_file(path("merged/tokenizer.model")), tokenizer.model_bytes());
  EXPECT_THAT(adapter("merge a --model model --output wrong").output,
              HasSubstr("a: is no adapter of DINOv2"));
  EXPECT_THAT(adapter("convert a --naming legacy --output old").output, HasSubstr("nothing to convert"));
  write("eyes", {.r = 2, .target_modules = {"query"}}, 1);
  EXPECT_THAT(adapter("combine a eyes --output both").output,
              HasSubstr("a is an adapter of Llama, eyes of DINOv2"));
}

TEST_F(AdapterCommand, ConvertRenamesAndBackAgainIsTheSameByteForByte) {
  write("plain", {.r = 2, .target_modules = {"query", "dense"}}, 1);
  write("chosen",
        {.r = 2,
         .lora_alpha = 4,
         .target_modules = {"all-linear"},
         .exclude_modules = {"fc2"},
         .layers_to_transform = {1, 10},
         .rank_pattern = {{"key", 1}},
         .bias = lora::LoraBias::kLoraOnly},
        2);
  for (const std::string name : {"plain", "chosen"}) {
    ASSERT_EQ(adapter(fmt::format("convert {0} --naming legacy --output {0}-old", name)).exit_code, 0);
    ASSERT_EQ(adapter(fmt::format("convert {0}-old --output {0}-new", name)).exit_code, 0);
    EXPECT_EQ(read_file(path(name + "-new/adapter_model.safetensors")),
              read_file(path(name + "/adapter_model.safetensors")));
    EXPECT_THAT(read_file(path(name + "-old/adapter_config.json")), HasSubstr("query"));
    EXPECT_TRUE(at::equal(features("model", name + "-old"), features("model", name)));
    EXPECT_TRUE(at::equal(features("model", name + "-new"), features("model", name)));
    EXPECT_EQ(adapter(fmt::format("diff {0} {0}-old", name)).exit_code, 0);
  }
  const Json config = Json::parse(read_file(path("plain-old/adapter_config.json")));
  EXPECT_EQ(config["target_modules"], Json({"dense", "query"}));
}

TEST_F(AdapterCommand, TensorsMayBeRenamedWithoutTheirConfiguration) {
  write("a", {.r = 2, .target_modules = {"query", "fc1"}}, 1);
  lora::AdapterFiles files = lora::read_adapter(path("a"), vision::dinov2_module_names());
  files.config["target_modules"] = {"query", "fc1"};
  lora::write_adapter(path("mixed"), files);
  EXPECT_TRUE(at::equal(features("model", "mixed"), features("model", "a")));
  for (const char* naming : {"current", "legacy"}) {
    ASSERT_EQ(adapter(fmt::format("convert mixed --naming {0} --output {0}", naming)).exit_code, 0);
    EXPECT_TRUE(at::equal(features("model", naming), features("model", "a")));
  }
  EXPECT_EQ(adapter("diff mixed a").exit_code, 0);
}

TEST_F(AdapterCommand, OfAModelWithAHeadTheBackbonesPartCanBeTaken) {
  write("plain",
        {.r = 2,
         .target_modules = {"query", "fc1"},
         .rank_pattern = {{"fc1", 3}},
         .modules_to_save = {"norm1"}},
        1);
  // As PEFT saves it of a Dinov2ForImageClassification.
  lora::AdapterFiles wrapped = lora::read_adapter(path("plain"), vision::dinov2_module_names());
  TensorMap tensors;
  for (const auto& [key, tensor] : wrapped.tensors) {
    const std::string prefix = "base_model.model.";
    tensors[prefix + "dinov2." + key.substr(prefix.size())] = tensor;
  }
  wrapped.tensors = tensors;
  wrapped.config["auto_mapping"] = {{"base_model_class", "Dinov2ForImageClassification"}};
  lora::write_adapter(path("wrapped"), wrapped);
  EXPECT_TRUE(at::equal(features("model", "wrapped"), features("model", "plain")));

  EXPECT_EQ(adapter("diff wrapped plain").exit_code, 0);
  EXPECT_EQ(adapter("inspect wrapped").exit_code, 0);

  wrapped.tensors["base_model.model.classifier.weight"] = at::ones({3, 64});
  wrapped.tensors["base_model.model.classifier.bias"] = at::ones({3});
  wrapped.config["modules_to_save"] = {"classifier", "dinov2.encoder.layer.0.norm1", "norm1"};
  lora::write_adapter(path("headed"), wrapped);
  for (auto& [key, tensor] : TensorMap(wrapped.tensors)) {
    if (key.find("classifier") != std::string::npos) wrapped.tensors.erase(key);
  }
  wrapped.tensors["base_model.model.classifier.lora_A.weight"] = at::ones({2, 64});
  wrapped.tensors["base_model.model.classifier.lora_B.weight"] = at::ones({3, 2});
  wrapped.config["modules_to_save"] = {"norm1"};
  wrapped.config["target_modules"] = Json::array({"classifier"});
  for (const auto& [key, tensor] : tensors) {
    const std::string ending = ".lora_A.weight";
    if (key.ends_with(ending))
      wrapped.config["target_modules"].push_back(key.substr(17, key.size() - 17 - ending.size()));
  }
  lora::write_adapter(path("adapted-head"), wrapped);
  for (const std::string name : {"headed", "adapted-head"}) {
    const Finished refused = adapter(fmt::format("merge {} --model model --output x", name));
    EXPECT_EQ(refused.exit_code, 1);
    EXPECT_THAT(refused.output, AllOf(HasSubstr("classifier"), HasSubstr("--backbone-only")));
    const Finished converted = adapter(fmt::format("convert {0} --backbone-only --output {0}-bare", name));
    ASSERT_EQ(converted.exit_code, 0) << converted.output;
    EXPECT_TRUE(at::equal(features("model", name + "-bare"), features("model", "plain")));
    EXPECT_THAT(adapter(fmt::format("diff {}-bare plain", name)).output, Not(HasSubstr("encoder.layer.10")));
    const Json config = Json::parse(read_file(path(name + "-bare/adapter_config.json")));
    EXPECT_EQ(config["auto_mapping"]["base_model_class"], "Dinov2Model");
    EXPECT_EQ(config["modules_to_save"].back(), "norm1");
    EXPECT_THAT(config["modules_to_save"].dump(), Not(HasSubstr("dinov2")));
    EXPECT_THAT(config.dump(), Not(HasSubstr("classifier")));
  }
}

TEST_F(AdapterCommand, CombineAddsUpAndDiffTellsApart) {
  write("a", {.r = 2, .lora_alpha = 4, .target_modules = {"query"}}, 1);
  write("b", {.r = 3, .lora_alpha = 3, .target_modules = {"query", "fc1"}}, 2, ModuleNaming::kLegacy);
  const Finished combined = adapter("combine a=0.5 b=-1 --output both");
  ASSERT_EQ(combined.exit_code, 0) << combined.output;
  const auto weight = [&](const std::string& name) {
    const auto loaded = vision::load_encoder(path("model"));
    lora::load_adapter(path(name), *loaded);
    lora::merge_lora(*loaded);
    return loaded->file_tensors()
        .at("encoder.layer.10.attention.attention.query.weight")
        .detach()
        .to(at::kDouble);
  };
  const at::Tensor base =
      model_->file_tensors().at("encoder.layer.10.attention.attention.query.weight").detach().to(at::kDouble);
  EXPECT_LT(difference(weight("both") - base, 0.5 * (weight("a") - base) - (weight("b") - base)), 1e-6);

  const Finished narrow = adapter("combine a b --type svd --rank 5 --output svd");
  ASSERT_EQ(narrow.exit_code, 0) << narrow.output;
  ASSERT_EQ(adapter("combine a b --output cat").exit_code, 0);
  EXPECT_EQ(adapter("diff svd cat --tolerance 1e-5").exit_code, 0);  // rank 5 holds all of it
  const Finished apart = adapter("diff a b");
  EXPECT_EQ(apart.exit_code, 1);
  EXPECT_THAT(apart.output, HasSubstr("encoder.layer.10.mlp.fc1: only in b"));
  EXPECT_THAT(apart.output, HasSubstr("r 2 and 3"));
  EXPECT_THAT(adapter("combine a b --type linear --output x").output, HasSubstr("ranks 2 and 3"));
  EXPECT_FALSE(fs::exists(path("x")));
}

TEST_F(AdapterCommand, FoldersMayHaveSignsInTheirNames) {
  write("a", {.r = 2, .target_modules = {"query"}}, 1);
  for (const char* name : {"lora_r=16", "epoch=5/adapter", "br{1}, x", "@home", "-r", "caf\xe9"}) {
    fs::create_directories(path(name).parent_path());
    fs::copy(path("a"), path(name));
    const std::string word = name[0] == '-' ? fmt::format("-- '{}'", name) : fmt::format("'{}'", name);
    fs::remove_all(path("out"));
    const Finished combined = adapter("combine --output out " + word);
    ASSERT_EQ(combined.exit_code, 0) << combined.output;
    EXPECT_EQ(adapter("diff out a --tolerance 1e-6").exit_code, 0) << name;
    const Finished inspected = adapter("inspect --json " + word);
    ASSERT_EQ(inspected.exit_code, 0) << inspected.output;
    EXPECT_NO_THROW(Json::parse(inspected.output));
  }
  fs::remove_all(path("out"));
  ASSERT_EQ(adapter("combine lora_r=16=-1 epoch=5/adapter=2 --output out").exit_code, 0);
  EXPECT_EQ(adapter("diff out a --tolerance 1e-6").exit_code, 0) << "2 - 1 is 1";
  // Where both are there, nothing is guessed.
  fs::copy(path("a"), path("lora_r"));
  const Finished either = adapter("combine lora_r=16 --output x");
  EXPECT_EQ(either.exit_code, 2) << either.output;
  EXPECT_THAT(either.output, HasSubstr("lora_r=16/ for the one, lora_r/=16 for the other"));
  fs::remove_all(path("out"));
  ASSERT_EQ(adapter("combine lora_r=16/ --output out").exit_code, 0);
  EXPECT_EQ(adapter("diff out a --tolerance 1e-6").exit_code, 0);
  fs::remove_all(path("out"));
  ASSERT_EQ(adapter("combine lora_r/=16 --output out").exit_code, 0);
  EXPECT_EQ(adapter("diff out a --tolerance 1e-6").exit_code, 1);
}

TEST_F(AdapterCommand, MistakesAreSaidPlainly) {
  write("a", {.r = 2, .target_modules = {"query"}}, 1);
  const auto expect = [&](const std::string& words, int code, const char* said) {
    const Finished finished = adapter(words);
    EXPECT_EQ(finished.exit_code, code) << words;
    EXPECT_THAT(finished.output, HasSubstr(said)) << words;
  };
  expect("", 2, "inspect");
  expect("--help", 0, "convert");
  expect("paint", 2, "no action 'paint'");
  expect("inspect nowhere", 1, "adapter_config.json");
  expect("inspect model", 1, "adapter_config.json");
  expect("convert a --naming old --output x", 2, "current or legacy");
  expect("combine a=heavy --output x", 2, "heavy");
  expect("combine gone=5/adapter --output x", 1, "gone=5/adapter");
  expect("combine a --type mean --output x", 2, "linear, cat or svd");
  expect("diff a", 2, "two folders");
  expect("diff a nowhere", 2, "nowhere");
  expect("combine a --rank 1 --output x", 2, "--type svd");
  expect("combine a --type svd --rank 1000 --output x", 1, "rank 1000");
  write("biased", {.r = 2, .target_modules = {"query"}, .bias = lora::LoraBias::kAll}, 1);
  write("saved", {.r = 2, .target_modules = {"query"}, .modules_to_save = {"layernorm"}}, 1);
  for (const char* own : {"biased", "saved"}) {
    expect(std::string("combine a ") + own + " --output x", 1, "of the base model of its own");
    expect(std::string("diff a ") + own, 1,
           own == std::string("biased") ? "bias: none and all" : "layernorm");
  }
  expect("merge a --model a --output x", 1, "model.safetensors");
  EXPECT_FALSE(fs::exists(path("x")));
}

}  // namespace
}  // namespace tessera
