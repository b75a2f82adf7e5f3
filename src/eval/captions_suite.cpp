#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "config/config.h"
#include "core/error.h"
#include "data/source.h"
#include "eval/caption_scores.h"
#include "eval/encode.h"
#include "eval/scene_truth.h"
#include "eval/suites.h"
#include "inference/generate_captions.h"
#include "inference/trained_model.h"
#include "losses/loss_abilities.h"
#include "shapes/scene_judge.h"

namespace tessera::eval {

namespace {

nlohmann::json captions_list(const EncodedSet& set, const std::vector<std::string>& captions) {
  nlohmann::json list = nlohmann::json::array();
  for (std::size_t i = 0; i < captions.size(); ++i) {
    list.push_back({{"key", set.keys[i]}, {"caption", captions[i]}, {"references", set.captions[i]}});
  }
  return list;
}

void add_scores(nlohmann::json& json, const EncodedSet& set, const std::vector<std::string>& captions) {
  std::vector<std::string> candidates;
  std::vector<std::vector<std::string>> references;
  for (std::size_t i = 0; i < captions.size(); ++i) {
    candidates.push_back(tokenize_caption(captions[i]));
    references.emplace_back();
    for (const std::string& reference : set.captions[i])
      references.back().push_back(tokenize_caption(reference));
  }
  add_to_json(json, caption_scores(candidates, references));
}

/// What shows a model that says little, always the same, or never ends.
void add_health(nlohmann::json& json, const std::vector<inference::GeneratedCaption>& generated) {
  std::map<std::string, std::int64_t> uses;
  double unfinished = 0, words = 0;
  for (const inference::GeneratedCaption& caption : generated) {
    const std::string tokens = tokenize_caption(caption.text);
    ++uses[tokens];
    unfinished += caption.finished ? 0 : 1;
    words += tokens.empty() ? 0 : static_cast<double>(1 + std::count(tokens.begin(), tokens.end(), ' '));
  }
  double distinct = 0;
  for (const auto& [caption, count] : uses) distinct += count == 1 ? 1 : 0;
  const auto captions = static_cast<double>(generated.size());
  json["captions_distinct"] = distinct / captions;
  json["captions_unfinished"] = unfinished / captions;
  json["caption_words"] = words / captions;
}

/// A set drawn with another wording would be judged false throughout, its own captions too.
void check_wording(const EncodedSet& set, const std::vector<shapes::SceneDescription>& scenes) {
  for (std::size_t i = 0; i < scenes.size(); ++i) {
    for (const std::string& caption : set.captions[i]) {
      if (shapes::judge_caption(caption, scenes[i]).wholly_true) continue;
      fail(
          "captions: {}: the image's own caption '{}' does not tell its scene as the judge reads it "
          "(docs/evaluation.md); draw the set anew with tessera make-shapes",
          set.keys[i], caption);
    }
  }
}

void add_truth(nlohmann::json& json, const std::vector<std::string>& captions,
               const std::vector<shapes::SceneDescription>& scenes) {
  add_to_json(json, scene_truth(captions, scenes), "");
  add_to_json(json, chance_scene_truth(scenes), "_chance");
  if (scenes.size() > 1) add_to_json(json, swapped_scene_truth(captions, scenes), "_swapped");
  for (std::size_t i = 0; i < captions.size(); ++i) {
    const shapes::CaptionJudgement judgement = shapes::judge_caption(captions[i], scenes[i]);
    json["generated_captions"][i]["facts_true"] = judgement.facts_true;
    json["generated_captions"][i]["wholly_true"] = judgement.wholly_true;
  }
}

}  // namespace

nlohmann::json captions_suite(const inference::TrainedModel& trained, const EncodedSet& set,
                              const data::Source& dataset, const CaptionsSuiteOptions& options) {
  require_trained(trained.config.losses, losses::Ability::kCaptions, "captions");
  const auto scenes = scenes_of(dataset, set.indices);
  if (scenes) check_wording(set, *scenes);
  const std::vector<inference::GeneratedCaption> generated =
      inference::generate_captions(trained, set.tokens.image_tokens, options.beams);
  std::vector<std::string> captions;
  for (const inference::GeneratedCaption& caption : generated) captions.push_back(caption.text);
  nlohmann::json json;
  json["beams"] = options.beams;
  json["generated_captions"] = captions_list(set, captions);
  add_scores(json, set, captions);
  add_health(json, generated);
  if (scenes) add_truth(json, captions, *scenes);
  return json;
}

}  // namespace tessera::eval
