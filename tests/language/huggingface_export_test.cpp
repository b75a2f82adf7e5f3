#include "language/huggingface_export.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "tests/language/fixtures.h"

namespace tessera::language {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

/// small_config with the vocabulary of small_tokenizer.
LanguageModelConfig export_config() {
  LanguageModelConfig config = small_config();
  config.vocab_size = small_tokenizer().vocab_size();
  return config;
}

std::vector<std::string> entries(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  return names;
}

at::Tensor logits_of(LanguageModel& model) {
  const auto batch =
      small_tokenizer().encode_batch({"a brown dog jumps over a wooden fence.", "two children"}, 20);
  return model->logits(model->hidden_states(batch.input_ids, batch.attention_mask, AttentionMode::kCausal));
}

TEST(HuggingFaceExport, ComesBackBitForBit) {
  for (const bool tied : {true, false}) {
    LanguageModelConfig config = export_config();
    config.tie_word_embeddings = tied;
    config.num_key_value_heads = 2;
    config.rope_theta = 50000;
    LanguageModel model(config, 3);
    const TemporaryFolder folder;
    const fs::path target = folder.path / "language_model";
    save_hugging_face(model, small_tokenizer(), target);
    EXPECT_THAT(entries(folder.path), UnorderedElementsAre("language_model"));
    EXPECT_THAT(entries(target), UnorderedElementsAre("config.json", "generation_config.json",
                                                      "model.safetensors", "tokenizer.model"));
    EXPECT_EQ(SafetensorsFile(target / "model.safetensors").contains("lm_head.weight"), !tied);
    EXPECT_EQ(read_file(target / "tokenizer.model"), small_tokenizer().model_bytes());
    LanguageModel loaded = load_hugging_face(target);
    EXPECT_TRUE(at::equal(logits_of(loaded), logits_of(model)));
  }
}

TEST(HuggingFaceExport, ReplacesAnOlderFolderWhole) {
  const TemporaryFolder folder;
  const fs::path target = folder.path / "language_model";
  fs::create_directories(target);
  write_file_atomically(target / "stale.txt", "old");
  LanguageModel model(export_config(), 4);
  save_hugging_face(model, small_tokenizer(), target / "");
  EXPECT_THAT(entries(folder.path), UnorderedElementsAre("language_model"));
  EXPECT_FALSE(fs::exists(target / "stale.txt"));
  LanguageModel loaded = load_hugging_face(target);
  EXPECT_TRUE(at::equal(logits_of(loaded), logits_of(model)));
}

TEST(HuggingFaceExport, RefusesATokenizerOfAnotherSizeAndPlacesItCantWrite) {
  const TemporaryFolder folder;
  LanguageModelConfig config = export_config();
  config.vocab_size = 500;
  EXPECT_THAT(
      error_of([&] { save_hugging_face(LanguageModel(config, 0), small_tokenizer(), folder.path / "x"); }),
      AllOf(HasSubstr("500"), HasSubstr("400")));
  write_file_atomically(folder.path / "file", "");
  const fs::path impossible = folder.path / "file" / "x";
  EXPECT_THAT(
      error_of([&] { save_hugging_face(LanguageModel(export_config(), 0), small_tokenizer(), impossible); }),
      HasSubstr(impossible.string()));
  EXPECT_THAT(entries(folder.path), UnorderedElementsAre("file"));
}

TEST(HuggingFaceExport, ReadsModelsThatWereWrappedForTraining) {
  const TemporaryFolder folder;
  LanguageModel model(export_config(), 5);
  save_hugging_face(model, small_tokenizer(), folder.path / "m");
  const auto write = [&](const std::string& before, const std::string& in_layer) {
    TensorMap wrapped;
    for (const auto& [key, weight] : language_model_weights(model)) {
      std::string name = key;
      const std::string layer = "layers.1.";
      if (const std::size_t at = name.find(layer); at != std::string::npos)
        name.insert(at + layer.size(), in_layer);
      wrapped[before + name] = weight;
    }
    write_safetensors(folder.path / "m" / "model.safetensors", wrapped);
  };
  for (const char* before : {"module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."}) {
    write(before, before == std::string("module.") ? "_orig_mod." : "");
    LanguageModel loaded = load_hugging_face(folder.path / "m");
    EXPECT_TRUE(at::equal(logits_of(loaded), logits_of(model))) << before;
  }
  write("decoder.", "");
  EXPECT_THAT(error_of([&] { load_hugging_face(folder.path / "m"); }),
              AllOf(HasSubstr("unexpected: decoder."), HasSubstr("have \"decoder.\" in front")));
}

TEST(HuggingFaceExport, ReadsHalfPrecisionWeights) {
  const TemporaryFolder folder;
  LanguageModel model(export_config(), 5);
  save_hugging_face(model, small_tokenizer(), folder.path / "m");
  TensorMap weights = language_model_weights(model);
  for (auto& [name, weight] : weights) weight = weight.to(at::kBFloat16);
  write_safetensors(folder.path / "m" / "model.safetensors", weights);
  LanguageModel loaded = load_hugging_face(folder.path / "m");
  for (const auto& [name, weight] : language_model_weights(loaded)) {
    EXPECT_EQ(weight.scalar_type(), at::kFloat) << name;
    EXPECT_TRUE(at::equal(weight, weights.at(name).to(at::kFloat))) << name;
  }
}

/// Of scripts/golden/make_checkpoints.py: config.json, pytorch_model.bin, and what transformers computes.
TEST(HuggingFaceExport, ReadsPytorchsFileAndShards) {
  const fs::path fixture = fs::path(TESSERA_SOURCE_DIR) / "tests/golden/checkpoints/llama";
  const TensorMap expected = SafetensorsFile(fixture / "expected.safetensors").tensors();
  const auto logits = [&](const fs::path& folder) {
    LanguageModel model = load_hugging_face(folder);
    const at::Tensor ids = expected.at("input_ids").clone();
    return model->logits(model->hidden_states(ids, ids.ge(0), AttentionMode::kCausal)).detach();
  };
  const at::Tensor of_one_file = logits(fixture);
  EXPECT_TRUE(at::allclose(of_one_file, expected.at("logits"), 1e-5, 1e-6));

  const TemporaryFolder folder;
  fs::copy_file(fixture / "config.json", folder.path / "config.json");
  json index = {{"weight_map", json::object()}};
  std::map<std::string, TensorMap> shards;
  for (const auto& [name, weight] : language_model_weights(load_hugging_face(fixture))) {
    const std::string shard = shards["1.safetensors"].size() < 5 ? "1.safetensors" : "2.safetensors";
    shards[shard][name] = weight;
    index["weight_map"][name] = shard;
  }
  for (const auto& [name, tensors] : shards) write_safetensors(folder.path / name, tensors);
  write_file_atomically(folder.path / "model.safetensors.index.json", index.dump());
  EXPECT_TRUE(at::equal(logits(folder.path), of_one_file));
}

TEST(HuggingFaceExport, NamesTheFileThatIsMissingOrBroken) {
  const TemporaryFolder folder;
  EXPECT_THAT(error_of([&] { load_hugging_face(folder.path); }), HasSubstr("config.json"));
  write_file_atomically(folder.path / "config.json", "{\"vocab_size\": 3,");
  EXPECT_THAT(error_of([&] { load_hugging_face(folder.path); }), HasSubstr("config.json"));
  write_file_atomically(folder.path / "config.json", export_config().to_hugging_face().dump());
  EXPECT_THAT(error_of([&] { load_hugging_face(folder.path); }), HasSubstr("model.safetensors"));
  write_file_atomically(folder.path / "model.safetensors.index.json", "{}");
  EXPECT_THAT(error_of([&] { load_hugging_face(folder.path); }), HasSubstr("weight_map"));
  write_safetensors(folder.path / "model.safetensors", {{"model.norm.weight", at::ones({32})}});
  EXPECT_THAT(error_of([&] { load_hugging_face(folder.path); }),
              HasSubstr("missing: model.embed_tokens.weight"));
}

TEST(HuggingFaceExport, ValuesThatAreNotFiniteAreNamed) {
  const TemporaryFolder folder;
  const fs::path target = folder.path / "language_model";
  save_hugging_face(LanguageModel(export_config(), 3), small_tokenizer(), target);
  const fs::path file = target / "model.safetensors";
  TensorMap weights;
  for (const auto& [name, tensor] : SafetensorsFile(file).tensors()) weights[name] = tensor.clone();
  weights.at("model.norm.weight")[4] = std::nan("");
  write_safetensors(file, weights);
  EXPECT_THAT(error_of([&] { load_hugging_face(target); }),
              AllOf(HasSubstr(file.string()), HasSubstr("'model.norm.weight'"), HasSubstr("nan at [4]")));
}

TEST(HuggingFaceExport, ConfigurationsMayHoldNaNWhereNobodyReads) {
  const TemporaryFolder folder;
  const fs::path target = folder.path / "language_model";
  save_hugging_face(LanguageModel(export_config(), 3), small_tokenizer(), target);
  const std::string config = read_file(target / "config.json");
  write_file_atomically(target / "config.json", "{\"eval_loss\": NaN," + config.substr(1));
  EXPECT_EQ(load_hugging_face(target)->config().vocab_size, export_config().vocab_size);
  for (const char* field : {"rms_norm_eps", "rope_theta"}) {
    std::string wrong = config;
    const std::string key = std::string("\"") + field + "\":";
    for (std::size_t at = wrong.find(key); at != std::string::npos; at = wrong.find(key, at + 1))
      wrong.replace(at, wrong.find_first_of(",\n", at) - at, key + " NaN");
    write_file_atomically(target / "config.json", wrong);
    EXPECT_THAT(error_of([&] { load_hugging_face(target); }),
                AllOf(HasSubstr("config.json"), HasSubstr(field), HasSubstr("NaN")));
  }
}

TEST(LanguageModelConfig, ComesBackFromItsHuggingFaceForm) {
  LanguageModelConfig config = export_config();
  config.num_key_value_heads = 2;
  config.rope_theta = 123456.5;
  config.pad_token_id = -1;
  config.tie_word_embeddings = false;
  const json object = config.to_hugging_face();
  EXPECT_EQ(LanguageModelConfig::from_hugging_face(object, "x").to_hugging_face(), object);
}

TEST(LanguageModelConfig, ReadsBothPlacesOfTheRotaryBase) {
  json object = export_config().to_hugging_face();
  object.erase("rope_theta");
  object["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 500000.0}};
  EXPECT_EQ(LanguageModelConfig::from_hugging_face(object, "x").rope_theta, 500000.0);
  object.erase("rope_parameters");
  object["rope_theta"] = 20000;
  object["rope_scaling"] = nullptr;
  EXPECT_EQ(LanguageModelConfig::from_hugging_face(object, "x").rope_theta, 20000.0);
}

TEST(LanguageModelConfig, RefusesWhatTheModelDoesNotComputeNamingTheField) {
  const std::vector<std::pair<std::string, json>> unsound = {
      {"model_type", "mistral"},
      {"architectures", {"LlamaForSequenceClassification"}},
      {"hidden_act", "gelu"},
      {"attention_bias", true},
      {"mlp_bias", true},
      {"attention_dropout", 0.1},
      {"pretraining_tp", 2},
      {"rope_scaling", {{"rope_type", "linear"}, {"factor", 2.0}}},
      {"rope_parameters", {{"rope_type", "llama3"}, {"rope_theta", 1e4}}},
      {"rope_theta", "big"},
      {"head_dim", 16},
      {"hidden_size", 33},
      {"hidden_size", nullptr},
      {"vocab_size", -1},
      {"vocab_size", 1.5},
      {"num_key_value_heads", 3},
      {"num_attention_heads", 0},
      {"rms_norm_eps", 0},
      {"eos_token_id", {1, 2}},
      {"bos_token_id", 400},
      {"tie_word_embeddings", "yes"},
  };
  for (const auto& [field, value] : unsound) {
    json object = export_config().to_hugging_face();
    object[field] = value;
    const std::string message =
        error_of([&, &object = object] { LanguageModelConfig::from_hugging_face(object, "a/config.json"); });
    EXPECT_THAT(message, AllOf(HasSubstr("a/config.json"), HasSubstr(field))) << value;
  }
  EXPECT_THAT(error_of([] { LanguageModelConfig::from_hugging_face(json::array(), "a/config.json"); }),
              HasSubstr("a/config.json"));
}

}  // namespace
}  // namespace tessera::language
