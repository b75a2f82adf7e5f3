#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "shapes/scene.h"

namespace tessera::shapes {

/// What a caption says of one kind of fact.
constexpr int kUnsaid = -1;       ///< nothing
constexpr int kConflicting = -2;  ///< two different things, such as "small large"; true of no scene

/// What a caption says, as indices into the tables of scene.h, kUnsaid or kConflicting.
struct SaidObject {
  int size = kUnsaid;
  int color = kUnsaid;
  int shape = kUnsaid;
  int place = kUnsaid;

  friend bool operator==(const SaidObject&, const SaidObject&) = default;
};

struct SaidScene {
  SaidObject first;
  SaidObject second;
  /// More than two objects, a place without an object, or a word that no caption of the set has ("not",
  /// "dog", half a word): something that the seven facts don't cover.
  bool says_more = false;

  friend bool operator==(const SaidScene&, const SaidScene&) = default;
};

/// Reads a caption of the shapes set, also one that a model made up: unfinished, out of order, repeating
/// itself.
///
/// Case and punctuation don't count, and a word said twice in a row is said once. An object is what stands
/// together: it ends with its shape, or at a place, which is said of the object that follows it. The first
/// two objects are read; whatever follows only sets `says_more`, so that listing many objects is no way to be
/// right.
SaidScene parse_scene_caption(std::string_view caption);

/// Facts of one kind: how many a caption says (out of those there are), and how many of these are true.
struct FactCount {
  int said = 0;
  int correct = 0;
};

/// The facts of a whole caption: two sizes, two colours, two shapes, and where the two
/// are: one relation.
constexpr int kSceneFacts = 7;

struct CaptionJudgement {
  bool wholly_true = false;  ///< all seven facts are said and true, and nothing else is said
  int facts_said = 0;
  int facts_true = 0;  ///< of kSceneFacts: a fact that isn't said is not true, so that silence earns nothing
  FactCount size;
  FactCount color;
  FactCount shape;
  FactCount relation;
};

/// Holds what is said against a scene. Facts are bound to their object: the caption is compared with the
/// scene told from its first object and told from its second, as a whole, and the telling under which more is
/// true counts. (Of equal ones that with the true relation, then with more true shapes, then colours, so that
/// the result depends on neither the caption's telling nor the scene's. A single object is thus compared with
/// whichever of the two fits better.) The relation is true where both objects are said to be where they are.
CaptionJudgement judge(const SaidScene& said, const SceneDescription& scene);
CaptionJudgement judge_caption(std::string_view caption, const SceneDescription& scene);

/// The inverse of scene_json.
/// @param name  stands for the scene in messages
/// @throws Error naming the key and what was found, where it is no such scene
SceneDescription scene_from_json(const nlohmann::json& scene, const std::string& name);

}  // namespace tessera::shapes
