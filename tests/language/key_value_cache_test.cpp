#include "language/key_value_cache.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "language/language_model.h"
#include "tests/core/largest_difference.h"
#include "tests/language/fixtures.h"

namespace tessera::language {
namespace {

LanguageModelConfig grouped_config() {
  LanguageModelConfig config = small_config();
  config.num_key_value_heads = 2;
  return config;
}

/// The model stepped through a text in pieces, each layer with its cache.
class Stepper {
 public:
  explicit Stepper(LanguageModel model) : model_(model), caches_(model->num_layers()) {}

  /// [B, t] → hidden states [B, t, C]. @param mask  [B, all tokens so far], or undefined
  at::Tensor feed(const at::Tensor& ids, const at::Tensor& mask = {}) {
    const auto context = model_->context(mask, ids.size(1), AttentionMode::kCausal, caches_.front().length());
    at::Tensor hidden = model_->embed(ids);
    for (std::int64_t i = 0; i < model_->num_layers(); ++i) {
      hidden = model_->layer(i).attention_half(hidden, context, &caches_[i]);
      hidden = model_->layer(i).feed_forward_half(hidden);
    }
    return model_->final_norm(hidden);
  }

  void reorder(const at::Tensor& rows) {
    for (KeyValueCache& cache : caches_) cache.reorder(rows);
  }

  std::vector<KeyValueCache>& caches() { return caches_; }

 private:
  LanguageModel model_;
  std::vector<KeyValueCache> caches_;
};

TEST(KeyValueCache, AnyCutOfATextIsTheWholeCall) {
  at::NoGradGuard no_grad;
  for (const LanguageModelConfig& config : {small_config(), grouped_config()}) {
    LanguageModel model(config, 1);
    const at::Tensor ids = random_ids(3, 30, 2);
    const at::Tensor whole = model->hidden_states(ids, {}, AttentionMode::kCausal);
    for (const std::vector<std::int64_t>& cut : std::vector<std::vector<std::int64_t>>{
             {30}, {1, 29}, {5, 1, 1, 7, 3, 13}, std::vector<std::int64_t>(30, 1)}) {
      Stepper stepper(model);
      std::vector<at::Tensor> pieces;
      std::int64_t begin = 0;
      for (const std::int64_t tokens : cut) {
        pieces.push_back(stepper.feed(ids.narrow(1, begin, tokens)));
        begin += tokens;
      }
      EXPECT_LE(largest_difference(at::cat(pieces, 1), whole), 1e-5) << cut.size() << " pieces";
      EXPECT_EQ(stepper.caches().back().length(), 30);
    }
  }
}

TEST(KeyValueCache, LeftPaddedTextContinuesAsWithoutItsPadding) {
  at::NoGradGuard no_grad;
  LanguageModel model(small_config(), 1);
  const at::Tensor ids = random_ids(2, 9, 3);
  at::Tensor mask = at::ones({2, 9}, at::kBool);
  mask[1].narrow(0, 0, 3).fill_(false);
  Stepper stepper(model);
  stepper.feed(ids.narrow(1, 0, 5), mask.narrow(1, 0, 5));
  const at::Tensor two = stepper.feed(ids.narrow(1, 5, 2), mask.narrow(1, 0, 7));
  const at::Tensor last = stepper.feed(ids.narrow(1, 7, 2), mask);
  for (const std::int64_t row : {0, 1}) {
    const std::int64_t padding = row == 0 ? 0 : 3;
    const at::Tensor alone =
        model->hidden_states(ids.narrow(0, row, 1).slice(1, padding), {}, AttentionMode::kCausal);
    EXPECT_LE(largest_difference(at::cat({two[row], last[row]}), alone[0].slice(0, 5 - padding)), 2e-5);
  }
}

TEST(KeyValueCache, AReorderedRowContinuesItsOrigin) {
  at::NoGradGuard no_grad;
  LanguageModel model(small_config(), 1);
  const at::Tensor ids = random_ids(3, 6, 4);
  const at::Tensor rows = at::tensor({2, 0, 0, 1, 2}, at::kLong);
  const at::Tensor more = random_ids(5, 4, 5);
  Stepper stepper(model);
  stepper.feed(ids);
  stepper.reorder(rows);
  const at::Tensor continued =
      at::cat({stepper.feed(more.narrow(1, 0, 1)), stepper.feed(more.slice(1, 1))}, 1);
  const at::Tensor whole =
      model->hidden_states(at::cat({ids.index_select(0, rows), more}, 1), {}, AttentionMode::kCausal);
  EXPECT_LE(largest_difference(continued, whole.slice(1, 6)), 1e-5);
}

TEST(KeyValueCache, ReorderingLeavesCopiesOfTheCacheAlone) {
  at::NoGradGuard no_grad;
  KeyValueCache cache;
  cache.append(at::rand({2, 3, 1, 4}), at::rand({2, 3, 1, 4}));
  const at::Tensor before = cache.key.clone();
  cache.reorder(at::tensor({1, 0}, at::kLong));
  EXPECT_TRUE(at::equal(cache.key, before.flip(0)));
}

TEST(KeyValueCache, StorageIsReplacedOnlyWhenItDoubles) {
  at::NoGradGuard no_grad;
  KeyValueCache cache;
  int allocations = 0;
  const void* storage = nullptr;
  for (int token = 0; token < 256; ++token) {
    const at::Tensor one = at::full({2, 1, 3, 4}, token, at::kFloat);
    cache.append(one, -one);
    if (cache.key.storage().data() != storage) ++allocations;
    storage = cache.key.storage().data();
  }
  EXPECT_EQ(allocations, 5);  // 16, 32, 64, 128, 256
  const at::Tensor counted = at::arange(256).view({1, 256, 1, 1}).expand({2, 256, 3, 4});
  EXPECT_TRUE(at::equal(cache.key, counted.to(at::kFloat)));
  EXPECT_TRUE(at::equal(cache.value, -counted.to(at::kFloat)));
}

TEST(KeyValueCache, RefusesWhatDoesntContinueIt) {
  LanguageModel model(small_config(), 1);
  EXPECT_THROW(Stepper(model).feed(random_ids(2, 3, 1)), c10::Error);  // gradients are on
  at::NoGradGuard no_grad;
  Stepper stepper(model);
  stepper.feed(random_ids(2, 30, 1));
  EXPECT_THROW(stepper.feed(random_ids(2, 3, 1)), c10::Error);  // longer than the positions
  EXPECT_THROW(stepper.feed(random_ids(3, 1, 1)), c10::Error);  // another batch
  Stepper fresh(model);
  fresh.feed(random_ids(2, 4, 1));
  const DecoderContext at_the_start = model->context({}, 1, AttentionMode::kCausal);
  EXPECT_THROW(model->layer(0).forward(at::zeros({2, 1, 32}), at_the_start, &fresh.caches()[0]), c10::Error);
  EXPECT_THROW(model->context({}, 1, AttentionMode::kBidirectional, 4), c10::Error);
  EXPECT_THROW(model->context(at::ones({2, 1}, at::kBool), 1, AttentionMode::kCausal, 4), c10::Error);
}

}  // namespace
}  // namespace tessera::language
