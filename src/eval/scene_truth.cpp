#include "eval/scene_truth.h"

#include <c10/util/Exception.h>

#include <nlohmann/json.hpp>

#include "eval/swapped_images.h"
#include "shapes/scene_judge.h"

namespace tessera::eval {

namespace {

/// Mean over judgements.
class TruthMean {
 public:
  void add(const shapes::CaptionJudgement& judgement) {
    ++count_;
    wholly_true_ += judgement.wholly_true ? 1 : 0;
    facts_ += judgement.facts_true;
    size_ += judgement.size.correct;
    color_ += judgement.color.correct;
    shape_ += judgement.shape.correct;
    relation_ += judgement.relation.correct;
  }

  SceneTruth mean() const {
    const auto share = [&](std::int64_t correct, int of_a_caption) {
      return static_cast<double>(correct) / (static_cast<double>(count_) * of_a_caption);
    };
    return {.caption_truth = share(wholly_true_, 1),
            .caption_facts = share(facts_, shapes::kSceneFacts),
            .size_facts = share(size_, 2),
            .color_facts = share(color_, 2),
            .shape_facts = share(shape_, 2),
            .relation_facts = share(relation_, 1)};
  }

 private:
  std::int64_t count_ = 0, wholly_true_ = 0, facts_ = 0, size_ = 0, color_ = 0, shape_ = 0, relation_ = 0;
};

/// @param partner  of caption i, the scene that it is held against
template <typename Partner>
SceneTruth truth_against(const std::vector<std::string>& captions,
                         const std::vector<shapes::SceneDescription>& scenes, const Partner& partner) {
  TORCH_CHECK(!captions.empty() && captions.size() == scenes.size(),
              "scene truth: a caption a scene expected, got ", captions.size(), " captions and ",
              scenes.size(), " scenes");
  TruthMean mean;
  for (std::size_t i = 0; i < captions.size(); ++i)
    mean.add(shapes::judge_caption(captions[i], scenes[partner(i)]));
  return mean.mean();
}

}  // namespace

std::optional<std::vector<shapes::SceneDescription>> scenes_of(const data::Source& dataset,
                                                               const std::vector<std::int64_t>& indices) {
  std::vector<shapes::SceneDescription> scenes;
  for (const std::int64_t index : indices) {
    const nlohmann::json record = dataset.read_json(index);
    if (!record.is_object() || !record.contains("scene")) return std::nullopt;
    scenes.push_back(shapes::scene_from_json(record.at("scene"), dataset.key(index) + ".json: scene"));
  }
  return scenes;
}

SceneTruth scene_truth(const std::vector<std::string>& captions,
                       const std::vector<shapes::SceneDescription>& scenes) {
  return truth_against(captions, scenes, [](std::size_t i) { return i; });
}

SceneTruth swapped_scene_truth(const std::vector<std::string>& captions,
                               const std::vector<shapes::SceneDescription>& scenes) {
  TORCH_CHECK(scenes.size() > 1, "scene truth: at least two scenes expected");
  const auto count = static_cast<std::int64_t>(scenes.size());
  return truth_against(captions, scenes, [&](std::size_t i) {
    return static_cast<std::size_t>(swapped_image(static_cast<std::int64_t>(i), count));
  });
}

SceneTruth chance_scene_truth(const std::vector<shapes::SceneDescription>& scenes) {
  TORCH_CHECK(!scenes.empty(), "scene truth: at least one scene expected");
  TruthMean mean;
  for (const shapes::SceneDescription& description : shapes::canonical_descriptions()) {
    // All captions of a description say the same.
    const shapes::SaidScene said = shapes::parse_scene_caption(shapes::scene_captions(description).front());
    for (const shapes::SceneDescription& scene : scenes) mean.add(shapes::judge(said, scene));
  }
  return mean.mean();
}

void add_to_json(nlohmann::json& json, const SceneTruth& truth, const std::string& suffix) {
  json["caption_truth" + suffix] = truth.caption_truth;
  json["caption_facts" + suffix] = truth.caption_facts;
  json["caption_facts_size" + suffix] = truth.size_facts;
  json["caption_facts_color" + suffix] = truth.color_facts;
  json["caption_facts_shape" + suffix] = truth.shape_facts;
  json["caption_facts_relation" + suffix] = truth.relation_facts;
}

}  // namespace tessera::eval
