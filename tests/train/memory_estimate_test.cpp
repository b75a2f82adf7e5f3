#include "train/memory_estimate.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>
#include <memory>
#include <string>

#include "config/config.h"
#include "core/archive.h"
#include "core/collectives.h"
#include "core/device.h"
#include "core/logging.h"
#include "data/loader.h"
#include "data/source.h"
#include "model/build.h"
#include "model/stage1_model.h"
#include "tests/core/peak_bytes.h"
#include "tests/model/strip_model.h"
#include "tests/train/small_run.h"
#include "train/training_step.h"

namespace tessera::train {
namespace {

const Compute kPrecisions[] = {{c10::kCPU, c10::kFloat}, {c10::kCPU, c10::kBFloat16}};

class MemoryEstimateTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    at::set_num_threads(1);
    small_ = new SmallRun("tessera-memory-estimate");
    data_ = small_->training_data();
  }
  static void TearDownTestSuite() {
    data_.reset();
    delete small_;
    small_ = nullptr;
  }

  /// Wide enough for what is kept to be more than bookkeeping, with captions that fill their rows.
  static Config config() {
    Config config = small_->config("estimate");
    config.data.batch_size = 16;
    config.fusion.levels = 2;
    config.language.num_hidden_layers = 3;
    config.language.hidden_size = 48;
    config.language.intermediate_size = 128;
    config.compressor.output_size = 32;
    config.vision.architecture.hidden_size = 48;
    config.vision.architecture.num_attention_heads = 3;
    config.memory.code_size = 32;
    return config;
  }

  static data::Batch full_batch(const Config& config) {
    data::Batch batch;
    batch.pixels = torch::randint(0, 256, {config.data.batch_size, 3, 42, 42}, torch::kByte);
    batch.image_ids = torch::arange(config.data.batch_size);
    std::string caption;
    for (std::int64_t word = 0; word < config.language.max_tokens; ++word) caption += " circle";
    for (std::int64_t i = 0; i < config.data.batch_size; ++i) {
      batch.captions.push_back(caption);
      batch.keys.push_back(std::to_string(i));
    }
    return batch;
  }

  static std::shared_ptr<model::Stage1Model> make_model(const Config& config) {
    auto model = model::build_model(config, std::nullopt).model;
    model->set_lora_trainable(true);
    model->set_training(true);
    return model;
  }
  static TrainingStep make_step(const std::shared_ptr<model::Stage1Model>& model, const Config& config,
                                const Compute& compute = {}) {
    return TrainingStep(model, language::Tokenizer::load(config.language.tokenizer), config, compute,
                        collectives_, *data_);
  }
  /// What a step holds at most, forward and backward, beside what is there before it.
  static double held_bytes(const std::shared_ptr<model::Stage1Model>& model, const Config& config,
                           const Compute& compute) {
    TrainingStep step = make_step(model, config, compute);
    const data::Batch batch = full_batch(config);
    step.compute(batch, /*step=*/0);  // leaves casts of frozen weights, and the probe's first measurement
    return peak_and_left_bytes([&] {
             const StepOutput output = step.compute(batch, /*step=*/1);
             output.loss.backward();
             return output;
           })
        .first;
  }
  static void expect_close(const Config& config, const Compute& compute, const std::string& what) {
    const auto model = make_model(config);
    const double ratio = estimate_memory(config, *model, compute).step() / held_bytes(model, config, compute);
    EXPECT_GT(ratio, 0.85) << what << ", " << compute.dtype;
    EXPECT_LT(ratio, 1.18) << what << ", " << compute.dtype;
  }

  static SmallRun* small_;
  static std::shared_ptr<const data::Source> data_;
  static SingleProcess collectives_;
};

SmallRun* MemoryEstimateTest::small_ = nullptr;
std::shared_ptr<const data::Source> MemoryEstimateTest::data_;
SingleProcess MemoryEstimateTest::collectives_;

/// The losses, so that any of them can be switched off.
using Weight = double& (*)(losses::LossesConfig&);
constexpr std::pair<const char*, Weight> kWeights[] = {
    {"itc", [](losses::LossesConfig& losses) -> double& { return losses.itc.weight; }},
    {"siglip", [](losses::LossesConfig& losses) -> double& { return losses.siglip.weight; }},
    {"maxsim", [](losses::LossesConfig& losses) -> double& { return losses.maxsim.weight; }},
    {"itm", [](losses::LossesConfig& losses) -> double& { return losses.itm.weight; }},
    {"caption", [](losses::LossesConfig& losses) -> double& { return losses.caption.weight; }},
    {"memory", [](losses::LossesConfig& losses) -> double& { return losses.memory.weight; }},
};

TEST_F(MemoryEstimateTest, AStepIsWhatItHoldsWhateverLossesItHas) {
  for (const Compute& compute : kPrecisions) {
    expect_close(config(), compute, "all");
    Config without_queue = config();
    without_queue.losses.itc.queue.size = 0;
    expect_close(without_queue, compute, "all without a queue");
    for (const auto& [name, weight] : kWeights) {
      Config alone = config();
      for (const auto& [other, weight_of_other] : kWeights) weight_of_other(alone.losses) = 0;
      weight(alone.losses) = 1;
      expect_close(alone, compute, std::string(name) + " alone");
    }
  }
}

/// The encoder is most of the model, and contrast the only loss.
Config with_deep_encoder(Config config) {
  for (const auto& [name, weight] : kWeights) weight(config.losses) = 0;
  config.losses.itc.weight = 1;
  config.losses.itc.queue.size = 0;
  config.vision.architecture.num_hidden_layers = 8;
  config.vision.architecture.patch_size = 6;
  config.fusion.levels = 1;
  config.language.num_hidden_layers = 1;
  return config;
}

TEST_F(MemoryEstimateTest, TheEncoderKeepsWhatItsAdaptersAndPrecisionNeed) {
  const std::map<std::string, void (*)(Config&)> kinds = {
      {"query and value", [](Config&) {}},
      {"without dropout", [](Config& config) { config.lora.lora_dropout = 0; }},
      {"all linear", [](Config& config) { config.lora.target_modules = {"all-linear"}; }},
      {"DoRA", [](Config& config) { config.lora.use_dora = true; }},
      {"upper layers",
       [](Config& config) {
         config.lora.layers_to_transform = {5, 6};
       }},
      {"the whole backbone", [](Config& config) { config.vision.trainable = lora::TrainableChoice::kFull; }}};
  for (const Compute& compute : kPrecisions) {
    for (const auto& [name, change] : kinds) {
      for (const bool checkpointing : {false, true}) {
        Config config = with_deep_encoder(MemoryEstimateTest::config());
        config.vision.gradient_checkpointing = checkpointing;
        change(config);
        expect_close(config, compute, name + (checkpointing ? ", checkpointing" : ""));
      }
    }
  }
}

TEST_F(MemoryEstimateTest, CheckpointingAndBfloat16NeedLess) {
  const Config config = with_deep_encoder(MemoryEstimateTest::config());
  const auto model = make_model(config);
  const double plain = estimate_memory(config, *model, kPrecisions[0]).step();
  EXPECT_LT(estimate_memory(config, *model, kPrecisions[1]).step(), 0.75 * plain);
  model->vision().set_gradient_checkpointing(true);
  EXPECT_LT(estimate_memory(config, *model, kPrecisions[0]).step(), 0.5 * plain);
}

TEST_F(MemoryEstimateTest, AFrozenEncoderHoldsNothing) {
  const Config config = MemoryEstimateTest::config();
  for (const Compute& compute : kPrecisions) {
    const auto model = make_model(config);
    const MemoryEstimate trains = estimate_memory(config, *model, compute);
    model->set_lora_trainable(false);
    const MemoryEstimate frozen = estimate_memory(config, *model, compute);
    EXPECT_EQ(frozen.weights, trains.weights);
    EXPECT_LT(frozen.gradients, trains.gradients);
    EXPECT_LT(frozen.activations, trains.activations);
    const double ratio = frozen.step() / held_bytes(model, config, compute);
    EXPECT_GT(ratio, 0.85) << compute.dtype;
    EXPECT_LT(ratio, 1.18) << compute.dtype;
  }
}

/// Casts of what is frozen stay beside it from the first step under autocast on.
TEST_F(MemoryEstimateTest, FrozenWeightsStandTwiceUnderAutocast) {
  Config config = MemoryEstimateTest::config();
  config.losses.itc.queue.size = 0;  // or the batch would be kept for it
  const auto model = make_model(config);
  TrainingStep step = make_step(model, config, kPrecisions[1]);
  const data::Batch batch = full_batch(config);
  const double left =
      peak_and_left_bytes([&] { return step.compute(batch, /*step=*/0).loss.detach(); }).second;
  const double more = estimate_memory(config, *model, kPrecisions[1]).weights -
                      estimate_memory(config, *model, kPrecisions[0]).weights;
  EXPECT_GT(more, 0);
  EXPECT_NEAR(left, more, 0.25 * more);
}

TEST_F(MemoryEstimateTest, TheQueueIsExactWithAndWithoutThePayloadOfMatching) {
  for (const double itm : {0.0, 1.0}) {
    Config config = MemoryEstimateTest::config();
    config.losses.itm.weight = itm;
    // And of an encoder whose patches lie in no square, with no token before them.
    for (const auto& model : {make_model(config), model::strip_model(config, {})}) {
      TrainingStep step = make_step(model, config);
      step.compute(full_batch(config), /*step=*/0);
      step.after_update(/*step=*/0);
      Archive archive;
      step.save(archive);
      double bytes = 0;
      for (const auto& [name, tensor] : archive.tensors()) {
        const bool is_column = name.rfind("itc_queue.", 0) == 0 && tensor.dim() > 0 &&
                               tensor.size(0) == config.losses.itc.queue.size;
        if (is_column) bytes += static_cast<double>(tensor.nbytes());
      }
      EXPECT_GT(bytes, 0);
      EXPECT_EQ(estimate_memory(config, *model, Compute{}).queue, bytes);
    }
  }
  Config without = config();
  without.losses.itc.queue.size = 0;
  EXPECT_EQ(estimate_memory(without, *make_model(without), Compute{}).queue, 0);
}

}  // namespace
}  // namespace tessera::train
