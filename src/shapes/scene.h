#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <opencv2/core/mat.hpp>
#include <string>
#include <vector>

#include "core/random.h"

namespace tessera::shapes {

/// One coloured shape of a scene, as indices into the tables of words below.
struct SceneObject {
  int size = 0;
  int color = 0;
  int shape = 0;

  friend bool operator==(const SceneObject&, const SceneObject&) = default;
};

enum class Relation { kLeftOf = 0, kRightOf = 1, kAbove = 2, kBelow = 3 };

/// What a scene shows: the first object is RELATION the second, "small red circle above large blue cross".
/// The two differ in colour or shape, so that every caption names each without doubt.
struct SceneDescription {
  SceneObject first;
  SceneObject second;
  Relation relation = Relation::kLeftOf;

  friend bool operator==(const SceneDescription&, const SceneDescription&) = default;
};

const std::vector<std::string>& scene_sizes();   ///< small, large
const std::vector<std::string>& scene_colors();  ///< six
const std::vector<std::string>& scene_shapes();  ///< three
/// left of, right of, above, below, in the order of Relation
const std::vector<std::string>& scene_relations();

/// The same scene told from the second object: "A left of B" is "B right of A".
SceneDescription told_from_second(const SceneDescription& scene);

/// Every description once, in the form that says "left of" or "above" (the other form of each is
/// told_from_second).
std::vector<SceneDescription> canonical_descriptions();

/// Where the first object of each relation is, in the order of Relation: "left", "right", "top", "bottom".
/// Each word stands for one place.
const std::vector<std::string>& scene_places();

/// Where the scene's first object is, and its second.
int first_place(const SceneDescription& scene);
int second_place(const SceneDescription& scene);

/// True captions, each with places, sizes, colours and shapes: "left a A, right a B", told from the first
/// object, and "right a B, left a A", told from the second. The place comes first because it says which
/// object the next words are of: where the relation stood between the two objects, a model described both and
/// told which is left of which by a coin (measured: docs/results.md). What judges captions (scene_judge.h)
/// takes its vocabulary from these and from the tables above.
std::vector<std::string> scene_captions(const SceneDescription& scene);

/// {"objects": [{"size", "color", "shape"}, …], "relation"}.
nlohmann::json scene_json(const SceneDescription& scene);

/// Draws the scene: [S, S] of three bytes, BGR, antialiased at sub-pixel positions; place, size, shade and
/// background vary with `random`, the relation and the sizes stay plain to see and the objects never touch or
/// leave the image.
cv::Mat draw_scene(const SceneDescription& scene, std::int64_t image_size, CounterRandom& random);

}  // namespace tessera::shapes
