#include "fusion/fused_decode_step.h"

#include "language/search.h"
#include "tests/fusion/small_tower.h"

namespace tessera::fusion {
namespace {

constexpr std::int64_t kRows = 3;

struct NamedCondition {
  const char* name;
  CaptionCondition condition;
};

/// An image alone, a read-out alone, and both, the latter for some rows.
std::vector<NamedCondition> conditions(SmallTower& small) {
  const auto states = small.tower->image_states(normal({kRows, 6, kImageSize}));
  const auto memory = normal({kRows, kCodeSize});
  return {{"image", {states, {}, {}}},
          {"memory", {{}, memory, {}}},
          {"both", {states, memory, {}}},
          {"mixed", {states, memory, torch::tensor({true, false, true})}}};
}

CaptionCondition rows_of(const CaptionCondition& condition, const at::Tensor& rows) {
  CaptionCondition chosen;
  for (const at::Tensor& state : condition.image_states)
    chosen.image_states.push_back(state.index_select(0, rows));
  if (condition.memory.defined()) chosen.memory = condition.memory.index_select(0, rows);
  if (condition.has_memory.defined()) chosen.has_memory = condition.has_memory.index_select(0, rows);
  return chosen;
}

/// Without any cache: the whole text again, a token longer each time.
class WholeTextStep : public language::DecodeStep {
 public:
  WholeTextStep(SmallTower small, CaptionCondition condition)
      : small_(std::move(small)), condition_(std::move(condition)) {}

  at::Tensor next_logits(const at::Tensor& input_ids) override {
    const torch::NoGradGuard no_grad;
    ids_ = ids_.defined() ? torch::cat({ids_, input_ids}, 1) : input_ids;
    return small_.caption_logits(ids_, condition_).select(1, -1).to(torch::kFloat);
  }
  void reorder(const at::Tensor& rows) override {
    ids_ = ids_.index_select(0, rows);
    condition_ = rows_of(condition_, rows);
  }
  std::int64_t max_length() const override { return small_.language->config().max_position_embeddings; }

 private:
  SmallTower small_;
  CaptionCondition condition_;
  at::Tensor ids_;
};

TEST(FusedDecodeStep, TokenByTokenGivesTheCaptionPassesLogits) {
  SmallTower small = small_tower(0.6);
  const auto ids = random_ids(kRows, 8);
  for (const auto& [name, condition] : conditions(small)) {
    const auto expected = small.caption_logits(ids, condition);
    FusedDecodeStep step(small.language, small.tower, condition);
    // A prompt of three, then one at a time.
    EXPECT_TRUE(torch::allclose(step.next_logits(ids.slice(1, 0, 3)), expected.select(1, 2).to(torch::kFloat),
                                1e-5, 1e-5))
        << name;
    for (std::int64_t t = 3; t < 8; ++t) {
      EXPECT_TRUE(torch::allclose(step.next_logits(ids.slice(1, t, t + 1)),
                                  expected.select(1, t).to(torch::kFloat), 1e-5, 1e-5))
          << name << " " << t;
    }
  }
}

TEST(FusedDecodeStep, AfterReorderEveryRowContinuesTheChosenOne) {
  SmallTower small = small_tower(0.6);
  const auto rows = torch::tensor({2, 0, 0, 1, 2});
  const auto first = random_ids(kRows, 4), second = random_ids(5, 3);
  for (const auto& [name, condition] : conditions(small)) {
    FusedDecodeStep step(small.language, small.tower, condition);
    step.next_logits(first);
    step.reorder(rows);
    const auto whole = torch::cat({first.index_select(0, rows), second}, 1);
    const auto expected =
        small.caption_logits(whole, rows_of(condition, rows)).select(1, -1).to(torch::kFloat);
    EXPECT_TRUE(torch::allclose(step.next_logits(second), expected, 1e-5, 1e-5)) << name;
  }
}

TEST(FusedDecodeStep, SearchesFindTheSameTextsWithAndWithoutTheCache) {
  using Method = language::SearchOptions::Method;
  SmallTower small = small_tower(0.6);
  const auto prompt = torch::full({kRows, 1}, 2, torch::kLong);
  for (const Method method : {Method::kGreedy, Method::kBeam, Method::kSample}) {
    const language::SearchOptions options{.method = method, .max_tokens = 12, .beam_size = 3, .seed = 5};
    for (const auto& [name, condition] : conditions(small)) {
      FusedDecodeStep cached(small.language, small.tower, condition);
      WholeTextStep whole(small, condition);
      const auto found = language::generate(cached, prompt, options);
      const auto expected = language::generate(whole, prompt, options);
      ASSERT_EQ(found.size(), expected.size());
      bool rows_differ = false;
      for (std::size_t i = 0; i < found.size(); ++i) {
        EXPECT_EQ(found[i].ids, expected[i].ids) << name << " row " << i;
        EXPECT_NEAR(found[i].log_probability, expected[i].log_probability, 1e-4) << name << " row " << i;
        rows_differ |= found[i].ids != found[0].ids;
      }
      EXPECT_TRUE(rows_differ) << name << ": the condition decides nothing";
    }
  }
}

TEST(FusedDecodeStep, KeepsNoGraphAndRefusesAnotherNumberOfTexts) {
  SmallTower small = small_tower(0.6);
  const CaptionCondition condition{small.tower->image_states(normal({kRows, 6, kImageSize})), {}, {}};
  FusedDecodeStep step(small.language, small.tower, condition);
  EXPECT_EQ(step.max_length(), 24);
  EXPECT_THROW(step.next_logits(random_ids(kRows + 1, 2)), c10::Error);
  const at::Tensor logits = step.next_logits(random_ids(kRows, 2));
  EXPECT_FALSE(logits.requires_grad());
  EXPECT_EQ(logits.scalar_type(), torch::kFloat);
}

}  // namespace
}  // namespace tessera::fusion
