#include "eval/memory_experiment.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "config/config.h"
#include "core/error.h"
#include "core/random.h"
#include "data/loader.h"
#include "data/source.h"
#include "eval/caption_scores.h"
#include "eval/distinct_images.h"
#include "eval/matching.h"
#include "eval/scene_truth.h"
#include "inference/memory_recall.h"
#include "inference/trained_model.h"
#include "shapes/scene_judge.h"

namespace tessera::eval {

namespace {

using Json = nlohmann::json;

/// Pairs with all that the experiment needs of them, one a row.
struct Pairs {
  at::Tensor codes;    ///< [N, C] of image and caption
  at::Tensor queries;  ///< [N, C] of the image alone
  std::vector<std::string> keys;
  std::vector<std::string> captions;
  std::vector<shapes::SceneDescription> scenes;  ///< empty where the set has none

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
Pairs read_pairs(const inference::TrainedModel& trained, const data::Source& dataset,
                 data::EvalLoader& loader) {
  Pairs pairs;
  DistinctImages distinct;
  std::vector<at::Tensor> codes, queries;
  std::vector<std::int64_t> indices;
  while (const std::optional<data::EvalBatch> batch = loader.next()) {
    const std::vector<std::int64_t> samples = distinct.place(batch->image_ids).first;
    if (samples.empty()) continue;
    std::vector<std::string> captions, keys;
    for (const std::int64_t sample : samples) {
      const auto place = static_cast<std::size_t>(sample);
      captions.push_back(batch->captions[place].front());
      keys.push_back(batch->keys[place]);
      indices.push_back(batch->indices[place]);
    }
    const at::Tensor pixels = batch->pixels.index_select(0, at::tensor(samples, at::kLong));
    codes.push_back(inference::memory_codes(trained, pixels, captions, keys));
    queries.push_back(inference::memory_codes(trained, pixels, {}, keys));
    pairs.keys.insert(pairs.keys.end(), keys.begin(), keys.end());
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
  std::vector<double> found;       ///< 1 where the nearest entry is the pair's own; empty likewise
};

Readings read(const memory::MemoryStore& store, const Pairs& pairs) {
  Readings readings;
  std::vector<at::Tensor> codes;
  for (std::int64_t row = 0; row < pairs.size(); ++row) {
    const memory::Recollection recollection = store.recall(pairs.queries[row], /*nearest=*/1);
    codes.push_back(recollection.code);
    readings.confidence.push_back(recollection.confidence);
    const bool found = !recollection.nearest.empty() &&
                       recollection.nearest.front().entry.id == pairs.keys[static_cast<std::size_t>(row)];
    readings.found.push_back(found ? 1 : 0);
  }
  readings.codes = at::stack(codes);
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

/// The answers of all draws, group by group, and what they come to.
class Groups {
 public:
  explicit Groups(const inference::TrainedModel& trained) : trained_(trained) {}

  void add(std::int64_t draw, const std::string& name, const Pairs& pairs, const Readings& readings) {
    const std::vector<std::string> answers = inference::decode_codes(trained_, readings.codes);
    add_answers(draw, name, pairs, readings, answers);
    Group& group = groups_[name];
    append(group.answers, answers);
    append(group.captions, pairs.captions);
    append(group.scenes, pairs.scenes);
    if (readings.confidence.empty()) return;
    append(group.confidence, readings.confidence);
    append(group.found, readings.found);
    const at::Tensor similarity = at::cosine_similarity(readings.codes, pairs.codes, 1, 1e-12);
    for (std::int64_t row = 0; row < pairs.size(); ++row) {
      group.similarity.push_back(similarity[row].item<double>());
    }
  }

  Json figures() const {
    Json figures = Json::object();
    for (const auto& [name, group] : groups_) {
      Json json = text_figures(group);
      json["pairs"] = group.answers.size();
      if (!group.confidence.empty()) {
        json["confidence"] = mean(group.confidence);
        json["nearest_is_own"] = mean(group.found);
        json["read_out_similarity"] = mean(group.similarity);
      }
      figures[name] = std::move(json);
    }
    return figures;
  }

  /// How well the confidence tells one group from another.
  double confidence_auc(const std::string& higher, const std::string& lower) const {
    return area_under_curve(at::tensor(groups_.at(higher).confidence, at::kDouble),
                            at::tensor(groups_.at(lower).confidence, at::kDouble));
  }

  const std::vector<shapes::SceneDescription>& scenes(const std::string& name) const {
    return groups_.at(name).scenes;
  }

  Json take_answers() { return std::move(answers_); }

 private:
  struct Group {
    std::vector<std::string> answers, captions;
    std::vector<shapes::SceneDescription> scenes;
    std::vector<double> confidence, found, similarity;
  };

  template <typename T>
  static void append(std::vector<T>& all, const std::vector<T>& more) {
    all.insert(all.end(), more.begin(), more.end());
  }

  static Json text_figures(const Group& group) {
    std::vector<std::string> candidates;
    std::vector<std::vector<std::string>> references;
    double exact = 0;
    for (std::size_t i = 0; i < group.answers.size(); ++i) {
      candidates.push_back(tokenize_caption(group.answers[i]));
      references.push_back({tokenize_caption(group.captions[i])});
      exact += candidates.back() == references.back().front() ? 1 : 0;
    }
    Json json{{"exact", exact / static_cast<double>(group.answers.size())},
              {"rouge_l", caption_scores(candidates, references).rouge_l}};
    if (!group.scenes.empty()) add_to_json(json, scene_truth(group.answers, group.scenes), "");
    return json;
  }

  void add_answers(std::int64_t draw, const std::string& name, const Pairs& pairs, const Readings& readings,
                   const std::vector<std::string>& answers) {
    for (std::size_t i = 0; i < answers.size(); ++i) {
      Json line{{"draw", draw},
                {"group", name},
                {"key", pairs.keys[i]},
                {"caption", pairs.captions[i]},
                {"answer", answers[i]}};
      if (!readings.confidence.empty()) line["confidence"] = readings.confidence[i];
      if (!pairs.scenes.empty()) {
        const shapes::CaptionJudgement judgement = shapes::judge_caption(answers[i], pairs.scenes[i]);
        line["facts_true"] = judgement.facts_true;
        line["wholly_true"] = judgement.wholly_true;
      }
      answers_.push_back(std::move(line));
    }
  }

  const inference::TrainedModel& trained_;
  std::map<std::string, Group> groups_;
  Json answers_ = Json::array();
};

/// Rows [first, end) of an order.
std::vector<std::int64_t> part_of(const std::vector<std::int64_t>& order, std::int64_t first,
                                  std::int64_t end) {
  return {order.begin() + first, order.begin() + end};
}

/// One draw: writes, asks, forgets half, asks again. `order` is of all pairs, those to write first.
void run_draw(std::int64_t draw, const Pairs& all, const std::vector<std::int64_t>& order, std::int64_t count,
              const memory::MemoryStore& empty, Groups& groups) {
  const Pairs written = all.rows(part_of(order, 0, count));
  const Pairs others = all.rows(part_of(order, count, 2 * count));
  const Pairs forgotten = all.rows(part_of(order, 0, count / 2));
  const Pairs kept = all.rows(part_of(order, count / 2, count));
  memory::MemoryStore store = empty;
  for (std::int64_t row = 0; row < count; ++row) {
    const auto place = static_cast<std::size_t>(row);
    store.write(written.codes[row], {written.keys[place], written.captions[place], written.keys[place]});
  }
  groups.add(draw, "written", written, read(store, written));
  groups.add(draw, "never_written", others, read(store, others));
  for (const std::string& key : forgotten.keys) store.forget(key);
  groups.add(draw, "kept", kept, read(store, kept));
  groups.add(draw, "forgotten", forgotten, read(store, forgotten));
  groups.add(draw, "code_decoded", written, {written.codes, {}, {}});
  groups.add(draw, "query_decoded", written, {written.queries, {}, {}});
  groups.add(draw, "empty_memory", written, read(empty, written));
}

}  // namespace

nlohmann::json memory_experiment(const inference::TrainedModel& trained, const data::Source& dataset,
                                 data::EvalLoader& loader, const MemoryExperimentOptions& options) {
  const memory::MemoryStore empty = inference::new_memory(trained);
  const Pairs all = read_pairs(trained, dataset, loader);
  const std::int64_t count = options.pairs;
  if (count < 2 || all.size() < 2 * count) {
    fail("memory experiment: {} pairs to write and as many others: expected at least {} images, found {}",
         count, 2 * std::max<std::int64_t>(count, 2), all.size());
  }
  TORCH_CHECK(options.draws >= 1, "memory experiment: at least one draw expected, got ", options.draws);
  Groups groups(trained);
  for (std::int64_t draw = 0; draw < options.draws; ++draw) {
    const auto order = random_permutation(all.size(), options.seed, RandomPurpose::kShuffle, draw);
    run_draw(draw, all, order, count, empty, groups);
  }

  nlohmann::json json{{"pairs", count},
                      {"draws", options.draws},
                      {"seed", options.seed},
                      {"capacity", empty.capacity()},
                      {"code_size", empty.code_size()},
                      {"confidence_auc", groups.confidence_auc("written", "never_written")},
                      {"codes", code_figures(all.codes.slice(0, 0, count))},
                      {"groups", groups.figures()},
                      {"recalled_captions", groups.take_answers()}};
  if (!all.scenes.empty()) {
    json["chance"] = nlohmann::json::object();
    add_to_json(json["chance"], chance_scene_truth(groups.scenes("written")), "");
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
         fmt::format(
             "confidence tells written from never-written: AUC {:.3f}; {} pairs, {} draws, capacity {}\n",
             figures.at("confidence_auc").get<double>(), figures.at("pairs").get<std::int64_t>(),
             figures.at("draws").get<std::int64_t>(), figures.at("capacity").get<std::int64_t>());
}

}  // namespace tessera::eval
