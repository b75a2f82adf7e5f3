#include <gmock/gmock.h>

#include "core/error.h"
#include "core/files.h"
#include "model/bundle.h"
#include "model/parameter_table.h"
#include "model/stage1_model.h"
#include "model/weights.h"
#include "tests/core/error_of.h"
#include "tests/train/runs.h"
#include "tests/train/small_run.h"
#include "train/dry_run.h"
#include "vision/dinov2.h"
#include "vision/encoder_files.h"

namespace tessera::train {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

class LoraTraining : public testing::Test {
 protected:
  static void SetUpTestSuite() { small_ = new SmallRun("tessera-lora-training"); }
  static void TearDownTestSuite() {
    delete small_;
    small_ = nullptr;
  }

  static TensorMap adapter(const std::string& run, const std::string& checkpoint = "latest") {
    return SafetensorsFile(small_->run_folder(run) / "checkpoints" / checkpoint / "adapter" /
                           "adapter_model.safetensors")
        .tensors();
  }
  static std::string log(const std::string& run) {
    return read_file(small_->run_folder(run) / "training.log");
  }

  static SmallRun* small_;
};

SmallRun* LoraTraining::small_ = nullptr;

constexpr const char* kBias = "base_model.model.encoder.layer.1.mlp.fc2.base_layer.bias";
constexpr const char* kNorm = "base_model.model.layernorm.weight";

Config with_every_field(Config config) {
  config.lora.target_modules = lora::ModuleSelection::from_text(".*\\.(query|value|fc2)");
  config.lora.exclude_modules = {"layer.0.attention.attention.value"};
  config.lora.rank_pattern = {{"fc2", 2}};
  config.lora.alpha_pattern = {{"layer.1.mlp.fc2", 5}};
  config.lora.use_dora = true;
  config.lora.bias = lora::LoraBias::kLoraOnly;
  config.lora.modules_to_save = {"layernorm"};
  config.lora.init_lora_weights = lora::LoraInit::kGaussian;
  return config;
}

TEST_F(LoraTraining, EveryFieldTrainsIsSavedAndResumesBitForBit) {
  EXPECT_EQ(train(with_every_field(small_->config("whole"))).steps, 24);
  train(with_every_field(small_->config("resumed")), "", 17);
  EXPECT_EQ(train(with_every_field(small_->config("resumed")), "latest").steps, 24);
  expect_same_checkpoint(small_->run_folder("whole") / "checkpoints" / "latest",
                         small_->run_folder("resumed") / "checkpoints" / "latest");

  // What trains whole is the backbone's own until phase 2 and moves then, at LoRA's rate, counted as LoRA.
  const SafetensorsFile backbone(small_->run_folder("whole") / "backbone" / "model.safetensors");
  const TensorMap before = adapter("whole", "phase1"), after = adapter("whole");
  for (const auto& [key, name] :
       {std::pair(kBias, "encoder.layer.1.mlp.fc2.bias"), std::pair(kNorm, "layernorm.weight")}) {
    EXPECT_TRUE(torch::equal(before.at(key), backbone.tensor(name))) << key;
    EXPECT_FALSE(torch::equal(after.at(key), backbone.tensor(name))) << key;
  }
  // A, B and magnitude of query (2), value (1) with rank 4 and fc2 (2) with rank 2; five biases; one norm.
  const std::int64_t width = 24, inner = 48;
  const std::int64_t expected =
      3 * (4 * (width + width) + width) + 2 * (2 * (width + inner) + width) + 5 * width + 2 * width;
  EXPECT_THAT(log("whole"), testing::ContainsRegex("lora +" + model::with_thousands(expected) + " +0\n"));
  EXPECT_THAT(read_file(small_->run_folder("whole") / "metrics.jsonl"), Not(HasSubstr("rate_backbone")));
}

class OnATrainedBackbone : public LoraTraining {
 protected:
  Config config(const std::string& name) const {
    Config config = small_->config(name);
    const fs::path folder = small_->root() / "dinov2";
    if (!fs::exists(folder)) {
      vision::Dinov2Model model(vision::Dinov2Config::from_architecture(config.vision.architecture));
      vision::initialise_random(model, 3);
      vision::save_encoder(folder, model);
    }
    config.vision.weights = folder.string();
    return config;
  }
};

TEST_F(OnATrainedBackbone, PissaResumesBitForBitAndGoesOnInAnotherRun) {
  const auto pissa = [&](const std::string& name) {
    Config made = config(name);
    made.lora.init_lora_weights = lora::LoraInit::kPissa;
    return made;
  };
  train(pissa("pissa"));
  train(pissa("pissa-resumed"), "", 15);
  train(pissa("pissa-resumed"), "latest");
  const fs::path checkpoint = small_->run_folder("pissa") / "checkpoints" / "latest";
  expect_same_checkpoint(checkpoint, small_->run_folder("pissa-resumed") / "checkpoints" / "latest");

  // A bundle's backbone is the one before anything was taken out of it.
  model::write_bundle(checkpoint, small_->root() / "bundle", {});
  const at::Tensor picture = at::randint(0, 256, {2, 3, 42, 42}, at::kByte);
  const model::LoadedModel bundled = model::load_model(small_->root() / "bundle");
  const model::LoadedModel saved = model::load_model(checkpoint);
  for (const model::LoadedModel* loaded : {&bundled, &saved}) loaded->model->set_training(false);
  EXPECT_TRUE(torch::equal(bundled.model->encoder_tokens(picture), saved.model->encoder_tokens(picture)));

  Config next = config("next");
  next.lora.adapter = (checkpoint / "adapter").string();
  next.lora.r = 9;
  next.schedule.lora_warmup_epochs = 0;
  const std::string note = "lora.r: 9 does not count: the adapter " + next.lora.adapter + " says 4";
  EXPECT_THAT(dry_run_report(next), HasSubstr("\nwarning: " + note));
  EXPECT_THAT(dry_run_report(next), HasSubstr("in place of defaults: "));
  next.lora.target_modules = {"q_proj", "v_proj"};  // the same by their other names
  EXPECT_THAT(dry_run_report(next), Not(HasSubstr("lora.target_modules")));
  Trainer trainer(next, kQuiet);
  EXPECT_THAT(log("next"), HasSubstr(note));
  const model::LoadedModel first = model::load_model(checkpoint);
  for (const at::Tensor& pixels : {at::randint(0, 256, {2, 3, 42, 42}, at::kByte)}) {
    trainer.model().set_training(false);
    first.model->set_training(false);
    EXPECT_TRUE(torch::equal(trainer.model().encoder_tokens(pixels), first.model->encoder_tokens(pixels)));
  }
}

TEST_F(OnATrainedBackbone, AnAdaptersOwnOptionsAreTakenWithoutAWord) {
  train(with_every_field(config("source")));
  Config next = config("same-options");
  next.lora.adapter = (small_->run_folder("source") / "checkpoints" / "latest" / "adapter").string();
  next.lora.use_dora = true;
  EXPECT_EQ(train(next, "", 14).steps, 14);
  EXPECT_EQ(train(next, "latest").steps, 24);
  EXPECT_THAT(log("same-options"), Not(HasSubstr("does not count")));
  EXPECT_FALSE(torch::equal(adapter("source").at(kBias), adapter("same-options").at(kBias)));
}

TEST_F(LoraTraining, RandomWeightsAreNotTakenApart) {
  Config config = small_->config("random-pissa");
  config.lora.init_lora_weights = lora::LoraInit::kPissa;
  try {
    train(config);
    FAIL() << "pissa on random weights was not refused";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("lora.init_lora_weights: \"pissa\""));
  }
  EXPECT_FALSE(fs::exists(small_->run_folder("random-pissa")));
}

TEST_F(LoraTraining, AnAdapterForAnEncoderThatTakesNoneIsRefused) {
  Config config = small_->config("no-lora");
  config.vision.trainable = lora::TrainableChoice::kNone;
  config.lora.adapter = "somewhere";
  EXPECT_THAT(error_of([&] { train(config); }),
              HasSubstr("lora.adapter: counts with vision.trainable: lora"));
}

}  // namespace
}  // namespace tessera::train
