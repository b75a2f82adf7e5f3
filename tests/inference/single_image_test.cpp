// What the tools ask of a model about one image or text, against the model asked directly.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <opencv2/imgcodecs.hpp>

#include "core/error.h"
#include "core/files.h"
#include "fusion/match_scores.h"
#include "inference/encode_inputs.h"
#include "inference/explanation.h"
#include "inference/generate_captions.h"
#include "inference/match_texts.h"
#include "inference/word_spans.h"
#include "losses/maxsim.h"
#include "model/stage1_model.h"
#include "tests/core/error_of.h"
#include "tests/inference/open_model.h"
#include "tests/model/strip_model.h"

namespace tessera::inference {
namespace {

using testing::HasSubstr;

/// A random model with open gates. Made once for all tests.
class SingleImage : public testing::Test {
 protected:
  static void SetUpTestSuite() { shared_ = std::make_unique<Shared>(); }
  static void TearDownTestSuite() { shared_.reset(); }

  struct Shared : OpenModel {
    Shared() : OpenModel("single-image") { config.eval.batch_size = 2; }
  };

  static Config& config() { return shared_->config; }
  static TrainedModel trained() { return shared_->trained(); }
  static at::Tensor pixels() {
    return torch::arange(3 * 42 * 42).remainder(249).to(torch::kByte).view({3, 42, 42});
  }
  static model::ImageFeatures image() { return encode_images(trained(), pixels().unsqueeze(0)); }
  static GeneratedCaption caption(const CaptionOptions& options) {
    fusion::CaptionCondition condition;
    condition.image_states = image().states;
    return decode_captions(trained(), condition, options).front();
  }

  static std::unique_ptr<Shared> shared_;
};

std::unique_ptr<SingleImage::Shared> SingleImage::shared_;

TEST_F(SingleImage, IsReadAsTheModelSeesIt) {
  const auto file = shared_->small.root() / "one.png";
  cv::Mat picture(42, 84, CV_8UC3, cv::Scalar(0, 0, 255));  // red, with blue outside the centre
  picture.colRange(0, 21).setTo(cv::Scalar(255, 0, 0));
  picture.colRange(63, 84).setTo(cv::Scalar(255, 0, 0));
  ASSERT_TRUE(cv::imwrite(file.string(), picture));
  const at::Tensor read = read_image(file, 42);
  EXPECT_EQ(read.sizes(), (std::vector<std::int64_t>{3, 42, 42}));
  EXPECT_TRUE(read[0].eq(255).all().item<bool>());
  EXPECT_TRUE(read[2].eq(0).all().item<bool>());
  const auto broken = shared_->small.root() / "broken.png";
  write_file_atomically(broken, read_file(file).substr(0, 60));
  EXPECT_THAT(error_of([&] { read_image(broken, 42); }), HasSubstr("broken.png"));
  EXPECT_THAT(error_of([&] { read_image("/nowhere/a.png", 42); }), HasSubstr("/nowhere/a.png"));
}

TEST_F(SingleImage, TextsAreScoredAsTheModelDoesAndSorted) {
  const std::vector<std::string> texts = {"a red circle", "", "a large blue square is left of green", "red"};
  const std::vector<TextMatch> matches = match_texts(trained(), image(), texts);
  ASSERT_EQ(matches.size(), texts.size());
  const torch::NoGradGuard no_grad;
  for (std::size_t i = 0; i < matches.size(); ++i) {
    if (i > 0) {
      EXPECT_LE(*matches[i].itm, *matches[i - 1].itm);
    }
    EXPECT_EQ(std::count(texts.begin(), texts.end(), matches[i].text), 1);
    // One text alone: neither the others nor their padding count.
    const language::TokenBatch tokens = shared_->tokenizer.encode_batch({matches[i].text}, 48);
    const model::TextFeatures text = shared_->model->encode_text(tokens);
    EXPECT_NEAR(*matches[i].itc, (text.embedding * image().embedding).sum().item<double>(), 1e-5);
    const at::Tensor similarity = shared_->model->patch_embeddings(image())[0].matmul(
        shared_->model->token_embeddings(text)[0].t());  // [P, T]
    EXPECT_NEAR(*matches[i].maxsim_image_to_text, similarity.amax(1).mean().item<double>(), 1e-5);
    EXPECT_NEAR(*matches[i].maxsim_text_to_image, similarity.amax(0).mean().item<double>(), 1e-5);
    const at::Tensor logits = shared_->model->match_logits(image().tokens, text.lower, text.attention_mask);
    EXPECT_NEAR(*matches[i].itm, fusion::match_scores(logits).sigmoid().item<double>(), 1e-5);
  }
}

TEST_F(SingleImage, ScoresThatWereNotTrainedAreLeftOut) {
  Config other = config();
  other.losses.itm.weight = 0;
  other.losses.maxsim.weight = 0;
  const TrainedModel without{*shared_->model, shared_->tokenizer, other, Compute{}};
  const std::vector<TextMatch> matches = match_texts(without, image(), {"a red circle", "left of", "green"});
  for (std::size_t i = 0; i < matches.size(); ++i) {
    EXPECT_FALSE(matches[i].itm.has_value());
    EXPECT_FALSE(matches[i].maxsim_text_to_image.has_value());
    if (i > 0) {
      EXPECT_LE(*matches[i].itc, *matches[i - 1].itc);
    }
  }
  EXPECT_THAT(error_of([&] { heat_maps(without, image(), "a red circle", {}); }), HasSubstr("MaxSim"));
}

TEST_F(SingleImage, CaptionsContinueTheirPrompt) {
  CaptionOptions options = CaptionOptions::beam_search(1);
  options.prompt = "a small";
  options.max_tokens = 5;
  const GeneratedCaption prompted = caption(options);
  EXPECT_EQ(prompted.text.rfind("a small", 0), 0u) << prompted.text;
  EXPECT_LE(prompted.new_tokens, 5);
  EXPECT_LT(prompted.log_probability, 0);

  // One token: the log-probability is that of the most probable one after the prompt.
  options.max_tokens = 1;
  std::vector<std::int64_t> ids = shared_->tokenizer.encode("a small");
  ids.pop_back();
  fusion::CaptionCondition condition;
  condition.image_states = image().states;
  const at::Tensor input = torch::tensor(ids).unsqueeze(0);
  const torch::NoGradGuard no_grad;
  const at::Tensor log_p =
      shared_->model->caption_logits({input, torch::ones_like(input).to(torch::kBool)}, condition)[0][-1]
          .log_softmax(0);
  log_p[shared_->tokenizer.bos_id()] = -1e9;
  log_p[shared_->tokenizer.pad_id()] = -1e9;
  EXPECT_NEAR(caption(options).log_probability, log_p.max().item<double>(), 1e-4);

  options.prompt = std::string(400, 'x');
  EXPECT_THAT(error_of([&] { caption(options); }), HasSubstr("leaves no room"));
}

TEST_F(SingleImage, SamplesFollowTheirSeed) {
  CaptionOptions options;
  options.search.method = language::SearchOptions::Method::kSample;
  options.max_tokens = 8;
  options.search.seed = 1;
  const std::string one = caption(options).text;
  EXPECT_EQ(caption(options).text, one);
  bool differs = false;
  for (const std::uint64_t seed : {2, 3, 4}) {
    options.search.seed = seed;
    differs |= caption(options).text != one;
  }
  EXPECT_TRUE(differs);
}

TEST_F(SingleImage, HeatMapsAreMeansOverAWordsTokensInItsContext) {
  const std::string text = "a small zebra circle";  // "zebra" is in no vocabulary: several tokens
  const std::vector<HeatMap> maps = heat_maps(trained(), image(), text, {});
  ASSERT_EQ(maps.size(), 3u);
  const torch::NoGradGuard no_grad;
  const at::Tensor patches = shared_->model->patch_embeddings(image())[0];
  const at::Tensor tokens = shared_->model->token_embeddings(
      shared_->model->encode_text(shared_->tokenizer.encode_batch({text})))[0];
  const language::EncodedText encoded = shared_->tokenizer.encode_with_spans(text);
  const std::vector<std::int64_t> positions = token_positions(encoded, {"zebra", 8, 13});
  ASSERT_GT(positions.size(), 1u);
  at::Tensor expected = torch::zeros({9});
  for (const std::int64_t position : positions) expected += patches.matmul(tokens[position]);
  expected /= static_cast<double>(positions.size());
  EXPECT_EQ(maps[1].word, "zebra");
  EXPECT_TRUE(maps[1].in_text);
  EXPECT_EQ(maps[1].similarity.sizes(), (std::vector<std::int64_t>{3, 3}));
  EXPECT_TRUE(torch::allclose(maps[1].similarity.flatten(), expected, 1e-5, 1e-6));
}

TEST_F(SingleImage, HeatMapsHaveTheEncodersGrid) {
  for (const std::int64_t leading : {0, 2}) {
    const auto model = model::strip_model(config(), {.leading_tokens = leading});
    model->set_training(false);
    const TrainedModel other{*model, shared_->tokenizer, config(), Compute{}};
    const model::ImageFeatures features = encode_images(other, pixels().unsqueeze(0));
    const std::vector<HeatMap> maps = heat_maps(other, features, "a red circle", {"red"});
    ASSERT_EQ(maps.size(), 1u);
    ASSERT_EQ(maps[0].similarity.sizes(), (std::vector<std::int64_t>{3, 6}));
    const torch::NoGradGuard no_grad;
    const at::Tensor patches = model->patch_embeddings(features)[0];
    const at::Tensor word =
        model->token_embeddings(model->encode_text(shared_->tokenizer.encode_batch({"a red circle"})))[0];
    const auto encoded = shared_->tokenizer.encode_with_spans("a red circle");
    const at::Tensor expected =
        word_similarity(patches, word, token_positions(encoded, {"red", 2, 5})).view({3, 6});
    EXPECT_TRUE(torch::allclose(maps[0].similarity, expected, 1e-5, 1e-6));
  }
}

TEST_F(SingleImage, WordsThatTheTextLacksAreReadByThemselves) {
  const std::string text = "a small red circle";
  const std::vector<HeatMap> maps = heat_maps(trained(), image(), text, {"RED circle", "blue"});
  ASSERT_EQ(maps.size(), 2u);
  EXPECT_TRUE(maps[0].in_text);
  EXPECT_FALSE(maps[1].in_text);
  EXPECT_TRUE(
      torch::equal(maps[1].similarity, heat_maps(trained(), image(), "blue", {"blue"})[0].similarity));
  EXPECT_FALSE(
      torch::equal(maps[0].similarity, heat_maps(trained(), image(), "", {"RED circle"})[0].similarity));
  EXPECT_TRUE(heat_maps(trained(), image(), "", {}).empty());
  EXPECT_THAT(error_of([&] { heat_maps(trained(), image(), text, {""}); }), HasSubstr("word"));
}

TEST_F(SingleImage, WordsThatWereCutOffHaveNoMap) {
  Config other = config();
  other.language.max_tokens = 8;
  const TrainedModel shorter{*shared_->model, shared_->tokenizer, other, Compute{}};
  const std::string text = "a small red circle is left of a large blue square";
  EXPECT_LT(heat_maps(shorter, image(), text, {}).size(), heat_maps(trained(), image(), text, {}).size());
}

}  // namespace
}  // namespace tessera::inference
