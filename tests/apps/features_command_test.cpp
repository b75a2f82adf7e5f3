// tessera features as a user runs it, over a small DINOv2 folder.

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/files.h"
#include "core/safetensors.h"
#include "data/image_processor.h"
#include "data/image_transform.h"
#include "lora/lora.h"
#include "lora/peft_files.h"
#include "tests/apps/run_to_end.h"
#include "tests/core/temporary_folder.h"
#include "tests/data/fixtures.h"
#include "vision/dinov2.h"
#include "vision/encoder_families.h"
#include "vision/encoder_files.h"

#include <torch/torch.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using Json = nlohmann::json;

/// A random encoder with registers, an adapter onto it, and pictures of several sizes. Made once for all
/// tests.
class FeaturesCommand : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TemporaryFolder>();
    vision::Dinov2Config config = vision::Dinov2Config::from_architecture({});
    config.hidden_size = 16;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 2;
    config.image_size = 16;
    config.patch_size = 4;
    config.num_register_tokens = 3;
    config.with_registers = true;
    vision::Dinov2Model model(config);
    vision::initialise_random(model, 1);
    vision::save_encoder(place("model"), model, {.crop_size = 16, .shortest_edge = 20});
    const lora::LoraOptions lora{.r = 2, .lora_alpha = 4, .target_modules = {"query", "value"}};
    lora::inject_lora(model, lora, 5);
    for (auto& [name, tensor] : lora::lora_parameters(model)) {
      const torch::NoGradGuard no_grad;
      tensor.normal_(0, 0.5);
    }
    lora::save_adapter(place("adapter"), model, lora);
    fs::create_directories(place("pictures/deeper"));
    for (int i = 0; i < 3; ++i) data::write_bytes(picture(i), picture_bytes(i));
    data::write_bytes(place("pictures/notes.txt"), "no picture");
    data::write_bytes(place("broken.jpg"), "no picture at all");
  }
  static void TearDownTestSuite() { folder_.reset(); }

  static std::string place(const std::string& name) { return (folder_->path() / name).string(); }
  static std::string picture(int i) {
    return place(i == 1 ? "pictures/deeper/1.PNG" : fmt::format("pictures/{}.jpg", i));
  }
  static std::string picture_bytes(int i) {
    return data::encoded_image(i == 1 ? ".png" : ".jpg", i, 40 + 11 * i, 33);
  }

  static Finished features(const std::string& words, const std::string& model = place("model")) {
    return run_to_end(fmt::format("{} features --model {} --output {} --device cpu {}", TESSERA_TOOL, model,
                                  place("out.safetensors"), words));
  }
  /// The tensor that a run writes.
  static at::Tensor written(const std::string& words, const std::string& name = "pooled",
                            const std::string& model = place("model")) {
    const Finished finished = features(words, model);
    EXPECT_EQ(finished.exit_code, 0) << words << "\n" << finished.output;
    const SafetensorsFile file(place("out.safetensors"));
    metadata_ = file.metadata();
    return file.tensor(name).clone();
  }
  static std::vector<std::string> names() { return Json::parse(metadata_.at("images")); }

  /// What the command should write of one picture, computed from the parts.
  static at::Tensor expected_tokens(int i, const std::string& adapter = "") {
    const auto model = vision::load_encoder(place("model"));
    if (!adapter.empty()) lora::load_adapter(adapter, *model);
    model->eval();
    const torch::NoGradGuard no_grad;
    const data::ImageProcessor processor(data::ImageProcessorOptions::load(place("model")));
    const std::string bytes = picture_bytes(i);
    const cv::Mat image = data::decode_image(data::as_bytes(bytes), "picture");
    return model->forward(processor.process(image, "picture").unsqueeze(0)).squeeze(0);
  }

  static std::unique_ptr<TemporaryFolder> folder_;
  static StringMap metadata_;
};

std::unique_ptr<TemporaryFolder> FeaturesCommand::folder_;
StringMap FeaturesCommand::metadata_;

TEST_F(FeaturesCommand, WritesPooledFeaturesAndTokens) {
  const at::Tensor pooled = written("--images " + picture(2) + " " + picture(0));
  EXPECT_EQ(names(), (std::vector<std::string>{picture(2), picture(0)}));
  EXPECT_EQ(pooled.sizes(), (std::vector<std::int64_t>{2, 16}));
  EXPECT_TRUE(at::allclose(pooled[0], expected_tokens(2)[0], 1e-5, 1e-5));
  const at::Tensor tokens = written("--what tokens --images " + picture(2) + " " + picture(0), "tokens");
  EXPECT_EQ(tokens.sizes(), (std::vector<std::int64_t>{2, 1 + 3 + 16, 16}));
  EXPECT_TRUE(at::allclose(tokens[1], expected_tokens(0), 1e-5, 1e-5));
  EXPECT_EQ(metadata_.at("what"), "tokens");
  EXPECT_EQ(metadata_.at("model_sha1"), file_hash(place("model/model.safetensors")));
  EXPECT_EQ(metadata_.count("adapter"), 0u);
  EXPECT_EQ(Json::parse(metadata_.at("processor")).at("size").at("shortest_edge"), 20);
}

TEST_F(FeaturesCommand, RunsAnAdapter) {
  const std::string images = "--images " + picture(0);
  const at::Tensor adapted = written(images + " --adapter " + place("adapter"));
  EXPECT_TRUE(at::allclose(adapted[0], expected_tokens(0, place("adapter"))[0], 1e-5, 1e-5));
  EXPECT_EQ(metadata_.at("adapter_sha1"), file_hash(place("adapter/adapter_model.safetensors")));
  EXPECT_FALSE(at::allclose(adapted, written(images), 1e-2, 1e-2));
}

TEST_F(FeaturesCommand, TakesFoldersShardsAndLists) {
  const at::Tensor one_by_one =
      written(fmt::format("--batch-size 1 --images {} {} {}", picture(0), picture(2), picture(1)));
  // Sorted by path; what is no image by its name is passed over.
  EXPECT_TRUE(at::allclose(written("--images " + place("pictures")), one_by_one, 1e-5, 1e-5));
  EXPECT_EQ(names(), (std::vector<std::string>{picture(0), picture(2), picture(1)}));

  data::write_tar(place("s-0.tar"),
                  {{"a.jpg", picture_bytes(0)}, {"a.json", "{}"}, {"b.jpg", picture_bytes(2)}});
  data::write_tar(place("s-1.tar"), {{"c/d.png", picture_bytes(1)}});
  EXPECT_TRUE(at::allclose(written("--images '" + place("s-{0..1}.tar") + "'"), one_by_one, 1e-5, 1e-5));
  EXPECT_EQ(names(), (std::vector<std::string>{place("s-0.tar/a.jpg"), place("s-0.tar/b.jpg"),
                                               place("s-1.tar/c/d.png")}));

  write_file_atomically(place("list.txt"), picture(0) + "\r\n\n" + picture(2) + "\n" + place("s-1.tar"));
  EXPECT_TRUE(at::allclose(written("--images @" + place("list.txt")), one_by_one, 1e-5, 1e-5));
}

TEST_F(FeaturesCommand, WritesNarrowerNumbers) {
  const std::string images = "--images " + place("pictures");
  const at::Tensor full = written(images);
  const at::Tensor half = written(images + " --dtype float16");
  EXPECT_EQ(half.scalar_type(), at::kHalf);
  EXPECT_TRUE(at::allclose(half.to(at::kFloat), full, 1e-3, 1e-3));
  EXPECT_EQ(written(images + " --dtype bfloat16").scalar_type(), at::kBFloat16);
  EXPECT_TRUE(at::allclose(written(images + " --precision bf16"), full, 0.1, 0.1));
}

TEST_F(FeaturesCommand, ListsAndNamesOfEveryKindAreTaken) {
  const at::Tensor expected = written("--images " + picture(0) + " " + picture(2));
  for (const std::string& content :
       {"\xef\xbb\xbf" + picture(0) + "\r\n\r\n" + picture(2), picture(0) + "\n\n" + picture(2),
        "\xef\xbb\xbf\n" + picture(0) + "\n" + picture(2) + "\n"}) {
    write_file_atomically(place("list.txt"), content);
    EXPECT_TRUE(at::equal(written("--images @" + place("list.txt")), expected));
    EXPECT_EQ(names(), (std::vector<std::string>{picture(0), picture(2)}));
  }
  write_file_atomically(place("list.txt"), picture(0) + "\n\nnowhere.jpg\n");
  EXPECT_THAT(features("--images @" + place("list.txt")).output,
              HasSubstr("list.txt:3: nowhere.jpg: no such"));
  const std::vector<std::string> odd = {"@a.jpg", "-b.jpg", "c, d {e}.jpg", "f=1.jpg", "caf\xe9 100%.jpg"};
  std::string quoted;
  for (const std::string& name : odd) {
    fs::copy_file(picture(0), place(name), fs::copy_options::overwrite_existing);
    quoted += " '" + name + "'";
  }
  const Finished finished =
      run_to_end(fmt::format("cd {} && {} features --model model --output odd.safetensors --device cpu "
                             "--images='@a.jpg' --images='-b.jpg' --images {}",
                             folder_->path().string(), TESSERA_TOOL, quoted.substr(quoted.find("'c"))));
  ASSERT_EQ(finished.exit_code, 0) << finished.output;
  const SafetensorsFile file(place("odd.safetensors"));
  EXPECT_EQ(Json::parse(file.metadata().at("images")),
            (Json{"@a.jpg", "-b.jpg", "c, d {e}.jpg", "f=1.jpg", "caf%E9 100%25.jpg"}));
  EXPECT_TRUE(at::allclose(file.tensor("pooled")[4], expected[0], 1e-5, 1e-5));
}

TEST_F(FeaturesCommand, StandInsAreNamed) {
  write_file_atomically(place("pointer.jpg"),
                        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 20480\n");
  for (const std::string& words : {place("pointer.jpg"), "@" + place("pointer.jpg")}) {
    const Finished finished = features("--images " + words);
    EXPECT_EQ(finished.exit_code, 1) << finished.output;
    EXPECT_THAT(finished.output, testing::AllOf(HasSubstr("pointer.jpg"), HasSubstr("git lfs pull")));
  }
}

TEST_F(FeaturesCommand, TakesAnotherImageSize) {
  const at::Tensor tokens = written("--what tokens --image-size 24 --images " + picture(0), "tokens");
  EXPECT_EQ(tokens.size(1), 1 + 3 + 36);
  const Json processor = Json::parse(metadata_.at("processor"));
  EXPECT_EQ(processor.at("size").at("shortest_edge"), 30);
  EXPECT_EQ(processor.at("crop_size").at("height"), 24);
}

TEST_F(FeaturesCommand, TakesFacebooksFileAndAnotherInterpolation) {
  const std::string file = std::string(TESSERA_SOURCE_DIR) + "/tests/golden/checkpoints/facebook_plain.pth";
  const auto pooled = [&](const std::string& more) {
    return written("--image-size 14 --images " + picture(0) + more, "pooled", file);
  };
  const at::Tensor as_trained = pooled("");
  const Json processor = Json::parse(metadata_.at("processor"));
  EXPECT_EQ(processor.at("size").at("shortest_edge"), 16);  // 256 to 224 as 16 to 14
  EXPECT_EQ(processor.at("image_mean"), Json({0.485, 0.456, 0.406}));
  EXPECT_TRUE(at::equal(as_trained, pooled(" --position-interpolation scale_factor")));
  EXPECT_FALSE(at::allclose(as_trained, pooled(" --position-interpolation size"), 1e-3, 1e-3));
}

TEST_F(FeaturesCommand, TransparencyIsWhiteOrDropped) {
  const cv::Mat clear(30, 30, CV_8UC4, cv::Scalar(0, 0, 0, 0));
  data::write_bytes(place("clear.png"), data::encode(".png", clear));
  data::write_bytes(place("white.png"),
                    data::encode(".png", cv::Mat(30, 30, CV_8UC3, cv::Scalar(255, 255, 255))));
  data::write_bytes(place("black.png"), data::encode(".png", cv::Mat(30, 30, CV_8UC3, cv::Scalar(0, 0, 0))));
  const std::string images =
      fmt::format("--images {} {} {}", place("clear.png"), place("white.png"), place("black.png"));
  const at::Tensor white = written(images);
  EXPECT_TRUE(at::allclose(white[0], white[1], 1e-5, 1e-5));
  EXPECT_FALSE(at::allclose(white[0], white[2], 1e-2, 1e-2));
  const at::Tensor dropped = written(images + " --alpha drop");
  EXPECT_TRUE(at::allclose(dropped[0], dropped[2], 1e-5, 1e-5));
}

TEST_F(FeaturesCommand, ABrokenImageStopsItOrIsSkipped) {
  const std::string images = fmt::format("--images {} {} {}", picture(0), place("broken.jpg"), picture(2));
  fs::remove(place("out.safetensors"));
  const Finished stopped = features(images);
  EXPECT_EQ(stopped.exit_code, 1);
  EXPECT_THAT(stopped.output, HasSubstr("tessera features: " + place("broken.jpg")));
  EXPECT_FALSE(fs::exists(place("out.safetensors")));
  const Finished skipped = features(images + " --skip-broken");
  EXPECT_EQ(skipped.exit_code, 0);
  EXPECT_THAT(skipped.output, HasSubstr("skipped: " + place("broken.jpg")));
  EXPECT_THAT(skipped.output, HasSubstr("1 broken image was skipped"));
  EXPECT_EQ(written(images + " --skip-broken").size(0), 2);
  EXPECT_EQ(names(), (std::vector<std::string>{picture(0), picture(2)}));
  EXPECT_EQ(features("--skip-broken --images " + place("broken.jpg")).exit_code, 1);
}

TEST_F(FeaturesCommand, HiddenFilesAreLeftOutWithALineThatSaysSo) {
  const fs::path folder = place("from-a-mac");
  fs::create_directories(folder / ".ipynb_checkpoints");
  fs::copy_file(picture(0), folder / "0.jpg");
  fs::copy_file(picture(0), folder / ".ipynb_checkpoints/0-checkpoint.jpg");
  data::write_bytes((folder / "._0.jpg").string(), std::string("\0\5\x16\7", 4));
  data::write_bytes((folder / "1.gif").string(), "GIF89a");
  const Finished finished = features("--images " + folder.string());
  EXPECT_EQ(finished.exit_code, 0) << finished.output;
  EXPECT_THAT(finished.output, HasSubstr("tessera features: left out: 2 hidden (such as '"));
  EXPECT_THAT(finished.output, HasSubstr("1 of other kinds (.gif 1)"));
  EXPECT_EQ(written("--images " + folder.string()).size(0), 1);
  EXPECT_EQ(names(), (std::vector<std::string>{(folder / "0.jpg").string()}));
}

TEST_F(FeaturesCommand, ASignalStopsItAndNothingIsLeft) {
  const fs::path folder = place("stopped");
  fs::create_directory(folder);
  std::string list;  // of minutes of work
  for (int i = 0; i < 100'000; ++i) list += picture(0) + "\n";
  write_file_atomically(place("long.txt"), list);
  const std::string script = fmt::format(
      "cd {}; {} features --model {} --output out.safetensors --images @{} --batch-size 1 --device cpu & "
      "pid=$!; "
      "until ls .out.safetensors.tmp-* 2> /dev/null; do sleep 0.01; done; kill -TERM $pid; wait $pid; echo "
      "code $?",
      folder.string(), TESSERA_TOOL, place("model"), place("long.txt"));
  const Finished finished = run_to_end("timeout 60 bash -c '" + script + "'");
  EXPECT_THAT(finished.output, HasSubstr("nothing was written"));
  EXPECT_THAT(finished.output, HasSubstr("code 1"));
  EXPECT_TRUE(fs::is_empty(folder));
}

TEST_F(FeaturesCommand, ImagesOfSeveralSizesHavePooledFeaturesButNoTokens) {
  const fs::path uncropped = place("uncropped");
  fs::copy(place("model"), uncropped);
  Json processor = Json::parse(read_file(uncropped / "preprocessor_config.json"));
  processor["do_center_crop"] = false;
  write_file_atomically(uncropped / "preprocessor_config.json", processor.dump());
  const std::string words =
      fmt::format("{} features --model {} --output {} --images {} --device cpu", TESSERA_TOOL,
                  uncropped.string(), place("any.safetensors"), place("pictures"));
  const Finished pooled = run_to_end(words);
  EXPECT_EQ(pooled.exit_code, 0) << pooled.output;
  const Finished tokens = run_to_end(words + " --what tokens");
  EXPECT_EQ(tokens.exit_code, 1);
  EXPECT_THAT(tokens.output, HasSubstr("of one size"));
}

TEST_F(FeaturesCommand, WritesNothingThatIsNotFinite) {
  const fs::path damaged = place("damaged");
  const std::string output = place("not-finite.safetensors");
  const auto run = [&](const std::string& words) {
    const Finished finished =
        run_to_end(fmt::format("{} features --model {} --output {} --images {} {} --device cpu {}",
                               TESSERA_TOOL, damaged.string(), output, picture(2), picture(0), words));
    EXPECT_FALSE(fs::exists(output)) << words;
    return finished;
  };
  const auto damage = [&](const std::function<void(TensorMap&)>& change) {
    TensorMap tensors;
    for (const auto& [name, tensor] : SafetensorsFile(place("model/model.safetensors")).tensors())
      tensors[name] = tensor.clone();
    change(tensors);
    fs::remove_all(damaged);
    fs::copy(place("model"), damaged);
    write_safetensors(damaged / "model.safetensors", tensors);
  };
  damage([](TensorMap& tensors) { tensors.at("encoder.layer.0.norm1.bias")[3] = std::nan(""); });
  const Finished of_weights = run("");
  EXPECT_EQ(of_weights.exit_code, 1);
  EXPECT_THAT(of_weights.output,
              testing::AllOf(HasSubstr((damaged / "model.safetensors").string()),
                             HasSubstr("'encoder.layer.0.norm1.bias'"), HasSubstr("nan at [3]")));
  // Finite, and yet too large for what is computed of them.
  damage([](TensorMap& tensors) { tensors.at("encoder.layer.1.mlp.fc2.weight").fill_(3e38); });
  const Finished of_image = run("");
  EXPECT_EQ(of_image.exit_code, 1);
  EXPECT_THAT(of_image.output, HasSubstr(picture(2) + ": one of its features"));
  damage([](TensorMap& tensors) { tensors.at("layernorm.bias")[1] = 1e5; });
  const Finished of_type = run("--dtype float16");
  EXPECT_EQ(of_type.exit_code, 1);
  EXPECT_THAT(of_type.output,
              testing::AllOf(HasSubstr(picture(2)), HasSubstr("Half"), HasSubstr("bfloat16")));
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_->path()))
    EXPECT_THAT(entry.path().filename().string(), testing::Not(HasSubstr("not-finite"))) << "left behind";
}

TEST_F(FeaturesCommand, MistakesAreNamed) {
  const std::string images = " --images " + picture(0);
  for (const std::string& words :
       {images + " --what patches", images + " --dtype int8", images + " --batch-size 0",
        images + " --what compressed", images + " --alpha black", images + " --position-interpolation cubic",
        std::string("--what pooled")}) {
    const Finished finished = features(words);
    EXPECT_EQ(finished.exit_code, 2) << words << "\n" << finished.output;
  }
  for (const char* output : {"nowhere/x.safetensors", "pictures"}) {
    const Finished finished = run_to_end(fmt::format("{} features --model {} --output {}{}", TESSERA_TOOL,
                                                     place("model"), place(output), images));
    EXPECT_EQ(finished.exit_code, 2) << finished.output;
    EXPECT_THAT(finished.output, HasSubstr("--output '" + place(output)));
  }
  fs::create_symlink("linked.safetensors", place("link"));
  write_file_atomically(place("linked.safetensors"), "old");
  run_to_end("mkfifo " + place("pipe"));
  for (const std::string& output : {place("pipe"), std::string("''")}) {
    const Finished finished = run_to_end(
        fmt::format("{} features --model {} --output {}{}", TESSERA_TOOL, place("model"), output, images));
    EXPECT_EQ(finished.exit_code, 2) << finished.output;
    EXPECT_THAT(finished.output, HasSubstr("--output '"));
  }
  EXPECT_EQ(run_to_end(fmt::format("{} features --model {} --output {}{}", TESSERA_TOOL, place("model"),
                                   place("link"), images))
                .exit_code,
            0);
  EXPECT_TRUE(fs::is_symlink(place("link")));
  EXPECT_EQ(SafetensorsFile(place("linked.safetensors")).names(), std::vector<std::string>{"pooled"});
  for (const char* place_of : {"nowhere.jpg", "nowhere.tar", "adapter"}) {
    const Finished finished = features("--images " + place(place_of));
    EXPECT_EQ(finished.exit_code, 1) << finished.output;
    EXPECT_THAT(finished.output, HasSubstr(place(place_of)));
  }
  const Finished model =
      run_to_end(fmt::format("{} features --model {} --output {} --images {}", TESSERA_TOOL,
                             place("pictures"), place("x.safetensors"), picture(0)));
  EXPECT_EQ(model.exit_code, 1);
  EXPECT_THAT(model.output, HasSubstr(place("pictures")));
  const Finished help = run_to_end(std::string(TESSERA_TOOL) + " features --help");
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.output, HasSubstr("Usage: tessera features "));
}

}  // namespace
}  // namespace tessera
