#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <vector>

#include "core/autocast.h"
#include "core/device.h"
#include "losses/hard_negatives.h"
#include "tests/core/peak_bytes.h"
#include "tests/train/small_run.h"
#include "tests/train/step_cases.h"
#include "tests/train/thread_ranks.h"

namespace tessera::train {
namespace {

/// Matching with negatives from a queue.
class TrainingStepQueueTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    at::set_num_threads(1);
    small_ = new SmallRun("tessera-training-step-queue");
    data_ = small_->training_data();
  }
  static void TearDownTestSuite() {
    data_.reset();
    delete small_;
    small_ = nullptr;
  }

  /// Matching alone, nothing random but the draws; the whole queue may be drawn from.
  static Config matching(std::int64_t queue, std::int64_t max_tokens) {
    Config config = small_->config("queue");
    config.compressor.dropout = 0;
    config.lora.lora_dropout = 0;
    config.language.max_tokens = max_tokens;
    config.losses.itc.queue.size = queue;
    config.losses.itc.queue.max_shift = 0;
    config.losses.itm.uniform_share = 0.5;
    config.losses.itc.weight = config.losses.maxsim.weight = config.losses.caption.weight =
        config.losses.memory.weight = 0;
    return config;
  }

  struct Result {
    double loss = 0;
    std::vector<std::pair<std::string, at::Tensor>> gradients;
    double peak_bytes = 0;  ///< of tensors that the step's forward pass made
  };
  /// The third step: its negatives are those of all three batches.
  static Result third_step(const Config& config, c10::ScalarType dtype = at::kFloat) {
    const auto model = open_model(config);
    SingleProcess single;
    TrainingStep step = make_step(model, config, single, *data_, Compute{c10::kCPU, dtype});
    for (const std::int64_t earlier : {0, 1}) {
      step.compute(make_batch(8, earlier), earlier);
      step.after_update(earlier);
    }
    Result result;
    const data::Batch batch = make_batch(8, 2);
    at::Tensor loss;
    result.peak_bytes = peak_and_left_bytes([&] {
                          const StepOutput output = step.compute(batch, 2);
                          loss = output.loss;
                          return output;
                        }).first;
    loss.backward();
    result.loss = loss.item<double>();
    for (const model::NamedParameter& parameter : model->named_parts()) {
      if (parameter.tensor.grad().defined())
        result.gradients.emplace_back(parameter.name, parameter.tensor.grad());
    }
    return result;
  }

  static SmallRun* small_;
  static std::shared_ptr<const data::Source> data_;
};

SmallRun* TrainingStepQueueTest::small_ = nullptr;
std::shared_ptr<const data::Source> TrainingStepQueueTest::data_;

TEST_F(TrainingStepQueueTest, NumbersDoNotDependOnThePaddingOfTexts) {
  const auto tokenizer = language::Tokenizer::load(small_->config("any").language.tokenizer);
  ASSERT_LT(tokenizer.encode_batch(make_batch(6, 0).captions).input_ids.size(1), 64)
      << "captions would be cut";
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const Result narrow = third_step(matching(21, 64), dtype), wide = third_step(matching(21, 256), dtype);
    EXPECT_EQ(narrow.loss, wide.loss) << dtype;
    ASSERT_EQ(narrow.gradients.size(), wide.gradients.size());
    for (std::size_t i = 0; i < narrow.gradients.size(); ++i) {
      EXPECT_TRUE(at::equal(narrow.gradients[i].second, wide.gradients[i].second))
          << narrow.gradients[i].first << " " << dtype;
    }
  }
}

TEST_F(TrainingStepQueueTest, TextsAreOnlyAsLongAsTheLongestThatIsThere) {
  const double narrow = third_step(matching(21, 64)).peak_bytes;
  const double wide = third_step(matching(21, 256)).peak_bytes;
  EXPECT_LT(wide, 1.05 * narrow);
}

TEST_F(TrainingStepQueueTest, ThePayloadIsNotCopied) {
  Config few = matching(24, 64), many = matching(2400, 64);
  for (Config* config : {&few, &many}) config->compressor.output_size = 64;
  const double image_tokens = 1 + 3 * 3;
  const double payload = 2 * image_tokens * 64 * (2400 - 24);  // bytes
  EXPECT_LT(third_step(many).peak_bytes - third_step(few).peak_bytes, 0.5 * payload);
}

/// Of gathered candidates, under autocast or not, values and gradients of every rank's images are exactly
/// those of the formula: all of them and the queue below one another.
TEST_F(TrainingStepQueueTest, SeveralRanksChooseTheSameRowsBitForBit) {
  constexpr std::int64_t kRanks = 3, kPairs = 4, kQueue = 5;
  at::manual_seed(8);
  const at::Tensor queued = at::randn({kQueue, 2, 16}).to(at::kBFloat16);
  const at::Tensor projection = at::randn({16, 16});
  const at::Tensor images = at::randn({kRanks, kPairs, 2, 16}), weights = at::randn({kRanks, kPairs, 2, 16});
  const at::Tensor index = at::randint(kRanks * kPairs + kQueue, {kRanks, kPairs}, at::kLong);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    // By way of choosing and rank.
    std::vector<at::Tensor> rows[2], gradients[2];
    for (const bool ours : {false, true}) {
      rows[ours].resize(kRanks);
      gradients[ours].resize(kRanks);
      ThreadRanks::run(kRanks, [&](Collectives& collectives) {
        const auto rank = collectives.rank();
        const at::Tensor own = images[rank].clone().set_requires_grad(true);
        at::Tensor chosen;
        {
          const AutocastScope autocast(Compute{c10::kCPU, dtype});
          const at::Tensor gathered = collectives.all_gather(at::matmul(own, projection));
          chosen = ours ? losses::candidate_rows(gathered, queued, index[rank])
                        : at::cat({gathered, queued.to(gathered.scalar_type())}).index_select(0, index[rank]);
        }
        EXPECT_EQ(chosen.scalar_type(), dtype);
        (chosen * weights[rank]).sum().backward();
        rows[ours][static_cast<std::size_t>(rank)] = chosen.detach();
        gradients[ours][static_cast<std::size_t>(rank)] = own.grad();
      });
    }
    for (std::size_t rank = 0; rank < kRanks; ++rank) {
      EXPECT_TRUE(at::equal(rows[0][rank], rows[1][rank])) << rank << " " << dtype;
      EXPECT_TRUE(at::equal(gradients[0][rank], gradients[1][rank])) << rank << " " << dtype;
      EXPECT_GT(gradients[1][rank].abs().max().item<double>(), 0) << rank;
    }
  }
}

}  // namespace
}  // namespace tessera::train
