#include "train/memory_estimate.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <memory>

#include "core/archive.h"
#include "core/collectives.h"
#include "core/logging.h"
#include "model/build.h"
#include "tests/core/peak_bytes.h"
#include "tests/train/small_run.h"
#include "train/training_step.h"

namespace tessera::train {
namespace {

class MemoryEstimateTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    at::set_num_threads(1);
    small_ = new SmallRun("tessera-memory-estimate");
    data_ = data::WebDataset::open(small_->config("any").data.train, null_logger());
  }
  static void TearDownTestSuite() {
    data_.reset();
    delete small_;
    small_ = nullptr;
  }

  /// Wide enough for what is kept to be more than bookkeeping, with captions that fill their rows.
  static Config config() {
    Config config = small_->config("estimate");
    config.data.batch_size = 4;
    config.fusion.levels = 2;
    config.language.num_hidden_layers = 3;
    config.language.hidden_size = 48;
    config.language.intermediate_size = 128;
    config.compressor.output_size = 32;
    config.vision.architecture.hidden_size = 48;
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
  static TrainingStep make_step(const std::shared_ptr<model::Stage1Model>& model, const Config& config) {
    return TrainingStep(model, language::Tokenizer::load(config.language.tokenizer), config, Compute{},
                        collectives_, *data_);
  }
  /// What a step's passes hold at most, before anything is differentiated.
  static double held_bytes(const std::shared_ptr<model::Stage1Model>& model, const Config& config) {
    TrainingStep step = make_step(model, config);
    const data::Batch batch = full_batch(config);
    return peak_and_left_bytes([&] { return step.compute(batch, /*step=*/0); }).first;
  }

  static SmallRun* small_;
  static std::shared_ptr<const data::WebDataset> data_;
  static SingleProcess collectives_;
};

SmallRun* MemoryEstimateTest::small_ = nullptr;
std::shared_ptr<const data::WebDataset> MemoryEstimateTest::data_;
SingleProcess MemoryEstimateTest::collectives_;

/// The losses, so that any of them can be switched off.
using Weight = double& (*)(LossesConfig&);
constexpr std::pair<const char*, Weight> kWeights[] = {
    {"itc", [](LossesConfig& losses) -> double& { return losses.itc.weight; }},
    {"maxsim", [](LossesConfig& losses) -> double& { return losses.maxsim.weight; }},
    {"itm", [](LossesConfig& losses) -> double& { return losses.itm.weight; }},
    {"caption", [](LossesConfig& losses) -> double& { return losses.caption.weight; }},
    {"memory", [](LossesConfig& losses) -> double& { return losses.memory.weight; }},
};

TEST_F(MemoryEstimateTest, ActivationsAreWhatAStepHoldsWhateverLossesItHas) {
  const auto expect_close = [](const Config& config, const std::string& losses) {
    const auto model = make_model(config);
    const double ratio = estimate_memory(config, *model, Compute{}).activations / held_bytes(model, config);
    EXPECT_GT(ratio, 0.85) << losses;
    EXPECT_LT(ratio, 1.18) << losses;
  };
  expect_close(config(), "all");
  for (const auto& [name, weight] : kWeights) {
    Config alone = config();
    for (const auto& [other, weight_of_other] : kWeights) weight_of_other(alone.losses) = 0;
    weight(alone.losses) = 1;
    expect_close(alone, std::string(name) + " alone");
  }
}

TEST_F(MemoryEstimateTest, AFrozenEncoderHoldsNothing) {
  const Config config = MemoryEstimateTest::config();
  const auto model = make_model(config);
  const MemoryEstimate trains = estimate_memory(config, *model, Compute{});
  model->set_lora_trainable(false);
  const MemoryEstimate frozen = estimate_memory(config, *model, Compute{});
  EXPECT_EQ(frozen.weights, trains.weights);
  EXPECT_LT(frozen.gradients, trains.gradients);
  EXPECT_LT(frozen.activations, trains.activations);
  const double ratio = frozen.activations / held_bytes(model, config);
  EXPECT_GT(ratio, 0.85);
  EXPECT_LT(ratio, 1.18);
}

TEST_F(MemoryEstimateTest, TheQueueIsExactWithAndWithoutThePayloadOfMatching) {
  for (const double itm : {0.0, 1.0}) {
    Config config = MemoryEstimateTest::config();
    config.losses.itm.weight = itm;
    const auto model = make_model(config);
    Archive archive;
    make_step(model, config).save(archive);
    double bytes = 0;
    for (const auto& [name, tensor] : archive.tensors()) {
      const bool is_column = name.rfind("itc_queue.", 0) == 0 && tensor.dim() > 0 &&
                             tensor.size(0) == config.losses.itc.queue.size;
      if (is_column) bytes += static_cast<double>(tensor.nbytes());
    }
    EXPECT_GT(bytes, 0);
    EXPECT_EQ(estimate_memory(config, *model, Compute{}).queue, bytes);
  }
  Config without = config();
  without.losses.itc.queue.size = 0;
  EXPECT_EQ(estimate_memory(without, *make_model(without), Compute{}).queue, 0);
}

}  // namespace
}  // namespace tessera::train
