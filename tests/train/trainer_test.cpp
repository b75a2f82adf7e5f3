#include "train/trainer.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "core/archive.h"
#include "core/error.h"
#include "core/files.h"
#include "model/parameter_table.h"
#include "model/stage1_model.h"
#include "model/weights.h"
#include "tests/train/runs.h"
#include "tests/train/small_run.h"
#include "train/adamw.h"

namespace tessera::train {
namespace {

class TrainerTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { small_ = new SmallRun("tessera-trainer"); }
  static void TearDownTestSuite() {
    delete small_;
    small_ = nullptr;
  }

  static SmallRun* small_;
};

SmallRun* TrainerTest::small_ = nullptr;

TEST_F(TrainerTest, LossesJoinInTheirEpochAlsoAfterAResumption) {
  const auto late = [](const std::string& name) {
    Config config = small_->config(name);
    config.losses.itc.from_epoch = config.losses.maxsim.from_epoch = config.losses.itm.from_epoch = 2;
    config.losses.memory.from_epoch = 3;
    return config;
  };
  EXPECT_EQ(train(late("late")).steps, 24);
  std::istringstream lines(read_file(small_->run_folder("late") / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json record = nlohmann::json::parse(line);
    if (record.at("type") != "step") continue;
    const auto step = record.at("step").get<std::int64_t>();
    EXPECT_TRUE(record.contains("loss_caption")) << step;
    EXPECT_EQ(record.contains("loss_itc"), step > 6) << step;
    EXPECT_EQ(record.contains("loss_itm"), step > 6) << step;
    EXPECT_EQ(record.contains("loss_memory"), step > 12) << step;
  }
  const std::string log = read_file(small_->run_folder("late") / "training.log");
  EXPECT_NE(log.find("losses begin: caption in epoch 1; itc, itm, maxsim in epoch 2; memory in epoch 3 (no "
                     "validation before embeddings are trained)"),
            std::string::npos)
      << log;
  EXPECT_EQ(log.find("validation epoch 1/4"), std::string::npos) << log;
  EXPECT_NE(log.find("validation epoch 2/4"), std::string::npos) << log;
  EXPECT_NE(log.find("epoch 2/4: itc, itm, maxsim join the losses"), std::string::npos) << log;
  EXPECT_NE(log.find("epoch 3/4: memory joins the losses"), std::string::npos) << log;
  Config ended = late("late-ended");
  ended.schedule.max_steps = 8;
  train(ended);
  EXPECT_NE(read_file(small_->run_folder("late-ended") / "training.log")
                .find("schedule.max_steps: the run ends in epoch 2, before memory would begin"),
            std::string::npos);
  for (const std::int64_t stop : {4, 6, 8, 12}) {
    const std::string name = fmt::format("late-{}", stop);
    EXPECT_TRUE(train(late(name), "", stop).interrupted);
    EXPECT_EQ(train(late(name), "latest").steps, 24);
    expect_same_checkpoint(small_->run_folder("late") / "checkpoints" / "latest",
                           small_->run_folder(name) / "checkpoints" / "latest");
  }
}

TEST_F(TrainerTest, ResumedEqualsUninterruptedBitForBit) {
  const Config whole = small_->config("whole");
  EXPECT_EQ(train(whole).steps, 24);
  // All parts are on, the queue's payload among them.
  const TensorMap state = checkpoint_tensors(small_->run_folder("whole") / "checkpoints" / "latest");
  for (const char* tensor :
       {"state:itc_queue.image_tokens", "state:itc_queue.token_ids", "model.safetensors:memory.prior_mean",
        "model.safetensors:fusion.memory_projection.weight"}) {
    ASSERT_EQ(state.count(tensor), 1u) << tensor;
    EXPECT_GT(state.at(tensor).abs().to(torch::kDouble).sum().item<double>(), 0) << tensor;
  }
  // In the middle of phase 1, at the switch, just after it, in the middle of phase 2.
  for (const std::int64_t stop : {4, 12, 13, 21}) {
    const std::string name = fmt::format("resumed-{}", stop);
    const Config config = small_->config(name);
    const RunOutcome first = train(config, "", stop);
    EXPECT_TRUE(first.interrupted);
    EXPECT_EQ(first.steps, stop);
    at::manual_seed(99);  // what a new process would have instead
    EXPECT_EQ(train(config, "latest").steps, 24);
    expect_same_checkpoint(small_->run_folder("whole") / "checkpoints" / "latest",
                           small_->run_folder(name) / "checkpoints" / "latest");
  }
}

TEST_F(TrainerTest, PhaseLinesCountTheParametersThatGetAGradient) {
  const Config config = small_->config("phases");
  Trainer trainer(config, kQuiet);
  const auto with_gradient = [&] {
    std::int64_t count = 0;
    for (const auto& parameter : trainer.model().parameters()) {
      if (parameter.grad().defined()) count += parameter.numel();
    }
    return count;
  };
  const std::int64_t phase1 = trainer.model().trainable_parameters();
  trainer.run();
  const std::int64_t phase2 = with_gradient();
  EXPECT_GT(phase2, phase1);
  const std::string log = read_file(small_->run_folder("phases") / "training.log");
  EXPECT_NE(
      log.find("Phase 1: LoRA adapters FROZEN | Trainable params: " + model::with_thousands(phase1) + "\n"),
      std::string::npos)
      << log;
  EXPECT_NE(
      log.find("Phase 2: LoRA adapters UNFROZEN | Trainable params: " + model::with_thousands(phase2) + "\n"),
      std::string::npos)
      << log;
  // r·(in + out) a layer for query and value.
  EXPECT_EQ(phase2 - phase1, 2 * 2 * 4 * (24 + 24));
  EXPECT_EQ(read_file(small_->root() / "logs" / "phases" / "training.log"), log);

  Config frozen = small_->config("phase-1-only");
  frozen.schedule.lora_warmup_epochs = 4;
  Trainer frozen_trainer(frozen, kQuiet);
  frozen_trainer.run();
  std::int64_t count = 0;
  for (const auto& parameter : frozen_trainer.model().parameters()) {
    if (parameter.grad().defined()) count += parameter.numel();
  }
  EXPECT_EQ(count, phase1);
}

TEST_F(TrainerTest, EveryTrainableParameterGetsAGradientWithinTenSteps) {
  Config config = small_->config("gradients");
  config.schedule.lora_warmup_epochs = 0;
  config.schedule.max_steps = 10;
  config.memory.drop_image = 0.5;  // some query of the last batch lacks its image
  Trainer trainer(config, kQuiet);
  std::map<std::string, at::Tensor> before;
  for (const auto& parameter : trainer.model().named_parts())
    before[parameter.name] = parameter.tensor.detach().clone();
  trainer.run();
  const std::string log = read_file(small_->run_folder("gradients") / "training.log");
  EXPECT_EQ(log.find("Phase 1"), std::string::npos);
  EXPECT_NE(log.find("Phase 2: LoRA adapters UNFROZEN"), std::string::npos);
  for (const auto& parameter : trainer.model().named_parts()) {
    const bool moved = !torch::equal(parameter.tensor, before.at(parameter.name));
    // The pair code's moments follow the pairs, without gradient.
    const bool is_moment = parameter.name.find("_moments.") != std::string::npos;
    EXPECT_EQ(moved, parameter.tensor.requires_grad() || is_moment) << parameter.name;
    if (parameter.tensor.requires_grad()) {
      EXPECT_GT(parameter.tensor.grad().abs().max().item<double>(), 0.0) << parameter.name;
    }
  }
}

/// Update counts by parameter name at the end of a run.
std::map<std::string, double> update_counts(const AdamW& optimizer) {
  Archive archive;
  optimizer.save(archive);
  std::map<std::string, double> counts;
  for (const auto& [name, tensor] : archive.tensors()) {
    if (name.rfind("step.", 0) == 0) counts[name.substr(5)] = tensor.item<double>();
  }
  return counts;
}

TEST_F(TrainerTest, RebuildCarriesOrResetsTheMomentsOfOldParameters) {
  for (const RebuildChoice rebuild : {RebuildChoice::kCarry, RebuildChoice::kReset}) {
    const bool carries = rebuild == RebuildChoice::kCarry;
    Config config = small_->config(carries ? "carry" : "reset");
    config.schedule.rebuild = rebuild;
    Trainer trainer(config, kQuiet);
    trainer.run();
    for (const auto& [name, count] : update_counts(trainer.optimizer())) {
      const bool lora = name.find(".lora_") != std::string::npos;
      EXPECT_EQ(count, lora || !carries ? 12 : 24) << name;
    }
    const std::string log = read_file(trainer.folder().root() / "training.log");
    EXPECT_NE(log.find(carries ? "rebuild: carry" : "rebuild: reset"), std::string::npos);
  }
}

TEST_F(TrainerTest, WritesMetricsForEveryLoggedStepAndValidation) {
  const Config config = small_->config("metrics");
  train(config);
  std::istringstream lines(read_file(small_->run_folder("metrics") / "metrics.jsonl"));
  std::int64_t steps = 0;
  std::int64_t validations = 0;
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json record = nlohmann::json::parse(line);
    if (record.at("type") == "validation") {
      ++validations;
      EXPECT_EQ(record.at("images"), 12);
      EXPECT_EQ(record.at("captions"), 24);
      continue;
    }
    EXPECT_EQ(record.at("step"), ++steps);
    for (const char* key : {"loss",
                            "loss_itc",
                            "itc_loss_excess",
                            "itc_temperature",
                            "loss_maxsim",
                            "maxsim_temperature",
                            "loss_itm",
                            "itm_accuracy_positive",
                            "itm_accuracy_image_from_batch",
                            "itm_accuracy_image_from_queue",
                            "itm_accuracy_text_from_batch",
                            "itm_accuracy_text_from_queue",
                            "itm_negative_similarity",
                            "loss_caption",
                            "loss_memory",
                            "memory_read_error",
                            "memory_address_kl",
                            "gate_text_reads_image_0",
                            "gate_image_reads_text_0",
                            "grad_norm",
                            "images_per_second",
                            "data_wait_share",
                            "captions_cut",
                            "queue_filled",
                            "queue_in_use",
                            "queue_age_allowed",
                            "learning_rate_language",
                            "learning_rate_temperature"}) {
      EXPECT_TRUE(record.contains(key)) << key;
    }
    EXPECT_EQ(record.contains("learning_rate_lora"), steps > 12);
  }
  EXPECT_EQ(steps, 24);
  EXPECT_EQ(validations, 4);
}

TEST_F(TrainerTest, CheckpointLoadsForEvaluationWithTheSameEmbeddings) {
  const Config config = small_->config("load");
  Trainer trainer(config, kQuiet);
  trainer.run();
  const model::LoadedModel loaded = model::load_model(small_->run_folder("load") / "checkpoints" / "latest");
  trainer.model().set_training(false);
  loaded.model->set_training(false);
  const torch::NoGradGuard no_grad;
  const at::Tensor pixels = torch::randint(0, 256, {3, 3, 42, 42}, torch::kByte);
  EXPECT_TRUE(torch::equal(trainer.model().encode_image(pixels).embedding,
                           loaded.model->encode_image(pixels).embedding));
  const auto tokens = loaded.tokenizer.encode_batch({"a red circle", "a large blue square above it"}, 48);
  EXPECT_TRUE(torch::equal(trainer.model().encode_text(tokens).embedding,
                           loaded.model->encode_text(tokens).embedding));
}

TEST_F(TrainerTest, RefusesToOverwriteARunAndSaysHowToGoOn) {
  const Config config = small_->config("twice");
  train(config, "", 2);
  try {
    train(config);
    FAIL() << "a second run over the first was not refused";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("--resume"), std::string::npos);
  }
}

TEST_F(TrainerTest, ResumeKeepsTheWeightsAndTellsWhatHasChanged) {
  Config config = small_->config("changed-key");
  train(config, "", 3);
  const model::LoadedModel before =
      model::load_model(small_->run_folder("changed-key") / "checkpoints" / "latest");
  config.run.log_every = 4;
  TrainerOptions options = kQuiet;
  options.resume = "latest";
  Trainer trainer(config, options);
  const auto expected = before.model->module().named_parameters();
  for (const auto& parameter : trainer.model().named_parts()) {
    EXPECT_TRUE(torch::equal(parameter.tensor, expected[parameter.name])) << parameter.name;
  }
  const std::string log = read_file(trainer.folder().root() / "training.log");
  EXPECT_NE(log.find("the configuration has changed since: run.log_every: 4, was 1"), std::string::npos)
      << log;
}

TEST_F(TrainerTest, InitFromTakesOverAnotherRunsWeights) {
  train(small_->config("source"));
  Config config = small_->config("taken-over");
  config.run.seed = 4;  // another random backbone, if the run were not given the source's
  config.init_from = (small_->run_folder("source") / "checkpoints" / "latest").string();
  Trainer trainer(config, kQuiet);
  const model::LoadedModel source = model::load_model(config.init_from);
  const auto expected = source.model->module().named_parameters();
  for (const auto& parameter : trainer.model().named_parts()) {
    EXPECT_TRUE(torch::equal(parameter.tensor, expected[parameter.name])) << parameter.name;
  }
}

TEST_F(TrainerTest, FullTrainingHasOnePhaseAndExportsItsBackbone) {
  Config config = small_->config("full");
  config.vision.trainable = lora::TrainableChoice::kFull;
  Trainer trainer(config, kQuiet);
  trainer.run();
  const std::string log = read_file(small_->run_folder("full") / "training.log");
  EXPECT_EQ(log.find("Phase "), std::string::npos);
  const std::filesystem::path exported = small_->run_folder("full") / "export" / "backbone";
  Config next = small_->config("from-export");
  next.vision.weights = exported.string();
  EXPECT_EQ(train(next).steps, 24);
  // The trained backbone is in the checkpoint itself.
  const model::LoadedModel loaded = model::load_model(small_->run_folder("full") / "checkpoints" / "latest");
  const auto trained = trainer.model().module().named_parameters();
  for (const auto& item : loaded.model->module().named_parameters()) {
    EXPECT_TRUE(torch::equal(item.value(), trained[item.key()])) << item.key();
  }
}

TEST_F(TrainerTest, SignalSavesAndEndsTheRun) {
  Config config = small_->config("signal");
  config.schedule.epochs = 100000;  // only the signal ends it
  config.schedule.lora_warmup_epochs = 0;
  config.eval.every_epochs = 0;
  config.checkpoint.every_epochs = 0;
  Trainer trainer(config, kQuiet);
  std::thread sender([] {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    kill(getpid(), SIGTERM);
  });
  const RunOutcome outcome = trainer.run();
  sender.join();
  const auto latest = trainer.folder().pointed("latest");
  ASSERT_TRUE(latest);
  EXPECT_TRUE(outcome.interrupted);
  EXPECT_EQ(*latest, outcome.steps);
}

TEST_F(TrainerTest, LossThatIsNotFiniteStopsTheRunAndNamesTheBatch) {
  Config config = small_->config("not-finite");
  config.checkpoint.every_steps = 1;  // not even a step that is saved at once leaves a checkpoint
  Trainer trainer(config, kQuiet);
  {
    const torch::NoGradGuard no_grad;
    for (const auto& parameter : trainer.model().named_parts()) {
      if (parameter.name == "poolers.text_projection.bias") parameter.tensor.fill_(std::nan(""));
    }
  }
  try {
    trainer.run();
    FAIL() << "the run went on";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("step 1: "), std::string::npos) << message;
    EXPECT_NE(message.find("not finite"), std::string::npos) << message;
    EXPECT_NE(message.find("The batch: "), std::string::npos) << message;
  }
  EXPECT_TRUE(trainer.folder().steps().empty());
}

}  // namespace
}  // namespace tessera::train
