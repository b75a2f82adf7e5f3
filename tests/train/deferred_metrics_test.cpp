#include "train/deferred_metrics.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace tessera::train {
namespace {

StepRecord record_of(std::int64_t step, double loss) {
  StepRecord record;
  record.step = step;
  record.host["epoch"] = 1;
  record.device.emplace_back("loss", torch::full({}, loss));
  return record;
}

TEST(DeferredMetrics, GivesAStepWhenTheNextIsPushed) {
  DeferredMetrics metrics(c10::kCPU);
  EXPECT_FALSE(metrics.push(record_of(1, 0.5)));
  const auto first = metrics.push(record_of(2, 0.25));
  ASSERT_TRUE(first);
  EXPECT_EQ(first->step, 1);
  EXPECT_EQ(first->values["loss"], 0.5);
  EXPECT_EQ(first->values["epoch"], 1);
  const auto second = metrics.flush();
  ASSERT_TRUE(second);
  EXPECT_EQ(second->values["loss"], 0.25);
  EXPECT_FALSE(metrics.flush());
}

TEST(DeferredMetrics, RefusesWhatIsNoScalar) {
  DeferredMetrics metrics(c10::kCPU);
  StepRecord record;
  record.device.emplace_back("loss", torch::zeros({2}));
  EXPECT_THROW(metrics.push(std::move(record)), c10::Error);
}

}  // namespace
}  // namespace tessera::train
