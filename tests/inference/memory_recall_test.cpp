// The memory over a model: codes, answers and fingerprint, with a random model.

#include "inference/memory_recall.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <memory>
#include <set>

#include "core/error.h"
#include "core/logging.h"
#include "data/loader.h"
#include "data/open_source.h"
#include "model/code_fingerprint.h"
#include "model/stage1_model.h"
#include "tests/core/error_of.h"
#include "tests/inference/open_model.h"

namespace tessera::inference {
namespace {

using testing::HasSubstr;

/// A random model with open gates, so that a read-out can be heard, and twelve held-out scenes.
class MemoryRecall : public testing::Test {
 protected:
  static void SetUpTestSuite() { shared_ = std::make_unique<Shared>(); }
  static void TearDownTestSuite() { shared_.reset(); }

  struct Shared : OpenModel {
    data::EvalBatch batch;

    Shared() : OpenModel("memory-recall") {
      const auto dataset = data::open_source(config.data.validation, config.data, null_logger());
      batch = *data::EvalLoader(dataset, config.data, /*batch_size=*/12, null_logger()).next();
    }
  };

  static TrainedModel trained() { return shared_->trained(); }
  static std::vector<std::string> captions() {
    std::vector<std::string> first;
    for (const auto& of_image : shared_->batch.captions) first.push_back(of_image.front());
    return first;
  }
  static at::Tensor pair_codes() { return memory_codes(trained(), shared_->batch.pixels, captions()); }
  static std::string fingerprint() {
    return model::code_fingerprint(*shared_->model, shared_->config, shared_->tokenizer);
  }
  /// The fingerprint with one weight moved by a little.
  static std::string fingerprint_after_moving(const std::string& name) {
    const torch::NoGradGuard no_grad;
    for (const model::NamedParameter& parameter : shared_->model->named_parts()) {
      if (parameter.name != name) continue;
      at::Tensor values = parameter.tensor;
      const at::Tensor before = values.clone();
      values.view(-1)[0].add_(1e-3);
      const std::string moved = fingerprint();
      values.copy_(before);
      return moved;
    }
    ADD_FAILURE() << "no parameter " << name;
    return {};
  }

  static std::unique_ptr<Shared> shared_;
};

std::unique_ptr<MemoryRecall::Shared> MemoryRecall::shared_;

TEST_F(MemoryRecall, ACodeDependsOnWhatIsGiven) {
  const at::Tensor pairs = pair_codes();
  const at::Tensor images = memory_codes(trained(), shared_->batch.pixels, {});
  const at::Tensor texts = memory_codes(trained(), {}, captions());
  for (const at::Tensor& codes : {pairs, images, texts}) {
    EXPECT_EQ(codes.sizes(), (std::vector<std::int64_t>{12, 16}));
    EXPECT_TRUE(at::allclose(codes.square().mean(1), at::ones({12}), 1e-3, 1e-3));
  }
  EXPECT_GT((pairs - images).abs().max().item<float>(), 1e-3);
  EXPECT_GT((pairs - texts).abs().max().item<float>(), 1e-3);
  // One by one as in a batch.
  EXPECT_TRUE(at::allclose(memory_codes(trained(), shared_->batch.pixels.slice(0, 2, 3), {captions()[2]}),
                           pairs.slice(0, 2, 3), 1e-3, 1e-4));
}

TEST_F(MemoryRecall, AWrittenCodeComesBackWithItsOwnAnswer) {
  memory::MemoryStore store = new_memory(trained());
  const at::Tensor codes = pair_codes();
  for (std::int64_t row = 0; row < 4; ++row) store.write(codes[row], {std::to_string(row), "caption", ""});
  const Recall own = recall(trained(), store, codes[1], 2);
  EXPECT_EQ(own.answer, decode_codes(trained(), codes.slice(0, 1, 2)).front());
  EXPECT_EQ(own.recollection.nearest.size(), 2U);
  EXPECT_EQ(own.recollection.nearest.front().entry.id, "1");
  EXPECT_NEAR(own.recollection.confidence, 1, 1e-4);
  EXPECT_LT(recall(trained(), store, codes[5]).recollection.confidence, own.recollection.confidence);
}

TEST_F(MemoryRecall, AnEmptyMemoryHasNoAnswer) {
  const memory::MemoryStore store = new_memory(trained());
  EXPECT_THAT(error_of([&] { recall(trained(), store, pair_codes()[0]); }),
              HasSubstr("nothing has been written"));
}

TEST_F(MemoryRecall, AModelWithoutMemoryIsRefused) {
  Config config = shared_->config;
  config.losses.memory.weight = 0;
  const TrainedModel without{*shared_->model, shared_->tokenizer, config, Compute{}};
  EXPECT_THAT(error_of([&] { new_memory(without); }), HasSubstr("losses.memory.weight"));
}

TEST_F(MemoryRecall, TheFingerprintFollowsWhatCodesDependOn) {
  const std::string before = fingerprint();
  EXPECT_EQ(before.size(), 40U);
  EXPECT_EQ(fingerprint(), before);
  std::set<std::string> depends, independent;
  for (const model::NamedParameter& parameter : shared_->model->named_parts()) {
    const bool changed = fingerprint_after_moving(parameter.name) != before;
    (changed ? depends : independent).insert(parameter.name);
  }
  EXPECT_EQ(fingerprint(), before);
  // The rule, held against the codes themselves: the gradient says which weights they depend on.
  model::Stage1Model& model = *shared_->model;
  for (at::Tensor& parameter : model.parameters()) {
    parameter.set_requires_grad(true);
    parameter.mutable_grad() = at::Tensor();
  }
  const language::TokenBatch tokens = shared_->tokenizer.encode_batch(captions(), 32);
  const model::ImageFeatures image = model.encode_image(shared_->batch.pixels);
  const model::TextFeatures text = model.encode_text(tokens);
  const at::Tensor has_image = at::arange(12).ge(3), has_text = at::arange(12).lt(9);
  const at::Tensor codes = model.pair_codes(model.pair_vectors(&image, &text), has_image, has_text);
  (codes * at::randn_like(codes)).sum().backward();
  for (const model::NamedParameter& parameter : model.named_parts()) {
    const at::Tensor gradient = parameter.tensor.grad();
    if (gradient.defined() && gradient.abs().max().item<float>() > 0) {
      EXPECT_TRUE(depends.count(parameter.name)) << parameter.name;
    }
  }
  EXPECT_TRUE(depends.count("memory.prior_mean"));
  for (const char* name : {"match_head.classifier.weight", "fusion.memory_projection.weight",
                           "memory.address_log_variance", "itc_temperature.log_inverse"}) {
    if (!independent.count(name)) ADD_FAILURE() << name << " should play no part, or has another name";
  }
  Config other = shared_->config;
  other.data.image_size += 14;
  EXPECT_NE(model::code_fingerprint(model, other, shared_->tokenizer), before);
}

}  // namespace
}  // namespace tessera::inference
