#include "train/training_step.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "language/language_model.h"
#include "language/next_token_loss.h"
#include "memory/episodic_memory.h"
#include "model/build.h"
#include "model/stage1_model.h"
#include "tests/train/small_run.h"
#include "tests/train/step_cases.h"
#include "tests/train/thread_ranks.h"

namespace tessera::train {
namespace {

using Names = std::set<std::string>;

class TrainingStepTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    at::set_num_threads(1);
    small_ = new SmallRun("tessera-training-step");
    data_ = small_->training_data();
  }
  static void TearDownTestSuite() {
    data_.reset();
    delete small_;
    small_ = nullptr;
  }

  /// Two levels, nothing random but the draws, no queue.
  static Config exact_config() {
    Config config = small_->config("step");
    config.fusion.levels = 2;
    config.compressor.dropout = 0;
    config.lora.lora_dropout = 0;
    config.memory.noise = 0;
    config.memory.drop_text = 0.4;
    config.memory.drop_image = 0.4;
    config.losses.itc.queue.size = 0;
    config.losses.itc.queue.max_shift = 0;  // every age is allowed
    return config;
  }

  static SmallRun* small_;
  static std::shared_ptr<const data::Source> data_;
};

SmallRun* TrainingStepTest::small_ = nullptr;
std::shared_ptr<const data::Source> TrainingStepTest::data_;

Names names_of(const StepOutput& output) {
  Names names;
  for (const auto& [name, value] : output.metrics) names.insert(name);
  return names;
}

bool has_gradient(const at::Tensor& parameter) {
  return parameter.grad().defined() && parameter.grad().abs().max().item<double>() > 0;
}

/// The parts that a profiler sees while `body` runs.
class Scopes {
 public:
  static Names during(const std::function<void()>& body) {
    seen_.clear();
    const auto handle =
        at::addThreadLocalCallback(at::RecordFunctionCallback([](const at::RecordFunction& function)
                                                                  -> std::unique_ptr<at::ObserverContext> {
                                     seen_.insert(function.name());
                                     return nullptr;
                                   }).scopes({at::RecordScope::USER_SCOPE}));
    body();
    at::removeCallback(handle);
    return seen_;
  }

 private:
  static thread_local Names seen_;
};

thread_local Names Scopes::seen_;

TEST_F(TrainingStepTest, EveryCombinationOfLossesTrainsWhatItReadsAndNothingElse) {
  const std::map<std::string, Names> metrics_of = {
      {"itc", {"loss_itc", "itc_loss_excess", "itc_temperature"}},
      {"siglip", {"loss_siglip", "siglip_temperature", "siglip_bias"}},
      {"maxsim", {"loss_maxsim", "maxsim_temperature"}},
      {"itm",
       {"loss_itm", "itm_accuracy_positive", "itm_accuracy_image_from_batch", "itm_accuracy_text_from_batch",
        "itm_negative_similarity"}},
      {"caption", {"loss_caption"}},
      {"memory", {"loss_memory", "memory_read_error", "memory_address_kl"}}};
  for (int bits = 1; bits < 64; ++bits) {
    if (bits == 32) continue;  // the memory alone is refused by the configuration
    Config config = exact_config();
    const std::vector<std::pair<std::string, double*>> weights = {
        {"itc", &config.losses.itc.weight},         {"siglip", &config.losses.siglip.weight},
        {"maxsim", &config.losses.maxsim.weight},   {"itm", &config.losses.itm.weight},
        {"caption", &config.losses.caption.weight}, {"memory", &config.losses.memory.weight}};
    Names expected_metrics = {"gate_text_reads_image_0", "gate_text_reads_image_1", "gate_image_reads_text_0",
                              "gate_image_reads_text_1"};
    Names expected_scopes = {"image", "encoder"};
    std::string combination;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const bool on = (bits >> i & 1) != 0;
      *weights[i].second = on ? 1.0 : 0.0;
      if (!on) continue;
      combination += weights[i].first + " ";
      expected_metrics.insert(metrics_of.at(weights[i].first).begin(), metrics_of.at(weights[i].first).end());
      expected_scopes.insert(weights[i].first);
      if (weights[i].first != "caption") expected_scopes.insert("text");
    }
    SCOPED_TRACE(combination);
    const auto model = open_model(config);
    SingleProcess single;
    TrainingStep step = make_step(model, config, single, *data_);
    StepOutput output;
    EXPECT_EQ(Scopes::during([&] { output = step.compute(make_batch(8, 1), 0); }), expected_scopes);
    EXPECT_EQ(names_of(output), expected_metrics);
    output.loss.backward();
    for (const model::NamedParameter& parameter : model->named_parts()) {
      EXPECT_EQ(has_gradient(parameter.tensor), parameter.tensor.requires_grad()) << parameter.name;
    }
  }
}

TEST_F(TrainingStepTest, BeforeItsEpochALossIsAsOneOfWeightZero) {
  Config config = exact_config();
  config.losses.itc.queue.size = 21;
  config.losses.itm.from_epoch = config.losses.itc.from_epoch = config.losses.maxsim.from_epoch = 3;
  config.losses.memory.from_epoch = 2;
  SingleProcess single;
  const auto model = open_model(config);
  TrainingStep step = make_step(model, config, single, *data_);
  const auto first_epoch = [&](Config other) {
    other.losses.itc.weight = other.losses.itm.weight = other.losses.maxsim.weight = 0;
    other.losses.memory.weight = 0;
    return values_of(make_step(open_model(other), other, single, *data_).compute(make_batch(8, 1), 0));
  }(config);
  step.begin_epoch(0);
  StepOutput output;
  EXPECT_EQ(Scopes::during([&] { output = step.compute(make_batch(8, 1), 0); }),
            (Names{"image", "encoder", "caption"}));
  EXPECT_EQ(values_of(output), first_epoch);
  step.after_update(0);
  EXPECT_EQ(step.host_metrics().at("queue_filled"), 0.0);
  output.loss.backward();
  for (const model::NamedParameter& parameter : model->named_parts()) {
    if (!parameter.name.starts_with("match_head.")) continue;
    EXPECT_TRUE(parameter.tensor.requires_grad()) << parameter.name;
    EXPECT_FALSE(parameter.tensor.grad().defined()) << parameter.name;
  }

  step.begin_epoch(1);
  EXPECT_EQ(Scopes::during([&] { output = step.compute(make_batch(8, 1), 1); }),
            (Names{"image", "encoder", "text", "caption", "memory"}));
  step.after_update(1);
  EXPECT_EQ(step.host_metrics().at("queue_filled"), 0.0);

  step.begin_epoch(2);
  EXPECT_EQ(names_of(step.compute(make_batch(8, 1), 2)).count("loss_itm"), 1u);
  step.after_update(2);
  EXPECT_NEAR(step.host_metrics().at("queue_filled").get<double>(), 8.0 / 21, 1e-6);
}

TEST_F(TrainingStepTest, AWholeBackboneTrainsInEveryParameter) {
  Config config = exact_config();
  config.vision.trainable = lora::TrainableChoice::kFull;
  const auto model = open_model(config);
  SingleProcess single;
  make_step(model, config, single, *data_).compute(make_batch(8, 1), 0).loss.backward();
  for (const model::NamedParameter& parameter : model->named_parts()) {
    EXPECT_EQ(has_gradient(parameter.tensor), parameter.tensor.requires_grad()) << parameter.name;
    // The mask token is of another way of training, which never happens here.
    if (parameter.part == model::Part::kBackbone && !parameter.name.ends_with("mask_token")) {
      EXPECT_TRUE(parameter.tensor.requires_grad()) << parameter.name;
    }
  }
}

TEST_F(TrainingStepTest, TelemetryIsInItsRanges) {
  Config config = exact_config();
  config.losses.itc.queue.size = 21;
  const auto model = open_model(config);
  SingleProcess single;
  TrainingStep step = make_step(model, config, single, *data_);
  for (std::int64_t i = 0; i < 3; ++i) {
    const auto values = values_of(step.compute(make_batch(8, i), i));
    step.after_update(i);
    for (const char* accuracy :
         {"itm_accuracy_positive", "itm_accuracy_image_from_batch", "itm_accuracy_text_from_batch",
          "itm_accuracy_image_from_queue", "itm_accuracy_text_from_queue"}) {
      const double value = values.at(accuracy);
      EXPECT_TRUE(std::isnan(value) || (value >= 0 && value <= 1)) << accuracy << " " << value;
    }
    // Nothing can have been drawn from an empty queue: that is no accuracy of 0.
    EXPECT_EQ(std::isnan(values.at("itm_accuracy_image_from_queue")), i == 0) << i;
    EXPECT_LE(std::abs(values.at("itm_negative_similarity")), 1.0);
    EXPECT_GE(values.at("memory_read_error"), 0.0);
    EXPECT_GE(values.at("memory_address_kl"), 0.0);
    EXPECT_NEAR(values.at("gate_text_reads_image_1"), 0.4, 1e-6);
    EXPECT_NEAR(values.at("queue_in_use"), static_cast<double>(std::min<std::int64_t>(21, 8 * i)) / 21, 1e-6);
    EXPECT_NEAR(step.host_metrics().at("queue_filled").get<double>(),
                static_cast<double>(std::min<std::int64_t>(21, 8 * (i + 1))) / 21, 1e-6);
  }
}

TEST_F(TrainingStepTest, NoQueueIsKeptThatNothingReads) {
  Config config = exact_config();
  config.losses.itc.queue.size = 21;
  config.losses.itc.weight = config.losses.itm.weight = 0;
  SingleProcess single;
  TrainingStep step = make_step(open_model(config), config, single, *data_);
  EXPECT_EQ(names_of(step.compute(make_batch(8, 1), 0)).count("queue_in_use"), 0u);
  step.after_update(0);
  EXPECT_EQ(step.host_metrics().at("queue_filled"), 0.0);
}

/// A queue of one pair, and a batch of one image: every negative is the queued pair.
TEST_F(TrainingStepTest, QueuedTextsAreEncodedAnewAndImagesAreAsTheyWereRounded) {
  Config config = exact_config();
  config.losses.itc.queue.size = 1;
  config.losses.maxsim.weight = config.losses.caption.weight = config.losses.memory.weight = 0;
  const auto model = open_model(config);
  const auto tokenizer = language::Tokenizer::load(config.language.tokenizer);
  SingleProcess single;
  TrainingStep step = make_step(model, config, single, *data_);
  const data::Batch old = make_batch(4, 1);
  data::Batch batch = make_batch(3, 2);
  batch.image_ids.fill_(77);
  step.compute(old, 0);
  const torch::NoGradGuard no_grad;
  const at::Tensor queued =
      model->compress_image(old.pixels.narrow(0, 3, 1)).to(torch::kBFloat16).to(torch::kFloat);
  step.after_update(0);
  for (at::Tensor& parameter : model->language()->parameters()) parameter.mul_(1.3);
  for (const model::NamedParameter& parameter : model->named_parts()) {
    if (parameter.part == model::Part::kCompressor) parameter.tensor.mul_(1.2);
    if (parameter.part == model::Part::kHeads) parameter.tensor.mul_(8);  // so that the rounding shows
  }

  std::vector<std::string> captions = batch.captions;
  captions.push_back(old.captions[3]);
  const auto tokens = tokenizer.encode_batch(captions, config.language.max_tokens);
  const at::Tensor lower = model->lower_text(tokens);
  const auto own = [](const at::Tensor& rows) { return rows.slice(0, 0, 3); };
  const auto others = [](const at::Tensor& rows) { return rows.slice(0, 3).expand({3, -1, -1}); };
  const at::Tensor mask = tokens.attention_mask;
  const auto loss_with = [&](const at::Tensor& images) {
    const at::Tensor logits =
        model->match_logits(torch::cat({images, queued.expand({3, -1, -1}), images}),
                            torch::cat({own(lower), own(lower), others(lower)}),
                            torch::cat({own(mask), own(mask), mask.slice(0, 3).expand({3, -1})}));
    return torch::cross_entropy_loss(logits, torch::tensor({1, 1, 1, 0, 0, 0, 0, 0, 0})).item<double>();
  };
  const at::Tensor images = model->compress_image(batch.pixels);
  const double expected = loss_with(images.to(torch::kBFloat16).to(torch::kFloat));
  const double found = values_of(step.compute(batch, 1)).at("loss_itm");
  EXPECT_NEAR(found, expected, 2e-6);
  EXPECT_GT(std::abs(loss_with(images) - expected), 1e-5) << "the rounding doesn't show";
}

TEST_F(TrainingStepTest, ABatchOfOneImageIsFinite) {
  for (const std::int64_t queue : {0, 21}) {
    Config config = exact_config();
    config.losses.itc.queue.size = queue;
    const auto model = open_model(config);
    SingleProcess single;
    TrainingStep step = make_step(model, config, single, *data_);
    data::Batch batch = make_batch(8, 1);
    batch.image_ids.fill_(5);
    const StepOutput output = step.compute(batch, 0);
    output.loss.backward();
    const auto values = values_of(output);
    EXPECT_EQ(values.at("loss_itm"), 0.0);
    EXPECT_TRUE(std::isnan(values.at("itm_accuracy_positive")));
    EXPECT_TRUE(std::isfinite(values.at("loss")));
    for (const at::Tensor& parameter : model->parameters()) {
      if (parameter.grad().defined()) {
        EXPECT_TRUE(parameter.grad().isfinite().all().item<bool>());
      }
    }
  }
}

TEST_F(TrainingStepTest, AShortLastBatchTrainsOnTheEpisodesThatItHolds) {
  const Config config = exact_config();
  const auto model = open_model(config);
  SingleProcess single;
  TrainingStep step = make_step(model, config, single, *data_);
  const auto six = values_of(step.compute(make_batch(6, 1), 0));
  EXPECT_EQ(six.count("loss_memory"), 1u);
  EXPECT_TRUE(std::isfinite(six.at("loss")));
  // The two pairs beyond the episode have no part in it.
  data::Batch others = make_batch(6, 1);
  others.captions[4] = others.captions[5] = "red";
  others.pixels.narrow(0, 4, 2).fill_(9);
  const auto changed = values_of(step.compute(others, 0));
  EXPECT_NEAR(six.at("loss_memory"), changed.at("loss_memory"), 1e-5);
  EXPECT_GT(std::abs(six.at("loss_caption") - changed.at("loss_caption")), 1e-3);

  for (const std::int64_t pairs : {1, 3}) {
    const auto values = values_of(step.compute(make_batch(pairs, 1), 0));
    EXPECT_EQ(values.count("loss_memory"), 0u);
    EXPECT_TRUE(std::isfinite(values.at("loss")));
  }
}

TEST_F(TrainingStepTest, AnEmptyCaptionIsTwoTokensAndTrains) {
  const Config config = exact_config();
  const auto model = open_model(config);
  SingleProcess single;
  TrainingStep step = make_step(model, config, single, *data_);
  for (const bool all : {false, true}) {
    data::Batch batch = make_batch(8, 1);
    for (std::size_t i = 0; i < batch.captions.size(); i += all ? 1 : 3) batch.captions[i] = "";
    const StepOutput output = step.compute(batch, 0);
    output.loss.backward();
    EXPECT_TRUE(std::isfinite(output.loss.item<double>()));
    for (const model::NamedParameter& parameter : model->named_parts()) {
      const at::Tensor& gradient = parameter.tensor.grad();
      if (gradient.defined()) {
        EXPECT_TRUE(gradient.isfinite().all().item<bool>()) << parameter.name;
      }
    }
  }
  const auto tokens = language::Tokenizer::load(config.language.tokenizer).encode_batch({"", "a red circle"});
  EXPECT_EQ(tokens.attention_mask.sum(1)[0].item<std::int64_t>(), 2);
  const auto text = model->encode_text(tokens);
  const at::Tensor codes = model->pair_codes(model->pair_vectors(nullptr, &text));
  EXPECT_TRUE(codes.isfinite().all().item<bool>());
  EXPECT_TRUE(text.embedding.isfinite().all().item<bool>());
  EXPECT_FALSE(torch::allclose(codes[0], codes[1], 1e-3, 1e-3));
}

/// The mean loss of captions under a condition, of which `counted` [B, T] tokens count as targets.
double caption_loss(model::Stage1Model& model, const language::TokenBatch& tokens,
                    const fusion::CaptionCondition& condition, const at::Tensor& counted) {
  const torch::NoGradGuard no_grad;
  const at::Tensor labels = tokens.input_ids.masked_fill(counted.logical_not(), language::kIgnoreIndex);
  return torch::cross_entropy_loss(model.caption_logits(tokens, condition).slice(1, 0, -1).flatten(0, 1),
                                   labels.slice(1, 1).flatten())
      .item<double>();
}

TEST_F(TrainingStepTest, ACaptionThatIsCutIsNotTaughtToEndThere) {
  Config config = exact_config();
  config.language.max_tokens = 8;
  config.memory.caption_share = 0;
  const auto model = open_model(config);
  SingleProcess single;
  TrainingStep step = make_step(model, config, single, *data_);
  const data::Batch batch = make_batch(8, 1);
  const auto tokens = language::Tokenizer::load(config.language.tokenizer).encode_batch(batch.captions, 8);
  const at::Tensor ends = tokens.input_ids.eq(language::Tokenizer::kEosId);
  const at::Tensor at_the_limit = ends.select(1, 7);
  ASSERT_TRUE(at_the_limit.any().item<bool>() && !at_the_limit.all().item<bool>())
      << "some are cut, some not";
  at::Tensor counted = tokens.attention_mask.clone();
  counted.select(1, 7).masked_fill_(tokens.is_cut, false);
  fusion::CaptionCondition condition;
  condition.image_states = model->encode_image(batch.pixels).states;
  const double expected = caption_loss(*model, tokens, condition, counted);
  EXPECT_NEAR(values_of(step.compute(batch, 0)).at("loss_caption"), expected, 1e-5);
  EXPECT_GT(std::abs(caption_loss(*model, tokens, condition, tokens.attention_mask) - expected), 1e-3);
}

TEST_F(TrainingStepTest, CaptionsOfOneImageRecallNothingOfEachOther) {
  Config config = exact_config();
  config.memory.caption_share = 1;
  const auto model = open_model(config);
  SingleProcess single;
  TrainingStep step = make_step(model, config, single, *data_);
  data::Batch batch = make_batch(4, 1);
  ASSERT_EQ(config.memory.episode, 4);
  const double of_others = values_of(step.compute(batch, 0)).at("loss_caption");
  batch.image_ids.fill_(5);
  const auto tokens = language::Tokenizer::load(config.language.tokenizer)
                          .encode_batch(batch.captions, config.language.max_tokens);
  fusion::CaptionCondition condition;
  condition.image_states = model->encode_image(batch.pixels).states;
  condition.memory = torch::zeros({4, config.memory.code_size});
  const double expected = caption_loss(*model, tokens, condition, tokens.attention_mask);
  EXPECT_NEAR(values_of(step.compute(batch, 0)).at("loss_caption"), expected, 1e-5);
  EXPECT_GT(std::abs(of_others - expected), 1e-4) << "the memory doesn't show";
}

/// The passes' means over `ranks` ranks that share the batches, and the mean of their gradients, at step 2.
struct RanksResult {
  std::map<std::string, double> values;
  std::map<std::string, at::Tensor> gradients;
};

RanksResult run_ranks(std::int64_t ranks, Config config, const data::Source& data) {
  config.data.batch_size = 8 / ranks;
  std::vector<std::shared_ptr<model::Stage1Model>> models;
  for (std::int64_t rank = 0; rank < ranks; ++rank) models.push_back(open_model(config));
  std::vector<std::map<std::string, double>> values(static_cast<std::size_t>(ranks));
  ThreadRanks::run(ranks, [&](Collectives& collectives) {
    const auto rank = static_cast<std::size_t>(collectives.rank());
    TrainingStep step = make_step(models[rank], config, collectives, data);
    const auto own = [&](std::int64_t seed) {
      return rows_of(make_batch(8, seed), collectives.rank() * config.data.batch_size,
                     config.data.batch_size);
    };
    for (const std::int64_t earlier : {0, 1}) {
      step.compute(own(earlier), earlier);
      step.after_update(earlier);
    }
    const StepOutput output = step.compute(own(2), 2);
    values[rank] = values_of(output);
    output.loss.backward();
  });
  RanksResult result;
  for (const auto& of_rank : values) {
    for (const auto& [name, value] : of_rank) result.values[name] += value / static_cast<double>(ranks);
  }
  for (const auto& model : models) {
    for (const model::NamedParameter& parameter : model->named_parts()) {
      if (!parameter.tensor.grad().defined()) continue;
      const at::Tensor share = parameter.tensor.grad() / static_cast<double>(ranks);
      at::Tensor& sum = result.gradients[parameter.name];
      sum = sum.defined() ? sum + share : share;
    }
  }
  return result;
}

TEST_F(TrainingStepTest, TwoRanksComputeWhatOneDoesWithTheirBatches) {
  for (const std::int64_t queue : {0, 13}) {
    Config config = exact_config();
    config.losses.itc.queue.size = queue;
    const RanksResult one = run_ranks(1, config, *data_), two = run_ranks(2, config, *data_);
    ASSERT_EQ(one.values.size(), two.values.size());
    for (const auto& [name, value] : one.values) {
      if (std::isnan(value)) {
        EXPECT_TRUE(std::isnan(two.values.at(name))) << name;
      } else {
        EXPECT_NEAR(two.values.at(name), value, 2e-5 * (1 + std::abs(value))) << name << ", queue " << queue;
      }
    }
    ASSERT_EQ(one.gradients.size(), two.gradients.size());
    for (const auto& [name, gradient] : one.gradients) {
      const double allowed = 1e-6 + 1e-3 * gradient.abs().max().item<double>();
      EXPECT_LT((two.gradients.at(name) - gradient).abs().max().item<double>(), allowed)
          << name << ", queue " << queue;
    }
  }
}

TEST_F(TrainingStepTest, Bfloat16WithAQueueStaysCloseAndFinite) {
  Config config = exact_config();
  config.losses.itc.queue.size = 21;
  std::map<c10::ScalarType, std::vector<double>> losses;
  for (const auto dtype : {c10::kFloat, c10::kBFloat16}) {
    const auto model = open_model(config);
    SingleProcess single;
    TrainingStep step = make_step(model, config, single, *data_, Compute{c10::kCPU, dtype});
    for (std::int64_t i = 0; i < 4; ++i) {
      const StepOutput output = step.compute(make_batch(8, i), i);
      EXPECT_EQ(output.loss.scalar_type(), torch::kFloat);
      for (const auto& [name, value] : values_of(output)) {
        if (name.rfind("loss", 0) == 0) {
          EXPECT_TRUE(std::isfinite(value)) << name;
        }
      }
      losses[dtype].push_back(output.loss.item<double>());
      model->module().zero_grad();
      output.loss.backward();
      const torch::NoGradGuard no_grad;
      for (at::Tensor& parameter : model->parameters()) {
        if (!parameter.grad().defined()) continue;
        ASSERT_TRUE(parameter.grad().isfinite().all().item<bool>());
        ASSERT_EQ(parameter.grad().scalar_type(), torch::kFloat);
        parameter.sub_(parameter.grad(), 1e-3);
      }
      step.after_update(i);
    }
  }
  EXPECT_NE(losses[c10::kFloat][0], losses[c10::kBFloat16][0]) << "autocast did nothing";
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(losses[c10::kBFloat16][i], losses[c10::kFloat][i], 0.05 * losses[c10::kFloat][i]) << i;
  }
}

}  // namespace
}  // namespace tessera::train
