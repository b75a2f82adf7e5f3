#include "eval/memory_experiment.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "data/scene_judge.h"
#include "eval/caption_scores.h"
#include "eval/distinct_images.h"
#include "eval/matching.h"
#include "eval/memory_recall.h"
#include "eval/scene_truth.h"

namespace tessera::eval {

namespace {

using Json = nlohmann::json;

/// Pairs with all that the experiment needs of them, one a row.
struct Pairs {
  at::Tensor codes;    ///< [N, C] of image and caption
  at::Tensor queries;  ///< [N, C] of the image alone
  std::vector<std::string> keys;
  std::vector<std::string> captions;
  std::vector<data::SceneDescription> scenes;  ///< empty where the set has none

  std::int64_t size() const { return static_cast<std::int64_t>(keys.size()); }

  Pairs rows(const std::vector<std::int64_t>& chosen) const {
    const at::Tensor index = at::tensor(chosen, at::kLong);
    Pairs part{codes.index_select(0, index), queries.index_select(0, index), {}, {}, {}};
    for (const std::int64_t row : chosen) {
      const auto place = static_cast<std::size_t>(row);
      part.keys.push_back(keys[place]);
      part.captions.push_back(captions[place]);
      if (!scenes.empty()) part.scenes.push_back(scenes[place]);
    }
    return part;
  }
};

/// One pair an image: what an image recalls can't be told apart by which of its captions was written.
Pairs read_pairs(const EvaluatedModel& evaluated, const data::WebDataset& dataset, data::EvalLoader& loader) {
  Pairs pairs;
  DistinctImages distinct;
  std::vector<at::Tensor> codes, queries;
  std::vector<std::int64_t> indices;
  while (const std::optional<data::EvalBatch> batch = loader.next()) {
    const std::vector<std::int64_t> samples = distinct.place(batch->image_ids).first;
    if (samples.empty()) continue;
    std::vector<std::string> captions;
    for (const std::int64_t sample : samples) {
      const auto place = static_cast<std::size_t>(sample);
      captions.push_back(batch->captions[place].front());
      pairs.keys.push_back(batch->keys[place]);
      indices.push_back(batch->indices[place]);
    }
    const at::Tensor pixels = batch->pixels.index_select(0, at::tensor(samples, at::kLong));
    codes.push_back(memory_codes(evaluated, pixels, captions));
    queries.push_back(memory_codes(evaluated, pixels, {}));
    pairs.captions.insert(pairs.captions.end(), captions.begin(), captions.end());
  }
  if (codes.empty()) fail("memory experiment: the data holds no readable sample");
  pairs.codes = at::cat(codes);
  pairs.queries = at::cat(queries);
  if (auto scenes = scenes_of(dataset, indices)) pairs.scenes = std::move(*scenes);
  return pairs;
}

/// What a memory says to each query, beside how sure it is.
struct Readings {
  at::Tensor codes;                ///< [N, C]
  std::vector<double> confidence;  ///< empty where no memory was read
  double nearest_is_own = 0;
};

Readings read(const memory::MemoryStore& store, const Pairs& pairs) {
  Readings readings;
  std::vector<at::Tensor> codes;
  double own = 0;
  for (std::int64_t row = 0; row < pairs.size(); ++row) {
    const memory::Recollection recollection = store.recall(pairs.queries[row], /*nearest=*/1);
    codes.push_back(recollection.code);
    readings.confidence.push_back(recollection.confidence);
    const bool found = !recollection.nearest.empty() &&
                       recollection.nearest.front().entry.id == pairs.keys[static_cast<std::size_t>(row)];
    own += found ? 1 : 0;
  }
  readings.codes = at::stack(codes);
  readings.nearest_is_own = own / static_cast<double>(pairs.size());
  return readings;
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

/// How far pairs have codes of their own: of N codes, the mean cosine of two different ones, and the
/// participation ratio (Σλ)²/Σλ² of their covariance's eigenvalues.
Json code_figures(const at::Tensor& codes) {
  const auto count = static_cast<double>(codes.size(0));
  const at::Tensor unit = codes.to(at::kDouble) / codes.to(at::kDouble).norm(2, {1}, /*keepdim=*/true);
  const at::Tensor centred = codes.to(at::kDouble) - codes.to(at::kDouble).mean(0, /*keepdim=*/true);
  const at::Tensor gram = centred.matmul(centred.mT());
  const double trace = gram.trace().item<double>();
  return {{"mean_cosine", (unit.matmul(unit.mT()).sum().item<double>() - count) / (count * (count - 1))},
          {"effective_dimension", trace * trace / gram.square().sum().item<double>()}};
}

/// The figures and the answers, group by group.
class Groups {
 public:
  explicit Groups(const EvaluatedModel& evaluated) : evaluated_(evaluated) {}

  void add(const std::string& name, const Pairs& pairs, const Readings& readings) {
    const std::vector<std::string> answers = decode_codes(evaluated_, readings.codes);
    Json group = text_figures(pairs, answers);
    group["pairs"] = pairs.size();
    if (!readings.confidence.empty()) {
      group["confidence"] = mean(readings.confidence);
      group["nearest_is_own"] = readings.nearest_is_own;
      group["read_out_similarity"] =
          at::cosine_similarity(readings.codes, pairs.codes, 1, 1e-12).mean().item<double>();
    }
    figures_[name] = std::move(group);
    add_answers(name, pairs, readings, answers);
  }

  Json figures() { return std::move(figures_); }
  Json answers() { return std::move(answers_); }

 private:
  static Json text_figures(const Pairs& pairs, const std::vector<std::string>& answers) {
    std::vector<std::string> candidates;
    std::vector<std::vector<std::string>> references;
    double exact = 0;
    for (std::size_t i = 0; i < answers.size(); ++i) {
      candidates.push_back(tokenize_caption(answers[i]));
      references.push_back({tokenize_caption(pairs.captions[i])});
      exact += candidates.back() == references.back().front() ? 1 : 0;
    }
    Json json{{"exact", exact / static_cast<double>(answers.size())},
              {"rouge_l", caption_scores(candidates, references).rouge_l}};
    if (!pairs.scenes.empty()) add_to_json(json, scene_truth(answers, pairs.scenes), "");
    return json;
  }

  void add_answers(const std::string& name, const Pairs& pairs, const Readings& readings,
                   const std::vector<std::string>& answers) {
    for (std::size_t i = 0; i < answers.size(); ++i) {
      Json line{
          {"group", name}, {"key", pairs.keys[i]}, {"caption", pairs.captions[i]}, {"answer", answers[i]}};
      if (!readings.confidence.empty()) line["confidence"] = readings.confidence[i];
      if (!pairs.scenes.empty()) {
        const data::CaptionJudgement judgement = data::judge_caption(answers[i], pairs.scenes[i]);
        line["facts_true"] = judgement.facts_true;
        line["wholly_true"] = judgement.wholly_true;
      }
      answers_.push_back(std::move(line));
    }
  }

  const EvaluatedModel& evaluated_;
  Json figures_ = Json::object();
  Json answers_ = Json::array();
};

/// Rows [first, end) of an order.
std::vector<std::int64_t> part_of(const std::vector<std::int64_t>& order, std::int64_t first,
                                  std::int64_t end) {
  return {order.begin() + first, order.begin() + end};
}

}  // namespace

nlohmann::json memory_experiment(const EvaluatedModel& evaluated, const data::WebDataset& dataset,
                                 data::EvalLoader& loader, const MemoryExperimentOptions& options) {
  memory::MemoryStore store = new_memory(evaluated);
  const memory::MemoryStore empty = store;
  const Pairs all = read_pairs(evaluated, dataset, loader);
  const std::int64_t count = options.pairs;
  if (count < 2 || all.size() < 2 * count) {
    fail("memory experiment: {} pairs to write and as many others: expected at least {} images, found {}",
         count, 2 * std::max<std::int64_t>(count, 2), all.size());
  }
  const auto order = random_permutation(all.size(), options.seed, RandomPurpose::kShuffle, 0);
  const Pairs written = all.rows(part_of(order, 0, count));
  const Pairs others = all.rows(part_of(order, count, 2 * count));
  const Pairs forgotten = all.rows(part_of(order, 0, count / 2));
  const Pairs kept = all.rows(part_of(order, count / 2, count));

  for (std::int64_t row = 0; row < count; ++row) {
    const auto place = static_cast<std::size_t>(row);
    store.write(written.codes[row], {written.keys[place], written.captions[place], written.keys[place]});
  }
  Groups groups(evaluated);
  const Readings of_written = read(store, written);
  const Readings of_others = read(store, others);
  groups.add("written", written, of_written);
  groups.add("never_written", others, of_others);
  for (const std::string& key : forgotten.keys) store.forget(key);
  groups.add("kept", kept, read(store, kept));
  groups.add("forgotten", forgotten, read(store, forgotten));
  groups.add("code_decoded", written, {written.codes, {}, 0});
  groups.add("query_decoded", written, {written.queries, {}, 0});
  groups.add("empty_memory", written, read(empty, written));

  nlohmann::json json{{"pairs", count},
                      {"seed", options.seed},
                      {"capacity", store.capacity()},
                      {"code_size", store.code_size()},
                      {"confidence_auc", area_under_curve(at::tensor(of_written.confidence, at::kDouble),
                                                          at::tensor(of_others.confidence, at::kDouble))},
                      {"codes", code_figures(written.codes)},
                      {"groups", groups.figures()},
                      {"recalled_captions", groups.answers()}};
  if (!written.scenes.empty()) {
    json["chance"] = nlohmann::json::object();
    add_to_json(json["chance"], chance_scene_truth(written.scenes), "");
  }
  return json;
}

std::string memory_table(const nlohmann::json& figures) {
  struct Column {
    const char* key;
    const char* title;
  };
  static constexpr std::array kColumns = {Column{"caption_truth", "true"},
                                          Column{"caption_facts", "facts"},
                                          Column{"exact", "exact"},
                                          Column{"rouge_l", "ROUGE-L"},
                                          Column{"confidence", "confidence"},
                                          Column{"nearest_is_own", "nearest"},
                                          Column{"read_out_similarity", "similarity"}};
  static constexpr std::array kRows = {"written",      "never_written", "kept",        "forgotten",
                                       "code_decoded", "query_decoded", "empty_memory"};
  std::string table = fmt::format("{:<15}", "");
  for (const Column& column : kColumns) table += fmt::format("{:>12}", column.title);
  table += "\n";
  const auto add_row = [&](const std::string& name, const nlohmann::json& group) {
    table += fmt::format("{:<15}", name);
    for (const Column& column : kColumns) {
      table += group.contains(column.key) ? fmt::format("{:>12.3f}", group.at(column.key).get<double>())
                                          : fmt::format("{:>12}", "-");
    }
    table += "\n";
  };
  for (const char* name : kRows) add_row(name, figures.at("groups").at(name));
  if (figures.contains("chance")) add_row("chance", figures.at("chance"));
  return table +
         fmt::format("confidence tells written from never-written: AUC {:.3f}; {} pairs, capacity {}\n",
                     figures.at("confidence_auc").get<double>(), figures.at("pairs").get<std::int64_t>(),
                     figures.at("capacity").get<std::int64_t>());
}

}  // namespace tessera::eval
