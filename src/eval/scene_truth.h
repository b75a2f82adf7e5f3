#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/source.h"
#include "shapes/scene.h"

namespace tessera::eval {

/// How true captions are of their scenes (shapes/scene_judge.h), as shares from 0 to 1.
struct SceneTruth {
  double caption_truth = 0;  ///< captions that are wholly true
  double caption_facts = 0;  ///< facts that are true, of the seven that a caption has
  double size_facts = 0;     ///< the same by kind
  double color_facts = 0;
  double shape_facts = 0;
  double relation_facts = 0;
};

/// The scenes of a dataset's samples, or nothing where not every one has a scene.
/// @param indices  of the samples
std::optional<std::vector<shapes::SceneDescription>> scenes_of(const data::Source& dataset,
                                                               const std::vector<std::int64_t>& indices);

/// @param captions  one a scene, at least one
SceneTruth scene_truth(const std::vector<std::string>& captions,
                       const std::vector<shapes::SceneDescription>& scenes);

/// The expected value for a caption that knows the set and not the picture: one that is true of a description
/// drawn uniformly from all that there are. Exact, by going through them.
SceneTruth chance_scene_truth(const std::vector<shapes::SceneDescription>& scenes);

/// The control: the same captions, held against the scene of swapped_image.
/// @param captions  one a scene, at least two
SceneTruth swapped_scene_truth(const std::vector<std::string>& captions,
                               const std::vector<shapes::SceneDescription>& scenes);

/// Adds caption_truth, caption_facts, caption_facts_size, …_color, …_shape, …_relation, each with `suffix`
/// ("", "_chance", "_swapped").
void add_to_json(nlohmann::json& json, const SceneTruth& truth, const std::string& suffix);

}  // namespace tessera::eval
