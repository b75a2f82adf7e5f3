// tessera bundle, caption, match, embed and explain as a user runs them, over one small trained model.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/files.h"
#include "core/safetensors.h"
#include "data/open_source.h"
#include "inference/encode_inputs.h"
#include "model/stage1_model.h"
#include "model/weights.h"
#include "tests/apps/run_to_end.h"
#include "tests/train/small_run.h"
#include "train/trainer.h"

#include <torch/torch.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;
using Json = nlohmann::json;

/// A run of a few steps with its adapters in training, two pictures of its held-out set as files, and one
/// file that is no picture. Made once for all tests.
class ModelTools : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    small_ = std::make_unique<train::SmallRun>("tessera-model-tools");
    Config config = small_->config("tools");
    config.schedule.epochs = 2;
    config.schedule.lora_warmup_epochs = 1;
    config.eval.every_epochs = 0;
    train::Trainer(config, {.log_to_terminal = false}).run();
    const auto dataset =
        data::open_source({(small_->root() / "shapes" / "val-000000.tar").string()}, {}, null_logger());
    for (const int number : {0, 1}) {
      const data::Sample sample = dataset->read(number);
      write_file_atomically(picture(number),
                            {reinterpret_cast<const char*>(sample.image.data()), sample.image.size()});
    }
    write_file_atomically(broken(), "no picture at all");
  }
  static void TearDownTestSuite() { small_.reset(); }

  static std::string checkpoint() {
    return (small_->run_folder("tools") / "checkpoints" / "latest").string();
  }
  static std::string picture(int number) {
    return (small_->root() / fmt::format("picture{}.png", number)).string();
  }
  static std::string broken() { return (small_->root() / "broken.png").string(); }
  static std::string place(const std::string& name) { return (small_->root() / name).string(); }

  static Finished tessera(const std::string& words) { return run_to_end(TESSERA_TOOL " " + words); }
  /// The JSON that a command prints, whatever goes to standard error.
  static Json json_of(const std::string& words, int exit_code = 0) {
    const std::string file = place("printed.json");
    const Finished finished = run_to_end(fmt::format("{{ {} {} --json > {}; }}", TESSERA_TOOL, words, file));
    EXPECT_EQ(finished.exit_code, exit_code) << words << "\n" << finished.output;
    return Json::parse(read_file(file));
  }

  static std::unique_ptr<train::SmallRun> small_;
};

std::unique_ptr<train::SmallRun> ModelTools::small_;

TEST_F(ModelTools, HaveHelp) {
  for (const char* command : {"bundle", "caption", "match", "embed", "features", "explain"}) {
    const Finished finished = tessera(std::string(command) + " --help");
    EXPECT_EQ(finished.exit_code, 0) << command;
    EXPECT_THAT(finished.output, HasSubstr(fmt::format("Usage: tessera {} ", command)));
  }
}

TEST_F(ModelTools, MistakesOnTheCommandLineEndWithCodeTwo) {
  const std::string model = " --model " + checkpoint();
  for (const std::string& words : std::vector<std::string>{
           "caption " + picture(0),
           "caption" + model,
           "caption " + picture(0) + model + " --checkpoint " + checkpoint(),
           "caption " + picture(0) + model + " --beams 0",
           "caption " + picture(0) + model + " --top-p 0.5",
           "caption " + picture(0) + model + " --sample --top-p 2",
           "caption " + picture(0) + model + " --sample --beams 3",
           "caption " + picture(0) + model + " --device gpu",
           "match " + picture(0) + model,
           "embed --output x.safetensors" + model,
           "embed --text a" + model,
           "explain " + picture(0) + model,
           "bundle --output x",
       }) {
    const Finished finished = tessera(words);
    EXPECT_EQ(finished.exit_code, 2) << words << "\n" << finished.output;
    EXPECT_EQ(std::count(finished.output.begin(), finished.output.end(), '\n'), 1) << finished.output;
  }
}

TEST_F(ModelTools, CaptionSaysTheSameFromABundleAloneAsFromTheCheckpoint) {
  const std::string images = fmt::format("{} {}", picture(0), picture(1));
  const Json before = json_of("caption " + images + " --model " + checkpoint());
  // Far from everything that the run left: its folder, data and tokenizer are out of the way.
  const fs::path away = fs::temp_directory_path() / fmt::format("tessera-bundles-{}", getpid());
  fs::remove_all(away);
  ASSERT_EQ(tessera(fmt::format("bundle --checkpoint {} --output {}", checkpoint(), (away / "a").string()))
                .exit_code,
            0);
  ASSERT_EQ(tessera(fmt::format("bundle --checkpoint {} --output {} --merge-lora", checkpoint(),
                                (away / "b").string()))
                .exit_code,
            0);
  const std::vector<std::string> hidden = {"runs", "shapes", "tokenizer.model"};
  for (const std::string& name : hidden) fs::rename(place(name), place(name) + ".hidden");
  const Json bundled = json_of("caption " + images + " --model " + (away / "a").string());
  const Json merged = json_of("caption " + images + " --model " + (away / "b").string());
  const Finished evaluated =
      run_to_end(fmt::format("{} --suite retrieval --model {} --data {}", TESSERA_STAGE1_EVAL,
                             (away / "b").string(), place("shapes.hidden") + "/val-000000.tar"));
  for (const std::string& name : hidden) fs::rename(place(name) + ".hidden", place(name));
  EXPECT_EQ(evaluated.exit_code, 0) << evaluated.output;
  EXPECT_TRUE(fs::exists(away / "a" / "adapter"));
  EXPECT_FALSE(fs::exists(away / "b" / "adapter"));
  ASSERT_EQ(before.at("images").size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    const Json& one = before.at("images")[i];
    EXPECT_EQ(bundled.at("images")[i].at("caption"), one.at("caption"));
    EXPECT_EQ(bundled.at("images")[i].at("log_probability"), one.at("log_probability"));
    EXPECT_NEAR(merged.at("images")[i].at("log_probability").get<double>(),
                one.at("log_probability").get<double>(), 0.05);
  }
  fs::remove_all(away);
}

TEST_F(ModelTools, ATableIsEvaluatedLikeTheShardOfItsPictures) {
  const auto dataset = data::open_source({place("shapes/val-000000.tar")}, {}, null_logger());
  std::string table = "who,words,photo\n";
  fs::create_directories(place("photos"));
  for (std::int64_t i = 0; i < dataset->size(); ++i) {
    const data::Sample sample = dataset->read(i);
    write_file_atomically(place("photos/" + sample.key + ".png"),
                          {reinterpret_cast<const char*>(sample.image.data()), sample.image.size()});
    for (const std::string& caption : sample.captions)
      table += fmt::format("{},\"{}\",{}.png\n", sample.image_id, caption, sample.key);
  }
  write_file_atomically(place("table.csv"), table);
  const auto figures = [](const std::string& data, const std::string& output) {
    const Finished finished =
        run_to_end(fmt::format("{} --suite retrieval --model {} --split held-out --data {} --output {}",
                               TESSERA_STAGE1_EVAL, checkpoint(), data, place(output)));
    EXPECT_EQ(finished.exit_code, 0) << finished.output;
    Json json = finished.exit_code == 0 ? Json::parse(read_file(place(output))) : Json::object();
    json.erase("data");
    return json;
  };
  const std::string columns =
      " --table image=photo --table caption=words --table image_id=who --table folder=";
  EXPECT_EQ(figures(place("table.csv") + columns + place("photos"), "table.json"),
            figures(place("shapes/val-000000.tar"), "shard.json"));
  const Finished tokenizer = tessera("train-tokenizer --shrink --output " + place("table.model") +
                                     " --shards " + place("table.csv") + columns + place("photos"));
  EXPECT_EQ(tokenizer.exit_code, 0) << tokenizer.output;
  EXPECT_THAT(tokenizer.output, HasSubstr(fmt::format("from {} sentences", 2 * dataset->size())));
  const Finished other =
      tessera("train-tokenizer --output x --shards " + place("table.csv") + " --table text=a");
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_THAT(other.output, HasSubstr("found 'text=a'"));
}

TEST_F(ModelTools, CaptionTellsItsLatencyAndGoesOnAfterABrokenImage) {
  const std::string words =
      fmt::format("caption {} {} {} --model {}", picture(0), broken(), picture(1), checkpoint());
  const Finished finished = tessera(words);
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_THAT(finished.output, HasSubstr(picture(0) + ": "));
  EXPECT_THAT(finished.output, HasSubstr(picture(1) + ": "));
  EXPECT_THAT(finished.output, HasSubstr("tessera caption: " + broken()));
  EXPECT_THAT(finished.output, HasSubstr("(log p -"));
  EXPECT_THAT(finished.output, HasSubstr("s steady (median of 1)"));
  const Json json = json_of(words, 1);
  EXPECT_EQ(json.at("images").size(), 2u);
  EXPECT_EQ(json.at("failed").size(), 1u);
  EXPECT_EQ(json.at("failed")[0].at("image"), broken());
  EXPECT_GT(json.at("latency").at("first_s").get<double>(), 0);
  EXPECT_LT(json.at("latency").at("steady_s").get<double>(), 1);
  EXPECT_EQ(tessera("caption /nowhere/at/all.png --model " + checkpoint()).exit_code, 1);
}

TEST_F(ModelTools, CaptionTakesPromptsBeamsAndSeeds) {
  const auto caption = [&](const std::string& options) {
    return json_of(fmt::format("caption {} --model {} {}", picture(0), checkpoint(), options))
        .at("images")[0];
  };
  const Json prompted = caption("--prompt 'a small ' --max-tokens 4");
  EXPECT_EQ(prompted.at("caption").get<std::string>().rfind("a small", 0), 0u) << prompted;
  EXPECT_LE(prompted.at("new_tokens"), 4);
  const std::string draw = "--sample --top-p 1 --max-tokens 12 --seed ";
  EXPECT_EQ(caption(draw + "1").at("caption"), caption(draw + "1").at("caption"));
  EXPECT_NE(caption(draw + "1").at("caption"), caption(draw + "2").at("caption"));
  EXPECT_LE(caption("--beams 4").at("log_probability"), 0);
}

TEST_F(ModelTools, MatchSortsTextsAndTakesAnEmptyOne) {
  const std::string words = fmt::format("match {} 'a small red circle' '' 'a large blue square' --model {}",
                                        picture(0), checkpoint());
  const Json matches = json_of(words).at("matches");
  ASSERT_EQ(matches.size(), 3u);
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < 3; ++i) {
    texts.push_back(matches[i].at("text"));
    EXPECT_GT(matches[i].at("itm"), 0);
    EXPECT_LT(matches[i].at("itm"), 1);
    if (i > 0) {
      EXPECT_LE(matches[i].at("itm"), matches[i - 1].at("itm"));
    }
    for (const char* score : {"itc", "maxsim_image_to_text", "maxsim_text_to_image"}) {
      EXPECT_LE(std::abs(matches[i].at(score).get<double>()), 1.0001) << score;
    }
  }
  EXPECT_THAT(texts, testing::UnorderedElementsAre("a small red circle", "", "a large blue square"));
  const Finished table = tessera(words);
  EXPECT_EQ(table.exit_code, 0);
  EXPECT_THAT(table.output, HasSubstr("(empty)"));
  EXPECT_THAT(table.output, HasSubstr("ITM"));
  EXPECT_EQ(tessera(fmt::format("match {} a --model {}", broken(), checkpoint())).exit_code, 1);
}

TEST_F(ModelTools, MatchSaysThatASecondPictureIsATextToIt) {
  const Finished finished =
      tessera(fmt::format("match {} {} --model {}", picture(0), picture(1), checkpoint()));
  EXPECT_EQ(finished.exit_code, 0) << finished.output;
  EXPECT_THAT(finished.output,
              testing::AllOf(HasSubstr("warning: '" + picture(1)), HasSubstr("taken as a text")));
}

TEST_F(ModelTools, TextsMayHaveBeenSavedAnywhere) {
  const std::string output = place("texts.safetensors");
  const std::string words =
      fmt::format("embed --texts {} --model {} --output {}", place("texts.txt"), checkpoint(), output);
  write_file_atomically(place("texts.txt"),
                        "\xef\xbb\xbf"
                        "a red circle\r\n\r\na square");
  ASSERT_EQ(tessera(words).exit_code, 0);
  EXPECT_EQ(Json::parse(SafetensorsFile(output).metadata().at("texts")),
            (Json{"a red circle", "", "a square"}));
  write_file_atomically(place("texts.txt"), "a red circle\ncaf\xe9\n");
  const Finished latin = tessera(words);
  EXPECT_EQ(latin.exit_code, 1);
  EXPECT_THAT(latin.output, testing::AllOf(HasSubstr("texts.txt:2"), HasSubstr("expected UTF-8")));
}

TEST_F(ModelTools, SayWhereATextIsCut) {
  std::string text = "a circle";
  for (int i = 0; i < 60; ++i) text += " above a square";
  const std::string model = " --model " + checkpoint();
  for (const std::string& words :
       {fmt::format("match {} '{}' 'a circle'", picture(0), text),
        fmt::format("embed --text '{}' --text 'a circle' --output {}", text, place("long.safetensors")),
        fmt::format("explain {} --text '{}' --words circle --output {}", picture(0), text, place("long"))}) {
    const Finished finished = tessera(words + model);
    EXPECT_EQ(finished.exit_code, 0) << finished.output;
    EXPECT_THAT(finished.output, HasSubstr("warning: 'a circle above")) << words;
    EXPECT_THAT(finished.output, Not(HasSubstr("warning: 'a circle'"))) << words;
  }
  std::string lines;
  for (int i = 0; i < 7; ++i) lines += text + "\n";
  write_file_atomically(place("lines.txt"), lines);
  EXPECT_THAT(
      tessera(fmt::format("embed --texts {} --output {}", place("lines.txt"), place("lines.safetensors")) +
              model)
          .output,
      HasSubstr("so it is with 2 more"));
}

TEST_F(ModelTools, EmbedAgreesWithMatch) {
  const std::string output = place("embeddings.safetensors");
  write_file_atomically(place("texts.txt"), "a small red circle\n\na large blue square left of green\n");
  const Finished finished =
      tessera(fmt::format("embed --images {} {} {} --texts {} --text red --tokens --model {} --output {}",
                          picture(1), broken(), picture(0), place("texts.txt"), checkpoint(), output));
  EXPECT_EQ(finished.exit_code, 1) << "one image can't be read";
  EXPECT_THAT(finished.output, HasSubstr(broken()));
  const SafetensorsFile file(output);
  EXPECT_EQ(Json::parse(file.metadata().at("images")), (Json{picture(1), picture(0)}));
  EXPECT_EQ(Json::parse(file.metadata().at("texts")),
            (Json{"a small red circle", "", "a large blue square left of green", "red"}));
  const at::Tensor images = file.tensor("images"), texts = file.tensor("texts");
  EXPECT_EQ(images.size(0), 2);
  EXPECT_EQ(texts.size(0), 4);
  EXPECT_EQ(file.tensor("patches").sizes(), (std::vector<std::int64_t>{2, 9, 16}));
  const at::Tensor tokens = file.tensor("tokens"), mask = file.tensor("token_mask");
  EXPECT_TRUE(torch::equal(mask.sum(1)[1], torch::tensor(2))) << "an empty text is bos eos";
  EXPECT_TRUE(torch::allclose(tokens.norm(2, 2), mask.to(torch::kFloat), 1e-4, 1e-5));

  for (const Json& match :
       json_of(fmt::format("match {} 'a small red circle' '' --model {}", picture(0), checkpoint()))
           .at("matches")) {
    const std::int64_t row = match.at("text") == "" ? 1 : 0;
    EXPECT_NEAR(match.at("itc").get<double>(), (images[1] * texts[row]).sum().item<double>(), 1e-4);
    const at::Tensor similarity = file.tensor("patches")[1].matmul(tokens[row].index({mask[row]}).t());
    EXPECT_NEAR(match.at("maxsim_text_to_image").get<double>(), similarity.amax(0).mean().item<double>(),
                1e-4);
  }
}

TEST_F(ModelTools, WhatIsNotFiniteIsAnErrorThatNamesItsImage) {
  const fs::path damaged = place("damaged");
  fs::copy(fs::canonical(checkpoint()), damaged, fs::copy_options::recursive);
  const fs::path file = damaged / "model.safetensors";
  const StringMap metadata = SafetensorsFile(file).metadata();
  TensorMap sound;
  for (const auto& [name, tensor] : SafetensorsFile(file).tensors()) sound[name] = tensor.clone();
  const auto set = [&](double value) {
    TensorMap tensors = sound;
    tensors.at("compressor.0.weight") = torch::full_like(sound.at("compressor.0.weight"), value);
    write_safetensors(file, tensors, metadata);
  };
  const std::string model = fmt::format(" --model {} ", damaged.string());
  const std::string output = place("not-finite");
  const std::vector<std::string> commands = {
      "caption " + picture(0) + model,
      "match " + picture(0) + " red blue" + model,
      "embed --images " + picture(0) + model + "--output " + output,
      "explain " + picture(0) + " --text circle" + model + "--output " + output,
      "features --what compressed --device cpu --images " + picture(0) + model + "--output " + output,
      "memory write " + picture(0) + " --caption circle" + model + "--memory " + output,
  };
  set(std::nan(""));
  for (const std::string& command : commands) {
    const Finished finished = tessera(command);
    EXPECT_EQ(finished.exit_code, 1) << command;
    EXPECT_THAT(finished.output, HasSubstr(file.string() + ": tensor 'compressor.0.weight'")) << command;
    EXPECT_FALSE(fs::exists(output)) << command;
  }
  set(3e38);  // finite, and yet nothing can be computed with it
  for (const std::string& command : commands) {
    const Finished finished = tessera(command);
    EXPECT_EQ(finished.exit_code, 1) << command;
    EXPECT_THAT(finished.output, testing::AllOf(HasSubstr(picture(0)), HasSubstr("not finite"))) << command;
    EXPECT_FALSE(fs::exists(output)) << command;
  }
  const Finished evaluated =
      run_to_end(fmt::format("{} --suite retrieval --output {} --data {} {}", TESSERA_STAGE1_EVAL, output,
                             (small_->root() / "shapes" / "val-000000.tar").string(), model));
  EXPECT_EQ(evaluated.exit_code, 1);
  EXPECT_THAT(evaluated.output, HasSubstr("the image's embedding is not finite"));
  EXPECT_FALSE(fs::exists(output));
}

TEST_F(ModelTools, FeaturesOfATesseraModelAreItsEncodersAndItsCompressors) {
  const auto features = [&](const std::string& what) {
    const std::string output = place(what + ".safetensors");
    const Finished finished =
        tessera(fmt::format("features --what {} --model {} --device cpu --output {} --images {} {}", what,
                            checkpoint(), output, picture(0), picture(1)));
    EXPECT_EQ(finished.exit_code, 0) << finished.output;
    const SafetensorsFile file(output);
    EXPECT_EQ(file.metadata().count("adapter_sha1"), 1u);
    return file.tensor(what).clone();
  };
  auto loaded = model::load_model(checkpoint());
  loaded.model->set_training(false);
  const torch::NoGradGuard no_grad;
  const std::int64_t size = loaded.config.data.image_size;
  const at::Tensor pixels =
      torch::stack({inference::read_image(picture(0), size), inference::read_image(picture(1), size)});
  const at::Tensor tokens = loaded.model->encoder_tokens(pixels);
  EXPECT_TRUE(torch::allclose(features("tokens"), tokens, 1e-4, 1e-4));
  EXPECT_TRUE(torch::allclose(features("pooled"), tokens.select(1, 0), 1e-4, 1e-4));
  EXPECT_TRUE(torch::allclose(features("compressed"), loaded.model->compress_image(pixels), 1e-4, 1e-4));
  const Finished refused = tessera(fmt::format("features --adapter {} --model {} --output {} --images {}",
                                               checkpoint(), checkpoint(), place("x"), picture(0)));
  EXPECT_EQ(refused.exit_code, 2) << refused.output;
}

TEST_F(ModelTools, ExplainDrawsASheetAndAPage) {
  const std::string folder = place("explained/deep");
  const Finished finished =
      tessera(fmt::format("explain {} {} {} --model {} --output {} --words circle --words 'red circle'",
                          picture(0), broken(), picture(1), checkpoint(), folder));
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_THAT(finished.output, HasSubstr(broken()));
  EXPECT_GT(fs::file_size(fs::path(folder) / "explain.png"), 5000u);
  const std::string html = read_file(fs::path(folder) / "explain.html");
  EXPECT_THAT(html, HasSubstr("red circle"));
  EXPECT_THAT(html, HasSubstr("generated, log p -"));
  EXPECT_EQ(tessera(fmt::format("explain {} --model {} --output {} --text 'a blue square'", picture(0),
                                checkpoint(), folder))
                .exit_code,
            0);
  const std::string given = read_file(fs::path(folder) / "explain.html");
  EXPECT_THAT(given, HasSubstr("a blue square"));
  EXPECT_THAT(given, HasSubstr("given text"));
  EXPECT_THAT(given, Not(HasSubstr("red circle")));
}

TEST_F(ModelTools, RunInBfloat16) {
  const fs::path copy = place("bf16");
  fs::copy(fs::canonical(checkpoint()), copy, fs::copy_options::recursive);
  std::string config = read_file(copy / "config.yaml");
  const std::string precision = "precision: fp32";
  ASSERT_NE(config.find(precision), std::string::npos) << config;
  config.replace(config.find(precision), precision.size(), "precision: bf16");
  write_file_atomically(copy / "config.yaml", config);

  const std::string model = " --model " + copy.string();
  const std::string embeddings = place("bf16.safetensors");
  for (const std::string& words :
       {"caption " + picture(0) + model, "match " + picture(0) + " red blue" + model,
        "embed --images " + picture(0) + " --text red --tokens --output " + embeddings + model,
        "explain " + picture(0) + " --output " + place("bf16-explained") + model,
        "memory write " + picture(0) + " --caption red --memory " + place("bf16-memory") + model,
        "memory recall " + picture(0) + " --memory " + place("bf16-memory") + model}) {
    const Finished finished = tessera(words);
    EXPECT_EQ(finished.exit_code, 0) << words << "\n" << finished.output;
  }
  for (const auto& [name, tensor] : SafetensorsFile(embeddings).tensors()) {
    EXPECT_NE(tensor.scalar_type(), at::kBFloat16) << name;
  }
}

}  // namespace
}  // namespace tessera
