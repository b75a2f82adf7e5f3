// tessera caption, match, embed and explain with --adapter: one model answers as each of several checkpoints
// would that hold one adapter alone.

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "config/config.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "data/open_source.h"
#include "language/tokenizer.h"
#include "lora/lora.h"
#include "lora/peft_files.h"
#include "model/build.h"
#include "model/stage1_model.h"
#include "model/weights.h"
#include "tests/apps/run_to_end.h"
#include "tests/train/small_run.h"
#include "vision/encoder.h"

#include <torch/torch.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using Json = nlohmann::json;

const lora::LoraOptions kPlain{.r = 2, .lora_alpha = 4, .target_modules = {"value", "fc1"}};

/// What brings more than A and B: magnitudes, biases, a whole module, and weights that PiSSA took apart.
lora::LoraOptions everything() {
  lora::LoraOptions options{.r = 3, .lora_alpha = 3, .target_modules = {"query", "fc2"}};
  options.use_dora = true;
  options.bias = lora::LoraBias::kLoraOnly;
  options.modules_to_save = {"layernorm"};
  options.init = lora::LoraInit::kPissa;
  return options;
}

/// Moves an adapter's parameters away from where they began.
void disturb(const TensorMap& parameters, std::uint64_t seed) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(seed);
  for (const auto& [name, tensor] : parameters) {
    at::Tensor parameter = tensor;
    parameter.add_(at::randn_like(parameter), 0.3);
  }
}

/// A checkpoint with an adapter, two more adapters in folders of one name, and for each of these a checkpoint
/// that holds it alone. Made once for all tests.
class AdapterSwitching : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    small_ = std::make_unique<train::SmallRun>("tessera-adapter-switching");
    write_checkpoint("run/checkpoints/own", lora::TrainableChoice::kLora);
    write_checkpoint("run/checkpoints/full", lora::TrainableChoice::kFull);
    write_adapter("birds/adapter", kPlain, 1);
    write_adapter("ships/adapter", everything(), 2);
    for (const std::string name : {"birds", "ships"}) {
      copy_checkpoint(name);
      fs::remove_all(checkpoint(name) + "/adapter");
      fs::copy(place(name + "/adapter"), checkpoint(name) + "/adapter");
    }
    copy_checkpoint("bare");
    fs::remove_all(checkpoint("bare") + "/adapter");
    std::string config = read_file(checkpoint("bare") + "/config.yaml");
    const std::string lora = "trainable: lora";
    ASSERT_NE(config.find(lora), std::string::npos) << config;
    config.replace(config.find(lora), lora.size(), "trainable: none");
    write_file_atomically(checkpoint("bare") + "/config.yaml", config);
    const auto dataset = data::open_source({place("shapes/val-000000.tar")}, {}, null_logger());
    for (const int number : {0, 1}) {
      const data::Sample sample = dataset->read(number);
      write_file_atomically(picture(number),
                            {reinterpret_cast<const char*>(sample.image.data()), sample.image.size()});
    }
  }
  static void TearDownTestSuite() { small_.reset(); }

  static std::string place(const std::string& name) { return (small_->root() / name).string(); }
  static std::string picture(int number) { return place(fmt::format("picture{}.png", number)); }
  static std::string pictures() { return picture(0) + " " + picture(1); }
  static std::string checkpoint(const std::string& name) { return place("run/checkpoints/" + name); }
  static std::string model(const std::string& name) { return " --model " + checkpoint(name); }
  static std::string adapters(const std::vector<std::string>& words) {
    std::string options;
    for (const std::string& word : words) options += " --adapter " + word;
    return options;
  }

  static Finished tessera(const std::string& words) { return run_to_end(TESSERA_TOOL " " + words); }
  static std::string output_of(const std::string& words) {
    const Finished finished = tessera(words);
    EXPECT_EQ(finished.exit_code, 0) << words << "\n" << finished.output;
    return finished.output;
  }
  static Json json_of(const std::string& words) {
    const std::string file = place("printed.json");
    const Finished finished = run_to_end(fmt::format("{{ {} {} --json > {}; }}", TESSERA_TOOL, words, file));
    EXPECT_EQ(finished.exit_code, 0) << words << "\n" << finished.output;
    return Json::parse(read_file(file));
  }
  static std::string error_of(const std::string& words, int exit_code) {
    const Finished finished = tessera(words);
    EXPECT_EQ(finished.exit_code, exit_code) << words << "\n" << finished.output;
    return finished.output;
  }
  static std::vector<std::string> names_in(const Json& json) {
    std::vector<std::string> names;
    for (const Json& adapter : json.at("adapters")) names.push_back(adapter.at("name"));
    return names;
  }

  /// Captions of both pictures, as a checkpoint gives them that holds one adapter alone, or none.
  static Json captions_alone(const std::string& name) {
    return json_of("caption " + pictures() + model(name)).at("images");
  }
  /// Of a command's JSON the entries that an adapter gave.
  static std::vector<Json> entries_of(const Json& list, const std::string& adapter) {
    std::vector<Json> entries;
    for (const Json& entry : list) {
      if (entry.at("adapter") == adapter) entries.push_back(entry);
    }
    return entries;
  }
  static void expect_captions(const std::vector<Json>& found, const Json& expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i].at("image"), expected[i].at("image"));
      EXPECT_EQ(found[i].at("caption"), expected[i].at("caption"));
      EXPECT_NEAR(found[i].at("log_probability"), expected[i].at("log_probability"), 1e-4);
    }
  }

  static std::unique_ptr<train::SmallRun> small_;

 private:
  /// With open gates, so that what the encoder sees can be heard.
  static void write_checkpoint(const std::string& name, lora::TrainableChoice trainable) {
    Config config = small_->config("switching");
    config.vision.trainable = trainable;
    const auto tokenizer = language::Tokenizer::load(config.language.tokenizer);
    model::BuiltModel built = model::build_model(config, tokenizer.vocab_size());
    if (trainable != lora::TrainableChoice::kFull) {
      model::save_backbone(place("run/backbone"), built.model->vision(), config);
      built.backbone = {place("run/backbone"), model::backbone_hash(place("run/backbone"))};
      disturb(lora::adapter_parameters(built.model->vision(), *built.model->lora()), 3);
    }
    const torch::NoGradGuard no_grad;
    for (const model::NamedParameter& parameter : built.model->named_parts()) {
      at::Tensor tensor = parameter.tensor;
      if (parameter.part == model::Part::kGates) tensor.fill_(0.7);
    }
    fs::create_directories(place(name));
    model::save_weights(place(name), *built.model, config, tokenizer, built.backbone);
  }

  static void write_adapter(const std::string& name, const lora::LoraOptions& options, std::uint64_t seed) {
    const model::LoadedModel base = model::load_model(checkpoint("own"), model::CheckpointAdapter::kLeaveOut);
    vision::VisionEncoder& encoder = base.model->vision();
    lora::inject_lora(encoder, options, seed);
    disturb(lora::adapter_parameters(encoder, options), seed);
    lora::save_adapter(place(name), encoder, options);
  }

  static void copy_checkpoint(const std::string& name) {
    fs::copy(checkpoint("own"), checkpoint(name), fs::copy_options::recursive);
  }
};

std::unique_ptr<train::SmallRun> AdapterSwitching::small_;

TEST_F(AdapterSwitching, CaptionsAreThoseOfCheckpointsThatHoldOneAdapterAlone) {
  const std::string words = "caption " + pictures() + model("own") +
                            adapters({place("birds/adapter"), "checkpoint", place("ships/adapter"), "none"});
  const Json json = json_of(words);
  EXPECT_THAT(names_in(json), ElementsAre("birds/adapter", "checkpoint", "ships/adapter", "none"));
  EXPECT_EQ(json.at("adapters")[0].at("folder"), place("birds/adapter"));
  EXPECT_EQ(json.at("adapters")[1].at("folder"), checkpoint("own") + "/adapter");
  EXPECT_TRUE(json.at("adapters")[3].at("folder").is_null());
  const Json& images = json.at("images");
  ASSERT_EQ(images.size(), 8u);
  for (std::size_t i = 0; i < images.size(); ++i) {
    EXPECT_EQ(images[i].at("image"), picture(i < 4 ? 0 : 1));
    EXPECT_EQ(images[i].at("adapter"), names_in(json)[i % 4]);
  }
  std::vector<double> chances;
  for (const auto& [adapter, alone] : {std::pair("birds/adapter", "birds"), std::pair("checkpoint", "own"),
                                       std::pair("ships/adapter", "ships"), std::pair("none", "bare")}) {
    expect_captions(entries_of(images, adapter), captions_alone(alone));
    const double chance = entries_of(images, adapter)[0].at("log_probability");
    for (const double other : chances)
      EXPECT_GT(std::abs(chance - other), 1e-3) << adapter << ": must matter";
    chances.push_back(chance);
  }
  const std::string lines = output_of(words);
  EXPECT_THAT(lines,
              AllOf(HasSubstr(picture(0) + " [birds/adapter]: "), HasSubstr(picture(1) + " [none]: ")));
  EXPECT_LT(lines.find("[birds/adapter]"), lines.find("[checkpoint]"));
}

TEST_F(AdapterSwitching, MatchesAreThoseOfCheckpointsThatHoldOneAdapterAlone) {
  const std::string words = fmt::format("match {} 'a small red circle' '' 'a large blue square'", picture(0));
  const std::string switched =
      words + model("own") + adapters({"ships=" + place("ships/adapter"), "birds=" + place("birds/adapter")});
  const Json json = json_of(switched);
  EXPECT_THAT(names_in(json), ElementsAre("ships", "birds"));
  std::vector<double> scores;
  for (const std::string name : {"ships", "birds"}) {
    const Json expected = json_of(words + model(name)).at("matches");
    const std::vector<Json> found = entries_of(json.at("matches"), name);
    ASSERT_EQ(found.size(), 3u);
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(found[i].at("text"), expected[i].at("text"));
      for (const char* score : {"itm", "itc", "maxsim_image_to_text", "maxsim_text_to_image"})
        EXPECT_NEAR(found[i].at(score), expected[i].at(score), 1e-5) << name << " " << score;
    }
    scores.push_back(found[0].at("itc"));
  }
  EXPECT_GT(std::abs(scores[0] - scores[1]), 1e-3) << "the adapters must matter";
  const std::string tables = output_of(switched);
  EXPECT_LT(tables.find("adapter ships\n"), tables.find("adapter birds\n"));
  EXPECT_NE(tables.find("adapter birds\n"), std::string::npos);
}

TEST_F(AdapterSwitching, EmbeddingsOfImagesAreThoseOfEachAdapterAndTextsAreThereOnce) {
  const std::string output = place("switched.safetensors");
  const std::string words = "embed --images " + pictures() + " --text 'a red circle' --tokens";
  output_of(words + model("own") + adapters({place("birds/adapter"), "checkpoint", place("ships/adapter")}) +
            " --output " + output);
  const SafetensorsFile file(output);
  const Json listed = Json::parse(file.metadata().at("adapters"));
  ASSERT_EQ(listed.size(), 3u);
  EXPECT_EQ(listed[2].at("name"), "ships/adapter");
  EXPECT_EQ(listed[2].at("folder"), place("ships/adapter"));
  EXPECT_EQ(Json::parse(file.metadata().at("images")), (Json{picture(0), picture(1)}));
  EXPECT_EQ(file.tensors().size(), 3u * 2 + 3) << "texts, tokens and token_mask once";
  for (const auto& [adapter, alone] : {std::pair("birds/adapter", "birds"), std::pair("checkpoint", "own"),
                                       std::pair("ships/adapter", "ships")}) {
    output_of(words + model(alone) + " --output " + place("alone.safetensors"));
    const SafetensorsFile expected(place("alone.safetensors"));
    for (const std::string what : {"images", "patches"}) {
      EXPECT_TRUE(at::allclose(file.tensor(what + "." + adapter), expected.tensor(what), 1e-4, 1e-5))
          << what << " " << adapter;
    }
    for (const char* what : {"texts", "tokens", "token_mask"})
      EXPECT_TRUE(at::equal(file.tensor(what), expected.tensor(what))) << what;
  }
  EXPECT_FALSE(
      at::allclose(file.tensor("images.birds/adapter"), file.tensor("images.checkpoint"), 1e-2, 1e-3));
}

TEST_F(AdapterSwitching, ExplainDrawsEachImageWithEachAdapter) {
  const std::string words = "explain " + pictures();
  const auto pages = [&](const std::string& options) {
    output_of(words + options + " --output " + place("explained"));
    EXPECT_GT(fs::file_size(place("explained/explain.png")), 5000u);
    return read_file(place("explained/explain.html"));
  };
  /// The pictures of a page, as they stand in it.
  const auto drawn = [](const std::string& page) {
    std::vector<std::string> found;
    const std::string begin = "base64,";
    for (std::size_t at = page.find(begin); at != std::string::npos; at = page.find(begin, at + 1))
      found.push_back(page.substr(at, page.find('"', at) - at));
    return found;
  };
  const std::string options = model("own") + adapters({"birds=" + place("birds/adapter"), "checkpoint"});
  for (const std::string text : {"", " --text 'a red circle' --words circle"}) {
    const std::string page = pages(options + text);
    EXPECT_THAT(page, AllOf(HasSubstr("adapter birds: " + std::string(text.empty() ? "generated" : "given")),
                            HasSubstr("adapter checkpoint: ")));
    std::size_t articles = 0;
    for (std::size_t at = page.find("<article>"); at != std::string::npos;
         at = page.find("<article>", at + 1))
      ++articles;
    EXPECT_EQ(articles, 4u);
    const std::vector<std::string> birds = drawn(pages(model("birds") + text)),
                                   own = drawn(pages(model("own") + text));
    EXPECT_NE(birds, own) << "the adapters must matter";
    EXPECT_THAT(drawn(page), testing::IsSupersetOf(birds));
    EXPECT_THAT(drawn(page), testing::IsSupersetOf(own));
  }
}

TEST_F(AdapterSwitching, AModelWithoutAnAdapterTakesThemToo) {
  const Json expected = captions_alone("birds");
  for (const std::string name : {"bare", "full"}) {
    const Json json =
        json_of("caption " + pictures() + model(name) + adapters({place("birds/adapter"), "none"}));
    EXPECT_THAT(names_in(json), ElementsAre("adapter", "none"));
    expect_captions(entries_of(json.at("images"), "adapter"), expected);
    expect_captions(entries_of(json.at("images"), "none"), captions_alone(name));
    EXPECT_THAT(error_of("caption " + pictures() + model(name) + adapters({"checkpoint"}), 2),
                AllOf(HasSubstr(checkpoint(name)), HasSubstr("no adapter of its own")));
  }
}

TEST_F(AdapterSwitching, AMergedAdapterIsWarnedOf) {
  const std::string bundle = place("bundle"), birds = place("birds/adapter");
  output_of("bundle --checkpoint " + checkpoint("own") + " --output " + bundle);
  const std::string caption = "caption " + picture(0) + " --model ";
  EXPECT_THAT(output_of(caption + bundle + adapters({birds, "checkpoint"})), Not(HasSubstr("merged")));
  output_of("bundle --checkpoint " + bundle + " --output " + bundle + " --merge-lora");
  EXPECT_THAT(output_of(caption + bundle + adapters({birds})),
              AllOf(HasSubstr("tessera caption: warning: " + bundle), HasSubstr("merged")));
  EXPECT_THAT(output_of(caption + bundle + adapters({"none"})), Not(HasSubstr("warning")));
  output_of("bundle --checkpoint " + bundle + " --output " + place("again"));
  EXPECT_THAT(output_of(caption + place("again") + adapters({birds})), HasSubstr("merged"));
}

TEST_F(AdapterSwitching, WhatIsNoAdapterOrDoesNotFitIsNamed) {
  const std::string caption = "caption " + picture(0) + model("own"), birds = place("birds/adapter");
  EXPECT_THAT(error_of(caption + adapters({place("birds")}), 1),
              AllOf(HasSubstr(place("birds") + ": there is no adapter_config.json"),
                    HasSubstr("there is one in adapter")));
  TensorMap tensors = SafetensorsFile(birds + "/adapter_model.safetensors").tensors();
  const std::string key = "base_model.model.encoder.layer.1.mlp.fc1.lora_A.weight";
  ASSERT_EQ(tensors.count(key), 1u);
  fs::copy(birds, place("misfit"));
  tensors[key] = at::zeros({2, 10});
  write_safetensors(place("misfit/adapter_model.safetensors"), tensors);
  EXPECT_THAT(error_of(caption + adapters({birds, place("misfit")}), 1),
              AllOf(HasSubstr(place("misfit") + ": "), HasSubstr(key), HasSubstr("[2, 10]")));
  Json config = Json::parse(read_file(birds + "/adapter_config.json"));
  config["target_modules"] = {"nothing", "at_all"};
  write_file_atomically(place("misfit/adapter_config.json"), config.dump());
  EXPECT_THAT(error_of(caption + adapters({place("misfit")}), 1),
              AllOf(HasSubstr(place("misfit") + ": "), HasSubstr("nothing")));
}

TEST_F(AdapterSwitching, NoTwoAdaptersAreCalledTheSame) {
  const std::string caption = "caption " + picture(0) + model("own"), birds = place("birds/adapter");
  EXPECT_THAT(names_in(json_of(caption + adapters({birds}))), ElementsAre("adapter"));
  EXPECT_THAT(names_in(json_of(caption + adapters({birds + "/", "adapter=" + place("ships/adapter")}))),
              ElementsAre("birds/adapter", "adapter"));
  // A folder may have "=" in its name, or be called like one of the words.
  const std::string here = "cd " + small_->root().string() + " && ";
  fs::copy(birds, place("a=b"));
  fs::copy(birds, place("none"));
  const Finished odd =
      run_to_end(fmt::format("{}{} {}{}", here, TESSERA_TOOL, caption, adapters({"a=b", "./none"})));
  EXPECT_THAT(odd.output, AllOf(HasSubstr(" [a=b]: "), HasSubstr(" [none]: ")));
  for (const std::vector<std::string>& words : {std::vector<std::string>{birds, birds + "/."},
                                                {"checkpoint", "checkpoint"},
                                                {"x=" + birds, "x=" + place("ships/adapter")},
                                                {"=" + birds},
                                                {"x="},
                                                {"''"}}) {
    const std::string error = error_of(caption + adapters(words), 2);
    EXPECT_THAT(error, HasSubstr("--adapter: ")) << words.front();
  }
  EXPECT_THAT(error_of(caption + adapters({birds, birds}), 2), HasSubstr("NAME=FOLDER"));
}

}  // namespace
}  // namespace tessera
