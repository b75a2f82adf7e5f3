// The suites over a small random model: what they compute, against the model asked directly.

#include "eval/suites.h"
#include "config/config.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <nlohmann/json.hpp>
#include <opencv2/imgcodecs.hpp>
#include <set>

#include "core/error.h"
#include "core/files.h"
#include "data/loader.h"
#include "data/open_source.h"
#include "data/tar_writer.h"
#include "data/webdataset.h"
#include "eval/encode.h"
#include "eval/pair_scores.h"
#include "eval/rerank.h"
#include "fusion/match_scores.h"
#include "inference/generate_captions.h"
#include "losses/maxsim.h"
#include "model/stage1_model.h"
#include "shapes/scene_judge.h"
#include "tests/inference/open_model.h"

namespace tessera::eval {
namespace {

/// A random model, with open gates, and a set of twelve scenes as it sees them. Made once for all tests.
class SuitesTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { shared_ = std::make_unique<Shared>(); }
  static void TearDownTestSuite() { shared_.reset(); }

  struct Shared : inference::OpenModel {
    std::shared_ptr<const data::Source> dataset =
        data::open_source(config.data.validation, config.data, null_logger());
    EncodedSet set;

    Shared() : inference::OpenModel("suites") {
      config.eval.batch_size = 5;
      set = encoded(dataset);
    }

    EncodedSet encoded(const std::shared_ptr<const data::Source>& samples) const {
      data::EvalLoader loader(samples, config.data, config.eval.batch_size, null_logger());
      return encode_set(*model, tokenizer, loader, Compute{}, config.language.max_tokens,
                        EncodeDetail::kTokens);
    }
  };

  inference::TrainedModel trained() const { return shared_->trained(); }
  const EncodedSet& set() const { return shared_->set; }
  std::int64_t captions() const { return set().text.size(0); }
  std::string caption(std::int64_t row) const {
    const auto image = set().caption_image[row].item<std::int64_t>();
    const auto first = set().caption_image.eq(image).nonzero()[0][0].item<std::int64_t>();
    return set().captions[static_cast<std::size_t>(image)][static_cast<std::size_t>(row - first)];
  }

  static std::unique_ptr<Shared> shared_;
};

std::unique_ptr<SuitesTest::Shared> SuitesTest::shared_;

at::Tensor rows(std::vector<std::int64_t> values) { return at::tensor(values, at::kLong); }

TEST_F(SuitesTest, PaddingIsBehindTheShorterRows) {
  const PaddedRows result = padded({at::ones({2, 3}), at::full({4, 3}, 2.0F)}, rows({1, 0, 1}));
  EXPECT_EQ(result.values.sizes(), (std::vector<std::int64_t>{3, 4, 3}));
  EXPECT_TRUE(at::equal(result.mask.sum(1), rows({4, 2, 4})));
  EXPECT_EQ(result.values[1].sum().item<float>(), 6);
  EXPECT_TRUE(result.mask[1][1].item<bool>());
}

TEST_F(SuitesTest, TheSetHoldsEveryCaptionAtItsLength) {
  EXPECT_EQ(set().images(), 12);
  EXPECT_EQ(captions(), 24);
  EXPECT_EQ(set().keys.size(), 12u);
  ASSERT_EQ(set().tokens.lower_text.size(), 24u);
  for (std::int64_t row = 0; row < captions(); ++row) {
    const auto ids = shared_->tokenizer.encode(caption(row), shared_->config.language.max_tokens);
    EXPECT_EQ(set().tokens.lower_text[static_cast<std::size_t>(row)].size(0),
              static_cast<std::int64_t>(ids.size()));
  }
}

/// The same images with a sample a caption: first those with each image's first caption, then, in reverse,
/// those with its second one.
std::shared_ptr<const data::Source> one_sample_a_caption(const data::Source& dataset,
                                                         const std::filesystem::path& file) {
  data::TarWriter tar(file);
  for (std::int64_t sample = 0; sample < 2 * dataset.size(); ++sample) {
    const bool again = sample >= dataset.size();
    const std::int64_t index = again ? 2 * dataset.size() - 1 - sample : sample;
    const data::Sample whole = dataset.read(index);
    const std::string key = again ? "again-" + whole.key : whole.key;
    nlohmann::json record = dataset.read_json(index);
    record["captions"] = nlohmann::json::array({whole.captions.at(again ? 1 : 0)});
    tar.add(key + ".png", {reinterpret_cast<const char*>(whole.image.data()), whole.image.size()});
    tar.add(key + ".json", record.dump());
  }
  tar.finish();
  return data::open_source({file.string()}, {}, null_logger());
}

TEST_F(SuitesTest, SamplesOfOneImageIdAreOneImageWithAllItsCaptions) {
  const auto split = one_sample_a_caption(*shared_->dataset, shared_->small.root() / "split.tar");
  ASSERT_EQ(split->size(), 24);
  const EncodedSet merged = shared_->encoded(split);
  EXPECT_EQ(merged.keys, set().keys);
  EXPECT_EQ(merged.indices, set().indices);
  EXPECT_EQ(merged.captions, set().captions);
  EXPECT_TRUE(at::equal(merged.caption_image, set().caption_image));
  EXPECT_TRUE(at::allclose(merged.image, set().image, 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(merged.text, set().text, 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(merged.tokens.image_tokens, set().tokens.image_tokens, 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(merged.tokens.patches, set().tokens.patches, 1e-4, 1e-5));
  ASSERT_EQ(merged.tokens.lower_text.size(), 24U);
  ASSERT_EQ(merged.tokens.text_tokens.size(), 24U);
  for (std::size_t row = 0; row < 24; ++row) {
    EXPECT_TRUE(at::allclose(merged.tokens.lower_text[row], set().tokens.lower_text[row], 1e-4, 1e-5));
    EXPECT_TRUE(at::allclose(merged.tokens.text_tokens[row], set().tokens.text_tokens[row], 1e-4, 1e-5));
  }
  const nlohmann::json retrieval = retrieval_suite(trained(), merged, {.rerank_top_k = 0});
  EXPECT_EQ(retrieval.at("images"), 12);
  EXPECT_EQ(retrieval.at("captions"), 24);
  EXPECT_EQ(matching_suite(trained(), merged).at("itm_pairs_hard"), 48);
  const nlohmann::json captions = captions_suite(trained(), merged, *split, {.beams = 1});
  EXPECT_EQ(captions.at("generated_captions")[3].at("references"), set().captions[3]);
  EXPECT_TRUE(captions.contains("caption_truth"));
}

/// A pair's score comes neither from its place in a batch nor from the padding beside it.
TEST_F(SuitesTest, MatchScoresAreTheModelsOwnOnEveryPairAlone) {
  const torch::NoGradGuard no_grad;
  const MatchScorer scorer = match_scorer(*shared_->model, set().tokens, Compute{});
  const at::Tensor images = rows({0, 3, 11, 3}), texts = rows({0, 23, 21, 15});
  const at::Tensor scores = scorer(images, texts);
  for (std::int64_t i = 0; i < 4; ++i) {
    const auto text = texts[i].item<std::int64_t>();
    const language::TokenBatch tokens =
        shared_->tokenizer.encode_batch({caption(text)}, shared_->config.language.max_tokens);
    const at::Tensor logits =
        shared_->model->match_logits(set().tokens.image_tokens[images[i].item<std::int64_t>()].unsqueeze(0),
                                     shared_->model->lower_text(tokens), tokens.attention_mask);
    EXPECT_NEAR(scores[i].item<float>(), fusion::match_scores(logits).item<float>(), 1e-5);
  }
  EXPECT_GT((scores[1] - scores[3]).abs().item<float>(), 0) << "the same image with another text";
}

TEST_F(SuitesTest, MaxSimComparesEveryPatchWithEveryToken) {
  const RetrievalScorer scorer = maxsim_scorer(set().tokens, Compute{});
  const at::Tensor similarity =
      at::matmul(set().tokens.patches[4], set().tokens.text_tokens[13].t());  // [P, T]
  EXPECT_NEAR(scorer.image_to_text(4, 5)[0][13].item<float>(), similarity.amax(1).mean().item<float>(), 1e-5);
  EXPECT_NEAR(scorer.text_to_image(13, 14)[0][4].item<float>(), similarity.amax(0).mean().item<float>(),
              1e-5);
  EXPECT_EQ(scorer.text_to_image(10, 24).sizes(), (std::vector<std::int64_t>{14, 12}));
}

TEST_F(SuitesTest, RerankingEverythingRanksByMatchAlone) {
  const MatchScorer match = match_scorer(*shared_->model, set().tokens, Compute{});
  const at::Tensor images = at::arange(12).repeat_interleave(24), texts = at::arange(24).repeat({12});
  const at::Tensor matrix = match(images, texts).view({12, 24});
  const RetrievalScorer alone{
      [&](std::int64_t first, std::int64_t last) { return matrix.slice(0, first, last); },
      [&](std::int64_t first, std::int64_t last) { return matrix.t().slice(0, first, last); }};
  const RetrievalScorer itc = embedding_scorer(set().image, set().text);
  const RetrievalScores expected = retrieval_scores(alone, set().caption_image, 12);
  const RetrievalScores all =
      retrieval_scores(match_reranked(itc, set().tokens, match, 24, 20), set().caption_image, 12);
  EXPECT_EQ(to_json(all), to_json(expected));
  EXPECT_EQ(
      to_json(retrieval_scores(match_reranked(itc, set().tokens, match, 0, 50), set().caption_image, 12)),
      to_json(retrieval_scores(itc, set().caption_image, 12)));
}

TEST_F(SuitesTest, RetrievalHasAFigureForEveryScorerThatWasTrained) {
  const nlohmann::json all = retrieval_suite(trained(), set(), {.rerank_top_k = 3});
  for (const char* name : {"image_to_text_r1", "maxsim_mean_r10", "reranked_text_to_image_median_rank"}) {
    EXPECT_TRUE(all.contains(name)) << all.dump();
  }
  EXPECT_EQ(all.at("images"), 12);
  EXPECT_EQ(all.at("rerank_top_k"), 3);
  Config without = shared_->config;
  without.losses.maxsim.weight = 0;
  without.losses.itm.weight = 0;
  const nlohmann::json itc =
      retrieval_suite({*shared_->model, shared_->tokenizer, without, Compute{}}, set(), {.rerank_top_k = 3});
  EXPECT_FALSE(itc.contains("maxsim_mean_r1"));
  EXPECT_FALSE(itc.contains("reranked_mean_r1"));
  EXPECT_EQ(itc.at("mean_r1"), all.at("mean_r1"));
}

TEST_F(SuitesTest, MatchingGivesShares) {
  const nlohmann::json json = matching_suite(trained(), set());
  for (const char* name : {"itm_accuracy", "itm_accuracy_hard", "itm_auc", "itm_accuracy_swapped"}) {
    EXPECT_GE(json.at(name).get<double>(), 0) << name;
    EXPECT_LE(json.at(name).get<double>(), 1) << name;
  }
  EXPECT_EQ(json.at("itm_pairs"), 24);
  EXPECT_EQ(json.at("itm_pairs_hard"), 48);
  Config without = shared_->config;
  without.losses.itm.weight = 0;
  EXPECT_THROW(matching_suite({*shared_->model, shared_->tokenizer, without, Compute{}}, set()), Error);
}

/// The most probable token each time, every one by a whole pass over one image.
std::string greedy_caption(const inference::TrainedModel& trained, const at::Tensor& image_tokens) {
  const torch::NoGradGuard no_grad;
  fusion::CaptionCondition condition;
  condition.image_states = trained.model.image_features(image_tokens).states;
  std::vector<std::int64_t> ids = {trained.tokenizer.bos_id()};
  while (static_cast<std::int64_t>(ids.size()) < trained.config.language.max_tokens) {
    const at::Tensor input_ids = rows(ids).unsqueeze(0);
    const at::Tensor logits =
        trained.model.caption_logits({input_ids, at::ones_like(input_ids).to(at::kBool)}, condition)[0][-1];
    logits[trained.tokenizer.bos_id()] = -1e9;
    logits[trained.tokenizer.pad_id()] = -1e9;
    ids.push_back(logits.argmax().item<std::int64_t>());
    if (ids.back() == trained.tokenizer.eos_id()) break;
  }
  return trained.tokenizer.decode(ids);
}

TEST_F(SuitesTest, CaptionsAreThoseOfEachImageAlone) {
  const std::vector<inference::GeneratedCaption> captions =
      inference::generate_captions(trained(), set().tokens.image_tokens, 1);
  ASSERT_EQ(captions.size(), 12u);
  for (const std::int64_t image : {0, 4, 5, 11}) {  // of all three batches
    EXPECT_EQ(captions[static_cast<std::size_t>(image)].text,
              greedy_caption(trained(), set().tokens.image_tokens.slice(0, image, image + 1)));
  }
  EXPECT_EQ(inference::generate_captions(trained(), set().tokens.image_tokens, 3).size(), 12u);
}

TEST_F(SuitesTest, CaptionsAreJudgedByReferencesAndByTheScene) {
  const nlohmann::json json = captions_suite(trained(), set(), *shared_->dataset, {.beams = 1});
  const auto& list = json.at("generated_captions");
  ASSERT_EQ(list.size(), 12u);
  double facts = 0;
  for (std::size_t i = 0; i < list.size(); ++i) {
    EXPECT_EQ(list[i].at("key"), set().keys[i]);
    EXPECT_EQ(list[i].at("references"), set().captions[i]);
    const auto scene =
        shapes::scene_from_json(shared_->dataset->read_json(set().indices[i]).at("scene"), "scene");
    const auto judgement = shapes::judge_caption(list[i].at("caption").get<std::string>(), scene);
    EXPECT_EQ(list[i].at("facts_true"), judgement.facts_true);
    facts += judgement.facts_true;
  }
  EXPECT_NEAR(json.at("caption_facts").get<double>(), facts / (7 * 12), 1e-12);
  for (const char* name : {"caption_truth", "caption_truth_chance", "caption_truth_swapped",
                           "caption_facts_chance", "caption_facts_swapped", "bleu_4", "rouge_l", "cider_d",
                           "captions_distinct", "caption_words", "captions_unfinished"}) {
    EXPECT_TRUE(json.contains(name)) << name;
  }
  EXPECT_GT(json.at("caption_facts_chance").get<double>(), 0.3);
  Config without = shared_->config;
  without.losses.caption.weight = 0;
  EXPECT_THROW(
      captions_suite({*shared_->model, shared_->tokenizer, without, Compute{}}, set(), *shared_->dataset, {}),
      Error);
}

TEST_F(SuitesTest, ZeroShotReadsAFolderAndLeavesOutBrokenImages) {
  const std::filesystem::path folder = shared_->small.root() / "classes";
  for (int image = 0; image < 3; ++image) {
    for (const auto& [name, colour] :
         {std::pair{"red_square", cv::Scalar(0, 0, 255)}, {"blue_square", cv::Scalar(255, 0, 0)}}) {
      std::filesystem::create_directories(folder / name);
      cv::imwrite((folder / name / fmt::format("{}.png", image)).string(),
                  cv::Mat(30 + image, 40, CV_8UC3, colour));
    }
  }
  const nlohmann::json json = zero_shot_suite(trained(), {folder, {}, {}}, null_logger());
  EXPECT_EQ(json.at("zero_shot_images"), 6);
  EXPECT_EQ(json.at("zero_shot_classes"), nlohmann::json({"blue square", "red square"}));
  EXPECT_EQ(json.at("zero_shot_top1_chance"), 0.5);
  EXPECT_EQ(json.at("zero_shot_top5"), 1.0);
  write_file_atomically(folder / "red_square" / "9.png", "no picture");
  EXPECT_THROW(zero_shot_suite(trained(), {folder, {}, {}}, null_logger()), Error) << "1 of 7 is too many";
  Config tolerant = shared_->config;
  tolerant.data.max_broken_fraction = 0.2;
  const nlohmann::json rest = zero_shot_suite({*shared_->model, shared_->tokenizer, tolerant, Compute{}},
                                              {folder, {}, {}}, null_logger());
  EXPECT_EQ(rest.at("zero_shot_broken"), 1);
  EXPECT_EQ(rest.at("zero_shot_images"), 6);
}

}  // namespace
}  // namespace tessera::eval
