#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <opencv2/core/mat.hpp>
#include <string>
#include <vector>

#include "core/random.h"

namespace tessera::data {

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
const std::vector<std::string>&
scene_relations();  ///< left of, right of, above, below, in the order of Relation

/// The same scene told from the second object: "A left of B" is "B right of A".
SceneDescription told_from_second(const SceneDescription& scene);

/// Every description once, in the form that says "left of" or "above" (the other form of each is
/// told_from_second).
std::vector<SceneDescription> canonical_descriptions();

/// A wording: BEFORE, subject, BETWEEN, relation, AFTER, object; subject and object are "SIZE COLOUR SHAPE".
/// What judges captions (scene_judge.h) relies on this order, and takes its vocabulary from here and from the
/// tables above.
struct CaptionPattern {
  std::string before;        ///< "a "
  std::string between;       ///< " "
  std::string after;         ///< " a "
  bool from_second = false;  ///< told from the scene's second object
};

const std::vector<CaptionPattern>& scene_caption_patterns();

/// True captions, each with sizes, colours, shapes and the relation: "a A left of a B", told from the first
/// object, and "the B right of the A", told from the second. Which of the two it is shows in the first word:
/// what comes next is then decided by the picture, and a model loses nothing on guessing it.
std::vector<std::string> scene_captions(const SceneDescription& scene);

/// {"objects": [{"size", "color", "shape"}, …], "relation"}.
nlohmann::json scene_json(const SceneDescription& scene);

/// Draws the scene: [S, S] of three bytes, BGR, antialiased at sub-pixel positions; place, size, shade and
/// background vary with `random`, the relation and the sizes stay plain to see and the objects never touch or
/// leave the image.
cv::Mat draw_scene(const SceneDescription& scene, std::int64_t image_size, CounterRandom& random);

}  // namespace tessera::data
